"""Training steps of TRL 0.9.6's DPOTrainer, timed on request: run by `training.py` in an environment of its own.

    python trl_0_9.py FOLDER --threads N

FOLDER holds `policy/` and `reference/` (models as transformers saves them) and `pairs.json`: `prompt`, `chosen` and
`rejected`, lists of token ids, a pair each. They reach the trainer as its users' data do, through its own tokenisation
and collator, with a tokenizer to which every token id is a word. Prints a line of JSON once ready and one for each
line `step` it reads: the loss before the step, its seconds, and the most memory held above the idle interpreter's.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
EXPECTED = {"trl": "0.9.6", "transformers": "4.44.2"}


def check_environment() -> dict[str, str]:
    """Versions of what matters; ends the program where they are not those to be measured."""
    found = {}
    for package in (*EXPECTED, "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    wrong = [f"{name} {found[name]}, not {version}" for name, version in EXPECTED.items() if found[name] != version]
    if wrong:
        raise SystemExit(
            f"This environment has {' and '.join(wrong)}. Run recipes/bench/training.py, which builds the right one "
            "and starts this script in it."
        )
    return found


def memory(field: str) -> int | None:
    """Bytes held by this process, `VmRSS` now or `VmHWM` at most; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


class Steps:
    """TRL 0.9.6's trainer on one batch."""

    def __init__(self, folder: Path) -> None:
        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import BartForConditionalGeneration, PreTrainedTokenizerFast
        from trl import DPOConfig, DPOTrainer

        pairs = json.loads((folder / "pairs.json").read_text())
        policy = BartForConditionalGeneration.from_pretrained(folder / "policy")
        words = {f"<{token}>": token for token in range(policy.config.vocab_size)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<3>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"bos_token": "<0>", "pad_token": "<1>", "eos_token": "<2>", "unk_token": "<3>"}
        texts = {column: [" ".join(f"<{token}>" for token in ids) for ids in rows] for column, rows in pairs.items()}
        count = len(pairs["prompt"])
        self.trainer = DPOTrainer(
            model=policy,
            ref_model=BartForConditionalGeneration.from_pretrained(folder / "reference"),
            args=DPOConfig(
                output_dir=str(folder / "output"),
                per_device_train_batch_size=count,
                learning_rate=1e-5,
                beta=0.1,
                max_prompt_length=max(map(len, pairs["prompt"])),
                max_target_length=max(map(len, pairs["chosen"] + pairs["rejected"])),
                max_length=512,
                remove_unused_columns=False,
                use_cpu=True,
                report_to=[],
            ),
            train_dataset=Dataset.from_dict(texts),
            tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
        )
        self.rows = [self.trainer.train_dataset[place] for place in range(count)]
        for row, *expected in zip(self.rows, pairs["prompt"], pairs["chosen"], pairs["rejected"], strict=True):
            if [row[key] for key in ("prompt_input_ids", "chosen_labels", "rejected_labels")] != expected:
                raise SystemExit("The trainer's tokenisation changed the tokens that all sides are to train on.")
        self.trainer.create_optimizer()

    def step(self) -> dict[str, float]:
        """One step: forward of policy and reference, backward, update."""
        begin = time.perf_counter()
        loss = self.trainer.training_step(self.trainer.model, self.trainer.data_collator(self.rows))
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return {"loss": loss.item(), "seconds": time.perf_counter() - begin}


def main() -> None:
    """Answer on the standard output as it was at the start; whatever libraries print goes to the error output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="policy/, reference/ and pairs.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    versions = check_environment()
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    import datasets
    import torch
    import transformers
    from trl import DPOTrainer  # noqa: F401 (imported late by trl: part of the idle interpreter)

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(args.threads)
    idle = memory("VmRSS")
    steps = Steps(args.folder)
    answer({"ready": True, "versions": versions})
    for line in sys.stdin:
        if line.strip() != "step":
            raise SystemExit(f"Unknown request {line.strip()!r}; there is only 'step'.")
        result = steps.step()
        answer(result | {"peak_bytes": None if idle is None else memory("VmHWM") - idle})


if __name__ == "__main__":
    main()
