"""The bookkeeping of the search, in literal values."""

import numpy as np
import pytest

from angel_trl.frontier import Found, Frontier, Prefixes, best_of_rows, rank_in_group

INF = float("inf")


def ints(*values):
    return np.array(values, dtype=np.int64)


def floats(*values):
    return np.array(values, dtype=np.float32)


def prefixes(*rows):
    """Prefixes from `(mention, node, length, score)` or `(..., score, bound)`; the bound is else the score."""
    mention, node, length, score = (list(column) for column in zip(*(row[:4] for row in rows), strict=True))
    bound = [row[-1] for row in rows]
    some = ints(*node)
    return Prefixes(ints(*mention), some, ints(*length), some + 100, floats(*score), floats(*bound), some < 0)


def frontier_of(mentions, num_beams, *rows, keep=False, max_beams=100):
    frontier = Frontier(mentions, num_beams, keep=keep, max_beams=max_beams)
    frontier.prefixes += prefixes(*rows)
    return frontier


def nodes(some):
    return list(zip(some.mention.tolist(), some.node.tolist(), strict=True))


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_items_are_ordered_by_group_and_then_by_falling_value():
    order, rank = rank_in_group(ints(1, 0, 1, 0, 1), floats(-3.0, -1.0, -0.5, -2.0, -1.0))
    assert order.tolist() == [1, 3, 2, 4, 0]
    assert rank.tolist() == [0, 1, 0, 1, 2]


def test_infinite_negative_zero_and_positive_values_are_ordered():
    values = floats(0.0, -INF, 1e-40, -1e-40, 3.5, -2.0, INF, -1e30)
    order, _ = rank_in_group(np.zeros(8, dtype=np.int64), values)
    assert order.tolist() == [6, 4, 2, 0, 3, 5, 7, 1]


def test_groups_may_be_empty_and_a_high_value_does_not_leave_its_group():
    order, rank = rank_in_group(ints(9, 7, 7), floats(INF, -INF, -1.0))
    assert (order.tolist(), rank.tolist()) == ([2, 1, 0], [0, 1, 0])


def test_equal_values_keep_the_order_given():
    # Otherwise results would depend on which mentions share a batch.
    group = np.arange(999) % 3
    order, rank = rank_in_group(group, np.zeros(999, dtype=np.float32))
    assert order.tolist() == [*range(0, 999, 3), *range(1, 999, 3), *range(2, 999, 3)]
    assert rank.tolist() == [*range(333)] * 3


def test_nothing_to_rank():
    order, rank = rank_in_group(ints(), floats())
    assert (order.tolist(), rank.tolist()) == ([], [])


def test_the_best_of_each_row_are_marked():
    row, value = ints(0, 0, 0, 2, 2, 3), floats(-3.0, -1.0, -2.0, -9.0, -8.0, -INF)
    assert best_of_rows(row, value, 1).tolist() == [False, True, False, False, True, True]
    assert best_of_rows(row, value, 2).tolist() == [False, True, True, True, True, True]
    assert best_of_rows(row, value, 3).all()


def test_values_equal_to_the_last_of_the_best_are_marked_too():
    assert best_of_rows(ints(0, 0, 0, 0), floats(-2.0, -1.0, -2.0, -3.0), 2).tolist() == [True, True, True, False]


def test_the_best_of_no_rows():
    assert best_of_rows(ints(), floats(), 2).tolist() == []


# --- prefixes --------------------------------------------------------------------------------------------------------


def test_prefixes_are_taken_by_place_and_by_mask():
    some = prefixes((0, 5, 1, -1.0), (0, 6, 1, -2.0, -0.5), (1, 7, 2, -3.0))
    assert nodes(some.take(ints(2, 0))) == [(1, 7), (0, 5)]
    assert some.take(np.array([False, True, False])).bound.tolist() == [-0.5]


def test_prefixes_are_added_field_by_field():
    one, other = prefixes((0, 5, 1, -1.0)), prefixes((1, 7, 2, -3.0, -1.5))
    both = Prefixes.none() + one + other
    assert len(both) == 2
    for field in Prefixes.__slots__:
        assert getattr(both, field).tolist() == [*getattr(one, field).tolist(), *getattr(other, field).tolist()]
        assert getattr(both, field).dtype == getattr(one, field).dtype


# --- the names found -------------------------------------------------------------------------------------------------


def found_of(mentions, top_k, *rows):
    found = Found(mentions, top_k)
    add(found, *rows)
    return found


def add(found, *rows):
    """Add `(mention, leaf, value)` with score twice the value and length the leaf's number plus one."""
    mention, leaf, value = (list(column) for column in zip(*rows, strict=True))
    leaf = ints(*leaf)
    found.add(ints(*mention), leaf, leaf + 1, 2 * floats(*value), floats(*value))


def test_nothing_is_found_at_first():
    found = Found(2, 3)
    assert found.leaf.tolist() == [[-1] * 3] * 2
    assert found.kth.tolist() == [-INF] * 2
    assert found.length.tolist() == [[0] * 3] * 2


def test_the_best_stand_first_with_all_that_belongs_to_them():
    found = found_of(2, 2, (0, 10, -3.0), (1, 20, -1.0), (0, 11, -1.0), (0, 12, -2.0))
    assert found.leaf.tolist() == [[11, 12], [20, -1]]
    assert found.value.tolist() == [[-1.0, -2.0], [-1.0, -INF]]
    assert found.score.tolist() == [[-2.0, -4.0], [-2.0, -INF]]
    assert found.length.tolist() == [[12, 13], [21, 0]]
    assert found.kth.tolist() == [-2.0, -INF]


def test_later_names_push_out_worse_ones_and_leave_other_mentions_alone():
    found = found_of(3, 2, (0, 10, -3.0), (0, 11, -1.0), (2, 30, -5.0))
    add(found, (0, 12, -2.0), (0, 13, -9.0), (1, 20, -4.0))
    assert found.leaf.tolist() == [[11, 12], [20, -1], [30, -1]]
    assert found.kth.tolist() == [-2.0, -INF, -INF]


def test_a_name_no_better_than_the_kth_does_not_enter():
    found = found_of(1, 1, (0, 10, -1.0))
    add(found, (0, 11, -1.0))
    assert found.leaf.tolist() == [[10]]


def test_names_that_end_a_list_too_short_keep_the_places_without_a_name_last():
    found = found_of(1, 4, (0, 10, -2.0))
    add(found, (0, 11, -1.0))
    assert found.leaf.tolist() == [[11, 10, -1, -1]]
    assert found.length.tolist() == [[12, 11, 0, 0]]


# --- the beam --------------------------------------------------------------------------------------------------------

NO_NAME = floats(-INF)
CROWD = [(0, node, 1, -float(node)) for node in range(1, 8)]


def test_a_beam_holds_the_best_of_each_length():
    frontier = frontier_of(1, 2, (0, 1, 1, -1.0), (0, 2, 1, -5.0), (0, 3, 1, -2.0), (0, 4, 2, -9.0))
    chosen = frontier.select(NO_NAME, 8)
    assert nodes(chosen) == [(0, 1), (0, 3), (0, 4)]
    assert frontier.pruned.tolist() == [-5.0]


def test_a_beam_is_of_the_best_scores_and_what_falls_out_counts_by_its_bound():
    frontier = frontier_of(1, 1, (0, 1, 1, -4.0, -0.5), (0, 2, 1, -3.0, -2.5), (0, 3, 1, -9.0, -0.7))
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 2)]
    assert frontier.pruned.tolist() == [-0.5]
    assert nodes(frontier.prefixes) == [(0, 2)]


def test_each_mention_has_a_beam_of_its_own():
    frontier = frontier_of(2, 1, (0, 1, 1, -1.0), (1, 2, 1, -9.0), (0, 3, 1, -2.0), (1, 4, 1, -8.0))
    assert nodes(frontier.select(np.repeat(NO_NAME, 2), 8)) == [(0, 1), (1, 4)]
    assert frontier.pruned.tolist() == [-2.0, -9.0]


def test_prefixes_reached_from_one_row_that_exceed_a_beam_are_pruned_at_once():
    frontier = Frontier(2, 2, keep=False, max_beams=100)
    rows = [(0, 1, 1, -4.0), (0, 2, 1, -1.0), (0, 3, 1, -2.0), (0, 4, 2, -9.0), (1, 5, 1, -5.0)]
    frontier.add(prefixes(*rows), ints(0, 0, 0, 1, 2))
    assert nodes(frontier.prefixes) == [(0, 2), (0, 3), (0, 4), (1, 5)]
    assert frontier.pruned.tolist() == [-4.0, -INF]


def test_prefixes_are_all_kept_where_the_beam_may_widen():
    frontier = Frontier(1, 1, keep=True, max_beams=100)
    frontier.add(prefixes(*CROWD), np.zeros(7, dtype=np.int64))
    assert len(frontier.prefixes) == 7
    assert frontier.pruned.tolist() == [-INF]


def test_what_was_pruned_is_remembered_at_its_best():
    frontier = frontier_of(1, 1, (0, 1, 1, -1.0), (0, 2, 1, -3.0))
    frontier.select(NO_NAME, 8)
    frontier.prefixes += prefixes((0, 5, 2, -4.0), (0, 6, 2, -5.0))
    frontier.select(NO_NAME, 8)
    assert frontier.pruned.tolist() == [-3.0]


def test_the_likeliest_are_extended_first_and_none_twice():
    rows = [(0, 1, 1, -2.0), (0, 2, 2, -1.0), (0, 3, 3, -4.0), (1, 4, 1, -3.0)]
    frontier = frontier_of(2, 5, *rows)
    kth = np.repeat(NO_NAME, 2)
    assert nodes(frontier.select(kth, 2)) == [(0, 2), (0, 1), (1, 4)]
    assert nodes(frontier.select(kth, 2)) == [(0, 3)]
    assert len(frontier.select(kth, 2)) == 0


def test_first_means_by_bound_not_by_score():
    frontier = frontier_of(1, 5, (0, 1, 1, -1.0, -0.9), (0, 2, 2, -4.0, -0.5))
    assert nodes(frontier.select(NO_NAME, 1)) == [(0, 2)]


def test_a_prefix_that_cannot_beat_the_kth_name_is_forgotten_and_not_counted_as_pruned():
    frontier = frontier_of(2, 1, (0, 1, 1, -1.0), (0, 2, 1, -2.0), (0, 3, 2, -3.0), (1, 4, 1, -9.0))
    assert nodes(frontier.select(floats(-2.0, -INF), 8)) == [(0, 1), (1, 4)]
    assert frontier.pruned.tolist() == [-INF, -INF]
    assert nodes(frontier.prefixes) == [(0, 1), (1, 4)]


def test_a_prefix_extended_goes_on_taking_its_place_in_the_beam():
    frontier = frontier_of(1, 1, (0, 1, 1, -1.0))
    frontier.select(NO_NAME, 8)
    frontier.prefixes += prefixes((0, 2, 1, -2.0))
    assert len(frontier.select(NO_NAME, 8)) == 0
    assert frontier.pruned.tolist() == [-2.0]


def test_a_likelier_prefix_that_arrives_late_is_extended_after_all():
    frontier = frontier_of(1, 1, (0, 1, 5, -4.0))
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 1)]
    # Of the same length and likelier, but late: reached through shorter prefixes.
    frontier.prefixes += prefixes((0, 2, 5, -2.0))
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 2)]
    frontier.prefixes += prefixes((0, 3, 5, -3.0))
    assert len(frontier.select(NO_NAME, 8)) == 0
    assert frontier.pruned.tolist() == [-3.0]


def test_nothing_is_selected_from_nothing():
    frontier = Frontier(2, 3, keep=True, max_beams=10)
    assert len(frontier.select(np.repeat(NO_NAME, 2), 8)) == 0
    assert frontier.pruned.tolist() == [-INF, -INF]


# --- widening --------------------------------------------------------------------------------------------------------


def test_what_falls_out_of_a_beam_that_may_widen_is_kept_and_comes_back():
    frontier = frontier_of(1, 1, *CROWD, keep=True)
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 1)]
    assert len(frontier.prefixes) == 7
    # Four times as wide once nothing is left inside.
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 2), (0, 3), (0, 4)]
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 5), (0, 6), (0, 7)]
    assert frontier.pruned.tolist() == [-INF]


def test_a_beam_does_not_widen_while_something_is_ready_inside():
    frontier = frontier_of(1, 1, *CROWD, (0, 20, 2, -9.0), keep=True)
    assert nodes(frontier.select(NO_NAME, 1)) == [(0, 1)]
    assert nodes(frontier.select(NO_NAME, 1)) == [(0, 20)]
    assert nodes(frontier.select(NO_NAME, 1)) == [(0, 2)]


def test_a_beam_does_not_widen_for_what_cannot_beat_the_kth_name():
    frontier = frontier_of(1, 1, *CROWD, keep=True)
    frontier.select(NO_NAME, 8)
    assert nodes(frontier.select(floats(-2.5), 8)) == [(0, 2)]
    assert len(frontier.select(floats(-2.5), 8)) == 0


def test_a_beam_widens_to_the_widest_and_what_is_outside_is_pruned():
    frontier = frontier_of(1, 1, *CROWD, keep=True, max_beams=3)
    frontier.select(NO_NAME, 8)
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 2), (0, 3)]
    assert len(frontier.select(NO_NAME, 8)) == 0
    assert frontier.pruned.tolist() == [-4.0]
    # A name found since that is worth more than all outside makes up for it.
    assert len(frontier.select(floats(-3.5), 8)) == 0
    assert frontier.pruned.tolist() == [-INF]


def test_what_was_extended_before_it_fell_out_of_the_widest_beam_is_not_pruned():
    frontier = frontier_of(1, 1, (0, 1, 5, -4.0), keep=True, max_beams=1)
    frontier.select(NO_NAME, 8)
    frontier.prefixes += prefixes((0, 2, 5, -2.0))
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, 2)]
    assert frontier.pruned.tolist() == [-INF]


def test_only_the_beams_of_mentions_with_nothing_ready_are_widened():
    frontier = frontier_of(2, 1, *CROWD[:2], (1, 8, 1, -1.0), (1, 9, 2, -2.0), (1, 10, 1, -3.0), keep=True)
    kth = np.repeat(NO_NAME, 2)
    assert nodes(frontier.select(kth, 1)) == [(0, 1), (1, 8)]
    assert nodes(frontier.select(kth, 1)) == [(0, 2), (1, 9)]
    assert nodes(frontier.select(kth, 1)) == [(1, 10)]


@pytest.mark.parametrize(("num_beams", "count"), [(4, 4), (16, 8), (40, 10), (400, 64)])
def test_a_quarter_of_a_wide_beam_is_extended_at_once(num_beams, count):
    frontier = frontier_of(1, num_beams, *[(0, node, 1, -float(node)) for node in range(1, 100)])
    assert len(frontier.select(NO_NAME, 8, 64)) == count


def test_a_beam_wider_than_the_widest_is_not_narrowed():
    frontier = frontier_of(1, 5, *CROWD, keep=True, max_beams=2)
    assert nodes(frontier.select(NO_NAME, 8)) == [(0, node) for node in range(1, 6)]
    assert len(frontier.select(NO_NAME, 8)) == 0
    assert frontier.pruned.tolist() == [-6.0]
