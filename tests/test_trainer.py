"""What a run of AngelTrainer does, round by round."""

import logging
import math

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, TrainerCallback

from angel_trl.collator import MentionPairs
from angel_trl.formatting import MentionFormatter
from angel_trl.mining import mine

RATES = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "encoder_layerdrop": 0.5}


def mined_items(trainer):
    """Mine round 0 as a run would and return its mentions with their pairs."""
    mined = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
    return mined, [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]


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


def test_a_round_without_pairs_warns_and_changes_nothing(make_trainer, make_model, small_mentions, caplog):
    # A model that does not find gold for these two mentions, which are then skipped.
    absent = small_mentions.select([1, 2])
    trainer = make_trainer(train=absent, absent_gold="skip", mine_top_k=1, mentions_per_round=1.0)
    with caplog.at_level(logging.WARNING, "angel_trl"):
        trainer.train()
    assert "Round 0 has no pairs" in caplog.text
    assert [record["mined/pairs"] for record in trainer.state.log_history if "mined/pairs" in record] == [0.0, 0.0]
    assert not [record for record in trainer.state.log_history if "rewards/margins" in record]
    start = make_model().state_dict()
    assert all(torch.equal(start[name], value) for name, value in trainer.model.state_dict().items())


def test_every_pair_of_a_round_is_trained_on_once(make_trainer, monkeypatch):
    trainer = make_trainer(num_rounds=1, mentions_per_round=10)
    counted = []
    plain = trainer._get_num_items_in_batch
    monkeypatch.setattr(trainer, "_get_num_items_in_batch", lambda *args: counted.append(plain(*args)) or counted[-1])
    trainer.train()
    mined = [record["mined/pairs"] for record in trainer.state.log_history if "mined/pairs" in record]
    assert trainer.state.global_step == len(counted) == 3
    assert sum(counted).item() == mined[0]


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


def test_an_unsupported_architecture_is_refused_by_name(make_trainer):
    size = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=600, num_hidden_layers=1, **size))
    with pytest.raises(ValueError, match="Models of type 'opt' are not supported here; use one of bart, mbart, t5"):
        make_trainer(model)
