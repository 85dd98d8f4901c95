"""Mentions to link, from JSONL lines and parquet rows. What cannot be linked is counted with its place, and left out.

Fields are `text`, `start` and `end` (characters, the end exclusive), and optionally `id`, `document_id` (strings or
integers), `mention` (checked against the text) and `types` (a string or a list of strings). Others, such as
`concept_ids`, are not looked at: what is to be linked needs no gold.
"""

import json
from collections.abc import Collection
from typing import Any, TypedDict

from angel_trl.readers.cleaning import check_text
from angel_trl.readers.lines import shorten
from angel_trl.readers.mention_rows import place_mention
from angel_trl.readers.report import ReadReport

from .files import CorpusFile
from .pieces import Piece

__all__ = ["OTHER_TYPE", "Mention", "is_wanted", "mentions_of_records"]

OTHER_TYPE = "type not asked for"
"""Why a mention is left out that could be linked."""

_RULE = "characters from 0 in the field 'text'"


class Mention(TypedDict):
    """A mention to link.

    Attributes:
        record: Number, from 1, of its line or row in the file.
        id: As given, or made of document and offsets.
        document_id: As given, or the file and the record.
        text: The whole text, which offsets count characters of.
        start: Where the mention begins in it.
        end: Where it ends, exclusive.
    """

    record: int
    id: str
    document_id: str
    text: str
    start: int
    end: int


def mentions_of_records(
    file: CorpusFile, piece: Piece, types: Collection[str], report: ReadReport
) -> dict[int, Mention]:
    """Return what can be linked of a piece of JSONL or parquet, by the number of the record.

    Args:
        file: Where the piece is from.
        piece: The piece.
        types: As of [`is_wanted`].
        report: Counts every record that is not blank.
    """
    mentions = {}
    for number, content in piece.records:
        where = f"{file.name}:{number}" if file.format == "jsonl" else f"{file.name}:row {number}"
        if file.format == "jsonl" and not content.strip():
            continue
        try:
            record = _parse(content) if file.format == "jsonl" else content
            mention = _mention(record, number, where, types, report)
        except _BadRecordError as error:
            shown = content.decode("utf-8", "replace") if isinstance(content, bytes) else repr(content)
            report.skip(error.reason, f"{where} {shorten(shown)}", error.fix)
            continue
        if mention is not None:
            mentions[number] = mention
            report.use()
    return mentions


def is_wanted(own: Collection[str], asked: Collection[str], value: str, report: ReadReport) -> bool:
    """Say whether a mention has one of the types asked for, if any are; one that has not is counted."""
    if not asked or not set(asked).isdisjoint(own):
        return True
    report.skip(OTHER_TYPE, value, "Add its type to those asked for.")
    return False


class _BadRecordError(ValueError):
    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _BadRecordError("not UTF-8", "Re-encode the line as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise _BadRecordError("not JSON", "Write one JSON object a line.") from error
    if not isinstance(record, dict):
        raise _BadRecordError("not a JSON object", "Write one object with text, start and end a line.")
    return record


def _mention(
    record: dict[str, Any], number: int, where: str, types: Collection[str], report: ReadReport
) -> Mention | None:
    text = _string(record, "text")
    if text is None:
        raise _BadRecordError("no field 'text'", "Give the mention the text that it stands in.")
    start, end = _offset(record, "start"), _offset(record, "end")
    stated = _string(record, "mention")
    document_id, own_id = (_string(record, key, integer=True) for key in ("document_id", "id"))
    own_types = record.get("types") or []
    own_types = [own_types] if isinstance(own_types, str) else own_types
    if not isinstance(own_types, list) or not all(isinstance(name, str) for name in own_types):
        raise _BadRecordError(
            "field 'types' is not a list of strings", "Write it as a list of strings, or leave it out."
        )
    passage = text[start:end] if 0 <= start < end <= len(text) else ""
    value = f"{where} {shorten(passage if stated is None else stated)}"
    if not is_wanted(own_types, types, value, report):
        return None
    if not passage and not stated:
        raise _BadRecordError("offsets outside the text", f"Correct its offsets: {_RULE}.")
    if stated is None or stated == passage:
        if not passage.strip():
            raise _BadRecordError("empty mention", "Correct its offsets, which mark nothing but blanks, or delete it.")
    else:
        place = place_mention(text, start, end, stated, value, report, rule=_RULE)
        if place is None:
            return None
        start, end = place
    document_id = document_id or where
    return {
        "record": number,
        "id": own_id or f"{document_id}:{start}-{end}",
        "document_id": document_id,
        "text": text,
        "start": start,
        "end": end,
    }


def _string(record: dict[str, Any], key: str, *, integer: bool = False) -> str | None:
    value = record.get(key)
    if integer and type(value) is int:
        return str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _BadRecordError(f"field {key!r} is not a string", "Write it as a string.")
    try:
        check_text(value, key)
    except ValueError as error:
        raise _BadRecordError(f"field {key!r} holds what no text file can", "Correct the text.") from error
    return value


def _offset(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if type(value) is not int:  # a bool is an int to Python
        raise _BadRecordError(f"field {key!r} is not an integer", f"Write it as an integer: {_RULE}.")
    return value
