import gzip
from pathlib import Path

import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import ReadReport, read_corpus, read_pubtator

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")

TITLE = "Ataxia and FAP in mice"
ABSTRACT = "Breast or ovarian cancer."
# The offsets used below: Ataxia 0-6, FAP 11-14, the abstract 23-48, Breast 23-29, cancer 41-47
DOCUMENT = f"1|t|{TITLE}\n1|a|{ABSTRACT}\n"


def _write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def read_lines_of(tmp_path):
    """Read mention lines (tuples) under the document above."""

    def read(*lines, document=DOCUMENT):
        text = document + "".join("\t".join(map(str, line)) + "\n" for line in lines)
        return read_pubtator(_write(tmp_path / "corpus.txt", text), split="train")

    return read


def test_pubtator_mention(read_lines_of):
    dataset, report = read_lines_of((1, 11, 14, "FAP", "SpecificDisease", "D011125"))
    assert dataset.to_list() == [
        {
            "id": "1:11-14",
            "document_id": "1",
            "text": "Ataxia and FAP in mice Breast or ovarian cancer.",
            "start": 11,
            "end": 14,
            "mention": "FAP",
            "types": ["SpecificDisease"],
            "concept_ids": [["D011125"]],
            "split": "train",
        }
    ]
    assert dataset.features == MENTION_FEATURES
    empty = {"skipped": {}, "repaired": {}, "notes": {}, "examples": {}, "fixes": {}}
    assert report.to_dict() == {"read": 1, "used": 1, **empty}


@pytest.mark.parametrize(
    ("columns", "concept_ids"),
    [
        (("Disease", "D1"), [["D1"]]),
        (("Modifier", "D1|D2"), [["D1", "D2"]]),
        (("CompositeMention", "D1|D2"), [["D1"], ["D2"]]),
        (("Disease", "D1+D2"), [["D1"], ["D2"]]),
        (("Disease", "D1+D2|D3"), [["D1"], ["D2", "D3"]]),
        (("CompositeMention", "D1+D2|D3"), [["D1"], ["D2"], ["D3"]]),
        (("Disease", "D1|D2", "Breast cancer|ovarian cancer"), [["D1"], ["D2"]]),  # BC5CDR's seventh column
        (("Disease", "D1|D1|D1", "a|b|c"), [["D1"]]),
        (("Disease", "D1|-1", "a|b"), [["D1"]]),
        (("Disease", "OMIM:1|D1"), [["OMIM:1", "D1"]]),
        (("Disease", "-1"), []),
        (("Disease", ""), []),
        (("Disease",), []),
    ],
)
def test_pubtator_labels(read_lines_of, columns, concept_ids):
    dataset, _ = read_lines_of((1, 23, 47, "Breast or ovarian cancer", *columns))
    assert dataset[0]["concept_ids"] == concept_ids


def test_mention_without_concept_is_kept_and_noted(read_lines_of):
    dataset, report = read_lines_of((1, 0, 6, "Ataxia", "Disease", "-1"))
    assert len(dataset) == 1
    assert report.notes == {"no concept id": 1}


def test_part_without_concept_is_noted(read_lines_of):
    _, report = read_lines_of((1, 23, 47, "Breast or ovarian cancer", "Disease", "D1|-1", "a|b"))
    assert report.notes == {"no concept id for a part": 1}


def test_types_are_split_at_commas(read_lines_of):
    dataset, _ = read_lines_of((1, 0, 6, "Ataxia", "T047, T191", "C1"))
    assert dataset[0]["types"] == ["T047", "T191"]


def test_blank_around_id_is_repaired(read_lines_of):
    dataset, report = read_lines_of((1, 0, 6, "Ataxia", "Disease", " D1| D2"))
    assert dataset[0]["concept_ids"] == [["D1", "D2"]]
    assert report.repaired == {"blank around id": 1}


def test_blank_around_mention_is_repaired(read_lines_of):
    dataset, report = read_lines_of((1, 0, 6, "Ataxia  ", "Disease", "D1"))
    assert dataset[0]["mention"] == "Ataxia"
    assert report.repaired == {"blank around mention": 1}


@pytest.mark.parametrize("start", [-3, 0, 8, 10, 12, 21])
def test_wrong_offset_is_repaired_at_the_nearest_place(read_lines_of, start):
    dataset, report = read_lines_of((1, start, start + 3, "FAP", "Disease", "D1"))
    validate_mentions(dataset)
    if start < 1:  # farther than ten characters
        assert report.skipped == {"mention not found at its offsets or nearby": 1}
    else:
        assert dataset[0]["start"] == 11
        assert report.repaired == {"wrong offset": 1}


def test_wrong_offset_between_two_equally_near_places_is_skipped(read_lines_of):
    dataset, report = read_lines_of((1, 4, 6, "CT", "Disease", "D1"), document="1|t|a CT, CT b\n1|a|c\n")
    assert len(dataset) == 0
    assert report.skipped == {"mention not found at its offsets or nearby": 1}


@pytest.mark.parametrize(("start", "end"), [(-26, -20), (5000, 5006)])
def test_offset_far_outside_the_text_is_skipped(read_lines_of, start, end):
    _, report = read_lines_of((1, start, end, "cancer", "Disease", "D1"))
    assert report.skipped == {"mention not found at its offsets or nearby": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ((1, 0, 6), "3 columns instead of 6"),
        ((2, 0, 6, "Ataxia", "Disease", "D1"), "mention under another document"),
        ((1, 0, 6, " ", "Disease", "D1"), "empty mention"),
    ],
)
def test_defective_mention_is_skipped_with_its_reason_and_place(read_lines_of, tmp_path, line, reason):
    dataset, report = read_lines_of(line, (1, 0, 6, "Ataxia", "Disease", "D1"))
    assert len(dataset) == 1
    assert (report.read, report.used, report.skipped) == (2, 1, {reason: 1})
    assert report.examples[reason][0].startswith(f"{tmp_path}/corpus.txt:3 ")
    assert list(report.fixes) == [reason]


def test_a_wrong_offset_is_told_with_file_line_value_and_fix(read_lines_of, tmp_path):
    _, report = read_lines_of((1, 0, 6, "Ataxia", "Disease", "D1"), (1, 23, 29, "Ovarian", "Disease", "D2"))
    assert report.summary() == (
        "1 of 2 records used\n"
        "  skipped: mention not found at its offsets or nearby: 1 "
        f"(first: {tmp_path}/corpus.txt:4 '1 23 29 Ovarian Disease D2', where the text has 'Breast'). "
        "Correct its offsets: characters from 0 in the title, one separator and the abstract."
    )


@pytest.mark.parametrize("line", [(1, "CID", "D008750", "D007022"), (1, "Association", "D1", "D2", "Novel")])
def test_relation_lines_are_noted_not_read(read_lines_of, line):
    _, report = read_lines_of(line)
    assert (report.read, report.notes) == (0, {"relation line ignored": 1})


def test_mentions_at_the_same_offsets_get_distinct_ids(read_lines_of):
    line = (1, 0, 6, "Ataxia", "Disease")
    dataset, _ = read_lines_of((*line, "D1"), (*line, "D2"), (*line, "D3"))
    assert dataset["id"][:] == ["1:0-6", "1:0-6#2", "1:0-6#3"]


def test_identical_document_is_left_out(tmp_path):
    text = DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n1\t11\t14\tFAP\tDisease\tD2\n\n"
    dataset, report = read_pubtator(_write(tmp_path / "c.txt", text * 2), split="dev")
    assert dataset["id"][:] == ["1:0-6", "1:11-14"]
    assert (report.read, report.used, report.skipped) == (4, 2, {"duplicate document": 2})
    assert report.notes == {"document repeated word for word": 1}


def test_same_document_id_with_other_text_is_kept_under_another_id(tmp_path):
    first = DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n\n"
    second = "1|t|Ataxia again\n1|a|x\n1\t0\t6\tAtaxia\tDisease\tD1\n\n"
    dataset, report = read_pubtator(_write(tmp_path / "c.txt", first + second + first), split="train")
    assert dataset["id"][:] == ["1:0-6", "1#2:0-6"]
    assert dataset["document_id"][:] == ["1", "1#2"]
    assert report.notes == {"same document id, other text": 1, "document repeated word for word": 1}


def test_same_document_with_other_annotations_is_kept(tmp_path):
    text = DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n\n" + DOCUMENT + "1\t11\t14\tFAP\tDisease\tD2\n"
    dataset, report = read_pubtator(_write(tmp_path / "c.txt", text), split="train")
    assert dataset["id"][:] == ["1:0-6", "1#2:11-14"]
    assert report.notes == {"same document id, other annotations": 1}


def test_documents_need_no_blank_line_between_them(tmp_path):
    text = "1|t|Ataxia\n1|a|x\n1\t0\t6\tAtaxia\tD\tD1\n2|t|FAP\n2|a|y\n2\t0\t3\tFAP\tD\tD2\n"
    dataset, _ = read_pubtator(_write(tmp_path / "c.txt", text), split="train")
    assert dataset["document_id"][:] == ["1", "2"]


def test_document_without_abstract(read_lines_of):
    dataset, _ = read_lines_of((1, 0, 6, "Ataxia", "Disease", "D1"), document="1|t|Ataxia\n")
    assert dataset["text"][:] == ["Ataxia"]


def test_windows_line_ends_byte_order_mark_and_gzip(tmp_path):
    text = "\ufeff" + (DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n").replace("\n", "\r\n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    dataset, _ = read_pubtator(tmp_path / "c.txt.gz", split="train")
    assert dataset[0]["concept_ids"] == [["D1"]]
    assert dataset[0]["text"] == f"{TITLE} {ABSTRACT}"


def test_only_line_feeds_end_a_line(tmp_path):
    text = "1|t|a\u2028b\x0bAtaxia\n1|a|x\n1\t4\t10\tAtaxia\tDisease\tD1\n"
    dataset, _ = read_pubtator(_write(tmp_path / "c.txt", text), split="train")
    assert dataset[0]["start"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOCUMENT + "1\tx\t6\tAtaxia\tDisease\tD1\n", "c.txt:3: start offset must be an integer, got 'x'"),
        (DOCUMENT + "1\t0\t6.0\tAtaxia\tDisease\tD1\n", "c.txt:3: end offset must be an integer, got '6.0'"),
        ("Dear reader\n", "c.txt:1: 'Dear reader' is not PubTator"),
        ("1\t0\t6\tAtaxia\tDisease\tD1\n", "c.txt:1: .* is not PubTator: expected a title line"),
        ("\n\n", "c.txt: no title line"),
        ("1|t|x\n2|a|y\n", "c.txt:2: abstract of '2' follows the passages of '1'"),
        ("1|t|x\n1|a|y\n1|a|z\n", "c.txt:3: abstract of '1' follows"),
        (DOCUMENT + "stray\n", "c.txt:3: 'stray' is neither"),
    ],
)
def test_structural_errors_name_file_line_and_value(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_pubtator(_write(tmp_path / "c.txt", text), split="train")


def test_undecodable_text_names_line_and_byte(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"1|t|x\n1|a|caf\xe9\n")
    with pytest.raises(ValueError, match=r"c.txt:2: not UTF-8 text: byte b'\\xe9' at column 7"):
        read_pubtator(tmp_path / "c.txt", split="train")


def test_broken_gzip_is_one_clear_error(tmp_path):
    (tmp_path / "c.gz").write_bytes(gzip.compress(DOCUMENT.encode())[:-12])
    with pytest.raises(ValueError, match="c.gz.*broken gzip stream"):
        read_pubtator(tmp_path / "c.gz", split="train")


MENTION = DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n"


def test_corpus_directory_tells_the_splits_by_name(tmp_path):
    for name in ("NCBItestset.txt", "CDR_DevelopmentSet.txt", "Training.txt"):
        _write(tmp_path / name, MENTION)
    _write(tmp_path / "LICENSE", "Public domain")
    _write(tmp_path / ".hidden_train", MENTION)
    splits, report = read_corpus(tmp_path)
    assert {name: split["split"][:] for name, split in splits.items()} == {
        "train": ["train"],
        "dev": ["dev"],
        "test": ["test"],
    }
    assert list(splits) == ["train", "dev", "test"]
    assert (report.read, report.used) == (3, 3)
    assert report.notes == {"file of no known corpus format left alone": 1}


@pytest.mark.parametrize(("name", "split"), [("corpus.txt", "train"), ("valid.txt", "dev"), ("a_test.txt", "test")])
def test_corpus_of_one_file(tmp_path, name, split):
    splits, _ = read_corpus(_write(tmp_path / name, MENTION))
    assert list(splits) == [split]


def test_empty_split_is_an_error_naming_it(tmp_path):
    _write(tmp_path / "train.txt", MENTION)
    _write(tmp_path / "test.txt", DOCUMENT)
    with pytest.raises(ValueError, match="test.txt: split test is empty: 0 of 0 records used"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["traindev.txt"], "its name tells train and dev"),
        (["corpus.txt"], "its name tells no split"),
        (["train_a.txt", "train_b.txt"], "two files for train: train_a.txt and train_b.txt"),
        ([], "no file of a known corpus format in this directory"),
    ],
)
def test_directories_that_do_not_tell_the_splits(tmp_path, names, message):
    for name in names:
        _write(tmp_path / name, MENTION)
    with pytest.raises(ValueError, match=message):
        read_corpus(tmp_path)


def test_a_file_named_after_a_split_that_is_of_no_known_format_is_an_error(tmp_path):
    _write(tmp_path / "train.txt", MENTION)
    _write(tmp_path / "test.xml", "<?xml version='1.0'?><collection/>")
    message = r"test\.xml: its name tells test, but it is of no known corpus format: it starts with .<\?xml.*Convert"
    with pytest.raises(ValueError, match=message):
        read_corpus(tmp_path)


def test_a_file_beside_that_of_its_split_is_left_alone(tmp_path):
    _write(tmp_path / "train.txt", MENTION)
    _write(tmp_path / "README_train.md", "About the training set.")
    splits, report = read_corpus(tmp_path)
    assert list(splits) == ["train"]
    assert report.examples["file of no known corpus format left alone"] == [f"{tmp_path}/README_train.md"]


def test_every_mention_line_of_a_corpus_is_accounted_for(tmp_path):
    """One line of each defect: read is used plus skipped, and each reason has its count, place and fix."""
    lines = [
        ("1", "0", "6", "Ataxia", "Disease", "D1"),
        ("1", "0", "6"),
        ("2", "0", "6", "Ataxia", "Disease", "D1"),
        ("1", "0", "6", " ", "Disease", "D1"),
        ("1", "900", "906", "Ataxia", "Disease", "D1"),
        ("1", "900", "906", "Ataxia", "Disease", "D1"),
    ]
    text = DOCUMENT + "".join("\t".join(line) + "\n" for line in lines) + "\n"
    _write(tmp_path / "train.txt", text * 2)
    splits, report = read_corpus(tmp_path)
    assert len(splits["train"]) == report.used == 1
    assert report.skipped == {
        "3 columns instead of 6": 1,
        "mention under another document": 1,
        "empty mention": 1,
        "mention not found at its offsets or nearby": 2,
        "duplicate document": 6,
    }
    assert report.read == report.used + sum(report.skipped.values()) == 12
    assert set(report.examples) == {*report.skipped, "document repeated word for word"}
    assert set(report.fixes) == set(report.skipped)


def test_corpus_file_with_a_stray_byte_is_not_left_alone(tmp_path):
    (tmp_path / "train.txt").write_bytes(MENTION.encode() + b"1\t0\t4\tcaf\xe9\tDisease\tD1\n")
    with pytest.raises(ValueError, match="train.txt:4: not UTF-8 text"):
        read_corpus(tmp_path)


def test_missing_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
        read_corpus(tmp_path / "none")


def test_report_keeps_five_examples_and_its_invariant():
    report = ReadReport()
    report.use()
    for number in range(7):
        report.skip("bad", f"f:{number}", "Mend it.")
    assert (report.read, report.used, report.skipped) == (8, 1, {"bad": 7})
    assert report.examples == {"bad": ["f:0", "f:1", "f:2", "f:3", "f:4"]}


def test_reports_merge_into_a_new_one():
    first, second = ReadReport(), ReadReport()
    first.skip("bad", "f:1", "Mend it.")
    second.skip("bad", "g:1", "Mend it.")
    second.use()
    second.repair("blank", "g:2")
    merged = first.merge(second)
    assert merged.to_dict() == {
        "read": 3,
        "used": 1,
        "skipped": {"bad": 2},
        "repaired": {"blank": 1},
        "notes": {},
        "examples": {"bad": ["f:1", "g:1"], "blank": ["g:2"]},
        "fixes": {"bad": "Mend it."},
    }
    assert first.read == 1


def test_report_summary():
    report = ReadReport()
    report.use()
    report.skip("bad", "f:1 'x'", "Mend it.")
    report.note("odd", "f:2 'y'")
    assert report.summary() == (
        "1 of 2 records used\n  skipped: bad: 1 (first: f:1 'x'). Mend it.\n  note: odd: 1 (first: f:2 'y')"
    )


@needs_shared
def test_ncbi_disease_corpus():
    splits, report = read_corpus(SHARED / "data/ncbi_disease")
    assert {name: len(split) for name, split in splits.items()} == {"train": 5134, "dev": 787, "test": 960}
    assert (report.read, report.used, report.skipped) == (6892, 6881, {"duplicate document": 11})
    assert report.repaired == {"blank around id": 5, "blank around mention": 1}
    for split in splits.values():
        validate_mentions(split)


@needs_shared
def test_bc5cdr_corpus():
    splits, report = read_corpus(SHARED / "data/bc5cdr")
    assert {name: len(split) for name, split in splits.items()} == {"train": 9385, "dev": 9591}
    assert [sum(not ids for ids in split["concept_ids"]) for split in splits.values()] == [76, 59]
    assert report.notes == {"relation line ignored": 2050, "no concept id": 135, "no concept id for a part": 1}
    assert (report.skipped, report.repaired) == ({}, {})
