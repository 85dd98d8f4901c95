"""What differs between model architectures: the only module that knows their parts by name.

Both the search and training feed a decoder one flat list of tokens, `[1, tokens]`, however many mentions and names
they belong to; a layout (`angel_trl.attention`) says which tokens see which, and positions come with the tokens.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from angel_trl.attention import Layout, accept_layouts

# Each is covered by tests against the stock forward, of the search and of training.
MODEL_TYPES = ("bart", "mbart", "t5", "mt5", "gpt2", "llama", "mistral", "qwen2", "qwen3")
_LEARNED_POSITIONS = ("bart", "mbart")
_POSITIONS = "angel_positions"
_LOCK = threading.Lock()  # threads may share a model
# Bytes; what PyTorch gives to tensors that it allocates itself.
_ALIGNMENT = 64


def model_class(config: PreTrainedConfig) -> type[AutoModelForSeq2SeqLM] | type[AutoModelForCausalLM]:
    """The auto class that loads a model of this configuration with its language-model head."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def load_model(name_or_path: str, **options: Any) -> PreTrainedModel:
    """Load an encoder-decoder or decoder-only model, whichever it is, in float32 unless `dtype` says otherwise.

    Code that a repository brings along is never run.

    Args:
        name_or_path: folder or Hub id.
        options: of transformers' `from_pretrained`.

    Raises:
        ValueError: if weights of the model are missing or of another shape (transformers would put random ones in
            their place), or if transformers does not have its architecture.
        OSError: if there is no such model, or it has no weights.
    """
    of_the_config = {key: options[key] for key in ("revision", "cache_dir", "token", "subfolder") if key in options}
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **of_the_config)
    settings = {"dtype": torch.float32, **options, "trust_remote_code": False}
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = model_class(config).from_pretrained(name_or_path, **settings)
    wrong = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    for name, shape, expected in sorted(found["mismatched_keys"]):
        wrong.append(f"{name} is {[*shape]} instead of {[*expected]}")
    if wrong:
        raise ValueError(
            f"The weights of {name_or_path} are not those of the {type(model).__name__} that its config.json "
            f"describes: {'; '.join(wrong[:3])}{f'; {len(wrong)} in all' if len(wrong) > 3 else ''}. Download or save "
            "it again, or give a model with all its weights, its decoder included."
        )
    return model


def align_weights(model: torch.nn.Module) -> None:
    """Move weights on the CPU to memory that is aligned to 64 bytes, where it is not.

    Products of matrices differ in their last digits with the place of their operands in memory. Weights that are
    mapped from a file lie wherever the file has them, which differs from file to file with the same weights.
    """

    def astray(tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT != 0

    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if astray(weight):
                weight.data = weight.data.clone()
        for name, buffer in list(module.named_buffers(recurse=False)):
            if astray(buffer):
                # A buffer may be a view, which would keep what it is a view of: the whole file.
                setattr(module, name, buffer.clone())


def prepare(model: PreTrainedModel) -> None:
    """Let `model` be run by `run_decoder`; what else it computes does not change.

    An eager attention becomes SDPA, which computes the same and returns no attention weights.

    Raises:
        ValueError: for an architecture for which this has not been shown to be exact.
    """
    accept_layouts(model, MODEL_TYPES)
    if model.config.model_type in _LEARNED_POSITIONS:
        embedding = model.get_decoder().embed_positions
        with _LOCK:
            if _with_positions not in embedding._forward_pre_hooks.values():
                embedding.register_forward_pre_hook(_with_positions, with_kwargs=True)


def _with_positions(module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """BART counts positions itself and takes no others: they come with the token ids and are put right here.

    With the ids, and not with the module, so that threads can share a model.
    """
    positions = args[0].__dict__.pop(_POSITIONS, None)
    return None if positions is None else (args, {**kwargs, "position_ids": positions})


def run_decoder(
    model: PreTrainedModel, input_ids: torch.Tensor, positions: torch.Tensor, layout: Layout, **inputs: Any
) -> torch.Tensor:
    """Run tokens through the decoder of a model that is prepared.

    Args:
        model: prepared by `prepare`.
        input_ids: int64 `[1, tokens]`.
        positions: int64 `[1, tokens]`, the place of each in its text.
        layout: which tokens see which.
        inputs: further arguments: the encoder's states, a cache.

    Returns:
        The last hidden states, `[tokens, width]`.
    """
    # A mask of four dimensions is passed on as it is, which keeps models from making their own; layouts bring theirs.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    inputs |= {"attention_mask": no_mask, "layout": layout}
    if model.config.is_encoder_decoder:
        inputs["encoder_attention_mask"] = no_mask
    if model.config.model_type in _LEARNED_POSITIONS:
        setattr(input_ids, _POSITIONS, positions[0])
    elif relative_attention(model) is None:
        inputs["position_ids"] = positions
    hidden = model.get_decoder()(input_ids=input_ids, **inputs).last_hidden_state[0]
    if hasattr(input_ids, _POSITIONS):
        raise RuntimeError("Positions did not reach the decoder's embedding: is something copying the token ids?")
    return hidden


def relative_attention(model: PreTrainedModel) -> Any:
    """The decoder's module that holds T5's relative position bias; None for other architectures."""
    block = getattr(model.get_decoder(), "block", None)
    attention = block[0].layer[0].SelfAttention if block is not None else None
    return attention if getattr(attention, "has_relative_attention_bias", False) else None


def relative_bias(model: PreTrainedModel, distance: torch.Tensor) -> torch.Tensor | None:
    """T5's bias of self-attention in the decoder; None for other architectures.

    Args:
        model: any model.
        distance: int64 `[mentions, queries, keys]`, position of the key less that of the query.

    Returns:
        Float `[mentions, heads, queries, keys]`.
    """
    attention = relative_attention(model)
    if attention is None:
        return None
    buckets = attention._relative_position_bucket(
        distance,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)


def head_states(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """What the language-model head is applied to, from the decoder's last hidden states `[tokens, width]`."""
    # T5 with tied embeddings.
    return hidden * model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else hidden


def has_logits_bias(model: PreTrainedModel) -> bool:
    """Whether BART's bias of the logits is anything but zero."""
    bias = getattr(model, "final_logits_bias", None)
    return bias is not None and bool(bias.any())


def lm_logits(model: PreTrainedModel, hidden: torch.Tensor, *, with_bias: bool = True) -> torch.Tensor:
    """Logits, in float32, of decoder states `[n, width]`; `with_bias=False` leaves out BART's bias, usually zero."""
    logits = model.get_output_embeddings()(head_states(model, hidden))
    bias = getattr(model, "final_logits_bias", None) if with_bias else None
    return (logits if bias is None else logits + bias).float()


def join_embeddings(model: PreTrainedModel) -> None:
    """Make one module of encoder and decoder embeddings that share their weight.

    FSDP2 takes a weight that modules share only in those that accelerate tells it of: input embeddings and head.
    """
    shared: Any = model.get_input_embeddings()
    stacks: tuple[Any, ...] = (model.get_encoder(), model.get_decoder()) if model.config.is_encoder_decoder else ()
    for stack in stacks:
        own = stack.embed_tokens
        alike = type(own) is type(shared) and getattr(own, "embed_scale", 1) == getattr(shared, "embed_scale", 1)
        if own.weight is shared.weight and alike:
            stack.embed_tokens = shared


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
