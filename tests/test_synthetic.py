"""The synthetic knowledge base and corpus: size, offsets, decided ambiguity, splits, floors, determinism."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from datasets import DatasetDict

from angel_trl.kb import KnowledgeBase
from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.normalization import normalize
from angel_trl.synthetic import FAMILIES, Entry, synthetic_corpus, synthetic_entries, synthetic_knowledge_base
from angel_trl.synthetic.concepts import deciding_words
from angel_trl.synthetic.corpus import MAX_WORDS, MIN_WORDS, Passage, SurfaceIndex
from angel_trl.synthetic.frames import FILLERS, all_frames
from angel_trl.synthetic.vocabulary import CUES, DISEASE_WORDS, DRUG_WORDS

SPLITS = ("train", "dev", "test")
SEEDS = (0, 1, 2)


@cache
def generated(seed: int) -> tuple[KnowledgeBase, DatasetDict]:
    """`synthetic_corpus(seed)`, made once for all tests that only read it."""
    return synthetic_corpus(seed)


@pytest.fixture(scope="module")
def corpus() -> tuple[KnowledgeBase, DatasetDict]:
    """Knowledge base and mentions of seed 0."""
    return generated(0)


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    """Entries of seed 0 by id."""
    return {entry.id: entry for entry in synthetic_entries(0)}


@pytest.fixture
def renal_failure(entries) -> Entry:
    """The concept "renal failure" of seed 0."""
    (entry,) = (entry for entry in entries.values() if entry.names[0] == "renal failure")
    return entry


def gold_id(row: dict) -> str:
    """The single gold id of a synthetic mention."""
    ((concept_id,),) = row["concept_ids"]
    return concept_id


def digest(corpus: tuple[KnowledgeBase, DatasetDict]) -> str:
    """A digest of everything in a corpus and its knowledge base."""
    kb, splits = corpus
    rows = {split: splits[split].to_list() for split in SPLITS}
    return hashlib.sha256(json.dumps([kb.fingerprint, rows], sort_keys=True).encode()).hexdigest()


def lookup_floor(kb: KnowledgeBase, splits: DatasetDict, *, with_train: bool) -> float:
    """Expected Acc@1 (percent) on test of string lookup when one id of an ambiguous string is drawn."""
    ids = {name: set(kb.ids_of_name(i)) for i, name in enumerate(kb.names)}
    if with_train:
        for row in splits["train"]:
            ids.setdefault(normalize(row["mention"]), set()).add(gold_id(row))
    found = [(gold_id(row), ids.get(normalize(row["mention"]), ())) for row in splits["test"]]
    return 100 * sum(1 / len(candidates) for gold, candidates in found if gold in candidates) / len(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_knowledge_base_has_the_promised_size(seed):
    statistics = synthetic_knowledge_base(seed).statistics()
    assert statistics["concepts"] >= 600
    assert statistics["names"] >= 2400
    assert statistics["homonyms"] >= 50
    assert statistics["names_lost"] == 0
    assert statistics["duplicates_merged"] == 0


def test_seed_0_has_the_published_counts(corpus):
    kb, splits = corpus
    assert (len(kb), kb.num_names) == (647, 2585)
    assert [len(splits[split]) for split in SPLITS] == [2200, 800, 1000]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_family_is_there(seed):
    assert FAMILIES == ("numbered types", "eponyms", "near-synonyms", "body sites", "drugs")
    count = Counter(entry.family for entry in synthetic_entries(seed))
    assert set(count) == set(FAMILIES)
    assert min(count.values()) >= 90


def test_diseases_and_drugs_share_abbreviations(corpus):
    kb, _ = corpus
    shared = [name for i, name in enumerate(kb.names) if len({cid[4] for cid in kb.ids_of_name(i)}) == 2]
    assert len(shared) >= 15
    assert all(name.isalpha() and len(name) <= 4 for name in shared)


def test_ids_are_in_our_own_namespace_and_follow_the_type(corpus):
    kb, _ = corpus
    for concept in kb.concepts:
        pattern = {("Disease",): r"SYN:D\d{4}", ("Drug",): r"SYN:C\d{4}"}[concept.types]
        assert re.fullmatch(pattern, concept.id)


def test_everything_is_labelled_synthetic(corpus):
    kb, splits = corpus
    assert "synthetic" in kb.source
    assert all(concept.definition.startswith("Synthetic ") for concept in kb.concepts)
    assert all(document_id.startswith("SYN:") for split in SPLITS for document_id in splits[split]["document_id"])


@pytest.mark.parametrize("seed", SEEDS)
def test_preferred_names_are_unique(seed):
    preferred = [normalize(entry.names[0]) for entry in synthetic_entries(seed)]
    assert len(set(preferred)) == len(preferred)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_concept_has_names_to_choose_from_and_forms_outside_the_knowledge_base(seed):
    for entry in synthetic_entries(seed):
        assert 2 <= len(entry.names) <= 5
        assert entry.variants
        assert not {normalize(v) for v in entry.variants} & {normalize(n) for n in entry.names}


def test_one_concept_in_full(renal_failure):
    entry = renal_failure
    assert entry.family == "body sites"
    assert entry.attributes == {"kind": "Disease", "site": "kidney"}
    assert set(entry.surface_forms) - {"RF"} == {
        "renal failure",
        "kidney failure",
        "failure of the kidney",
        "failure, renal",
        "renal insufficiency",
        "kidney insufficiency",
        "insufficiency of the kidney",
        "failure",
        "insufficiency",
    }


def test_there_are_at_least_40_distinct_frames():
    assert len(set(all_frames())) == len(all_frames()) == 60


def test_no_cue_word_points_to_two_values():
    count = Counter(word for cue in CUES.values() for word in set(cue.words))
    assert [word for word, times in count.items() if times > 1] == []


def test_every_cue_phrase_contains_a_word_of_its_own_value_and_of_no_other():
    value_of = {word: key for key, cue in CUES.items() for word in cue.words}
    for key, cue in CUES.items():
        for phrase in cue.phrases:
            assert {value_of[word] for word in phrase.split() if word in value_of} == {key}, phrase


def test_frames_contain_no_cue_but_that_of_their_semantic_type():
    finer = {word for (axis, _), cue in CUES.items() if axis != "kind" for word in cue.words}
    for frame in all_frames():
        words = set(normalize(re.sub(r"\{\w+\}", " ", frame)).split())
        assert not words & finer, frame
        assert ("{disease}" in frame) == bool(words & set(DISEASE_WORDS)) or "{drug}" in frame, frame
        assert "{drug}" in frame or not words & set(DRUG_WORDS), frame
        assert "{disease}" in frame or not words & set(DISEASE_WORDS), frame
        assert words & {*DISEASE_WORDS, *DRUG_WORDS} or "{cue}" in frame or frame.count("{") > 1, frame


def test_fillers_contain_no_cue():
    cues = {word for cue in CUES.values() for word in cue.words}
    assert not {word for filler in FILLERS for word in normalize(filler).split()} & cues


@pytest.mark.parametrize("seed", SEEDS)
def test_mentions_are_valid_and_their_gold_is_in_the_knowledge_base(seed):
    kb, splits = generated(seed)
    assert tuple(splits) == SPLITS
    for split in SPLITS:
        assert splits[split].features == MENTION_FEATURES
        validate_mentions(splits[split])
        assert set(splits[split]["split"]) == {split}
        for row in splits[split]:
            (index,) = kb.resolve(gold_id(row))
            assert list(kb.concepts[index].types) == row["types"]


def test_passages_have_12_to_40_words(corpus):
    _, splits = corpus
    lengths = [len(text.split()) for split in SPLITS for text in splits[split]["text"]]
    assert (MIN_WORDS, MAX_WORDS) == (12, 40)
    assert min(lengths) >= 12
    assert max(lengths) <= 40


@pytest.mark.parametrize("seed", SEEDS)
def test_every_ambiguous_mention_is_decided_by_its_passage(seed):
    """Recomputed from the rows: no surface form may rest on words inside the mention or on two readings."""
    entries = {entry.id: entry for entry in synthetic_entries(seed)}
    index = SurfaceIndex(entries.values())
    _, splits = generated(seed)
    # Also what the corpus itself uses one form for, should the index have missed it.
    used: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in splits[split]:
            used.setdefault(normalize(row["mention"]), set()).add(gold_id(row))
    ambiguous = 0
    for split in SPLITS:
        for row in splits[split]:
            gold = entries[gold_id(row)]
            ids = {c.id for c in index.candidates(row["mention"])} | used[normalize(row["mention"])]
            candidates = [entries[i] for i in sorted(ids)]
            if len(candidates) == 1:
                continue
            ambiguous += 1
            outside = set(normalize(row["text"][: row["start"]] + " " + row["text"][row["end"] :]).split())
            assert outside & deciding_words(gold, candidates), row
            for other in candidates:
                assert other.id == gold.id or not outside & deciding_words(other, candidates), row
    assert 0.25 <= ambiguous / sum(len(splits[split]) for split in SPLITS) <= 0.45


def test_is_decided_refuses_a_missing_and_a_contradicting_cue(entries, renal_failure):
    index = SurfaceIndex(entries.values())
    gold = renal_failure

    def decided(context: str) -> bool:
        text = f"failure {context}"
        return index.is_decided(Passage(text, ((0, 7, gold),)), (0, 7, gold))

    assert decided("on a scan of the kidney")
    assert not decided("was recorded")
    assert not decided("on a scan of the kidney and of the liver")


def test_no_passage_and_no_sentence_with_a_mention_stands_in_two_splits(corpus):
    _, splits = corpus
    sentences = {
        split: {part for text in splits[split]["text"] for part in re.split(r"(?<=\.) ", text)} - set(FILLERS)
        for split in SPLITS
    }
    documents = {split: set(splits[split]["document_id"]) for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not sentences[one] & sentences[other]
        assert not documents[one] & documents[other]


@pytest.mark.parametrize("seed", SEEDS)
def test_test_has_surface_forms_and_concepts_that_train_lacks(seed):
    _, splits = generated(seed)
    surfaces = {normalize(mention) for mention in splits["train"]["mention"]}
    concepts = {gold_id(row) for row in splits["train"]}
    rows = splits["test"].to_list()
    assert 0.45 <= sum(normalize(row["mention"]) not in surfaces for row in rows) / len(rows) <= 0.6
    assert 0.05 <= sum(gold_id(row) not in concepts for row in rows) / len(rows) <= 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_string_lookup_is_a_real_floor_that_can_be_beaten(seed):
    kb, splits = generated(seed)
    assert 18 <= lookup_floor(kb, splits, with_train=False) <= 32
    assert 38 <= lookup_floor(kb, splits, with_train=True) <= 52


def test_the_vocabulary_is_small(entries):
    names = SurfaceIndex(entries.values()).words
    frames = {word for sentence in (*all_frames(), *FILLERS) for word in normalize(sentence).split()}
    phrases = {word for cue in CUES.values() for phrase in cue.phrases for word in phrase.split()}
    assert len(names | frames | phrases) < 1000


def test_another_seed_gives_other_data(corpus):
    other = generated(1)
    assert other[0].fingerprint != corpus[0].fingerprint
    assert digest(other) != digest(corpus)


def test_the_same_seed_gives_the_same_data_again(corpus):
    assert digest(synthetic_corpus(0)) == digest(corpus)


def test_knowledge_base_alone_is_the_one_of_the_corpus(corpus):
    assert synthetic_knowledge_base(0).fingerprint == corpus[0].fingerprint


def test_same_seed_gives_the_same_data_in_another_process_with_another_hash_seed(corpus):
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": root}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == digest(corpus)


if __name__ == "__main__":  # the other process of the test above
    print(digest(synthetic_corpus(0)))
