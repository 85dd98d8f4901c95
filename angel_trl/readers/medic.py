"""MEDIC and BioSyn dictionaries: `id|alternate id||name|name...`, one line a concept or one line a name.

The 2012 MEDIC of the NCBI Disease corpus (DNorm) has one line a concept; BioSyn's dictionaries have the same layout
with one name a line, so an id comes back on line after line and its names are joined.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from ..kb import Concept
from .lines import read_lines, shorten
from .report import ReadReport

__all__ = ["looks_like_medic", "looks_like_tab", "read_medic", "read_tab"]

_ENTITY = re.compile(r"&(#[0-9]+|#x[0-9a-fA-F]+|[a-zA-Z]+[0-9]*);")


def looks_like_medic(head: str) -> bool:
    """Say whether the first line of text reads `id||name` or `id|alternate||name`."""
    ids, separator, names = _first_line(head).partition("||")
    return bool(separator and ids.strip() and names.strip()) and "\t" not in ids


def looks_like_tab(head: str) -> bool:
    """Say whether the first line of text reads `id<TAB>name|name`."""
    ids, separator, names = _first_line(head).partition("\t")
    return bool(separator and ids.strip() and names.strip()) and "\t" not in names and "||" not in ids


def read_medic(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read a MEDIC or BioSyn dictionary, gzip-compressed or not.

    The report counts lines. A line whose id stood on an earlier line adds its names to that concept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line has no `||` or the file is not UTF-8; the message names the file and the line.
    """
    return _read(path, "||", "id|alternate id||name|name")


def read_tab(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read `id|alternate id<TAB>name|name...` lines, gzip-compressed or not.

    The layout is that of the merged MeSH and MEDIC dictionaries. Counts and errors are those of [`read_medic`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line has no tab or the file is not UTF-8; the message names the file and the line.
    """
    return _read(path, "\t", "id|alternate id<TAB>name|name")


def _first_line(head: str) -> str:
    return next((line for line in head.split("\n") if line.strip()), "")


def _read(path: str | Path, separator: str, layout: str) -> tuple[list[Concept], ReadReport]:
    report = ReadReport()
    names_of: dict[str, dict[str, None]] = {}  # each an ordered set
    alternates_of: dict[str, list[str]] = {}
    for number, line in tqdm(read_lines(path), desc=Path(path).name, unit=" lines", delay=2):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        raw_ids, found, raw_names = line.partition(separator)
        if not found:
            raise ValueError(f"{where}: {shorten(line)} is not of the form {layout}")
        ids = list(_fields(raw_ids, "id", where, report))
        names = [_without_entities(name, where, report) for name in _fields(raw_names, "name", where, report)]
        if not ids:
            report.skip("no concept id", f"{where} {shorten(line)}", "Begin the line with the id, or delete it.")
        elif not names:
            report.skip("no name", f"{where} {shorten(line)}", "Give the concept a name, or delete the line.")
        else:
            report.use()
            if ids[0] in names_of:
                report.note("concept id on several lines, names joined", f"{where} {shorten(ids[0])}")
            known = names_of.setdefault(ids[0], {})
            for name in names:
                if name in known:
                    report.repair("duplicate name dropped", f"{where} {shorten(name)}")
                known[name] = None
            alternates_of.setdefault(ids[0], []).extend(ids[1:])
    concepts = [
        Concept(concept_id, tuple(names), tuple(dict.fromkeys(alternates_of[concept_id])))
        for concept_id, names in names_of.items()
    ]
    return concepts, report


def _without_entities(name: str, where: str, report: ReadReport) -> str:
    """The name with `&apos;` and the like, which MEDIC has from its XML, as the characters they mean."""
    written = _ENTITY.sub(lambda found: html.unescape(found[0]), name) if "&" in name else name
    if written != name:
        report.repair("character entity written out", f"{where} {shorten(name)}")
    return written


def _fields(text: str, kind: str, where: str, report: ReadReport) -> Iterator[str]:
    for field in text.split("|"):
        stripped = field.strip()
        if stripped != field:
            report.repair(f"blank around {kind}", f"{where} {shorten(field)}")
        if stripped:
            yield stripped
        elif text:
            report.repair(f"empty {kind} dropped", f"{where} {shorten(text)}")
