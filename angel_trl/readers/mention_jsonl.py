"""Mentions in JSONL, one object a line: our own columns, or as few as `text`, `start`, `end` and `concept_ids`.

The fields are those of [`angel_trl.mentions.MENTION_FEATURES`], as `Dataset.to_json` writes them. Optional are `id`,
`document_id` (the line number where it is missing), `mention` (checked against the text), `types` (a string or a
list of strings) and `split`. `concept_ids` may be

- a list of lists: ALL of the parts, ANY of a part's ids;
- a list of strings: parts that are all meant, as in the outer list above;
- a string: parts joined by `+`, alternatives by `|`;
- `null` or `[]`: no concept.

Ids in lists are taken as written. Offsets count characters (code points), the end exclusive.
"""

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from .cleaning import check_text
from .lines import read_lines, shorten
from .mention_rows import MentionRows, clean_ids, parse_label, place_mention
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["looks_like_mention_jsonl", "read_mention_jsonl", "read_mention_jsonl_splits"]

_REQUIRED = ("text", "start", "end", "concept_ids")
_OPTIONAL = ("id", "document_id", "mention", "types", "split")
_SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "development": "dev", "valid": "dev", "validation": "dev",
    "test": "test",
}  # fmt: skip
_RULE = "characters from 0 in the field 'text'"


def looks_like_mention_jsonl(head: str) -> bool:
    """Say whether the first line of text is a JSON object with `text`, `start`, `end` and `concept_ids`."""
    try:
        first = json.loads(head.strip().split("\n", 1)[0])
    except (ValueError, RecursionError):  # ValueError: not JSON, or an integer of thousands of digits
        return False
    return isinstance(first, dict) and first.keys() >= set(_REQUIRED)


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
    rows, report = _read(path, split, fixed=True)
    return rows.dataset(split), report


def read_mention_jsonl_splits(path: str | Path, *, default: str = "train") -> tuple["DatasetDict", ReadReport]:
    """Read one mention a line into the splits that the lines name; a line that names none is of split `default`.

    Counts and errors are those of [`read_mention_jsonl`].
    """
    from datasets import DatasetDict

    rows, report = _read(path, default, fixed=False)
    found = rows.splits or [default]
    return DatasetDict({name: rows.dataset(name) for name in ("train", "dev", "test") if name in found}), report


def _read(path: str | Path, split: str, *, fixed: bool) -> tuple[MentionRows, ReadReport]:
    report, rows = ReadReport(), MentionRows()
    line_of: dict[str, int] = {}
    for number, line in tqdm(read_lines(path), desc=Path(path).name, unit=" lines", delay=2):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        value = f"{where} {shorten(line)}"
        row = _parse(line, where)
        for key in row.keys() - {*_REQUIRED, *_OPTIONAL}:
            report.note(f"unknown field {shorten(key, 40)} ignored", where)
        own_split = _split(row, split, fixed, where)
        first = line_of.setdefault(line, number)
        if first != number:
            report.skip("mention repeated word for word", f"{value}, also on line {first}", "Delete the repetition.")
            continue
        place = _place(row, where, value, report)
        if place is None:
            continue
        stated_id = _string(row, "id", "", where)
        mention_id = rows.add(
            document_id=_string(row, "document_id", "", where) or str(number),
            text=row["text"],
            start=place[0],
            end=place[1],
            types=_types(row, where),
            concept_ids=_concept_ids(row, where, value, report),
            split=own_split,
            mention_id=stated_id,
        )
        if stated_id and mention_id != stated_id:
            report.repair("repeated id", f"{where} {shorten(stated_id)}")
        report.use()
    return rows, report


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {shorten(line)} is not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {shorten(line)} is not a JSON object with {', '.join(_REQUIRED)}")
    missing = [key for key in _REQUIRED if key not in row]
    if missing:
        raise ValueError(f"{where}: field {missing[0]!r} is missing; a mention needs {', '.join(_REQUIRED)}")
    return row


def _place(row: dict[str, Any], where: str, value: str, report: ReadReport) -> tuple[int, int] | None:
    text = _string(row, "text", None, where)
    for key in ("start", "end"):
        if type(row[key]) is not int:  # a bool is an int to Python
            raise ValueError(f"{where}: field {key!r} must be an integer, got {shorten(repr(row[key]))}")
    start, end = row["start"], row["end"]
    if row.get("mention") is None and not 0 <= start < end <= len(text):
        fix = f"Correct its offsets: {_RULE}."
        report.skip("offsets outside the text", f"{value}, whose text has {len(text)} characters", fix)
        return None
    stated = _string(row, "mention", text[max(start, 0) : max(end, 0)], where)
    if stated and start >= 0 and text[start:end] == stated:
        return start, start + len(stated)  # as given, blanks included: what we wrote ourselves is read as it was
    return place_mention(text, start, end, stated, value, report, rule=_RULE)


def _string(row: dict[str, Any], key: str, default: str | None, where: str) -> str:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {key!r} must be a string, got {shorten(repr(value))}")
    check_text(value, f"{where}: field {key!r}")
    return value


def _types(row: dict[str, Any], where: str) -> list[str]:
    types = row.get("types") or []
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise ValueError(f"{where}: field 'types' must be a list of strings, got {shorten(repr(types))}")
    for name in types:
        check_text(name, f"{where}: field 'types'")
    return types


def _concept_ids(row: dict[str, Any], where: str, value: str, report: ReadReport) -> list[list[str]]:
    ids = row["concept_ids"]
    if isinstance(ids, str):
        check_text(ids, f"{where}: field 'concept_ids'")
        return parse_label(ids, value, report)
    parts = [[part] if isinstance(part, str) else part for part in ids or []] if isinstance(ids, list | None) else None
    if parts is None or not all(isinstance(p, list) and all(isinstance(i, str) for i in p) for p in parts):
        raise ValueError(
            f"{where}: field 'concept_ids' must be a string, a list of strings, or a list (all of) of lists (any of) "
            f"of strings, got {shorten(repr(ids))}"
        )
    for concept_id in chain.from_iterable(parts):
        check_text(concept_id, f"{where}: field 'concept_ids'")
    return clean_ids(parts, value, report)


def _split(row: dict[str, Any], split: str, fixed: bool, where: str) -> str:
    stated = _string(row, "split", "", where)
    if not stated:
        return split
    if stated not in _SPLITS:
        raise ValueError(f"{where}: field 'split' must be train, dev or test, got {shorten(stated)}")
    if fixed and _SPLITS[stated] != split:
        raise ValueError(f"{where}: field 'split' is {stated!r}, but the file is read as {split!r}; correct one")
    return _SPLITS[stated]
