"""Corpora in the `kb` schema of BigBIO, as parquet: a row a document, with passages and entities.

Offsets of entities count characters of the texts of all passages, joined by single spaces. An entity's `text` and
`offsets` are lists, of several fragments if it is discontinuous; `normalized` lists `{db_name, db_id}` links, of which
`db_id` is taken as written (but `UMLS:C0010674` as `C0010674`).

Format: task_schemas.md of github.com/bigscience-workshop/biomedical.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..parquet import parquet_columns, read_rows
from .cleaning import check_text
from .lines import shorten
from .mention_rows import Document, MentionRows, clean_ids, place_mention, unique_documents
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["looks_like_bigbio", "read_bigbio"]

_COLUMNS = ("document_id", "passages", "entities")
_NOT_FOUND = "mention not found at its offsets or nearby"
_RULE = "characters from 0 in the passages joined by single spaces"


def looks_like_bigbio(columns: Collection[str]) -> bool:
    """Say whether the columns of a parquet file are those of BigBIO's `kb` schema, others beside them or not."""
    return set(_COLUMNS) <= set(columns)


def read_bigbio(
    path: str | Path | Sequence[str | Path], *, split: str, composite: bool = False
) -> tuple["Dataset", ReadReport]:
    """Read the mentions of a parquet file in BigBIO's `kb` schema, or of the files that a split was cut into.

    The report counts entities. A discontinuous one becomes the passage from its first to its last character and counts
    as repaired, unless only blanks stand between its fragments; it is skipped if its fragments are not the stated
    text. Continuous ones are checked and repaired, and repeated documents left out, as by [`read_pubtator`].

    Args:
        path: The file, or several in order.
        split: What to write in the column `split`.
        composite: What several links of an entity mean, which the schema does not tell: `False` any of them, `True`
            all of them (right for BC5CDR). Entities with several are noted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not parquet of this schema, or a value in it is not; the message names the file, the
            row, the entity and the field.
    """
    report, rows = ReadReport(), MentionRows()
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise ValueError("path must be a parquet file or a list of at least one")
    documents = (document for file in paths for document in _documents(file))
    for document in tqdm(unique_documents(documents, report), desc=paths[0].name, unit=" documents", delay=2):
        for where, entity in document.annotations:
            _add(document, where, entity, split, composite, rows, report)
    return rows.dataset(split), report


def _documents(path: Path) -> Iterator[Document]:
    if not path.is_file():
        raise FileNotFoundError(f"no parquet file at {path}")
    columns = parquet_columns(path)
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; BigBIO's kb schema has {', '.join(_COLUMNS)}")
    for number, row in read_rows(path, _COLUMNS):
        yield _document(row, f"{path}:row {number}")


def _document(row: dict[str, Any], where: str) -> Document:
    texts: list[str] = []
    for passage in _list(row["passages"], dict, "passages", where):
        text = passage.get("text")
        texts += [text] if isinstance(text, str) else _list(text, str, "passages.text", where)
    document_id = row["document_id"]
    if not isinstance(document_id, str | int) or document_id == "":
        raise ValueError(f"{where}: field 'document_id' must be an id, got {shorten(repr(document_id))}")
    document = Document(str(document_id), " ".join(texts))
    check_text(document.text, f"{where}: field 'passages.text'")
    for entity in _list(row["entities"], dict, "entities", where):
        document.annotations.append((f"{where} entity {entity.get('id')!r:.40}", entity))
    return document


def _add(
    document: Document,
    where: str,
    entity: dict[str, Any],
    split: str,
    composite: bool,
    rows: MentionRows,
    report: ReadReport,
) -> None:
    texts = _list(entity.get("text"), str, "entities.text", where)
    spans = [_span(pair, where) for pair in _list(entity.get("offsets"), list, "entities.offsets", where)]
    value = f"{where} {shorten(' … '.join(texts))}"
    place = _place(document.text, spans, texts, value, report)
    if place is None:
        return
    links = _list(entity.get("normalized"), dict, "entities.normalized", where)
    ids = [link.get("db_id") or "" for link in links]
    if not all(isinstance(i, str) for i in ids):
        raise ValueError(f"{where}: field 'entities.normalized.db_id' must be a string, got {shorten(repr(ids))}")
    if len(set(ids)) > 1:
        report.note(f"several links read as {'parts that are all meant' if composite else 'alternatives'}", value)
    kind = entity.get("type") or ""
    if not isinstance(kind, str):
        raise ValueError(f"{where}: field 'entities.type' must be a string, got {shorten(repr(kind))}")
    rows.add(
        document_id=document.unique_id,
        text=document.text,
        start=place[0],
        end=place[1],
        types=[name.strip() for name in kind.split(",") if name.strip()],
        concept_ids=clean_ids([[i] for i in ids] if composite else [ids], value, report, umls=True),
        split=split,
    )
    report.use()


def _place(
    text: str, spans: list[tuple[int, int]], texts: list[str], value: str, report: ReadReport
) -> tuple[int, int] | None:
    if not spans or len(spans) != len(texts):
        fix = "Give the entity as many offsets as texts, at least one."
        report.skip("no offsets" if not spans else "not as many offsets as texts", value, fix)
        return None
    if len(spans) == 1:
        return place_mention(text, *spans[0], texts[0], value, report, rule=_RULE)
    if any(
        not 0 <= start < end or text[start:end] != stated for (start, end), stated in zip(spans, texts, strict=True)
    ):
        report.skip(_NOT_FOUND, value, f"Correct its offsets: {_RULE}.")
        return None
    spans = sorted(spans)
    if any(text[end:start].strip() for (_, end), (start, _) in zip(spans, spans[1:], strict=False)):
        report.repair("discontinuous mention widened to the passage that covers it", value)
    return spans[0][0], max(end for _, end in spans)


def _list(value: object, kind: type, field: str, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ValueError(f"{where}: field {field!r} must be a list of {kind.__name__}, got {shorten(repr(value))}")
    return value


def _span(pair: list[object], where: str) -> tuple[int, int]:
    if len(pair) != 2 or not all(isinstance(end, int) for end in pair):
        raise ValueError(f"{where}: field 'entities.offsets' must hold pairs of integers, got {shorten(repr(pair))}")
    return pair[0], pair[1]  # type: ignore[return-value]  # checked just above
