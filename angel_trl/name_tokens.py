"""The tokens of all names of a knowledge base, in two flat arrays: four bytes a token, where lists take forty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_CHUNK = 50_000


class NameTokens(Sequence[list[int]]):
    """A sequence of token sequences, each made a list when it is asked for.

    Args:
        tokens: int32, of all names one after the other.
        lengths: integers `[names]`, the tokens of each.
    """

    def __init__(self, tokens: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        self.tokens = tokens
        self.lengths = lengths
        self._ends = np.cumsum(lengths)

    @classmethod
    def of(cls, names: Sequence[str], tokenize: Callable[[Sequence[str]], list[list[int]]]) -> NameTokens:
        """The tokens of names, some names at a time: a tokenizer's output takes far more than its tokens."""
        tokens, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
        for first in range(0, len(names), _CHUNK):
            made = tokenize(names[first : first + _CHUNK])
            lengths.append(np.fromiter(map(len, made), dtype=np.int64, count=len(made)))
            tokens.append(np.fromiter((token for ids in made for token in ids), np.int32, int(lengths[-1].sum())))
        return cls(np.concatenate(tokens), np.concatenate(lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        end = self._ends[place]
        return self.tokens[end - self.lengths[place] : end].tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == list(theirs) for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def take(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The tokens of the names at `places`, ascending, one after the other, and the number of each."""
        if len(places) == len(self):
            return self.tokens, self.lengths
        kept = np.zeros(len(self), dtype=bool)
        kept[places] = True
        return self.tokens[np.repeat(kept, self.lengths)], self.lengths[places]


def repeated(sequences: Sequence[Sequence[int]], leave_out: Iterable[int] = ()) -> list[int]:
    """Places of the sequences that are those of an earlier place; those in `leave_out` neither count nor are named."""
    hashes = np.fromiter((hash(tuple(ids)) for ids in sequences), dtype=np.int64, count=len(sequences))
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    # Equal hashes are rare, and only these are compared.
    suspects = {*order[1:][same].tolist(), *order[:-1][same].tolist()} - set(leave_out)
    first: dict[tuple[int, ...], int] = {}
    return [place for place in sorted(suspects) if first.setdefault(tuple(sequences[place]), place) != place]
