"""Counting a mention dataset against a knowledge base."""

import pytest

from angel_trl import Concept, KnowledgeBase
from angel_trl.mention_counts import count_mentions, known

KB = KnowledgeBase(
    [
        Concept("D1", ("Ataxia",), alternate_ids=("A1", "B")),
        Concept("D2", ("Gout", "Podagra"), alternate_ids=("B",)),
    ]
)


def row(number, document, mention, concept_ids):
    return {"id": f"{document}:{number}", "document_id": document, "mention": mention, "concept_ids": concept_ids}


ROWS = [
    row(0, "1", "ataxia", [["D1"]]),
    row(1, "1", "podagra", [["MESH:D2", "X1"]]),
    row(2, "1", "gout", [["D1"]]),
    row(3, "2", "gout and ataxia", [["A1"], ["X1"]]),
    row(4, "2", "tic", [["B"]]),
    row(5, "2", "tic", [["X2"], ["X1"]]),
    row(6, "3", "tic", []),
]


@pytest.mark.parametrize(
    ("concept_ids", "expected"),
    [
        ([["D1"]], "all"),
        ([["X", "A1"]], "all"),
        ([["D1"], ["X"]], "some"),
        ([["X"], ["Y"]], "none"),
        ([], "without concept"),
    ],
)
def test_what_a_knowledge_base_knows_of_a_label(concept_ids, expected):
    assert known(KB, concept_ids) == expected


def test_every_mention_and_label_is_counted_once():
    assert count_mentions(ROWS, KB).counts == {
        "documents": 3,
        "mentions": 7,
        "composites": 2,
        "without_concept": 1,
        "labels": 9,
        "ids": 6,
        "mentions_known": 4,
        "mentions_partly_known": 1,
        "mentions_unknown": 1,
        "strings_known": 3,
        "strings_right": 2,
        "labels_primary": 3,
        "labels_alternate": 2,
        "labels_of_several_concepts": 1,
        "labels_unknown": 4,
        "ids_unknown": 2,
    }


def test_examples_show_each_id_once():
    assert count_mentions(ROWS, KB).examples == {
        "labels_alternate": ["A1: 2:3 'gout and ataxia'", "B: 2:4 'tic'"],
        "labels_unknown": ["X1: 1:1 'podagra'", "X2: 2:5 'tic'"],
    }


def test_without_a_knowledge_base_only_what_stands_there_is_counted():
    counted = count_mentions(ROWS)
    assert counted.counts == {
        "documents": 3,
        "mentions": 7,
        "composites": 2,
        "without_concept": 1,
        "labels": 9,
        "ids": 6,
    }
    assert counted.examples == {}


def test_primary_ids_are_told_from_others():
    assert [KB.is_primary(i) for i in ("D1", " MESH:D1", "A1", "X")] == [True, True, False, False]
