"""The search against brute force: every name scored by the stock forward, with nothing shared, cached or pruned."""

import itertools
import random

import numpy as np
import pytest
import torch
from brute_force import assert_top, brute_force
from hypothesis import given, settings
from hypothesis import strategies as st

from angel_trl import decoding
from angel_trl.decoding import Candidates, score_names, search
from angel_trl.formatting import EncodedMention, MentionFormatter
from angel_trl.frontier import Frontier
from angel_trl.trie import NameTrie

END = 2
RANKINGS = ("sum", "mean")
_SYLLABLES = ("ar", "thr", "itis", "gout", "can", "cer", "dia", "bet", "es", "type 1", "of", "lung")


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


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_top_10_of_300_names_are_those_of_brute_force(world, scores_300, batch_size, ranking):
    model, _, names, mentions = world
    settings = {"top_k": 10, "batch_size": batch_size, "ranking": ranking, "exact": True}
    found = search(model, NameTrie.build(names), mentions, **settings)
    assert found.exact.all()
    assert_top(found, scores_300, names, ranking)


def test_the_two_rankings_differ(world):
    model, _, names, mentions = world
    by_sum, by_mean = (search(model, NameTrie.build(names), mentions, ranking=ranking) for ranking in RANKINGS)
    assert (by_sum.names[:, 0] != by_mean.names[:, 0]).sum() > 3
    assert by_mean.lengths.mean() > by_sum.lengths.mean() + 1


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("count", [1, 3, 9])
def test_fewer_names_than_beams(world, scores_300, count, ranking):
    model, _, names, mentions = world
    found = search(model, NameTrie.build(names[:count]), mentions, num_beams=10, top_k=10, ranking=ranking)
    assert found.exact.all()
    assert found.names.shape == (16, 10)
    assert (found.names[:, count:] == -1).all()
    assert_top(found, scores_300[:, :count], names[:count], ranking)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_name_and_the_names_it_begins(world, ranking):
    model, plain, _, mentions = world
    names = [[50, END], [50, 51, END], [50, 51, 52, END], [50, 51, 52, 53, 54, END], [END], [53, END]]
    found = search(model, NameTrie.build(names), mentions, num_beams=4, top_k=6, ranking=ranking)
    assert_top(found, brute_force(plain, mentions, names), names, ranking)


@pytest.mark.parametrize("name", [[END], [50, END], [*range(40, 80), END]], ids=["end", "short", "long"])
def test_a_single_name_has_its_probability(world, name):
    model, plain, _, mentions = world
    found = search(model, NameTrie.build([name]), mentions, num_beams=1, top_k=1)
    assert found.exact.all()
    assert found.lengths.tolist() == [[len(name)]] * 16
    assert_top(found, brute_force(plain, mentions, [name]), [name])


def test_a_bias_on_the_logits_counts(make_model, world):
    _, _, names, mentions = world
    model, plain = make_model(seed=3), make_model(seed=3)
    bias = torch.linspace(-3, 3, model.config.vocab_size)[None]
    model.final_logits_bias, plain.final_logits_bias = bias, bias.clone()
    found = search(model, NameTrie.build(names[:60]), mentions[:4], exact=True)
    assert_top(found, brute_force(plain, mentions[:4], names[:60]), names)


@pytest.fixture
def by_hand(make_model):
    """Whatever went before: P(end) = 0.6, P(4) = 0.025, P(5) = 0.2, P(6) = 0.15."""
    model = make_model(vocab_size=8)
    model.model.shared.weight.data.zero_()
    model.final_logits_bias[0] = torch.tensor([0.01, 0.005, 0.6, 0.005, 0.025, 0.2, 0.15, 0.005]).log()
    return model


@pytest.mark.parametrize(("num_beams", "exact"), [(1, False), (2, True)])
def test_probabilities_worked_out_by_hand(by_hand, num_beams, exact):
    mention = EncodedMention((0, 7, END), (END, 7))
    found = search(by_hand, NameTrie.build([[4, END], [5, 6, END]]), [mention], num_beams=num_beams, top_k=1)
    assert found.names.tolist() == [[1]]
    assert found.log_probs[0, 0] == pytest.approx(np.log(0.2 * 0.15 * 0.6), abs=1e-5)
    # One beam drops the prefix [4] at 0.025, which might have led to more than the 0.018 found.
    assert found.exact.tolist() == [exact]


def test_a_ranking_by_mean_worked_out_by_hand(by_hand):
    mention = EncodedMention((0, 7, END), (END, 7))
    trie = NameTrie.build([[4, END], [5, 6, 5, END]])
    by_sum = search(by_hand, trie, [mention], top_k=2)
    by_mean = search(by_hand, trie, [mention], top_k=2, ranking="mean")
    assert (by_sum.names.tolist(), by_mean.names.tolist()) == ([[0, 1]], [[1, 0]])
    assert by_mean.lengths.tolist() == [[4, 2]]
    expected = [np.log(0.2 * 0.15 * 0.2 * 0.6), np.log(0.025 * 0.6)]
    np.testing.assert_allclose(by_mean.log_probs[0], expected, atol=1e-5)
    np.testing.assert_allclose(by_mean.mean_log_probs[0], [expected[0] / 4, expected[1] / 2], atol=1e-5)


# --- exactness -------------------------------------------------------------------------------------------------------

_token = st.integers(4, 9)
# Names that share beginnings; some end in a long stretch without an alternative, which other names may have too.
_name = st.builds(
    lambda head, tail: [*head, *tail, END],
    st.lists(_token, max_size=4),
    st.sampled_from([[], [], [], [10], [10, 11, 4, 11, 10, 5]]),
)
_names = st.lists(_name, min_size=1, max_size=14, unique_by=tuple)
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
    size = {"vocab_size": 12, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    pairs = [[make_model(init_std=std, **size) for _ in range(2)] for std in (0.2, 0.5, 0.8)]
    for model in sum(pairs, []):
        model.final_logits_bias[0, END] = 6.0
    return pairs


@given(
    names=_names,
    mentions=st.lists(_mention, min_size=1, max_size=4),
    which=st.integers(0, 2),
    num_beams=st.integers(1, 5),
    top_k=st.integers(1, 6),
    ranking=st.sampled_from(RANKINGS),
)
@settings(max_examples=100, deadline=None)
def test_any_names_are_searched_as_by_brute_force(twins, names, mentions, which, num_beams, top_k, ranking):
    model, plain = twins[which]
    scores = brute_force(plain, mentions, names)
    beams = {"num_beams": num_beams, "top_k": top_k, "ranking": ranking}
    found = search(model, NameTrie.build(names), mentions, **beams)
    assert_top(found, scores, names, ranking, rows=found.exact)
    again = search(model, NameTrie.build(names), mentions, **beams, exact=True)
    assert again.exact.all()
    assert_top(again, scores, names, ranking)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_exact_never_lies_in_thousands_of_cases(twins, ranking, monkeypatch):
    frontiers = []

    class Watched(Frontier):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            frontiers.append(self)

    monkeypatch.setattr(decoding, "Frontier", Watched)
    rng = random.Random(7)
    pool = [[*name, END] for length in range(4) for name in itertools.product(range(4, 9), repeat=length)]
    exact = {num_beams: [] for num_beams in range(1, 6)}
    for model, plain in twins:
        mentions = [
            EncodedMention(tuple(rng.choices(range(3, 12), k=1 + i % 4)), (END, *rng.choices(range(4, 12), k=i % 3)))
            for i in range(16)
        ]
        scores = brute_force(plain, mentions, pool)
        for num_beams, _ in itertools.product(exact, range(12)):
            some = rng.sample(range(len(pool)), rng.randint(2, 20))
            names = [pool[i] for i in some]
            beams = {"num_beams": num_beams, "top_k": rng.randint(1, 2), "ranking": ranking}
            found = search(model, NameTrie.build(names), mentions, **beams)
            assert_top(found, scores[:, some], names, ranking, rows=found.exact)
            exact[num_beams] += found.exact.tolist()
    cases = sum(exact.values(), [])
    assert len(cases) == 2880
    assert 0.2 < np.mean(cases) < 0.8
    assert all(0.02 < np.mean(part) < 0.98 for part in exact.values())
    # Often something was pruned that could not have led to a name of the list.
    nothing_pruned = sum((frontier.pruned == -np.inf).sum() for frontier in frontiers)
    assert sum(cases) - nothing_pruned > 100


@pytest.mark.parametrize("ranking", RANKINGS)
def test_wider_beams_are_more_often_exact(twins, ranking):
    model, _ = twins[2]
    names = [[*name, END] for length in range(1, 3) for name in itertools.product(range(4, 9), repeat=length)]
    mentions = [EncodedMention((token, *more), (END, 4)) for token in range(3, 12) for more in ((), (5,), (6, 7))]
    found = [search(model, NameTrie.build(names), mentions, num_beams=n, top_k=2, ranking=ranking) for n in (1, 4, 5)]
    exact = [some.exact.sum() for some in found]
    assert exact[0] < exact[1] < exact[2]
    again = search(model, NameTrie.build(names), mentions, num_beams=1, top_k=2, ranking=ranking, exact=True)
    assert again.exact.all()
    assert again.names[found[2].exact].tolist() == found[2].names[found[2].exact].tolist()


def test_widening_stops_at_the_widest_beam_and_says_so(world, scores_300):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    found = search(model, trie, mentions, num_beams=1, top_k=1, exact=True, max_beams=16)
    assert 0 < found.exact.sum() < 16
    assert_top(found, scores_300, names, rows=found.exact)
    assert search(model, trie, mentions, num_beams=1, top_k=1, exact=True, max_beams=100).exact.all()


def test_a_model_that_gives_no_numbers_is_told_and_never_exact(make_model, caplog):
    model = make_model(vocab_size=8)
    model.final_logits_bias[:] = float("nan")
    found = search(model, NameTrie.build([[4, END], [5, END]]), [EncodedMention((0, END), (END,))])
    assert (found.names == -1).all()
    assert not found.exact.any()
    assert "not numbers (NaN)" in caplog.text


# --- batches, order, modes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_results_do_not_depend_on_batch_size_or_order(world, ranking, exact):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    beams = {"num_beams": 2, "top_k": 3, "ranking": ranking, "exact": exact}
    together = search(model, trie, mentions, **beams)
    assert exact == together.exact.all()
    shuffled = np.random.default_rng(0).permutation(len(mentions))
    for batch_size, rows in ((1, shuffled), (3, np.arange(len(mentions))), (3, shuffled), (32, shuffled)):
        other = search(model, trie, [mentions[i] for i in rows], batch_size=batch_size, **beams)
        assert other.names.tolist() == together.names[rows].tolist()
        assert other.lengths.tolist() == together.lengths[rows].tolist()
        assert other.exact.tolist() == together.exact[rows].tolist()
        np.testing.assert_allclose(other.log_probs, together.log_probs[rows], atol=1e-4)


def test_which_of_equally_likely_names_is_found_does_not_depend_on_the_batch(make_model):
    model = make_model(vocab_size=12)
    model.model.shared.weight.data.zero_()  # every token is as likely as any other
    names = [[*name, END] for name in itertools.product(range(4, 9), repeat=3)]
    mentions = [EncodedMention((0, 4, END), (END, 4))] * 32
    found = [search(model, NameTrie.build(names), mentions, num_beams=4, batch_size=size) for size in (1, 5, 32)]
    assert found[1].names.tolist() == found[0].names.tolist()
    assert found[2].names.tolist() == found[0].names.tolist()


def test_a_mention_without_encoding_gets_no_candidates_and_disturbs_none(world):
    model, _, names, mentions = world
    trie = NameTrie.build(names)
    found = search(model, trie, [None, mentions[0], None, mentions[1]], top_k=3, exact=True)
    alone = search(model, trie, mentions[:2], top_k=3, exact=True)
    assert found.names[[0, 2]].tolist() == [[-1] * 3] * 2
    assert (found.log_probs[[0, 2]] == -np.inf).all()
    assert found.exact.tolist() == [False, True, False, True]
    assert found.names[[1, 3]].tolist() == alone.names.tolist()


def test_no_mentions(world):
    model, _, names, _ = world
    found = search(model, NameTrie.build(names), [], top_k=3)
    assert (found.names.shape, found.log_probs.shape, found.exact.shape) == ((0, 3), (0, 3), (0,))
    assert found.lengths.shape == (0, 3)
    assert search(model, NameTrie.build(names), [None], top_k=3).exact.tolist() == [False]


def test_types_of_the_arrays(world):
    model, _, names, mentions = world
    found = search(model, NameTrie.build(names), mentions[:1])
    assert (found.names.dtype, found.log_probs.dtype, found.exact.dtype) == (np.int64, np.float32, np.bool_)
    assert (found.lengths.dtype, found.mean_log_probs.dtype) == (np.int64, np.float32)


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
    search(model, NameTrie.build(names), [*mentions[:3], None], progress="linking", exact=True)
    assert "linking: 100%" in capsys.readouterr().err.replace("\r", "\n")


@pytest.mark.parametrize("wrong", [{"num_beams": 0}, {"top_k": 0}, {"batch_size": 0}])
def test_no_beams_candidates_or_batches_is_an_error(world, wrong):
    model, _, names, mentions = world
    with pytest.raises(ValueError, match="must be at least 1"):
        search(model, NameTrie.build(names[:3]), mentions, **wrong)


def test_an_unknown_ranking_is_an_error(world):
    model, _, names, mentions = world
    with pytest.raises(ValueError, match="ranking is 'median'; choose one of sum, mean"):
        search(model, NameTrie.build(names[:3]), mentions, ranking="median")


def test_restrictions_are_one_a_mention(world):
    model, _, names, mentions = world
    with pytest.raises(ValueError, match="3 restrictions for 16 mentions"):
        search(model, NameTrie.build(names[:3]), mentions, restrictions=[None] * 3)


# --- candidates ------------------------------------------------------------------------------------------------------


def test_no_candidates():
    empty = Candidates.empty(1, 2)
    assert (empty.names.tolist(), empty.log_probs.tolist()) == ([[-1, -1]], [[-np.inf, -np.inf]])
    assert (empty.lengths.tolist(), empty.exact.tolist()) == ([[0, 0]], [False])
    assert empty.mean_log_probs.tolist() == [[-np.inf, -np.inf]]


def test_candidates_are_put_in_their_rows():
    all_ = Candidates.empty(3, 1)
    all_.put(
        np.array([2, 0]),
        Candidates(np.array([[7], [8]]), np.float32([[-6], [-4]]), np.array([[3], [2]]), np.array([True, False])),
    )
    assert (all_.names.tolist(), all_.lengths.tolist()) == ([[8], [-1], [7]], [[2], [0], [3]])
    assert all_.mean_log_probs.tolist() == [[-2.0], [-np.inf], [-2.0]]
    assert all_.exact.tolist() == [False, False, True]


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
