import gzip

import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import read_corpus
from angel_trl.readers.source_target import read_source_target

SOURCE = "loss of START fap END in mice\nSTART ataxia END\nrisk of START breast or ovarian cancer END\n"
TARGET = "fap is adenomatous polyposis\nataxia is ataxia\nbreast or ovarian cancer is breast cancer\n"
LABEL = "D011125|OMIM:175100\nD001259\nD001943+D010051\n"


@pytest.fixture
def read(tmp_path):
    """Write `train.source`, `.label` and, unless it is `None`, `.target`, and read them."""

    def write_and_read(source=SOURCE, label=LABEL, target=TARGET):
        for name, text in (("source", source), ("label", label), ("target", target)):
            if text is not None:
                (tmp_path / f"train.{name}").write_bytes(text.encode())
        return read_source_target(tmp_path / "train.source", split="train")

    return write_and_read


def test_text_is_the_source_without_its_markers(read):
    dataset, report = read()
    assert dataset[0] == {
        "id": "train-1:8-11",
        "document_id": "train-1",
        "text": "loss of fap in mice",
        "start": 8,
        "end": 11,
        "mention": "fap",
        "types": [],
        "concept_ids": [["D011125", "OMIM:175100"]],
        "split": "train",
    }
    assert dataset["text"][1:] == ["ataxia", "risk of breast or ovarian cancer"]
    assert dataset["concept_ids"][1:] == [[["D001259"]], [["D001943"], ["D010051"]]]
    assert dataset.features == MENTION_FEATURES
    validate_mentions(dataset)
    assert (report.read, report.used, report.notes) == (3, 3, {})


def test_targets_are_optional(read):
    dataset, _ = read(target=None)
    assert len(dataset) == 3


def test_start_and_end_within_words_are_no_markers(read):
    dataset, _ = read("RESTART START fap END ENDED\n", "D1\n", None)
    assert dataset["text"][:] == ["RESTART fap ENDED"]


def test_mention_that_contains_is(read):
    dataset, _ = read("START what this is called END here\n", "D1\n", "what this is called is asthma\n")
    assert dataset["mention"][:] == ["what this is called"]


def test_other_targets_of_a_mention_are_skipped(read):
    dataset, report = read("a START b END\n" * 3, "D1\n" * 3, "b is x\nb is y\nb is x\n")
    assert len(dataset) == 1
    assert report.skipped == {"another target of a mention": 1, "mention repeated word for word": 1}
    assert (report.read, report.used) == (3, 1)


def test_mention_without_context_may_occur_again(read):
    dataset, report = read("START b END\n" * 2, "D1\n" * 2, "b is x\n" * 2)
    assert dataset["id"][:] == ["train-1:0-1", "train-2:0-1"]
    assert report.notes == {"mention without context repeated": 1}


def test_same_source_with_another_label_is_kept(read):
    dataset, _ = read("a START b END\n" * 2, "D1\nD2\n", None)
    assert dataset["concept_ids"][:] == [[["D1"]], [["D2"]]]


@pytest.mark.parametrize("label", ["\n", "-1\n"])
def test_mention_without_concept_is_kept_and_noted(read, label):
    dataset, report = read("a START b END\n", label, None)
    assert dataset["concept_ids"][:] == [[]]
    assert report.notes == {"no concept id": 1}


def test_empty_mention_is_skipped(read):
    _, report = read("a START END b\n", "D1\n", None)
    assert report.skipped == {"empty mention": 1}


@pytest.mark.parametrize(
    ("source", "label", "target", "message"),
    [
        ("a b\n", "D1\n", None, r"train.source:1: 'a b' must have one START and then one END .* it has neither"),
        ("START a END\na START b\n", "D1\nD2\n", None, "train.source:2: .* it has START"),
        ("END a START\n", "D1\n", None, "train.source:1: .* it has END START"),
        ("START a START b END\n", "D1\n", None, "train.source:1: .* it has START START END"),
        ("\n", "D1\n", None, "train.source:1: '' must have"),
        ("START a END\nSTART b END\n", "D1\n", None, "train.source:2: train.label ended at line 1: .* not line up"),
        ("START a END\n", "D1\nD2\n", None, "train.label:2: train.source ended at line 1"),
        ("START a END\n", "D1\n", "", "train.source:1: train.target ended at line 0"),
    ],
)
def test_lines_without_markers_or_that_do_not_line_up(read, source, label, target, message):
    with pytest.raises(ValueError, match=message):
        read(source, label, target)


def test_label_file_is_needed(tmp_path):
    (tmp_path / "train.source").write_text(SOURCE)
    with pytest.raises(FileNotFoundError, match="train.source: a .source file needs a .label file beside it"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_folder_of_three_splits(tmp_path, ending):
    for split in ("train", "dev", "test"):
        for name, text in (("source", SOURCE), ("label", LABEL), ("target", TARGET)):
            data = text.replace("\n", "\r\n").encode()
            (tmp_path / f"{split}.{name}{ending}").write_bytes(gzip.compress(data) if ending else data)
    splits, report = read_corpus(tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "dev": 3, "test": 3}
    assert splits["dev"]["document_id"][0] == "dev-1"
    assert splits["test"]["concept_ids"][2] == [["D001943"], ["D010051"]]
    assert (report.read, report.used, report.notes) == (9, 9, {})
