"""Labelled mentions as names: how the authors of a corpus call the concepts of a knowledge base.

A training mention kept as a further name of its concept is all that a look-up makes of training. A generator whose
trie holds these names can write them, too: it may copy what it else has to learn by heart.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from angel_trl.kb import KnowledgeBase
from angel_trl.normalization import normalize


def meanings(kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]]) -> dict[str, Counter[frozenset[int]]]:
    """How often mentions mean which concepts by which string.

    Args:
        kb: the knowledge base.
        mentions: labelled, rows with `mention` and `concept_ids`.

    Returns:
        By string, normalised as the knowledge base's names are, in the order of the mentions: how often these mean
        which concepts (indices; a composite means several at once, and so does a mention with alternatives). Mentions
        that normalise to nothing, such as "+", and those without a known concept are left out.
    """
    counts: dict[str, Counter[frozenset[int]]] = defaultdict(Counter)
    for row in mentions:
        key = normalize(row["mention"], kb.normalization)
        gold = frozenset(c for part in row["concept_ids"] for i in part for c in kb.resolve(i))
        if key and gold:
            counts[key][gold] += 1
    return dict(counts)


def with_mention_names(kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]]) -> KnowledgeBase:
    """A knowledge base in which mentions are names of the concepts that they mean most often, and of no others.

    Of what a string means equally often, it stands for what its first mention means. A name that mentions use for
    other concepts is taken from its own, a preferred name too; a concept that would be left without any name keeps
    all of its own. Concepts, their order and their ids stay as they are.

    Args:
        kb: the knowledge base; not changed.
        mentions: labelled, rows with `mention` and `concept_ids`, such as those of a training split. A linker that
            writes abbreviations out needs them written out (`angel_trl.formatting.MentionFormatter.prepare`).

    Raises:
        ValueError: if homonyms have been changed in the knowledge base: what a mention says of them would be lost.
    """
    if kb.homonym_policy != "keep":
        raise ValueError(
            f"The knowledge base was made with homonyms={kb.homonym_policy!r}, but mentions are to decide whose a "
            "name is: give it with homonyms='keep' (kb.with_homonyms('keep'))."
        )
    added: defaultdict[int, list[str]] = defaultdict(list)
    taken: defaultdict[int, set[str]] = defaultdict(set)
    for name, meant in meanings(kb, mentions).items():
        bearers = meant.most_common(1)[0][0]
        known = kb.find(name)
        before = set() if known is None else set(kb.concepts_of_name(known).tolist())
        for concept in sorted(bearers - before):
            added[concept].append(name)
        for concept in before - bearers:
            taken[concept].add(name)
    concepts = list(kb.concepts)
    for index in added.keys() | taken.keys():
        old = concepts[index]
        kept = [name for name in old.names if normalize(name, kb.normalization) not in taken[index]]
        named = added[index] or any(normalize(name, kb.normalization) for name in kept)
        concepts[index] = dataclasses.replace(old, names=(*kept, *added[index]) if named else old.names)
    source = "; ".join(filter(None, (kb.source, "labelled mentions are further names")))
    return KnowledgeBase(concepts, normalization=kb.normalization, source=source)
