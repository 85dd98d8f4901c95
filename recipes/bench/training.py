"""How fast training steps are, beside the plain way and beside TRL 0.9.6, and whether they compute the same.

    python recipes/bench/training.py --quick                                  # under a minute, nothing else needed
    python recipes/bench/training.py --linker DIR --corpus DIR --kb FILE --output FILE

A step is forward, backward and update (AdamW) of one batch: 8 mentions of 128 tokens with 2 pairs each, which share
the right name; 16 target tokens, of which 3 stand before the name and 13 are the name with its end token; random
weights and tokens, float32, no dropout. The plain way and TRL 0.9.6 (in an environment of its own, built on first use)
run the encoder for each side of each pair, and a reference model; ours reads mined reference log-probabilities. The
sides run in turn; memory is measured in a process of its own for each. With a linker and a corpus, rounds of mining
and training are timed; with a GPU, a BART-large in bfloat16. The last line is one JSON object. Ends with status 1 if
losses or gradients differ.
"""

import copy
import dataclasses
import datetime
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets  # noqa: E402
import torch  # noqa: E402
from measure import in_turn, peak_memory, ratio, seconds_of, spread, surroundings  # noqa: E402
from old_environment import OldTraining, build_environment, default_folder, write_inputs  # noqa: E402
from our_training import OurTraining, time_rounds, with_reference  # noqa: E402
from plain_training import PlainTraining, Shape, make_items, make_model  # noqa: E402
from transformers import HfArgumentParser  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from angel_trl.collator import MentionPairs  # noqa: E402
from angel_trl.kb import KnowledgeBase  # noqa: E402
from angel_trl.linker import EntityLinker  # noqa: E402
from angel_trl.readers import read_corpus  # noqa: E402

OURS, PLAIN, OLD, GPU = "ours", "plain", "TRL 0.9.6", "gpu"
TOLERANCE = 1e-5
BART_LARGE = Shape(width=1024, layers=12, mentions=32)


@dataclass
class BenchmarkArguments(Shape):
    """What is measured, and how often; first the shape of model and batch."""

    quick: bool = field(default=False, metadata={"help": "Two turns, without TRL 0.9.6 and rounds: under a minute."})
    repeats: int | None = field(default=None, metadata={"help": "Steps of each side (default 7, quick 2)."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads on CPU; default: all cores."})
    old_environment: str | None = field(
        default=None, metadata={"help": f"Folder of TRL 0.9.6's environment (default {default_folder()})."}
    )
    linker: str | None = field(default=None, metadata={"help": "Folder of the EntityLinker that rounds start from."})
    corpus: str | None = field(default=None, metadata={"help": "PubTator corpus whose train split is mined."})
    kb: str | None = field(default=None, metadata={"help": "Knowledge base file; default: the linker's own."})
    rounds: int = field(default=3, metadata={"help": "Rounds timed."})
    output: str | None = field(default=None, metadata={"help": "File for the JSON object."})
    part: str | None = field(
        default=None,
        metadata={"help": f"Only the peak memory of {OURS!r} or {PLAIN!r}, or speed on a {GPU!r}, in this process."},
    )

    def __post_init__(self) -> None:
        self.repeats = self.repeats or (2 if self.quick else 7)


def gradient_difference(ours: torch.nn.Module, plain: torch.nn.Module) -> float:
    """The greatest `|a - b| / max|b|` over the tensors of two models, `b` being the gradients of the plain way.

    The gradient of a key projection's bias is 0 but for rounding (it adds as much to all scores of a query): tensors
    below a millionth of the largest gradient are held against that one.
    """
    theirs = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.grad is not None}
    scales = {name: gradient.abs().max().item() for name, gradient in theirs.items()}
    largest = max(scales.values())
    found = dict(ours.named_parameters())
    return max(
        (found[name].grad - gradient).abs().max().item() / (scales[name] if scales[name] > 1e-6 * largest else largest)
        for name, gradient in theirs.items()
    )


def differences(ours: OurTraining, plain: PlainTraining, items: Sequence[MentionPairs]) -> dict[str, float]:
    """Relative differences of loss and gradients of a batch, on equal weights."""
    ours.items, plain.items = with_reference(plain.reference, items), items
    loss, expected = ours.backward(), plain.backward()
    gradient = gradient_difference(ours.policy, plain.policy)
    ours.optimizer.zero_grad()
    plain.optimizer.zero_grad()
    return {"loss": abs(loss - expected) / abs(expected), "gradient": gradient, "plain_loss": expected}


def take_one_step(side: str, shape: Shape) -> None:
    """Build a side and take the second step: the first update gives the optimizer its memory."""
    with tempfile.TemporaryDirectory() as folder:
        policy, items = make_model(shape, 0), make_items(shape)
        steps: OurTraining | PlainTraining
        if side == OURS:
            steps = OurTraining(policy, items, folder)
        else:
            steps = PlainTraining(policy, copy.deepcopy(policy), items)
        # An update with gradients of zero in place of the first step, which takes seconds.
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        steps.optimizer.step()
        steps.optimizer.zero_grad()
        steps.step()


def memory_of_steps(args: BenchmarkArguments) -> int:
    """Peak bytes of one side above an interpreter that has loaded everything: a tiny model took a step in it."""
    take_one_step(args.part, Shape(width=32, layers=1, vocabulary=100, source_tokens=8, mentions=2))
    return peak_memory(lambda: take_one_step(args.part, args), torch.device("cpu"))


def speed_in_bfloat16(args: BenchmarkArguments) -> dict[str, Any]:
    """Speed and peak memory of our steps under bfloat16 autocast, on the GPU (on the CPU where there is none)."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        policy = make_model(args, 0).to(device)
        side = OurTraining(policy, make_items(args), folder, bf16=True, use_cpu=not on_gpu)
        for _ in range(3):
            side.step()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        steps = 3 * args.repeats
        seconds, _ = seconds_of(lambda: [side.step() for _ in range(steps)], device)
    return {
        "hardware": surroundings(device)["hardware"],
        "shape": shape_of(args),
        "parameters": policy.num_parameters(),
        "steps_per_second": steps / seconds,
        "mentions_per_second": steps * args.mentions / seconds,
        "peak_memory": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def shape_of(args: Shape) -> dict[str, int]:
    """The fields of the shape, without further settings."""
    return {part.name: getattr(args, part.name) for part in dataclasses.fields(Shape)}


def start_part(part: str, shape: Shape, repeats: int, threads: int) -> subprocess.Popen:
    """This program in a process of its own, for one part of it."""
    given = shape_of(shape) | {"part": part, "repeats": repeats, "cpu_threads": threads}
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    # With several GPUs in sight, the trainer would share batches out to them.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": first}
    return subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, env=environment)


def result_of(part: str, process: subprocess.Popen) -> Any:
    """What a part of the program found."""
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"Measuring {part} ended with status {process.returncode}; see above.")
    return json.loads(output.splitlines()[-1])


def rounds_or_reason(args: BenchmarkArguments) -> dict[str, Any] | str:
    """Times of mining and training, or why there are none."""
    if args.quick:
        return "left out by --quick"
    if args.linker is None or args.corpus is None:
        return "no --linker to start from and --corpus to mine"
    missing = [path for path in (args.linker, args.corpus, args.kb) if path is not None and not Path(path).exists()]
    if missing:
        return f"not there: {', '.join(missing)}"
    kb = KnowledgeBase.from_file(args.kb) if args.kb else None
    linker = EntityLinker.from_pretrained(args.linker, kb=kb, device="cpu")
    return time_rounds(linker, read_corpus(args.corpus)[0]["train"], args.rounds)


def run(args: BenchmarkArguments) -> dict[str, Any]:
    """Measure everything; returns what the last line holds."""
    report: dict[str, Any] = surroundings(torch.device("cpu")) | {"shape": shape_of(args)}
    report["versions"]["trl"] = importlib.metadata.version("trl")
    old_python = None
    if not args.quick:
        old_python = build_environment(Path(args.old_environment) if args.old_environment else default_folder())
    # One thread each: side by side, more would stand in each other's way, and memory does not depend on it.
    running = {side: start_part(side, args, args.repeats, threads=1) for side in (OURS, PLAIN)}
    items = make_items(args)
    policy, reference = make_model(args, 0), make_model(args, 1)
    report["parameters"] = policy.num_parameters()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if old_python is not None:
            write_inputs(folder, policy, reference, items)
        ours = OurTraining(copy.deepcopy(policy), items, str(folder / "ours"))
        plain = PlainTraining(policy, reference, items)
        peaks = {side: result_of(f"the memory of {side}", process) for side, process in running.items()}
        # A small batch with padding everywhere; then the one that is timed, for which --quick has no time.
        batches = {"ragged": make_items(dataclasses.replace(Shape(**shape_of(args)), mentions=3), ragged=True)}
        batches |= {} if args.quick else {"full": items}
        report["equality"] = {name: differences(ours, plain, batch) for name, batch in batches.items()}
        ours.items, plain.items = with_reference(reference, items), items
        sides: dict[str, Callable[[], float]] = {OURS: ours.step, PLAIN: plain.step}
        if old_python is not None:
            old = stack.enter_context(OldTraining(old_python, folder, torch.get_num_threads()))
            expected = report["equality"]["full"]["plain_loss"]
            report["trl_0_9"] = {
                "versions": old.versions,
                "relative_loss_difference": abs(old.step() - expected) / expected,
            }
            sides[OLD] = old.step
        seconds, _ = in_turn(sides, args.repeats, torch.device("cpu"))
        if old_python is not None:
            peaks[OLD] = old.last["peak_bytes"]
    report |= {"ms_per_step": {side: spread(values, 1e3) for side, values in seconds.items()}, "peak_memory": peaks}
    report["spread"] = {side: ratio(values, seconds[OURS]) for side, values in seconds.items() if side != OURS}
    found = rounds_or_reason(args)
    report |= {"round": None, "round_left_out": found} if isinstance(found, str) else {"round": found}
    report["gpu"] = None
    if torch.cuda.is_available():
        process = start_part(GPU, BART_LARGE, args.repeats, torch.get_num_threads())
        report["gpu"] = result_of("speed on the GPU", process)
    return headline(report) | report


def headline(report: dict[str, Any]) -> dict[str, float | None]:
    """The numbers to look at first."""
    peaks = report["peak_memory"]
    return {
        "step_speedup_vs_plain": report["spread"][PLAIN]["median"],
        "peak_memory_ratio_vs_plain": peaks[OURS] / peaks[PLAIN],
        "step_speedup_vs_trl_0_9": report["spread"][OLD]["median"] if OLD in report["spread"] else None,
        "peak_memory_ratio_vs_trl_0_9": peaks[OURS] / peaks[OLD] if peaks.get(OLD) else None,
        "max_relative_loss_difference": max(batch["loss"] for batch in report["equality"].values()),
        "max_relative_gradient_difference": max(batch["gradient"] for batch in report["equality"].values()),
    }


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    shape, peaks = report["shape"], report["peak_memory"]
    lines = [
        f"\n{report['parameters'] / 1e6:.1f}M parameters; {shape['mentions']} mentions of {shape['source_tokens']} "
        f"tokens x {shape['pairs']} pairs, {shape['target_tokens']} target tokens.\n",
        "| side | ms a step, median [min, max] | times ours [min, max] | peak memory, MB | times ours |",
        "|---|---|---|---|---|",
    ]
    for side, ms in report["ms_per_step"].items():
        times = report["spread"].get(side)
        beside = f"{times['median']:.2f} [{times['min']:.2f}, {times['max']:.2f}]" if times else ""
        memory = f"{peaks[side] / 1e6:.0f} | {peaks[side] / peaks[OURS]:.2f}" if peaks.get(side) else " | "
        lines.append(f"| {side} | {ms['median']:.0f} [{ms['min']:.0f}, {ms['max']:.0f}] | {beside} | {memory} |")
    lines.append(
        f"\nAgainst the plain way, loss and gradients differ by {report['max_relative_loss_difference']:.1e} and "
        f"{report['max_relative_gradient_difference']:.1e} at most."
    )
    if "trl_0_9" in report:
        difference = report["trl_0_9"]["relative_loss_difference"]
        lines.append(f"TRL 0.9.6's loss differs from the plain one by {difference:.1e}.")
    if (found := report["round"]) is not None:
        lines.append(
            f"\nA round of {found['mentions']} mentions ({found['pairs']:.0f} pairs, {found['parameters'] / 1e6:.1f}M "
            f"parameters, {found['names']:,} names): mining {found['mining_seconds']['median']:.1f} s "
            f"({found['mining_share']:.0%}), training {found['training_seconds']['median']:.1f} s "
            f"({found['training_share']:.0%})."
        )
    else:
        lines.append(f"\nNo round of mining and training was timed: {report['round_left_out']}.")
    if (gpu := report["gpu"]) is not None:
        lines.append(
            f"\n{gpu['hardware']['gpu']}, {gpu['parameters'] / 1e6:.0f}M parameters, bfloat16, batches of "
            f"{gpu['shape']['mentions']}: {gpu['steps_per_second']:.2f} steps/s, {gpu['mentions_per_second']:.1f} "
            f"mentions/s, {(gpu['peak_memory'] or 0) / 1e6:.0f} MB at most."
        )
    else:
        lines.append("\nNothing was run on a GPU: there is none here.")
    return "\n".join(lines)


def check(report: dict[str, Any]) -> list[str]:
    """What is not as it should be: differences that rounding does not explain."""
    return [
        f"{key} is {report[key]:.1e}, more than {TOLERANCE:.0e}"
        for key in ("max_relative_loss_difference", "max_relative_gradient_difference")
        if not report[key] <= TOLERANCE
    ]


def main() -> None:
    """Parse the command line, measure, print."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    (args,) = HfArgumentParser(BenchmarkArguments, allow_abbrev=False).parse_args_into_dataclasses()
    torch.set_num_threads(args.cpu_threads or os.cpu_count() or 1)
    if args.part is not None:
        print(json.dumps(speed_in_bfloat16(args) if args.part == GPU else memory_of_steps(args)))
        return
    report = run(args) | {"settings": dataclasses.asdict(args), "date": datetime.date.today().isoformat()}
    print(tables(report))
    line = json.dumps(report)
    if args.output is not None:
        Path(args.output).write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)
    if wrong := check(report):
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
