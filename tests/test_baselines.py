"""The baselines: which names are nearest and whose they are, what a bi-encoder learns from, whole and resumed runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import DatasetDict

from angel_trl import synthetic_corpus
from angel_trl.formatting import MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.lookup import StringLookup
from angel_trl.targets import NearestNames, TargetNames, prepare_mentions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def load():
    """Loads a recipe as a module of another name: `recipes/bench` has a module `baselines` too."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(ROOT / "recipes"))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(ROOT / "recipes"))
        return module

    return load


@pytest.fixture(scope="module")
def recipe(load):
    return load("baselines")


@pytest.fixture(scope="module")
def splits(load):
    return load("corpus_splits")


@pytest.fixture(scope="module")
def bi_encoder(load):
    pytest.importorskip("sentence_transformers", reason="the extra `baselines` is not installed")
    return load("bi_encoder")


@pytest.fixture(scope="module")
def encoder(bi_encoder, small_kb, tmp_path_factory):
    """A random encoder."""
    return bi_encoder.first_encoder("scratch-tiny", small_kb.names, tmp_path_factory.mktemp("start"), 0, 32)


def of_split(mentions, split):
    return mentions.filter(lambda row: row["split"] == split)


# Splits.


def test_splits_that_are_there_are_taken_as_they_are(splits, small_mentions):
    given = DatasetDict({name: small_mentions.select([i]) for i, name in enumerate(("test", "dev", "train", "more"))})
    found = splits.scored_splits(given)
    assert [(name, rows["id"]) for name, rows in found.items()] == [
        (name, given[name]["id"]) for name in ("train", "dev", "test")
    ]


def test_a_corpus_without_a_test_split_is_told_what_can_be_done(splits, small_mentions):
    given = DatasetDict({"train": small_mentions, "dev": small_mentions})
    with pytest.raises(SystemExit, match=r"lacks the splits \['test'\].*--test_split dev"):
        splits.scored_splits(given)
    with pytest.raises(SystemExit, match=r"lacks the splits \['dev'\]"):
        splits.scored_splits(DatasetDict({"train": small_mentions}), "dev")


def test_dev_is_scored_and_a_tenth_of_the_training_documents_is_held_out(splits):
    _, corpus = synthetic_corpus(seed=0)
    found = splits.scored_splits(corpus, "dev")
    assert found["test"]["id"] == corpus["dev"]["id"]
    documents = {name: set(found[name]["document_id"]) for name in ("train", "dev")}
    assert not documents["train"] & documents["dev"]
    every = set(corpus["train"]["document_id"])
    assert documents["train"] | documents["dev"] == every
    assert len(documents["dev"]) == round(len(every) / 10)
    assert len(found["train"]) + len(found["dev"]) == len(corpus["train"])
    again = splits.scored_splits(corpus, "dev")
    assert again["dev"]["id"] == found["dev"]["id"]


def test_a_single_training_document_cannot_be_shared(splits, small_mentions):
    given = DatasetDict({"train": small_mentions.select([0]), "dev": small_mentions})
    with pytest.raises(SystemExit, match="only one"):
        splits.scored_splits(given, "dev")


# TF-IDF.


def test_the_names_spelled_most_alike_come_first_and_equal_ones_in_their_order(recipe):
    tfidf = recipe.TfidfNames(["fever", "gout", "fever fever", "gout", "asthma"])
    found, cosines = tfidf.nearest(["gout", "fevers"], 3)
    assert found[0, :2].tolist() == [1, 3]
    assert found[1, 0] == 0
    np.testing.assert_allclose(cosines[0, :2], [1, 1], atol=1e-6)
    assert cosines.dtype == np.float32
    assert found.dtype == np.int64


def test_names_without_a_letter_in_common_are_no_candidates(recipe):
    found, _ = recipe.TfidfNames(["abc", "xyz"]).nearest(["xy"], 5)
    assert found.tolist() == [[1, -1]]


def test_mentions_in_parts_find_what_they_find_together(recipe, small_kb, small_mentions):
    tfidf = recipe.TfidfNames(small_kb.names)
    mentions = [mention.lower() for mention in small_mentions["mention"]]
    whole, parts = tfidf.nearest(mentions, 5), tfidf.nearest(mentions, 5, at_once=1)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-6)


def test_among_the_names_of_a_concept_it_agrees_with_what_training_takes_to_be_nearest(recipe, small_kb):
    found, _ = recipe.TfidfNames(small_kb.names).nearest(["heart failures"], small_kb.num_names)
    own = set(small_kb.names_of_concept(7).tolist())
    (nearest,) = NearestNames(small_kb).nearest(["heart failures"], [[7]], 4)
    assert [name for name in found[0].tolist() if name in own][:2] == nearest[:2]


# Whose a name is.


def test_names_are_those_of_the_knowledge_base(recipe, small_kb):
    index = recipe.NameIndex(small_kb)
    assert index.names == small_kb.names
    assert index.ids(small_kb.find("ms")) == ["C03", "C04"]


def test_training_mentions_are_further_names(recipe, small_kb, small_mentions):
    index = recipe.NameIndex(small_kb, of_split(small_mentions, "train"))
    further = index.names[small_kb.num_names :]
    assert further == ["refractory anaemia", "familial breast cancer", "breast and ovarian cancer"]
    assert [index.ids(small_kb.num_names + place) for place in range(3)] == [["C06"], ["C16"], ["C10", "C17"]]
    # "COLD" was C02 in the training mentions, and "A14" is two concepts.
    assert index.ids(small_kb.find("cold")) == ["C01", "C02"]
    assert index.ids(small_kb.find("NIDDM")) == ["C14", "C30"]


def test_names_and_ids_with_training_mentions_are_those_of_string_lookup(recipe, small_kb, small_mentions):
    train = of_split(small_mentions, "train")
    index, lookup = recipe.NameIndex(small_kb, train), StringLookup(small_kb, train)
    rows = [{"mention": name} for name in index.names]
    assert [[index.ids(place)] for place in range(len(index.names))] == lookup.predict(rows)


def test_mentions_that_normalise_to_nothing_or_have_no_concept_are_no_names(recipe, small_kb):
    rows = [
        {"mention": "+", "concept_ids": [["C01"]]},
        {"mention": "quinsy", "concept_ids": [["unknown"]]},
        {"mention": "catarrh", "concept_ids": []},
    ]
    assert recipe.NameIndex(small_kb, rows).names == small_kb.names


def test_answers_hold_ids_names_and_scores_of_those_found(recipe, small_kb):
    names = [small_kb.find("gout"), small_kb.find("ra")]
    scores = np.array([[0.9, 0.5], [0.7, 0.0]], dtype=np.float32)
    answers = recipe.NameIndex(small_kb).answers(np.array([names, [names[0], -1]]), scores)
    assert answers.ids == [[["C30"], ["C05", "C06"]], [["C30"]]]
    assert answers.names == [["gout", "ra"], ["gout"]]
    assert answers.scores == [pytest.approx([0.9, 0.5]), pytest.approx([0.7])]


def test_gold_is_what_linkers_are_scored_against(recipe, small_kb, small_mentions, tokenizer, make_model):
    targets = TargetNames(small_kb, MentionFormatter(tokenizer, make_model().config))
    rows = [*small_mentions, {**small_mentions[0], "id": "unknown", "concept_ids": [["X1", "C01"]]}]
    assert recipe.gold_references(small_kb, rows) == prepare_mentions(rows, targets).references


def test_mentions_that_no_system_can_answer_are_counted(recipe, small_kb, small_mentions):
    rows = [*small_mentions, {"concept_ids": []}, {"concept_ids": [["X1"], ["X2"]]}]
    assert recipe.mention_counts(small_kb, rows) == {
        "read": 26,
        "no concept": 1,
        "concept not in the knowledge base": 1,
    }


# The bi-encoder: what it is taught.


def test_a_mention_is_encoded_alone_or_between_markers_in_so_many_words(bi_encoder):
    text = "He had Type-1 Diabetes, since birth."
    assert bi_encoder.query_text(text, 7, 22, 0, "genbioel") == "type 1 diabetes"
    assert bi_encoder.query_text(text, 7, 22, 4, "genbioel") == "he had START type 1 diabetes END , since"


def test_pairs_of_the_knowledge_base_are_of_one_concept_and_never_twice_the_same_text(bi_encoder, small_kb):
    pairs = bi_encoder.kb_pairs(small_kb, 200, seed=1, noise=0.3, context=0.0, max_words=0)
    assert len(pairs) == 200
    same = {row["anchor"] for row in pairs if row["anchor"] == row["positive"]}
    assert same <= {"diabetes insipidus"}, "the only name of its concept"
    for row in pairs:
        own = {c for c in row["label"] if c >= 0}
        assert own >= set(small_kb.concepts_of_name(small_kb.find(row["positive"])).tolist())
    # "ra" is C05 and C06, whose other names are of one concept only.
    assert {"anchor": "ra", "label": [4, 5]} in [{"anchor": r["anchor"], "label": r["label"][:2]} for r in pairs]


def test_pairs_are_the_same_for_a_seed(bi_encoder, small_kb):
    made = {"noise": 0.3, "context": 0.0, "max_words": 0}
    first, again, other = (bi_encoder.kb_pairs(small_kb, 50, seed=seed, **made)["anchor"] for seed in (1, 1, 2))
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


# The bi-encoder: how it is searched.


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


# The bi-encoder: training.


class Interrupted(Exception):
    pass


@pytest.mark.timeout(240)
def test_a_stage_that_is_interrupted_goes_on_and_ends_with_the_same_weights(bi_encoder, small_kb, tmp_path):
    settings = bi_encoder.Training(
        epochs=3, learning_rate=1e-3, batch_size=16, scale=20.0, seed=3, bf16=False, use_cpu=True, quiet=True
    )
    pairs = bi_encoder.kb_pairs(small_kb, 48, seed=1, noise=0.3, context=0.0, max_words=0)

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


@pytest.mark.timeout(240)
def test_the_epoch_with_the_best_dev_accuracy_is_kept(bi_encoder, small_kb, tmp_path):
    settings = bi_encoder.Training(
        epochs=2, learning_rate=1e-2, batch_size=16, scale=20.0, seed=3, bf16=False, use_cpu=True, quiet=True
    )
    pairs = bi_encoder.kb_pairs(small_kb, 32, seed=1, noise=0.3, context=0.0, max_words=0)
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


# Whole runs.

SHORT = {
    "model": "scratch-tiny",
    "name_passes": 0.3,
    "epochs": 2,
    "bf16": "false",
    "bootstrap": 20,
    "use_cpu": "true",
    "cpu_threads": 1,
    "disable_tqdm": "true",
}
SYSTEMS = [
    "lookup",
    "lookup + training mentions",
    "TF-IDF",
    "TF-IDF + training mentions",
    "bi-encoder",
    "bi-encoder + training mentions",
]


def run(output, *more, **settings):
    given = {**SHORT, "output_dir": output, **settings}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "recipes/baselines.py", *options, *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def made(bi_encoder, tmp_path_factory):
    """A whole run on the synthetic data: its folder and what it printed."""
    output = tmp_path_factory.mktemp("run")
    done = run(output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


@pytest.mark.timeout(240)
def test_a_run_scores_every_system_on_the_test_split(made):
    output, done = made
    results = json.loads((output / "results.json").read_text())
    assert list(results["test"]) == SYSTEMS
    assert {row["mentions"] for row in results["test"].values()} == {1000}
    assert results["test"]["lookup"]["acc@1"] == pytest.approx(22.6)
    assert results["test"]["TF-IDF"]["acc@1"] > 22.6
    assert len(results["test"]["bi-encoder"]["acc@1_ci"]) == 2
    assert len(results["dev"]["bi-encoder"]) == 2
    assert set(results["seconds"]) == set(SYSTEMS[2:])
    line = json.loads(done.stdout.splitlines()[-1])
    assert list(line) == [*SYSTEMS, "seconds"]
    assert "| bi-encoder |" in (output / "report.md").read_text()
    assert (output / "learning_curve.png").exists()


@pytest.mark.timeout(240)
def test_every_answer_is_kept(made):
    output, _ = made
    table = pq.read_table(output / "predictions.parquet")
    assert table.column_names == ["system", "mention_id", "ids", "names", "scores"]
    assert table["system"].unique().to_pylist() == SYSTEMS
    assert len(table) == 6 * 1000
    for row in table.slice(4000, 20).to_pylist():
        assert len(row["ids"]) == len(row["names"]) == len(row["scores"]) == 5
        assert row["scores"] == sorted(row["scores"], reverse=True)


@pytest.mark.timeout(240)
def test_a_resumed_run_makes_nothing_again_and_ends_with_the_same_scores(made):
    output, _ = made
    before = json.loads((output / "results.json").read_text())
    answers = (output / "predictions.parquet").read_bytes()
    weights = output / "bi-encoder" / "mentions" / "model" / "model.safetensors"
    time = weights.stat().st_mtime_ns
    (output / "results.json").unlink()
    done = run(output, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    after = json.loads((output / "results.json").read_text())
    assert (after["test"], after["dev"]) == (before["test"], before["dev"])
    assert (output / "predictions.parquet").read_bytes() == answers
    assert weights.stat().st_mtime_ns == time


@pytest.mark.timeout(240)
def test_dev_is_scored_where_there_is_no_test_split(tmp_path):
    kb, corpus = synthetic_corpus(seed=0)
    kb.to_parquet(tmp_path / "kb.parquet")
    (tmp_path / "corpus").mkdir()
    for split in ("train", "dev"):
        corpus[split].select(range(96)).to_json(tmp_path / "corpus" / f"{split}.jsonl")
    given = {"corpus": tmp_path / "corpus", "kb": tmp_path / "kb.parquet", "system": "tfidf"}
    done = run(tmp_path / "out", **given, test_split="dev")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["test"]) == SYSTEMS[:4]
    assert results["test"]["TF-IDF"]["mentions"] == 96
    assert results["counts"]["train"]["read"] + results["counts"]["dev"]["read"] == 96
    assert not (tmp_path / "out" / "bi-encoder").exists()
