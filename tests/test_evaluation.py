"""Scores of a model: those of the search's answers, whoever searches them and among whatever names."""

import dataclasses

import numpy as np
import pytest

from angel_trl.decoding import search
from angel_trl.evaluation import evaluate_linking
from angel_trl.formatting import MentionFormatter
from angel_trl.kb import KnowledgeBase
from angel_trl.targets import TargetNames, prepare_mentions


@pytest.fixture(scope="module")
def world(make_model, tokenizer, small_kb, small_mentions):
    model = make_model()
    targets = TargetNames(small_kb, MentionFormatter(tokenizer, model.config))
    return model, targets, prepare_mentions(small_mentions, targets)


def test_scores_are_those_of_the_search_s_answers(world, small_kb):
    model, targets, mentions = world
    result = evaluate_linking(model, targets, mentions, num_beams=20, top_k=5)
    found = search(model, targets.trie, mentions.encoded, num_beams=20, top_k=5)
    assert result.candidates.names.tolist() == found.names.tolist()
    assert result.predictions == targets.ranked_ids(found)
    single = np.array([len(gold) == 1 for gold in mentions.references])
    gold = mentions.is_gold(found.names, small_kb)[single]
    alone = mentions.subset(np.flatnonzero(single))
    metrics = evaluate_linking(model, targets, alone, num_beams=20, top_k=5).metrics
    assert metrics["acc@1"] == pytest.approx(100 * gold[:, 0].mean())
    assert metrics["acc@5"] == pytest.approx(100 * gold.any(axis=1).mean())
    assert metrics["exact"] == pytest.approx(100 * found.exact[single].mean())
    assert metrics["mentions_per_second"] > 0


def test_every_mention_counts_even_one_that_cannot_be_encoded(world):
    model, targets, _ = world
    rows = [
        {"id": str(i), "document_id": "d", "text": text, "start": 0, "end": len(text), "concept_ids": [["C30"]]}
        for i, text in enumerate(["gout", "ÿ" * 200])
    ]
    result = evaluate_linking(model, targets, prepare_mentions(rows, targets), num_beams=100, top_k=71)
    assert result.predictions[1] == []
    assert result.metrics["acc@71"] == 50.0
    assert result.metrics["exact"] == 50.0


def test_one_candidate_is_enough(world):
    model, targets, mentions = world
    result = evaluate_linking(model, targets, mentions, top_k=1)
    assert result.candidates.names.shape == (24, 1)
    assert "acc@1" in result.metrics


@pytest.fixture(scope="module")
def typed(make_model, tokenizer, small_kb, small_mentions):
    """Concepts of two types by turns, and mentions of one type or the other; the last has none that is known."""
    types = [("Sign",), ("Disease",)]
    kb = KnowledgeBase([dataclasses.replace(c, types=types[i % 2]) for i, c in enumerate(small_kb.concepts)])
    model = make_model()
    targets = TargetNames(kb, MentionFormatter(tokenizer, model.config))
    mentions = prepare_mentions(small_mentions, targets)
    mentions.types[:] = [types[row % 2] for row in range(23)] + [("Planet",)]
    return model, targets, mentions


def test_within_types_only_concepts_of_the_mention_s_types_are_answered(typed):
    model, targets, mentions = typed
    free, within = (evaluate_linking(model, targets, mentions, within_types=on) for on in (False, True))
    kind_of = {concept.id: concept.types[0] for concept in targets.kb.concepts}
    kinds = [{kind_of[i] for ids in answers for i in ids} for answers in within.predictions]
    assert kinds[:23] == [{mentions.types[row][0]} for row in range(23)]
    assert any(len({kind_of[i] for ids in answers for i in ids}) == 2 for answers in free.predictions[:23])
    assert within.predictions[23] == free.predictions[23], "unknown types restrict nothing"
    assert within.metrics["mrr"] != free.metrics["mrr"]


def test_a_homonym_of_another_type_is_answered_without_the_concept_that_does_not_fit(typed):
    model, targets, mentions = typed
    within = evaluate_linking(model, targets, mentions, num_beams=100, top_k=71, within_types=True)
    cold = targets.kb.find("cold")
    assert targets.kb.ids_of_name(cold) == ("C01", "C02")
    for row in range(23):
        place = within.candidates.names[row].tolist().index(cold)
        assert within.predictions[row][place] == ["C01" if mentions.types[row] == ("Sign",) else "C02"]


@pytest.mark.parametrize("within_types", [False, True], ids=["", "within types"])
@pytest.mark.parametrize("processes", [2, 3, 40])
def test_shares_of_processes_give_the_metrics_of_one(typed, monkeypatch, processes, within_types):
    """Each share is searched in turn and handed over as gathering would; of 40 processes some have no mention."""
    model, targets, mentions = typed
    options = {"num_beams": 4, "within_types": within_types, "bootstrap": 20}
    alone = evaluate_linking(model, targets, mentions, **options)
    shares = []
    monkeypatch.setattr("angel_trl.evaluation.gather_object", lambda share: shares.extend(share) or shares)
    for process in range(processes):
        together = evaluate_linking(model, targets, mentions, process=process, processes=processes, **options)
    assert len(shares) == processes
    assert sorted(row for rows, _ in shares for row in rows.tolist()) == list(range(24))
    assert together.predictions == alone.predictions
    np.testing.assert_allclose(together.candidates.log_probs, alone.candidates.log_probs, atol=1e-4)
    speed = "mentions_per_second"
    assert {k: v for k, v in together.metrics.items() if k != speed} == {
        k: v for k, v in alone.metrics.items() if k != speed
    }
