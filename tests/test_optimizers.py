"""Muon on weight matrices and AdamW on the rest, as one optimizer."""

import copy

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from angel_trl.optimizers import MuonAdamW

RATES = {"matrix_lr": 5e-3, "lr": 1e-3}


@pytest.fixture
def model(make_model):
    return make_model()


def backward(model, seed):
    """Gradients of the same random loss for equal models."""
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    sum((weight * torch.randn(weight.shape, generator=generator)).sum() for weight in model.parameters()).backward()


def names_of(model, optimizer):
    name = {id(weight): name for name, weight in model.named_parameters()}
    return [{name[id(weight)] for weight in group["params"]} for group in optimizer.param_groups]


def test_matrices_of_layers_are_muons_and_all_else_is_adamws(model):
    matrices, embeddings, vectors = names_of(model, MuonAdamW(model, **RATES))
    named = dict(model.named_parameters())
    assert matrices == {n for n, w in named.items() if w.ndim == 2 and ("proj" in n or "fc" in n)}
    assert embeddings == {"model.shared.weight", *(f"model.{e}coder.embed_positions.weight" for e in ("en", "de"))}
    assert vectors == {n for n, w in named.items() if w.ndim == 1}


def test_a_step_is_that_of_both_of_pytorchs(model):
    apart = copy.deepcopy(model)
    optimizer = MuonAdamW(model, **RATES, betas=(0.9, 0.95), weight_decay=0.1)
    named = dict(apart.named_parameters())
    first, *rest = names_of(model, optimizer)
    both = [
        torch.optim.Muon([named[n] for n in first], lr=5e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([named[n] for n in rest[0]], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
        torch.optim.AdamW([named[n] for n in rest[1]], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    before = copy.deepcopy(model)
    for seed in range(3):
        backward(model, seed)
        backward(apart, seed)
        optimizer.step()
        for own in both:
            own.step()
    for mine, theirs, old in zip(model.parameters(), apart.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
        assert not torch.equal(mine, old)


def test_a_schedule_reaches_both(model):
    optimizer = MuonAdamW(model, **RATES)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 4)
    before = copy.deepcopy(model)
    backward(model, 0)
    optimizer.step()
    # The first step of a warm-up has the length 0.
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [2.5e-3, 5e-4, 5e-4]
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_its_state_goes_on_to_the_same_bits(model):
    optimizer = MuonAdamW(model, **RATES)
    backward(model, 0)
    optimizer.step()
    again = copy.deepcopy(model)
    resumed = MuonAdamW(again, matrix_lr=1.0, lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        for one, own in ((model, optimizer), (again, resumed)):
            backward(one, seed)
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_weights_that_are_added_are_adamws(model):
    optimizer = MuonAdamW(model, **RATES, betas=(0.9, 0.95))
    alone, added = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer.add_param_group({"params": [added], "lr": 0.1})
    adamw = torch.optim.AdamW([alone], lr=0.1, betas=(0.9, 0.95))
    alone.grad, added.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.step()
    adamw.step()
    assert torch.equal(alone, added)


def test_weights_that_are_frozen_stay_as_they_are(model):
    model.model.encoder.requires_grad_(False)
    trained = {n for group in names_of(model, MuonAdamW(model, **RATES)) for n in group}
    assert trained == {n for n, w in model.named_parameters() if w.requires_grad}


def test_a_model_without_linear_layers_to_train_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="BartForConditionalGeneration has no linear layer with weights to train"):
        MuonAdamW(model, **RATES)
