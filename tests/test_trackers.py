"""What the trackers named by `report_to` are told of each round."""

import sys

import pytest

ROUNDS = {"num_rounds": 3, "early_stopping_patience": None}
BEGINS = [0, 3, 6]
OF_MINING = [
    "train/round",
    "train/mined/mentions",
    "train/mined/gold_first",
    "train/mined/gold_in_top_k",
    "train/mined/gold_absent",
    "train/mined/exact",
    "train/mined/pairs",
    "train/mined/margin",
    "train/mined/mentions_per_second",
    "train/mined/seconds",
]
OF_DEV = ["eval/acc@1", "eval/acc@5", "eval/mrr", "eval/acc@1_strict", "eval/acc@5_strict", "eval/mrr_strict"]
OF_STEPS = ["train/loss", "train/learning_rate", "train/rewards/margins", "train/rewards/accuracies"]


def check(told, log):
    """Assert that `told`, for each name of a tracker the values by step, has all of each round, as in the log."""
    assert told["train/round"] == [(0, 0.0), (3, 1.0), (6, 2.0)]
    for names, steps in ((OF_MINING, BEGINS), (OF_DEV, [*BEGINS, 9]), (OF_STEPS, list(range(1, 10)))):
        for name in names:
            key = name.removeprefix("train/").replace("eval/", "eval_")
            logged = [(row["step"], row[key]) for row in log if key in row]
            assert [step for step, _ in logged] == steps, name
            assert told[name] == [(step, pytest.approx(value)) for step, value in logged], name
    assert [value for _, value in told["train/mined/mentions"]] == [12.0] * 3
    shares = zip(*(told[f"train/mined/gold_{place}"] for place in ("first", "in_top_k", "absent")), strict=True)
    assert [sum(value for _, value in share) for share in shares] == pytest.approx([100.0] * 3)


def test_tensorboard_has_the_metrics_of_every_round(make_trainer, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(output_dir=tmp_path / "run", report_to="tensorboard", **ROUNDS)
    trainer.train()
    read = events.EventAccumulator(str(tmp_path / "events"), size_guidance={"scalars": 0})
    read.Reload()
    told = {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
    check(told, trainer.state.log_history)


def test_trackio_has_the_metrics_of_every_round(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    # Which is read when trackio is imported, and model cards have it imported.
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    trackio = pytest.importorskip("trackio")
    trainer = make_trainer(
        output_dir=tmp_path / "run", report_to="trackio", project="diseases", run_name="first", **ROUNDS
    )
    trainer.train()
    told = {}
    for row in trackio.SQLiteStorage.get_logs("diseases", "first"):
        for name, value in row.items():
            # Its own steps number what it is told.
            told.setdefault(name, []).append((row["train/global_step"], value))
    check(told, trainer.state.log_history)
