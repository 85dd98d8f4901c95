"""AngelConfig: what it refuses, what follows from it, and that every field can be given on the command line."""

import dataclasses

import pytest
from trl import DPOConfig, TrlParser

from angel_trl.config import AngelConfig


def config(tmp_path, **settings):
    return AngelConfig(str(tmp_path), use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ld_alpha": 0.5}, "ld_alpha weights tokens beyond the shared length"),
        ({"sync_ref_model": True}, "sync_ref_model needs a reference model"),
        ({"max_steps": 100}, "max_steps is 100; training is counted in rounds: set num_rounds"),
        ({"disable_dropout": False}, "disable_dropout is off"),
        ({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "dataloader_persistent_workers keeps"),
        ({"ignore_data_skip": True}, "ignore_data_skip would repeat"),
        ({"num_rounds": 0}, "num_rounds is 0; it must be at least 1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"mine_top_k": -1}, "mine_top_k is -1"),
        ({"max_pairs_per_mention": 0}, "max_pairs_per_mention is 0"),
        ({"mining_batch_size": 0}, "mining_batch_size is 0"),
        ({"mentions_per_round": 0}, r"mentions_per_round is 0; give a share \(0.1\) or a count \(500\) above 0"),
        ({"mentions_per_round": -3.0}, "mentions_per_round is -3.0"),
        ({"mentions_per_round": float("nan")}, "mentions_per_round is nan"),
        ({"absent_gold": "drop"}, "absent_gold is 'drop'; choose one of nearest, skip"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_hold_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("mentions_per_round", "mentions", "size"),
    [
        (0.1, 1000, 100),
        (0.1, 1004, 100),
        (0.1, 1006, 101),
        (0.1, 3, 1),
        (1.0, 37, 37),
        (1, 37, 37),
        (0.5, 37, 18),
        (500, 1000, 500),
        (500, 120, 120),
        (2, 1000, 2),
    ],
)
def test_size_of_a_round(tmp_path, mentions_per_round, mentions, size):
    assert config(tmp_path, mentions_per_round=mentions_per_round).round_size(mentions) == size


def test_rounds_are_epochs_and_reference_log_probs_come_with_the_batch(tmp_path):
    made = config(tmp_path, num_rounds=7)
    assert made.num_train_epochs == 7
    assert made.precompute_ref_log_probs


def test_defaults_are_the_papers_and_dev_accuracy_decides(tmp_path):
    made = config(tmp_path)
    assert (made.num_beams, made.mine_top_k, made.beta, made.loss_type) == (10, 5, 0.1, ["sigmoid"])
    assert (made.learning_rate, made.early_stopping_patience, made.absent_gold) == (1e-5, 3, "nearest")
    assert (made.load_best_model_at_end, made.metric_for_best_model, made.greater_is_better) == (True, "acc@1", True)
    assert not made.bf16
    assert not made.activation_checkpointing


def test_the_default_configuration_raises_no_warning(tmp_path, recwarn):
    config(tmp_path)
    assert [str(warning.message) for warning in recwarn] == []


def test_every_field_of_dpo_config_is_there_and_parses(tmp_path):
    assert {f.name for f in dataclasses.fields(DPOConfig)} <= {f.name for f in dataclasses.fields(AngelConfig)}
    arguments = {
        "output_dir": str(tmp_path),
        "use_cpu": "true",
        "report_to": "none",
        "beta": "0.3",
        "loss_type": "ipo",
        "learning_rate": "2e-5",
        "num_rounds": "4",
        "mentions_per_round": "0.25",
        "num_beams": "6",
        "mine_top_k": "4",
        "max_pairs_per_mention": "2",
        "absent_gold": "skip",
        "mining_batch_size": "16",
        "early_stopping_patience": "2",
        "gradient_checkpointing": "false",
    }
    command_line = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    (made,) = TrlParser(AngelConfig).parse_args_and_config(command_line)
    assert (made.beta, made.loss_type, made.learning_rate) == (0.3, ["ipo"], 2e-5)
    assert (made.num_rounds, made.mentions_per_round, made.num_beams, made.mine_top_k) == (4, 0.25, 6, 4)
    assert (made.max_pairs_per_mention, made.absent_gold, made.mining_batch_size) == (2, "skip", 16)
    assert made.early_stopping_patience == 2


def test_a_yaml_file_configures_a_run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\nreport_to: none\nnum_rounds: 3\nearly_stopping_patience: null\n"
    )
    (made,) = TrlParser(AngelConfig).parse_args_and_config(["--config", str(path)])
    assert made.num_rounds == 3
    assert made.early_stopping_patience is None


def test_help_lists_the_settings(capsys):
    with pytest.raises(SystemExit):
        TrlParser(AngelConfig).parse_args_and_config(["--help"])
    shown = capsys.readouterr().out
    assert "--mentions_per_round" in shown
    assert "--absent_gold" in shown
