"""Attention for hypotheses that form a tree: every token of a batch once, every key and value once.

The search feeds a decoder one flat list of tokens, `[1, tokens]`, however many mentions and hypotheses they belong
to: no padding, no dead rows. What a token may look at is the business of this module: the keys of its own path in a
cache kept once a mention (the prompt or prefix and everything its hypotheses have written so far), and the keys of
its mention's source. Hypotheses that share a beginning share its keys; nothing is copied or reordered when they
branch or die.

Works with any decoder of transformers whose attention goes through `AttentionInterface` and hands keyword arguments
to it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers.cache_utils import Cache

from angel_trl.attention import attend_visible, refuse_beyond_window


@dataclasses.dataclass(frozen=True, slots=True)
class TreeStep:
    """Where the tokens of one forward stand.

    Args:
        place: int64 `[tokens]`, the row of the caches (a mention) each token belongs to, ascending.
        query: int64 `[tokens]`, its place among the tokens of that mention.
        queries: the most tokens of one mention.
        full: whether token `m * queries + q` is query `q` of mention `m`, so that reshaping lines tokens up.
        slot: int64 `[tokens]`, where its key and value are kept.
        visible: bool `[mentions, 1, queries, slots]`, which slots each query attends to.
        source: bool `[mentions, 1, 1, source tokens]`, True where the source is not padding; None without encoder.
        bias: float `[mentions, heads, queries, slots]` added to the scores of self-attention (T5), or None.
        longest: one more than the highest position in the cache.
    """

    place: torch.Tensor
    query: torch.Tensor
    queries: int
    full: bool
    slot: torch.Tensor
    visible: torch.Tensor
    source: torch.Tensor | None
    bias: torch.Tensor | None
    longest: int

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
        """Attention of `[1, heads, tokens, width]` over `[mentions, heads, slots or source, width]`.

        Returns:
            `[1, tokens, heads, width]`, as transformers' attention functions do.

        Raises:
            ValueError: if the text is longer than the sliding window of the layer, which is not supported.
        """
        if sliding_window is not None:
            refuse_beyond_window(self.longest, sliding_window)
        heads, tokens, width = query.shape[1:]
        mentions = len(key)
        flat = query[0].transpose(0, 1)
        if self.full:
            packed = flat.reshape(mentions, self.queries, heads, width)
        else:
            packed = flat.new_zeros(mentions, self.queries, heads, width)
            packed[self.place, self.query] = flat
        causal = getattr(module, "is_causal", False)
        visible, bias = (self.visible, self.bias) if causal else (self.source, None)
        output = attend_visible(packed.transpose(1, 2), key, value, visible, bias, scaling=scaling)
        output = output.reshape(tokens, heads, width) if self.full else output[self.place, self.query]
        return output[None]


class TreeCache(Cache):
    """Keys and values of self-attention, `[mentions, heads, slots, width]` a layer, written slot by slot."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._step: TreeStep | None = None

    def expect(self, step: TreeStep) -> None:
        """Announce where the tokens of the next forward go."""
        self._step = step

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values `[1, heads, tokens, width]` of a layer; return all up to the last slot in use."""
        step = self._step
        if step is None:
            raise RuntimeError("TreeCache.update before TreeCache.expect.")
        mentions, slots = len(step.visible), step.visible.shape[-1]
        if layer_idx == len(self._keys):
            # Under autocast, keys may be float32 and values not.
            for stored, new in ((self._keys, key_states), (self._values, value_states)):
                stored.append(new.new_zeros(mentions, new.shape[1], 0, new.shape[3]))
        for stored, new in ((self._keys, key_states), (self._values, value_states)):
            if stored[layer_idx].shape[2] < slots:
                # Room to spare, so that growing costs little on the whole. Zeros: what is masked must be finite.
                room = stored[layer_idx].new_zeros(mentions, new.shape[1], slots + slots // 2 + 32, new.shape[3])
                room[:, :, : stored[layer_idx].shape[2]] = stored[layer_idx]
                stored[layer_idx] = room
            stored[layer_idx][step.place, :, step.slot] = new[0].transpose(0, 1)
        return self._keys[layer_idx][:, :, :slots], self._values[layer_idx][:, :, :slots]

    def select(self, kept: torch.Tensor) -> None:
        """Keep the mentions `kept` (int64) only."""
        self._keys = [keys[kept] for keys in self._keys]
        self._values = [values[kept] for values in self._values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: tokens carry their own positions, so models must not count on from here."""
        return 0
