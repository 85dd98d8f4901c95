"""Many names, one encoder pass: the batch layout in which training shares a mention's encoding.

A batch is a set of mentions and a set of rows, each row a name of one mention. The encoder and the
cross-attention keys and values are computed once a mention; rows of a mention are laid side by side as further
queries of the same attention call. Nothing is copied once a row, and the result is the same to rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from angel_trl.attention import accept_layouts
from angel_trl.formatting import EncodedMention

# Architectures that can be trained in this layout; each is covered by a parity test.
SUPPORTED_MODEL_TYPES = ("bart", "mbart")


@dataclasses.dataclass(frozen=True, slots=True)
class SharedRows:
    """Which mention each decoder row belongs to.

    Args:
        mention: int64 `[rows]`, the mention of each row.
        slot: int64 `[rows]`, the row's place among the rows of its mention.
        slots: the most rows of one mention.
        mask: bool `[mentions, 1, 1, source tokens]`, True where the source is not padding.
    """

    mention: torch.Tensor
    slot: torch.Tensor
    slots: int
    mask: torch.Tensor

    @classmethod
    def of(cls, mention: torch.Tensor, source_mask: torch.Tensor) -> SharedRows:
        """Rows of `mention` (int64 `[rows]`) over sources with `source_mask` (`[mentions, tokens]`)."""
        counts = torch.bincount(mention, minlength=len(source_mask))
        order = torch.argsort(mention, stable=True)
        slot = torch.empty_like(mention)
        starts = torch.cumsum(counts, 0) - counts
        slot[order] = torch.arange(len(mention), device=mention.device) - starts[mention[order]]
        return cls(mention, slot, int(counts.max()), source_mask.bool()[:, None, None, :])

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
        """Cross-attention of `[rows, heads, time, d]` against keys `[mentions, heads, source, d]`."""
        if getattr(module, "is_causal", False):
            return None
        _, heads, time, width = query.shape
        mentions, slots = len(key), self.slots
        packed = query.new_zeros(mentions, slots, heads, time, width)
        packed[self.mention, self.slot] = query
        packed = packed.transpose(1, 2).reshape(mentions, heads, slots * time, width)
        output = F.scaled_dot_product_attention(
            packed, key, value, attn_mask=self.mask, dropout_p=dropout, scale=scaling
        )
        return output.view(mentions, heads, slots, time, width).permute(0, 2, 3, 1, 4)[self.mention, self.slot]


def pad(sequences: Sequence[Sequence[int]], value: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Right-pad token sequences into int64 `[len(sequences), longest]`."""
    width = max(map(len, sequences))
    return torch.tensor([[*ids, *[value] * (width - len(ids))] for ids in sequences], dtype=torch.int64, device=device)


def pack(
    mentions: Sequence[EncodedMention], rows: Sequence[tuple[int, Sequence[int]]], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Lay out names to be scored by teacher forcing.

    Args:
        mentions: the mentions of the batch.
        rows: `(mention, name tokens)`, the mention given by its place in `mentions`.
        pad_token_id: fills sources and names; its value never matters.

    Returns:
        `mention_input_ids`, `mention_attention_mask` int64 `[mentions, source]`; `mention_index` int64 `[rows]`;
        `input_ids` (the decoder's sequence: prefix then name), `attention_mask` and `completion_mask` (1 on the
        tokens of the name) int64 `[rows, time]`.
    """
    source = pad([mention.source for mention in mentions], pad_token_id)
    source_lengths = torch.tensor([len(mention.source) for mention in mentions])
    sequences = [(*mentions[mention].prefix, *name) for mention, name in rows]
    prefix_lengths = torch.tensor([len(mentions[mention].prefix) for mention, _ in rows])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    input_ids = pad(sequences, pad_token_id)
    time = torch.arange(input_ids.shape[1])[None, :]
    attention_mask = (time < lengths[:, None]).long()
    return {
        "mention_input_ids": source,
        "mention_attention_mask": (torch.arange(source.shape[1])[None, :] < source_lengths[:, None]).long(),
        "mention_index": torch.tensor([mention for mention, _ in rows], dtype=torch.int64),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "completion_mask": attention_mask * (time >= prefix_lengths[:, None]),
    }


def completion_logits(
    model: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run a batch of `pack` and apply the language-model head to the tokens of the names only.

    Returns:
        `logits` float32 `[tokens, vocabulary]`, `labels` int64 `[tokens]` and the row of each token, int64 `[tokens]`.
    """
    encoded = model.get_encoder()(
        input_ids=batch["mention_input_ids"], attention_mask=batch["mention_attention_mask"]
    ).last_hidden_state
    hidden = model.get_decoder()(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        encoder_hidden_states=encoded,
        use_cache=False,
        layout=SharedRows.of(batch["mention_index"], batch["mention_attention_mask"]),
    ).last_hidden_state[:, :-1]
    scored = batch["completion_mask"][:, 1:].bool()
    return lm_logits(model, hidden[scored]), batch["input_ids"][:, 1:][scored], scored.nonzero()[:, 0]


def lm_logits(model: PreTrainedModel, hidden: torch.Tensor, *, with_bias: bool = True) -> torch.Tensor:
    """Logits, in float32, of decoder states `[n, width]`; `with_bias=False` leaves out BART's bias, usually zero."""
    if getattr(model.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        hidden = hidden * model.config.d_model**-0.5
    logits = model.get_output_embeddings()(hidden)
    bias = getattr(model, "final_logits_bias", None) if with_bias else None
    return (logits if bias is None else logits + bias).float()


def add_mention_batches(model: PreTrainedModel) -> None:
    """Teach `model.forward` the layout of `pack`, so that the encoder runs once a mention.

    `model(**pack(...))` returns what `completion_logits` does. Without `completion_mask`, the arguments left (labels,
    a fused language-model head...) go to the forward that was there before, with the decoder's sequence under its
    proper name. Calls without `mention_input_ids` are passed on untouched. It is `forward` that changes because
    distributed wrappers and autocast reach a model only through it.
    """
    accept_layouts(model, SUPPORTED_MODEL_TYPES)
    inner = model.forward

    @functools.wraps(type(model).forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if "mention_input_ids" not in kwargs:
            return inner(*args, **kwargs)
        if "completion_mask" in kwargs:
            return completion_logits(model, kwargs)
        source, mask = kwargs.pop("mention_input_ids"), kwargs.pop("mention_attention_mask")
        encoded = model.get_encoder()(input_ids=source, attention_mask=mask)
        return inner(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.last_hidden_state),
            decoder_input_ids=kwargs.pop("input_ids"),
            decoder_attention_mask=kwargs.pop("attention_mask"),
            layout=SharedRows.of(kwargs.pop("mention_index"), mask),
            **kwargs,
        )

    model.forward = forward


def turn_off_dropout(model: torch.nn.Module) -> None:
    """Set every dropout and layer-drop rate of `model` to 0, functional ones included.

    TRL's own switch reaches `nn.Dropout` modules only; BART calls the function with a rate kept on the layer, so that
    policy and reference would differ by noise and reward margins would not start at 0. The configuration keeps the
    rates, and so does a model loaded from what is saved.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
