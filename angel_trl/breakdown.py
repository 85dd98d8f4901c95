"""Scores by kind of mention: what a model has seen in training, what is ambiguous, short, composite or out of reach.

An average hides where a model is good: many test mentions are strings of the training split, and a system that does
nothing but remember them scores well. A slice is a set of test mentions that is told by the data alone (mentions,
training mentions, knowledge base), never by a system's answers, so that all systems are compared on the same mentions.
Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from angel_trl.kb import KnowledgeBase
from angel_trl.mention_counts import known
from angel_trl.metrics import Prediction, Reference, score
from angel_trl.normalization import normalize

__all__ = ["SLICES", "is_abbreviation", "score_slices", "slice_mentions"]

SLICES = (
    "seen concept",
    "unseen concept",
    "seen string",
    "unseen string",
    "homonym",
    "abbreviation",
    "composite",
    "unknown label",
    "no label",
)
"""The slices of `slice_mentions`, in the order in which they are reported."""

_LONGEST_ABBREVIATION = 10
_BLANKS = re.compile(r"\s")


def slice_mentions(
    test: Iterable[Mapping[str, Any]], train: Iterable[Mapping[str, Any]], kb: KnowledgeBase
) -> dict[str, NDArray[np.bool_]]:
    """Say which test mentions belong to which slice.

    - `seen concept`, `unseen concept`: mentions with a label, by whether each of its parts has an alternative that is
      a concept of a training mention's label (any part, any alternative). Ids are compared as concepts of the
      knowledge base, so that an alternate id is its concept; ids it does not know, as they stand.
    - `seen string`, `unseen string`: all mentions, by whether the string is a training mention's, once normalised by
      the knowledge base's rule (and, where nothing is left of it, in lower case).
    - `homonym`: the string is a name that several concepts bear: without its context it has several meanings.
    - `abbreviation`: see `is_abbreviation`.
    - `composite`: the label has several parts, all of which are meant.
    - `unknown label`: the mention has a label, and the knowledge base knows no id of it: no answer can be right.
    - `no label`: the mention has no concept (NIL).

    Args:
        test: M mentions to be told apart, rows with `mention` and `concept_ids` (see `angel_trl.mentions`).
        train: the mentions trained on, likewise.
        kb: the knowledge base.

    Returns:
        For each of `SLICES` bool `[M]`.
    """
    rows = [(row["mention"], row["concept_ids"]) for row in test]
    concepts: set[Hashable] = set()
    strings: set[str] = set()
    for row in train:
        strings.add(_string(row["mention"], kb))
        concepts.update(key for part in row["concept_ids"] for concept_id in part for key in _concepts(concept_id, kb))

    def seen(parts: Sequence[Sequence[str]]) -> bool:
        return all(any(key in concepts for concept_id in part for key in _concepts(concept_id, kb)) for part in parts)

    seen_concept = np.array([bool(parts) and seen(parts) for _, parts in rows], dtype=bool)
    seen_string = np.array([_string(mention, kb) in strings for mention, _ in rows], dtype=bool)
    labelled = np.array([bool(parts) for _, parts in rows], dtype=bool)
    names = [kb.find(mention) for mention, _ in rows]
    found = {
        "seen concept": seen_concept,
        "unseen concept": labelled & ~seen_concept,
        "seen string": seen_string,
        "unseen string": ~seen_string,
        "homonym": [name is not None and len(kb.concepts_of_name(name)) > 1 for name in names],
        "abbreviation": [is_abbreviation(mention) for mention, _ in rows],
        "composite": [len(parts) > 1 for _, parts in rows],
        "unknown label": [known(kb, parts) == "none" for _, parts in rows],
        "no label": ~labelled,
    }
    return {name: np.asarray(found[name], dtype=bool) for name in SLICES}


def is_abbreviation(mention: str) -> bool:
    """Tell an abbreviation by its looks.

    It is one word of at most ten characters, two or more of them capitals, which are at least half of its letters:
    `APC`, `A-T`, `SCA1`, `DMs` and `AdolCALD` are, `Duchenne`, `H` and `FAP families` are not. Whether the text
    defines it is another question (`angel_trl.abbreviations.definitions`, which needs Ab3P).
    """
    letters = [character for character in mention if character.isalpha()]
    capitals = sum(character.isupper() for character in letters)
    one_word = len(mention) <= _LONGEST_ABBREVIATION and not _BLANKS.search(mention)
    return one_word and capitals >= 2 and 2 * capitals >= len(letters)


def score_slices(
    predictions: Sequence[Prediction],
    references: Sequence[Reference],
    slices: Mapping[str, NDArray[np.bool_]],
    *,
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score predictions on each slice.

    Args:
        predictions: M predictions, see `angel_trl.metrics`.
        references: M references.
        slices: name of a slice to bool `[M]`.
        groups: M labels; mentions with equal labels are resampled together.
        bootstrap: resamples for the intervals, 0 for none.
        seed: of the resampling.

    Returns:
        For each slice what `angel_trl.metrics.score` returns of its mentions; `{"mentions": 0}` where there are none.

    Raises:
        ValueError: as `angel_trl.metrics.score`; or if a slice is not of length M.
    """
    results: dict[str, dict[str, Any]] = {}
    for name, members in slices.items():
        if len(members) != len(references):
            raise ValueError(
                f"The slice {name!r} is of {len(members)} mentions, but there are {len(references)}: slice the very "
                "mentions that are scored."
            )
        rows = np.flatnonzero(members).tolist()
        results[name] = {"mentions": 0}
        if rows:
            results[name] = score(
                [predictions[row] for row in rows],
                [references[row] for row in rows],
                groups=None if groups is None else [groups[row] for row in rows],
                bootstrap=bootstrap,
                seed=seed,
            )
    return results


def _string(mention: str, kb: KnowledgeBase) -> str:
    # "+" and "-" normalise to nothing, which does not make them the same.
    return normalize(mention, kb.normalization) or mention.lower()


def _concepts(concept_id: str, kb: KnowledgeBase) -> tuple[Hashable, ...]:
    return kb.resolve(concept_id) or (concept_id.strip(),)
