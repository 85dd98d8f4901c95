"""Knowledge bases in JSON: GenBioEL's `target_kb.json` (`{id: [name, ...]}`) and JSONL, one concept a line.

A JSONL line is an object with `id` and `names`, and optionally `alternate_ids`, `types` (lists of strings) and
`definition` (a string).
"""

import json
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..kb import Concept
from .cleaning import check_text, clean, is_usable
from .lines import read_lines, shorten
from .report import ReadReport

__all__ = ["looks_like_jsonl", "looks_like_target_kb", "read_jsonl", "read_target_kb"]

_LISTS = ("names", "alternate_ids", "types")
_MAX_BYTES = 1 << 30
"""The largest `target_kb.json` that is read, decompressed, which takes up to nine times that of memory; all of UMLS
takes two thirds of it."""


def looks_like_jsonl(head: str) -> bool:
    """Say whether the first line of text is a whole JSON object with `id` and `names`."""
    try:
        first = json.loads(head.strip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and {"id", "names"} <= first.keys()


def looks_like_target_kb(head: str) -> bool:
    """Say whether the text opens a JSON object."""
    return head.lstrip().startswith("{")


def read_jsonl(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read one JSON object a line, gzip-compressed or not; the report counts lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a JSON object, a field has the wrong type, or an id stands on two lines; the
            message names the file, the line and the field.
    """
    report = ReadReport()
    concepts: list[Concept] = []
    line_of: dict[str, int] = {}
    for number, line in tqdm(read_lines(path), desc=Path(path).name, unit=" lines", delay=2):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: {shorten(line)} is not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {shorten(line)} is not a JSON object with 'id' and 'names'")
        for key in row.keys() - {"id", "definition", *_LISTS}:
            report.note(f"unknown field {key!r} ignored", where)
        lists = {key: _strings(row.get(key, []), f"{where}: field {key!r}") for key in _LISTS}
        for key in ("id", "definition"):
            if not isinstance(row.get(key, ""), str):
                raise ValueError(f"{where}: field {key!r} must be a string, got {row[key]!r:.80}")
            check_text(row.get(key, ""), f"{where}: field {key!r}")
        concept_id = row.get("id", "").strip()
        first = line_of.setdefault(concept_id, number)
        if concept_id and first != number:
            raise ValueError(f"{where}: concept id {concept_id!r} stands on line {first} already; merge their names")
        if is_usable(concept_id, lists["names"], f"{where} {shorten(line)}", report):
            kinds = ("name", "alternate id", "type")
            names, alternates, types = (
                tuple(clean(lists[key], kind, where, report)) for key, kind in zip(_LISTS, kinds, strict=True)
            )
            concepts.append(Concept(concept_id, names, alternates, types, row.get("definition", "")))
    return concepts, report


def read_target_kb(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read one JSON object whose keys are concept ids and whose values are lists of names; the report counts ids.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such an object, or a key stands in it twice (a parser would keep one silently).
    """
    text = _whole_text(path)
    try:
        # Pairs, not a dictionary, so that a repeated key can be seen.
        rows = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON as {{id: [name, ...]}} is ({error})") from error
    if not isinstance(rows, _Pairs):
        raise ValueError(f"{path}: expected an object {{id: [name, ...]}}, got {shorten(text)}")
    report = ReadReport()
    names_of: dict[str, list[str]] = {}
    for key, value in rows:
        where = f"{path}: id {key!r}"
        check_text(key, where)
        names = _strings(value, where)
        concept_id = key.strip()
        if concept_id in names_of:
            raise ValueError(f"{where}: stands in the file twice; merge its names")
        if is_usable(concept_id, names, where, report):
            names_of[concept_id] = clean(names, "name", where, report)
    return [Concept(concept_id, tuple(names)) for concept_id, names in names_of.items()], report


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, in order, repeated keys included."""


def _whole_text(path: str | Path) -> str:
    lines = []
    size = 0
    for number, line in read_lines(path, max_line_bytes=_MAX_BYTES):
        size += len(line)
        if size > _MAX_BYTES:
            raise ValueError(f"{path}:{number}: more than {_MAX_BYTES:,} characters of JSON; write it as JSONL")
        lines.append(line)
    return "\n".join(lines)


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{where}: must be a list of strings, got {value!r:.80}")
    return value
