"""AngelTrainer: negative-aware training on TRL's DPOTrainer.

The seam to TRL, all of it: `_prepare_dataset` and `_precompute_ref_logps` (nothing to prepare: batches are made of
mentions, reference log-probabilities are mined), `compute_loss` (the loss itself is TRL's, and so is its fused head:
`preference_head`), `evaluate` (by search), the attributes `loss_weights` and `_metrics`; and transformers'
`_get_num_items_in_batch` (counts pairs), `_determine_best_metric` and `_save_checkpoint` (called to keep the model of
the start), and where it publishes (`searching_trainer`). Tested with TRL 1.15 and 1.16.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather as accelerate_gather
from accelerate.utils import pad_across_processes, parse_flag_from_env
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
)
from trl import DPOTrainer

from angel_trl.architectures import has_logits_bias, load_model, turn_off_dropout
from angel_trl.callbacks import PairMiningCallback, RoundPublishingCallback
from angel_trl.collator import PairCollator, RoundDataset
from angel_trl.config import AngelConfig
from angel_trl.decoding import score_names
from angel_trl.formatting import MentionFormat, MentionFormatter
from angel_trl.held_out import HeldOut
from angel_trl.kb import KnowledgeBase
from angel_trl.mention_batches import add_mention_batches
from angel_trl.mentions import validate_mentions
from angel_trl.mining import RoundPairs, Scorer, mine, nearest_gold
from angel_trl.model_card import Stated
from angel_trl.preference_head import RowHead
from angel_trl.publishing import Destination, Outcome, publish_run
from angel_trl.round_publishing import RoundPublisher
from angel_trl.searching_trainer import SearchingTrainer
from angel_trl.targets import MentionSet, TargetNames, prepare_mentions
from angel_trl.whole_model import WholeModel, base_model, without_adapters

logger = logging.getLogger(__name__)


class AngelTrainer(SearchingTrainer, DPOTrainer):
    """Trains an entity linker to rank the right name above the wrong ones it prefers (ANGEL, section 3.3).

    Each round, `PairMiningCallback` searches a chunk of the training mentions with the current model and makes pairs
    of right names and wrong names preferred to them; an epoch over those mentions follows, in TRL's loss against the
    model of the round's start. One `train()` runs all rounds under one learning-rate schedule. `push_to_hub` publishes
    the linker with its card, and the pairs as a dataset.

    Args:
        model: an encoder-decoder or decoder-only model trained on right names, or its path or Hub id.
        args: the configuration.
        train_dataset: mentions (see `angel_trl.mentions.MENTION_FEATURES`).
        eval_dataset: dev mentions, by whose accuracy the best model is kept.
        kb: the knowledge base.
        processing_class: the tokenizer; the model's own if not given.
        mention_format: choices of the input format.
        callbacks: further callbacks.
        optimizers: optimizer and scheduler, if not those of `args`.
        peft_config: adapter to train on top of the frozen model; of any kind that leaves the tokens as they are
            (LoRA and its kin, not prompt or prefix tuning).
        card: what the cards of published linkers say, besides what is known here: fields of
            `angel_trl.model_card.Stated`; and `corpus_license`, which the card of the pairs says.
        held_out: models that search mentions which they were not trained on, in place of the one that is trained; None
            for none. They decide which pairs there are; the reference stays what `AngelConfig.reference` says.

    Raises:
        ValueError: for an unsupported architecture, adapter or way of distribution, datasets without usable mentions,
            or held-out models that do not fit (`HeldOut.check`).
    """

    _tag_names = ["trl", "dpo", "angel"]
    _name = "ANGEL"
    # `compute_loss` divides by the pairs of the whole accumulated batch.
    loss_is_scaled_for_ga = True
    control: TrainerControl
    loss_weights: list[float]

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
        card: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        if isinstance(model, str):
            options = dict(args.model_init_kwargs or {})
            processing_class = processing_class or AutoTokenizer.from_pretrained(
                model, revision=options.get("revision"), trust_remote_code=False
            )
            model = load_model(model, **options)
            args.model_init_kwargs = None
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path, trust_remote_code=False)
        if processing_class.pad_token is None:
            processing_class.pad_token = processing_class.eos_token
        _refuse(model, peft_config)
        self.card = dict(card or {})
        Stated(**{name: value for name, value in self.card.items() if name != "corpus_license"})
        turn_off_dropout(model)
        validate_mentions(train_dataset)
        validate_mentions(eval_dataset)
        self.targets = TargetNames(kb, MentionFormatter(processing_class, model.config, mention_format))
        self.held_out = held_out
        if held_out is not None:
            held_out.check(train_dataset["id"], self.targets, model)
        self.mentions: MentionSet = prepare_mentions(train_dataset, self.targets, for_training=True)
        self.eval_mentions: MentionSet = prepare_mentions(eval_dataset, self.targets)
        self.nearest_gold = nearest_gold(self.targets, self.mentions, own_name=args.mine_own_name)
        sharded = args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")
        super().__init__(
            model=model,
            # Under FSDP, TRL would load a reference model even where it is not to be used.
            ref_model=_NoReference(model) if sharded else None,
            args=args,
            data_collator=PairCollator(processing_class.pad_token_id),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        self.ref_model = None
        self.whole_model = WholeModel(self.accelerator, self.model)
        base = base_model(self.model)
        add_mention_batches(base, RowHead(base, weighting=args.use_weighting))
        a_step = args.per_device_train_batch_size * max(1, args.n_gpu) * self.accelerator.num_processes
        self.train_dataset = RoundDataset(args.round_size(len(self.mentions)), multiple_of=a_step)
        # Processes hold unequal numbers of pairs, and TRL gathers a value a pair for its metrics.
        self.accelerator.gather = self._gather_unequal
        self._without_pairs = self._nothing_gathered = False
        self._chosen_tokens = 0
        self._rounds = RoundPublishingCallback(self)
        if args.push_to_hub and self.hub_destination().rounds:
            self.add_callback(self._rounds)
        self.add_callback(PairMiningCallback(self))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _gather_unequal(self, tensor: Any) -> Any:
        """Gather a value a pair from all processes; what stands in for the pairs of an empty batch is left out."""
        if not (torch.is_tensor(tensor) and tensor.ndim == 1):
            return accelerate_gather(tensor)
        own = tensor[:0] if self._without_pairs else tensor
        if self.accelerator.num_processes > 1:
            counts = accelerate_gather(torch.tensor([len(own)], device=own.device)).tolist()
            if any(counts):
                rows = accelerate_gather(pad_across_processes(own)).view(len(counts), -1)
                own = torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])
        self._nothing_gathered = not len(own)
        return own

    def _get_num_items_in_batch(self, batch_samples: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        counts = torch.stack([torch.stack([b["pair_count"], _chosen_tokens(b)]) for b in batch_samples]).sum(0)
        pairs, self._chosen_tokens = accelerate_gather(counts.to(device)[None]).sum(0)
        return pairs

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """TRL's loss, as a mean over all pairs of the accumulated batch on all processes (zero if there are none).

        The cross-entropy of an "sft" in the mix is likewise a mean over all tokens of all chosen names.

        Raises:
            ValueError: for `return_outputs`, whose logits are never made.
        """
        if return_outputs:
            raise ValueError("return_outputs is not supported: the loss never holds the logits of all tokens.")
        tokens, inputs = _chosen_tokens(inputs), dict(inputs)
        pairs = inputs.pop("pair_count")
        self._without_pairs = bool(pairs == 0)
        weights = self.loss_weights
        share = torch.ones_like(pairs)
        if num_items_in_batch is not None:
            # Distributed training averages gradients over processes, hence the factor.
            share = pairs * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
            # TRL takes the mean over the tokens of this batch alone, which counts by its tokens, not its pairs.
            of_sft = tokens * self.accelerator.num_processes / max(1, self._chosen_tokens) / share if pairs else 1.0
            self.loss_weights = [
                weight * of_sft if kind == "sft" else weight
                for kind, weight in zip(self.loss_types, weights, strict=True)
            ]
        try:
            loss = super().compute_loss(model, inputs)
        finally:
            self.loss_weights = weights
        self._forget_what_no_pair_gave()
        return loss * share

    def _forget_what_no_pair_gave(self) -> None:
        """Drop metrics of a step in which no process had a pair: means of nothing."""
        if not self._nothing_gathered:
            return
        logged = self._metrics["train" if self.model.training else "eval"]
        for key in [key for key, values in logged.items() if key.startswith(("rewards/", "logps/"))]:
            logged[key].pop()
            if not logged[key]:
                del logged[key]

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Link the dev mentions, or those given, with the constrained search and score the answers, in percent."""
        mentions = self.eval_mentions if eval_dataset is None else prepare_mentions(eval_dataset, self.targets)
        metrics = self.link_and_score(
            mentions,
            metric_key_prefix,
            num_beams=self.args.num_beams,
            batch_size=self.args.mining_batch_size,
            within_types=self.args.within_types,
        )
        # TRL tells by the model's mode whose metrics these are; in training mode it would add those of training.
        self.model.eval()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def mine_round(self, round: int, progress: str | None = None) -> RoundPairs:
        """Mine the pairs of a round with the model as it is now; called by all processes.

        Args:
            round: 0 for the first.
            progress: text of a progress bar, None for none.
        """
        with self.searched_model() as model:
            return mine(
                model,
                self.targets,
                self.mentions,
                self.nearest_gold,
                self.args,
                round=round,
                reference=self.initial_scorer(model) if self.args.reference == "initial" else None,
                held_out=self.held_out,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
                progress=progress,
            )

    @property
    def _initial(self) -> Path:
        return Path(self.args.output_dir) / "initial"

    def keep_initial(self) -> None:
        """Write the model as it is beside the checkpoints, for `reference="initial"`; called by all processes."""
        if self.args.reference == "initial" and not hasattr(self.model, "peft_config"):
            with self.whole_model.to_save() as model:
                if self.is_world_process_zero():
                    model.save_pretrained(self._initial)
            self.accelerator.wait_for_everyone()

    def initial_scorer(self, model: PreTrainedModel) -> Scorer:
        """What scores names by the initial model: `model` without its adapters, else the model kept, while it scores.

        Args:
            model: the model as it is now, whole.
        """

        def score(*names_of_mentions: Any) -> Any:
            if hasattr(self.model, "peft_config"):
                with without_adapters(model):
                    return score_names(model, *names_of_mentions, batch_size=self.args.mining_batch_size)
            if not self._initial.is_dir():
                raise FileNotFoundError(
                    f"reference is 'initial', but the initial model {self._initial} is gone. Start afresh, or put the "
                    "model there that the run was begun with."
                )
            initial = load_model(str(self._initial), dtype=model.dtype).to(model.device)
            return score_names(initial, *names_of_mentions, batch_size=self.args.mining_batch_size)

        return score

    def keep_start_as_best(self) -> None:
        """Evaluate and save the model as it is, so that "best" starts with the model training started from."""
        metrics = self.evaluate()
        self._determine_best_metric(metrics, trial=None)
        if self.args.load_best_model_at_end:
            # transformers takes a best step of 0 for none. Set first, lest old checkpoints there displace this one.
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / "checkpoint-0")
            self._save_checkpoint(self.model, trial=None)

    def hub_destination(self) -> Destination:
        """Where linker, pairs and rounds are published: `AngelConfig.hub_destination`."""
        return self.args.hub_destination()

    @property
    def round_publisher(self) -> RoundPublisher | None:
        """What publishes the linkers of rounds while they are made, on the first process; None if nothing does."""
        return self._rounds.publisher

    def _finish_current_push(self) -> None:
        self._rounds.wait()

    def _add_card(self, folder: Path, **card: Any) -> None:
        super()._add_card(folder, **{"results": {"settings": {"angel": self.args.to_dict()}}, **card})

    def _publish(self, folder: Path, to: Destination, card: Mapping[str, Any], **commit: Any) -> Outcome:
        mining = self.args.mining_settings()
        if self.held_out is not None:
            mining["held_out_models"] = len(self.held_out.models)
        said = {**card, "mining": mining}
        return publish_run(folder, self.args.output_dir, to, card=said, rounds=self.round_publisher, **commit)


class _NoReference(torch.nn.Module):
    """Takes the place of a reference model while the trainer is built."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config

    def forward(self) -> None:
        """Never called."""


def _chosen_tokens(batch: dict[str, Any]) -> torch.Tensor:
    """How many tokens the chosen names of a batch have; none for what stands in for pairs."""
    mask = batch["completion_mask"]
    return mask[: len(mask) // 2].sum() * (batch["pair_count"] > 0)


def _refuse(model: PreTrainedModel, peft_config: Any) -> None:
    """Say what cannot be trained, and what can in its place."""
    if hasattr(model, "peft_config"):
        raise ValueError(
            "The model has adapters already, and mining would not know the reference. Merge them "
            "(model.merge_and_unload()) and give a peft_config for new ones."
        )
    if getattr(peft_config, "is_prompt_learning", False):
        raise ValueError(
            f"peft_config is a {type(peft_config).__name__}: prompt learning puts tokens before those that the search "
            "scores. Use LoRA or another adapter of the weights."
        )
    if has_logits_bias(model):
        raise ValueError(
            "The model's final_logits_bias is not zero, which TRL's language-model head leaves out. Set it to zero "
            "and train on right names first."
        )
