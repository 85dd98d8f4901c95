import gzip

import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import read_corpus
from angel_trl.readers.mention_table import looks_like_askapatient, read_askapatient, read_cometa

HEADER = "\tID\tTerm\tGeneral SNOMED Label\tGeneral SNOMED ID\tSpecific SNOMED Label\tSpecific SNOMED ID\tExample\n"


def _row(number, term, example, general="1", specific="2"):
    return f"{number}\tc{number}\t{term}\tg\t{general}\ts\t{specific}\t{example}\n"


@pytest.fixture
def read(tmp_path):
    """Write rows below the header and read the table."""

    def write_and_read(*rows, header=HEADER, **options):
        (tmp_path / "train.csv").write_bytes((header + "".join(rows)).encode())
        return read_cometa(tmp_path / "train.csv", split="train", **options)

    return write_and_read


def test_cometa_term_is_found_in_its_example(read):
    dataset, report = read(_row(0, "brain fog", "Some Brain Fog, again", "40917007", "386806002"))
    assert dataset.to_list() == [
        {
            "id": "c0:5-14",
            "document_id": "c0",
            "text": "Some Brain Fog, again",
            "start": 5,
            "end": 14,
            "mention": "Brain Fog",
            "types": [],
            "concept_ids": [["40917007"]],
            "split": "train",
        }
    ]
    assert dataset.features == MENTION_FEATURES
    assert (report.read, report.used, report.notes) == (1, 1, {})


def test_cometa_specific_ids(read):
    dataset, _ = read(_row(0, "a", "a"), level="specific")
    assert dataset["concept_ids"][:] == [[["2"]]]
    with pytest.raises(ValueError, match=r"level must be one of \('general', 'specific'\), got 'both'"):
        read(_row(0, "a", "a"), level="both")


def test_cometa_prefers_a_word_of_its_own(read):
    dataset, report = read(_row(0, "ra", "brain and RA"), _row(1, "ra", "brain"), _row(2, "c++", "c+++ c++."))
    assert dataset["start"][:] == [10, 1, 0]
    assert report.notes == {"term within a word of its example": 1}


def test_cometa_term_that_its_example_lacks_stands_alone(read):
    dataset, report = read(_row(0, " migraines ", "my migraine"), _row(1, "migraines", ""))
    assert dataset["text"][:] == ["migraines", "migraines"]
    assert report.notes == {"term not found in its example": 2}
    validate_mentions(dataset)


def test_cometa_defective_rows_are_counted(read):
    dataset, report = read(
        _row(0, "", "x"),
        "0\tc1\tpain\n",
        _row(2, "pain", "pain", general=""),
        _row(2, "pain", "pain"),
        "\n",
    )
    assert dataset["document_id"][:] == ["c2", "c2#2"]
    assert report.skipped == {"empty mention": 1, "another number of cells than the header": 1}
    assert report.notes == {"no concept id": 1}
    assert (report.read, report.used) == (4, 2)
    assert report.examples["another number of cells than the header"][0].endswith("train.csv:3 '0 c1 pain'")


def test_cometa_quoted_cells_and_commas(read):
    rows = ('pain,"So much pain,\n""real"" pain",7\n', "gout,gout,8\n")
    dataset, report = read(*rows, header="\ufeffTerm,Example,General SNOMED ID\n")
    assert dataset["text"][:] == ['So much pain,\n"real" pain', "gout"]
    assert dataset["document_id"][:] == ["2", "4"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("Term\tExample\n", "", "train.csv:1: no column 'General SNOMED ID' in the header 'Term | Example'"),
        ("", "", "train.csv:1: no column 'Term'"),
        (HEADER, _row(0, "a", '"open'), "train.csv:2: broken quotes in this row"),
        (HEADER, _row(0, "a\0", "a"), "train.csv:2: a NUL byte"),
    ],
)
def test_cometa_errors_name_file_and_line(read, header, row, message):
    with pytest.raises(ValueError, match=message):
        read(row, header=header)


def test_cometa_folder(tmp_path):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text(HEADER + _row(0, "a", "a"))
    splits, _ = read_corpus(tmp_path, level="specific")
    assert {name: split["concept_ids"][0] for name, split in splits.items()} == {
        "train": [["2"]],
        "dev": [["2"]],
        "test": [["2"]],
    }


FOLD = "108367008\tJoint dislocation\tjoint out of place\n22253000\tPain\tpain\n22253000\tPain\tpain\n"


def test_askapatient_mention_is_the_text_and_repetitions_are_kept(tmp_path):
    (tmp_path / "f.txt").write_bytes((FOLD + "22253000\tPain\t pain\r\n").encode() + b"1\tA\tcaf\xe9 pain\n\n")
    dataset, report = read_askapatient(tmp_path / "f.txt", split="test")
    assert dataset["mention"][:] == ["joint out of place", "pain", "pain", "pain", "café pain"]
    assert dataset["text"][:] == dataset["mention"][:]
    assert dataset[1] == {
        "id": "test-2:0-4",
        "document_id": "test-2",
        "text": "pain",
        "start": 0,
        "end": 4,
        "mention": "pain",
        "types": [],
        "concept_ids": [["22253000"]],
        "split": "test",
    }
    validate_mentions(dataset)
    assert report.repaired == {"line read as Latin-1": 1}
    assert report.notes == {"mention without context repeated": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tA\n", "f.txt:1: .* has 2 tab-separated cells; expected concept id, concept name and mention"),
        (FOLD + "1\tA\tb\tc\n", "f.txt:4: .* has 4 tab-separated cells"),
        ("1\tA\tb\0\n", "f.txt:1: a NUL character"),
    ],
)
def test_askapatient_errors_name_file_and_line(tmp_path, text, message):
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_askapatient(tmp_path / "f.txt", split="train")


def test_askapatient_empty_mention_is_skipped(tmp_path):
    (tmp_path / "f.txt").write_text("1\tA\t \n")
    _, report = read_askapatient(tmp_path / "f.txt", split="train")
    assert (report.read, report.skipped) == (1, {"empty mention": 1})


@pytest.mark.parametrize(
    ("head", "expected"),
    [(FOLD, True), ("D1\ta|b\n", False), ("a b\tc\td\n", False), ("", False), ("1\tA\tb\n2\tA\n", False)],
)
def test_askapatient_is_told_by_its_three_cells(head, expected):
    assert looks_like_askapatient(head) is expected


@pytest.fixture
def folds(tmp_path):
    for fold in range(10):
        for name in ("train", "validation", "test"):
            text = f"{fold}\tA\t{name} {fold}\n"
            (tmp_path / f"AskAPatient.fold-{fold}.{name}.txt").write_text(text)
    return tmp_path


def test_a_fold_is_chosen(folds):
    splits, report = read_corpus(folds, fold=7)
    assert {name: split["mention"][:] for name, split in splits.items()} == {
        "train": ["train 7"],
        "dev": ["validation 7"],
        "test": ["test 7"],
    }
    assert (report.read, report.notes) == (3, {})


def test_a_fold_must_be_chosen_and_there(folds):
    with pytest.raises(ValueError, match="holds the folds 0, 1, 2, .* 9; choose one with fold="):
        read_corpus(folds)
    with pytest.raises(ValueError, match="no fold 10; it holds the folds 0, 1"):
        read_corpus(folds, fold=10)


def test_fold_of_a_corpus_without_folds(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + _row(0, "a", "a"))
    with pytest.raises(ValueError, match="no fold 0; it holds no files such as AskAPatient.fold-0.train.txt"):
        read_corpus(tmp_path, fold=0)


def test_a_file_of_a_fold_alone(folds):
    splits, _ = read_corpus(folds / "AskAPatient.fold-0.validation.txt")
    assert list(splits) == ["dev"]
    (folds / "one").mkdir()
    (folds / "one/TwADR-L.fold-3.test.txt.gz").write_bytes(gzip.compress(b"C1\tA\tb\n"))
    assert list(read_corpus(folds / "one")[0]) == ["test"]
