"""AngelTrainer with each kind of architecture, against plain forwards of an untouched model."""

import copy

import pyarrow.parquet as pq
import pytest
import torch
from test_decoding_architectures import ARCHITECTURES, SPECIAL
from test_mention_batches import assert_same_gradients, stock_logits
from torch.nn import functional as F
from transformers import TrainerCallback

from angel_trl.architectures import load_model
from angel_trl.config import AngelConfig
from angel_trl.mining import mine
from angel_trl.trainer import AngelTrainer
from angel_trl.whole_model import base_model

KINDS = ["bart", "mbart", "t5", "gpt2", "llama", "qwen2"]
BETA = 0.3
REFERENCES = ["round", "initial"]
# Two rounds of two steps; nothing is saved but what mining needs.
SETTINGS = {
    "num_rounds": 2,
    "mentions_per_round": 6,
    "per_device_train_batch_size": 3,
    # So many candidates that gold is among them for some mentions and not for others.
    "num_beams": 10,
    "mine_top_k": 10,
    "max_pairs_per_mention": 2,
    "beta": BETA,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}


class RoundStarts(TrainerCallback):
    """Keeps the weights that each round starts with."""

    def __init__(self):
        self.weights = []

    def on_epoch_begin(self, args, state, control, model, **kwargs):
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})


@pytest.fixture(scope="module")
def make_any(tokenizer):
    """`make_any(kind, **changes)`: a random model for the tests' tokenizer, in evaluation mode."""

    def make(kind, **changes):
        model_class, config_class, settings = ARCHITECTURES[kind]
        windows = {name: 256 for name in ("max_position_embeddings", "n_positions") if name in settings}
        settings = {**SPECIAL, **settings, **windows, "vocab_size": len(tokenizer), **changes}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return model_class(config_class(**settings)).eval()

    return make


@pytest.fixture(scope="module")
def build(tokenizer, small_kb, small_mentions, tmp_path_factory):
    """`build(model, callbacks=None, peft_config=None, **settings)`: a trainer in a folder of its own."""
    train, dev = (small_mentions.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev"))

    def build(model, callbacks=None, peft_config=None, **settings):
        args = AngelConfig(str(tmp_path_factory.mktemp("run")), **{**SETTINGS, **settings})
        return AngelTrainer(model, args, train, dev, small_kb, tokenizer, callbacks=callbacks, peft_config=peft_config)

    return build


@pytest.fixture(scope="module")
def trained(make_any, build):
    """`trained(kind, reference="round")`: a trainer after its run, and the weights its rounds started with."""
    done = {}

    def train(kind, reference="round"):
        if (kind, reference) not in done:
            starts = RoundStarts()
            trainer = build(make_any(kind), callbacks=[starts], reference=reference)
            trainer.train()
            done[kind, reference] = trainer, starts.weights
        return done[kind, reference]

    return train


def log_prob(model, mention, name):
    """Log-probability of a name by one stock forward."""
    return -F.cross_entropy(stock_logits(model, mention, name), torch.tensor(name), reduction="sum")


def logged(trainer, key):
    """By step."""
    return {record["step"]: record[key] for record in trainer.state.log_history if key in record}


def assert_written_pairs_have_log_probs_of(trainer, round, model, alike=True):
    """The file of a round holds the log-probabilities that `model` gives (or, not `alike`, quite other ones)."""
    path = f"{trainer.args.output_dir}/pairs/round-{round:03d}.parquet"
    rows = pq.read_table(path).to_pylist()
    assert len(rows) > 5
    assert {row["chosen_rank"] < 0 for row in rows} == {True, False}, "gold found and gold absent are both wanted"
    known = {}
    differences = []
    with torch.no_grad():
        for row in rows:
            for side in ("chosen", "rejected"):
                key = row["mention_row"], row[f"{side}_name"]
                if key not in known:
                    mention = trainer.mentions.encoded[key[0]]
                    known[key] = log_prob(model, mention, trainer.targets.sequences[key[1]]).item()
                differences.append(abs(row[f"{side}_log_prob"] - known[key]))
    assert max(differences) < 1e-4 if alike else min(differences) > 1e-3


# --- rounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_round_starts_at_margin_zero_and_leaves_it(trained, kind):
    trainer, _ = trained(kind)
    for key in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        values = logged(trainer, key)
        assert [abs(values[step]) < 1e-5 for step in (1, 2, 3, 4)] == [True, False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_mined_log_probs_are_those_of_stock_forwards_of_the_round_s_start(trained, make_any, kind):
    trainer, starts = trained(kind)
    plain = make_any(kind)
    assert all(torch.equal(starts[0][name], value) for name, value in plain.state_dict().items())
    assert any(not torch.equal(starts[1][name], value) for name, value in plain.state_dict().items())
    for round, weights in enumerate(starts):
        plain.load_state_dict(weights)
        assert_written_pairs_have_log_probs_of(trainer, round, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_stock_forwards_and_the_mined_reference(make_any, build, kind):
    plain = make_any(kind)
    trainer = build(copy.deepcopy(plain))
    mined = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    # As though the model had moved away from its reference.
    mined.chosen_log_probs[:] += torch.linspace(-3, 4, len(mined.pairs)).numpy()
    trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
    items = [trainer.train_dataset[place] for place in range(4)]
    losses = []
    for item in items:
        for chosen, rejected, ref_chosen, ref_rejected in item.pairs:
            margin = log_prob(plain, item.mention, chosen) - log_prob(plain, item.mention, rejected)
            losses.append(-F.logsigmoid(BETA * (margin - (ref_chosen - ref_rejected))))
    expected = torch.stack(losses).mean()
    expected.backward()
    batch = trainer.data_collator(items)
    loss = trainer.training_step(trainer.model, batch, trainer._get_num_items_in_batch([batch], torch.device("cpu")))
    assert len(losses) == batch["pair_count"] > 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(trainer.model, plain)


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama"])
def test_when_every_round_hurts_the_model_of_the_start_is_kept(make_any, build, kind):
    class Scores(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_acc@1"] = 50.0 - state.global_step

    saved = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = build(make_any(kind), callbacks=[Scores()], num_rounds=1, mentions_per_round=3, **saved)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_metric) == (1, 50.0)
    start = make_any(kind).state_dict()
    assert all(torch.equal(start[name], value) for name, value in trainer.model.state_dict().items())
    again = load_model(trainer.state.best_model_checkpoint)
    assert all(torch.equal(start[name], value) for name, value in again.state_dict().items())


# --- the initial model as reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bart", "t5", "llama"])
def test_the_initial_model_may_be_the_reference_of_all_rounds(trained, make_any, kind):
    trainer, starts = trained(kind, reference="initial")
    plain = make_any(kind)
    for round in (0, 1):
        assert_written_pairs_have_log_probs_of(trainer, round, plain)
    plain.load_state_dict(starts[1])
    assert_written_pairs_have_log_probs_of(trainer, 1, plain, alike=False)
    margins = logged(trainer, "rewards/margins")
    assert abs(margins[1]) < 1e-5
    assert abs(margins[3]) > 1e-3


def test_both_references_mine_the_same_pairs_in_the_first_round(trained):
    tables = [pq.read_table(f"{trained('bart', r)[0].args.output_dir}/pairs/round-000.parquet") for r in REFERENCES]
    for name in ("mention_row", "chosen_name", "rejected_name", "chosen_rank", "rejected_rank"):
        assert tables[0][name].equals(tables[1][name])


def test_without_the_initial_model_a_run_cannot_go_on(make_any, build):
    trainer = build(make_any("bart"), reference="initial")
    score = trainer.initial_scorer(trainer.model)
    with pytest.raises(FileNotFoundError, match=r"reference is 'initial', but the initial model .*initial is gone"):
        score([trainer.mentions.encoded[0]], [[trainer.targets.sequences[0]]])
    trainer.keep_initial()
    assert len(score([trainer.mentions.encoded[0]], [[trainer.targets.sequences[0]]])) == 1


def test_the_model_of_the_round_is_not_written(trained):
    folders = [trained("bart", reference)[0]._initial for reference in REFERENCES]
    assert [folder.is_dir() for folder in folders] == [False, True]


# --- adapters --------------------------------------------------------------------------------------------------------

TARGETS = ["q_proj", "v_proj"]


def lora():
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(target_modules=TARGETS, r=4, lora_alpha=32, lora_dropout=0.1)


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_lora_adapters_train_from_margin_zero_in_every_round(make_any, build, kind):
    trainer = build(make_any(kind), peft_config=lora())
    trainer.train()
    margins = logged(trainer, "rewards/margins")
    assert [abs(margins[step]) < 1e-5 for step in (1, 2, 3, 4)] == [True, False, True, False]
    trained = dict(trainer.model.named_parameters())
    assert all(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)
    start = make_any(kind).state_dict()
    within = base_model(trainer.model).state_dict()
    frozen = {name.replace(".base_layer", ""): value for name, value in within.items()}
    assert all(torch.equal(frozen[name], value) for name, value in start.items())


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_the_initial_model_of_adapters_is_the_model_without_them(make_any, build, kind):
    trainer = build(make_any(kind), peft_config=lora(), reference="initial")
    trainer.train()
    assert not trainer._initial.exists()
    for round in (0, 1):
        assert_written_pairs_have_log_probs_of(trainer, round, make_any(kind))
    margins = logged(trainer, "rewards/margins")
    assert abs(margins[1]) < 1e-5
    assert abs(margins[3]) > 1e-3
    with torch.no_grad():
        mention, name = trainer.mentions.encoded[0], trainer.targets.sequences[0]
        with trainer.searched_model() as model:
            assert abs(log_prob(model, mention, name) - log_prob(make_any(kind), mention, name)) > 1e-3


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_prompt_learning_is_refused_by_name(make_any, build, kind):
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match=f"peft_config is a {kind}: prompt learning puts tokens before those that"):
        build(make_any("bart"), peft_config=config)


def test_a_model_that_has_adapters_already_is_refused(make_any, build):
    peft = pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"The model has adapters already.*Merge them \(model.merge_and_unload\(\)\)"):
        build(peft.get_peft_model(make_any("bart"), lora()))


def test_a_bias_of_the_logits_is_refused(make_any, build):
    model = make_any("bart")
    model.final_logits_bias[0, 7] = 0.5
    with pytest.raises(ValueError, match="final_logits_bias is not zero"):
        build(model)


# --- precision and memory --------------------------------------------------------------------------------------------


# Weights of a usual size: rounding is of their scale.
SMALL = {"bart": {"init_std": 0.1}, "t5": {"initializer_factor": 0.6}, "llama": {"initializer_range": 0.1}}


@pytest.mark.parametrize("kind", SMALL)
def test_in_bfloat16_rounds_start_near_margin_zero(make_any, build, kind):
    runs = [build(make_any(kind, **SMALL[kind]), bf16=on) for on in (False, True)]
    for trainer in runs:
        trainer.train()
    margins = logged(runs[1], "rewards/margins")
    assert max(abs(margins[step]) / BETA for step in (1, 3)) < 0.05
    assert max(abs(margins[step]) / BETA for step in (2, 4)) > 0.1
    full, half = (logged(trainer, "mined/margin")[0] for trainer in runs)
    assert 1e-6 < abs(full - half) < 0.1


@pytest.mark.parametrize("adapters", [False, True], ids=["", "adapters"])
@pytest.mark.parametrize("kind", ["bart", "t5", "llama"])
def test_activation_checkpointing_trains_alike(make_any, build, kind, adapters):
    runs = []
    for on in (False, True):
        peft_config = lora() if adapters else None
        if adapters and kind == "t5":
            peft_config.target_modules = {"q", "v"}
        trainer = build(make_any(kind), peft_config=peft_config, activation_checkpointing=on, num_rounds=1)
        trainer.train()
        assert trainer.model.is_activation_checkpointing == on
        runs.append(trainer)
    losses, margins = ([list(logged(run, key).values()) for run in runs] for key in ("loss", "rewards/margins"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert margins[1] == pytest.approx(margins[0], abs=1e-4)
    assert abs(margins[0][1]) > 1e-4
