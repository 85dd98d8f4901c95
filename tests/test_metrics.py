import doctest
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl.metrics import (
    METRICS,
    gold_ranks,
    paired_difference,
    paired_difference_of_ranks,
    score,
    score_ranks,
)


@pytest.mark.parametrize(
    ("prediction", "reference", "any_id", "strict"),
    [
        pytest.param([["A"]], [["A"]], 0, 0, id="right at the top"),
        pytest.param([["B"], ["C"], ["A"]], [["A"]], 2, 2, id="right at rank 2"),
        pytest.param([["B"], ["C"]], [["A"]], -1, -1, id="absent"),
        pytest.param([["A"], ["A"]], [["A"]], 0, 0, id="the first of two right names counts"),
        pytest.param([["A", "B"], ["A"]], [["A"]], 0, 1, id="a homonym is right under any-id only"),
        pytest.param([["B"]], [["A", "B"]], 0, 0, id="one alternative is enough"),
        pytest.param([["A", "B"]], [["A", "B"]], 0, 0, id="both alternatives are no ambiguity"),
        pytest.param([["A"]], [["A"], ["B"]], 0, -1, id="half of a composite is right under any-id only"),
        pytest.param([["A"], ["A", "B"]], [["A"], ["B"]], 0, 1, id="all of a composite"),
        pytest.param([["A", "B", "C"]], [["A"], ["B"]], 0, -1, id="a composite and one concept more"),
        pytest.param([["C", "B"]], [["A", "C"], ["B"]], 0, 0, id="a composite with an alternative"),
        pytest.param([["A", "C"]], [["A", "C"], ["B"]], 0, -1, id="two alternatives of one part name one part"),
        pytest.param([], [["A"]], -1, -1, id="abstaining from a concept is wrong"),
        pytest.param([[]], [["A"]], -1, -1, id="a name of no concept is wrong"),
        pytest.param([], [], 0, 0, id="abstaining from NIL is right"),
        pytest.param([["A"]], [], -1, -1, id="any answer to NIL is wrong"),
    ],
)
def test_gold_ranks_under_both_protocols(prediction, reference, any_id, strict):
    assert gold_ranks([prediction], [reference]).tolist() == [any_id]
    assert gold_ranks([prediction], [reference], strict=True).tolist() == [strict]


def test_gold_ranks_are_int32():
    ranks = gold_ranks([[["A"]], []], [[["A"]], [["A"]]])
    assert ranks.dtype == np.int32
    assert ranks.shape == (2,)


def naive_rank(prediction, reference, strict):
    if not reference:
        return 0 if not prediction else -1
    for rank, candidate in enumerate(prediction):
        hits = [[concept in part for concept in candidate] for part in reference]
        if strict:
            named = all(any(row) for row in hits)
            nothing_else = all(any(row[column] for row in hits) for column in range(len(candidate)))
            if named and nothing_else:
                return rank
        elif any(any(row) for row in hits):
            return rank
    return -1


CONCEPTS = st.sampled_from("ABCD")
MENTIONS = st.lists(
    st.tuples(
        st.lists(st.lists(CONCEPTS, max_size=3), max_size=4),
        st.lists(st.lists(CONCEPTS, min_size=1, max_size=2), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@given(mentions=MENTIONS, strict=st.booleans())
def test_gold_ranks_agree_with_a_naive_loop(mentions, strict):
    predictions, references = zip(*mentions, strict=True)
    expected = [naive_rank(prediction, reference, strict) for prediction, reference in mentions]
    assert gold_ranks(predictions, references, strict=strict).tolist() == expected


@given(mentions=MENTIONS)
def test_strict_is_never_better_than_any_id(mentions):
    results = score(*zip(*mentions, strict=True), bootstrap=0)
    for key in ("acc@1", "acc@5", "mrr"):
        assert results[f"{key}_strict"] <= results[key]


# any-id ranks 0, 1, 0, absent, 5, 0 (NIL); strict ranks absent, 1, absent, absent, 5, 0
PREDICTIONS = [
    [["A", "X"]],
    [["X"], ["A"]],
    [["A"]],
    [],
    [["X"], ["X"], ["X"], ["X"], ["X"], ["A"]],
    [],
]
REFERENCES = [[["A"]], [["A"]], [["A"], ["B"]], [["A"]], [["A"]], []]


def test_score_of_a_literal_table():
    assert score(PREDICTIONS, REFERENCES, bootstrap=0) == {
        "acc@1": pytest.approx(100 * 3 / 6),
        "acc@5": pytest.approx(100 * 4 / 6),
        "mrr": pytest.approx(100 * (1 + 1 / 2 + 1 + 0 + 1 / 6 + 1) / 6),
        "acc@1_strict": pytest.approx(100 * 1 / 6),
        "acc@5_strict": pytest.approx(100 * 2 / 6),
        "mrr_strict": pytest.approx(100 * (0 + 1 / 2 + 0 + 0 + 1 / 6 + 1) / 6),
        "mentions": 6,
        "nil": 1,
    }


def test_score_fills_the_documented_metrics_and_their_intervals():
    results = score(PREDICTIONS, REFERENCES)
    assert set(results) == {*METRICS, *(f"{key}_ci" for key in METRICS), "mentions", "nil"}


def test_score_at_other_cutoffs():
    results = score(PREDICTIONS, REFERENCES, ks=(6, 2, 2), bootstrap=0)
    assert results["acc@6"] == pytest.approx(100 * 5 / 6)
    assert results["acc@2"] == pytest.approx(100 * 4 / 6)
    assert "acc@1" not in results


def test_score_can_be_written_as_json():
    results = score(PREDICTIONS, REFERENCES, groups=np.array([1, 1, 2, 2, 3, 3]))
    assert json.loads(json.dumps(results)) == results


def halves(right, wrong):
    """One candidate a mention, the first `right` of them right."""
    return [[["A"]]] * right + [[["B"]]] * wrong, [[["A"]]] * (right + wrong)


def test_interval_is_that_of_the_binomial():
    predictions, references = halves(700, 300)
    low, high = score(predictions, references, bootstrap=4000)["acc@1_ci"]
    # 70 +- 1.96 * sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(67.16, abs=0.3)
    assert high == pytest.approx(72.84, abs=0.3)


def test_intervals_are_reproducible_and_depend_on_the_seed():
    first = score(PREDICTIONS * 20, REFERENCES * 20, seed=1)
    assert score(PREDICTIONS * 20, REFERENCES * 20, seed=1) == first
    assert score(PREDICTIONS * 20, REFERENCES * 20, seed=2)["mrr_ci"] != first["mrr_ci"]


def test_bootstrap_leaves_the_global_random_state_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    score(PREDICTIONS, REFERENCES)
    assert np.random.get_state()[1].tolist() == before


def test_intervals_cover_the_true_value():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        right = int(rng.binomial(200, 0.6))
        low, high = score(*halves(right, 200 - right), bootstrap=500, seed=seed)["acc@1_ci"]
        covered += low <= 60.0 <= high
    assert covered >= 88


def test_intervals_contain_the_score():
    results = score(PREDICTIONS * 10, REFERENCES * 10)
    for key in METRICS:
        low, high = results[f"{key}_ci"]
        assert 0 <= low <= results[key] <= high <= 100


def test_groups_widen_the_intervals_of_dependent_mentions():
    predictions, references = halves(500, 500)
    documents = [index // 50 for index in range(1000)]
    alone = score(predictions, references)
    grouped = score(predictions, references, groups=documents)
    assert grouped["acc@1"] == alone["acc@1"] == 50.0
    widths = [results["acc@1_ci"][1] - results["acc@1_ci"][0] for results in (alone, grouped)]
    # Ten right and ten wrong documents: 20 units in place of 1000, so sqrt(50) times as wide.
    assert widths[1] / widths[0] == pytest.approx(7.1, abs=1.0)


def test_groups_of_one_mention_are_mentions():
    predictions, references = halves(6, 4)
    alone = score(predictions, references)
    assert score(predictions, references, groups=[f"document {index}" for index in range(10)]) == alone


def test_unequal_groups_weigh_by_their_mentions():
    # Resamples of a right group of 3 and a wrong one of 1 have accuracy 0, 75 or 100.
    results = score(*halves(3, 1), groups=["a", "a", "a", "b"])
    assert results["acc@1"] == 75.0
    assert results["acc@1_ci"] == [0.0, 100.0]


def test_a_single_group_is_warned_about(caplog):
    results = score(*halves(3, 1), groups=["a"] * 4)
    assert results["acc@1_ci"] == [75.0, 75.0]
    assert "single mention or group" in caplog.text


def test_thousand_resamples_of_a_thousand_mentions_are_quick():
    rng = np.random.default_rng(0)
    predictions = [[[str(name)] for name in row] for row in rng.integers(0, 20, (1000, 5))]
    references = [[[str(name)]] for name in rng.integers(0, 20, 1000)]
    start = time.thread_time()  # of the processor: the machine may be busy with something else
    score(predictions, references, groups=[index // 10 for index in range(1000)])
    assert time.thread_time() - start < 1.0


def test_resamples_drawn_in_blocks_are_the_same(monkeypatch):
    predictions, references = PREDICTIONS * 5, REFERENCES * 5
    whole = score(predictions, references, bootstrap=100)
    monkeypatch.setattr("angel_trl.metrics._BLOCK", 30)
    assert score(predictions, references, bootstrap=100) == whole


@pytest.mark.parametrize("metric", METRICS)
def test_identical_systems_do_not_differ(metric):
    result = paired_difference(PREDICTIONS, PREDICTIONS, REFERENCES, metric=metric, bootstrap=200)
    assert result == {"difference": 0.0, "ci": [0.0, 0.0], "p_value": 1.0}


@pytest.mark.parametrize("metric", [*METRICS, "acc@2", "acc@2_strict"])
def test_paired_difference_is_the_difference_of_the_scores(metric):
    better = [[["A"]], *PREDICTIONS[1:]]
    before, after = (score(p, REFERENCES, ks=(1, 2, 5), bootstrap=0)[metric] for p in (PREDICTIONS, better))
    result = paired_difference(PREDICTIONS, better, REFERENCES, metric=metric, bootstrap=10)
    assert result["difference"] == pytest.approx(after - before)


def test_a_consistent_gain_is_significant_although_the_single_intervals_overlap():
    worse, references = halves(700, 300)
    better, _ = halves(720, 280)
    result = paired_difference(worse, better, references)
    assert result["difference"] == pytest.approx(2.0)
    assert result["ci"][0] > 0
    assert result["p_value"] == pytest.approx(2 / 10_001)
    assert score(worse, references)["acc@1_ci"][1] > score(better, references)["acc@1_ci"][0]


def test_paired_difference_has_a_sign_and_a_symmetric_p_value():
    first, references = halves(50, 50)
    second = [[["B"]]] * 4 + [[["A"]]] * 50 + [[["B"]]] * 46
    forth = paired_difference(first, second[::-1], references)
    back = paired_difference(second[::-1], first, references)
    assert forth["difference"] == -back["difference"]
    assert forth["p_value"] == pytest.approx(back["p_value"], abs=0.03)


def test_groups_make_a_paired_difference_less_certain():
    worse, references = halves(40, 60)
    better, _ = halves(50, 50)
    documents = [index // 10 for index in range(100)]
    alone = paired_difference(worse, better, references)
    grouped = paired_difference(worse, better, references, groups=documents)
    assert alone["p_value"] < 0.01
    assert grouped["p_value"] > 0.05


@pytest.mark.parametrize("metric", ["acc", "acc@0", "acc@-1", "MRR", "mrr_strict_ci", "mentions"])
def test_an_unknown_metric_is_refused(metric):
    with pytest.raises(ValueError, match=r"is unknown: use one of acc@1, acc@5"):
        paired_difference(PREDICTIONS, PREDICTIONS, REFERENCES, metric=metric)


def test_no_mentions_are_refused():
    with pytest.raises(ValueError, match="no mentions"):
        score([], [])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score([[["A"]]], [[["A"]], [["A"]]])


@pytest.mark.parametrize("prediction", [["D003693"], "D003693", [["D003693"], "D003693"]])
def test_a_bare_id_in_a_prediction_is_refused_not_read_as_characters(prediction):
    with pytest.raises(ValueError, match=r"predictions\[1\] holds the string 'D003693'"):
        score([[], prediction], [[["D"]], [["D"]]])


@pytest.mark.parametrize("reference", [["D003693"], "D003693"])
def test_a_bare_id_in_a_reference_is_refused_not_read_as_characters(reference):
    with pytest.raises(ValueError, match=r"references\[0\] holds the string 'D003693'"):
        score([[["D"]]], [reference])


def test_a_part_without_alternatives_is_refused():
    with pytest.raises(ValueError, match=r"references\[0\] = \[\['A'\], \[\]\] has a part without alternatives"):
        score([[["A"]]], [[["A"], []]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": (1, 0)}, r"ks=\(1, 0\): cut-offs must be 1 or more, got 0"),
        ({"bootstrap": -1}, r"bootstrap=-1 must be 0"),
        ({"groups": [1, 2]}, r"groups has 2 labels for 6 mentions"),
    ],
)
def test_bad_arguments_of_score_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        score(PREDICTIONS, REFERENCES, **arguments)


def test_a_paired_difference_needs_resamples():
    with pytest.raises(ValueError, match="bootstrap=0 must be 1 or more"):
        paired_difference(PREDICTIONS, PREDICTIONS, REFERENCES, bootstrap=0)


def test_metrics_import_neither_torch_nor_datasets():
    code = (
        "import sys, angel_trl.metrics\n"
        "sys.exit(', '.join({'torch', 'transformers', 'datasets', 'evaluate', 'pandas'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def metric(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    from angel_trl.evaluate_metric import EntityLinkingMetric

    return EntityLinkingMetric()


def test_evaluate_metric_gives_the_same_scores(metric):
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == score(PREDICTIONS, REFERENCES)


def test_evaluate_metric_takes_the_arguments_of_score(metric):
    arguments = {"ks": (2,), "groups": [1, 1, 2, 2, 3, 3], "bootstrap": 50, "seed": 3}
    results = metric.compute(predictions=PREDICTIONS, references=REFERENCES, **arguments)
    assert results == score(PREDICTIONS, REFERENCES, **arguments)


def test_evaluate_metric_adds_batches_and_single_mentions(metric):
    metric.add_batch(predictions=PREDICTIONS[:3], references=REFERENCES[:3])
    metric.add_batch(predictions=PREDICTIONS[3:5], references=REFERENCES[3:5])
    metric.add(prediction=PREDICTIONS[5], reference=REFERENCES[5])
    assert metric.compute(bootstrap=0) == score(PREDICTIONS, REFERENCES, bootstrap=0)


def test_evaluate_metric_refuses_ids_without_their_lists(metric):
    with pytest.raises(ValueError, match="expected a list"):
        metric.compute(predictions=[["D003693"]], references=[[["D003693"]]])


def test_evaluate_metric_cites_the_paper(metric):
    assert "2408.16493" in metric.citation
    assert metric.name == "entity_linking_metric"


def test_the_example_in_the_description_runs(metric):
    test = doctest.DocTestParser().get_doctest(metric.inputs_description, {}, "inputs_description", None, 0)
    assert test.examples
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_evaluate_metric_works_in_a_process_without_the_hub(tmp_path):
    code = (
        "from angel_trl.evaluate_metric import EntityLinkingMetric\n"
        "print(EntityLinkingMetric().compute(predictions=[[['A']]], references=[[['A']]], bootstrap=0)['acc@1'])"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == "100.0", result.stderr


# From ranks, where predictions are not at hand.


def test_ranks_have_the_scores_of_the_predictions_they_are_of():
    groups = [place // 2 for place in range(len(REFERENCES))]
    ranks = [gold_ranks(PREDICTIONS, REFERENCES, strict) for strict in (False, True)]
    whole = score(PREDICTIONS, REFERENCES, ks=(1, 3), groups=groups, bootstrap=50, seed=4)
    found = score_ranks(*(one.astype(np.int8) for one in ranks), ks=(1, 3), groups=groups, bootstrap=50, seed=4)
    assert found == {key: value for key, value in whole.items() if key != "nil"}


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_have_the_difference_of_the_predictions_they_are_of(metric):
    worse = [[], *PREDICTIONS[1:]]
    before, after = (gold_ranks(one, REFERENCES, metric.endswith("strict")) for one in (worse, PREDICTIONS))
    found = paired_difference_of_ranks(before, after, metric, bootstrap=50, seed=1)
    assert found == paired_difference(worse, PREDICTIONS, REFERENCES, metric, bootstrap=50, seed=1)


def test_ranks_of_other_mentions_or_none_are_refused():
    two, three = np.zeros(2, dtype=np.int8), np.zeros(3, dtype=np.int8)
    with pytest.raises(ValueError, match="There are 2 ranks of any-id and 3 of strict"):
        score_ranks(two, three)
    with pytest.raises(ValueError, match="There are 3 ranks of system a and 2 of system b"):
        paired_difference_of_ranks(three, two)
    with pytest.raises(ValueError, match="There are 0 ranks"):
        score_ranks(two[:0], two[:0])
    with pytest.raises(ValueError, match="metric='f1' is unknown"):
        paired_difference_of_ranks(two, two, "f1")
