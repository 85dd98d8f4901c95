"""How sure an answer is, in numbers: confidences, how well they are calibrated, what abstaining costs.

Knows arrays only: no model, no knowledge base. Everything is a fraction from 0 to 1. A confidence of NaN marks a
mention without any candidate: it has no answer, whatever the threshold, and is counted as not answered.

What a confidence is the probability of: that the first candidate shares a concept with the gold label, the any-id
protocol of `angel_trl.metrics`. A mention without a concept, or of one that the knowledge base lacks, has no right
answer: answering it is an error, abstaining is right.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 15
"""Bins of the expected calibration error."""
GUARD = 0.95
"""One-sided confidence of the Clopper-Pearson bound that a threshold must meet."""
# Probabilities of 0 and 1 would have infinite loss.
_SMALLEST = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """How one linker's scores become confidences, and below which confidence it abstains.

    `angel_trl.calibration.calibrate` makes it. It holds for requests like those it was fitted on: the model, the names
    (`fingerprint`), all of them allowed, ranked by log-probability, searched with at least `num_beams` beams.

    Args:
        temperature: divides log-probabilities.
        none_score: what "none of these" scores against them, see `merged_confidence`.
        nil_threshold: answers less sure are not given; None if none was asked for, or none reaches the target.
        target_precision: what the threshold was chosen for; None if none was asked for.
        num_beams: beams it was fitted with.
        top_k: candidates that a confidence is computed from.
        fingerprint: of the names (`TargetNames.fingerprint`: knowledge base and tokenizer).
        report: what it was fitted on and what it did there, JSON values: see `calibrate`.

    Raises:
        ValueError: for a value out of range.
    """

    temperature: float
    none_score: float
    nil_threshold: float | None
    target_precision: float | None
    num_beams: int
    top_k: int
    fingerprint: str
    report: dict[str, Any]

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature!r}; it must be a positive number. Calibrate again.")
        if not self.none_score <= 0:
            raise ValueError(f"none_score is {self.none_score!r}; it must be at most 0. Calibrate again.")
        if self.num_beams < 1 or self.top_k < 1:
            raise ValueError(
                f"num_beams ({self.num_beams!r}) and top_k ({self.top_k!r}) must be at least 1. Calibrate again."
            )
        for name in ("nil_threshold", "target_precision"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; it must lie between 0 and 1, or be None. Calibrate again.")

    def holds_for(self, *, num_beams: int, ranking: str, exact: bool) -> bool:
        """Whether a search with these settings, and no restriction, is like those it was fitted on."""
        return ranking == "sum" and (exact or num_beams >= self.num_beams)

    def confidence(self, log_probs: NDArray[np.floating[Any]], same: Bools) -> Floats:
        """Confidences of `[mentions, k]` candidates, of which the first `top_k` count; see `merged_confidence`."""
        first = slice(None, self.top_k)
        return merged_confidence(log_probs[:, first], same[:, first], self.temperature, self.none_score)

    def to_json(self) -> dict[str, Any]:
        """As a mapping of JSON values, the form in which `angel.json` has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`.

        Raises:
            ValueError: if a value is missing, unknown, of another type or out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            given = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise ValueError(f"A calibration has {', '.join(names)}; given: {given}. Calibrate again.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"A value of the calibration is not a number: {error}. Calibrate again.") from error


def check_threshold(nil_threshold: float | None, calibration: Calibration | None, *, restricted: bool) -> None:
    """See that a threshold given for a request is a confidence, and that the request has one to compare it with.

    Args:
        nil_threshold: the threshold; None is always well.
        calibration: that holds for the request, if any does.
        restricted: whether the request allows some of the names only.

    Raises:
        ValueError: if not.
    """
    if nil_threshold is None:
        return
    if not 0 <= nil_threshold <= 1:
        raise ValueError(f"nil_threshold is {nil_threshold!r}; it is a confidence, between 0 and 1.")
    if calibration is None or restricted:
        raise ValueError(
            f"nil_threshold is {nil_threshold!r}, but the request has no confidence: that takes a calibrated linker "
            "(angel_trl.calibration.calibrate), ranking='sum', no restriction, and no fewer beams than the "
            "calibration or exact=True. Leave nil_threshold out, or change the request."
        )


def merged_confidence(
    log_probs: NDArray[np.floating[Any]], same: Bools, temperature: float = 1.0, none_score: float = -np.inf
) -> Floats:
    """The share of the first candidate's concept among all candidates and "none of these".

    `sum over the names j of the first one's concept of exp(s_j / T)`, divided by the same sum over all names plus
    `exp(none / T)`. Several names of one concept thus speak for it together, and names that are all unlikely speak
    for none. With T = 1 and no score of "none of these" it is the probability among the candidates.

    Args:
        log_probs: float `[mentions, k]`, natural logarithms of the names' probabilities, best first; -inf where there
            is no name.
        same: bool `[mentions, k]`, whether a candidate shares a concept with the first.
        temperature: T.
        none_score: what "none of these" scores, as a natural logarithm.

    Returns:
        float64 `[mentions]`, NaN where there is no candidate.
    """
    scores = log_probs.astype(np.float64)
    none = np.full((len(scores), 1), none_score)
    highest = np.maximum(scores.max(axis=1, keepdims=True, initial=-np.inf), none)
    highest[~np.isfinite(highest)] = 0
    weights = np.exp((scores - highest) / temperature)
    total = weights.sum(axis=1) + np.exp((none - highest)[:, 0] / temperature)
    answered = np.isfinite(scores).any(axis=1)
    own = np.where(same, weights, 0.0).sum(axis=1)
    return np.where(answered, own / np.where(answered, total, 1.0), np.nan)


def fit_temperature(log_probs: NDArray[np.floating[Any]], same: Bools, right: Bools) -> tuple[float, float]:
    """The temperature and the score of "none of these" under which the answers' being right or wrong is likeliest.

    Minimises the mean negative log-likelihood of `right` (temperature scaling: Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017; the second parameter is ours).

    Args:
        log_probs: float `[mentions, k]`, as in `merged_confidence`.
        same: bool `[mentions, k]`.
        right: bool `[mentions]`, whether the first candidate is right.

    Returns:
        `(temperature, none_score)`.
    """
    # scipy takes a while to import and is needed for calibration only.
    from scipy.optimize import minimize

    def loss(parameters: Floats) -> float:
        given = merged_confidence(log_probs, same, float(np.exp(parameters[0])), float(parameters[1]))
        given = np.clip(given, _SMALLEST, 1 - _SMALLEST)
        return float(-np.nanmean(np.where(right, np.log(given), np.log1p(-given))))

    # Beyond these bounds nothing changes any more. The loss may have two valleys, with "none of these" and without.
    temperatures, none_scores = np.log([0.5, 1.0, 2.0, 4.0, 8.0]), [-0.5, -1.0, -2.0, -4.0, -8.0, -16.0, -32.0]
    start = min(itertools.product(temperatures, none_scores), key=lambda point: loss(np.array(point)))
    bounds = [(np.log(0.05), np.log(50.0)), (-50.0, 0.0)]
    best = minimize(loss, start, method="Nelder-Mead", bounds=bounds).x
    return float(np.exp(best[0])), float(best[1])


def expected_calibration_error(
    confidence: Floats, right: Bools, *, bins: int = BINS, equal_mass: bool = False
) -> float:
    """How far confidences are from the share that is right, on average over bins weighted by their mentions.

    Args:
        confidence: float64 `[mentions]`; NaN is left out.
        right: bool `[mentions]`.
        bins: how many.
        equal_mass: bins of equally many mentions in place of equally wide ones.

    Returns:
        A fraction from 0 to 1.
    """
    there = ~np.isnan(confidence)
    confidence, right = confidence[there], right[there]
    if equal_mass:
        parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
    else:
        number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        parts = [np.flatnonzero(number == place) for place in range(bins)]
    gaps = [len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts if len(part)]
    return float(sum(gaps) / max(1, len(confidence)))


@dataclasses.dataclass(frozen=True, slots=True)
class RiskCoverage:
    """What is wrong among the answers when only the surest are given (El-Yaniv and Wiener, JMLR 2010).

    Args:
        coverage: float64 `[answers]`, ascending: the share of all mentions that is answered.
        risk: float64 `[answers]`, the share of these answers that is wrong.
    """

    coverage: Floats
    risk: Floats

    @property
    def aurc(self) -> float:
        """Area under the curve: the mean risk over all coverages (lower is better)."""
        return float(self.risk.mean()) if len(self.risk) else float("nan")


def risk_coverage(confidence: Floats, right: Bools) -> RiskCoverage:
    """The risk at every coverage; answers equally sure share their errors, as if they came in random order.

    Args:
        confidence: float64 `[mentions]`; NaN is never answered.
        right: bool `[mentions]`.
    """
    order = np.argsort(-confidence, kind="stable")[: int((~np.isnan(confidence)).sum())]
    _, group, sizes = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~right[order], minlength=len(sizes)) / sizes
    answers = np.arange(1, len(order) + 1)
    return RiskCoverage(answers / len(confidence), np.cumsum(wrong[group]) / answers)


def choose_threshold(confidence: Floats, right: Bools, target_precision: float) -> float | None:
    """The smallest threshold whose accepted answers have at least the target precision.

    Few answers can all be right by luck. So it is not their share that must reach the target but its one-sided 95%
    lower bound (Clopper and Pearson, Biometrika 1934): 29 right answers out of 29 pass a target of 0.9, 28 out of 28
    do not.

    Args:
        confidence: float64 `[mentions]`; NaN is never answered.
        right: bool `[mentions]`.
        target_precision: the share of accepted answers that is to be right.

    Returns:
        The threshold, half-way to the next less sure answer; 0 if all answers pass; None if none do.
    """
    from scipy.special import betaincinv

    order = np.argsort(-confidence, kind="stable")[: int((~np.isnan(confidence)).sum())]
    surest, hits = confidence[order], np.cumsum(right[order])
    answers = np.arange(1, len(order) + 1)
    bound = np.where(hits > 0, betaincinv(np.maximum(hits, 1), answers - hits + 1, 1 - GUARD), 0.0)
    # Answers equally sure are accepted together.
    last = np.append(surest[1:] < surest[:-1], True)[: len(surest)]
    passing = np.flatnonzero(last & (bound >= target_precision))
    if not len(passing):
        return None
    place = int(passing[-1])
    return 0.0 if place == len(surest) - 1 else float((surest[place] + surest[place + 1]) / 2)


def score_confidence(
    confidence: Floats,
    right: Bools,
    nil: Bools,
    *,
    nil_threshold: float | None = None,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score confidences, and what abstaining below a threshold does.

    Args:
        confidence: float64 `[mentions]`; NaN is never answered.
        right: bool `[mentions]`, whether the first candidate is right.
        nil: bool `[mentions]`, whether the mention has no right answer.
        nil_threshold: answers less sure are not given; None gives all.
        groups: labels of the mentions (their documents); those with equal labels are resampled together.
        bootstrap: resamples for the 95% percentile intervals, 0 for none.
        seed: of the resampling.

    Returns:
        A dict that can be written as JSON. `mentions`, `answers` (mentions with a candidate), `nil`; `accuracy`, right
        answers among all mentions; `ece` and `ece_equal_mass`, expected calibration errors of 15 bins; `aurc`. At the
        threshold: `coverage`, the share of mentions answered; `accepted`, their number; `precision`, the share of them
        that is right (None if there are none); `nil_abstained`, the share of NIL mentions not answered (None if there
        are none); `accuracy_with_nil`, the share of mentions that are answered rightly or are NIL and not answered.
        For `ece`, `ece_equal_mass`, `aurc`, `coverage` and `precision` also `{key}_ci`. Resampling adds noise, which
        an error of calibration counts as error: its interval lies high.
    """
    accepted = confidence >= (0.0 if nil_threshold is None else nil_threshold)
    intervals: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "ece": lambda rows: expected_calibration_error(confidence[rows], right[rows]),
        "ece_equal_mass": lambda rows: expected_calibration_error(confidence[rows], right[rows], equal_mass=True),
        "aurc": lambda rows: risk_coverage(confidence[rows], right[rows]).aurc,
        "coverage": lambda rows: float(accepted[rows].mean()),
        "precision": lambda rows: _share(right[rows], accepted[rows]),
    }
    everything = np.arange(len(confidence))
    results: dict[str, Any] = {
        "mentions": len(confidence),
        "answers": int((~np.isnan(confidence)).sum()),
        "nil": int(nil.sum()),
        "accuracy": float(right.mean()),
        "accepted": int(accepted.sum()),
        "nil_abstained": _number(_share(~accepted, nil)),
        "accuracy_with_nil": float(np.where(accepted, right, nil).mean()),
        **{key: _number(statistic(everything)) for key, statistic in intervals.items()},
    }
    if bootstrap:
        resamples = _resamples(range(len(confidence)) if groups is None else groups, bootstrap, seed)
        drawn = np.array([[statistic(rows) for statistic in intervals.values()] for rows in resamples])
        for key, values in zip(intervals, drawn.T, strict=True):
            values = values[~np.isnan(values)]
            results[f"{key}_ci"] = np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None
    return results


def _share(what: Bools, among: Bools) -> float:
    return float(what[among].mean()) if among.any() else float("nan")


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


def _resamples(groups: Sequence[Hashable], times: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of whole groups, as many groups as there are, drawn with replacement."""
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    parts = [np.array(rows, dtype=np.int64) for rows in members.values()]
    rng = np.random.default_rng(seed)
    for _ in range(times):
        yield np.concatenate([parts[place] for place in rng.integers(len(parts), size=len(parts))])
