"""Experiments' own files: what is there of runs in folders, and of those that were made elsewhere."""

import copy
import dataclasses
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_world import DOCUMENTS, answers, gold_of, make_run, recipes, told, toy_runs


@pytest.fixture
def runs(tmp_path):
    return toy_runs(tmp_path)


def test_what_is_done_is_collected(runs):
    output, experiment = runs
    found = recipes.collecting.collect(experiment, output, output / "toy.json")
    assert {name: list(seeds) for name, seeds in found["runs"].items()} == {"lookups": ["1"], "angel": ["0", "1"]}
    assert {name: one["seeds"] for name, one in found["systems"].items()} == {
        "lookup": [1],
        "positive-only": [0, 1],
        "ANGEL": [0, 1],
    }
    assert [one["of"] for one in found["systems"].values()] == ["lookups/lookup", "angel/positive-only", "angel/ANGEL"]
    told = [(one["system"], one["against"], one["seeds"]) for one in found["differences"]]
    # Only seeds that both have.
    assert told == [("ANGEL", "positive-only", [0, 1]), ("ANGEL", "lookup", [1])]
    assert found["mentions"]["all"] == 4
    assert (found["mentions"]["documents"], found["mentions"]["seen string"]) == (3, 2)
    assert json.loads((output / "toy.json").read_text()) == found


def test_scores_by_wording_are_collected_if_the_experiment_says_what_tells_it(runs):
    output, experiment = runs
    assert "wording" not in recipes.collecting.collect(experiment, output, output / "toy.json")
    for seed in (0, 1):
        path = output / f"seed-{seed}" / "angel" / "mentions.parquet"
        table = pq.read_table(path)
        slices = pa.array([["seen concept"]] * len(table), table.schema.field("slices").type)
        pq.write_table(table.set_column(table.schema.names.index("slices"), "slices", slices), path)
    experiment = dataclasses.replace(experiment, wording="lookup")
    found = recipes.collecting.collect(experiment, output, output / "toy.json")["wording"]
    # Lookup is right on two of the four.
    assert found["mentions"] == {"seen concept, name": 2, "seen concept, other wording": 2}
    assert found["systems"]["lookup"]["acc@1"] == {"seen concept, name": 100, "seen concept, other wording": 0}
    assert found["systems"]["ANGEL"]["seeds"] == [0, 1]


def test_collecting_writes_examples_beside_the_runs_and_none_into_the_result(runs):
    output, experiment = runs
    found = recipes.collecting.collect(experiment, output, output / "toy.json")
    text = (output / "changes-angel-against-positive-only.md").read_text()
    assert "- a [mention 1] in text\n  name B (B) -> name A (A) (d1:1, seed 0)" in text
    assert "in text" not in json.dumps(found)
    assert "name A" not in json.dumps(found)


def test_predictions_without_any_labels_are_an_error(runs):
    output, experiment = runs
    for path in output.rglob("mentions.parquet"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no run has a mentions.parquet"):
        recipes.collecting.collect(experiment, output, output / "toy.json")


def test_a_system_that_a_run_does_not_have_is_named(runs):
    output, experiment = runs
    experiment.systems["lookup"] = ("lookups", "TF-IDF")
    with pytest.raises(ValueError, match="there is no system 'TF-IDF', only lookup"):
        recipes.collecting.collect(experiment, output, output / "toy.json")


# Runs whose folders are not at hand.


def test_what_was_collected_elsewhere_stays_and_is_averaged_with_what_is_here(runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, result)
    for folder in output.glob("seed-*"):
        shutil.rmtree(folder)
    assert recipes.collecting.collect(experiment, output, result) == whole
    result.unlink()
    (output / "toy.parquet").unlink()
    assert list(recipes.collecting.collect(experiment, output, result)) == ["experiment", "title", "runs"]


def test_seeds_of_two_machines_are_compared_as_those_of_one(runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, output / "whole.json")
    shutil.move(output / "seed-1", output / "away")
    assert recipes.collecting.collect(experiment, output, result)["systems"]["ANGEL"]["seeds"] == [0]
    shutil.rmtree(output / "seed-0")
    shutil.move(output / "away", output / "seed-1")
    assert recipes.collecting.collect(experiment, output, result) == whole


def test_runs_made_by_another_command_are_left_out_and_told(runs, caplog):
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


def test_scores_whose_outcomes_are_lost_stay_until_all_their_seeds_are_here(runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, result)
    (output / "toy.parquet").unlink()
    shutil.move(output / "seed-1", output / "away")
    before = copy.deepcopy(whole)
    for one in before["systems"].values():
        del one["of"]
    result.write_text(json.dumps(before))
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


def test_a_difference_to_a_system_made_again_is_marked_as_of_an_earlier_run(runs):
    output, experiment = runs
    result = output / "toy.json"
    whole = recipes.collecting.collect(experiment, output, result)
    (output / "toy.parquet").unlink()
    # The lookup, of one seed, stays as it was; ANGEL is there again.
    shutil.rmtree(output / "seed-1" / "lookups")
    for _ in range(2):
        found = recipes.collecting.collect(experiment, output, result)
        assert found["systems"] == whole["systems"]
        first, second = found["differences"]
        assert first == whole["differences"][0]
        assert second == whole["differences"][1] | {"earlier": True}


def test_scores_of_other_mentions_are_not_averaged(runs):
    output, experiment = runs
    result = output / "toy.json"
    recipes.collecting.collect(experiment, output, result)
    gold = gold_of(DOCUMENTS, "AAAB")
    shutil.rmtree(output / "seed-0")
    shutil.rmtree(output / "seed-1")
    systems = {name: answers(*"AAAA") for name in ("positive-only", "ANGEL")}
    make_run(output / "seed-2" / "angel", gold, systems, command=told(experiment.runs[1], 2))
    with pytest.raises(ValueError, match=r"toy.parquet: its 4 mentions are not the 4 of the runs here"):
        recipes.collecting.collect(experiment, output, result)


# Compute.


def finish(folder, stage, at):
    (folder / stage).mkdir(parents=True)
    (folder / stage / "curve.json").write_text("[[1, 50.0]]")
    os.utime(folder / stage / "curve.json", (at, at))


def compute_of(experiment, output, run, system, seeds):
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


def test_compute_is_counted_until_the_stage_was_done_with_what_it_started_from(runs):
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
        return compute_of(experiment, output, run, system, [0, 1])

    assert of("angel", "positive-only") == {"seconds": 160, "core_seconds": 320}
    assert of("angel", "ANGEL") == {"seconds": 400, "core_seconds": 800}
    assert of("control", "ANGEL") == {"seconds": 200, "core_seconds": 400}
    assert compute_of(experiment, output, "lookups", "lookup", [1]) is None

    # One that starts from what was made of the names.
    experiment.runs[2].settings["model"] = "${runs}/angel/positive/names/linker"
    assert experiment.runs[2].name == "control"
    assert of("control", "ANGEL") is None
    for seed in (0, 1):
        linker = output / f"seed-{seed}" / "angel" / "positive" / "names" / "linker"
        linker.mkdir(parents=True)
        (linker / "angel.json").write_text("{}")
        os.utime(linker / "angel.json", (5010, 5010))
    assert of("control", "ANGEL") == {"seconds": 150, "core_seconds": 300}
    # Which began with another's names: 110 more.
    experiment.runs.append(recipes.experiment.Run("last", "angel", dict(experiment.runs[2].settings)))
    experiment.runs[2].settings["model"] = "${runs}/angel/positive/names/linker"
    experiment.runs[3].settings["model"] = "${runs}/control/positive/names/linker"
    for seed in (0, 1):
        last, control = (output / f"seed-{seed}" / name for name in ("last", "control"))
        shutil.copytree(control, last)
        linker = control / "positive" / "names" / "linker"
        linker.mkdir(parents=True)
        (linker / "angel.json").write_text("{}")
        os.utime(linker / "angel.json", (9020, 9020))
    assert of("last", "ANGEL") == {"seconds": 110 + 20 + 40, "core_seconds": 340}


def test_compute_of_a_baseline_is_what_its_results_say(runs):
    output, experiment = runs
    path = output / "seed-1" / "lookups" / "results.json"
    path.write_text(json.dumps({"test": {}, "seconds": {"lookup": {"seconds": 3.0, "cpu_seconds": 2.5}}}))
    found = compute_of(experiment, output, "lookups", "lookup", [1])
    assert found == {"seconds": 3, "core_seconds": 6}


def test_compute_on_a_device_is_in_seconds_alone(runs):
    output, experiment = runs
    experiment.runs[1].settings["use_cpu"] = False
    (output / "seed-0" / "angel" / "attempts.json").write_text('[{"begin": 0, "end": 10}]')
    finish(output / "seed-0" / "angel", "angel", 8)
    found = compute_of(experiment, output, "angel", "ANGEL", [0])
    assert found == {"seconds": 8, "core_seconds": None}


def test_numbers_are_rounded_and_files_complete(tmp_path):
    value = recipes.analysis.rounded({"a": [1.23456789, {"b": 2}], "c": "x", "d": None})
    assert value == {"a": [1.2346, {"b": 2}], "c": "x", "d": None}
    recipes.collecting.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
