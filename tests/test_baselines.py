"""The baselines: which names are nearest and whose they are, whole runs and resumed ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict
from name_index import NameIndex
from predictions import Answers

from angel_trl import synthetic_corpus
from angel_trl.formatting import MentionFormatter
from angel_trl.lookup import StringLookup
from angel_trl.targets import NearestNames, TargetNames, prepare_mentions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recipes():
    """`(baselines, corpus_splits)`, the modules."""
    import baselines
    import corpus_splits

    return baselines, corpus_splits


@pytest.fixture(scope="module")
def recipe(recipes):
    return recipes[0]


@pytest.fixture(scope="module")
def splits(recipes):
    return recipes[1]


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
    index = NameIndex(small_kb)
    assert index.names == small_kb.names
    assert index.ids(small_kb.find("ms")) == ["C03", "C04"]


def test_training_mentions_are_further_names(recipe, small_kb, small_mentions):
    index = NameIndex(small_kb, of_split(small_mentions, "train"))
    further = index.names[small_kb.num_names :]
    assert further == ["refractory anaemia", "familial breast cancer", "breast and ovarian cancer"]
    assert [index.ids(small_kb.num_names + place) for place in range(3)] == [["C06"], ["C16"], ["C10", "C17"]]
    # "COLD" was C02 in the training mentions, and "A14" is two concepts.
    assert index.ids(small_kb.find("cold")) == ["C01", "C02"]
    assert index.ids(small_kb.find("NIDDM")) == ["C14", "C30"]


def test_names_and_ids_with_training_mentions_are_those_of_string_lookup(recipe, small_kb, small_mentions):
    train = of_split(small_mentions, "train")
    index, lookup = NameIndex(small_kb, train), StringLookup(small_kb, train)
    rows = [{"mention": name} for name in index.names]
    assert [[index.ids(place)] for place in range(len(index.names))] == lookup.predict(rows)


def test_mentions_that_normalise_to_nothing_or_have_no_concept_are_no_names(recipe, small_kb):
    rows = [
        {"mention": "+", "concept_ids": [["C01"]]},
        {"mention": "quinsy", "concept_ids": [["unknown"]]},
        {"mention": "catarrh", "concept_ids": []},
    ]
    assert NameIndex(small_kb, rows).names == small_kb.names


def test_answers_hold_ids_names_and_scores_of_those_found(recipe, small_kb):
    names = [small_kb.find("gout"), small_kb.find("ra")]
    scores = np.array([[0.9, 0.5], [0.7, 0.0]], dtype=np.float32)
    answers = NameIndex(small_kb).answers(np.array([names, [names[0], -1]]), scores)
    assert answers.ids == [[["C30"], ["C05", "C06"]], [["C30"]]]
    assert answers.names == [["gout", "ra"], ["gout"]]
    assert answers.scores == [pytest.approx([0.9, 0.5]), pytest.approx([0.7])]


def test_the_commonest_concept_is_the_one_that_training_mentions_mean_most_often(small_kb):
    def mention(text, *parts):
        return {"mention": text, "concept_ids": [list(part) for part in parts]}

    train = [
        mention("MS", ["C04"]),
        mention("ms", ["C03"]),
        mention("Ms", ["C03"]),
        mention("wasting", ["C10"], ["C17"]),
        mention("wasting", ["C10"], ["C17"]),
        mention("wasting", ["C10"]),
        mention("lumps", ["C02"]),
        mention("lumps", ["C01"]),
    ]
    index = NameIndex(small_kb, train)
    names = [small_kb.find("ms"), *range(small_kb.num_names, len(index.names)), small_kb.find("ra")]
    answers = index.answers(np.array([names]), np.zeros((1, 4), dtype=np.float32))
    assert answers.names == [["ms", "wasting", "lumps", "ra"]]
    assert answers.ids == [[["C03", "C04"], ["C10", "C17"], ["C01", "C02"], ["C05", "C06"]]]
    # A composite means both; what is meant equally often, the first; what no training mention bears, all.
    commonest = index.commonest(answers)
    assert commonest.ids == [[["C03"], ["C10", "C17"], ["C02"], ["C05", "C06"]]]
    assert (commonest.names, commonest.scores) == (answers.names, answers.scores)


def test_the_commonest_concept_of_what_string_lookup_finds_is_told_by_the_mention_itself(small_kb):
    train = [{"mention": "Ra", "concept_ids": [["C06"]]}]
    answers = Answers.of_lookup([[["C05", "C06"]], []], ["RA", "unheard of"])
    assert NameIndex(small_kb, train).commonest(answers).ids == [[["C06"]], []]


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
    "lookup + training mentions, commonest concept",
    "TF-IDF + training mentions, commonest concept",
    "bi-encoder + training mentions, commonest concept",
]


def run(output, *more, **settings):
    given = {**SHORT, "output_dir": output, **settings}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "recipes/baselines.py", *options, *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run on the synthetic data: its folder and what it printed."""
    pytest.importorskip("sentence_transformers", reason="the extra `baselines` is not installed")
    output = tmp_path_factory.mktemp("run")
    done = run(output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


def test_a_run_scores_every_system_on_the_test_split(made):
    output, done = made
    results = json.loads((output / "results.json").read_text())
    assert list(results["test"]) == SYSTEMS
    assert {row["mentions"] for row in results["test"].values()} == {1000}
    assert results["test"]["lookup"]["acc@1"] == pytest.approx(22.6)
    assert results["test"]["TF-IDF"]["acc@1"] > 22.6
    assert len(results["test"]["bi-encoder"]["acc@1_ci"]) == 2
    assert len(results["dev"]["bi-encoder"]) == 2
    assert set(results["seconds"]) == {name for name in SYSTEMS if not name.startswith("lookup")}
    line = json.loads(done.stdout.splitlines()[-1])
    assert list(line) == [*SYSTEMS, "seconds"]
    assert "| bi-encoder |" in (output / "report.md").read_text()
    assert (output / "learning_curve.png").exists()


def test_every_answer_is_kept(made):
    output, _ = made
    table = pq.read_table(output / "predictions.parquet")
    assert table.column_names == ["system", "mention_id", "ids", "names", "scores"]
    assert table["system"].unique().to_pylist() == SYSTEMS
    assert len(table) == 9 * 1000
    for row in table.slice(4000, 20).to_pylist():
        assert len(row["ids"]) == len(row["names"]) == len(row["scores"]) == 5
        assert row["scores"] == sorted(row["scores"], reverse=True)


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
    assert list(results["test"]) == [*SYSTEMS[:4], *SYSTEMS[6:8]]
    assert results["test"]["TF-IDF"]["mentions"] == 96
    assert results["counts"]["train"]["read"] + results["counts"]["dev"]["read"] == 96
    assert not (tmp_path / "out" / "bi-encoder").exists()
