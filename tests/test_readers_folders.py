"""Folders as the Hub has them: the corpus in a subfolder, in shards, in a folder a split."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl.readers import read_corpus

ROW = {"text": "Ataxia and FAP in mice", "start": 11, "end": 14, "concept_ids": [["D1"]]}
PUBTATOR = "1|t|Ataxia\n1|a|x\n1\t0\t6\tAtaxia\tDisease\tD1\n"


@pytest.fixture
def write(tmp_path):
    """Write a file of the folder: text as it is, or a row of parquet whose text is `content`."""

    def write_file(name, content="FAP"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            row = {"text": content, "start": 0, "end": len(content), "concept_ids": [["D1"]]}
            pq.write_table(pa.Table.from_pylist([row]), path)
        else:
            path.write_text(content)

    return write_file


def _mentions(splits):
    return {name: split["mention"][:] for name, split in splits.items()}


@pytest.mark.parametrize("folder", ["data", "default", "ncbi_disease_bigbio_kb"])
def test_the_only_subfolder_with_a_corpus_is_read(tmp_path, write, folder):
    for split in ("train", "validation", "test"):
        write(f"{folder}/{split}-00000-of-00001.parquet", split)
    write("README.md", "# About\n")
    write("images/cover.txt", "Dear reader")
    write(".cache/train.txt", PUBTATOR)
    splits, report = read_corpus(tmp_path)
    assert _mentions(splits) == {"train": ["train"], "dev": ["validation"], "test": ["test"]}
    assert report.notes == {}


def test_files_of_the_folder_itself_come_first(tmp_path, write):
    write("train.txt", PUBTATOR)
    write("data/train-00000-of-00001.parquet")
    assert _mentions(read_corpus(tmp_path)[0]) == {"train": ["Ataxia"]}


def test_of_several_subfolders_data_is_read(tmp_path, write):
    write("a/train.parquet", "a")
    write("b/train.parquet", "b")
    with pytest.raises(
        ValueError, match=f"{tmp_path}: holds several corpora, in the folders a, b; read one of them: "
    ):
        read_corpus(tmp_path)
    write("data/train.parquet", "data")
    assert _mentions(read_corpus(tmp_path)[0]) == {"train": ["data"]}
    assert _mentions(read_corpus(tmp_path / "b")[0]) == {"train": ["b"]}


def test_shards_in_a_folder_for_each_split(tmp_path, write):
    for name, text in (("train/0001", "b"), ("train/0000", "a"), ("validation/0000", "c")):
        write(f"default/{name}.parquet", text)
    for folder in (tmp_path, tmp_path / "default"):
        assert _mentions(read_corpus(folder)[0]) == {"train": ["a", "b"], "dev": ["c"]}
    assert _mentions(read_corpus(tmp_path / "default" / "train")[0]) == {"train": ["a", "b"]}
    write("default/partial-train/0000.parquet")
    with pytest.raises(ValueError, match="two folders for train: partial-train and train; keep one"):
        read_corpus(tmp_path)


def test_a_shard_that_is_missing(tmp_path, write):
    write("train/0001.parquet")
    with pytest.raises(ValueError, match=f"{tmp_path}/train: not all shards are there: 0001.parquet"):
        read_corpus(tmp_path)


def test_shards_of_no_known_format(tmp_path):
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "train" / "0000.parquet")
    with pytest.raises(ValueError, match="0000.parquet: no known corpus format: parquet with the columns 'a'. Known"):
        read_corpus(tmp_path)


def test_jsonl_and_brat_in_a_subfolder(tmp_path, write):
    write("data/dev.jsonl", json.dumps(ROW))
    assert _mentions(read_corpus(tmp_path)[0]) == {"dev": ["FAP"]}
    (tmp_path / "data" / "dev.jsonl").unlink()
    write("data/a.txt", "FAP")
    write("data/a.ann", "T1\tDisease 0 3\tFAP\n")
    assert _mentions(read_corpus(tmp_path)[0]) == {"train": ["FAP"]}


def test_the_file_of_a_folder_may_hold_several_splits(tmp_path, write):
    write("train.jsonl", "".join(json.dumps({**ROW, "split": split}) + "\n" for split in ("train", "dev")))
    write("LICENSE", "Public domain")
    splits, report = read_corpus(tmp_path)
    assert _mentions(splits) == {"train": ["FAP"], "dev": ["FAP"]}
    assert report.notes == {"file of no known corpus format left alone": 1}


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("train.zip", "PK\x03\x04", "a zip archive: unpack it"),
        ("train.txt", "Dear reader", "it starts with 'Dear reader'"),
        ("train.txt", " \n", "it is empty"),
    ],
)
def test_what_a_corpus_file_looks_like_is_said(tmp_path, write, name, content, seen):
    write(name, content)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(
            ValueError, match=f"{tmp_path / name}: .*no known corpus format: {seen}[.] .*Known: PubTator"
        ):
            read_corpus(path)
