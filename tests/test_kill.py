"""A run that was killed (SIGKILL, as by `kill -9` or for want of memory) goes on as if it had not been."""

import hashlib
import json
import multiprocessing.forkserver
import os
import signal
from pathlib import Path

import kill_worker
import pytest
from kill_worker import Moment

HERE = Path(__file__).parent
# Seconds, which only keep a test from hanging.
TIMEOUT = 300
EPOCH = {}
# A round has 3 steps, so that of these checkpoints 2, 4 and 8 are within rounds.
STEPS = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
# 5 batches a round, the last of which is a step alone.
ACCUMULATED = {
    **STEPS,
    "mentions_per_round": 10,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}
INITIAL = {"reference": "initial"}
LIMITED = {"save_total_limit": 2}


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_worker"])
    # The server of Python 3.11 and 3.12 does not take over this process's path, and says nothing of a failed import.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, HERE.parent))))
        multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def run(processes):
    """`run(target, log, *args, moment=None)`: a process that does its work, or is killed at a moment before."""

    def run(target, log, *args, moment=None):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=kill_worker.work, args=(target, log, moment, sender, *args))
        process.start()
        sender.close()
        try:
            if moment is None:
                process.join(TIMEOUT)
                assert process.exitcode == 0, Path(log).read_text()[-4000:]
                return
            try:
                come = receiver.poll(TIMEOUT) and receiver.recv()
            except EOFError:
                come = None
            assert come, f"the process never came to {moment}: {Path(log).read_text()[-4000:]}"
            process.kill()
            process.join(TIMEOUT)
            assert process.exitcode == -signal.SIGKILL
        finally:
            process.kill()
            process.join()
            receiver.close()

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_model, tokenizer, small_kb, small_mentions):
    """The small world as a folder."""
    folder = tmp_path_factory.mktemp("world")
    # Of this model the dev accuracy rises, and is best at step 6 of 9, when dev mentions are training mentions.
    make_model(seed=1).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    small_kb.to_parquet(folder / "kb.parquet")
    small_mentions.filter(lambda row: row["split"] == "train").save_to_disk(str(folder / "mentions"))
    return folder


@pytest.fixture(scope="module")
def train(run, world):
    """`train(output, settings, resume=False, moment=None)`: a process that trains in the small world."""

    def train(output, settings, resume=False, moment=None):
        run(kill_worker.train, f"{output}.log", world, output, settings, resume, moment=moment)

    return train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train):
    """`undisturbed(settings)`: the outcome of a run with these settings that nobody disturbs."""
    outcomes = {}

    def undisturbed(settings):
        key = json.dumps(settings)
        if key not in outcomes:
            output = tmp_path_factory.mktemp("undisturbed") / "run"
            train(output, settings)
            outcomes[key] = outcome(output)
        return outcomes[key]

    return undisturbed


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_chance(key):
    """Whether a value differs from run to run: of the clock, or `num_tokens`, which TRL counts anew when resumed."""
    return key.endswith(("mentions_per_second", "mined/seconds")) or key == "num_tokens"


def outcome(output):
    """What a run of 9 steps has come to, but for what depends on the clock."""
    last = output / "checkpoint-9"
    state = json.loads((last / "trainer_state.json").read_text())
    return {
        "final weights": digest(output / "final" / "model.safetensors"),
        "best weights": digest(Path(state["best_model_checkpoint"]) / "model.safetensors"),
        **{name: digest(last / name) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt")},
        "pairs": {path.name: digest(path) for path in (output / "pairs").iterdir()},
        "checkpoints": checkpoints(output),
        "log": [{key: value for key, value in row.items() if not by_chance(key)} for row in state["log_history"]],
        "best": (state["best_metric"], state["best_global_step"], Path(state["best_model_checkpoint"]).name),
    }


def checkpoints(output):
    """Steps of the checkpoints that are whole."""
    states = output.glob("checkpoint-*/trainer_state.json")
    return sorted(int(path.parent.name.split("-")[1]) for path in states if path.stat().st_size)


ROUNDS = ["round-000.parquet", "round-001.parquet", "round-002.parquet"]


def test_an_undisturbed_run_is_worth_being_held_against(undisturbed):
    for settings, evaluated in ((EPOCH, [0, 3, 6, 9]), (STEPS, [0, 2, 4, 6, 8, 9])):
        whole = undisturbed(settings)
        assert [row["step"] for row in whole["log"] if "eval_acc@1" in row] == evaluated
        assert [row["step"] for row in whole["log"] if "mined/pairs" in row] == [0, 3, 6]
        assert [row["step"] for row in whole["log"] if "rewards/margins" in row] == list(range(1, 10))
        assert whole["best"] == (25.0, 6, "checkpoint-6")
        assert whole["final weights"] == whole["best weights"]
        assert whole["final weights"] != whole["model.safetensors"]
        assert len(set(whole["pairs"].values())) == 3


SEARCH, MINE, SCORE = "angel_trl.evaluation:search", "angel_trl.mining:make_pairs", "angel_trl.trainer:score_names"
STEP = "angel_trl.trainer:AngelTrainer.training_step"
# The weights of a checkpoint are written before it, the state after it.
SAVE_OPTIMIZER = "transformers:Trainer._save_optimizer_and_scheduler"
KEEP_INITIAL, LOAD_BEST = "transformers:PreTrainedModel.save_pretrained", "transformers:Trainer._load_best_model"
ASIDE, THERE = (Moment("pathlib:Path.replace", after=after, about="round-001") for after in (False, True))
DELETE = Moment("os:rmdir", about="checkpoint-0")
OPEN_STATE = Moment("builtins:open", 3, after=True, about="trainer_state")


@pytest.mark.parametrize(
    ("settings", "moment", "whole", "rounds"),
    [
        pytest.param(INITIAL, Moment(KEEP_INITIAL, after=True), [], 0, id="while the initial model is kept"),
        pytest.param(EPOCH, Moment(SEARCH), [], 0, id="in the evaluation of the start"),
        pytest.param(EPOCH, Moment(SAVE_OPTIMIZER), [], 0, id="while the start is saved"),
        pytest.param(EPOCH, Moment(MINE), [0], 0, id="in the first mining"),
        pytest.param(EPOCH, Moment(STEP, 2), [0], 1, id="in the first round"),
        pytest.param(EPOCH, Moment(SEARCH, 2), [0], 1, id="in an evaluation"),
        pytest.param(EPOCH, Moment(MINE, 2), [0, 3], 1, id="in the second mining"),
        pytest.param(INITIAL, Moment(SCORE, 2), [0, 3], 1, id="while the initial model scores"),
        pytest.param(EPOCH, ASIDE, [0, 3], 1, id="when pairs are written aside"),
        pytest.param(EPOCH, THERE, [0, 3], 2, id="when pairs are written"),
        pytest.param(INITIAL, Moment(STEP, 6), [0, 3], 2, id="in the second round, measured against the start"),
        pytest.param(EPOCH, Moment(STEP, 6), [0, 3], 2, id="in a round without a checkpoint"),
        pytest.param(STEPS, Moment(STEP, 6), [0, 2, 4], 2, id="in a round with a checkpoint"),
        pytest.param(ACCUMULATED, Moment(STEP, 9), [0, 2, 4], 2, id="within an accumulated step"),
        pytest.param(EPOCH, Moment(SAVE_OPTIMIZER, 3), [0, 3], 2, id="while a checkpoint is written"),
        pytest.param(STEPS, Moment(SAVE_OPTIMIZER, 3), [0, 2], 2, id="while a checkpoint of a round is written"),
        pytest.param(EPOCH, OPEN_STATE, [0, 3], 2, id="while the state of a checkpoint is written"),
        pytest.param(LIMITED, DELETE, [3, 6], 2, id="while an old checkpoint is deleted"),
        pytest.param(STEPS, Moment(MINE, 3), [0, 2, 4, 6], 2, id="in the third mining"),
        pytest.param(EPOCH, Moment(LOAD_BEST), [0, 3, 6, 9], 3, id="while the best model is loaded"),
    ],
)
def test_a_killed_run_resumes_to_the_same_end(train, undisturbed, tmp_path, settings, moment, whole, rounds):
    output = tmp_path / "run"
    train(output, settings, moment=moment)
    assert checkpoints(output) == whole
    assert sorted(path.name for path in output.glob("pairs/*.parquet")) == ROUNDS[:rounds]
    assert not (output / "final").exists()
    train(output, settings, resume="recipe")
    assert outcome(output) == undisturbed(settings)


def test_a_resumed_run_may_be_killed_as_well(train, undisturbed, tmp_path):
    output = tmp_path / "run"
    train(output, STEPS, moment=Moment(MINE, 2))
    train(output, STEPS, resume="recipe", moment=Moment(STEP, 2))
    # It went from step 2 to within step 4; the next goes from step 2 to within checkpoint-6.
    assert checkpoints(output) == [0, 2]
    train(output, STEPS, resume="recipe", moment=Moment(SAVE_OPTIMIZER, 2))
    assert checkpoints(output) == [0, 2, 4]
    train(output, STEPS, resume="recipe")
    assert outcome(output) == undisturbed(STEPS)


def test_transformers_own_way_to_resume_passes_over_half_a_checkpoint(train, undisturbed, tmp_path):
    output = tmp_path / "run"
    train(output, EPOCH, moment=Moment(SAVE_OPTIMIZER, 3))
    assert checkpoints(output) == [0, 3]
    train(output, EPOCH, resume=True)
    assert outcome(output) == undisturbed(EPOCH)


# 6 steps on names, 3 epochs of 14 steps on mentions, 3 rounds of 3 steps.
RECIPE = {**kill_worker.RECIPE, "positive_epochs": 3, "num_rounds": 3}
POSITIVE_STEP = "angel_trl.positive:PositiveTrainer.training_step"


@pytest.fixture(scope="module")
def recipe(run):
    """`recipe(output, *flags, moment=None)`: a process that runs the recipe."""

    def recipe(output, *flags, moment=None):
        settings = {"output_dir": output, **RECIPE}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        run(kill_worker.run_recipe, f"{output}.log", [*arguments, *flags], moment=moment)

    return recipe


@pytest.fixture(scope="module")
def undisturbed_recipe(tmp_path_factory, recipe):
    output = tmp_path_factory.mktemp("recipe") / "run"
    recipe(output)
    whole = recipe_outcome(output)
    scores = [score for _, score in whole["curves"][0]]
    assert scores.index(max(scores)) == 2, "only the best of the three epochs is left to be compared"
    return whole


def recipe_outcome(output):
    """What a run of the recipe has come to, but for what depends on the clock."""
    scores = json.loads((output / "results.json").read_text())["test"]
    return {
        "scores": {
            system: {key: value for key, value in row.items() if not by_chance(key)} for system, row in scores.items()
        },
        # Of both linkers and of the checkpoints that are left.
        "weights": {str(path.relative_to(output)): digest(path) for path in output.glob("**/model.safetensors")},
        "pairs": {path.name: digest(path) for path in (output / "angel" / "pairs").iterdir()},
        "curves": [json.loads((output / name / "curve.json").read_text()) for name in ("positive", "angel")],
    }


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment(POSITIVE_STEP, 3), id="on names"),
        pytest.param(Moment(POSITIVE_STEP, 10), id="in the first epoch"),
        pytest.param(Moment(POSITIVE_STEP, 24), id="in the second epoch"),
        pytest.param(Moment("io:open", after=True, about="positive/.curve"), id="as the positive stage is done"),
        pytest.param(Moment(STEP, 5), id="in the second round"),
        pytest.param(
            Moment("angel_trl.linker:EntityLinker.save_pretrained", 2, after=True), id="as the rounds are done"
        ),
    ],
)
def test_the_recipe_killed_and_resumed_ends_alike(recipe, undisturbed_recipe, tmp_path, moment):
    output = tmp_path / "run"
    recipe(output, moment=moment)
    assert not (output / "results.json").exists()
    recipe(output, "--resume")
    assert recipe_outcome(output) == undisturbed_recipe


# 11 steps on names, checkpoints at 4 and 8; 2 rounds of 3 steps.
PRETRAIN = {
    "config": HERE.parent / "recipes" / "configs" / "pretrain.yaml",
    "model": "scratch-tiny",
    "max_words": 48,
    "cpu_threads": 1,
    "passes": 1,
    "positive_batch_size": 8,
    "positive_learning_rate": 1e-2,
    "positive_save_steps": 4,
    "num_rounds": 2,
    "mentions_per_round": 24,
    "dev_mentions": 16,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "num_beams": 5,
    "use_cpu": "true",
    "disable_tqdm": "true",
}


@pytest.fixture(scope="module")
def pretrain(run, world):
    """`pretrain(output, *flags, moment=None)`: a process that runs the recipe of pre-training."""

    def pretrain(output, *flags, moment=None):
        settings = {"output_dir": output, "kb": world / "kb.parquet", **PRETRAIN}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        run(kill_worker.run_pretrain, f"{output}.log", [*arguments, *flags], moment=moment)

    return pretrain


@pytest.fixture(scope="module")
def undisturbed_pretrain(tmp_path_factory, pretrain):
    output = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain(output)
    return pretrain_outcome(output)


def pretrain_outcome(output):
    """What pre-training has come to: the weights of both stages and of their checkpoints, and the pairs."""
    return {
        "weights": {str(path.relative_to(output)): digest(path) for path in output.glob("**/model.safetensors")},
        "pairs": {path.name: digest(path) for path in (output / "angel" / "pairs").iterdir()},
        "dev": json.loads((output / "results.json").read_text())["dev"],
    }


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment(POSITIVE_STEP, 7), id="on names"),
        pytest.param(Moment(SAVE_OPTIMIZER, 2), id="while a checkpoint is written"),
        pytest.param(Moment(STEP, 5), id="in the second round"),
    ],
)
def test_pre_training_killed_and_resumed_ends_alike(pretrain, undisturbed_pretrain, tmp_path, moment):
    output = tmp_path / "run"
    pretrain(output, moment=moment)
    assert not (output / "results.json").exists()
    pretrain(output, "--resume")
    assert pretrain_outcome(output) == undisturbed_pretrain
