"""Plain or gzip-compressed UTF-8 text, line by line, with errors that name the file and the line."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["read_head", "read_lines", "shorten"]

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = "\ufeff"
_HEAD_BYTES = 1 << 20


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    r"""Yield `(line number from 1, line)` of a UTF-8 text file, gzip-compressed or not.

    Only `\n` and `\r\n` end a line: Unicode's other line separators stay in the text, for corpora count them as
    characters. A byte order mark is dropped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not UTF-8 (the message names the line and the byte), or the gzip stream is broken.
    """
    with _open(path) as file:
        number = 0
        try:
            for number, raw in enumerate(file, start=1):  # noqa: B007 (the number is read in the except clause)
                line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
                yield number, line.removeprefix(_BOM) if number == 1 else line
        except UnicodeDecodeError as error:
            byte = error.object[error.start : error.start + 1]
            raise ValueError(
                f"{path}:{number}: not UTF-8 text: byte {byte!r} at column {error.start}; re-encode the file as UTF-8"
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}:{number + 1}: broken gzip stream ({error}); fetch the file again") from error


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
