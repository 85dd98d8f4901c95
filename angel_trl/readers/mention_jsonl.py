"""Mentions in JSONL, one object a line as `Dataset.to_json` writes them; fields are those of `mention_records.py`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from .lines import read_lines, shorten
from .mention_records import OPTIONAL, REQUIRED, MentionRecords
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["looks_like_mention_jsonl", "read_mention_jsonl", "read_mention_jsonl_splits"]


def looks_like_mention_jsonl(head: str) -> bool:
    """Say whether the first line of text is a JSON object with `text`, `start`, `end` and `concept_ids`."""
    try:
        first = json.loads(head.strip().split("\n", 1)[0])
    except (ValueError, RecursionError):  # ValueError: not JSON, or an integer of thousands of digits
        return False
    return isinstance(first, dict) and first.keys() >= set(REQUIRED)


def read_mention_jsonl(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read one mention a line, gzip-compressed or not; the report counts lines.

    Mentions that are not at their offsets are repaired or skipped as by [`read_pubtator`]; without `mention`, offsets
    must lie in the text. A line repeated word for word is skipped. Unknown fields are ignored and noted.

    Args:
        path: The file.
        split: What to write in the column `split`; a line that names another split is an error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a JSON object, a field is missing or of the wrong type; the message names the
            file, the line and the field.
    """
    return _read(path, MentionRecords(split, fixed=True)).dataset()


def read_mention_jsonl_splits(path: str | Path, *, default: str = "train") -> tuple["DatasetDict", ReadReport]:
    """Read one mention a line into the splits that the lines name; a line that names none is of split `default`.

    Counts and errors are those of [`read_mention_jsonl`].
    """
    return _read(path, MentionRecords(default, fixed=False)).splits()


def _read(path: str | Path, records: MentionRecords) -> MentionRecords:
    for number, line in tqdm(read_lines(path), desc=Path(path).name, unit=" lines", delay=2):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        record = _parse(line, where)
        for key in record.keys() - {*REQUIRED, *OPTIONAL}:
            records.report.note(f"unknown field {shorten(key, 40)} ignored", where)
        records.add(record, number, where, line)
    return records


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {shorten(line)} is not JSON ({error}); write one object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {shorten(line)} is not a JSON object with {', '.join(REQUIRED)}")
    return record
