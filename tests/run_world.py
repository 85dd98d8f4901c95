"""Small finished runs: mentions, answers to them and folders of runs, as the recipes leave them."""

import json
import shlex
from types import SimpleNamespace

import analysis
import changes
import collecting
import experiment
import numpy as np
import outcomes
import predictions

from angel_trl.breakdown import SLICES

# Under one name, since tests call what they make by the names of these modules.
recipes = SimpleNamespace(
    analysis=analysis,
    changes=changes,
    collecting=collecting,
    experiment=experiment,
    outcomes=outcomes,
    predictions=predictions,
)

# Two seeds, three documents of 2, 1 and 1 mentions; every label is A.
DOCUMENTS = ["d1", "d1", "d2", "d3"]
BEFORE = {0: "ABAB", 1: "BBAA"}
AFTER = {0: "AAAA", 1: "ABBB"}


def answers(*ids, names=None, scores=None):
    """One candidate a mention, "" for none."""
    own = [[[one]] if one else [] for one in ids]
    return recipes.predictions.Answers(
        own, names or [[f"name {one}"] if one else [] for one in ids], scores or [[-0.1] * len(one) for one in own]
    )


def gold_of(documents, gold, mentions=None, names=None):
    count = len(documents)
    slices = {name: np.zeros(count, dtype=bool) for name in SLICES} | {"seen string": np.arange(count) % 2 == 0}
    return recipes.predictions.AnsweredMentions(
        ids=[f"{document}:{place}" for place, document in enumerate(documents)],
        documents=list(documents),
        mentions=mentions or [f"mention {place}" for place in range(count)],
        contexts=[f"a [mention {place}] in text" for place in range(count)],
        gold=[[[one]] for one in gold],
        gold_names=names or [[f"name {one}"] for one in gold],
        slices=slices,
    )


def outcomes_of(gold, by_seed):
    return {seed: recipes.outcomes.Outcome.of(gold, own) for seed, own in by_seed.items()}


def make_run(folder, gold, systems, *, command, mentions=True):
    folder.mkdir(parents=True)
    recipes.predictions.write_predictions(folder, systems, gold.ids)
    (folder / "run.json").write_text(json.dumps({"command": command, "seconds": 60}))
    (folder / "results.json").write_text(json.dumps({"test": {name: {"acc@1": 1.0} for name in systems}}))
    if mentions:
        rows = [
            {
                "mention_id": gold.ids[place],
                "document_id": gold.documents[place],
                "mention": gold.mentions[place],
                "context": gold.contexts[place],
                "gold": gold.gold[place],
                "gold_names": gold.gold_names[place],
                "slices": [name for name in SLICES if gold.slices[name][place]],
            }
            for place in range(len(gold))
        ]
        recipes.predictions._write(rows, recipes.predictions._MENTIONS_SCHEMA, folder / "mentions.parquet")


def told(run, seed):
    return shlex.join(run.command("DATA", "RUNS", seed))


def toy_answers():
    """The mentions, and answers before and after by seed."""
    gold = gold_of(DOCUMENTS, "AAAA")
    before, after = ({seed: answers(*ids) for seed, ids in one.items()} for one in (BEFORE, AFTER))
    return gold, before, after


def toy():
    """The mentions without their text, and outcomes before and after by seed."""
    gold, before, after = toy_answers()
    return recipes.outcomes.TestedMentions.of(gold), *(outcomes_of(gold, one) for one in (before, after))


def toy_runs(folder):
    """Two runs for two seeds in a folder, and their experiment."""
    gold, before, after = toy_answers()
    Run, Experiment = recipes.experiment.Run, recipes.experiment.Experiment
    settings = {"use_cpu": True, "cpu_threads": 2}
    lookups, angel = Run("lookups", "baselines", dict(settings)), Run("angel", "angel", dict(settings))
    for seed in (0, 1):
        systems = {"positive-only": before[seed], "ANGEL": after[seed]}
        make_run(folder / f"seed-{seed}" / "angel", gold, systems, command=told(angel, seed))
    # A baseline that has no labels of its own, and was made for one seed only.
    at, lookup = folder / "seed-1" / "lookups", {"lookup": before[1]}
    make_run(at, gold, lookup, mentions=False, command=told(lookups, 1))
    return folder, Experiment(
        "toy",
        "Toy",
        [0, 1, 2],
        [lookups, angel, Run("control", "angel", settings | {"model": "${runs}/angel/positive"})],
        {
            "lookup": ("lookups", "lookup"),
            "positive-only": ("angel", "positive-only"),
            "ANGEL": ("angel", "ANGEL"),
            "control": ("control", "ANGEL"),
        },
        [("ANGEL", "positive-only"), ("ANGEL", "lookup"), ("ANGEL", "control")],
    )
