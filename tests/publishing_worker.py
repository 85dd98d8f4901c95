"""What a `HubClient` does in the tests of publishing a run: train in the small world, and run the recipe.

client.call("publishing_worker:train", world, output, {"push_to_hub": True, "hub_model_id": "tester/model"})
"""

import contextlib
import io
import sys

import torch
from datasets import load_dataset, load_from_disk
from kill_worker import SETTINGS, run_recipe
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from angel_trl import AngelConfig, AngelTrainer, EntityLinker, KnowledgeBase, PositiveConfig, PositiveTrainer
from angel_trl.collator import positive_examples
from angel_trl.targets import NearestNames, prepare_mentions


def trainer(world, output, settings, **given):
    """An `AngelTrainer` of 3 rounds of 3 steps; see `write_world`."""
    mentions = load_from_disk(f"{world}/mentions")
    return AngelTrainer(
        AutoModelForSeq2SeqLM.from_pretrained(f"{world}/model"),
        AngelConfig(str(output), **{**SETTINGS, **settings}),
        mentions,
        mentions,
        KnowledgeBase.from_parquet(f"{world}/kb.parquet"),
        processing_class=AutoTokenizer.from_pretrained(f"{world}/model"),
        **given,
    )


def train(world, output, settings, resume=False, push=None, card=None):
    """Train, save the model in `output/final`, and publish with the arguments `push` unless that is None."""
    training = trainer(world, output, settings, card=card)
    training.train(resume_from_checkpoint=resume)
    training.model.save_pretrained(f"{output}/final")
    return None if push is None else training.push_to_hub(**push)


def publish(world, output, settings, **push):
    """Publish what an earlier process has trained, in place of which the model of the start is the finished one."""
    return trainer(world, output, settings).push_to_hub(**push)


def trainer_is_made(world, output, settings):
    """Make a trainer and do nothing with it."""
    trainer(world, output, settings)


def train_positive(world, output, settings):
    """One step of the positive-only stage, then publish."""
    mentions = load_from_disk(f"{world}/mentions")
    model = AutoModelForSeq2SeqLM.from_pretrained(f"{world}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{world}/model")
    targets = EntityLinker(model, tokenizer, KnowledgeBase.from_parquet(f"{world}/kb.parquet")).targets
    known = prepare_mentions(mentions, targets, for_training=True)
    examples = positive_examples(known, NearestNames(targets.kb).nearest(known.mentions, known.gold, 1))
    config = PositiveConfig(
        str(output), max_steps=1, save_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, **settings
    )
    training = PositiveTrainer(model, config, examples, targets)
    training.train()
    return training.push_to_hub(license="mit")


def recipe(arguments):
    """Run the recipe on part of the quickstart's data: how it ended, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            run_recipe([str(word) for word in arguments])
        except SystemExit as end:
            return {"code": end.code, "printed": printed.getvalue()}
    return {"code": 0, "printed": printed.getvalue()}


def link(repo_id, text, **where):
    """The id that a linker from the Hub answers with, and how many names it knows."""
    linker = EntityLinker.from_pretrained(repo_id, device="cpu", **where)
    return linker.link(text, num_beams=3)[0].id, linker.kb.num_names


def rounds_of(repo_id, *names):
    """Columns of each configuration of a dataset on the Hub."""
    return {name: load_dataset(repo_id, name, split="train").to_dict() for name in names}


def train_together(world, output, name):
    """What each process of a distributed training does."""
    where = {"push_to_hub": True, "hub_model_id": name, "hub_strategy": "every_save"}
    done = train(world, output, where | {"per_device_train_batch_size": 2}, push={})
    assert (done is None) == (torch.distributed.get_rank() > 0)
    torch.distributed.destroy_process_group()


def write_world(folder, model, tokenizer, kb, mentions):
    """The small world of `conftest.py` as a folder, which is returned."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    kb.to_parquet(folder / "kb.parquet")
    mentions.filter(lambda row: row["split"] == "train").save_to_disk(str(folder / "mentions"))
    return folder


if __name__ == "__main__":
    train_together(*sys.argv[1:])
