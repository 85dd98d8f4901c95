"""An encoder-decoder model that begins with the weights of a BERT."""

import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from angel_trl import EntityLinker, PositiveConfig, PositiveTrainer
from angel_trl.collator import positive_examples
from angel_trl.targets import NearestNames, prepare_mentions
from angel_trl.warm_start import warm_start

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_bert(folder, texts, **overrides):
    """A BERT of three layers with random weights, and a lowercasing WordPiece tokenizer of letters and whole words."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = sorted({letter for word in words for letter in word})
    whole = sorted(word for word in words if len(word) > 1)
    # Not trained: that numbers pieces, and breaks ties between them, otherwise in each process.
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *whole]
    pieces = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizer, pre_tokenizer
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        # BART's, which has no setting for it.
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    BertModel(BertConfig(**{**settings, **overrides})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory, small_kb, small_mentions):
    return save_bert(tmp_path_factory.mktemp("bert"), [*small_kb.names, *small_mentions["text"], "is"])


def test_the_encoder_gives_the_hidden_states_of_the_bert(bert):
    model, tokenizer = warm_start(str(bert))
    given = tokenizer(["high blood pressure is silent", "gout"], padding=True, return_tensors="pt")
    expected = BertModel.from_pretrained(bert).eval()(**given).last_hidden_state
    found = model.eval().get_encoder()(**{k: given[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-4)
    assert expected[real].std() > 0.1


def test_markers_are_words_of_their_own_and_other_words_stay(bert):
    model, tokenizer = warm_start(str(bert))
    plain = tokenizer("the start of gout", add_special_tokens=False)["input_ids"]
    marked = tokenizer("the START of gout END", add_special_tokens=False)["input_ids"]
    count = BertConfig.from_pretrained(bert).vocab_size
    assert max(plain) < count
    assert [i for i in marked if i >= count] == [count, count + 1]
    weights = model.get_input_embeddings().weight
    assert len(weights) == count + 2
    own, others = weights.detach()[count:], weights.detach()[:count]
    assert float(own.std()) == pytest.approx(float(others.std()), rel=0.3)
    assert model.get_output_embeddings().weight is weights


@pytest.mark.parametrize(("layers", "begun"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_decoder_layers_begin_as_layers_of_the_encoder(bert, layers, begun):
    model, _ = warm_start(str(bert), decoder_layers=layers)
    own = BertModel.from_pretrained(bert).encoder.layer
    assert len(model.model.decoder.layers) == layers
    for layer, number in zip(model.model.decoder.layers, begun, strict=True):
        assert torch.equal(layer.self_attn.q_proj.weight, own[number].attention.self.query.weight)
        assert torch.equal(layer.fc2.bias, own[number].output.dense.bias)
        assert torch.equal(layer.final_layer_norm.weight, own[number].output.LayerNorm.weight)


def test_the_seed_decides_what_begins_at_random(bert):
    state = torch.random.get_rng_state()
    first, again, other = (warm_start(str(bert), seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    # The markers' embeddings, the two positions that BART leaves free, and attention to the encoder.
    assert differ
    assert all(
        "encoder_attn" in name
        or "embed_positions" in name
        or "shared" in name
        or name.endswith("embed_tokens.weight")
        or name == "lm_head.weight"
        for name in differ
    )
    assert sum("encoder_attn." in name for name in differ) == 8


def test_it_becomes_a_linker_that_learns(bert, small_kb, small_mentions, tmp_path):
    model, tokenizer = warm_start(str(bert), dropout=0.0)
    linker = EntityLinker(model, tokenizer, small_kb)
    rows: Dataset = small_mentions.filter(lambda row: row["split"] == "train")
    train = prepare_mentions(rows, linker.targets, for_training=True)
    names = NearestNames(small_kb, exclude=linker.targets.unreachable).nearest(train.mentions, train.gold, 1)
    config = PositiveConfig(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=60,
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    trainer = PositiveTrainer(model, config, positive_examples(train, names), linker.targets)
    trainer.train()
    trainer.save_linker(tmp_path / "linker")
    loaded = EntityLinker.from_pretrained(tmp_path / "linker")
    for text, concept in (
        ("Digoxin helps in [heart failure].", "C08"),
        ("Insulin is needed in [type 1 diabetes].", "C13"),
    ):
        assert loaded.link(text)[0].id == concept


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (GPT2Config(n_layer=1), {}, "is a 'gpt2' model"),
        (BartConfig(), {}, "is a 'bart' model"),
        (BertConfig(num_hidden_layers=2), {"decoder_layers": 3}, "decoder_layers is 3; .* has 2 layers"),
        (BertConfig(num_hidden_layers=2), {"decoder_layers": 0}, "decoder_layers is 0"),
        (BertConfig(position_embedding_type="relative_key"), {}, "has 'relative_key' positions"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(tmp_path, config, settings, said):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        warm_start(str(tmp_path), **settings)


def test_weights_that_are_missing_are_refused_not_drawn(bert, tmp_path):
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        warm_start(str(tmp_path))


def test_the_recipes_take_a_bert_as_model(bert):
    from stages import first_model

    model, tokenizer = first_model(str(bert), [], 1)
    assert isinstance(model, BartForConditionalGeneration)
    expected, _ = warm_start(str(bert), seed=1)
    assert all(torch.equal(weights, expected.state_dict()[name]) for name, weights in model.state_dict().items())
    assert len(tokenizer) == len(expected.get_input_embeddings().weight)
