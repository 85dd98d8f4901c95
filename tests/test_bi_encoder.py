"""The bi-encoder of the baselines: what it learns from, how it is searched, stages that are interrupted."""

import numpy as np
import pytest
import torch

from angel_trl import synthetic_corpus
from angel_trl.kb import Concept, KnowledgeBase

pytest.importorskip("sentence_transformers", reason="the extra `baselines` is not installed")


@pytest.fixture(scope="module")
def bi_encoder():
    import bi_encoder

    return bi_encoder


@pytest.fixture(scope="module")
def encoder(bi_encoder, small_kb, tmp_path_factory):
    """A random encoder."""
    return bi_encoder.first_encoder("scratch-tiny", small_kb.names, tmp_path_factory.mktemp("start"), 0, 32)


def of_split(mentions, split):
    return mentions.filter(lambda row: row["split"] == split)


# What it is taught.


def test_a_mention_is_encoded_alone_or_between_markers_in_so_many_words(bi_encoder):
    text = "He had Type-1 Diabetes, since birth."
    assert bi_encoder.query_text(text, 7, 22, 0, "genbioel") == "type 1 diabetes"
    assert bi_encoder.query_text(text, 7, 22, 4, "genbioel") == "he had START type 1 diabetes END , since"


def test_pairs_of_the_knowledge_base_are_of_one_concept_and_never_twice_the_same_text(bi_encoder, small_kb):
    pairs = bi_encoder.kb_pairs(small_kb, 200, seed=1, noise=0.3)
    assert len(pairs) == 200
    same = {row["anchor"] for row in pairs if row["anchor"] == row["positive"]}
    assert same <= {"diabetes insipidus"}, "the only name of its concept"
    for row in pairs:
        own = {c for c in row["label"] if c >= 0}
        assert own >= set(small_kb.concepts_of_name(small_kb.find(row["positive"])).tolist())
    # "ra" is C05 and C06, whose other names are of one concept only.
    assert {"anchor": "ra", "label": [4, 5]} in [{"anchor": r["anchor"], "label": r["label"][:2]} for r in pairs]


def test_pairs_are_the_same_for_a_seed(bi_encoder, small_kb):
    first, again, other = (bi_encoder.kb_pairs(small_kb, 50, seed=seed, noise=0.3)["anchor"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_mentions_are_paired_with_their_nearest_gold_names(bi_encoder, small_kb, small_mentions):
    pairs = bi_encoder.mention_pairs(small_kb, of_split(small_mentions, "train"), 0, 1)
    assert len(pairs) == 16
    by_anchor = {row["anchor"]: row["positive"] for row in pairs}
    assert by_anchor["refractory anaemia"] == "refractory anemia"
    assert by_anchor["sjögren s syndrome"] == "sjögren s syndrome"
    three = bi_encoder.mention_pairs(small_kb, of_split(small_mentions, "train"), 0, 3)
    assert [row["positive"] for row in three if row["anchor"] == "heart failure"][0] == "heart failure"
    assert len(three) > 30


def test_mentions_whose_gold_is_unknown_teach_nothing(bi_encoder, small_kb, small_mentions):
    rows = [
        small_mentions[0],
        {**small_mentions[1], "concept_ids": [["X1"]]},
        {**small_mentions[2], "concept_ids": []},
    ]
    assert bi_encoder.mention_pairs(small_kb, rows, 0, 3)["anchor"] == ["common cold"] * 3


def test_joined_pairs_have_labels_of_one_width(bi_encoder, small_kb, small_mentions):
    narrow = bi_encoder.mention_pairs(small_kb, [small_mentions[7]], 0, 1)
    wide = bi_encoder.mention_pairs(small_kb, [small_mentions[10]], 0, 1)
    assert (narrow["label"], wide["label"]) == ([[7]], [[9, 16]])
    assert bi_encoder.joined(narrow, wide)["label"] == [[7, -1], [9, 16]]


def test_a_name_that_shares_a_concept_with_a_mention_is_no_negative_of_it(bi_encoder, encoder):
    loss = bi_encoder.DistinctConceptsLoss(encoder, scale=2.0)
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    names = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    apart = loss.compute_loss_from_embeddings([anchors, names], torch.tensor([[1, -1], [2, -1], [3, -1]]))
    # Cosines are 1, 1, 0 / 0, 0, 1 / 1, 1, 0: of each row the diagonal is right.
    logits = 2 * torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 1, 0]])
    assert apart.item() == pytest.approx(-logits.log_softmax(1).diagonal().mean().item())
    together = loss.compute_loss_from_embeddings([anchors, names], torch.tensor([[1, 5], [2, 5], [3, -1]]))
    logits[0, 1] = logits[1, 0] = -torch.inf
    assert together.item() == pytest.approx(-logits.log_softmax(1).diagonal().mean().item())


# How it is searched.


def test_an_encoder_from_scratch_is_about_as_large_as_the_model_of_its_name(bi_encoder, tmp_path):
    names = synthetic_corpus(seed=0)[0].names
    model = bi_encoder.first_encoder("scratch-small", names, tmp_path, 0, 32)
    assert 3_000_000 < sum(weight.numel() for weight in model.parameters()) < 4_700_000


def test_weights_are_the_same_for_a_seed_and_loaded_from_a_folder(bi_encoder, encoder, small_kb, tmp_path):
    again = bi_encoder.first_encoder("scratch-tiny", small_kb.names, tmp_path / "again", 0, 32)
    encoder.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    loaded = bi_encoder.first_encoder(str(tmp_path / "saved"), [], tmp_path / "unused", 7, 32)
    vectors = [bi_encoder.Encoder(model)(["gout", "fever"]) for model in (encoder, again, loaded)]
    torch.testing.assert_close(vectors[1], vectors[0])
    torch.testing.assert_close(vectors[2], vectors[0])
    assert not (tmp_path / "unused").exists()


def test_an_encoder_that_is_not_there_is_an_error_that_names_the_presets(bi_encoder, tmp_path):
    with pytest.raises(SystemExit, match="scratch-tiny, scratch-small"):
        bi_encoder.first_encoder(str(tmp_path / "none"), [], tmp_path, 0, 32)


def test_texts_that_repeat_have_the_vectors_of_texts_alone(bi_encoder, encoder):
    encode = bi_encoder.Encoder(encoder)
    vectors = encode(["gout", "fever", "gout", "asthma"])
    alone = torch.cat([encode([text]) for text in ("gout", "fever", "gout", "asthma")])
    torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


def test_nearest_vectors_in_parts_are_those_of_the_whole(bi_encoder):
    generator = torch.Generator().manual_seed(0)
    names, mentions = torch.randn(30, 8, generator=generator), torch.randn(9, 8, generator=generator)
    found, products = bi_encoder.nearest_vectors(names, mentions, 5, at_once=1)
    expected = (mentions @ names.T).sort(dim=1, descending=True)
    np.testing.assert_array_equal(found, expected.indices[:, :5])
    np.testing.assert_allclose(products, expected.values[:, :5], atol=1e-5)
    assert bi_encoder.nearest_vectors(names[:2], mentions, 5)[0].shape == (9, 2)


def test_dev_accuracy_is_any_id_over_all_names(bi_encoder, encoder):
    kb = KnowledgeBase([Concept("A", ("gout",)), Concept("B", ("fever", "gout"))])
    rows = [{"concept_ids": [["B"]]}, {"concept_ids": [["A"]]}, {"concept_ids": [["X"]]}, {"concept_ids": [["B"]]}]
    dev = bi_encoder.DevAccuracy(kb, rows, ["gout", "gout", "gout", "fever"], bf16=False)
    assert dev(encoder) == {"acc@1": 75.0}


# Training.


class Interrupted(Exception):
    pass


def test_a_stage_that_is_interrupted_goes_on_and_ends_with_the_same_weights(bi_encoder, small_kb, tmp_path):
    settings = bi_encoder.Training(
        epochs=3, learning_rate=1e-3, batch_size=16, scale=20.0, seed=3, bf16=False, use_cpu=True, quiet=True
    )
    pairs = bi_encoder.kb_pairs(small_kb, 48, seed=1, noise=0.3)

    class Dev(bi_encoder.SentenceEvaluator):
        """Finds each epoch better than the one before, but for where it fails."""

        def __init__(self, fails=None):
            super().__init__()
            self.primary_metric, self.fails = "acc@1", fails

        def __call__(self, model, output_path=None, epoch=-1, steps=-1):
            if steps == self.fails:
                raise Interrupted
            return {"acc@1": float(steps)}

    def train(folder, dev, resume=False):
        model = bi_encoder.first_encoder("scratch-tiny", small_kb.names, folder / "start", 0, 32)
        return bi_encoder.train_stage(model, pairs, settings, folder / "stage", resume, dev)

    whole, curve, steps = train(tmp_path / "whole", Dev())
    assert (curve, steps) == ([(3, 3.0), (6, 6.0), (9, 9.0)], 9)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", Dev(fails=6))
    resumed, *told = train(tmp_path / "parts", Dev(), resume=True)
    assert told == [curve, steps]
    for (name, weight), again in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(again, weight, msg=name, atol=0, rtol=0)
    again, *told = train(tmp_path / "parts", Dev(fails=3), resume=True)
    assert [list(map(tuple, told[0])), told[1]] == [curve, steps], "as it is on disk: nothing is evaluated"
    torch.testing.assert_close(next(again.parameters()), next(whole.parameters()))


def test_the_epoch_with_the_best_dev_accuracy_is_kept(bi_encoder, small_kb, tmp_path):
    settings = bi_encoder.Training(
        epochs=2, learning_rate=1e-2, batch_size=16, scale=20.0, seed=3, bf16=False, use_cpu=True, quiet=True
    )
    pairs = bi_encoder.kb_pairs(small_kb, 32, seed=1, noise=0.3)
    seen = {}

    class Dev(bi_encoder.SentenceEvaluator):
        def __init__(self):
            super().__init__()
            self.primary_metric = "acc@1"

        def __call__(self, model, output_path=None, epoch=-1, steps=-1):
            seen[steps] = next(model.parameters()).clone()
            return {"acc@1": -float(steps)}

    model = bi_encoder.first_encoder("scratch-tiny", small_kb.names, tmp_path / "start", 0, 32)
    model, _, _ = bi_encoder.train_stage(model, pairs, settings, tmp_path / "stage", False, Dev())
    assert list(seen) == [2, 4]
    assert not torch.equal(seen[2], seen[4])
    torch.testing.assert_close(next(model.parameters()), seen[2])
