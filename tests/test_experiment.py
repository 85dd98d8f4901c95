"""Experiments: every YAML can be run as it stands, runs that are done are not done again, scores are collected."""

import json
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
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import experiment
    finally:
        sys.path[:] = path
    return experiment


@pytest.fixture(scope="module")
def parsers():
    """What reads the command line of each recipe."""
    arguments, path = list(sys.argv), list(sys.path)
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import angel
        import pretrain
        from stages import parse_settings
    finally:
        sys.argv[:], sys.path[:] = arguments, path
    return {
        "angel": angel.parse_arguments,
        "pretrain": lambda argv: parse_settings(
            (pretrain.PretrainArguments, angel.AngelConfig), argv, pretrain.CONFIGS
        ),
    }


def run(*arguments):
    command = [sys.executable, "recipes/experiment.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_setting_of_every_experiment_is_one_of_its_recipe(experiment, parsers, path):
    read = experiment.read_experiment(path)
    for one in read.runs:
        command = one.command("DATA", "RUNS", 7)
        assert command[:3] == ["accelerate", "launch", f"recipes/{one.recipe}.py"]
        arguments, angel = parsers[one.recipe](command[3:])
        assert angel.output_dir == f"RUNS/{one.name}"
        assert (angel.seed, arguments.resume) == (7, True)
        assert "$" not in shlex.join(command)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_run_starts_from_models_of_earlier_runs_only(experiment, path):
    seen = set()
    for one in experiment.read_experiment(path).runs:
        model = str(one.settings.get("model", ""))
        if model.startswith("${runs}/"):
            assert model.split("/")[1] in seen
        seen.add(one.name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: x\nseeds: [0]", "not an experiment .'runs'"),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: nothing}]", "'nothing', which is not in recipes/"),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: angel, lr: 1}]", "unexpected keyword argument 'lr'"),
        ("title: x\nseeds: [0]\nruns: [{name: a, recipe: angel}, {name: a, recipe: angel}]", "the same name"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_by_name(experiment, tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"bad.yaml: .*{message}"):
        experiment.read_experiment(tmp_path / "bad.yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with data, and an experiment of one short run for one seed."""
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
    content = {"title": "Small", "seeds": [3], "runs": [{"name": "one", "recipe": "pretrain", "settings": settings}]}
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
