"""What a linker answers, and how mentions are marked in a text. Plain data."""

from __future__ import annotations

import dataclasses
import logging
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from angel_trl.kb import KnowledgeBase

logger = logging.getLogger(__name__)

_BRACKETS = re.compile(r"\[([^\[\]]+)\]")

Ner = Callable[[str], Iterable[Mapping[str, Any]]]
"""Finds mentions: gives, for a text, mappings with `start` and `end`, such as a token-classification pipeline does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a mention.

    Args:
        ids: ids of all concepts that bear the name; more than one where the knowledge base has homonyms.
        name: preferred name of the first of these concepts.
        matched_name: the name of the knowledge base that the model produced, normalised.
        score: natural logarithm of the name's probability.
        mean_score: the same divided by the number of the name's tokens (length-normalised).
    """

    ids: tuple[str, ...]
    name: str
    matched_name: str
    score: float
    mean_score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Linked:
    """A mention and what it was linked to.

    Args:
        mention: the mention as it stands in the text.
        start: offset of its first character in the text (brackets taken out).
        end: offset after its last character.
        candidates: best first; empty if the mention is longer than the model's window.
        exact: whether the candidates are provably the likeliest names.
        confidence: the probability that the first candidate is right (shares a concept with what is meant); None if
            the linker is not calibrated for the request.
        abstained: whether the linker gives no answer, because its confidence is below the threshold; the candidates
            are there all the same.
    """

    mention: str
    start: int
    end: int
    candidates: tuple[Candidate, ...]
    exact: bool
    confidence: float | None = None
    abstained: bool = False

    @property
    def answer(self) -> Candidate | None:
        """The best candidate; None if there is none or the linker abstained."""
        return self.candidates[0] if self.candidates and not self.abstained else None

    @property
    def id(self) -> str | None:
        """Concept id of the answer (the first of several for a homonym; see `ambiguous`)."""
        return None if self.answer is None else self.answer.ids[0]

    @property
    def name(self) -> str | None:
        """Preferred name of the concept."""
        return None if self.answer is None else self.answer.name

    @property
    def score(self) -> float | None:
        """Natural logarithm of the probability of the name produced."""
        return None if self.answer is None else self.answer.score

    @property
    def ambiguous(self) -> bool:
        """Whether the name produced belongs to several concepts."""
        return self.answer is not None and len(self.answer.ids) > 1

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON: `id`, `name`, `score` and the fields."""
        return {"id": self.id, "name": self.name, "score": self.score, **dataclasses.asdict(self)}


def find_mentions(
    text: str, spans: Iterable[Sequence[int]] | None = None, ner: Ner | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The mentions of a text: those at `spans`, or else those that `ner` finds, or else its `[bracketed]` ones.

    Args:
        text: a passage.
        spans: offsets `(start, end)` of each mention, the end exclusive; None if they are not known.
        ner: as `recognized_spans` takes it; None for none.

    Returns:
        The text, which is without its brackets if they mark the mentions, and the offsets of each mention in it.

    Raises:
        ValueError: as `check_span`, `recognized_spans` or `parse_brackets`, whichever finds them.
    """
    if spans is not None:
        return text, [check_span(text, span, f"spans[{place}]") for place, span in enumerate(spans)]
    if ner is not None:
        return text, recognized_spans(text, ner)
    return parse_brackets(text)


def parse_brackets(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Take the brackets out of `"... [mention] ..."`.

    Returns:
        The text without brackets, and the character offsets `(start, end)` of each mention in it.

    Raises:
        ValueError: if there is no mention, or a bracket has no partner.
    """
    plain, spans, at = "", [], 0
    for match in _BRACKETS.finditer(text):
        plain += text[at : match.start()]
        spans.append((len(plain), len(plain) + len(match[1])))
        plain += match[1]
        at = match.end()
    plain += text[at:]
    if not spans or "[" in plain or "]" in plain:
        what = "no [mention]" if not spans else "a bracket without a partner, or brackets within brackets"
        raise ValueError(
            f"{what} in {text[:80]!r}. Mark each mention with [square brackets]; for a text that has brackets of its "
            "own, give offsets: spans=[(start, end)]."
        )
    return plain, spans


def recognized_spans(text: str, ner: Ner) -> list[tuple[int, int]]:
    """The mentions that a recogniser finds in a text, in its order, without blanks at their ends.

    Args:
        text: a passage.
        ner: gives mappings with `start` and `end`, as transformers' token-classification pipeline does. What it finds
            that is nothing but blanks is left out with a warning.

    Raises:
        ValueError: if it gives something else, or single tokens.
    """
    spans = []
    for found in ner(text):
        if not isinstance(found, Mapping) or found.get("start") is None or found.get("end") is None:
            raise ValueError(
                f"ner gave {found!r:.120}, not a mapping with start and end. Give a token-classification pipeline "
                "with a fast tokenizer, or a function that returns [{'start': 0, 'end': 4}, ...]."
            )
        if "index" in found and "entity_group" not in found:
            raise ValueError(
                f"ner gave the single token {found!r:.120}. Make the pipeline put tokens together: "
                "pipeline('token-classification', ..., aggregation_strategy='simple')."
            )
        start, end = check_span(text, (found["start"], found["end"]), "ner", blank=True)
        mention = text[start:end]
        if mention.strip():
            spans.append((start + len(mention) - len(mention.lstrip()), end - len(mention) + len(mention.rstrip())))
        else:
            logger.warning("ner found %r at %d-%d, nothing but blanks: left out", mention, start, end)
    return spans


def check_span(text: str, span: Sequence[int], what: str, *, blank: bool = False) -> tuple[int, int]:
    """A span as two integers, if it marks something of a text.

    Args:
        text: what its offsets count characters of.
        span: start and end.
        what: its name in messages.
        blank: whether it may mark nothing but blanks.

    Raises:
        ValueError: if it is not a pair of integers, lies outside the text or marks nothing but blanks.
    """
    try:
        start, end = (operator.index(offset) for offset in span)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {span!r:.80} is not a pair of offsets (start, end).") from error
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"{what}: offsets {start}-{end} do not lie in a text of {len(text)} characters. They count characters, "
            "the end exclusive."
        )
    if not blank and not text[start:end].strip():
        raise ValueError(f"{what}: offsets {start}-{end} mark nothing but blanks. Leave this mention out.")
    return start, end


def checked_mention(row: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Text and offsets of a mention, if they are such.

    Args:
        row: a mapping with `text`, `start` and `end`.
        place: its number in messages.

    Raises:
        ValueError: if one is missing, of another type, or they do not fit.
    """
    missing = {"text", "start", "end"} - set(row)
    if missing:
        raise ValueError(f"mention {place} has no {', '.join(sorted(missing))}; it needs text, start and end.")
    text = row["text"]
    if not isinstance(text, str):
        raise ValueError(f"mention {place}: text is a {type(text).__name__}, {text!r:.80}; it must be a string.")
    start, end = check_span(text, (row["start"], row["end"]), f"mention {place}")
    return {"text": text, "start": start, "end": end}


def same_concept(names: NDArray[np.int64], kb: KnowledgeBase) -> NDArray[np.bool_]:
    """Whether each candidate shares a concept with the first one of its mention.

    Args:
        names: int64 `[mentions, k]` name indices, -1 for none.
        kb: the knowledge base.

    Returns:
        bool `[mentions, k]`, False where there is no name.
    """
    same = names >= 0
    for row, found in enumerate(names.tolist()):
        first = set(kb.concepts_of_name(found[0]).tolist()) if found[0] >= 0 else set()
        for place in range(1, len(found)):
            if found[place] >= 0:
                same[row, place] = not first.isdisjoint(kb.concepts_of_name(found[place]).tolist())
    return same
