"""Whatever a file holds, a corpus reader returns valid mentions and a balanced account, or an error that names it."""

import gzip
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kb_readers import SEEDS

from angel_trl import readers
from angel_trl.mentions import validate_mentions
from angel_trl.readers import (
    read_askapatient,
    read_bigbio,
    read_brat,
    read_cometa,
    read_concepts,
    read_corpus,
    read_medmentions,
    read_mention_jsonl,
    read_mention_parquet,
    read_pubtator,
    read_source_target,
    read_table,
    read_umls,
)

PUBTATOR = (
    "1|t|Ataxia and FAP\n1|a|Breast or ovarian cancer.\n1\t0\t6\tAtaxia\tT047,T191\tD1|D2\n1\t11\t14\tFAP\tD\t-1\n"
    "1\tCID\tD1\tD2\n\n2|t|Gout\n2|a|x\n2\t0\t4\tGout\tCompositeMention\tUMLS:C0018099,p|SUB|V|600|E\ta|b\n"
)
JSONL = json.dumps({"id": "a", "text": "no FAP", "start": 3, "end": 6, "concept_ids": [["D1"]], "types": ["x"]}) + "\n"
BRAT = "T1\tD 0 6\tAtaxia\nT2\tD 0 6;11 14\tAtaxia FAP\nN1\tReference T1 MESH:D1\tx\nA1\tNegated T1\n"
COMETA = 'ID\tTerm\tGeneral SNOMED ID\tExample\n1\tpain\t7\t"my ""pain"""\n2\tgout\t8\tgout\n'

# What is put into the files: what the formats are made of, and what no text file should hold.
BITS = st.sampled_from(
    [b"\t", b"\n", b"\r\n", b"|", b"+", b",", b";", b'"', b" ", b"1|t|", b"1|a|x", b"-1", b"7", b"9" * 30, b"9" * 5000]
    + [b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\\ud800", b"null", b"[[", b"{}", b"START", b"END"]
    + [b"T1\tD 0 6\tAtaxia\n", b"\x1f\x8b", "\N{GREEK SMALL LETTER ALPHA}".encode(), b"\xd9\xa3"]
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), BITS), max_size=6)


def _edited(text, edits):
    data = text.encode()
    for place, deleted, inserted in edits:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + deleted :]
    return data


def _check(read, path):
    try:
        dataset, report = read()
    except ValueError as error:
        if type(error) is not ValueError or str(path) not in str(error):
            pytest.fail(f"not an error of ours that names the file: {error!r}")
        return
    assert report.read == report.used + sum(report.skipped.values())
    assert set(report.fixes) == set(report.skipped)
    parts = list(dataset.values()) if isinstance(dataset, dict) else [dataset]
    assert sum(map(len, parts)) == report.used
    for part in parts:
        validate_mentions(part)


def _check_concepts(read, path):
    try:
        concepts, report = read(path)
    except ValueError as error:
        if type(error) is not ValueError or not str(error).startswith(str(path)):
            pytest.fail(f"not an error of ours that names the file: {error!r}")
        return
    assert report.read == report.used + sum(report.skipped.values())
    assert all(concept.id and all(concept.names) for concept in concepts)


_FUZZ = settings(max_examples=80, deadline=None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (PUBTATOR, read_pubtator),
        (JSONL * 2, read_mention_jsonl),
        (COMETA, read_cometa),
        ("7\tPain\tpain\n8\tGout\tgout\n", read_askapatient),
    ],
    ids=["pubtator", "jsonl", "cometa", "askapatient"],
)
@given(edits=EDITS, compressed=st.booleans())
@_FUZZ
def test_files(text, read, edits, compressed):
    data = _edited(text, edits)
    with TemporaryDirectory() as folder:
        path = Path(folder, "c.txt")
        path.write_bytes(gzip.compress(data) if compressed else data)
        _check(lambda: read(path, split="train"), path)
        _check(lambda: read_corpus(path), path)


@given(source=EDITS, label=EDITS, target=EDITS)
@_FUZZ
def test_source_target(source, label, target):
    with TemporaryDirectory() as folder:
        files = (("source", "a START b END c\nSTART d END\n", source), ("label", "D1\nD2|D3+D4\n", label))
        for name, text, edits in (*files, ("target", "b is x\nd is y\n", target)):
            Path(folder, f"train.{name}").write_bytes(_edited(text, edits))
        _check(lambda: read_source_target(Path(folder, "train.source"), split="train"), folder)


@given(text=EDITS, annotations=EDITS)
@_FUZZ
def test_brat(text, annotations):
    with TemporaryDirectory() as folder:
        Path(folder, "a.txt").write_bytes(_edited("Ataxia and FAP\r\nGout", text))
        Path(folder, "a.ann").write_bytes(_edited(BRAT, annotations))
        _check(lambda: read_brat(folder, split="train"), folder)


@given(corpus=EDITS, list_=EDITS)
@_FUZZ
def test_medmentions(corpus, list_):
    with TemporaryDirectory() as folder:
        Path(folder, "corpus_pubtator.txt").write_bytes(_edited(PUBTATOR, corpus))
        Path(folder, "corpus_pubtator_pmids_trng.txt").write_bytes(_edited("1\n", list_))
        Path(folder, "corpus_pubtator_pmids_dev.txt").write_text("2\n")
        _check(lambda: read_medmentions(folder), folder)


TEXTS = st.sampled_from(["Ataxia", "FAP", "", " ", "a\0b", "gout", "-1", "D1"])
OFFSETS = st.lists(st.lists(st.integers(-3, 20), min_size=1, max_size=3), max_size=3)
ENTITY = st.fixed_dictionaries(
    {
        "id": st.none() | TEXTS,
        "type": st.none() | TEXTS,
        "text": st.none() | st.lists(TEXTS, max_size=3),
        "offsets": st.none() | OFFSETS | st.just([[0, 6]]),
        "normalized": st.none() | st.lists(st.fixed_dictionaries({"db_id": st.none() | TEXTS}), max_size=2),
    }
)
DOCUMENT = st.fixed_dictionaries(
    {
        "document_id": st.none() | st.sampled_from(["1", "2", "1#2"]),
        "passages": st.just([{"text": ["Ataxia and"]}, {"text": ["FAP"]}])
        | st.none()
        | st.lists(st.fixed_dictionaries({"text": st.lists(TEXTS)}), max_size=2),
        "entities": st.none() | st.lists(ENTITY, max_size=3),
    }
)


MENTION = st.fixed_dictionaries(
    {"text": st.none() | TEXTS, "start": st.integers(-2, 7), "end": st.none() | st.integers(-2, 7)}
    | {"concept_ids": st.none() | st.lists(st.lists(TEXTS, max_size=2), max_size=2)},
    optional={"id": TEXTS, "mention": TEXTS, "types": st.lists(TEXTS), "split": st.just("train") | TEXTS},
)
CONCEPT = st.fixed_dictionaries(
    {"id": st.none() | TEXTS, "names": st.none() | st.lists(st.none() | TEXTS, max_size=3)},
    optional={"Name": st.none() | TEXTS, "types": TEXTS, "definition": TEXTS, "score": st.floats()},
)


def _write_parquet(path, rows, edits):
    pq.write_table(pa.Table.from_pylist(rows), path)
    data = path.read_bytes()
    for place, deleted, inserted in edits:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + deleted :]
    path.write_bytes(data)


@given(documents=st.lists(DOCUMENT, min_size=1, max_size=4), edits=st.just([]) | EDITS)
@_FUZZ
def test_bigbio(documents, edits):
    with TemporaryDirectory() as folder:
        path = Path(folder, "c.parquet")
        _write_parquet(path, documents, edits)
        _check(lambda: read_bigbio(path, split="train"), path)
        _check(lambda: read_corpus(path), path)


@given(mentions=st.lists(MENTION, min_size=1, max_size=5), edits=st.just([]) | EDITS)
@_FUZZ
def test_mention_parquet(mentions, edits):
    with TemporaryDirectory() as folder:
        path = Path(folder, "c.parquet")
        _write_parquet(path, mentions, edits)
        _check(lambda: read_mention_parquet(path, split="train"), path)
        _check(lambda: read_corpus(path), path)


@given(concepts=st.lists(CONCEPT, min_size=1, max_size=4), edits=st.just([]) | EDITS)
@_FUZZ
def test_tables_in_parquet(concepts, edits):
    with TemporaryDirectory() as folder:
        path = Path(folder, "kb.parquet")
        _write_parquet(path, concepts, edits)
        for read in (read_table, read_concepts):
            _check_concepts(read, path)


MRCONSO = "C0000001|ENG|P|L1|PF|S1|Y|A1||M1|D1|MSH|PT|D1|a|0|N|256|\n"
MRSTY = "C0000001|T047|B2.2|Disease|AT1|256|\n"
MRDEF = "C0000001|A1|AT2||MSH|Bad.|N||\n"


@given(names=EDITS, types=EDITS, definitions=EDITS)
@_FUZZ
def test_umls(names, types, definitions):
    with TemporaryDirectory() as folder:
        for name, text, edits in (("CONSO", MRCONSO, names), ("STY", MRSTY, types), ("DEF", MRDEF, definitions)):
            Path(folder, f"MR{name}.RRF").write_bytes(_edited(text + text.replace("0000001", "0000002"), edits))
        _check_concepts(read_umls, folder)


def test_every_reader_is_fuzzed():
    here = {name for name in globals() if name.startswith("read_")}
    of_knowledge_bases = {read.__name__ for _, read in SEEDS.values()} | {"read_knowledge_base"}
    assert {name for name in readers.__all__ if name.startswith("read_")} <= here | of_knowledge_bases


@pytest.mark.parametrize("data", [b"\xff\xfe1\0|\0t\0|\0", b"", b"\n\n", b"\x1f\x8b\x08", b"PAR1", b"Dear reader\n"])
def test_files_of_no_format_say_what_was_seen_or_wrong(tmp_path, data):
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(path))}: (no known corpus format|broken gzip|not a readable parquet)"
    ):
        read_corpus(path)
