import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl.mentions import MENTION_FEATURES, validate_mentions
from angel_trl.readers import read_corpus
from angel_trl.readers.bigbio import read_bigbio

PASSAGES = [
    {"id": "p0", "type": "title", "text": ["Ataxia and FAP in mice"], "offsets": [[0, 22]]},
    {"id": "p1", "type": "abstract", "text": ["Breast or ovarian cancer."], "offsets": [[23, 48]]},
]


def _entity(text, offsets, ids=(), kind="Disease"):
    links = [{"db_name": "MESH", "db_id": i} for i in ids]
    return {"id": "e", "type": kind, "text": text, "offsets": offsets, "normalized": links}


FAP = _entity(["FAP"], [[11, 14]], ["D011125"])


def _write(path, *documents):
    pq.write_table(pa.Table.from_pylist(list(documents)), path)
    return path


def _document(*entities, document_id="1"):
    return {"id": "d", "document_id": document_id, "passages": PASSAGES, "entities": list(entities)}


@pytest.fixture
def read(tmp_path):
    """Write entities of one document and read them."""

    def write_and_read(*entities, **options):
        return read_bigbio(_write(tmp_path / "c.parquet", _document(*entities)), split="train", **options)

    return write_and_read


def test_offsets_count_passages_joined_by_spaces(read):
    dataset, report = read(FAP, _entity(["Breast"], [[23, 29]], ["D1"], "T047,T191"))
    assert dataset[0] == {
        "id": "1:11-14",
        "document_id": "1",
        "text": "Ataxia and FAP in mice Breast or ovarian cancer.",
        "start": 11,
        "end": 14,
        "mention": "FAP",
        "types": ["Disease"],
        "concept_ids": [["D011125"]],
        "split": "train",
    }
    assert dataset["mention"][1] == "Breast"
    assert dataset["types"][1] == ["T047", "T191"]
    assert dataset.features == MENTION_FEATURES
    assert (report.read, report.used) == (2, 2)


@pytest.mark.parametrize(("composite", "concept_ids"), [(False, [["D1", "D2"]]), (True, [["D1"], ["D2"]])])
def test_several_links_mean_what_the_caller_says(read, composite, concept_ids):
    dataset, report = read(_entity(["FAP"], [[11, 14]], ["D1", "D2", "D1"]), composite=composite)
    assert dataset["concept_ids"][:] == [concept_ids]
    meaning = "parts that are all meant" if composite else "alternatives"
    assert report.notes == {f"several links read as {meaning}": 1}


def test_discontinuous_entity_becomes_the_passage_that_covers_it(read):
    entity = _entity(["Breast", "cancer"], [[23, 29], [41, 47]], ["D1"])
    apart = _entity(["Breast", "or"], [[23, 29], [30, 32]], ["D1"])
    dataset, report = read(entity, apart)
    assert dataset["mention"][:] == ["Breast or ovarian cancer", "Breast or"]
    assert report.repaired == {"discontinuous mention widened to the passage that covers it": 1}


def test_defective_entities_are_counted(read):
    dataset, report = read(
        _entity(["FAP"], [[12, 15]], ["D1"]),
        _entity(["gout"], [[0, 4]], ["D1"]),
        _entity([], [], ["D1"]),
        _entity(["FAP", "mice"], [[11, 14]], ["D1"]),
        _entity(["FAP", "cats"], [[11, 14], [18, 22]], ["D1"]),
        _entity(["Ataxia"], [[0, 6]]),
    )
    assert dataset["mention"][:] == ["FAP", "Ataxia"]
    assert report.skipped == {
        "mention not found at its offsets or nearby": 2,
        "no offsets": 1,
        "not as many offsets as texts": 1,
    }
    assert (report.read, report.used, report.repaired) == (6, 2, {"wrong offset": 1})
    assert report.notes == {"no concept id": 1}
    assert report.examples["no offsets"][0].endswith("c.parquet:row 1 entity 'e' ''")


def test_repeated_documents(tmp_path):
    other = _document(_entity(["Ataxia"], [[0, 6]], ["D1"]))
    path = _write(tmp_path / "c.parquet", _document(FAP), _document(FAP), other)
    dataset, report = read_bigbio(path, split="train")
    assert dataset["document_id"][:] == ["1", "1#2"]
    assert report.skipped == {"duplicate document": 1}
    validate_mentions(dataset)


def test_shards_are_read_in_order(tmp_path):
    _write(tmp_path / "train-00001-of-00002.parquet", _document(FAP, document_id="2"))
    _write(tmp_path / "train-00000-of-00002.parquet", _document(FAP))
    _write(tmp_path / "test-00000-of-00001.parquet", _document(FAP, document_id="3"))
    splits, _ = read_corpus(tmp_path)
    assert {name: split["document_id"][:] for name, split in splits.items()} == {"train": ["1", "2"], "test": ["3"]}


def test_missing_shard(tmp_path):
    _write(tmp_path / "train-00000-of-00002.parquet", _document(FAP))
    with pytest.raises(ValueError, match="the shards of train are not all of one set: train-00000-of-00002.parquet"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document_id": "1", "passages": []}, "no column 'entities'"),
        ({"document_id": "1", "passages": ["a"], "entities": [FAP]}, "row 1: field 'passages' must be a list of dict"),
        ({"document_id": None, "passages": PASSAGES, "entities": [FAP]}, "row 1: field 'document_id' must be an id"),
        (_document({**FAP, "offsets": [11, 14]}), "row 1 entity 'e': field 'entities.offsets' must be a list of list"),
        (_document({**FAP, "offsets": [[11]]}), "row 1 entity 'e': field 'entities.offsets' must hold pairs"),
        (_document({**FAP, "normalized": [{"db_id": 5}]}), "field 'entities.normalized.db_id' must be a string"),
        (_document({**FAP, "type": 5}), "field 'entities.type' must be a string"),
        (_document({**FAP, "text": "FAP"}), "field 'entities.text' must be a list of str"),
    ],
)
def test_other_schemas_name_file_row_and_field(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"c\.parquet:.*{message}"):
        read_bigbio(_write(tmp_path / "c.parquet", row), split="train")


def test_broken_parquet(tmp_path):
    path = _write(tmp_path / "train.parquet", _document(FAP))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="train.parquet: not a readable parquet file"):
        read_bigbio(path, split="train")
    with pytest.raises(ValueError, match="train.parquet: not a readable parquet file"):
        read_corpus(tmp_path)
