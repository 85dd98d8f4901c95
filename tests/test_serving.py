"""A linker that several threads share: the answers of one thread, whatever the others ask for."""

import copy
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from angel_trl import shared_search
from angel_trl.decoding import search
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker
from angel_trl.shared_search import SharedSearch, untrained
from angel_trl.trie import NameTrie

THREADS = 8
# Seconds, which only keep a test from hanging.
PATIENCE = 300


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    """Concepts are of two types, by turns."""
    concepts = [
        Concept(concept.id, concept.names, types=("Disease" if place % 2 else "Finding",))
        for place, concept in enumerate(small_kb.concepts)
    ]
    return EntityLinker(make_model(), tokenizer, KnowledgeBase(concepts))


@pytest.fixture(scope="module")
def requests(linker, small_mentions):
    """90 requests of many kinds, as functions of a linker."""
    rows = [{key: row[key] for key in ("text", "start", "end")} for row in small_mentions]
    kinds = [
        {},
        {"top_k": 3, "num_beams": 4},
        {"types": ["Disease"]},
        {"types": ["Finding"], "exact": True, "num_beams": 2},
        {"candidates": ["C29", "gout", "breast cancer"]},
        {"ranking": "mean"},
    ]
    made = []
    for number in range(90):
        some = [rows[(number * 7 + place) % len(rows)] for place in range(1 + number % 3)]
        made.append((some, kinds[number % len(kinds)]))
    # More than a batch: searched beside the others.
    made.append((rows, {"batch_size": 5}))
    return made


def assert_alike(found, expected):
    """Equal but for the last digits of scores, which depend on what is searched together."""
    assert [(one.mention, one.start, one.end, one.exact, one.abstained) for one in found] == [
        (one.mention, one.start, one.end, one.exact, one.abstained) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert [c.matched_name for c in one.candidates] == [c.matched_name for c in other.candidates]
        assert [c.ids for c in one.candidates] == [c.ids for c in other.candidates]
        assert [c.score for c in one.candidates] == pytest.approx([c.score for c in other.candidates], abs=1e-4)


def at_once(function, items):
    """What a function gives for each item, called by threads that start together."""
    gate = threading.Barrier(THREADS)

    def wait_and_call(item):
        if not gate.broken:
            gate.wait(PATIENCE)
        return function(item)

    with ThreadPoolExecutor(THREADS) as pool:
        first = [pool.submit(wait_and_call, item) for item in items[:THREADS]]
        found = [future.result() for future in first]
        return found + list(pool.map(function, items[THREADS:]))


def test_threads_get_the_answers_of_one_thread(linker, requests):
    expected = [linker.link_batch(rows, **settings) for rows, settings in requests]
    order = list(range(len(requests))) * 2
    random.Random(0).shuffle(order)
    found = at_once(lambda place: linker.link_batch(requests[place][0], **requests[place][1]), order)
    for place, one in zip(order, found, strict=True):
        assert_alike(one, expected[place])


def test_linkers_that_share_a_model_may_be_asked_together(linker, requests):
    linkers = [linker, linker.extended([Concept("Z1", ("Zoster", "Shingles"))])]
    pairs = [(which, place) for place in range(0, len(requests), 2) for which in (0, 1)]
    expected = [linkers[which].link_batch(requests[place][0], **requests[place][1]) for which, place in pairs]
    found = at_once(lambda pair: linkers[pair[0]].link_batch(requests[pair[1]][0], **requests[pair[1]][1]), pairs)
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other)


def test_the_first_requests_of_a_fresh_linker_may_come_together(make_model, tokenizer, linker, requests, tmp_path):
    linker.save_pretrained(tmp_path)
    expected = linker.link_batch(requests[4][0], **requests[4][1])
    for _ in range(5):
        # Nothing is made yet of what is made at need: arrays of the trie, types of the names, hooks of the model.
        fresh = EntityLinker.from_pretrained(tmp_path, device="cpu")
        for found in at_once(
            lambda _, fresh=fresh: fresh.link_batch(requests[4][0], **requests[4][1]), range(THREADS)
        ):
            assert_alike(found, expected)


def test_leaves_looked_up_for_the_first_time_by_many_threads_are_all_there(monkeypatch):
    numbers = np.arange(100_000)
    tokens = np.column_stack([numbers // 500 + 3, numbers % 500 + 3, np.full_like(numbers, 2)]).astype(np.int32)
    trie = NameTrie.build_flat(tokens.ravel(), np.full_like(numbers, 3))
    expected = trie.leaf(trie.leaf_name)
    for _ in range(20):
        monkeypatch.setattr(trie, "_leaf_of", None)
        for found in at_once(lambda _: trie.leaf(trie.leaf_name), range(THREADS)):
            assert torch.equal(found, expected)


def test_a_tokenizer_is_used_by_one_thread_at_a_time(linker, monkeypatch):
    formatter, inside = linker.targets.formatter, []
    encode = formatter.encode

    def watched(mentions):
        inside.append(None)
        assert len(inside) == 1
        time.sleep(0.01)
        found = encode(mentions)
        inside.pop()
        return found

    monkeypatch.setattr(formatter, "encode", watched)
    extended = linker.extended([Concept("Z1", ("Zoster",))])
    assert all(at_once(lambda place: (linker, extended)[place % 2].link("[gout]"), range(THREADS)))


# --- together --------------------------------------------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch):
    """The searches made: the number of mentions and the settings of each; the first waits until it is let go."""
    made, go = [], threading.Event()

    def watched(model, trie, mentions, **settings):
        made.append((len(mentions), settings))
        if len(made) == 1:
            assert go.wait(PATIENCE)
        return search(model, trie, mentions, **settings)

    monkeypatch.setattr(shared_search, "search", watched)
    made_and_go = (made, go)
    yield made_and_go
    go.set()


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(linker, number, made):
    """Wait until so many requests of a linker are being answered or wait for it, and the first is being searched.

    Before that it might take others with it.
    """
    until(lambda: len(linker._search._waiting) >= number and made)


def test_what_waits_is_searched_together_as_far_as_settings_are_alike(linker, searches):
    made, go = searches
    texts = ["[gout]", "[fever]", "[delirium] or [ms]", "[ra]", "[asthma]"]
    settings = [{}, {}, {}, {"top_k": 2}, {"types": ["Disease"]}]
    with ThreadPoolExecutor(THREADS) as pool:
        futures = []
        for number, (text, given) in enumerate(zip(texts, settings, strict=True)):
            futures.append(pool.submit(linker.link, text, **given))
            waiting(linker, number + 1, made)
        go.set()
        found = [future.result() for future in futures]
    # The first alone; three with its settings together, restricted or not; the one that asks for other things.
    assert made[0][0] == 1
    assert sorted(size for size, _ in made[1:]) == [1, 4]
    for text, given, one in zip(texts, settings, found, strict=True):
        assert_alike(one, linker.link(text, **given))


def test_no_more_than_a_batch_is_searched_together(linker, searches):
    made, go = searches
    rows = [{"text": "gout", "start": 0, "end": 4}] * 2
    with ThreadPoolExecutor(THREADS) as pool:
        futures = []
        for number in range(6):
            futures.append(pool.submit(linker.link_batch, rows, batch_size=5))
            waiting(linker, number + 1, made)
        go.set()
        [future.result() for future in futures]
    assert sorted(size for size, _ in made) == [2, 2, 4, 4]


def test_a_request_that_fails_does_not_fail_those_searched_with_it(linker, searches, monkeypatch):
    made, go = searches
    bad = linker.restrict(ids=["C29"])
    object.__setattr__(bad, "fingerprint", "f" * 64)
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(linker.link, "[fever]")]
        waiting(linker, 1, made)
        for number, restriction in enumerate([None, bad, None, None]):
            futures.append(pool.submit(linker.link, "[gout]", restriction=restriction))
            waiting(linker, number + 2, made)
        go.set()
        expected = linker.link("[gout]")
        for number, future in enumerate(futures):
            if number == 2:
                with pytest.raises(ValueError, match="was made for other names"):
                    future.result()
            elif number:
                assert_alike(future.result(), expected)
    assert linker._search._waiting == []


def test_wrong_settings_do_not_keep_others_waiting(linker):
    with pytest.raises(ValueError, match="ranking is 'best'"):
        linker.link("[gout]", ranking="best")
    assert linker._search._waiting == []
    assert linker.link("[gout]")[0].id


# --- training --------------------------------------------------------------------------------------------------------


def test_a_model_in_training_mode_is_refused(make_model, tokenizer, small_kb):
    linker = EntityLinker(make_model().train(), tokenizer, small_kb)
    assert not linker.model.training
    expected = linker.link("[gout]")
    linker.model.model.encoder.layers[0].train()
    with pytest.raises(RuntimeError, match="is in training mode: it is being trained, or was. Call linker.model.eval"):
        linker.link("[gout]")
    linker.model.eval()
    assert linker.link("[gout]") == expected


def test_a_model_trained_while_it_is_searched_is_noticed(tiny_model):
    weight = next(tiny_model.parameters())
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="was trained while it was searched"), untrained(tiny_model):
        optimizer.step()
    with pytest.raises(RuntimeError, match="was trained while it was searched"), untrained(tiny_model):
        tiny_model.train()
    tiny_model.eval()
    with untrained(tiny_model):
        pass


def test_a_trainer_that_starts_meanwhile_does_not_go_unnoticed(linker, searches):
    made, go = searches
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(linker.link, "[gout]")
        until(lambda: made)
        linker.model.train()
        go.set()
        with pytest.raises(RuntimeError, match="was trained while it was searched"):
            future.result()
    linker.model.eval()


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda linker: pickle.loads(pickle.dumps(linker))])
def test_a_linker_can_be_copied(linker, copied):
    again = copied(linker)
    assert again.link("[gout]") == linker.link("[gout]")
    assert isinstance(again._search, SharedSearch)
