"""AngelTrainer's loss against plain forwards of an untouched model, and what a run does."""

import logging
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from angel_trl.collator import MentionPairs
from angel_trl.formatting import MentionFormatter
from angel_trl.mining import mine

RATES = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "encoder_layerdrop": 0.5}


def mined_items(trainer):
    """Mine round 0 as a run would and return its mentions with their pairs."""
    mined = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
    return mined, [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]


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


def stock_log_prob(model, mention, name):
    """Log-probability of a name by the model's own forward, one row, no padding."""
    decoder = torch.tensor([[*mention.prefix, *name]])
    logits = model(input_ids=torch.tensor([mention.source]), decoder_input_ids=decoder[:, :-1]).logits[0]
    log_probs = logits.log_softmax(-1)
    start = len(mention.prefix) - 1
    return sum(log_probs[start + i, token] for i, token in enumerate(name))


def stock_loss(model, items, beta):
    """DPO's sigmoid loss, a mean over pairs (Rafailov et al. 2023, equation 7)."""
    losses = []
    for item in items:
        for chosen, rejected, ref_chosen, ref_rejected in item.pairs:
            policy = stock_log_prob(model, item.mention, chosen) - stock_log_prob(model, item.mention, rejected)
            losses.append(-F.logsigmoid(beta * (policy - (ref_chosen - ref_rejected))))
    return torch.stack(losses).mean()


def gradients(trainer, batches, model=None):
    """What accumulating `batches` leaves in the gradients, through the trainer's own step."""
    trainer.model.zero_grad()
    pairs = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.training_step(trainer.model, batch, pairs) for batch in batches]
    return sum(losses), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def test_reward_margins_start_at_zero_whatever_the_dropout(make_trainer, make_model):
    trainer = make_trainer(make_model(**RATES, decoder_layerdrop=0.5), mentions_per_round=1.0)
    mined, items = mined_items(trainer)
    assert {-1} < set(mined.pairs.chosen_rank.tolist()), "pairs with gold absent and with gold found are both needed"
    trainer.model.train()
    for item in items:
        for pair in item.pairs:
            batch = trainer.data_collator([MentionPairs(item.mention, (pair,))])
            assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)
    metrics = trainer._metrics["train"]
    assert len(metrics["rewards/margins"]) == len(mined.pairs)
    for key in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert max(map(abs, metrics[key])) < 1e-5


def test_the_configuration_keeps_the_dropout_rates_that_training_switched_off(make_trainer, make_model):
    trainer = make_trainer(make_model(**RATES))
    assert trainer.model.config.dropout == 0.1
    assert trainer.model.model.encoder.layers[0].dropout == 0.0


def test_mined_reference_is_the_model_of_the_rounds_start(make_trainer, make_model):
    trainer = make_trainer(mentions_per_round=1.0)
    _, items = mined_items(trainer)
    untouched = make_model()
    with torch.no_grad():
        for item in items:
            for chosen, rejected, ref_chosen, ref_rejected in item.pairs:
                assert ref_chosen == pytest.approx(stock_log_prob(untouched, item.mention, chosen).item(), abs=2e-5)
                assert ref_rejected == pytest.approx(
                    stock_log_prob(untouched, item.mention, rejected).item(), abs=2e-5
                )


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_and_gradients_are_those_of_plain_forwards(make_trainer, make_model, beta):
    trainer = make_trainer(make_model(**RATES), beta=beta)
    items = literal_items(trainer)
    loss, ours = gradients(trainer, [trainer.data_collator(items)])
    untouched = make_model()
    expected = stock_loss(untouched, items, beta)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in untouched.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_only_the_name_and_its_end_token_are_scored(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    batch = trainer.data_collator(items)
    names = [pair[side] for side in (0, 1) for item in items for pair in item.pairs]
    assert [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ] == [list(name) for name in names]
    assert all(name[-1] == trainer.processing_class.eos_token_id for name in names)
    assert batch["mention_index"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert len(batch["mention_input_ids"]) == 2
    # Were the prefix scored too, every log-probability would be lower.
    trainer.compute_loss(trainer.model, batch)
    whole = dict(batch, completion_mask=batch["attention_mask"])
    trainer.compute_loss(trainer.model, whole)
    masked, unmasked = trainer._metrics["eval"]["logps/chosen"]
    assert unmasked < masked - 1


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "ipo"},
        {"loss_type": "hinge"},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
        {"loss_type": "apo_zero"},
        {"loss_type": "sigmoid_norm", "use_weighting": True},
        {"f_divergence_type": "js_divergence"},
        {"label_smoothing": 0.1, "loss_type": "robust"},
    ],
    ids=str,
)
def test_losses_of_dpo_config_train(make_trainer, settings):
    trainer = make_trainer(**settings)
    loss, found = gradients(trainer, [trainer.data_collator(literal_items(trainer))])
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any(gradient.abs().sum() > 0 for gradient in found.values())


def test_sft_in_the_mix_adds_the_cross_entropy_of_the_chosen_names(make_trainer, make_model):
    trainer = make_trainer(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])
    items = literal_items(trainer)
    loss, _ = gradients(trainer, [trainer.data_collator(items)])
    untouched = make_model()
    chosen = [(item.mention, pair[0]) for item in items for pair in item.pairs]
    entropy = -sum(stock_log_prob(untouched, *pair) for pair in chosen) / sum(len(name) for _, name in chosen)
    assert loss.item() == pytest.approx((stock_loss(untouched, items, 0.1) + 0.5 * entropy).item(), abs=1e-5)


def test_unequal_micro_batches_accumulate_to_the_gradients_of_one(make_trainer):
    trainer = make_trainer()
    items = literal_items(trainer)
    empty = MentionPairs(trainer.mentions.encoded[3], ())
    whole_loss, whole = gradients(trainer, [trainer.data_collator(items)])
    for parts in ([items[:1], items[1:]], [items[:1], [empty], items[1:]]):
        loss, accumulated = gradients(trainer, [trainer.data_collator(part) for part in parts])
        assert loss.item() == pytest.approx(whole_loss.item(), abs=1e-6)
        for name in whole:
            torch.testing.assert_close(accumulated[name], whole[name], atol=1e-6, rtol=0)


def test_a_run_with_accumulation_ends_with_the_weights_of_one_without(make_trainer, tmp_path):
    settings = {"load_best_model_at_end": False, "num_rounds": 1, "optim": "sgd", "learning_rate": 0.05}
    ends = []
    for batch in (4, 2):
        trainer = make_trainer(
            output_dir=tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=4 // batch,
            **settings,
        )
        trainer.train()
        assert trainer.state.global_step == 3
        ends.append(trainer.model.state_dict())
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", ["sigmoid", "sft"]], ids=str)
def test_a_batch_without_pairs_gives_zero_gradients(make_trainer, loss_type):
    trainer = make_trainer(loss_type=loss_type)
    batch = trainer.data_collator([MentionPairs(mention, ()) for mention in trainer.mentions.encoded[:3]])
    assert batch["pair_count"] == 0
    loss, found = gradients(trainer, [batch])
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in found.values())


def test_a_round_without_pairs_warns_and_changes_nothing(make_trainer, make_model, small_mentions, caplog):
    # A model that does not find gold for these two mentions, which are then skipped.
    absent = small_mentions.select([1, 2])
    trainer = make_trainer(train=absent, absent_gold="skip", mine_top_k=1, mentions_per_round=1.0)
    with caplog.at_level(logging.WARNING, "angel_trl"):
        trainer.train()
    assert "Round 0 has no pairs" in caplog.text
    start = make_model().state_dict()
    assert all(torch.equal(start[name], value) for name, value in trainer.model.state_dict().items())


def test_training_widens_the_margin_until_chosen_outrank_rejected(make_trainer):
    trainer = make_trainer(mentions_per_round=1.0)
    mined, items = mined_items(trainer)
    batch = trainer.data_collator(items)
    pairs = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    optimizer = torch.optim.Adam(trainer.model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        trainer.training_step(trainer.model, batch, pairs)
        optimizer.step()
    margins = trainer._metrics["train"]["rewards/margins"]
    assert abs(margins[0]) < 1e-5
    assert margins[5] > 0.1
    assert margins[-1] > 2 * margins[5]
    assert trainer._metrics["train"]["rewards/accuracies"][-1] == 1.0
    after = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    assert mined.metrics["gold_first"] < 10
    assert after.metrics["gold_first"] > 60


def test_every_round_starts_at_margin_zero_since_its_miner_is_the_reference(make_trainer):
    trainer = make_trainer(num_rounds=3, learning_rate=1e-2)
    trainer.train()
    margins = {r["step"]: r["rewards/margins"] for r in trainer.state.log_history if "rewards/margins" in r}
    assert all(abs(margins[step]) < 1e-5 for step in (1, 4, 7))
    assert all(abs(margins[step]) > 1e-4 for step in (2, 3, 5, 6, 8, 9))


def test_each_round_is_evaluated_by_search_and_logged_apart_from_training(make_trainer):
    trainer = make_trainer(logging_steps=2)
    trainer.train()
    history = trainer.state.log_history
    evaluations = [record for record in history if "eval_acc@1" in record]
    assert [record["step"] for record in evaluations] == [0, 3, 6]
    assert all(record["eval_mentions"] == 8 and "eval_acc@5" in record for record in evaluations)
    assert not any("rewards/margins" in record for record in evaluations)
    mined = [record for record in history if "mined/pairs" in record]
    assert [(record["step"], record["round"]) for record in mined] == [(0, 0.0), (3, 1.0)]
    assert all(
        record["mined/gold_first"] + record["mined/gold_in_top_k"] + record["mined/gold_absent"] == 100
        for record in mined
    )
    assert not any("rewards/margins" in record for record in mined)


def test_evaluate_takes_other_mentions_and_a_prefix(make_trainer, small_mentions):
    trainer = make_trainer()
    metrics = trainer.evaluate(small_mentions.select(range(3)), metric_key_prefix="test")
    assert metrics["test_mentions"] == 3
    assert "test_acc@1" in metrics


def test_when_every_round_hurts_the_model_of_the_start_is_kept(make_trainer, make_model):
    class Scores(TrainerCallback):
        """Stands in for a dev set on which the start is right and what follows is not."""

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_acc@1"] = 50.0 if state.global_step == 0 else 0.0

    trainer = make_trainer(learning_rate=10.0, callbacks=[Scores()], num_rounds=4, early_stopping_patience=2)
    trainer.train()
    assert trainer.state.global_step == 6, "patience of 2 rounds"
    assert trainer.state.best_metric == 50.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-0")
    start = make_model().state_dict()
    assert all(torch.equal(start[name], value) for name, value in trainer.model.state_dict().items())


def test_checkpoints_of_a_former_run_do_not_displace_the_start(make_trainer, tmp_path):
    for step in (100, 101, 102):
        (tmp_path / f"checkpoint-{step}").mkdir()
    trainer = make_trainer(learning_rate=0.0)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-0")
    assert (tmp_path / "checkpoint-0" / "model.safetensors").exists()


def test_the_nearest_gold_name_is_one_the_tokenizer_can_write(make_trainer, small_kb, monkeypatch):
    nearest = make_trainer().nearest_gold
    lost = int(nearest[7])
    assert small_kb.names[lost] == "heart failure"
    monkeypatch.setattr(MentionFormatter, "unknown_names", lambda self, sequences: [lost])
    again = make_trainer().nearest_gold
    assert again[7] != lost
    assert "C08" in small_kb.ids_of_name(int(again[7]))
    assert (again == nearest).sum() == len(nearest) - 1


def test_lora_adapters_start_at_margin_zero_and_train(make_trainer):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    trainer = make_trainer(peft_config=config, num_rounds=1, learning_rate=1e-2)
    trainer.train()
    margins = [r["rewards/margins"] for r in trainer.state.log_history if "rewards/margins" in r]
    assert abs(margins[0]) < 1e-5
    assert abs(margins[1]) > 1e-4


def test_an_unsupported_architecture_is_refused_by_name(make_trainer):
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(vocab_size=600, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=1)
    )
    with pytest.raises(ValueError, match="'t5' are not supported here"):
        make_trainer(model)
