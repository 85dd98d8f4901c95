"""Mentions in parquet, one a row: our own columns as `Dataset.to_parquet` and `push_to_hub` write them.

The columns are the fields of `mention_records.py`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ..parquet import parquet_columns, read_rows
from .lines import shorten
from .mention_records import OPTIONAL, REQUIRED, MentionRecords
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["looks_like_mention_parquet", "read_mention_parquet", "read_mention_parquet_splits"]


def looks_like_mention_parquet(columns: Collection[str]) -> bool:
    """Say whether the columns of a parquet file are `text`, `start`, `end` and `concept_ids`, and maybe others."""
    return set(REQUIRED) <= set(columns)


def read_mention_parquet(path: str | Path | Sequence[str | Path], *, split: str) -> tuple["Dataset", ReadReport]:
    """Read one mention a row; the report counts rows.

    Rows are checked, repaired and skipped as lines are by [`read_mention_jsonl`]; unknown columns are noted.

    Args:
        path: The file, or several in order.
        split: What to write in the column `split`; a row that names another split is an error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not parquet, a column is missing, or a value is of the wrong type; the message names
            the file, the row and the column.
    """
    return _read(path, MentionRecords(split, fixed=True)).dataset()


def read_mention_parquet_splits(
    path: str | Path | Sequence[str | Path], *, default: str = "train"
) -> tuple["DatasetDict", ReadReport]:
    """Read one mention a row into the splits that the rows name; a row that names none is of split `default`.

    Counts and errors are those of [`read_mention_parquet`].
    """
    return _read(path, MentionRecords(default, fixed=False)).splits()


def _read(path: str | Path | Sequence[str | Path], records: MentionRecords) -> MentionRecords:
    count = 0
    for file in [path] if isinstance(path, str | Path) else path:
        if not Path(file).is_file():
            raise FileNotFoundError(f"no parquet file at {file}")
        names = parquet_columns(file)
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise ValueError(f"{file}: no column {missing[0]!r}; a mention needs {', '.join(REQUIRED)}")
        known = [name for name in names if name in REQUIRED + OPTIONAL]
        for name in names:
            if name not in known:
                records.report.note(f"unknown field {shorten(name, 40)} ignored", str(file))
        for number, record in tqdm(read_rows(file, known), desc=Path(file).name, unit=" rows", delay=2):
            count += 1
            records.add(record, count, f"{file}:row {number}", repr(record))
    return records
