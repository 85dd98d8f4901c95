"""What the processes of `test_kill.py` do: train, and stop dead where they are told, to be killed there.

The fork server of `test_kill.py` imports this module, so that all its processes pay for the imports once.
"""

import functools
import gc
import importlib
import logging
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# The last two are imported when first used, which would be in every process anew.
import matplotlib.pyplot  # noqa: F401
import pytest
import sklearn.feature_extraction.text  # noqa: F401
import torch
from datasets import DatasetDict, load_from_disk
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from angel_trl import synthetic_corpus
from angel_trl.config import AngelConfig
from angel_trl.kb import KnowledgeBase
from angel_trl.searching_trainer import last_checkpoint
from angel_trl.trainer import AngelTrainer

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
sys.path.insert(0, str(RECIPES))
import angel as recipe  # noqa: E402
import inputs  # noqa: E402
import pretrain  # noqa: E402

torch.set_num_threads(1)

# Three rounds of 3 steps.
SETTINGS = {
    "num_rounds": 3,
    "mentions_per_round": 12,
    "per_device_train_batch_size": 4,
    "num_beams": 5,
    "learning_rate": 1e-2,
    "early_stopping_patience": None,
    "save_total_limit": None,
    "logging_steps": 1,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}

# Of the recipe, with `small_quickstart`: 6 steps on names; 14 steps an epoch on mentions, of which a round has 3.
RECIPE = {
    "config": RECIPES / "configs" / "quickstart.yaml",
    "cpu_threads": 1,
    "pretrain_passes": 1,
    "pretrain_batch_size": 8,
    "positive_batch_size": 8,
    "positive_learning_rate": 1e-2,
    "kb_mentions_per_mention": 0.1,
    "mentions_per_round": 24,
    "mined_kb_mentions": 16,
    "per_device_train_batch_size": 8,
    "num_beams": 5,
    "bootstrap": 20,
    "disable_tqdm": "true",
}


def run_small_quickstart(output, *flags, **settings):
    """The recipe of both stages in this process, with part of the quickstart's data."""
    given = {"output_dir": output, **settings}
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["angel.py", *arguments, *flags])
        patch.setattr(inputs, "synthetic_corpus", lambda seed: small_quickstart())
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            recipe.main()
        finally:
            logging.root.setLevel(level)  # as an attribute it would not reach what loggers remember of it


@functools.cache
def small_quickstart():
    """12 concepts of the quickstart and 96 training mentions of them: so few that a short training learns some.

    Dev and test mentions are training mentions, so that each epoch and round has a better score than the last.
    """
    kb, corpus = synthetic_corpus(seed=0)
    gold = [parts[0][0] for parts in corpus["train"]["concept_ids"]]
    often = {concept for concept, _ in Counter(gold).most_common(12)}
    train = corpus["train"].select([row for row, concept in enumerate(gold) if concept in often][:96])
    some = train.select(range(48))
    kb = KnowledgeBase([concept for concept in kb.concepts if concept.id in often])
    return kb, DatasetDict(train=train, dev=some, test=some)


@dataclass(frozen=True)
class Moment:
    """When a process is killed: in a call of a function.

    Args:
        function: "module:name" of it, where it is looked up.
        call: which of its calls, 1 for the first.
        after: when the call is done, in place of before it.
        about: only calls count whose first argument has this in it.
    """

    function: str
    call: int = 1
    after: bool = False
    about: str = ""

    def stop_there(self, here):
        """Make this process tell `here` that it has come to this moment, and do nothing more."""
        module, name = self.function.split(":")
        *path, last = name.split(".")
        owner = functools.reduce(getattr, path, importlib.import_module(module))
        function = getattr(owner, last)
        calls = 0

        @functools.wraps(function)
        def stopping(*args, **kwargs):
            nonlocal calls
            counts = not self.about or self.about in str(args[0])
            calls += counts
            if not (counts and calls == self.call):
                return function(*args, **kwargs)
            if self.after:
                function(*args, **kwargs)
            here.send("here")
            while True:
                signal.pause()

        setattr(owner, last, stopping)


def train(world, output, settings, resume):
    """Train in the small world of `conftest.py`, kept in the folder `world`, and save the model in `output/final`.

    `resume` is True for what transformers resumes from, "recipe" for what the recipe does, else False.
    """
    mentions = load_from_disk(str(world / "mentions"))
    trainer = AngelTrainer(
        AutoModelForSeq2SeqLM.from_pretrained(world / "model"),
        AngelConfig(str(output), **{**SETTINGS, **settings}),
        mentions,
        mentions,
        KnowledgeBase.from_parquet(world / "kb.parquet"),
        processing_class=AutoTokenizer.from_pretrained(world / "model"),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output) if resume == "recipe" else resume)
    trainer.model.save_pretrained(output / "final")


def run_recipe(arguments):
    """Run the recipe as `python recipes/angel.py` does, with part of the quickstart's data."""
    inputs.synthetic_corpus = lambda seed: small_quickstart()
    sys.argv[1:] = arguments
    recipe.main()


def run_pretrain(arguments):
    """Pre-train as `python recipes/pretrain.py` does."""
    sys.argv[1:] = arguments
    pretrain.main()


def work(target, log, moment, here, *args):
    """Call `target(*args)` until it is done or its moment has come; all output goes to the file `log`."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    if moment is not None:
        moment.stop_there(here)
    target(*args)


small_quickstart()
# What is there is there to stay, and no process need look through it for garbage.
gc.freeze()
