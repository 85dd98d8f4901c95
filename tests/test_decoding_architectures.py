"""Every architecture that can be searched: equal to its own stock forward, and left as it was."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from brute_force import assert_top, assert_true, brute_force
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from angel_trl.architectures import MODEL_TYPES
from angel_trl.decoding import score_names, search
from angel_trl.formatting import EncodedMention
from angel_trl.trie import NameTrie

BOS, PAD, END, VOCABULARY = 0, 1, 2, 60
SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": END}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.4,
    "decoder_start_token_id": END,
    "forced_eos_token_id": None,
}
# Distances of more than 12 tokens fall into one bucket.
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": PAD,
    "initializer_factor": 1.5,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.4}
# Two heads of queries to each head of keys and values.
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
ARCHITECTURES = {
    "bart": (BartForConditionalGeneration, BartConfig, BART),
    "mbart": (MBartForConditionalGeneration, MBartConfig, BART),
    "t5": (T5ForConditionalGeneration, T5Config, T5),
    "t5 untied": (
        T5ForConditionalGeneration,
        T5Config,
        {**T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config, T5),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
    "gpt2 scaled by layer": (GPT2LMHeadModel, GPT2Config, {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "llama": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "mistral": (MistralForCausalLM, MistralConfig, LLAMA),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, LLAMA),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, LLAMA),
}


def make(kind, seed=1, **changes):
    model_class, config_class, settings = ARCHITECTURES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**SPECIAL, **{**settings, **changes})).eval()
    if kind in ("t5 untied", "mt5"):
        # Their decoders' states are not scaled down, and logits in the hundreds would be rounded off.
        model.lm_head.weight = torch.nn.Parameter(0.2 * model.shared.weight.detach().flip(0))
    return model


def some_mentions(model, count, seed=0):
    """Mentions of all lengths in no order; those without a source have prompts of up to 20 tokens."""
    rng = random.Random(seed)
    mentions = []
    for number in range(count):
        draw = lambda length: tuple(rng.choices(range(3, VOCABULARY), k=length))  # noqa: E731
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            mentions.append(EncodedMention(draw(3 + 5 * number % 7), (start, *draw(1 + 3 * number % 5))))
        else:
            mentions.append(EncodedMention((), (BOS, *draw(1 + 7 * number % 20))))
    return mentions


@pytest.fixture(scope="module")
def names():
    """60 names of 1 to 9 tokens that share beginnings; some end in a stretch without an alternative."""
    rng = random.Random(0)
    drawn = {(), (3, 20, 21, 22, 23, 24, 25, 26)}
    while len(drawn) < 60:
        end = rng.choice([(), (), (20, 21, 22), (30, 31)])
        drawn.add((*rng.choices(range(3, 9), k=rng.randint(1, 4)), *end))
    return [[*name, END] for name in sorted(drawn)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def world(request, names):
    """A model to search, the same model untouched, 7 mentions, and what brute force gives every name."""
    model = make(request.param)
    plain = copy.deepcopy(model)
    mentions = some_mentions(model, 7)
    return model, plain, mentions, brute_force(plain, mentions, names)


def test_the_architectures_covered_are_those_that_can_be_searched():
    assert {config.model_type for _, config, _ in ARCHITECTURES.values()} == set(MODEL_TYPES)


def test_the_models_are_far_from_indifferent_to_names_and_mentions(world):
    _, _, mentions, scores = world
    assert np.ptp(scores, axis=1).min() > 20
    assert np.abs(scores - scores.mean(0)).mean() > 1
    assert scores.min() > -150
    assert len({len(mention.prefix) for mention in mentions}) > 4


@pytest.mark.parametrize("ranking", ["sum", "mean"])
def test_the_search_equals_brute_force(world, names, ranking):
    model, _, mentions, scores = world
    found = search(model, NameTrie.build(names), mentions, num_beams=3, batch_size=5, ranking=ranking, exact=True)
    assert found.exact.all()
    assert_top(found, scores, names, ranking)


def test_few_beams_find_true_probabilities(world, names):
    model, _, mentions, scores = world
    found = search(model, NameTrie.build(names), mentions, num_beams=2)
    assert not found.exact.all()
    assert (found.names[:, 0] >= 0).all()
    assert_true(found, scores, names, "sum")


@pytest.mark.parametrize("ranking", ["sum", "mean"])
def test_results_do_not_depend_on_batch_size_or_order(world, names, ranking):
    model, _, mentions, _ = world
    trie = NameTrie.build(names)
    together = search(model, trie, mentions, num_beams=2, ranking=ranking)
    rows = np.array([4, 0, 6, 2, 5, 1, 3])
    for batch_size in (1, 3):
        other = search(model, trie, [mentions[i] for i in rows], num_beams=2, ranking=ranking, batch_size=batch_size)
        assert other.names.tolist() == together.names[rows].tolist()
        assert other.exact.tolist() == together.exact[rows].tolist()
        np.testing.assert_allclose(other.log_probs, together.log_probs[rows], atol=1e-4)


def test_score_names_equals_brute_force(world, names):
    model, _, mentions, scores = world
    asked = [list(range(row, 60, row + 1)) for row in range(7)]
    scored = score_names(model, mentions, [[names[i] for i in row] for row in asked], batch_size=4)
    for row, some in enumerate(asked):
        np.testing.assert_allclose(scored[row], scores[row, some], atol=1e-4)


def test_a_searched_model_computes_and_generates_what_it_did(world, names):
    model, plain, mentions, _ = world
    search(model, NameTrie.build(names), mentions[:2])
    tokens = torch.tensor([[PAD, PAD, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    inputs = {"input_ids": tokens, "attention_mask": (tokens != PAD).long()}
    decoder = {"decoder_input_ids": tokens[:, 2:]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits, expected = (one(**inputs, **decoder).logits[:, -3:] for one in (model, plain))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": PAD}
    assert model.generate(**inputs, **options).tolist() == plain.generate(**inputs, **options).tolist()


def test_threads_may_share_a_model(world, names):
    model, _, mentions, _ = world
    trie = NameTrie.build(names)
    alone = [search(model, trie, [mention], num_beams=2) for mention in mentions]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda mention: search(model, trie, [mention], num_beams=2), mentions * 3))
    for one, other in zip(found, alone * 3, strict=True):
        assert one.names.tolist() == other.names.tolist()
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_a_searched_model_is_saved_without_a_trace(world, names, tmp_path):
    model, _, mentions, _ = world
    search(model, NameTrie.build(names), mentions[:2])
    model.save_pretrained(tmp_path)
    assert "angel" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("kind", ["llama", "t5", "bart"])
def test_a_model_with_eager_attention_is_searched_as_well(names, kind):
    model = make(kind, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    plain = copy.deepcopy(model)
    mentions = some_mentions(model, 3)
    found = search(model, NameTrie.build(names), mentions, exact=True)
    assert_top(found, brute_force(plain, mentions, names), names)


# --- windows ---------------------------------------------------------------------------------------------------------

WINDOWED = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
}


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_text_longer_than_a_sliding_window_is_refused(kind):
    model = make(kind, **WINDOWED[kind])
    mentions = [EncodedMention((), (BOS, 4)), EncodedMention((), (BOS, 4, 5, 6, 7))]
    with pytest.raises(ValueError, match="A text of 9 tokens is longer than the model's sliding window of 8"):
        search(model, NameTrie.build([[10, 11, 12, 13, END]]), mentions)


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_text_as_long_as_the_sliding_window_is_searched(kind):
    model = make(kind, **WINDOWED[kind])
    plain = copy.deepcopy(model)
    names = [[10, 11, 12, END], [10, 14, END], [13, END]]
    mentions = [EncodedMention((), (BOS, 4)), EncodedMention((), (BOS, 4, 5, 6, 7))]
    found = search(model, NameTrie.build(names), mentions, exact=True)
    assert_top(found, brute_force(plain, mentions, names), names)


def test_distances_beyond_t5_s_last_bucket_are_searched():
    model = make("t5")
    plain = copy.deepcopy(model)
    names = [[*range(10, 40), END], [*range(10, 30), 50, END], [10, 51, END]]
    mentions = [EncodedMention((5, 6, 7), (PAD, 8)), EncodedMention((9, 5), (PAD, *range(20, 40)))]
    found = search(model, NameTrie.build(names), mentions, exact=True)
    assert_top(found, brute_force(plain, mentions, names), names)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["prophetnet", "opt"])
def test_an_unsupported_architecture_is_refused_by_name(model_type):
    if model_type == "opt":
        model = OPTForCausalLM(OPTConfig(**SPECIAL, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    else:
        small = {"num_encoder_layers": 1, "num_decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
        model = ProphetNetForConditionalGeneration(ProphetNetConfig(**SPECIAL, hidden_size=16, **small))
    message = f"type '{model_type}' are not supported here; use one of bart, mbart, t5, mt5, gpt2"
    with pytest.raises(ValueError, match=message):
        search(model, NameTrie.build([[4, END]]), [EncodedMention((4, END), (END,))])
    with pytest.raises(ValueError, match=message):
        score_names(model, [EncodedMention((4, END), (END,))], [[[4, END]]])


# --- lower precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bart", "t5", "llama"])
def test_the_search_runs_under_autocast(names, kind):
    model = make(kind)
    mentions = some_mentions(model, 16)
    trie = NameTrie.build(names)
    full = search(model, trie, mentions, exact=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = search(model, trie, mentions, exact=True)
        [scored] = score_names(model, mentions[:1], [[names[i] for i in half.names[0]]])
    assert half.log_probs.dtype == scored.dtype == np.float32
    assert not np.array_equal(half.log_probs, full.log_probs)
    assert (half.names[:, 0] == full.names[:, 0]).sum() >= 13
    assert np.abs(half.log_probs - full.log_probs).max() < 1
    np.testing.assert_allclose(scored, half.log_probs[0], atol=0.2)


@pytest.mark.parametrize("kind", ["bart", "t5", "llama"])
def test_a_model_of_bfloat16_weights_is_searched(names, kind):
    model = make(kind)
    mentions = some_mentions(model, 16)
    trie = NameTrie.build(names)
    full = search(model, trie, mentions, exact=True)
    half = search(model.bfloat16(), trie, mentions, exact=True)
    assert half.log_probs.dtype == np.float32
    assert (half.names[:, 0] == full.names[:, 0]).sum() >= 12
    assert np.abs(half.log_probs - full.log_probs).max() < 1
