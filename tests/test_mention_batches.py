"""Models that take trees of names: equal to the stock forward, name by name, in values and in gradients."""

import copy
import json

import pytest
import torch
from test_decoding_architectures import ARCHITECTURES, BOS, END, PAD, SPECIAL, WINDOWED, make
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM, ProphetNetConfig, ProphetNetForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from angel_trl.architectures import head_states, turn_off_dropout
from angel_trl.decoding import score_names, search
from angel_trl.formatting import EncodedMention
from angel_trl.mention_batches import add_mention_batches
from angel_trl.name_trees import NameTrees, pack
from angel_trl.trie import NameTrie

# One architecture of each way to tell positions.
FOUR = ["bart", "t5", "gpt2", "llama"]
# Source, prefix (behind what begins it) and names of each mention. Pad tokens within them are tokens like any other.
RAGGED = [
    ((5, 6, 7, PAD, 8, END), (9, 10), [[20, END], [END], [20, PAD, 21, 22, END]]),
    ((11, END), (), [[20, 21, END]]),
    ((5, 13, 14, END), (9, PAD, 16, 17), [[23, END], [24, 25, 26, END]]),
]
EQUAL = [((5, 6, END), (9, 10), [[20, 21, END], [22, END]]), ((7, 8, END), (11, 12), [[23, END], [20, 24, END]])]
SINGLE = [((5, 6, END), (9,), [[20, 21, 22, END]])]
# Distances that T5 no longer tells apart.
LONG = [((5, END), tuple(range(20, 45)), [[6, 7, 8, END], [9, END]]), ((5, 6, END), (9,), [[10, END]])]
ONLY_ENDS = [((5, END), (9,), [[END]]), ((6, 7, END), (), [[20], [END]])]
LAYOUTS = {"ragged": RAGGED, "equal": EQUAL, "single": SINGLE, "long": LONG, "names of one token": ONLY_ENDS}


def encoded(model, layout):
    """The mentions and names of a layout; without an encoder the source comes before the prefix."""
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        mentions = [EncodedMention(source, (start, *prefix)) for source, prefix, _ in layout]
    else:
        mentions = [EncodedMention((), (BOS, *source, *prefix)) for source, prefix, _ in layout]
    return mentions, [names for *_, names in layout]


def batch_of(model, layout=RAGGED):
    return pack(*encoded(model, layout), PAD)


def stock_logits(model, mention, name):
    """The logits that predict a name's tokens, `[its tokens, vocabulary]`: one stock forward without padding."""
    ids = torch.tensor([[*mention.prefix, *name[:-1]]])
    if mention.source:
        logits = model(input_ids=torch.tensor([mention.source]), decoder_input_ids=ids).logits
    else:
        logits = model(input_ids=ids).logits
    return logits[0, len(mention.prefix) - 1 :]


def stock_log_probs(model, layout):
    """Log-probability of each name, by one stock forward each."""
    return torch.stack(
        [
            -F.cross_entropy(stock_logits(model, mention, name), torch.tensor(name), reduction="sum")
            for mention, names in zip(*encoded(model, layout), strict=True)
            for name in names
        ]
    )


def tree_log_probs(model, layout):
    """Log-probability of each name, by one forward of a model that takes trees."""
    logits, labels = model(**batch_of(model, layout))
    lengths = [len(name) for *_, names in layout for name in names]
    per_token = -F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([part.sum() for part in per_token.split(lengths)])


def assert_same_gradients(ours, theirs):
    largest = max(p.grad.abs().max().item() for p in theirs.parameters() if p.grad is not None)
    assert largest > 0.1
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            # Some gradients are sums that cancel out, such as those of the biases of keys.
            torch.testing.assert_close(
                one.grad, other.grad, rtol=1e-4, atol=1e-5 * largest, msg=lambda text, name=name: f"{name}: {text}"
            )


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_log_probs_and_gradients_are_those_of_stock_forwards(kind, layout):
    plain = make(kind)
    model = copy.deepcopy(plain)
    add_mention_batches(model)
    found, expected = tree_log_probs(model, LAYOUTS[layout]), stock_log_probs(plain, LAYOUTS[layout])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1.5, len(expected)) + 0.3
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_gradients(model, plain)


def test_the_layouts_differ_in_what_they_are_to_cover():
    model = make("bart")
    trees = {name: NameTrees.of(batch_of(model, layout)) for name, layout in LAYOUTS.items()}
    assert {name: tree.cells is None for name, tree in trees.items()} == {
        "ragged": False,
        "equal": True,
        "single": True,
        "long": False,
        "names of one token": False,
    }
    assert not trees["ragged"].source.all()


@pytest.mark.parametrize("kind", FOUR)
def test_logits_are_in_float32_with_the_tokens_they_predict(kind):
    plain = make(kind)
    model = copy.deepcopy(plain)
    add_mention_batches(model)
    with torch.no_grad():
        logits, labels = model(**batch_of(model))
        expected = [
            stock_logits(plain, m, name) for m, names in zip(*encoded(plain, RAGGED), strict=True) for name in names
        ]
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-4, rtol=1e-5)
    assert labels.tolist() == [20, END, END, 20, PAD, 21, 22, END, 20, 21, END, 23, END, 24, 25, 26, END]
    assert logits.dtype == torch.float32
    assert model.bfloat16()(**batch_of(model))[0].dtype == torch.float32


def test_bart_s_bias_of_the_logits_is_in_them():
    plain = make("bart")
    plain.final_logits_bias = torch.linspace(-3, 3, plain.config.vocab_size)[None]
    model = copy.deepcopy(plain)
    add_mention_batches(model)
    torch.testing.assert_close(tree_log_probs(model, RAGGED), stock_log_probs(plain, RAGGED), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", FOUR)
def test_a_head_is_given_what_the_language_model_head_is_applied_to(kind):
    plain = make(kind)
    model = copy.deepcopy(plain)
    seen = {}
    add_mention_batches(model, lambda states, batch: seen.update(batch, states=states) or "scores")
    batch = batch_of(model)
    assert model(**batch, more=3) == "scores"
    assert seen.pop("more") == 3
    states = seen.pop("states")
    assert seen == batch
    add_mention_batches(plain)
    torch.testing.assert_close(model.get_output_embeddings()(states), plain(**batch)[0], atol=1e-5, rtol=1e-5)


def test_the_states_of_t5_are_scaled_for_its_head():
    model = make("t5")
    states = torch.ones(2, 32)
    assert head_states(model, states).tolist() == (states * 32**-0.5).tolist()
    assert head_states(make("t5 untied"), states) is states


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_text_longer_than_a_sliding_window_is_refused_and_one_as_long_is_not(kind):
    plain = make(kind, **WINDOWED[kind])
    model = copy.deepcopy(plain)
    add_mention_batches(model)
    fits = [((5, 6), (9,), [[20, 21, 22, 23, END]])]
    torch.testing.assert_close(tree_log_probs(model, fits), stock_log_probs(plain, fits), atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="A text of 9 tokens is longer than the model's sliding window of 8"):
        model(**batch_of(model, [((5, 6), (9,), [[20, 21, 22, 23, 24, END], [END]])]))


# --- what a model is otherwise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", FOUR)
def test_ordinary_calls_and_generation_are_left_as_they_were(kind, implementation):
    plain = make(kind, attn_implementation=implementation)
    assert plain.config._attn_implementation == implementation
    model = copy.deepcopy(plain)
    add_mention_batches(model)
    model(**batch_of(model))
    tokens = torch.tensor([[PAD, PAD, 7, 8, 9], [11, 12, 13, 14, 15]])
    inputs = {"input_ids": tokens, "attention_mask": (tokens != PAD).long()}
    given = {"labels": torch.tensor([[-100, -100, -100, 8, 9], [-100, 12, 13, 14, 15]])}
    if model.config.is_encoder_decoder:
        given = {"decoder_input_ids": tokens[:, 2:], "labels": torch.tensor([[9, 8, 7], [12, 13, -100]])}
    found, expected = (one(**inputs, **given) for one in (model, plain))
    torch.testing.assert_close(found.logits[:, -3:], expected.logits[:, -3:], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=1e-5)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": PAD}
    assert model.generate(**inputs, **options).tolist() == plain.generate(**inputs, **options).tolist()


@pytest.mark.parametrize("kind", FOUR)
def test_teaching_a_model_twice_changes_nothing(kind):
    model = make(kind)
    add_mention_batches(model)
    once = model(**batch_of(model))[0]
    add_mention_batches(model)
    assert torch.equal(model(**batch_of(model))[0], once)


@pytest.mark.parametrize("kind", FOUR)
def test_what_is_saved_has_no_trace_of_it(kind, tmp_path):
    model = make(kind)
    add_mention_batches(model)
    model.save_pretrained(tmp_path)
    assert "angel" not in (tmp_path / "config.json").read_text()
    again = type(model).from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", FOUR)
def test_a_searched_model_is_trained_and_a_trained_one_searched_as_any(kind):
    model, fresh = make(kind), make(kind)
    mentions, names = encoded(model, RAGGED)
    trie = NameTrie.build([[20, END], [20, 21, END], [23, END]])
    alone, scored = search(fresh, trie, mentions).log_probs, score_names(fresh, mentions, names)
    add_mention_batches(model)
    before = tree_log_probs(model, RAGGED)
    assert search(model, trie, mentions).log_probs.tolist() == alone.tolist()
    assert [row.tolist() for row in score_names(model, mentions, names)] == [row.tolist() for row in scored]
    assert torch.equal(tree_log_probs(model, RAGGED), before)
    torch.testing.assert_close(before, torch.cat([torch.from_numpy(row) for row in scored]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["prophetnet", "opt"])
def test_an_unsupported_architecture_is_refused_by_name(model_type):
    if model_type == "opt":
        model = OPTForCausalLM(OPTConfig(**SPECIAL, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    else:
        small = {"num_encoder_layers": 1, "num_decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
        model = ProphetNetForConditionalGeneration(ProphetNetConfig(**SPECIAL, hidden_size=16, **small))
    with pytest.raises(ValueError, match=f"type '{model_type}' are not supported here; use one of bart, mbart, t5"):
        add_mention_batches(model)
    assert "angel" not in model.config._attn_implementation
    assert "forward" not in vars(model)


# --- dropout and checkpointing ---------------------------------------------------------------------------------------

_OF_BART = dict.fromkeys(
    ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"), 0.3
)
RATES = {
    "bart": _OF_BART,
    "mbart": _OF_BART,
    "t5": {"dropout_rate": 0.3},
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3),
    "llama": {"attention_dropout": 0.3},
    "qwen3": {"attention_dropout": 0.3},
}


@pytest.mark.parametrize("kind", RATES)
def test_without_dropout_training_mode_computes_what_evaluation_mode_does(kind):
    model = make(kind, **RATES[kind])
    add_mention_batches(model)
    evaluated = tree_log_probs(model.eval(), RAGGED)
    assert not torch.equal(tree_log_probs(model.train(), RAGGED), evaluated)
    turn_off_dropout(model)
    for _ in range(3):
        assert torch.equal(tree_log_probs(model, RAGGED), evaluated)


@pytest.mark.parametrize("kind", RATES)
def test_the_configuration_keeps_its_rates(kind, tmp_path):
    model = make(kind, **RATES[kind])
    turn_off_dropout(model)
    assert {name: getattr(model.config, name) for name in RATES[kind]} == RATES[kind]
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in RATES[kind]} == RATES[kind]


def test_dropout_modules_are_turned_off_too():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    turn_off_dropout(model)
    assert model[1].p == 0.0


@pytest.mark.parametrize("kind", [*FOUR, "mbart", "qwen3"])
def test_activation_checkpointing_gives_the_same_gradients(kind):
    plain = make(kind).train()
    turn_off_dropout(plain)
    model = copy.deepcopy(plain)
    for one in (plain, model):
        add_mention_batches(one)
    layer = [module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)][-1]
    first = next(module for module in layer.modules() if not list(module.children()))
    runs = []
    first.register_forward_pre_hook(lambda *args: runs.append(args))
    model.activation_checkpointing_enable()
    for one in (plain, model):
        tree_log_probs(one, RAGGED).sum().backward()
    assert len(runs) == 2, "once forward, once again for the gradients"
    assert_same_gradients(model, plain)
