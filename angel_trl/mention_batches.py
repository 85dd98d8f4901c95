"""Models that take batches of mentions with their names (`name_trees.pack`): the encoder runs once a mention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from angel_trl.architectures import head_states, lm_logits, prepare, relative_bias, run_decoder
from angel_trl.name_trees import NameTrees

# The head of a model in training: hidden states `[tokens, width]`, labels `[tokens]` and the rest of the arguments.
Head = Callable[[torch.Tensor, dict[str, Any]], Any]


def name_states(model: PreTrainedModel, batch: Mapping[str, Any]) -> torch.Tensor:
    """Run a batch of `pack`; the decoder's last hidden states `[name tokens, width]` that predict `name_labels`.

    Args:
        model: prepared by `architectures.prepare`.
        batch: of `pack`.
    """
    layout, inputs = NameTrees.of(batch), {}
    layout = dataclasses.replace(layout, bias=relative_bias(model, layout.distance))
    if layout.source is not None:
        inputs["encoder_hidden_states"] = model.get_encoder()(
            input_ids=batch["mention_input_ids"], attention_mask=batch["mention_attention_mask"]
        ).last_hidden_state
    positions = batch["tree_positions"].view(-1)[batch["tree_cells"]]
    hidden = run_decoder(model, batch["tree_ids"][None], positions[None], layout, use_cache=False, **inputs)
    return hidden[batch["name_states"]]


def add_mention_batches(model: PreTrainedModel, head: Head | None = None) -> None:
    """Teach `model.forward` the layout of `pack`.

    `model(**pack(...))` returns `(logits, labels)`, float32 `[name tokens, vocabulary]` and int64 `[name tokens]`, or
    what `head` makes of the states and the batch. Calls without `tree_ids` are passed on untouched. It is `forward`
    that changes because distributed wrappers and autocast reach a model only through it.

    Args:
        model: changed in place.
        head: given the states that the language-model head is applied to and all keyword arguments of the call.

    Raises:
        ValueError: for an architecture that is not supported.
    """
    prepare(model)
    inner = model.forward

    @functools.wraps(type(model).forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if "tree_ids" not in kwargs:
            return inner(*args, **kwargs)
        states = name_states(model, kwargs)
        if head is not None:
            return head(head_states(model, states), kwargs)
        return lm_logits(model, states), kwargs["name_labels"]

    model.forward = forward
