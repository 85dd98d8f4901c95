"""Pictures of an experiment, from the JSON file that `experiment.py` writes; each can be read in grey.

    python recipes/plots.py main-ncbi main-bc5cdr

writes into `recipes/results`, for each experiment NAME, `NAME-scores.png` (Acc@1 of all systems with intervals),
`NAME-slices.png` (by kind of mention, of the systems of the first difference), `NAME-curves.png` (dev accuracy by
optimiser step, of the systems of the first run and those that start from it) and `NAME-compute.png` (accuracy against
core-minutes); those for which the file has what is needed.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from angel_trl.breakdown import SLICES

RESULTS = Path(__file__).resolve().parent / "results"
Result = Mapping[str, Any]

# Okabe and Ito's colours, told apart with every common colour blindness; hatches, markers and dashes in grey.
# Markers and colours are not equally many, so that the same two come together only once in 88.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959", "#000000")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (1.5, 1.5)))


def scores(result: Result) -> Figure:
    """A line a system: its mean with the interval over documents, and below it a mark for each seed."""
    systems = result["systems"]
    figure, axes = _figure(width=9, height=0.3 * len(systems) + 1.4)
    places = np.arange(len(systems))[::-1]
    intervals = [one["scores"]["acc@1_ci"] for one in systems.values()]
    for place, one, interval in zip(places, systems.values(), intervals, strict=True):
        value, by_seed = one["scores"]["acc@1"], [seed["acc@1"] for seed in one["by_seed"].values()]
        axes.errorbar(value, place, xerr=_errors([value], [interval]), fmt="o", color="black", capsize=3, markersize=6)
        axes.plot(by_seed, [place - 0.32] * len(by_seed), "|", color="black", markersize=5)
        axes.annotate(f"{value:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(places, list(systems), fontsize=9)
    axes.set_ylim(-0.7, len(systems) - 0.3)
    ends = [*intervals, *(tuple(seed["acc@1"] for seed in one["by_seed"].values()) for one in systems.values())]
    axes.set_xlim(min(map(min, ends)) - 1, max(map(max, ends)) + 1)
    _finish(
        axes, "Acc@1, any-id (%): mean, 95% interval over documents, below them the seeds", "", result["title"], "x"
    )
    return figure


def slices(result: Result) -> Figure:
    """Acc@1 by slice, of the system of the first difference asked for and of the first three it is compared with."""
    first = result["differences"][0]["system"]
    against = [one["against"] for one in result["differences"] if one["system"] == first][:3]
    drawn = [system for system in result["systems"] if system in (first, *against)]
    shown = [name for name in SLICES if result["mentions"][name]]
    figure, axes = _figure(width=10.5)
    width = 0.8 / len(drawn)
    for number, system in enumerate(drawn):
        own = [result["systems"][system]["slices"][name] for name in shown]
        values = [one["acc@1"] for one in own]
        axes.bar(
            np.arange(len(shown)) + width * (number - (len(drawn) - 1) / 2),
            values,
            width,
            yerr=_errors(values, [one["acc@1_ci"] for one in own]),
            color=_COLOURS[number],
            edgecolor="white",
            hatch=_HATCHES[number],
            error_kw={"linewidth": 1, "capsize": 2},
            label=system,
        )
    axes.set_xticks(np.arange(len(shown)), [f"{name}\n({result['mentions'][name]:,})" for name in shown], fontsize=9)
    axes.set_ylim(0, 105)
    _finish(axes, "", "Acc@1, any-id (%)", result["title"])
    figure.legend(loc="outside lower center", ncols=len(drawn), frameon=False, fontsize=9)
    return figure


def curves(result: Result) -> Figure:
    """Dev Acc@1 by step: the mean over seeds with its range.

    Of the first run that has both stages, and behind its positive-only of those that start from there. Other runs have
    steps that cannot be compared.
    """
    figure, axes = _figure()
    names = {one.get("of"): name for name, one in result.get("systems", {}).items()}
    drawn = 0
    ends: dict[tuple[str, str], float] = {}
    for run, seeds in result["runs"].items():
        if ends and (_start(seeds), "positive-only") not in ends:
            continue
        for system in ("positive-only", "ANGEL"):
            found = [one["dev"][system] for one in seeds.values() if system in one.get("dev", {})]
            if not found:
                continue
            steps = sorted({step for curve in found for step, _ in curve})
            # A seed that stopped early stays where it was.
            values = np.array([np.interp(steps, *zip(*curve, strict=True)) for curve in found])
            begin = ends.get((run, "positive-only"), ends.get((_start(seeds), "positive-only"), 0.0))
            begin = begin if system == "ANGEL" else 0.0
            ends[run, system] = begin + steps[-1]
            style = _style(drawn)
            at = begin + np.array(steps)
            label = names.get(f"{run}/{system}", f"{run}: {'rounds' if system == 'ANGEL' else system}")
            axes.plot(at, values.mean(axis=0), markersize=5, label=label, **style)
            if len(values) > 1:
                axes.fill_between(at, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15)
            drawn += 1
    if not drawn:
        raise KeyError("dev")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _finish(axes, "Optimiser step", "Dev Acc@1 (%), mean and range of seeds", result["title"])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _start(seeds: Result) -> str:
    """The run whose positive-only model a run starts from, by its command."""
    words = next(iter(seeds.values()))["command"].split()
    model = words[words.index("--model") + 1] if "--model" in words else ""
    return model.removeprefix("RUNS/").removesuffix("/positive") if model.endswith("/positive") else ""


def compute(result: Result) -> Figure:
    """Acc@1 against core-minutes on a logarithmic axis, what models started from included; `curves` are joined."""
    known = {
        name: one
        for name, one in result["systems"].items()
        if one["compute"] is not None and one["compute"]["core_seconds"]
    }
    if not known:
        raise KeyError("core_seconds")
    figure, axes = _figure()
    joined = {name: [one for one in own if one in known] for name, own in result.get("curves", {}).items()}
    # A curve of one point that another one has, since the rest is not there yet, would hide it.
    joined = {
        label: own
        for label, own in joined.items()
        if len(own) > 1 or (own and not any(own[0] in other for name, other in joined.items() if name != label))
    }
    alone = [name for name in known if not any(name in own for own in joined.values())]
    for number, (label, own) in enumerate((joined | {name: [name] for name in alone}).items()):
        points = sorted((known[name] for name in own), key=lambda one: one["compute"]["core_seconds"])
        values = [one["scores"]["acc@1"] for one in points]
        axes.errorbar(
            [one["compute"]["core_seconds"] / 60 for one in points],
            values,
            yerr=_errors(values, [one["scores"]["acc@1_ci"] for one in points]),
            markersize=8,
            capsize=3,
            label=label,
            **_style(number),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes, "Core-minutes, all stages", "Test Acc@1, any-id (%)", result["title"])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _errors(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> np.ndarray:
    """Lengths of error bars, float64 `[2, values]`; a bootstrap interval need not hold the value."""
    low, high = np.transpose(intervals)
    return np.maximum([values - low, high - values], 0)


def _style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of a line."""
    every = {"color": _COLOURS, "marker": _MARKERS, "linestyle": _DASHES}
    return {name: choices[number % len(choices)] for name, choices in every.items()}


def _figure(width: float = 7, height: float = 4.4) -> tuple[Figure, Axes]:
    # The object interface: pyplot would choose a backend for the whole process and keep the figure alive.
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes, x: str, y: str, title: str, grid: str = "y") -> None:
    axes.set_title(title.replace("; ", "\n"), loc="left", fontsize=10, fontweight="bold", pad=10)
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.grid(axis=grid, color="#D9D9D9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


PLOTS: dict[str, Callable[[Result], Figure]] = {
    "scores": scores,
    "slices": slices,
    "curves": curves,
    "compute": compute,
}


def draw(names: Iterable[str], results: Path, output: Path, kinds: Iterable[str] = tuple(PLOTS)) -> list[Path]:
    """Draw what there is to draw of some experiments.

    Args:
        names: of their JSON files, without the ending.
        results: folder of these files.
        output: folder for the pictures.
        kinds: which pictures, of `PLOTS`.

    Returns:
        The pictures written.
    """
    written = []
    for name in names:
        result = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for kind in kinds:
            try:
                figure = PLOTS[kind](result)
            except (KeyError, IndexError) as error:
                print(f"{name}: no {kind}: the file does not have {error}")
                continue
            written.append(output / f"{name}-{kind}.png")
            # A legend wider than the axes widens the picture instead of being cut.
            figure.savefig(written[-1], format="png", bbox_inches="tight")
    return written


def main() -> None:
    """Draw the experiments given."""
    parser = argparse.ArgumentParser(description="Draw pictures of experiments.")
    parser.add_argument("names", nargs="+", help="experiments, such as main-ncbi")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of their JSON files")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the pictures")
    parser.add_argument("--only", nargs="+", choices=list(PLOTS), default=list(PLOTS), help="only these pictures")
    args = parser.parse_args()
    for path in draw(args.names, args.results, args.output, args.only):
        print(path)


if __name__ == "__main__":
    main()
