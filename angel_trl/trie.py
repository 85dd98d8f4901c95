"""A static prefix trie over token ids, held in three flat arrays.

Knows token ids only: neither text nor models. The nodes stand in breadth-first order with each node's children
sorted by token, so the children of node ``i`` are the consecutive nodes ``first_child[i] .. first_child[i + 1] - 1``
and no pointer per edge is needed: a node costs one token (2 or 4 bytes) and one offset (4 bytes).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_FORMAT = "angel_trl.trie/1"


class NameTrie:
    """The names of a knowledge base as token sequences, each ending in the end-of-sequence token.

    Node 0 is the root (nothing generated yet). A name is a path from the root to a leaf; because every sequence ends
    in the same end token, no name is a prefix of another and every leaf is exactly one name.

    Args:
        tokens: int16 or int32 `[nodes]`, the token on the edge into each node (-1 at the root). int16 holds
            vocabularies up to 65,536 as the same bits read unsigned.
        first_child: int32 `[nodes + 1]`, where the children of each node begin.
        leaf_name: int32 `[names]`, the name index of each leaf, in the order of the leaves.
        fingerprint: identifies the names and the tokenizer the trie was built from; checked by whoever loads it.
    """

    def __init__(
        self, tokens: torch.Tensor, first_child: torch.Tensor, leaf_name: torch.Tensor, fingerprint: str = ""
    ) -> None:
        self._tokens = tokens
        self.first_child = first_child
        self.leaf_name = leaf_name
        self.fingerprint = fingerprint
        is_leaf = first_child[1:] == first_child[:-1]
        # Leaves before each node: turns a leaf's node number into its place in `leaf_name`.
        self._leaves = is_leaf.nonzero().squeeze(1).to(torch.int32)
        if len(self._leaves) != len(leaf_name):
            raise ValueError(
                f"The trie has {len(self._leaves)} leaves but names for {len(leaf_name)}: its arrays do not belong "
                "together. Build it again."
            )

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
            ValueError: for no sequences, an empty one, two alike, or one that is a prefix of another.
        """
        if not len(sequences):
            raise ValueError("A trie needs at least one name, got none. Is the knowledge base empty?")
        index = np.arange(len(sequences)) if names is None else np.asarray(names)
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        if not lengths.all():
            raise ValueError(f"Name {index[lengths.argmin()]} has no tokens. Drop names that normalise to nothing.")
        flat = np.concatenate([np.asarray(sequence, dtype=np.int32) for sequence in sequences])
        padded = np.full((len(sequences), int(lengths.max()) + 1), -1, dtype=np.int32)
        padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = flat
        order = np.lexsort(padded.T[::-1])
        padded, lengths = padded[order], lengths[order]
        same = np.flatnonzero((padded[1:] == padded[:-1]).all(axis=1))
        if len(same):
            first, second = sorted(index[order[same[0] : same[0] + 2]].tolist())
            raise ValueError(
                f"Names {first} and {second} have the same tokens, so no model could tell them apart. "
                "Merge them in the knowledge base, or use a tokenizer that keeps them apart."
            )
        # Level by level: a node begins wherever, among the sorted sequences, a prefix of that length begins.
        node_of = np.zeros(len(sequences), dtype=np.int64)  # node of each sequence's prefix one level up
        begins = np.zeros(len(sequences), dtype=bool)
        begins[0] = True
        tokens, counts, ends = [np.array([-1], dtype=np.int32)], [], []
        alive, total = np.arange(len(sequences)), 1
        for depth in range(padded.shape[1] - 1):
            begins[1:] |= padded[1:, depth] != padded[:-1, depth]
            heads = alive[begins[alive]]
            parents = node_of[heads]
            first_parent = total - len(tokens[-1])
            counts.append(np.bincount(parents - first_parent, minlength=len(tokens[-1])))
            tokens.append(padded[heads, depth])
            node_of[alive] = total + np.cumsum(begins[alive]) - 1
            total += len(heads)
            ended = alive[lengths[alive] == depth + 1]
            ends.append(np.stack([node_of[ended], order[ended]]))
            alive = alive[lengths[alive] > depth + 1]
        counts.append(np.zeros(len(tokens[-1]), dtype=np.int64))
        all_counts, all_ends = np.concatenate(counts), np.concatenate(ends, axis=1)
        first_child = np.empty(total + 1, dtype=np.int64)
        first_child[0] = 1
        np.cumsum(all_counts, out=first_child[1:])
        first_child[1:] += 1
        inner = all_ends[:, all_counts[all_ends[0]] > 0]
        if inner.size:
            raise ValueError(
                f"Name {index[inner[1, 0]]} is a prefix of another: every sequence must end in the end token."
            )
        leaf_name = index[all_ends[1, np.argsort(all_ends[0])]]
        all_tokens = np.concatenate(tokens)
        narrow = all_tokens.max() < 2**16
        return cls(
            torch.from_numpy(all_tokens.astype(np.uint16).view(np.int16) if narrow else all_tokens),
            torch.from_numpy(first_child.astype(np.int32)),
            torch.from_numpy(leaf_name.astype(np.int32)),
            fingerprint,
        )

    # --- navigation, vectorised over nodes ------------------------------------------------------------------------

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
        """Bytes of the node arrays (without the leaf-to-name index)."""
        return self._tokens.nbytes + self.first_child.nbytes

    def token(self, nodes: torch.Tensor) -> torch.Tensor:
        """Tokens on the edges into `nodes`; int64, the shape of `nodes`."""
        tokens = self._tokens[nodes].to(torch.int64)
        return tokens & 0xFFFF if self._tokens.dtype == torch.int16 else tokens

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

    def is_leaf(self, nodes: torch.Tensor) -> torch.Tensor:
        """Whether each node ends a name; bool, the shape of `nodes`."""
        return self.first_child[nodes] == self.first_child[nodes + 1]

    def name(self, leaves: torch.Tensor) -> torch.Tensor:
        """Name indices of leaf nodes; int64, the shape of `leaves`."""
        return self.leaf_name[torch.searchsorted(self._leaves, leaves.to(torch.int32))].to(torch.int64)

    def to(self, device: torch.device | str) -> NameTrie:
        """The same trie with its arrays on `device`."""
        if self._tokens.device == torch.device(device):
            return self
        return NameTrie(
            self._tokens.to(device), self.first_child.to(device), self.leaf_name.to(device), self.fingerprint
        )

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the trie to a safetensors file."""
        tensors = {"tokens": self._tokens, "first_child": self.first_child, "leaf_name": self.leaf_name}
        tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        header = {"format": _FORMAT, "fingerprint": self.fingerprint, "digest": _digest(tensors)}
        save_file(tensors, str(path), metadata={"angel_trl": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path, *, fingerprint: str | None = None) -> NameTrie:
        """Read a trie written by `save`.

        Args:
            path: the safetensors file.
            fingerprint: when given, the fingerprint the trie must carry.

        Raises:
            ValueError: for a file that is not a trie, is truncated or altered, or belongs to other names.
            FileNotFoundError: if there is no such file.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"No trie at {path}.")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("angel_trl", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a readable trie file ({error}). Build it again.") from error
        found = header.get("format") if isinstance(header, dict) else None
        if found != _FORMAT or set(tensors) != {"tokens", "first_child", "leaf_name"}:
            raise ValueError(f"{path} is not a trie of this version ({_FORMAT}), but {found!r}. Build it again.")
        if header["digest"] != _digest(tensors):
            raise ValueError(f"{path} was altered after it was written: its checksum does not match. Build it again.")
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path} was built for other names or another tokenizer (fingerprint {header['fingerprint'][:12]}, "
                f"expected {fingerprint[:12]}). Build it again from this knowledge base."
            )
        return cls(**tensors, fingerprint=header["fingerprint"])


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key}:{tensors[key].dtype}:{tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()
