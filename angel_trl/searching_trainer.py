"""What the trainers of both stages have in common: a model that is searched while it is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from angel_trl.evaluation import evaluate_linking
from angel_trl.linker import EntityLinker
from angel_trl.targets import MentionSet, TargetNames
from angel_trl.whole_model import WholeModel


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
    """

    targets: TargetNames
    whole_model: WholeModel

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, as `transformers.Trainer.train` does; True resumes from the last checkpoint that is complete.

        transformers takes the last folder, be it half written when the process was killed.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

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
                formatter = self.targets.formatter
                tokenizer, kb, trie = formatter.tokenizer, self.targets.kb, self.targets.trie
                EntityLinker(model, tokenizer, kb, formatter.format, trie).save_pretrained(folder)
        self.accelerator.wait_for_everyone()
