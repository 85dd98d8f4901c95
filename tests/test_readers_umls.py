import gzip

import pytest

from angel_trl.kb import Concept
from angel_trl.readers import read_concepts, read_knowledge_base
from angel_trl.readers.umls import read_umls


def atom(cui, name, *, atom_id="A1", lat="ENG", ts="S", stt="VO", ispref="N", sab="MSH", suppress="N"):
    return f"{cui}|{lat}|{ts}|L1|{stt}|S1|{ispref}|{atom_id}||M1|D1|{sab}|PT|D1|{name}|0|{suppress}|256|"


def preferred(cui, name, **settings):
    return atom(cui, name, ts="P", stt="PF", ispref="Y", **settings)


def semantic_type(cui, tui):
    return f"{cui}|{tui}|B2.2.1|Disease or Syndrome|AT1|256|"


def definition(cui, text, atom_id="A1", suppress="N"):
    return f"{cui}|{atom_id}|AT1||MSH|{text}|{suppress}|256|"


@pytest.fixture
def release(tmp_path):
    """`release(mrconso, mrsty, mrdef, pack=bytes, suffix="")` writes the files and returns their folder."""

    def write(mrconso, mrsty=(), mrdef=(), pack=bytes, suffix=""):
        for name, rows in (("MRCONSO", mrconso), ("MRSTY", mrsty), ("MRDEF", mrdef)):
            if rows:
                (tmp_path / f"{name}.RRF{suffix}").write_bytes(pack("".join(row + "\n" for row in rows).encode()))
        return tmp_path

    return write


MRCONSO = [
    atom("C0000001", "Want of order", atom_id="A1"),
    preferred("C0000001", "Ataxia", atom_id="A2"),
    atom("C0000001", "Ataxia", sab="NCI", atom_id="A3"),
    preferred("C0000003", "Gout", atom_id="A4"),
]
MRSTY = [semantic_type("C0000001", "T184"), semantic_type("C0000002", "T001"), semantic_type("C0000003", "T047")]
MRDEF = [definition("C0000001", "Lack of coordination.", "A2"), definition("C0000001", "Another.", "A3")]
EXPECTED = [
    Concept("C0000001", ("Ataxia", "Want of order"), (), ("T184",), "Lack of coordination."),
    Concept("C0000003", ("Gout",), (), ("T047",)),
]


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_a_release_is_read_from_its_folder(release, pack, suffix):
    concepts, report = read_umls(release(MRCONSO, MRSTY, MRDEF, pack, suffix))
    assert concepts == EXPECTED
    assert (report.read, report.used, report.skipped) == (4, 4, {})
    assert report.notes == {"string in several rows of a concept, kept once": 1}
    assert "4 of 4 records used" in report.summary()


def test_a_release_is_known_as_a_folder_as_its_parent_and_as_a_file(release):
    folder = release(MRCONSO, MRSTY, MRDEF)
    assert read_concepts(folder)[0] == EXPECTED
    assert read_concepts(folder / "MRCONSO.RRF")[0] == EXPECTED
    (folder / "2025AA").mkdir()
    (folder / "2025AA" / "META").symlink_to(folder)
    assert read_knowledge_base(folder / "2025AA").concepts == EXPECTED


def test_mrconso_alone_is_enough(release):
    concepts, _ = read_umls(release(MRCONSO))
    assert [(concept.types, concept.definition) for concept in concepts] == [((), ""), ((), "")]


@pytest.mark.parametrize(
    ("settings", "names", "skipped"),
    [
        ({}, ("a", "b"), {"another language": 1, "suppressible": 3}),
        ({"languages": ("SPA", "ENG")}, ("x", "a", "b"), {"suppressible": 3}),
        ({"sources": {"NCI"}}, ("b",), {"another language": 1, "another source": 4}),
        ({"suppress": ()}, ("a", "b", "o", "e", "y"), {"another language": 1}),
        ({"suppress": ("O",)}, ("a", "b", "e", "y"), {"another language": 1, "suppressible": 1}),
    ],
)
def test_filters(release, settings, names, skipped):
    rows = [
        preferred("C0000001", "a"),
        atom("C0000001", "b", sab="NCI"),
        preferred("C0000001", "x", lat="SPA"),
        *(atom("C0000001", flag.lower(), suppress=flag) for flag in "OEY"),
    ]
    concepts, report = read_umls(release(rows), **settings)
    assert concepts[0].names == names
    assert report.skipped == skipped
    assert report.read == 6 == report.used + sum(skipped.values())


def test_a_concept_of_which_nothing_is_kept_is_left_out(release):
    concepts, report = read_umls(release([preferred("C0000001", "ataxie", lat="FRE"), *MRCONSO[3:]], MRSTY))
    assert concepts == EXPECTED[1:]
    assert report.skipped == {"another language": 1}


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ([("S", "PF", "Y", "a"), ("P", "VO", "N", "b")], "b"),
        ([("P", "VO", "Y", "a"), ("P", "PF", "N", "b")], "b"),
        ([("P", "PF", "N", "a"), ("P", "PF", "Y", "b")], "b"),
        ([("S", "VO", "N", "a"), ("S", "VO", "N", "b")], "a"),
        ([("s", "PF", "Y", "a"), ("P", "PF", "Y", "b")], "b"),
    ],
)
def test_the_preferred_name_stands_first(release, rows, first):
    atoms = [atom("C0000001", name, ts=ts, stt=stt, ispref=ispref) for ts, stt, ispref, name in rows]
    concepts, _ = read_umls(release(atoms))
    assert concepts[0].names[0] == first


def test_semantic_types_choose_concepts(release):
    concepts, report = read_umls(release(MRCONSO, MRSTY), semantic_types={"T047"})
    assert [concept.id for concept in concepts] == ["C0000003"]
    assert (report.read, report.used, report.skipped) == (4, 1, {"semantic type not asked for": 3})


def test_a_concept_may_have_several_semantic_types(release):
    rows = [semantic_type("C0000003", tui) for tui in ("T047", "T184", "T047")]
    assert read_umls(release(MRCONSO[3:], rows))[0][0].types == ("T047", "T184")


def test_semantic_types_need_mrsty(release):
    with pytest.raises(FileNotFoundError, match="semantic_types need MRSTY.RRF, which is not beside"):
        read_umls(release(MRCONSO), semantic_types={"T047"})


def test_a_definition_belongs_to_an_atom_that_is_kept(release):
    rows = [
        definition("C0000001", "Of an atom left out.", "A9"),
        definition("C0000001", "Obsolete.", "A2", suppress="O"),
        definition("C0000001", "The one.", "A2"),
    ]
    assert read_umls(release(MRCONSO, (), rows))[0][0].definition == "The one."


def test_a_row_without_string_is_skipped(release):
    _, report = read_umls(release([*MRCONSO, atom("C0000009", " ")]))
    assert report.skipped == {"no name": 1}


@pytest.mark.parametrize("name", ["languages", "sources", "suppress"])
def test_a_string_in_place_of_a_collection_is_refused(release, name):
    with pytest.raises(
        ValueError, match=rf"{name} must be a collection of codes, got the string 'ENG'; write \('ENG',\)"
    ):
        read_umls(release(MRCONSO), **{name: "ENG"})


def test_rows_that_are_not_sorted_are_refused_with_the_remedy(release):
    with pytest.raises(
        ValueError, match=r"MRCONSO.RRF:2: CUI 'C0000001' after 'C0000003': the rows are not sorted.*sort -t"
    ):
        read_umls(release([MRCONSO[3], MRCONSO[0]]))


@pytest.mark.parametrize("row", ["C0000004|ENG|P", MRCONSO[3] + "x", "|" * 18])
def test_broken_rows_are_refused_with_their_line(release, row):
    with pytest.raises(ValueError, match="MRCONSO.RRF:5: "):
        read_umls(release([*MRCONSO, row]))


def test_broken_rows_beside_are_refused_with_their_file_and_line(release):
    with pytest.raises(ValueError, match="MRSTY.RRF:2: 1 columns instead of 6: 'C0000002|'"):
        read_umls(release(MRCONSO, [MRSTY[0], "C0000002|"]))


def test_a_folder_without_mrconso(tmp_path):
    (tmp_path / "MRREL.RRF").touch()
    with pytest.raises(FileNotFoundError, match="no MRCONSO.RRF at .*; unpack the UMLS release"):
        read_umls(tmp_path)
    with pytest.raises(ValueError, match="a folder without MRCONSO.RRF or any other .*; it has 'MRREL.RRF'"):
        read_concepts(tmp_path)


def test_many_rows_are_counted_exactly(release):
    rows = [
        preferred(f"C{concept:07d}", f"name {concept}")
        if k == 0
        else atom(f"C{concept:07d}", f"{concept} {k}", lat=lat)
        for concept in range(2000)
        for k, lat in enumerate(("ENG", "SPA", "ENG", "FRE"))
    ]
    concepts, report = read_umls(release(rows))
    assert (len(concepts), sum(len(concept.names) for concept in concepts)) == (2000, 4000)
    assert (report.read, report.used, report.skipped) == (8000, 4000, {"another language": 4000})
    assert len(report.examples["another language"]) == 5
