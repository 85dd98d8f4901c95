"""The tree of a search as a drawing (SVG) and as text. Knows no Gradio."""

import dataclasses
import math

from markup import escape, percent

from angel_trl.explanation import Branch, Explanation, notable

_ROW, _GAP, _PAD = 46, 80, 12  # between rows, between columns, around
_NUMBER = 48  # room for a log-probability
_LETTER = 7.6  # of the drawing's font, at 13.5 px, on average
_MOST_LETTERS = 34
_SHOWN = 2  # branches at a fork beside those that lead to the list

_WHY = {
    "outscored": "cannot beat the list",
    "beam": "outside the beam",
    "extended": "followed in vain",
    "name": "not in the list",
}


@dataclasses.dataclass(slots=True)
class _Node:
    """A branch with its place: column, left edge and height in the drawing."""

    label: str
    branch: Branch | None
    kind: str  # "win", "list", "cut" or "more"
    note: str = ""
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    children: list["_Node"] = dataclasses.field(default_factory=list)

    @property
    def width(self) -> float:
        return max(44.0, _LETTER * len(self.label) + 22)


def _tree(branch: Branch, best: set[int], column: int, shown: int) -> list[_Node]:
    """What is drawn of the branches below `branch`."""
    leading, others = notable(branch.branches, shown)
    # The way to the answer is a straight line along the top.
    leading.sort(key=lambda below: id(below) not in best)
    nodes = []
    for below in leading:
        ranks = [b.rank for b in below.walk() if b.rank is not None]
        label = below.text.strip() or ("(end)" if below.name else "…")
        label = label if len(label) <= _MOST_LETTERS else label[: _MOST_LETTERS - 1] + "…"
        if not ranks:
            nodes.append(_Node(label, below, "cut", _why(below), column))
            continue
        note = "" if below.rank is None else f"{below.rank + 1}. {percent(math.exp(below.score))} · {below.ids[0]}"
        kind = "win" if id(below) in best else "list"
        # Further down the doubtful branches matter less.
        nodes.append(_Node(label, below, kind, note, column, children=_tree(below, best, column + 1, 1)))
    if others:
        names = sum(b.names_below for b in others)
        note = f"{names:,} {'name' if names == 1 else 'names'}, none above {_number(others[0].score)}"
        nodes.append(_Node(f"+{len(others):,} more", None, "more", note, column))
    return nodes


def _number(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def _why(branch: Branch) -> str:
    if branch.outcome == "name" or branch.names_below == 1:
        return _WHY[branch.outcome]
    return f"{_WHY[branch.outcome]} · {branch.names_below:,} names"


def _place(nodes: list[_Node], x: list[float], row: float) -> float:
    """Give each node its place, leaves one below the other; return the next free row."""
    for node in nodes:
        node.x = x[node.column]
        if node.children:
            first = row
            row = _place(node.children, x, row)
            best = next((child for child in node.children if child.kind == "win"), None)
            node.y = best.y if best else (first + row - _ROW) / 2
        else:
            node.y = row
            row += _ROW
    return row


def _all(nodes: list[_Node]) -> list[_Node]:
    return [every for node in nodes for every in (node, *_all(node.children))]


def draw(explained: Explanation) -> str:
    """The tree as SVG: from left to right the pieces of names, on each line its log-probability.

    The winning path is drawn thick, what was given up dashed and with its reason; `view` says the same in words.
    """
    nodes = _tree(explained.root, {id(branch) for branch in explained.path}, 1, _SHOWN)
    every = _all(nodes)
    root = _Node(f"{explained.mention[: _MOST_LETTERS - 4].strip()} is …", explained.root, "win")
    columns = max((node.column for node in every), default=0)
    x = [float(_PAD)]
    for column in range(columns + 1):
        widest = max((n.width for n in [root, *every] if n.column == column), default=60.0)
        x.append(x[-1] + widest + _GAP)
    height = _place(nodes, x, _PAD + 20.0) + 6
    root.x, root.children = x[0], nodes
    root.y = next((node.y for node in nodes if node.kind == "win"), height / 2)
    width = max((n.x + max(n.width, 6.1 * len(n.note) + 8) for n in every), default=300) + _PAD
    lines = "".join(_line(root, child) for child in nodes) + "".join(_line(n, c) for n in every for c in n.children)
    boxes = "".join(map(_box, [root, *every]))
    title = f"Search for {escape(explained.mention, 80)}"
    return (
        f'<svg class="tree" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="{title}: drawn as a tree; the same in words below.">'
        f"{lines}{boxes}</svg>"
    )


def _line(node: _Node, child: _Node) -> str:
    x0, x1 = node.x + node.width, child.x
    # Level on the last stretch, where the number stands.
    y0, y1, level = node.y, child.y, x1 - _NUMBER
    path = f"M{x0:.1f} {y0:.1f}C{x0 + 14:.1f} {y0:.1f} {level - 14:.1f} {y1:.1f} {level:.1f} {y1:.1f}H{x1:.1f}"
    text = ""
    if child.branch is not None:
        text = f'<text class="prob" x="{x1 - 6:.1f}" y="{child.y - 6:.1f}">{_number(child.branch.log_prob)}</text>'
    return f'<path class="line {child.kind}" d="{path}"/>{text}'


def _box(node: _Node) -> str:
    title = ""
    if node.branch is not None and node.branch.prefix:
        title = f"<title>{escape(node.branch.prefix, 120)}: {_number(node.branch.score)} in all</title>"
    note = ""
    if node.note:
        note = f'<text class="note" x="{node.x + 2:.1f}" y="{node.y + 25:.1f}">{escape(node.note)}</text>'
    return (
        f'<g class="node {node.kind}">{title}<rect x="{node.x:.1f}" y="{node.y - 13:.1f}" width="{node.width:.1f}" '
        f'height="26" rx="6"/><text class="label" x="{node.x + 11:.1f}" y="{node.y + 4.5:.1f}">{escape(node.label)}'
        f"</text>{note}</g>"
    )


def summary(explained: Explanation) -> str:
    """In a sentence what the search did."""
    names = f"{explained.names_allowed:,} name{'' if explained.names_allowed == 1 else 's'}"
    sure = "no other name can be likelier" if explained.exact else "a likelier name may have been missed"
    return (
        f"Of {names}, the search scored {explained.tokens_scored:,} pieces and ran the model on "
        f"{explained.tokens_run:,} tokens: {sure}."
    )


def view(explained: Explanation) -> str:
    """The drawing with what belongs to it: a sentence, buttons to zoom, how to read it, the same in words."""
    signs = (("out", "Zoom out", "−"), ("in", "Zoom in", "+"), ("fit", "Fit the width", "Fit"))
    buttons = "".join(
        f'<button type="button" data-zoom="{step}" aria-label="{label}">{sign}</button>' for step, label, sign in signs
    )
    words = escape(explained.to_text(_SHOWN))
    return (
        f'<div class="zoom"><p class="quiet">{escape(summary(explained))}</p>'
        f'<div class="buttons">{buttons}</div></div>'
        f'<div class="canvas" tabindex="0" role="region" aria-label="The search as a tree">{draw(explained)}</div>'
        '<p class="quiet">Each number is the log-probability of a piece given what stands before it. Filled: the way '
        "to the answer. Dashed: given up, with the reason.</p><details><summary>The search in words</summary>"
        f'<pre tabindex="0" role="region" aria-label="The search in words">{words}</pre></details>'
    )
