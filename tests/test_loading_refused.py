"""What loading refuses, with the file and the fix: code, parts that do not belong together, no models, half ones."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from loading_world import change, refused, swap, write_published
from transformers import T5Config, T5EncoderModel

from angel_trl.architectures import load_model
from angel_trl.linker import EntityLinker


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def published(model, tokenizer, tmp_path_factory):
    """A folder with a plain model as the published ones are."""
    return write_published(tmp_path_factory.mktemp("published"), model, tokenizer)


@pytest.fixture
def plain(published, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(published, tmp_path / "plain")


@pytest.fixture(scope="module")
def saved(make_model, tokenizer, small_kb, tmp_path_factory):
    """A saved linker."""
    folder = tmp_path_factory.mktemp("saved")
    EntityLinker(make_model(), tokenizer, small_kb).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


# --- code ------------------------------------------------------------------------------------------------------------


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_pickle_that_runs_code_is_refused_and_not_run(plain, small_kb, tmp_path, protocol):
    """As `torch.save` writes it (None), and bare ones."""
    content, file = {"model.shared.weight": Evil(tmp_path / "ran")}, plain / "pytorch_model.bin"
    if protocol is None:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    said = refused(plain, re.escape(f"{file} does not hold weights alone"), kb=small_kb)
    assert "Nothing in it was run" in said
    assert "model.safetensors" in said
    assert "weights_only" not in said
    assert (protocol == 4) or ("posix.mkdir" in said)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(content))
    assert (tmp_path / "ran").exists(), "the pickle is harmless, and the test shows nothing"


def test_of_weights_in_parts_the_one_that_runs_code_is_named(plain, model, small_kb, tmp_path):
    (plain / "pytorch_model.bin").unlink()
    torch.save(model.state_dict(), plain / "pytorch_model-00001-of-00002.bin")
    torch.save({"x": Evil(tmp_path / "ran")}, plain / "pytorch_model-00002-of-00002.bin")
    index = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (plain / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    refused(
        plain, "pytorch_model-00002-of-00002.bin does not hold weights alone.*it asks for posix.mkdir", kb=small_kb
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_asks_for_code_of_its_own_is_refused(copy, tmp_path, name):
    code = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n"
    for file in ("modeling.py", "tokenization.py", "custom_generate/generate.py"):
        (copy / file).parent.mkdir(exist_ok=True)
        (copy / file).write_text(code)
    # Code that lies there is left alone...
    EntityLinker.from_pretrained(copy)
    # ... and what asks for it is named.
    classes = {
        "AutoConfig": "modeling.C",
        "AutoModelForSeq2SeqLM": "modeling.M",
        "AutoTokenizer": ["tokenization.T", None],
    }
    change(copy / name, auto_map=classes)
    said = refused(copy, f"{name} asks for code of its repository .*which is never run")
    assert "delete 'auto_map'" in said
    change(copy / "config.json", model_type="own", auto_map={"AutoConfig": "modeling.C"})
    with pytest.raises(ValueError, match="contains custom code"):
        load_model(str(copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_model_that_asks_for_an_attention_from_elsewhere_is_refused(copy, key):
    change(copy / "config.json", **{key: "sdpa"})
    EntityLinker.from_pretrained(copy)
    change(copy / "config.json", **{key: "stranger/kernel"})
    said = refused(copy, f"config.json asks for an attention of its own \\({key}: 'stranger/kernel'\\)")
    assert f"Delete '{key}'" in said


# --- what does not belong together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["all", "without trie", "other knowledge base"])
def test_an_edited_tokenizer_is_refused(copy, small_kb, what):
    swap(copy / "tokenizer.json")
    if what == "without trie":
        (copy / "trie.safetensors").unlink()
    said = refused(
        copy,
        r"The tokenizer of .* \(tokenizer.json\) is not the one that the linker was saved with",
        kb=small_kb if what == "other knowledge base" else None,
    )
    assert "Put its own files back" in said


def test_linkers_saved_before_tokenizers_were_told_apart_are_loaded(copy, saved, small_mentions):
    change(copy / "angel.json", tokenizer_fingerprint=None, kb_normalization=None)
    expected = EntityLinker.from_pretrained(saved).link_batch(small_mentions)
    assert EntityLinker.from_pretrained(copy).link_batch(small_mentions) == expected
    swap(copy / "tokenizer.json")
    refused(copy, "trie.safetensors was built for another knowledge base or tokenizer")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy, make_model, tokenizer, small_kb):
    make_model(vocab_size=500).save_pretrained(copy)
    said = refused(copy, r"tokens up to number 599 \('.*'\), but its model knows the first 500", kb=small_kb)
    assert "another model's" in said


def test_special_tokens_that_no_text_has_may_be_beyond_the_model(plain, small_kb):
    change_to = {"mask_token": "<mask>", "pad_token": "<padding>"}
    (plain / "special_tokens_map.json").write_text(json.dumps(change_to))
    linker = EntityLinker.from_pretrained(plain, kb=small_kb)
    assert len(linker.tokenizer) > linker.model.config.vocab_size
    assert linker.link("[gout]")[0].id


def test_settings_of_another_version_are_named(copy):
    settings = json.loads((copy / "angel.json").read_text())
    change(copy / "angel.json", mention_format=settings["mention_format"] | {"new": 1})
    refused(copy, r"angel.json, mention_format: .*'new'.* Upgrade angel_trl")


# --- what is no model that can link ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bert", "config.json is of a model of type 'bert', which cannot link: names are written by a decoder"),
        ("own", "config.json is of a model of type 'own', .* of one of the types bart, mbart, t5,"),
        (None, "config.json is of a model of type None"),
    ],
)
def test_another_architecture_is_refused(plain, small_kb, kind, message):
    change(plain / "config.json", model_type=kind)
    (plain / "pytorch_model.bin").write_bytes(b"not looked at")
    refused(plain, message, kb=small_kb)


def test_adapters_are_refused(copy):
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "user/base"}')
    refused(copy, r"holds adapters \(adapter_config.json\).*model.merge_and_unload\(\)")


@pytest.mark.parametrize(
    ("quantized", "told"),
    [({"quant_method": "bitsandbytes", "load_in_8bit": True}, "'bitsandbytes'"), ({"bits": 4}, "{'bits': 4}")],
)
def test_quantized_weights_are_refused(copy, quantized, told):
    change(copy / "config.json", quantization_config=quantized)
    said = refused(copy, rf"config.json says that the weights are quantized \(quantization_config: {told}\)")
    assert "full precision" in said
    assert "model.dequantize()" in said


def test_an_encoder_of_a_supported_kind_is_refused(tokenizer, small_kb, tmp_path):
    size = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(**size, decoder_start_token_id=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "of a model of type 't5' without its decoder, which cannot link", kb=small_kb)


def test_weights_that_are_missing_are_not_made_up(plain, model, small_kb):
    weights = {name: weight for name, weight in model.state_dict().items() if "decoder.layers.1.fc1" not in name}
    torch.save(weights, plain / "pytorch_model.bin")
    message = (
        r"The weights of .*plain are not those of the BartForConditionalGeneration .*fc1.bias is missing; .*fc1.w"
    )
    refused(plain, message, kb=small_kb)


def test_weights_of_another_shape_are_refused(plain, small_kb):
    change(plain / "config.json", encoder_ffn_dim=65)
    refused(plain, r"encoder.layers.0.fc1.bias is \[64\] instead of \[65\].*; 6 in all", kb=small_kb)


# --- what is not all there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "has no config.json"),
        ("merges.txt", "has no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt"),
        ("vocab.json", "has no tokenizer"),
        ("pytorch_model.bin", r"has no weights \(model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_file_that_is_missing_is_named(plain, small_kb, gone, message):
    (plain / gone).unlink()
    refused(plain, message, kb=small_kb, error=FileNotFoundError)


def test_a_part_of_the_weights_that_is_missing_is_named(copy, make_model):
    (copy / "model.safetensors").unlink()
    make_model().save_pretrained(copy, max_shard_size="100KB")
    EntityLinker.from_pretrained(copy)
    parts = sorted(copy.glob("model-*.safetensors"))
    assert len(parts) > 1
    parts[1].unlink()
    message = rf"model.safetensors.index.json names {parts[1].name}, and .* does not hold 1 of {len(parts)} parts"
    refused(copy, message, error=FileNotFoundError)
    change(copy / "model.safetensors.index.json", weight_map={"x": "../elsewhere.safetensors"})
    refused(copy, "does not hold 1 of 1 parts", error=FileNotFoundError)
    change(copy / "model.safetensors.index.json", weight_map={})
    refused(copy, "names no files", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "model.safetensors is broken, or not all there"),
        ("config.json", "config.json is not readable JSON"),
        ("angel.json", "angel.json is not readable JSON"),
        ("tokenizer.json", "tokenizer.json is not readable JSON"),
        ("kb.parquet", "kb.parquet: not a readable parquet file"),
        ("trie.safetensors", "trie.safetensors is not a readable trie file"),
    ],
)
def test_a_file_that_is_cut_off_is_named(copy, name, message):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    said = refused(copy, message)
    assert re.search("again|anew", said)


@pytest.mark.parametrize("content", ["cut", "", "text", "list", "numbers", "nested"])
def test_a_pickled_file_that_holds_no_weights_is_named(plain, model, small_kb, content):
    file = plain / "pytorch_model.bin"
    if content == "cut":
        file.write_bytes(file.read_bytes()[:50_000])
    elif content in ("", "text"):
        file.write_bytes(content.encode() * 20)
    elif content == "list":
        torch.save([torch.ones(2)], file)
    elif content == "numbers":
        torch.save({**model.state_dict(), "epoch": 3}, file)
    else:
        torch.save({"state_dict": model.state_dict()}, file)
    said = refused(plain, r"pytorch_model.bin does not hold weights alone, or is broken \(\S.*\)", kb=small_kb)
    assert {"numbers": "its entry 'epoch' is a int", "nested": "'state_dict' is a OrderedDict"}.get(
        content, ""
    ) in said


def test_a_folder_that_is_not_there_is_said(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(
        "runs/quickstart/linker",
        "no folder runs/quickstart/linker here, and that is not the id",
        error=FileNotFoundError,
    )
    refused(Path("user/name"), "There is no folder user/name", error=FileNotFoundError)
    refused(saved / "config.json", "There is no folder .*config.json", error=FileNotFoundError)


def test_a_revision_of_a_folder_is_refused(saved):
    with pytest.raises(ValueError, match=r"is a folder; a revision \('v1'\) is for repositories on the Hub only"):
        EntityLinker.from_pretrained(saved, revision="v1")
