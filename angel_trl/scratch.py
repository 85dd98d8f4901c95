"""Small models from scratch, with a tokenizer trained on the names: for where no pre-trained weights can be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True, slots=True)
class ScratchPreset:
    """Size of a BART trained from scratch.

    Args:
        vocabulary: most entries of the byte-level BPE, special tokens included.
        width: hidden size.
        layers: layers of the encoder and of the decoder.
        heads: attention heads.
        feed_forward: inner width of the feed-forward layers.
        window: longest sequence in tokens.
        dropout: dropout rate while training on right names.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    window: int = 512
    dropout: float = 0.1


SCRATCH_PRESETS = {
    "scratch-tiny": ScratchPreset(2000, width=64, layers=2, heads=2, feed_forward=256, window=256, dropout=0.0),
    "scratch-small": ScratchPreset(6000, width=192, layers=3, heads=6, feed_forward=768, dropout=0.05),
    "scratch-quick": ScratchPreset(6000, width=192, layers=3, heads=6, feed_forward=768, dropout=0.0),
}
"""Presets by name: about 0.4, 4.5 and 4.5 million parameters; the last is for settings that train it by Muon."""

_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with BART's special tokens, in BART's order; no text is unknown to it.

    Args:
        texts: what it will write: names, and passages if they matter. Best lowercased and normalised like the input.
        vocabulary: most entries.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The space before is part of a word's first token, and the markers and the copula should be single tokens.
    tokenizer.train_from_iterator((f" START {text} END is" for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def scratch_model(
    preset: str, texts: Iterable[str], *, seed: int = 0
) -> tuple[BartForConditionalGeneration, PreTrainedTokenizerFast]:
    """A BART with random weights and a tokenizer trained on `texts`.

    Args:
        preset: a name of `SCRATCH_PRESETS`.
        texts: what the tokenizer is trained on.
        seed: of the weights.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in SCRATCH_PRESETS:
        raise ValueError(f"{preset!r} is no scratch preset; choose one of {', '.join(SCRATCH_PRESETS)}.")
    size = SCRATCH_PRESETS[preset]
    tokenizer = train_tokenizer(texts, size.vocabulary)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.feed_forward,
        decoder_ffn_dim=size.feed_forward,
        max_position_embeddings=size.window,
        # Tokens stand out against positions from the first step on, which is what copying is learnt from.
        scale_embedding=True,
        dropout=size.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BartForConditionalGeneration(config)
    return model, tokenizer
