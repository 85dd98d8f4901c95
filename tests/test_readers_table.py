import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_concepts, read_knowledge_base
from angel_trl.readers.ctd import read_ctd
from angel_trl.readers.table import read_table

EXPECTED = [
    Concept("D1", ("Breast Cancer", "BC", "a|b"), ("114480", "9"), ("T1",), "Bad."),
    Concept("D2", ("Ataxia",)),
]
NAMES = "id,names,alternate_ids,types,definition\nD1,Breast Cancer|BC,114480|9,T1,Bad.\nD2,Ataxia,,,\n"


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="kb"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write_text


@pytest.mark.parametrize(
    "text",
    [
        NAMES,
        NAMES.replace(",", "\t"),
        NAMES.replace(",", ";"),
        "\ufeff\n" + NAMES.replace("\n", "\r\n").replace("id,names", '"ID", Names '),
        "definition,name,url,id,synonyms,alternate_ids,types\n"
        "Bad.,Breast Cancer,x,D1,BC,114480|9,T1\n,Ataxia,,D2,,,\n",
        'id,name,alternate_ids,definition,types\nD1,Breast Cancer,114480,,T1\nD2,Ataxia,,,\nD1,"BC",9,Bad.,\n',
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_delimited_tables_are_told_by_their_header(write, text, pack):
    concepts, report = read_concepts(write(pack(text.encode())))
    assert concepts == [Concept("D1", ("Breast Cancer", "BC"), ("114480", "9"), ("T1",), "Bad."), EXPECTED[1]]
    assert report.read == report.used


def test_one_row_a_name_is_joined_and_noted(write):
    concepts, report = read_table(write("id\tname\nD1\ta\nD2\tb\nD1\tc\nD1\ta\n"))
    assert concepts == [Concept("D1", ("a", "c")), Concept("D2", ("b",))]
    assert (report.read, report.used, report.repaired) == (4, 4, {})
    assert report.notes == {"concept id in several rows, names joined": 2}


def test_quotes_keep_delimiters_line_breaks_and_quotes(write):
    concepts, _ = read_table(write('id,name,definition\nD1,"Cancer, ""Breast""","two\nlines"\n'))
    assert concepts == [Concept("D1", ('Cancer, "Breast"',), (), (), "two\nlines")]


def test_a_bar_belongs_to_a_name_but_separates_names(write):
    assert read_table(write("id,name\nD1,a|b\n"))[0][0].names == ("a|b",)
    assert read_table(write("id,names\nD1,a|b\n"))[0][0].names == ("a", "b")


def test_other_columns_are_noted(write):
    _, report = read_table(write("id,name,url\nD1,a,x\nD2,b,y\n"))
    assert report.notes == {"column 'url' ignored": 1}


@pytest.mark.parametrize(
    ("row", "skipped", "repaired"),
    [
        (",a", {"no concept id": 1}, {}),
        ("D1, |", {"no name": 1}, {}),
        (" D1 ,a", {}, {"blank around id": 1}),
        ("D1, a||a", {}, {"blank around name": 1, "empty name dropped": 1, "duplicate name dropped": 1}),
    ],
)
def test_defects_are_counted(write, row, skipped, repaired):
    _, report = read_table(write(f"id,names\nD0,z\n{row}\n"))
    assert (report.read, report.skipped, report.repaired) == (2, skipped, repaired)
    assert all(":3 " in examples[0] for examples in report.examples.values())


def test_of_two_definitions_the_first_is_kept(write):
    concepts, report = read_table(write("id,name,definition\nD1,a,x\nD1,b,y\nD1,c,x\n"))
    assert concepts[0].definition == "x"
    assert report.notes["another definition left out"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,name\nD1,a,b\n",
            "kb:2: 3 fields, but 2 columns: 'D1,a,b'; put a field that has ',' in it in double quotes",
        ),
        ("id,name\nD1\n", "kb:2: 1 fields, but 2 columns"),
        ('id,name\nD1,"a" b\n', "kb:2: broken quotes in this row"),
        ('id,name\nD0,z\nD1,"a\nD2,b\n', "kb:3: broken quotes in this row"),
        ("id,label\nD1,a\n", "kb:1: columns 'id, label': there must be 'id', and 'name' or 'names'; rename them"),
        ("", "kb:1: columns ''"),
        ('"', "kb:1: broken quotes in this row"),
        ('"\n",name\nD1,a\n', "kb:1: columns ', name'"),
        ("id,name,Name\nD1,a,b\n", "kb:1: column 'name' stands twice"),
        ("id,names\nD1,\"['a', 'b']\"\n", "kb:2: column 'names': .* is a list printed as text; join the values with"),
    ],
)
def test_broken_tables_name_the_place(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(text))


def test_a_runaway_quote_does_not_swallow_the_file(write):
    with pytest.raises(ValueError, match=r"kb:2: broken quotes in this row \(field larger than field limit"):
        read_table(write('id,name\nD1,"a\n' + "D2,b\n" * 50_000))


ROWS = {
    "id": ["D1", "D2"],
    "names": [["Breast Cancer", "BC", "a|b"], ["Ataxia"]],
    "alternate_ids": [["114480", "9"], []],
    "types": [["T1"], None],
    "definition": ["Bad.", None],
}


def test_parquet_tables(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "kb")
    concepts, report = read_concepts(tmp_path / "kb")
    assert concepts == EXPECTED
    assert (report.read, report.used) == (2, 2)
    kb = read_knowledge_base(tmp_path / "kb")
    assert (len(kb), kb.read_report.read) == (2, 2)


def test_our_own_parquet_is_also_a_table(tmp_path):
    KnowledgeBase(EXPECTED).to_parquet(tmp_path / "kb")
    assert read_concepts(tmp_path / "kb")[0] == EXPECTED


@pytest.mark.parametrize("pack", [lambda frame: frame, lambda frame: frame.convert_dtypes()])
def test_data_frames(pack):
    assert read_table(pack(pd.DataFrame(ROWS)))[0] == EXPECTED


def test_missing_values_of_pandas_stand_for_nothing():
    frame = pd.DataFrame({"id": ["D1", "D2", None], "name": ["a", float("nan"), "c"], "synonyms": [pd.NA, "b|c", "d"]})
    concepts, report = read_table(frame)
    assert concepts == [Concept("D1", ("a",)), Concept("D2", ("b", "c"))]
    assert report.skipped == {"no concept id": 1}
    assert report.examples["no concept id"] == ["DataFrame: row 2 'c'"]


def test_a_data_frame_with_one_name_a_row_written_as_csv_and_as_parquet(tmp_path):
    frame = pd.DataFrame({"id": ["D1", "D1", "D2"], "name": ["a, b", 'c "d"', "e"]})
    frame.to_csv(tmp_path / "kb.csv", index=False)
    frame.to_csv(tmp_path / "kb.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "kb.parquet")
    for name in ("kb.csv", "kb.tsv", "kb.parquet"):
        assert read_concepts(tmp_path / name)[0] == [Concept("D1", ("a, b", 'c "d"')), Concept("D2", ("e",))]


def test_whole_numbers_as_ids_are_read_as_text():
    concepts, report = read_table(pd.DataFrame({"id": [114480, 5], "name": ["a", "b"]}))
    assert [concept.id for concept in concepts] == ["114480", "5"]
    assert report.notes == {"number read as text": 2}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"id": [1.5], "name": ["a"]},
            "row 0: column 'id': must be text, got 1.5; read or convert the column as text",
        ),
        ({"id": ["1"], "name": [b"a"]}, "row 0: column 'name': must be text, got b'a'"),
        ({"id": ["1"], "names": [{"a": 1}]}, "row 0: column 'names': must be a list of texts"),
        ({"id": ["1"], "names": [["a", True]]}, "row 0: column 'names': must be text, got True"),
        ({"id": ["1"], "name": ["a\ud800"]}, r"row 0: name: half of a surrogate pair \(U\+D800\) in"),
        ({"id": ["1"], "name": ["a\0"]}, "row 0: name: a NUL character in"),
        ({"id": ["1"]}, "DataFrame: columns 'id': there must be 'id', and 'name' or 'names'"),
    ],
)
def test_values_of_other_types_are_refused_with_row_and_column(columns, message):
    with pytest.raises(ValueError, match=message):
        read_table(pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}))


def test_a_foreign_parquet_file_says_which_columns_it_has(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "kb")
    with pytest.raises(ValueError, match="kb: columns 'a': there must be 'id', and 'name' or 'names'"):
        read_knowledge_base(tmp_path / "kb")


def test_a_broken_parquet_file(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "kb")
    (tmp_path / "kb").write_bytes((tmp_path / "kb").read_bytes()[:-20])
    for read in (read_table, read_knowledge_base):
        with pytest.raises(ValueError, match="kb: not a readable parquet file"):
            read(tmp_path / "kb")


def test_parquet_whose_text_is_not_utf8(tmp_path):
    pq.write_table(pa.table({**ROWS, "definition": ["Bad.", "caf\u00e9"]}), tmp_path / "kb", compression="none")
    for old, new in ((b"definition", b"definiti\xe6n"), ("é".encode(), b"\xe9 ")):
        path = tmp_path / "broken"
        path.write_bytes((tmp_path / "kb").read_bytes().replace(old, new))
        for read in (read_table, read_knowledge_base):
            with pytest.raises(ValueError, match="broken: not a readable parquet file .*codec can't decode"):
                read(path)


CTD_COLUMNS = (
    "DiseaseName,DiseaseID,AltDiseaseIDs,Definition,ParentIDs,TreeNumbers,ParentTreeNumbers,Synonyms,SlimMappings"
)
CTD_COMMENT = "#\n# Comparative Toxicogenomics Database, http://ctdbase.org/\n#\n# Fields:\n# "
CTD_CSV = f"""{CTD_COMMENT}{CTD_COLUMNS}
#
"Cancer, Breast",MESH:D1,OMIM:114480|DO:DOID:9,"Bad, very.",MESH:D0,C04,C,BC|Breast Tumor,Cancer|Skin disease
Ataxia,MESH:D2,,,MESH:D0,C10,C,,
"""
CTD_EXPECTED = [
    Concept(
        "MESH:D1",
        ("Cancer, Breast", "BC", "Breast Tumor"),
        ("OMIM:114480", "DO:DOID:9"),
        ("Cancer", "Skin disease"),
        "Bad, very.",
    ),
    Concept("MESH:D2", ("Ataxia",)),
]
CTD_ROWS = (
    ("Cancer, Breast", "MESH:D1", "OMIM:114480|DO:DOID:9", "Bad, very.", "MESH:D0", "C04", "C", "BC|Breast Tumor"),
    ("Ataxia", "MESH:D2", "", "", "MESH:D0", "C10", "C", ""),
)
CTD_TSV = CTD_COMMENT + CTD_COLUMNS.replace(",", "\t") + "\n#\n"
CTD_TSV += "".join(
    "\t".join((*row, slim)) + "\n" for row, slim in zip(CTD_ROWS, ("Cancer|Skin disease", ""), strict=True)
)


@pytest.mark.parametrize("text", [CTD_CSV, CTD_TSV, CTD_TSV.replace("\n", "\r\n"), "\ufeff" + CTD_CSV])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_ctd_diseases(write, text, pack):
    concepts, report = read_concepts(write(pack(text.encode())))
    assert concepts == CTD_EXPECTED
    assert (report.read, report.used, report.skipped, report.repaired) == (2, 2, {}, {})
    assert set(report.notes) == {
        f"column {name!r} ignored" for name in ("ParentIDs", "TreeNumbers", "ParentTreeNumbers")
    }


@pytest.mark.parametrize(
    ("columns", "row", "concept"),
    [
        (
            "ChemicalName\tChemicalID\tCasRN\tDefinition\tMESHSynonyms\tCTDCuratedSynonyms",
            "Aspirin\tMESH:D001241\t50-78-2\tA drug.\tASA|Acylpyrin\tacetosal",
            Concept("MESH:D001241", ("Aspirin", "ASA", "Acylpyrin", "acetosal"), (), (), "A drug."),
        ),
        (
            "GeneSymbol\tGeneName\tGeneID\tAltGeneIDs\tSynonyms",
            'ATM\tATM 5" kinase\t472\t11920|8\tAT1|TEL1',
            Concept("472", ("ATM", 'ATM 5" kinase', "AT1", "TEL1"), ("11920", "8")),
        ),
        (
            "GeneSymbol\tGeneName\tGeneID\tAltGeneIDs\tSynonyms",
            "ATM\t\t472\t\t",
            Concept("472", ("ATM",)),
        ),
    ],
)
def test_other_vocabularies_of_ctd(write, columns, row, concept):
    concepts, report = read_ctd(write(f"# Fields:\n# {columns}\n#\n{row}\n"))
    assert concepts == [concept]
    assert report.repaired == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CTD_TSV + "x\tMESH:D3\n", "kb:9: 2 fields, but 9 columns"),
        (CTD_CSV + 'x,"MESH:D3\n', "kb:9: broken quotes in this row"),
        (
            "# Fields:\n# ChemicalName\tChemicalID\tDiseaseName\tDiseaseID\na\tb\tc\td\n",
            "kb:2: columns .* not .* one voc",
        ),
        ("# Fields:\n# DiseaseID\tSynonyms\nD1\ta\n", "kb:2: columns 'DiseaseID, Synonyms' are not those"),
        ("# Fields:\n", "kb: no comment line names the columns after '# Fields:'"),
        ("# Fields:\nDiseaseName\tDiseaseID\n", "kb: no comment line names the columns after '# Fields:'"),
    ],
)
def test_broken_files_of_ctd_name_the_place(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_concepts(write(text))
