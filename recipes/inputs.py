"""The knowledge base and the corpus that a recipe is given, or the synthetic ones."""

import logging
from typing import Any

from corpus_splits import scored_splits
from datasets import DatasetDict

from angel_trl import KnowledgeBase, read_corpus, read_knowledge_base, synthetic_corpus, validate_mentions

logger = logging.getLogger("recipes.inputs")


def read_inputs(args: Any) -> tuple[KnowledgeBase, DatasetDict, dict[str, Any]]:
    """The knowledge base, the corpus with its splits train, dev and test, and what was read, skipped and repaired.

    Args:
        args: settings of a recipe, of which `corpus`, `kb`, `fold`, `level` and `test_split` are read.

    Raises:
        SystemExit: if only one of the two is given, or what is given cannot be read.
    """
    if (args.corpus is None) != (args.kb is None):
        raise SystemExit("Give both --corpus and --kb, or neither for the synthetic quickstart data.")
    if args.corpus is None:
        kb, corpus = synthetic_corpus(seed=0)
        report: dict[str, Any] = {"corpus": "synthetic (made by angel_trl.synthetic; no real concepts)"}
    else:
        try:
            kb = read_knowledge_base(args.kb)
            corpus, read = read_corpus(args.corpus, fold=args.fold, level=args.level)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
        report = {"corpus": read.to_dict()}
        logger.log(logging.WARNING if read.skipped else logging.INFO, "read %s: %s", args.corpus, read.summary())
    corpus = scored_splits(corpus, args.test_split)
    for split in corpus.values():
        validate_mentions(split)
    return kb, corpus, report | {"kb": kb.statistics()}
