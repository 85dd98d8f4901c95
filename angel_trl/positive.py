"""The positive-only stage: cross-entropy on right names, with the constrained search as its dev score."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional as F
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from angel_trl.collator import PositiveCollator, PositiveExample
from angel_trl.kb_examples import KBExamples
from angel_trl.mention_batches import add_mention_batches
from angel_trl.searching_trainer import SearchingTrainer
from angel_trl.targets import MentionSet, TargetNames
from angel_trl.whole_model import WholeModel


@dataclass
class PositiveConfig(Seq2SeqTrainingArguments):
    """Configuration of `PositiveTrainer`; only what is new or has another default than in transformers.

    Args:
        num_beams: beams of the dev evaluation.
        early_stopping_patience: evaluations without a better dev accuracy after which training stops.
    """

    num_beams: int = field(default=5, metadata={"help": "Beams of the dev evaluation."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better dev accuracy after which training stops."}
    )
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing (0.1 in the paper)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay (0.01 in the paper)."})
    metric_for_best_model: str | None = field(default="acc@1", metadata={"help": "Dev metric that decides."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of the metric is better."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps its patience."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: batches are made of mentions."})


class ExampleDataset(torch.utils.data.Dataset[PositiveExample]):
    """Positive examples as a torch dataset."""

    def __init__(self, examples: Sequence[PositiveExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> PositiveExample:
        return self.examples[place]


class EpochSampler(LengthGroupedSampler):
    """Batches of similar length, in an order of its own for each epoch, also when training resumes within it.

    Args:
        trainer: whose examples these are.
        lengths: of the examples.
    """

    def __init__(self, trainer: PositiveTrainer, lengths: list[int]) -> None:
        args = trainer.args
        super().__init__(
            args.train_batch_size * args.gradient_accumulation_steps,
            lengths=lengths,
            # A generator of its own, so that all processes draw the same order whatever else they draw.
            generator=torch.Generator(),
        )
        self._trainer = trainer
        batches = -(-len(lengths) // (args.train_batch_size * args.world_size))
        self._steps = -(-batches // args.gradient_accumulation_steps)

    def __iter__(self) -> Iterator[int]:
        # By the steps done, since not every wrapper tells a sampler the epoch when it resumes.
        epoch = self._trainer.state.global_step // self._steps
        self.generator.manual_seed(self._trainer.args.seed + 1000 * epoch)
        return super().__iter__()


class StreamSampler(Sampler[int]):
    """Examples in their own order, but for windows of 50 steps within which batches are of similar length.

    For examples that are made when they are asked for: nothing is kept but a window, and a run that resumes does not
    make again what it has done.

    Args:
        trainer: whose examples these are.
        examples: the examples.
    """

    _WINDOW_STEPS = 50

    def __init__(self, trainer: PositiveTrainer, examples: KBExamples) -> None:
        self._trainer = trainer
        self._examples = examples
        args = trainer.args
        self._batch = args.train_batch_size
        self._step = self._batch * args.world_size * args.gradient_accumulation_steps

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[int]:
        # What was trained on is passed over by number only.
        done = self._trainer.state.global_step * self._step % max(1, len(self))
        window = self._WINDOW_STEPS * self._step
        for first in range(0, len(self), window):
            places = range(first, min(first + window, len(self)))
            if places.stop <= done:
                yield from places
                continue
            ordered = sorted(places, key=self._examples.size)
            batches = [ordered[i : i + self._batch] for i in range(0, len(ordered), self._batch)]
            last = batches.pop() if len(batches[-1]) < self._batch else []
            random.Random(f"{self._trainer.args.seed}:{first}").shuffle(batches)
            for batch in batches:
                yield from batch
            yield from last


class PositiveTrainer(SearchingTrainer, Seq2SeqTrainer):
    """Trains a model to produce right names (ANGEL, section 3.2): each mention with the names given for it.

    Args:
        model: an encoder-decoder or decoder-only model.
        args: the configuration.
        examples: mentions with the names to learn; a list, shuffled in each epoch, or `KBExamples`, taken in order.
        targets: names and formatter.
        eval_mentions: dev mentions; None trains without evaluation.
        callbacks: further callbacks.
        optimizers: optimizer and scheduler, if not those of `args`.
    """

    # Loss is a mean over the tokens of a batch; the trainer divides by the accumulation steps.
    loss_is_scaled_for_ga = False
    control: TrainerControl

    def __init__(
        self,
        model: PreTrainedModel,
        args: PositiveConfig,
        examples: Sequence[PositiveExample],
        targets: TargetNames,
        eval_mentions: MentionSet | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ) -> None:
        self.targets = targets
        self.eval_mentions = eval_mentions
        tokenizer = targets.formatter.tokenizer
        super().__init__(
            model=model,
            args=args,
            data_collator=PositiveCollator(targets.sequences, tokenizer.pad_token_id),
            train_dataset=ExampleDataset(examples),
            # The trainer only asks whether there is one; `evaluate` searches `eval_mentions`.
            eval_dataset=None if eval_mentions is None else ExampleDataset([]),
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.whole_model = WholeModel(self.accelerator, self.model)
        add_mention_batches(self.model)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def _get_train_sampler(self, train_dataset: ExampleDataset | None = None) -> Sampler[int]:
        # Batches of similar length waste little on padding.
        if isinstance(self.train_dataset.examples, KBExamples):
            return StreamSampler(self, self.train_dataset.examples)
        lengths = [len(example.mention.source or example.mention.prefix) for example in self.train_dataset.examples]
        return EpochSampler(self, lengths)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Label-smoothed cross-entropy, a mean over the tokens of the names."""
        logits, labels = model(**inputs)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.args.label_smoothing_factor)
        return (loss, logits) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Link the dev mentions with the constrained search and score the answers, in percent."""
        if self.eval_mentions is None:
            raise ValueError("This trainer was given no eval_mentions.")
        metrics = self.link_and_score(
            self.eval_mentions,
            metric_key_prefix,
            num_beams=self.args.num_beams,
            batch_size=self.args.per_device_eval_batch_size,
        )
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
