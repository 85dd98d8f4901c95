"""Examples made from a knowledge base while training runs: what they teach, and that they are streamed and resumed."""

import itertools
from collections import Counter, defaultdict

import pytest
import torch

from angel_trl.formatting import MentionFormat, MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.kb_examples import KBExamples
from angel_trl.positive import PositiveConfig, PositiveTrainer
from angel_trl.targets import TargetNames


@pytest.fixture(scope="module")
def targets(small_kb, tokenizer, make_model):
    return TargetNames(small_kb, MentionFormatter(tokenizer, make_model().config))


@pytest.fixture
def make_trainer(tmp_path, targets, make_model):
    """`make_trainer(count, **settings)`: a trainer on `count` examples, 4 a batch."""

    def make(count, **settings):
        defaults = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "seed": 0,
        }
        examples = KBExamples(targets, count, seed=5, context=0.5)
        return PositiveTrainer(make_model(dropout=0.1), PositiveConfig(**{**defaults, **settings}), examples, targets)

    return make


def test_an_example_is_its_mention_encoded_with_a_name_of_its_concept(targets):
    examples = KBExamples(targets, 300, seed=0, noise=0.5, context=0.5)
    for example, row in zip(examples, examples.mentions, strict=True):
        assert example.mention == targets.formatter.encode([row])[0]
        (learnt,) = example.names
        assert set(targets.kb.ids_of_name(learnt)) & set(row["concept_ids"][0])
    assert examples[-1:] == [examples[299]]


def test_every_name_of_the_concept_is_learnt_and_none_that_the_sentence_tells(targets):
    learnt = defaultdict(Counter)
    examples = KBExamples(targets, 3000, seed=0, noise=0, context=0.9)
    for place in range(3000):
        name, made, _ = examples.mentions.sentence(place)
        learnt[name][examples[place].names[0]] += 1
        assert examples[place].names[0] not in made.shown
    kb = targets.kb
    assert set(learnt[kb.find("lung cancer")]) == {
        kb.find(n) for n in ("lung cancer", "cancer of lung", "pulmonary neoplasm")
    }
    assert set(learnt[kb.find("ms")]) == {n for c in (2, 3) for n in kb.names_of_concept(c).tolist()}
    assert set(learnt[kb.find("diabetes insipidus")]) == {kb.find("diabetes insipidus")}


def test_a_share_of_the_mentions_learns_the_names_they_were_made_from(tokenizer, make_model):
    kb = KnowledgeBase([Concept("D1", ("lung cancer", "cancer of lung", "pulmonary neoplasm"))])
    targets = TargetNames(kb, MentionFormatter(tokenizer, make_model().config))

    def kept(own_name):
        examples = KBExamples(targets, 1500, seed=0, noise=0.5, own_name=own_name)
        return sum(examples[p].names == (examples.mentions.sentence(p)[0],) for p in range(1500)) / 1500

    assert kept(1.0) == 1
    assert kept(0.0) == pytest.approx(1 / 3, abs=0.05)
    assert kept(0.5) == pytest.approx(2 / 3, abs=0.05)
    with pytest.raises(ValueError, match=r"^own_name is 1\.5; it is a share"):
        KBExamples(targets, 1, seed=0, own_name=1.5)


def test_names_too_long_for_the_window_are_left_out_and_none_fails(tokenizer, make_model):
    names = ["gout", "x" * 30, "y" * 60, "z" * 400]
    kb = KnowledgeBase([Concept(str(number), (name,)) for number, name in enumerate(names)])
    formatter = MentionFormatter(tokenizer, make_model(max_position_embeddings=64).config)
    examples = KBExamples(TargetNames(kb, formatter), 200, seed=0, noise=1.0, context=1.0)
    lengths = [len(ids) for ids in examples.targets.sequences]
    assert examples.left_out == {place for place, length in enumerate(lengths) if length > 16} != set()
    assert {example.names for example in examples} == {(n,) for n in range(4) if n not in examples.left_out}
    assert all(len(example.mention.source) <= 64 for example in examples)


def test_each_example_is_seen_once_in_batches_of_similar_length(make_trainer):
    trainer = make_trainer(450)
    sampler = trainer._get_train_sampler()
    order = list(sampler)
    assert len(sampler) == 450
    assert sorted(order) == list(range(450))
    assert order == list(sampler), "all processes draw the same order"
    sizes = [trainer.train_dataset.examples.size(place) for place in order]
    batches = [sizes[i : i + 4] for i in range(0, 448, 4)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    assert spread < 0.2 * (max(sizes) - min(sizes))
    assert max(order[:200]) == 199, "nothing is made ahead of its window of 50 steps"
    assert [sum(batch) for batch in batches[:50]] != sorted(sum(batch) for batch in batches[:50])


def test_a_run_that_resumes_does_not_make_again_what_it_has_done(make_trainer):
    trainer = make_trainer(1000)
    whole = list(trainer._get_train_sampler())
    trainer.state.global_step = 120
    made = []
    examples = trainer.train_dataset.examples
    trainer.train_dataset.examples.size = lambda place: made.append(place) or KBExamples.size(examples, place)
    resumed = list(trainer._get_train_sampler())
    assert resumed[480:] == whole[480:]
    assert min(made) == 400


def test_the_first_of_a_billion_examples_come_at_once(make_trainer):
    sampler = make_trainer(10**9)._get_train_sampler()
    assert len(list(itertools.islice(sampler, 8))) == 8


def test_training_resumed_within_a_window_ends_with_the_same_weights(make_trainer):
    whole = make_trainer(48, save_strategy="steps", save_steps=5, save_total_limit=None)
    whole.train()
    resumed = make_trainer(48)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-5")
    assert resumed.state.global_step == whole.state.global_step == 12
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_names_are_put_in_passages_and_learnt_as_where_they_stand_alone(targets, small_mentions):
    passages = small_mentions.filter(lambda row: row["split"] == "train")
    settings = {"seed": 0, "noise": 0, "own_name": 1.0, "in_passages": 0.5, "passages": passages}
    examples = KBExamples(targets, 400, **settings)
    frames = {(row["text"][: row["start"]], row["text"][row["end"] :]) for row in passages}
    placed = 0
    for place, row in enumerate(examples.mentions):
        name = targets.kb.names[examples[place].names[0]]
        assert row["mention"] == name
        frame = row["text"][: row["start"]], row["text"][row["end"] :]
        assert frame in frames or frame == ("", "")
        placed += frame in frames
        assert examples[place].mention == targets.formatter.encode([row])[0]
    assert 160 < placed < 240


def test_what_is_cut_off_from_a_passage_makes_no_example_longer(small_kb, tokenizer, make_model):
    formatter = MentionFormatter(tokenizer, make_model().config, MentionFormat(max_words=4))
    short, long = ({"text": f"{left}gout", "start": len(left), "end": len(left) + 4} for left in ("of ", "of " * 90))
    settings = {"seed": 0, "noise": 0, "in_passages": 1.0}
    sizes = {}
    for name, row in (("short", short), ("long", long)):
        examples = KBExamples(TargetNames(small_kb, formatter), 20, passages=[row], **settings)
        own = [made.end - made.start for made in (examples.mentions.sentence(place)[1] for place in range(20))]
        sizes[name] = [examples.size(place) - mention for place, mention in enumerate(own)]
    assert sizes == {"short": [3] * 20, "long": [24] * 20}
