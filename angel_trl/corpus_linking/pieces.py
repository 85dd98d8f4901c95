"""Cutting the files of a corpus into pieces; the cuts depend on the file alone.

A piece of PubTator is whole documents, one of JSONL whole lines, one of parquet rows. It is the most that is held of a
corpus at a time.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from angel_trl.parquet import check_size, dictionary_columns
from angel_trl.readers.lines import read_raw_lines

from .files import REQUIRED, CorpusFile

__all__ = ["Piece", "piece_sizes", "read_pieces"]

_TITLE = re.compile(rb"[^|\t]+\|t\|")
_PASSAGE = re.compile(rb"[^|\t]+\|[ta]\|")
_BOM = b"\xef\xbb\xbf"
# A piece ends after so many bytes, whatever it holds.
_MOST_BYTES = 64 << 20
_MOST_PARQUET_BYTES = 1 << 30
_BATCH_ROWS = 1024
_COLUMNS = (*REQUIRED, "id", "document_id", "mention", "types")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that is linked by itself.

    Attributes:
        number: Its place in the file, from 0.
        records: Number, from 1, and content of each line (bytes) or row (values by column).
    """

    number: int
    records: list[tuple[int, Any]]


def piece_sizes(file: CorpusFile, most: int) -> list[int]:
    """Count the mentions of each piece: rows, lines, or annotation lines, good or bad.

    Args:
        file: The file.
        most: A piece ends once it has so many, in PubTator with the document.

    Raises:
        ValueError: If the file cannot be read to its end; the message names it.
    """
    if file.format == "parquet":
        rows = pq.read_metadata(file.path).num_rows
        return [min(most, rows - first) for first in range(0, rows, most)]
    sizes: list[int] = []
    for number, is_mention, _, _ in _cut(file, most):
        if number == len(sizes):
            sizes.append(0)
        sizes[number] += is_mention
    return sizes


def read_pieces(file: CorpusFile, most: int, wanted: Collection[int]) -> Iterator[Piece]:
    """Yield some pieces of a file in order, and stop after the last.

    Args:
        file: The file.
        most: As of [`piece_sizes`].
        wanted: Numbers of the pieces, at least one.

    Raises:
        ValueError: If the file is broken, or a piece of it too large to be held; the message names it.
    """
    if file.format == "parquet":
        for number, rows in groupby(_rows(file, most, frozenset(wanted)), key=lambda item: item[0] // most):
            yield Piece(number, [(row + 1, values) for row, values in _weighed(rows, file, number)])
        return
    last = max(wanted)
    for number, lines in groupby(_cut(file, most), key=lambda item: item[0]):
        if number in wanted:
            yield Piece(number, [(line_number, line) for _, _, line_number, line in lines])
        if number == last:
            break


def _cut(file: CorpusFile, most: int) -> Iterator[tuple[int, bool, int, bytes]]:
    """Yield `(number of the piece, whether it is a mention, line number from 1, line)` of each line of a text."""
    pubtator = file.format == "pubtator"
    number = mentions = size = 0
    for line_number, line in read_raw_lines(file.path):
        if line_number == 1:
            line = line.removeprefix(_BOM)
        begins = _TITLE.match(line) if pubtator else line.strip()
        if begins and (mentions >= most or size >= _MOST_BYTES):
            number += 1
            mentions = size = 0
        is_mention = bool(b"\t" in line and not _PASSAGE.match(line) if pubtator else begins)
        mentions += is_mention
        size += len(line) + 1
        yield number, is_mention, line_number, line


def _rows(file: CorpusFile, most: int, wanted: frozenset[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(number from 0, values by column)` of the rows of some pieces; other row groups are not read."""
    try:
        metadata = pq.read_metadata(file.path)
        check_size(file.path, metadata)
        there = metadata.schema.to_arrow_schema().names
        columns = [name for name in _COLUMNS if name in there]
        dictionaries = dictionary_columns(file.path, metadata, columns)
        options = {"metadata": metadata, "read_dictionary": dictionaries, "pre_buffer": False}
        with pq.ParquetFile(file.path, **options) as parquet:
            first = 0
            for group in range(metadata.num_row_groups):
                end = first + metadata.row_group(group).num_rows
                if not wanted.isdisjoint(_pieces_of(first, end, most)):
                    at = first
                    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        if not wanted.isdisjoint(_pieces_of(at, at + len(batch), most)):
                            yield from ((n, row) for n, row in enumerate(_values(batch), at) if n // most in wanted)
                        at += len(batch)
                first = end
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.path}: not a readable parquet file ({error}); fetch or write it again") from error


def _pieces_of(first: int, end: int, most: int) -> range:
    """Return the numbers of the pieces that rows `first` to `end`, exclusive, are in."""
    return range(first // most, -(-end // most))


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            # A text that several rows have is held once.
            used = pc.unique(column.indices)
            texts = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
            columns[name] = [texts[index] for index in column.indices.to_pylist()]
        else:
            columns[name] = column.to_pylist()
    for row in range(len(batch)):
        yield {name: values[row] for name, values in columns.items()}


def _weighed(
    rows: Iterator[tuple[int, dict[str, Any]]], file: CorpusFile, number: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Pass rows on until what they hold is too much; of texts in a row that are one, one counts."""
    size, last = 0, None
    for row, values in rows:
        text = values["text"]
        if isinstance(text, str) and text is not last:
            size += len(text)
            last = text
        if size > _MOST_PARQUET_BYTES:
            raise ValueError(
                f"{file.path}: piece {number} has more than {_MOST_PARQUET_BYTES:,} characters up to row {row + 1}; "
                "choose fewer mentions a shard"
            )
        yield row, values
