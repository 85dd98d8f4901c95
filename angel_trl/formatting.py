"""How a mention becomes token ids: the only module that knows the input and output format.

The format is token-compatible with the published ANGEL and GenBioEL checkpoints:

* encoder input: ``bos + tokens(" " + "left START mention END right") + eos``, context lowercased and cut by words;
* decoder prefix: ``decoder_start + tokens(" " + "mention is")``;
* name: ``tokens(" " + name) + eos``, the very sequence that the trie holds and that training scores.

Decoder-only models get the same words as one prompt: ``bos + tokens(" " + "left START mention END right") +
tokens(" " + "mention is")``.

Everything downstream works on these ids. Nothing is decoded to text and tokenised again, so the two sides of a
preference pair can never differ in spacing, and a mention that itself contains " is" is never split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from angel_trl.abbreviations import expand
from angel_trl.normalization import NORMALIZATIONS, normalize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

START, END = "START", "END"
ABBREVIATIONS = ("keep", "ab3p")


@dataclasses.dataclass(frozen=True, slots=True)
class MentionFormat:
    """The choices of the format; everything else is fixed.

    Args:
        max_words: longest passage in space-separated words (384 in the published code); longer ones lose context.
        mention_normalization: rule applied to the mention (the published NCBI files use "genbioel", the BC5CDR and
            COMETA ones keep punctuation: "lower").
        abbreviations: "ab3p" writes out in mentions the abbreviations that their texts define, as the paper does
            (needs the extra `abbreviations`); "keep" leaves them.
    """

    max_words: int = 384
    mention_normalization: str = "genbioel"
    abbreviations: str = "keep"

    def __post_init__(self) -> None:
        if self.max_words < 2:
            raise ValueError(f"max_words is {self.max_words}, but both sides of a mention need at least one word.")
        if self.mention_normalization not in NORMALIZATIONS:
            raise ValueError(
                f"mention_normalization is {self.mention_normalization!r}; choose one of {', '.join(NORMALIZATIONS)}."
            )
        if self.abbreviations not in ABBREVIATIONS:
            raise ValueError(f"abbreviations is {self.abbreviations!r}; choose one of {', '.join(ABBREVIATIONS)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedMention:
    """Token ids of one mention: `source` for the encoder, `prefix` for the decoder.

    Decoder-only models have no source; `prefix` is then the whole prompt.
    """

    source: tuple[int, ...]
    prefix: tuple[int, ...]


def truncate_context(left: str, mention: str, right: str, max_words: int) -> tuple[str, str]:
    """Cut the context of a mention to `max_words` space-separated words, mention included in the count of excess.

    A passage of at most `max_words` words is left alone. Otherwise a side of at most half stays whole and the other
    gets what is left; when both are longer, each keeps the half nearest to the mention.

    Returns:
        The left and right context, stripped.
    """
    left_words, right_words = left.split(), right.split()
    if len(left_words) + len(mention.split()) + len(right_words) > max_words:
        keep_left = keep_right = half = max_words // 2
        if len(left_words) <= half:
            keep_left, keep_right = len(left_words), max_words - len(left_words)
        elif len(right_words) <= half:
            keep_left = max_words - len(right_words)
        # Not `[-keep_left:]`, which would keep everything where nothing is to be kept.
        return " ".join(left_words[max(0, len(left_words) - keep_left) :]), " ".join(right_words[:keep_right])
    return left.strip(), right.strip()


class MentionFormatter:
    """Turns mentions and names into token ids for one tokenizer and model.

    Args:
        tokenizer: must have an end-of-sequence token; a beginning-of-sequence token is used where there is one.
        config: the model's configuration: decoder start token and window sizes.
        format: the choices of the format.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, format: MentionFormat | None = None
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-sequence token; set tokenizer.eos_token.")
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; load the fast one of the same name.")
        self.has_encoder: bool = config.is_encoder_decoder
        if self.has_encoder and getattr(config, "decoder_start_token_id", None) is None:
            raise ValueError(
                f"The configuration of this {config.model_type!r} model has no decoder_start_token_id; set it to the "
                "token its decoder begins with (for BART the end-of-sequence token, for T5 the padding token)."
            )
        self.tokenizer = tokenizer
        self.format = format or MentionFormat()
        self.eos: int = tokenizer.eos_token_id
        self.bos: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.decoder_start: list[int] = [config.decoder_start_token_id] if self.has_encoder else []
        # Window of the positional embeddings; None for models without one (T5).
        self.max_tokens: int | None = getattr(config, "max_position_embeddings", None)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of `" " + text` for each text, without special tokens."""
        if not texts:
            return []
        # A passage that happens to hold "</s>" or "<mask>" means those characters, not the special token.
        padded = [" " + text for text in texts]
        return self.tokenizer(padded, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def mention_text(self, mention: str) -> str:
        """The mention as the model sees it (its lowercased self when normalising leaves nothing, as for "+")."""
        return normalize(mention, self.format.mention_normalization) or mention.lower().strip()

    def source_text(self, text: str, start: int, end: int, max_words: int | None = None) -> str:
        """`left START mention END right` for the mention `text[start:end]`, without the leading space."""
        mention = self.mention_text(text[start:end])
        limit = self.format.max_words if max_words is None else max_words
        left, right = truncate_context(text[:start].lower(), mention, text[end:].lower(), limit)
        return " ".join(part for part in (left, START, mention, END, right) if part)

    def prefix_text(self, mention: str) -> str:
        """The words the decoder is given before the name."""
        return f"{self.mention_text(mention)} is"

    def names(self, names: Sequence[str]) -> list[list[int]]:
        """Token ids of each name with the end token: what the trie holds and what the model must produce."""
        return [[*ids, self.eos] for ids in self.tokens(names)]

    def unknown_names(self, sequences: Sequence[Sequence[int]]) -> list[int]:
        """Positions of the sequences that hold the tokenizer's unknown token."""
        unknown = self.tokenizer.unk_token_id
        return [] if unknown is None else [i for i, ids in enumerate(sequences) if unknown in ids]

    def long_names(self, sequences: Sequence[Sequence[int]]) -> list[int]:
        """Positions of the sequences that do not fit behind the longest prefix `encode` allows."""
        room = None if self.max_tokens is None else self.max_tokens - self.max_tokens // 2
        return [] if room is None else [i for i, ids in enumerate(sequences) if len(ids) > room]

    def prepare(self, mentions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The mentions with what is done to texts before they are encoded: abbreviations written out, if chosen."""
        return list(mentions) if self.format.abbreviations == "keep" else [*expand(mentions)]

    def encode(self, mentions: Iterable[Mapping[str, Any]]) -> list[EncodedMention | None]:
        """Encode mentions given as mappings with `text`, `start` and `end`.

        Context is cut further, to a half again and again, where the words of a passage make more tokens than the
        model's window.

        Returns:
            One item a mention, in order; None for a mention that alone is longer than the model's window.
        """
        rows = [(row["text"], row["start"], row["end"]) for row in mentions]
        sources = self.tokens([self.source_text(*row) for row in rows])
        prefixes = self.tokens([self.prefix_text(text[start:end]) for text, start, end in rows])
        encoded: list[EncodedMention | None] = []
        shortened = 0
        for row, source, prefix in zip(rows, sources, prefixes, strict=True):
            if self.max_tokens is not None:
                # Half of the decoder's window is left to the name.
                half = self.max_tokens // 2
                room = self.max_tokens - len(self.bos) - 1 if self.has_encoder else half - len(self.bos) - len(prefix)
                words = self.format.max_words
                shortened += len(source) > room
                while len(source) > room and words > 0:
                    words //= 2
                    source = self.tokens([self.source_text(*row, max_words=words)])[0]
                if len(source) > room or len(self.decoder_start) + len(prefix) > half:
                    encoded.append(None)
                    continue
            if self.has_encoder:
                encoded.append(EncodedMention((*self.bos, *source, self.eos), (*self.decoder_start, *prefix)))
            else:
                encoded.append(EncodedMention((), (*self.bos, *source, *prefix)))
        if shortened:
            window = self.max_tokens
            logger.info("%d passages were cut further to fit the model's window of %d tokens", shortened, window)
        return encoded

    def prompt_text(self, mention: EncodedMention) -> str:
        """Source and prefix as text, for datasets: what a causal model's tokenizer makes the same ids of again.

        A beginning token that the tokenizer would not put there itself is written out.
        """
        if self.has_encoder:
            source = self.tokenizer.decode(mention.source, skip_special_tokens=True)
            return source + self.tokenizer.decode(mention.prefix[len(self.decoder_start) :])
        by_itself = self.tokenizer("a")["input_ids"][: len(self.bos)] == self.bos
        ids = mention.prefix[len(self.bos) :] if by_itself else mention.prefix
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def fingerprint(self, names_fingerprint: str) -> str:
        """Identifies the token sequences of the names: the knowledge base's fingerprint and the tokenizer's."""
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # Padding and truncation are settings of a call, not of the tokenizer.
        parts = {key: value for key, value in backend.items() if key not in ("padding", "truncation")}
        content = json.dumps([names_fingerprint, parts, self.bos, self.eos], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
