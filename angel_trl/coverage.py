"""How much of a corpus a knowledge base can answer, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from angel_trl.kb import KnowledgeBase


def coverage(kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of a mention dataset that a knowledge base covers.

    Args:
        kb: the knowledge base.
        mentions: rows of a mention dataset (see `angel_trl.mentions`).

    Returns:
        `mentions`, `labelled` (those with an id) and `ids` (distinct gold ids) as counts. In percent: `ids_known` of
        the distinct gold ids; of the labelled mentions `any_id_known` (one of the gold ids is known) and
        `all_parts_known` (every part of a composite has one); of all mentions `strings_known` (the mention's string is
        a name); of the labelled ones `strings_right` (it is a name of a gold concept).
    """
    ids: dict[str, bool] = {}
    total = labelled = any_known = all_known = strings = right = 0
    for row in mentions:
        total += 1
        parts = [[kb.resolve(concept_id) for concept_id in part] for part in row["concept_ids"]]
        ids.update(
            (concept_id, bool(found))
            for part, resolved in zip(row["concept_ids"], parts, strict=True)
            for concept_id, found in zip(part, resolved, strict=True)
        )
        gold = {concept for part in parts for found in part for concept in found}
        name = kb.find(row["mention"])
        strings += name is not None
        if parts:
            labelled += 1
            any_known += bool(gold)
            all_known += all(any(part) for part in parts)
            right += name is not None and bool(gold.intersection(kb.concepts_of_name(name).tolist()))
    return {
        "mentions": total,
        "labelled": labelled,
        "ids": len(ids),
        "ids_known": _percent(sum(ids.values()), len(ids)),
        "any_id_known": _percent(any_known, labelled),
        "all_parts_known": _percent(all_known, labelled),
        "strings_known": _percent(strings, total),
        "strings_right": _percent(right, labelled),
    }


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
