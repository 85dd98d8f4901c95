"""Score a model on mentions with the real constrained search: one function for dev, test and every stage."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from angel_trl.decoding import Candidates, search
from angel_trl.metrics import score
from angel_trl.targets import MentionSet, TargetNames


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model answered and how good it is.

    Args:
        metrics: of `angel_trl.metrics.score`, in percent, plus `mentions_per_second` and `exact` (percent).
        predictions: concept ids of the ranked candidates of each mention.
        candidates: the candidates themselves.
    """

    metrics: dict[str, Any]
    predictions: list[list[list[str]]]
    candidates: Candidates


def evaluate_linking(
    model: PreTrainedModel,
    targets: TargetNames,
    mentions: MentionSet,
    *,
    num_beams: int = 10,
    top_k: int = 5,
    batch_size: int = 64,
    within_types: bool = False,
    bootstrap: int = 0,
    process: int = 0,
    processes: int = 1,
    progress: str | None = None,
) -> Evaluation:
    """Link `mentions` with `model` and score the answers, resampling documents for the intervals.

    Args:
        model: an encoder-decoder or decoder-only model.
        targets: the names it may answer with.
        mentions: what to link; every one counts.
        num_beams: beams of the search.
        top_k: candidates of a mention, and the k of the second accuracy.
        batch_size: mentions searched together.
        within_types: search among concepts of each mention's own semantic types only.
        bootstrap: resamples for the intervals, 0 for none.
        process: this process.
        processes: how many there are; each searches its share and all return the same.
        progress: text of a progress bar, None for none.
    """
    begin = time.perf_counter()
    restrictions = targets.within_types(mentions.types) if within_types else None
    share = np.arange(len(mentions))[process::processes]
    found = search(
        model,
        targets.trie,
        [mentions.encoded[row] for row in share],
        num_beams=num_beams,
        top_k=top_k,
        batch_size=batch_size,
        restrictions=None if restrictions is None else [restrictions[row] for row in share],
        progress=progress,
    )
    candidates = Candidates.empty(len(mentions), top_k)
    for rows, part in gather_object([(share, found)]) if processes > 1 else [(share, found)]:
        candidates.put(rows, part)
    seconds = time.perf_counter() - begin
    predictions = targets.ranked_ids(candidates, restrictions)
    metrics = score(predictions, mentions.references, ks=(1, top_k), groups=mentions.documents, bootstrap=bootstrap)
    metrics["mentions_per_second"] = len(mentions) / seconds
    metrics["exact"] = 100 * float(candidates.exact.mean())
    return Evaluation(metrics, predictions, candidates)
