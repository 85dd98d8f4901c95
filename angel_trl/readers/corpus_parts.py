"""Which file of a corpus is read how, and for which split: formats told by content, splits told by names."""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..parquet import parquet_columns
from .bigbio import looks_like_bigbio, read_bigbio
from .brat import annotation_files, read_brat
from .lines import read_head, shorten
from .mention_jsonl import looks_like_mention_jsonl, read_mention_jsonl, read_mention_jsonl_splits
from .mention_parquet import looks_like_mention_parquet, read_mention_parquet, read_mention_parquet_splits
from .mention_table import IdLevel, looks_like_askapatient, looks_like_cometa, read_askapatient, read_cometa
from .pubtator import looks_like_pubtator, read_pubtator
from .report import ReadReport
from .source_target import looks_like_source, read_source_target

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["SPLITS", "IdLevel", "Part", "corpus_folder", "part_of_file", "parts_of_files", "parts_of_folder"]

_NAMED = {"train": re.compile("train", re.I), "dev": re.compile("dev|valid", re.I), "test": re.compile("test", re.I)}
SPLITS = tuple(_NAMED)
"""The splits in the order in which they are read."""

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.parquet")
# As the Hub's branch refs/convert/parquet has them, in a folder a split.
_NUMBERED = re.compile(r"(\d{4,})\.parquet")


class _Format(NamedTuple):
    name: str
    looks_like: Callable[..., bool]
    """Tells by the start of the content; of parquet, by the names of the columns."""
    read: Callable[..., tuple["Dataset", ReadReport]]
    read_splits: Callable[..., tuple["DatasetDict", ReadReport]] | None = None
    """Reads mentions that name their splits themselves."""


# The first that fits wins: the stricter formats stand first.
_TEXT = (
    _Format("PubTator (starts with 'PMID|t|title')", looks_like_pubtator, read_pubtator),
    _Format(
        'JSONL ({"text": ..., "start": ..., "end": ..., "concept_ids": ...} a line)',
        looks_like_mention_jsonl,
        read_mention_jsonl,
        read_mention_jsonl_splits,
    ),
    _Format("COMETA (a header with 'Term', 'Example', 'General SNOMED ID')", looks_like_cometa, read_cometa),
    _Format("source and label files ('left START mention END right')", looks_like_source, read_source_target),
    _Format("AskAPatient (id<TAB>name<TAB>mention)", looks_like_askapatient, read_askapatient),
)
_PARQUET = (
    _Format(
        "parquet with columns 'text', 'start', 'end' and 'concept_ids'",
        looks_like_mention_parquet,
        read_mention_parquet,
        read_mention_parquet_splits,
    ),
    _Format("BigBIO (parquet with 'passages' and 'entities')", looks_like_bigbio, read_bigbio),
)
_KNOWN = "; ".join(
    (
        *(known.name for known in _TEXT + _PARQUET),
        "BRAT (a folder of .txt and .ann files)",
        "MedMentions (a PubTator file with lists of PMIDs)",
    )
)


class Part(NamedTuple):
    """What a split is read from.

    Attributes:
        path: The file or folder, for messages.
        read: Reads it.
        read_splits: Reads it into the splits that its mentions name, `None` if they cannot.
    """

    path: Path
    read: Callable[[], tuple["Dataset", ReadReport]]
    read_splits: Callable[[], tuple["DatasetDict", ReadReport]] | None = None


def corpus_folder(root: Path) -> Path:
    """Return the folder itself, or the subfolder that has the corpus where it has none but this.

    Of several that have one, `data` is what the Hub takes for the dataset itself.

    Raises:
        ValueError: If several others have one; the message names them.
    """
    folders = _folders(root)
    parts = [p for p in folders if _numbered(p) or (_only_split(p) and annotation_files(p))]
    # A folder of BRAT files can have thousands: not each is looked into.
    if annotation_files(root) or parts or _has_corpus_file(root):
        return root
    found = [p for p in folders if annotation_files(p) or any(map(_numbered, _folders(p))) or _has_corpus_file(p)]
    if len(found) > 1 and (data := root / "data") in found:
        return data
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise ValueError(f"{root}: holds several corpora, in the folders {names}; read one of them: {found[0]}")
    return found[0] if found else root


def part_of_file(path: Path, level: IdLevel) -> dict[str, Part]:
    """Return how a file is read, by its split: the one that its name tells, or else `train`.

    Raises:
        ValueError: If it is of no known format; the message says what was seen and what is known.
    """
    known, seen = _format_of(path)
    if known is None:
        raise ValueError(f"{path}: no known corpus format: {seen}. Known: {_KNOWN}")
    split = _only_split(path) or "train"
    return {split: _part(path, path, split, known, level)}


def parts_of_folder(root: Path, level: IdLevel, report: ReadReport) -> dict[str, Part]:
    """Return how the files of a folder are read, by split.

    Raises:
        ValueError: As [`read_corpus`].
    """
    folders = [p for p in _folders(root) if annotation_files(p)]
    if annotation_files(root):
        folders.append(root)
    if folders == [root]:
        split = _only_split(root) or "train"
        return {split: Part(root, partial(read_brat, root, split=split))}
    parts: dict[str, Part] = {}
    for folder in folders:
        split = _split_told(folder, parts.get(_only_split(folder)), root, "read_brat")
        parts[split] = Part(folder, partial(read_brat, folder, split=split))
    if parts:
        return parts
    files = [p for p in sorted(root.iterdir()) if p.is_file() and not p.name.startswith(".")]
    numbered = [root] if _numbered(root) else [p for p in _folders(root) if _numbered(p)]
    if not numbered or (numbered != [root] and _has_corpus_file(root)):
        return parts_of_files(files, root, level, report)
    for folder in numbered:
        shards = _numbered(folder)
        known, seen = _format_of(shards[0])
        if known is None:
            raise ValueError(f"{shards[0]}: no known corpus format: {seen}. Known: {_KNOWN}")
        split = _split_told(folder, parts.get(_only_split(folder)), root, known.read.__name__)
        if [int(p.stem) for p in shards] != list(range(len(shards))):
            raise ValueError(f"{folder}: not all shards are there: {', '.join(p.name for p in shards)}")
        parts[split] = _part(folder, shards, split, known, level)
    return parts


def parts_of_files(files: Collection[Path], root: Path, level: IdLevel, report: ReadReport) -> dict[str, Part]:
    """Return how each of some files is read, by split; those of no known format are noted.

    Raises:
        ValueError: As [`read_corpus`].
    """
    parts: dict[str, Part] = {}
    shards: dict[str, list[Path]] = {}
    foreign: dict[str, tuple[Path, str]] = {}  # by the split their names tell, with what was seen
    names = {file.name.removesuffix(".gz") for file in files}
    for file in files:
        stem, _, ending = file.name.removesuffix(".gz").rpartition(".")
        if ending in ("label", "target") and f"{stem}.source" in names:
            continue  # read with its source
        known, seen = _format_of(file)
        if known is None:
            report.note("file of no known corpus format left alone", str(file))
            foreign.setdefault(_only_split(file), (file, seen))
            continue
        shard = _SHARD.fullmatch(file.name) if known in _PARQUET else None
        if shard and _only_split(file) in shards:
            shards[_only_split(file)].append(file)
            continue
        split = _split_told(file, parts.get(_only_split(file)), root, known.read.__name__)
        if shard:
            shards[split] = [file]
        parts[split] = _part(file, file, split, known, level)
    for split, paths in shards.items():
        kinds = {match.group(1, 3) for p in paths if (match := _SHARD.fullmatch(p.name))}
        known, _ = _format_of(paths[0])
        if known is None or len(kinds) != 1 or {str(len(paths))} != {total.lstrip("0") for _, total in kinds}:
            raise ValueError(
                f"{root}: the shards of {split} are not all of one set: {', '.join(p.name for p in paths)}"
            )
        parts[split] = _part(paths[0], paths, split, known, level)
    for split, (file, seen) in foreign.items():
        if split and split not in parts:
            raise ValueError(
                f"{file}: its name tells {split}, but it is of no known corpus format: {seen}. Convert it, or move it "
                f"elsewhere. Known: {_KNOWN}"
            )
    if not parts:
        raise ValueError(f"{root}: no file of a known corpus format in this directory. Known: {_KNOWN}")
    return parts


def _format_of(path: Path) -> tuple[_Format | None, str]:
    """Return the format of a file, `None` if it is not known, and what the file looks like."""
    columns = parquet_columns(path)
    if columns:
        known = next((known for known in _PARQUET if known.looks_like(columns)), None)
        return known, f"parquet with the columns {shorten(', '.join(columns))}"
    head = read_head(path)
    known = next((known for known in _TEXT if known.looks_like(head)), None)
    if head.startswith("PK\x03\x04"):
        return known, "a zip archive: unpack it"
    return known, f"it starts with {shorten(head.lstrip()[:80])}" if head.strip() else "it is empty"


def _part(path: Path, paths: Path | Sequence[Path], split: str, known: _Format, level: IdLevel) -> Part:
    options: dict[str, Any] = {"level": level} if known.read is read_cometa else {}
    read_splits = partial(known.read_splits, paths, default=split) if known.read_splits else None
    return Part(path, partial(known.read, paths, split=split, **options), read_splits)


def _folders(root: Path) -> list[Path]:
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _numbered(folder: Path) -> list[Path]:
    """Return the shards `0000.parquet`, `0001.parquet`, ... of a folder whose name tells a split."""
    if not _only_split(folder):
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and _NUMBERED.fullmatch(p.name))


def _has_corpus_file(folder: Path) -> bool:
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith("."))
    return any(_format_of(p)[0] for p in files)


def _split_told(path: Path, other: Part | None, root: Path, reader: str) -> str:
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
    return [split for split, pattern in _NAMED.items() if pattern.search(path.name)]
