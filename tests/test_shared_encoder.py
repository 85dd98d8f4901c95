"""Many rows to one encoding: equal to the stock forward, row by row, in values and in gradients."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from angel_trl.attention import accept_layouts
from angel_trl.decoding import search
from angel_trl.formatting import EncodedMention
from angel_trl.shared_encoder import (
    SUPPORTED_MODEL_TYPES,
    SharedRows,
    add_mention_batches,
    completion_logits,
    pack,
    pad,
    turn_off_dropout,
)
from angel_trl.trie import NameTrie

PAD = 1
MENTIONS = [
    EncodedMention(source=(0, 40, 41, 42, 43, 44, 2), prefix=(2, 50, 51)),
    EncodedMention(source=(0, 45, 2), prefix=(2, 52)),
    EncodedMention(source=(0, 46, 47, 48, 2), prefix=(2, 53, 54, 55, 56)),
]
# Rows of a mention: 3, 1 and 2; with names of 1 to 5 tokens.
ASCENDING = [(0, [60, 2]), (0, [2]), (0, [61, 62, 63, 64, 2]), (1, [60, 61, 2]), (2, [65, 2]), (2, [66, 67, 68, 2])]
MIXED = [ASCENDING[i] for i in (4, 0, 3, 5, 2, 1)]
EQUAL = [(0, [60, 2]), (0, [61, 2]), (1, [62, 63, 2]), (1, [64, 2]), (2, [65, 2]), (2, [66, 67, 2])]
ONE_WITHOUT = [(2, [60, 2]), (0, [61, 62, 2]), (2, [63, 2])]
ROWS = {"ascending": ASCENDING, "mixed": MIXED, "equal": EQUAL, "a mention without rows": ONE_WITHOUT}


def plain_log_probs(model, rows):
    """Log-probability of each name by one stock forward a row, without padding."""
    values = []
    for mention, name in rows:
        sequence = torch.tensor([[*MENTIONS[mention].prefix, *name]])
        logits = model(input_ids=torch.tensor([MENTIONS[mention].source]), decoder_input_ids=sequence[:, :-1]).logits
        log_probs = logits[0].log_softmax(-1)[torch.arange(sequence.shape[1] - 1), sequence[0, 1:]]
        values.append(log_probs[-len(name) :].sum())
    return torch.stack(values)


def shared_log_probs(logits, labels, row, count):
    log_probs = -F.cross_entropy(logits, labels, reduction="none")
    return torch.zeros(count).index_add(0, row, log_probs)


def assert_equal_gradients(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(
                a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


# --- the layout ------------------------------------------------------------------------------------------------------


def test_pad_fills_on_the_right():
    assert pad([[5, 6], [7], []], 9).tolist() == [[5, 6], [7, 9], [9, 9]]


def test_pack_lays_out_sources_and_rows():
    batch = pack(MENTIONS[:2], [(1, [60, 2]), (0, [61, 62, 2])], PAD)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "mention_input_ids": [[0, 40, 41, 42, 43, 44, 2], [0, 45, 2, 1, 1, 1, 1]],
        "mention_attention_mask": [[1] * 7, [1, 1, 1, 0, 0, 0, 0]],
        "mention_index": [1, 0],
        "input_ids": [[2, 52, 60, 2, 1, 1], [2, 50, 51, 61, 62, 2]],
        "attention_mask": [[1, 1, 1, 1, 0, 0], [1] * 6],
        "completion_mask": [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_a_pad_token_within_a_name_or_source_is_not_padding():
    mention = EncodedMention(source=(0, PAD, 2), prefix=(2, PAD))
    batch = pack([mention], [(0, [PAD, 2])], PAD)
    assert batch["mention_attention_mask"].tolist() == [[1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1]]


def test_rows_are_counted_within_their_mention():
    rows = SharedRows.of(torch.tensor([2, 0, 2, 2, 0]), torch.ones(3, 4, dtype=torch.int64))
    assert (rows.mention.tolist(), rows.slot.tolist(), rows.slots) == ([2, 0, 2, 2, 0], [0, 0, 1, 2, 1], 3)
    assert (rows.mask.shape, rows.mask.dtype) == ((3, 1, 1, 4), torch.bool)


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("model_type", ["bart", "mbart"])
def test_values_and_gradients_equal_those_of_plain_forwards(make_model, model_type, kind):
    rows = ROWS[kind]
    shared, plain = (make_model(seed=5, model_type=model_type, init_std=0.1) for _ in range(2))
    accept_layouts(shared, SUPPORTED_MODEL_TYPES)
    found = shared_log_probs(*completion_logits(shared, pack(MENTIONS, rows, PAD)), len(rows))
    expected = plain_log_probs(plain, rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(rows)) + 0.3
    (found * weights).mean().backward()
    (expected * weights).mean().backward()
    assert_equal_gradients(shared, plain)


@pytest.mark.parametrize("model_type", ["bart", "mbart"])
def test_the_model_s_own_forward_takes_packed_batches(make_model, model_type):
    model = make_model(model_type=model_type)
    add_mention_batches(model)
    batch = pack(MENTIONS, MIXED, PAD)
    for found, expected in zip(model(**batch), completion_logits(model, batch), strict=True):
        assert torch.equal(found, expected)


def test_a_packed_batch_without_completion_mask_goes_to_the_stock_forward(make_model):
    shared, plain = make_model(), make_model()
    add_mention_batches(shared)
    batch = pack(MENTIONS, MIXED, PAD)
    del batch["completion_mask"]
    logits = shared(**batch).logits
    assert logits.shape == (6, 9, plain.config.vocab_size)
    for row, (mention, name) in enumerate(MIXED):
        sequence = torch.tensor([[*MENTIONS[mention].prefix, *name]])
        source = torch.tensor([MENTIONS[mention].source])
        expected = plain(input_ids=source, decoder_input_ids=sequence).logits[0]
        torch.testing.assert_close(logits[row, : sequence.shape[1]], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_ordinary_calls_are_left_as_they_were(make_model, implementation):
    shared, plain = make_model(attn_implementation=implementation), make_model(attn_implementation=implementation)
    assert plain.config._attn_implementation == implementation
    add_mention_batches(shared)
    source, decoder = torch.tensor([[0, 40, 41, 2], [0, 42, 2, PAD]]), torch.tensor([[2, 50, 51], [2, 52, 53]])
    call = {"input_ids": source, "attention_mask": (source != PAD).long(), "decoder_input_ids": decoder}
    torch.testing.assert_close(shared(**call).logits, plain(**call).logits, atol=1e-5, rtol=1e-5)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    assert shared.generate(source[:1], **options).tolist() == plain.generate(source[:1], **options).tolist()


def test_teaching_a_model_twice_changes_nothing(make_model):
    model = make_model()
    batch = pack(MENTIONS, MIXED, PAD)
    add_mention_batches(model)
    once = model(**batch)[0]
    accept_layouts(model, SUPPORTED_MODEL_TYPES)
    add_mention_batches(model)
    assert torch.equal(model(**batch)[0], once)


def test_what_is_saved_has_no_trace_of_the_sharing(make_model, tmp_path):
    model = make_model()
    add_mention_batches(model)
    model.save_pretrained(tmp_path)
    assert "angel" not in (tmp_path / "config.json").read_text()
    again = type(model).from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_a_searched_model_is_trained_and_a_trained_one_searched_as_any(make_model):
    model, fresh = make_model(), make_model()
    trie, batch = NameTrie.build([[60, 2], [61, 62, 2], [63, 2]]), pack(MENTIONS, MIXED, PAD)
    alone = search(fresh, trie, MENTIONS).log_probs
    add_mention_batches(model)
    before = model(**batch)[0]
    assert torch.equal(torch.from_numpy(search(model, trie, MENTIONS).log_probs), torch.from_numpy(alone))
    assert torch.equal(model(**batch)[0], before)


@pytest.mark.parametrize("model_type", ["t5", "llama"])
def test_an_architecture_that_can_only_be_searched_is_refused_by_name(model_type):
    if model_type == "t5":
        size = {"d_model": 8, "num_layers": 1, "num_heads": 1, "d_kv": 4, "d_ff": 8}
        model = T5ForConditionalGeneration(T5Config(vocab_size=20, **size))
    else:
        size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **size))
    with pytest.raises(ValueError, match=rf"type '{model_type}' are not supported here; use one of bart, mbart \("):
        add_mention_batches(model)
    assert "angel" not in model.config._attn_implementation


# --- dropout ---------------------------------------------------------------------------------------------------------

RATES = {
    "dropout": 0.3,
    "attention_dropout": 0.3,
    "activation_dropout": 0.3,
    "encoder_layerdrop": 0.3,
    "decoder_layerdrop": 0.3,
}


@pytest.mark.parametrize("model_type", ["bart", "mbart"])
def test_without_dropout_training_mode_computes_what_evaluation_mode_does(make_model, model_type):
    model = make_model(model_type=model_type, **RATES)
    accept_layouts(model, SUPPORTED_MODEL_TYPES)
    batch = pack(MENTIONS, MIXED, PAD)
    evaluated = completion_logits(model.eval(), batch)[0]
    assert not torch.equal(completion_logits(model.train(), batch)[0], evaluated)
    turn_off_dropout(model)
    for _ in range(5):
        assert torch.equal(completion_logits(model, batch)[0], evaluated)


def test_the_configuration_keeps_its_rates(make_model, tmp_path):
    model = make_model(**RATES)
    turn_off_dropout(model)
    assert {name: getattr(model.config, name) for name in RATES} == RATES
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in RATES} == RATES
    assert type(model).from_pretrained(tmp_path).model.encoder.layers[0].dropout == 0.3


def test_dropout_modules_are_turned_off_too():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    turn_off_dropout(model)
    assert model[1].p == 0.0
