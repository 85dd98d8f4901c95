"""What `EntityLinker.from_pretrained` loads from a folder; what it refuses is in `test_loading_refused.py`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from loading_world import refused, write_published
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    BartModel,
    BartTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from angel_trl.architectures import align_weights
from angel_trl.formatting import MentionFormat
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker

TEXT = "Famotidine-associated [delirium] and [MS]."


@pytest.fixture(scope="module")
def model(make_model):
    """A model whose logits are biased."""
    model = make_model()
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def published(model, tokenizer, tmp_path_factory):
    """A folder as the published models have it: config.json, vocab.json, merges.txt, pytorch_model.bin; no KB."""
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


@pytest.fixture(scope="module")
def answers(model, published, small_kb, small_mentions):
    """What the published model answers, put together by hand."""
    tokenizer = BartTokenizer(vocab=str(published / "vocab.json"), merges=str(published / "merges.txt"))
    return EntityLinker(model, tokenizer, small_kb).link_batch(small_mentions)


# --- plain models ----------------------------------------------------------------------------------------------------


def test_the_published_layout_is_loaded_with_a_knowledge_base(published, small_kb, small_mentions, answers):
    linker = EntityLinker.from_pretrained(published, kb=small_kb)
    assert linker.link_batch(small_mentions) == answers
    assert linker.tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert linker.model.generation_config.forced_bos_token_id == 0
    assert linker.model.dtype == torch.float32
    assert not linker.model.training


def test_pickled_weights_and_safetensors_answer_alike(plain, model, small_kb, small_mentions, answers):
    (plain / "pytorch_model.bin").unlink()
    save_file({name: weight.clone() for name, weight in model.state_dict().items()}, plain / "model.safetensors")
    assert EntityLinker.from_pretrained(plain, kb=small_kb).link_batch(small_mentions) == answers


def test_what_was_loaded_plain_is_saved_as_a_linker(published, small_kb, small_mentions, answers, tmp_path):
    EntityLinker.from_pretrained(published, kb=small_kb).save_pretrained(tmp_path)
    assert EntityLinker.from_pretrained(tmp_path).link_batch(small_mentions) == answers


def test_weights_may_lack_the_prefix_the_head_and_the_bias(plain, model, small_kb, small_mentions):
    body = {name.removeprefix("model."): weight for name, weight in model.state_dict().items()}
    kept = {name: weight for name, weight in body.items() if name in BartModel(model.config).state_dict()}
    assert len(kept) == len(body) - 2
    torch.save(kept, plain / "pytorch_model.bin")
    linker = EntityLinker.from_pretrained(plain, kb=small_kb)
    assert not linker.model.final_logits_bias.any()
    assert torch.equal(linker.model.lm_head.weight, model.lm_head.weight)
    assert len(linker.link_batch(small_mentions)) == 24


def test_pickled_weights_may_be_in_parts(plain, model, small_kb, small_mentions, answers):
    (plain / "pytorch_model.bin").unlink()
    names = list(model.state_dict())
    index = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(names)}
    for part in set(index.values()):
        torch.save({name: model.state_dict()[name] for name in names if index[name] == part}, plain / part)
    (plain / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert EntityLinker.from_pretrained(plain, kb=small_kb).link_batch(small_mentions) == answers


def test_weights_of_old_versions_of_pytorch_are_read(plain, model, small_kb, small_mentions, answers):
    torch.save(model.state_dict(), plain / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert EntityLinker.from_pretrained(plain, kb=small_kb).link_batch(small_mentions) == answers


def test_safetensors_are_preferred(plain, model, small_kb, small_mentions, answers):
    (plain / "pytorch_model.bin").write_bytes(b"not looked at")
    save_file({name: weight.clone() for name, weight in model.state_dict().items()}, plain / "model.safetensors")
    assert EntityLinker.from_pretrained(plain, kb=small_kb).link_batch(small_mentions) == answers


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_plain_decoder_only_model_is_loaded(kind, tokenizer, small_kb, small_mentions, tmp_path):
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**special, n_embd=16, n_layer=2, n_head=2, n_positions=128))
    else:
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**special, **size, num_key_value_heads=1, max_position_embeddings=128))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    linker = EntityLinker.from_pretrained(tmp_path, kb=small_kb)
    assert type(linker.model) is type(model)
    assert linker.link_batch(small_mentions) == EntityLinker(model, tokenizer, small_kb).link_batch(small_mentions)


def test_a_plain_model_is_told_its_format_and_a_linker_knows(published, saved, small_kb):
    lower = MentionFormat(mention_normalization="lower")
    linker = EntityLinker.from_pretrained(published, kb=small_kb, mention_format=lower, device="cpu")
    assert linker.targets.formatter.format == lower
    with pytest.raises(ValueError, match=r"was made for MentionFormat\(.*: leave that out"):
        EntityLinker.from_pretrained(saved, mention_format=lower, device="cpu")
    EntityLinker.from_pretrained(saved, mention_format=MentionFormat(), device="cpu")


def test_the_device_and_the_dtype_are_those_asked_for(saved, small_mentions):
    linker = EntityLinker.from_pretrained(saved, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in linker.model.parameters()} == {torch.bfloat16}
    assert linker.model.device == torch.device("cpu")
    exact = EntityLinker.from_pretrained(saved).link_batch(small_mentions)
    scores = [(one.score, other.score) for one, other in zip(linker.link_batch(small_mentions), exact, strict=True)]
    assert max(abs(one - other) for one, other in scores) < 1
    assert any(one != other for one, other in scores)


# --- knowledge bases -------------------------------------------------------------------------------------------------


def test_a_knowledge_base_may_be_given_by_its_path(saved, tmp_path):
    (tmp_path / "kb.txt").write_text("X1||Gout|Gouty-arthritis\nX2||Fever\n")
    KnowledgeBase.from_file(tmp_path / "kb.txt").save_pretrained(tmp_path / "kb")
    for kb in (tmp_path / "kb.txt", str(tmp_path / "kb.txt"), str(tmp_path / "kb"), tmp_path / "kb" / "kb.parquet"):
        linker = EntityLinker.from_pretrained(saved, kb=kb)
        assert linker.kb.names == ["gout", "gouty arthritis", "fever"]
        assert linker.link("[gout]")[0].id in ("X1", "X2")
    with pytest.raises(FileNotFoundError, match="no file or folder at .*nothing"):
        EntityLinker.from_pretrained(saved, kb=tmp_path / "nothing")


def test_names_normalised_by_another_rule_are_refused(saved, published):
    kb = KnowledgeBase([Concept("X1", ("Gout-like",))], normalization="none")
    said = refused(saved, "names normalised by 'none', the linker of .* was made for 'genbioel'", kb=kb)
    assert "KnowledgeBase(kb.concepts, normalization='genbioel')" in said
    # What a plain model was trained with is not known.
    assert EntityLinker.from_pretrained(published, kb=kb).link("[gout]")[0].id == "X1"


def test_the_rule_of_the_linker_is_used_for_a_file(make_model, tokenizer, tmp_path):
    concepts = [Concept("X1", ("Gout-like",))]
    EntityLinker(make_model(), tokenizer, KnowledgeBase(concepts, normalization="lower")).save_pretrained(tmp_path)
    (tmp_path / "kb.txt").write_text("X2||Gouty-arthritis\n")
    assert EntityLinker.from_pretrained(tmp_path, kb=tmp_path / "kb.txt").kb.names == ["gouty-arthritis"]


# --- last digits -----------------------------------------------------------------------------------------------------


def test_weights_are_moved_to_aligned_memory_and_stay_what_they_are(make_model):
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for weight in [*model.parameters(), *model.buffers()]:
        # One float off, as a file may have them.
        place = torch.empty(weight.numel() + 1)[1:].view_as(weight)
        weight.data = place.copy_(weight.data)
    assert all(weight.data_ptr() % 64 for weight in model.state_dict().values())
    align_weights(model)
    assert not any(weight.data_ptr() % 64 for weight in model.state_dict().values())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.lm_head.weight is model.model.shared.weight


def moved(file, length):
    """Write a safetensors file again with a longer header, and return where its weights are now, in bytes mod 64."""
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    save_file(weights, file, metadata={"format": "pt", "x": "x" * length})
    with file.open("rb") as written:
        return (8 + int.from_bytes(written.read(8), "little")) % 64


def test_answers_have_the_same_bits_wherever_a_file_has_the_weights(copy, small_mentions):
    expected, places = EntityLinker.from_pretrained(copy).link_batch(small_mentions), set()
    for length in range(8, 64, 8):
        places.add(moved(copy / "model.safetensors", length))
        linker = EntityLinker.from_pretrained(copy)
        assert not any(weight.data_ptr() % 64 for weight in linker.model.state_dict().values())
        assert linker.link_batch(small_mentions) == expected
    assert len(places) > 2


def test_a_file_of_weights_that_was_copied_is_held_no_more(copy):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    assert any(moved(copy / "model.safetensors", length) for length in (8, 16))
    linker = EntityLinker.from_pretrained(copy)
    assert str(copy / "model.safetensors") not in maps.read_text()
    assert linker.link(TEXT)
