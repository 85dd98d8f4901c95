"""The loss of a batch of mentions against plain forwards of an untouched model, and how batches are laid out."""

import inspect
import math
import re

import pytest
import torch
from test_mention_batches import stock_logits
from torch.nn import functional as F
from trl import DPOTrainer

from angel_trl.collator import MentionPairs, RoundDataset
from angel_trl.mining import mine

RATES = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "encoder_layerdrop": 0.5}
CPU = torch.device("cpu")


def literal_items(trainer):
    """Two mentions with three and one pairs, and reference log-probabilities that no model would give."""
    kb, sequences = trainer.targets.kb, trainer.targets.sequences
    name = {text: sequences[kb.find(text)] for text in ("cold", "copd", "acute coryza", "gout", "cancer of breast")}
    first, second = trainer.mentions.encoded[0], trainer.mentions.encoded[9]
    return [
        MentionPairs(
            first,
            (
                (name["acute coryza"], name["copd"], -3.0, -2.0),
                (name["acute coryza"], name["gout"], -3.0, -7.5),
                (name["acute coryza"], name["cancer of breast"], -3.0, -20.0),
            ),
        ),
        MentionPairs(second, ((name["cancer of breast"], name["cold"], -9.0, -4.0),)),
    ]


def without_pairs(trainer, *rows):
    return [MentionPairs(trainer.mentions.encoded[row], ()) for row in rows]


def stock_log_probs(model, mention, name):
    """Log-probabilities of a name's tokens and of all others in their places, by one stock forward."""
    log_probs = stock_logits(model, mention, name).log_softmax(-1)
    return log_probs[torch.arange(len(name)), name], log_probs


def stock_margins(model, items):
    """Each pair's margin of the policy over that of the reference."""
    margins = []
    for item in items:
        for chosen, rejected, ref_chosen, ref_rejected in item.pairs:
            of_chosen, of_rejected = (stock_log_probs(model, item.mention, one)[0].sum() for one in (chosen, rejected))
            margins.append(of_chosen - of_rejected - (ref_chosen - ref_rejected))
    return torch.stack(margins)


def stock_loss(model, items, beta=0.1):
    """DPO's sigmoid loss, a mean over pairs (Rafailov et al. 2023, equation 7)."""
    return -F.logsigmoid(beta * stock_margins(model, items)).mean()


def stock_entropy(model, items):
    """Cross-entropy of the chosen names, a mean over the tokens of all pairs."""
    chosen = [stock_log_probs(model, item.mention, pair[0])[0] for item in items for pair in item.pairs]
    return -torch.cat(chosen).mean()


def gradients(trainer, batches):
    """The loss of accumulating `batches` and what it leaves in the gradients, through the trainer's own step."""
    trainer.model.zero_grad()
    batches = [trainer.data_collator(items) for items in batches]
    pairs = trainer._get_num_items_in_batch(batches, CPU)
    losses = [trainer.training_step(trainer.model, batch, pairs).item() for batch in batches]
    return sum(losses), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


# --- layout ----------------------------------------------------------------------------------------------------------


def test_rows_are_all_chosen_names_and_then_all_rejected_ones(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    batch = trainer.data_collator(items)
    names = [list(pair[side]) for side in (0, 1) for item in items for pair in item.pairs]
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], batch["row_places"], strict=True)
    for name, prefix, (ids, seen, scored, places) in zip(
        names, [item.mention.prefix for item in items for _ in item.pairs] * 2, rows, strict=True
    ):
        assert ids[scored.bool()].tolist() == name
        assert scored.tolist() == [0, *[1] * len(name), *[0] * (len(ids) - 1 - len(name))]
        assert seen.tolist() == [1, *scored[1:].tolist()]
        assert ids[0] == prefix[-1]
        assert batch["name_labels"][places[: len(name)]].tolist() == name
        assert (places[len(name) :] == -1).all()
    assert all(name[-1] == trainer.processing_class.eos_token_id for name in names)
    assert batch["ref_chosen_logps"].tolist() == [-3.0, -3.0, -3.0, -9.0]
    assert batch["ref_rejected_logps"].tolist() == [-2.0, -7.5, -20.0, -4.0]
    assert batch["pair_count"] == 4


def test_a_name_of_several_pairs_of_a_mention_is_computed_once(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    batch = trainer.data_collator(items)
    of_mentions = [dict.fromkeys(tuple(name) for pair in item.pairs for name in pair[:2]) for item in items]
    assert [len(names) for names in of_mentions] == [4, 2]
    assert batch["name_labels"].tolist() == [token for names in of_mentions for name in names for token in name]
    assert len(batch["tree_ids"]) == sum(
        len(item.mention.prefix) + sum(len(name) - 1 for name in names)
        for item, names in zip(items, of_mentions, strict=True)
    )
    assert len({tuple(row) for row in batch["row_places"][:3].tolist()}) == 1
    # Of two mentions the same name is two: they give it different states.
    assert set(of_mentions[0]) & set(of_mentions[1])
    assert batch["row_places"][6].tolist() != batch["row_places"][3].tolist()
    assert len(batch["mention_input_ids"]) == 2


def test_mentions_without_pairs_are_not_encoded(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    empty = without_pairs(trainer, 3, 4)
    one, other = (trainer.data_collator(given) for given in ([empty[0], *items, empty[1]], items))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_batch_without_pairs_is_one_mention_that_counts_for_nothing(make_trainer):
    trainer = make_trainer()
    items = without_pairs(trainer, 3, 4)
    batch = trainer.data_collator(items)
    last = items[0].mention.prefix[-1]
    assert batch["pair_count"] == 0
    assert batch["tree_ids"].tolist() == list(items[0].mention.prefix)
    assert batch["name_labels"].tolist() == [last]
    assert batch["row_places"].tolist() == [[0], [0]]
    assert batch["input_ids"].tolist() == [[last, last]] * 2
    assert batch["completion_mask"].tolist() == [[0, 1]] * 2


def test_the_last_step_of_a_round_is_filled_up_with_mentions_without_pairs(make_trainer):
    trainer = make_trainer(mentions_per_round=10)
    mined = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    for multiple_of, length in ((1, 10), (4, 12), (10, 10), (16, 16)):
        dataset = RoundDataset(10, multiple_of=multiple_of)
        assert len(dataset) == length
        dataset.fill(mined, trainer.targets, trainer.mentions)
        items = [dataset[place] for place in range(length)]
        assert [item.mention for item in items[:10]] == [trainer.mentions.encoded[row] for row in mined.rows]
        assert sum(len(item.pairs) for item in items[:10]) == len(mined.pairs) > 10
        assert items[10:] == [MentionPairs(items[0].mention, ())] * (length - 10)
    assert len(trainer.train_dataset) == 12


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_and_gradients_are_those_of_plain_forwards(make_trainer, make_model, beta):
    trainer = make_trainer(make_model(**RATES), beta=beta)
    items = literal_items(trainer)
    loss, ours = gradients(trainer, [items])
    untouched = make_model()
    expected = stock_loss(untouched, items, beta)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in untouched.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-4)


ALL_LOSSES = sorted(set(re.findall(r'loss_type == "(\w+)"', inspect.getsource(DPOTrainer._compute_loss))))


def test_the_losses_of_trl_are_found():
    assert {"sigmoid", "hinge", "ipo", "exo_pair", "aot", "apo_zero", "sft", "sigmoid_norm"} <= set(ALL_LOSSES)
    assert len(ALL_LOSSES) >= 15


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_every_loss_of_trl_trains(make_trainer, loss_type):
    trainer = make_trainer(loss_type=loss_type, label_smoothing=0.1 if loss_type in ("exo_pair", "robust") else 0.0)
    loss, found = gradients(trainer, [literal_items(trainer)])
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert sum(gradient.abs().sum() for gradient in found.values()) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"f_divergence_type": "forward_kl"},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"loss_type": ["sigmoid", "apo_down", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        {"loss_type": "sigmoid_norm", "use_weighting": True},
        {"loss_type": "discopop", "discopop_tau": 0.2},
    ],
    ids=str,
)
def test_further_settings_of_the_loss_train(make_trainer, settings):
    trainer = make_trainer(**settings)
    loss, found = gradients(trainer, [literal_items(trainer)])
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert sum(gradient.abs().sum() for gradient in found.values()) > 1e-3
    plain, _ = gradients(make_trainer(), [literal_items(trainer)])
    assert loss != pytest.approx(plain, abs=1e-6)


def test_sft_in_the_mix_adds_the_cross_entropy_of_the_chosen_names(make_trainer, make_model):
    trainer = make_trainer(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])
    items = literal_items(trainer)
    loss, _ = gradients(trainer, [items])
    untouched = make_model()
    expected = stock_loss(untouched, items) + 0.5 * stock_entropy(untouched, items)
    assert loss == pytest.approx(expected.item(), abs=1e-5)


def test_weighting_is_by_how_likely_the_model_finds_both_names(make_trainer, make_model):
    """WPO (Zhou et al. 2024, equation 2), with weights aligned by the sum of squared probabilities."""
    trainer = make_trainer(make_model(init_std=0.1), use_weighting=True)
    items = literal_items(trainer)
    loss, _ = gradients(trainer, [items])
    untouched = make_model(init_std=0.1)
    weights = []
    with torch.no_grad():
        for item in items:
            for pair in item.pairs:
                weight = 1.0
                for name in pair[:2]:
                    own, of_all = stock_log_probs(untouched, item.mention, name)
                    weight *= (own - (2 * of_all).logsumexp(-1)).mean().exp()
                weights.append(weight)
        expected = -(F.logsigmoid(0.1 * stock_margins(untouched, items)) * torch.stack(weights)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert max(weights) > 2 * min(weights)


def test_without_a_count_the_loss_is_the_mean_over_the_batch(make_trainer, make_model):
    trainer = make_trainer(loss_type=["sigmoid", "sft"])
    items = literal_items(trainer)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(items))
    untouched = make_model()
    assert loss.item() == pytest.approx(
        (stock_loss(untouched, items) + stock_entropy(untouched, items)).item(), abs=1e-5
    )


def test_outputs_are_refused_since_their_logits_are_never_made(make_trainer):
    trainer = make_trainer()
    batch = trainer.data_collator(literal_items(trainer))
    with pytest.raises(ValueError, match="return_outputs is not supported"):
        trainer.compute_loss(trainer.model, batch, return_outputs=True)


# --- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "ipo"},
        {"loss_type": "sft"},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"loss_type": ["sft", "apo_zero", "hinge"]},
        {"use_weighting": True},
    ],
    ids=str,
)
def test_unequal_micro_batches_accumulate_to_the_gradients_of_one(make_trainer, settings):
    trainer = make_trainer(**settings)
    items = literal_items(trainer)
    tokens = [sum(len(pair[0]) for pair in item.pairs) / len(item.pairs) for item in items]
    assert tokens[0] != tokens[1], "means over tokens and over pairs are to differ"
    empty = without_pairs(trainer, 3)
    whole_loss, whole = gradients(trainer, [items])
    # Processors round otherwise, and in proportion to the gradients, which are large for "ipo".
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for parts in ([items[:1], items[1:]], [items[:1], empty, items[1:]], [empty, items]):
        loss, accumulated = gradients(trainer, parts)
        assert loss == pytest.approx(whole_loss, rel=1e-5)
        for name in whole:
            torch.testing.assert_close(accumulated[name], whole[name], atol=2e-5 * largest, rtol=1e-5)
    assert trainer.loss_weights == settings.get("loss_weights", [1.0] * len(trainer.loss_types))


@pytest.mark.parametrize("loss_type", ["sigmoid", ["sigmoid", "sft"]], ids=str)
def test_a_run_with_accumulation_ends_with_the_weights_of_one_without(make_trainer, make_model, tmp_path, loss_type):
    settings = {"num_rounds": 1, "optim": "sgd", "learning_rate": 0.05, "loss_type": loss_type}
    settings |= {"load_best_model_at_end": False, "eval_strategy": "no", "save_strategy": "no"}
    settings["early_stopping_patience"] = None
    ends = []
    for batch in (4, 2, 1):
        trainer = make_trainer(
            output_dir=tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=4 // batch,
            **settings,
        )
        trainer.train()
        assert trainer.state.global_step == 3
        ends.append(trainer.model.state_dict())
    start = make_model().state_dict()
    for name in start:
        for other in ends[1:]:
            torch.testing.assert_close(ends[0][name], other[name], atol=1e-6, rtol=0)
    assert max((ends[0][name] - start[name]).abs().max().item() for name in start) > 1e-3


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "sft", ["sigmoid", "sft"]], ids=str)
def test_a_batch_without_pairs_gives_zero_gradients(make_trainer, loss_type):
    trainer = make_trainer(loss_type=loss_type)
    loss, found = gradients(trainer, [without_pairs(trainer, 0, 1, 2)])
    assert loss == 0
    assert all((gradient == 0).all() for gradient in found.values())


def test_a_batch_without_pairs_adds_nothing_to_the_rewards_that_are_logged(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    metrics = trainer._metrics["train"]
    gradients(trainer, [without_pairs(trainer, 3)])
    assert not [key for key in metrics if key.startswith(("rewards/", "logps/"))]
    gradients(trainer, [items[:1], items[1:]])
    expected = {key: list(values) for key, values in metrics.items() if key.startswith(("rewards/", "logps/"))}
    assert set(expected) >= {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
    assert set(expected) >= {"logps/chosen", "logps/rejected"}
    metrics.clear()
    gradients(trainer, [items[:1], without_pairs(trainer, 3), items[1:], without_pairs(trainer, 4)])
    for key, values in expected.items():
        assert len(values) == 2
        assert metrics[key] == pytest.approx(values, abs=1e-6)


def test_rewards_are_logged_of_each_pair_alike(make_trainer, make_model):
    trainer = make_trainer(beta=0.5)
    items = literal_items(trainer)
    gradients(trainer, [items])
    untouched, metrics = make_model(), trainer._metrics["train"]
    with torch.no_grad():
        margins = 0.5 * stock_margins(untouched, items)
    assert metrics["rewards/margins"] == pytest.approx([margins.mean().item()], abs=1e-4)
    assert metrics["rewards/accuracies"] == [(margins > 0).float().mean().item()]
