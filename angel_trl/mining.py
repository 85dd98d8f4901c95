"""A round of mining: search, find what is preferred over gold, and keep it with its reference log-probabilities.

The model of the round's start is both the miner and DPO's reference, and the search's scores are its exact
log-probabilities, so the reference costs nothing; only a gold name that the search did not find is scored once, and
what another model found (`HeldOut`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from accelerate.utils import gather_object
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray
from transformers import PreTrainedModel

from angel_trl.config import AngelConfig
from angel_trl.decoding import Candidates, score_names, search
from angel_trl.formatting import EncodedMention
from angel_trl.held_out import HeldOut
from angel_trl.pairs import Pairs, make_pairs
from angel_trl.targets import MentionSet, NearestNames, TargetNames

# Mentions and for each the token sequences of names -> for each the log-probabilities of its names.
Scorer = Callable[[Sequence[EncodedMention], Sequence[Sequence[Sequence[int]]]], Sequence[NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True, slots=True)
class RoundPairs:
    """The pairs of one round.

    Args:
        round: 0 for the first.
        rows: int64 `[mentions]`, the training mentions mined, as rows of the training set.
        pairs: the pairs; `pairs.mention` is a place in `rows`.
        chosen_log_probs: float32 `[pairs]`, the reference's log-probability of the chosen name (of the model of the
            round's start, or of the initial model: `AngelConfig.reference`).
        rejected_log_probs: float32 `[pairs]`, likewise of the rejected name.
        metrics: counts, shares (percent) and speed of the mining, and the mean margin: the reference's log-probability
            of the chosen name less that of the rejected one. Where gold was is told of the names that were found,
            whoever searched, but for the one that a mention spells out if that is left out; `held_out` is the share
            of mentions that held-out models searched, if there are any, and `held_out_gold_first` the share of these
            on which they put gold first.
    """

    round: int
    rows: NDArray[np.int64]
    pairs: Pairs
    chosen_log_probs: NDArray[np.float32]
    rejected_log_probs: NDArray[np.float32]
    metrics: dict[str, float]


def round_rows(mentions: int, size: int, round: int, seed: int) -> NDArray[np.int64]:
    """The mentions of a round: the next `size` of an endless sequence of shuffles of all mentions.

    Depends on its arguments alone, so that every process and a resumed run draw the same.
    """
    first = round * size
    parts, taken = [], 0
    while taken < size:
        shuffle, offset = divmod(first + taken, mentions)
        order = np.random.default_rng([seed, shuffle]).permutation(mentions)
        parts.append(order[offset : offset + size - taken])
        taken += len(parts[-1])
    return np.concatenate(parts)


def nearest_gold(targets: TargetNames, mentions: MentionSet, *, own_name: bool = True) -> NDArray[np.int64]:
    """The gold name spelled most like each mention, int64 `[mentions]`, -1 where there is none.

    Args:
        targets: the names.
        mentions: the mentions.
        own_name: whether it may be the name that the mention spells out.
    """
    nearest = NearestNames(targets.kb, exclude=targets.unreachable)
    # Of two one is another.
    found = nearest.nearest(mentions.mentions, mentions.gold, 1 if own_name else 2)
    if not own_name:
        own = _own_names(targets, mentions).tolist()
        found = [[name for name in names if name != other] for names, other in zip(found, own, strict=True)]
    return np.array([names[0] if names else -1 for names in found], dtype=np.int64)


def _own_names(targets: TargetNames, mentions: MentionSet) -> NDArray[np.int64]:
    """The gold name that each mention spells out, int64 `[mentions]`, -1 where there is none."""
    names = [targets.kb.find(mention) for mention in mentions.mentions]
    own = np.array([-1 if name is None else name for name in names], dtype=np.int64)
    return np.where(mentions.is_gold(own[:, None], targets.kb)[:, 0], own, -1)


def mine(
    model: PreTrainedModel,
    targets: TargetNames,
    mentions: MentionSet,
    nearest_gold: NDArray[np.int64],
    args: AngelConfig,
    *,
    round: int,
    reference: Scorer | None = None,
    held_out: HeldOut | None = None,
    process: int = 0,
    processes: int = 1,
    progress: str | None = None,
) -> RoundPairs:
    """Mine the pairs of a round; every process searches its share and all return the same pairs.

    Args:
        model: the model of the round's start.
        targets: the names.
        mentions: the training set.
        nearest_gold: of the training set, as the function of that name gives it.
        args: settings of mining; `args.seed` and `args.mentions_per_round` decide which mentions are mined.
        round: 0 for the first.
        reference: log-probabilities of names by another reference than `model`, as `score_names` gives them.
        held_out: models that search in place of `model` the mentions that they were not trained on.
        process: this process.
        processes: how many there are.
        progress: text of a progress bar, None for none.
    """
    begin = time.perf_counter()
    rows = round_rows(len(mentions), args.round_size(len(mentions)), round, args.seed)
    share = mentions.subset(rows[process::processes])
    searched_by = np.full(len(share), -1) if held_out is None else held_out.places(share.ids)
    own = None if args.mine_own_name else _own_names(targets, share)
    found = _search(model, targets, share, args, held_out, searched_by, progress, args.mine_top_k + (own is not None))
    if own is not None:
        found = _without(found, own)
    is_gold = share.is_gold(found.names, targets.kb)
    pairs = make_pairs(
        found.names,
        is_gold,
        nearest_gold[rows[process::processes]],
        top_k=args.mine_top_k,
        max_pairs=args.max_pairs_per_mention,
        absent=args.absent_gold,
    )
    # What the reference scored when it searched need not be scored again.
    is_known = (searched_by < 0) & (reference is None)
    known = np.where(is_known[:, None], found.log_probs, np.float32(np.nan))
    scorer = reference or functools.partial(score_names, model, batch_size=args.mining_batch_size)
    chosen, rejected = _reference_log_probs(scorer, targets, share.encoded, pairs, known)
    at_0, in_top, held = is_gold[:, 0], is_gold.any(axis=1), searched_by >= 0
    counted = (at_0, in_top & ~at_0, ~in_top, found.exact, held, held & at_0)
    shares = [
        {
            "place": np.arange(len(rows))[process::processes],
            "pairs": pairs,
            "log_probs": (chosen, rejected),
            "counts": np.array([which.sum() for which in counted]),
        }
    ]
    if processes > 1:
        shares = gather_object(shares)
    return _merge(round, rows, shares, time.perf_counter() - begin)


def _search(
    model: PreTrainedModel,
    targets: TargetNames,
    mentions: MentionSet,
    args: AngelConfig,
    held_out: HeldOut | None,
    searched_by: NDArray[np.int64],
    progress: str | None,
    top_k: int,
) -> Candidates:
    """Search each mention with the held-out model at its place in `searched_by`, with `model` where that is -1."""
    found = Candidates.empty(len(mentions), top_k)
    for place in np.unique(searched_by).tolist():
        rows = np.flatnonzero(searched_by == place)
        part = mentions.subset(rows)
        lent = contextlib.nullcontext(model) if held_out is None or place < 0 else held_out.searcher(place, model)
        with lent as searcher:
            of_part = search(
                searcher,
                targets.trie,
                part.encoded,
                num_beams=args.num_beams,
                top_k=top_k,
                batch_size=args.mining_batch_size,
                restrictions=targets.within_types(part.types) if args.within_types else None,
                progress=progress if place < 0 or progress is None else f"{progress}, held-out model {place + 1}",
            )
        found.put(rows, of_part)
    return found


def _without(found: Candidates, names: NDArray[np.int64]) -> Candidates:
    """One candidate fewer for each mention: without the name, int64 `[mentions]`, or the last if it is not there."""
    left_out = (found.names == names[:, None]) & (found.names >= 0)
    left_out[:, -1] |= ~left_out.any(axis=1)
    kept, shape = ~left_out, (len(names), found.names.shape[1] - 1)
    return Candidates(
        names=found.names[kept].reshape(shape),
        log_probs=found.log_probs[kept].reshape(shape),
        lengths=found.lengths[kept].reshape(shape),
        exact=found.exact,
    )


def _reference_log_probs(
    score: Scorer,
    targets: TargetNames,
    encoded: Sequence[EncodedMention | None],
    pairs: Pairs,
    known: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probabilities of both names of each pair: as `known`, else by `score`, each once.

    Args:
        score: the reference.
        targets: the names.
        encoded: the mentions.
        pairs: the pairs.
        known: `[mentions, k]`, what the reference gives the candidates; NaN where it has not scored them.
    """
    sides = []
    for name, rank in ((pairs.chosen, pairs.chosen_rank), (pairs.rejected, pairs.rejected_rank)):
        values = np.where(rank >= 0, known[pairs.mention, np.maximum(rank, 0)], np.float32(np.nan))
        sides.append((name, values))
    asked: dict[int, dict[int, int]] = {}
    for name, values in sides:
        for place in np.flatnonzero(np.isnan(values)):
            own = asked.setdefault(int(pairs.mention[place]), {})
            own.setdefault(int(name[place]), len(own))
    names = [[targets.sequences[name] for name in own] for own in asked.values()]
    wanted = [mention for row in asked if (mention := encoded[row]) is not None]
    scored = dict(zip(asked, score(wanted, names), strict=True)) if asked else {}
    for name, values in sides:
        for place in np.flatnonzero(np.isnan(values)):
            row = int(pairs.mention[place])
            values[place] = scored[row][asked[row][int(name[place])]]
    return sides[0][1], sides[1][1]


def _merge(round: int, rows: NDArray[np.int64], shares: Sequence[dict[str, Any]], seconds: float) -> RoundPairs:
    """Put the shares of all processes together, in the order of `rows`."""
    mention = np.concatenate([share["place"][share["pairs"].mention] for share in shares])
    order = np.argsort(mention, kind="stable")
    fields = {
        field: np.concatenate([getattr(share["pairs"], field) for share in shares])[order]
        for field in ("chosen", "rejected", "chosen_rank", "rejected_rank")
    }
    chosen, rejected = (np.concatenate([share["log_probs"][i] for share in shares])[order] for i in (0, 1))
    first, in_top, absent, exact, held, held_first = sum(share["counts"] for share in shares)
    count = len(rows)
    metrics = {
        "mentions": count,
        "gold_first": 100 * first / count,
        "gold_in_top_k": 100 * in_top / count,
        "gold_absent": 100 * absent / count,
        "exact": 100 * exact / count,
        "pairs": len(order),
        "margin": float((chosen - rejected).mean()) if len(order) else 0.0,
        "mentions_per_second": count / seconds,
        "seconds": seconds,
    }
    if held:
        metrics |= {"held_out": 100 * held / count, "held_out_gold_first": 100 * held_first / held}
    return RoundPairs(
        round,
        rows,
        Pairs(mention=mention[order].astype(np.int32), **fields),
        chosen,
        rejected,
        {key: float(value) for key, value in metrics.items()},
    )


PAIR_FEATURES = Features(
    {
        "prompt": Value("string"),
        "chosen": Value("string"),
        "rejected": Value("string"),
        "mention_id": Value("string"),
        "mention_row": Value("int64"),
        "mention_place": Value("int32"),
        "round": Value("int32"),
        "chosen_name": Value("int32"),
        "rejected_name": Value("int32"),
        "chosen_rank": Value("int32"),
        "rejected_rank": Value("int32"),
        "chosen_log_prob": Value("float32"),
        "rejected_log_prob": Value("float32"),
        "chosen_concept_ids": List(Value("string")),
        "rejected_concept_ids": List(Value("string")),
    }
)
"""The columns of a round's parquet file; see `to_dataset`."""


def to_dataset(mined: RoundPairs, targets: TargetNames, mentions: MentionSet) -> Dataset:
    """The pairs as a dataset in TRL's preference columns (`prompt`, `chosen`, `rejected`), with where they come from.

    Further columns: `mention_id`, `mention_row` (row of the training set), `mention_place` (place among the mentions
    of the round), `round`, the name indices, ranks and log-probabilities of both names, and their concept ids.

    A decoder-only model can be trained on these columns by TRL's own `DPOTrainer`, which makes the same token ids of
    them. Not so an encoder-decoder one: that trainer would feed prompt and name to its encoder without a word.
    """
    kb, pairs = targets.kb, mined.pairs
    row = mined.rows[pairs.mention]
    prompts = {r: targets.formatter.prompt_text(mentions.encoded[r]) for r in np.unique(row).tolist()}
    return Dataset.from_dict(
        {
            "prompt": [prompts[r] for r in row.tolist()],
            "chosen": [" " + kb.names[name] for name in pairs.chosen],
            "rejected": [" " + kb.names[name] for name in pairs.rejected],
            "mention_id": [mentions.ids[r] for r in row.tolist()],
            "mention_row": row,
            "mention_place": pairs.mention,
            "round": np.full(len(pairs), mined.round, dtype=np.int32),
            "chosen_name": pairs.chosen,
            "rejected_name": pairs.rejected,
            "chosen_rank": pairs.chosen_rank,
            "rejected_rank": pairs.rejected_rank,
            "chosen_log_prob": mined.chosen_log_probs,
            "rejected_log_prob": mined.rejected_log_probs,
            "chosen_concept_ids": [list(kb.ids_of_name(name)) for name in pairs.chosen],
            "rejected_concept_ids": [list(kb.ids_of_name(name)) for name in pairs.rejected],
        },
        features=PAIR_FEATURES,
    )


def from_parquet(path: str | Path, mentions: MentionSet, args: AngelConfig, round: int) -> RoundPairs:
    """Read the pairs of a round back, for a run that goes on within it.

    Raises:
        ValueError: if the file holds the pairs of another run: another round, other mentions or another order.
    """
    table = pq.read_table(path)
    rows = round_rows(len(mentions), args.round_size(len(mentions)), round, args.seed)
    ours = set(PAIR_FEATURES) <= set(table.column_names)
    if ours:
        column = {name: table[name].to_numpy() for name in PAIR_FEATURES if not name.endswith("_concept_ids")}
        place, row = column["mention_place"], column["mention_row"]
        ours = bool(
            (column["round"] == round).all()
            and (place < len(rows)).all()
            and (rows[place] == row).all()
            and [mentions.ids[r] for r in row] == column["mention_id"].tolist()
        )
    if not ours:
        raise ValueError(
            f"{path} does not hold the pairs of round {round} of this run (other data or settings?). "
            "Start afresh in another output_dir, or resume with the settings it was begun with."
        )
    fields = (column[name] for name in ("chosen_name", "rejected_name", "chosen_rank", "rejected_rank"))
    return RoundPairs(
        round,
        rows,
        Pairs(place, *fields),
        column["chosen_log_prob"],
        column["rejected_log_prob"],
        {"pairs": float(len(place))},
    )
