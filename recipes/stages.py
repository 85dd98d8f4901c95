"""What the training recipes share: settings from YAML and the command line, the first model, stages that resume."""

import argparse
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, set_seed
from reporting import Curve, dev_curve
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import TrlParser
from whole_file import whole_file

from angel_trl import AngelConfig, AngelTrainer
from angel_trl.architectures import load_model
from angel_trl.scratch import SCRATCH_PRESETS, scratch_model
from angel_trl.searching_trainer import last_checkpoint
from angel_trl.warm_start import warm_start

logger = logging.getLogger("recipes")

_CURVE = "curve.json"
"""What a stage that is done has in its folder."""


def parse_settings(kinds: tuple[type, ...], argv: list[str], presets: Path) -> Any:
    """Read the YAML file given as `--config` and the command line, which wins, into dataclasses of `kinds`.

    A model from scratch needs other settings than pre-trained weights do, so those of a preset's own file in the
    folder `presets` come between the two.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    files.add_argument("--model")
    given, _ = files.parse_known_args(argv)
    only_config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_config.add_argument("--config")
    _, argv = only_config.parse_known_args(argv)
    # A setting misspelled is an error, not an abbreviation of another.
    parser = TrlParser(kinds, allow_abbrev=False)
    if given.config is not None:
        path = Path(given.config)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise SystemExit(f"{path} must hold settings as `name: value` lines.")
        model = given.model or config.get("model")
        preset = presets / f"{model}.yaml"
        if model in SCRATCH_PRESETS and preset.exists():
            config |= yaml.safe_load(preset.read_text(encoding="utf-8"))
        unknown = parser.set_defaults_with_config(**config)
        if unknown:
            raise SystemExit(f"{path} has unknown settings: {' '.join(unknown)}. --help lists those there are.")
    try:
        return parser.parse_args_into_dataclasses(args=argv)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def check_shares(settings: Any, names: Iterable[str]) -> None:
    """Refuse, before anything is read, shares among the settings that are not between 0 and 1."""
    for name in names:
        if not 0 <= (share := getattr(settings, name)) <= 1:
            raise SystemExit(f"--{name} is {share}; it is a share, between 0 and 1.")


def first_model(model: str, texts: Iterable[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to begin with, and its tokenizer.

    Args:
        model: a preset, which has random weights and a tokenizer trained on `texts`; or a folder or a Hub repository,
            of a model that generates or of a BERT, which becomes the encoder of one.
        texts: what a preset's tokenizer is trained on.
        seed: of weights that begin at random.
    """
    if model in SCRATCH_PRESETS:
        return scratch_model(model, texts, seed=seed)
    try:
        if PreTrainedConfig.get_config_dict(model)[0].get("model_type") == "bert":
            return warm_start(model, seed=seed)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        return load_model(model), tokenizer
    except OSError as error:
        presets = ", ".join(SCRATCH_PRESETS)
        raise SystemExit(f"Cannot load the model {model!r} (presets without the Hub: {presets}): {error}") from error


def train_rounds(trainer: AngelTrainer, to: Path, resume: bool) -> Curve:
    """Train, or go on in the trainer's folder; save the best model to `to` and the log, and return the dev curve."""
    folder = Path(trainer.args.output_dir)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)
    trainer.save_linker(to)
    if trainer.is_world_process_zero():
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return dev_curve(trainer.state)


class Stages:
    """The stages of a run, each of which saves a linker; one that was done by an earlier run is not done again.

    Args:
        angel: seed, device and output folder.
        resume: go on with the run in that folder.
        cpu_threads: threads of a process on CPU; None shares the cores out evenly.
    """

    def __init__(self, angel: AngelConfig, resume: bool, cpu_threads: int | None) -> None:
        on_cpu = angel.use_cpu or not torch.accelerator.is_available()
        # Without being told, processes on a machine without accelerator each think that they are alone.
        self._state = PartialState(cpu=True) if on_cpu else PartialState()
        self._kind: DistributedType = self._state.distributed_type
        self._resume = resume
        self.output = Path(angel.output_dir)
        if on_cpu:
            # `accelerate launch` sets one thread a process unless told otherwise, which leaves the other cores idle.
            torch.set_num_threads(cpu_threads or max(1, (os.cpu_count() or 1) // self._state.num_processes))
        set_seed(angel.seed)
        if not self.is_main:
            logging.getLogger().setLevel(logging.ERROR)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports."""
        return self._state.is_main_process

    def clear(self, folders: Iterable[Path]) -> None:
        """Remove what an earlier run left in the folders of the stages to run, unless it is to be resumed."""
        for folder in folders:
            if self.is_main and not self._resume and folder.exists():
                logger.warning("%s is from an earlier run and is replaced (--resume would go on with it)", folder)
                shutil.rmtree(folder)
        self._state.wait_for_everyone()
        logger.info("a run that is interrupted goes on when the same command is given with --resume")

    def is_done(self, folder: Path, linker: Path) -> bool:
        """Whether the run that is resumed has done the stage in `folder` that saves `linker`."""
        return self._resume and (folder / _CURVE).exists() and (linker / "angel.json").exists()

    def run(self, folder: Path, linker: Path, train: Callable[[], Curve]) -> Curve:
        """Run a stage in `folder` that saves `linker`, or take one that is done as it is. Returns its dev curve."""
        marker = folder / _CURVE
        if self.is_done(folder, linker):
            logger.info("%s is done: going on with what follows", folder)
            return [(step, value) for step, value in json.loads(marker.read_text(encoding="utf-8"))]
        # A stage has a precision of its own, and accelerate keeps one for the process, and what it made of its kind.
        AcceleratorState._reset_state(reset_partial_state=False)
        self._state.distributed_type = self._kind
        try:
            curve = train()
        except KeyboardInterrupt:
            raise SystemExit(f"Interrupted. Run the same command with --resume to go on in {self.output}.") from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SystemExit(
                f"{error}\nThe disk is full, or too small. When there is room, the same command with --resume goes on "
                f"in {self.output}."
            ) from error
        if self.is_main:
            with whole_file(marker) as partial:
                partial.write_text(json.dumps(curve), encoding="utf-8")
        self._state.wait_for_everyone()
        return curve
