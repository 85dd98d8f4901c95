"""A whole corpus: one file, or a folder of files whose names tell the split, in a format told by the content."""

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .bigbio import looks_like_bigbio, read_bigbio
from .brat import annotation_files, read_brat
from .lines import read_head, shorten
from .medmentions import looks_like_medmentions, read_medmentions
from .mention_jsonl import looks_like_mention_jsonl, read_mention_jsonl, read_mention_jsonl_splits
from .mention_table import (
    IdLevel,
    fold_files,
    looks_like_askapatient,
    looks_like_cometa,
    read_askapatient,
    read_cometa,
)
from .pubtator import looks_like_pubtator, read_pubtator
from .report import ReadReport
from .source_target import looks_like_source, read_source_target

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["read_corpus"]

_SPLITS = {"train": re.compile("train", re.I), "dev": re.compile("dev|valid", re.I), "test": re.compile("test", re.I)}
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)\.parquet")


class _Format(NamedTuple):
    name: str
    looks_like: Callable[[str], bool]
    """Tells by the start of the content."""
    read: Callable[..., tuple["Dataset", ReadReport]]


# The first that fits wins: the stricter formats stand first. Parquet is not text and is asked for apart.
_BIGBIO = _Format("BigBIO (parquet with 'passages' and 'entities')", lambda head: False, read_bigbio)
_FORMATS = (
    _Format("PubTator (starts with 'PMID|t|title')", looks_like_pubtator, read_pubtator),
    _Format(
        'JSONL ({"text": ..., "start": ..., "end": ..., "concept_ids": ...} a line)',
        looks_like_mention_jsonl,
        read_mention_jsonl,
    ),
    _Format("COMETA (a header with 'Term', 'Example', 'General SNOMED ID')", looks_like_cometa, read_cometa),
    _Format("source and label files ('left START mention END right')", looks_like_source, read_source_target),
    _Format("AskAPatient (id<TAB>name<TAB>mention)", looks_like_askapatient, read_askapatient),
    _BIGBIO,
)
_KNOWN = "; ".join(
    (
        *(known.name for known in _FORMATS),
        "BRAT (a folder of .txt and .ann files)",
        "MedMentions (a PubTator file with lists of PMIDs)",
    )
)


class _Part(NamedTuple):
    """What a split is read from."""

    path: Path
    read: Callable[[], tuple["Dataset", ReadReport]]


def read_corpus(
    path: str | Path, *, fold: int | None = None, level: IdLevel = "general"
) -> tuple["DatasetDict", ReadReport]:
    """Read the mentions of a corpus into the splits `train`, `dev` and `test`.

    Known are PubTator, MedMentions with its lists of PMIDs, source and label files with `START` and `END`, BRAT
    standoff, BigBIO's `kb` schema in parquet, COMETA, AskAPatient and JSONL; text may be gzip-compressed. The format
    is told by the start of the content, so each file of a folder may have its own.

    Args:
        path: One of

            - a file: its split is `train` unless its name says otherwise (JSONL lines may name their own);
            - a folder of files, each of whose names must tell one split: `train`, `dev` (`devel`, `develop`,
              `valid`, ...) or `test` somewhere in it. Hidden files and subfolders are left alone; files of no known
              format are noted in the report. Parquet may be cut into shards, `train-00000-of-00002.parquet`;
            - a folder of BRAT files, of split `train` unless its name says otherwise, or of subfolders of BRAT files
              whose names tell the split;
            - a folder of MedMentions, or of AskAPatient's folds.
        fold: Which fold of AskAPatient, if the folder holds several.
        level: Which id of COMETA, as in [`read_cometa`].

    Returns:
        The splits that are there, in the order train, dev, test, each a mention dataset, and the report over all.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If a split is empty, no file is of a known format, a file's name tells no split or several, two
            files tell the same split, the only file that tells a split is of no known format, or `fold` is missing
            or not there; and as the format's reader.
    """
    from datasets import DatasetDict

    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no corpus file or directory at {root}")
    folds = fold_files(root) if root.is_dir() else {}
    if fold is not None and fold not in folds:
        there = f"the folds {', '.join(map(str, folds))}" if folds else "no files such as AskAPatient.fold-0.train.txt"
        raise ValueError(f"{root}: no fold {fold!r}; it holds {there}")

    report = ReadReport()
    splits = DatasetDict()
    if looks_like_medmentions(root):
        splits, report = read_medmentions(root)
    elif root.is_file() and looks_like_mention_jsonl(read_head(root)):
        splits, report = read_mention_jsonl_splits(root, default=_only_split(root) or "train")
    else:
        if folds:
            if fold is None and len(folds) > 1:
                raise ValueError(f"{root}: holds the folds {', '.join(map(str, folds))}; choose one with fold=...")
            parts = _parts_of_files(folds[min(folds) if fold is None else fold].values(), root, level, report)
        elif root.is_file():
            parts = {_only_split(root) or "train": _part_of_file(root, level)}
        else:
            parts = _parts_of_folder(root, level, report)
        for split in _SPLITS:
            if split in parts:
                splits[split], part_report = parts[split].read()
                if not len(splits[split]):
                    raise ValueError(f"{parts[split].path}: split {split} is empty: {part_report.summary()}")
                report = report.merge(part_report)
    for split, dataset in splits.items():
        if not len(dataset):
            raise ValueError(f"{root}: split {split} is empty: {report.summary()}")
    return splits, report


def _format_of(path: Path, head: str) -> _Format | None:
    found = next((known for known in _FORMATS if known.looks_like(head)), None)
    return found or (_BIGBIO if looks_like_bigbio(path) else None)


def _part(path: Path, paths: Any, split: str, known: _Format, level: IdLevel) -> _Part:
    options = {"level": level} if known.read is read_cometa else {}
    return _Part(path, partial(known.read, paths, split=split, **options))


def _part_of_file(path: Path, level: IdLevel) -> _Part:
    head = read_head(path)
    known = _format_of(path, head)
    if known is None:
        seen = f"it starts with {_start(head)}" if head.strip() else "it is empty"
        raise ValueError(f"{path}: no known corpus format: {seen}. Known: {_KNOWN}")
    return _part(path, path, _only_split(path) or "train", known, level)


def _parts_of_folder(root: Path, level: IdLevel, report: ReadReport) -> dict[str, _Part]:
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and annotation_files(p)]
    if annotation_files(root):
        folders.append(root)
    if folders == [root]:
        return {
            _only_split(root) or "train": _Part(root, partial(read_brat, root, split=_only_split(root) or "train"))
        }
    parts: dict[str, _Part] = {}
    for folder in folders:
        split = _split_told(folder, parts.get(_only_split(folder) or ""), root, "read_brat")
        parts[split] = _Part(folder, partial(read_brat, folder, split=split))
    if parts:
        return parts
    files = [p for p in sorted(root.iterdir()) if p.is_file() and not p.name.startswith(".")]
    return _parts_of_files(files, root, level, report)


def _parts_of_files(files: Collection[Path], root: Path, level: IdLevel, report: ReadReport) -> dict[str, _Part]:
    parts: dict[str, _Part] = {}
    shards: dict[str, list[Path]] = {}
    foreign: dict[str, tuple[Path, str]] = {}  # by the split their names tell, with how they start
    names = {file.name.removesuffix(".gz") for file in files}
    for file in files:
        stem, _, ending = file.name.removesuffix(".gz").rpartition(".")
        if ending in ("label", "target") and f"{stem}.source" in names:
            continue  # read with its source
        head = read_head(file)
        known = _format_of(file, head)
        if known is None:
            report.note("file of no known corpus format left alone", str(file))
            foreign.setdefault(_only_split(file), (file, _start(head)))
            continue
        shard = _SHARD.fullmatch(file.name) if known is _BIGBIO else None
        if shard and _only_split(file) in shards:
            shards[_only_split(file)].append(file)
            continue
        split = _split_told(file, parts.get(_only_split(file)), root, known.read.__name__)
        if shard:
            shards[split] = [file]
        parts[split] = _part(file, file, split, known, level)
    for split, paths in shards.items():
        kinds = {match.groups() for p in paths if (match := _SHARD.fullmatch(p.name))}
        if len(kinds) != 1 or {str(len(paths))} != {total.lstrip("0") for _, total in kinds}:
            raise ValueError(
                f"{root}: the shards of {split} are not all of one set: {', '.join(p.name for p in paths)}"
            )
        parts[split] = _part(paths[0], paths, split, _BIGBIO, level)
    for split, (file, start) in foreign.items():
        if split and split not in parts:
            raise ValueError(
                f"{file}: its name tells {split}, but it is of no known corpus format: it starts with {start}. "
                f"Convert it, or move it elsewhere. Known: {_KNOWN}"
            )
    if not parts:
        raise ValueError(f"{root}: no file of a known corpus format in this directory. Known: {_KNOWN}")
    return parts


def _split_told(path: Path, other: _Part | None, root: Path, reader: str) -> str:
    """Return the one split that a name tells, which no other part may have told."""
    named = _splits_named(path)
    if len(named) != 1:
        raise ValueError(
            f"{path}: its name tells {' and '.join(named) or 'no split'}; name each part of a corpus after one of "
            f"train, dev, test, or read them one by one with {reader}"
        )
    if other is not None:
        kind = "folders" if path.is_dir() else "files"
        raise ValueError(f"{root}: two {kind} for {named[0]}: {other.path.name} and {path.name}; keep one")
    return named[0]


def _only_split(path: Path) -> str:
    """Return the one split that the name of a file or folder tells, or `""`."""
    named = _splits_named(path)
    return named[0] if len(named) == 1 else ""


def _splits_named(path: Path) -> list[str]:
    return [split for split, pattern in _SPLITS.items() if pattern.search(path.name)]


def _start(head: str) -> str:
    return shorten(head.lstrip()[:80])
