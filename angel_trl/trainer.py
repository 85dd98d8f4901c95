"""AngelTrainer: negative-aware training on TRL's DPOTrainer.

The seam to TRL, all of it: `_prepare_dataset` and `_precompute_ref_logps` (nothing to prepare: batches are made of
mentions, reference log-probabilities are mined), `compute_loss` (the loss itself is TRL's), `evaluate` (by search),
and transformers' `_get_num_items_in_batch` (counts pairs), `_determine_best_metric` and `_save_checkpoint` (called to
keep the model of the start). Tested with TRL 1.16.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather as accelerate_gather
from accelerate.utils import pad_across_processes
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
)
from trl import DPOTrainer

from angel_trl.callbacks import PairMiningCallback
from angel_trl.collator import PairCollator, RoundDataset, first_or_none
from angel_trl.config import AngelConfig
from angel_trl.evaluation import evaluate_linking
from angel_trl.formatting import MentionFormat, MentionFormatter
from angel_trl.kb import KnowledgeBase
from angel_trl.mentions import validate_mentions
from angel_trl.shared_encoder import add_mention_batches, turn_off_dropout
from angel_trl.targets import MentionSet, NearestNames, TargetNames, prepare_mentions

logger = logging.getLogger(__name__)


class AngelTrainer(DPOTrainer):
    """Trains an entity linker to rank the right name above the wrong ones it prefers (ANGEL, section 3.3).

    Each round, `PairMiningCallback` searches a chunk of the training mentions with the current model and makes pairs
    of right names and wrong names preferred to them; an epoch over those mentions follows, in TRL's loss against the
    model of the round's start. One `train()` runs all rounds under one learning-rate schedule.

    Args:
        model: an encoder-decoder model trained on right names, or its path or Hub id.
        args: the configuration.
        train_dataset: mentions (see `angel_trl.mentions.MENTION_FEATURES`).
        eval_dataset: dev mentions, by whose accuracy the best model is kept.
        kb: the knowledge base.
        processing_class: the tokenizer; the model's own if not given.
        mention_format: choices of the input format.
        callbacks: further callbacks.
        optimizers: optimizer and scheduler, if not those of `args`.
        peft_config: adapter to train on top of the frozen model.

    Raises:
        ValueError: for an unsupported architecture or datasets without usable mentions.
    """

    _tag_names = ["trl", "dpo", "angel"]
    _name = "ANGEL"
    # `compute_loss` divides by the pairs of the whole accumulated batch.
    loss_is_scaled_for_ga = True
    control: TrainerControl

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: AngelConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset,
        kb: KnowledgeBase,
        processing_class: PreTrainedTokenizerBase | None = None,
        mention_format: MentionFormat | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
        peft_config: Any = None,
    ) -> None:
        if isinstance(model, str):
            options = {"dtype": torch.float32, **(args.model_init_kwargs or {})}
            processing_class = processing_class or AutoTokenizer.from_pretrained(
                model, revision=options.get("revision")
            )
            model = AutoModelForSeq2SeqLM.from_pretrained(model, **options)
            args.model_init_kwargs = None
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path)
        turn_off_dropout(model)
        validate_mentions(train_dataset)
        validate_mentions(eval_dataset)
        self.targets = TargetNames(kb, MentionFormatter(processing_class, model.config, mention_format))
        self.mentions: MentionSet = prepare_mentions(train_dataset, self.targets, for_training=True)
        self.eval_mentions: MentionSet = prepare_mentions(eval_dataset, self.targets)
        nearest = NearestNames(kb, exclude=self.targets.unreachable)
        self.nearest_gold = first_or_none(nearest.nearest(self.mentions.mentions, self.mentions.gold, 1))
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(processing_class.pad_token_id),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        add_mention_batches(self.model)
        self.train_dataset = RoundDataset(args.round_size(len(self.mentions)))
        # Processes hold unequal numbers of pairs, and TRL gathers a value a pair for its metrics.
        self.accelerator.gather = self._gather_unequal
        self.add_callback(PairMiningCallback(self))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _gather_unequal(self, tensor: Any) -> Any:
        if self.accelerator.num_processes > 1 and torch.is_tensor(tensor) and tensor.ndim == 1:
            tensor = pad_across_processes(tensor.float(), pad_index=float("nan"))
            gathered = accelerate_gather(tensor)
            return gathered[~gathered.isnan()]
        return accelerate_gather(tensor)

    def _get_num_items_in_batch(self, batch_samples: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        pairs = torch.stack([batch["pair_count"] for batch in batch_samples]).sum().to(device)
        return accelerate_gather(pairs[None]).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """TRL's loss, as a mean over all pairs of the accumulated batch on all processes (zero if there are none)."""
        inputs = dict(inputs)
        pairs = inputs.pop("pair_count")
        # The decoder's sequence is what TRL scores; the encoder's input and the sharing travel beside it.
        loss = super().compute_loss(model, inputs, return_outputs)
        if num_items_in_batch is None:
            return loss
        # Distributed training averages gradients over processes, hence the factor.
        share = pairs * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
        return (loss[0] * share, loss[1]) if return_outputs else loss * share

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Link the dev mentions, or those given, with the constrained search and score the answers, in percent."""
        mentions = self.eval_mentions if eval_dataset is None else prepare_mentions(eval_dataset, self.targets)
        result = evaluate_linking(
            self.accelerator.unwrap_model(self.model),
            self.targets,
            mentions,
            num_beams=self.args.num_beams,
            top_k=5,
            batch_size=self.args.mining_batch_size,
        )
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in result.metrics.items()}
        # TRL tells by the model's mode whose metrics these are; in training mode it would add those of training.
        self.model.eval()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def keep_start_as_best(self) -> None:
        """Evaluate and save the model as it is, so that "best" starts with the model training started from."""
        metrics = self.evaluate()
        self._determine_best_metric(metrics, trial=None)
        if self.args.load_best_model_at_end:
            # transformers takes a best step of 0 for none. Set first, lest old checkpoints there displace this one.
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / "checkpoint-0")
            self._save_checkpoint(self.model, trial=None)
