"""What answers come to: files of answers, outcomes, scores over seeds, differences, changes."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_world import AFTER, BEFORE, DOCUMENTS, answers, gold_of, outcomes_of, recipes, toy

# Files.


def test_answers_come_back_as_they_were_kept(small_kb, small_mentions, tmp_path):
    test, train = small_mentions.select(range(16, 20)), small_mentions.select(range(16))
    own = recipes.predictions.Answers(
        [[["C19"], ["C05", "C06"]], [], [["C21"]] * 7, [["C25"]]],
        [["asthma", "ra"], [], ["gout"] * 7, ["hypertension"]],
        [[-0.5, -1.25], [], [-1.0] * 7, [-2.0]],
    )
    references = [[["C19"]], [["C19"]], [["C21"]], [["C25"], ["nowhere"]]]
    recipes.predictions.keep(tmp_path, {"ANGEL": own}, test, train, small_kb, references)
    gold = recipes.predictions.read_mentions(tmp_path / "mentions.parquet")
    assert gold.ids == list(test["id"])
    assert gold.gold == references
    assert gold.mentions[0] == "this is called"
    assert gold.contexts[3] == "[High blood pressure] is silent."
    assert gold.gold_names[3] == ["hypertension", "high blood pressure"]
    assert {name for name, members in gold.slices.items() if members[0]} == {"unseen concept", "unseen string"}
    read = recipes.predictions.read_predictions(tmp_path / "predictions.parquet", gold.ids)["ANGEL"]
    assert read.ids[:2] == own.ids[:2]
    assert (read.names[0], read.scores[0]) == (["asthma", "ra"], [-0.5, -1.25])
    # Five are kept.
    assert len(read.ids[2]) == len(read.names[2]) == len(read.scores[2]) == 5


def test_a_long_text_is_cut_around_the_mention(small_kb, small_mentions, tmp_path):
    row = dict(small_mentions[0]) | {"text": "word " * 40 + "gout" + " word" * 40, "start": 200, "end": 204}
    row |= {"mention": "gout"}
    from datasets import Dataset

    test = Dataset.from_list([row])
    recipes.predictions.keep(tmp_path, {"x": answers("C30")}, test, test, small_kb, [[["C30"]]])
    (context,) = recipes.predictions.read_mentions(tmp_path / "mentions.parquet").contexts
    assert context == "..." + " ".join(["word"] * 12) + " [gout] " + " ".join(["word"] * 11) + " word..."


def test_predictions_are_read_in_the_order_asked_for_and_of_no_other_mentions(tmp_path):
    recipes.predictions.write_predictions(tmp_path, {"x": answers("A", "B")}, ["m1", "m2"])
    path = tmp_path / "predictions.parquet"
    assert recipes.predictions.read_predictions(path, ["m2", "m1"])["x"].ids == [[["B"]], [["A"]]]
    with pytest.raises(ValueError, match="'x' answered 2 mentions, not the 3 of the other runs .*'m3'"):
        recipes.predictions.read_predictions(path, ["m1", "m2", "m3"])


def test_lookup_answers_with_the_mention_itself():
    made = recipes.predictions.Answers.of_lookup([[["A", "B"]], []], ["gout", "x"])
    assert (made.ids, made.names, made.scores) == ([[["A", "B"]], []], [["gout"], []], [[0.0], []])


# Scores and differences over seeds.


def test_scores_are_means_over_seeds():
    tested, before, _ = toy()
    found = recipes.analysis.system_scores(tested, before)
    # 2 of 4 right in either seed.
    assert found["scores"]["acc@1"] == 50
    assert found["scores"]["mentions"] == 4
    assert found["by_seed"]["0"]["acc@1"] == found["by_seed"]["1"]["acc@1"] == 50
    assert found["sd"]["acc@1"] == 0
    # Mentions 0 and 2: A and A in seed 0, B and A in seed 1.
    assert found["slices"]["seen string"]["acc@1"] == 75
    assert found["slices"]["seen string"]["mentions"] == 2
    assert found["slices"]["homonym"] == {"mentions": 0}
    assert found["seeds"] == [0, 1]


def test_deviation_is_between_seeds_and_that_of_one_is_not_known():
    tested, _, after = toy()
    # 100 and 25.
    assert recipes.analysis.system_scores(tested, after)["sd"]["acc@1"] == pytest.approx(75 / 2**0.5)
    assert recipes.analysis.system_scores(tested, {0: after[0]})["sd"]["acc@1"] is None


def test_kinds_of_wording_are_told_by_string_lookup():
    tested, before, after = toy()
    seen = np.array([True, True, True, False])
    tested = dataclasses.replace(tested, slices=tested.slices | {"seen concept": seen, "unseen concept": ~seen})
    lookup = outcomes_of(gold_of(DOCUMENTS, "AAAA"), {0: answers(*"ABBB")})[0]
    found = recipes.analysis.by_wording(tested, lookup, {"before": before, "after": {1: after[1]}})
    kinds = ("seen concept, name", "seen concept, other wording", "unseen concept, other wording")
    assert found["mentions"] == dict(zip(kinds, (1, 2, 1), strict=True))
    # ABAB and BBAA; ABBB.
    assert found["systems"] == {
        "before": {"seeds": [0, 1], "acc@1": dict(zip(kinds, (50, 50, 50), strict=True))},
        "after": {"seeds": [1], "acc@1": dict(zip(kinds, (100, 0, 0), strict=True))},
    }


def test_a_difference_is_averaged_over_seeds():
    tested, before, after = toy()
    found = recipes.analysis.difference(tested, after, before, resamples=50)
    assert found["acc@1"]["difference"] == 12.5
    assert [found["by_seed"][seed]["difference"] for seed in "01"] == [50, -25]
    assert found["sd"] == pytest.approx(75 / 2**0.5)
    # Mentions 0 and 2: 0 and 0 in seed 0, +100 and -100 in seed 1.
    assert found["slices"]["seen string"]["difference"] == 0
    assert set(found["slices"]) == {"seen string"}


def brute_force(before, after):
    """Every resample of three documents, each as likely: one draw for both seeds."""
    points = {
        seed: [100 * ((a == "A") - (b == "A")) for b, a in zip(before[seed], after[seed], strict=True)]
        for seed in before
    }
    of_mention = np.mean(list(points.values()), axis=0)
    rows = {document: [i for i, own in enumerate(DOCUMENTS) if own == document] for document in ("d1", "d2", "d3")}
    return np.array(
        [
            np.mean([of_mention[row] for document in drawn for row in rows[document]])
            for drawn in itertools.product(rows, repeat=3)
        ]
    )


def test_the_bootstrap_draws_documents_once_for_all_seeds():
    tested, before, after = toy()
    found = recipes.analysis.difference(tested, after, before)["acc@1"]
    resamples = brute_force(BEFORE, AFTER)
    assert len(resamples) == 27
    # By document, over both seeds: +50 twice, -50, 0. The least and the greatest of 27 resamples have a probability of
    # 3.7% each, so that the percentiles lie on them; with a draw for each seed the least would have one of 1.1%.
    assert [resamples.min(), resamples.max()] == [-50, 50]
    assert (resamples == -50).sum() == (resamples == 50).sum() == 1
    assert found["ci"] == [-50, 50]
    tail = min((resamples <= 0).mean(), (resamples >= 0).mean())
    assert found["p_value"] == pytest.approx(min(1, 2 * tail), abs=0.03)


# Outcomes.


def test_outcomes_come_back_as_they_were_kept_and_hold_no_text(tmp_path):
    tested, before, after = toy()
    path = tmp_path / "x.parquet"
    calibrated = dataclasses.replace(after[1], calibration={"ece": 0.25})
    kept = {("angel", "lookup + training/x", 0): before[0], ("angel", "ANGEL", 1): calibrated}
    recipes.outcomes.write_outcomes(path, tested, kept)
    read_tested, read = recipes.outcomes.read_outcomes(path)
    assert (read_tested.digest, read_tested.documents.tolist()) == (tested.digest, [0, 0, 1, 2])
    assert {name: own.tolist() for name, own in read_tested.slices.items()} == {
        name: own.tolist() for name, own in tested.slices.items()
    }
    assert read.keys() == kept.keys()
    for place, one in read.items():
        for field in dataclasses.fields(one):
            own, expected = getattr(one, field.name), getattr(kept[place], field.name)
            assert getattr(own, "tolist", lambda own=own: own)() == getattr(expected, "tolist", lambda e=expected: e)()
    content = pq.read_table(path)
    assert {str(field.type) for column in content.schema for field in (column.flatten())} == {"int32", "bool", "int8"}


def test_another_parquet_file_is_no_outcomes(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: no outcomes of an experiment \(columns \['a'\]\)"):
        recipes.outcomes.read_outcomes(tmp_path / "x.parquet")


# What changed.


def test_changes_are_counted_by_kind_of_the_mistake():
    gold = gold_of(
        ["d"] * 5,
        "AAAAA",
        mentions=["WD", "diabetes", "gout", "gout", "gout"],
        names=[["wilson disease"], ["type 1 diabetes"], ["gout"], ["gout"], ["gout"]],
    )
    before = answers("B", "A", "A", "", "A", names=[["x"], ["type 1 diabetes"], ["gout"], [], ["gout"]])
    after = answers("A", "B", "A", "A", "B", names=[["y"], ["type 2 diabetes"], ["gout"], ["gout"], ["z"]])
    same = answers("B", "A", "A", "", "A", names=before.names)
    first, second = ({0: before, 1: before}, {0: after, 1: same})
    found = recipes.changes.count_changes(*(outcomes_of(gold, one) for one in (first, second)))
    assert {key: value for key, value in found["fixed"].items() if value} == {
        "all": 1,
        "abbreviation": 0.5,
        "no answer": 0.5,
    }
    assert {key: value for key, value in found["broken"].items() if value} == {
        "all": 1,
        "numbered type": 0.5,
        "other": 0.5,
    }


def test_examples_of_a_kind_are_at_most_twenty_and_all_different(tmp_path):
    count = 30
    gold = gold_of(["d"] * count, "A" * count, mentions=[f"m{place // 2}" for place in range(count)])
    before, after = answers(*"B" * count), answers(*"A" * count)
    recipes.changes.write_examples(tmp_path / "changes.md", "title", gold, {0: before}, {0: after})
    text = (tmp_path / "changes.md").read_text()
    # "name A" and "name B" differ in what numbers types; each mention stands twice.
    assert "## fixed: numbered type (15 different)" in text
    assert text.count("\n- ") == 15
    gold = gold_of(["d"] * count, "A" * count)
    recipes.changes.write_examples(tmp_path / "changes.md", "title", gold, {0: before}, {0: after})
    text = (tmp_path / "changes.md").read_text()
    assert "(30 different)" in text
    assert text.count("\n- ") == 20


def test_calibration_is_of_the_share_of_the_first_concept():
    documents = [f"d{place}" for place in range(40)]
    gold = gold_of(documents, "A" * 40)
    half = float(np.log(0.5))
    # Two names of different concepts, equally likely: confidence 0.5. Four of five are right.
    own = recipes.predictions.Answers(
        [[["A"], ["B"]] if place % 5 else [["B"], ["A"]] for place in range(40)],
        [["a", "b"]] * 40,
        [[half, half]] * 40,
    )
    found = recipes.outcomes.calibration(gold, own)
    assert found["ece"] == pytest.approx(0.3)
    assert found["aurc"] == pytest.approx(0.2)
    # Two names of the same concept: confidence 1.
    same = recipes.predictions.Answers([[ids[0]] * 2 for ids in own.ids], own.names, own.scores)
    assert recipes.outcomes.calibration(gold, same)["ece"] == pytest.approx(0.2)


@pytest.mark.parametrize("scores", [[[0.0]] * 2, [[0.9]] * 2, [[-0.5], [0.9]]])
def test_what_has_no_probabilities_has_no_calibration(scores):
    gold = gold_of(["d1", "d2"], "AA")
    assert recipes.outcomes.calibration(gold, answers("A", "B", scores=scores)) is None
