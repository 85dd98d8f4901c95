import gzip
import json
import logging
from pathlib import Path

import pytest

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_concepts, read_knowledge_base

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")


def _write(path, text):
    path.write_bytes(text.encode())
    return path


MEDIC = "D1|114480||Breast Cancer|BC\nD2||Ataxia\n"
EXPECTED = [Concept("D1", ("Breast Cancer", "BC"), ("114480",)), Concept("D2", ("Ataxia",))]


@pytest.mark.parametrize(
    "text",
    [
        MEDIC,
        "\ufeff" + MEDIC.replace("\n", "\r\n"),
        MEDIC.replace("||", "\t"),
        '{"id": "D1", "names": ["Breast Cancer", "BC"], "alternate_ids": ["114480"]}\n\n'
        '{"id": "D2", "names": ["Ataxia"]}',
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_text_formats_are_told_by_content(tmp_path, text, pack):
    (tmp_path / "kb").write_bytes(pack(text.encode()))
    concepts, report = read_concepts(tmp_path / "kb")
    assert concepts == EXPECTED
    assert (report.read, report.used, report.skipped) == (2, 2, {})


@pytest.mark.parametrize("indent", [None, 2])
def test_target_kb_json(tmp_path, indent):
    text = json.dumps({"D1": ["Breast Cancer", "BC"], "D2": ["Ataxia"]}, indent=indent)
    concepts, _ = read_concepts(_write(tmp_path / "target_kb.json", text))
    assert concepts == [Concept("D1", ("Breast Cancer", "BC")), Concept("D2", ("Ataxia",))]


def test_biosyn_joins_the_names_of_an_id(tmp_path):
    concepts, report = read_concepts(_write(tmp_path / "d.txt", "D1|9||a\nD2||b\nD1||c\n"))
    assert concepts == [Concept("D1", ("a", "c"), ("9",)), Concept("D2", ("b",))]
    assert report.notes == {"concept id on several lines, names joined": 1}


def test_jsonl_reads_every_field(tmp_path):
    row = {"id": "D1", "names": ["a"], "alternate_ids": ["9"], "types": ["T1"], "definition": "x", "url": "y"}
    concepts, report = read_concepts(_write(tmp_path / "kb.jsonl", json.dumps(row)))
    assert concepts == [Concept("D1", ("a",), ("9",), ("T1",), "x")]
    assert report.notes == {"unknown field 'url' ignored": 1}


_DEFECTS = ("empty name dropped", "duplicate name dropped", "blank around name")


@pytest.mark.parametrize(
    ("text", "skipped", "repaired"),
    [
        ("D1||a\n||b\n", {"no concept id": 1}, {}),
        ("D1||a\nD2||\n", {"no name": 1}, {}),
        ("D1||a\nD2||b| \n", {}, {"blank around name": 1, "empty name dropped": 1}),
        (" D1 ||a\n", {}, {"blank around id": 1}),
        ('{"id": "D1", "names": ["a"]}\n{"id": "", "names": ["b"]}', {"no concept id": 1}, {}),
        ('{"D1": ["a"], "D2": [" "]}', {"no name": 1}, {}),
        ("D1||a|b|a\nD1||b\n", {}, {"duplicate name dropped": 2}),
        ('{"D1": ["a", "", "a ", "b "]}', {}, dict.fromkeys(_DEFECTS, 1)),
        ('{"id": "D1", "names": ["a", "", "a ", "b "]}', {}, dict.fromkeys(_DEFECTS, 1)),
        (
            '{"id": "D1", "names": ["a"], "alternate_ids": ["", "9", "9"]}',
            {},
            {"empty alternate id dropped": 1, "duplicate alternate id dropped": 1},
        ),
    ],
)
def test_defective_concepts_are_counted(tmp_path, text, skipped, repaired):
    _, report = read_concepts(_write(tmp_path / "kb", text))
    assert (report.skipped, report.repaired) == (skipped, repaired)
    assert report.read == report.used + sum(report.skipped.values())
    assert set(report.fixes) == set(skipped)


@pytest.mark.parametrize(
    ("text", "names", "alternate_ids"),
    [
        ("D1|9||a|b||a\n", ("a", "b"), ("9",)),
        ('{"D1": ["a", "", "b ", "a"]}', ("a", "b"), ()),
        ('{"id": "D1", "names": ["a", "", "b ", "a"], "alternate_ids": ["", " 9"]}', ("a", "b"), ("9",)),
    ],
)
def test_no_empty_or_repeated_name_or_id_gets_through(tmp_path, text, names, alternate_ids):
    concepts, _ = read_concepts(_write(tmp_path / "kb", text))
    assert concepts == [Concept("D1", names, alternate_ids)]


def test_a_duplicate_name_is_warned_of_with_file_line_and_value(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        kb = read_knowledge_base(_write(tmp_path / "kb", "D1||a\nD2||b|Ataxia|Ataxia\n"))
    assert f"repaired: duplicate name dropped: 1 (first: {tmp_path}/kb:2 'Ataxia')" in caplog.text
    assert kb.names == ["a", "b", "ataxia"]


def test_concepts_whose_names_normalise_to_nothing_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        kb = read_knowledge_base(_write(tmp_path / "kb", "D1||a\nD2||+|-\n"))
    assert len(kb) == 2
    assert "1 of 2 concepts have no name left after normalisation and cannot be predicted: 'D2' ('+', '-')." in (
        caplog.text
    )


def test_the_knowledge_base_keeps_the_account_of_its_source(tmp_path):
    kb = read_knowledge_base(_write(tmp_path / "kb", "D1||a\nD2||\n"))
    assert (kb.read_report.read, kb.read_report.used, kb.read_report.skipped) == (2, 1, {"no name": 1})
    kb.to_parquet(tmp_path / "kb.parquet")
    assert read_knowledge_base(tmp_path / "kb.parquet").read_report is None
    assert KnowledgeBase(EXPECTED).read_report is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("D1||a\nD2\n", r"kb:2: 'D2' is not of the form id\|alternate id\|\|name\|name"),
        ("D1\ta\nD2\n", "kb:2: 'D2' is not of the form id.alternate id<TAB>name.name"),
        ('{"id": "1", "names": ["a"]}\n[]', r"kb:2: '\[\]' is not a JSON object"),
        ('{"id": "1", "names": ["a"]}\n{"id"', "kb:2: .* is not JSON"),
        ('{"id": "1", "names": "a"}', "kb:1: field 'names': must be a list of strings, got 'a'"),
        ('{"id": 1, "names": ["a"]}', "kb:1: field 'id' must be a string, got 1"),
        ('{"id": "1", "names": ["a"]}\n{"id": "1 ", "names": ["b"]}', "kb:2: concept id '1' stands on line 1 already"),
        ('{"D1": "a"}', "kb: id 'D1': must be a list of strings, got 'a'"),
        ('{"D1": ["a"], "D1": ["b"]}', "kb: id 'D1': stands in the file twice"),
        ('{"D1": ["a"]', "kb:1: not JSON"),
    ],
)
def test_broken_knowledge_bases_name_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_concepts(_write(tmp_path / "kb", text))


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "an empty file"),
        (b"Dear reader", "it starts with 'Dear reader'"),
        (b"1|t|Ataxia\n1|a|Rare.\n", "a PubTator corpus.*read_corpus"),
        (b"\x89PNG\x00", r"it starts with '\ufffdPNG\\x00'"),
    ],
)
def test_unknown_format_says_what_was_seen_and_what_is_known(tmp_path, content, seen):
    (tmp_path / "kb").write_bytes(content)
    with pytest.raises(ValueError, match=f"no known knowledge base format: {seen}.*Known: JSONL .*MEDIC .*parquet"):
        read_knowledge_base(tmp_path / "kb")


def test_stray_byte_in_a_known_format_is_named_with_its_line(tmp_path):
    (tmp_path / "kb").write_bytes(b"D1||a\nD2||caf\xe9\n")
    with pytest.raises(ValueError, match=r"kb:2: not UTF-8 text: byte b'\\xe9' at column 7"):
        read_concepts(tmp_path / "kb")


def test_missing_knowledge_base(tmp_path):
    with pytest.raises(FileNotFoundError, match="no knowledge base file at"):
        KnowledgeBase.from_file(tmp_path / "none")


def test_read_knowledge_base_normalises_names_and_keeps_the_file_name(tmp_path):
    kb = read_knowledge_base(_write(tmp_path / "medic.txt", MEDIC), "lower")
    assert (kb.names, kb.normalization, kb.source) == (["breast cancer", "bc", "ataxia"], "lower", "medic.txt")


def test_read_knowledge_base_logs_what_was_skipped(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        KnowledgeBase.from_file(_write(tmp_path / "kb", "D1||a\nD2||\n"))
    assert "1 of 2 records used" in caplog.text
    assert "skipped: no name: 1 (first: " in caplog.text


def test_knowledge_base_without_usable_concept(tmp_path):
    with pytest.raises(ValueError, match="no usable concept: 0 of 1 records used"):
        KnowledgeBase.from_file(_write(tmp_path / "kb", '{"D2": []}'))


@needs_shared
def test_merged_mesh_dictionary():
    concepts, report = read_concepts(SHARED / "data/mesh/merged_mesh_medic_dictionary.tsv.gz")
    assert len(concepts) == 60_706
    assert sum(len(concept.names) for concept in concepts) == 344_732
    assert (report.skipped, report.repaired) == ({}, {})
