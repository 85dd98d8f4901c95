"""Splits of corpora that come without a test split: dev is scored, and train is shared."""

import random
from typing import Literal

from datasets import DatasetDict

TestSplit = Literal["test", "dev"]
TEST_SPLIT_HELP = (
    "Split to score: `dev` is for corpora without a test split, and holds a tenth of the training documents out to "
    "choose by in its place."
)
HELD_OUT = 0.1


def scored_splits(corpus: DatasetDict, test_split: TestSplit = "test") -> DatasetDict:
    """The splits train, dev (to choose by) and test (to score) of a corpus.

    With `test_split="dev"` the corpus' dev split is scored and never chosen by: dev is then a tenth of the training
    documents, drawn with a fixed seed, so that every recipe and every run holds out the same ones. A test split, if
    there is one, is left out. The column `split` of the rows keeps saying which split they are from.

    Raises:
        SystemExit: if a split is missing, or there are too few training documents to share.
    """
    needed = ("train", "dev", "test") if test_split == "test" else ("train", "dev")
    missing = [split for split in needed if split not in corpus]
    if missing:
        told = f"The corpus lacks the splits {missing}; it has {sorted(corpus)}."
        hint = " --test_split dev scores dev, and chooses by a tenth of the training documents."
        raise SystemExit(told + (hint if missing == ["test"] else ""))
    if test_split == "test":
        return DatasetDict({split: corpus[split] for split in needed})
    documents = list(dict.fromkeys(corpus["train"]["document_id"]))
    count = max(1, round(HELD_OUT * len(documents)))
    if len(documents) < 2:
        raise SystemExit("--test_split dev holds training documents out, and the corpus has only one.")
    held_out = set(random.Random(0).sample(documents, count))
    rows: dict[bool, list[int]] = {True: [], False: []}
    for row, document in enumerate(corpus["train"]["document_id"]):
        rows[document in held_out].append(row)
    return DatasetDict(
        {
            "train": corpus["train"].select(rows[False]),
            "dev": corpus["train"].select(rows[True]),
            "test": corpus["dev"],
        }
    )
