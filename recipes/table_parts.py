"""How numbers and tables look in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table; with `numbers`, all columns but the first are set to the right."""
    rule = "|".join(["---", *["---:" if numbers else "---"] * (len(header) - 1)])
    lines = [_row(header), f"|{rule}|", *map(_row, rows)]
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def bold(text: str) -> str:
    """Bold text."""
    return f"**{text}**"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign; no "-0.0"."""
    return f"{round(value, digits) + 0:+.{digits}f}"


def interval(ends: Sequence[float], digits: int = 1) -> str:
    """`[low, high]`."""
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def median_and_ends(turns: Mapping[str, float], digits: int = 1) -> str:
    """The median of several turns with the least and the greatest."""
    return f"{turns['median']:.{digits}f} {interval([turns['min'], turns['max']], digits)}"


def gain(difference: Mapping[str, Any], digits: int = 1) -> str:
    """A difference in points with its interval."""
    low, high = difference["ci"]
    return f"{signed(difference['difference'], digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def pair(scores: Mapping[str, float]) -> str:
    """Acc@1, any-id / strict."""
    return f"{scores['acc@1']:.1f} / {scores['acc@1_strict']:.1f}"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, and at least all before the point: 5.96, 27.9, 264, 1552."""
    decimals = max(0, digits - len(str(int(abs(value)))))
    return f"{value:,.{decimals}f}"
