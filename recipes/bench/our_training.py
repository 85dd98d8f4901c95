"""The side under test: steps of `AngelTrainer` on given mentions, and whole rounds of mining and training."""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from measure import spread
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from angel_trl.collator import MentionPairs
from angel_trl.config import AngelConfig
from angel_trl.decoding import score_names
from angel_trl.linker import EntityLinker
from angel_trl.scratch import train_tokenizer
from angel_trl.synthetic import synthetic_corpus
from angel_trl.trainer import AngelTrainer

ROUND_MENTIONS = 515


class OurTraining:
    """Training steps of `AngelTrainer`, on mentions with pairs in place of those it would mine.

    Args:
        policy: trained in place.
        items: the batch.
        folder: for what the trainer writes.
        options: further settings of `AngelConfig`.
    """

    def __init__(self, policy: PreTrainedModel, items: Sequence[MentionPairs], folder: str, **options: Any) -> None:
        # The trainer wants a world to train in, though none of it is trained on.
        kb, corpus = synthetic_corpus(seed=0)
        few = corpus["train"].select(range(2))
        config = AngelConfig(output_dir=folder, report_to="none", **({"use_cpu": True} | options))
        self.trainer = AngelTrainer(policy, config, few, few, kb, train_tokenizer(kb.names, 400))
        # What the trainer's own loop does before its first step.
        self.trainer.create_optimizer()
        self.policy, self.optimizer = self.trainer.accelerator.prepare(self.trainer.model, self.trainer.optimizer)
        self.items = items

    def backward(self) -> float:
        """Loss of the batch; gradients are left in the policy."""
        return self.trainer.training_step(self.policy, self.trainer.data_collator(self.items)).item()

    def step(self) -> float:
        """One step; returns the loss before it."""
        loss = self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def with_reference(reference: PreTrainedModel, items: Sequence[MentionPairs]) -> list[MentionPairs]:
    """The items with the log-probabilities of the reference, by the function that mining scores names with."""
    names = [[name for pair in item.pairs for name in pair[:2]] for item in items]
    scores = score_names(copy.deepcopy(reference), [item.mention for item in items], names)
    return [
        dataclasses.replace(
            item,
            pairs=tuple(
                (*pair[:2], float(own[2 * place]), float(own[2 * place + 1])) for place, pair in enumerate(item.pairs)
            ),
        )
        for item, own in zip(items, scores, strict=True)
    ]


class Clock(TrainerCallback):
    """Seconds of mining and of training in each round. Added after the trainer's own callbacks, it runs after them."""

    def __init__(self) -> None:
        self.mining: list[float] = []
        self.training: list[float] = []
        self._last = 0.0

    def _lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first round begins; the model has been scored."""
        self._lap()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Mining is over."""
        self.mining.append(self._lap())

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Training is over."""
        self.training.append(self._lap())


def time_rounds(linker: EntityLinker, mentions: Dataset, rounds: int) -> dict[str, Any]:
    """Seconds of mining and of training in rounds of 515 mentions and batches of 16, from a linker, which is trained.

    Other settings are `AngelConfig`'s.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = AngelConfig(
            output_dir=folder,
            num_rounds=rounds,
            mentions_per_round=ROUND_MENTIONS,
            per_device_train_batch_size=16,
            use_cpu=True,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            early_stopping_patience=None,
            report_to="none",
            disable_tqdm=True,
        )
        # One mention to evaluate on before the rounds, which is not timed.
        trainer = AngelTrainer(
            linker.model,
            config,
            mentions,
            mentions.select(range(1)),
            linker.kb,
            linker.tokenizer,
            linker.targets.formatter.format,
        )
        trainer.remove_callback(PrinterCallback)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    mined = [row for row in trainer.state.log_history if "mined/pairs" in row]
    mining, training = spread(clock.mining), spread(clock.training)
    return {
        "parameters": linker.model.num_parameters(),
        "names": linker.kb.num_names,
        "rounds": rounds,
        "mentions": int(mined[0]["mined/mentions"]),
        "pairs": sum(row["mined/pairs"] for row in mined) / len(mined),
        "mining_seconds": mining,
        "training_seconds": training,
        "mining_share": mining["median"] / (mining["median"] + training["median"]),
        "training_share": training["median"] / (mining["median"] + training["median"]),
    }
