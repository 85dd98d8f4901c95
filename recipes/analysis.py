"""What finished runs come to: scores over seeds, differences between systems, by kind of mention, by compute.

Everything is made from what runs leave in their folders (`predictions.py`), so that it can be made again at any time,
without models, corpora and knowledge bases.

Over seeds. All seeds answer the same test mentions. A score is the mean over seeds, `sd` the standard deviation
between them (n - 1). The interval is a percentile bootstrap over documents: a resample draws as many documents as
there are, with replacement, and a document drawn brings its mentions' answers of all seeds, so that a resample is the
same for every seed. It covers the choice of documents; how much the seed decides, `sd` and `by_seed` say. A difference
is that of the two systems' answers to a mention with the same seed, averaged and resampled in the same way:
`angel_trl.metrics.paired_difference` over the mentions of all seeds, grouped by document.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from changes import calibration, count_changes, write_examples
from predictions import MENTIONS, PREDICTIONS, AnsweredMentions, Answers, read_mentions, read_predictions
from whole_file import whole_file

from angel_trl import paired_difference, score
from angel_trl.breakdown import ambiguous_answers, score_slices

if TYPE_CHECKING:
    from experiment import Experiment, Run

COMPARED = ("acc@1", "acc@1_strict", "acc@5", "mrr")
RESAMPLES = 10_000
STAGES = {"positive-only": "positive", "ANGEL": "angel"}
"""Folder of the stage that makes a system."""
_MODEL = re.compile(r"\$\{runs\}/([^/]+)/(positive|linker)$")
# What a slice keeps of its scores.
_OF_SLICE = ("mentions", "acc@1", "acc@1_ci", "acc@1_strict", "acc@5", "mrr")


def collect(experiment: "Experiment", output: Path) -> dict[str, Any]:
    """Everything that is known of the runs that are done.

    Args:
        experiment: its runs, seeds, systems and differences.
        output: the folder of its runs, with a folder `seed-N` for each seed.

    Returns:
        JSON values. `runs`, by run and seed: command, seconds, surroundings and what its `results.json` has. If the
        experiment has `systems` and their answers are there also `systems`, see `system_scores`, and `differences`, a
        list of `difference`.
    """
    runs: dict[str, dict[str, Any]] = {}
    for run in experiment.runs:
        for seed in experiment.seeds:
            folder = output / f"seed-{seed}" / run.name
            if (folder / "run.json").exists():
                runs.setdefault(run.name, {})[str(seed)] = of_run(folder)
    collected: dict[str, Any] = {"experiment": experiment.name, "title": experiment.title, "runs": runs}
    gold, answers = read_answers(experiment, output)
    if gold is None:
        return collected
    collected["mentions"] = {"all": len(gold), "documents": len(set(gold.documents))} | {
        name: int(members.sum()) for name, members in gold.slices.items()
    }
    collected["systems"] = {
        name: rounded(system_scores(gold, by_seed))
        | rounded(compute(experiment, output, *experiment.systems[name], list(by_seed)))
        for name, by_seed in answers.items()
    }
    if experiment.curves:
        collected["curves"] = experiment.curves
    collected["differences"] = []
    for name, against in experiment.differences:
        seeds = [seed for seed in answers.get(name, {}) if seed in answers.get(against, {})]
        if seeds:
            after, before = ({seed: answers[one][seed] for seed in seeds} for one in (name, against))
            found = difference(gold, after, before)
            collected["differences"].append({"system": name, "against": against, **rounded(found)})
            slug = re.sub(r"\W+", "-", f"{name} against {against}").strip("-").lower()
            write_examples(output / f"changes-{slug}.md", f"{name} against {against}", gold, before, after)
    return collected


def of_run(folder: Path) -> dict[str, Any]:
    """What is kept of one run: `run.json`, scores and dev curves."""
    results = json.loads((folder / "results.json").read_text())
    kept = {key: results[key] for key in ("test", "dev", "difference", "counts") if key in results}
    curves = {}
    for system, stage in STAGES.items():
        if (folder / stage / "curve.json").exists():
            curve = json.loads((folder / stage / "curve.json").read_text())
            curves |= {system: curve} if curve else {}
    return json.loads((folder / "run.json").read_text()) | ({"dev": curves} if curves else {}) | kept


def read_answers(
    experiment: "Experiment", output: Path
) -> tuple[AnsweredMentions | None, dict[str, dict[int, Answers]]]:
    """The test mentions, and by system and seed the answers to them, of the runs that are done and have kept them."""
    gold, answers = None, {}
    for name, (run, system) in experiment.systems.items():
        for seed in experiment.seeds:
            folder = output / f"seed-{seed}" / run
            if not (folder / "run.json").exists() or not (folder / PREDICTIONS).exists():
                continue
            if gold is None:
                gold = read_mentions(_any_mentions(experiment, output))
            found = read_predictions(folder / PREDICTIONS, gold.ids)
            if system not in found:
                raise ValueError(f"{folder / PREDICTIONS}: there is no system {system!r}, only {', '.join(found)}.")
            answers.setdefault(name, {})[seed] = found[system]
    return gold, answers


def _any_mentions(experiment: "Experiment", output: Path) -> Path:
    """The first `mentions.parquet` of the experiment: all runs are tested on the same mentions."""
    places = [output / f"seed-{seed}" / run.name / MENTIONS for run in experiment.runs for seed in experiment.seeds]
    for place in places:
        if place.exists():
            return place
    raise ValueError(f"{output}: there are predictions, but no run has a {MENTIONS}, which has the gold labels.")


def system_scores(gold: AnsweredMentions, by_seed: Mapping[int, Answers]) -> dict[str, Any]:
    """Scores of one system.

    Returns:
        `seeds`; `scores`, of `angel_trl.metrics.score`, means over seeds with intervals; `sd` of them between seeds,
        None for one seed; `by_seed`; `ambiguous`, the percentage of answers that are a name of several concepts;
        `slices`, by slice the means, with `mentions` for one seed.
    """
    predictions = [one.ids for one in by_seed.values()]
    groups = gold.documents * len(predictions)
    references = gold.gold * len(predictions)
    pooled = [ranked for one in predictions for ranked in one]
    alone = {seed: score(one.ids, gold.gold, bootstrap=0) for seed, one in by_seed.items()}
    metrics = [key for key in next(iter(alone.values())) if key not in ("mentions", "nil")]
    values = {key: [scores[key] for scores in alone.values()] for key in metrics}
    slices = score_slices(
        pooled,
        references,
        {k: np.tile(v, len(predictions)) for k, v in gold.slices.items()},
        groups=groups,
        bootstrap=1000,
    )
    return {
        "seeds": list(by_seed),
        "scores": score(pooled, references, groups=groups) | {"mentions": len(gold)},
        "sd": {key: float(np.std(own, ddof=1)) if len(own) > 1 else None for key, own in values.items()},
        "by_seed": {str(seed): {key: scores[key] for key in metrics} for seed, scores in alone.items()},
        "ambiguous": ambiguous_answers(pooled),
        "slices": {
            name: {key: scores[key] for key in _OF_SLICE if key in scores}
            | {"mentions": scores["mentions"] // len(predictions)}
            for name, scores in slices.items()
        },
    }


def difference(
    gold: AnsweredMentions, after: Mapping[int, Answers], before: Mapping[int, Answers], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`after` minus `before`, systems with the same seeds.

    Returns:
        `seeds`; for each of `COMPARED` what `angel_trl.metrics.paired_difference` returns, over all seeds; `by_seed`
        and `sd`, of the difference in Acc@1; `slices`, by slice the difference in Acc@1; `changes`, see
        `changes.count_changes`; `calibration` of both, see `changes.calibration`.
    """
    pairs = [(before[seed].ids, after[seed].ids) for seed in after]
    everything = np.ones(len(gold), dtype=bool)

    def paired(metric: str, members: np.ndarray, seeds: Sequence[int] | None = None) -> dict[str, Any]:
        rows = np.flatnonzero(members).tolist()
        chosen = pairs if seeds is None else [pairs[place] for place in seeds]
        return paired_difference(
            [one[row] for one, _ in chosen for row in rows],
            [other[row] for _, other in chosen for row in rows],
            [gold.gold[row] for _ in chosen for row in rows],
            metric=metric,
            groups=[gold.documents[row] for _ in chosen for row in rows],
            bootstrap=resamples,
        )

    by_seed = {str(seed): paired("acc@1", everything, [place]) for place, seed in enumerate(after)}
    values = [one["difference"] for one in by_seed.values()]
    return {
        "seeds": list(after),
        **{metric: paired(metric, everything) for metric in COMPARED},
        "by_seed": by_seed,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "slices": {
            name: paired("acc@1", members) | {"mentions": int(members.sum())}
            for name, members in gold.slices.items()
            if members.any()
        },
        "changes": count_changes(gold, before, after),
        "calibration": {"before": calibration(gold, before), "after": calibration(gold, after)},
    }


def compute(experiment: "Experiment", output: Path, run: str, system: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What it took to make a system, on average over seeds, the models that it started from included.

    Returns:
        `compute`: `seconds`, and `core_seconds` where the recipe was told how many threads to use on a CPU; or None
        if it is not known. What is no stage of a run (a baseline) is as its `results.json` has it: `seconds`, by
        system.
    """
    runs = {one.name: one for one in experiment.runs}
    taken: list[tuple[float, float | None]] = []
    for seed in seeds:
        folder = output / f"seed-{seed}"
        if system in STAGES:
            parts = _parts(runs, folder, run, STAGES[system])
        else:
            taken_by = json.loads((folder / run / "results.json").read_text()).get("seconds", {})
            parts = [(taken_by[system]["seconds"], _threads(runs[run]))] if system in taken_by else None
        if parts is None:
            return {"compute": None}
        cores = [None if threads is None else seconds * threads for seconds, threads in parts]
        taken.append((sum(seconds for seconds, _ in parts), None if None in cores else sum(cores)))
    seconds, cores = zip(*taken, strict=True)
    known = None if None in cores else float(np.mean(cores))
    return {"compute": {"seconds": float(np.mean(seconds)), "core_seconds": known}}


def _threads(run: "Run") -> int | None:
    return run.settings.get("cpu_threads") if run.settings.get("use_cpu") else None


def _parts(runs: Mapping[str, "Run"], folder: Path, name: str, stage: str) -> list[tuple[float, int | None]] | None:
    """Seconds and threads of a run, until a stage was done, and before it of those that it starts from."""
    taken = seconds_until(folder / name, stage)
    if taken is None:
        return None
    parts = [(taken, _threads(runs[name]))]
    start = _MODEL.match(str(runs[name].settings.get("model", "")))
    if start is None:
        return parts
    before = _parts(runs, folder, start[1], "positive" if start[2] == "positive" else "angel")
    return None if before is None else before + parts


def seconds_until(folder: Path, stage: str) -> float | None:
    """Seconds that a run was at work until a stage of it was done, by the time of its curve; None if not known."""
    attempts, curve = folder / "attempts.json", folder / stage / "curve.json"
    if not attempts.exists() or not curve.exists():
        return None
    until = curve.stat().st_mtime
    return sum(max(0.0, min(one["end"], until) - one["begin"]) for one in json.loads(attempts.read_text()))


def rounded(value: Any) -> Any:
    """The same JSON value with floats of at most four decimals: more is noise, and hard to read."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, which is complete as soon as it is there."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
