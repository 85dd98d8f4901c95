"""Positive examples made from a knowledge base as they are asked for, so that any number of them takes no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from datasets import Dataset

from angel_trl.collator import PositiveExample
from angel_trl.formatting import EncodedMention
from angel_trl.kb_mentions import KBMentions
from angel_trl.targets import TargetNames

# About, in English: passages are cut by words, and only batches of similar length depend on it.
_CHARACTERS_A_WORD = 6


class KBExamples(Sequence[PositiveExample]):
    """Mentions of a knowledge base's own names, each with a name of its concept to learn.

    That name is the one the mention was made from in a share of them, and in the others drawn from all names of the
    concepts that bear it, itself included, but for those that the sentence tells. Names that a model cannot write are
    neither mentions nor to learn.

    Args:
        targets: names and formatter.
        count: how many.
        seed: decides everything; each example depends on it and its place alone.
        noise: share of mentions with a small change.
        context: share of mentions in a sentence.
        own_name: share of mentions that learn the name they were made from.
        in_passages: share of mentions in the place of a mention of a corpus, in its passage. A model that reads names
            only where they stand alone learns to copy from that place, and has to learn it anew for passages.
        passages: mentions of that corpus, rows with `text`, `start` and `end`.

    Raises:
        ValueError: if a share is not between 0 and 1, or `count` is negative.

    Attributes:
        left_out: indices of the names that are no mentions: those a model cannot write, and those too long for its
            window as mentions.
    """

    def __init__(
        self,
        targets: TargetNames,
        count: int,
        *,
        seed: int,
        noise: float = 0.3,
        context: float = 0.0,
        own_name: float = 0.0,
        in_passages: float = 0.0,
        passages: Sequence[Mapping[str, Any]] | Dataset = (),
    ) -> None:
        if not 0 <= own_name <= 1:
            raise ValueError(f"own_name is {own_name}; it is a share, between 0 and 1.")
        self.targets = targets
        self._own_name = own_name
        self._unreachable = frozenset(targets.unreachable)
        # As a mention a name stands in the source between markers and in the prefix, which has half of the window.
        room = targets.formatter.max_tokens
        too_long = [] if room is None else np.flatnonzero(targets.sequences.lengths > room // 4).tolist()
        self.left_out = {*targets.unreachable, *too_long}
        self.mentions = KBMentions(
            targets.kb,
            count,
            seed=seed,
            noise=noise,
            context=context,
            in_passages=in_passages,
            passages=passages,
            exclude=self.left_out,
        )

    def __len__(self) -> int:
        return len(self.mentions)

    def size(self, place: int) -> int:
        """Characters of a mention and what is kept of its passage: about how long it is, told without encoding it."""
        made = self.mentions.sentence(place)[1]
        own = made.end - made.start
        kept = _CHARACTERS_A_WORD * self.targets.formatter.format.max_words
        return own + min(len(made.text) - own, kept)

    @overload
    def __getitem__(self, place: int) -> PositiveExample: ...
    @overload
    def __getitem__(self, place: slice) -> list[PositiveExample]: ...
    def __getitem__(self, place: int | slice) -> PositiveExample | list[PositiveExample]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        name, made, rng = self.mentions.sentence(place)
        kb = self.targets.kb
        if self._own_name and rng.random() < self._own_name:
            learnt = name
        else:
            own = dict.fromkeys(n for c in kb.concepts_of_name(name).tolist() for n in kb.names_of_concept(c).tolist())
            learnt = rng.choice([n for n in own if n not in made.shown and n not in self._unreachable])
        encoded = self._encode(made.text, made.start, made.end)
        if encoded is None:
            # A change made the mention too long for the window; as it was, it fits.
            encoded = self._encode(kb.names[name], 0, len(kb.names[name]))
            assert encoded is not None
        return PositiveExample(encoded, (learnt,))

    def _encode(self, text: str, start: int, end: int) -> EncodedMention | None:
        formatter = self.targets.formatter
        return formatter.encode(formatter.prepare([{"text": text, "start": start, "end": end}]))[0]
