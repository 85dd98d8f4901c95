"""Hypotheses of many mentions in one forward: equal to the stock forward, and at the cost that is claimed."""

import collections
import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from angel_trl import decoding, tree_decoder
from angel_trl.architectures import prepare
from angel_trl.decoding import search
from angel_trl.formatting import EncodedMention
from angel_trl.tree_attention import TreeCache
from angel_trl.tree_decoder import TreeDecoder
from angel_trl.trie import NameTrie

END, VOCABULARY = 2, 30
MENTIONS = [
    EncodedMention(source=(0, 10, 11, 12, 13, 2), prefix=(2, 20, 21)),
    EncodedMention(source=(0, 14, 2), prefix=(2, 22)),
    EncodedMention(source=(0, 15, 16, 2), prefix=(2, 23, 24, 25, 26)),
]
PROMPTS = [EncodedMention((), (0, *mention.source, *mention.prefix)) for mention in MENTIONS]


def ints(*values):
    return np.array(values, dtype=np.int64)


@pytest.fixture(params=["bart", "t5", "llama"])
def world(request, make_model):
    """A prepared model, the same model untouched, and three mentions of different lengths."""
    torch.manual_seed(0)
    small = {"vocab_size": VOCABULARY, "pad_token_id": 1, "eos_token_id": END, "bos_token_id": 0}
    if request.param == "bart":
        model = make_model(vocab_size=VOCABULARY)
    elif request.param == "t5":
        size = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.5}
        model = T5ForConditionalGeneration(T5Config(**small, **size, decoder_start_token_id=2)).eval()
    else:
        size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "initializer_range": 0.4}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**small, **size, **heads)).eval()
    plain = copy.deepcopy(model)
    prepare(model)
    return model, plain, MENTIONS if model.config.is_encoder_decoder else PROMPTS


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def expected(plain, mention, written, token):
    """Log-probability of `token` after the prefix and the tokens `written`, by a stock forward."""
    sequence = torch.tensor([[*mention.prefix, *written]])
    inputs = {"input_ids": sequence}
    if plain.config.is_encoder_decoder:
        inputs = {"input_ids": torch.tensor([mention.source]), "decoder_input_ids": sequence}
    return plain(**inputs).logits[0, -1].log_softmax(-1)[token].item()


def assert_expected(found, plain, questions):
    """`questions` are `(mention, tokens written, token)`."""
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected(plain, *question) for question in questions], atol=1e-4)


# --- values ----------------------------------------------------------------------------------------------------------


def test_questions_after_the_prefix_come_in_any_order(world):
    model, plain, mentions = world
    found = TreeDecoder(model, mentions).start(ints(2, 0, 0, 1, 2), ints(5, 6, 7, 8, END))
    asked = [(2, 5), (0, 6), (0, 7), (1, 8), (2, END)]
    assert_expected(found, plain, [(mentions[mention], (), token) for mention, token in asked])


def test_hypotheses_branch_grow_by_several_tokens_and_keep_to_their_own_path(world):
    model, plain, mentions = world
    decoder = TreeDecoder(model, mentions)
    decoder.start(ints(0), ints(5))
    # Mention 0 goes on with [5], [6, 7, 8]; mention 2 with [5, 9].
    number, found = decoder.extend(
        ints(0, 0, 2), ints(0, 0, 2), ints(5, 6, 7, 8, 5, 9), ints(1, 3, 2), ints(5, 0, 1, 3, 4), ints(3, 4, 7, END, 9)
    )
    assert number.tolist() == [3, 6, 8]
    first = mentions[0]
    assert_expected(
        found,
        plain,
        [
            (mentions[2], (5, 9), 3),
            (first, (5,), 4),
            (first, (6,), 7),
            (first, (6, 7, 8), END),
            (mentions[2], (5,), 9),
        ],
    )
    # Two go on from [5] (number 3), one from the middle of [6, 7, 8] (number 5), one from [5, 9] (number 8).
    number, found = decoder.extend(
        ints(0, 0, 0, 2), ints(3, 3, 5, 8), ints(4, 8, 3, 9, 9), ints(1, 2, 1, 1), ints(0, 2, 3, 4), ints(6, 7, 8, 9)
    )
    assert number.tolist() == [9, 11, 12, 13]
    assert_expected(
        found,
        plain,
        [(first, (5, 4), 6), (first, (5, 8, 3), 7), (first, (6, 7, 9), 8), (mentions[2], (5, 9, 9), 9)],
    )


def test_finished_mentions_leave_the_caches_once_they_are_half(world):
    model, plain, mentions = world
    mentions = [mentions[i] for i in (0, 1, 2, 1, 0)]
    decoder = TreeDecoder(model, mentions)
    decoder.start(ints(0), ints(5))

    def places():
        sizes = {len(keys) for keys in (*decoder._cache._keys, *decoder._cache._values)}
        if model.config.is_encoder_decoder:
            sizes |= {len(part) for layer in decoder._cross.layers for part in (layer.keys, layer.values)}
            sizes |= {len(decoder._source), len(decoder._inputs["encoder_hidden_states"])}
        return sizes

    decoder.keep_only(ints(1, 2, 4))
    number, _ = decoder.extend(ints(1, 2, 4), ints(1, 2, 4), ints(5, 6, 7), ints(1, 1, 1), ints(0), ints(3))
    assert places() == {5}
    decoder.keep_only(ints(2, 4))
    number, found = decoder.extend(ints(2, 4), number[1:], ints(8, 9, 3), ints(1, 2), ints(0, 2), ints(3, 4))
    assert places() == {2}
    assert_expected(found, plain, [(mentions[2], (6, 8), 3), (mentions[4], (7, 9, 3), 4)])
    decoder.keep_only(ints(4, 4))
    _, found = decoder.extend(ints(4, 4), number[[1, 1]], ints(5, 6), ints(1, 1), ints(0, 1), ints(3, 4))
    assert places() == {1}
    assert_expected(found, plain, [(mentions[4], (7, 9, 3, 5), 3), (mentions[4], (7, 9, 3, 6), 4)])


def test_keys_of_the_source_are_kept_once_a_mention(make_model):
    model = make_model(vocab_size=VOCABULARY)
    prepare(model)
    decoder = TreeDecoder(model, MENTIONS)
    decoder.start(ints(0), ints(5))
    rows = np.repeat(ints(0, 1, 2), 20)
    decoder.extend(rows, rows, np.arange(60) % 25 + 3, np.ones_like(rows), ints(0), ints(5))
    layers = decoder._cross.layers
    assert {(layer.keys.shape, layer.values.shape) for layer in layers} == {((3, 4, 6, 8), (3, 4, 6, 8))}
    # Of self-attention: one slot for each of at most 5 prefix and 20 new tokens, and room to grow.
    assert {keys.shape[0] for keys in decoder._cache._keys} == {3}
    assert all(25 <= keys.shape[2] < 45 for keys in decoder._cache._keys)


def test_logits_are_computed_in_parts_where_there_are_many(world, monkeypatch):
    model, plain, mentions = world
    asked, tokens = ints(6, 0, 3, 3, 5), ints(3, 4, 5, 6, 7)
    answers, sizes = [], []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for at_once in (100, 2):
        monkeypatch.setattr(tree_decoder, "_LOGITS_AT_ONCE", at_once * VOCABULARY)
        decoder = TreeDecoder(model, mentions)
        decoder.start(ints(0), ints(5))
        lengths = ints(3, 2, 2)
        answers.append(decoder.extend(ints(0, 1, 2), ints(0, 1, 2), np.arange(5, 12), lengths, asked, tokens)[1])
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
    assert_expected(answers[1][:2], plain, [(mentions[2], (10, 11), 3), (mentions[0], (5,), 4)])
    assert sizes == [3, 7, 2, 1, 2, 2, 2, 1]


def test_a_log_probability_is_never_positive(make_model):
    model = make_model(vocab_size=VOCABULARY)
    model.final_logits_bias[0, 5] = 30.0  # rounding of the logarithm of the sum may come out below the logit
    prepare(model)
    decoder = TreeDecoder(model, MENTIONS)
    assert (decoder.start(ints(0, 1, 2), ints(5, 5, 5)) <= 0).all()
    assert (decoder.start(ints(0, 1, 2), ints(5, 5, 5)) > -1e-3).all()


def test_a_prefix_and_new_tokens_are_fed_once(world):
    model, _, mentions = world
    decoder = TreeDecoder(model, mentions)
    decoder.start(ints(0, 0, 0), ints(5, 6, 7))
    prefixes = sum(len(mention.prefix) for mention in mentions)
    assert decoder.tokens_fed == prefixes
    decoder.extend(ints(0, 2), ints(0, 2), ints(5, 6, 7), ints(1, 2), ints(0), ints(5))
    assert decoder.tokens_fed == prefixes + 3


def test_a_cache_must_know_where_tokens_go():
    cache = TreeCache()
    assert cache.get_seq_length() == 0
    with pytest.raises(RuntimeError, match="update before TreeCache.expect"):
        cache.update(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0)


def test_preparing_twice_changes_nothing(world):
    model, _, _ = world
    name = model.config._attn_implementation
    prepare(model)
    assert model.config._attn_implementation == name == "angel_sdpa"


# --- what a step waits for -------------------------------------------------------------------------------------------

_WAITING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount")


class Waits(TorchDispatchMode):
    """Notes the operations for whose result, or its size, the host would have to wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        by_mask = name.startswith(("index", "_index_put")) and any(
            torch.is_tensor(index) and index.dtype in (torch.bool, torch.uint8)
            for some in args
            if isinstance(some, list | tuple)
            for index in some
        )
        sized_by_value = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in _WAITING or "unique" in name or by_mask or sized_by_value:
            self.seen.append(name)
        return function(*args, **kwargs)


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    "wait",
    [
        lambda: torch.ones(3).sum().item(),
        lambda: bool(MASK.any()),
        lambda: torch.ones(3)[MASK],
        lambda: torch.ones(3).index_put_((MASK,), torch.tensor(2.0)),
        lambda: MASK.nonzero(),
        lambda: torch.ones(3).masked_select(MASK),
        lambda: torch.arange(3).unique(),
        lambda: torch.arange(3).bincount(),
        lambda: torch.repeat_interleave(torch.arange(3), torch.arange(3)),
    ],
)
def test_waiting_is_noticed(wait):
    with Waits() as waits:
        wait()
    assert waits.seen


def test_a_step_waits_for_nothing_but_its_one_transfer(world, monkeypatch):
    model, _, mentions = world
    transfers = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: transfers.append(len(tensor)) or to_cpu(tensor))
    decoder = TreeDecoder(model, mentions)
    with Waits() as waits:
        decoder.start(ints(0, 1, 2), ints(5, 6, 7))
        number, _ = decoder.extend(
            ints(0, 0, 1, 2), ints(0, 0, 1, 2), ints(5, 6, 7, 8, 9), ints(2, 1, 1, 1), ints(0, 1, 4), ints(3, 4, 5)
        )
        assert transfers == [3, 3]
        # The caches lose two of three mentions, and the logits are computed in parts.
        monkeypatch.setattr(tree_decoder, "_LOGITS_AT_ONCE", VOCABULARY)
        decoder.extend(ints(0, 0), number[:2], ints(5, 6), ints(1, 1), ints(0, 1, 1, 0), ints(3, 4, 5, 6))
    assert waits.seen == []
    assert transfers == [3, 3, 4]


# --- what a search costs ---------------------------------------------------------------------------------------------

NAMES = [[*name, END] for name in ((), *((a, b, c) for a in range(3, 9) for b in range(3, 9) for c in range(3, 6)))]


@pytest.fixture
def costs(world, monkeypatch):
    """`(model, mentions, log)`: the log fills with forwards, rows of the head, and prefixes extended."""
    model, _, mentions = world
    log = collections.defaultdict(list)

    class Watched(TreeDecoder):
        def __init__(self, *args):
            super().__init__(*args)
            log["decoders"].append(self)

    class WatchedSearch(decoding.BatchSearch):
        def _extend(self, chosen):
            log["extended"].append((chosen, self._found.kth.copy()))
            super()._extend(chosen)

    monkeypatch.setattr(decoding, "TreeDecoder", Watched)
    monkeypatch.setattr(decoding, "BatchSearch", WatchedSearch)
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, inputs: log["fed"].append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: log["head"].append(len(args[0])))
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
        encoder.register_forward_pre_hook(lambda *_, **__: log["encoder"].append(1))
    return model, mentions, log


def test_the_first_step_computes_one_row_a_mention(costs):
    model, mentions, log = costs
    search(model, NameTrie.build(NAMES), mentions)
    assert log["head"][0] == 3


def test_a_stretch_without_alternatives_is_one_forward(costs):
    model, mentions, log = costs
    found = search(model, NameTrie.build([[*range(3, 29), END]]), mentions)
    assert (found.names[:, 0] == 0).all()
    assert len(log["fed"]) == 2
    assert log["fed"][1] == [*range(3, 29)] * 3
    assert log["decoders"][0].tokens_fed == sum(len(mention.prefix) for mention in mentions) + 3 * 26


def test_two_stretches_with_a_choice_between_them_are_two_forwards(costs):
    model, mentions, log = costs
    search(model, NameTrie.build([[3, 4, 5, 6, 7, END], [3, 4, 5, 8, 9, END]]), mentions, top_k=2)
    assert [len(tokens) for tokens in log["fed"][1:]] == [3 * 3, 3 * 4]


def test_names_of_one_token_need_no_forward_after_the_prefix(costs):
    model, mentions, log = costs
    search(model, NameTrie.build([[END]]), mentions)
    assert len(log["fed"]) == 1


def test_nothing_is_run_twice_and_no_end_token_is_run(costs):
    model, mentions, log = costs
    trie = NameTrie.build(NAMES)
    inner = trie.num_nodes - trie.num_names - 1
    found = search(model, trie, mentions, num_beams=1, top_k=len(NAMES), exact=True)
    assert found.exact.all()
    assert (found.names >= 0).all()
    written = sum(log["fed"][1:], [])
    assert len(written) == 3 * inner
    assert END not in written


def test_what_cannot_beat_the_kth_name_is_not_run(costs):
    model, mentions, log = costs
    found = search(model, NameTrie.build(NAMES), mentions, num_beams=200, top_k=2)
    assert found.exact.all()
    assert all((chosen.bound > kth[chosen.mention]).all() for chosen, kth in log["extended"])
    # And with all beams open, less is run than there is.
    assert len(sum(log["fed"][1:], [])) < 0.9 * 3 * (NameTrie.build(NAMES).num_nodes - len(NAMES))


@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_no_forward_extends_more_prefixes_of_one_length_than_there_are_beams(costs, num_beams):
    model, mentions, log = costs
    search(model, NameTrie.build(NAMES), mentions, num_beams=num_beams, top_k=5)
    counts = [
        collections.Counter(zip(chosen.mention.tolist(), chosen.length.tolist(), strict=True))
        for chosen, _ in log["extended"]
    ]
    assert max(max(count.values()) for count in counts) == num_beams
    # All names are of one length here, so that no more are extended on the whole either.
    assert max(sum(counts, collections.Counter()).values()) == num_beams


def test_the_encoder_runs_once_a_batch(costs):
    model, mentions, log = costs
    search(model, NameTrie.build(NAMES), [*mentions, *mentions], batch_size=4)
    assert len(log["decoders"]) == 2
    assert log["encoder"] == ([1, 1] if model.config.is_encoder_decoder else [])
