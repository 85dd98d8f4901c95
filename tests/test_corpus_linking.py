"""Corpora are linked as `link_batch` links them, in shards that say where they are from; what is bad is counted."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl import EntityLinker
from angel_trl.confidence import Calibration
from angel_trl.corpus_linking import LinkingSettings, link_corpus
from angel_trl.corpus_linking.pieces import Piece
from angel_trl.corpus_linking.pubtator import answered_lines
from angel_trl.corpus_linking.shards import SCHEMA, read_stamp
from angel_trl.readers import read_pubtator

DOCUMENTS = (
    "1|t|Asthma in children.\n"
    "1|a|Asthma and fever [sic] – “β-thalassemia” too.\n"
    "1\t0\t6\tAsthma\tDisease\tD1\n"
    "1\t31\t36\tfever\tDisease\t-\n"
    "1\t46\t59\tβ-thalassemia\tDisease\n"
    "1\tCID\tD1\tD2\n"
    "\n"
    "2|t|Nothing to see.\n"
    "\n"
    "3|t|Gout\twith a tab\n"
    "3|a|\n"
    "3\t0\t4\tGout\tDisease,Other\tD3\tGout\n"
    "\n"
)
MENTIONS = [("1", 0, 6), ("1", 31, 36), ("1", 46, 59), ("3", 0, 4)]


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(seed=1), tokenizer, small_kb)


def link(linker, source, output, **settings):
    return link_corpus(linker, source, output, LinkingSettings(**settings))


def rows_of(output):
    shards = sorted((output / "links").rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in shards]).to_pylist()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path, records):
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def rows(small_mentions):
    """The small mentions without gold, types and splits."""
    return [{key: row[key] for key in ("id", "document_id", "text", "start", "end")} for row in small_mentions]


def expected(linker, rows, file, **settings):
    """What the rows of a shard of one batch must be, made of `link_batch` alone."""
    return [
        {
            "file": file,
            "record": number,
            "id": row["id"],
            "document_id": row["document_id"],
            "start": row["start"],
            "end": row["end"],
            "mention": row["text"][row["start"] : row["end"]],
            "concept_ids": list(linked.candidates[0].ids),
            "name": linked.name,
            "score": linked.score,
            "confidence": linked.confidence,
            "abstained": linked.abstained,
            "exact": linked.exact,
            "candidates": [
                {
                    "concept_ids": list(candidate.ids),
                    "name": candidate.name,
                    "matched_name": candidate.matched_name,
                    "score": candidate.score,
                    "mean_score": candidate.mean_score,
                }
                for candidate in linked.candidates
            ],
        }
        for number, (row, linked) in enumerate(zip(rows, linker.link_batch(rows, **settings), strict=True), 1)
    ]


def test_jsonl_is_linked_as_by_link_batch(linker, rows, tmp_path):
    source = jsonl(tmp_path / "mentions.jsonl", rows)
    done = link(linker, source, tmp_path / "out")
    assert rows_of(tmp_path / "out") == expected(linker, rows, "mentions.jsonl")
    assert (done.linked, done.shards) == (24, 1)
    assert pq.read_schema(tmp_path / "out/links/mentions.jsonl-000000.parquet").equals(SCHEMA)


def test_settings_reach_the_search(linker, rows, tmp_path):
    settings = {"num_beams": 3, "top_k": 2, "batch_size": 5, "ranking": "mean", "exact": True, "max_beams": 4}
    link(linker, jsonl(tmp_path / "mentions.jsonl", rows), tmp_path / "out", **settings)
    assert rows_of(tmp_path / "out") == expected(linker, rows, "mentions.jsonl", **settings)


def test_parquet_is_linked_as_by_link_batch_whatever_its_row_groups(linker, rows, tmp_path):
    table = pa.Table.from_pylist([row | {"concept_ids": [["C01"]], "mention": None} for row in rows])
    for size in (1, 7, 24):
        source = tmp_path / f"{size}.parquet"
        pq.write_table(table, source, row_group_size=size)
        link(linker, source, tmp_path / f"out{size}", shard_mentions=10)
        found = rows_of(tmp_path / f"out{size}")
        assert [row["record"] for row in found] == list(range(1, 25))
        wanted = [row for at in (0, 10, 20) for row in expected(linker, rows[at : at + 10], source.name)]
        assert [row | {"record": 0} for row in found] == [row | {"record": 0} for row in wanted]


def test_a_shard_is_one_piece_and_its_batches_are_its_own(linker, rows, tmp_path):
    source = jsonl(tmp_path / "mentions.jsonl", rows)
    link(linker, source, tmp_path / "out", shard_mentions=7)
    names = [path.name for path in sorted((tmp_path / "out" / "links").iterdir())]
    assert names == [f"mentions.jsonl-00000{number}.parquet" for number in range(4)]
    assert [pq.read_metadata(tmp_path / "out" / "links" / name).num_rows for name in names] == [7, 7, 7, 3]


def test_pubtator_comes_back_with_ids_in_place_and_text_byte_for_byte(linker, tmp_path):
    source = write(tmp_path / "documents.txt", DOCUMENTS)
    link(linker, source, tmp_path / "out", format="pubtator")
    (written,) = (tmp_path / "out" / "pubtator").iterdir()
    ids = ["|".join(row["concept_ids"]) for row in rows_of(tmp_path / "out")]
    lines = DOCUMENTS.splitlines()
    lines[2] = f"1\t0\t6\tAsthma\tDisease\t{ids[0]}"
    lines[3] = f"1\t31\t36\tfever\tDisease\t{ids[1]}"
    lines[4] = f"1\t46\t59\tβ-thalassemia\tDisease\t{ids[2]}"
    lines[11] = f"3\t0\t4\tGout\tDisease,Other\t{ids[3]}"
    assert written.read_bytes().decode() == "".join(line + "\n" for line in lines)
    mentions, report = read_pubtator(written, split="test")
    assert [(row["document_id"], row["start"], row["end"]) for row in mentions] == MENTIONS
    assert [row["concept_ids"] for row in mentions] == [[row["concept_ids"]] for row in rows_of(tmp_path / "out")]
    assert not report.skipped
    assert not report.repaired


def test_pieces_of_pubtator_are_whole_documents_and_join_to_the_whole(linker, tmp_path):
    source = write(tmp_path / "documents.txt", DOCUMENTS)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    link(linker, source, whole, format="pubtator")
    link(linker, source, cut, format="pubtator", shard_mentions=1)
    pieces = sorted((cut / "pubtator").iterdir())
    assert [path.read_text().count("|t|") for path in pieces] == [1, 2]
    assert b"".join(path.read_bytes() for path in pieces) == next((whole / "pubtator").iterdir()).read_bytes()


def test_gzip_goes_in_and_comes_out(linker, tmp_path):
    plain = write(tmp_path / "documents.txt", DOCUMENTS)
    packed = tmp_path / "documents.txt.gz"
    packed.write_bytes(gzip.compress(DOCUMENTS.encode()))
    link(linker, plain, tmp_path / "a", format="pubtator")
    link(linker, packed, tmp_path / "b", format="pubtator")
    text = (tmp_path / "a/pubtator/documents.txt-000000.txt").read_bytes()
    assert gzip.decompress((tmp_path / "b/pubtator/documents.txt.gz-000000.txt.gz").read_bytes()) == text
    assert [row | {"file": ""} for row in rows_of(tmp_path / "a")] == [
        row | {"file": ""} for row in rows_of(tmp_path / "b")
    ]


def test_composite_mentions_get_one_id_where_a_bar_would_join_parts(linker, tmp_path):
    # Of this knowledge base only homonyms have two ids.
    answer = linker.restrict(names=["ms"])
    (linked,) = linker.link("[MS]", restriction=answer)
    assert linked.ambiguous
    mention = {"record": 2, "id": "1:0-2", "document_id": "1", "text": "MS", "start": 0, "end": 2}
    for kind, ids in (("Disease", "C03|C04"), ("CompositeMention", "C03")):
        piece = Piece(0, [(1, b"1|t|MS"), (2, f"1\t0\t2\tMS\t{kind}\tD1".encode())])
        assert answered_lines(piece, {2: mention}, (), [linked]).decode().endswith(f"{kind}\t{ids}\n")


def test_mentions_in_the_same_context_are_computed_once(linker, rows, tmp_path):
    # The same words with other blanks and case are the same to the model; another context is not.
    twice = [*rows, *({**row, "text": row["text"].upper(), "id": f"again {row['id']}"} for row in rows)]
    twice.append({**rows[0], "text": rows[0]["text"] + " Or did he?"})
    source = jsonl(tmp_path / "mentions.jsonl", twice)
    done = link(linker, source, tmp_path / "once", once=True)
    assert done.report["counts"]["mentions"] == 49
    assert done.report["counts"]["computed"] == 25
    link(linker, source, tmp_path / "each")
    assert json.loads((tmp_path / "each" / "report.json").read_text())["counts"]["computed"] == 49
    for once, each in zip(rows_of(tmp_path / "once"), rows_of(tmp_path / "each"), strict=True):
        assert once["score"] == pytest.approx(each["score"], abs=1e-5)
        assert [c["matched_name"] for c in once["candidates"]] == [c["matched_name"] for c in each["candidates"]]
        assert (once["id"], once["mention"], once["start"]) == (each["id"], each["mention"], each["start"])


BAD_RECORDS = [
    (b"{", "not JSON"),
    (b'"text"', "not a JSON object"),
    (b"\xff", "not UTF-8"),
    (b'{"start": 0, "end": 1}', "no field 'text'"),
    (b'{"text": 1, "start": 0, "end": 1}', "field 'text' is not a string"),
    (b'{"text": "\\ud800 a", "start": 0, "end": 1}', "field 'text' holds what no text file can"),
    (b'{"text": "abc", "start": "0", "end": 1}', "field 'start' is not an integer"),
    (b'{"text": "abc", "start": 0}', "field 'end' is not an integer"),
    (b'{"text": "abc", "start": 0, "end": true}', "field 'end' is not an integer"),
    (b'{"text": "abc", "start": 2, "end": 4}', "offsets outside the text"),
    (b'{"text": "abc", "start": -1, "end": 2}', "offsets outside the text"),
    (b'{"text": "a  c", "start": 1, "end": 3}', "empty mention"),
    (b'{"text": "abc", "start": 0, "end": 1, "mention": "x"}', "mention not found at its offsets or nearby"),
    (b'{"text": "abc", "start": 0, "end": 1, "id": [1]}', "field 'id' is not a string"),
    (b'{"text": "abc", "start": 0, "end": 1, "types": 3}', "field 'types' is not a list of strings"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_RECORDS)
def test_a_bad_line_of_jsonl_is_counted_with_its_place(linker, tmp_path, line, reason):
    source = tmp_path / "mentions.jsonl"
    good = b'{"text": "Fever.", "start": 0, "end": 5, "document_id": 7, "other": 1}\n'
    source.write_bytes(good + line + b"\n\n" + good)
    report = link(linker, source, tmp_path / "out").report["read"]
    assert (report["read"], report["used"], report["skipped"]) == (3, 2, {reason: 1})
    assert report["examples"][reason][0].startswith("mentions.jsonl:2 ")
    assert report["fixes"][reason]
    found = rows_of(tmp_path / "out")
    assert [(row["record"], row["id"], row["document_id"]) for row in found] == [(1, "7:0-5", "7"), (4, "7:0-5", "7")]


BAD_LINES = [
    ("1\t0\n", "fewer than 5 columns", False),
    ("1\t0\t6\tAsthma\n", "fewer than 5 columns", False),
    ("9\t0\t6\tAsthma\tDisease\tD1\n", "mention under another document", False),
    ("1\tzero\t6\tAsthma\tDisease\tD1\n", "offset that is no integer", False),
    ("1\t80\t86\tAsthma\tDisease\tD1\n", "mention not found at its offsets or nearby", False),
    ("stray\n", "line that is neither passage nor mention", True),
    ("2|a|Elsewhere.\n", "abstract that belongs to no title", True),
    ("1\t0\t6\t\udcffsthma\tDisease\tD1\n", "line that is not UTF-8 text", False),
    ("1|a|\udcff\n", "line that is not UTF-8 text", True),
]


@pytest.mark.parametrize(("line", "reason", "kept"), BAD_LINES)
def test_a_bad_line_of_pubtator_is_counted_with_its_place(linker, tmp_path, line, reason, kept):
    good = "1\t0\t6\tAsthma\tDisease\tD1\n"
    raw = line.encode("utf-8", "surrogateescape")
    source = tmp_path / "documents.txt"
    source.write_bytes(b"1|t|Asthma in children.\n" + raw + good.encode())
    report = link(linker, source, tmp_path / "out", format="pubtator").report["read"]
    assert (report["read"], report["used"], report["skipped"]) == (2, 1, {reason: 1})
    assert report["examples"][reason][0].startswith("documents.txt:2 ")
    assert (raw in (tmp_path / "out/pubtator/documents.txt-000000.txt").read_bytes()) is kept


def test_mentions_of_a_document_without_title_are_counted(linker, tmp_path):
    source = tmp_path / "documents.txt"
    source.write_bytes(b"1|t|Gout\n1\t0\t4\tGout\tDisease\n\n2|t|\xff Gout\n2\t2\t6\tGout\tDisease\n")
    report = link(linker, source, tmp_path / "out").report["read"]
    assert report["skipped"] == {"line that is not UTF-8 text": 1, "mention under another document": 1}
    assert report["used"] == 1


def test_wrong_offsets_nearby_are_repaired_and_written_right(linker, tmp_path):
    source = write(tmp_path / "documents.txt", "1|t|On gout.\n1\t1\t5\tgout\tDisease\tD1\n")
    report = link(linker, source, tmp_path / "out", format="pubtator").report["read"]
    assert report["repaired"] == {"wrong offset": 1}
    (row,) = rows_of(tmp_path / "out")
    assert (row["start"], row["end"], row["mention"]) == (3, 7, "gout")
    assert "\n1\t3\t7\tgout\tDisease\t" in (tmp_path / "out/pubtator/documents.txt-000000.txt").read_text()


def test_only_mentions_of_the_types_asked_for_are_linked(linker, tmp_path):
    lines = "1\t0\t6\tAsthma\tDisease\tD1\n1\t10\t18\tchildren\tSpecies\t9606\n"
    source = write(tmp_path / "documents.txt", "1|t|Asthma in children.\n" + lines)
    report = link(linker, source, tmp_path / "out", mention_types=["Disease"], format="pubtator").report["read"]
    assert [row["mention"] for row in rows_of(tmp_path / "out")] == ["Asthma"]
    assert report["skipped"] == {"type not asked for": 1}
    assert "\tchildren\tSpecies\t9606\n" in (tmp_path / "out/pubtator/documents.txt-000000.txt").read_text()
    record = {"text": "Asthma", "start": 0, "end": 6}
    kinds = ["Disease", ["Species", "Disease"], ["Species"], None]
    source = jsonl(tmp_path / "mentions.jsonl", [record | {"types": kind} for kind in kinds])
    link(linker, source, tmp_path / "records", mention_types=["Disease"])
    assert [row["record"] for row in rows_of(tmp_path / "records")] == [1, 2]


def test_a_mention_longer_than_the_window_has_no_answer_and_stays(linker, tmp_path):
    long = "x y " * 200
    text = f"1|t|{long}gout\n1\t0\t{len(long) - 1}\t{long[:-1]}\tDisease\tD1\n"
    done = link(linker, write(tmp_path / "documents.txt", text), tmp_path / "out", format="pubtator")
    assert (done.report["counts"]["mentions"], done.report["counts"]["answered"]) == (1, 0)
    (row,) = rows_of(tmp_path / "out")
    assert (row["concept_ids"], row["name"], row["score"], row["candidates"]) == ([], None, None, [])
    assert (tmp_path / "out/pubtator/documents.txt-000000.txt").read_text().endswith("\tDisease\t-\n")


def calibrated(make_model, tokenizer, small_kb, nil_threshold):
    linker = EntityLinker(make_model(seed=1), tokenizer, small_kb)
    linker.calibration = Calibration(2.0, -5.0, nil_threshold, None, 10, 5, linker.targets.fingerprint, {})
    return linker


def test_what_a_linker_abstains_from_has_candidates_and_no_answer(make_model, tokenizer, small_kb, tmp_path):
    source = write(tmp_path / "documents.txt", DOCUMENTS)
    linker = calibrated(make_model, tokenizer, small_kb, 1.0)
    done = link(linker, source, tmp_path / "out", format="pubtator")
    counts = done.report["counts"]
    assert (counts["mentions"], counts["abstained"], counts["answered"]) == (4, 4, 0)
    for row in rows_of(tmp_path / "out"):
        assert (row["concept_ids"], row["name"], row["score"], row["abstained"]) == ([], None, None, True)
        assert 0 < row["confidence"] < 1
        assert row["candidates"]
    assert (tmp_path / "out/pubtator/documents.txt-000000.txt").read_text().count("\t-\n") == 4
    link(linker, source, tmp_path / "all", nil_threshold=0.0)
    assert all(row["concept_ids"] and not row["abstained"] for row in rows_of(tmp_path / "all"))


def test_another_calibration_is_another_linker(make_model, tokenizer, small_kb, linker, tmp_path):
    source = write(tmp_path / "documents.txt", DOCUMENTS)
    link(calibrated(make_model, tokenizer, small_kb, 0.5), source, tmp_path / "out")
    with pytest.raises(ValueError, match="another run linked: linker was"):
        link(calibrated(make_model, tokenizer, small_kb, 0.6), source, tmp_path / "out")
    with pytest.raises(ValueError, match="nil_threshold is 0.5, but the request has no confidence"):
        link(linker, source, tmp_path / "none", nil_threshold=0.5)
    assert not (tmp_path / "none").exists()


def test_every_shard_says_where_it_is_from(linker, rows, tmp_path):
    source = jsonl(tmp_path / "mentions.jsonl", rows)
    link_corpus(linker, source, tmp_path / "out", LinkingSettings(top_k=3), description={"linker": "user/name"})
    stamp = read_stamp(tmp_path / "out/links/mentions.jsonl-000000.parquet")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert stamp["run"] == run["run"]
    assert stamp["linker"] == "user/name"
    assert stamp["run"]["knowledge_base"] == linker.kb.fingerprint
    assert stamp["run"]["settings"]["top_k"] == 3
    files = json.loads((tmp_path / "out" / "input.json").read_text())["files"]
    assert stamp["piece"] == {"file": "mentions.jsonl", "number": 0, "sha256": files["mentions.jsonl"]["sha256"]}


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="shard_mentions is 0"):
        LinkingSettings(shard_mentions=0)
    with pytest.raises(ValueError, match="format is 'brat'; choose one of parquet, pubtator"):
        LinkingSettings(format="brat")
