"""Constrained beam search over a name trie: batched, cached, and able to say when its answer is exact.

Knows models and tries, not gold labels or training. The search differs from `generate` in what it computes: only
children of live trie nodes are scored (no Python callback, no score tensor to fill), a mention starts with one row and
never holds a dead one, finished names do not occupy beams, and a prefix that can no longer enter the top k is dropped.
Log-probabilities only fall along a path, so when no prefix was dropped that scored above the k-th name found, the
list is the true top k and is marked `exact`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from angel_trl.formatting import EncodedMention
from angel_trl.shared_encoder import SharedRows, completion_logits, lm_logits, pack, pad, share_cross_attention
from angel_trl.trie import NameTrie


@dataclasses.dataclass(slots=True)
class Candidates:
    """The names found for each mention, best first.

    Args:
        names: int64 `[mentions, k]` name indices, -1 where fewer than k names exist.
        log_probs: float32 `[mentions, k]`, natural logarithm of the probability of the name's tokens (end token
            included) given source and prefix; -inf where there is no name.
        exact: bool `[mentions]`, whether the list is provably the true top k.
    """

    names: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    exact: NDArray[np.bool_]

    @classmethod
    def empty(cls, mentions: int, k: int) -> Candidates:
        """Candidates without any name."""
        return cls(
            np.full((mentions, k), -1, dtype=np.int64),
            np.full((mentions, k), -np.inf, dtype=np.float32),
            np.zeros(mentions, dtype=bool),
        )

    def put(self, rows: NDArray[np.int64], other: Candidates) -> None:
        """Replace the candidates of the mentions `rows` by `other`."""
        self.names[rows], self.log_probs[rows], self.exact[rows] = other.names, other.log_probs, other.exact


def search(
    model: PreTrainedModel,
    trie: NameTrie,
    mentions: Sequence[EncodedMention | None],
    *,
    num_beams: int = 10,
    top_k: int = 5,
    batch_size: int = 32,
    until_exact: bool = False,
    progress: str | None = None,
) -> Candidates:
    """Find the names of `trie` that `model` finds likeliest for each mention.

    Args:
        model: an encoder-decoder model; it is searched in evaluation mode and left in the mode it was in.
        trie: the names.
        mentions: encoded mentions; None (a mention the model's window cannot hold) gets no candidates.
        num_beams: most prefixes kept alive for a mention at each step.
        top_k: names returned for a mention.
        batch_size: mentions searched together. Results do not depend on it.
        until_exact: search again with four times the beams, as often as needed, what is not exact.
        progress: text of a progress bar, None for none.

    Raises:
        ValueError: if `num_beams` or `top_k` is below 1, or the model's architecture is not supported.
    """
    if num_beams < 1 or top_k < 1:
        raise ValueError(f"num_beams ({num_beams}) and top_k ({top_k}) must be at least 1.")
    share_cross_attention(model)
    trie = trie.to(model.device)
    found = Candidates.empty(len(mentions), top_k)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), tqdm(total=len(mentions), desc=progress, disable=progress is None) as bar:
            todo = np.array([row for row, mention in enumerate(mentions) if mention is not None], dtype=np.int64)
            bar.update(len(mentions) - len(todo))
            while len(todo):
                for rows in _batches(mentions, todo, batch_size):
                    batch = [mention for row in rows if (mention := mentions[row]) is not None]
                    found.put(rows, _search_batch(model, trie, batch, num_beams, top_k))
                    bar.update(len(rows) if not until_exact else int(found.exact[rows].sum()))
                todo = todo[~found.exact[todo]] if until_exact else todo[:0]
                num_beams *= 4
    finally:
        model.train(was_training)
    return found


def _batches(
    mentions: Sequence[EncodedMention | None], rows: NDArray[np.int64], batch_size: int
) -> Iterator[NDArray[np.int64]]:
    """Batches of mentions with equally long prefixes (so that positions agree), of similar source length."""
    lengths = [(len(m.prefix), len(m.source)) for row in rows if (m := mentions[row]) is not None]
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    begin = 0
    for i in range(1, len(order) + 1):
        new_prefix = i == len(order) or lengths[order[i]][0] != lengths[order[begin]][0]
        if new_prefix or i - begin == batch_size:
            yield rows[order[begin:i]]
            begin = i


def _segment_rank(segment: torch.Tensor, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order items by segment, then by falling score; ties keep their order.

    Returns:
        `(order, rank)`: the permutation, and each ordered item's rank in its segment; both int64.
    """
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(segment[order], stable=True)]
    ordered = segment[order]
    position = torch.arange(len(order), device=order.device)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = torch.cummax(torch.where(first, position, 0), 0).values
    return order, position - start


class _Decoder:
    """The decoder of a batch of mentions, its caches, and which row belongs to which mention."""

    def __init__(self, model: PreTrainedModel, mentions: Sequence[EncodedMention]) -> None:
        self.model = model
        padding = model.config.pad_token_id or 0
        source = pad([mention.source for mention in mentions], padding, model.device)
        lengths = torch.tensor([len(mention.source) for mention in mentions], device=model.device)
        self.mask = torch.arange(source.shape[1], device=model.device)[None, :] < lengths[:, None]
        self.encoded = model.get_encoder()(input_ids=source, attention_mask=self.mask.long()).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.prefix = torch.tensor([mention.prefix for mention in mentions], device=model.device)
        # Where each mention stands in the encoder states, which lose mentions as they finish.
        self.place = torch.arange(len(mentions), device=model.device)

    def start(self) -> torch.Tensor:
        """Run the prefix, one row a mention, and return the logits after it."""
        return self._forward(self.prefix, self.place)

    def step(self, parent: torch.Tensor, mention: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Extend row `parent` by `token` for each new row, of `mention` (ascending); return the logits after it."""
        self.cache.self_attention_cache.batch_select_indices(parent)
        alive = torch.unique_consecutive(mention)
        if 2 * len(alive) <= len(self.encoded):
            kept = self.place[alive]
            self.cache.cross_attention_cache.batch_select_indices(kept)
            self.encoded, self.mask = self.encoded[kept], self.mask[kept]
            self.place[alive] = torch.arange(len(alive), device=alive.device)
        return self._forward(token[:, None], self.place[mention])

    def _forward(self, tokens: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        hidden = self.model.get_decoder()(
            input_ids=tokens,
            encoder_hidden_states=self.encoded,
            past_key_values=self.cache,
            use_cache=True,
            shared_rows=SharedRows.of(place, self.mask, ascending=True),
        ).last_hidden_state[:, -1]
        return lm_logits(self.model, hidden)


def _search_batch(
    model: PreTrainedModel, trie: NameTrie, mentions: Sequence[EncodedMention], num_beams: int, top_k: int
) -> Candidates:
    device, count = model.device, len(mentions)
    decoder = _Decoder(model, mentions)
    # Live rows, ordered by mention: the mention, the trie node reached and the log-probability so far.
    mention = torch.arange(count, device=device)
    node = torch.zeros(count, dtype=torch.int64, device=device)
    score = torch.zeros(count, device=device)
    # Names found, at most `top_k` a mention, likewise.
    done = [mention[:0], score[:0], node[:0]]
    kth = torch.full((count,), -torch.inf, device=device)
    pruned = torch.full((count,), -torch.inf, device=device)
    logits = decoder.start()
    while True:
        row, child = trie.expand(node)
        token = trie.token(child)
        extended = score[row] + logits[row, token] - logits.logsumexp(-1)[row]
        owner, leaf = mention[row], trie.is_leaf(child)
        done = [torch.cat(both) for both in zip(done, (owner[leaf], extended[leaf], child[leaf]), strict=True)]
        order, rank = _segment_rank(done[0], done[1])
        order, rank = order[rank < top_k], rank[rank < top_k]
        done = [part[order] for part in done]
        last = rank == top_k - 1
        kth[done[0][last]] = done[1][last]
        live = ~leaf & (extended > kth[owner])
        row, token, child, owner, extended = (part[live] for part in (row, token, child, owner, extended))
        order, rank = _segment_rank(owner, extended)
        dropped, order = order[rank >= num_beams], order[rank < num_beams]
        pruned.scatter_reduce_(0, owner[dropped], extended[dropped], "amax")
        if not len(order):
            break
        mention, node, score = owner[order], child[order], extended[order]
        logits = decoder.step(row[order], mention, token[order])
    found = Candidates.empty(count, top_k)
    place = (done[0].cpu().numpy(), _place_in(done[0]).cpu().numpy())
    found.names[place] = trie.name(done[2]).cpu().numpy()
    found.log_probs[place] = done[1].cpu().numpy()
    found.exact[:] = ((pruned == -torch.inf) | (pruned <= kth)).cpu().numpy()
    return found


def _place_in(segment: torch.Tensor) -> torch.Tensor:
    """Place of each item within its segment, for ascending `segment`."""
    return _segment_rank(segment, torch.zeros(len(segment), device=segment.device))[1]


def score_names(
    model: PreTrainedModel,
    mentions: Sequence[EncodedMention],
    names: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 32,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of given names by teacher forcing, one forward a batch: what the search gives them.

    Args:
        model: an encoder-decoder model; scored in evaluation mode.
        mentions: encoded mentions.
        names: for each mention, the token sequences (end token included) to score.
        batch_size: mentions scored together.

    Returns:
        For each mention, float32 `[its names]`.
    """
    share_cross_attention(model)
    scores: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32) for _ in mentions]
    order = sorted((i for i in range(len(mentions)) if names[i]), key=lambda i: len(mentions[i].source))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for begin in range(0, len(order), batch_size):
                chunk = order[begin : begin + batch_size]
                rows = [(place, name) for place, i in enumerate(chunk) for name in names[i]]
                packed = pack([mentions[i] for i in chunk], rows, model.config.pad_token_id or 0)
                batch = {key: value.to(model.device) for key, value in packed.items()}
                logits, labels, row = completion_logits(model, batch)
                log_probs = logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(-1)
                values = torch.zeros(len(rows), device=model.device).index_add_(0, row, log_probs).cpu().numpy()
                for i, part in zip(
                    chunk, np.split(values, np.cumsum([len(names[i]) for i in chunk])[:-1]), strict=True
                ):
                    scores[i] = part
    finally:
        model.train(was_training)
    return scores
