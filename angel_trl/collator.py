"""Batches of mentions for training: what each mention carries becomes one tree of names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from angel_trl.formatting import EncodedMention
from angel_trl.mining import RoundPairs
from angel_trl.name_trees import pack, pad
from angel_trl.targets import MentionSet, TargetNames


@dataclasses.dataclass(frozen=True, slots=True)
class MentionPairs:
    """A mention and its pairs in a round: `(chosen tokens, rejected tokens, reference log-probs of both)` each."""

    mention: EncodedMention
    pairs: tuple[tuple[Sequence[int], Sequence[int], float, float], ...]


class RoundDataset(torch.utils.data.Dataset[MentionPairs]):
    """The mentions of the current round with their pairs; as long in every round, filled by mining.

    Args:
        size: mentions of a round.
        multiple_of: mentions of a step of all processes together. Mentions without pairs fill up the last step, which
            would else be filled up with mentions that count twice.
    """

    def __init__(self, size: int, multiple_of: int = 1) -> None:
        self._length = -(-size // multiple_of) * multiple_of
        self._items: list[MentionPairs] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> MentionPairs:
        return self._items[place] if place < len(self._items) else MentionPairs(self._items[0].mention, ())

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
    """Makes `MentionPairs` into a batch of `name_trees.pack` and the rows that TRL's loss reads.

    The rows are all chosen names, then all rejected ones: `input_ids`, `attention_mask` and `completion_mask` (1 on
    the tokens of the name) int64 `[2 * pairs, 1 + longest name]`, whose first column only stands for what comes before
    the name; `row_places` int64 `[2 * pairs, longest name]`, which name token of the tree each is (-1: none);
    `ref_chosen_logps` and `ref_rejected_logps`, float32 `[pairs]`; and `pair_count`, int64 scalar. A name of several
    pairs of a mention is in its tree once. Mentions without a pair are not encoded. A batch without any pair becomes
    one mention with a pair of equal names and `pair_count` 0, so that every process computes and synchronises
    something, worth nothing.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[MentionPairs]) -> dict[str, Any]:
        """Make one batch; pairs keep the order of the mentions."""
        taught = [item for item in items if item.pairs]
        count = sum(len(item.pairs) for item in taught)
        if not taught:
            # Any token makes a name; the last of the prefix is one that the model knows.
            end = items[0].mention.prefix[-1:]
            taught = [MentionPairs(items[0].mention, ((end, end, 0.0, 0.0),))]
        names: list[list[Sequence[int]]] = []
        place_of: list[dict[tuple[int, ...], int]] = []
        begin = 0
        for item in taught:
            own = list(dict.fromkeys(tuple(name) for pair in item.pairs for name in pair[:2]))
            ends = begin + np.cumsum([len(name) for name in own])
            place_of.append({name: int(end) - len(name) for name, end in zip(own, ends, strict=True)})
            names.append(list(own))
            begin = int(ends[-1])
        batch: dict[str, Any] = pack([item.mention for item in taught], names, self.pad_token_id)
        pairs = [(number, *pair) for number, item in enumerate(taught) for pair in item.pairs]
        rows = [(number, chosen) for number, chosen, *_ in pairs] + [
            (number, rejected) for number, _, rejected, *_ in pairs
        ]
        firsts = [place_of[number][tuple(name)] for number, name in rows]
        places = pad([range(first, first + len(name)) for first, (_, name) in zip(firsts, rows, strict=True)], -1)
        before = np.array([[taught[number].mention.prefix[-1]] for number, _ in rows], dtype=np.int64)
        ids = np.concatenate([before, pad([name for _, name in rows], self.pad_token_id)], axis=1)
        mask = np.pad(places >= 0, ((0, 0), (1, 0))).astype(np.int64)
        batch |= {
            "row_places": torch.from_numpy(places),
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(np.maximum(mask, np.arange(mask.shape[1]) == 0)),
            "completion_mask": torch.from_numpy(mask),
            "ref_chosen_logps": torch.tensor([pair[3] for pair in pairs]),
            "ref_rejected_logps": torch.tensor([pair[4] for pair in pairs]),
            "pair_count": torch.tensor(count),
        }
        return batch


@dataclasses.dataclass(frozen=True, slots=True)
class PositiveExample:
    """A mention and the right names to learn, as name indices."""

    mention: EncodedMention
    names: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PositiveCollator:
    """Makes positive examples into one batch of `name_trees.pack`."""

    sequences: Sequence[Sequence[int]]
    pad_token_id: int

    def __call__(self, items: Sequence[PositiveExample]) -> dict[str, torch.Tensor]:
        """Make one batch."""
        names = [[self.sequences[name] for name in item.names] for item in items]
        return pack([item.mention for item in items], names, self.pad_token_id)


def positive_examples(mentions: MentionSet, names: Sequence[Sequence[int]]) -> list[PositiveExample]:
    """Examples of the mentions that could be encoded and have a name."""
    return [
        PositiveExample(mention, tuple(given))
        for mention, given in zip(mentions.encoded, names, strict=True)
        if mention is not None and len(given)
    ]
