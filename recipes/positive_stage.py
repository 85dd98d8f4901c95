"""Training on right names, in two parts: the names of the knowledge base alone, then the mentions of a corpus."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from muon import choose_optimizers
from precision import bf16_if_quick
from reporting import Curve, dev_curve
from stages import check_shares
from transformers import PreTrainedModel

from angel_trl import AngelConfig, KnowledgeBase, PositiveConfig, PositiveTrainer, TargetNames
from angel_trl.architectures import load_model
from angel_trl.collator import PositiveExample, positive_examples
from angel_trl.kb_examples import KBExamples
from angel_trl.kb_mentions import kb_mentions
from angel_trl.searching_trainer import last_checkpoint
from angel_trl.targets import MentionSet, NearestNames, prepare_mentions


def names_linker(folder: Path) -> Path:
    """Where the stage in `folder` leaves what it has learnt of the names, before it comes to the mentions."""
    return folder / "names" / "linker"


def train_on_names(
    args: Any, angel: AngelConfig, model: PreTrainedModel, targets: TargetNames, passages: Dataset, folder: Path
) -> tuple[PreTrainedModel, int]:
    """Pass over the names, alone or in `passages`, saving a linker. Returns the model to go on with, and the steps."""
    checkpoint = last_checkpoint(folder / "names") if args.resume else None
    if args.resume and last_checkpoint(folder / "mentions"):
        # The weights to go on with are in that one.
        return model, int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    config = PositiveConfig(
        output_dir=str(folder / "names"),
        learning_rate=args.pretrain_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        num_train_epochs=1,
        bf16=bf16_if_quick(args.pretrain_bf16, _on_cpu(angel), "--pretrain_bf16"),
        per_device_train_batch_size=args.pretrain_batch_size,
        save_strategy="steps",
        save_steps=500,
        **_shared(angel),
    )
    count = round(targets.kb.num_names * args.pretrain_passes)
    placed = {"in_passages": args.pretrain_in_passages, "passages": passages}
    examples = _from_kb(args, angel, targets, count, 1, **placed)
    optimizers = choose_optimizers(model, config, args.pretrain_matrix_learning_rate)
    trainer = PositiveTrainer(model, config, examples, targets, optimizers=optimizers)
    trainer.train(resume_from_checkpoint=checkpoint)
    # A model that a trainer has prepared (for bfloat16, for several processes) cannot be prepared by another.
    trainer.save_linker(names_linker(folder))
    return load_model(str(names_linker(folder))), trainer.state.global_step


def train_on_mentions(
    args: Any,
    angel: AngelConfig,
    model: PreTrainedModel,
    targets: TargetNames,
    mentions: MentionSet,
    dev: MentionSet,
    passages: Dataset,
    folder: Path,
) -> Curve:
    """Learn the nearest names of mentions, and others made from the knowledge base. Saves a linker in `folder`.

    Mentions made from the knowledge base that are put in `passages`, in the place of the mentions there, are learnt as
    those of the corpus are.
    """
    made = round(len(mentions) * args.kb_mentions_per_mention)
    in_passages = round(made * args.kb_in_passages)
    sets = [mentions]
    if in_passages:
        rows = mentions_from_kb(args, angel, targets.kb, passages, in_passages, 4, in_passages=1.0)
        sets.append(prepare_mentions(rows, targets, for_training=True))
    nearest = NearestNames(targets.kb, exclude=targets.unreachable)
    examples: list[PositiveExample] = []
    for each in sets:
        examples += positive_examples(each, nearest.nearest(each.mentions, each.gold, args.positive_names))
    examples += _from_kb(args, angel, targets, made - in_passages, 2)
    config = PositiveConfig(
        output_dir=str(folder / "mentions"),
        learning_rate=args.positive_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.positive_warmup,
        bf16=bf16_if_quick(args.positive_bf16, _on_cpu(angel), "--positive_bf16"),
        num_train_epochs=args.positive_epochs,
        per_device_train_batch_size=args.positive_batch_size,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=args.positive_patience,
        **_shared(angel),
    )
    optimizers = choose_optimizers(model, config, args.positive_matrix_learning_rate)
    trainer = PositiveTrainer(model, config, examples, targets, dev, optimizers=optimizers)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "mentions") if args.resume else None)
    trainer.save_linker(folder)
    return dev_curve(trainer.state)


def check_mentions_from_kb(args: Any) -> None:
    """Refuse, before anything is read, numbers of mentions and shares that cannot be."""
    for name in ("kb_mentions_per_mention", "mined_kb_mentions"):
        if (count := getattr(args, name)) < 0:
            raise SystemExit(f"--{name} is {count}; it must not be negative.")
    check_shares(
        args, ("pretrain_in_passages", "kb_in_passages", "mined_in_passages", "kb_noise", "kb_context", "kb_own_name")
    )


def mentions_from_kb(
    args: Any, angel: AngelConfig, kb: KnowledgeBase, passages: Dataset, count: int, seed: int, in_passages: float
) -> Dataset:
    """`count` mentions made from the knowledge base, a share of them in the place of mentions of `passages`."""
    shares = {"noise": args.kb_noise, "context": args.kb_context, "in_passages": in_passages}
    return kb_mentions(kb, count, seed=seed + 10 * angel.seed, passages=passages, **shares)


def _from_kb(args: Any, angel: AngelConfig, targets: TargetNames, count: int, seed: int, **placed: Any) -> KBExamples:
    shares = {"noise": args.kb_noise, "context": args.kb_context, "own_name": args.kb_own_name}
    return KBExamples(targets, count, seed=seed + 10 * angel.seed, **shares, **placed)


def _shared(angel: AngelConfig) -> dict[str, Any]:
    """Settings of both parts."""
    return {
        "seed": angel.seed,
        "report_to": angel.report_to,
        "disable_tqdm": angel.disable_tqdm,
        # Bfloat16 on a machine without accelerator must be asked for by name.
        "use_cpu": _on_cpu(angel),
        "logging_steps": 50,
        "save_total_limit": 1,
        "adam_beta2": 0.98,
        "dataloader_pin_memory": angel.dataloader_pin_memory,
    }


def _on_cpu(angel: AngelConfig) -> bool:
    return bool(angel.use_cpu) or not torch.accelerator.is_available()
