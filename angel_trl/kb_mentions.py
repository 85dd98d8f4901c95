"""Mentions made from a knowledge base: its names, misspelled a little, alone, in sentences about them or in passages.

They teach a model how the names of a concept vary before it sees a corpus (the paper's pre-training), and they are
where a model that has fitted its training mentions still errs, which is where negative samples are to be mined. In the
passages of a corpus they take the place of its mentions: else a model learns that what stands in a passage is one of
the concepts it was trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from angel_trl.kb import KnowledgeBase
from angel_trl.kb_sentences import KBSentence, SentenceMaker
from angel_trl.mentions import MENTION_FEATURES


class KBMentions(Sequence[dict[str, Any]]):
    """A sequence of mentions of which each is made when it is asked for: as long as wanted, in no memory.

    Every name is the mention once before any is again.

    Args:
        kb: the knowledge base.
        count: how many.
        seed: decides names, sentences and passages; each mention depends on it and its place alone.
        noise: share of mentions with a small change, as by `angel_trl.kb_sentences.misspell`.
        context: share of mentions in a sentence made of what the knowledge base knows.
        in_passages: share of mentions in the place of a mention of a corpus, in its passage. Of the others, `context`
            are in a sentence; what remains stands alone.
        passages: mentions of that corpus, rows with `text`, `start` and `end`; any may be drawn any number of times.
        exclude: indices of names that are no mentions.

    Raises:
        ValueError: if all names are excluded, `count` is negative, a share is not between 0 and 1, or mentions are to
            be in passages and there are none.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        count: int,
        *,
        seed: int,
        noise: float = 0.3,
        context: float = 0.0,
        in_passages: float = 0.0,
        passages: Sequence[Mapping[str, Any]] | Dataset = (),
        exclude: Iterable[int] = (),
    ) -> None:
        if count < 0:
            raise ValueError(f"count is {count}; it must not be negative.")
        if not 0 <= in_passages <= 1:
            raise ValueError(f"in_passages is {in_passages}; it is a share, between 0 and 1.")
        if in_passages and not len(passages):
            raise ValueError(
                f"in_passages is {in_passages}, but no passages are given. Give passages=, mentions of a corpus, or "
                "leave in_passages out."
            )
        self.kb = kb
        self.seed = seed
        self._count = count
        self._maker = SentenceMaker(kb, noise, context)
        self._alone = SentenceMaker(kb, noise)
        self._in_passages = in_passages
        self._passages = passages
        excluded = np.fromiter(exclude, dtype=np.int64)
        self._names = np.setdiff1d(np.arange(kb.num_names, dtype=np.int32), excluded)
        if not len(self._names):
            raise ValueError("No name of the knowledge base is left to be a mention.")
        self._pass = -1
        self._order: NDArray[np.int32] = self._names[:0]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        name, made, _ = self.sentence(place)
        return {
            "id": f"kb:{place}",
            "document_id": f"kb:{place}",
            "text": made.text,
            "start": made.start,
            "end": made.end,
            "mention": made.text[made.start : made.end],
            "types": [],
            "concept_ids": [list(self.kb.ids_of_name(name))],
            "split": "kb",
        }

    def sentence(self, place: int) -> tuple[int, KBSentence, random.Random]:
        """The name index and sentence of a mention, and the generator that made them, to draw more for it.

        Raises:
            IndexError: if there is no such mention.
        """
        if not 0 <= place < len(self):
            raise IndexError(f"mention {place} of {len(self)}")
        which, within = divmod(place, len(self._names))
        if which != self._pass:
            self._order = np.random.default_rng([self.seed, which]).permutation(self._names)
            self._pass = which
        name = int(self._order[within])
        rng = random.Random(f"{self.seed}:{place}")
        if self._in_passages and rng.random() < self._in_passages:
            made = self._alone.make(name, rng)
            return name, _put_into(self._passages[rng.randrange(len(self._passages))], made), rng
        return name, self._maker.make(name, rng), rng


def _put_into(row: Mapping[str, Any], made: KBSentence) -> KBSentence:
    """A mention that stands alone, in the place of another in that one's passage."""
    before, after = row["text"][: row["start"]], row["text"][row["end"] :]
    return KBSentence(before + made.text + after, len(before), len(before) + len(made.text), ())


def kb_mentions(kb: KnowledgeBase, count: int, *, seed: int, **settings: Any) -> Dataset:
    """A mention dataset of `count` mentions made from a knowledge base.

    Args:
        kb: the knowledge base.
        count: mentions wanted.
        seed: decides draws and changes.
        settings: all others of `KBMentions`.

    Returns:
        Rows as in `MENTION_FEATURES`, with `split` "kb" and the concepts of the name as alternatives.
    """
    rows = KBMentions(kb, count, seed=seed, **settings)
    columns: dict[str, list[Any]] = {column: [] for column in MENTION_FEATURES}
    for row in rows:
        for column, value in row.items():
            columns[column].append(value)
    return Dataset.from_dict(columns, features=MENTION_FEATURES)
