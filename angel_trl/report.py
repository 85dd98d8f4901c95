"""Results for people: a table of scores for the terminal or a model card, and a picture of the learning curve.

Takes what `angel_trl.metrics.score` returns. Knows no model and no training; rich and matplotlib are imported when
a table or a picture is made, so that importing this module stays quick.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from angel_trl.metrics import METRICS

_HEADERS = ("Acc@1", "Acc@5", "MRR", "Acc@1 strict", "Acc@5 strict", "MRR strict")
# Okabe and Ito's colours, told apart with every common colour blindness; markers and dashes tell the lines apart in
# black and white. The plain dashed line is the floor's.
_LINES = (
    ("#0072B2", "o", "solid"),
    ("#D55E00", "s", (0, (6, 1.5))),
    ("#009E73", "^", (0, (6, 1.5, 1.5, 1.5))),
    ("#CC79A7", "D", (0, (1.5, 1.5))),
)
_FLOOR_COLOUR = "#595959"


def results_table(rows: Mapping[str, Mapping[str, Any]], title: str | None = None) -> str:
    """Table of scores for the terminal, one row a system.

    Args:
        rows: System name (for example "lookup", "positive-only", "ANGEL") to its scores, as `angel_trl.metrics.score`
            returns them: percentages under `angel_trl.metrics.METRICS`, each with an optional `{key}_ci`.
        title: A line above the table.

    Returns:
        The table as plain text without colour codes, about 90 columns wide. The 95% interval of a score stands below
        it.

    Raises:
        ValueError: If there are no rows, or a row lacks a score.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    _validate(rows)
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text(_caption(rows)),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("System", no_wrap=True)
    for header in _HEADERS:
        table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
    for system, scores in rows.items():
        cells = ("\n".join(filter(None, (f"{scores[key]:.1f}", _interval(scores, key)))) for key in METRICS)
        # Text objects, here and above: rich would read brackets in a name as markup and swallow them.
        table.add_row(Text(" ".join(system.split())), *cells)
    console = Console(width=10_000, color_system=None, force_terminal=False)
    # The table is laid out at its natural width, since a log or a file has no width of its own to fit.
    options = console.options.update(width=max(console.measure(table).maximum, 90))
    return "\n".join(
        "".join(segment.text for segment in line).rstrip() for line in console.render_lines(table, options)
    )


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Table of scores in GitHub-flavoured Markdown, one row a system: for a README or a model card.

    Args:
        rows: As in `results_table`.

    Returns:
        The table, and below it a line saying what the numbers are; ends with a newline.

    Raises:
        ValueError: As `results_table`.
    """
    _validate(rows)
    lines = [
        "| System | " + " | ".join(_HEADERS) + " |",
        "|:--|" + "--:|" * len(_HEADERS),
    ]
    for system, scores in rows.items():
        name = " ".join(system.split()).replace("|", "\\|")
        intervals = (_interval(scores, key) for key in METRICS)
        cells = (
            f"{scores[key]:.1f} ({interval})" if interval else f"{scores[key]:.1f}"
            for key, interval in zip(METRICS, intervals, strict=True)
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(rows), ""])


def plot_learning_curve(
    history: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    title: str,
    floor: float | None = None,
    floor_label: str = "string lookup",
) -> Path:
    """Draw development accuracy against optimiser steps, one line a stage, and write it as a PNG.

    Args:
        history: Stage name (for example "positive-only", "ANGEL") to its points (optimiser step, Acc@1 in percent), in
            the order of the steps. Give a stage that starts where another ended steps that go on from there.
        path: The PNG to write; its folder must exist.
        title: Title of the picture.
        floor: Acc@1 in percent of what training should beat, drawn as a horizontal dashed line; None draws none.
        floor_label: What the floor is.

    Returns:
        The path written.

    Raises:
        ValueError: If there is no stage or more than four, a stage has no points or a point that is not finite, or the
            path does not end in ".png".
    """
    # The object interface: pyplot would choose a backend for the whole process and keep the figure alive.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path = Path(path)
    _validate_history(history, path)
    figure = Figure(figsize=(7, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    if floor is not None:
        axes.axhline(
            floor, color=_FLOOR_COLOUR, linestyle="--", linewidth=1.2, zorder=1, label=f"{floor_label} ({floor:.1f})"
        )
    for (stage, points), (colour, marker, dashes) in zip(history.items(), _LINES, strict=False):
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=2,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=3,
            label=f"{stage} (best {max(values):.1f})",
        )
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_xlabel("Optimiser step", fontsize=11)
    axes.set_ylabel("Dev Acc@1 (%)", fontsize=11)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    every_step = {step for points in history.values() for step, _ in points}
    if len(every_step) == 1:  # the axis would have no width, and its ticks all the same label
        axes.set_xlim(min(every_step) - 1, max(every_step) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=10)
    axes.margins(x=0.03, y=0.08)
    axes.grid(axis="y", color="#D9D9D9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Beneath the axes, where no line can run through it however the training went.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    # A legend wider than the axes widens the picture instead of being cut.
    figure.savefig(path, format="png", bbox_inches="tight")
    return path


def _validate(rows: Mapping[str, Mapping[str, Any]]) -> None:
    if not rows:
        raise ValueError("There are no rows: give at least one system with its scores.")
    for system, scores in rows.items():
        missing = [key for key in METRICS if key not in scores]
        if missing:
            raise ValueError(
                f"The row {system!r} lacks {', '.join(missing)}: give it what angel_trl.metrics.score returns with "
                "ks=(1, 5)."
            )


def _validate_history(history: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"path={str(path)!r} must end in .png, the format it is written in.")
    if not 1 <= len(history) <= len(_LINES):
        raise ValueError(f"history has {len(history)} stages: 1 to {len(_LINES)} can be told apart in one picture.")
    for stage, points in history.items():
        if not points:
            raise ValueError(f"history[{stage!r}] has no points: leave a stage that did not run out of the history.")
        for step, value in points:
            if not (math.isfinite(step) and math.isfinite(value)):
                raise ValueError(f"history[{stage!r}] has the point ({step}, {value}): both must be finite numbers.")


def _interval(scores: Mapping[str, Any], key: str) -> str:
    interval = scores.get(f"{key}_ci")
    return "" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"


def _caption(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What the numbers are: the protocol, the intervals, and over how many mentions."""
    caption = "Percent; any-id unless marked strict (every concept named, no other)."
    if any(f"{key}_ci" in scores for scores in rows.values() for key in METRICS):
        caption += " With 95% bootstrap intervals."
    counts = {system: f"{scores['mentions']:,}" for system, scores in rows.items() if "mentions" in scores}
    if len(set(counts.values())) == 1 and len(counts) == len(rows):
        caption += f" {next(iter(counts.values()))} mentions."
    elif counts:
        # Different test sets in one table must not pass for the same one.
        caption += " Mentions: " + ", ".join(f"{system} {count}" for system, count in counts.items()) + "."
    return caption
