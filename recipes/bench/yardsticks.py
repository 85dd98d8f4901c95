"""What the search is compared with: transformers' `generate` as its users run it, and the least there is to compute.

The stock side gets what makes it fast: a copy of the model without our attention, batches sorted by length, and the
(thousands of) first tokens handed over as a ready tensor. It runs with its defaults, and with `early_stopping=True`,
which ends a mention at its tenth finished name even where a better one may come. Rows of a batch have prefixes of one
length, which leaves batches smaller than asked for: padding on the left would fill them, but BART counts positions
from the left, pads included, and then gives other answers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from types import TracebackType
from typing import Any

import numpy as np
import torch
from measure import seconds_of
from numpy.typing import NDArray
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from angel_trl.formatting import EncodedMention
from angel_trl.tree_attention import TreeStep
from angel_trl.tree_decoder import TreeDecoder
from angel_trl.trie import NameTrie

NestedTrie = dict[int, "NestedTrie | int"]


@dataclass
class Case:
    """One model with its names and mentions.

    Args:
        model: searched by us; `stock` is a copy of it for `generate`.
        trie: the names.
        mentions: what to link.
    """

    model: PreTrainedModel
    stock: PreTrainedModel
    trie: NameTrie
    mentions: list[EncodedMention]

    def __post_init__(self) -> None:
        # BART's checkpoints force an end token at the last position, which no constraint survives.
        self.stock.generation_config.forced_bos_token_id = self.stock.generation_config.forced_eos_token_id = None
        self.model.eval()
        self.stock.eval()

    @cached_property
    def nested(self) -> "NestedTrie":
        """The names as `generate`'s users keep them."""
        return nested_trie(self.trie)

    def batch(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """`input_ids` and `attention_mask` of the sources of some mentions, int64 `[rows, longest]`."""
        sources = [torch.tensor(self.mentions[row].source) for row in rows]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(source) for source in sources], batch_first=True)
        ids = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=self.model.config.pad_token_id)
        return ids.to(self.model.device), mask.to(self.model.device)


def nested_trie(trie: NameTrie) -> NestedTrie:
    """The common trie: a dictionary in a dictionary, token to what follows; an end token leads to the name's index."""
    root: NestedTrie = {}
    level, nodes = [root], torch.zeros(1, dtype=torch.int64, device=trie.first_child.device)
    while level:
        row, child = trie.expand(nodes)
        leaf = trie.is_leaf(child)
        name = torch.full_like(child, -1)
        name[leaf] = trie.name(child[leaf])
        below = []
        for parent, token, index in zip(row.tolist(), trie.token(child).tolist(), name.tolist(), strict=True):
            level[parent][token] = index if index >= 0 else {}
            if index < 0:
                below.append(level[parent][token])
        level, nodes = below, child[~leaf]
    return root


def where_time_goes(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds that our search spends in its parts, while `run` searches: its own methods with a clock around them.

    The decoder's part includes its attention, which is also told apart.
    """
    parts = {
        "encoder": (TreeDecoder, "_encode"),
        "decoder": (TreeDecoder, "_forward"),
        "attention of the decoder": (TreeStep, "attend"),
        "LM head": (TreeDecoder, "_log_probs"),
    }
    seconds = dict.fromkeys([*parts, "all"], 0.0)

    def timed(part: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = plain(*args, **kwargs)
            seconds[part] += time.perf_counter() - begin
            return result

        return call

    plain = {part: getattr(owner, name) for part, (owner, name) in parts.items()}
    try:
        for part, (owner, name) in parts.items():
            setattr(owner, name, timed(part, plain[part]))
        timed("all", run)()
    finally:
        for part, (owner, name) in parts.items():
            setattr(owner, name, plain[part])
    seconds["everything else"] = seconds["all"] - seconds["encoder"] - seconds["decoder"] - seconds["LM head"]
    return seconds


def longest_name(root: NestedTrie) -> int:
    """Tokens of the longest name, end token included."""
    level, longest = [root], 0
    while level:
        level = [below for node in level for below in node.values() if isinstance(below, dict)]
        longest += 1
    return longest


class Generate:
    """transformers' beam search over the names of a case.

    Args:
        case: model, names and mentions.
        num_beams: beams of a mention.
        top_k: sequences returned for a mention.
        batch_size: most mentions in a batch.
        constrained: with `prefix_allowed_tokens_fn`; without it, what comes out is seldom a name.
        early_stopping: of `generate`; its default, False, goes on while a better name may come.
        use_cache: keep keys and values from step to step.
    """

    def __init__(
        self,
        case: Case,
        num_beams: int,
        top_k: int,
        batch_size: int,
        *,
        constrained: bool = True,
        early_stopping: bool = False,
        use_cache: bool = True,
    ) -> None:
        self.case, self.batch_size, self.top_k, self.constrained = case, batch_size, top_k, constrained
        self.root = case.nested
        # Converted once: as a list, the first step of a large dictionary would take a quarter of the time.
        self.first = torch.tensor(list(self.root), device=case.stock.device)
        self.end = [case.stock.config.eos_token_id]
        # With a penalty of 0 the score of a name is its log-probability, as in our search.
        self.settings = {
            "num_beams": num_beams,
            "num_return_sequences": top_k,
            "max_new_tokens": longest_name(self.root),
            "length_penalty": 0.0,
            "early_stopping": early_stopping,
            "do_sample": False,
            "use_cache": use_cache,
        }

    def __call__(self, rows: list[int] | None = None) -> NDArray[np.int64]:
        """Names of the mentions `rows` (default: all), int64 `[rows, k]`; -1 for a sequence that is no name."""
        rows = list(range(len(self.case.mentions))) if rows is None else rows
        names = {}
        for batch in self._batches(rows):
            prefixes = torch.tensor([self.case.mentions[row].prefix for row in batch], device=self.case.stock.device)
            ids, mask = self.case.batch(batch)
            width = prefixes.shape[1]
            constraint = {"prefix_allowed_tokens_fn": self._allowed_after(width)} if self.constrained else {}
            with torch.inference_mode():
                found = self.case.stock.generate(
                    input_ids=ids, attention_mask=mask, decoder_input_ids=prefixes, **self.settings, **constraint
                )
            indices = [self._name(sequence) for sequence in found[:, width:].tolist()]
            names |= {row: indices[i * self.top_k :][: self.top_k] for i, row in enumerate(batch)}
        return np.array([names[row] for row in rows])

    def _batches(self, rows: list[int]) -> Iterator[list[int]]:
        def lengths(row: int) -> tuple[int, int]:
            return len(self.case.mentions[row].prefix), len(self.case.mentions[row].source)

        for _, group in groupby(sorted(rows, key=lengths), key=lambda row: lengths(row)[0]):
            alike = list(group)
            yield from (alike[i : i + self.batch_size] for i in range(0, len(alike), self.batch_size))

    def _allowed_after(self, width: int) -> Callable[[int, torch.Tensor], list[int] | torch.Tensor]:
        def allowed(_: int, ids: torch.Tensor) -> list[int] | torch.Tensor:
            if len(ids) == width:
                return self.first
            node: NestedTrie | int | None = self.root
            for token in ids[width:].tolist():
                node = node.get(token) if isinstance(node, dict) else None
            # An empty list is an error of `generate`: a beam that has left the names is let end, as users do.
            return list(node) if isinstance(node, dict) else self.end

        return allowed

    def _name(self, sequence: list[int]) -> int:
        node: NestedTrie | int | None = self.root
        for token in sequence:
            node = node.get(token) if isinstance(node, dict) else None
            if isinstance(node, int):
                return node
        return -1


def encode_only(case: Case, batch_size: int) -> None:
    """The encoder alone, once a mention, in the fullest batches of similar length."""
    order = sorted(range(len(case.mentions)), key=lambda row: len(case.mentions[row].source))
    encoder = case.stock.get_encoder()
    for begin in range(0, len(order), batch_size):
        ids, mask = case.batch(order[begin : begin + batch_size])
        with torch.inference_mode():
            encoder(input_ids=ids, attention_mask=mask)


class RowCounter:
    """Counts, while it is open, the tokens that pass through a model's decoder and through its language-model head."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.decoder = self.head = 0
        # Every token passes the first feed-forward layer once, whoever calls the layers.
        self._modules = {"decoder": model.get_decoder().layers[0].fc1, "head": model.get_output_embeddings()}

    def __enter__(self) -> "RowCounter":
        def count(what: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
            def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                setattr(self, what, getattr(self, what) + inputs[0].shape[:-1].numel())

            return hook

        self._hooks = [module.register_forward_pre_hook(count(what)) for what, module in self._modules.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()


def row_seconds(case: Case, mentions: int, beams: int, repeats: int = 20) -> tuple[float, float]:
    """Seconds that a row takes in the decoder and in the language-model head, in a full batch.

    The beams of a mention are laid out as `beams` tokens of one sequence, so that they share its cross-attention and
    nothing is copied: a lower bound, with no beam reordered and no constraint looked up.
    """
    rows = [row % len(case.mentions) for row in range(mentions)]
    ids, mask = case.batch(rows)
    decoder, head = case.stock.get_decoder(), case.stock.get_output_embeddings()
    seconds: dict[str, list[float]] = {"decoder": [], "head": []}
    with torch.inference_mode():
        states = case.stock.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        tokens = ids[:, :1].expand(-1, beams)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        shared = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "past_key_values": cache}
        hidden = decoder(input_ids=tokens, use_cache=True, **shared).last_hidden_state
        for _ in range(repeats):
            step = partial(decoder, input_ids=tokens, use_cache=True, **shared)
            seconds["decoder"].append(seconds_of(step, case.stock.device)[0])
            cache.crop(-beams)
            seconds["head"].append(seconds_of(partial(head, hidden), case.stock.device)[0])
    rows_in_batch = mentions * beams
    return float(np.median(seconds["decoder"])) / rows_in_batch, float(np.median(seconds["head"])) / rows_in_batch
