"""A linker calibrated: confidences, abstaining, and when neither can be had."""

import dataclasses
import json
import logging

import pytest
from datasets import Dataset

from angel_trl.calibration import calibrate, evaluate_confidence, plot_risk_coverage
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker
from angel_trl.mentions import MENTION_FEATURES

TEXT = "Famotidine-associated [delirium] and [MS]."


@pytest.fixture(scope="module")
def mentions(linker):
    """120 mentions: two in three with the linker's own answer as gold, a sixth with another, a sixth with none."""
    words = [name for name in linker.kb.names if len(name) > 3][:60]
    rows = []
    for number, word in enumerate([*words, *words]):
        text = f"A case of {word} in ward {number}."
        row = {"text": text, "start": 10, "end": 10 + len(word)}
        rows.append({**row, "id": str(number), "document_id": str(number // 3), "mention": word, "types": []})
    answers = [linked.id for linked in linker.link_batch(rows)]
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        other = "C01" if answer != "C01" else "C02"
        row["concept_ids"] = [[[answer]], [[answer]], [[answer]], [[answer]], [[other]], []][number % 6]
        row["split"] = "dev"
    return Dataset.from_list(rows, features=MENTION_FEATURES)


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb)


@pytest.fixture(scope="module")
def calibration(linker, mentions):
    return calibrate(linker, mentions, target_precision=0.55, bootstrap=50)


@pytest.fixture
def calibrated(linker, calibration):
    again = EntityLinker(linker.model, linker.tokenizer, linker.kb, trie=linker.targets.trie)
    again.calibration = calibration
    return again


# --- fitting ---------------------------------------------------------------------------------------------------------


def test_a_calibration_says_what_it_was_fitted_on(linker, calibration):
    assert (calibration.num_beams, calibration.top_k, calibration.target_precision) == (10, 5, 0.55)
    assert calibration.fingerprint == linker.targets.fingerprint
    report = calibration.report
    assert report["documents"] == 40
    before, after = report["before"], report["after"]
    assert (after["mentions"], after["answers"], after["nil"]) == (120, 120, 20)
    assert after["accuracy"] == before["accuracy"] == pytest.approx(80 / 120)
    assert (before["coverage"], before["precision"]) == (1.0, pytest.approx(80 / 120))
    assert after["ece"] < before["ece"]
    assert after["precision"] > 0.55
    assert len(after["ece_ci"]) == 2


def test_a_linker_is_not_changed_by_calibrating_it(linker, calibration):
    assert linker.calibration is None
    assert linker.link(TEXT)[0].confidence is None


def test_mentions_without_a_right_answer_count_as_errors(linker, mentions):
    answered = mentions.filter(lambda row: row["concept_ids"])
    with_nil, without = (calibrate(linker, rows, bootstrap=0).report["after"] for rows in (mentions, answered))
    assert (with_nil["nil"], without["nil"]) == (20, 0)
    assert with_nil["accuracy"] == pytest.approx(80 / 120)
    assert without["accuracy"] == pytest.approx(80 / 100)


def test_labels_that_the_knowledge_base_lacks_are_nil_too(linker, mentions):
    unknown = mentions.map(lambda row: {"concept_ids": row["concept_ids"] or [["Z99"]]})
    assert calibrate(linker, unknown, bootstrap=0).report["after"]["nil"] == 20


def test_a_target_that_no_threshold_reaches_is_said_so(linker, mentions, caplog):
    with caplog.at_level(logging.WARNING):
        calibration = calibrate(linker, mentions, target_precision=0.999, bootstrap=0)
    assert "No threshold reaches a precision of 0.999 on these 120 mentions" in caplog.text
    assert calibration.nil_threshold is None
    assert calibration.report["after"]["coverage"] == 1.0


def test_no_target_no_threshold(linker, mentions, caplog):
    calibration = calibrate(linker, mentions, target_precision=None, bootstrap=0)
    assert (calibration.nil_threshold, calibration.target_precision) == (None, None)
    assert "No threshold" not in caplog.text


def test_few_mentions_are_a_warning(linker, mentions, caplog):
    with caplog.at_level(logging.WARNING):
        calibrate(linker, mentions.select(range(30)), bootstrap=0)
    assert "Calibrated on 30 mentions only" in caplog.text


def test_what_cannot_be_calibrated_is_an_error(linker, mentions):
    right = mentions.select(range(4))
    with pytest.raises(ValueError, match="All 4 answers are right: there is nothing to tell them apart by"):
        calibrate(linker, right)
    with pytest.raises(ValueError, match="All 2 answers are wrong"):
        calibrate(linker, mentions.select([4, 5]))
    with pytest.raises(ValueError, match="target_precision is 90; give a fraction"):
        calibrate(linker, mentions, target_precision=90)


# --- linking ---------------------------------------------------------------------------------------------------------


def test_answers_have_a_confidence_and_those_below_the_threshold_are_withheld(calibrated, calibration, mentions):
    linked = calibrated.link_batch(mentions)
    confidences = [one.confidence for one in linked]
    assert all(0 <= confidence <= 1 for confidence in confidences)
    assert [one.abstained for one in linked] == [c < calibration.nil_threshold for c in confidences]
    assert sum(not one.abstained for one in linked) == calibration.report["after"]["accepted"]
    for one in linked:
        assert (one.id is None) == one.abstained
        assert one.candidates


def test_a_request_may_set_its_own_threshold(calibrated, mentions):
    every = calibrated.link_batch(mentions, nil_threshold=0)
    assert not any(one.abstained for one in every)
    middle = sorted(one.confidence for one in every)[60]
    stricter = calibrated.link_batch(mentions, nil_threshold=middle + 1e-4)
    assert 50 < sum(one.abstained for one in stricter) < 70
    assert all(one.abstained for one in calibrated.link(TEXT, nil_threshold=1))
    with pytest.raises(ValueError, match="nil_threshold is 90; it is a confidence, between 0 and 1"):
        calibrated.link(TEXT, nil_threshold=90)


def test_a_confidence_does_not_depend_on_how_many_candidates_are_asked_for(calibrated):
    [few, _], [some, _], [many, _] = (calibrated.link(TEXT, top_k=top_k, num_beams=60) for top_k in (1, 5, 30))
    assert [len(one.candidates) for one in (few, some, many)] == [1, 5, 30]
    assert few.confidence == pytest.approx(some.confidence, abs=1e-5)
    assert many.confidence == pytest.approx(some.confidence, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"ranking": "mean"}, {"num_beams": 5}, {"candidates": ["gout", "fever"]}, {"restriction": "C29"}],
)
def test_requests_of_another_kind_have_no_confidence_and_withhold_nothing(calibrated, settings):
    if "restriction" in settings:
        settings = {"restriction": calibrated.restrict(ids=[settings["restriction"]])}
    for one in calibrated.link(TEXT, **settings):
        assert (one.confidence, one.abstained) == (None, False)
        assert one.id is not None
    with pytest.raises(ValueError, match="nil_threshold is 0.5, but the request has no confidence"):
        calibrated.link(TEXT, nil_threshold=0.5, **settings)


def test_an_exact_search_has_a_confidence_whatever_beam_it_starts_from(calibrated):
    assert all(one.confidence is not None for one in calibrated.link(TEXT, num_beams=1, exact=True))


def test_of_a_batch_only_restricted_mentions_lack_a_confidence(calibrated):
    rows = [{"text": "gout here", "start": 0, "end": 4}] * 2
    given, free = calibrated.link_batch(rows, restrictions=[calibrated.restrict(ids=["C29"]), None])
    assert given.confidence is None
    assert free.confidence is not None


def test_a_mention_without_candidates_has_no_confidence(calibrated):
    [linked] = calibrated.link(f"[{'ÿ' * 200}]")
    assert (linked.candidates, linked.confidence, linked.abstained) == ((), None, False)


def test_a_threshold_takes_a_calibrated_linker(linker):
    with pytest.raises(ValueError, match="has no confidence: that takes a calibrated linker"):
        linker.link(TEXT, nil_threshold=0.5)


# --- where it holds --------------------------------------------------------------------------------------------------


def test_a_calibration_is_saved_with_the_linker(calibrated, mentions, tmp_path):
    calibrated.save_pretrained(tmp_path)
    again = EntityLinker.from_pretrained(tmp_path)
    assert again.calibration == calibrated.calibration
    assert again.link_batch(mentions) == calibrated.link_batch(mentions)


def test_a_linker_for_another_knowledge_base_is_not_calibrated(calibrated, tmp_path, caplog):
    calibrated.save_pretrained(tmp_path)
    kb = KnowledgeBase([Concept("X1", ("gout",)), Concept("X2", ("fever",))])
    with caplog.at_level(logging.WARNING):
        other = EntityLinker.from_pretrained(tmp_path, kb=kb)
    assert "was calibrated for its own knowledge base" in caplog.text
    assert other.calibration is None
    with pytest.raises(ValueError, match="The calibration was made for other names"):
        other.calibration = calibrated.calibration


def test_an_extended_linker_is_not_calibrated(calibrated):
    extended = calibrated.extended([Concept("Z1", ("Zoster",))])
    assert extended.calibration is None
    assert calibrated.calibration is not None


def test_a_spoilt_calibration_is_named(calibrated, tmp_path):
    calibrated.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "angel.json").read_text())
    settings["calibration"]["temperature"] = -1
    (tmp_path / "angel.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"angel.json: temperature is -1.*Or delete its entry 'calibration'"):
        EntityLinker.from_pretrained(tmp_path)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_on_its_own_mentions_a_calibration_does_what_its_report_says(calibrated, calibration, mentions):
    evaluation = evaluate_confidence(calibrated, mentions, bootstrap=50)
    assert evaluation.metrics == calibration.report["after"]
    assert (len(evaluation.confidence), int(evaluation.right.sum()), int(evaluation.nil.sum())) == (120, 80, 20)
    assert evaluation.curve.aurc == pytest.approx(evaluation.metrics["aurc"])


def test_an_evaluation_takes_a_calibrated_linker(linker, mentions):
    with pytest.raises(ValueError, match="The linker is not calibrated"):
        evaluate_confidence(linker, mentions)


def test_risk_and_coverage_are_drawn(calibrated, mentions, tmp_path):
    evaluation = evaluate_confidence(calibrated, mentions, bootstrap=0)
    path = plot_risk_coverage({"dev": evaluation}, tmp_path / "risk.png", "Risk")
    assert path.read_bytes().startswith(b"\x89PNG")
    nothing = dataclasses.replace(evaluation, metrics={**evaluation.metrics, "precision": None})
    plot_risk_coverage({"dev": nothing}, tmp_path / "risk.png", "Risk")
    with pytest.raises(ValueError, match="must end in .png"):
        plot_risk_coverage({"dev": evaluation}, tmp_path / "risk.svg", "Risk")
    with pytest.raises(ValueError, match="evaluations has 0 entries"):
        plot_risk_coverage({}, tmp_path / "risk.png", "Risk")
