"""A whole corpus: one file, or a folder of files whose names tell the split, in a format told by the content."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .brat import annotation_files
from .corpus_parts import SPLITS, IdLevel, Part, corpus_folder, part_of_file, parts_of_files, parts_of_folder
from .medmentions import looks_like_medmentions, read_medmentions
from .mention_table import fold_files
from .report import ReadReport
from .sources import Source, fetched

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["read_corpus"]


def read_corpus(
    source: Source | Sequence[Source], *, fold: int | None = None, level: IdLevel = "general"
) -> tuple["DatasetDict", ReadReport]:
    """Read the mentions of a corpus into the splits `train`, `dev` and `test`.

    Known are PubTator, MedMentions with its lists of PMIDs, source and label files with `START` and `END`, BRAT
    standoff, BigBIO's `kb` schema in parquet, COMETA, AskAPatient, and our own columns in JSONL and parquet; text may
    be gzip-compressed. The format is told by the start of the content, so each file of a folder may have its own.

    Args:
        source: A path, a URL of a file, or a dataset on the Hub (`user/name`, `user/name@revision`,
            `hf://datasets/user/name/folder`), as [`angel_trl.readers.sources.local_path`] takes them: one of

            - a file: its split is `train` unless its name says otherwise. The mentions of JSONL and parquet may name
              their own;
            - a folder of files, each of whose names must tell one split: `train`, `dev` (`devel`, `develop`,
              `valid`, ...) or `test` somewhere in it. Hidden files and subfolders are left alone; files of no known
              format are noted in the report. Parquet may be cut into shards, `train-00000-of-00002.parquet`;
            - a folder of BRAT files, of split `train` unless its name says otherwise, or of subfolders of BRAT files
              whose names tell the split; likewise `train/0000.parquet`, as the Hub converts datasets;
            - a folder of MedMentions, or of AskAPatient's folds;
            - a folder with one of these in a single subfolder, or in its subfolder `data`, as datasets of the Hub.

            Several files, as a list of paths and URLs, are read as a folder of them.
        fold: Which fold of AskAPatient, if the folder holds several.
        level: Which id of COMETA, as in [`read_cometa`].

    Returns:
        The splits that are there, in the order train, dev, test, each a mention dataset, and the report over all.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        OSError: If it cannot be fetched; see [`angel_trl.readers.sources.local_path`].
        ValueError: If a split is empty, no file is of a known format, several subfolders hold a corpus, a file's name
            tells no split or several, two files tell the same split, the only file that tells a split is of no known
            format, or `fold` is missing or not there; and as the format's reader. The message names the source.
    """
    with fetched(source) as found:
        splits, report = _read(found.path, fold, level)
        for split, dataset in splits.items():
            if not len(dataset):
                raise ValueError(f"{found.path}: split {split} is empty: {report.summary()}")
        return splits, found.named_report(report)


def _read(root: Path, fold: int | None, level: IdLevel) -> tuple["DatasetDict", ReadReport]:
    if root.is_dir():
        root = corpus_folder(root)
    if looks_like_medmentions(root):
        return read_medmentions(root)
    report = ReadReport()
    parts = _parts(root, fold, level, report)
    if len(parts) == 1 and (read_splits := next(iter(parts.values())).read_splits):
        splits, own_report = read_splits()
        return splits, report.merge(own_report)
    from datasets import DatasetDict

    splits = DatasetDict()
    for split in SPLITS:
        if split in parts:
            splits[split], part_report = parts[split].read()
            if not len(splits[split]):
                raise ValueError(f"{parts[split].path}: split {split} is empty: {part_report.summary()}")
            report = report.merge(part_report)
    return splits, report


def _parts(root: Path, fold: int | None, level: IdLevel, report: ReadReport) -> dict[str, Part]:
    folds = fold_files(root) if root.is_dir() and not annotation_files(root) else {}
    if fold is not None and fold not in folds:
        there = f"the folds {', '.join(map(str, folds))}" if folds else "no files such as AskAPatient.fold-0.train.txt"
        raise ValueError(f"{root}: no fold {fold!r}; it holds {there}")
    if root.is_file():
        return part_of_file(root, level)
    if not folds:
        return parts_of_folder(root, level, report)
    if fold is None and len(folds) > 1:
        raise ValueError(f"{root}: holds the folds {', '.join(map(str, folds))}; choose one with fold=...")
    return parts_of_files(list(folds[min(folds) if fold is None else fold].values()), root, level, report)
