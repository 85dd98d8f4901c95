"""Scores of ranked entity-linking predictions: accuracy at k, mean reciprocal rank, bootstrap intervals.

Knows concept ids and ranks only: no model, no tokenizer, no knowledge base. Everything here takes plain lists and
gives plain numbers; `angel_trl.evaluate_metric` puts the same scores behind the `evaluate.Metric` interface.

The data:

- A *candidate* is a name, given as the list of the ids of every concept that bears this name. A homonym has several.
- A *prediction* is what a system says about one mention: its candidates, best first. An empty list is an abstention.
- A *reference* is a list of parts, each a list of alternatives. ALL parts of a composite mention ("breast and ovarian
  cancer") are meant; ANY alternative of a part is right. An empty reference (NIL) means that no concept fits.

Two readings of "right" are reported side by side:

- *any-id*, the protocol of the published numbers (arXiv 2408.16493): the candidate and the reference share an id.
- *strict*: the candidate names every part of the reference and no concept outside it.

Any-id alone hides ambiguity: a system that answers with a name shared by ten concepts has not linked the mention, and
naming one half of a composite is half an answer, yet any-id counts both as right. The two can differ by tens of points
on the very same output, so a number is only meaningful together with its protocol.
"""

import logging
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Candidate = Sequence[str]
"""The ids of every concept bearing one name."""
Prediction = Sequence[Candidate]
"""The candidates for one mention, best first; empty: an abstention."""
Reference = Sequence[Sequence[str]]
"""The parts of one mention (all are meant), each with its alternatives (any is right); empty: NIL."""

METRICS = ("acc@1", "acc@5", "mrr", "acc@1_strict", "acc@5_strict", "mrr_strict")
"""The keys that `score` fills by default, in the order in which they are reported."""

_METRIC_PATTERN = re.compile(r"(?:acc@(?P<k>[1-9][0-9]*)|mrr)(?P<strict>_strict)?")
# Bootstrap weights are drawn in blocks of about this many numbers (16 MB), so that memory stays flat.
_BLOCK = 2_000_000


def gold_ranks(
    predictions: Sequence[Prediction], references: Sequence[Reference], strict: bool = False
) -> NDArray[np.int32]:
    """Rank of the first right candidate of each mention.

    A candidate is right under the any-id protocol when one of its ids is an id of the reference. It is right under the
    strict protocol when all of its ids are ids of the reference and every part of the reference has an alternative
    among them. A NIL reference is matched by abstaining: rank 0 for an empty prediction, -1 for any other.

    Args:
        predictions: M predictions, each a ranked list of candidates, each a list of concept ids.
        references: M references, each a list of parts, each a list of alternative concept ids.
        strict: Use the strict protocol in place of any-id.

    Returns:
        int32 array of shape [M]: the zero-based rank, or -1 where no candidate is right.

    Raises:
        ValueError: If there are no mentions, if the two lengths differ, if ids stand where a list of ids is due, or if
            a part of a reference has no alternatives.
    """
    _validate(predictions, references)
    ranks = np.full(len(references), -1, dtype=np.int32)
    for mention, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if len(reference) == 0:
            ranks[mention] = 0 if len(prediction) == 0 else -1
            continue
        parts = [frozenset(part) for part in reference]
        union = frozenset().union(*parts)
        for rank, candidate in enumerate(prediction):
            if strict:
                right = union.issuperset(candidate) and not any(part.isdisjoint(candidate) for part in parts)
            else:
                right = not union.isdisjoint(candidate)
            if right:
                ranks[mention] = rank
                break
    return ranks


def score(
    predictions: Sequence[Prediction],
    references: Sequence[Reference],
    ks: Sequence[int] = (1, 5),
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score ranked predictions under both protocols, with 95% confidence intervals.

    The intervals are percentile bootstrap intervals (Efron, 1979): what the score would have been on other samples of
    the same kind of text. Mentions of one document are not independent (the same disease recurs), so pass the
    document of each mention as `groups`: whole documents are then resampled, and the intervals are honestly wider.

    Args:
        predictions: M predictions, see `gold_ranks`. A mention without candidates is wrong unless it is NIL.
        references: M references, see `gold_ranks`.
        ks: The cut-offs k of the accuracies.
        groups: M labels; mentions with equal labels are resampled together. None resamples mentions.
        bootstrap: Number of resamples; 0 leaves the intervals out.
        seed: Seed of the resampling; the global random state is neither read nor changed.

    Returns:
        A dict that can be written as JSON. For each k `acc@{k}`, the percentage (0 to 100) of mentions with a right
        candidate among the first k; `mrr`, 100 times the mean of 1/(rank + 1), where absent counts 0, over the whole
        prediction; the same with the suffix `_strict`; for each of these `{key}_ci`, the list [low, high];
        `mentions`, the number M; and `nil`, how many of them have a NIL reference.

    Raises:
        ValueError: As `gold_ranks`; or if a k is not positive, `groups` is not of length M, or `bootstrap` negative.
    """
    any_id = gold_ranks(predictions, references)
    strict = gold_ranks(predictions, references, strict=True)
    nil = sum(len(reference) == 0 for reference in references)
    return score_ranks(any_id, strict, ks, groups, bootstrap, seed) | {"nil": nil}


def score_ranks(
    any_id: NDArray[np.integer[Any]],
    strict: NDArray[np.integer[Any]],
    ks: Sequence[int] = (1, 5),
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """`score` of what is left when predictions and references are not at hand: the ranks of what is right.

    Args:
        any_id: integers `[M]`, of `gold_ranks`.
        strict: likewise, under the strict protocol.
        ks: as for `score`.
        groups: as for `score`.
        bootstrap: as for `score`.
        seed: as for `score`.

    Returns:
        What `score` returns, without `nil`.

    Raises:
        ValueError: as `score`; or if there are no mentions, or more ranks of one protocol than of the other.
    """
    for k in ks:
        if k < 1:
            raise ValueError(f"ks={tuple(ks)!r}: cut-offs must be 1 or more, got {k!r}.")
    if bootstrap < 0:
        raise ValueError(f"bootstrap={bootstrap!r} must be 0 (no intervals) or the number of resamples.")
    _check_parallel(any_id, strict, "any-id", "strict")
    protocol_keys = [*(f"acc@{k}" for k in dict.fromkeys(ks)), "mrr"]
    keys = protocol_keys + [f"{key}_strict" for key in protocol_keys]
    points = np.stack([_points(key, strict if key.endswith("_strict") else any_id) for key in keys], axis=1)

    results: dict[str, Any] = {key: float(value) for key, value in zip(keys, points.mean(axis=0), strict=True)}
    results["mentions"] = len(any_id)
    sums, sizes = _sum_by_group(points, groups)
    if bootstrap:
        low, high = np.percentile(_resampled_means(sums, sizes, bootstrap, seed), [2.5, 97.5], axis=0)
        for key, key_low, key_high in zip(keys, low, high, strict=True):
            results[f"{key}_ci"] = [float(key_low), float(key_high)]
    return results


def paired_difference(
    predictions_a: Sequence[Prediction],
    predictions_b: Sequence[Prediction],
    references: Sequence[Reference],
    metric: str = "acc@1",
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Difference between two systems on the same mentions, with its interval and p-value.

    Paired: both systems are scored on the same resampled mentions (Koehn, "Statistical significance tests for machine
    translation evaluation", EMNLP 2004), so what is hard for both cancels out. This finds differences which two
    separate intervals of `score` would hide.

    Args:
        predictions_a: M predictions of the system compared against, see `gold_ranks`.
        predictions_b: M predictions of the system under test.
        references: M references.
        metric: One of `METRICS`, or `acc@{k}` or `acc@{k}_strict` for any other k.
        groups: M labels; mentions with equal labels are resampled together, as in `score`.
        bootstrap: Number of resamples, at least 1.
        seed: Seed of the resampling.

    Returns:
        `difference`, b - a in percentage points; `ci`, its 95% percentile interval [low, high]; `p_value`, two-sided:
        twice the share of resamples in which the difference is zero or has the other sign. It is never below
        2 / (bootstrap + 1), since a sample of resamples cannot show that something is impossible.

    Raises:
        ValueError: As `score`; or if the metric is unknown or `bootstrap` less than 1.
    """
    strict = _is_strict(metric)
    before = gold_ranks(predictions_a, references, strict)
    after = gold_ranks(predictions_b, references, strict)
    return paired_difference_of_ranks(before, after, metric, groups, bootstrap, seed)


def paired_difference_of_ranks(
    ranks_a: NDArray[np.integer[Any]],
    ranks_b: NDArray[np.integer[Any]],
    metric: str = "acc@1",
    groups: Sequence[Hashable] | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """`paired_difference` of what is left when predictions are not at hand: the ranks of what is right.

    Args:
        ranks_a: integers `[M]`, of `gold_ranks` under the metric's protocol, of the system compared against.
        ranks_b: likewise, of the system under test.
        metric: as for `paired_difference`.
        groups: as for `paired_difference`.
        bootstrap: as for `paired_difference`.
        seed: as for `paired_difference`.

    Returns:
        What `paired_difference` returns.

    Raises:
        ValueError: as `paired_difference`; or if there are no mentions, or not as many of both.
    """
    _is_strict(metric)
    if bootstrap < 1:
        raise ValueError(f"bootstrap={bootstrap!r} must be 1 or more: the interval and the p-value come from it.")
    _check_parallel(ranks_a, ranks_b, "system a", "system b")
    differences = (_points(metric, ranks_b) - _points(metric, ranks_a))[:, None]
    sums, sizes = _sum_by_group(differences, groups)
    resampled = _resampled_means(sums, sizes, bootstrap, seed)[:, 0]
    low, high = np.percentile(resampled, [2.5, 97.5])
    tail = min(int(np.sum(resampled <= 0)), int(np.sum(resampled >= 0)))
    return {
        "difference": float(differences.mean()),
        "ci": [float(low), float(high)],
        "p_value": min(1.0, 2 * (tail + 1) / (bootstrap + 1)),
    }


def _is_strict(metric: str) -> bool:
    """Whether a metric is of the strict protocol.

    Raises:
        ValueError: If it is unknown.
    """
    match = _METRIC_PATTERN.fullmatch(metric)
    if match is None:
        raise ValueError(f"metric={metric!r} is unknown: use one of {', '.join(METRICS)}, or another k in acc@k.")
    return match["strict"] is not None


def _check_parallel(
    first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]], name: str, other_name: str
) -> None:
    if len(first) == 0 or len(first) != len(second):
        raise ValueError(
            f"There are {len(first)} ranks of {name} and {len(second)} of {other_name}: give both one rank a mention, "
            "of the same mentions, at least one."
        )


def _validate(predictions: Sequence[Prediction], references: Sequence[Reference]) -> None:
    """Refuse input whose scores would be silently wrong; most of all, ids iterated as characters."""
    if len(predictions) != len(references):
        raise ValueError(
            f"There are {len(predictions)} predictions for {len(references)} references: give one prediction a "
            "mention, and an empty list where the system found nothing."
        )
    if len(references) == 0:
        raise ValueError("There are no mentions to score: predictions and references are empty.")
    for mention, prediction in enumerate(predictions):
        for value in _bare_ids(prediction):
            raise ValueError(
                f"predictions[{mention}] holds the string {value!r} where a list of concept ids is due: a prediction "
                f"is a list of candidates, each a list of ids, such as [[{value!r}]]."
            )
    for mention, reference in enumerate(references):
        for value in _bare_ids(reference):
            raise ValueError(
                f"references[{mention}] holds the string {value!r} where a list of alternative concept ids is due: a "
                f"reference is a list of parts, each a list of ids, such as [[{value!r}]]."
            )
        if any(len(part) == 0 for part in reference):
            raise ValueError(
                f"references[{mention}] = {reference!r} has a part without alternatives: leave that part out, or give "
                "[] for a mention of no concept (NIL)."
            )


def _bare_ids(lists: Sequence[Sequence[str]] | str) -> Iterator[str]:
    """Strings found where lists of strings are due."""
    if isinstance(lists, str):
        yield lists
    else:
        yield from (ids for ids in lists if isinstance(ids, str))


def _points(metric: str, ranks: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """What each mention adds to a metric: float64 [M], from 0 to 100; their mean is the metric."""
    match = _METRIC_PATTERN.fullmatch(metric)
    assert match is not None, metric
    found = ranks >= 0
    if match["k"] is None:
        return np.where(found, 100.0 / (np.maximum(ranks, 0) + 1.0), 0.0)
    return np.where(found & (ranks < int(match["k"])), 100.0, 0.0)


def _sum_by_group(
    points: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums [G, K] of the points [M, K] over the mentions of each group, and the numbers of these mentions [G]."""
    if groups is None:
        return points, np.ones(len(points))
    if len(groups) != len(points):
        raise ValueError(f"groups has {len(groups)} labels for {len(points)} mentions: give each mention one label.")
    index: dict[Hashable, int] = {}
    labels = np.array([index.setdefault(group, len(index)) for group in groups])
    sums = np.zeros((len(index), points.shape[1]))
    np.add.at(sums, labels, points)
    return sums, np.bincount(labels).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], bootstrap: int, seed: int
) -> NDArray[np.float64]:
    """Bootstrap means [bootstrap, K] of units (mentions or groups) with the given sums [U, K] and sizes [U]."""
    if len(sums) == 1:
        logger.warning("Bootstrap over a single mention or group: its intervals have no width and say nothing.")
    # Units with the same sums and size are interchangeable, and most are: single mentions take a handful of values.
    # Drawing how often each distinct row occurs, in place of which units do, is the same distribution for less work.
    rows, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    units = len(sums)
    rng = np.random.default_rng(seed)
    means = np.empty((bootstrap, sums.shape[1]))
    block = max(1, _BLOCK // len(rows))
    for start in range(0, bootstrap, block):
        draws = rng.multinomial(units, counts / units, size=min(block, bootstrap - start))
        totals = draws @ rows
        means[start : start + len(draws)] = totals[:, :-1] / totals[:, -1:]
    return means
