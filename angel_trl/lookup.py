"""String lookup: the floor that any learned linker must beat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from angel_trl.kb import KnowledgeBase
from angel_trl.normalization import normalize


class StringLookup:
    """Links a mention to the concepts that bear exactly its name, after normalisation.

    Args:
        kb: the knowledge base.
        mentions: labelled mentions (rows of a mention dataset) whose strings count as further names of their gold
            concepts; with the training mentions this is the stronger of the two floors.
    """

    def __init__(self, kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]] = ()) -> None:
        self._kb = kb
        self._learnt: dict[str, set[int]] = defaultdict(set)
        for row in mentions:
            gold = {c for part in row["concept_ids"] for concept_id in part for c in kb.resolve(concept_id)}
            key = normalize(row["mention"], kb.normalization)
            # Mentions such as "+" and "-" normalise to nothing, which does not make them the same.
            if key:
                self._learnt[key] |= gold

    def predict(self, mentions: Iterable[Mapping[str, Any]]) -> list[list[list[str]]]:
        """For each mention at most one candidate: the ids of all concepts with its name."""
        predictions = []
        for row in mentions:
            concepts = set(self._learnt.get(normalize(row["mention"], self._kb.normalization), ()))
            name = self._kb.find(row["mention"])
            if name is not None:
                concepts |= set(self._kb.concepts_of_name(name).tolist())
            predictions.append([[self._kb.concepts[c].id for c in sorted(concepts)]] if concepts else [])
        return predictions
