"""Mining at the start of every round."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from angel_trl.mining import from_parquet, mine, to_dataset

if TYPE_CHECKING:
    from angel_trl.trainer import AngelTrainer

logger = logging.getLogger(__name__)


class PairMiningCallback(TrainerCallback):
    """Fills the trainer's training set with the pairs of each round, mined with the model as it then is.

    The pairs are written to `output_dir/pairs/round-NNN.parquet` in TRL's preference columns before training on them.
    A run resumed within a round reads them back, since its model is no longer the one that mined.

    Args:
        trainer: the trainer whose rounds these are.
    """

    def __init__(self, trainer: AngelTrainer) -> None:
        self.trainer = trainer

    def path(self, round: int) -> Path:
        """Where the pairs of a round are kept."""
        return Path(self.trainer.args.output_dir) / "pairs" / f"round-{round:03d}.parquet"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the model before any update, so that training never ends with a worse one."""
        if state.global_step > 0:
            return
        if state.is_world_process_zero:
            # Of a former run here; left behind, its later rounds would pass for rounds of this one.
            for path in self.path(0).parent.glob("round-*.parquet"):
                path.unlink()
        self.trainer.keep_initial()
        # A run resumed from `checkpoint-0` has scored it already.
        if state.best_metric is None:
            self.trainer.keep_start_as_best()
        # To save an optimizer that has not begun, FSDP makes it take a step of length 0, which Adam counts.
        self.trainer.optimizer.state.clear()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mine the round that begins, or read its pairs back when resuming within it."""
        trainer = self.trainer
        steps = state.max_steps // trainer.args.num_rounds
        round, done = divmod(state.global_step, steps)
        path = self.path(round)
        if done:
            if not path.exists():
                raise FileNotFoundError(
                    f"Cannot go on within round {round}: its pairs {path} are gone. Resume from a checkpoint at the "
                    f"end of a round (a multiple of {steps} steps)."
                )
            mined = from_parquet(path, trainer.mentions, trainer.args, round)
        else:
            show_progress = state.is_local_process_zero and not args.disable_tqdm
            with trainer.searched_model() as model:
                mined = mine(
                    model,
                    trainer.targets,
                    trainer.mentions,
                    trainer.nearest_gold,
                    trainer.args,
                    round=round,
                    reference=trainer.initial_scorer(model) if trainer.args.reference == "initial" else None,
                    process=trainer.accelerator.process_index,
                    processes=trainer.accelerator.num_processes,
                    progress=f"round {round + 1}/{trainer.args.num_rounds}: mining" if show_progress else None,
                )
            if state.is_world_process_zero:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Written aside and renamed, so that a killed run leaves no half a file.
                partial = path.with_suffix(".partial")
                to_dataset(mined, trainer.targets, trainer.mentions).to_parquet(str(partial))
                partial.replace(path)
            trainer.accelerator.wait_for_everyone()
            trainer.log({"round": float(round), **{f"mined/{key}": value for key, value in mined.metrics.items()}})
        if not len(mined.pairs):
            logger.warning(
                "Round %d has no pairs: the model puts gold first and knows no other name, or absent_gold='skip' "
                "leaves nothing. Its steps change nothing.",
                round,
            )
        trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
