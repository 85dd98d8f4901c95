r"""BRAT standoff: folders of `.txt` files, each with the annotations of its text in an `.ann` file of the same name.

Read are text-bound annotations, `T1\tDisease 10 20\ttext`, as mentions, and normalisations,
`N1\tReference T1 MESH:D003693\tname`, as their concept ids, as written (but `UMLS:C0010674` as `C0010674`, the
spelling of UMLS). Several normalisations of a mention are alternatives: the format has no composites. Offsets count
characters of the text file, line ends included. Relations, events, attributes and notes are no mentions.

Format: brat.nlplab.org/standoff.html.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .cleaning import check_text
from .lines import read_lines, shorten
from .mention_rows import MentionRows, clean_ids, is_integer, place_mention, read_bytes
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["annotation_files", "read_brat"]

_OTHER_KINDS = frozenset("REAM#*")
_NOT_FOUND = "mention not found at its offsets or nearby"
_RULE = "characters from 0 in the .txt file, line ends included"


@dataclass(slots=True)
class _Mention:
    where: str
    line: str
    type: str
    spans: list[tuple[int, int]]
    stated: str
    ids: list[str] = field(default_factory=list)


def annotation_files(folder: str | Path) -> list[Path]:
    """Return the `.ann` files of a folder, gzip-compressed or not, in the order of their names."""
    files = (p for p in Path(folder).iterdir() if p.name.removesuffix(".gz").endswith(".ann") and p.is_file())
    return sorted(p for p in files if not p.name.startswith("."))


def read_brat(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read the mentions of a folder of `.txt` and `.ann` files (or `.txt.gz` and `.ann.gz`), not of its subfolders.

    The report counts text-bound annotations. A discontinuous one (`10 15;20 25`) becomes the passage from its first to
    its last character and counts as repaired, unless only blanks stand between its fragments; it is skipped if its
    fragments are not the stated text. Continuous ones are checked and repaired as by [`read_pubtator`], a line end
    counting as a space. Notes tell of lines of other kinds, normalisations of no mention, texts without annotations,
    and texts whose offsets fit only once their Windows line ends count as one character, which is then done.

    Args:
        path: The folder. A document's id is the name of its text file without the ending.
        split: What to write in the column `split`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no `.ann` file, a text file is missing, an annotation line is malformed, an id stands
            on two lines of a file, or a file is not UTF-8; the message names the file, the line and the field.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of .txt and .ann files at {folder}")
    files = annotation_files(folder)
    if not files:
        raise ValueError(f"{folder}: no .ann file in this folder")
    report, rows = ReadReport(), MentionRows()
    annotated = set()
    for file in files:
        stem = file.name.removesuffix(".gz").removesuffix(".ann")
        if stem in annotated:
            raise ValueError(f"{file}: the annotations of {stem} stand in another file too; keep one")
        annotated.add(stem)
        text_file = next((p for p in (folder / f"{stem}.txt", folder / f"{stem}.txt.gz") if p.is_file()), None)
        if text_file is None:
            raise ValueError(f"{file}: no {stem}.txt beside it, which its offsets count characters of")
        mentions = _annotations(file, report)
        text = _text(text_file, mentions, report)
        for mention in mentions:
            _add(mention, stem, text, split, rows, report)
    for file in sorted(folder.iterdir()):
        name = file.name.removesuffix(".gz")
        if name.endswith(".txt") and name.removesuffix(".txt") not in annotated and not name.startswith("."):
            report.note("text without annotations", str(file))
    return rows.dataset(split), report


def _annotations(file: Path, report: ReadReport) -> list[_Mention]:
    mentions: dict[str, _Mention] = {}
    references: list[tuple[str, str, str]] = []  # normalisations may stand before their mention
    for number, line in read_lines(file):
        where = f"{file}:{number}"
        if not line.strip():
            continue
        columns = line.split("\t", 2)
        identifier = columns[0].strip()
        if len(columns) > 1 and identifier.startswith("T"):
            if identifier in mentions:
                raise ValueError(f"{where}: id {identifier!r} stands at {mentions[identifier].where} already")
            kind, spans = _spans(columns[1], where)
            mentions[identifier] = _Mention(where, line, kind, spans, columns[2] if len(columns) > 2 else "")
        elif len(columns) > 1 and identifier.startswith("N"):
            fields = columns[1].split()
            if len(fields) != 3:
                raise ValueError(f"{where}: {shorten(columns[1])} is not 'Reference <mention> <resource>:<id>'")
            references.append((where, fields[1], fields[2]))
        elif len(columns) > 1 and identifier[:1] in _OTHER_KINDS:
            report.note("line that is neither mention nor normalisation ignored", f"{where} {shorten(line)}")
        else:
            raise ValueError(
                f"{where}: {shorten(line)} is not standoff: expected an id such as T1, a tab and the rest"
            )
    for where, identifier, concept_id in references:
        if identifier in mentions:
            mentions[identifier].ids.append(concept_id)
        else:
            report.note("normalisation of no mention ignored", f"{where} {shorten(f'{identifier} {concept_id}')}")
    return list(mentions.values())


def _spans(column: str, where: str) -> tuple[str, list[tuple[int, int]]]:
    kind, _, offsets = column.strip().partition(" ")
    spans = []
    for span in offsets.split(";"):
        ends = span.split()
        if len(ends) != 2 or not all(is_integer(end) for end in ends):
            raise ValueError(f"{where}: {shorten(column)} is not a type and offsets such as 'Disease 10 20;25 30'")
        spans.append((int(ends[0]), int(ends[1])))
    return kind, spans


def _text(file: Path, mentions: list[_Mention], report: ReadReport) -> str:
    data = read_bytes(file)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        raise ValueError(f"{file}:{number}: not UTF-8 text: byte {byte!r}; re-encode the file as UTF-8") from error
    check_text(text, str(file))
    if "\r\n" in text:
        shorter = text.replace("\r\n", "\n")
        if sum(_fits(m, shorter) for m in mentions) > sum(_fits(m, text) for m in mentions):
            report.note("Windows line ends read as one character", str(file))
            return shorter
    return text


def _fits(mention: _Mention, text: str) -> bool:
    fragments = [text[max(start, 0) : max(end, 0)] for start, end in mention.spans]
    return _flat(" ".join(fragments)) == _flat(mention.stated)


def _flat(text: str) -> str:
    """Return the text with each blank, line ends included, as a space: as long as before."""
    return re.sub(r"\s", " ", text)


def _add(mention: _Mention, document_id: str, text: str, split: str, rows: MentionRows, report: ReadReport) -> None:
    value = f"{mention.where} {shorten(mention.line)}"
    if len(mention.spans) == 1:
        start, end = mention.spans[0]
        place = place_mention(_flat(text), start, end, _flat(mention.stated), value, report, rule=_RULE)
        if place is None:
            return
    elif (
        not mention.stated.strip()
        or not _fits(mention, text)
        or not all(0 <= start < end <= len(text) for start, end in mention.spans)
    ):
        report.skip(_NOT_FOUND, value, f"Correct its offsets: {_RULE}.")
        return
    else:
        spans = sorted(mention.spans)
        place = spans[0][0], max(end for _, end in spans)
        if any(text[end:start].strip() for (_, end), (start, _) in pairwise(spans)):
            report.repair("discontinuous mention widened to the passage that covers it", value)
    if len(mention.ids) > 1:
        report.note("several normalisations read as alternatives", value)
    rows.add(
        document_id=document_id,
        text=text,
        start=place[0],
        end=place[1],
        types=[mention.type] if mention.type else [],
        concept_ids=clean_ids([mention.ids], value, report, umls=True),
        split=split,
    )
    report.use()
