"""How a wrong answer relates to the right one: another number, a broader or narrower concept, a name spelled alike.

A knowledge base here has no hierarchy, so that relations are told from names, by rules that a reader can check by eye.
Pure functions on strings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from angel_trl.breakdown import is_abbreviation
from angel_trl.normalization import normalize

__all__ = ["KINDS", "kind_of_confusion"]

KINDS = ("abbreviation", "numbered type", "hypernym", "hyponym", "near-synonym", "other", "no answer")
"""The kinds of `kind_of_confusion`."""

ALIKE = 0.5
"""Dice coefficient of character trigrams from which two names are spelled alike."""

_PIECES = re.compile(r"[^\W\d_]+|\d+")
# What tells numbered types of a disease apart: numbers, Roman numerals up to 39 (with a letter: "IIa"), single
# letters, Greek letters written out.
_DESIGNATOR = re.compile(r"\d+|x{0,3}(?:ix|iv|v?i{0,3})[a-d]?|[^\W\d_]|alpha|beta|gamma|delta|epsilon")
_KIND_WORDS = {"type", "types", "subtype", "form", "group", "stage", "class", "variant"}
_LINKING_WORDS = {"of", "the", "and", "or", "in", "with", "to", "due", "by", "for", "from", "a", "an"}


def kind_of_confusion(mention: str, gold_names: Iterable[str], answer: str | None) -> str:
    """Say what kind of mistake an answer is; the first of these that holds.

    1. `no answer`: there is none.
    2. `abbreviation`: the mention looks like one (`angel_trl.breakdown.is_abbreviation`).
    3. `numbered type`: the answer and a right name are the same but for what numbers or letters types ("diabetes
       mellitus type 2" for "type 1").
    4. `hypernym`: all words of the answer stand in a right name that has more: a broader concept ("cancer" for
       "breast cancer").
    5. `hyponym`: all words of a right name stand in the answer, which has more: a narrower concept. Where an answer is
       both, by different right names, the one that shares the larger part of the words decides.
    6. `near-synonym`: the answer is spelled like a right name (`ALIKE`).
    7. `other`.

    Words are compared in lower case, without punctuation, plural "s", and words such as "of" and "type".

    Args:
        mention: as it stands in the text.
        gold_names: names of all concepts that are right; none where the knowledge base does not know them.
        answer: the name given in their place, or `None`.

    Returns:
        One of `KINDS`.
    """
    if answer is None:
        return "no answer"
    if is_abbreviation(mention):
        return "abbreviation"
    right = [normalize(name) for name in gold_names]
    given = normalize(answer)
    if any(_numbered_alike(name, given) for name in right):
        return "numbered type"
    words, best, relation = _words(given), 0.0, ""
    for name in right:
        others = _words(name)
        overlap = len(words & others) / max(1, len(words | others))
        if words and others and overlap > best and (words < others or others < words):
            best, relation = overlap, "hypernym" if words < others else "hyponym"
    if relation:
        return relation
    return "near-synonym" if any(_dice(name, given) >= ALIKE for name in right) else "other"


def _words(name: str) -> set[str]:
    return {_singular(word) for word in name.split()} - _LINKING_WORDS - _KIND_WORDS


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _numbered_alike(first: str, second: str) -> bool:
    """Whether two names have the same words, in any order, and other designators, both some."""
    (words, designators), (other_words, other_designators) = _split(first), _split(second)
    return (
        bool(words)
        and words == other_words
        and bool(designators)
        and bool(other_designators)
        and (designators != other_designators)
    )


def _split(name: str) -> tuple[Counter[str], Counter[str]]:
    pieces = [piece for piece in _PIECES.findall(name) if piece not in _KIND_WORDS | _LINKING_WORDS - {"a"}]
    designators = [piece for piece in pieces if _DESIGNATOR.fullmatch(piece)]
    words = [_singular(piece) for piece in pieces if not _DESIGNATOR.fullmatch(piece)]
    return Counter(words), Counter(designators)


def _dice(first: str, second: str) -> float:
    grams, others = _trigrams(first), _trigrams(second)
    return 2 * (grams & others).total() / max(1, grams.total() + others.total())


def _trigrams(name: str) -> Counter[str]:
    padded = f"  {name} "
    return Counter(padded[start : start + 3] for start in range(len(padded) - 2))
