import gzip
import json
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_concepts, read_jsonl, read_knowledge_base, read_medic, read_tab, read_target_kb
from angel_trl.readers.ctd import read_ctd
from angel_trl.readers.mesh import read_mesh
from angel_trl.readers.obo import read_obo
from angel_trl.readers.table import read_table
from angel_trl.readers.umls import read_umls

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
        (b"\x89PNG\x00", r"it starts with '\ufffdPNG\\x00' and has NUL bytes: not text, or text in UTF-16"),
        ("id||name".encode("utf-16"), "it starts with .* and has NUL bytes: not text, or text in UTF-16"),
        (b"PK\x03\x04\x14\x00", "a zip archive or a spreadsheet: unpack it, or export it as CSV"),
        (b"line one\nline two", "it starts with 'line one'[.]"),
    ],
)
def test_unknown_format_says_what_was_seen_and_what_is_known(tmp_path, content, seen):
    (tmp_path / "kb").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"no known knowledge base format: {seen}.*Known: JSONL .*OBO.*UMLS.*parquet.*MEDIC"
    ):
        read_knowledge_base(tmp_path / "kb")


def test_stray_byte_in_a_known_format_is_named_with_its_line(tmp_path):
    (tmp_path / "kb").write_bytes(b"D1||a\nD2||caf\xe9\n")
    with pytest.raises(ValueError, match=r"kb:2: not UTF-8 text: byte b'\\xe9' at column 7"):
        read_concepts(tmp_path / "kb")


@pytest.mark.parametrize("text", ["D1||a\nD2||b\0c\n", '{"id": "D1", "names": ["a"]}\n{"\0": 1}\n'])
def test_nul_bytes_are_named_with_their_line(tmp_path, text):
    with pytest.raises(ValueError, match=r"kb:2: a NUL byte at column \d: this is not UTF-8 text"):
        read_concepts(_write(tmp_path / "kb", text))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_line_that_is_too_long_ends_the_reading(tmp_path, pack):
    (tmp_path / "kb").write_bytes(pack(b"D1||a\nD2||" + b"b" * (17 << 20)))
    with pytest.raises(ValueError, match="kb:2: a line of more than 16,777,216 bytes.*it starts with 'D2..bbb"):
        read_concepts(tmp_path / "kb")


def test_a_long_line_of_json_is_read(tmp_path):
    names = ["n" * 1000 + str(number) for number in range(17_000)]
    concepts, _ = read_concepts(_write(tmp_path / "kb", json.dumps({"D1": names})))
    assert len(concepts[0].names) == 17_000


@pytest.mark.parametrize("cut", [5, 30])
def test_a_truncated_gzip_stream_is_named(tmp_path, cut):
    (tmp_path / "kb").write_bytes(gzip.compress(MEDIC.encode())[:-cut])
    with pytest.raises(ValueError, match="kb.*: broken gzip stream .*; fetch the file again"):
        read_concepts(tmp_path / "kb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "no known knowledge base format"),
        ('{"D1": ' + "[" * 100_000, r"kb: not JSON as \{id: \[name, ...\]\} is"),
        ('{"id": "1", "names": ["a"]}\n' + "[" * 100_000, "kb:2: .* is not JSON"),
        ('{"id": "1", "names": ["a"]}\n' + "1" * 5000, "kb:2: .* is not JSON"),
        ('{"id": "1", "names": ["a\\ud800"]}', r"kb:1: name: half of a surrogate pair \(U\+D800\)"),
        ('{"id": "1\\udfff", "names": ["a"]}', r"kb:1: field 'id': half of a surrogate pair \(U\+DFFF\)"),
        ('{"D1": ["a\\u0000"]}', "kb: id 'D1': name: a NUL character"),
    ],
)
def test_what_only_json_can_bring_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_concepts(_write(tmp_path / "kb", text))


def test_missing_knowledge_base(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
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


_OBO = 'format-version: 1.2\n\n[Term]\nid: X:1\nname: a\nalt_id: X:2\ndef: "d." [x:1]\nsynonym: "b" EXACT []\n'
_MESH = (
    '<?xml version="1.0"?>\n<!DOCTYPE DescriptorRecordSet SYSTEM "x.dtd">\n<DescriptorRecordSet>\n<DescriptorRecord>'
    "<DescriptorUI>D1</DescriptorUI><DescriptorName><String>a</String></DescriptorName><ConceptList><Concept "
    'PreferredConceptYN="Y"><ScopeNote>d</ScopeNote><TermList><Term><String>b</String></Term></TermList></Concept>'
    "</ConceptList></DescriptorRecord>\n</DescriptorRecordSet>\n"
)
_UMLS = (
    "C0000001|ENG|P|L1|PF|S1|Y|A1||M1|D1|MSH|PT|D1|a|0|N|256|\n"
    "C0000001|ENG|S|L1|VO|S1|N|A2||M1|D1|MSH|PT|D1|b|0|O|256|\n"
)
_CTD = "# Fields:\n# DiseaseName\tDiseaseID\tAltDiseaseIDs\tSynonyms\n#\na\tMESH:D1\tOMIM:1\tb|c\n"
_JSONL = '{"id": "D1", "names": ["a"]}\n{"id": "D2", "names": ["b", "c"], "types": ["T1"]}\n'
SEEDS = {
    "MEDIC": (MEDIC, read_medic),
    "tab": (MEDIC.replace("||", "\t"), read_tab),
    "JSONL": (_JSONL, read_jsonl),
    "target_kb": ('{"D1": ["a", "b"], "D2": ["c"]}', read_target_kb),
    "OBO": (_OBO, read_obo),
    "MeSH": (_MESH, read_mesh),
    "UMLS": (_UMLS, read_umls),
    "CTD": (_CTD, read_ctd),
    "CTD as CSV": (_CTD.replace("\t", ","), read_ctd),
    "CSV": ('id,name,types\nD1,a,T1|T2\nD2,"b, c",\n', read_table),
    "TSV": ("id\tnames\nD1\ta|b\nD2\tc\n", read_table),
}
_NO_FASTOBO = pytest.mark.skipif(find_spec("fastobo") is None, reason='OBO needs pip install "angel_trl[readers]"')
_NAMES = [pytest.param(name, marks=_NO_FASTOBO if name == "OBO" else ()) for name in SEEDS]
_EDITS = st.lists(
    st.tuples(
        st.integers(0, 999),
        st.integers(0, 30),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                [b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"|", b"||", b"\t", b"<", b"&x;", b"\\"]
            ),
            st.sampled_from(["\u2028", "\x85", "[Term]\n", "\n\n", "id: ", "{", "]}", "<!--", "β"]).map(str.encode),
        ),
    ),
    max_size=4,
)


@pytest.mark.parametrize("seed", _NAMES)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(edits=_EDITS, pack=st.sampled_from([bytes, bytes, gzip.compress]), cut=st.integers(0, 40))
def test_no_input_ends_otherwise_than_in_concepts_or_in_an_error_of_ours(tmp_path, seed, edits, pack, cut):
    text, read = SEEDS[seed]
    content = text.encode()
    for at, length, new in edits:
        content = content[: at % len(text)] + new + content[at % len(text) + length :]
    content = pack(content)
    path = tmp_path / "kb"
    path.write_bytes(content[: len(content) - cut] if cut < 10 else content)
    for reader in (read, read_concepts):
        refused = None
        try:
            concepts, report = reader(path)
        except ValueError as error:
            refused = error
        if refused is not None:
            assert type(refused) is ValueError
            assert str(refused).startswith(str(path))
        else:
            assert report.read == report.used + sum(report.skipped.values())
            assert report.summary()
            assert all(concept.id.strip() and all(map(str.strip, concept.names)) for concept in concepts)
            assert all(concept.names for concept in concepts)
            "".join(name for concept in concepts for name in concept.names).encode()


@pytest.mark.parametrize("seed", _NAMES)
def test_every_format_is_told_by_its_content(tmp_path, seed):
    text, read = SEEDS[seed]
    _write(tmp_path / "kb", text)
    assert read_concepts(tmp_path / "kb") == read(tmp_path / "kb")
    assert len(read_concepts(tmp_path / "kb")[0]) >= 1


def test_character_entities_of_a_dictionary_are_written_out_and_counted(tmp_path):
    path = tmp_path / "medic.txt"
    path.write_text("D1||Crohn&apos;s Disease|Sj&#246;gren|A&B; R&D|Menetrier&unknown;\n")
    (concept,), report = read_concepts(path)
    assert concept.names == ("Crohn's Disease", "Sjögren", "A&B; R&D", "Menetrier&unknown;")
    assert report.repaired == {"character entity written out": 2}
    assert report.examples["character entity written out"] == [
        f"{path}:1 'Crohn&apos;s Disease'",
        f"{path}:1 'Sj&#246;gren'",
    ]


@needs_shared
def test_medic_of_2012():
    concepts, report = read_concepts(SHARED / "data/medic/medic_06Jul2012.txt")
    assert len(concepts) == 11_915
    assert sum(len(concept.names) for concept in concepts) == 76_237
    assert (report.read, report.used, report.skipped) == (11_915, 11_915, {})
    assert report.repaired == {"character entity written out": 1_156}


@needs_shared
def test_merged_mesh_dictionary():
    concepts, report = read_concepts(SHARED / "data/mesh/merged_mesh_medic_dictionary.tsv.gz")
    assert len(concepts) == 60_706
    # Of 344,732 names, 977 stand twice in a concept once `&apos;` is an apostrophe.
    assert sum(len(concept.names) for concept in concepts) == 344_732 - 977
    assert report.skipped == {}
    assert report.repaired == {"character entity written out": 1_156, "duplicate name dropped": 977}


def test_a_saved_knowledge_base_keeps_its_homonym_policy_under_another_normalization(tmp_path):
    concepts = [Concept("A", ("Ataxia", "MS")), Concept("B", ("Myelitis", "MS"))]
    KnowledgeBase(concepts, homonyms="drop").to_parquet(tmp_path / "kb.parquet")
    kb = KnowledgeBase.from_file(tmp_path / "kb.parquet", normalization="lower")
    assert (kb.normalization, kb.homonym_policy, kb.names) == ("lower", "drop", ["ataxia", "myelitis"])
