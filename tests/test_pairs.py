"""From candidates to pairs: literal cases, and the same rule written as a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl.pairs import make_pairs


def pairs_of(names, gold, nearest=-1, **options):
    """The pairs of one mention, as (chosen, rejected, rank of chosen, rank of rejected); `gold` is a set of names."""
    names = np.array([names], dtype=np.int64)
    is_gold = np.isin(names, list(gold))
    made = make_pairs(names, is_gold, np.array([nearest], dtype=np.int64), **options)
    assert (made.mention == 0).all()
    fields = (made.chosen, made.rejected, made.chosen_rank, made.rejected_rank)
    return list(zip(*(field.tolist() for field in fields), strict=True))


CASES = {
    "gold at 0: one pair, against the best wrong name": ([7, 1, 2, 3, 4], {7}, -1, {}, [(7, 1, 0, 1)]),
    "gold at 1: the one name above": ([1, 7, 2, 3, 4], {7}, -1, {}, [(7, 1, 1, 0)]),
    "gold at 3: each of the three names above, none below": (
        [1, 2, 3, 7, 4],
        {7},
        -1,
        {},
        [(7, 1, 3, 0), (7, 2, 3, 1), (7, 3, 3, 2)],
    ),
    "gold last of the top k": ([1, 2, 3, 4, 7], {7}, -1, {}, [(7, n, 4, n - 1) for n in (1, 2, 3, 4)]),
    "absent: the nearest gold name against each name, up to the cap": (
        [1, 2, 3, 4, 5],
        {7},
        7,
        {},
        [(7, 1, -1, 0), (7, 2, -1, 1), (7, 3, -1, 2), (7, 4, -1, 3)],
    ),
    "absent, a higher cap": ([1, 2, 3, 4, 5], {7}, 7, {"max_pairs": 9}, [(7, n, -1, n - 1) for n in (1, 2, 3, 4, 5)]),
    "absent, skipped by rule": ([1, 2, 3, 4, 5], {7}, 7, {"absent": "skip"}, []),
    "skip leaves mentions whose gold is there alone": ([1, 7], {7}, 7, {"absent": "skip"}, [(7, 1, 1, 0)]),
    "absent and no gold name known": ([1, 2, 3, 4, 5], set(), -1, {}, []),
    "gold beyond the top k counts as absent": (
        [1, 2, 7],
        {7},
        8,
        {"top_k": 2},
        [(8, 1, -1, 0), (8, 2, -1, 1)],
    ),
    "several gold names: the one ranked best is chosen": ([1, 7, 8, 2, 9], {7, 8, 9}, 9, {}, [(7, 1, 1, 0)]),
    "two names of the gold concept in front: the second is no wrong name": (
        [7, 8, 1, 2, 3],
        {7, 8},
        -1,
        {},
        [(7, 1, 0, 2)],
    ),
    "every candidate is gold: nothing to reject": ([7, 8, 9], {7, 8, 9}, 7, {}, []),
    # Name 5 belongs to a gold concept and to another: some concept of it is gold, so it is right and never rejected.
    "an ambiguous name with a gold concept is right": ([5, 1, 2], {5, 7}, 7, {}, [(5, 1, 0, 1)]),
    "an ambiguous name above the exact one is chosen, not rejected": ([1, 5, 7], {5, 7}, 7, {}, [(5, 1, 1, 0)]),
    "fewer candidates than k": ([1, 7, -1, -1, -1], {7}, -1, {}, [(7, 1, 1, 0)]),
    "fewer than k, gold first, one wrong name": ([7, 1, -1], {7}, -1, {}, [(7, 1, 0, 1)]),
    "fewer than k, gold first, no wrong name": ([7, -1, -1], {7}, -1, {}, []),
    "fewer than k, gold absent: places without a name are not rejected": (
        [1, -1, -1, -1, -1],
        {7},
        7,
        {},
        [(7, 1, -1, 0)],
    ),
    "no candidate at all": ([-1, -1], {7}, 7, {}, []),
    "cap: the wrong names ranked best are kept": (
        [1, 2, 3, 7],
        {7},
        -1,
        {"max_pairs": 2},
        [(7, 1, 3, 0), (7, 2, 3, 1)],
    ),
    "cap of one, absent": ([1, 2, 3], {7}, 7, {"max_pairs": 1}, [(7, 1, -1, 0)]),
    "top 1, gold first: nothing to compare": ([7, 1], {7}, -1, {"top_k": 1}, []),
    "top 1, gold absent": ([1, 7], {7}, 7, {"top_k": 1}, [(7, 1, -1, 0)]),
}


@pytest.mark.parametrize(("names", "gold", "nearest", "options", "expected"), CASES.values(), ids=CASES)
def test_literal_cases(names, gold, nearest, options, expected):
    assert pairs_of(names, gold, nearest, **options) == expected


def test_pairs_of_many_mentions_are_ordered_by_mention_then_rank():
    names = np.array([[1, 2, 7], [9, 1, 2], [3, 4, 5]])
    is_gold = np.array([[False, False, True], [True, False, False], [False, False, False]])
    made = make_pairs(names, is_gold, np.array([7, 9, 6]))
    assert made.mention.tolist() == [0, 0, 1, 2, 2, 2]
    assert made.chosen.tolist() == [7, 7, 9, 6, 6, 6]
    assert made.rejected.tolist() == [1, 2, 1, 3, 4, 5]
    assert made.chosen_rank.tolist() == [2, 2, 0, -1, -1, -1]
    assert made.rejected_rank.tolist() == [0, 1, 1, 0, 1, 2]
    assert len(made) == 6
    assert {field.dtype for field in (made.mention, made.chosen, made.rejected)} == {np.dtype(np.int32)}


def test_no_mentions_make_no_pairs():
    assert len(make_pairs(np.zeros((0, 5), np.int64), np.zeros((0, 5), bool), np.zeros(0, np.int64))) == 0


def test_a_gold_mark_where_there_is_no_name_is_ignored():
    made = make_pairs(np.array([[1, -1]]), np.array([[False, True]]), np.array([7]))
    assert made.chosen.tolist() == [7]
    assert made.chosen_rank.tolist() == [-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"absent": "drop"}, "absent is 'drop'; choose one of nearest, skip"),
        ({"top_k": 0}, r"top_k \(0\)"),
        ({"max_pairs": 0}, r"max_pairs \(0\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pairs_of([1], {1}, **options)


def by_loop(names, is_gold, nearest, top_k, max_pairs, absent):
    """Section 3.3 of the paper, word by word."""
    pairs = []
    for mention, candidates in enumerate(names):
        ranked = [(rank, name) for rank, name in enumerate(candidates[:top_k]) if name >= 0]
        gold = [(rank, name) for rank, name in ranked if is_gold[mention][rank]]
        wrong = [(rank, name) for rank, name in ranked if not is_gold[mention][rank]]
        if gold and gold[0][0] == 0:
            chosen, rejected = gold[0], wrong[:1]
        elif gold:
            chosen, rejected = gold[0], [item for item in wrong if item[0] < gold[0][0]]
        elif absent == "nearest" and nearest[mention] >= 0:
            chosen, rejected = (-1, nearest[mention]), wrong
        else:
            continue
        pairs += [(mention, chosen[1], name, chosen[0], rank) for rank, name in rejected[:max_pairs]]
    return pairs


@st.composite
def candidates(draw):
    width = draw(st.integers(1, 7))
    row = st.lists(st.integers(0, 30), min_size=0, max_size=width, unique=True)
    names = [r + [-1] * (width - len(r)) for r in draw(st.lists(row, max_size=5))]
    marks = [draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in names]
    nearest = [draw(st.integers(-1, 30)) for _ in names]
    return names, marks, nearest, width


@given(candidates(), st.integers(1, 8), st.integers(1, 8), st.sampled_from(["nearest", "skip"]))
def test_agrees_with_a_plain_loop(drawn, top_k, max_pairs, absent):
    names, marks, nearest, width = drawn
    made = make_pairs(
        np.array(names, dtype=np.int64).reshape(-1, width),
        np.array(marks, dtype=bool).reshape(-1, width),
        np.array(nearest, dtype=np.int64),
        top_k=top_k,
        max_pairs=max_pairs,
        absent=absent,
    )
    fields = (made.mention, made.chosen, made.rejected, made.chosen_rank, made.rejected_rank)
    assert list(zip(*(f.tolist() for f in fields), strict=True)) == by_loop(
        names, marks, nearest, top_k, max_pairs, absent
    )
