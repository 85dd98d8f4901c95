"""What the labels of a mention dataset are to a knowledge base: every label is counted, none is taken on trust."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from angel_trl.kb import KnowledgeBase

__all__ = ["MAX_EXAMPLES", "Known", "MentionCounts", "count_mentions", "known"]

MAX_EXAMPLES = 5
"""How many ids are kept as examples of each kind."""

Known = Literal["all", "some", "none", "without concept"]
"""Which parts of a mention's label a knowledge base has."""


@dataclasses.dataclass(frozen=True, slots=True)
class MentionCounts:
    """Counts of a mention dataset, and examples.

    Args:
        counts: `documents`; `mentions`, of which `composites` have several parts and `without_concept` have no label;
            `labels` (ids, each as often as it stands in a label) and `ids` (distinct ones). Against a knowledge base
            also the mentions with a label by how many of its parts have a known id, `mentions_known` (all),
            `mentions_partly_known` and `mentions_unknown` (none); those whose string is a name, `strings_known`,
            and a name of a concept they mean, `strings_right`; and of the labels `labels_primary`,
            `labels_alternate` (of which `labels_of_several_concepts` are alternate ids of more than one concept) and
            `labels_unknown`, `ids_unknown` distinct ones.
        examples: `"id: mention id 'mention'"` of the first ids that are `labels_alternate` and `labels_unknown`.
    """

    counts: dict[str, int]
    examples: dict[str, list[str]]


def known(kb: KnowledgeBase, concept_ids: Sequence[Sequence[str]]) -> Known:
    """Say whether all, some or none of the parts of a label have an id that the knowledge base knows."""
    if not concept_ids:
        return "without concept"
    parts = [any(kb.resolve(concept_id) for concept_id in part) for part in concept_ids]
    return "all" if all(parts) else "some" if any(parts) else "none"


def count_mentions(mentions: Iterable[Mapping[str, Any]], kb: KnowledgeBase | None = None) -> MentionCounts:
    """Count a mention dataset, and what its labels are to a knowledge base.

    Args:
        mentions: Rows with `id`, `document_id`, `mention` and `concept_ids`; see `angel_trl.mentions`.
        kb: The knowledge base that the labels are of; `None` counts without one.
    """
    rows = [(row["id"], row["document_id"], row["mention"], row["concept_ids"]) for row in mentions]
    labels = Counter(concept_id for *_, parts in rows for part in parts for concept_id in part)
    counts = {
        "documents": len({document for _, document, *_ in rows}),
        "mentions": len(rows),
        "composites": sum(len(parts) > 1 for *_, parts in rows),
        "without_concept": sum(not parts for *_, parts in rows),
        "labels": labels.total(),
        "ids": len(labels),
    }
    if kb is None:
        return MentionCounts(counts, {})
    kind_of = {concept_id: _kind(kb, concept_id) for concept_id in labels}
    kinds: Counter[str] = Counter(kind_of[concept_id] for concept_id in labels.elements())
    parts_known = Counter(known(kb, parts) for *_, parts in rows)
    named = [(kb.find(mention), parts) for *_, mention, parts in rows]
    counts |= {
        "mentions_known": parts_known["all"],
        "mentions_partly_known": parts_known["some"],
        "mentions_unknown": parts_known["none"],
        "strings_known": sum(name is not None for name, _ in named),
        "strings_right": sum(name is not None and _bears(kb, name, parts) for name, parts in named),
        "labels_primary": kinds["labels_primary"],
        "labels_alternate": kinds["labels_alternate"],
        "labels_of_several_concepts": sum(times for label, times in labels.items() if len(kb.resolve(label)) > 1),
        "labels_unknown": kinds["labels_unknown"],
        "ids_unknown": list(kind_of.values()).count("labels_unknown"),
    }
    examples: dict[str, list[str]] = {"labels_alternate": [], "labels_unknown": []}
    shown: set[str] = set()
    for mention_id, _, mention, parts in rows:
        for concept_id in (concept_id for part in parts for concept_id in part):
            places = examples.get(kind_of[concept_id])
            if places is not None and len(places) < MAX_EXAMPLES and concept_id not in shown:
                shown.add(concept_id)
                places.append(f"{concept_id}: {mention_id} {mention!r}")
    return MentionCounts(counts, examples)


def _bears(kb: KnowledgeBase, name: int, parts: Sequence[Sequence[str]]) -> bool:
    concepts = set(kb.concepts_of_name(name).tolist())
    return any(not concepts.isdisjoint(kb.resolve(concept_id)) for part in parts for concept_id in part)


def _kind(kb: KnowledgeBase, concept_id: str) -> str:
    if kb.is_primary(concept_id):
        return "labels_primary"
    return "labels_alternate" if kb.resolve(concept_id) else "labels_unknown"
