"""A linker with its card in a folder: saved, carded anew, or refused with nothing written."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from linker_world import LINKER, PNG, RESULTS, TEXT, contents
from transformers import GPT2Config, GPT2LMHeadModel

from angel_trl import linker_hub
from angel_trl.linker import EntityLinker

pytest_plugins = ["linker_world"]


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved linker, to change."""
    (tmp_path / "copy").mkdir()
    for file in saved.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "copy"


def test_a_saved_linker_has_a_card_and_what_it_shows(linker, saved, curve, tmp_path):
    linker_hub.save(linker, tmp_path / "new" / "linker", results=RESULTS, curve=curve, repo_id="user/linker")
    found = contents(tmp_path / "new" / "linker")
    assert found.keys() == LINKER | {"README.md", "results.json", "learning_curve.png"}
    assert {name: found[name] for name in LINKER} == contents(saved)
    assert found["learning_curve.png"] == PNG
    assert json.loads(found["results.json"]) == {**RESULTS, "settings": {"recipe": {"corpus": "ncbi"}}}
    card = ModelCard.load(tmp_path / "new" / "linker" / "README.md")
    assert card.data.model_name == "linker"
    assert "](learning_curve.png)" in card.text
    assert "Calibrated: the confidence of an answer" in card.text
    assert EntityLinker.from_pretrained(tmp_path / "new" / "linker").link(TEXT) == linker.link(TEXT)


def test_a_folder_saved_already_gets_the_same_card_without_its_weights(linker, copy, curve, tmp_path):
    said = {"results": RESULTS, "curve": curve, "license": "mit", "round": (3, 10)}
    linker_hub.save(linker, tmp_path / "saved", **said)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    # Nothing of the weights themselves is looked at.
    weights[-1000:] = b"\xff" * 1000
    (copy / "model.safetensors").write_bytes(weights)
    linker_hub.add_card(copy, **said)
    expected = contents(tmp_path / "saved")
    assert contents(copy) == expected | {"model.safetensors": bytes(weights)}


def test_nothing_of_this_machine_is_in_a_saved_linker(saved, tmp_path):
    # Loaded from a folder, and saved to another.
    linker_hub.save(EntityLinker.from_pretrained(saved), tmp_path / "again", results=RESULTS)
    for name, content in contents(tmp_path / "again").items():
        for place in (saved, tmp_path, Path.home() / "x", "/home/someone"):
            assert str(place).removesuffix("x").encode() not in content, name


def test_weights_in_parts_and_tied_ones_are_counted_once(tokenizer, small_kb, tmp_path):
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(**special, n_embd=16, n_layer=2, n_head=2, n_positions=128))
    linker = EntityLinker(model, tokenizer, small_kb)
    linker_hub.save(linker, tmp_path)
    whole = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"Model: GPT2LMHeadModel, {model.num_parameters():,} parameters." in whole
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    linker_hub.add_card(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == whole


def test_a_new_card_leaves_nothing_of_the_last_one(copy, curve):
    linker_hub.add_card(copy, results=RESULTS, curve=curve)
    linker_hub.add_card(copy, results=RESULTS, curve=copy / "learning_curve.png")
    assert contents(copy).keys() == LINKER | {"README.md", "results.json", "learning_curve.png"}
    assert contents(copy)["learning_curve.png"] == PNG
    linker_hub.add_card(copy)
    assert contents(copy).keys() == LINKER | {"README.md"}
    assert "learning_curve" not in (copy / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "kind", "wrong"),
    [
        ({"results": {"test": {"ANGEL": {}}}}, ValueError, "acc@1 of ANGEL is None, not a number"),
        ({"curve": "notes.txt"}, ValueError, "notes.txt is no PNG"),
        ({"curve": "none.png"}, FileNotFoundError, "none.png"),
        ({"base_model": "./model"}, ValueError, "base_model is './model'"),
        ({"licence": "mit"}, TypeError, "licence"),
    ],
)
def test_nothing_is_written_if_there_can_be_no_card(linker, tmp_path, monkeypatch, said, kind, wrong):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no picture")
    with pytest.raises(kind, match=wrong):
        linker_hub.save(linker, "linker", **said)
    assert not Path("linker").exists()


def test_a_folder_that_is_no_linker_gets_no_card(copy):
    (copy / "angel.json").unlink()
    with pytest.raises(ValueError, match="has no angel.json: it was not saved to the end"):
        linker_hub.add_card(copy)
    assert not (copy / "README.md").exists()
