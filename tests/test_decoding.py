"""The search against brute force: every name scored by the stock forward, with nothing shared, cached or pruned."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from angel_trl.decoding import Candidates, score_names, search
from angel_trl.formatting import EncodedMention, MentionFormatter
from angel_trl.trie import NameTrie

END = 2
_SYLLABLES = ("ar", "thr", "itis", "gout", "can", "cer", "dia", "bet", "es", "type 1", "of", "lung")


def brute_force(model, mentions, names):
    """float32 `[mentions, names]`: log-probabilities by the model's own forward, one name after the other's length."""
    scores = np.zeros((len(mentions), len(names)), dtype=np.float32)
    for i, mention in enumerate(mentions):
        for length in {len(name) for name in names}:
            places = [place for place, name in enumerate(names) if len(name) == length]
            rows = torch.tensor([[*mention.prefix, *names[place]] for place in places])
            source = torch.tensor([mention.source]).expand(len(rows), -1)
            with torch.no_grad():
                logits = model(input_ids=source, decoder_input_ids=rows[:, :-1]).logits
            log_probs = logits.log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2)
            scores[i, places] = log_probs[:, len(mention.prefix) - 1 :].sum(1).numpy()
    return scores


def assert_top(found, scores, top_k):
    """`found` is the top k of `scores` for every mention; equal scores may change places."""
    k = min(top_k, scores.shape[1])
    best = np.sort(scores, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(found.log_probs[:, :k], best, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, found.names[:, :k], 1), best, atol=1e-4)
    assert (found.names[:, k:] == -1).all()
    assert (found.log_probs[:, k:] == -np.inf).all()
    assert all(len(set(row)) == k for row in found.names[:, :k].tolist())


@pytest.fixture(scope="module")
def names_300():
    """300 names; a third are made by adding to another, which is then their prefix."""
    rng = random.Random(0)
    names = {}
    while len(names) < 300:
        words = [rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3))]
        start = [rng.choice(list(names))] if names and rng.random() < 0.33 else []
        names[" ".join(start + words)] = None
    return list(names)


@pytest.fixture(scope="module")
def world(make_model, tokenizer, names_300, small_mentions):
    """A model to search, the same model untouched, name tokens, and 16 mentions of 5 prefix lengths."""
    model, plain = make_model(seed=3), make_model(seed=3)
    formatter = MentionFormatter(tokenizer, model.config)
    return model, plain, formatter.names(names_300), formatter.encode(small_mentions.select(range(16)))


@pytest.fixture(scope="module")
def scores_300(world):
    _, plain, names, mentions = world
    return brute_force(plain, mentions, names)


# --- equal to brute force --------------------------------------------------------------------------------------------


def test_the_world_has_what_makes_search_hard(names_300, world, scores_300):
    _, _, names, mentions = world
    assert sum(any(b.startswith(a + " ") for b in names_300) for a in names_300) > 50
    assert len({len(mention.prefix) for mention in mentions}) > 3
    assert len({tuple(row.argsort()[-10:]) for row in scores_300}) == len(mentions)
    assert np.ptp(scores_300, axis=1).min() > 10


@pytest.mark.parametrize("batch_size", [1, 16])
def test_top_10_of_300_names_are_those_of_brute_force(world, scores_300, batch_size):
    model, _, names, mentions = world
    found = search(model, NameTrie.build(names), mentions, top_k=10, batch_size=batch_size, until_exact=True)
    assert found.exact.all()
    assert_top(found, scores_300, 10)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_fewer_names_than_beams(world, scores_300, count):
    model, _, names, mentions = world
    found = search(model, NameTrie.build(names[:count]), mentions, num_beams=10, top_k=10)
    assert found.exact.all()
    assert found.names.shape == (16, 10)
    assert_top(found, scores_300[:, :count], 10)


def test_a_name_and_the_names_it_begins(world):
    model, plain, _, mentions = world
    names = [[50, END], [50, 51, END], [50, 51, 52, END], [50, 51, 52, 53, 54, END], [END], [53, END]]
    found = search(model, NameTrie.build(names), mentions, num_beams=4, top_k=6)
    assert_top(found, brute_force(plain, mentions, names), 6)


def test_mbart_is_searched_as_well(make_model, world):
    _, _, names, mentions = world
    model, plain = make_model(seed=1, model_type="mbart"), make_model(seed=1, model_type="mbart")
    found = search(model, NameTrie.build(names[:60]), mentions[:6], top_k=5, until_exact=True)
    assert_top(found, brute_force(plain, mentions[:6], names[:60]), 5)


def test_a_bias_on_the_logits_counts(make_model, world):
    _, _, names, mentions = world
    model, plain = make_model(seed=3), make_model(seed=3)
    bias = torch.linspace(-3, 3, model.config.vocab_size)[None]
    model.final_logits_bias, plain.final_logits_bias = bias, bias.clone()
    found = search(model, NameTrie.build(names[:60]), mentions[:4], until_exact=True)
    assert_top(found, brute_force(plain, mentions[:4], names[:60]), 5)


@pytest.mark.parametrize(("num_beams", "exact"), [(1, False), (2, True)])
def test_probabilities_worked_out_by_hand(make_model, num_beams, exact):
    model = make_model(vocab_size=8)
    # Whatever went before: P(end) = 0.6, P(4) = 0.025, P(5) = 0.2, P(6) = 0.15.
    model.model.shared.weight.data.zero_()
    model.final_logits_bias[0] = torch.tensor([0.01, 0.005, 0.6, 0.005, 0.025, 0.2, 0.15, 0.005]).log()
    mention = EncodedMention((0, 7, END), (END, 7))
    found = search(model, NameTrie.build([[4, END], [5, 6, END]]), [mention], num_beams=num_beams, top_k=1)
    assert found.names.tolist() == [[1]]
    assert found.log_probs[0, 0] == pytest.approx(np.log(0.2 * 0.15 * 0.6), abs=1e-5)
    # One beam drops the prefix [4] at 0.025, which might have led to more than the 0.018 found.
    assert found.exact.tolist() == [exact]


_token = st.integers(4, 9)
_names = st.lists(st.lists(_token, max_size=4), min_size=1, max_size=14, unique_by=tuple)
_mention = st.builds(
    EncodedMention,
    source=st.lists(_token, min_size=1, max_size=6).map(tuple),
    prefix=st.lists(_token, max_size=2).map(lambda ids: (END, *ids)),
)


@pytest.fixture(scope="module")
def twins(make_model):
    """Pairs of equal models, the first of each to be searched; 12 entries of vocabulary, and names that lie close.

    They like to end a name, so that what is pruned and what is found are often near to each other.
    """
    pairs = [[make_model(vocab_size=12, init_std=std) for _ in range(2)] for std in (0.05, 0.2, 0.3)]
    for model in sum(pairs, []):
        model.final_logits_bias[0, END] = 4.0
    return pairs


@given(_names, st.lists(_mention, min_size=1, max_size=4), st.integers(0, 2), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_exact_never_lies(twins, names, mentions, seed, num_beams, top_k):
    model, plain = twins[seed]
    sequences = [[*name, END] for name in names]
    found = search(model, NameTrie.build(sequences), mentions, num_beams=num_beams, top_k=top_k)
    scores = brute_force(plain, mentions, sequences)
    for row in range(len(mentions)):
        present = found.names[row] >= 0
        # Whatever is found has its true log-probability and stands in order, exact or not.
        np.testing.assert_allclose(found.log_probs[row, present], scores[row, found.names[row, present]], atol=1e-4)
        assert (np.diff(found.log_probs[row, present]) <= 0).all()
        assert len(set(found.names[row, present].tolist())) == present.sum()
        if found.exact[row]:
            part = Candidates(found.names[[row]], found.log_probs[[row]], found.exact[[row]])
            assert_top(part, scores[[row]], top_k)
    again = search(model, NameTrie.build(sequences), mentions, num_beams=num_beams, top_k=top_k, until_exact=True)
    assert again.exact.all()
    assert_top(again, scores, top_k)


@pytest.mark.parametrize("num_beams", [1, 2, 3, 4, 5])
def test_exact_never_lies_where_names_crowd(twins, num_beams):
    rng = random.Random(num_beams)
    exact, searched, top_k = 0, 0, min(num_beams, 2)
    for model, plain in twins:
        for _ in range(4):
            names = list({tuple(rng.randint(4, 9) for _ in range(rng.randint(1, 4))) for _ in range(25)})
            sequences = [[*name, END] for name in names]
            mentions = [EncodedMention((4, 5, rng.randint(4, 11)), (END, rng.randint(4, 11))) for _ in range(4)]
            found = search(model, NameTrie.build(sequences), mentions, num_beams=num_beams, top_k=top_k)
            rows = np.flatnonzero(found.exact)
            exact, searched = exact + len(rows), searched + len(mentions)
            part = Candidates(found.names[rows], found.log_probs[rows], found.exact[rows])
            assert_top(part, brute_force(plain, [mentions[row] for row in rows], sequences), top_k)
    assert 0 < exact < searched


def test_exact_is_said_of_some_and_not_of_others(world, scores_300):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    few = [search(model, trie, mentions, num_beams=beams, top_k=1).exact.sum() for beams in (1, 2, 40)]
    assert few[0] < few[2] == 16


# --- batches, order, modes -------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_batch_size_or_order(world):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    together = search(model, trie, mentions, num_beams=5)
    order = np.random.default_rng(0).permutation(len(mentions))
    for batch_size in (1, 3, 100):
        other = search(model, trie, [mentions[i] for i in order], num_beams=5, batch_size=batch_size)
        assert other.names.tolist() == together.names[order].tolist()
        assert other.exact.tolist() == together.exact[order].tolist()
        np.testing.assert_allclose(other.log_probs, together.log_probs[order], atol=1e-4)


def test_a_mention_without_encoding_gets_no_candidates_and_disturbs_none(world):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    found = search(model, trie, [None, mentions[0], None, mentions[1]], top_k=3, until_exact=True)
    alone = search(model, trie, mentions[:2], top_k=3, until_exact=True)
    assert found.names[[0, 2]].tolist() == [[-1] * 3] * 2
    assert (found.log_probs[[0, 2]] == -np.inf).all()
    assert found.exact.tolist() == [False, True, False, True]
    assert found.names[[1, 3]].tolist() == alone.names.tolist()


def test_no_mentions(world):
    model, _, names, _ = world
    found = search(model, NameTrie.build(names), [], top_k=3)
    assert (found.names.shape, found.log_probs.shape, found.exact.shape) == ((0, 3), (0, 3), (0,))
    assert search(model, NameTrie.build(names), [None], top_k=3).exact.tolist() == [False]


def test_types_of_the_arrays(world):
    model, _, names, mentions = world
    found = search(model, NameTrie.build(names), mentions[:1])
    assert (found.names.dtype, found.log_probs.dtype, found.exact.dtype) == (np.int64, np.float32, np.bool_)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_searched_without_dropout_and_left_in_its_mode(make_model, world, training):
    _, _, names, mentions = world
    trie = NameTrie.build(names[:40])
    model = make_model(seed=3, dropout=0.5, attention_dropout=0.5).train(training)
    found = search(model, trie, mentions[:4])
    scored = score_names(model, mentions[:4], [[names[i] for i in row] for row in found.names])
    assert model.training == training
    np.testing.assert_allclose(np.stack(scored), found.log_probs, atol=1e-4)


def test_no_gradients_are_kept(world):
    model, _, names, mentions = world
    search(model, NameTrie.build(names[:20]), mentions[:2])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_progress_bar_counts_mentions(world, capsys):
    model, _, names, mentions = world
    search(model, NameTrie.build(names), [*mentions[:3], None], progress="linking", until_exact=True)
    assert "linking: 100%" in capsys.readouterr().err.replace("\r", "\n")


@pytest.mark.parametrize("wrong", [{"num_beams": 0}, {"top_k": 0}])
def test_no_beams_or_no_candidates_is_an_error(world, wrong):
    model, _, names, mentions = world
    with pytest.raises(ValueError, match="must be at least 1"):
        search(model, NameTrie.build(names[:3]), mentions, **wrong)


def test_an_unsupported_architecture_is_refused_by_name(world):
    _, _, names, mentions = world
    model = T5ForConditionalGeneration(T5Config(d_model=8, num_layers=1, num_heads=1, d_kv=4, d_ff=8, vocab_size=600))
    with pytest.raises(ValueError, match="type 't5' are not supported"):
        search(model, NameTrie.build(names[:3]), mentions)


# --- scoring given names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_score_names_equals_brute_force(world, scores_300, batch_size):
    model, _, names, mentions = world
    wanted = [list(range(i, 300, 40 + i)) for i in range(15)] + [[]]
    scored = score_names(model, mentions, [[names[n] for n in row] for row in wanted], batch_size=batch_size)
    assert scored[15].shape == (0,)
    for i, row in enumerate(wanted[:15]):
        assert scored[i].dtype == np.float32
        np.testing.assert_allclose(scored[i], scores_300[i, row], atol=1e-4)


def test_score_names_of_nothing(world):
    model, _, _, _ = world
    assert score_names(model, [], []) == []
