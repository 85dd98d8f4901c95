"""What share of a corpus a knowledge base covers."""

import pytest

from angel_trl.readers import read_corpus, read_knowledge_base


def mention(text, *parts):
    return {"mention": text, "concept_ids": [list(part) for part in parts]}


def test_shares_worked_out_by_hand(small_kb):
    mentions = [
        mention("Gout", ["C30"]),  # a name of the gold concept
        mention("MS", ["C04"]),  # a homonym: one of its concepts is gold
        mention("cold", ["C28"]),  # a name of another concept
        mention("tummy ache", ["OMIM:100100", "X1"]),  # no name; one of two alternatives is known, by an alternate id
        mention("gout and scurvy", ["C30"], ["X2"]),  # half a composite is known
        mention("fever"),  # without a label
    ]
    assert small_kb.coverage(mentions) == {
        "mentions": 6,
        "labelled": 5,
        "ids": 6,
        "ids_known": pytest.approx(100 * 4 / 6),
        "any_id_known": 100.0,
        "all_parts_known": 80.0,
        "strings_known": pytest.approx(100 * 4 / 6),
        "strings_right": 40.0,
    }


def test_of_no_mentions(small_kb):
    assert set(small_kb.coverage([]).values()) == {0.0}


def test_medic_covers_ncbi_disease(shared):
    kb = read_knowledge_base(shared / "data/medic/medic_06Jul2012.txt", "genbioel")
    corpus, _ = read_corpus(shared / "data/ncbi_disease")
    found = kb.coverage(corpus["test"])
    assert (found["mentions"], found["labelled"], found["ids"], found["all_parts_known"]) == (960, 960, 200, 100)
    # The floor of string lookup.
    assert (round(found["strings_known"], 1), round(found["strings_right"], 1)) == (57.6, 52.1)
