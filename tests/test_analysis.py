"""What finished runs come to: files of answers, scores over seeds, differences, changes, compute."""

import dataclasses
import itertools
import json
import os
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl.breakdown import SLICES


@pytest.fixture(scope="module")
def recipes():
    """The modules of the recipes that take finished runs."""
    import analysis
    import changes
    import collecting
    import experiment
    import outcomes
    import predictions

    return SimpleNamespace(
        analysis=analysis,
        changes=changes,
        collecting=collecting,
        experiment=experiment,
        outcomes=outcomes,
        predictions=predictions,
    )


def answers(recipes, *ids, names=None, scores=None):
    """One candidate a mention, "" for none."""
    own = [[[one]] if one else [] for one in ids]
    return recipes.predictions.Answers(
        own, names or [[f"name {one}"] if one else [] for one in ids], scores or [[-0.1] * len(one) for one in own]
    )


def gold_of(recipes, documents, gold, mentions=None, names=None):
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


# Files.


def test_answers_come_back_as_they_were_kept(recipes, small_kb, small_mentions, tmp_path):
    test, train = small_mentions.select(range(16, 20)), small_mentions.select(range(16))
    own = recipes.predictions.Answers(
        [[["C19"], ["C05", "C06"]], [], [["C21"]] * 7, [["C25"]]],
        [["asthma", "ra"], [], ["gout"] * 7, ["hypertension"]],
        [[-0.5, -1.25], [], [-1.0] * 7, [-2.0]],
    )
    references = [[["C19"]], [["C19"]], [["C21"]], [["C25"], ["nowhere"]]]
    recipes.predictions.keep(tmp_path, {"ANGEL": own}, test, train, small_kb, references)
    gold = recipes.predictions.read_mentions(tmp_path / "mentions.parquet")
    assert gold.ids == list(test["id"])
    assert gold.gold == references
    assert gold.mentions[0] == "this is called"
    assert gold.contexts[3] == "[High blood pressure] is silent."
    assert gold.gold_names[3] == ["hypertension", "high blood pressure"]
    assert {name for name, members in gold.slices.items() if members[0]} == {"unseen concept", "unseen string"}
    read = recipes.predictions.read_predictions(tmp_path / "predictions.parquet", gold.ids)["ANGEL"]
    assert read.ids[:2] == own.ids[:2]
    assert (read.names[0], read.scores[0]) == (["asthma", "ra"], [-0.5, -1.25])
    # Five are kept.
    assert len(read.ids[2]) == len(read.names[2]) == len(read.scores[2]) == 5


def test_a_long_text_is_cut_around_the_mention(recipes, small_kb, small_mentions, tmp_path):
    row = dict(small_mentions[0]) | {"text": "word " * 40 + "gout" + " word" * 40, "start": 200, "end": 204}
    row |= {"mention": "gout"}
    from datasets import Dataset

    test = Dataset.from_list([row])
    recipes.predictions.keep(tmp_path, {"x": answers(recipes, "C30")}, test, test, small_kb, [[["C30"]]])
    (context,) = recipes.predictions.read_mentions(tmp_path / "mentions.parquet").contexts
    assert context == "..." + " ".join(["word"] * 12) + " [gout] " + " ".join(["word"] * 11) + " word..."


def test_predictions_are_read_in_the_order_asked_for_and_of_no_other_mentions(recipes, tmp_path):
    recipes.predictions.write_predictions(tmp_path, {"x": answers(recipes, "A", "B")}, ["m1", "m2"])
    path = tmp_path / "predictions.parquet"
    assert recipes.predictions.read_predictions(path, ["m2", "m1"])["x"].ids == [[["B"]], [["A"]]]
    with pytest.raises(ValueError, match="'x' answered 2 mentions, not the 3 of the other runs .*'m3'"):
        recipes.predictions.read_predictions(path, ["m1", "m2", "m3"])


def test_lookup_answers_with_the_mention_itself(recipes):
    made = recipes.predictions.Answers.of_lookup([[["A", "B"]], []], ["gout", "x"])
    assert (made.ids, made.names, made.scores) == ([[["A", "B"]], []], [["gout"], []], [[0.0], []])


# Scores and differences over seeds. Two seeds, three documents of 2, 1 and 1 mentions; every label is A.

DOCUMENTS = ["d1", "d1", "d2", "d3"]
BEFORE = {0: "ABAB", 1: "BBAA"}
AFTER = {0: "AAAA", 1: "ABBB"}


@pytest.fixture
def toy_answers(recipes):
    gold = gold_of(recipes, DOCUMENTS, "AAAA")
    before, after = ({seed: answers(recipes, *ids) for seed, ids in one.items()} for one in (BEFORE, AFTER))
    return gold, before, after


def outcomes_of(recipes, gold, by_seed):
    return {seed: recipes.outcomes.Outcome.of(gold, own) for seed, own in by_seed.items()}


@pytest.fixture
def toy(recipes, toy_answers):
    """Tested mentions, and outcomes before and after by seed."""
    gold, before, after = toy_answers
    return recipes.outcomes.TestedMentions.of(gold), *(outcomes_of(recipes, gold, one) for one in (before, after))


def test_scores_are_means_over_seeds(recipes, toy):
    tested, before, _ = toy
    found = recipes.analysis.system_scores(tested, before)
    # 2 of 4 right in either seed.
    assert found["scores"]["acc@1"] == 50
    assert found["scores"]["mentions"] == 4
    assert found["by_seed"]["0"]["acc@1"] == found["by_seed"]["1"]["acc@1"] == 50
    assert found["sd"]["acc@1"] == 0
    # Mentions 0 and 2: A and A in seed 0, B and A in seed 1.
    assert found["slices"]["seen string"]["acc@1"] == 75
    assert found["slices"]["seen string"]["mentions"] == 2
    assert found["slices"]["homonym"] == {"mentions": 0}
    assert found["seeds"] == [0, 1]


def test_deviation_is_between_seeds_and_that_of_one_is_not_known(recipes, toy):
    tested, _, after = toy
    # 100 and 25.
    assert recipes.analysis.system_scores(tested, after)["sd"]["acc@1"] == pytest.approx(75 / 2**0.5)
    assert recipes.analysis.system_scores(tested, {0: after[0]})["sd"]["acc@1"] is None


def test_a_difference_is_averaged_over_seeds(recipes, toy):
    tested, before, after = toy
    found = recipes.analysis.difference(tested, after, before, resamples=50)
    assert found["acc@1"]["difference"] == 12.5
    assert [found["by_seed"][seed]["difference"] for seed in "01"] == [50, -25]
    assert found["sd"] == pytest.approx(75 / 2**0.5)
    # Mentions 0 and 2: 0 and 0 in seed 0, +100 and -100 in seed 1.
    assert found["slices"]["seen string"]["difference"] == 0
    assert set(found["slices"]) == {"seen string"}


def brute_force(before, after):
    """Every resample of three documents, each as likely: one draw for both seeds."""
    points = {
        seed: [100 * ((a == "A") - (b == "A")) for b, a in zip(before[seed], after[seed], strict=True)]
        for seed in before
    }
    of_mention = np.mean(list(points.values()), axis=0)
    rows = {document: [i for i, own in enumerate(DOCUMENTS) if own == document] for document in ("d1", "d2", "d3")}
    return np.array(
        [
            np.mean([of_mention[row] for document in drawn for row in rows[document]])
            for drawn in itertools.product(rows, repeat=3)
        ]
    )


def test_the_bootstrap_draws_documents_once_for_all_seeds(recipes, toy):
    tested, before, after = toy
    found = recipes.analysis.difference(tested, after, before)["acc@1"]
    resamples = brute_force(BEFORE, AFTER)
    assert len(resamples) == 27
    # By document, over both seeds: +50 twice, -50, 0. The least and the greatest of 27 resamples have a probability of
    # 3.7% each, so that the percentiles lie on them; with a draw for each seed the least would have one of 1.1%.
    assert [resamples.min(), resamples.max()] == [-50, 50]
    assert (resamples == -50).sum() == (resamples == 50).sum() == 1
    assert found["ci"] == [-50, 50]
    tail = min((resamples <= 0).mean(), (resamples >= 0).mean())
    assert found["p_value"] == pytest.approx(min(1, 2 * tail), abs=0.03)


# A folder of runs.


def make_run(recipes, folder, gold, systems, *, command, mentions=True):
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


@pytest.fixture
def runs(recipes, toy_answers, tmp_path):
    gold, before, after = toy_answers
    Run, Experiment = recipes.experiment.Run, recipes.experiment.Experiment
    settings = {"use_cpu": True, "cpu_threads": 2}
    lookups, angel = Run("lookups", "baselines", dict(settings)), Run("angel", "angel", dict(settings))
    for seed in (0, 1):
        systems = {"positive-only": before[seed], "ANGEL": after[seed]}
        make_run(recipes, tmp_path / f"seed-{seed}" / "angel", gold, systems, command=told(angel, seed))
    # A baseline that has no labels of its own, and was made for one seed only.
    folder, lookup = tmp_path / "seed-1" / "lookups", {"lookup": before[1]}
    make_run(recipes, folder, gold, lookup, mentions=False, command=told(lookups, 1))
    return tmp_path, Experiment(
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


def told(run, seed):
    return shlex.join(run.command("DATA", "RUNS", seed))


def test_what_is_done_is_collected(recipes, runs):
    output, experiment = runs
    found = recipes.collecting.collect(experiment, output, output / "toy.json")
    assert {name: list(seeds) for name, seeds in found["runs"].items()} == {"lookups": ["1"], "angel": ["0", "1"]}
    assert {name: one["seeds"] for name, one in found["systems"].items()} == {
        "lookup": [1],
        "positive-only": [0, 1],
        "ANGEL": [0, 1],
    }
    told = [(one["system"], one["against"], one["seeds"]) for one in found["differences"]]
    # Only seeds that both have.
    assert told == [("ANGEL", "positive-only", [0, 1]), ("ANGEL", "lookup", [1])]
    assert found["mentions"]["all"] == 4
    assert (found["mentions"]["documents"], found["mentions"]["seen string"]) == (3, 2)
    assert json.loads((output / "toy.json").read_text()) == found


def test_collecting_writes_examples_beside_the_runs_and_none_into_the_result(recipes, runs):
    output, experiment = runs
    found = recipes.collecting.collect(experiment, output, output / "toy.json")
    text = (output / "changes-angel-against-positive-only.md").read_text()
    assert "- a [mention 1] in text\n  name B (B) -> name A (A) (d1:1, seed 0)" in text
    assert "in text" not in json.dumps(found)
    assert "name A" not in json.dumps(found)


def test_predictions_without_any_labels_are_an_error(recipes, runs):
    output, experiment = runs
    for path in output.rglob("mentions.parquet"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no run has a mentions.parquet"):
        recipes.collecting.collect(experiment, output, output / "toy.json")


def test_a_system_that_a_run_does_not_have_is_named(recipes, runs):
    output, experiment = runs
    experiment.systems["lookup"] = ("lookups", "TF-IDF")
    with pytest.raises(ValueError, match="there is no system 'TF-IDF', only lookup"):
        recipes.collecting.collect(experiment, output, output / "toy.json")


# Runs whose folders are not at hand.


def test_what_was_collected_elsewhere_stays_and_is_averaged_with_what_is_here(recipes, runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, result)
    for folder in output.glob("seed-*"):
        shutil.rmtree(folder)
    assert recipes.collecting.collect(experiment, output, result) == whole
    result.unlink()
    (output / "toy.parquet").unlink()
    assert list(recipes.collecting.collect(experiment, output, result)) == ["experiment", "title", "runs"]


def test_seeds_of_two_machines_are_compared_as_those_of_one(recipes, runs, toy_answers):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, output / "whole.json")
    shutil.move(output / "seed-1", output / "away")
    assert recipes.collecting.collect(experiment, output, result)["systems"]["ANGEL"]["seeds"] == [0]
    shutil.rmtree(output / "seed-0")
    shutil.move(output / "away", output / "seed-1")
    assert recipes.collecting.collect(experiment, output, result) == whole


def test_runs_made_by_another_command_are_left_out_and_told(recipes, runs, caplog):
    output, experiment = runs
    result = output / "toy.json"
    recipes.collecting.collect(experiment, output, result)
    shutil.rmtree(output / "seed-1")
    experiment.runs[1].settings["use_cpu"] = False
    found = recipes.collecting.collect(experiment, output, result)
    assert "toy.json: angel, seed 1, was made by another command and is left out" in caplog.text
    assert found["systems"]["ANGEL"]["seeds"] == [0]
    # Whose command is as it was.
    assert found["systems"]["lookup"]["seeds"] == [1]
    assert [(one["system"], one["against"]) for one in found["differences"]] == [("ANGEL", "positive-only")]


def test_scores_whose_outcomes_are_lost_stay_until_all_their_seeds_are_here(recipes, runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, result)
    (output / "toy.parquet").unlink()
    shutil.move(output / "seed-1", output / "away")
    found = recipes.collecting.collect(experiment, output, result)
    # Not the scores of seed 0 alone.
    assert {key: found[key] for key in ("systems", "differences")} == {
        key: whole[key] for key in ("systems", "differences")
    }
    shutil.move(output / "away", output / "seed-1")
    changed = json.loads(result.read_text())
    changed["systems"]["ANGEL"]["ambiguous"] = 77
    result.write_text(json.dumps(changed))
    assert recipes.collecting.collect(experiment, output, result) == whole


def test_scores_of_other_mentions_are_not_averaged(recipes, runs):
    output, experiment = runs
    result = output / "toy.json"
    recipes.collecting.collect(experiment, output, result)
    gold = gold_of(recipes, DOCUMENTS, "AAAB")
    shutil.rmtree(output / "seed-0")
    shutil.rmtree(output / "seed-1")
    systems = {name: answers(recipes, *"AAAA") for name in ("positive-only", "ANGEL")}
    make_run(recipes, output / "seed-2" / "angel", gold, systems, command=told(experiment.runs[1], 2))
    with pytest.raises(ValueError, match=r"toy.parquet: its 4 mentions are not the 4 of the runs here"):
        recipes.collecting.collect(experiment, output, result)


def test_outcomes_come_back_as_they_were_kept_and_hold_no_text(recipes, toy, tmp_path):
    tested, before, after = toy
    path = tmp_path / "x.parquet"
    calibrated = dataclasses.replace(after[1], calibration={"ece": 0.25})
    kept = {("angel", "lookup + training/x", 0): before[0], ("angel", "ANGEL", 1): calibrated}
    recipes.outcomes.write_outcomes(path, tested, kept)
    read_tested, read = recipes.outcomes.read_outcomes(path)
    assert (read_tested.digest, read_tested.documents.tolist()) == (tested.digest, [0, 0, 1, 2])
    assert {name: own.tolist() for name, own in read_tested.slices.items()} == {
        name: own.tolist() for name, own in tested.slices.items()
    }
    assert read.keys() == kept.keys()
    for place, one in read.items():
        for field in dataclasses.fields(one):
            own, expected = getattr(one, field.name), getattr(kept[place], field.name)
            assert getattr(own, "tolist", lambda own=own: own)() == getattr(expected, "tolist", lambda e=expected: e)()
    content = pq.read_table(path)
    assert {str(field.type) for column in content.schema for field in (column.flatten())} == {"int32", "bool", "int8"}


def test_another_parquet_file_is_no_outcomes(recipes, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: no outcomes of an experiment \(columns \['a'\]\)"):
        recipes.outcomes.read_outcomes(tmp_path / "x.parquet")


def finish(folder, stage, at):
    (folder / stage).mkdir(parents=True)
    (folder / stage / "curve.json").write_text("[[1, 50.0]]")
    os.utime(folder / stage / "curve.json", (at, at))


def compute_of(recipes, experiment, output, run, system, seeds):
    folders = {seed: output / f"seed-{seed}" for seed in seeds}
    records = {
        one.name: {
            str(seed): recipes.collecting.of_run(folder / one.name)
            for seed, folder in folders.items()
            if (folder / one.name / "run.json").exists()
        }
        for one in experiment.runs
    }
    return recipes.analysis.compute(experiment, records, run, system, seeds)["compute"]


def test_compute_is_counted_until_the_stage_was_done_with_what_it_started_from(recipes, runs):
    output, experiment = runs
    for seed in (0, 1):
        folder = output / f"seed-{seed}"
        # Interrupted from 1,100 to 5,000.
        attempts = [{"begin": 1000, "end": 1100}, {"begin": 5000, "end": 5400}]
        (folder / "angel" / "attempts.json").write_text(json.dumps(attempts))
        finish(folder / "angel", "positive", 5050 + 20 * seed)
        finish(folder / "angel", "angel", 5300)
        finish(folder / "control", "angel", 9040)
        (folder / "control" / "attempts.json").write_text(json.dumps([{"begin": 9000, "end": 9100}]))
    (output / "seed-0" / "control" / "run.json").write_text('{"command": "x"}')
    (output / "seed-0" / "control" / "results.json").write_text("{}")
    (output / "seed-1" / "control" / "run.json").write_text('{"command": "x"}')
    (output / "seed-1" / "control" / "results.json").write_text("{}")

    def of(run, system):
        return compute_of(recipes, experiment, output, run, system, [0, 1])

    assert of("angel", "positive-only") == {"seconds": 160, "core_seconds": 320}
    assert of("angel", "ANGEL") == {"seconds": 400, "core_seconds": 800}
    assert of("control", "ANGEL") == {"seconds": 200, "core_seconds": 400}
    assert compute_of(recipes, experiment, output, "lookups", "lookup", [1]) is None


def test_compute_of_a_baseline_is_what_its_results_say(recipes, runs):
    output, experiment = runs
    path = output / "seed-1" / "lookups" / "results.json"
    path.write_text(json.dumps({"test": {}, "seconds": {"lookup": {"seconds": 3.0, "cpu_seconds": 2.5}}}))
    found = compute_of(recipes, experiment, output, "lookups", "lookup", [1])
    assert found == {"seconds": 3, "core_seconds": 6}


def test_compute_on_a_device_is_in_seconds_alone(recipes, runs):
    output, experiment = runs
    experiment.runs[1].settings["use_cpu"] = False
    (output / "seed-0" / "angel" / "attempts.json").write_text('[{"begin": 0, "end": 10}]')
    finish(output / "seed-0" / "angel", "angel", 8)
    found = compute_of(recipes, experiment, output, "angel", "ANGEL", [0])
    assert found == {"seconds": 8, "core_seconds": None}


# What changed.


def test_changes_are_counted_by_kind_of_the_mistake(recipes):
    gold = gold_of(
        recipes,
        ["d"] * 5,
        "AAAAA",
        mentions=["WD", "diabetes", "gout", "gout", "gout"],
        names=[["wilson disease"], ["type 1 diabetes"], ["gout"], ["gout"], ["gout"]],
    )
    before = answers(recipes, "B", "A", "A", "", "A", names=[["x"], ["type 1 diabetes"], ["gout"], [], ["gout"]])
    after = answers(recipes, "A", "B", "A", "A", "B", names=[["y"], ["type 2 diabetes"], ["gout"], ["gout"], ["z"]])
    same = answers(recipes, "B", "A", "A", "", "A", names=before.names)
    first, second = ({0: before, 1: before}, {0: after, 1: same})
    found = recipes.changes.count_changes(*(outcomes_of(recipes, gold, one) for one in (first, second)))
    assert {key: value for key, value in found["fixed"].items() if value} == {
        "all": 1,
        "abbreviation": 0.5,
        "no answer": 0.5,
    }
    assert {key: value for key, value in found["broken"].items() if value} == {
        "all": 1,
        "numbered type": 0.5,
        "other": 0.5,
    }


def test_examples_of_a_kind_are_at_most_twenty_and_all_different(recipes, tmp_path):
    count = 30
    gold = gold_of(recipes, ["d"] * count, "A" * count, mentions=[f"m{place // 2}" for place in range(count)])
    before, after = answers(recipes, *"B" * count), answers(recipes, *"A" * count)
    recipes.changes.write_examples(tmp_path / "changes.md", "title", gold, {0: before}, {0: after})
    text = (tmp_path / "changes.md").read_text()
    # "name A" and "name B" differ in what numbers types; each mention stands twice.
    assert "## fixed: numbered type (15 different)" in text
    assert text.count("\n- ") == 15
    gold = gold_of(recipes, ["d"] * count, "A" * count)
    recipes.changes.write_examples(tmp_path / "changes.md", "title", gold, {0: before}, {0: after})
    text = (tmp_path / "changes.md").read_text()
    assert "(30 different)" in text
    assert text.count("\n- ") == 20


def test_calibration_is_of_the_share_of_the_first_concept(recipes):
    documents = [f"d{place}" for place in range(40)]
    gold = gold_of(recipes, documents, "A" * 40)
    half = float(np.log(0.5))
    # Two names of different concepts, equally likely: confidence 0.5. Four of five are right.
    own = recipes.predictions.Answers(
        [[["A"], ["B"]] if place % 5 else [["B"], ["A"]] for place in range(40)],
        [["a", "b"]] * 40,
        [[half, half]] * 40,
    )
    found = recipes.outcomes.calibration(gold, own)
    assert found["ece"] == pytest.approx(0.3)
    assert found["aurc"] == pytest.approx(0.2)
    # Two names of the same concept: confidence 1.
    same = recipes.predictions.Answers([[ids[0]] * 2 for ids in own.ids], own.names, own.scores)
    assert recipes.outcomes.calibration(gold, same)["ece"] == pytest.approx(0.2)


@pytest.mark.parametrize("scores", [[[0.0]] * 2, [[0.9]] * 2, [[-0.5], [0.9]]])
def test_what_has_no_probabilities_has_no_calibration(recipes, scores):
    gold = gold_of(recipes, ["d1", "d2"], "AA")
    assert recipes.outcomes.calibration(gold, answers(recipes, "A", "B", scores=scores)) is None


def test_numbers_are_rounded_and_files_complete(recipes, tmp_path):
    value = recipes.analysis.rounded({"a": [1.23456789, {"b": 2}], "c": "x", "d": None})
    assert value == {"a": [1.2346, {"b": 2}], "c": "x", "d": None}
    recipes.collecting.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
