"""All that is known of an experiment's runs, in its JSON file, and their outcomes beside it.

Everything is made from what runs leave in their folders (`predictions.py`) and, of runs whose folders are not at hand,
from what the experiment's own files have of them: `NAME.json` and `NAME.parquet` (`outcomes.py`). So it can be made
again at any time, without models, corpora and knowledge bases, and an experiment can be made on several machines.
"""

import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from analysis import NAMES_LINKER, STAGES, Records, by_wording, compute, difference, rounded, system_scores
from changes import write_examples
from outcomes import Outcome, Place, TestedMentions, read_outcomes, write_outcomes
from predictions import MENTIONS, PREDICTIONS, AnsweredMentions, Answers, read_mentions, read_predictions
from whole_file import whole_file

if TYPE_CHECKING:
    from experiment import Experiment

logger = logging.getLogger("recipes.collecting")


def collect(experiment: "Experiment", output: Path, result: Path) -> dict[str, Any]:
    """Write everything that is known of the runs that are done to `result`, and its outcomes beside it.

    What `result` has of runs whose folders are not in `output` stays; unless the experiment has other settings for
    them by now, which is logged.

    Args:
        experiment: its runs, seeds, systems and differences.
        output: the folder of its runs, with a folder `seed-N` for each seed; examples of changes are written there.
        result: a JSON file; outcomes go to a parquet file of the same name.

    Returns:
        What `result` has. `runs`, by run and seed what `of_run` returns. If the experiment has `systems` and their
        answers are known also `systems`, see `system_scores`, with RUN/SYSTEM as `of`, and `differences`, a list of
        `difference`.

    Raises:
        ValueError: if runs, here or in `result`, were tested on different mentions.
    """
    earlier = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    runs = _records(experiment, output, earlier.get("runs", {}), result)
    collected: dict[str, Any] = {"experiment": experiment.name, "title": experiment.title, "runs": runs}
    gold, answers = read_answers(experiment, output)
    tested, outcomes = _outcomes(runs, gold, answers, result.with_suffix(".parquet"))
    if tested is not None:
        write_outcomes(result.with_suffix(".parquet"), tested, outcomes)
        collected |= {"mentions": _sizes(tested), **_compared(experiment, runs, tested, outcomes)}
    if gold is not None:
        _write_examples(experiment, output, gold, answers)
    if earlier:
        _keep_scores(experiment, collected, earlier)
    for name, one in collected.get("systems", {}).items():
        one["of"] = "/".join(experiment.systems[name])
    write_json(result, collected)
    return collected


def _records(experiment: "Experiment", output: Path, earlier: Records, result: Path) -> dict[str, dict[str, Any]]:
    """`of_run` of all runs that are done, here or by `earlier`, in the order of the experiment."""
    runs: dict[str, dict[str, Any]] = {}
    for run in experiment.runs:
        for seed in experiment.seeds:
            folder = output / f"seed-{seed}" / run.name
            before = earlier.get(run.name, {}).get(str(seed))
            if (folder / "run.json").exists():
                runs.setdefault(run.name, {})[str(seed)] = of_run(folder)
            elif before is not None and before["command"] == shlex.join(run.command("DATA", "RUNS", seed)):
                runs.setdefault(run.name, {})[str(seed)] = before
            elif before is not None:
                logger.warning("%s: %s, seed %d, was made by another command and is left out", result, run.name, seed)
    return runs


def _outcomes(
    runs: Records, gold: AnsweredMentions | None, answers: Mapping[Place, Answers], kept: Path
) -> tuple[TestedMentions | None, dict[Place, Outcome]]:
    """Outcomes of runs in folders and, for the others of `runs`, of those in the file `kept`."""
    tested, outcomes = read_outcomes(kept) if kept.exists() else (None, {})
    outcomes = {place: one for place, one in outcomes.items() if str(place[2]) in runs.get(place[0], {})}
    if gold is not None:
        here = TestedMentions.of(gold)
        if tested is not None and outcomes and tested.digest != here.digest:
            raise ValueError(
                f"{kept}: its {len(tested)} mentions are not the {len(here)} of the runs here: another split, corpus "
                "or knowledge base. Give other --results, or move that file and its JSON away."
            )
        tested = here
        outcomes |= {place: Outcome.of(gold, own) for place, own in answers.items()}
    return tested, outcomes


def _sizes(tested: TestedMentions) -> dict[str, int]:
    return {"all": len(tested), "documents": len(np.unique(tested.documents))} | {
        name: int(members.sum()) for name, members in tested.slices.items()
    }


def _compared(
    experiment: "Experiment", runs: Records, tested: TestedMentions, outcomes: Mapping[Place, Outcome]
) -> dict[str, Any]:
    """`systems`, `wording` and `differences` of what has outcomes, and the experiment's `curves`."""
    by_seed = {
        name: {seed: outcomes[run, system, seed] for seed in experiment.seeds if (run, system, seed) in outcomes}
        for name, (run, system) in experiment.systems.items()
    }
    found: dict[str, Any] = {
        "systems": {
            name: rounded(system_scores(tested, own) | compute(experiment, runs, *experiment.systems[name], list(own)))
            for name, own in by_seed.items()
            if own
        }
    }
    if experiment.curves:
        found["curves"] = experiment.curves
    lookup = next(iter(by_seed.get(experiment.wording or "", {}).values()), None)
    if lookup is not None:
        found["wording"] = rounded(by_wording(tested, lookup, {name: own for name, own in by_seed.items() if own}))
    found["differences"] = []
    for name, against in experiment.differences:
        seeds = [seed for seed in by_seed[name] if seed in by_seed[against]]
        if seeds:
            after, before = ({seed: by_seed[one][seed] for seed in seeds} for one in (name, against))
            own = rounded(difference(tested, after, before))
            found["differences"].append({"system": name, "against": against, **own})
    return found


def _keep_scores(experiment: "Experiment", collected: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """Keep scores over seeds whose outcomes are not all known, but whose runs are the experiment's.

    A difference that is kept while one of its systems has been made again is marked as `earlier`: it is from an
    earlier run of the same settings.
    """

    def stays(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, names: Sequence[str]) -> bool:
        if before is None or set(before["seeds"]) <= set(now["seeds"] if now else []):
            return False
        runs = [experiment.systems[name][0] for name in names]
        return all(str(seed) in collected["runs"].get(run, {}) for run in runs for seed in before["seeds"])

    systems, made = earlier.get("systems", {}), collected.get("systems", {})
    kept = {name: stays(systems.get(name), made.get(name), [name]) for name in experiment.systems}
    told = {(one["system"], one["against"]): one for one in collected.get("differences", [])}
    for one in earlier.get("differences", []):
        pair = one["system"], one["against"]
        if pair in experiment.differences and stays(one, told.get(pair), pair):
            remade = any(name in made and not kept[name] for name in pair)
            told[pair] = {**one, "earlier": True} if remade else one
    if any(kept.values()):
        collected.setdefault("mentions", earlier["mentions"])
        collected["systems"] = {
            name: systems[name] if kept[name] else made[name]
            for name in experiment.systems
            if kept[name] or name in made
        }
    if told:
        collected["differences"] = [told[pair] for pair in experiment.differences if pair in told]


def _write_examples(
    experiment: "Experiment", output: Path, gold: AnsweredMentions, answers: Mapping[Place, Answers]
) -> None:
    for name, against in experiment.differences:
        after, before = (
            {
                seed: answers[*experiment.systems[one], seed]
                for seed in experiment.seeds
                if (*experiment.systems[one], seed) in answers
            }
            for one in (name, against)
        )
        seeds = [seed for seed in after if seed in before]
        if seeds:
            slug = re.sub(r"\W+", "-", f"{name} against {against}").strip("-").lower()
            title = f"{name} against {against}"
            parts = ({seed: one[seed] for seed in seeds} for one in (before, after))
            write_examples(output / f"changes-{slug}.md", title, gold, *parts)


def of_run(folder: Path) -> dict[str, Any]:
    """What is kept of one run.

    Returns:
        `run.json`; of `results.json` the scores (`test`, `dev`, `difference`, `counts`); as `dev` also its dev curves;
        `seconds_by_system`, what it took until a system was there, or what was made of the names alone.
    """
    results = json.loads((folder / "results.json").read_text())
    kept = {key: results[key] for key in ("test", "dev", "difference", "counts") if key in results}
    seconds = {system: taken["seconds"] for system, taken in results.get("seconds", {}).items()}
    curves = {}
    for system, stage in STAGES.items():
        until = seconds_until(folder, f"{stage}/curve.json")
        if until is not None:
            seconds[system] = until
        if (folder / stage / "curve.json").exists():
            curve = json.loads((folder / stage / "curve.json").read_text())
            curves |= {system: curve} if curve else {}
    until = seconds_until(folder, f"{NAMES_LINKER}/angel.json")
    if until is not None:
        seconds[NAMES_LINKER] = until
    record = json.loads((folder / "run.json").read_text()) | ({"dev": curves} if curves else {}) | kept
    return record | ({"seconds_by_system": rounded(seconds)} if seconds else {})


def read_answers(experiment: "Experiment", output: Path) -> tuple[AnsweredMentions | None, dict[Place, Answers]]:
    """The test mentions, and the answers to them of the systems of runs that are done and have kept them."""
    gold, answers = None, {}
    for run, system in dict.fromkeys(experiment.systems.values()):
        for seed in experiment.seeds:
            folder = output / f"seed-{seed}" / run
            if not (folder / "run.json").exists() or not (folder / PREDICTIONS).exists():
                continue
            if gold is None:
                gold = read_mentions(_any_mentions(experiment, output))
            found = read_predictions(folder / PREDICTIONS, gold.ids)
            if system not in found:
                raise ValueError(
                    f"{folder / PREDICTIONS}: there is no system {system!r}, only {', '.join(found)}. Mend the "
                    "experiment's `systems`; or, if the recipe makes it by now, delete run.json there and run again."
                )
            answers[run, system, seed] = found[system]
    return gold, answers


def _any_mentions(experiment: "Experiment", output: Path) -> Path:
    """The first `mentions.parquet` of the experiment: all runs are tested on the same mentions."""
    places = [output / f"seed-{seed}" / run.name / MENTIONS for run in experiment.runs for seed in experiment.seeds]
    for place in places:
        if place.exists():
            return place
    raise ValueError(f"{output}: there are predictions, but no run has a {MENTIONS}, which has the gold labels.")


def seconds_until(folder: Path, file: str) -> float | None:
    """Seconds that a run was at work until it wrote a file, by the time of that; None if not known."""
    attempts, written = folder / "attempts.json", folder / file
    if not attempts.exists() or not written.exists():
        return None
    until = written.stat().st_mtime
    return sum(max(0.0, min(one["end"], until) - one["begin"]) for one in json.loads(attempts.read_text()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, which is complete as soon as it is there."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
