"""Parquet: mentions and tables in it, and that a small file cannot become a large one."""

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict

from angel_trl import parquet
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.parquet import read_rows
from angel_trl.readers import read_concepts, read_corpus, read_knowledge_base, read_table
from angel_trl.readers.mention_parquet import read_mention_parquet, read_mention_parquet_splits

ROW = {"text": "Ataxia and FAP in mice", "start": 11, "end": 14, "concept_ids": [["D011125", "OMIM:175100"]]}


def _write(path, *rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, **options)
    return path


def test_the_least_a_row_needs(tmp_path):
    dataset, report = read_mention_parquet(_write(tmp_path / "c.parquet", ROW), split="train")
    own = {"id": "1:11-14", "document_id": "1", "mention": "FAP", "types": [], "split": "train"}
    assert dataset.to_list() == [ROW | own]
    assert dataset.features == MENTION_FEATURES
    assert (report.read, report.used) == (1, 1)


def test_what_datasets_writes_is_read_as_it_was(small_mentions, tmp_path):
    small_mentions.to_parquet(tmp_path / "all.parquet")
    splits, report = read_corpus(tmp_path / "all.parquet")
    assert [row for split in splits.values() for row in split] == small_mentions.to_list()
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "dev": 8}
    assert (report.read, report.used, report.repaired, report.notes) == (24, 24, {}, {})


def test_a_dataset_of_several_splits_is_read_as_it_was(small_mentions, tmp_path):
    corpus = DatasetDict({"train": small_mentions.select(range(16)), "dev": small_mentions.select(range(16, 24))})
    for name, split in corpus.items():
        split.to_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n")
    splits, report = read_corpus(tmp_path)
    assert {name: split.to_list() for name, split in splits.items()} == {n: s.to_list() for n, s in corpus.items()}
    assert (report.read, report.used) == (24, 24)


def test_rows_are_checked_as_lines_are(tmp_path):
    rows = [
        {**ROW, "id": "a"},
        {**ROW, "id": "a"},
        {**ROW, "id": "a", "concept_ids": [[" D1"]]},
        {**ROW, "id": "b", "start": 20, "end": 23},
        {**ROW, "id": None, "concept_ids": None},
    ]
    dataset, report = read_mention_parquet(_write(tmp_path / "c.parquet", *rows), split="dev")
    assert dataset["id"][:] == ["a", "a#2", "5:11-14"]
    assert report.skipped == {"mention repeated word for word": 1, "offsets outside the text": 1}
    assert report.repaired == {"blank around id": 1, "repeated id": 1}
    assert report.notes == {"no concept id": 1}
    assert report.examples["offsets outside the text"][0].startswith(f"{tmp_path}/c.parquet:row 4 ")
    validate_mentions(dataset)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "start": 0, "end": 1}, "c.parquet: no column 'concept_ids'; a mention needs text, start, end"),
        ({**ROW, "text": None}, "c.parquet:row 1: field 'text' must be a string, got 'None'"),
        ({**ROW, "start": "11"}, "c.parquet:row 1: field 'start' must be an integer"),
        ({**ROW, "end": 14.0}, "c.parquet:row 1: field 'end' must be an integer, got '14.0'"),
        ({**ROW, "end": True}, "c.parquet:row 1: field 'end' must be an integer, got 'True'"),
        ({**ROW, "concept_ids": [["D1", None]]}, "c.parquet:row 1: field 'concept_ids' must be"),
        ({**ROW, "concept_ids": [1]}, "c.parquet:row 1: field 'concept_ids' must be"),
        ({**ROW, "text": "a\0" * 9}, "c.parquet:row 1: field 'text': a NUL character"),
        ({**ROW, "split": "test"}, "c.parquet:row 1: field 'split' is 'test', but the file is read as 'train'"),
        ({**ROW, "split": "all"}, "c.parquet:row 1: field 'split' must be train, dev or test, got 'all'"),
    ],
)
def test_defective_rows_name_file_row_and_field(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_mention_parquet(_write(tmp_path / "c.parquet", row), split="train")


def test_other_columns_are_noted_once_and_shards_are_numbered_through(tmp_path):
    shards = [_write(tmp_path / f"{name}.parquet", {**ROW, "score": 1}) for name in "ab"]
    dataset, report = read_mention_parquet(shards, split="train")
    # The second is the first, word for word.
    assert report.skipped == {"mention repeated word for word": 1}
    assert report.notes == {"unknown field 'score' ignored": 2}
    _write(shards[1], {**ROW, "text": "Ataxia and FAP in rats"})
    assert read_mention_parquet(shards, split="train")[0]["document_id"][:] == ["1", "2"]
    with pytest.raises(FileNotFoundError, match="no parquet file at"):
        read_mention_parquet(tmp_path / "none", split="train")


def test_rows_tell_their_splits_where_there_is_one_file(tmp_path):
    rows = [{**ROW, "split": split} for split in ("test", "validation")] + [{**ROW, "split": None}]
    path = _write(tmp_path / "data" / "train-00000-of-00001.parquet", *rows)
    for splits, _ in (read_mention_parquet_splits(path), read_corpus(path), read_corpus(tmp_path)):
        assert {name: split["split"][:] for name, split in splits.items()} == {
            "train": ["train"],
            "dev": ["dev"],
            "test": ["test"],
        }


def test_a_table_cut_into_shards_is_one_knowledge_base(tmp_path):
    for number, row in enumerate(({"id": "D1", "name": "a"}, {"id": "D2", "name": "b"}, {"id": "D1", "name": "c"})):
        _write(tmp_path / "data" / f"train-{number:05}-of-00003.parquet", row)
    (tmp_path / "README.md").write_text("id\tname\n")
    concepts, report = read_concepts(tmp_path)
    assert concepts == [Concept("D1", ("a", "c")), Concept("D2", ("b",))]
    assert report.examples["concept id in several rows, names joined"][0].startswith(
        f"{tmp_path}/data/train-00002-of-00003.parquet: row 1 "
    )
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}/data: several files could be the knowledge base: train-00000"):
        read_concepts(tmp_path)


def test_the_only_knowledge_base_of_a_folder_is_read(tmp_path):
    KnowledgeBase([Concept("D1", ("a",))], normalization="lower").to_parquet(tmp_path / "kb.parquet")
    for name in ("README.md", ".gitattributes", "LICENSE", "dataset_infos.json"):
        (tmp_path / name).write_text('{"default": []}')
    (tmp_path / "LICENSE").write_text("Public domain\n")
    assert read_knowledge_base(tmp_path).normalization == "lower"
    _write(tmp_path / "mentions.parquet", ROW)
    assert len(read_knowledge_base(tmp_path)) == 1
    (tmp_path / "medic.txt").write_text("D1||a\n")
    with pytest.raises(ValueError, match=f"kb.parquet, medic.txt; name one: {tmp_path}/kb.parquet"):
        read_knowledge_base(tmp_path)


def _one_string_in_many_rows(path, length, times):
    """A parquet file of half a kilobyte: a row with `times` names, all of them one string of `length` characters."""
    names = pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array(["x" * length]))
    rows = pa.ListArray.from_arrays(pa.array([0, times], pa.int32()), names)
    pq.write_table(pa.table({"id": ["D1"], "names": rows}), path, compression="zstd", store_schema=False)
    return path


def test_a_string_that_stands_in_a_row_a_thousand_times_over_is_refused_unread(tmp_path, request):
    path = _one_string_in_many_rows(tmp_path / "kb", 1_000_000, 50_000)
    assert path.stat().st_size < 1000
    # A pool of its own, whose highest point is not that of other tests.
    usual, pool = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(pool)
    request.addfinalizer(lambda: pa.set_memory_pool(usual))
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    message = r"kb: row 1 takes 50,000,400,0\d\d bytes as text, but no more than 268,435,456 are read"
    for read in (read_table, read_concepts, read_knowledge_base):
        with pytest.raises(ValueError, match=message):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    assert 0 < pool.max_memory() < 100_000_000


def test_rows_that_are_large_together_are_made_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1000)
    rows = [{"id": str(number), "names": ["x" * 300] * (number % 3)} for number in range(20)]
    path = _write(tmp_path / "kb", *rows)
    assert [row for _, row in read_rows(path, ["id", "names"])] == rows
    assert [number for number, _ in read_rows(path, ["id"])] == list(range(1, 21))


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [
        ("MAX_ROWS", 19, "20 rows, but no more than 19 are read; split the file"),
        ("MAX_GROUP_BYTES", 100, r"row group 0 takes [\d,]+ bytes once decompressed, but no more than 100 are read"),
        ("MAX_GROUP_VALUES", 30, "row group 0 has 40 values in a column, but no more than 30 are read"),
        ("MAX_BYTES", 5000, "more than 5,000 bytes of text in its rows; split the file"),
    ],
)
def test_what_a_file_claims_is_bounded(tmp_path, monkeypatch, bound, value, message):
    monkeypatch.setattr(parquet, bound, value)
    path = _write(tmp_path / "kb", *({"id": str(number), "names": ["x" * 300] * 2} for number in range(20)))
    with pytest.raises(ValueError, match=f"kb: {message}"):
        read_table(path)


def test_a_page_that_expands_is_refused_by_what_the_footer_says(tmp_path):
    path = _write(tmp_path / "kb", {"id": "D1", "name": "x" * 30_000_000}, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MAX_GROUP_BYTES", 20_000_000)
        with pytest.raises(ValueError, match="row group 0 takes 30,000,"):
            read_table(path)
        KnowledgeBase([Concept("D1", ("x" * 30_000_000,))]).to_parquet(path)
        with pytest.raises(ValueError, match="row group 0 takes"):
            read_knowledge_base(path)


def test_strings_that_share_prefixes_are_refused(tmp_path):
    encodings = {"id": "DELTA_BYTE_ARRAY", "name": "PLAIN"}
    path = _write(tmp_path / "kb", {"id": "D1", "name": "a"}, use_dictionary=False, column_encoding=encodings)
    with pytest.raises(ValueError, match="kb: column 'id' is encoded as DELTA_BYTE_ARRAY, .*write the file again"):
        read_table(path)


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"store_schema": False}, {"version": "1.0"}])
@pytest.mark.parametrize("encoding", [None, "DELTA_LENGTH_BYTE_ARRAY"])
def test_nested_rows_come_back_as_they_were(tmp_path, options, encoding):
    rows = [
        {"document_id": "1", "passages": [{"text": ["a", None]}, None], "entities": [{"ids": [{"db_id": None}]}]},
        {"document_id": None, "passages": None, "entities": []},
        {"document_id": "é", "passages": [], "entities": [{"ids": [{"db_id": "D1"}, {"db_id": "D1"}]}]},
    ]
    if encoding:
        options = {**options, "use_dictionary": False, "column_encoding": {"document_id": encoding}}
    path = _write(tmp_path / "c.parquet", *rows, **options)
    assert [row for _, row in read_rows(path, list(rows[0]))] == rows


def test_large_strings_and_lists_are_read(tmp_path):
    schema = pa.schema([("id", pa.large_string()), ("names", pa.large_list(pa.large_string()))])
    pq.write_table(pa.table({"id": ["D1"], "names": [["a", "b"]]}, schema=schema), tmp_path / "kb")
    assert read_concepts(tmp_path / "kb")[0] == [Concept("D1", ("a", "b"))]


def test_a_broken_file_is_one_clear_error(tmp_path):
    path = _write(tmp_path / "train.parquet", ROW)
    path.write_bytes(path.read_bytes()[:-20])
    for read in (read_corpus, read_concepts, lambda path: read_mention_parquet(path, split="train")):
        with pytest.raises(ValueError, match="train.parquet: not a readable parquet file"):
            read(path)
