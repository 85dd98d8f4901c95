"""Constrained search over a name trie: best first, batched, and able to say when its answer is exact.

Knows models (through `TreeDecoder`) and tries, not gold labels or training. The constraint makes the search cheaper
than one without: only children of trie nodes that were reached are scored; a stretch of a name without alternatives is
run in one forward; names are completed early, from the likeliest prefixes on (best-first beam search: Meister, Vieira
and Cotterell, TACL 2020), and every prefix that cannot beat the k-th name found is forgotten without being run.
Log-probabilities only fall along a path, so when nothing that fell out of the beam was worth more than the k-th name,
the list is the true top k and is marked `exact`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from angel_trl.architectures import prepare
from angel_trl.formatting import EncodedMention
from angel_trl.frontier import Floats, Found, Frontier, Ints, Prefixes
from angel_trl.restrictions import Restriction
from angel_trl.tree_decoder import TreeDecoder, evaluating
from angel_trl.trie import NameTrie

logger = logging.getLogger(__name__)

RANKINGS = ("sum", "mean")
# Prefixes of a mention extended in one forward, at least and at most; a quarter of the beam between them. More means
# fewer forwards, and more prefixes run that the names found meanwhile would have ruled out.
_AT_ONCE = (8, 64)
# Cells of attention masks (mentions x queries x slots) in one forward: 32 MB.
_CELLS = 2**25


@dataclasses.dataclass(slots=True)
class Candidates:
    """The names found for each mention, best first.

    Args:
        names: int64 `[mentions, k]` name indices, -1 where fewer than k names exist or were found.
        log_probs: float32 `[mentions, k]`, natural logarithm of the probability of the name's tokens (end token
            included) given source and prefix; -inf where there is no name.
        lengths: int64 `[mentions, k]`, tokens of the name (end token included); 0 where there is no name.
        exact: bool `[mentions]`, whether the list is provably the true top k of the ranking asked for.
    """

    names: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    exact: NDArray[np.bool_]

    @classmethod
    def empty(cls, mentions: int, k: int) -> Candidates:
        """Candidates without any name."""
        return cls(
            np.full((mentions, k), -1, dtype=np.int64),
            np.full((mentions, k), -np.inf, dtype=np.float32),
            np.zeros((mentions, k), dtype=np.int64),
            np.zeros(mentions, dtype=bool),
        )

    @property
    def mean_log_probs(self) -> NDArray[np.float32]:
        """Log-probability a token, float32 `[mentions, k]`: the length-normalised score."""
        return (self.log_probs / np.maximum(self.lengths, 1)).astype(np.float32)

    def take(self, rows: NDArray[np.int64]) -> Candidates:
        """The candidates of the mentions `rows`."""
        return Candidates(*(getattr(self, field)[rows] for field in self.__slots__))

    def put(self, rows: NDArray[np.int64], other: Candidates) -> None:
        """Replace the candidates of the mentions `rows` by `other`."""
        for field in self.__slots__:
            getattr(self, field)[rows] = getattr(other, field)


def search(
    model: PreTrainedModel,
    trie: NameTrie,
    mentions: Sequence[EncodedMention | None],
    *,
    num_beams: int = 10,
    top_k: int = 5,
    batch_size: int = 32,
    ranking: str = "sum",
    exact: bool = False,
    max_beams: int = 1000,
    restrictions: Sequence[Restriction | None] | None = None,
    progress: str | None = None,
) -> Candidates:
    """Find the names of `trie` that `model` finds likeliest for each mention.

    Args:
        model: an encoder-decoder or decoder-only model; searched in evaluation mode and left in the mode it was in.
        trie: the names.
        mentions: encoded mentions; None (a mention the model's window cannot hold) gets no candidates.
        num_beams: a prefix is dropped once so many likelier ones of its length are known.
        top_k: names returned for a mention.
        batch_size: mentions searched together. Log-probabilities depend on it in their last digits only.
        ranking: "sum" ranks names by log-probability, "mean" by log-probability a token (length-normalised).
        exact: widen the beam of a mention until its list is exact, up to `max_beams`.
        max_beams: the widest beam that `exact` goes to; lists not exact by then are marked so.
        restrictions: for each mention the names it may be given (`TargetNames.restrict` makes them), None for all.
        progress: text of a progress bar, None for none.

    Raises:
        ValueError: for a setting out of range, or an architecture that is not supported.
    """
    if num_beams < 1 or top_k < 1 or batch_size < 1:
        raise ValueError(f"num_beams ({num_beams}), top_k ({top_k}) and batch_size ({batch_size}) must be at least 1.")
    if ranking not in RANKINGS:
        raise ValueError(f"ranking is {ranking!r}; choose one of {', '.join(RANKINGS)}.")
    if restrictions is not None and len(restrictions) != len(mentions):
        raise ValueError(f"{len(restrictions)} restrictions for {len(mentions)} mentions; give one each (or None).")
    for restriction in restrictions or ():
        if restriction is not None and not isinstance(restriction, Restriction):
            raise TypeError(
                f"A restriction is a {type(restriction).__name__}, {restriction!r:.80}; make it with "
                "restrict(names=..., ids=..., types=...)."
            )
        if restriction is not None and restriction.fingerprint != trie.fingerprint:
            raise ValueError(
                f"The restriction to {restriction.description} was made for other names (fingerprint "
                f"{restriction.fingerprint[:12]}) than those searched ({trie.fingerprint[:12]}). Make it again."
            )
    prepare(model)
    trie = trie.to("cpu")
    found = Candidates.empty(len(mentions), top_k)
    with evaluating(model), tqdm(total=len(mentions), desc=progress, disable=progress is None) as bar:
        for rows in _batches(mentions, batch_size):
            batch = [mention for row in rows if (mention := mentions[row]) is not None]
            allowed = [None if restrictions is None else restrictions[row] for row in rows]
            frontier = Frontier(len(rows), num_beams, keep=exact, max_beams=max_beams)
            searched = BatchSearch(TreeDecoder(model, batch), trie, allowed, frontier, top_k, ranking)
            found.put(rows, searched.run())
            bar.update(len(rows))
        bar.update(sum(mention is None for mention in mentions))
    return found


def _batches(mentions: Sequence[EncodedMention | None], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Batches of mentions of similar length: padding never makes a batch cost more than about twice its mentions."""
    # Attention over a prompt is what grows with it; a source is padded once.
    cost = {row: len(m.source) or len(m.prefix) ** 2 for row, m in enumerate(mentions) if m is not None}
    rows = np.array(sorted(cost, key=cost.__getitem__), dtype=np.int64)
    begin, own = 0, 0
    for end, row in enumerate(rows):
        own += cost[row]
        if end - begin == batch_size or cost[row] * (end - begin + 1) > 2 * own:
            yield rows[begin:end]
            begin, own = end, cost[row]
    if len(rows):
        yield rows[begin:]


class BatchSearch:
    """The search for the names of one batch; `search` runs one after the other.

    Args:
        decoder: over the batch's mentions; what it is asked is all that the search learns of the model.
        trie: the names, on the CPU.
        restrictions: for each mention the names it may be given, None for all.
        frontier: for as many mentions, empty.
        top_k: names to find for a mention.
        ranking: one of `RANKINGS`.
    """

    def __init__(
        self,
        decoder: TreeDecoder,
        trie: NameTrie,
        restrictions: Sequence[Restriction | None],
        frontier: Frontier,
        top_k: int,
        ranking: str,
    ) -> None:
        self._decoder = decoder
        self._trie = trie
        # Requests usually share their restrictions: each is looked up once.
        self._restrictions = [one for one in dict.fromkeys(restrictions) if one is not None]
        numbers: dict[Restriction | None, int] = {one: number for number, one in enumerate(self._restrictions)}
        self._restriction_of = np.array([numbers.get(one, -1) for one in restrictions])
        self._frontier = frontier
        self._found = Found(len(restrictions), top_k)
        self._longest = trie.longest() if ranking == "mean" else None

    def run(self) -> Candidates:
        """Extend prefixes, best first, until none is left that could lead to a name of the list."""
        mentions = np.arange(len(self._restriction_of))
        row, child = self._children(mentions, np.zeros_like(mentions))
        scores = self._decoder.start(row, self._tokens(child))
        self._arrive(row, mentions, child, np.ones_like(mentions), mentions, scores)
        while len(chosen := self._frontier.select(self._found.kth, *_AT_ONCE)):
            self._decoder.keep_only(chosen.mention)
            for part in self._parts(chosen):
                self._extend(part)
        found = self._found
        names = np.full(found.leaf.shape, -1, dtype=np.int64)
        there = found.leaf >= 0
        names[there] = self._trie.name(torch.from_numpy(found.leaf[there])).numpy()
        exact = (self._frontier.pruned == -np.inf) | (self._frontier.pruned <= found.kth)
        if self._decoder.gave_no_numbers:
            exact[:] = False
            logger.error(
                "The model gives probabilities that are not numbers (NaN); names they concern are not found. Its "
                "weights may have diverged in training, or overflow in float16: use bfloat16 or float32."
            )
        return Candidates(names, found.score, found.length, exact)

    def _parts(self, chosen: Prefixes) -> Iterator[Prefixes]:
        """Split what is to be extended so that masks of attention stay small: some prefixes of each mention a part."""
        counts = np.bincount(chosen.mention)
        rank = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
        at_once = max(1, _CELLS // self._decoder.cells_a_query)
        for begin in range(0, int(counts.max()), at_once):
            yield chosen.take((rank >= begin) & (rank < begin + at_once))

    def _extend(self, chosen: Prefixes) -> None:
        """Run the token of each prefix, and those that follow without an alternative; score what comes after."""
        row, node = self._stretches(chosen.mention, chosen.node)
        lengths = np.bincount(row, minlength=len(chosen))
        last = np.cumsum(lengths) - 1
        tokens = self._tokens(node)
        edge, child = self._children(chosen.mention, node[last])
        forced = np.flatnonzero(row[1:] == row[:-1])
        number, log_probs = self._decoder.extend(
            chosen.mention,
            chosen.parent,
            tokens,
            lengths,
            np.concatenate([forced, last[edge]]),
            np.concatenate([tokens[forced + 1], self._tokens(child)]),
        )
        inside = np.bincount(row[forced], weights=log_probs[: len(forced)], minlength=len(chosen))
        scores = (chosen.score + inside.astype(np.float32))[edge] + log_probs[len(forced) :]
        self._arrive(edge, chosen.mention, child, chosen.length + lengths, number, scores)

    def _arrive(self, row: Ints, mention: Ints, node: Ints, length: Ints, parent: Ints, score: Floats) -> None:
        """Enter the nodes reached: leaves among the names found, others among the prefixes.

        Args:
            row: int64 `[nodes]`, ascending: the row that each node was reached from.
            mention: int64 `[rows]`.
            node: int64 `[nodes]`.
            length: int64 `[rows]`, tokens up to the nodes reached from a row.
            parent: int64 `[rows]`, the decoder's number of the row's last token.
            score: float32 `[nodes]`.
        """
        leaf = self._trie.is_leaf(torch.from_numpy(node)).numpy()
        ends = row[leaf]
        value = score[leaf] if self._longest is None else (score[leaf] / length[ends]).astype(np.float32)
        self._found.add(mention[ends], node[leaf], length[ends], score[leaf], value)
        bound = score
        if self._longest is not None:
            # A name below is at most this long, and its log-probability at most that of the prefix.
            bound = (score / self._longest[torch.from_numpy(node)].numpy()).astype(np.float32)
        going_on = np.flatnonzero(~leaf & (bound > self._found.kth[mention][row]))
        row = row[going_on]
        fields = (mention[row], node[going_on], length[row], parent[row], score[going_on], bound[going_on])
        self._frontier.add(Prefixes(*fields, np.zeros(len(row), dtype=bool)), row)

    def _stretches(self, mention: Ints, node: Ints) -> tuple[Ints, Ints]:
        """Follow each node as long as it has a single child that is not a leaf.

        Returns:
            `(row, node)`, int64 `[nodes]`: the nodes from each row's own on, row after row.
        """
        rows, nodes = [np.arange(len(node))], [node]
        while len(rows[-1]):
            edge, child = self._children(mention[rows[-1]], nodes[-1], only=True)
            rows.append(rows[-1][edge])
            nodes.append(child)
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        return row[order], np.concatenate(nodes)[order]

    def _children(self, mention: Ints, node: Ints, *, only: bool = False) -> tuple[Ints, Ints]:
        """The children of each node that its mention's restriction allows; with `only`, single ones, leaves left out.

        Returns:
            `(row, child)`, int64 `[children]`: the place in `node`, ascending, and the child.
        """
        nodes = torch.from_numpy(node)
        if only and not self._restrictions:
            row = np.flatnonzero((self._trie.num_children(nodes) == 1).numpy())
            child = self._trie.first_child[nodes[row]].numpy().astype(np.int64)
        else:
            edges, children = self._trie.expand(nodes)
            row, child = edges.numpy(), children.numpy()
            if self._restrictions:
                allowed = self._allowed(mention[row], child)
                row, child = row[allowed], child[allowed]
            if only:
                single = np.bincount(row, minlength=len(node))[row] == 1
                row, child = row[single], child[single]
        if only:
            inner = ~self._trie.is_leaf(torch.from_numpy(child)).numpy()
            row, child = row[inner], child[inner]
        return row, child

    def _allowed(self, mention: Ints, node: Ints) -> NDArray[np.bool_]:
        allowed = np.ones(len(node), dtype=bool)
        for number, restriction in enumerate(self._restrictions):
            mine = self._restriction_of[mention] == number
            allowed[mine] = restriction.allows(node[mine])
        return allowed

    def _tokens(self, nodes: Ints) -> Ints:
        return self._trie.token(torch.from_numpy(nodes)).numpy()


def score_names(
    model: PreTrainedModel,
    mentions: Sequence[EncodedMention],
    names: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 32,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of given names by teacher forcing, one forward a batch: what the search gives them.

    Args:
        model: an encoder-decoder or decoder-only model; scored in evaluation mode.
        mentions: encoded mentions.
        names: for each mention, the token sequences (end token included) to score.
        batch_size: mentions scored together.

    Returns:
        For each mention, float32 `[its names]`.
    """
    prepare(model)
    scores: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32) for _ in mentions]
    with evaluating(model):
        for rows in _batches([m if names[i] else None for i, m in enumerate(mentions)], batch_size):
            decoder = TreeDecoder(model, [mentions[row] for row in rows])
            values = _score_batch(decoder, [names[row] for row in rows])
            counts = [len(names[row]) for row in rows]
            for row, part in zip(rows, np.split(values, np.cumsum(counts)[:-1]), strict=True):
                scores[row] = part
    return scores


def _score_batch(decoder: TreeDecoder, names: Sequence[Sequence[Sequence[int]]]) -> NDArray[np.float32]:
    """Log-probabilities of the names of each mention of a batch, one after the other."""
    mention = np.repeat(np.arange(len(names)), [len(some) for some in names])
    flat = [name for some in names for name in some]
    scores = decoder.start(mention, np.array([name[0] for name in flat]))
    # The last token is asked for, not run.
    rows = np.array([i for i, name in enumerate(flat) if len(name) > 1], dtype=np.int64)
    if len(rows):
        lengths = np.array([len(flat[i]) - 1 for i in rows])
        tokens = np.concatenate([flat[i][:-1] for i in rows])
        following = np.concatenate([flat[i][1:] for i in rows])
        asked = np.arange(len(tokens))
        _, log_probs = decoder.extend(mention[rows], mention[rows], tokens, lengths, asked, following)
        scores += np.bincount(np.repeat(rows, lengths), log_probs, minlength=len(flat)).astype(np.float32)
    return scores
