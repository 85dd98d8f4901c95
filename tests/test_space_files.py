"""Records and files of the Space: corrections, uploads, answers to download."""

import pytest
from space_world import EXAMPLE, batch_files, knowledge_base, records, service, settings

from angel_trl import EntityLinker, read_corpus

VisitorError = service.VisitorError


@pytest.fixture(scope="module")
def served(make_model, tokenizer):
    return service.Service(EntityLinker(make_model(), tokenizer, knowledge_base()))


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_correction_is_a_training_mention(served, tmp_path):
    answer = served.answer(EXAMPLE)
    kept = [records.correction(answer, 0, "D003693", served), records.correction(answer, 1, "-", served)]
    path = tmp_path / "corrections.jsonl"
    path.write_text(records.to_jsonl(kept))
    splits, report = read_corpus(path)
    first, second = splits["train"].to_list()
    assert (report.read, report.used, report.notes) == (2, 2, {"no concept id": 1})
    assert (first["mention"], first["concept_ids"], first["types"]) == ("Wilson's disease", [["D003693"]], ["Disease"])
    assert (second["mention"], second["concept_ids"]) == ("penicillamine", [])


def test_a_correction_to_an_unknown_id_is_refused(served):
    with pytest.raises(VisitorError, match="“D000000” is no id"):
        records.correction(served.answer(EXAMPLE), 0, "D000000", served)


# --- files -----------------------------------------------------------------------------------------------------------


def read(tmp_path, text, name="file.txt"):
    path = tmp_path / name
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return batch_files.read(path, name)


PUBTATOR = "1|t|A rare ataxia.\n1|a|More of it.\n1\t7\t13\tataxia\tDisease\n1\t99\t100\tx\tDisease\tD1\n"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PUBTATOR, "PubTator"),
        (
            '{"text": "A rare ataxia. More of it.", "start": 7, "end": 13, "document_id": 1, "types": ["Disease"]}\n',
            "JSONL",
        ),
        ('{"text": "A rare [ataxia]. More of it.", "document_id": "1", "types": "Disease"}\n\n', "JSONL"),
        ("document_id,text,start,end,types\n1,A rare ataxia. More of it.,7,13,Disease\n", "CSV"),
        ("document_id\ttext\ttypes\n1\tA rare [ataxia]. More of it.\tDisease\n", "CSV"),
        ("\ufeffdocument_id,text,types\n1,A rare [ataxia]. More of it.,Disease\n", "CSV"),
    ],
)
def test_mentions_of_a_file_are_read(tmp_path, text, kind):
    batch = read(tmp_path, text)
    assert batch.kind == kind
    assert batch.rows == [
        {
            "id": "1:7-13",
            "document_id": "1",
            "text": "A rare ataxia. More of it.",
            "start": 7,
            "end": 13,
            "types": ["Disease"],
        }
    ]


def test_rows_left_out_are_counted_by_reason(tmp_path):
    rows = ['{"text": "[a]"}', "{", '{"text": ""}', '{"text": "b", "start": 0, "end": 9}', "[1]", '{"text": "c"}', "{"]
    batch = read(tmp_path, "\n".join(rows))
    assert [row["text"] for row in batch.rows] == ["a"]
    assert batch.notices == [
        "3 rows left out: not a JSON object (row 2 of file.txt).",
        "1 row left out: no text (row 3 of file.txt).",
        "1 row left out: start and end do not mark a mention in the text (row 4 of file.txt).",
        "1 row left out: no start and end, and no [mention] in brackets (row 6 of file.txt).",
    ]
    assert read(tmp_path, PUBTATOR).notices[0].startswith("1 left out: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"text\0", "not text"),
        (b" ", "empty"),
        (b"a,b\n1,2\n", "no column “text”"),
        (b'{"text": "no mention"}\n', "There is no mention in up.txt"),
        (b"1|t|title\n1|a|x\n1|a|y\n", r"^up.txt:3: abstract of '1'"),
        (b"text\n" + b"x" * settings.MAX_UPLOAD_BYTES, "more than 5 MB"),
        (b'text\n"' + b"x" * 200_000 + b'"\n', "not readable as CSV"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_without_a_path_of_the_server(tmp_path, content, message):
    with pytest.raises(VisitorError, match=message) as told:
        read(tmp_path, content, "up.txt")
    assert str(tmp_path) not in str(told.value)


def test_further_mentions_of_a_file_are_left_out_with_a_notice(tmp_path):
    batch = read(tmp_path, '{"text": "[a] [b] [c]"}\n' * 700)
    assert len(batch.rows) == settings.MAX_BATCH_MENTIONS
    assert batch.notices[0].startswith("file.txt has 2,100 mentions; the first 2,000 were linked.")


def test_answers_to_a_file_are_mentions_that_the_library_reads(served, tmp_path):
    batch = read(tmp_path, '{"text": "Bound by [copper], not [aspirin].", "document_id": "7"}\n')
    links = [records.link_record(link, served) for link in served.link_rows(batch.rows)]
    as_json, as_csv = batch_files.write(batch, links, tmp_path)
    splits, _ = read_corpus(as_json)
    assert splits["train"]["id"] == ["7:9-15", "7:21-28"]
    assert splits["train"]["concept_ids"] == [[link["candidates"][0]["ids"]] for link in links]
    head, first, *_ = as_csv.read_text(encoding="utf-8-sig").splitlines()
    assert head == "id,document_id,start,end,mention,concept_id,name,probability,exact"
    assert first.startswith(f"7:9-15,7,9,15,copper,{links[0]['id']},")
