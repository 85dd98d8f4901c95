"""PubTator corpora: `PMID|t|title`, `PMID|a|abstract`, then one tab-separated line a mention.

A mention line is `PMID, start, end, mention, type, ids` and, on some composite lines of BC5CDR, the mention strings of
the parts. Offsets count characters of the title, one separator, and the abstract. In `ids`, `+` joins parts that are
all meant. `|` joins parts too if the type is `CompositeMention` (NCBI Disease) or the seventh column is there
(BC5CDR), and alternatives otherwise, within a part. `-1`, `-` and an empty field mean that there is no concept.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lines import read_lines, shorten
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["looks_like_pubtator", "read_pubtator"]

_PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
_NO_CONCEPT = frozenset({"-1", "-", ""})
_OFFSET_WINDOW = 10
"""How many characters away a mention may stand from its stated start and still be taken for a wrong offset."""


@dataclass
class _Document:
    id: str
    """As in the file."""
    title: str
    abstract: str | None = None
    lines: list[tuple[str, list[str]]] = field(default_factory=list)
    """`("file:line", columns)` of each mention line."""

    unique_id: str = ""

    @property
    def text(self) -> str:
        return self.title if self.abstract is None else f"{self.title} {self.abstract}"

    @property
    def annotations(self) -> list[list[str]]:
        return [columns for _, columns in self.lines]


def looks_like_pubtator(head: str) -> bool:
    """Say whether the first line of text reads `id|t|title`."""
    match = _PASSAGE.match(head.lstrip())
    return match is not None and match[2] == "t"


def read_pubtator(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read the mentions of a PubTator file, gzip-compressed or not.

    The report counts mention lines. Skipped are those of a document that stands in the file twice, word for word
    (`"duplicate document"`), and those whose text is not found at its offsets or nearby. Repaired are blanks around
    ids and mentions, and wrong offsets if the mention stands at a single nearest place within ten characters. Notes
    tell of mentions without a concept, ignored relation lines, and documents that share an id but not the content:
    all are kept, the later ones as `id#2`, `id#3`, ...

    Args:
        path: The file.
        split: What to write in the column `split`.

    Returns:
        The mentions, in the file's order, with the features [`angel_trl.mentions.MENTION_FEATURES`], and the report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not PubTator, an offset is not an integer, or the text is not UTF-8; the message
            names the file, the line and the value.
    """
    from datasets import Dataset

    from ..mentions import MENTION_FEATURES

    report = ReadReport()
    rows: list[dict[str, Any]] = []
    for document in _unique_documents(_documents(path, report), report):
        rows += _mentions(document, split, report)
    columns = {name: [row[name] for row in rows] for name in MENTION_FEATURES}
    return Dataset.from_dict(columns, features=MENTION_FEATURES), report


def _documents(path: str | Path, report: ReadReport) -> Iterator[_Document]:
    current: _Document | None = None
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        passage = _PASSAGE.fullmatch(line)
        if passage and passage[2] == "t":
            if current is not None:
                yield current
            current = _Document(passage[1].strip(), passage[3])
            continue
        if current is None:
            raise ValueError(f"{where}: {shorten(line)} is not PubTator: expected a title line 'PMID|t|title' first")
        if passage:
            if passage[1].strip() != current.id or current.abstract is not None:
                raise ValueError(
                    f"{where}: abstract of {passage[1]!r} follows the passages of {current.id!r}; a document has one "
                    "title line 'PMID|t|title', then at most one abstract line 'PMID|a|abstract'"
                )
            current.abstract = passage[3]
            continue
        columns = line.split("\t")
        if len(columns) == 1:
            raise ValueError(
                f"{where}: {shorten(line)} is neither 'PMID|t|title', 'PMID|a|abstract' nor a tab-separated mention"
            )
        if len(columns) < 6 and not _is_integer(columns[1]):
            # 'PMID, relation, id, id' and, in later corpora, one column more
            report.note("relation line ignored", f"{where} {shorten(line)}")
            continue
        current.lines.append((where, columns))
    if current is None:
        raise ValueError(f"{path}: no title line 'PMID|t|title' in it: not a PubTator file")
    yield current


def _unique_documents(documents: Iterator[_Document], report: ReadReport) -> Iterator[_Document]:
    """Leave out identical documents and give the others distinct ids."""
    seen: dict[str, list[_Document]] = {}
    for document in documents:
        earlier = seen.setdefault(document.id, [])
        where = f"{document.lines[0][0]} {document.id}" if document.lines else document.id
        if any(document.text == other.text and document.annotations == other.annotations for other in earlier):
            report.note("document repeated word for word", where)
            for place, columns in document.lines:
                value = f"{place} {shorten(' '.join(columns))}"
                report.skip("duplicate document", value, "Its mentions are kept once; delete the repetition.")
            continue
        if earlier:
            same_text = any(document.text == other.text for other in earlier)
            report.note(f"same document id, other {'annotations' if same_text else 'text'}", where)
        earlier.append(document)
        document.unique_id = document.id if len(earlier) == 1 else f"{document.id}#{len(earlier)}"
        yield document


def _mentions(document: _Document, split: str, report: ReadReport) -> Iterator[dict[str, Any]]:
    text = document.text
    times: Counter[str] = Counter()
    for where, columns in document.lines:
        value = f"{where} {shorten(' '.join(columns))}"
        if len(columns) < 5:
            fix = "A mention line is PMID, start, end, mention, type and ids, separated by tabs."
            report.skip(f"{len(columns)} columns instead of 6", value, fix)
            continue
        if columns[0].strip() != document.id:
            fix = "Move the line below its own title and abstract, or correct its first column."
            report.skip("mention under another document", value, fix)
            continue
        start, end = (_offset(columns[i], name, where) for i, name in ((1, "start"), (2, "end")))
        mention = columns[3].strip()
        if not mention:
            report.skip("empty mention", value, "Fill in the fourth column, or delete the line.")
            continue
        if start < 0 or text[start:end] != mention:
            place = _nearest(text, mention, start)
            if place is None:
                there = shorten(text[max(start, 0) : max(end, 0)], 40)
                fix = "Correct its offsets: characters from 0 in the title, one separator and the abstract."
                report.skip("mention not found at its offsets or nearby", f"{value}, where the text has {there}", fix)
                continue
            start, end = place, place + len(mention)
            report.repair("wrong offset", value)
        if columns[3] != mention:
            report.repair("blank around mention", value)
        concept_ids = _concept_ids(columns, value, report)
        report.use()
        mention_id = f"{document.unique_id}:{start}-{end}"
        times[mention_id] += 1
        yield {
            "id": mention_id if times[mention_id] == 1 else f"{mention_id}#{times[mention_id]}",
            "document_id": document.unique_id,
            "text": text,
            "start": start,
            "end": end,
            "mention": mention,
            "types": [name.strip() for name in columns[4].split(",") if name.strip()],
            "concept_ids": concept_ids,
            "split": split,
        }


def _concept_ids(columns: list[str], value: str, report: ReadReport) -> list[list[str]]:
    label = columns[5] if len(columns) > 5 else ""
    composite = "CompositeMention" in columns[4] or len(columns) > 6
    parts = re.split(r"[+|]", label) if composite else label.split("+")
    result: list[list[str]] = []
    blank = missing = False
    for part in parts:
        alternatives = part.split("|")
        stripped = [concept_id.strip() for concept_id in alternatives]
        blank |= stripped != alternatives
        known = list(dict.fromkeys(i for i in stripped if i not in _NO_CONCEPT))
        missing |= len(known) < len(set(stripped))
        if known and known not in result:
            result.append(known)
    if blank:
        report.repair("blank around id", value)
    if not result:
        report.note("no concept id", value)
    elif missing:
        report.note("no concept id for a part", value)
    return result


def _nearest(text: str, mention: str, start: int) -> int | None:
    """Return where the mention starts nearest to `start`, or `None` if nowhere near or at two places equally near."""
    for distance in range(_OFFSET_WINDOW + 1):
        places = {p for p in (start - distance, start + distance) if p >= 0 and text.startswith(mention, p)}
        if places:
            return places.pop() if len(places) == 1 else None
    return None


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _offset(text: str, name: str, where: str) -> int:
    if not _is_integer(text):
        raise ValueError(f"{where}: {name} offset must be an integer, got {text!r}")
    return int(text)
