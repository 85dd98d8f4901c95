"""Files of the Batch tab: mentions out of PubTator, JSONL or CSV, and answers into JSONL and CSV."""

import contextlib
import csv
import dataclasses
import io
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from records import LinkRecord, to_jsonl
from service import VisitorError
from settings import KEPT_SECONDS, MAX_BATCH_MENTIONS, MAX_UPLOAD_BYTES

from angel_trl.linked import parse_brackets
from angel_trl.readers import read_pubtator

KINDS = [".txt", ".pubtator", ".jsonl", ".csv", ".tsv"]
"""File names that may be uploaded; what a file is, its content tells."""

_PUBTATOR = re.compile(r"[^|\t\n]+\|t\|")
_FIX = 'A row is a text with [brackets], or text, start and end: {"text": "A rare ataxia.", "start": 7, "end": 13}.'


@dataclasses.dataclass(slots=True)
class Batch:
    """The mentions of a file.

    Args:
        kind: "PubTator", "JSONL" or "CSV".
        rows: `id`, `document_id`, `text`, `start`, `end` and `types` of each.
        notices: what was left out, for the visitor.
    """

    kind: str
    rows: list[dict[str, Any]]
    notices: list[str]


def read(path: Path, name: str) -> Batch:
    """Read an uploaded file.

    Args:
        path: where it lies.
        name: what the visitor calls it: no message shows where it lies.

    Raises:
        VisitorError: if it is too large, no text, of none of the formats, or holds no mention.
    """
    name = name[:80]
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise VisitorError(
            f"{name} has more than {MAX_UPLOAD_BYTES / 1e6:.0f} MB. Link larger files with the library."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VisitorError(f"{name} is not UTF-8 text. Save it as UTF-8, or choose another file.") from error
    if "\0" in text or not text.strip():
        raise VisitorError(
            f"{name} is {'not text' if text.strip() else 'empty'}. Choose a PubTator, JSONL or CSV file."
        )
    if _PUBTATOR.match(text.lstrip()):
        batch = _pubtator(path, name)
    else:
        is_json = text.lstrip().startswith("{")
        batch = _records("JSONL" if is_json else "CSV", _jsonl(text) if is_json else _csv(text, name), name)
    if not batch.rows:
        raise VisitorError(f"There is no mention in {name}. {' '.join(batch.notices)} {_FIX}")
    if len(batch.rows) > MAX_BATCH_MENTIONS:
        batch.notices.append(
            f"{name} has {len(batch.rows):,} mentions; the first {MAX_BATCH_MENTIONS:,} were linked. "
            "Link larger files with the library."
        )
        batch.rows = batch.rows[:MAX_BATCH_MENTIONS]
    return batch


def _pubtator(path: Path, name: str) -> Batch:
    try:
        mentions, report = read_pubtator(path, split="test")
    except ValueError as error:
        # Readers name the file by its path, which is no business of the visitor's.
        raise VisitorError(str(error).replace(str(path), name)) from error
    rows = mentions.select_columns(["id", "document_id", "text", "start", "end", "types"]).to_list()
    return Batch("PubTator", rows, [f"{count:,} left out: {reason}." for reason, count in report.skipped.items()])


def _jsonl(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _csv(text: str, name: str) -> Iterator[Any]:
    first = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",", restkey="")
    try:
        if "text" not in (rows.fieldnames or ()):
            raise VisitorError(
                f"{name} is neither PubTator nor JSONL, and as CSV its first line names no column “text”. {_FIX}"
            )
        yield from rows
    except csv.Error as error:
        raise VisitorError(f"{name} is not readable as CSV ({error}). {_FIX}") from error


def _records(kind: str, records: Iterator[Any], name: str) -> Batch:
    rows: list[dict[str, Any]] = []
    bad: Counter[str] = Counter()
    example: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        try:
            rows += _mentions(record, number)
        except ValueError as error:
            reason = str(error)
            bad[reason] += 1
            example.setdefault(reason, number)
    notices = [
        f"{count:,} {'row' if count == 1 else 'rows'} left out: {reason} (row {example[reason]:,} of {name})."
        for reason, count in bad.items()
    ]
    return Batch(kind, rows, notices)


def _mentions(record: Any, number: int) -> list[dict[str, Any]]:
    """The mentions of one record.

    Raises:
        ValueError: saying why there are none.
    """
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("half a character (a lone surrogate) in the text")
    if record.get("start") in (None, "") and record.get("end") in (None, ""):
        try:
            text, spans = parse_brackets(text)
        except ValueError as error:
            raise ValueError("no start and end, and no [mention] in brackets") from error
    else:
        try:
            spans = [(int(record.get("start")), int(record.get("end")))]
        except (TypeError, ValueError) as error:
            raise ValueError("start and end must be whole numbers") from error
    kinds = record.get("types") or []
    kinds = [kind for kind in str(kinds).split("|") if kind] if not isinstance(kinds, list) else list(map(str, kinds))
    document = str(record.get("document_id") or number)
    found = []
    for start, end in spans:
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise ValueError("start and end do not mark a mention in the text")
        place = {"text": text, "start": start, "end": end, "types": kinds}
        own = record.get("id") if len(spans) == 1 else None
        found.append({"id": str(own or f"{document}:{start}-{end}"), "document_id": document, **place})
    return found


def fresh_folder() -> Path:
    """A new folder for files to download; those that are older than Gradio's own copies are removed."""
    base = Path(tempfile.gettempdir()) / "entity-linking-downloads"
    base.mkdir(mode=0o700, exist_ok=True)
    for old in base.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another request may have removed it
            if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=base))


_COLUMNS = ("id", "document_id", "start", "end", "mention", "concept_id", "name", "probability", "exact")


def write(batch: Batch, links: list[LinkRecord], folder: Path) -> tuple[Path, Path]:
    """Write what a file was answered.

    Args:
        batch: the file's mentions.
        links: the answers, one a mention.
        folder: where to write.

    Returns:
        `links.jsonl`, mentions that `angel_trl.read_corpus` reads with the answer as their label, and `links.csv`.
    """
    as_json, as_csv = folder / "links.jsonl", folder / "links.csv"
    merged = [
        {**row, **link, "concept_ids": [link["candidates"][0]["ids"]] if link["id"] else []}
        for row, link in zip(batch.rows, links, strict=True)
    ]
    # The mention's own id is the record's; the concept's is in `concept_ids`.
    for row, mention in zip(merged, batch.rows, strict=True):
        row["concept_id"], row["id"] = row["id"], mention["id"]
    as_json.write_text(to_jsonl(merged), encoding="utf-8")
    with as_csv.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(merged)
    return as_json, as_csv
