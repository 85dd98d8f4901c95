"""The recipe's calibration: the linker in its folder, what is told of it, and what is refused before training."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard

from angel_trl.confidence import Calibration
from angel_trl.linker import EntityLinker
from angel_trl.linker_files import write_calibration
from angel_trl.linker_hub import add_card
from angel_trl.mentions import MENTION_FEATURES


@pytest.fixture(scope="module")
def calibrating():
    import calibrating

    return calibrating


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb)


@pytest.fixture
def folder(linker, tmp_path):
    linker.save_pretrained(tmp_path / "linker")
    return tmp_path / "linker"


@pytest.fixture(scope="module")
def mentions(linker):
    """120 mentions, two in three with the linker's own answer as gold."""
    rows = []
    for number, word in enumerate(2 * [name for name in linker.kb.names if len(name) > 3][:60]):
        row = {"text": f"A case of {word} in ward {number}.", "start": 10, "end": 10 + len(word), "mention": word}
        rows.append({**row, "id": str(number), "document_id": str(number // 3), "types": [], "split": "dev"})
    for number, (row, found) in enumerate(zip(rows, linker.link_batch(rows), strict=True)):
        row["concept_ids"] = [[[found.id if number % 3 else "C01" if found.id != "C01" else "C02"]]][0]
    return Dataset.from_list(rows, features=MENTION_FEATURES)


def test_the_linker_in_its_folder_is_calibrated_and_nothing_else_there_changes(
    calibrating, linker, folder, mentions, tmp_path
):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    corpus = DatasetDict(dev=mentions, test=mentions.select(range(60)))
    options = {"num_beams": 5, "bootstrap": 20, "cpu": True, "output": tmp_path}
    told = calibrating.calibrate_linker(folder, corpus, 0.5, **options)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if before.get(name) != after[name]} == {"angel.json"}
    loaded = EntityLinker.from_pretrained(folder)
    assert loaded.calibration.nil_threshold == told["nil_threshold"] is not None
    assert loaded.calibration.num_beams == 5
    (linked,) = loaded.link("A case of [fever].")
    assert 0 < linked.confidence < 1
    assert (told["dev"]["mentions"], told["test"]["mentions"]) == (120, 60)
    assert told["dev"]["precision"] >= 0.5
    assert told["dev"]["ece"] < told["dev before"]["ece"]
    assert (tmp_path / "risk_coverage.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(told, allow_nan=False)
    # The report and the card say so.
    section = calibrating.confidence_section(told)
    assert f"answers below {told['nil_threshold']:.3f} are withheld, for a precision of 0.5" in section
    assert f"| test | {told['test']['ece']:.3f} | {told['test']['aurc']:.3f} |" in section
    assert "](risk_coverage.png)" in section
    add_card(folder, results={"confidence": told})
    card = ModelCard.load(folder / "README.md").text
    assert "Fitted on 120 dev mentions: temperature" in card
    assert "are withheld, for a target precision of 0.5" in card


def test_a_threshold_that_is_none_is_told(calibrating):
    scores = {"ece": 0.1, "aurc": 0.2, "precision": None, "coverage": 1.0}
    of = {"temperature": 1.0, "nil_threshold": None, "target_precision": 0.99}
    section = calibrating.confidence_section(of | dict.fromkeys(("dev before", "dev", "test"), scores))
    assert "no threshold reaches a precision of 0.99 on dev: no answer is withheld" in section
    assert "| dev | 0.100 | 0.200 | | 100.0 |" in section.replace("  ", " ")


def test_what_dev_cannot_tell_ends_no_run(calibrating, folder, mentions, tmp_path, caplog):
    wrong = mentions.map(lambda row: {"concept_ids": []}, features=MENTION_FEATURES)
    before = (folder / "angel.json").read_bytes()
    options = {"num_beams": 5, "bootstrap": 0, "cpu": True, "output": tmp_path}
    with caplog.at_level(logging.WARNING):
        assert calibrating.calibrate_linker(folder, DatasetDict(dev=wrong, test=wrong), 0.9, **options) is None
    assert f"{folder} is not calibrated: All 120 answers are wrong" in caplog.text
    assert (folder / "angel.json").read_bytes() == before


@pytest.mark.parametrize("target", [0, 90, -0.1])
def test_a_target_that_is_none_is_refused(calibrating, target):
    with pytest.raises(SystemExit, match="--target_precision is .*; give a fraction, such as 0.9"):
        calibrating.check_target_precision(target)
    calibrating.check_target_precision(None)


def test_a_folder_without_a_linker_gets_no_calibration(tmp_path):
    calibration = Calibration(1.0, -1.0, 1.0, 0.9, 10, 5, "f" * 64, {})
    with pytest.raises(ValueError, match=r"has no angel\.json: it holds no linker"):
        write_calibration(tmp_path, calibration)
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_of_confidence_keeps_other_names_and_draws(folder, mentions, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "dev", "test"):
        mentions.map(lambda row, split=split: {"split": split}).to_parquet(corpus / f"{split}.parquet")
    output = tmp_path / "confidence.json"
    output.write_text('{"other": {}}')
    script = Path(__file__).resolve().parents[1] / "recipes" / "bench" / "confidence.py"
    options = ["--linker", folder, "--corpus", corpus, "--name", "Small KB", "--targets", "0.5", "--bootstrap", "20"]
    command = [sys.executable, script, *options, "--output", output]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert found == {"other": {}, "Small KB": json.loads(done.stdout.splitlines()[-1])}
    (chosen,) = found["Small KB"]["targets"]
    assert chosen["dev"] == chosen["test"]
    assert chosen["dev"]["precision"] >= 0.5
    assert (tmp_path / "confidence-small-kb.png").read_bytes().startswith(b"\x89PNG")
    import benchmark_tables

    del found["other"]
    assert benchmark_tables.confidence(found).splitlines()[2].startswith("| Small KB, 50 | 0.")
    assert len(benchmark_tables.confidence_errors(found).splitlines()) == 3
