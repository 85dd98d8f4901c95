import pytest
import torch

from angel_trl.scratch import SCRATCH_PRESETS, scratch_model, train_tokenizer

TEXTS = ["breast cancer", "gout", "type 1 diabetes"]


def test_special_tokens_stand_where_bart_has_them():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_the_vocabulary_is_no_larger_than_asked():
    assert len(train_tokenizer(TEXTS, 270)) == 270
    assert len(train_tokenizer(["a"], 5000)) < 300


def test_no_text_is_unknown_and_every_text_comes_back():
    tokenizer = train_tokenizer(TEXTS, 300)
    for text in (" β-thalassémie 患者 🩺", " \t<x>\n", " Gout"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_markers_and_copula_are_single_tokens():
    tokenizer = train_tokenizer(TEXTS * 5, 320)
    assert len(tokenizer.encode(" START END is", add_special_tokens=False)) == 3


def test_the_same_texts_and_seed_give_the_same_model():
    first, tokenizer = scratch_model("scratch-tiny", TEXTS, seed=1)
    state = torch.random.get_rng_state()
    again, same = scratch_model("scratch-tiny", TEXTS, seed=1)
    other, _ = scratch_model("scratch-tiny", TEXTS, seed=2)
    assert tokenizer.get_vocab() == same.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.model.shared.weight, other.model.shared.weight)
    # The caller's random numbers are left alone.
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("preset", "millions"), [("scratch-tiny", 0.395), ("scratch-small", 4.465), ("scratch-quick", 4.465)]
)
def test_presets_have_the_size_they_say(preset, millions):
    size = SCRATCH_PRESETS[preset]
    model, tokenizer = scratch_model(preset, TEXTS)
    missing = (size.vocabulary - len(tokenizer)) * size.width  # a toy text does not fill the vocabulary
    assert (sum(p.numel() for p in model.parameters()) + missing) / 1e6 == pytest.approx(millions, abs=0.005)
    assert model.config.max_position_embeddings == size.window
    assert model.config.decoder_start_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.forced_eos_token_id is None


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ValueError, match="'large' is no scratch preset; choose one of scratch-tiny, scratch-small, scratch-quick"
    ):
        scratch_model("large", TEXTS)
