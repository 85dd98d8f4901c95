"""Slices of test mentions, and scores of each."""

import numpy as np
import pytest

from angel_trl.breakdown import SLICES, is_abbreviation, score_slices, slice_mentions
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.metrics import score


def row(mention, *parts):
    return {"mention": mention, "concept_ids": [list(part) for part in parts]}


@pytest.fixture(scope="module")
def kb():
    return KnowledgeBase(
        [
            Concept("C1", ("Ataxia", "AT"), alternate_ids=("A1",)),
            Concept("C2", ("Atrial Tachycardia", "AT")),
            Concept("C3", ("Gout",)),
            Concept("C4", ("Breast Cancer",)),
        ]
    )


TRAIN = [row("limb ataxia", ["A1"]), row("gout or breast cancer", ["C3"], ["C9", "C4"])]


def members(slices):
    return {name for name, own in slices.items() if own[0]}


@pytest.mark.parametrize(
    ("mention", "expected"),
    [
        (row("unsteadiness", ["C1"]), {"seen concept", "unseen string"}),
        (row("fast heart", ["C2"]), {"unseen concept", "unseen string"}),
        (row("Limb  ATAXIA", ["C2"]), {"unseen concept", "seen string"}),
        # The training mention says A1, which is C1.
        (row("unsteadiness", ["MESH:C1"]), {"seen concept", "unseen string"}),
        (row("gout", ["C2", "C3"]), {"seen concept", "unseen string"}),
        (row("gout and a fast heart", ["C3"], ["C2"]), {"unseen concept", "unseen string", "composite"}),
        (row("both", ["C3"], ["C4"]), {"seen concept", "unseen string", "composite"}),
        (row("AT", ["C1"]), {"seen concept", "unseen string", "homonym", "abbreviation"}),
        # Unknown to the knowledge base, but seen: it is compared as it stands.
        (row("tumour", ["C9"]), {"seen concept", "unseen string", "unknown label"}),
        (row("tumour", ["C8"]), {"unseen concept", "unseen string", "unknown label"}),
        (row("tumour and gout", ["C8"], ["C3"]), {"unseen concept", "unseen string", "composite"}),
        (row("mice"), {"unseen string", "no label"}),
    ],
    ids=lambda value: value["mention"] if isinstance(value, dict) else "",
)
def test_the_slices_of_a_mention(kb, mention, expected):
    assert members(slice_mentions([mention], TRAIN, kb)) == expected


def test_slices_are_in_order_and_parallel_to_the_mentions(kb):
    slices = slice_mentions([row("gout", ["C3"]), row("AT", ["C2"])], TRAIN, kb)
    assert tuple(slices) == SLICES
    assert {name: own.tolist() for name, own in slices.items() if own.any()} == {
        "seen concept": [True, False],
        "unseen concept": [False, True],
        "unseen string": [True, True],
        "homonym": [False, True],
        "abbreviation": [False, True],
    }


def test_seen_and_unseen_share_out_the_labelled_mentions(kb):
    slices = slice_mentions([row("gout", ["C3"]), row("x", ["C2"]), row("y")], TRAIN, kb)
    assert (slices["seen concept"] | slices["unseen concept"]).tolist() == [True, True, False]
    assert not (slices["seen concept"] & slices["unseen concept"]).any()
    assert (slices["seen string"] ^ slices["unseen string"]).all()


def test_strings_of_nothing_but_punctuation_are_told_apart(kb):
    slices = slice_mentions([row("+", ["C1"]), row("-", ["C1"])], [row("+", ["C1"])], kb)
    assert slices["seen string"].tolist() == [True, False]


@pytest.mark.parametrize("mention", ["APC", "A-T", "SCA1", "DMs", "AdolCALD", "VHL/1"])
def test_abbreviations(mention):
    assert is_abbreviation(mention)


@pytest.mark.parametrize(
    "mention", ["Duchenne", "H", "FAP families", "gout", "", "5", "McLeod", "ADRENOLEUKODYSTROPHY"]
)
def test_what_is_no_abbreviation(mention):
    assert not is_abbreviation(mention)


PREDICTIONS = [[["A"]], [["B"], ["A"]], [["B", "C"]], []]
REFERENCES = [[["A"]], [["A"]], [["C"]], [["A"]]]


def test_scores_of_a_slice_are_those_of_its_mentions_alone():
    slices = {"odd": np.array([False, True, False, True]), "first": np.array([True, False, False, False])}
    found = score_slices(PREDICTIONS, REFERENCES, slices)
    assert (found["odd"]["acc@1"], found["odd"]["acc@5"], found["odd"]["mentions"]) == (0, 50, 2)
    assert (found["first"]["acc@1"], found["first"]["mentions"]) == (100, 1)
    assert "acc@1_ci" not in found["first"]


def test_intervals_of_a_slice_resample_its_groups():
    slices = {"all": np.ones(4, dtype=bool)}
    groups = ["d1", "d1", "d2", "d2"]
    found = score_slices(PREDICTIONS, REFERENCES, slices, groups=groups, bootstrap=100, seed=3)
    assert found["all"] == score(PREDICTIONS, REFERENCES, groups=groups, bootstrap=100, seed=3)


def test_an_empty_slice_has_no_scores():
    assert score_slices(PREDICTIONS, REFERENCES, {"none": np.zeros(4, dtype=bool)}) == {"none": {"mentions": 0}}


def test_a_slice_of_other_mentions_is_refused():
    with pytest.raises(ValueError, match="'x' is of 3 mentions, but there are 4"):
        score_slices(PREDICTIONS, REFERENCES, {"x": np.ones(3, dtype=bool)})


def test_slices_of_a_real_test_split(shared):
    from angel_trl import read_corpus, read_knowledge_base

    kb = read_knowledge_base(shared / "data" / "medic" / "medic_06Jul2012.txt")
    corpus, _ = read_corpus(shared / "data" / "ncbi_disease")
    slices = slice_mentions(corpus["test"], corpus["train"], kb)
    assert {name: int(own.sum()) for name, own in slices.items()} == {
        "seen concept": 795,
        "unseen concept": 165,
        "seen string": 599,
        "unseen string": 361,
        "homonym": 42,
        "abbreviation": 300,
        "composite": 12,
        "unknown label": 0,
        "no label": 0,
    }
