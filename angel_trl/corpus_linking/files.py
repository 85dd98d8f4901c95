"""The files of a corpus to link: where they are, and what they are, told by their content."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from angel_trl.parquet import parquet_columns
from angel_trl.readers.lines import read_head, shorten
from angel_trl.readers.pubtator import looks_like_pubtator

__all__ = ["FORMATS", "REQUIRED", "CorpusFile", "find_files"]

FORMATS = {
    "pubtator": "PubTator ('PMID|t|title' first)",
    "jsonl": 'JSONL ({"text": ..., "start": ..., "end": ...} a line)',
    "parquet": "parquet (columns text, start, end)",
}
"""What can be linked, and how it is told; text may be gzip-compressed."""

REQUIRED = ("text", "start", "end")
"""The fields that a mention to be linked must have in JSONL and parquet."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus.

    Attributes:
        name: Its path inside the corpus, with `/`: what it is called in outputs and messages, on every machine.
        path: Where it is on this machine.
        format: A key of [`FORMATS`].
    """

    name: str
    path: Path
    format: str


def find_files(root: Path) -> tuple[list[CorpusFile], dict[str, str]]:
    """Find what can be linked in a file or, at any depth, in a folder; hidden files and folders are passed over.

    Returns:
        The files in the order of their names, and what others look like, by name: those are left alone.

    Raises:
        FileNotFoundError: If there is nothing at `root`.
        ValueError: If nothing there is of a known format, or a file is broken; the message names it.
    """
    if not root.exists():
        raise FileNotFoundError(f"no file or folder at {root}")
    top = root if root.is_dir() else root.parent
    paths = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else [root]
    files, others = [], {}
    for name, path in sorted((path.relative_to(top).as_posix(), path) for path in paths):
        if root.is_dir() and any(part.startswith(".") for part in name.split("/")):
            continue
        known, seen = _format_of(path)
        if known:
            files.append(CorpusFile(name, path, known))
        else:
            others[name] = seen
    if not files:
        seen = next((f"{name} {text}" for name, text in others.items()), "there are no files")
        raise ValueError(f"{root}: nothing that can be linked ({seen}). Known: {'; '.join(FORMATS.values())}")
    return files, others


def _format_of(path: Path) -> tuple[str, str]:
    """Return the format of a file, `""` if it is not known, and what it looks like."""
    columns = parquet_columns(path)
    if columns:
        return ("parquet" if _has_required(columns) else ""), f"is parquet with the columns {', '.join(columns)}"
    head = read_head(path)
    if looks_like_pubtator(head):
        return "pubtator", ""
    first = head.lstrip().split("\n", 1)[0]
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and _has_required(record):
        return "jsonl", ""
    return "", f"starts with {shorten(first)}" if first else "is empty"


def _has_required(names: Collection[str]) -> bool:
    return set(REQUIRED) <= set(names)
