"""A model as the search sees it: log-probabilities of the tokens that may follow hypotheses, many at once.

Knows models and their architectures, not tries. Encoder-decoder and decoder-only models look alike from above: the
source (if any) is encoded once a mention, the prefix or prompt is run once a mention, and hypotheses are extended by
one or more tokens at a time in one forward over the tokens that are new.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from angel_trl.architectures import has_logits_bias, lm_logits, relative_attention, relative_bias, run_decoder
from angel_trl.formatting import EncodedMention
from angel_trl.name_trees import pad
from angel_trl.tree_attention import TreeCache, TreeStep

# Logits computed at a time: 32 MB in float32.
_LOGITS_AT_ONCE = 2**23

Ints = NDArray[np.int64]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Run `model` without gradients and dropout, and leave each of its modules in the mode it was in.

    Threads may share a model that is in evaluation mode already.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


class TreeDecoder:
    """The hypotheses of a batch of mentions, extended step by step.

    A hypothesis is known by the number of its last token. Numbers `0 .. mentions - 1` stand for the end of each
    mention's prefix; tokens are numbered on from there in the order in which they are fed.

    Args:
        model: prepared by `architectures.prepare`, in evaluation mode.
        mentions: the batch.

    Attributes:
        tokens_fed: tokens run through the decoder so far.
        gave_no_numbers: whether a probability was not a number (NaN).
    """

    def __init__(self, model: PreTrainedModel, mentions: Sequence[EncodedMention]) -> None:
        self._model = model
        self._device = model.device
        self._prefix = np.array([len(mention.prefix) for mention in mentions])
        self._mentions = mentions
        self._cache = TreeCache()
        self._inputs: dict[str, Any] = {"past_key_values": self._cache}
        self._source: torch.Tensor | None = None
        if model.config.is_encoder_decoder:
            self._encode([mention.source for mention in mentions])
        self._has_bias = has_logits_bias(model)
        # Row of the caches where each mention stands; they lose mentions as these finish.
        self._place = np.arange(len(mentions))
        self._places = len(mentions)
        self._used = np.zeros(len(mentions), dtype=np.int64)  # slots in use
        # Of each token: how many were generated up to it, and the slots of those (-1 beyond).
        self._depth = np.zeros(len(mentions), dtype=np.int64)
        self._paths = np.full((len(mentions), 0), -1, dtype=np.int64)
        self._slot_positions = np.zeros((len(mentions), 0), dtype=np.int64)
        self.tokens_fed = 0
        self.gave_no_numbers = False

    def _encode(self, sources: Sequence[Sequence[int]]) -> None:
        padded = _upload(pad(sources, self._model.config.pad_token_id or 0), self._device)
        lengths = _upload(np.array([len(source) for source in sources]), self._device)
        mask = torch.arange(padded.shape[1], device=self._device)[None, :] < lengths[:, None]
        states = self._model.get_encoder()(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        self._source = mask[:, None, None, :]
        self._cross = DynamicCache()
        self._inputs = {
            "encoder_hidden_states": states,
            "past_key_values": EncoderDecoderCache(self._cache, self._cross),
        }

    @property
    def cells_a_query(self) -> int:
        """What one more query a mention adds to the masks of attention: rows of the caches times slots."""
        return self._places * max(1, int(self._used.max()))

    def start(self, asked: Ints, tokens: Ints) -> NDArray[np.float32]:
        """Run the prefixes.

        Args:
            asked: int64 `[questions]`, mentions.
            tokens: int64 `[questions]`, a token after the prefix of each.

        Returns:
            float32 `[questions]`, the natural logarithm of the probability of each token; -inf where the model gives
            none (NaN).
        """
        mention = np.repeat(np.arange(len(self._prefix)), self._prefix)
        position = _counted(self._prefix)
        slots = int(self._prefix.max())
        visible = torch.ones(slots, slots, dtype=torch.bool, device=self._device).tril()
        visible = visible.expand(len(self._prefix), 1, slots, slots)
        self._used = self._prefix.copy()
        flat = np.concatenate([np.array(mention.prefix, dtype=np.int64) for mention in self._mentions])
        hidden = self._forward(flat, position, mention, position, position, visible)
        return self._log_probs(hidden[_upload(np.cumsum(self._prefix) - 1, self._device)], asked, tokens)

    def extend(
        self, mention: Ints, parent: Ints, tokens: Ints, lengths: Ints, asked: Ints, asked_tokens: Ints
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Extend hypotheses by one or more tokens each.

        Args:
            mention: int64 `[rows]`, ascending.
            parent: int64 `[rows]`, number of the token each row goes on from.
            tokens: int64 `[tokens]`, the new tokens of row 0, of row 1, ...
            lengths: int64 `[rows]`, how many each row gets, at least 1.
            asked: int64 `[questions]`, places in `tokens`.
            asked_tokens: int64 `[questions]`, a token after each.

        Returns:
            The number of each row's last token, int64 `[rows]`, and the natural logarithm of the probability of each
            token asked for, float32 `[questions]`.
        """
        row = np.repeat(np.arange(len(mention)), lengths)
        owner, before = mention[row], self._depth[parent][row]
        depth = before + _counted(lengths) + 1
        count = np.bincount(owner, minlength=len(self._prefix))
        query = _counted(count[count > 0])
        slot = self._used[owner] + query
        self._used += count
        # The path to a token: its parent's, then the slots of its own row, which are consecutive.
        columns = np.arange(max(int(depth.max()), self._paths.shape[1]))
        if len(columns) > self._paths.shape[1]:
            wider = len(columns) - self._paths.shape[1]
            self._paths = np.pad(self._paths, ((0, 0), (0, wider)), constant_values=-1)
        own = (columns >= before[:, None]) & (columns < depth[:, None])
        paths = np.where(own, (slot - depth + 1)[:, None] + columns, self._paths[parent[row]])
        numbers = len(self._depth) + np.cumsum(lengths) - 1
        self._paths, self._depth = np.concatenate([self._paths, paths]), np.concatenate([self._depth, depth])
        visible = self._visible(owner, query, int(count.max()), paths)
        hidden = self._forward(tokens, self._prefix[owner] + depth - 1, owner, query, slot, visible)
        return numbers, self._log_probs(hidden, asked, asked_tokens)

    def keep_only(self, mention: Ints) -> None:
        """Say which mentions (int64, ascending, repeated or not) will still be extended.

        The keys of the others are forgotten once they are at least half: moving keys costs more than it saves before.
        """
        alive = np.flatnonzero(np.bincount(mention))
        if 2 * len(alive) > self._places:
            return
        kept = _upload(self._place[alive], self._device)
        self._cache.select(kept)
        self._slot_positions = self._slot_positions[self._place[alive]]
        if self._source is not None:
            for layer in self._cross.layers:
                layer.keys, layer.values = layer.keys[kept], layer.values[kept]
            self._source = self._source[kept]
            self._inputs["encoder_hidden_states"] = self._inputs["encoder_hidden_states"][kept]
        self._place[alive] = np.arange(len(alive))
        self._places = len(alive)

    def _visible(self, owner: Ints, query: Ints, queries: int, paths: Ints) -> torch.Tensor:
        """Which slots each query sees: the prefix of its mention and its own path; a last column takes the -1s."""
        slots = int(self._used.max())
        prefix = np.zeros(self._places, dtype=np.int64)
        prefix[self._place[owner]] = self._prefix[owner]
        in_prefix = torch.arange(slots + 1, device=self._device) < _upload(prefix, self._device)[:, None]
        visible = in_prefix[:, None, :].repeat(1, queries, 1)
        rows = _upload(self._place[owner] * queries + query, self._device)
        visible.view(-1, slots + 1)[rows[:, None], _upload(np.where(paths < 0, slots, paths), self._device)] = True
        return visible[:, None, :, :slots]

    def _forward(
        self, tokens: Ints, positions: Ints, owner: Ints, query: Ints, slot: Ints, visible: torch.Tensor
    ) -> torch.Tensor:
        """Run new tokens through the decoder; return their last hidden states `[tokens, width]`."""
        self.tokens_fed += len(tokens)
        place = self._place[owner]
        index = _upload(np.stack([tokens, positions, place, query, slot]), self._device)
        step = TreeStep(
            place=index[2],
            query=index[3],
            queries=visible.shape[2],
            full=len(tokens) == len(visible) * visible.shape[2],
            slot=index[4],
            visible=visible,
            source=self._source,
            bias=self._relative_bias(place, query, slot, positions, visible),
            longest=int(positions.max()) + 1,
        )
        self._cache.expect(step)
        return run_decoder(self._model, index[:1], index[1:2], step, **self._inputs, use_cache=True)

    def _relative_bias(
        self, place: Ints, query: Ints, slot: Ints, positions: Ints, visible: torch.Tensor
    ) -> torch.Tensor | None:
        """T5's bias for the distance between two tokens of a path, `[mentions, heads, queries, slots]`."""
        if relative_attention(self._model) is None:
            return None
        slots = visible.shape[-1]
        if self._slot_positions.shape[1] < slots:
            wider = slots + slots // 2 - self._slot_positions.shape[1]
            self._slot_positions = np.pad(self._slot_positions, ((0, 0), (0, wider)))
        self._slot_positions[place, slot] = positions
        own = np.zeros((len(visible), visible.shape[2]), dtype=np.int64)
        own[place, query] = positions
        distance = _upload(self._slot_positions[:, None, :slots] - own[:, :, None], self._device)
        return relative_bias(self._model, distance)

    def _log_probs(self, hidden: torch.Tensor, asked: Ints, tokens: Ints) -> NDArray[np.float32]:
        """Log-probability of `tokens` after the states `asked`: the one transfer of a step from the device."""
        at_once = max(1, _LOGITS_AT_ONCE // self._model.config.vocab_size)
        order = np.argsort(asked, kind="stable") if len(hidden) > at_once else np.arange(len(asked))
        begins = np.arange(0, len(hidden), at_once)
        parts = []
        for begin, part in zip(begins, np.split(order, np.searchsorted(asked[order], begins[1:])), strict=True):
            index = _upload(np.stack([asked[part] - begin, tokens[part]]), self._device)
            logits = lm_logits(self._model, hidden[begin : begin + at_once], with_bias=self._has_bias)
            parts.append(logits.log_softmax(-1)[index[0], index[1]])
        values = np.empty(len(asked), dtype=np.float32)
        # Rounding must not make a path likelier than its beginning: bounds rely on it.
        values[order] = torch.cat(parts).clamp(max=0).cpu().numpy()
        not_numbers = np.isnan(values)
        if not_numbers.any():
            self.gave_no_numbers = True
            values[not_numbers] = -np.inf
        return values


def _counted(lengths: Ints) -> Ints:
    """0, 1, .., lengths[0] - 1, 0, 1, .., lengths[1] - 1, ..."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _upload(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor on `device`, without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
