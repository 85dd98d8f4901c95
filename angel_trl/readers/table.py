"""Plain tables of concepts or of names: CSV and TSV with a header line, parquet, and pandas data frames.

The columns are `id`; `name` (one) or `names`; and optionally `synonyms`, `alternate_ids`, `types` and `definition`, in
any order and case. A cell of `names`, `synonyms`, `alternate_ids` or `types` is a list, or text with `|` between the
values. A row is a concept, or one name of a concept: rows of one id are joined. Delimited text is RFC 4180, so that a
field in double quotes may hold the delimiter and line breaks; the delimiter is a tab, a comma or a semicolon.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..kb import Concept
from ..parquet import PARQUET_MAGIC, parquet_columns, read_rows
from .cleaning import ConceptBuilder
from .lines import read_lines, shorten, split_rows
from .report import ReadReport

if TYPE_CHECKING:
    import pandas

__all__ = ["looks_like_parquet", "looks_like_table", "read_table"]

_DELIMITERS = "\t,;"
_TEXTS = ("id", "name", "definition")
_LISTS = ("names", "synonyms", "alternate_ids", "types")
# What Python makes of a list when a data frame is written as CSV.
_PRINTED_LIST = re.compile(r"""\[\s*(['"]).*\1\s*\]""", re.DOTALL)


def looks_like_table(head: str) -> bool:
    """Say whether the first line of text names a column `id` and a column `name` or `names`."""
    return _delimiter(head.lstrip("\n\r").split("\n", 1)[0]) is not None


def looks_like_parquet(head: str) -> bool:
    """Say whether text is the beginning of a parquet file."""
    return head.startswith(PARQUET_MAGIC.decode())


def read_table(
    source: "str | Path | Sequence[str | Path] | pandas.DataFrame",
) -> tuple[list[Concept], ReadReport]:
    """Read a table of concepts; the report counts rows.

    The names of a row are those of `name`, `names` and `synonyms`, in this order. Empty cells and missing values stand
    for nothing; whole numbers as ids are read as text; columns of other names are noted and ignored.

    Args:
        source: A CSV or TSV file, gzip-compressed or not, a parquet file, several files that a table was cut into, or
            a `pandas.DataFrame`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or stands twice, a row has another number of fields, or a value has
            another type; the message names the file, the line or row, and the column.
    """
    report = ReadReport()
    builder = ConceptBuilder(report, "rows")
    if isinstance(source, str | Path):
        name, rows = Path(source).name, _file_rows(source, report)
    elif isinstance(source, Sequence):
        name, rows = Path(source[0]).name, chain.from_iterable(_file_rows(path, report) for path in source)
    else:
        name, rows = "DataFrame", _frame_rows(source, report)
    for where, row in tqdm(rows, desc=name, unit=" rows", delay=2):
        texts = {column: _text(row.get(column), f"{where}: column {column!r}", report) for column in _TEXTS}
        lists = {column: _list(row.get(column), f"{where}: column {column!r}", report) for column in _LISTS}
        builder.add(
            texts["id"],
            [*([texts["name"]] if texts["name"].strip() else []), *lists["names"], *lists["synonyms"]],
            where,
            alternate_ids=lists["alternate_ids"],
            types=lists["types"],
            definition=texts["definition"],
        )
    return builder.build(), report


def _delimiter(header: str) -> str | None:
    for delimiter in _DELIMITERS:
        columns = {column.strip(' "\r').lower() for column in header.split(delimiter)}
        if "id" in columns and columns & {"name", "names"}:
            return delimiter
    return None


def _columns(names: Iterable[object], where: str, report: ReadReport) -> list[str]:
    """Return the columns by our names, `""` for those that are ignored."""
    columns = [str(name).strip().lower() for name in names]
    if "id" not in columns or not {"name", "names"} & set(columns):
        raise ValueError(
            f"{where}: columns {shorten(', '.join(columns), 200)}: there must be 'id', and 'name' or 'names'; "
            "rename them"
        )
    for column in columns:
        if column not in _TEXTS + _LISTS:
            report.note(f"column {shorten(column, 40)} ignored", where)
        elif columns.count(column) > 1:
            raise ValueError(f"{where}: column {column!r} stands twice; rename or delete one")
    return [column if column in _TEXTS + _LISTS else "" for column in columns]


def _file_rows(path: str | Path, report: ReadReport) -> Iterator[tuple[str, dict[str, Any]]]:
    if names := parquet_columns(path):
        return _parquet_rows(path, names, report)
    return _text_rows(path, report)


def _text_rows(path: str | Path, report: ReadReport) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = read_lines(path)
    header = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    delimiter = _delimiter(header[1]) or next((d for d in _DELIMITERS if d in header[1]), ",")
    rows = split_rows(path, chain([header], lines), delimiter)
    number, names = next(rows, (1, []))
    columns = _columns(names, f"{path}:{number}", report)
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != len(columns):
            raise ValueError(
                f"{where}: {len(fields)} fields, but {len(columns)} columns: {shorten(delimiter.join(fields))}; put a "
                f"field that has {delimiter!r} in it in double quotes"
            )
        yield where, dict(zip(columns, fields, strict=True))


def _parquet_rows(path: str | Path, names: Sequence[str], report: ReadReport) -> Iterator[tuple[str, dict[str, Any]]]:
    read = [name for name, column in zip(names, _columns(names, str(path), report), strict=True) if column]
    for number, row in read_rows(path, read):
        yield f"{path}: row {number}", {name.strip().lower(): cell for name, cell in row.items()}


def _frame_rows(frame: "pandas.DataFrame", report: ReadReport) -> Iterator[tuple[str, dict[str, Any]]]:
    columns = _columns(frame.columns, "DataFrame", report)
    values = {
        # Of pandas' several missing values, one: None.
        column: frame.iloc[:, position].astype(object).where(frame.iloc[:, position].notna(), None).tolist()
        for position, column in enumerate(columns)
        if column
    }
    for row, cells in enumerate(zip(*values.values(), strict=True)):
        yield f"DataFrame: row {row}", dict(zip(values, cells, strict=True))


def _text(value: object, where: str, report: ReadReport) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        report.note("number read as text", f"{where} {value}")
        return str(int(value))
    raise ValueError(f"{where}: must be text, got {value!r:.80}; read or convert the column as text")


def _list(value: object, where: str, report: ReadReport) -> Sequence[str]:
    if isinstance(value, str):
        if _PRINTED_LIST.fullmatch(value.strip()):
            raise ValueError(
                f"{where}: {shorten(value)} is a list printed as text; join the values with '|', or write parquet"
            )
        return value.split("|") if value.strip() else []
    if value is None:
        return []
    if isinstance(value, Integral):
        return [_text(value, where, report)]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_text(item, where, report) for item in value]
    raise ValueError(f"{where}: must be a list of texts, or text with '|' between them, got {value!r:.80}")
