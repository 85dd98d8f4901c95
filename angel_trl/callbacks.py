"""What happens around the rounds: mining at their start, and publishing their linkers at their end."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from angel_trl.mining import from_parquet, to_dataset
from angel_trl.round_publishing import RoundPublisher, round_name

if TYPE_CHECKING:
    from angel_trl.trainer import AngelTrainer

logger = logging.getLogger(__name__)


class RoundPublishingCallback(TrainerCallback):
    """Publishes the linker of each round when its checkpoint is complete, for `hub_strategy="every_save"`.

    A run that is resumed from that checkpoint has the same linker, so that one killed meanwhile publishes it then.

    Args:
        trainer: the trainer whose rounds these are.

    Attributes:
        publisher: what publishes them, on the first process of a training.
    """

    def __init__(self, trainer: AngelTrainer) -> None:
        self.trainer = trainer
        self.publisher: RoundPublisher | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See that no other run's rounds are in the way, before any work is done, and publish what is still here."""
        to = self.trainer.hub_destination()
        if state.is_world_process_zero:
            self.publisher = RoundPublisher(args.output_dir, to.model_id, private=to.private, token=to.token)
            begins = state.global_step == 0
            self.trainer.check_destination(to, () if begins else self.publisher.known)
            if begins:
                self.publisher.forget()
            room = self.publisher.room(self._size)
            if room < self.trainer.args.num_rounds:
                logger.warning(
                    "There is room in %s for the linkers of %d rounds. They are removed once they are published; but "
                    "while the Hub cannot be reached, no more than that are kept.",
                    self.publisher.folder,
                    room,
                )
        self._keep(state, going_on=True)
        if self.publisher is not None:
            self.publisher.publish_meanwhile()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the linker of the round that has ended, and publish it while training goes on."""
        self._keep(state, going_on=False)

    def wait(self) -> None:
        """Wait for what is on its way; no longer than other processes, which are further on, wait for this one."""
        trainer = self.trainer
        if self.publisher is not None:
            self.publisher.wait(None if trainer.accelerator.num_processes == 1 else trainer.args.ddp_timeout / 2)

    def _keep(self, state: TrainerState, *, going_on: bool) -> None:
        """Called by all processes. A run that goes on after a round may have kept it before it was interrupted."""
        trainer, rounds = self.trainer, self.trainer.args.num_rounds
        done, within = divmod(state.global_step, state.max_steps // rounds)
        if not done or within:
            return
        name = round_name(done)
        with trainer.whole_model.to_save() as model:
            if self.publisher is not None and not (going_on and name in self.publisher.known):
                said = {"repo_id": trainer.args.hub_model_id, "revision": name, "round": (done, rounds)}
                self.publisher.keep(done, self._size, partial(trainer.write_linker, model, **said))
        trainer.accelerator.wait_for_everyone()

    @property
    def _size(self) -> int:
        """Bytes of the weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.trainer.model.parameters())


class PairMiningCallback(TrainerCallback):
    """Fills the trainer's training set with the pairs of each round, mined with the model as it then is.

    The trainer's held-out models, if it has any, search their mentions in its place.
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
            progress = f"round {round + 1}/{trainer.args.num_rounds}: mining" if show_progress else None
            mined = trainer.mine_round(round, progress)
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
                "Round %d has no pairs: the model puts gold first and knows no other name, absent_gold='skip' leaves "
                "nothing, or mine_own_name=False leaves concepts without a name. Its steps change nothing.",
                round,
            )
        trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
