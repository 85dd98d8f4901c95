"""What outcomes come to: scores over seeds, differences between systems, by kind of mention, by compute.

Over seeds. All seeds answer the same test mentions. A score is the mean over seeds, `sd` the standard deviation
between them (n - 1). The interval is a percentile bootstrap over documents: a resample draws as many documents as
there are, with replacement, and a document drawn brings its mentions' answers of all seeds, so that a resample is the
same for every seed. It covers the choice of documents; how much the seed decides, `sd` and `by_seed` say. A difference
is that of the two systems' answers to a mention with the same seed, averaged and resampled in the same way:
`angel_trl.metrics.paired_difference` over the mentions of all seeds, grouped by document.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from changes import count_changes
from numpy.typing import NDArray
from outcomes import Outcome, TestedMentions

from angel_trl.metrics import paired_difference_of_ranks, score_ranks

if TYPE_CHECKING:
    from experiment import Experiment, Run

COMPARED = ("acc@1", "acc@1_strict", "acc@5", "mrr")
RESAMPLES = 10_000
STAGES = {"positive-only": "positive", "ANGEL": "angel"}
"""Folder of the stage that makes a system."""
NAMES_LINKER = "positive/names/linker"
"""What the positive-only stage makes of the names alone."""
_SYSTEM_IN = {NAMES_LINKER: NAMES_LINKER, "positive": "positive-only", "linker": "ANGEL"}
_MODEL = re.compile(rf"\$\{{runs\}}/([^/]+)/({'|'.join(_SYSTEM_IN)})$")
# What a slice keeps of its scores.
_OF_SLICE = ("mentions", "acc@1", "acc@1_ci", "acc@1_strict", "acc@5", "mrr")

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By run and seed what is kept of it, see `collecting.of_run`."""


def system_scores(tested: TestedMentions, by_seed: Mapping[int, Outcome]) -> dict[str, Any]:
    """Scores of one system.

    Returns:
        `seeds`; `scores`, of `angel_trl.metrics.score_ranks`, means over seeds with intervals; `sd` of them between
        seeds, None for one seed; `by_seed`; `ambiguous`, the percentage of answers that are a name of several
        concepts; `slices`, by slice the means, with `mentions` for one seed.
    """
    ranks, strict = (np.stack([getattr(one, field) for one in by_seed.values()]) for field in ("rank", "rank_strict"))

    def pooled(members: NDArray[np.bool_]) -> dict[str, Any]:
        """Scores of some mentions over all seeds."""
        groups = np.tile(tested.documents[members], len(by_seed)).tolist()
        found = score_ranks(ranks[:, members].ravel(), strict[:, members].ravel(), groups=groups)
        return found | {"mentions": int(members.sum())}

    alone = {seed: score_ranks(one.rank, one.rank_strict, bootstrap=0) for seed, one in by_seed.items()}
    metrics = [key for key in next(iter(alone.values())) if key != "mentions"]
    values = {key: [scores[key] for scores in alone.values()] for key in metrics}
    slices = {name: pooled(members) if members.any() else {"mentions": 0} for name, members in tested.slices.items()}
    return {
        "seeds": list(by_seed),
        "scores": pooled(np.ones(len(tested), dtype=bool)),
        "sd": {key: float(np.std(own, ddof=1)) if len(own) > 1 else None for key, own in values.items()},
        "by_seed": {str(seed): {key: scores[key] for key in metrics} for seed, scores in alone.items()},
        "ambiguous": 100 * float(np.mean([one.ambiguous for one in by_seed.values()])),
        "slices": {name: {key: scores[key] for key in _OF_SLICE if key in scores} for name, scores in slices.items()},
    }


def by_wording(
    tested: TestedMentions, lookup: Outcome, systems: Mapping[str, Mapping[int, Outcome]]
) -> dict[str, Any]:
    """Acc@1 by whether training has a mention's concept, and whether the mention spells out one of its names.

    Args:
        tested: the test mentions.
        lookup: of string lookup in the knowledge base: it is right where a mention spells out a name of its concept.
        systems: name of a system to outcomes by seed.

    Returns:
        `mentions`, how many are of each kind; `systems`, by name `seeds` and `acc@1`, by kind the mean over seeds.
    """
    spelled = lookup.rank == 0
    kinds = {
        f"{slice}, {wording}": tested.slices[slice] & members
        for slice in ("seen concept", "unseen concept")
        for wording, members in (("name", spelled), ("other wording", ~spelled))
    }
    kinds = {kind: members for kind, members in kinds.items() if members.any()}

    def right(by_seed: Mapping[int, Outcome], members: NDArray[np.bool_]) -> float:
        return 100 * float(np.mean([(one.rank[members] == 0).mean() for one in by_seed.values()]))

    return {
        "mentions": {kind: int(members.sum()) for kind, members in kinds.items()},
        "systems": {
            name: {"seeds": list(own), "acc@1": {kind: right(own, members) for kind, members in kinds.items()}}
            for name, own in systems.items()
        },
    }


def difference(
    tested: TestedMentions, after: Mapping[int, Outcome], before: Mapping[int, Outcome], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`after` minus `before`, systems with the same seeds.

    Returns:
        `seeds`; for each of `COMPARED` what `angel_trl.metrics.paired_difference` returns, over all seeds; `by_seed`
        and `sd`, of the difference in Acc@1; `slices`, by slice the difference in Acc@1; `changes`, see
        `changes.count_changes`; `calibration` of both, means over seeds of `outcomes.calibration`.
    """

    def paired(metric: str, members: NDArray[np.bool_], seeds: Sequence[int]) -> dict[str, Any]:
        field = "rank_strict" if metric.endswith("_strict") else "rank"
        first, second = (
            np.concatenate([getattr(one[seed], field)[members] for seed in seeds]) for one in (before, after)
        )
        groups = np.tile(tested.documents[members], len(seeds)).tolist()
        return paired_difference_of_ranks(first, second, metric, groups, resamples)

    everything, seeds = np.ones(len(tested), dtype=bool), list(after)
    by_seed = {str(seed): paired("acc@1", everything, [seed]) for seed in seeds}
    values = [one["difference"] for one in by_seed.values()]
    return {
        "seeds": seeds,
        **{metric: paired(metric, everything, seeds) for metric in COMPARED},
        "by_seed": by_seed,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "slices": {
            name: paired("acc@1", members, seeds) | {"mentions": int(members.sum())}
            for name, members in tested.slices.items()
            if members.any()
        },
        "changes": count_changes(before, after),
        "calibration": {"before": _mean_calibration(before), "after": _mean_calibration(after)},
    }


def _mean_calibration(by_seed: Mapping[int, Outcome]) -> dict[str, float] | None:
    values = [one.calibration for one in by_seed.values() if one.calibration is not None]
    if len(values) < len(by_seed):
        return None
    return {key: float(np.mean([one[key] for one in values])) for key in values[0]}


def compute(experiment: "Experiment", records: Records, run: str, system: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What it took to make a system, on average over seeds, the models that it started from included.

    Returns:
        `compute`: `seconds`, and `core_seconds` where the recipe was told how many threads to use on a CPU; or None
        if it is not known.
    """
    runs = {one.name: one for one in experiment.runs}
    taken: list[tuple[float, float | None]] = []
    for seed in seeds:
        parts = _parts(runs, records, run, system, seed)
        if parts is None:
            return {"compute": None}
        cores = [None if threads is None else seconds * threads for seconds, threads in parts]
        taken.append((sum(seconds for seconds, _ in parts), None if None in cores else sum(cores)))
    seconds, cores = zip(*taken, strict=True)
    known = None if None in cores else float(np.mean(cores))
    return {"compute": {"seconds": float(np.mean(seconds)), "core_seconds": known}}


def _parts(
    runs: Mapping[str, "Run"], records: Records, name: str, system: str, seed: int
) -> list[tuple[float, int | None]] | None:
    """Seconds and threads of a run, until a system was there, and before it of those that it starts from."""
    taken = records.get(name, {}).get(str(seed), {}).get("seconds_by_system", {}).get(system)
    if taken is None:
        return None
    parts = [(taken, _threads(runs[name]))]
    start = _MODEL.match(str(runs[name].settings.get("model", ""))) if system in _SYSTEM_IN.values() else None
    if start is None:
        return parts
    before = _parts(runs, records, start[1], _SYSTEM_IN[start[2]], seed)
    return None if before is None else before + parts


def _threads(run: "Run") -> int | None:
    return run.settings.get("cpu_threads") if run.settings.get("use_cpu") else None


def rounded(value: Any) -> Any:
    """The same JSON value with floats of at most four decimals: more is noise, and hard to read."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value
