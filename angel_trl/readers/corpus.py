"""A whole corpus: one file, or a directory of files whose names tell the split."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .lines import read_head, shorten
from .pubtator import looks_like_pubtator, read_pubtator
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["read_corpus"]

_SPLITS = {"train": re.compile("train", re.I), "dev": re.compile("dev|valid", re.I), "test": re.compile("test", re.I)}


def read_corpus(path: str | Path) -> tuple["DatasetDict", ReadReport]:
    """Read the mentions of a PubTator corpus into the splits `train`, `dev` and `test`.

    Args:
        path: A PubTator file (its split is `train` unless its name says otherwise), or a directory. In a directory,
            the files whose content is PubTator are read, and each one's name must tell one split: `train`, `dev`
            (`devel`, `develop`, `valid`, ...) or `test` somewhere in it. Hidden files and subdirectories are left
            alone; files that are not PubTator are noted in the report.

    Returns:
        The splits that are there, in the order train, dev, test, each a mention dataset, and the report over all.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If a split is empty, no file is PubTator, a file's name tells no split or several, two files tell
            the same split, or the only file that tells a split is not PubTator; and as [`read_pubtator`].
    """
    from datasets import DatasetDict

    root = Path(path)
    report = ReadReport()
    files: dict[str, Path] = {}
    foreign: dict[str, tuple[Path, str]] = {}  # by the split their names tell, with how they start
    if root.is_file():
        files[(_splits_named(root) or ["train"])[0]] = root
    elif root.is_dir():
        for file in sorted(p for p in root.iterdir() if p.is_file() and not p.name.startswith(".")):
            head, named = read_head(file), _splits_named(file)
            if not looks_like_pubtator(head):
                report.note("file that is not PubTator left alone", str(file))
                if len(named) == 1:
                    foreign.setdefault(named[0], (file, shorten(head.lstrip()[:80])))
                continue
            if len(named) != 1:
                raise ValueError(
                    f"{file}: its name tells {' and '.join(named) or 'no split'}; name each corpus file after one of "
                    "train, dev, test, or read files one by one with read_pubtator"
                )
            if named[0] in files:
                raise ValueError(f"{root}: two files for {named[0]}: {files[named[0]].name} and {file.name}; keep one")
            files[named[0]] = file
        for split, (file, start) in foreign.items():
            if split not in files:
                raise ValueError(
                    f"{file}: its name tells {split}, but it is not PubTator, which starts with 'PMID|t|title'; it "
                    f"starts with {start}. Convert it to PubTator, or move it elsewhere"
                )
        if not files:
            raise ValueError(f"{root}: no PubTator file in this directory (its files start with 'PMID|t|title')")
    else:
        raise FileNotFoundError(f"no corpus file or directory at {root}")

    splits = DatasetDict()
    for split in _SPLITS:
        if split not in files:
            continue
        splits[split], split_report = read_pubtator(files[split], split=split)
        if len(splits[split]) == 0:
            raise ValueError(f"{files[split]}: split {split} is empty: {split_report.summary()}")
        report = report.merge(split_report)
    return splits, report


def _splits_named(path: Path) -> list[str]:
    return [split for split, pattern in _SPLITS.items() if pattern.search(path.name)]
