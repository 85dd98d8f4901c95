import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_corpus

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")

CONCEPTS = [
    Concept("D1", ("Breast Cancer", "Breast-Cancer", "BC"), alternate_ids=("OMIM:114480", "D3")),
    Concept("D2", ("Bladder cancer", "BC", "(+)"), alternate_ids=("600000",), types=("T191",), definition="A cancer."),
    Concept("D3", ("bc",), alternate_ids=("600000",)),
    Concept("D4", ("+/-",)),
]


@pytest.fixture
def kb():
    return KnowledgeBase(CONCEPTS, source="tiny")


def test_sizes(kb):
    assert len(kb) == 4
    assert kb.num_names == 3


def test_names_are_normalised_distinct_and_in_order_of_first_appearance(kb):
    assert kb.names == ["breast cancer", "bc", "bladder cancer"]


def test_concepts_keep_their_names_as_given(kb):
    assert kb.concepts == CONCEPTS


def test_csr_arrays(kb):
    for array, values, dtype in [
        (kb.name_offsets, [0, 1, 4, 5], np.int64),
        (kb.name_concepts, [0, 0, 1, 2, 1], np.int32),
        (kb.concept_offsets, [0, 2, 4, 5, 5], np.int64),
        (kb.concept_names, [0, 1, 2, 1, 1], np.int32),
    ]:
        assert array.tolist() == values
        assert array.dtype == dtype
        assert not array.flags.writeable


def test_concepts_and_ids_of_a_homonym(kb):
    assert kb.concepts_of_name(1).tolist() == [0, 1, 2]
    assert kb.ids_of_name(1) == ("D1", "D2", "D3")


def test_names_of_concept(kb):
    assert kb.names_of_concept(1).tolist() == [2, 1]
    assert kb.names_of_concept(3).tolist() == []


@pytest.mark.parametrize("index", [-1, 3])
def test_name_index_out_of_range(kb, index):
    with pytest.raises(IndexError, match=rf"name index {index} is outside \[0, 3\)"):
        kb.concepts_of_name(index)


@pytest.mark.parametrize("index", [-1, 4])
def test_concept_index_out_of_range(kb, index):
    with pytest.raises(IndexError, match=rf"concept index {index} is outside \[0, 4\)"):
        kb.names_of_concept(index)


@pytest.mark.parametrize(("text", "index"), [("BREAST  cancer!", 0), ("bc", 1), ("lung cancer", None), ("", None)])
def test_find(kb, text, index):
    assert kb.find(text) == index


@pytest.mark.parametrize(
    ("concept_id", "indices"),
    [
        ("D1", (0,)),
        ("D3", (2,)),  # also an alternate id of D1: the primary id wins
        ("600000", (1, 2)),  # an alternate id of two concepts
        ("OMIM:600000", (1, 2)),
        ("114480", (0,)),
        ("OMIM:114480", (0,)),
        ("MESH:D2", (1,)),
        ("mesh:D2", (1,)),
        (" D2 ", (1,)),
        ("D9", ()),
        ("", ()),
        ("HP:D1", ()),
    ],
)
def test_resolve(kb, concept_id, indices):
    assert kb.resolve(concept_id) == indices


def test_resolve_ignores_the_prefix_of_primary_ids_too():
    assert KnowledgeBase([Concept("MESH:D1", ("a",))]).resolve("D1") == (0,)


def test_statistics(kb):
    assert kb.statistics() == {
        "concepts": 4,
        "names": 3,
        "names_read": 8,
        "duplicates_merged": 1,
        "names_lost": 2,
        "concepts_without_name": 1,
        "homonyms": 1,
        "homonyms_disambiguated": 0,
        "homonyms_dropped": 0,
        "alternate_ids": 3,
        "alternate_ids_shadowed": 1,
    }


def test_empty_knowledge_base_is_refused():
    with pytest.raises(ValueError, match="at least one concept"):
        KnowledgeBase([])


@pytest.mark.parametrize("second", ["D1", "MESH:D1"])
def test_duplicate_concept_id_is_named(second):
    with pytest.raises(ValueError, match=f"duplicate concept id '{second}' of tiny: concepts 0 .'D1'. and 1"):
        KnowledgeBase([Concept("D1", ("a",)), Concept(second, ("b",))], source="tiny")


@pytest.mark.parametrize("concept_id", ["", " ", "MESH:"])
def test_an_id_of_nothing_is_refused(concept_id):
    with pytest.raises(ValueError, match="concept 1 .*empty id .*names \\('b',\\)"):
        KnowledgeBase([Concept("D1", ("a",)), Concept(concept_id, ("b",))], source="test")


@pytest.mark.parametrize("alternate", ["", " ", "OMIM:"])
def test_an_alternate_id_of_nothing_is_refused(alternate):
    with pytest.raises(ValueError, match="concept 'D1': empty alternate id"):
        KnowledgeBase([Concept("D1", ("a",), ("9", alternate))])


def test_a_knowledge_base_without_any_name_left_has_none_to_offer():
    kb = KnowledgeBase([Concept("D1", ("+", "-"))])
    assert (kb.num_names, kb.find("+"), kb.names_of_concept(0).tolist()) == (0, None, [])
    assert kb.statistics()["concepts_without_name"] == 1


@pytest.mark.parametrize("names", [(), "abc", ("a", 1)])
def test_names_must_be_a_non_empty_sequence(names):
    with pytest.raises(ValueError, match="concept 'D1': names must be a non-empty sequence"):
        KnowledgeBase([Concept("D1", names)])


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="unknown normalization 'upper'"):
        KnowledgeBase(CONCEPTS, normalization="upper")


def test_fingerprint_is_stable_across_processes():
    assert KnowledgeBase([Concept("D1", ("a", "b"))]).fingerprint == (
        "2a74cb83b367f2e1d225af1bf8925e22d874b4fabb1fa45d3ee72dcc690567b4"
    )


def test_fingerprint_ignores_the_source(kb):
    assert KnowledgeBase(CONCEPTS, source="other").fingerprint == kb.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"id": "D10"},
        {"names": ("Breast Cancer", "BC", "Breast-Cancer")},
        {"alternate_ids": ()},
        {"types": ("T1",)},
        {"definition": "x"},
    ],
)
def test_fingerprint_depends_on_every_field(kb, change):
    changed = [dataclasses.replace(CONCEPTS[0], **change), *CONCEPTS[1:]]
    assert KnowledgeBase(changed).fingerprint != kb.fingerprint


def test_fingerprint_depends_on_the_normalization(kb):
    assert KnowledgeBase(CONCEPTS, normalization="lower").fingerprint != kb.fingerprint


NEW = [
    Concept("E1", ("Croup",), ("900",), ("T1",), "Of the throat."),
    Concept("MESH:D2", ("BC", "Bladder carcinoma"), ("600000", "7"), ("T191", "T2"), "Another."),
    Concept("D4", ("Plus-minus",), definition="A sign."),
    Concept("E1", ("Laryngitis",)),  # the concept new above
]


def test_extended_adds_to_known_concepts_and_appends_new_ones(kb):
    extended = kb.extended(NEW)
    assert extended.concepts == [
        CONCEPTS[0],
        Concept(
            "D2",
            ("Bladder cancer", "BC", "(+)", "Bladder carcinoma"),
            ("600000", "7"),
            ("T191", "T2"),
            "A cancer.",
        ),
        CONCEPTS[2],
        Concept("D4", ("+/-", "Plus-minus"), definition="A sign."),
        Concept("E1", ("Croup", "Laryngitis"), ("900",), ("T1",), "Of the throat."),
    ]
    assert (extended.normalization, extended.source) == ("genbioel", "tiny")
    names = ["breast cancer", "bc", "bladder cancer", "bladder carcinoma", "plus minus", "croup", "laryngitis"]
    assert extended.names == names
    assert extended.resolve("900") == (4,)
    assert extended.fingerprint == KnowledgeBase(extended.concepts).fingerprint != kb.fingerprint


def test_extended_leaves_the_knowledge_base_as_it_was(kb):
    before = kb.fingerprint
    kb.extended(NEW)
    assert kb.concepts == CONCEPTS
    assert (kb.num_names, KnowledgeBase(kb.concepts).fingerprint) == (3, before)


def test_an_alternate_id_is_not_a_known_concept(kb):
    extended = kb.extended([Concept("114480", ("Familial breast cancer",))])
    assert len(extended) == 5
    # A primary id wins over the same string as an alternate id.
    assert (kb.resolve("OMIM:114480"), extended.resolve("OMIM:114480")) == ((0,), (4,))


def test_extended_by_nothing_is_equal(kb):
    assert kb.extended([]).fingerprint == kb.fingerprint


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (Concept("", ("x",)), "concept 4 of tiny: empty id"),
        (Concept("E1", ()), "concept 'E1' of tiny: names must be a non-empty sequence"),
        (Concept("E1", "croup"), "concept 'E1' of tiny: names must be a non-empty sequence"),
        (Concept("D1", "croup"), "concept 'D1' of tiny: names must be a non-empty sequence"),
        (Concept("D1", ()), "concept 'D1' of tiny: names must be a non-empty sequence"),
    ],
)
def test_extended_by_a_concept_without_id_or_names_is_an_error(kb, concept, message):
    with pytest.raises(ValueError, match=message):
        kb.extended([concept])


def test_parquet_round_trip(tmp_path):
    kb = KnowledgeBase(CONCEPTS, normalization="lower", source="tiny")
    kb.to_parquet(tmp_path / "kb.parquet")
    loaded = KnowledgeBase.from_parquet(tmp_path / "kb.parquet")
    assert loaded.concepts == CONCEPTS
    assert (loaded.normalization, loaded.source, loaded.fingerprint) == ("lower", "tiny", kb.fingerprint)
    assert loaded.names == kb.names
    assert [p.name for p in tmp_path.iterdir()] == ["kb.parquet"]


def test_from_file_keeps_the_rule_of_a_parquet_file(tmp_path):
    KnowledgeBase(CONCEPTS, normalization="lower").to_parquet(tmp_path / "kb")
    assert KnowledgeBase.from_file(tmp_path / "kb").normalization == "lower"


def test_from_file_applies_the_rule_asked_for_to_a_parquet_file(tmp_path, kb):
    KnowledgeBase(CONCEPTS, normalization="lower").to_parquet(tmp_path / "kb")
    assert KnowledgeBase.from_file(tmp_path / "kb", normalization="genbioel").fingerprint == kb.fingerprint


def test_missing_parquet_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no knowledge base file at"):
        KnowledgeBase.from_parquet(tmp_path / "none.parquet")


def test_foreign_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"not a knowledge base \(columns \['a'\]\)"):
        KnowledgeBase.from_parquet(tmp_path / "a.parquet")


def test_corrupt_parquet_is_refused(tmp_path, kb):
    path = tmp_path / "kb.parquet"
    kb.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="kb.parquet: not a readable parquet file"):
        KnowledgeBase.from_parquet(path)


def test_changed_content_does_not_fit_the_fingerprint(tmp_path, kb):
    path = tmp_path / "kb.parquet"
    kb.to_parquet(path)
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    with pytest.raises(ValueError, match="changed after writing"):
        KnowledgeBase.from_parquet(path)


def test_changed_columns_are_refused(tmp_path, kb):
    path = tmp_path / "kb.parquet"
    kb.to_parquet(path)
    pq.write_table(pq.read_table(path).drop_columns("definition"), path)
    with pytest.raises(ValueError, match="not those of a knowledge base"):
        KnowledgeBase.from_parquet(path)


def test_another_format_version_is_refused(tmp_path, kb):
    path = tmp_path / "kb.parquet"
    kb.to_parquet(path)
    table = pq.read_table(path)
    metadata = {k: v.replace(b'"format_version": 1', b'"format_version": 9') for k, v in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match="format_version 9, but this version of angel_trl reads 1"):
        KnowledgeBase.from_parquet(path)


def test_importing_the_module_loads_nothing_heavy():
    code = (
        "import sys, angel_trl.kb, angel_trl.readers\n"
        "print([m for m in ('datasets', 'torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def medic():
    return KnowledgeBase.from_file(SHARED / "data/medic/medic_06Jul2012.txt")


@needs_shared
def test_medic_2012_statistics(medic):
    assert medic.statistics() == {
        "concepts": 11_915,
        "names": 71_884,
        "names_read": 76_237,
        "duplicates_merged": 3_305,
        "names_lost": 0,
        "concepts_without_name": 0,
        "homonyms": 1_014,
        "homonyms_disambiguated": 0,
        "homonyms_dropped": 0,
        "alternate_ids": 3_028,
        "alternate_ids_shadowed": 1,
    }


def _lookup_accuracy(kb, mentions):
    """Percentage of mentions whose name in the KB, found by plain string lookup, has any concept in common with gold.

    Gold is every id of the label, composite parts and alternatives alike, resolved to concepts (primary or alternate
    ids). A mention that is no name of the KB counts as wrong; the denominator is every mention.
    """
    right = 0
    for mention, parts in zip(mentions["mention"], mentions["concept_ids"], strict=True):
        name = kb.find(mention)
        gold = {concept for part in parts for concept_id in part for concept in kb.resolve(concept_id)}
        right += name is not None and not gold.isdisjoint(kb.concepts_of_name(name).tolist())
    return 100 * right / len(mentions)


@needs_shared
def test_ncbi_string_lookup_floors(medic):
    splits, _ = read_corpus(SHARED / "data/ncbi_disease")
    assert len(splits["test"]) == 960
    assert round(_lookup_accuracy(medic, splits["test"]), 1) == 52.1

    # Each training and development mention becomes one more name of every concept of its label, besides its own names.
    added: dict[int, list[str]] = {}
    for split in ("train", "dev"):
        for mention, parts in zip(splits[split]["mention"], splits[split]["concept_ids"], strict=True):
            for concept in {c for part in parts for concept_id in part for c in medic.resolve(concept_id)}:
                added.setdefault(concept, []).append(mention)
    extended = KnowledgeBase(
        dataclasses.replace(concept, names=(*concept.names, *added.get(index, ())))
        for index, concept in enumerate(medic.concepts)
    )
    assert round(_lookup_accuracy(extended, splits["test"]), 1) == 74.2


def test_a_saved_knowledge_base_that_expands_is_refused_unread(tmp_path):
    KnowledgeBase(CONCEPTS).to_parquet(tmp_path / "kb.parquet")
    table = pq.read_table(tmp_path / "kb.parquet")
    # A name of 100 kB, which the file holds once, 5,000 times in a row.
    names = pa.array([["x" * 100_000] * 5000])
    empty = pa.array([[]], pa.list_(pa.string()))
    bomb = pa.table([pa.array(["A"]), names, empty, empty, pa.array([""])], schema=table.schema)
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    with pytest.raises(ValueError, match="bomb.parquet: row 1 takes 500,0[0-9,]+ bytes as text"):
        KnowledgeBase.from_parquet(tmp_path / "bomb.parquet")
