"""Answers as records for programs and files: what `/link` gives, what a file is answered, what a visitor corrects."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, TypedDict

from service import Answer, Service, VisitorError, clean, probability

from angel_trl import Linked

NO_CONCEPT_ID = "-"
"""What a visitor says for a mention that no concept of the knowledge base fits."""


class CandidateRecord(TypedDict):
    """One candidate of a mention, best first: ids of the concepts that bear the name, the name, its probability."""

    ids: list[str]
    name: str
    matched_name: str
    types: list[str]
    probability: float


class LinkRecord(TypedDict):
    """A mention and what it was linked to.

    `id` and `name` are empty where there is no concept in the KB for it; `confidence` is null where the model is not
    calibrated.
    """

    mention: str
    start: int
    end: int
    id: str
    name: str
    probability: float
    confidence: float | None
    exact: bool
    candidates: list[CandidateRecord]


def link_record(link: Linked, service: Service) -> LinkRecord:
    """A link as plain values for JSON."""
    kb = service.linker.kb
    candidates = [
        CandidateRecord(
            ids=list(c.ids),
            name=c.name,
            matched_name=c.matched_name,
            types=sorted({kind for i in c.ids for index in kb.resolve(i) for kind in kb.concepts[index].types}),
            probability=round(probability(c), 6),
        )
        for c in link.candidates
    ]
    answer = link.answer
    return LinkRecord(
        mention=link.mention,
        start=link.start,
        end=link.end,
        id=answer.ids[0] if answer else "",
        name=answer.name if answer else "",
        probability=round(probability(answer), 6) if answer else 0.0,
        confidence=link.confidence,
        exact=link.exact,
        candidates=candidates,
    )


def correction(answer: Answer, number: int, concept_id: str, service: Service) -> dict[str, Any]:
    """A training mention of what a visitor says is right, with the fields of `angel_trl.MENTION_FEATURES`.

    Args:
        answer: what was answered.
        number: the mention of it.
        concept_id: the right id; `NO_CONCEPT_ID` if the knowledge base has no concept for the mention.
        service: whose knowledge base the id is of.

    Raises:
        VisitorError: if the knowledge base has no such id.
    """
    link, kb = answer.links[number], service.linker.kb
    concept_id = clean(concept_id).strip()
    found = kb.resolve(concept_id)
    if not found and concept_id != NO_CONCEPT_ID:
        raise VisitorError(f"“{concept_id[:60]}” is no id of this knowledge base. Choose one, or “no concept”.")
    document = hashlib.sha256(answer.text.encode()).hexdigest()[:12]
    return {
        "id": f"{document}:{link.start}-{link.end}",
        "document_id": document,
        "text": answer.text,
        "start": link.start,
        "end": link.end,
        "mention": link.mention,
        "types": sorted({kind for index in found for kind in kb.concepts[index].types}),
        "concept_ids": [[kb.concepts[index].id for index in found]] if found else [],
        "split": "train",
    }


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """One JSON object a line; characters that would end a line elsewhere are written as escapes."""
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
