"""The bookkeeping of the search: which prefixes of names to extend next, and which can be forgotten.

Pure functions of numbers: knows neither models nor tries.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def rank_in_group(group: Ints, value: Floats) -> tuple[Ints, Ints]:
    """Order items by group, then by falling value; equal ones keep their order.

    Args:
        group: int64 `[items]`, small numbers from 0 on.
        value: float32 `[items]`, not NaN.

    Returns:
        `(order, rank)`: the permutation, and the rank of each ordered item in its group; both int64 `[items]`.
    """
    # One integer sorts by both: floats compare as their bits do, but for the sign, which is turned round.
    bits = value.astype(np.float32, copy=False).view(np.int32).astype(np.int64)
    rising = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = np.argsort((group << 32) + (0x7FFFFFFF - rising), kind="stable")
    counts = np.bincount(group)
    return order, np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)


def best_of_rows(row: Ints, value: Floats, count: int) -> Bools:
    """Mark the `count` highest values of each row, and those equal to the last of them.

    Args:
        row: int64 `[items]`, ascending.
        value: float32 `[items]`.
        count: how many of a row.

    Returns:
        bool `[items]`.
    """
    lengths = np.bincount(row)
    longest = int(lengths.max(initial=0))
    if longest <= count:
        return np.ones(len(row), dtype=bool)
    table = np.full((len(lengths), longest), -np.inf, dtype=np.float32)
    table[row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = value
    last = np.partition(table, longest - count, axis=1)[:, longest - count]
    marked: Bools = value >= last[row]
    return marked


@dataclasses.dataclass(slots=True)
class Prefixes:
    """Prefixes of names that were reached; all fields are parallel.

    Args:
        mention: int64, the mention of the batch.
        node: int64, the trie node reached.
        length: int64, tokens up to that node.
        parent: int64, the decoder's number of the token before it.
        score: float32, log-probability so far.
        bound: float32, the most that any name below can be worth.
        extended: bool, whether it was extended already.
    """

    mention: Ints
    node: Ints
    length: Ints
    parent: Ints
    score: Floats
    bound: Floats
    extended: Bools

    @classmethod
    def none(cls) -> Prefixes:
        """No prefixes."""
        ints, floats = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        return cls(ints, ints, ints, ints, floats, floats, np.zeros(0, dtype=bool))

    def __len__(self) -> int:
        return len(self.mention)

    def take(self, which: Ints | Bools) -> Prefixes:
        """Those at some places, in that order."""
        return Prefixes(*(getattr(self, field)[which] for field in self.__slots__))

    def __add__(self, other: Prefixes) -> Prefixes:
        both = ((getattr(self, field), getattr(other, field)) for field in self.__slots__)
        return Prefixes(*(np.concatenate(parts) for parts in both))


class Found:
    """The best names found so far, at most `top_k` a mention, best first.

    Attributes:
        value: float32 `[mentions, top_k]` by which names are ranked, -inf where there is none yet.
        score: float32 `[mentions, top_k]`, log-probability.
        leaf: int64 `[mentions, top_k]`, trie leaf, -1 where there is none.
        length: int64 `[mentions, top_k]`, tokens of the name, end token included.
    """

    def __init__(self, mentions: int, top_k: int) -> None:
        self.value = np.full((mentions, top_k), -np.inf, dtype=np.float32)
        self.score = self.value.copy()
        self.leaf = np.full((mentions, top_k), -1, dtype=np.int64)
        self.length = np.zeros((mentions, top_k), dtype=np.int64)

    @property
    def kth(self) -> Floats:
        """What a name must exceed to enter a mention's list; float32 `[mentions]`."""
        return self.value[:, -1]

    def add(self, mention: Ints, leaf: Ints, length: Ints, score: Floats, value: Floats) -> None:
        """Enter names, given as parallel arrays."""
        enters = value > self.kth[mention]
        if not enters.any():
            return
        mention = mention[enters]
        touched = np.unique(mention)
        top_k = self.value.shape[1]
        owners = np.concatenate([np.repeat(touched, top_k), mention])
        order, rank = rank_in_group(owners, np.concatenate([self.value[touched].ravel(), value[enters]]))
        kept = order[rank < top_k]

        def merge(old: NDArray[Any], new: NDArray[Any]) -> None:
            old[touched] = np.concatenate([old[touched].ravel(), new[enters]])[kept].reshape(len(touched), top_k)

        merge(self.value, value)
        merge(self.score, score)
        merge(self.leaf, leaf)
        merge(self.length, length)


class Frontier:
    """The prefixes that may still lead to a name among a mention's best.

    Args:
        mentions: how many mentions are searched.
        num_beams: a prefix is dropped once so many likelier ones of its length are known.
        keep: keep what falls out of the beam, to widen it later.
        max_beams: widest beam then.
    """

    def __init__(self, mentions: int, num_beams: int, *, keep: bool, max_beams: int) -> None:
        self.prefixes = Prefixes.none()
        self.pruned = np.full(mentions, -np.inf, dtype=np.float32)
        self._num_beams = num_beams
        self._width = np.full(mentions, num_beams)
        self._keep = keep
        self._max_beams = max(max_beams, num_beams)

    def add(self, prefixes: Prefixes, row: Ints) -> None:
        """Take in prefixes just reached, of equal length where they have the same `row` (int64, ascending)."""
        if not self._keep:
            # More than a beam of one row can never be inside the beam: this spares most of the work.
            best = best_of_rows(row, prefixes.score, self._num_beams)
            self._prune(prefixes, ~best)
            prefixes = prefixes.take(best)
        self.prefixes += prefixes

    def _prune(self, prefixes: Prefixes, which: Bools) -> None:
        np.maximum.at(self.pruned, prefixes.mention[which], prefixes.bound[which])

    def select(self, kth: Floats, at_least: int, at_most: int = 64) -> Prefixes:
        """The prefixes to extend next, ordered by mention and falling bound; they are marked extended.

        Args:
            kth: float32 `[mentions]`, the value that a name must exceed.
            at_least: prefixes of a mention with a narrow beam; with a wide one a quarter of it.
            at_most: most prefixes of a mention.
        """
        prefixes = self.prefixes.take(self.prefixes.bound > kth[self.prefixes.mention])
        longest = int(prefixes.length.max(initial=0)) + 1
        order, rank = rank_in_group(prefixes.mention * longest + prefixes.length, prefixes.score)
        self.prefixes = prefixes = prefixes.take(order)
        inside = rank < self._width[prefixes.mention]
        if self._keep:
            inside = self._widen(rank, inside)
        else:
            self._prune(prefixes, ~inside)
            self.prefixes = prefixes = prefixes.take(inside)
            inside = inside[inside]
        ready = np.flatnonzero(inside & ~prefixes.extended)
        order, rank = rank_in_group(prefixes.mention[ready], prefixes.bound[ready])
        owner = prefixes.mention[ready[order]]
        chosen = ready[order[rank < np.clip(self._width[owner] // 4, at_least, at_most)]]
        prefixes.extended[chosen] = True
        return prefixes.take(chosen)

    def _widen(self, rank: Ints, inside: Bools) -> Bools:
        """Widen the beams of mentions that have nothing left to extend inside them, as often as needed."""
        prefixes, mentions = self.prefixes, len(self._width)
        while True:
            waiting = np.bincount(prefixes.mention[~prefixes.extended], minlength=mentions) > 0
            ready = np.bincount(prefixes.mention[inside & ~prefixes.extended], minlength=mentions) > 0
            narrow = waiting & ~ready & (self._width < self._max_beams)
            if not narrow.any():
                break
            self._width[narrow] = np.minimum(4 * self._width[narrow], self._max_beams)
            inside = rank < self._width[prefixes.mention]
        # What the widest beam leaves out stays unexplored.
        self.pruned[:] = -np.inf
        self._prune(prefixes, ~inside & ~prefixes.extended & (self._width == self._max_beams)[prefixes.mention])
        return inside
