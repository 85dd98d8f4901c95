"""Settings of negative-aware training: TRL's `DPOConfig` and what a round of mining needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import DPOConfig

from angel_trl.pairs import ABSENT_RULES


@dataclass
class AngelConfig(DPOConfig):
    """Configuration of `AngelTrainer`.

    Only what is new, or has another default than in `trl.DPOConfig` or `transformers.TrainingArguments`, stands here.
    One round is one epoch over `mentions_per_round` mentions, so `num_train_epochs` follows from `num_rounds`.

    Args:
        num_rounds: rounds of mining and training.
        mentions_per_round: training mentions mined in a round; above 1 a count, up to 1 a share of the training set.
        num_beams: beams of the search when mining and evaluating (10 in the paper).
        mine_top_k: candidates looked at for pairs (5 in the paper).
        max_pairs_per_mention: most pairs a mention gives in a round.
        absent_gold: what to do when gold is not among the candidates: "nearest" pairs the gold name spelled most like
            the mention with the wrong names, "skip" makes no pair (what the published code does).
        mining_batch_size: mentions searched together; results do not depend on it.
        early_stopping_patience: rounds without a better dev accuracy after which training stops; None never stops.
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
    mining_batch_size: int = field(default=64, metadata={"help": "Mentions searched together."})
    early_stopping_patience: int | None = field(
        default=3, metadata={"help": "Rounds without a better dev accuracy after which training stops."}
    )

    # Other defaults than TRL's: names are short, so recomputing activations only costs time; full precision keeps
    # mined and trained log-probabilities equal; a round is an epoch, scored and kept after its update.
    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate (1e-5 in the paper's NCBI runs)."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Deprecated name of activation_checkpointing; off unless asked for."}
    )
    bf16: bool | None = field(default=False, metadata={"help": "Train under bfloat16 autocast."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: after each round."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: after each round."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model by dev accuracy."})
    metric_for_best_model: str | None = field(default="acc@1", metadata={"help": "Dev metric that decides."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of the metric is better."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: batches are made of mentions."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume with the patience that was left, as an undisturbed run would have."}
    )

    def __post_init__(self) -> None:
        """Check the new settings and refuse those of `DPOConfig` that cannot hold here."""
        for name in ("num_rounds", "num_beams", "mine_top_k", "max_pairs_per_mention", "mining_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.mentions_per_round > 0:
            raise ValueError(
                f"mentions_per_round is {self.mentions_per_round}; give a share (0.1) or a count (500) above 0."
            )
        if self.absent_gold not in ABSENT_RULES:
            raise ValueError(f"absent_gold is {self.absent_gold!r}; choose one of {', '.join(ABSENT_RULES)}.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}; give rounds of at least 1, or null."
            )
        if self.ld_alpha is not None:
            raise ValueError(
                "ld_alpha weights tokens beyond the shared length, but the reference log-probabilities come from "
                "mining as whole sums. Leave it unset."
            )
        if self.sync_ref_model:
            raise ValueError(
                "sync_ref_model needs a reference model in memory, but here the reference is the model of the round's "
                "start, through the log-probabilities it mined. Leave it off."
            )
        if self.max_steps > 0:
            raise ValueError(f"max_steps is {self.max_steps}; training is counted in rounds: set num_rounds.")
        if self.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers keeps workers that hold the first round's pairs in all later rounds. "
                "Leave it off."
            )
        if self.ignore_data_skip:
            raise ValueError(
                "ignore_data_skip would repeat the steps of a round begun before, and rounds are told by the number "
                "of steps. Leave it off."
            )
        if not self.disable_dropout:
            raise ValueError(
                "disable_dropout is off, but log-probabilities under dropout are noise on the mined reference. "
                "Leave it on."
            )
        self.num_train_epochs = self.num_rounds
        # Makes TRL read the reference log-probabilities from the batch in place of loading a reference model.
        self.precompute_ref_log_probs = True
        super().__post_init__()

    def round_size(self, mentions: int) -> int:
        """Mentions in a round, given how many there are for training."""
        if self.mentions_per_round <= 1:
            return max(1, round(self.mentions_per_round * mentions))
        return min(mentions, int(self.mentions_per_round))
