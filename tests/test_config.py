"""AngelConfig: what it refuses, what follows from it, and that every field can be given on the command line."""

import dataclasses
import re

import pytest
import trl
from accelerate.parallelism_config import ParallelismConfig
from trl import DPOConfig, TrlParser

from angel_trl.config import REFUSED, AngelConfig
from angel_trl.publishing import Destination

# Settings of TRL and transformers that do here what their documentation says.
_HONOURED = """
    output_dir per_device_train_batch_size gradient_accumulation_steps
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
    optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
    loss_type loss_weights f_divergence_type f_alpha_divergence_coef label_smoothing beta use_weighting discopop_tau
    bf16 tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs activation_offloading use_cache torch_empty_cache_steps model_init_kwargs
    logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level
    log_level_replica include_num_input_tokens_seen disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id skip_memory_metrics debug
    eval_strategy eval_steps eval_delay load_best_model_at_end metric_for_best_model greater_is_better
    save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    restore_callback_states_from_checkpoint resume_from_checkpoint
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_revision
    full_determinism seed data_seed use_cpu accelerator_config
    dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    local_rank fsdp fsdp_config deepspeed
"""
HONOURED = set(_HONOURED.split())
# Those that follow from others here.
DECIDED = {"num_train_epochs", "precompute_ref_log_probs"}
# Those that mean nothing without what is refused, or say what a script does beside training.
IDLE = {"liger_kernel_config", "do_train", "do_eval", "do_predict"}

# For each setting that is refused, a value that TRL and transformers would take.
OTHER = {
    "ld_alpha": 0.5,
    "sync_ref_model": True,
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 64,
    "precompute_ref_batch_size": 4,
    "max_steps": 100,
    "disable_dropout": False,
    "neftune_noise_alpha": 5.0,
    "max_length": 512,
    "truncation_mode": "keep_end",
    "padding_free": True,
    "pad_to_multiple_of": 8,
    "pad_token": "<pad>",
    "dataset_num_proc": 2,
    "length_column_name": "size",
    "label_names": ["labels"],
    "remove_unused_columns": True,
    "label_smoothing_factor": 0.1,
    "router_aux_loss_coef": 0.01,
    "trust_remote_code": True,
    "per_device_eval_batch_size": 16,
    "prediction_loss_only": True,
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "eval_on_start": True,
    "fp16": True,
    "torch_compile": True,
    # Each of these switches it on.
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
    "use_liger_kernel": True,
    "auto_find_batch_size": True,
    "average_tokens_across_devices": False,
    "dataloader_persistent_workers": True,
    "ignore_data_skip": True,
    "parallelism_config": ParallelismConfig(),
    "hub_always_push": True,
}


def config(tmp_path, **settings):
    return AngelConfig(str(tmp_path), use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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
        ({"reference": "last"}, "reference is 'last'; choose one of round, initial"),
        ({"num_train_epochs": 5}, "num_train_epochs is 5, but a round is an epoch: set num_rounds"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is 'group_by_length'"),
        ({"use_weighting": True, "loss_type": "sft"}, "use_weighting with an 'sft' loss"),
        ({"use_weighting": True, "loss_type": ["sigmoid", "sft"]}, "use_weighting with an 'sft' loss"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config asks for dispatch_batches or split"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config asks for dispatch_batches or split"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "activation_checkpointing_kwargs has use_ree"),
        ({"hub_strategy": "checkpoint"}, "hub_strategy is 'checkpoint'; choose one of end, every_save: linkers are"),
        ({"push_to_hub": True}, "push_to_hub needs hub_model_id: give 'user/name'"),
        ({"push_to_hub": True, "hub_model_id": "model"}, "'model' is no id of a Hub repository"),
        (
            {"push_to_hub": True, "hub_model_id": "a/b", "hub_strategy": "every_save", "save_strategy": "best"},
            "hub_strategy is 'every_save', which publishes each round when it is saved, but save_strategy is 'best'",
        ),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "activation_checkpointing_kwargs has use_reent"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_hold_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_every_setting_of_dpo_config_is_either_honoured_or_refused():
    """A new release may bring settings that nothing here heeds: they must not pass in silence."""
    known = HONOURED | DECIDED | IDLE | set(REFUSED)
    there = {field.name for field in dataclasses.fields(DPOConfig)}
    assert not there - known, (
        f"DPOConfig of trl {trl.__version__} has new settings: {sorted(there - known)}. Find out whether AngelTrainer "
        "does what they say. If so, add them to HONOURED here; if not, to angel_trl.config.REFUSED with the reason."
    )
    assert not known - there, f"DPOConfig of trl {trl.__version__} no longer has {sorted(known - there)}"
    assert len(known) == len(HONOURED) + len(DECIDED) + len(IDLE) + len(REFUSED), "each is one of them"


def test_every_setting_that_is_refused_is_tried():
    assert set(OTHER) == set(REFUSED)


@pytest.mark.parametrize("name", OTHER)
def test_settings_refused_are_named_with_value_and_reason(tmp_path, name):
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        config(tmp_path, **{name: OTHER[name]})
    before, reason = str(caught.value).split(": ", 1)
    assert before.startswith(f"{name} is {OTHER[name]!r} and must be left at ")
    assert reason == REFUSED[name].format(mining_batch_size=64) + "."
    assert "{" not in reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_steps": 100},
            "max_steps is 100 and must be left at -1: training is counted in rounds: set num_rounds.",
        ),
        (
            {"per_device_eval_batch_size": 16, "mining_batch_size": 7},
            "per_device_eval_batch_size is 16 and must be left at 8: dev mentions are linked by search, 7 "
            "(mining_batch_size) at a time.",
        ),
    ],
    ids=["max_steps", "per_device_eval_batch_size"],
)
def test_some_refusals_in_full(tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        config(tmp_path, **settings)


@pytest.mark.parametrize("num_train_epochs", [3.0, 7])
def test_epochs_may_be_given_as_they_are_or_left_out(tmp_path, num_train_epochs):
    assert config(tmp_path, num_rounds=7, num_train_epochs=num_train_epochs).num_train_epochs == 7


def test_a_configuration_can_be_made_again_of_its_own_values(tmp_path):
    made = config(tmp_path, num_rounds=7, beta=0.2, reference="initial", within_types=True)
    again = dataclasses.replace(made, learning_rate=0.5)
    assert (again.num_rounds, again.beta, again.reference, again.within_types) == (7, 0.2, "initial", True)
    assert again.learning_rate == 0.5


def test_a_run_is_published_where_the_settings_say(tmp_path):
    made = config(tmp_path, push_to_hub=True, hub_model_id="user/model")
    assert made.hub_destination() == Destination("user/model", "user/model-pairs")
    more = {"hub_pairs_id": "none", "hub_private_repo": False, "hub_revision": "tuned", "hub_token": "hf_x"}
    made = dataclasses.replace(made, hub_strategy="every_save", **more)
    assert made.hub_destination() == Destination("user/model", None, False, "tuned", rounds=True, token="hf_x")
    assert dataclasses.replace(made, hub_pairs_id="user/mined").hub_destination().pairs_id == "user/mined"


def test_what_is_mined_is_decided_by_settings_that_are_told(tmp_path):
    told = config(tmp_path, num_beams=7, seed=3).mining_settings()
    assert (told["num_beams"], told["seed"], told["absent_gold"]) == (7, 3, "nearest")


def test_checkpointing_of_activations_is_off_unless_asked_for(tmp_path):
    assert not config(tmp_path).activation_checkpointing
    assert config(tmp_path, activation_checkpointing=True).activation_checkpointing


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
    assert (made.reference, made.within_types) == ("round", False)
    assert (made.load_best_model_at_end, made.metric_for_best_model, made.greater_is_better) == (True, "acc@1", True)
    assert not made.bf16
    assert not made.activation_checkpointing


def test_the_default_configuration_raises_no_warning(tmp_path, recwarn):
    config(tmp_path)
    # What other tests left open is warned of whenever it happens to be collected.
    ours = [warning for warning in recwarn if not issubclass(warning.category, ResourceWarning)]
    assert [str(warning.message) for warning in ours] == []


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
        "reference": "initial",
        "within_types": "true",
        "mining_batch_size": "16",
        "early_stopping_patience": "2",
    }
    command_line = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    (made,) = TrlParser(AngelConfig).parse_args_and_config(command_line)
    assert (made.beta, made.loss_type, made.learning_rate) == (0.3, ["ipo"], 2e-5)
    assert (made.num_rounds, made.mentions_per_round, made.num_beams, made.mine_top_k) == (4, 0.25, 6, 4)
    assert (made.max_pairs_per_mention, made.absent_gold, made.mining_batch_size) == (2, "skip", 16)
    assert (made.early_stopping_patience, made.reference, made.within_types) == (2, "initial", True)


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
    assert "--reference {round,initial}" in shown
