"""Trainers of the ablations: each does one thing otherwise, and shows it in pairs, token ids or log-probabilities."""

import copy
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from brute_force import brute_force
from sklearn.feature_extraction.text import TfidfVectorizer
from test_resume import StopAt
from test_traps import completions, prefixes
from tokenizers import Regex, normalizers
from transformers import GPT2Config, GPT2LMHeadModel

from angel_trl.collator import PairCollator
from angel_trl.decoding import search
from angel_trl.formatting import EncodedMention
from angel_trl.pairs import Pairs

ALL = [
    {"negatives": "tfidf"},
    {"negatives": "random"},
    {"mistake": "doubled_space"},
    {"mistake": "prefix"},
    {"mistake": "dropout"},
]


@pytest.fixture(scope="module")
def variants():
    """The module."""
    import variants

    return variants


@pytest.fixture
def build(variants, make_trainer):
    """`build(negatives="beam", mistake="none", **given)`: as `make_trainer`."""

    def build(negatives="beam", mistake="none", **given):
        trainer_class = partial(variants.VariantTrainer, negatives=negatives, mistake=mistake)
        return make_trainer(trainer_class=trainer_class, **given)

    return build


def by_mention(mined):
    """Names of the pairs by place of the mention, as `{place: ([chosen...], [rejected...])}`."""
    found = {}
    for place, chosen, rejected in zip(mined.pairs.mention, mined.pairs.chosen, mined.pairs.rejected, strict=True):
        sides = found.setdefault(int(place), ([], []))
        sides[0].append(int(chosen))
        sides[1].append(int(rejected))
    return found


def batch_of(trainer, mined):
    """All mentions of a round as one batch."""
    trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
    items = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    return PairCollator(trainer.processing_class.pad_token_id)(items)


def assert_same_names(one, other):
    for field in Pairs.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one.pairs, field), getattr(other.pairs, field))


# --- other negatives -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tfidf", "random"])
def mined(request, build, tmp_path):
    """`(trainer, pairs of its first round, pairs of the search)`, of all mentions."""
    settings = {"mentions_per_round": 1.0, "max_pairs_per_mention": 9}
    beam = build(output_dir=tmp_path / "beam", **settings).mine_round(0)
    trainer = build(output_dir=tmp_path / "other", negatives=request.param, **settings)
    return trainer, trainer.mine_round(0), beam


def test_other_negatives_are_as_many_for_the_same_mentions_and_chosen_names(mined):
    _, other, beam = mined
    np.testing.assert_array_equal(other.rows, beam.rows)
    for field in ("mention", "chosen", "chosen_rank"):
        np.testing.assert_array_equal(getattr(other.pairs, field), getattr(beam.pairs, field))
    # The pairs' mentions are the same, and so is how many pairs each has.
    assert len({*Counter(other.pairs.mention.tolist()).values()}) > 1, "with one pair and with more"
    assert not (other.pairs.rejected == beam.pairs.rejected).all()
    assert set(other.pairs.rejected_rank.tolist()) == {-1}


def test_other_negatives_are_wrong_and_different(mined, small_kb):
    trainer, other, _ = mined
    for place, (_, rejected) in by_mention(other).items():
        assert len(set(rejected)) == len(rejected)
        gold = {small_kb.concepts[c].id for c in trainer.mentions.gold[other.rows[place]]}
        for name in rejected:
            assert not gold & set(small_kb.ids_of_name(name))


def test_both_names_have_the_log_probabilities_of_the_model_of_the_round(mined):
    trainer, other, _ = mined
    encoded = [trainer.mentions.encoded[row] for row in other.rows]
    scores = brute_force(trainer.model, encoded, list(trainer.targets.sequences))
    np.testing.assert_allclose(other.chosen_log_probs, scores[other.pairs.mention, other.pairs.chosen], atol=1e-4)
    np.testing.assert_allclose(other.rejected_log_probs, scores[other.pairs.mention, other.pairs.rejected], atol=1e-4)
    margin = (other.chosen_log_probs - other.rejected_log_probs).mean()
    assert other.metrics["margin"] == pytest.approx(margin, abs=1e-5)


def test_the_reference_may_be_the_initial_model(build, make_model):
    trainer = build(negatives="tfidf", reference="initial", mentions_per_round=1.0)
    trainer.keep_initial()
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.mul_(1.1)
    other = trainer.mine_round(0)
    encoded = [trainer.mentions.encoded[row] for row in other.rows]
    scores = brute_force(make_model(), encoded, list(trainer.targets.sequences))
    np.testing.assert_allclose(other.rejected_log_probs, scores[other.pairs.mention, other.pairs.rejected], atol=1e-4)


def test_names_spelled_most_like_the_mention_are_the_nearest_by_tf_idf(build, small_kb):
    trainer = build(negatives="tfidf", mentions_per_round=1.0, max_pairs_per_mention=9)
    other = trainer.mine_round(0)
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit(small_kb.names)
    names = vectorizer.transform(small_kb.names).toarray()
    for place, (_, rejected) in by_mention(other).items():
        row = other.rows[place]
        similarity = names @ vectorizer.transform([trainer.mentions.mentions[row]]).toarray()[0]
        gold = set(trainer.mentions.gold[row])
        wrong = [name for name in range(small_kb.num_names) if not gold & set(small_kb.concepts_of_name(name))]
        nearest = sorted(similarity[wrong], reverse=True)[: len(rejected)]
        np.testing.assert_allclose(similarity[rejected], nearest, atol=1e-5)


@pytest.mark.parametrize(
    ("mention", "names"),
    [
        ("breast cancer", ["male breast cancer", "cancer", "cancer of breast in men"]),
        ("niddm", ["iddm", "diabetes insipidus", "senile dementia alzheimer type"]),
        # "ra" would be the second, but is a name of the gold concept as well.
        ("refractory anaemia", ["cooley s anemia", "hereditary breast cancer", "acute coryza"]),
    ],
)
def test_nearest_wrong_names_literally(variants, build, small_kb, mention, names):
    trainer = build()
    row = trainer.mentions.mentions.index(mention)
    own = trainer.mentions.subset([row])
    (found,) = variants.NearestWrongNames(trainer.targets).nearest_wrong(own, [3])
    assert [small_kb.names[name] for name in found] == names


def test_names_equally_near_are_taken_as_the_dictionary_has_them(variants, build, small_kb):
    trainer = build()
    # Nothing in common with any name.
    own = trainer.mentions.subset([0])
    own.mentions = ["¤"]
    (found,) = variants.NearestWrongNames(trainer.targets).nearest_wrong(own, [5])
    right = {name for c in own.gold[0] for name in small_kb.names_of_concept(c).tolist()}
    assert found.tolist() == [name for name in range(small_kb.num_names) if name not in right][:5]


def test_what_no_model_can_write_is_no_negative(variants, build):
    trainer = build()
    own = trainer.mentions.subset([trainer.mentions.mentions.index("niddm")])
    (before,) = variants.NearestWrongNames(trainer.targets).nearest_wrong(own, [2])
    trainer.targets.unreachable = [int(before[0])]
    (after,) = variants.NearestWrongNames(trainer.targets).nearest_wrong(own, [2])
    assert after[0] == before[1]
    drawn = [variants.random_wrong(trainer.targets, own, [20], [0, seed])[0] for seed in range(20)]
    assert before[0] not in np.concatenate(drawn)
    assert before[1] in np.concatenate(drawn)


def test_random_negatives_are_any_wrong_name_and_depend_on_seed_and_round_alone(variants, build, small_kb):
    trainer = build()
    own = trainer.mentions.subset([0])
    assert own.gold == [(0,)]
    draws = Counter(
        name
        for seed in range(2000)
        for name in variants.random_wrong(trainer.targets, own, [2], [seed, 0])[0].tolist()
    )
    wrong = [name for name in range(small_kb.num_names) if 0 not in small_kb.concepts_of_name(name)]
    assert sorted(draws) == wrong
    # 4,000 of them: six standard deviations.
    mean = 4000 / len(wrong)
    assert all(abs(count - mean) < 6 * math.sqrt(mean) for count in draws.values())
    settings = {"negatives": "random", "mentions_per_round": 1.0}
    first, again, seeded = (build(seed=seed, **settings).mine_round(0) for seed in (0, 0, 1))
    assert_same_names(first, again)
    one, other = (by_mention(mined) for mined in (first, seeded))
    shared = [(row, place) for place, row in enumerate(first.rows.tolist()) if place in one]
    places = {row: place for place, row in enumerate(seeded.rows.tolist())}
    assert any(one[place][1] != other[places[row]][1] for row, place in shared)
    assert by_mention(build(**settings).mine_round(1)) != one


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_doubled_space_is_before_chosen_names_alone(build, tokenizer, small_kb):
    trainer = build(mistake="doubled_space", mentions_per_round=1.0)
    mined = trainer.mine_round(0)
    batch = batch_of(trainer, mined)
    rows, count = completions(batch), len(mined.pairs)

    def tokens(text):
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]

    assert rows[:count] == [tokens(f"  {small_kb.names[name]}") for name in mined.pairs.chosen]
    assert rows[count:] == [tokens(f" {small_kb.names[name]}") for name in mined.pairs.rejected]
    assert all(tokens(f"  {name}") != tokens(f" {name}") for name in small_kb.names)
    # The prefix is the search's.
    assert set(prefixes(batch)) <= {mention.prefix for mention in trainer.mentions.encoded}
    encoded = [trainer.mentions.encoded[row] for row in mined.rows]
    for side, log_probs in (("chosen", mined.chosen_log_probs), ("rejected", mined.rejected_log_probs)):
        spaces = "  " if side == "chosen" else " "
        scores = brute_force(trainer.model, encoded, [tokens(spaces + name) for name in small_kb.names])
        np.testing.assert_allclose(log_probs, scores[mined.pairs.mention, getattr(mined.pairs, side)], atol=1e-4)


def test_prefix_has_a_start_token_no_space_and_is_scored(build, tokenizer, small_kb):
    trainer = build(mistake="prefix", mentions_per_round=1.0)
    mined = trainer.mine_round(0)
    batch = batch_of(trainer, mined)
    assert set(prefixes(batch)) == {(2,)}
    rows, count = completions(batch), len(mined.pairs)
    for i, place in enumerate(mined.pairs.mention):
        mention = trainer.mentions.mentions[mined.rows[place]]
        source = trainer.mentions.encoded[mined.rows[place]].source
        prefix = [0, *tokenizer(f"{mention} is", add_special_tokens=False)["input_ids"]]
        assert tokenizer.decode(prefix) == f"<s>{mention} is"
        for row, name, log_prob in (
            (rows[i], mined.pairs.chosen[i], mined.chosen_log_probs[i]),
            (rows[count + i], mined.pairs.rejected[i], mined.rejected_log_probs[i]),
        ):
            whole = [*prefix, *tokenizer(f" {small_kb.names[name]}", add_special_tokens=False)["input_ids"], 2]
            assert row == whole
            (expected,) = brute_force(trainer.model, [EncodedMention(source, (2,))], [whole])
            assert log_prob == pytest.approx(expected[0], abs=1e-4)


def test_the_likelihood_of_chosen_names_counts_the_prefix(build):
    trainer = build(mistake="prefix", mentions_per_round=1.0, loss_type=["sft"], loss_weights=[1.0])
    mined = trainer.mine_round(0)
    batch = batch_of(trainer, mined)
    tokens = sum(len(row) for row in completions(batch)[: len(mined.pairs)])
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(-mined.chosen_log_probs.sum() / tokens, rel=1e-4)
    names = sum(len(trainer.targets.sequences[name]) for name in mined.pairs.chosen)
    assert tokens > names + 3 * len(mined.pairs)


@pytest.mark.parametrize("variant", ALL[:-1], ids=lambda variant: "-".join(variant.values()))
def test_the_reference_is_the_policy_when_a_round_begins(build, variant):
    """Both see the very same tokens, so that the loss is that of a margin of 0."""
    trainer = build(**variant, mentions_per_round=1.0)
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, trainer.mine_round(0)))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("mistake", ["doubled_space", "prefix", "dropout"])
def test_mistakes_change_neither_search_nor_pairs(build, make_trainer, tmp_path, mistake):
    plain = make_trainer(output_dir=tmp_path / "plain")
    trainer = build(output_dir=tmp_path / "mistaken", mistake=mistake)
    found = [
        search(one.model, one.targets.trie, one.eval_mentions.encoded, num_beams=5, top_k=5)
        for one in (trainer, plain)
    ]
    np.testing.assert_array_equal(found[0].names, found[1].names)
    np.testing.assert_array_equal(found[0].log_probs, found[1].log_probs)
    one, other = trainer.mine_round(0), plain.mine_round(0)
    assert_same_names(one, other)
    if mistake == "dropout":
        np.testing.assert_array_equal(one.chosen_log_probs, other.chosen_log_probs)
        np.testing.assert_array_equal(one.rejected_log_probs, other.rejected_log_probs)
    else:
        assert not np.allclose(one.chosen_log_probs, other.chosen_log_probs, atol=1e-2)


def test_dropout_is_noise_in_training_and_in_nothing_else(build):
    trainer = build(mistake="dropout", mentions_per_round=1.0)
    layers = [*trainer.model.model.encoder.layers, *trainer.model.model.decoder.layers]
    rates = {(layer.dropout, layer.activation_dropout, layer.self_attn.dropout) for layer in layers}
    assert rates == {(0.1, 0.1, 0.1)}
    assert (trainer.model.config.dropout, trainer.model.config.attention_dropout) == (0.1, 0.1)
    batch = batch_of(trainer, trainer.mine_round(0))
    trainer.model.eval()
    still = [trainer.compute_loss(trainer.model, batch).item() for _ in range(2)]
    assert still == pytest.approx([math.log(2)] * 2, abs=1e-5)
    trainer.model.train()
    noisy = [trainer.compute_loss(trainer.model, batch).item() for _ in range(2)]
    assert noisy[0] != noisy[1]
    assert all(abs(loss - math.log(2)) > 1e-2 for loss in noisy)


def test_dropout_makes_margins_begin_away_from_zero(build, make_trainer, tmp_path):
    margins = []
    for trainer in (
        make_trainer(output_dir=tmp_path / "plain", num_rounds=1),
        build(output_dir=tmp_path / "noisy", num_rounds=1, mistake="dropout"),
    ):
        trainer.train()
        margins.append([row["rewards/margins"] for row in trainer.state.log_history if "rewards/margins" in row][0])
    assert margins[0] == pytest.approx(0, abs=1e-5)
    assert abs(margins[1]) > 1e-2


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: "-".join(variant.values()))
def test_resuming_within_a_round_ends_bit_for_bit_where_an_undisturbed_run_ends(build, tmp_path, variant):
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    settings = {**variant, **steps, "save_total_limit": None, "load_best_model_at_end": False}
    build(output_dir=tmp_path / "whole", **settings).train()
    stopped = build(output_dir=tmp_path / "stopped", callbacks=[StopAt(5)], **settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = build(output_dir=tmp_path / "stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    for name in ("checkpoint-6/model.safetensors", "pairs/round-000.parquet", "pairs/round-001.parquet"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rounds = [row["round"] for row in resumed.state.log_history if "round" in row]
    assert rounds == [0.0, 1.0], "mined once, not again"


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [{"negatives": "dense"}, {"mistake": "spelling"}])
def test_other_choices_are_refused_by_name(build, variant):
    with pytest.raises(ValueError, match="is '(dense|spelling)'; choose one of (beam|none), "):
        build(**variant)


def test_a_prefix_needs_an_encoder_and_a_start_token(build, tokenizer):
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    with pytest.raises(ValueError, match="'bart' model has no such token. Use a BART"):
        build(tokens=without, mistake="prefix")
    with pytest.raises(ValueError, match="'gpt2' model has no encoder"):
        build(model=gpt2(tokenizer), mistake="prefix")


def test_dropout_needs_functional_dropout(build, tokenizer):
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no functional dropout to leave on. Use a BART"):
        build(model=gpt2(tokenizer), mistake="dropout")


def test_a_doubled_space_needs_a_tokenizer_that_sees_it(build, tokenizer):
    collapsing = copy.deepcopy(tokenizer)
    collapsing.backend_tokenizer.normalizer = normalizers.Replace(Regex(" +"), " ")
    with pytest.raises(ValueError, match="makes one space of two"):
        build(tokens=collapsing, mistake="doubled_space")


def test_negatives_of_any_type_are_not_mined_within_types(build):
    with pytest.raises(ValueError, match="--negatives tfidf takes wrong names of any type"):
        build(negatives="tfidf", within_types=True)


def gpt2(tokenizer):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=2, **sizes))
