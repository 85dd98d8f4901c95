"""What the positive-only stage of the recipe learns from: training mentions, and mentions made from the KB."""

from types import SimpleNamespace

import positive_stage
import pytest

from angel_trl import AngelConfig
from angel_trl.formatting import MentionFormatter
from angel_trl.targets import NearestNames, TargetNames, prepare_mentions


class Stop(Exception):
    pass


@pytest.fixture
def learnt(small_kb, small_mentions, tokenizer, make_model, tmp_path, monkeypatch):
    """`learnt(**settings)`: the targets, the training mentions, and the examples that are learnt."""

    def examples_of(**settings):
        given = []

        def make_trainer(model, config, examples, targets, dev, optimizers):
            given.extend(examples)
            raise Stop

        monkeypatch.setattr(positive_stage, "PositiveTrainer", make_trainer)
        targets = TargetNames(small_kb, MentionFormatter(tokenizer, make_model().config))
        defaults = {
            "positive_learning_rate": 1e-3,
            "positive_matrix_learning_rate": None,
            "positive_warmup": 0,
            "positive_bf16": False,
            "positive_epochs": 1,
            "positive_batch_size": 4,
            "positive_patience": 1,
            "positive_names": 2,
            "kb_noise": 0.0,
            "kb_context": 0.0,
            "kb_own_name": 0.0,
            "kb_in_passages": 0.0,
            "kb_mentions_per_mention": 0.0,
        }
        args = SimpleNamespace(**{**defaults, **settings})
        angel = AngelConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        rows = small_mentions.filter(lambda row: row["split"] == "train")
        mentions = prepare_mentions(rows, targets, for_training=True)
        with pytest.raises(Stop):
            positive_stage.train_on_mentions(args, angel, None, targets, mentions, mentions, rows, tmp_path)
        return targets, rows, mentions, given

    return examples_of


def test_training_mentions_are_learnt_with_their_nearest_names(learnt):
    targets, _, mentions, examples = learnt()
    assert [example.mention for example in examples] == mentions.encoded
    nearest = NearestNames(targets.kb).nearest(mentions.mentions, mentions.gold, 2)
    assert [list(example.names) for example in examples] == nearest


def test_mentions_of_the_kb_are_mixed_in_alone_and_in_the_passages_of_training_mentions(learnt):
    targets, rows, mentions, examples = learnt(kb_mentions_per_mention=10, kb_in_passages=0.6)
    sources = [targets.formatter.tokenizer.decode(example.mention.source) for example in examples]
    around = [(text.partition(" START ")[0], text.partition(" END")[2]) for text in sources]
    count = len(mentions)
    of_corpus, in_passages, alone = around[:count], around[count : 7 * count], around[7 * count :]
    assert set(in_passages) == set(of_corpus)
    assert set(alone) == {("<s>", "</s>")}
    assert len(alone) == 4 * count


def test_in_passages_a_name_that_is_not_misspelled_is_learnt_as_itself_first(learnt):
    targets, _, mentions, examples = learnt(kb_mentions_per_mention=10, kb_in_passages=1.0)
    made = examples[len(mentions) :]
    decoded = [targets.formatter.tokenizer.decode(example.mention.prefix) for example in made]
    assert len(made) == 10 * len(mentions)
    for text, example in zip(decoded, made, strict=True):
        assert targets.kb.names[example.names[0]] in text
