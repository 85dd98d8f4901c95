"""Batches of mentions for training: what each mention carries becomes rows of one shared-encoder batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from angel_trl.formatting import EncodedMention
from angel_trl.mining import RoundPairs
from angel_trl.shared_encoder import pack
from angel_trl.targets import MentionSet, TargetNames


@dataclasses.dataclass(frozen=True, slots=True)
class MentionPairs:
    """A mention and its pairs in a round: `(chosen tokens, rejected tokens, reference log-probs of both)` each."""

    mention: EncodedMention
    pairs: tuple[tuple[Sequence[int], Sequence[int], float, float], ...]


class RoundDataset(torch.utils.data.Dataset[MentionPairs]):
    """The mentions of the current round with their pairs; as long in every round, filled by mining."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: list[MentionPairs] = []

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> MentionPairs:
        return self._items[place]

    def fill(self, mined: RoundPairs, targets: TargetNames, mentions: MentionSet) -> None:
        """Take the pairs of a round in place of those of the last."""
        pairs: list[list[tuple[Sequence[int], Sequence[int], float, float]]] = [[] for _ in mined.rows]
        for i, mention in enumerate(mined.pairs.mention):
            chosen, rejected = mined.pairs.chosen[i], mined.pairs.rejected[i]
            log_probs = float(mined.chosen_log_probs[i]), float(mined.rejected_log_probs[i])
            pairs[mention].append((targets.sequences[chosen], targets.sequences[rejected], *log_probs))
        encoded = [mention for row in mined.rows if (mention := mentions.encoded[row]) is not None]
        # Training mentions are encodable (`prepare_mentions`), and strict=True holds us to it.
        self._items = [MentionPairs(mention, tuple(own)) for mention, own in zip(encoded, pairs, strict=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class PairCollator:
    """Makes `MentionPairs` into the batch that TRL's loss reads: all chosen rows, then all rejected rows.

    Adds to `shared_encoder.pack`: `ref_chosen_logps` and `ref_rejected_logps`, float32 `[pairs]`, and `pair_count`,
    int64 scalar. Mentions without a pair are not encoded. A batch without any pair becomes one mention with a pair of
    equal names and `pair_count` 0, so that every process computes and synchronises something, worth nothing.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[MentionPairs]) -> dict[str, Any]:
        """Make one batch; pairs keep the order of the mentions."""
        taught = [item for item in items if item.pairs]
        count = sum(len(item.pairs) for item in taught)
        if not taught:
            end = items[0].mention.source[-1:]
            taught = [MentionPairs(items[0].mention, ((end, end, 0.0, 0.0),))]
        pairs = [(place, *pair) for place, item in enumerate(taught) for pair in item.pairs]
        rows = [(place, chosen) for place, chosen, *_ in pairs] + [
            (place, rejected) for place, _, rejected, *_ in pairs
        ]
        batch = pack([item.mention for item in taught], rows, self.pad_token_id)
        batch["ref_chosen_logps"] = torch.tensor([pair[3] for pair in pairs])
        batch["ref_rejected_logps"] = torch.tensor([pair[4] for pair in pairs])
        batch["pair_count"] = torch.tensor(count)
        return batch


@dataclasses.dataclass(frozen=True, slots=True)
class PositiveExample:
    """A mention and the right names to learn, as name indices."""

    mention: EncodedMention
    names: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PositiveCollator:
    """Makes positive examples into one batch of `shared_encoder.pack`."""

    sequences: Sequence[Sequence[int]]
    pad_token_id: int

    def __call__(self, items: Sequence[PositiveExample]) -> dict[str, torch.Tensor]:
        """Make one batch: a row for each name of each mention."""
        rows = [(place, self.sequences[name]) for place, item in enumerate(items) for name in item.names]
        return pack([item.mention for item in items], rows, self.pad_token_id)


def positive_examples(mentions: MentionSet, names: Sequence[Sequence[int]]) -> list[PositiveExample]:
    """Examples of the mentions that could be encoded and have a name."""
    return [
        PositiveExample(mention, tuple(given))
        for mention, given in zip(mentions.encoded, names, strict=True)
        if mention is not None and len(given)
    ]


def first_or_none(names: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The first name of each, -1 where there is none; int64."""
    return np.array([given[0] if len(given) else -1 for given in names], dtype=np.int64)
