"""A run that was stopped goes on as if it had not been."""

import pytest
import torch
from transformers import TrainerCallback


class StopAt(TrainerCallback):
    """Interrupts the run at a step, as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Scores(TrainerCallback):
    """Replaces dev accuracy by given numbers, one an evaluation, by step."""

    def __init__(self, scores):
        self.scores = scores

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_acc@1"] = self.scores[state.global_step]


SETTINGS = {"num_rounds": 3, "save_total_limit": None, "early_stopping_patience": None, "learning_rate": 3e-3}
MID_ROUND = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


def run(make_trainer, folder, stop=None, resume=None, scores=None, **settings):
    callbacks = [] if scores is None else [Scores(scores)]
    if stop is not None:
        trainer = make_trainer(output_dir=folder, callbacks=[*callbacks, StopAt(stop)], **settings)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        return trainer
    trainer = make_trainer(output_dir=folder, callbacks=callbacks, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def pair_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "pairs").iterdir()}


@pytest.mark.parametrize(
    ("stop", "resumed_from", "settings"),
    [
        pytest.param(2, 0, {}, id="in the first round, from the start"),
        pytest.param(4, 3, {}, id="in the second round, from its start"),
        pytest.param(5, 5, MID_ROUND, id="in the second round, from within it"),
        pytest.param(6, 6, MID_ROUND, id="as the third round begins"),
    ],
)
def test_resuming_ends_bit_for_bit_where_an_undisturbed_run_ends(make_trainer, tmp_path, stop, resumed_from, settings):
    settings = {**SETTINGS, **settings}
    whole = run(make_trainer, tmp_path / "whole", **settings)
    run(make_trainer, tmp_path / "stopped", stop=stop, **settings)
    assert (tmp_path / "stopped" / f"checkpoint-{resumed_from}").is_dir()
    assert not (tmp_path / "stopped" / f"checkpoint-{resumed_from + 1}").exists()
    resumed = run(make_trainer, tmp_path / "stopped", resume=True, **settings)
    assert resumed.state.global_step == whole.state.global_step == 9
    ends = [(tmp_path / name / "checkpoint-9" / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert ends[0] == ends[1]
    assert pair_files(tmp_path / "stopped") == pair_files(tmp_path / "whole")
    assert resumed.state.best_metric == whole.state.best_metric
    evaluated = [[r["step"] for r in t.state.log_history if "eval_acc@1" in r] for t in (resumed, whole)]
    assert evaluated[0] == evaluated[1]


def test_the_best_model_is_remembered_across_a_stop(make_trainer, tmp_path, make_model):
    scores = {0: 50.0, 3: 40.0, 6: 45.0, 9: 50.0}
    settings = {**SETTINGS, "save_total_limit": 1}
    run(make_trainer, tmp_path, stop=4, scores=scores, **settings)
    resumed = run(make_trainer, tmp_path, resume=True, scores=scores, **settings)
    assert resumed.state.best_metric == 50.0
    start = make_model().state_dict()
    assert all(torch.equal(start[name], value) for name, value in resumed.model.state_dict().items())


def test_patience_is_remembered_across_a_stop(make_trainer, tmp_path):
    scores = {0: 50.0, 3: 40.0, 6: 40.0, 9: 60.0}
    settings = {**SETTINGS, "early_stopping_patience": 2}
    run(make_trainer, tmp_path, stop=4, scores=scores, **settings)
    resumed = run(make_trainer, tmp_path, resume=True, scores=scores, **settings)
    assert resumed.state.global_step == 6


def test_a_round_whose_pairs_are_gone_is_not_guessed(make_trainer, tmp_path):
    settings = {**SETTINGS, **MID_ROUND}
    run(make_trainer, tmp_path, stop=5, **settings)
    (tmp_path / "pairs" / "round-001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"Cannot go on within round 1.*a multiple of 3 steps"):
        run(make_trainer, tmp_path, resume=True, **settings)


def test_pairs_of_another_run_are_not_trained_on(make_trainer, tmp_path):
    settings = {**SETTINGS, **MID_ROUND}
    run(make_trainer, tmp_path, stop=5, **settings)
    with pytest.raises(ValueError, match="does not hold the pairs of round 1 of this run"):
        run(make_trainer, tmp_path, resume=True, **{**settings, "seed": 7})
