"""PubTator corpora: `PMID|t|title`, `PMID|a|abstract`, then one tab-separated line a mention.

A mention line is `PMID, start, end, mention, type, ids` and, on some composite lines of BC5CDR, the mention strings of
the parts. Offsets count characters of the title, one separator, and the abstract. `type` may hold several, joined by
commas (MedMentions). In `ids`, `+` and `,` (BioRED) join parts that are all meant. `|` joins parts too if the type is
`CompositeMention` (NCBI Disease) or the seventh column is there (BC5CDR), and alternatives otherwise, within a part;
the bars of a variant (`p|DEL|439_443|`, BioRED) belong to its id. `-1`, `-` and an empty field mean that there is no
concept. `UMLS:C0010674` (MedMentions ST21pv) is written `C0010674`, as MedMentions full and UMLS write it. Lines such
as `PMID, CID, id, id` (BC5CDR) and `PMID, Association, id, id, Novel` (BioRED) are relations, not mentions.

Format: the READMEs of BC5CDR and of MedMentions (github.com/chanzuckerberg/MedMentions), and the releases of NCBI
Disease and BioRED (ncbi.nlm.nih.gov).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from .lines import read_lines, shorten
from .mention_rows import Document, MentionRows, is_integer, parse_label, place_mention, unique_documents
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["collect_mentions", "looks_like_pubtator", "read_pubtator"]

_PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)


@dataclass(slots=True)
class _Document(Document):
    has_abstract: bool = False


def looks_like_pubtator(head: str) -> bool:
    """Say whether the first line of text reads `id|t|title`."""
    match = _PASSAGE.match(head.lstrip())
    return match is not None and match[2] == "t"


def read_pubtator(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read the mentions of a PubTator file, gzip-compressed or not, document by document.

    The report counts mention lines. Skipped are those of a document that stands in the file twice, word for word
    (`"duplicate document"`), and those whose text is not found at its offsets or nearby. Repaired are blanks around
    ids and mentions, and wrong offsets if the mention stands at a single nearest place within ten characters. Notes
    tell of mentions without a concept, ids whose prefix `UMLS:` was dropped, ignored relation lines, and documents
    that share an id but not the content: all are kept, the later ones as `id#2`, `id#3`, ...

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
    report = ReadReport()
    return collect_mentions(path, lambda _: split, report).dataset(split), report


def collect_mentions(path: str | Path, split_of: Callable[[str], str | None], report: ReadReport) -> MentionRows:
    """Read the mentions of a PubTator file into the splits that a function tells by the document's id.

    The mentions of a document for which it tells `None` are counted as skipped. Errors are those of
    [`read_pubtator`].
    """
    rows = MentionRows()
    documents = unique_documents(_documents(path, report), report)
    for document in tqdm(documents, desc=Path(path).name, unit=" documents", delay=2):
        split = split_of(document.id)
        if split is None:
            for where, columns in document.annotations:
                fix = "Add its id to one of the lists, or leave it out on purpose."
                report.skip("document in no split", f"{where} {shorten(' '.join(columns))}", fix)
        else:
            _add_mentions(document, split, rows, report)
    return rows


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
            if passage[1].strip() != current.id or current.has_abstract:
                raise ValueError(
                    f"{where}: abstract of {passage[1]!r} follows the passages of {current.id!r}; a document has one "
                    "title line 'PMID|t|title', then at most one abstract line 'PMID|a|abstract'"
                )
            current.has_abstract = True
            current.text += f" {passage[3]}"
            continue
        columns = line.split("\t")
        if len(columns) == 1:
            raise ValueError(
                f"{where}: {shorten(line)} is neither 'PMID|t|title', 'PMID|a|abstract' nor a tab-separated mention"
            )
        if len(columns) < 6 and not is_integer(columns[1]):
            # 'PMID, relation, id, id' and, in later corpora, one column more
            report.note("relation line ignored", f"{where} {shorten(line)}")
            continue
        current.annotations.append((where, columns))
    if current is None:
        raise ValueError(f"{path}: no title line 'PMID|t|title' in it: not a PubTator file")
    yield current


def _add_mentions(document: _Document, split: str, rows: MentionRows, report: ReadReport) -> None:
    for where, columns in document.annotations:
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
        rule = "characters from 0 in the title, one separator and the abstract"
        place = place_mention(document.text, start, end, columns[3], value, report, rule=rule)
        if place is None:
            continue
        composite = "CompositeMention" in columns[4] or len(columns) > 6
        label = columns[5] if len(columns) > 5 else ""
        separators = "+,|" if composite else "+,"
        rows.add(
            document_id=document.unique_id,
            text=document.text,
            start=place[0],
            end=place[1],
            types=[name.strip() for name in columns[4].split(",") if name.strip()],
            concept_ids=parse_label(label, value, report, part_separators=separators, umls=True),
            split=split,
        )
        report.use()


def _offset(text: str, name: str, where: str) -> int:
    if not is_integer(text):
        raise ValueError(f"{where}: {name} offset must be an integer, got {shorten(text)}")
    return int(text)
