"""What changed from one system to another: the mentions it fixed and broke, by kind.

Counts can be published; the examples hold names of the knowledge base and text of the corpus, so that they stay in the
folder of the runs.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from outcomes import Outcome, kind_of_mistake
from predictions import AnsweredMentions, Answers

from angel_trl.confusions import KINDS
from angel_trl.metrics import gold_ranks

EXAMPLES = 20
"""Of each kind, fixed and broken."""


def count_changes(before: Mapping[int, Outcome], after: Mapping[int, Outcome]) -> dict[str, dict[str, float]]:
    """Mentions that are right (any-id) under one of two systems only, on average over seeds.

    Returns:
        `fixed` and `broken`, each with `all` and every kind of the mistake that was or is made
        (`angel_trl.confusions`).
    """
    counts = {what: np.zeros(len(KINDS)) for what in ("fixed", "broken")}
    for seed in after:
        first, second = before[seed], after[seed]
        for what, right, wrong in (("fixed", second, first), ("broken", first, second)):
            own = wrong.kind[(right.rank == 0) & (wrong.rank != 0)]
            counts[what] += np.bincount(own, minlength=len(KINDS)) / len(after)
    return {
        what: {"all": float(own.sum()), **dict(zip(KINDS, own.tolist(), strict=True))} for what, own in counts.items()
    }


def write_examples(
    path: Path, title: str, gold: AnsweredMentions, before: Mapping[int, Answers], after: Mapping[int, Answers]
) -> None:
    """Write `EXAMPLES` of each kind as Markdown, different mentions or answers, with context."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], str]] = {}
    for seed in after:
        right_before, right_after = (gold_ranks(one[seed].ids, gold.gold) == 0 for one in (before, after))
        for row in np.flatnonzero(right_before != right_after).tolist():
            what, wrong = ("fixed", before) if right_after[row] else ("broken", after)
            kind = kind_of_mistake(gold, wrong[seed], row)
            first, second = (_answer(one[seed], row) for one in (before, after))
            line = f"- {gold.contexts[row]}\n  {first} -> {second} ({gold.ids[row]}, seed {seed})"
            found.setdefault((what, kind), {}).setdefault((gold.mentions[row].lower(), first, second), line)
    lines = [
        f"# {title}",
        "",
        "The mention in brackets, the answer before and after; not for publication as it stands.",
    ]
    for what in ("fixed", "broken"):
        for kind in KINDS:
            examples = list(found.get((what, kind), {}).values())
            if examples:
                lines += ["", f"## {what}: {kind} ({len(examples)} different)", "", *examples[:EXAMPLES]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _answer(answers: Answers, row: int) -> str:
    if not answers.ids[row]:
        return "no answer"
    return f"{answers.names[row][0]} ({', '.join(answers.ids[row][0])})"
