"""How the cost of a search grows with the names of the dictionary and with the beams.

    python recipes/bench/growth.py --quick                # up to 100,000 names, under a minute
    python recipes/bench/growth.py                        # up to 5 million

The names are synthetic: 8 tokens on average with the end token, the first drawn as unevenly as words are, the last two
together unlike in any other name. The model is a small BART with random weights, to which all continuations are about
equally likely: the search can rule out little, so that times are those of a hard case. Prints two tables and, as its
last line, one JSON object; draws `growth.png`.
"""

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator  # noqa: E402
from measure import in_turn, spread, surroundings  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from transformers import BartConfig, BartForConditionalGeneration, HfArgumentParser  # noqa: E402

from angel_trl.decoding import search  # noqa: E402
from angel_trl.formatting import EncodedMention  # noqa: E402
from angel_trl.trie import NameTrie  # noqa: E402

VOCABULARY, SPECIAL, END = 8_000, 5, 2
SOURCE_TOKENS, PREFIX_TOKENS = 64, 5
# Prime, and no divisor of the number of word pairs: multiples of it visit every pair once.
_STRIDE = 48_271


@dataclass
class GrowthArguments:
    """What is measured, and how often."""

    names: list[int] = field(
        default_factory=lambda: [1_000, 10_000, 100_000, 1_000_000, 5_000_000],
        metadata={"help": "Sizes of the dictionary."},
    )
    beams: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50], metadata={"help": "Beams."})
    names_for_beams: int = field(default=100_000, metadata={"help": "Names while the beams grow, at most."})
    beams_for_names: int = field(default=10, metadata={"help": "Beams while the names grow."})
    mentions: int = field(default=32, metadata={"help": "Mentions searched, in one batch."})
    repeats: int = field(default=5, metadata={"help": "Times each search runs."})
    quick: bool = field(default=False, metadata={"help": "Stop at 100,000 names, three repeats."})
    device: str | None = field(default=None, metadata={"help": "cpu or cuda; default: the GPU if there is one."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads on CPU; default: all cores."})
    output_dir: str = field(default="runs/growth", metadata={"help": "Folder for growth.json and growth.png."})

    def __post_init__(self) -> None:
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.quick:
            self.names = [count for count in self.names if count <= 100_000]
            self.repeats = min(self.repeats, 3)
        self.names_for_beams = min(self.names_for_beams, max(self.names))


def synthetic_names(count: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """`count` different token sequences of 5 to 11 tokens, one after the other, and their lengths."""
    draw = np.random.default_rng(0)
    words = VOCABULARY - SPECIAL
    lengths = draw.integers(5, 12, count)
    # Word frequencies fall with the rank (Zipf's law).
    share = np.cumsum(1 / np.arange(10, words + 10))
    tokens = np.searchsorted(share, draw.random(lengths.sum()) * share[-1]).astype(np.int32) + SPECIAL
    ends = np.cumsum(lengths)
    number = np.arange(count, dtype=np.int64) * _STRIDE % words**2
    tokens[ends - 3], tokens[ends - 2], tokens[ends - 1] = SPECIAL + number // words, SPECIAL + number % words, END
    return tokens, lengths


def small_model(device: str) -> BartForConditionalGeneration:
    """A BART of width 128 with two layers each side and random weights."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
    )
    return BartForConditionalGeneration(config).eval().to(device)


def index_names(tokens: NDArray[np.int32], lengths: NDArray[np.int64]) -> tuple[NameTrie, dict[str, float]]:
    """Build a trie, write it, open it with and without its checksum, and extend it by 100 names; seconds of each."""
    seconds: dict[str, float] = {}

    def timed(what: str, run: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = run()
        seconds[f"{what}_seconds"] = time.perf_counter() - begin
        return result

    trie = timed("build", lambda: NameTrie.build_flat(tokens, lengths))
    # As long as no word of the other names follows itself three times.
    new = [[SPECIAL] * 3 + [SPECIAL + number, END] for number in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie.safetensors"
        timed("save", lambda: trie.save(path))
        timed("open", lambda: NameTrie.load(path, verify=False))
        timed("open_verified", lambda: NameTrie.load(path))
    names = np.arange(len(lengths), len(lengths) + len(new))
    timed("extend", lambda: trie.extend(new, names=names, fingerprint=""))
    # The most this process has held so far, in MB; on Linux ru_maxrss counts kilobytes.
    seconds["process_peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return trie, seconds


def measure(args: GrowthArguments) -> dict[str, Any]:
    """Build the tries, search them, and return what the last line holds."""
    model = small_model(args.device)
    draw = np.random.default_rng(1)
    mentions = [
        EncodedMention(
            tuple(draw.integers(SPECIAL, VOCABULARY, SOURCE_TOKENS).tolist()),
            (END, *draw.integers(SPECIAL, VOCABULARY, PREFIX_TOKENS - 1).tolist()),
        )
        for _ in range(args.mentions)
    ]
    tries, costs = {}, {}
    for count in sorted({*args.names, args.names_for_beams}):
        tries[count], costs[count] = index_names(*synthetic_names(count))

    def searches(pairs: dict[int, tuple[int, int]]) -> dict[int, dict[str, float]]:
        runs = {
            key: partial(search, model, tries[names], mentions, num_beams=beams, batch_size=args.mentions)
            for key, (names, beams) in pairs.items()
        }
        for run in runs.values():
            run()
        seconds, _ = in_turn(runs, args.repeats, model.device)
        return {key: spread(values, 1e3 / len(mentions)) for key, values in seconds.items()}

    by_names = searches({count: (count, args.beams_for_names) for count in args.names})
    by_beams = searches({beams: (args.names_for_beams, beams) for beams in args.beams})
    for count, row in by_names.items():
        trie = tries[count]
        size = trie.nbytes + trie.index_nbytes
        row |= {"nodes": trie.num_nodes, "megabytes": size / 1e6, **costs[count]}
    settings = {"names_for_beams": args.names_for_beams, "beams_for_names": args.beams_for_names}
    settings |= {"mentions": args.mentions, "repeats": args.repeats, "device": args.device}
    return {"by_names": by_names, "by_beams": by_beams, "settings": settings, **surroundings(model.device)}


def tables(report: dict[str, Any]) -> str:
    """Both series as Markdown tables."""
    settings = report["settings"]
    lines = [
        f"| names ({settings['beams_for_names']} beams) | nodes | MB | built, s | opened, ms (checked, ms) "
        "| extended, s | ms a mention [min, max] |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for names, row in report["by_names"].items():
        size = f"{row['nodes']:,} | {row['megabytes']:.1f} | {row['build_seconds']:.2f}"
        size += f" | {1e3 * row['open_seconds']:.1f} ({1e3 * row['open_verified_seconds']:.0f})"
        size += f" | {row['extend_seconds']:.2f}"
        lines.append(f"| {names:,} | {size} | {_time(row)} |")
    lines += ["", f"| beams ({settings['names_for_beams']:,} names) | ms a mention [min, max] |", "|---:|---:|"]
    lines += [f"| {beams} | {_time(row)} |" for beams, row in report["by_beams"].items()]
    return "\n".join(lines)


def _time(row: dict[str, float]) -> str:
    return f"{row['median']:.2f} [{row['min']:.2f}, {row['max']:.2f}]"


def draw_growth(report: dict[str, Any], path: Path) -> None:
    """Two panels, time a mention by names and by beams, on logarithmic axes; whiskers span the repeats."""
    settings = report["settings"]
    figure = Figure(figsize=(9, 3.8), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, report["by_names"], "Names in the dictionary", f"{settings['beams_for_names']} beams")
    _panel(right, report["by_beams"], "Beams", f"{settings['names_for_beams']:,} names")
    right.set_xticks(list(report["by_beams"]), labels=[str(beams) for beams in report["by_beams"]])
    left.set_ylabel("Milliseconds a mention")
    figure.savefig(path)


def _panel(axes: Axes, rows: dict[int, dict[str, float]], label: str, title: str) -> None:
    median = np.array([row["median"] for row in rows.values()])
    whiskers = [median - [row["min"] for row in rows.values()], [row["max"] for row in rows.values()] - median]
    axes.errorbar(list(rows), median, yerr=whiskers, color="#0072B2", marker="o", linewidth=2, markersize=6, capsize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(axis="y", color="#D9D9D9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Measure, print, draw."""
    (args,) = HfArgumentParser(GrowthArguments, allow_abbrev=False).parse_args_into_dataclasses()
    if args.device == "cpu":
        torch.set_num_threads(args.cpu_threads or os.cpu_count() or 1)
    report = measure(args)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    draw_growth(report, folder / "growth.png")
    print(f"\n{tables(report)}\n\nThe picture is {folder / 'growth.png'}.\n")
    line = json.dumps(report)
    (folder / "growth.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
