"""Plain or gzip-compressed UTF-8 text, line by line, with errors that name the file and the line.

What is held at a time is bounded, so that a file that is not what it claims to be (a gzip bomb, a line of gigabytes)
ends in an error and not in the end of the memory.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "MAX_LINE_BYTES",
    "read_chunks",
    "read_head",
    "read_lines",
    "read_raw_lines",
    "shorten",
    "split_rows",
]

MAX_LINE_BYTES = 16 << 20
"""The longest line that is read unless a caller says otherwise; those of known terminologies are far shorter."""

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = "\ufeff"
_HEAD_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
# Terminologies and corpora compress by 4 to 20 times; gzip cannot compress by more than 1,032 times.
_MAX_EXPANSION = 100
_ALWAYS_EXPANDED = 256 << 20


def read_lines(path: str | Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    r"""Yield `(line number from 1, line)` of a UTF-8 text file, gzip-compressed or not.

    Only `\n` and `\r\n` end a line: Unicode's other line separators stay in the text, for corpora count them as
    characters. A byte order mark is dropped.

    Args:
        path: The file.
        max_line_bytes: A longer line is an error; no more than this is held at a time.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not UTF-8 (the message names the line and the byte) or holds a NUL byte; and as
            [`read_raw_lines`].
    """
    for number, raw in read_raw_lines(path, max_line_bytes=max_line_bytes):
        if b"\0" in raw:
            raise ValueError(
                f"{path}:{number}: a NUL byte at column {raw.index(0)}: this is not UTF-8 text; if it is UTF-16, "
                "re-encode the file as UTF-8"
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start : error.start + 1]
            raise ValueError(
                f"{path}:{number}: not UTF-8 text: byte {byte!r} at column {error.start}; re-encode the file as UTF-8"
            ) from error
        yield number, line.removeprefix(_BOM) if number == 1 else line


def read_raw_lines(path: str | Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    r"""Yield `(line number from 1, bytes)` of a file, gzip-compressed or not, without `\n` or `\r\n`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is longer than `max_line_bytes`, or the gzip stream is broken or expands as no text does.
    """
    with _open(path) as file:
        number = total = 0
        most = _most_bytes(path, file)
        try:
            while raw := file.readline(max_line_bytes + 1):
                number += 1
                total += len(raw)
                if len(raw) > max_line_bytes:
                    raise ValueError(
                        f"{path}:{number}: a line of more than {max_line_bytes:,} bytes, which is no line of a "
                        f"terminology or a corpus; it starts with {shorten(raw[:200].decode('utf-8', 'replace'))}"
                    )
                if total > most:
                    raise _expanded(path, most)
                yield number, raw.removesuffix(b"\n").removesuffix(b"\r")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}:{number + 1}: broken gzip stream ({error}); fetch the file again") from error


def read_chunks(path: str | Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed if it is gzip, at most 64 KiB at a time.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the gzip stream is broken or expands as no text does.
    """
    with _open(path) as file:
        total = 0
        most = _most_bytes(path, file)
        try:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(chunk)
                if total > most:
                    raise _expanded(path, most)
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: broken gzip stream ({error}); fetch the file again") from error


def read_head(path: str | Path) -> str:
    """Return the first mebibyte of a file as text, decompressed if it is gzip, to tell its format by.

    Bytes that are not UTF-8 become U+FFFD here: the format's reader then names the line they stand in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the gzip stream is broken.
    """
    with _open(path) as file:
        try:
            return file.read(_HEAD_BYTES).decode("utf-8", errors="replace").removeprefix(_BOM)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: broken gzip stream ({error}); fetch the file again") from error


def split_rows(path: str | Path, lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield `(number of its first line, fields)` of each row of a delimited file (RFC 4180), blank lines left out.

    A field in double quotes may hold the delimiter, line breaks and, doubled, quotes; what stands after the closing
    quote is an error, not a guess.

    Args:
        path: The file, for errors.
        lines: What [`read_lines`] yields.
        delimiter: One character.

    Raises:
        ValueError: If quotes are not closed or not doubled, or a field is longer than `csv.field_size_limit`.
    """
    first = number = 0

    def texts() -> Iterator[str]:
        nonlocal first, number
        for number, line in lines:  # noqa: B007 (kept for the rows and the errors)
            first = first or number
            yield line + "\n"

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        for fields in rows:
            if fields and (len(fields) > 1 or fields[0].strip()):
                yield first, fields
            first = 0
    except csv.Error as error:
        raise ValueError(
            f"{path}:{first or number}: broken quotes in this row ({error}); a field with quotes in it stands in "
            'quotes and doubles them: "a ""b"" c"'
        ) from error


def shorten(value: str, width: int = 80) -> str:
    """Return the value quoted for an error message or an example, cut to about `width` characters."""
    return repr(value if len(value) <= width else value[: width - 1] + "…")


def _open(path: str | Path) -> BinaryIO:
    path = Path(path)
    file = path.open("rb")
    compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    if not compressed:
        return file
    file.close()
    return gzip.open(path, "rb")  # type: ignore[return-value]  # a GzipFile reads like any binary file


def _most_bytes(path: str | Path, file: BinaryIO) -> float:
    """Return how many bytes may come out of a file."""
    if not isinstance(file, gzip.GzipFile):
        return math.inf
    return max(_ALWAYS_EXPANDED, _MAX_EXPANSION * Path(path).stat().st_size)


def _expanded(path: str | Path, most: float) -> ValueError:
    return ValueError(
        f"{path}: more than {most:,} bytes came out of {Path(path).stat().st_size:,} bytes of gzip, which is no text; "
        "unpack the file if it is"
    )
