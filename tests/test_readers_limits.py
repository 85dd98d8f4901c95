"""What a file is not allowed to do to the memory: lines of gigabytes, and little gzip that is much text."""

import gzip
import tracemalloc
from functools import partial

import pytest

from angel_trl.readers import (
    lines,
    mention_rows,
    read_askapatient,
    read_brat,
    read_cometa,
    read_concepts,
    read_corpus,
    read_ctd,
    read_jsonl,
    read_medic,
    read_medmentions,
    read_mention_jsonl,
    read_mesh,
    read_obo,
    read_pubtator,
    read_source_target,
    read_tab,
    read_table,
    read_umls,
)

GIGABYTE = 1 << 30
MEGABYTE = 1 << 20

# How each format begins; what follows is a line of a gigabyte.
TERMINOLOGIES = {
    "MEDIC": (b"D1||a\nD2||", read_medic),
    "tab": (b"D1\ta\nD2\t", read_tab),
    "JSONL": (b'{"id": "D1", "names": ["a"]}\n{"id": "', read_jsonl),
    "OBO": (b"format-version: 1.2\n\n[Term]\nid: X:1\nname: ", read_obo),
    "MeSH": (b"<DescriptorRecordSet><DescriptorRecord><DescriptorUI>", read_mesh),
    "UMLS": (b"C0000001|ENG|P|L1|PF|S1|Y|A1||M1|D1|MSH|PT|D1|a|0|N|256|\nC0000002|ENG|P|", read_umls),
    "CTD": (b"# Fields:\n# DiseaseName\tDiseaseID\n#\na\tMESH:D1\nb\t", read_ctd),
    "CSV": (b'id,name\nD1,a\nD2,"', read_table),
}
CORPORA = {
    "PubTator": (b"1|t|Ataxia\n1|a|", read_pubtator),
    "JSONL": (b'{"text": "a", "start": 0, "end": 1, "concept_ids": []}\n{"text": "', read_mention_jsonl),
    "COMETA": (b"Term\tExample\tGeneral SNOMED ID\na\ta\t1\nb\t", read_cometa),
    "AskAPatient": (b"1\ta\tb\n2\tc\t", read_askapatient),
}
CASES = [(start, read) for start, read in TERMINOLOGIES.values()]
CASES += [(start, partial(read, split="train")) for start, read in CORPORA.values()]


def _long_line(path, start):
    """A file with `start` and then a gigabyte of zeros, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(GIGABYTE)
    return path


def _peak(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("start", "read"), CASES, ids=[*TERMINOLOGIES, *(f"{name} mentions" for name in CORPORA)])
def test_a_line_of_a_gigabyte_ends_at_a_bound(tmp_path, start, read):
    if read is read_obo:
        pytest.importorskip("fastobo", reason='OBO needs fastobo: pip install "angel_trl[readers]"')
    path = _long_line(tmp_path / "MRCONSO.RRF", start)

    def refused():
        # The zeros would be refused for what they are, if they were not too many.
        with pytest.raises(ValueError, match=f"{path}:.*(a line of more than 16,777,216 bytes|not well-formed XML)"):
            read(path)

    assert _peak(refused) < 100 * MEGABYTE


def test_so_does_one_in_files_of_a_folder(tmp_path):
    start = b"a START b END "
    (tmp_path / "train.label").write_bytes(b"D1\n")
    (tmp_path / "a.ann").write_bytes(b"T1\tD 0 1\ta\n")
    (tmp_path / "corpus_pubtator.txt").write_bytes(b"1|t|a\n")
    cases = (
        (read_source_target, "train.source", start, tmp_path / "train.source"),
        (read_brat, "a.txt", b"a", tmp_path),
        (lambda path, split: read_medmentions(path), "corpus_pubtator_pmids_trng.txt", b"1\n", tmp_path),
    )
    for read, name, begin, path in cases:
        _long_line(tmp_path / name, begin)

        def refused(read=read, name=name, path=path):
            with pytest.raises(ValueError, match=f"{tmp_path / name}:.* more than (16,777,216|67,108,864) bytes"):
                read(path, split="train")

        assert _peak(refused) < 200 * MEGABYTE
        (tmp_path / name).unlink()


@pytest.mark.parametrize(("start", "read"), CASES, ids=[*TERMINOLOGIES, *(f"{name} mentions" for name in CORPORA)])
def test_gzip_that_expands_as_no_text_does_ends_at_a_bound(tmp_path, monkeypatch, start, read):
    if read is read_obo:
        pytest.importorskip("fastobo", reason='OBO needs fastobo: pip install "angel_trl[readers]"')
    monkeypatch.setattr(lines, "_ALWAYS_EXPANDED", 100_000)
    path = tmp_path / "MRCONSO.RRF"
    # Blank lines, which no reader minds.
    path.write_bytes(gzip.compress(start[: start.rfind(b"\n") + 1] + b"\n" * 300_000))
    with pytest.raises(ValueError, match=f"{path}: more than 100,000 bytes came out of .* bytes of gzip"):
        read(path)


def test_gzip_of_text_is_read_however_well_it_compresses(tmp_path):
    path = tmp_path / "kb"
    path.write_bytes(gzip.compress(b"".join(b"D%d||%s\n" % (number, b"a" * 200) for number in range(5000))))
    assert path.stat().st_size * 20 < 5000 * 200
    assert len(read_concepts(path)[0]) == 5000


def test_a_document_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(mention_rows, "_MAX_DOCUMENT_BYTES", 10)
    (tmp_path / "a.ann").write_bytes(b"T1\tD 0 6\tAtaxia\n")
    (tmp_path / "a.txt").write_bytes(b"Ataxia and gout")
    with pytest.raises(ValueError, match=r"a\.txt: more than 10 bytes, which is no document of a corpus"):
        read_corpus(tmp_path)
