import gzip
import json

import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import read_corpus
from angel_trl.readers.mention_jsonl import read_mention_jsonl, read_mention_jsonl_splits

ROW = {"text": "Ataxia and FAP in mice", "start": 11, "end": 14, "concept_ids": [["D011125", "OMIM:175100"]]}


@pytest.fixture
def read(tmp_path):
    """Write rows (objects, or text as it is) and read them as split "train"."""

    def write_and_read(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "c.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return read_mention_jsonl(tmp_path / "c.jsonl", split="train")

    return write_and_read


def test_the_least_a_line_needs(read):
    dataset, report = read(ROW)
    assert dataset.to_list() == [
        {
            **ROW,
            "id": "1:11-14",
            "document_id": "1",
            "mention": "FAP",
            "types": [],
            "split": "train",
        }
    ]
    assert dataset.features == MENTION_FEATURES
    assert (report.read, report.used) == (1, 1)


def test_what_datasets_writes_is_read_as_it_was(small_mentions, tmp_path):
    small_mentions.to_json(tmp_path / "all.jsonl")
    splits, report = read_corpus(tmp_path / "all.jsonl")
    assert [row for split in splits.values() for row in split] == small_mentions.to_list()
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "dev": 8}
    assert (report.read, report.used, report.repaired, report.notes) == (24, 24, {}, {})


@pytest.mark.parametrize(
    ("stated", "concept_ids"),
    [
        ("D1", [["D1"]]),
        ("D1|D2+D3", [["D1", "D2"], ["D3"]]),
        (["D1", "D2"], [["D1"], ["D2"]]),
        ([["D1", "D2"], ["D3"]], [["D1", "D2"], ["D3"]]),
        ([["p|SUB|V|600|E"], "a+b"], [["p|SUB|V|600|E"], ["a+b"]]),
        (["UMLS:C0010674"], [["UMLS:C0010674"]]),
        ([], []),
        (None, []),
        ("-1", []),
        ([[]], []),
        ([" D1 ", "D1"], [["D1"]]),
    ],
)
def test_forms_of_concept_ids(read, stated, concept_ids):
    dataset, _ = read({**ROW, "concept_ids": stated})
    assert dataset["concept_ids"][:] == [concept_ids]


def test_types_may_be_a_string(read):
    dataset, _ = read({**ROW, "types": "Disease"}, {**ROW, "types": ["T047", "T191"]}, {**ROW, "types": None})
    assert dataset["types"][:] == [["Disease"], ["T047", "T191"], []]


def test_offsets_that_do_not_fit_are_repaired_or_skipped(read):
    dataset, report = read(
        {**ROW, "mention": "FAP", "start": 13, "end": 16},
        {**ROW, "mention": "gout"},
        {**ROW, "start": 20, "end": 23},
        {**ROW, "start": -1},
        {**ROW, "end": 11},
    )
    assert dataset["start"][:] == [11]
    assert report.repaired == {"wrong offset": 1}
    assert report.skipped == {"mention not found at its offsets or nearby": 1, "offsets outside the text": 3}
    assert (report.read, report.used) == (5, 1)


def test_repeated_lines_are_skipped_and_repeated_ids_made_unique(read):
    dataset, report = read({**ROW, "id": "a"}, {**ROW, "id": "a"}, {**ROW, "id": "a", "concept_ids": "D1"}, "")
    assert dataset["id"][:] == ["a", "a#2"]
    assert report.skipped == {"mention repeated word for word": 1}
    assert report.repaired == {"repeated id": 1}
    validate_mentions(dataset)


def test_unknown_fields_are_noted(read):
    _, report = read({**ROW, "score": 1})
    assert report.notes == {"unknown field 'score' ignored": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "c.jsonl:2: '{' is not JSON"),
        ("[" * 10_000, "c.jsonl:2: .* is not JSON"),
        ("9" * 5_000, "c.jsonl:2: .* is not JSON"),
        ("[1]", "c.jsonl:2: .* is not a JSON object"),
        ({"text": "a", "start": 0, "end": 1}, "c.jsonl:2: field 'concept_ids' is missing"),
        ({**ROW, "text": None}, "c.jsonl:2: field 'text' must be a string, got 'None'"),
        ({**ROW, "start": "11"}, "c.jsonl:2: field 'start' must be an integer"),
        ({**ROW, "start": True}, "c.jsonl:2: field 'start' must be an integer, got 'True'"),
        ({**ROW, "end": 14.0}, "c.jsonl:2: field 'end' must be an integer, got '14.0'"),
        ({**ROW, "document_id": 1}, "c.jsonl:2: field 'document_id' must be a string"),
        ({**ROW, "types": [1]}, "c.jsonl:2: field 'types' must be a list of strings"),
        ({**ROW, "concept_ids": 1}, "c.jsonl:2: field 'concept_ids' must be a string, a list of strings, or"),
        ({**ROW, "concept_ids": [["D1", None]]}, "c.jsonl:2: field 'concept_ids' must be"),
        ({**ROW, "concept_ids": {"D1": 1}}, "c.jsonl:2: field 'concept_ids' must be"),
        ({**ROW, "concept_ids": "\ud800"}, "c.jsonl:2: field 'concept_ids': half of a surrogate pair"),
        ({**ROW, "text": "a\0"}, "c.jsonl:2: field 'text': a NUL character"),
        ({**ROW, "split": "all"}, "c.jsonl:2: field 'split' must be train, dev or test, got 'all'"),
        ({**ROW, "split": "test"}, "c.jsonl:2: field 'split' is 'test', but the file is read as 'train'"),
    ],
)
def test_defective_lines_name_file_line_and_field(read, row, message):
    with pytest.raises(ValueError, match=message):
        read(ROW, row)


def test_lines_tell_their_splits(tmp_path):
    rows = [{**ROW, "split": split} for split in ("test", "validation", "train")] + [ROW]
    (tmp_path / "c.jsonl").write_text("\ufeff" + "\r\n".join(map(json.dumps, rows)))
    splits, _ = read_mention_jsonl_splits(tmp_path / "c.jsonl", default="test")
    assert {name: split["split"][:] for name, split in splits.items()} == {
        "train": ["train"],
        "dev": ["dev"],
        "test": ["test", "test"],
    }


def test_folder_of_jsonl(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode()))
    splits, _ = read_corpus(tmp_path)
    assert {name: split["split"][:] for name, split in splits.items()} == {"train": ["train"], "dev": ["dev"]}
