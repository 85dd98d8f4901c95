"""Mentions made from a knowledge base alone: its names, misspelled a little, each with names of its concept to learn.

They teach a model from scratch how the names of a concept vary before it sees a corpus, and they are where a model
that has fitted its training mentions still errs, which is where negative samples are to be mined.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset

from angel_trl.kb import KnowledgeBase
from angel_trl.mentions import MENTION_FEATURES

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def misspell(name: str, rng: random.Random) -> str:
    """One small change, as corpora show them: a typing error in a letter, a word lost, or two words swapped."""
    words = name.split(" ")
    kind = rng.choice(("letter", "letter", "drop", "swap"))
    if kind == "drop" and len(words) > 2:
        del words[rng.randrange(len(words))]
    elif kind == "swap" and len(words) > 1:
        place = rng.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
    else:
        place = rng.randrange(len(name))
        letter = rng.choice(_LETTERS)
        edit = rng.choice(("", letter, letter + name[place], name[place] * 2))
        changed = name[:place] + edit + name[place + 1 :]
        return changed if changed.strip() else name
    return " ".join(words)


def kb_mentions(kb: KnowledgeBase, count: int, *, seed: int, noise: float = 0.3) -> Dataset:
    """A mention dataset of `count` mentions, each a name of the knowledge base standing alone.

    Args:
        kb: the knowledge base. Every name is drawn once before any is drawn again.
        count: mentions wanted.
        seed: decides draws and changes.
        noise: share of mentions that are changed by `misspell`.

    Returns:
        Rows as in `MENTION_FEATURES`, with `split` "kb" and the concepts of the name as alternatives.
    """
    rng = random.Random(seed)
    rows: dict[str, list[Any]] = {column: [] for column in MENTION_FEATURES}
    order: list[int] = []
    for number in range(count):
        if not order:
            order = list(range(kb.num_names))
            rng.shuffle(order)
        index = order.pop()
        name = kb.names[index]
        text = misspell(name, rng) if rng.random() < noise else name
        row = {
            "id": f"kb:{number}",
            "document_id": f"kb:{number}",
            "text": text,
            "start": 0,
            "end": len(text),
            "mention": text,
            "types": [],
            "concept_ids": [list(kb.ids_of_name(index))],
            "split": "kb",
        }
        for column, value in row.items():
            rows[column].append(value)
    return Dataset.from_dict(rows, features=MENTION_FEATURES)


def other_names(
    kb: KnowledgeBase, gold: Sequence[Sequence[int]], count: int, *, seed: int, exclude: Iterable[int] = ()
) -> list[list[int]]:
    """For each mention, up to `count` names of its gold concepts drawn at random: names to learn, as name indices.

    Names in `exclude` (those a model cannot write) are never drawn.
    """
    rng = random.Random(seed)
    excluded = frozenset(exclude)
    chosen = []
    for concepts in gold:
        found = dict.fromkeys(int(n) for concept in concepts for n in kb.names_of_concept(concept))
        names = [name for name in found if name not in excluded]
        chosen.append(rng.sample(names, min(count, len(names))))
    return chosen
