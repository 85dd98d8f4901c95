"""The flat arrays of a prefix trie as a whole: built from token sequences, extended, folded from the leaves upwards.

Knows numpy arrays only; walking the trie is the matter of `angel_trl.trie`. Sequences come flat: the tokens of all of
them one after the other, and the length of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_TOKENS = 2**15 - 1  # depths are kept as int16
_MOST_NODES = 2**31 - 2  # node numbers are kept as int32


class TrieArrays(NamedTuple):
    """The arrays of a trie, nodes in breadth-first order and each node's children sorted by token.

    Attributes:
        tokens: uint16 or (for vocabularies over 65,536) int32 `[nodes]`, the token on the edge into each node; all
            bits set at the root.
        first_child: int32 `[nodes + 1]`, where the children of each node begin.
        leaf_name: int32 `[names]`, the name index of each leaf, in the order of the leaves.
    """

    tokens: NDArray[Any]
    first_child: NDArray[np.int32]
    leaf_name: NDArray[np.int32]


def flatten(sequences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The tokens of `sequences` one after the other (int32) and the length of each (int64)."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    return np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(lengths.sum())), lengths


def build(tokens: NDArray[Any], lengths: NDArray[Any], names: NDArray[Any]) -> TrieArrays:
    """Build the trie of the given sequences.

    The sequences are sorted by reference; then each level of the trie is read off the sorted sequences that are long
    enough to reach it, so that time and memory go with the tokens there are, not with the longest sequence.

    Args:
        tokens: int32 or uint16 `[sum of lengths]`.
        lengths: integers `[sequences]`.
        names: integers `[sequences]`, the name index of each sequence.

    Raises:
        ValueError: see `NameTrie.build_flat`.
        TypeError: if the tokens have another dtype.
    """
    _check(tokens, lengths, names)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    row = _sort(tokens, starts, lengths)
    # Of each sequence that reaches the present level, in sorted order: its row, the place and the number of its
    # tokens from here on, and which node of the level above it passed through.
    place, left = starts[row], lengths.astype(np.int32)[row]
    above = np.zeros(len(row), dtype=np.int32)
    wide = np.int32 if tokens.max() >= 2**16 else np.uint16
    levels, counts = [np.array([-1]).astype(wide)], []
    leaves, rows, total, width = [], [], 1, 1
    while len(row):
        token = tokens[place]
        begins = np.ones(len(row), dtype=bool)
        begins[1:] = (token[1:] != token[:-1]) | (above[1:] != above[:-1])
        heads = np.flatnonzero(begins)
        counts.append(np.bincount(above[heads], minlength=width).astype(np.int32))
        levels.append(token[heads].astype(wide))
        above = np.cumsum(begins, dtype=np.int32) - np.int32(1)
        ends = left == 1
        leaves.append(above[ends] + total)
        rows.append(row[ends])
        total, width = total + len(heads), len(heads)
        if total > _MOST_NODES:
            raise ValueError(f"The names make more than {_MOST_NODES:,} nodes. Split them into several tries.")
        goes_on = ~ends
        row, place, above = row[goes_on], place[goes_on] + 1, above[goes_on]
        left = left[goes_on] - np.int32(1)
    counts.append(np.zeros(width, dtype=np.int32))
    leaf, leaf_name, fan_out = np.concatenate(leaves), names[np.concatenate(rows)], np.concatenate(counts)
    _check_leaves(leaf, leaf_name, fan_out)
    return TrieArrays(np.concatenate(levels), _first_child(fan_out), leaf_name.astype(np.int32))


def insert(old: TrieArrays, new: TrieArrays, known: NDArray[np.int64], place: NDArray[np.int64]) -> TrieArrays:
    """Insert the nodes that only `new` has into `old`: copies of the arrays, no search and no sorting.

    Args:
        old: a trie.
        new: the trie of the sequences to add.
        known: int64 `[new nodes]`, the node of `old` with the same prefix, -1 if there is none.
        place: int64 `[new nodes]`, for nodes that are not known: the node of `old` they are to stand before.

    Raises:
        ValueError: if a sequence or a name index is in both tries, or a sequence of one begins one of the other.
    """
    fan_out, added = np.diff(old.first_child), np.diff(new.first_child)
    old_leaves, new_leaves = np.flatnonzero(fan_out == 0), np.flatnonzero(added == 0)

    def old_name(nodes: NDArray[np.int64]) -> NDArray[np.int32]:
        return old.leaf_name[np.searchsorted(old_leaves, nodes)]

    met = np.flatnonzero(known >= 0)
    old_ends, new_ends = fan_out[known[met]] == 0, added[met] == 0
    new_name = new.leaf_name[np.searchsorted(new_leaves, met) * new_ends]
    _refuse_alike(old_name(known[met[old_ends & new_ends]]), new_name[old_ends & new_ends])
    _refuse_prefixes(np.append(old_name(known[met[old_ends]]), new_name[new_ends]))

    names = np.insert(old.leaf_name, np.searchsorted(old_leaves, place[new_leaves]), new.leaf_name)
    _check_names(names)
    unknown = np.flatnonzero(known < 0)
    above = known[np.repeat(np.arange(len(added)), added)[unknown - 1]]  # the root, which has none, is known
    np.add.at(fan_out, above[above >= 0], 1)
    fan_out = np.insert(fan_out, place[unknown], added[unknown])
    tokens = old.tokens
    if tokens.dtype == np.uint16 and new.tokens.dtype == np.int32:
        tokens = tokens.astype(np.int32)
        tokens[0] = -1
    tokens = np.insert(tokens, place[unknown], new.tokens[unknown].astype(tokens.dtype))
    return TrieArrays(tokens, _first_child(fan_out), names)


def renumber(names: NDArray[np.int32], numbers: NDArray[Any]) -> NDArray[np.int32]:
    """Replace each name index in `names` by its entry of `numbers`.

    Raises:
        ValueError: if a name has no entry, or the entry is -1.
    """
    if names.max() >= len(numbers):
        raise ValueError(
            f"renumber has {len(numbers)} entries, but the trie holds name {names.max()}. Give each old name a number."
        )
    numbered = numbers[names]
    if numbered.min() < 0:
        raise ValueError(
            f"renumber gives name {names[numbered < 0].min()} of the trie no new index. A trie cannot be made "
            "smaller: build it again from the names that are left."
        )
    return numbered.astype(np.int32)


def count_leaves(first_child: NDArray[np.int32], block: int) -> NDArray[np.int32]:
    """The leaves before every `block` nodes (a multiple of 32), and at the end their number."""
    nodes = len(first_child) - 1
    leaf = np.zeros(-(-nodes // block) * block, dtype=bool)
    np.equal(first_child[1:], first_child[:-1], out=leaf[:nodes])
    counts = np.bitwise_count(np.packbits(leaf).view(np.uint32)).reshape(-1, block // 32).sum(1, dtype=np.int32)
    return np.concatenate([[0], np.cumsum(counts)], dtype=np.int32)


def levels_of(first_child: NDArray[np.int32]) -> list[int]:
    """The first node of each level, the root's first, and at the end the number of nodes.

    Raises:
        ValueError: if the nodes are not in breadth-first order.
    """
    levels = [0, 1]
    while levels[-1] < len(first_child) - 1:
        levels.append(int(first_child[levels[-1]]))
        if levels[-1] <= levels[-2]:
            raise ValueError("The trie's nodes are not in order: its file was altered. Build it again.")
    return levels


def fold(values: NDArray[Any], first_child: NDArray[np.int32], levels: Sequence[int], ufunc: np.ufunc) -> NDArray[Any]:
    """Replace the value of each inner node by `ufunc` over its children's, from the lowest level up, in place.

    Args:
        values: `[nodes]`; those of inner nodes do not matter.
        first_child: see `TrieArrays`.
        levels: see `levels_of`.
        ufunc: a binary function, such as `np.maximum`.

    Returns:
        `values`.
    """
    for level in reversed(range(len(levels) - 2)):
        begin, end, last = levels[level : level + 3]
        inner = begin + np.flatnonzero(first_child[begin + 1 : end + 1] > first_child[begin:end])
        values[inner] = ufunc.reduceat(values[end:last], first_child[inner] - end)
    return values


def _refuse_alike(first: NDArray[Any], second: NDArray[Any]) -> None:
    """Raise ValueError if there is any pair of names with the same tokens, naming the lowest such pair."""
    if len(first):
        low, high = min(zip(np.minimum(first, second).tolist(), np.maximum(first, second).tolist(), strict=True))
        raise ValueError(
            f"Names {low} and {high} have the same tokens, so no model could tell them apart. "
            "Merge them in the knowledge base, or use a tokenizer that keeps them apart."
        )


def _refuse_prefixes(names: NDArray[Any]) -> None:
    """Raise ValueError if there is any name in `names`, which are prefixes of others, giving the lowest."""
    if len(names):
        raise ValueError(f"Name {names.min()} is a prefix of another: every sequence must end in the end token.")


def _first_child(fan_out: NDArray[np.int32]) -> NDArray[np.int32]:
    first_child = np.empty(len(fan_out) + 1, dtype=np.int32)
    first_child[0] = 1
    np.cumsum(fan_out, out=first_child[1:])
    first_child[1:] += 1
    return first_child


def _sort(tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in the order of their tokens, int64 `[sequences]`.

    As many tokens as fit are packed into a 64-bit key, which numpy sorts with vector instructions. Rows still alike
    after that are sorted by their next tokens, with the number of their group in the key's upper bits.

    Missing tokens count as 0. A sequence that is a prefix of another may so come after it, but the sequences with a
    common prefix always stand together, which is all that `build` needs to find such a pair.
    """
    bits = max(int(tokens.max()).bit_length(), 1)
    order = np.arange(len(starts), dtype=np.int64)
    place = order.copy()  # where in `order` the rows still alike stand
    key = np.zeros(len(starts), dtype=np.uint64)
    depth = groups = 0
    while len(place):
        row = order[place]
        next_token, left = starts[row] + depth, lengths[row] - depth
        taken = min((64 - groups.bit_length()) // bits, int(left.max()))
        for step in range(taken):
            token = tokens[np.minimum(next_token + step, len(tokens) - 1)].astype(np.uint64)
            token[left <= step] = 0
            key = key << np.uint64(bits) | token
        by_key = np.argsort(key)
        order[place] = row = row[by_key]
        key, left = key[by_key], left[by_key]
        new = np.ones(len(key) + 1, dtype=bool)
        np.not_equal(key[1:], key[:-1], out=new[1:-1])
        alike = np.flatnonzero(~(new[1:] & new[:-1]) & (left > taken))
        place = place[alike]
        key = np.cumsum(new[:-1], dtype=np.uint64)[alike]
        # Numbers without gaps need the fewest bits.
        key = np.cumsum(np.diff(key, prepend=key[:1]) > 0, dtype=np.uint64)
        groups = int(key[-1]) if len(key) else 0
        depth += taken
    return order


def _check(tokens: NDArray[Any], lengths: NDArray[Any], names: NDArray[Any]) -> None:
    if not len(lengths):
        raise ValueError("A trie needs at least one name, got none. Is the knowledge base empty?")
    if tokens.dtype not in (np.int32, np.uint16):
        raise TypeError(f"tokens must be int32 or uint16, not {tokens.dtype}.")
    if len(names) != len(lengths):
        raise ValueError(f"There are {len(lengths)} sequences but {len(names)} name indices. Give one for each.")
    _check_names(names)
    if lengths.min() < 1:
        raise ValueError(f"Name {names[lengths < 1].min()} has no tokens. Drop names that normalise to nothing.")
    if lengths.max() > _MOST_TOKENS:
        raise ValueError(
            f"Name {names[lengths > _MOST_TOKENS].min()} has more than {_MOST_TOKENS:,} tokens. Leave such names out."
        )
    if lengths.sum(dtype=np.int64) != len(tokens):
        raise ValueError(f"The lengths add up to {lengths.sum(dtype=np.int64)}, but there are {len(tokens)} tokens.")
    if tokens.min() < 0:
        at = np.flatnonzero(tokens < 0)
        name = names[np.searchsorted(np.cumsum(lengths, dtype=np.int64), at, side="right")].min()
        raise ValueError(f"Name {name} has a negative token. Tokens are ids of the vocabulary.")


def _check_names(names: NDArray[Any]) -> None:
    ordered = np.sort(names)
    if ordered[0] < 0 or ordered[-1] >= 2**31:
        raise ValueError(f"Name indices go from {ordered[0]} to {ordered[-1]}; they must be from 0 to 2,147,483,647.")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueError(f"Name index {repeated[0]} is given twice. Every sequence needs one of its own.")


def _check_leaves(leaf: NDArray[Any], name: NDArray[Any], fan_out: NDArray[np.int32]) -> None:
    """Refuse leaves (ascending nodes) that are two names, or that have children."""
    alike = np.flatnonzero(leaf[1:] == leaf[:-1])
    if len(alike):
        # The names of one leaf have come in any order: the lowest two of each are to be named.
        several = np.isin(leaf, leaf[alike])
        leaf, name = leaf[several], name[several]
        by_name = np.lexsort((name, leaf))
        leaf, name = leaf[by_name], name[by_name]
        alike = np.flatnonzero(leaf[1:] == leaf[:-1])
        _refuse_alike(name[alike], name[alike + 1])
    _refuse_prefixes(name[fan_out[leaf] > 0])
