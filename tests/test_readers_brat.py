import gzip

import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import read_corpus
from angel_trl.readers.brat import read_brat

TEXT = "Ataxia and FAP in mice\nBreast or ovarian cancer."
# Ataxia 0-6, FAP 11-14, mice 18-22, the second line 23-48, Breast 23-29, ovarian 33-40, cancer 41-47


@pytest.fixture
def read(tmp_path):
    """Write `a.txt` and `a.ann` and read their folder."""

    def write_and_read(*lines, text=TEXT):
        (tmp_path / "a.txt").write_bytes(text.encode())
        (tmp_path / "a.ann").write_bytes("".join(f"{line}\n" for line in lines).encode())
        return read_brat(tmp_path, split="train")

    return write_and_read


def test_mention_with_its_normalisation(read):
    dataset, report = read("T1\tDisease 11 14\tFAP", "N1\tReference T1 MESH:D011125\tAdenomatous Polyposis Coli")
    assert dataset.to_list() == [
        {
            "id": "a:11-14",
            "document_id": "a",
            "text": TEXT,
            "start": 11,
            "end": 14,
            "mention": "FAP",
            "types": ["Disease"],
            "concept_ids": [["MESH:D011125"]],
            "split": "train",
        }
    ]
    assert dataset.features == MENTION_FEATURES
    assert (report.read, report.used, report.repaired, report.notes) == (1, 1, {}, {})


def test_several_normalisations_are_alternatives(read):
    dataset, report = read("N2\tReference T1 OMIM:175100", "T1\tD 11 14\tFAP", "N1\tReference T1 UMLS:C0032580\tx")
    assert dataset["concept_ids"][:] == [[["OMIM:175100", "C0032580"]]]
    assert report.notes == {"several normalisations read as alternatives": 1, "id UMLS:C... written C...": 1}


def test_mention_without_normalisation_is_kept_and_noted(read):
    dataset, report = read("T1\tDisease 0 6\tAtaxia")
    assert dataset["concept_ids"][:] == [[]]
    assert report.notes == {"no concept id": 1}


def test_discontinuous_mention_becomes_the_passage_that_covers_it(read):
    dataset, report = read("T1\tDisease 23 29;41 47\tBreast cancer")
    assert dataset["mention"][:] == ["Breast or ovarian cancer"]
    assert report.repaired == {"discontinuous mention widened to the passage that covers it": 1}


def test_fragments_across_a_line_end_are_continuous(read):
    dataset, report = read("T1\tX 18 22;23 29\tmice Breast", "T2\tX 18 29\tmice Breast")
    assert dataset["mention"][:] == ["mice\nBreast", "mice\nBreast"]
    assert report.repaired == {}
    validate_mentions(dataset)


@pytest.mark.parametrize("offsets", ["23 29;40 46", "23 29;41 470", "-3 2;41 47", "29 23;41 47"])
def test_fragments_that_are_not_the_stated_text_are_skipped(read, offsets):
    _, report = read(f"T1\tDisease {offsets}\tBreast cancer")
    assert report.skipped == {"mention not found at its offsets or nearby": 1}


def test_wrong_offset_is_repaired_nearby(read):
    dataset, report = read("T1\tDisease 13 16\tFAP", "T2\tDisease 0 3\tcancer", "T3\tDisease 0 6")
    assert dataset["start"][:] == [11]
    assert report.repaired == {"wrong offset": 1}
    assert report.skipped == {"mention not found at its offsets or nearby": 1, "empty mention": 1}
    assert (report.read, report.used) == (3, 1)


def test_other_lines_are_noted(read):
    _, report = read(
        "T1\tD 0 6\tAtaxia",
        "R1\tCauses Arg1:T1 Arg2:T1",
        "E1\tD:T1",
        "A1\tNegated T1",
        "*\tEquiv T1 T1",
        "#1\tAnnotatorNotes T1\tsure?",
        "N1\tReference T9 MESH:D1",
        "",
    )
    assert report.notes["line that is neither mention nor normalisation ignored"] == 5
    assert report.notes["normalisation of no mention ignored"] == 1


def test_windows_line_ends_count_as_the_annotations_have_it(read):
    windows = TEXT.replace("\n", "\r\n")
    dataset, report = read("T1\tD 24 30\tBreast", text=windows)
    assert (dataset["start"][0], report.notes) == (24, {"no concept id": 1})
    dataset, report = read("T1\tD 23 29\tBreast", "T2\tD 41 47\tcancer", text=windows)
    assert dataset["start"][:] == [23, 41]
    assert dataset["text"][0] == TEXT
    assert report.notes["Windows line ends read as one character"] == 1
    assert report.repaired == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Dear reader", "a.ann:2: 'Dear reader' is not standoff"),
        ("X1\tDisease 0 6\tAtaxia", "a.ann:2: .* is not standoff"),
        ("T2\tDisease\tAtaxia", "a.ann:2: 'Disease' is not a type and offsets"),
        ("T2\tDisease 0 x\tAtaxia", "a.ann:2: 'Disease 0 x' is not a type and offsets"),
        ("T2\tDisease 0 6;\tAtaxia", "a.ann:2: .* is not a type and offsets"),
        ("T1\tDisease 0 6\tAtaxia", "a.ann:2: id 'T1' stands at .*a.ann:1 already"),
        ("N1\tReference T1\tname", "a.ann:2: 'Reference T1' is not 'Reference <mention> <resource>:<id>'"),
    ],
)
def test_malformed_lines(read, line, message):
    with pytest.raises(ValueError, match=message):
        read("T1\tDisease 0 6\tAtaxia", line)


def test_annotations_need_their_text(tmp_path):
    (tmp_path / "a.ann").write_text("T1\tD 0 6\tAtaxia\n")
    with pytest.raises(ValueError, match=r"a.ann: no a.txt beside it"):
        read_brat(tmp_path, split="train")


def test_undecodable_text_names_line_and_byte(tmp_path):
    (tmp_path / "a.ann").write_text("T1\tD 0 6\tAtaxia\n")
    (tmp_path / "a.txt").write_bytes(b"Ataxia\ncaf\xe9")
    with pytest.raises(ValueError, match=r"a.txt:2: not UTF-8 text: byte b'\\xe9'"):
        read_brat(tmp_path, split="train")


def _pair(folder, name="a", ending=""):
    folder.mkdir(exist_ok=True)
    for suffix, text in (("txt", TEXT), ("ann", "T1\tD 0 6\tAtaxia\nN1\tReference T1 MESH:D1\tx\n")):
        data = gzip.compress(text.encode()) if ending else text.encode()
        (folder / f"{name}.{suffix}{ending}").write_bytes(data)


def test_subfolders_tell_the_splits(tmp_path):
    for name, ending in (("train", ""), ("development", ".gz"), ("test", "")):
        _pair(tmp_path / name, ending=ending)
    _pair(tmp_path / "train", "b")
    (tmp_path / "train/c.txt").write_text("No annotations.")
    splits, report = read_corpus(tmp_path)
    assert {name: split["document_id"][:] for name, split in splits.items()} == {
        "train": ["a", "b"],
        "dev": ["a"],
        "test": ["a"],
    }
    assert (report.read, report.used, report.notes) == (4, 4, {"text without annotations": 1})


def test_folder_without_subfolders_is_one_split(tmp_path):
    _pair(tmp_path / "brat")
    _pair(tmp_path / "brat_test")
    assert list(read_corpus(tmp_path / "brat")[0]) == ["train"]
    assert list(read_corpus(tmp_path / "brat_test")[0]) == ["test"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train", "training"], "two folders for train: train and training"),
        (["train", "other"], "other: its name tells no split"),
        (["train", "."], "its name tells no split"),
    ],
)
def test_folders_that_do_not_tell_the_splits(tmp_path, names, message):
    root = tmp_path / "root"
    root.mkdir()
    for name in names:
        _pair(root / name)
    with pytest.raises(ValueError, match=message):
        read_corpus(root)
