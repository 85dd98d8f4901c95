import gzip
import re
import sys
from pathlib import Path

import pytest

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_concepts
from angel_trl.readers.obo import read_obo

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")
pytest.importorskip("fastobo", reason='OBO needs fastobo: pip install "angel_trl[readers]"')

HEADER = "format-version: 1.2\ndefault-namespace: disease ! of man\nowl-axioms: Prefix(x)\\nOntology(\\n)\n"
ATAXIA = """
[Term]
id: X:1
name: Ataxia ! the sign
alt_id: X:7
def: "Want of \\"order\\"." [A:1, url:http\\://x.org] {source="b"}
synonym: "Incoordination" EXACT layperson [A:1]
synonym: "Clumsiness" RELATED []
synonym: "Movement disorder" BROAD []
synonym: "Limb ataxia" NARROW []
xref: Y:1 "anything
is_a: X:9 ! sign
"""


@pytest.fixture
def read(tmp_path):
    def read_text(text, **settings):
        (tmp_path / "x.obo").write_bytes(text.encode())
        return read_obo(tmp_path / "x.obo", **settings)

    return read_text


def term(concept_id, *lines):
    return "\n".join(("\n[Term]", f"id: {concept_id}", *lines, ""))


def test_a_term_becomes_a_concept(read):
    concepts, report = read(HEADER + ATAXIA)
    names = ("Ataxia", "Incoordination", "Clumsiness")
    assert concepts == [Concept("X:1", names, ("X:7",), ("disease",), 'Want of "order".')]
    assert (report.read, report.used, report.skipped, report.repaired) == (1, 1, {}, {})
    assert report.notes == {"synonym of scope BROAD left out": 1, "synonym of scope NARROW left out": 1}


@pytest.mark.parametrize(
    ("scopes", "synonyms"),
    [
        ((), ()),
        (("EXACT",), ("Incoordination",)),
        (("NARROW", "BROAD"), ("Movement disorder", "Limb ataxia")),
        (
            ("EXACT", "RELATED", "NARROW", "BROAD"),
            ("Incoordination", "Clumsiness", "Movement disorder", "Limb ataxia"),
        ),
    ],
)
def test_scopes_choose_the_synonyms(read, scopes, synonyms):
    concepts, _ = read(HEADER + ATAXIA, scopes=scopes)
    assert concepts[0].names == ("Ataxia", *synonyms)


@pytest.mark.parametrize("scopes", ["EXACT", ("exact",), ("EXACT", "CLOSE")])
def test_unknown_scopes_are_refused(read, scopes):
    with pytest.raises(ValueError, match="scopes must be some of EXACT, RELATED, NARROW, BROAD, got"):
        read(ATAXIA, scopes=scopes)


def test_a_terms_own_namespace_wins(read):
    concepts, _ = read(HEADER + term("X:1", "name: a", "namespace: sign"))
    assert concepts[0].types == ("sign",)


def test_without_any_namespace_there_is_no_type(read):
    concepts, _ = read(term("X:1", "name: a"))
    assert concepts[0].types == ()


def test_obsolete_terms_are_skipped_and_their_ids_kept_by_what_replaced_them(read):
    old = term("X:1", "name: obsolete a", "alt_id: X:8", "is_obsolete: true", "replaced_by: X:2")
    older = term("X:0", "name: obsolete b", "is_obsolete: true", "replaced_by: X:1")
    gone = term("X:5", "name: obsolete c", "is_obsolete: true", "consider: X:2")
    lost = term("X:6", "name: obsolete d", "is_obsolete: true", "replaced_by: X:99")
    concepts, report = read(old + older + gone + lost + term("X:2", "name: a", "is_obsolete: false"))
    assert concepts == [Concept("X:2", ("a",), ("X:1", "X:8", "X:0"))]
    assert (report.read, report.used, report.skipped) == (5, 1, {"obsolete term": 4})
    assert report.notes == {
        "obsolete id made an alternate id of its replacement": 2,
        "obsolete term's replacement is not in the file": 1,
    }


def test_terms_that_replace_each_other_end(read):
    circle = [
        term(a, "name: x", "is_obsolete: true", f"replaced_by: {b}") for a, b in (("X:1", "X:2"), ("X:2", "X:1"))
    ]
    concepts, report = read("".join(circle))
    assert (concepts, report.skipped) == ([], {"obsolete term": 2})


def test_references_that_break_the_syntax_are_left_out_and_counted(read):
    text = term("X:1", "name: a", 'def: "An a." [JA:Epilepsy Genetics Kiel]', 'synonym: "b" EXACT')
    concepts, report = read(text)
    assert concepts == [Concept("X:1", ("a", "b"), (), (), "An a.")]
    assert report.repaired == {"cross-references or scope not in OBO syntax": 2}


def test_a_synonym_without_scope_is_related(read):
    text = term("X:1", "name: a", 'synonym: "b" []')
    assert read(text)[0][0].names == ("a", "b")
    assert read(text, scopes=("EXACT",))[0][0].names == ("a",)


OLD = """format-version: GO_1.0

[Term]
id: X:1
name: a
exact_synonym: "b \\"sic\\"" [A:1]
related_synonym: "c" []
narrow_synonym: "d" []
broad_synonym: "e" []
synonym: "f" []
xref_analog: Y:1
xref_unknown: Y:2 "x"
use_term: X:2
"""


def test_the_synonym_tags_of_format_1_0_are_scopes(read):
    concepts, report = read(OLD)
    assert concepts == [Concept("X:1", ("a", 'b "sic"', "c", "f"))]
    assert report.notes == {"synonym of scope NARROW left out": 1, "synonym of scope BROAD left out": 1}
    assert report.repaired == {"cross-references or scope not in OBO syntax": 1}  # that of "f"
    assert read(OLD, scopes=("NARROW", "BROAD"))[0][0].names == ("a", "d", "e")


def test_broken_synonyms_of_format_1_0_are_repaired_or_told_with_their_line(read):
    text = term("X:1", "name: a", 'exact_synonym: "b" [A B]') + term("X:2", "name: c", "exact_synonym: d")
    concepts, report = read(text)
    assert concepts == [Concept("X:1", ("a", "b"))]
    assert report.repaired == {"cross-references or scope not in OBO syntax": 1}
    assert report.skipped == {"not OBO syntax": 1}
    assert ":10 'exact_synonym: d'" in report.examples["not OBO syntax"][0]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (("name: a", "is_obsolete: perhaps"), ":9 'is_obsolete: perhaps' (expected Boolean)"),
        (("name: a", 'def: "a "b" c" []'), ':9 \'def: "a "b" c" []\''),
        (("name:",), ":8 'name:' (expected UnquotedString)"),
    ],
)
def test_a_term_that_cannot_be_parsed_is_skipped_with_its_line(read, lines, place):
    concepts, report = read("format-version: 1.2\n" + term("X:0", "name: z").rstrip("\n") + term("X:1", *lines))
    assert [concept.id for concept in concepts] == ["X:0"]
    assert report.skipped == {"not OBO syntax": 1}
    assert place in report.examples["not OBO syntax"][0]


def test_a_term_without_name_is_skipped(read):
    _, report = read(term("X:1", "is_a: X:2"))
    assert report.skipped == {"no name": 1}


def test_terms_of_one_id_are_joined(read):
    concepts, report = read(term("X:1", "name: a") + term("X:1", "name: b"))
    assert concepts == [Concept("X:1", ("a", "b"))]
    assert report.notes == {"concept id in several terms, names joined": 1}


def test_frames_of_other_kinds_are_noted(read):
    _, report = read(ATAXIA + "\n[Typedef]\nid: part_of\nname: part of\n\n[Instance]\nid: i\n")
    assert report.notes["'[Typedef]' frame ignored: not a concept"] == 1
    assert report.read == 1


def test_line_separators_inside_a_line_do_not_begin_a_term(read):
    concepts, _ = read(term("X:1", "name: a\x85[Term]\u2028id: X:2\x0cb"))
    assert [concept.id for concept in concepts] == ["X:1"]


@pytest.mark.parametrize("text", [HEADER + ATAXIA, "! by hand\n" + ATAXIA, "\ufeff" + ATAXIA.replace("\n", "\r\n")])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_obo_is_told_by_its_content(tmp_path, text, pack):
    (tmp_path / "kb").write_bytes(pack(text.encode()))
    concepts, _ = read_concepts(tmp_path / "kb")
    assert concepts[0].names == ("Ataxia", "Incoordination", "Clumsiness")


def test_without_the_library_the_error_says_what_to_install(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastobo", None)
    with pytest.raises(ImportError, match=re.escape('pip install "angel_trl[readers]"')):
        read(ATAXIA)


@needs_shared
def test_human_phenotype_ontology():
    concepts, report = read_obo(SHARED / "data/obo/hp.obo")
    # [Term] 11,030; is_obsolete 58; EXACT 6,315 and RELATED 785 synonyms; each counted with grep.
    assert (report.read, report.used, report.skipped) == (11_030, 10_972, {"obsolete term": 58})
    assert report.notes == {
        "synonym of scope BROAD left out": 11,
        "synonym of scope NARROW left out": 6,
        "obsolete id made an alternate id of its replacement": 26,
    }
    assert report.repaired == {"duplicate name dropped": 2, "blank around name": 2}
    assert sum(len(concept.names) for concept in concepts) == 18_060
    assert {concept.types for concept in concepts} == {("human_phenotype",)}


@needs_shared
def test_human_disease_ontology():
    concepts, report = read_obo(SHARED / "data/obo/HumanDO.obo")
    # [Term] 8,948; is_obsolete 2,374; [Typedef] 15; NARROW 4; six definitions cite "JA:Epilepsy Genetics Kiel".
    assert (report.read, report.used, report.skipped) == (8_948, 6_574, {"obsolete term": 2_374})
    assert report.notes == {
        "synonym of scope NARROW left out": 4,
        "'[Typedef]' frame ignored: not a concept": 15,
    }
    assert report.repaired["cross-references or scope not in OBO syntax"] == 6
    assert sum(len(concept.names) for concept in concepts) == 18_783
    assert len(KnowledgeBase(concepts).resolve("DOID:4508")) == 1
