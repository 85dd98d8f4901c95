"""A static prefix trie over token ids, held in flat arrays.

Knows token ids only: neither text nor models. The nodes stand in breadth-first order with each node's children
sorted by token, so the children of node ``i`` are the consecutive nodes ``first_child[i] .. first_child[i + 1] - 1``
and no pointer per edge is needed: a node costs one token (2 or 4 bytes), one offset (4 bytes) and an eighth of a byte
for finding the names of leaves. Nothing is computed when a trie is loaded, so that a file is mapped, not read.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from angel_trl import trie_arrays, trie_files

_BLOCK = 32  # nodes between two samples of `leaves_before`


class NameTrie:
    """The names of a knowledge base as token sequences, each ending in the end-of-sequence token.

    Node 0 is the root (nothing generated yet). A name is a path from the root to a leaf; because every sequence ends
    in the same end token, no name is a prefix of another and every leaf is exactly one name.

    Methods take and return tensors on the trie's device. Nodes, tokens and names are int64 there, and no method loops
    over them.

    Args:
        tokens: int16 or int32 `[nodes]`, the token on the edge into each node (-1 at the root). int16 holds
            vocabularies up to 65,536 as the same bits read unsigned.
        first_child: int32 `[nodes + 1]`, where the children of each node begin.
        leaf_name: int32 `[names]`, the name index of each leaf, in the order of the leaves.
        fingerprint: identifies the names and the tokenizer the trie was built from; checked by whoever loads it.
        leaves_before: int32 `[ceil(nodes / 32) + 1]`, the leaves before every 32nd node, and the number of leaves
            at the end; counted if not given.

    Raises:
        ValueError: if the arrays cannot belong together.
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        first_child: torch.Tensor,
        leaf_name: torch.Tensor,
        fingerprint: str = "",
        *,
        leaves_before: torch.Tensor | None = None,
    ) -> None:
        nodes = len(tokens)
        if len(first_child) != nodes + 1 or int(first_child[0]) != 1 or int(first_child[-1]) != nodes:
            raise ValueError(
                f"The trie has tokens for {nodes} nodes but `first_child` for {len(first_child) - 1}, from "
                f"{first_child[:1].tolist()} to {first_child[-1:].tolist()}: its arrays do not belong together. "
                "Build it again."
            )
        if leaves_before is None:
            counts = trie_arrays.count_leaves(first_child.cpu().numpy(), _BLOCK)
            leaves_before = torch.from_numpy(counts).to(first_child.device)
        blocks, leaves = len(leaves_before) - 1, int(leaves_before[-1]) if len(leaves_before) else 0
        if leaves != len(leaf_name) or blocks != -(-nodes // _BLOCK) or int(leaves_before[0]) != 0:
            raise ValueError(
                f"The trie has {leaves} leaves but names for {len(leaf_name)}, and {nodes} nodes but leaves counted "
                f"for {blocks} blocks of {_BLOCK}: its arrays do not belong together. Build it again."
            )
        self._tokens = tokens
        self.first_child = first_child
        self.leaf_name = leaf_name
        self.leaves_before = leaves_before
        self.fingerprint = fingerprint
        self._longest: torch.Tensor | None = None
        self._leaf_of: torch.Tensor | None = None

    # --- building -----------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls, sequences: Sequence[Sequence[int]], *, names: Sequence[int] | None = None, fingerprint: str = ""
    ) -> NameTrie:
        """Build the trie of `sequences`, each the tokens of a name with the end token last.

        Args:
            sequences: non-empty token sequences, no two alike.
            names: the name index of each sequence; their positions if not given.
            fingerprint: stored with the trie, see the class.

        Raises:
            ValueError: for no sequences, an empty one, two alike, one that is a prefix of another, one of more than
                32,767 tokens, a negative token, or name indices that are negative, repeated or not one a sequence.
        """
        tokens, lengths = trie_arrays.flatten(sequences)
        return cls.build_flat(tokens, lengths, names=names, fingerprint=fingerprint)

    @classmethod
    def build_flat(
        cls,
        tokens: NDArray[np.int32] | NDArray[np.uint16],
        lengths: NDArray[Any],
        *,
        names: Sequence[int] | NDArray[Any] | None = None,
        fingerprint: str = "",
    ) -> NameTrie:
        """Build the trie of sequences given as flat arrays: the form for millions of names.

        Args:
            tokens: int32 or uint16 `[sum of lengths]`, the tokens of all sequences one after the other.
            lengths: integers `[sequences]`, the tokens of each.
            names: the name index of each sequence; their positions if not given.
            fingerprint: stored with the trie, see the class.

        Raises:
            ValueError: as for `build`, and if the lengths do not add up to the tokens.
            TypeError: if `tokens` is of another dtype.
        """
        index = np.arange(len(lengths), dtype=np.int32) if names is None else np.asarray(names)
        return cls._of(trie_arrays.build(tokens, lengths, index), fingerprint)

    def extend(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        names: Sequence[int] | NDArray[Any],
        fingerprint: str,
        renumber: NDArray[Any] | None = None,
    ) -> NameTrie:
        """A new trie of the names of this one and of `sequences`: the one `build` makes of all of them.

        The old names are neither sorted nor read again: the new ones are looked up, and their nodes inserted into
        copies of the arrays.

        Args:
            sequences: non-empty token sequences; none at all is allowed.
            names: the name index of each sequence.
            fingerprint: of the new trie.
            renumber: integers, the new name index of each old name; old names keep theirs if not given.

        Raises:
            ValueError: as for `build`, and for a sequence that is in the trie, begins a name of it or goes on after
                one; for a name index that an old name has; for an old name to which `renumber` gives none or -1.
        """
        old = self.to("cpu")
        arrays = old._arrays()
        if renumber is not None:
            arrays = arrays._replace(leaf_name=trie_arrays.renumber(arrays.leaf_name, np.asarray(renumber)))
        if not len(sequences) and not len(names):
            return self._of(arrays, fingerprint).to(self.first_child.device)
        new = NameTrie.build(sequences, names=np.asarray(names).tolist())
        # Level by level, the old node of each new one (-1 if there is none) and else the old node it will precede:
        # below an old node, the first child with a higher token; below a new one, where the children of the node that
        # that one precedes begin.
        known, place = torch.full((2, new.num_nodes), -1)
        known[0] = place[0] = 0
        for level in range(1, len(new._levels) - 1):
            nodes = torch.arange(new._levels[level], new._levels[level + 1])
            above = new.parent(nodes)
            found, is_there = old._search(known[above].clamp(min=0), new.token(nodes))
            known[nodes] = torch.where(is_there & (known[above] >= 0), found, -1)
            place[nodes] = torch.where(known[above] >= 0, found, old.first_child[place[above]].long())
        merged = trie_arrays.insert(arrays, new._arrays(), known.numpy(), place.numpy())
        return self._of(merged, fingerprint).to(self.first_child.device)

    @classmethod
    def _of(cls, arrays: trie_arrays.TrieArrays, fingerprint: str) -> NameTrie:
        tokens = arrays.tokens.view(np.int16) if arrays.tokens.dtype == np.uint16 else arrays.tokens
        first_child, leaf_name = torch.from_numpy(arrays.first_child), torch.from_numpy(arrays.leaf_name)
        return cls(torch.from_numpy(tokens), first_child, leaf_name, fingerprint)

    def _arrays(self) -> trie_arrays.TrieArrays:
        tokens = self._tokens.numpy()
        tokens = tokens.view(np.uint16) if tokens.dtype == np.int16 else tokens
        return trie_arrays.TrieArrays(tokens, self.first_child.numpy(), self.leaf_name.numpy())

    @property
    def num_nodes(self) -> int:
        """Nodes, the root included."""
        return len(self._tokens)

    @property
    def num_names(self) -> int:
        """Names, which is to say leaves."""
        return len(self.leaf_name)

    @property
    def nbytes(self) -> int:
        """Bytes of the node arrays, without the leaf-to-name index and what `longest` and `leaf` keep once asked."""
        return self._tokens.nbytes + self.first_child.nbytes + self.leaves_before.nbytes

    @property
    def index_nbytes(self) -> int:
        """Bytes of the leaf-to-name index."""
        return self.leaf_name.nbytes

    # --- downwards ----------------------------------------------------------------------------------------------

    def token(self, nodes: torch.Tensor) -> torch.Tensor:
        """Tokens on the edges into `nodes`; int64, the shape of `nodes`. The root has none worth reading."""
        tokens = self._tokens[nodes].to(torch.int64)
        return tokens & 0xFFFF if self._tokens.dtype == torch.int16 else tokens

    def num_children(self, nodes: torch.Tensor) -> torch.Tensor:
        """How many children each node has, 0 for leaves; int64, the shape of `nodes`."""
        return (self.first_child[nodes + 1] - self.first_child[nodes]).to(torch.int64)

    def expand(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All children of `nodes` (int64 `[rows]`).

        Returns:
            `(rows, children)`, both int64 `[edges]`: the row each child belongs to, ascending, and its node.
        """
        first = self.first_child[nodes].to(torch.int64)
        counts = self.first_child[nodes + 1].to(torch.int64) - first
        rows = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        before = torch.cumsum(counts, 0) - counts
        children = torch.arange(len(rows), device=nodes.device) + (first - before)[rows]
        return rows, children

    def child(self, nodes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The child of each node along a token, by binary search; -1 where there is none.

        Args:
            nodes: int64 of any shape; -1 (no node) has no child.
            tokens: int64 of the same shape, any value.
        """
        found, is_there = self._search(nodes.clamp(min=0), tokens)
        return torch.where(is_there & (nodes >= 0), found, -1)

    def _search(self, nodes: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first child whose token is not below the given one (or the node after the last), and if it is equal."""
        low, end = self.first_child[nodes].to(torch.int64), self.first_child[nodes + 1].to(torch.int64)
        high = end
        for _ in range(int((end - low).max()).bit_length() if nodes.numel() else 0):
            middle = (low + high) // 2
            # A finished search (low == high) may stand past the last node, and must not go on.
            below = (self.token(middle.clamp(max=self.num_nodes - 1)) < tokens) & (low < high)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        return low, (low < end) & (self.token(low.clamp(max=self.num_nodes - 1)) == tokens)

    def find(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """The leaf of each token sequence (end token included); int64 `[sequences]`, -1 where it is no name."""
        device = self.first_child.device
        tokens, lengths = (torch.from_numpy(part).to(device) for part in trie_arrays.flatten(sequences))
        starts = torch.cumsum(lengths, 0) - lengths
        found = torch.zeros(len(lengths), dtype=torch.int64, device=device)
        rows = torch.arange(len(lengths), device=device)
        for depth in range(len(self._levels) - 1):
            rows = rows[(lengths[rows] > depth) & (found[rows] >= 0)]
            found[rows] = self.child(found[rows], tokens[starts[rows] + depth].to(torch.int64))
        return torch.where((found >= 0) & self.is_leaf(found.clamp(min=0)), found, -1)

    # --- leaves and names -----------------------------------------------------------------------------------------

    def is_leaf(self, nodes: torch.Tensor) -> torch.Tensor:
        """Whether each node ends a name; bool, the shape of `nodes`."""
        return self.first_child[nodes] == self.first_child[nodes + 1]

    def name(self, leaves: torch.Tensor) -> torch.Tensor:
        """Name indices of leaf nodes; int64, the shape of `leaves`."""
        rank = torch.cat([self._leaf_rank(part) for part in leaves.reshape(-1).split(2**16)])
        return self.leaf_name[rank].to(torch.int64).reshape(leaves.shape)

    def _leaf_rank(self, leaves: torch.Tensor) -> torch.Tensor:
        """How many leaves stand before each node: those before its block, and those in the block before it."""
        block = leaves // _BLOCK
        others = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=leaves.device)
        before = self.is_leaf(others.clamp(max=self.num_nodes - 1)) & (others < leaves[:, None])
        return self.leaves_before[block] + before.sum(1)

    def leaf(self, names: torch.Tensor) -> torch.Tensor:
        """The leaf of each name index, the inverse of `name`; -1 for an index that is not in the trie.

        int64, the shape of `names`. The first call makes an int32 array as long as the highest index, which is kept.
        """
        if self._leaf_of is None:
            leaves = (self.first_child[1:] == self.first_child[:-1]).nonzero().squeeze(1).to(torch.int32)
            leaf_of = leaves.new_full((int(self.leaf_name.max()) + 1,), -1)
            leaf_of[self.leaf_name.to(torch.int64)] = leaves
            self._leaf_of = leaf_of  # once it is whole: other threads may ask meanwhile
        is_index = (names >= 0) & (names < len(self._leaf_of))
        return torch.where(is_index, self._leaf_of[names.clamp(0, len(self._leaf_of) - 1)].to(torch.int64), -1)

    # --- upwards, and the levels ----------------------------------------------------------------------------------

    def parent(self, nodes: torch.Tensor) -> torch.Tensor:
        """The node above each node, by binary search; int64, the shape of `nodes`. The root has none: -1."""
        return torch.searchsorted(self.first_child, nodes.to(torch.int32), right=True) - 1

    def ancestors(self, leaves: torch.Tensor) -> torch.Tensor:
        """All nodes on the paths from the root (included) to `leaves` (included), each once and ascending.

        Both are int64 and one-dimensional. `leaves` may stand in any order; no leaves give no nodes.
        """
        leaves = torch.unique(leaves)
        cuts = torch.searchsorted(leaves, self.level_offsets).tolist()
        found = [leaves[:0]]
        for level in reversed(range(len(cuts) - 1)):
            above = self.parent(found[-1])  # ascending like the nodes themselves
            found.append(torch.unique(torch.cat([leaves[cuts[level] : cuts[level + 1]], above])))
        return torch.cat(found[::-1])

    @functools.cached_property
    def _levels(self) -> list[int]:
        return trie_arrays.levels_of(self.first_child.cpu().numpy())

    @property
    def level_offsets(self) -> torch.Tensor:
        """The first node of each level and, at the end, the number of nodes; int64 `[levels + 1]`.

        A node's level is its depth, the number of tokens from the root: level 0 is the root alone.
        """
        return torch.tensor(self._levels, device=self.first_child.device)

    def depth(self, nodes: torch.Tensor) -> torch.Tensor:
        """Tokens from the root to each node; int64, the shape of `nodes`."""
        return torch.searchsorted(self.level_offsets, nodes, right=True) - 1

    # --- over the whole trie --------------------------------------------------------------------------------------

    def longest(self) -> torch.Tensor:
        """Tokens from the root to the deepest leaf below each node (to itself for a leaf); int16 `[nodes]`.

        Computed on the first call and kept; not part of `nbytes`.
        """
        if self._longest is None:
            depths = np.repeat(np.arange(len(self._levels) - 1, dtype=np.int16), np.diff(self._levels))
            trie_arrays.fold(depths, self.first_child.cpu().numpy(), self._levels, np.maximum)
            self._longest = torch.from_numpy(depths).to(self.first_child.device)
        return self._longest

    def union_bits(self, bits: torch.Tensor) -> torch.Tensor:
        """Which bits (say, semantic types) occur among the leaves below each node; computed anew at each call.

        Args:
            bits: int64 `[names, words]`, the bits of each leaf, in the order of `leaf_name`.

        Returns:
            int64 `[nodes, words]`, the bits of all leaves below each node or'ed together (its own for a leaf).

        Raises:
            ValueError: if there is not one row for each leaf.
        """
        if bits.ndim != 2 or len(bits) != self.num_names:
            raise ValueError(f"bits must be [{self.num_names}, words], one row for each leaf, not {list(bits.shape)}.")
        first_child = self.first_child.cpu().numpy()
        words = np.zeros((bits.shape[1], self.num_nodes), dtype=np.int64)
        words[:, first_child[1:] == first_child[:-1]] = bits.cpu().numpy().T
        for word in words:
            trie_arrays.fold(word, first_child, self._levels, np.bitwise_or)
        return torch.from_numpy(words.T).to(self.first_child.device)

    # --- devices and files ----------------------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> NameTrie:
        """The same trie with its arrays (and what `longest` and `leaf` have kept) on `device`."""
        if self._tokens.device == torch.device(device):
            return self
        tensors = {key: tensor.to(device) for key, tensor in self._tensors().items()}
        moved = NameTrie(**tensors, fingerprint=self.fingerprint)
        moved._longest = None if self._longest is None else self._longest.to(device)
        moved._leaf_of = None if self._leaf_of is None else self._leaf_of.to(device)
        return moved

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            "tokens": self._tokens,
            "first_child": self.first_child,
            "leaf_name": self.leaf_name,
            "leaves_before": self.leaves_before,
        }

    def save(self, path: str | Path) -> None:
        """Write the trie to a safetensors file, whole or not at all."""
        trie_files.write(Path(path), self._tensors(), self.fingerprint)

    @classmethod
    def load(cls, path: str | Path, *, fingerprint: str | None = None, verify: bool = True) -> NameTrie:
        """Open a trie written by `save`. The file is mapped into memory and read as far as the trie is used.

        Args:
            path: the safetensors file. It may be replaced by another while it is in use, but not written into.
            fingerprint: when given, the fingerprint the trie must carry.
            verify: check the contents against their checksum, for which the whole file is read: about a second a
                gigabyte. Without it only the header is checked, and the ends of the arrays; opening takes
                milliseconds, whatever the size, but an altered file may give wrong names or an `IndexError`.

        Raises:
            ValueError: for a file that is not a trie, is truncated or altered, or belongs to other names.
            FileNotFoundError: if there is no such file.
        """
        tensors, found = trie_files.read(Path(path), fingerprint, verify)
        return cls(**tensors, fingerprint=found)
