"""The confidence of the linker that a recipe made: fitted on dev, told of dev and test, and drawn."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from angel_trl import EntityLinker, calibrate, evaluate_confidence
from angel_trl.calibration import plot_risk_coverage
from angel_trl.linker_files import write_calibration

logger = logging.getLogger("recipes.calibrating")

PICTURE = "risk_coverage.png"


def check_target_precision(target: float | None) -> None:
    """See that a target can be one, before the hours of training.

    Raises:
        SystemExit: if it cannot.
    """
    if target is not None and not 0 < target <= 1:
        raise SystemExit(f"--target_precision is {target:g}; give a fraction, such as 0.9.")


def calibrate_linker(
    folder: Path, corpus: DatasetDict, target: float, *, num_beams: int, bootstrap: int, cpu: bool, output: Path
) -> dict[str, Any] | None:
    """Calibrate the linker in a folder on dev, and score its confidences and its abstaining on dev and test.

    Args:
        folder: the linker; its `angel.json` gets the calibration.
        corpus: with the splits dev and test.
        target: precision that the answers above the threshold are to have on dev.
        num_beams: beams of the search; requests with fewer have no confidence.
        bootstrap: resamples for the intervals.
        cpu: stay on the CPU.
        output: where `risk_coverage.png` goes.

    Returns:
        `temperature`, `nil_threshold`, `target_precision`, `dev before` (the plain probability among the candidates),
        `dev` and `test` (of `angel_trl.confidence.score_confidence`); None where dev does not tell what to fit, which
        the log says.
    """
    linker = EntityLinker.from_pretrained(folder, device="cpu" if cpu else None)
    settings: dict[str, Any] = {"bootstrap": bootstrap, "progress": True}
    try:
        calibration = calibrate(linker, corpus["dev"], target_precision=target, num_beams=num_beams, **settings)
    except ValueError as error:
        logger.warning("%s is not calibrated: %s", folder, error)
        return None
    linker.calibration = calibration
    write_calibration(folder, calibration)
    found = {split: evaluate_confidence(linker, corpus[split], **settings) for split in ("dev", "test")}
    plot_risk_coverage(found, output / PICTURE, "Wrong answers by share of mentions answered")
    told = {name: getattr(calibration, name) for name in ("temperature", "nil_threshold", "target_precision")}
    return {
        **told,
        "dev before": calibration.report["before"],
        **{split: evaluation.metrics for split, evaluation in found.items()},
    }


def confidence_section(confidence: Mapping[str, Any]) -> str:
    """What a report says of it, as Markdown."""
    threshold = confidence["nil_threshold"]
    told = f"no threshold reaches a precision of {confidence['target_precision']:g} on dev: no answer is withheld"
    if threshold is not None:
        told = f"answers below {threshold:.3f} are withheld, for a precision of {confidence['target_precision']:g}"
    rows = [
        f"| {name} | {scores['ece']:.3f} | {scores['aurc']:.3f} | {_percent(scores['precision'])} "
        f"| {_percent(scores['coverage'])} |"
        for name, scores in ((name, confidence[name]) for name in ("dev before", "dev", "test"))
    ]
    header = "| | expected calibration error | area under risk-coverage | precision, % | answered, % |"
    return "\n".join(
        [
            f"Temperature {confidence['temperature']:.2f}, fitted on dev; {told}.\n",
            header,
            "|---|---:|---:|---:|---:|",
            *rows,
            f"\n![Wrong answers by share of mentions answered]({PICTURE})",
        ]
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
