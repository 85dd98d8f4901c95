"""Scores of names in rows: equal to what full logits give, and to what TRL's fused head gives."""

import copy
import dataclasses
import math

import pytest
import torch
from test_decoding_architectures import BOS, END, PAD, make

from angel_trl.collator import MentionPairs, PairCollator
from angel_trl.formatting import EncodedMention
from angel_trl.mention_batches import add_mention_batches
from angel_trl.preference_head import RowHead, RowScores

KINDS = ["bart", "t5", "mt5", "gpt2", "qwen3"]


def batch_of(model):
    """Two mentions with two pairs and one; their chosen names are (20, 21, END) twice and (END,)."""
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else BOS
    sources = [(5, 6, 7, END), (8, END)] if model.config.is_encoder_decoder else [(), ()]
    mentions = [EncodedMention(source, (start, 9, *rest)) for source, rest in zip(sources, [(10,), ()], strict=True)]
    shared = (20, 21, END)
    items = [
        MentionPairs(mentions[0], ((shared, (22, END), -1.0, -2.0), (shared, (20, 23, 24, END), -1.0, -3.0))),
        MentionPairs(mentions[1], (((END,), (25, END), -4.0, -5.0),)),
    ]
    return PairCollator(PAD)(items)


ROWS = [(20, 21, END), (20, 21, END), (END,), (22, END), (20, 23, 24, END), (25, END)]


def with_head(model, **options):
    """A copy of a model that scores names in rows, and its head."""
    model = copy.deepcopy(model)
    head = RowHead(model, **options)
    add_mention_batches(model, head)
    return model, head


def with_logits(model):
    model = copy.deepcopy(model)
    add_mention_batches(model)
    return model


def random_states(model, count=11):
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_values_are_laid_out_in_rows_with_zeros_beyond_their_end():
    values = torch.tensor([-1.0, -2.0, -3.0])
    scores = RowScores(values, 10 * values, 100 * values, torch.tensor([True, False, True]), 5 * values)
    places = torch.tensor([[0, 2, -1], [1, -1, -1], [0, 2, 1]])
    rows = scores.in_rows(places)
    expected = torch.tensor([[-1.0, -3.0, 0.0], [-2.0, 0.0, 0.0], [-1.0, -3.0, -2.0]])
    assert torch.equal(rows.log_probs, expected)
    assert torch.equal(rows.entropy, 10 * expected)
    assert torch.equal(rows.mean_logits, 100 * expected)
    assert rows.is_top1.tolist() == [[True, True, False], [False, False, False], [True, True, False]]
    assert torch.equal(rows.log_sum_sq_probs, 5 * expected)


def test_what_was_not_computed_stays_out():
    values = torch.zeros(2)
    assert RowScores(values, values, values, values.bool()).in_rows(torch.tensor([[0, 1]])).log_sum_sq_probs is None


def test_a_name_of_two_rows_gets_the_gradients_of_both():
    values = torch.tensor([-1.0, -2.0], requires_grad=True)
    still = values.detach()
    rows = RowScores(values, still, still, still.bool()).in_rows(torch.tensor([[0, 1], [0, -1]]))
    (rows.log_probs * torch.tensor([[2.0, 3.0], [5.0, 7.0]])).sum().backward()
    assert values.grad.tolist() == [7.0, 3.0]


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_full_logits(kind):
    plain = make(kind)
    batch = batch_of(plain)
    scores = with_head(plain, weighting=True)[0](**batch)
    logits = with_logits(plain)(**batch)[0]
    assert scores.log_probs.shape == (6, 4)
    for row, name in enumerate(ROWS):
        for place in range(4):
            found = {f.name: getattr(scores, f.name)[row, place].item() for f in dataclasses.fields(scores)}
            if place >= len(name):
                assert set(found.values()) == {0}
                continue
            at = batch["row_places"][row, place]
            assert batch["name_labels"][at] == name[place]
            probs = logits[at].double().softmax(-1)
            expected = {
                "log_probs": probs[name[place]].log(),
                "entropy": -(probs * probs.log()).sum(),
                "mean_logits": logits[at].mean(),
                "is_top1": logits[at].argmax() == name[place],
                "log_sum_sq_probs": (probs**2).sum().log(),
            }
            assert found == pytest.approx({key: value.item() for key, value in expected.items()}, abs=1e-4)


def test_some_tokens_are_the_likeliest_and_some_are_not():
    model, head = with_head(make("bart"))
    states = random_states(model)
    labels = model.get_output_embeddings()(states).argmax(-1)
    labels[::2] = (labels[::2] + 1) % 60
    scores = head(states, {"name_labels": labels, "row_places": torch.arange(11)[None]})
    assert scores.is_top1.tolist() == [[False, True] * 5 + [False]]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_full_logits_counting_a_shared_name_once_a_row(kind):
    plain = make(kind)
    batch = batch_of(plain)
    weights = torch.tensor([0.5, 2.0, -1.0, 0.3, 1.5, -0.7])
    ours, theirs = with_head(plain)[0], with_logits(plain)
    (ours(**batch).log_probs.sum(1) * weights).sum().backward()
    logits, labels = theirs(**batch)
    log_probs = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    places = batch["row_places"]
    of_rows = torch.stack([log_probs[row[row >= 0]].sum() for row in places])
    assert places[0].tolist() == places[1].tolist()
    (of_rows * weights).sum().backward()
    largest = max(p.grad.abs().max().item() for p in theirs.parameters() if p.grad is not None)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5 * largest, rtol=1e-4)


def plain_scores(head, states, labels):
    """Log-probabilities and the other fields, by operations of torch alone."""
    logits = head(states).float()
    log_probs = logits.log_softmax(-1)
    return {
        "log_probs": log_probs.gather(1, labels[:, None])[:, 0],
        "entropy": -(log_probs.exp() * log_probs).sum(-1),
        "mean_logits": logits.mean(-1),
        "is_top1": logits.argmax(-1) == labels,
        "log_sum_sq_probs": (2 * log_probs).logsumexp(-1),
    }


@pytest.mark.parametrize("rows_at_once", [1, 3, 11, 100])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_heads_with_and_without_a_bias_or_gradients(monkeypatch, bias, frozen, rows_at_once):
    monkeypatch.setattr("angel_trl.preference_head._TEMPORARY", rows_at_once * 60)
    model, head = with_head(make("llama"), weighting=True)
    torch.manual_seed(0)
    ours = torch.nn.Linear(32, 60, bias=bias).requires_grad_(not frozen)
    theirs = copy.deepcopy(ours)
    model.set_output_embeddings(ours)
    labels, weights = torch.arange(11), torch.linspace(-1, 2, 11)
    states = [random_states(model) for _ in range(2)]
    found = head(states[0], {"name_labels": labels, "row_places": torch.arange(11)[None]})
    expected = plain_scores(theirs, states[1], labels)
    for field, value in expected.items():
        torch.testing.assert_close(getattr(found, field)[0], value, atol=1e-5, rtol=1e-5)
    (found.log_probs[0] * weights).sum().backward()
    (expected["log_probs"] * weights).sum().backward()
    torch.testing.assert_close(states[0].grad, states[1].grad)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == frozen
        if not frozen:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_in_bfloat16_logits_are_rounded_and_scores_are_not(autocast):
    model, head = with_head(make("llama"))
    states = [random_states(model) for _ in range(2)]
    if not autocast:
        model.bfloat16()
        states = [one.detach().bfloat16().requires_grad_() for one in states]
    ours = model.get_output_embeddings()
    theirs = copy.deepcopy(ours)
    labels, weights = torch.arange(11), torch.linspace(-1, 2, 11)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = head(states[0], {"name_labels": labels, "row_places": torch.arange(11)[None]})
        expected = plain_scores(theirs, states[1], labels)
    assert found.log_probs.dtype == torch.float32
    for field in ("log_probs", "entropy", "mean_logits", "is_top1"):
        torch.testing.assert_close(getattr(found, field)[0], expected[field], atol=1e-4, rtol=1e-4)
    (found.log_probs[0] * weights).sum().backward()
    (expected["log_probs"] * weights).sum().backward()
    for one, other in ((states[0], states[1]), (ours.weight, theirs.weight)):
        assert one.grad.dtype == other.grad.dtype
        torch.testing.assert_close(one.grad, other.grad, atol=0.02 * other.grad.abs().max().item(), rtol=0.02)


def test_only_log_probs_have_a_gradient():
    model = make("bart")
    scores = with_head(model, weighting=True)[0](**batch_of(model))
    assert scores.log_probs.requires_grad
    others = (scores.entropy, scores.mean_logits, scores.is_top1, scores.log_sum_sq_probs)
    assert not any(value.requires_grad for value in others)


def test_what_only_weights_need_is_left_out_without_them():
    model = make("bart")
    assert with_head(model)[0](**batch_of(model)).log_sum_sq_probs is None


@pytest.mark.parametrize("at_once", [0, 10**9])
@pytest.mark.parametrize("kind", ["t5", "t5 untied", "bart"])
def test_the_scaling_of_t5_s_states_is_respected(kind, at_once):
    plain = make(kind)
    assert getattr(plain.config, "scale_decoder_outputs", False) == (kind == "t5")
    found = with_head(plain, at_once=at_once)[0](**batch_of(plain)).log_probs[3, :2]
    start, source = plain.config.decoder_start_token_id, torch.tensor([[5, 6, 7, END]])
    logits = plain(input_ids=source, decoder_input_ids=torch.tensor([[start, 9, 10, 22]])).logits[0, 2:]
    expected = logits.log_softmax(-1)[[0, 1], [22, END]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# --- the fused head --------------------------------------------------------------------------------------------------


def fused_or_skip(head):
    if not head._can_fuse:
        pytest.skip("this TRL has its fused head only where Triton is installed")


@pytest.mark.parametrize("weighting", [False, True], ids=["", "with weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_head_gives_the_same_values_and_gradients(kind, weighting):
    plain = make(kind)
    batch = batch_of(plain)
    (fused, head), (with_all, _) = (with_head(plain, weighting=weighting, at_once=n) for n in (0, 10**9))
    fused_or_skip(head)
    weights = torch.linspace(-1, 2, 24).view(6, 4)
    results = []
    for model in (fused, with_all):
        scores = model(**batch)
        (scores.log_probs * weights).sum().backward()
        results.append(scores)
    for field in dataclasses.fields(RowScores):
        one, other = (getattr(scores, field.name) for scores in results)
        if field.name == "log_sum_sq_probs" and not weighting:
            assert one is None
            assert other is None
        else:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    largest = max(p.grad.abs().max().item() for p in with_all.parameters() if p.grad is not None)
    for one, other in zip(fused.parameters(), with_all.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5 * largest, rtol=1e-4)


@pytest.mark.parametrize(("at_once", "way"), [(11 * 60, "_from_logits"), (11 * 60 - 1, "_fused")])
def test_the_fused_head_is_used_for_more_logits_than_may_be_held(monkeypatch, at_once, way):
    model, head = with_head(make("bart"), at_once=at_once)
    fused_or_skip(head)
    taken = []
    for name in ("_from_logits", "_fused"):
        real = getattr(head, name)
        monkeypatch.setattr(head, name, lambda *args, real=real, name=name: taken.append(name) or real(*args))
    batch = {"name_labels": torch.arange(11), "row_places": torch.arange(11)[None]}
    head(random_states(model), batch)
    assert taken == [way]


def test_without_a_fused_head_all_logits_are_made(monkeypatch):
    model = make("bart")
    expected = with_head(model)[0](**batch_of(model)).log_probs
    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", None)
    assert torch.equal(with_head(model, at_once=0)[0](**batch_of(model)).log_probs, expected)


@pytest.mark.parametrize("at_once", [0, 10**9])
def test_the_head_is_looked_up_at_each_call(at_once):
    model, head = with_head(make("bart"), at_once=at_once)
    model.set_output_embeddings(torch.nn.Linear(32, 60, bias=False))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    scores = model(**batch_of(model))
    assert scores.log_probs[0, :3].tolist() == pytest.approx([-math.log(60)] * 3)
    assert scores.entropy[0, :3].tolist() == pytest.approx([math.log(60)] * 3)
