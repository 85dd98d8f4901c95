"""The numbers behind a confidence, on values worked out by hand."""

import json
import math

import numpy as np
import pytest

from angel_trl.confidence import (
    Calibration,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    merged_confidence,
    risk_coverage,
    score_confidence,
)

NAN = math.nan


def logs(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float32))


# --- confidences -----------------------------------------------------------------------------------------------------


def test_a_confidence_is_the_share_of_the_first_ones_concept():
    same = np.array([[True, False, True], [True, False, False]])
    found = merged_confidence(logs([0.4, 0.2, 0.2], [0.4, 0.4, 0.0]), same)
    assert found == pytest.approx([0.75, 0.5], abs=1e-6)


def test_a_temperature_flattens_before_names_of_a_concept_are_merged():
    # Square roots: 0.8, 0.4 and 0.4.
    found = merged_confidence(logs([0.64, 0.16, 0.16]), np.array([[True, False, True]]), temperature=2.0)
    assert found == pytest.approx([1.2 / 1.6], abs=1e-6)


def test_none_of_these_takes_its_share():
    same = np.array([[True, False]])
    found = merged_confidence(logs([0.3, 0.1]), same, none_score=math.log(0.2))
    assert found == pytest.approx([0.5], abs=1e-6)
    # The same candidates, both less likely: none of these is likelier.
    found = merged_confidence(logs([0.03, 0.01]), same, none_score=math.log(0.2))
    assert found == pytest.approx([0.125], abs=1e-6)


def test_a_mention_without_candidates_has_no_confidence():
    found = merged_confidence(logs([0.0, 0.0], [0.5, 0.0]), np.array([[False, False], [True, False]]), 1.5, -3.0)
    assert np.isnan(found).tolist() == [True, False]


def test_scores_far_below_zero_do_not_vanish():
    scores = np.array([[-900.0, -901.0]], dtype=np.float32)
    found = merged_confidence(scores, np.array([[True, False]]))
    assert found == pytest.approx([1 / (1 + math.exp(-1))], abs=1e-6)


def _drawn(temperature, none_score, mentions=20_000):
    """Mentions whose answers are right with just the probability that a temperature and a score of none give."""
    rng = np.random.default_rng(0)
    scores = -np.sort(rng.gamma(2.0, 2.0, size=(mentions, 4)), axis=1)
    same = np.column_stack([np.ones(mentions, dtype=bool), rng.random((mentions, 3)) < 0.3])
    truth = merged_confidence(scores, same, temperature, none_score)
    return scores, same, rng.random(mentions) < truth, truth


@pytest.mark.parametrize(("temperature", "none_score"), [(2.5, -3.0), (0.7, -1.0)])
def test_the_parameters_that_answers_were_drawn_with_are_found_again(temperature, none_score):
    scores, same, right, truth = _drawn(temperature, none_score)
    found = fit_temperature(scores, same, right)
    assert found == pytest.approx((temperature, none_score), rel=0.1)
    assert expected_calibration_error(truth, right) < 0.015


def test_without_anything_to_gain_none_of_these_fades_away():
    scores, same, right, _ = _drawn(2.0, -np.inf)
    temperature, none_score = fit_temperature(scores, same, right)
    assert temperature == pytest.approx(2.0, rel=0.1)
    assert none_score < -12


# --- calibration error -----------------------------------------------------------------------------------------------


def test_the_error_is_the_gap_of_bins_weighted_by_their_mentions():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.25])
    right = np.array([True, True, True, False, False])
    # Gaps 0.95 - 0.75 of four, 0.25 - 0 of one.
    assert expected_calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 0.25) / 5)
    # Two bins of equal mass: the three least sure (0.25 and two of 0.95), the two surest.
    gaps = 3 * abs((0.25 + 1.9) / 3 - 2 / 3) + 2 * abs(0.95 - 0.5)
    assert expected_calibration_error(confidence, right, bins=2, equal_mass=True) == pytest.approx(gaps / 5)


def test_a_confidence_of_one_falls_into_the_last_bin_and_none_is_left_out():
    assert expected_calibration_error(np.array([1.0, NAN]), np.array([True, False])) == 0.0


# --- risk and coverage -----------------------------------------------------------------------------------------------


def test_the_risk_of_the_surest_answers():
    curve = risk_coverage(np.array([0.2, 0.9, 0.5, NAN]), np.array([False, True, False, False]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75]
    assert curve.risk == pytest.approx([0, 1 / 2, 2 / 3])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_answers_equally_sure_share_their_errors_in_any_order():
    confidence = np.array([0.9, 0.5, 0.5])
    for right in ([True, True, False], [True, False, True]):
        assert risk_coverage(confidence, np.array(right)).risk == pytest.approx([0, 1 / 4, 1 / 3])


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_a_threshold_lies_below_the_last_answers_that_reach_the_target():
    confidence = np.concatenate([np.full(60, 0.9), np.full(40, 0.5), np.full(40, 0.1)])
    right = np.concatenate([np.ones(100, dtype=bool), np.zeros(40, dtype=bool)])
    assert choose_threshold(confidence, right, 0.9) == pytest.approx(0.3)
    # The bound of 100 of 100 is 0.05 ** (1 / 100) = 0.970; of 60 of 60 it is 0.951.
    assert choose_threshold(confidence, right, 0.97) == pytest.approx(0.3)
    assert choose_threshold(confidence, right, 0.98) is None


def test_few_answers_that_are_all_right_are_not_trusted():
    assert choose_threshold(np.linspace(0.5, 1, 28), np.ones(28, dtype=bool), 0.9) is None
    assert choose_threshold(np.linspace(0.5, 1, 29), np.ones(29, dtype=bool), 0.9) == 0.0


def test_answers_equally_sure_are_accepted_together():
    confidence = np.concatenate([np.full(60, 0.9), np.full(20, 0.6)])
    right = np.concatenate([np.ones(70, dtype=bool), np.zeros(10, dtype=bool)])
    assert choose_threshold(confidence, right, 0.9) == pytest.approx(0.75)


def test_wrong_answers_and_none_have_no_threshold():
    assert choose_threshold(np.array([0.9, 0.5]), np.array([False, False]), 0.5) is None
    assert choose_threshold(np.array([NAN]), np.array([False]), 0.5) is None


# --- scores ----------------------------------------------------------------------------------------------------------

CONFIDENCE = np.array([0.9, 0.8, 0.3, 0.7, 0.2, NAN])
RIGHT = np.array([True, False, True, False, False, False])
NIL = np.array([False, False, False, True, True, False])


def test_abstaining_is_right_where_there_is_no_right_answer():
    scores = score_confidence(CONFIDENCE, RIGHT, NIL, nil_threshold=0.5, bootstrap=0)
    assert (scores["mentions"], scores["answers"], scores["nil"], scores["accepted"]) == (6, 5, 2, 3)
    assert scores["accuracy"] == pytest.approx(2 / 6)
    assert (scores["coverage"], scores["precision"]) == (pytest.approx(3 / 6), pytest.approx(1 / 3))
    assert scores["nil_abstained"] == pytest.approx(1 / 2)
    # Right: the first, answered; the fifth, NIL and not answered.
    assert scores["accuracy_with_nil"] == pytest.approx(2 / 6)


def test_without_a_threshold_all_answers_are_given():
    scores = score_confidence(CONFIDENCE, RIGHT, NIL, bootstrap=0)
    assert (scores["coverage"], scores["precision"], scores["nil_abstained"]) == (5 / 6, 2 / 5, 0.0)


def test_what_cannot_be_said_is_none_and_everything_is_json():
    scores = score_confidence(CONFIDENCE, RIGHT, np.zeros(6, dtype=bool), nil_threshold=1.0, bootstrap=20)
    assert (scores["precision"], scores["nil_abstained"], scores["precision_ci"]) == (None, None, None)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_documents_are_resampled_whole():
    confidence, right = np.tile([0.9, 0.1], 50), np.tile([True, False], 50)
    nil = np.zeros(100, dtype=bool)
    alone = score_confidence(confidence, right, nil, nil_threshold=0.5)
    paired = score_confidence(confidence, right, nil, nil_threshold=0.5, groups=np.repeat(np.arange(50), 2).tolist())
    assert paired["coverage_ci"] == [0.5, 0.5]
    assert alone["coverage_ci"][0] < 0.45 < 0.55 < alone["coverage_ci"][1]
    assert score_confidence(confidence, right, nil, nil_threshold=0.5) == alone, "the same seed"


# --- the record ------------------------------------------------------------------------------------------------------

VALUES = {
    "temperature": 1.5,
    "none_score": -4.0,
    "nil_threshold": 0.6,
    "target_precision": 0.9,
    "num_beams": 10,
    "top_k": 2,
    "fingerprint": "f" * 64,
    "report": {"documents": 3},
}


def test_a_calibration_survives_json():
    calibration = Calibration(**VALUES)
    assert calibration.to_json() == VALUES
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_a_confidence_is_that_of_the_candidates_it_was_fitted_on():
    scores, same = logs([0.4, 0.2, 0.3]), np.array([[True, False, False]])
    calibration = Calibration(**{**VALUES, "temperature": 1.0, "none_score": -50.0})
    assert calibration.confidence(scores, same) == pytest.approx([2 / 3], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0; it must be a positive number"),
        ({"temperature": NAN}, "temperature is nan"),
        ({"none_score": 1.0}, "none_score is 1.0; it must be at most 0"),
        ({"nil_threshold": 1.5}, "nil_threshold is 1.5; it must lie between 0 and 1"),
        ({"top_k": 0}, "must be at least 1"),
        ({"temperature": "hot"}, "A value of the calibration is not a number"),
    ],
)
def test_values_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=f"{message}.*Calibrate again"):
        Calibration.from_json({**VALUES, **change})


def test_missing_and_unknown_values_are_named():
    with pytest.raises(ValueError, match="A calibration has temperature, none_score.*given: .*'other'"):
        Calibration.from_json({**VALUES, "other": 1})
    with pytest.raises(ValueError, match=r"given: \[1\]\. Calibrate again"):
        Calibration.from_json([1])


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"num_beams": 10, "ranking": "sum", "exact": False}, True),
        ({"num_beams": 9, "ranking": "sum", "exact": False}, False),
        ({"num_beams": 1, "ranking": "sum", "exact": True}, True),
        ({"num_beams": 10, "ranking": "mean", "exact": True}, False),
    ],
)
def test_a_calibration_holds_for_searches_like_its_own(settings, holds):
    assert Calibration(**VALUES).holds_for(**settings) == holds
