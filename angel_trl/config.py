"""Settings of negative-aware training: TRL's `DPOConfig` and what a round of mining needs."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from transformers.trainer_utils import HubStrategy, SaveStrategy
from trl import DPOConfig

from angel_trl.pairs import ABSENT_RULES
from angel_trl.publishing import Destination

REFERENCES = ("round", "initial")
HUB_STRATEGIES = ("end", "every_save")

_SEARCHED = "dev mentions are linked by search, {mining_batch_size} (mining_batch_size) at a time"
_TOKENISED = "mentions become token ids by `MentionFormat` (max_words), and batches of names are not padded"
_NO_REFERENCE_MODEL = (
    "there is no reference model: its log-probabilities come from mining (`reference` says of which model)"
)
_NOT_COMPILED = "batches have new shapes at every step, and positions travel with the token ids"
_NOISE = "log-probabilities under noise are noise on the mined reference"

REFUSED = {
    "ld_alpha": "it weights tokens beyond the shared length, but mined log-probabilities are sums over whole names",
    "sync_ref_model": _NO_REFERENCE_MODEL,
    "ref_model_mixup_alpha": _NO_REFERENCE_MODEL,
    "ref_model_sync_steps": _NO_REFERENCE_MODEL,
    "precompute_ref_batch_size": _NO_REFERENCE_MODEL,
    "max_steps": "training is counted in rounds: set num_rounds",
    "disable_dropout": _NOISE,
    "neftune_noise_alpha": _NOISE,
    "max_length": _TOKENISED,
    "truncation_mode": _TOKENISED,
    "padding_free": _TOKENISED,
    "pad_to_multiple_of": _TOKENISED,
    "pad_token": _TOKENISED,
    "dataset_num_proc": _TOKENISED,
    "length_column_name": _TOKENISED,
    "label_names": _TOKENISED,
    "remove_unused_columns": _TOKENISED,
    "label_smoothing_factor": "the loss is a preference loss, whose own setting is label_smoothing",
    "router_aux_loss_coef": "no mixture-of-experts architecture is supported",
    "trust_remote_code": "only architectures of transformers itself are supported",
    "per_device_eval_batch_size": _SEARCHED,
    "prediction_loss_only": _SEARCHED,
    "eval_accumulation_steps": _SEARCHED,
    "eval_do_concat_batches": _SEARCHED,
    "eval_use_gather_object": _SEARCHED,
    "include_for_metrics": _SEARCHED,
    "batch_eval_metrics": _SEARCHED,
    "bf16_full_eval": "evaluation searches in the precision of training: set bf16",
    "fp16_full_eval": "evaluation searches in the precision of training: set bf16",
    "eval_on_start": "the model of the start is always evaluated",
    "fp16": "names are scored by sums of log-probabilities, for which float16 has too small a range: use bf16",
    "torch_compile": _NOT_COMPILED,
    "torch_compile_backend": _NOT_COMPILED,
    "torch_compile_mode": _NOT_COMPILED,
    "use_liger_kernel": "its kernels replace modules whose log-probabilities have been shown to equal those of mining",
    "auto_find_batch_size": "the steps of a round follow from the batch size",
    "average_tokens_across_devices": "the loss is a mean over the pairs of all processes",
    "dataloader_persistent_workers": "such workers hold the first round's pairs in all later rounds",
    "ignore_data_skip": "it would repeat steps of a round begun before, and rounds are told by the number of steps",
    "parallelism_config": "sequences are not split over processes",
    "hub_always_push": "every round is published, and none passed over because another is on its way",
}
"""Settings of `DPOConfig` that must keep their defaults, and why."""

_OF_MINING = (
    "mentions_per_round",
    "num_beams",
    "mine_top_k",
    "max_pairs_per_mention",
    "absent_gold",
    "mine_own_name",
    "reference",
    "within_types",
    "seed",
)


@dataclass
class AngelConfig(DPOConfig):
    """Configuration of `AngelTrainer`.

    Only what is new, or has another default than in `trl.DPOConfig` or `transformers.TrainingArguments`, stands here.
    One round is one epoch over `mentions_per_round` mentions, so `num_train_epochs` follows from `num_rounds`. All
    other settings work as in TRL, but for those of `REFUSED`, which must be left alone.

    Args:
        num_rounds: rounds of mining and training.
        mentions_per_round: training mentions mined in a round; above 1 a count, up to 1 a share of the training set.
        num_beams: beams of the search when mining and evaluating (10 in the paper).
        mine_top_k: candidates looked at for pairs (5 in the paper).
        max_pairs_per_mention: most pairs a mention gives in a round.
        absent_gold: what to do when gold is not among the candidates: "nearest" pairs the gold name spelled most like
            the mention with the wrong names, "skip" makes no pair (what the published code does).
        mine_own_name: whether the name that a mention spells out is a candidate like others (in the paper it is).
            False leaves it out if it is a gold one, so that the mention is mined as one whose string is no name; where
            its concepts have no other it makes no pair.
        reference: the model whose log-probabilities preferences are measured against: "round" is that of the round's
            start, whose come free with mining (the paper's); "initial" that of the first round's start, which scores
            each pair once.
        within_types: mine and evaluate among the names of concepts of the mention's own semantic types.
        mining_batch_size: mentions searched together; results do not depend on it.
        early_stopping_patience: rounds without a better dev accuracy after which training stops; None never stops.
        hub_strategy: what is published, with `push_to_hub`: "end" the finished linker and the mined pairs, when
            `AngelTrainer.push_to_hub` is called; "every_save" besides the linker of each round as it is made, on the
            branch `rounds`, with a tag such as `round-03`.
        hub_pairs_id: the Hub dataset for the mined pairs; None adds "-pairs" to `hub_model_id`, "none" leaves them
            out. They hold passages of the corpus, so the dataset is private unless `hub_private_repo` is False.
    """

    num_rounds: int = field(default=10, metadata={"help": "Rounds of mining and training."})
    mentions_per_round: float = field(
        default=0.1, metadata={"help": "Training mentions of a round: above 1 a count, up to 1 a share of them."}
    )
    num_beams: int = field(default=10, metadata={"help": "Beams of the search when mining and evaluating."})
    mine_top_k: int = field(default=5, metadata={"help": "Candidates looked at for pairs."})
    max_pairs_per_mention: int = field(default=4, metadata={"help": "Most pairs a mention gives in a round."})
    absent_gold: str = field(
        default="nearest",
        metadata={
            "help": "When gold is not among the candidates: pair the nearest gold name, or skip the mention.",
            "choices": list(ABSENT_RULES),
        },
    )
    mine_own_name: bool = field(
        default=True,
        metadata={"help": "Whether the gold name that a mention spells out is a candidate when mining, or left out."},
    )
    reference: str = field(
        default="round",
        metadata={
            "help": "Preferences are measured against the model of the round's start, or the initial one.",
            "choices": list(REFERENCES),
        },
    )
    within_types: bool = field(
        default=False, metadata={"help": "Mine and evaluate among names of the mention's own semantic types."}
    )
    mining_batch_size: int = field(default=64, metadata={"help": "Mentions searched together."})
    early_stopping_patience: int | None = field(
        default=3, metadata={"help": "Rounds without a better dev accuracy after which training stops."}
    )

    hub_pairs_id: str | None = field(
        default=None,
        metadata={
            "help": "Hub dataset for the mined pairs, private unless hub_private_repo is false, as they hold passages "
            "of the corpus; default: hub_model_id with -pairs; none leaves them out."
        },
    )

    # Other defaults than TRL's: names are short, so recomputing activations only costs time; full precision keeps
    # mined and trained log-probabilities equal; a round is an epoch, scored and kept after its update.
    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate (1e-5 in the paper's NCBI runs)."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Deprecated name of activation_checkpointing; off unless asked for."}
    )
    bf16: bool | None = field(default=False, metadata={"help": "Mine and train under bfloat16 autocast."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: after each round."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: after each round."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model by dev accuracy."})
    metric_for_best_model: str | None = field(default="acc@1", metadata={"help": "Dev metric that decides."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of the metric is better."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: batches are made of mentions."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every weight takes part in every batch, so looking costs time only."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume with the patience that was left, as an undisturbed run would have."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Publish to the Hub: see hub_strategy."})
    hub_model_id: str | None = field(default=None, metadata={"help": "user/name of the linker on the Hub."})
    hub_strategy: str = field(
        default="end",
        metadata={
            "help": "end publishes the finished linker; every_save also that of each round as it is made, with a tag "
            "such as round-03.",
            "choices": list(HUB_STRATEGIES),
        },
    )

    def __post_init__(self) -> None:
        """Check the new settings and refuse those of `DPOConfig` that cannot hold here.

        Raises:
            ValueError: naming the setting, its value and the reason.
        """
        for name in ("num_rounds", "num_beams", "mine_top_k", "max_pairs_per_mention", "mining_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.mentions_per_round > 0:
            raise ValueError(
                f"mentions_per_round is {self.mentions_per_round}; give a share (0.1) or a count (500) above 0."
            )
        for name, choices in (("absent_gold", ABSENT_RULES), ("reference", REFERENCES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        if self.hub_strategy not in HUB_STRATEGIES:
            raise ValueError(
                f"hub_strategy is {self.hub_strategy!r}; choose one of {', '.join(HUB_STRATEGIES)}: linkers are "
                "published, and what else a checkpoint has stays in output_dir."
            )
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}; give rounds of at least 1, or null."
            )
        self._refuse()
        self.num_train_epochs = self.num_rounds
        # Makes TRL read the reference log-probabilities from the batch in place of loading a reference model.
        self.precompute_ref_log_probs = True
        super().__post_init__()
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError(
                "early_stopping_patience counts evaluations, but eval_strategy is 'no'. Evaluate, or set it to null."
            )
        if self.accelerator_config.dispatch_batches or self.accelerator_config.split_batches:
            raise ValueError(
                "accelerator_config asks for dispatch_batches or split_batches, which cut batches into rows, but here "
                "a batch is a set of mentions. Leave both off."
            )
        if (self.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "activation_checkpointing_kwargs has use_reentrant, with which gradients of what all layers share "
                "(T5's relative positions) are lost. Leave it out."
            )
        if self.push_to_hub:
            self._check_hub()

    def _check_hub(self) -> None:
        if self.hub_strategy == HubStrategy.EVERY_SAVE and self.save_strategy != "epoch":
            raise ValueError(
                "hub_strategy is 'every_save', which publishes each round when it is saved, but save_strategy is "
                f"{SaveStrategy(self.save_strategy).value!r}. Set it to 'epoch', or hub_strategy to 'end'."
            )
        self.hub_destination()

    def hub_destination(self) -> Destination:
        """Where the run is published.

        Raises:
            ValueError: if the settings do not say, naming the one that is missing or wrong.
        """
        if self.hub_model_id is None:
            raise ValueError("push_to_hub needs hub_model_id: give 'user/name', where the linker is to be published.")
        pairs_id = f"{self.hub_model_id}-pairs" if self.hub_pairs_id is None else self.hub_pairs_id
        return Destination(
            self.hub_model_id,
            None if pairs_id == "none" else pairs_id,
            self.hub_private_repo,
            self.hub_revision,
            self.hub_strategy == HubStrategy.EVERY_SAVE,
            self.hub_token,
        )

    def mining_settings(self) -> dict[str, Any]:
        """The settings that decide which pairs are mined, by name."""
        return {name: getattr(self, name) for name in _OF_MINING}

    def _refuse(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            # TRL resolves some defaults to None, and none asks for nothing.
            if setting.name in REFUSED and value not in (default, None):
                reason = REFUSED[setting.name].format(mining_batch_size=self.mining_batch_size)
                raise ValueError(f"{setting.name} is {value!r} and must be left at {default!r}: {reason}.")
        if self.num_train_epochs not in (self.num_rounds, DPOConfig.__dataclass_fields__["num_train_epochs"].default):
            raise ValueError(
                f"num_train_epochs is {self.num_train_epochs}, but a round is an epoch: set num_rounds, leave it out."
            )
        if self.use_weighting and "sft" in self.loss_type:
            raise ValueError("use_weighting with an 'sft' loss fails within TRL: weights are of pairs. Leave one out.")
        if self.train_sampling_strategy == "group_by_length":
            raise ValueError("train_sampling_strategy is 'group_by_length', but batches of names are not padded.")

    def round_size(self, mentions: int) -> int:
        """Mentions in a round, given how many there are for training."""
        if self.mentions_per_round <= 1:
            return max(1, round(self.mentions_per_round * mentions))
        return min(mentions, int(self.mentions_per_round))
