"""How far confidences are off, and whether a threshold chosen on dev keeps its promise on test.

    python recipes/bench/confidence.py --linker runs/quickstart/linker --name quickstart
    python recipes/bench/confidence.py --linker runs/ncbi/linker --corpus NCBI --name "NCBI Disease" --output FILE

The linker is calibrated on the dev split once for each target precision; dev and test are then scored as
`angel_trl.calibration` does. Draws `confidence-NAME.png`, risk by coverage on both splits, beside the JSON file, which
keeps what it has of other names. The last line is one JSON object.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from measure import surroundings  # noqa: E402
from transformers import HfArgumentParser  # noqa: E402

from angel_trl import (  # noqa: E402
    EntityLinker,
    calibrate,
    evaluate_confidence,
    plot_risk_coverage,
    read_corpus,
    synthetic_corpus,
)

SCORES = ("ece", "ece_equal_mass", "aurc", "accuracy", "precision", "coverage")


@dataclass
class ConfidenceArguments:
    """What is calibrated, and for what."""

    linker: str = field(metadata={"help": "Folder or Hub id of the EntityLinker."})
    name: str = field(metadata={"help": "What the corpus is called in the file and the table."})
    corpus: str | None = field(default=None, metadata={"help": "A corpus that can be read; default: the synthetic."})
    targets: list[float] = field(default_factory=lambda: [0.85, 0.9, 0.95], metadata={"help": "Target precisions."})
    bootstrap: int = field(default=1000, metadata={"help": "Resamples of documents for the intervals."})
    output: str = field(default="runs/confidence.json", metadata={"help": "The JSON file."})


def measured(args: ConfidenceArguments) -> dict[str, Any]:
    """What the file has of one name; draws the picture."""
    linker = EntityLinker.from_pretrained(args.linker, device="cpu")
    corpus = synthetic_corpus()[1] if args.corpus is None else read_corpus(args.corpus)[0]
    settings: dict[str, Any] = {"bootstrap": args.bootstrap}
    found: dict[str, Any] = {**surroundings(linker.model.device), "targets": []}
    for target in args.targets:
        linker.calibration = calibrate(linker, corpus["dev"], target_precision=target, **settings)
        splits = {split: evaluate_confidence(linker, corpus[split], **settings) for split in ("dev", "test")}
        scores = {
            split: {key: value for key, value in one.metrics.items() if key.removesuffix("_ci") in SCORES}
            for split, one in splits.items()
        }
        found["targets"].append({"target": target, "threshold": linker.calibration.nil_threshold, **scores})
        found["temperature"] = linker.calibration.temperature
        found["before"] = {key: linker.calibration.report["before"][key] for key in SCORES[:3]}
    picture = Path(args.output).with_name(f"confidence-{args.name.lower().replace(' ', '-')}.png")
    plot_risk_coverage(splits, picture, f"{args.name}: wrong answers by share answered", nil_threshold=False)
    return found


def main() -> None:
    """Calibrate, score and write."""
    (args,) = HfArgumentParser(ConfidenceArguments).parse_args_into_dataclasses()
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = measured(args)
    everything = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    output.write_text(json.dumps(everything | {args.name: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
