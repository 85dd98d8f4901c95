"""MedMentions, BioRED, and what real PubTator files hold."""

import gzip

import pytest

from angel_trl.mentions import validate_mentions
from angel_trl.readers import read_corpus, read_pubtator
from angel_trl.readers.medmentions import read_medmentions

CORPUS = (
    "10|t|DCTN4 in cystic fibrosis\n10|a|Pa infection.\n"
    "10\t0\t5\tDCTN4\tT116,T123\tUMLS:C4308010\n10\t9\t24\tcystic fibrosis\tT047\tC0010674\n\n"
    "20|t|Fever\n20|a|.\n20\t0\t5\tFever\tT184\tUMLS:C0015967\n\n"
    "30|t|Gout\n30|a|.\n30\t0\t4\tGout\tT047\tUMLS:C0018099\n\n"
)


@pytest.fixture
def release(tmp_path):
    """The release's layout: the lists stand in full/data only."""
    for name in ("full", "st21pv"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data/corpus_pubtator.txt.gz").write_bytes(gzip.compress(CORPUS.encode()))
    for name, ids in (("trng", "10\n"), ("dev", "20\n"), ("test", "30\n"), ("all", "10\n20\n30\n")):
        (tmp_path / f"full/data/corpus_pubtator_pmids_{name}.txt").write_text(ids)
    return tmp_path


@pytest.mark.parametrize("place", ["full/data", "st21pv/data", "full/data/corpus_pubtator.txt.gz"])
def test_lists_of_pmids_tell_the_splits(release, place):
    splits, report = read_corpus(release / place)
    assert {name: split["mention"][:] for name, split in splits.items()} == {
        "train": ["DCTN4", "cystic fibrosis"],
        "dev": ["Fever"],
        "test": ["Gout"],
    }
    assert [split["split"][0] for split in splits.values()] == ["train", "dev", "test"]
    assert (report.read, report.used) == (4, 4)
    for split in splits.values():
        validate_mentions(split)


def test_semantic_types_are_split_and_cuis_have_one_spelling(release):
    splits, report = read_medmentions(release / "full/data")
    assert splits["train"]["types"][:] == [["T116", "T123"], ["T047"]]
    assert splits["train"]["concept_ids"][:] == [[["C4308010"]], [["C0010674"]]]
    assert report.notes == {"id UMLS:C... written C...": 3}


def test_document_in_no_list_is_skipped_and_a_listed_one_missing_is_noted(release):
    (release / "full/data/corpus_pubtator_pmids_dev.txt").write_text("21\n")
    splits, report = read_medmentions(release / "full/data")
    assert len(splits["dev"]) == 0
    assert (report.read, report.used, report.skipped) == (4, 3, {"document in no split": 1})
    assert report.notes["listed document that the corpus does not have"] == 1
    with pytest.raises(ValueError, match="full/data: split dev is empty: 3 of 4 records used"):
        read_corpus(release / "full/data")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("corpus_pubtator_pmids_dev.txt", "20\n10\n", "_dev.txt:2: '10' is of split dev here and of train at .*:1"),
        ("corpus_pubtator_pmids_dev.txt", "20 21\n", "_dev.txt:1: '20 21' is not one document id"),
        ("corpus_pubtator_pmids_dev.txt.gz", "20\n", "two lists for dev: corpus_pubtator_pmids_dev.txt and"),
        ("corpus_pubtator.txt", CORPUS, "expected one PubTator file .* found corpus_pubtator.txt, corpus_pubt"),
    ],
)
def test_defective_release(release, name, text, message):
    (release / "full/data" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_medmentions(release / "full/data")


def test_medmentions_without_lists(release):
    for file in (release / "full/data").glob("*pmids*"):
        file.unlink()
    with pytest.raises(ValueError, match="none of corpus_pubtator_pmids_trng.txt, .* in it or in ../../full/data"):
        read_medmentions(release / "st21pv/data")


BIORED = "1|t|Ataxia and FAP in mice\n1|a|Breast or ovarian cancer.\n"


@pytest.mark.parametrize(
    ("kind", "label", "concept_ids"),
    [
        ("DiseaseOrPhenotypicFeature", "D003693,D001234", [["D003693"], ["D001234"]]),
        ("GeneOrGeneProduct", "2931, 2932", [["2931"], ["2932"]]),
        ("SequenceVariant", "p|DEL|439_443|", [["p|DEL|439_443|"]]),
        ("SequenceVariant", "c|SUB|G|12|A", [["c|SUB|G|12|A"]]),
        ("SequenceVariant", "|SUB|V|600|E", [["|SUB|V|600|E"]]),
        ("SequenceVariant", "rs1,p|SUB|V|600|E", [["rs1"], ["p|SUB|V|600|E"]]),
        ("OrganismTaxon", "10090", [["10090"]]),
        ("CellLine", "-", []),
    ],
)
def test_biored_ids(tmp_path, kind, label, concept_ids):
    (tmp_path / "c.txt").write_text(f"{BIORED}1\t11\t14\tFAP\t{kind}\t{label}\n")
    dataset, _ = read_pubtator(tmp_path / "c.txt", split="train")
    assert dataset["concept_ids"][:] == [concept_ids]
    assert dataset["types"][:] == [[kind]]


def test_biored_relations_are_no_mentions(tmp_path):
    line = "1\tPositive_Correlation\tp|DEL|439_443|\tC564766\tNovel\n"
    (tmp_path / "c.txt").write_text(BIORED + line)
    dataset, report = read_pubtator(tmp_path / "c.txt", split="train")
    assert (len(dataset), report.read, report.notes) == (0, 0, {"relation line ignored": 1})


def test_offset_of_thousands_of_digits_is_one_clear_error(tmp_path):
    (tmp_path / "c.txt").write_text(f"{BIORED}1\t{'9' * 5000}\t14\tFAP\tD\tD1\n")
    with pytest.raises(ValueError, match="c.txt:3: start offset must be an integer, got '999"):
        read_pubtator(tmp_path / "c.txt", split="train")


def test_more_mentions_than_a_batch_holds(tmp_path):
    lines = "".join(f"1\t11\t14\tFAP\tD\tD{number}\n" for number in range(25_001))
    (tmp_path / "c.txt").write_text(BIORED + lines)
    dataset, report = read_pubtator(tmp_path / "c.txt", split="train")
    assert len(dataset) == report.used == 25_001
    assert dataset[25_000]["id"] == "1:11-14#25001"
    assert dataset[25_000]["concept_ids"] == [["D25000"]]


def _documents(dataset):
    return len(set(dataset["document_id"]))


def _several_ids(dataset):
    return sum(sum(map(len, ids)) > 1 for ids in dataset["concept_ids"])


def test_counts_of_ncbi_disease(shared):
    """As annotated: 593 documents, PMID 8528200 twice; the 11 mentions of its repetition are skipped."""
    splits, report = read_corpus(shared / "data/ncbi_disease")
    train_file = (shared / "data/ncbi_disease/NCBItrainset_corpus.txt").read_text()
    assert train_file.count("|t|") == 593
    assert {name: _documents(split) for name, split in splits.items()} == {"train": 592, "dev": 100, "test": 100}
    assert report.notes["document repeated word for word"] == 1
    train, train_report = read_pubtator(shared / "data/ncbi_disease/NCBItrainset_corpus.txt", split="train")
    assert (train_report.read, train_report.used) == (5145, 5134)
    assert {name: _several_ids(split) for name, split in splits.items()} == {"train": 115, "dev": 30, "test": 15}
    assert train["concept_ids"][:] == splits["train"]["concept_ids"][:]


def test_counts_of_bc5cdr(shared):
    splits, report = read_corpus(shared / "data/bc5cdr")
    assert {name: _documents(split) for name, split in splits.items()} == {"train": 500, "dev": 500}
    assert {name: len(split) for name, split in splits.items()} == {"train": 9385, "dev": 9591}
    assert [sum(not ids for ids in split["concept_ids"]) for split in splits.values()] == [76, 59]
    assert report.notes["relation line ignored"] == 2050
