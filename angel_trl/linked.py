"""What a linker answers, and how mentions are marked in a text. Plain data."""

from __future__ import annotations

import dataclasses
import re

_BRACKETS = re.compile(r"\[([^\[\]]+)\]")


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
    """

    mention: str
    start: int
    end: int
    candidates: tuple[Candidate, ...]
    exact: bool

    @property
    def id(self) -> str | None:
        """Concept id of the best candidate (the first of several for a homonym; see `ambiguous`)."""
        return self.candidates[0].ids[0] if self.candidates else None

    @property
    def name(self) -> str | None:
        """Preferred name of the concept."""
        return self.candidates[0].name if self.candidates else None

    @property
    def score(self) -> float | None:
        """Natural logarithm of the probability of the name produced."""
        return self.candidates[0].score if self.candidates else None

    @property
    def ambiguous(self) -> bool:
        """Whether the name produced belongs to several concepts."""
        return bool(self.candidates) and len(self.candidates[0].ids) > 1


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
            "own, give offsets to link_batch."
        )
    return plain, spans
