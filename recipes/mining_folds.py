"""Out-of-fold mining: models of the positive-only stage that each lack the mentions of a fold, and mine them."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from positive_stage import names_linker, train_on_mentions
from reporting import Curve
from stages import Stages
from whole_file import whole_file

from angel_trl import AngelConfig, EntityLinker, HeldOut, KnowledgeBase, deal_documents
from angel_trl.linker_files import find_folder
from angel_trl.targets import prepare_mentions

logger = logging.getLogger("recipes.mining_folds")


def check_folds(args: Any) -> None:
    """See that the settings of folds make sense, before any work is done.

    Raises:
        SystemExit: if they do not, saying what to do.
    """
    if args.mine_folds < 0 or args.mine_folds == 1:
        raise SystemExit(f"--mine_folds {args.mine_folds}: give 2 or more, or 0 to mine with the trained model alone.")
    if args.mine_folds and args.mention_names:
        raise SystemExit(
            "--mine_folds mines mentions with models that do not know their labels, but with --mention_names the "
            "knowledge base has each training mention as a name of its concept: leave one of the two out."
        )
    if args.fold_model is None:
        return
    if not args.mine_folds:
        raise SystemExit("--fold_model is what the models of --mine_folds start from: give that too.")
    try:
        find_folder(args.fold_model)
    except (ValueError, OSError) as error:
        raise SystemExit(f"--fold_model: {error}") from error


def deal_folds(args: Any, corpus: DatasetDict, seed: int) -> dict[str, int]:
    """The fold of each training mention, by its id; empty if there are no folds."""
    if not args.mine_folds:
        return {}
    try:
        return deal_documents(corpus["train"], args.mine_folds, seed)
    except ValueError as error:
        raise SystemExit(f"--mine_folds {args.mine_folds}: {error}") from error


def fold_linker(
    args: Any, kb: KnowledgeBase, positive: Path, first_linker: Callable[[list[Path]], EntityLinker]
) -> EntityLinker:
    """What the model of a fold starts from: what the positive-only stage came to the training mentions with.

    Args:
        args: the settings of the recipe.
        kb: the knowledge base.
        positive: folder of the positive-only stage.
        first_linker: gives the linker in the first of some folders that has one, else the model of the settings as it
            is.

    Raises:
        SystemExit: if it is gone.
    """
    names = names_linker(positive)
    if args.fold_model is not None:
        start: str | Path = args.fold_model
    elif (args.skip_positive or args.pretrain_passes > 0) and (names / "angel.json").exists():
        # It has seen no label of the corpus; its passages only where --pretrain_in_passages puts names in them.
        start = names
    elif args.skip_positive:
        logger.warning(
            "There is no %s: models of folds start from %s as it is. If that was trained on the mentions of this "
            "corpus, they have seen what they are to mine: give --fold_model, a linker that has not seen them.",
            names,
            args.model,
        )
        return first_linker([Path(args.model)])
    elif args.pretrain_passes > 0:
        raise SystemExit(f"{names} is gone, which models of folds start from. Give --fold_model, or start afresh.")
    else:
        return first_linker([])
    return EntityLinker.from_pretrained(start, kb=kb, device="cpu")


def train_folds(
    args: Any,
    angel: AngelConfig,
    corpus: DatasetDict,
    fold_of: Mapping[str, int],
    start: Callable[[], EntityLinker],
    stages: Stages,
    folder: Path,
) -> HeldOut:
    """Train a model for each fold, without its mentions, in `folder/fold-N`, unless it is there and done.

    Args:
        args: the settings of the recipe.
        angel: those of the rounds.
        corpus: the mentions.
        fold_of: the fold of each training mention, by its id.
        start: gives what each model starts from.
        stages: runs each of them as a stage.
        folder: where to.

    Raises:
        SystemExit: if the models there were made for other folds.
    """
    _keep(fold_of, folder / "folds.json", stages)
    folders = [folder / f"fold-{fold}" for fold in range(args.mine_folds)]
    for fold, own in enumerate(folders):
        stages.run(own, own, partial(_train_without, args, angel, corpus, fold_of, fold, start, own))
    return HeldOut(folders, fold_of)


def _train_without(
    args: Any,
    angel: AngelConfig,
    corpus: DatasetDict,
    fold_of: Mapping[str, int],
    fold: int,
    start: Callable[[], EntityLinker],
    folder: Path,
) -> Curve:
    linker = start()
    rows = [row for row, mention in enumerate(corpus["train"]["id"]) if fold_of[mention] != fold]
    logger.info("fold %d of %d: training without its mentions, on %d", fold + 1, args.mine_folds, len(rows))
    train = corpus["train"].select(rows)
    mentions = prepare_mentions(train, linker.targets, for_training=True)
    dev = prepare_mentions(corpus["dev"], linker.targets)
    return train_on_mentions(args, angel, linker.model, linker.targets, mentions, dev, train, folder)


def _keep(fold_of: Mapping[str, int], path: Path, stages: Stages) -> None:
    """Write down which mention is in which fold: a model made for other folds may have seen what it is to mine."""
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != fold_of:
            raise SystemExit(
                f"{path.parent} has models of other folds (another corpus, seed or --mine_folds?). Resume with the "
                "settings it was begun with, or remove that folder to have them made again."
            )
    elif stages.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial_file:
            partial_file.write_text(json.dumps(fold_of), encoding="utf-8")
