"""Rows of a parquet file, with bounds: a file of a few kilobytes can claim, or turn into, more than any memory holds.

Compression lets a page expand a thousandfold, and that is known before reading: the footer tells the size of each row
group. Dictionary encoding lets one long string stand in millions of rows: strings are therefore read as a dictionary
and positions in it, and the rows that come of them are weighed before they are made.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["PARQUET_MAGIC", "check_size", "dictionary_columns", "parquet_columns", "read_rows"]

PARQUET_MAGIC = b"PAR1"
MAX_ROWS = 100_000_000
"""Most rows of a file; all of UMLS has 17 million names."""
MAX_GROUP_BYTES = 4 << 30
"""Most bytes of a row group, uncompressed but encoded. Writers make groups of a hundredth of that."""
MAX_GROUP_VALUES = 200_000_000
"""Most values of a column in a row group."""
MAX_ROW_BYTES = 256 << 20
"""Most bytes of a row as text."""
MAX_BYTES = 8 << 30
"""Most bytes of all rows of a file as text; all of UMLS takes a fifth of it."""

_BATCH_ROWS = 4096
_BATCH_BYTES = 64 << 20
_POINTER = 8
# Prefixes shared with the string before: the text of a column can be thousands of times its size, which is not told.
_FRONT_CODED = "DELTA_BYTE_ARRAY"
_LENGTHS_FIRST = "DELTA_LENGTH_BYTE_ARRAY"


def parquet_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of a parquet file's columns, `()` if it does not begin like parquet.

    Raises:
        ValueError: If it does and is broken; the message names the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with Path(path).open("rb") as file:
        if file.read(len(PARQUET_MAGIC)) != PARQUET_MAGIC:
            return ()
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def check_size(path: str | Path, metadata: "pq.FileMetaData") -> None:
    """Refuse a file whose footer claims more than this module's bounds.

    Raises:
        ValueError: If it does; the message names the file and the bound.
    """
    if metadata.num_rows > MAX_ROWS:
        raise ValueError(f"{path}: {metadata.num_rows:,} rows, but no more than {MAX_ROWS:,} are read; split the file")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        size = max(group.total_byte_size, sum(column.total_uncompressed_size for column in columns))
        if size > MAX_GROUP_BYTES:
            raise ValueError(
                f"{path}: row group {number} takes {size:,} bytes once decompressed, but no more than "
                f"{MAX_GROUP_BYTES:,} are read; write the file again with smaller row groups"
            )
        values = max((column.num_values for column in columns), default=0)
        if values > MAX_GROUP_VALUES:
            raise ValueError(
                f"{path}: row group {number} has {values:,} values in a column, but no more than "
                f"{MAX_GROUP_VALUES:,} are read; write the file again with smaller row groups"
            )


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(row number from 1, values by column)` of a parquet file, a row group at a time.

    Args:
        path: The file.
        columns: Those to read, which the file must have; others cost nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken or not parquet, a string is not UTF-8, or a bound of this module is exceeded;
            the message names the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise FileNotFoundError(f"no parquet file at {path}")
    number = total = 0
    try:
        metadata = pq.read_metadata(path)
        check_size(path, metadata)
        dictionaries = dictionary_columns(path, metadata, columns)
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=dictionaries, pre_buffer=False) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                for part, size in _parts(batch, path, number):
                    total += size
                    if total > MAX_BYTES:
                        raise ValueError(f"{path}: more than {MAX_BYTES:,} bytes of text in its rows; split the file")
                    for row in part.cast(_plain(part.schema)).to_pylist():
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable parquet file ({error}); fetch or write it again")


def dictionary_columns(path: str | Path, metadata: "pq.FileMetaData", wanted: Sequence[str]) -> list[str]:
    """Return the paths of the strings to read as dictionaries, after a check that the others cannot expand."""
    found: list[str] = []
    for index in range(metadata.num_columns):
        column = metadata.schema.column(index)
        if column.path.split(".")[0] not in wanted or column.physical_type != "BYTE_ARRAY":
            continue
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        encodings = {encoding for group in groups for encoding in group.column(index).encodings}
        expands = _FRONT_CODED in encodings or any("DICTIONARY" in encoding for encoding in encodings)
        if _FRONT_CODED in encodings or (_LENGTHS_FIRST in encodings and expands):
            raise ValueError(
                f"{path}: column {column.path!r} is encoded as {', '.join(sorted(encodings))}, of which its size in "
                "memory cannot be told; write the file again, as pandas or pyarrow do by default"
            )
        if _LENGTHS_FIRST not in encodings:  # with which Arrow makes no dictionary, and which stores every string
            found.append(column.path)
    return found


def _parts(batch: "pa.RecordBatch", path: str | Path, first: int) -> Iterator[tuple["pa.RecordBatch", int]]:
    """Cut a batch, whose first row is `first + 1`, into parts that are small as text; with their sizes."""
    size = sum(map(_text_bytes, batch.columns))
    if size > _BATCH_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half), path, first)
        yield from _parts(batch.slice(half), path, first + half)
        return
    if size > MAX_ROW_BYTES:
        raise ValueError(
            f"{path}: row {first + 1} takes {size:,} bytes as text, but no more than {MAX_ROW_BYTES:,} are read"
        )
    yield batch, size


def _text_bytes(array: "pa.Array") -> int:
    """Return how many bytes an array takes once its dictionaries are resolved."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return _POINTER * len(array) + (pc.sum(lengths).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _POINTER * len(array) + _text_bytes(array.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_text_bytes, array.flatten()))
    return array.nbytes


def _plain(kind: Any) -> Any:
    """Return a schema, field or type with the types of values in place of dictionaries of them."""
    import pyarrow as pa

    if isinstance(kind, pa.Schema):
        return pa.schema([_plain(field) for field in kind])
    if isinstance(kind, pa.Field):
        return pa.field(kind.name, _plain(kind.type), kind.nullable)
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain(field) for field in kind])
    return kind
