"""The batch layout of training: a mention and its names as one tree, in which nothing is computed twice.

The decoder gets one flat list of tokens, `[1, tokens]`: for each mention its prefix (the prompt of a decoder-only
model), then its names one after the other. A name sees the prefix and itself, so all names of a mention share the
prefix's states, as they share the source's; a name that several pairs have in common stands there once. Only sources
are padded, and tables of attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from angel_trl.attention import attend_visible, refuse_beyond_window
from angel_trl.formatting import EncodedMention

Ints = NDArray[np.int64]
_PREFIX = -1


def pad(sequences: Sequence[Sequence[int]], value: int) -> Ints:
    """Right-pad sequences into int64 `[len(sequences), longest]`."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def pack(
    mentions: Sequence[EncodedMention], names: Sequence[Sequence[Sequence[int]]], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Lay out names to be scored by teacher forcing.

    Args:
        mentions: the mentions of the batch.
        names: for each mention, token sequences (end token included) to be scored.
        pad_token_id: fills sources; its value never matters.

    Returns:
        `tree_ids` int64 `[tokens]`, the decoder's tokens (the last of each name is only predicted, and not among
        them); `tree_cells` int64 `[tokens]`, where each stands in a table `[mentions, most tokens]`; `tree_positions`
        and `tree_names` int64, such tables of the position of each token in its text and of the name it belongs to
        (-1: the prefix); `name_states` and `name_labels` int64 `[name tokens]`, for each token of each name, in order,
        the place in `tree_ids` of the token it follows, and the token. For models with an encoder also
        `mention_input_ids` and `mention_attention_mask` int64 `[mentions, source]`.

    Raises:
        ValueError: for a mention without a name.
    """
    tokens: list[int] = []
    states: list[int] = []
    labels: list[int] = []
    positions, owners = [], []
    begin = 0
    for mention, own in zip(mentions, names, strict=True):
        if not len(own):
            raise ValueError("A mention without names cannot be laid out; leave it out of the batch.")
        ids, place, owner = [*mention.prefix], [*range(len(mention.prefix))], [_PREFIX] * len(mention.prefix)
        last = begin + len(ids) - 1
        for number, name in enumerate(own):
            first = begin + len(ids)
            states += [last, *range(first, first + len(name) - 1)]
            labels += name
            ids += name[:-1]
            place += range(len(mention.prefix), len(mention.prefix) + len(name) - 1)
            owner += [number] * (len(name) - 1)
        tokens += ids
        positions.append(place)
        owners.append(owner)
        begin += len(ids)
    # Padding looks like the beginning of the prefix: as a query it needs something to see.
    table = pad(positions, 0)
    used = np.arange(table.shape[1]) < np.array([len(place) for place in positions])[:, None]
    batch = {
        "tree_ids": np.array(tokens, dtype=np.int64),
        "tree_cells": np.flatnonzero(used),
        "tree_positions": table,
        "tree_names": pad(owners, _PREFIX),
        "name_states": np.array(states, dtype=np.int64),
        "name_labels": np.array(labels, dtype=np.int64),
    }
    if mentions[0].source:
        batch["mention_input_ids"] = pad([mention.source for mention in mentions], pad_token_id)
        batch["mention_attention_mask"] = pad([[1] * len(mention.source) for mention in mentions], 0)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class NameTrees:
    """Which tokens of a flat batch see which.

    Args:
        cells: int64 `[tokens]`, where each token stands in a table `[mentions, most tokens]`, or None where tokens
            and cells are the same.
        shape: mentions and most tokens of one.
        visible: bool `[mentions, 1, queries, keys]`.
        source: bool `[mentions, 1, 1, source tokens]`, True where the source is not padding; None without encoder.
        distance: int64 `[mentions, queries, keys]`, position of the key less that of the query.
        bias: float `[mentions, heads, queries, keys]` added to the scores of self-attention (T5), or None.
    """

    cells: torch.Tensor | None
    shape: tuple[int, int]
    visible: torch.Tensor
    source: torch.Tensor | None
    distance: torch.Tensor
    bias: torch.Tensor | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> NameTrees:
        """The layout of a batch of `pack`."""
        positions, names, cells = batch["tree_positions"], batch["tree_names"], batch["tree_cells"]
        used = torch.zeros_like(positions, dtype=torch.bool).view(-1).index_fill(0, cells, True).view(positions.shape)
        distance = positions[:, None, :] - positions[:, :, None]
        shared = (names[:, None, :] == _PREFIX) | (names[:, None, :] == names[:, :, None])
        source = batch.get("mention_attention_mask")
        return cls(
            cells=None if len(cells) == positions.numel() else cells,
            shape=(positions.shape[0], positions.shape[1]),
            visible=(shared & (distance <= 0) & used[:, None, :])[:, None],
            source=None if source is None else source.bool()[:, None, None, :],
            distance=distance,
        )

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        dropout: float,
        sliding_window: int | None,
    ) -> torch.Tensor:
        """Attention of `[1, heads, tokens, width]` over itself, or over sources `[mentions, heads, source, width]`.

        Returns:
            `[1, tokens, heads, width]`, as transformers' attention functions do.

        Raises:
            ValueError: if a text is longer than the sliding window of the layer, which is not supported.
        """
        visible, bias = self.source, None
        if getattr(module, "is_causal", False):
            if sliding_window is not None:
                refuse_beyond_window(1 - int(self.distance.min()), sliding_window)
            key, value, visible, bias = self._table(key), self._table(value), self.visible, self.bias
        output = attend_visible(self._table(query), key, value, visible, bias, scaling=scaling, dropout=dropout)
        output = output.flatten(0, 1)
        return (output if self.cells is None else output.index_select(0, self.cells))[None]

    def _table(self, flat: torch.Tensor) -> torch.Tensor:
        """`[1, heads, tokens, width]` as `[mentions, heads, most tokens, width]`, zeros where there is no token."""
        tokens = flat[0].transpose(0, 1)
        if self.cells is not None:
            empty = tokens.new_zeros(self.shape[0] * self.shape[1], *tokens.shape[1:])
            tokens = empty.index_copy(0, self.cells, tokens)
        return tokens.reshape(*self.shape, *tokens.shape[1:]).transpose(1, 2)
