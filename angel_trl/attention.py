"""The seam to transformers' attention: layouts in which many rows share one copy of a mention's keys and values.

A layout (`name_trees.NameTrees` in training, `tree_attention.TreeStep` in the search) travels to the attention
functions as the keyword argument `layout`; without it nothing changes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

_PREFIX = "angel_"
_LOCK = threading.Lock()  # threads may share a model


class Layout(Protocol):
    """How the queries of a batch meet its keys."""

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
    ) -> torch.Tensor | None:
        """Attention output `[batch, time, heads, width]`; None to leave this module's attention as it is."""


def attend_visible(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    *,
    scaling: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention as layouts do it once their queries stand in a table.

    Args:
        query: float `[mentions, heads, queries, width]`.
        key: float `[mentions, heads or a divisor of them, keys, width]`.
        value: likewise.
        visible: bool, broadcast to `[mentions, heads, queries, keys]`; None where all keys are seen.
        bias: float `[mentions, heads, queries, keys]` added to the scores (T5); needs `visible`.
        scaling: of the scores.
        dropout: rate of dropout on the weights.

    Returns:
        Float `[mentions, queries, heads, width]`.
    """
    if bias is not None and visible is not None:
        visible = bias.to(query.dtype).masked_fill(~visible, float("-inf"))
    if key.shape[1] != query.shape[1]:
        # With a mask, SDPA's own grouping of heads would take the slow path on a GPU.
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2)


def refuse_beyond_window(longest: int, sliding_window: int) -> None:
    """Say so where a text of `longest` tokens does not fit the sliding window of a layer.

    Raises:
        ValueError: if it does not: layouts see whole texts.
    """
    if longest > sliding_window:
        raise ValueError(
            f"A text of {longest} tokens is longer than the model's sliding window of {sliding_window}, which is not "
            "supported. Use fewer words of context (max_words)."
        )


def _attention(
    base: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if layout is not None:
        window = kwargs.get("sliding_window")
        output = layout.attend(module, query, key, value, scaling=scaling, dropout=dropout, sliding_window=window)
        if output is not None:
            return output, None
    function = AttentionInterface()[base]
    return function(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)


def accept_layouts(model: PreTrainedModel, model_types: Sequence[str]) -> None:
    """Let the attention of `model` obey layouts.

    Args:
        model: changed in place (its configuration, and its parts', name the attention function), once.
        model_types: architectures for which the caller's layout is covered by parity tests.

    Raises:
        ValueError: for another architecture.
    """
    model_type = model.config.model_type
    if model_type not in model_types:
        raise ValueError(
            f"Models of type {model_type!r} are not supported here; use one of {', '.join(model_types)} "
            "(for instance facebook/bart-large or dmis-lab/ANGEL_pretrained)."
        )
    with _LOCK:
        _accept(model)


def _accept(model: PreTrainedModel) -> None:
    base = model.config._attn_implementation
    if base.startswith(_PREFIX):
        return
    # Eager attention computes the same as SDPA, and the interface has no entry for it.
    base = "sdpa" if base in (None, "eager") else base
    AttentionInterface.register(_PREFIX + base, functools.partial(_attention, base))
    AttentionMaskInterface.register(_PREFIX + base, AttentionMaskInterface()[base])
    # T5's stacks have configurations of their own.
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation = _PREFIX + base
