"""What pre-training on knowledge bases of growing size takes: memory, and time until the first step.

    python recipes/bench/streaming.py --names 10000 100000                        # minutes
    python recipes/bench/streaming.py --output recipes/results/streaming.json     # up to two million names

The first stage of `recipes/pretrain.py` on synthetic knowledge bases of `--names` names, each in a process of its own,
with a BART of 0.4 million parameters: how much memory the knowledge base and the names as tokens take, how much more
is taken in `--steps` steps, and how much of that in their second half, which should not depend on the number of names.
The last line is one JSON object.
"""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from measure import surroundings  # noqa: E402
from readers import write_dictionary  # noqa: E402
from transformers import HfArgumentParser, TrainerCallback  # noqa: E402

from angel_trl import EntityLinker, KnowledgeBase, MentionFormat, PositiveConfig, PositiveTrainer  # noqa: E402
from angel_trl.kb_examples import KBExamples  # noqa: E402
from angel_trl.scratch import scratch_model  # noqa: E402


@dataclass
class StreamingArguments:
    """Sizes of knowledge bases, and how long to train on each."""

    names: list[int] = field(
        default_factory=lambda: [20_000, 200_000, 2_000_000], metadata={"help": "Names of each knowledge base, about."}
    )
    steps: int = field(default=400, metadata={"help": "Steps of 64 examples on each."})
    output: str | None = field(default=None, metadata={"help": "File for the JSON object."})
    part: str | None = field(default=None, metadata={"help": "What the benchmark starts itself with: a file to read."})


class Memory(TrainerCallback):
    """Notes the memory of the process when training begins, half-way, and when it ends; in bytes."""

    def __init__(self, steps: int) -> None:
        self._half = steps // 2
        self.at: dict[str, int] = {}
        self.first_step = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what is taken after the first step, half of them and all."""
        if state.global_step == 1:
            self.first_step, self.at["first"] = time.perf_counter(), resident()
        if state.global_step == self._half:
            self.at["half"] = resident()
        self.at["end"] = resident()


def resident() -> int:
    """Bytes of memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def train_once(dictionary: str, steps: int) -> dict[str, float]:
    """Read a knowledge base, make a model, train it for some steps of one endless pass; seconds and megabytes."""
    empty, begin = resident(), time.perf_counter()
    kb = KnowledgeBase.from_file(dictionary)
    with_kb = resident()
    model, tokenizer = scratch_model("scratch-tiny", kb.names[:20_000])
    targets = EntityLinker(model, tokenizer, kb, MentionFormat(max_words=48)).targets
    # As many examples as a run of a hundred passes would have: they are made when they are needed.
    examples = KBExamples(targets, 100 * kb.num_names, seed=0, context=0.7)
    ready = resident()
    memory = Memory(steps)
    with tempfile.TemporaryDirectory() as folder:
        config = PositiveConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=64,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        PositiveTrainer(model, config, examples, targets, callbacks=[memory]).train()
    end = time.perf_counter()
    return {
        "names": kb.num_names,
        "seconds_to_first_step": memory.first_step - begin,
        "steps_per_second": (steps - 1) / (end - memory.first_step),
        "kb_megabytes": (with_kb - empty) / 1e6,
        "names_as_tokens_megabytes": (ready - with_kb) / 1e6,
        "training_megabytes": (memory.at["end"] - ready) / 1e6,
        "second_half_megabytes": (memory.at["end"] - memory.at["half"]) / 1e6,
    }


def run(args: StreamingArguments) -> dict[str, Any]:
    """Train on each knowledge base in a process of its own."""
    sizes = []
    for names in args.names:
        with tempfile.TemporaryDirectory() as folder:
            dictionary = Path(folder, "dictionary.txt")
            write_dictionary(dictionary, names)
            command = [sys.executable, __file__, "--part", str(dictionary), "--steps", str(args.steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            sizes.append(json.loads(done.splitlines()[-1]))
    return {"sizes": sizes, **surroundings(torch.device("cpu"))}


def main() -> None:
    """Parse the command line, measure, print."""
    (args,) = HfArgumentParser(StreamingArguments, allow_abbrev=False).parse_args_into_dataclasses()
    if args.part is not None:
        print(json.dumps(train_once(args.part, args.steps)))
        return
    report = run(args) | {"settings": dataclasses.asdict(args), "date": datetime.date.today().isoformat()}
    line = json.dumps(report)
    if args.output is not None:
        Path(args.output).write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)


if __name__ == "__main__":
    main()
