"""Experiments: every YAML can be run as it stands, runs that are done are not done again, scores are collected."""

import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from angel_trl import synthetic_corpus

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "recipes" / "experiments").glob("*.yaml"))


@pytest.fixture(scope="module")
def experiment():
    """The runner as a module."""
    import experiment

    return experiment


@pytest.fixture(scope="module")
def parsers():
    """What reads the command line of each recipe, into dataclasses."""
    import ablation
    import angel
    import baselines
    import pretrain
    from stages import parse_settings

    return {
        "angel": angel.parse_arguments,
        "ablation": ablation.parse_arguments,
        "pretrain": lambda argv: parse_settings(
            (pretrain.PretrainArguments, angel.AngelConfig), argv, pretrain.CONFIGS
        ),
        "baselines": lambda argv: parse_settings((baselines.BaselineArguments,), argv, baselines.CONFIGS),
    }


def run(*arguments):
    command = [sys.executable, "recipes/experiment.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_setting_of_every_experiment_is_one_of_its_recipe(experiment, parsers, path):
    read = experiment.read_experiment(path)
    for one in read.runs:
        command = one.command("DATA", "RUNS", 7)
        assert command[:3] == ["accelerate", "launch", f"recipes/{one.recipe}.py"]
        settings = {name: value for kind in parsers[one.recipe](command[3:]) for name, value in vars(kind).items()}
        assert settings["output_dir"] == f"RUNS/{one.name}"
        assert (settings["seed"], settings["resume"]) == (7, True)
        assert "$" not in shlex.join(command)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_run_is_on_the_cpu_and_has_a_thread_or_if_it_is_long_two(experiment, path):
    # Two processes of the runner then share two cores, and core-seconds are known.
    for one in experiment.read_experiment(path).runs:
        allowed = (2,) if one.name == "quick-minilm" else (1,)
        assert one.settings["use_cpu"] is True
        assert one.settings["cpu_threads"] in allowed


ONE = "title: x\nseeds: [0]\nruns: [{name: a, recipe: angel}]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: x\nseeds: [0]", "not an experiment .'runs'"),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: nothing}]", "'nothing', which is not in recipes/"),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: angel, lr: 1}]", "unexpected keyword argument 'lr'"),
        (
            "title: x\nseeds: [one]\nruns: [{name: a, recipe: angel}]",
            "not an experiment .invalid literal .*'one'",
        ),
        (
            "title: x\nseeds: [0]\nruns: [{name: a, recipe: angel, settings: {kb: '${dta}/kb'}}]",
            "run 'a' has kb: '.{dta}/kb', where . begins neither ..data. nor ..runs.; write .. for a .",
        ),
        (
            "title: x\nseeds: [0]\nruns: [{name: a, recipe: angel, settings: {kb: '$/kb'}}]",
            "run 'a' has kb: './kb', where . begins neither",
        ),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: angel}, {name: a, recipe: angel}]", "the same name"),
        (
            "title: x\nseeds: [0]\nruns: [{name: a, recipe: angel, settings: {model: '${runs}/b/linker'}}]",
            "run 'a' needs 'b', which is no run before it",
        ),
        (ONE + "systems: {ANGEL: b/ANGEL}", "system 'ANGEL' is 'b/ANGEL'; give run/system, a run among .'a'."),
        (ONE + "systems: {ANGEL: a}", "system 'ANGEL' is 'a'; give run/system"),
        (ONE + "systems: {x: a/ANGEL}\ndifferences: [[x, y]]", "difference .'x', 'y'. must be two of the systems"),
        (ONE + "systems: {x: a/ANGEL}\ncurves: {all: [x, y]}", "the curve 'all' is of .'x', 'y'., which are not all"),
        (ONE + "systems: {x: a/ANGEL}\nwording: y", "wording is 'y', which is not among the systems .'x'."),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_by_name(experiment, tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"bad.yaml: .*{message}"):
        experiment.read_experiment(tmp_path / "bad.yaml")


FIRST = """title: first
seeds: [0]
runs:
  - {name: pre, recipe: pretrain}
  - {name: angel, recipe: angel, settings: {model: "${runs}/pre/linker"}}
  - {name: other, recipe: angel}
  - {name: lookups, recipe: baselines}
"""
SECOND = """title: second
seeds: [0]
uses: first
runs:
  - {name: more, recipe: angel, settings: {model: "${runs}/angel/positive"}}
systems: {lookup: lookups/lookup, more: more/ANGEL}
"""


def test_an_experiment_has_of_another_what_it_needs_and_keeps_it_in_the_same_folder(experiment, tmp_path):
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    read = experiment.read_experiment(tmp_path / "second.yaml")
    assert [run.name for run in read.runs] == ["pre", "angel", "lookups", "more"]
    assert (read.name, read.folder) == ("second", "first")
    assert read.systems == {"lookup": ("lookups", "lookup"), "more": ("more", "ANGEL")}


@pytest.fixture
def made(experiment, monkeypatch):
    """The runner with a recipe that writes `results.json` and fails while there is a file `fail`."""
    program = (
        "import json, pathlib, sys; folder = pathlib.Path(sys.argv[1]); print('hello');"
        "sys.exit(3) if (folder / 'fail').exists() else (folder / 'results.json').write_text(json.dumps({'test': {}}))"
    )

    def command(self, data, runs, seed):
        return [sys.executable, "-c", program, f"{runs}/{self.name}", *map(str, self.settings.values())]

    monkeypatch.setattr(experiment.Run, "command", command)
    return experiment


def test_a_run_is_made_once(made, tmp_path):
    one = made.Run("one", "angel")
    assert made.do(one, "data", tmp_path, 0) is True
    result = json.loads((tmp_path / "one" / "run.json").read_text())
    assert set(result) == {"command", "seconds", "date", "git", "hardware", "versions"}
    assert "RUNS/one" in result["command"]
    assert made.do(one, "data", tmp_path, 0) is False
    assert (tmp_path / "one" / "log.txt").read_text() == "hello\n"


def failed_once(made, runs):
    """A run that failed and would not again, and its folder."""
    one, folder = made.Run("one", "angel"), runs / "one"
    folder.mkdir()
    (folder / "fail").touch()
    with pytest.raises(SystemExit, match="one failed"):
        made.do(one, "data", runs, 0)
    (folder / "fail").unlink()
    return one, folder


def test_seconds_are_those_of_all_attempts(made, tmp_path):
    one, folder = failed_once(made, tmp_path)
    attempts = json.loads((folder / "attempts.json").read_text())
    assert attempts[0]["end"] >= attempts[0]["begin"]
    # It was killed: the last that is known of it is its log.
    del attempts[0]["end"]
    (folder / "attempts.json").write_text(json.dumps(attempts))
    os.utime(folder / "log.txt", (attempts[0]["begin"] + 500,) * 2)
    made.do(one, "data", tmp_path, 0)
    assert 500 <= json.loads((folder / "run.json").read_text())["seconds"] < 600
    assert len(json.loads((folder / "attempts.json").read_text())) == 2


def test_the_log_of_attempts_that_ended_need_not_be_there(made, tmp_path):
    one, folder = failed_once(made, tmp_path)
    (folder / "log.txt").unlink()
    assert made.do(one, "data", tmp_path, 0) is True


def test_a_run_that_another_process_is_at_is_left_to_it(made, tmp_path):
    one = made.Run("one", "angel")
    (tmp_path / "one").mkdir()
    with (tmp_path / "one" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert made.do(one, "data", tmp_path, 0) is False
        assert not (tmp_path / "one" / "log.txt").exists()
    assert made.do(one, "data", tmp_path, 0) is True


def test_a_run_waits_for_the_run_it_starts_from(made, tmp_path):
    second = made.Run("second", "angel", {"model": "${runs}/one/linker"})
    assert made.do(second, "data", tmp_path, 0) is False
    assert not (tmp_path / "second").exists()
    made.do(made.Run("one", "angel"), "data", tmp_path, 0)
    assert made.do(second, "data", tmp_path, 0) is True


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_whose_settings_have_changed_is_neither_taken_nor_gone_on_with(made, tmp_path, fails):
    folder = tmp_path / "one"
    folder.mkdir()
    if fails:
        (folder / "fail").touch()
        with pytest.raises(SystemExit, match="one failed"):
            made.do(made.Run("one", "angel", {"beta": 0.1}), "data", tmp_path, 0)
    else:
        made.do(made.Run("one", "angel", {"beta": 0.1}), "data", tmp_path, 0)
    with pytest.raises(SystemExit, match=r"(?s)made by another command .* 0\.1\n.* 0\.5\n.*another name"):
        made.do(made.Run("one", "angel", {"beta": 0.5}), "data", tmp_path, 0)


@pytest.fixture
def main(made, monkeypatch, tmp_path):
    """`main` of the runner on the experiment `first` with two seeds."""
    (tmp_path / "first.yaml").write_text(FIRST.replace("[0]", "[0, 1]"))
    (tmp_path / "results").mkdir()

    def call(*arguments):
        given = [tmp_path / "first.yaml", "--output_dir", tmp_path / "runs", "--results", tmp_path / "results"]
        monkeypatch.setattr(sys, "argv", ["experiment.py", *map(str, given), *arguments])
        made.main()
        found = json.loads((tmp_path / "results" / "first.json").read_text())
        return {name: list(seeds) for name, seeds in found["runs"].items()}

    return call


def test_only_some_runs_and_seeds_are_made(main, caplog):
    assert main("--only", "pre", "other", "--seed", "1") == {"pre": ["1"], "other": ["1"]}
    assert main("--only", "angel") == {"pre": ["1"], "angel": ["1"], "other": ["1"]}
    assert "not done: angel (seed 0, after pre)" in caplog.text


def test_what_is_done_is_collected_without_making_a_run(main, tmp_path):
    main("--only", "other", "--seed", "0")
    (tmp_path / "results" / "first.json").unlink()
    assert main("--collect") == {"other": ["0"]}


def test_what_had_to_wait_is_made_in_a_later_turn(main, made, monkeypatch):
    do, tries = made.do, []

    def at_second_sight(run, *arguments):
        # Another process is at it in the first turn.
        tries.append(run.name)
        return False if run.name == "pre" and tries.count("pre") == 1 else do(run, *arguments)

    monkeypatch.setattr(made, "do", at_second_sight)
    assert main("--seed", "0") == {name: ["0"] for name in ("pre", "angel", "other", "lookups")}
    assert tries == ["pre", "angel", "other", "lookups"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--only", "x"], "--only: .'x'. are not all in"), (["--seed", "7"], "--seed: .7. are not all in")],
)
def test_runs_and_seeds_that_there_are_not_are_named(main, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(*arguments)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with data, and an experiment of two short runs for one seed."""
    folder = tmp_path_factory.mktemp("experiment")
    kb, corpus = synthetic_corpus(seed=0)
    kb.to_parquet(folder / "kb.parquet")
    (folder / "corpus").mkdir()
    for split, rows in corpus.items():
        rows.select(range(40)).to_json(folder / "corpus" / f"{split}.jsonl")
    settings = {
        "config": "recipes/configs/pretrain.yaml",
        "model": "scratch-tiny",
        "kb": "${data}/kb.parquet",
        "corpus": "${data}/corpus",
        "passes": 0.1,
        "num_rounds": 1,
        "mentions_per_round": 32,
        "dev_mentions": 20,
        "max_words": 48,
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 1.0],
        "bootstrap": 10,
        "use_cpu": True,
    }
    shared = {name: settings[name] for name in ("kb", "corpus", "bootstrap", "use_cpu")}
    nearest = shared | {"system": "tfidf", "cpu_threads": 1}
    content = {
        "title": "Small",
        "seeds": [3],
        "runs": [
            {"name": "one", "recipe": "pretrain", "settings": settings},
            {"name": "two", "recipe": "baselines", "settings": nearest},
        ],
        "systems": {"TF-IDF": "two/TF-IDF"},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def test_a_run_is_made_once_and_its_scores_are_collected(small, tmp_path):
    given = (small / "small.yaml", "--data", small, "--output_dir", tmp_path / "runs", "--results", tmp_path)
    first = run(*given)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads((tmp_path / "small.json").read_text())
    one = results["runs"]["one"]["3"]
    assert one["test"]["ANGEL"]["mentions"] == 40
    assert one["command"].startswith("accelerate launch recipes/pretrain.py --config recipes/configs/pretrain.yaml")
    assert "DATA/kb.parquet" in one["command"]
    assert {"date", "git", "hardware", "versions", "seconds"} <= set(one)
    system = results["systems"]["TF-IDF"]
    assert system["scores"]["acc@1"] == results["runs"]["two"]["3"]["test"]["TF-IDF"]["acc@1"]
    assert system["compute"]["seconds"] == system["compute"]["core_seconds"] > 0
    assert str(tmp_path) not in json.dumps(results)
    linker = tmp_path / "runs" / "small" / "seed-3" / "one" / "linker" / "model.safetensors"
    made = linker.stat().st_mtime_ns
    (tmp_path / "small.json").unlink()
    again = run(*given)
    assert again.returncode == 0
    assert "one, seed 3: done" in again.stderr
    assert linker.stat().st_mtime_ns == made
    assert json.loads((tmp_path / "small.json").read_text()) == results


def test_a_run_that_fails_is_told_with_the_end_of_its_log(small, tmp_path):
    content = (small / "small.yaml").read_text().replace("kb.parquet", "missing.parquet")
    (tmp_path / "small.yaml").write_text(content)
    failed = run(tmp_path / "small.yaml", "--data", small, "--output_dir", tmp_path / "runs", "--results", tmp_path)
    assert failed.returncode != 0
    assert "one failed" in failed.stderr
    assert "missing.parquet" in failed.stderr
    assert not (tmp_path / "runs" / "small" / "seed-3" / "one" / "run.json").exists()
