"""The positive-only stage: its loss against plain forwards, its evaluation, and that it fits."""

import copy

import pytest
import torch
from test_decoding_architectures import ARCHITECTURES, SPECIAL
from test_mention_batches import assert_same_gradients, stock_logits
from torch.nn import functional as F
from transformers import TrainerCallback

from angel_trl.collator import PositiveExample, positive_examples
from angel_trl.decoding import search
from angel_trl.evaluation import evaluate_linking
from angel_trl.formatting import EncodedMention, MentionFormatter
from angel_trl.optimizers import MuonAdamW
from angel_trl.positive import PositiveConfig, PositiveTrainer
from angel_trl.targets import NearestNames, TargetNames, prepare_mentions


@pytest.fixture
def make_positive(tmp_path, make_model, tokenizer, small_kb, small_mentions):
    """`make_positive(names=1, with_eval=True, muon=None, **settings)`: a trainer on the training mentions."""

    def make(model=None, names=1, with_eval=True, callbacks=None, muon=None, **settings):
        defaults = {
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        model = model or make_model()
        targets = TargetNames(small_kb, MentionFormatter(tokenizer, model.config))
        train, dev = (small_mentions.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev"))
        train = prepare_mentions(train, targets, for_training=True)
        examples = positive_examples(train, NearestNames(small_kb).nearest(train.mentions, train.gold, names))
        return PositiveTrainer(
            model,
            PositiveConfig(str(tmp_path), **{**defaults, **settings}),
            examples,
            targets,
            prepare_mentions(dev, targets) if with_eval else None,
            callbacks=callbacks,
            optimizers=(None if muon is None else MuonAdamW(model, matrix_lr=muon, lr=1e-3), None),
        )

    return make


def stock_loss(model, examples, sequences, smoothing):
    """Label-smoothed cross-entropy over all tokens of all names, by the model's own forward, one name at a time."""
    named = [(example.mention, sequences[index]) for example in examples for index in example.names]
    logits = torch.cat([stock_logits(model, mention, name) for mention, name in named])
    labels = torch.tensor([token for _, name in named for token in name])
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["bart", "t5", "gpt2", "llama"])
def test_loss_and_gradients_are_those_of_plain_forwards(make_positive, tokenizer, kind, smoothing):
    windows = {"max_position_embeddings": 256, "n_positions": 256}
    model_class, config_class, settings = ARCHITECTURES[kind]
    settings = {name: windows.get(name, value) for name, value in settings.items()}
    untouched = model_class(config_class(**{**SPECIAL, **settings, "vocab_size": len(tokenizer)})).eval()
    trainer = make_positive(copy.deepcopy(untouched), names=3, label_smoothing_factor=smoothing)
    examples = trainer.train_dataset.examples[:6]
    assert {len(example.names) for example in examples} >= {2, 3}
    expected = stock_loss(untouched, examples, trainer.targets.sequences, smoothing)
    expected.backward()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(trainer.model, untouched)


@pytest.mark.parametrize("has_encoder", [True, False], ids=["source", "prompt"])
def test_mentions_of_similar_length_come_together(make_positive, has_encoder):
    trainer = make_positive(per_device_train_batch_size=4)
    examples = trainer.train_dataset.examples
    if not has_encoder:
        prompts = [EncodedMention((), (*one.mention.source, *one.mention.prefix)) for one in examples]
        examples[:] = [PositiveExample(*pair) for pair in zip(prompts, [one.names for one in examples], strict=True)]
    order = list(trainer._get_train_sampler())
    lengths = [len(examples[place].mention.source or examples[place].mention.prefix) for place in order]
    assert sorted(order) == list(range(len(examples)))
    batches = [lengths[i : i + 4] for i in range(0, len(lengths), 4)]
    assert lengths[0] == max(lengths)
    assert all(batch == sorted(batch, reverse=True) for batch in batches)
    assert order == list(trainer._get_train_sampler()), "all processes draw the same order"
    trainer.state.global_step = len(batches)
    second = list(trainer._get_train_sampler())
    assert sorted(second) == sorted(order)
    assert second != order, "an epoch has an order of its own"
    trainer.state.global_step += 1
    assert second == list(trainer._get_train_sampler()), "and has it when training resumes within it"


def test_dropout_is_on_in_this_stage(make_positive, make_model):
    trainer = make_positive(make_model(dropout=0.5))
    batch = trainer.data_collator(trainer.train_dataset.examples[:4])
    trainer.model.train()
    losses = {trainer.compute_loss(trainer.model, batch).item() for _ in range(2)}
    assert len(losses) == 2


def test_a_run_by_muon_goes_on_to_the_bits_of_one_that_was_not_stopped(make_positive, tmp_path):
    whole = make_positive(muon=5e-3, num_train_epochs=2, with_eval=False)
    whole.train()
    settings = {"muon": 5e-3, "num_train_epochs": 2, "with_eval": False, "save_strategy": "epoch"}
    make_positive(**settings).train()
    first = min(tmp_path.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    resumed = make_positive(**settings)
    resumed.train(resume_from_checkpoint=str(first))
    assert resumed.state.global_step == whole.state.global_step > int(first.name.split("-")[1])
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_training_fits_its_mentions_and_the_loss_falls(make_positive, make_model):
    trainer = make_positive(
        make_model(init_std=0.05, dropout=0.0),
        with_eval=False,
        num_train_epochs=60,
        per_device_train_batch_size=16,
        logging_steps=20,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
    )
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert losses[-1] < losses[0] / 3
    examples = trainer.train_dataset.examples
    found = search(trainer.model, trainer.targets.trie, [example.mention for example in examples])
    right = [int(names[0]) in example.names for names, example in zip(found.names, examples, strict=True)]
    assert sum(right) >= 15


def test_dev_is_scored_by_search(make_positive):
    trainer = make_positive(num_train_epochs=2, eval_strategy="epoch", num_beams=3)
    trainer.train()
    evaluations = [record for record in trainer.state.log_history if "eval_acc@1" in record]
    assert [record["step"] for record in evaluations] == [2, 4]
    expected = evaluate_linking(trainer.model, trainer.targets, trainer.eval_mentions, num_beams=3).metrics
    assert evaluations[-1]["eval_mrr"] == expected["mrr"]
    assert evaluations[-1]["eval_mentions"] == 8


def test_training_stops_when_dev_no_longer_gains_and_ends_with_the_best(make_positive):
    class Scores(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_acc@1"] = {2: 10.0, 4: 30.0}.get(state.global_step, 20.0)

    trainer = make_positive(
        callbacks=[Scores()],
        num_train_epochs=9,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.state.best_metric == 30.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")


def test_evaluating_without_dev_mentions_is_refused(make_positive):
    with pytest.raises(ValueError, match="given no eval_mentions"):
        make_positive(with_eval=False).evaluate()


def test_mentions_that_cannot_teach_are_left_out(make_positive):
    trainer = make_positive()
    mentions = trainer.eval_mentions
    mentions.encoded[1] = None
    examples = positive_examples(mentions, [[3, 4], [5], [], *[[6]] * 5])
    assert examples[0] == PositiveExample(mentions.encoded[0], (3, 4))
    assert [example.names for example in examples] == [(3, 4), *[(6,)] * 5]
