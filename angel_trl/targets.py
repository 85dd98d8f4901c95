"""What a model may answer: the names of a knowledge base as one tokenizer sees them, and gold concepts against them.

The one bridge between the text side (knowledge base, mentions) and the token side (trie, search, training). Knows no
model weights.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from angel_trl.formatting import EncodedMention, MentionFormatter
from angel_trl.kb import KnowledgeBase
from angel_trl.name_tokens import NameTokens, repeated
from angel_trl.restrictions import Restriction, Restrictor
from angel_trl.trie import NameTrie

if TYPE_CHECKING:
    from angel_trl.decoding import Candidates

logger = logging.getLogger(__name__)


class TargetNames:
    """The names of `kb` as token sequences, and their trie.

    Args:
        kb: the knowledge base.
        formatter: of the model's tokenizer.
        trie: the trie of these names if it was saved; built otherwise.

    Attributes:
        unreachable: indices of names that hold the tokenizer's unknown token, are longer than what the prefix leaves
            of the model's window, or have the same tokens as an earlier name; they are left out of the trie, since a
            model could not write them.
        answerable: bool `[concepts]`, whether a model can write one of the concept's names.

    Raises:
        ValueError: if no name can be written with the tokenizer, or `trie` belongs to other names.
    """

    def __init__(self, kb: KnowledgeBase, formatter: MentionFormatter, trie: NameTrie | None = None) -> None:
        self.kb = kb
        self.formatter = formatter
        self.fingerprint = formatter.fingerprint(kb.fingerprint)
        if trie is None:
            reachable = _writable(kb.names, formatter, self.sequences)
            if not len(reachable):
                raise ValueError("No name of the knowledge base can be written with this tokenizer.")
            trie = NameTrie.build_flat(*self.sequences.take(reachable), names=reachable, fingerprint=self.fingerprint)
        elif trie.fingerprint != self.fingerprint:
            raise ValueError(
                f"The trie (fingerprint {trie.fingerprint[:12]}) was built for another knowledge base or tokenizer "
                f"(expected {self.fingerprint[:12]}). Leave it out to have it built again."
            )
        self.trie = trie
        reachable_names = np.zeros(kb.num_names, dtype=bool)
        reachable_names[trie.leaf_name.cpu().numpy()] = True
        owner = np.repeat(np.arange(len(kb)), np.diff(kb.concept_offsets))
        self.answerable = np.bincount(owner[reachable_names[kb.concept_names]], minlength=len(kb)) > 0
        self.unreachable: list[int] = np.setdiff1d(np.arange(kb.num_names), trie.leaf_name.cpu().numpy()).tolist()

    @functools.cached_property
    def sequences(self) -> NameTokens:
        """Token sequence (end token included) of each name; not needed for linking with a saved trie."""
        return NameTokens.of(self.kb.names, self.formatter.names)

    def extended(self, kb: KnowledgeBase) -> TargetNames:
        """The targets of a knowledge base that holds all names of this one and some more.

        Only the new names are tokenised, and the trie takes them in without being built again.

        Raises:
            ValueError: if names of this knowledge base are missing in `kb`, or it was normalised by another rule.
        """
        if kb.normalization != self.kb.normalization:
            raise ValueError(
                f"The knowledge base was normalised by {kb.normalization!r}, the one to extend by "
                f"{self.kb.normalization!r}. Use the same rule."
            )
        place = {name: index for index, name in enumerate(kb.names)}
        renumber = np.array([place.pop(name, -1) for name in self.kb.names], dtype=np.int64)
        if (renumber < 0).any():
            missing = self.kb.names[int((renumber < 0).argmax())]
            raise ValueError(
                f"{int((renumber < 0).sum())} names are not in the extended knowledge base, such as {missing!r}. "
                "Build its targets anew: TargetNames(kb, formatter)."
            )
        new = np.array(sorted(place.values()), dtype=np.int64)
        names = [kb.names[i] for i in new]
        sequences = self.formatter.names(names)
        kept = _writable(names, self.formatter, sequences, self.trie)
        trie = self.trie.extend(
            [sequences[i] for i in kept],
            names=new[kept],
            fingerprint=self.formatter.fingerprint(kb.fingerprint),
            renumber=renumber,
        )
        return TargetNames(kb, self.formatter, trie)

    @functools.cached_property
    def restrict(self) -> Callable[..., Restriction]:
        """Restricts the search to some names, for one request or many: `Restrictor.restrict`."""
        return Restrictor(self.kb, self.trie).restrict

    def within_types(self, types: Iterable[tuple[str, ...]]) -> list[Restriction | None]:
        """For each mention the restriction to concepts of its semantic types.

        Types that the knowledge base does not have are left out; a mention of which none is left is not restricted.
        """
        known = {kind for concept in self.kb.concepts for kind in concept.types}
        made: dict[tuple[str, ...], Restriction | None] = {(): None}
        found = []
        for own in types:
            of_kb = tuple(sorted(known.intersection(own)))
            if of_kb not in made:
                made[of_kb] = self.restrict(types=of_kb)
            found.append(made[of_kb])
        return found

    def concepts(self, name: int, restriction: Restriction | None = None) -> list[int]:
        """Indices of the concepts that bear a name and that the restriction allows."""
        found = self.kb.concepts_of_name(name)
        return (found if restriction is None else found[restriction.concepts[found]]).tolist()

    def ranked_ids(
        self, candidates: Candidates, restrictions: Sequence[Restriction | None] | None = None
    ) -> list[list[list[str]]]:
        """Concept ids of each candidate of each mention, best first: the form in which metrics take predictions.

        Args:
            candidates: what the search found.
            restrictions: those it was given, one a mention; ids that they do not allow are left out.
        """
        given = restrictions or [None] * len(candidates.names)
        return [
            [[self.kb.concepts[c].id for c in self.concepts(int(name), one)] for name in row[row >= 0]]
            for row, one in zip(candidates.names, given, strict=True)
        ]


def _writable(
    names: Sequence[str],
    formatter: MentionFormatter,
    sequences: Sequence[Sequence[int]],
    trie: NameTrie | None = None,
) -> NDArray[np.int64]:
    """Places of the names (with their token sequences) that a model can write; says what is wrong with the others.

    Args:
        names: normalised names.
        formatter: of the model's tokenizer.
        sequences: of each name.
        trie: earlier names, if there are any.
    """
    unknown, too_long = formatter.unknown_names(sequences), formatter.long_names(sequences)
    bad = {*unknown, *too_long}
    alike = set(repeated(sequences, leave_out=bad))
    if trie is not None and len(sequences):
        alike |= set(np.flatnonzero(trie.find(sequences).numpy() >= 0).tolist()) - bad
    reasons = (
        (unknown, "hold characters unknown to the tokenizer", "Use a byte-level tokenizer."),
        (too_long, "are longer than half the model's window", "Use a tokenizer that knows their words."),
        (sorted(alike), "have the same tokens as an earlier name", "Use a byte-level tokenizer."),
    )
    for places, reason, remedy in reasons:
        if places:
            shown = ", ".join(repr(names[i][:80]) for i in places[:5]) + ("..." if len(places) > 5 else "")
            count = f"{len(places)} of {len(names)}"
            logger.warning("%s names %s and cannot be predicted: %s. %s", count, reason, shown, remedy)
    return np.setdiff1d(np.arange(len(names)), [*bad, *alike]).astype(np.int64)


@dataclasses.dataclass(slots=True)
class MentionSet:
    """Mentions made ready for one model and knowledge base; all fields are parallel.

    Args:
        ids: mention ids.
        documents: document ids.
        mentions: mention strings as the model sees them.
        encoded: token ids; None where the mention is longer than the model's window.
        references: gold ids, all-of lists of any-of ids, each id replaced by its concept's primary ids where known.
        gold: gold concept indices in the knowledge base, of all parts and alternatives; empty if unknown there.
        types: semantic types.
        report: how many mentions were read, used, and skipped or kept for which reason.
    """

    ids: list[str]
    documents: list[str]
    mentions: list[str]
    encoded: list[EncodedMention | None]
    references: list[list[list[str]]]
    gold: list[tuple[int, ...]]
    types: list[tuple[str, ...]]
    report: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Iterable[int]) -> MentionSet:
        """The mentions at `rows`, in that order, with the report of the whole."""
        rows = list(rows)
        return MentionSet(
            ids=[self.ids[row] for row in rows],
            documents=[self.documents[row] for row in rows],
            mentions=[self.mentions[row] for row in rows],
            encoded=[self.encoded[row] for row in rows],
            references=[self.references[row] for row in rows],
            gold=[self.gold[row] for row in rows],
            types=[self.types[row] for row in rows],
            report=self.report,
        )

    def is_gold(self, names: NDArray[np.int64], kb: KnowledgeBase) -> NDArray[np.bool_]:
        """Whether each name shares a concept with the gold of its mention.

        Args:
            names: int64 `[mentions, k]` name indices, -1 for none.
            kb: the knowledge base the gold indices refer to.

        Returns:
            bool `[mentions, k]`, False where there is no name.
        """
        concepts = len(kb)
        gold = np.array([row * concepts + c for row, cs in enumerate(self.gold) for c in cs], dtype=np.int64)
        row, place = np.nonzero(names >= 0)
        name = names[row, place]
        counts = kb.name_offsets[name + 1] - kb.name_offsets[name]
        item = np.repeat(np.arange(len(name)), counts)
        within = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = row[item] * concepts + kb.name_concepts[kb.name_offsets[name][item] + within]
        result = np.zeros(names.shape, dtype=bool)
        hit = np.bincount(item[np.isin(keys, gold)], minlength=len(name)) > 0
        result[row, place] = hit
        return result


def prepare_mentions(
    mentions: Iterable[Mapping[str, Any]], targets: TargetNames, *, for_training: bool = False
) -> MentionSet:
    """Resolve the gold of a mention dataset against the knowledge base and encode it.

    Every mention is counted. For evaluation all are kept: one whose gold is unknown, or that cannot be encoded, counts
    as wrong. For training those that cannot teach anything are left out.

    Args:
        mentions: rows of a mention dataset (see `angel_trl.mentions`).
        targets: names and formatter.
        for_training: leave out what cannot be trained on.

    Raises:
        ValueError: if no mention is left, saying why.
    """
    kb = targets.kb
    rows = targets.formatter.prepare(mentions)
    encoded = targets.formatter.encode(rows)
    counts: Counter[str] = Counter(read=len(rows))
    examples: dict[str, list[str]] = {}
    keep = []
    gold, references = [], []
    for place, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
        resolved = [[kb.resolve(concept_id) for concept_id in part] for part in row["concept_ids"]]
        gold.append(tuple(sorted({c for part in resolved for found in part for c in found})))
        references.append(
            [[i for concept_id in part for i in _primary_ids(kb, concept_id)] for part in row["concept_ids"]]
        )
        problem = _problem(row, gold[-1], ids, targets)
        if problem is not None:
            counts[f"{'skipped' if for_training else 'kept'}: {problem}"] += 1
            where = f"{row['id']} {row['text'][row['start'] : row['end']][:60]!r} {row['concept_ids']}"
            examples.setdefault(problem, []).append(where)
        if problem is None or not for_training:
            keep.append(place)
    counts["used"] = len(keep)
    done = "skipped" if for_training else "kept, and can only be wrong"
    for problem, found in examples.items():
        message = "%d of %d mentions %s: %s, such as %s. %s."
        logger.warning(message, len(found), len(rows), done, problem, "; ".join(found[:3]), _FIXES[problem])
    if not keep:
        raise ValueError(f"No mention can be used: {dict(counts)}. Does the corpus use this knowledge base's ids?")
    whole = MentionSet(
        ids=[row["id"] for row in rows],
        documents=[row["document_id"] for row in rows],
        mentions=[targets.formatter.mention_text(row["text"][row["start"] : row["end"]]) for row in rows],
        encoded=list(encoded),
        references=references,
        gold=gold,
        types=[tuple(row.get("types", ())) for row in rows],
        report=dict(counts),
    )
    return whole.subset(keep)


_FIXES = {
    "no concept": "Label them, or leave them out",
    "concept not in the knowledge base": "Use the release of the knowledge base that the corpus was labelled with",
    "no name of the concept can be written": "Use a tokenizer that knows the names' characters",
    "longer than the model's window": "Use a model with a longer window",
}


def _problem(
    row: Mapping[str, Any], gold: Sequence[int], encoded: EncodedMention | None, targets: TargetNames
) -> str | None:
    """Why a mention cannot be answered rightly, a key of `_FIXES`; None if it can."""
    if not row["concept_ids"]:
        return "no concept"
    if not gold:
        return "concept not in the knowledge base"
    if not targets.answerable[list(gold)].any():
        return "no name of the concept can be written"
    return "longer than the model's window" if encoded is None else None


def _primary_ids(kb: KnowledgeBase, concept_id: str) -> list[str]:
    """The primary ids an id stands for; the id itself if it is unknown."""
    return [kb.concepts[c].id for c in kb.resolve(concept_id)] or [concept_id]


class NearestNames:
    """The names of a concept spelled most like a mention: cosine of character n-gram TF-IDF (paper, section 3.2).

    Args:
        kb: the knowledge base. How rare an n-gram is, is told by 200,000 of its names where it has more.
        ngrams: shortest and longest character n-gram.
        exclude: indices of names never to return: those a model cannot write (`TargetNames.unreachable`).
    """

    _MOST_COUNTED = 200_000

    def __init__(self, kb: KnowledgeBase, ngrams: tuple[int, int] = (1, 3), exclude: Iterable[int] = ()) -> None:
        # scikit-learn takes a second to import and is needed for training only.
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._kb = kb
        self._exclude = frozenset(exclude)
        self._vectorizer = TfidfVectorizer(analyzer="char", ngram_range=ngrams, dtype=np.float32)
        few = kb.num_names <= self._MOST_COUNTED
        self._vectorizer.fit(kb.names if few else random.Random(0).sample(kb.names, self._MOST_COUNTED))

    def nearest(self, mentions: Sequence[str], gold: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """For each mention, up to `count` name indices of its gold concepts, nearest first.

        Names equally near keep the order of the dictionary.
        """
        names_of = [self._names(concepts) for concepts in gold]
        # Only these are made into vectors: a knowledge base may have millions of names.
        needed = np.unique(
            np.fromiter((name for names in names_of if len(names) > 1 for name in names), dtype=np.int64)
        )
        if not len(needed):
            return names_of
        vectors = self._vectorizer.transform([self._kb.names[name] for name in needed])
        queries = self._vectorizer.transform(mentions)
        result = []
        for row, names in enumerate(names_of):
            if len(names) > 1:
                similarity = (vectors[np.searchsorted(needed, names)] @ queries[row].T).toarray()[:, 0]
                names = [names[i] for i in np.argsort(-similarity, kind="stable")[:count]]
            result.append(names)
        return result

    def _names(self, concepts: Sequence[int]) -> list[int]:
        names = dict.fromkeys(int(n) for concept in concepts for n in self._kb.names_of_concept(concept))
        return [name for name in names if name not in self._exclude]
