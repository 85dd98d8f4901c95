"""Tables of mentions: COMETA, and the folds of AskAPatient.

COMETA (Basaldella et al., EMNLP 2020) comes as tab-separated files named `train.csv`, `dev.csv` and `test.csv`, with a
header. Read are the columns `Term` (the mention), `Example` (the post it comes from), `General SNOMED ID` and
`Specific SNOMED ID` (the term's literal and contextual meaning), and `ID` if it is there; commas may separate, too.
After the paper, and the column names that public code reads (CogStack's MedCAT, SapBERT's loader).

AskAPatient (Limsopatham and Collier, ACL 2016; zenodo.org/record/55013) comes as ten folds of Latin-1 files
`AskAPatient.fold-0.train.txt`, `...validation.txt` and `...test.txt`, without a header: concept id, concept name and
mention, separated by tabs. After BigBIO's loader of it. TwADR-L of the same authors has the same layout.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tqdm.auto import tqdm

from .cleaning import check_text
from .lines import read_lines, read_raw_lines, shorten, split_rows
from .mention_rows import MentionRows, clean_ids
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["IdLevel", "fold_files", "looks_like_askapatient", "looks_like_cometa", "read_askapatient", "read_cometa"]

IdLevel = Literal["general", "specific"]

_BOM = b"\xef\xbb\xbf"
_FOLD = re.compile(r"(.+)\.fold-(\d+)\.(train|validation|test)\.txt(\.gz)?")


def looks_like_cometa(head: str) -> bool:
    """Say whether the first line of text is a header with `Term`, `Example` and a SNOMED id."""
    header = head.lstrip("\n\r").split("\n", 1)[0]
    names = _names(_cells(header, _delimiter(header)))
    return {"term", "example"} <= set(names) and any(f"{level} snomed id" in names for level in get_args(IdLevel))


def read_cometa(path: str | Path, *, split: str, level: IdLevel = "general") -> tuple["Dataset", ReadReport]:
    """Read a COMETA table, gzip-compressed or not.

    A term is searched in its example whatever the case: the first place where it is a word or words of its own, or
    else the first place (noted). Where it does not occur, the mention alone is the text (noted). The report counts
    rows; those with another number of cells than the header are skipped.

    Args:
        path: The file.
        split: What to write in the column `split`.
        level: `"general"` for the literal meaning of a term, the task that results are usually given for, or
            `"specific"` for the one in context.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, `level` is unknown, or the file is not UTF-8 or no table; the message
            names the file and the line or the column.
    """
    if level not in get_args(IdLevel):
        raise ValueError(f"level must be one of {get_args(IdLevel)}, got {level!r}")
    report, rows = ReadReport(), MentionRows()
    table = _table(path)
    where, header = next(table, (f"{path}:1", []))
    column = {name: index for index, name in enumerate(_names(header))}
    for name in ("Term", "Example", f"{level.capitalize()} SNOMED ID"):
        if name.lower() not in column:
            raise ValueError(f"{where}: no column {name!r} in the header {shorten(' | '.join(header))}")
    times: Counter[str] = Counter()
    for where, cells in tqdm(table, desc=Path(path).name, unit=" rows", delay=2):
        value = f"{where} {shorten(' '.join(cells))}"
        if len(cells) != len(header):
            fix = f"A row has {len(header)} cells, as the header; quote cells that hold a separator or a line end."
            report.skip("another number of cells than the header", value, fix)
            continue
        term, example = cells[column["term"]].strip(), cells[column["example"]]
        if not term:
            report.skip("empty mention", value, "Fill in the column Term, or delete the row.")
            continue
        match = re.search(rf"(?<!\w){re.escape(term)}(?!\w)", example, re.IGNORECASE)
        if match is None:
            match = re.search(re.escape(term), example, re.IGNORECASE)
            report.note("term within a word of its example" if match else "term not found in its example", value)
        text, (start, end) = (example, match.span()) if match else (term, (0, len(term)))
        document_id = (cells[column["id"]].strip() if "id" in column else "") or where.rpartition(":")[2]
        times[document_id] += 1
        rows.add(
            document_id=document_id if times[document_id] == 1 else f"{document_id}#{times[document_id]}",
            text=text,
            start=start,
            end=end,
            types=[],
            concept_ids=clean_ids([[cells[column[f"{level} snomed id"]]]], value, report),
            split=split,
        )
        report.use()
    return rows.dataset(split), report


def looks_like_askapatient(head: str) -> bool:
    """Say whether the first lines of text all have three tab-separated cells, an id of letters and digits first."""
    lines = [line.removesuffix("\r") for line in head.split("\n")[:20] if line.strip()]
    cells = [line.split("\t") for line in lines]
    return bool(cells) and all(len(c) == 3 and all(c) and re.fullmatch(r"[A-Za-z]*\d+", c[0]) for c in cells)


def read_askapatient(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read one file of a fold of AskAPatient, gzip-compressed or not.

    The mention alone is the text, and every line a document of its own, `"{split}-{line number}"`. A mention may
    occur on several lines, as often as patients wrote it; all are kept, and repetitions noted. Lines that are not
    UTF-8 are read as Latin-1 and counted as repaired. The report counts lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line does not have three tab-separated cells or holds a NUL; the message names the file and
            the line.
    """
    report, rows = ReadReport(), MentionRows()
    seen: set[str] = set()
    for number, raw in tqdm(read_raw_lines(path), desc=Path(path).name, unit=" lines", delay=2):
        where = f"{path}:{number}"
        if not raw.strip():
            continue
        line, is_latin = _decode(raw.removeprefix(_BOM) if number == 1 else raw)
        check_text(line, where)
        cells = line.split("\t")
        if len(cells) != 3:
            raise ValueError(
                f"{where}: {shorten(line)} has {len(cells)} tab-separated cells; expected concept id, concept name "
                "and mention"
            )
        value = f"{where} {shorten(' '.join(cells))}"
        mention = cells[2].strip()
        if not mention:
            report.skip("empty mention", value, "Fill in the third cell, or delete the line.")
            continue
        if is_latin:
            report.repair("line read as Latin-1", value)
        if line in seen:
            report.note("mention without context repeated", value)
        seen.add(line)
        rows.add(
            document_id=f"{split}-{number}",
            text=mention,
            start=0,
            end=len(mention),
            types=[],
            concept_ids=clean_ids([[cells[0]]], value, report),
            split=split,
        )
        report.use()
    return rows.dataset(split), report


def fold_files(folder: str | Path) -> dict[int, dict[str, Path]]:
    """Return the files `<name>.fold-<number>.<split>.txt` of a folder, by fold and then by split.

    Raises:
        ValueError: If two files are of the same fold and split.
    """
    folds: dict[int, dict[str, Path]] = {}
    for file in sorted(Path(folder).iterdir()):
        match = _FOLD.fullmatch(file.name)
        if match and file.is_file():
            split = "dev" if match[3] == "validation" else match[3]
            fold = folds.setdefault(int(match[2]), {})
            if split in fold:
                raise ValueError(f"{folder}: two files for {split} of a fold: {fold[split].name} and {file.name}")
            fold[split] = file
    return dict(sorted(folds.items()))


def _table(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield `("file:line", cells)` of each row that is not blank, the header first; a quoted cell may span lines."""
    lines = read_lines(path)
    number, header = next((pair for pair in lines if pair[1].strip()), (1, ""))
    for first, cells in split_rows(path, chain([(number, header)], lines), _delimiter(header)):
        yield f"{path}:{first}", cells


def _decode(raw: bytes) -> tuple[str, bool]:
    """Return a line as text, and whether it had to be read as Latin-1."""
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("latin-1"), True


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _delimiter(header: str) -> str:
    return "\t" if "\t" in header else ","


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]
