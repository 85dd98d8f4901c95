"""Scores of names from decoder states, in the rows that TRL's loss reads: the seam to the forward of `DPOTrainer`."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from trl.trainer import utils as trl_utils

# Logits that may be held at once: 256 MB in float32.
_LOGITS_AT_ONCE = 2**26


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
        logits = self.get_output_embeddings()(states).float()
        log_probs = logits.log_softmax(-1)
        with torch.no_grad():
            mean, top = logits.mean(-1), logits.argmax(-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            squares = (2 * log_probs).logsumexp(-1) if self._weighting else None
        return RowScores(log_probs.gather(1, labels[:, None])[:, 0], entropy, mean, top == labels, squares)
