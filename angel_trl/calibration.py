"""Calibrating a linker on dev mentions: a confidence for each answer, and a threshold below which it gives none.

The confidence is the share of the answer's concept among the candidates and "none of these", at a temperature
(`confidence.merged_confidence`); temperature and the score of "none of these" are fitted, two numbers in all. The
temperature alone, which compares candidates with one another only, cannot tell a mention whose candidates are all
unlikely from one whose candidates are not: such are mentions of concepts that the knowledge base lacks.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from angel_trl.confidence import (
    Bools,
    Calibration,
    Floats,
    RiskCoverage,
    choose_threshold,
    fit_temperature,
    merged_confidence,
    risk_coverage,
    score_confidence,
)
from angel_trl.decoding import search
from angel_trl.linked import same_concept
from angel_trl.linker import EntityLinker
from angel_trl.targets import prepare_mentions

logger = logging.getLogger(__name__)

# Fewer say little about 15 bins or a threshold.
_FEW = 100
# Okabe and Ito's colours, told apart with every common colour blindness; dashes tell the lines apart in grey.
_LINES = (
    ("#0072B2", "solid"),
    ("#D55E00", (0, (6, 1.5))),
    ("#009E73", (0, (6, 1.5, 1.5, 1.5))),
    ("#CC79A7", (0, (1.5, 1.5))),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ConfidenceEvaluation:
    """How good a linker's confidences are on some mentions; arrays are parallel.

    Args:
        metrics: of `angel_trl.confidence.score_confidence`, at the linker's threshold.
        confidence: float64 `[mentions]`, NaN where the mention has no candidate.
        right: bool `[mentions]`, whether the first candidate is right (any-id).
        nil: bool `[mentions]`, whether the mention has no right answer: no label, or one that is not in the knowledge
            base.
    """

    metrics: dict[str, Any]
    confidence: Floats
    right: Bools
    nil: Bools

    @property
    def curve(self) -> RiskCoverage:
        """The risk at every coverage."""
        return risk_coverage(self.confidence, self.right)


def calibrate(
    linker: EntityLinker,
    mentions: Iterable[Mapping[str, Any]],
    *,
    target_precision: float | None = 0.9,
    num_beams: int = 10,
    top_k: int = 5,
    batch_size: int = 32,
    bootstrap: int = 1000,
    progress: bool = False,
) -> Calibration:
    """Fit a linker's confidence on mentions that it was not trained on, and choose when it abstains.

    A mention without a label, or with one that the knowledge base lacks, has no right answer: answering it is an
    error, which the threshold is to avoid. The precision is that of mentions like those given: on others, a test set
    that is harder for instance, it may fall short of the target.

    Args:
        linker: what to calibrate; not changed. Assign the result to `linker.calibration`.
        mentions: dev mentions, rows of a mention dataset (see `angel_trl.mentions`).
        target_precision: the share of given answers that is to be right; see `confidence.choose_threshold`, which
            guards against few answers that are right by luck. None chooses no threshold.
        num_beams: beams of the search; requests with fewer have no confidence.
        top_k: candidates that a confidence is computed from.
        batch_size: mentions searched together.
        bootstrap: resamples of documents for the intervals, 0 for none.
        progress: show a progress bar.

    Returns:
        The calibration. Its report has `documents`, and `before` and `after`: of `confidence.score_confidence` with
        the plain probability among the candidates and no threshold, and as fitted, both on these mentions.

    Raises:
        ValueError: if there are no mentions, all answers are right or none is, or a setting is out of range.
    """
    if target_precision is not None and not 0 < target_precision <= 1:
        raise ValueError(f"target_precision is {target_precision!r}; give a fraction, such as 0.9, or None.")
    found = _Answers.of(linker, mentions, num_beams, top_k, batch_size, progress)
    if found.right.all() or not found.right.any():
        what = "right" if found.right.all() else "wrong"
        raise ValueError(
            f"All {len(found.right)} answers are {what}: there is nothing to tell them apart by. Calibrate on "
            "mentions that the linker was not trained on, with labels of its knowledge base."
        )
    if len(found.right) < _FEW:
        logger.warning(
            "Calibrated on %d mentions only: confidences and threshold are rough. Give %d or more.",
            len(found.right),
            _FEW,
        )
    temperature, none_score = fit_temperature(found.log_probs, found.same, found.right)
    before = merged_confidence(found.log_probs, found.same)
    after = merged_confidence(found.log_probs, found.same, temperature, none_score)
    threshold = None if target_precision is None else choose_threshold(after, found.right, target_precision)
    if target_precision is not None and threshold is None:
        logger.warning(
            "No threshold reaches a precision of %g on these %d mentions: the linker will not abstain. Give more "
            "mentions or a lower target_precision.",
            target_precision,
            len(found.right),
        )
    settings: dict[str, Any] = {"groups": found.documents, "bootstrap": bootstrap}
    report = {
        "documents": len(set(found.documents)),
        "before": score_confidence(before, found.right, found.nil, **settings),
        "after": score_confidence(after, found.right, found.nil, nil_threshold=threshold, **settings),
    }
    return Calibration(
        temperature=temperature,
        none_score=none_score,
        nil_threshold=threshold,
        target_precision=target_precision,
        num_beams=num_beams,
        top_k=top_k,
        fingerprint=linker.targets.fingerprint,
        report=report,
    )


def evaluate_confidence(
    linker: EntityLinker,
    mentions: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 32,
    bootstrap: int = 1000,
    progress: bool = False,
) -> ConfidenceEvaluation:
    """Score the confidences of a calibrated linker, and its abstaining, on other mentions than it was calibrated on.

    Args:
        linker: a calibrated linker; searched with the settings of its calibration.
        mentions: rows of a mention dataset.
        batch_size: mentions searched together.
        bootstrap: resamples of documents for the intervals, 0 for none.
        progress: show a progress bar.

    Raises:
        ValueError: if the linker is not calibrated, or there are no mentions.
    """
    calibration = linker.calibration
    if calibration is None:
        raise ValueError("The linker is not calibrated: linker.calibration = calibrate(linker, dev_mentions).")
    found = _Answers.of(linker, mentions, calibration.num_beams, calibration.top_k, batch_size, progress)
    confidence = calibration.confidence(found.log_probs, found.same)
    metrics = score_confidence(
        confidence,
        found.right,
        found.nil,
        nil_threshold=calibration.nil_threshold,
        groups=found.documents,
        bootstrap=bootstrap,
    )
    return ConfidenceEvaluation(metrics, confidence, found.right, found.nil)


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    """What a linker answers to labelled mentions; all fields are parallel."""

    log_probs: NDArray[np.float32]
    same: Bools
    right: Bools
    nil: Bools
    documents: list[str]

    @classmethod
    def of(
        cls,
        linker: EntityLinker,
        mentions: Iterable[Mapping[str, Any]],
        num_beams: int,
        top_k: int,
        batch_size: int,
        progress: bool,
    ) -> _Answers:
        prepared = prepare_mentions(mentions, linker.targets)
        found = search(
            linker.model,
            linker.targets.trie,
            prepared.encoded,
            num_beams=num_beams,
            top_k=top_k,
            batch_size=batch_size,
            progress="linking" if progress else None,
        )
        return cls(
            log_probs=found.log_probs,
            same=same_concept(found.names, linker.kb),
            right=prepared.is_gold(found.names[:, :1], linker.kb)[:, 0],
            nil=np.array([not gold for gold in prepared.gold]),
            documents=prepared.documents,
        )


def plot_risk_coverage(
    evaluations: Mapping[str, ConfidenceEvaluation], path: str | Path, title: str, *, nil_threshold: bool = True
) -> Path:
    """Draw the share of wrong answers against the share of mentions answered, one line a system, as a PNG.

    Args:
        evaluations: name of a system (or test set) to its evaluation; at most four.
        path: the PNG to write; its folder must exist.
        title: title of the picture.
        nil_threshold: mark where each one's threshold lies.

    Returns:
        The path written.

    Raises:
        ValueError: if there is nothing to draw or more than four, or the path does not end in ".png".
    """
    # The object interface: pyplot would choose a backend for the whole process and keep the figure alive.
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path={str(path)!r} must end in .png, the format it is written in.")
    if not 1 <= len(evaluations) <= len(_LINES):
        raise ValueError(
            f"evaluations has {len(evaluations)} entries: 1 to {len(_LINES)} can be told apart in one picture."
        )
    figure = Figure(figsize=(7, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    for (name, evaluation), (colour, dashes) in zip(evaluations.items(), _LINES, strict=False):
        curve, metrics = evaluation.curve, evaluation.metrics
        label = f"{name} (area {curve.aurc:.3f})"
        axes.plot(
            100 * curve.coverage, 100 * curve.risk, color=colour, linestyle=dashes, linewidth=2, label=label, zorder=3
        )
        if nil_threshold and metrics["precision"] is not None:
            point = (100 * metrics["coverage"], 100 - 100 * metrics["precision"])
            axes.plot(*point, color=colour, marker="o", markersize=8, markeredgecolor="white", zorder=4)
    if nil_threshold:
        axes.plot([], [], color="#595959", marker="o", linestyle="none", markersize=8, label="threshold")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_xlabel("Mentions answered, surest first (%)", fontsize=11)
    axes.set_ylabel("Wrong among the answers (%)", fontsize=11)
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=10)
    axes.grid(axis="y", color="#D9D9D9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    figure.savefig(path, format="png", bbox_inches="tight")
    return path
