"""Scores of names from decoder states, in the rows that TRL's loss reads: the seam to the forward of `DPOTrainer`."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from trl.trainer import utils as trl_utils

# Logits that may be held at once: 256 MB in float32.
_LOGITS_AT_ONCE = 2**26
# Numbers in a temporary array: 16 MB in float32.
_TEMPORARY = 2**22


@dataclasses.dataclass(slots=True)
class RowScores:
    """What `DPOTrainer._compute_loss` reads of each token of a name, `[rows, longest name]`, zero beyond its end.

    Args:
        log_probs: natural logarithm of the probability of the token; the only field with a gradient.
        entropy: of the distribution of the token.
        mean_logits: over the vocabulary.
        is_top1: bool, whether the token is the likeliest.
        log_sum_sq_probs: logarithm of the sum of squared probabilities; None unless asked for.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    mean_logits: torch.Tensor
    is_top1: torch.Tensor
    log_sum_sq_probs: torch.Tensor | None = None

    def in_rows(self, places: torch.Tensor) -> RowScores:
        """From one value a token of the batch, `[tokens]`, to rows: `places` says which token, -1 for none."""

        def rows(values: torch.Tensor) -> torch.Tensor:
            return values[places.clamp(min=0)].masked_fill(places < 0, 0)

        return RowScores(
            rows(self.log_probs),
            rows(self.entropy),
            rows(self.mean_logits),
            rows(self.is_top1),
            None if self.log_sum_sq_probs is None else rows(self.log_sum_sq_probs),
        )


class RowHead:
    """Scores each token of the names of a batch once and lays the scores out in the rows of pairs.

    While all logits fit in memory that is done with them. More go through TRL's fused head, which never holds them,
    but computes them twice. TRL's way to the states does not suit us (it runs the whole model on the rows, and for T5
    forgets to scale them), so its head is given this stand-in for the model, whose "backbone" hands on the states
    that are there already.

    Args:
        model: whose language-model head it is; looked up at each call, since distributed wrappers replace parameters.
        weighting: also compute what WPO's weights need (`DPOConfig.use_weighting`).
        at_once: most logits held.
    """

    def __init__(self, model: PreTrainedModel, *, weighting: bool = False, at_once: int = _LOGITS_AT_ONCE) -> None:
        self.config = model.config
        self._model = model
        self._at_once = at_once
        self._weighting = weighting
        fields = [field.name for field in dataclasses.fields(RowScores)]
        self._fields = tuple(fields if weighting else fields[:-1])
        # TRL 1.15 has a fused head only where Triton is installed.
        self._can_fuse = trl_utils._ChunkedLogProbFunction is not None
        trl_utils.add_fused_lm_head(self, outputs=self._fields)

    def forward(self, **kwargs: Any) -> Any:
        """Replaced by TRL."""

    def base_model(self, *, states: torch.Tensor, use_cache: bool) -> BaseModelOutput:
        """The states, `[1, tokens, width]`, as a backbone returns them."""
        return BaseModelOutput(last_hidden_state=states)

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head itself."""
        return self._model.get_output_embeddings()

    def __call__(self, states: torch.Tensor, batch: dict[str, Any]) -> RowScores:
        """Scores for the loss.

        Args:
            states: `[name tokens, width]`.
            batch: of `PairCollator`.
        """
        labels = batch["name_labels"]
        fused = self._can_fuse and len(states) * self.config.vocab_size > self._at_once
        scores = self._fused(states, labels) if fused else self._from_logits(states, labels)
        return scores.in_rows(batch["row_places"])

    def _fused(self, states: torch.Tensor, labels: torch.Tensor) -> RowScores:
        # The label of a state is expected in the place after it.
        scored = self.forward(
            states=F.pad(states, (0, 0, 0, 1))[None], labels=F.pad(labels, (1, 0))[None], fused_lm_head=True
        )
        return RowScores(**{field: getattr(scored, field)[0] for field in self._fields})

    def _from_logits(self, states: torch.Tensor, labels: torch.Tensor) -> RowScores:
        head = self.get_output_embeddings()
        weight, bias = (part.full_tensor() if isinstance(part, DTensor) else part for part in (head.weight, head.bias))
        return RowScores(*_Scores.apply(states, weight, bias, labels, self._weighting))


class _Scores(torch.autograd.Function):
    """The fields of `RowScores` from states `[tokens, width]`, with one array of the size of the logits and no other.

    The gradient of the weight is an array of its own, to which autograd adds that of tied embeddings in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weighting: bool,
    ) -> tuple[torch.Tensor, ...]:
        logits = F.linear(states, weight, bias)
        ctx.save_for_backward(states, weight, labels)
        ctx.computed_in = logits.dtype
        # Becomes the probabilities, a few rows at a time.
        ctx.probs = logits.float()
        parts = []
        rows = max(1, _TEMPORARY // weight.shape[0])
        for probs, label in zip(ctx.probs.split(rows), labels.split(rows), strict=True):
            values = probs.clone()
            total = values.logsumexp(-1)
            probs.sub_(total[:, None]).exp_()
            parts.append(
                (
                    values.gather(1, label[:, None])[:, 0] - total,
                    total - (probs * values).sum(-1),
                    values.mean(-1),
                    values.argmax(-1) == label,
                    (2 * values).logsumexp(-1) - 2 * total if weighting else total,
                )
            )
        log_probs, *others = (torch.cat(field) for field in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*others)
        return (log_probs, *others) if weighting else (log_probs, *others[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, labels = ctx.saved_tensors
        if ctx.probs is None:
            raise RuntimeError("The gradients of scores can be asked for once only.")
        of_logits, ctx.probs = ctx.probs.mul_(-gradient[:, None]), None
        of_logits[torch.arange(len(labels), device=labels.device), labels] += gradient
        of_logits = of_logits.to(ctx.computed_in)
        of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = (of_logits.t() @ states.to(of_logits.dtype)).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = of_logits.sum(0).to(weight.dtype)
        return (of_logits @ weight.to(of_logits.dtype)).to(states.dtype), of_weight, of_bias, None, None
