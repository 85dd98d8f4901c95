import numpy as np
import pytest

from angel_trl.decoding import search
from angel_trl.evaluation import evaluate_linking
from angel_trl.formatting import MentionFormatter
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
