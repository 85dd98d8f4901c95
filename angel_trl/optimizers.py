"""Muon for the weight matrices of a model and AdamW for the rest, for models that begin with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class MuonAdamW(torch.optim.Optimizer):
    """PyTorch's `Muon` on the matrices of linear layers, and its `AdamW` on embeddings, biases and norms, as one.

    Muon takes the momentum of a matrix to its nearest orthogonal one (Jordan et al., 2024), so that every direction is
    learnt at the same pace; its steps are scaled to the size of AdamW's (`match_rms_adamw`: Liu et al., 2025, arXiv
    2502.16982). The last layer, which scores the vocabulary, counts as an embedding. PyTorch's Muon computes in
    bfloat16 whatever the weights are, which is slow on a CPU without such instructions.

    Args:
        model: whose weights are trained: those with `requires_grad`.
        matrix_lr: learning rate of the matrices.
        lr: learning rate of the rest.
        betas: of AdamW.
        weight_decay: of the matrices and of embeddings; biases and norms have none.

    Raises:
        ValueError: if the model has no linear layer to train.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        matrix_lr: float,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        head = model.get_output_embeddings()
        if head is not None:
            embeddings.add(id(head.weight))
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - embeddings
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        matrices = [weight for weight in trained if id(weight) in linear]
        others = [weight for weight in trained if id(weight) not in linear]
        if not matrices:
            raise ValueError(
                f"{type(model).__name__} has no linear layer with weights to train, which Muon is for: use AdamW."
            )
        decayed: list[dict[str, Any]] = [
            {"params": [weight for weight in others if weight.ndim > 1], "weight_decay": weight_decay},
            {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self._muon = torch.optim.Muon(
            matrices, lr=matrix_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW([group for group in decayed if group["params"]], lr=lr, betas=betas)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], self._adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Whoever loads a state or sets a learning rate does so on this optimizer, which replaces what it holds.
        matrices = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:matrices], self.param_groups[matrices:]
        self._muon.state = self._adamw.state = self.state
        self._muon.step()
        self._adamw.step()
        return loss
