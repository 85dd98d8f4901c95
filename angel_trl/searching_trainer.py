"""What the trainers of both stages have in common: a model that is searched while it is trained."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, Trainer

from angel_trl.evaluation import evaluate_linking
from angel_trl.hub import Published, PublishError
from angel_trl.linker import EntityLinker
from angel_trl.linker_hub import add_card
from angel_trl.publishing import Destination, Outcome, announce, check_destination, hub_id, publish_run
from angel_trl.targets import MentionSet, TargetNames
from angel_trl.whole_model import WholeModel

logger = logging.getLogger(__name__)


def last_checkpoint(folder: str | Path) -> str | None:
    """The last complete checkpoint below a trainer's `output_dir`: the state of the trainer is written last."""
    done = [path for path in Path(folder).glob("checkpoint-*") if _is_json(path / "trainer_state.json")]
    return str(max(done, key=lambda path: int(path.name.split("-")[1]))) if done else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


class SearchingTrainer(Trainer):
    """A trainer whose dev score is that of the constrained search, and whose result is a linker.

    A class to be inherited from beside another trainer. All its methods are called by all processes together.

    Attributes:
        targets: the names and the formatter.
        whole_model: gives the model with all its weights.
        card: what the cards of published linkers say, besides what the trainer knows: fields of
            `angel_trl.model_card.Stated` such as `license`, `kb_license` and `datasets`.
    """

    targets: TargetNames
    whole_model: WholeModel
    card: Mapping[str, Any] = MappingProxyType({})

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, as `transformers.Trainer.train` does; True resumes from the last checkpoint that is complete.

        transformers takes the last folder, be it half written when the process was killed.

        Raises:
            OSError: `ENOSPC`, if the disk cannot hold a checkpoint and the linker; nothing has been trained then.
        """
        self._check_room()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _check_room(self) -> None:
        """See that the disk can hold the least that will be written: what does not fit is found out at the end else.

        Adam keeps two moments of each weight that is trained; what other optimizers keep is not counted.
        """
        weights = [(weight, weight.numel() * weight.element_size()) for weight in self.model.parameters()]
        trained = sum(size for weight, size in weights if weight.requires_grad)
        moments = 0 if self.args.save_only_model or not self.args.optim.startswith("adamw_torch") else 2
        checkpoint = 0 if self.args.save_strategy == "no" else trained * (1 + moments)
        needed = checkpoint + sum(size for _, size in weights)
        folder = Path(self.args.output_dir).resolve()
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        if free < needed:
            has, takes = (tqdm.format_sizeof(size, "B") for size in (free, needed))
            raise OSError(
                errno.ENOSPC,
                f"the disk of output_dir has {has} left, and a checkpoint and the linker take {takes} or more: free "
                "some, or choose another output_dir",
                str(folder),
            )

    @contextmanager
    def searched_model(self) -> Iterator[PreTrainedModel]:
        """The model as it is now, whole and in the precision of training."""
        with self.whole_model.to_search() as model, self.accelerator.autocast():
            yield model

    def link_and_score(self, mentions: MentionSet, metric_key_prefix: str, **settings: Any) -> dict[str, float]:
        """Link mentions and score the answers; each process searches its share.

        Args:
            mentions: what to link.
            metric_key_prefix: put before the names of the metrics.
            settings: of `evaluate_linking`.

        Returns:
            The metrics, in percent.
        """
        with self.searched_model() as model:
            result = evaluate_linking(
                model,
                self.targets,
                mentions,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
                **settings,
            )
        return {f"{metric_key_prefix}_{key}": value for key, value in result.metrics.items()}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # The other processes may have looked for the folder of the best model before the first one made it; they would
        # not load it in the end (and under FSDP, where all must, the run would hang).
        self.accelerator.wait_for_everyone()
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def save_linker(self, folder: str | Path) -> None:
        """Save the model as it is now, with tokenizer, knowledge base, trie and format, as an `EntityLinker`.

        Args:
            folder: where to.
        """
        with self.whole_model.to_save() as model:
            if self.is_world_process_zero():
                self._write(model, Path(folder))
        self.accelerator.wait_for_everyone()

    def write_linker(self, model: PreTrainedModel, folder: Path, **card: Any) -> None:
        """Save a linker with its card; called by the first process only.

        Args:
            model: the model as it is now, whole.
            folder: where to.
            card: as `card` of this trainer, which it completes.
        """
        self._write(model, folder)
        self._add_card(folder, **{**self.card, **card})

    def _write(self, model: PreTrainedModel, folder: Path) -> None:
        formatter = self.targets.formatter
        tokenizer, kb, trie = formatter.tokenizer, self.targets.kb, self.targets.trie
        EntityLinker(model, tokenizer, kb, formatter.format, trie).save_pretrained(folder)

    # Publishing. transformers' own is not used: it creates repositories before there is anything to put in, sends what
    # is in `output_dir`, and passes over failures. Where it would push, these methods are called.

    def hub_destination(self) -> Destination:
        """Where the linker is published, by `hub_model_id` and what goes with it.

        Raises:
            ValueError: if `hub_model_id` is not set.
        """
        if self.args.hub_model_id is None:
            raise ValueError("hub_model_id is not set: give 'user/name', where the linker is to be published.")
        args = self.args
        return Destination(args.hub_model_id, None, args.hub_private_repo, args.hub_revision, token=args.hub_token)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """See that the linker can be published, as transformers calls this when a trainer is made.

        Nothing is created on the Hub yet.

        Args:
            token: of the Hub; that of the configuration if None.
            private: whether a new repository is private; what the configuration says if None.

        Raises:
            ValueError: as `hub_destination` and `check_destination`.
            PublishError: as `check_destination`.
        """
        to = self._destination(token, private)
        self.hub_model_id = to.model_id
        if self.is_world_process_zero():
            # Whether there are rounds of another run is seen when it is known whether this one goes on.
            self.check_destination(dataclasses.replace(to, rounds=False))
            announce(to)

    def check_destination(self, to: Destination, own_rounds: Iterable[str] = ()) -> None:
        """See that a run can be published, before it is made: `angel_trl.publishing.check_destination`."""
        check_destination(to, own_rounds)

    def _destination(self, token: str | None, private: bool | None, revision: str | None = None) -> Destination:
        to = self.hub_destination()
        given: dict[str, Any] = {"token": token, "private": private, "revision": revision}
        return dataclasses.replace(to, **{name: value for name, value in given.items() if value is not None})

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tag: str | None = None,
        **card: Any,
    ) -> Published | None:
        """Publish the model as it is now as a linker with its card, all or nothing, and what else belongs to the run.

        The linker is saved in `output_dir/linker` first. Called by all processes; the first one publishes. Callbacks
        are not told: one of transformers' own would publish its records on its own account.

        Args:
            commit_message: title of the commit.
            blocking: must be True: only the end shows whether all has been published.
            token: of the Hub; that of the configuration if None.
            revision: branch to publish to; that of the configuration if None.
            private: whether a new repository is private; what the configuration says if None.
            tag: a tag to set on what was published.
            card: as `card` of this trainer, which it completes.

        Returns:
            What was published of the linker; None on other processes than the first.

        Raises:
            ValueError: if `blocking` is False, or as `hub_destination` and `angel_trl.linker_hub.add_card`.
            PublishError: if something was not published; it says what is where. Everything is still in `output_dir`.
        """
        if not blocking:
            raise ValueError("blocking is False, but only the end shows whether all is published: leave it out.")
        to, folder = self._destination(token, private, revision), Path(self.args.output_dir) / "linker"
        self.save_linker(folder)
        if not self.is_world_process_zero():
            return None
        place = tag or (to.revision if to.revision != "main" else None)
        card = {**self.card, **card}
        self._add_card(folder, **{"repo_id": to.model_id, "revision": place, **card})
        outcome = self._publish(folder, to, card, message=commit_message or "End of training", tag=tag)
        if outcome.failures:
            raise PublishError(f"Not all was published. What was is not sent again if you call this again.\n{outcome}")
        logger.info("%s", outcome)
        return outcome.published["model"]

    def _publish(self, folder: Path, to: Destination, card: Mapping[str, Any], **commit: Any) -> Outcome:
        return publish_run(folder, self.args.output_dir, to, card=card, **commit)

    def _add_card(self, folder: Path, **card: Any) -> None:
        card.pop("corpus_license", None)
        add_card(folder, **{"base_model": hub_id(self.model.config._name_or_path), **card})

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: checkpoints are not published, and rounds by `RoundPublishingCallback`."""

    def _finish_current_push(self) -> None:
        """Nothing: there is none."""
