"""Vocabularies of the Comparative Toxicogenomics Database, TSV or CSV (https://ctdbase.org/downloads/).

Comment lines begin with `#`; the columns are named in the one after `# Fields:`. Diseases are MEDIC: `DiseaseName`,
`DiseaseID`, `AltDiseaseIDs`, `Definition`, ..., `Synonyms`, `SlimMappings`; chemicals, genes, anatomy and pathways are
alike. Lists are separated by `|`.
"""

from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from ..kb import Concept
from .cleaning import ConceptBuilder
from .lines import read_lines, shorten, split_rows
from .report import ReadReport

__all__ = ["looks_like_ctd", "read_ctd"]

_FIELDS = "# Fields:"
# The column of the id, and those of the names beside it, the preferred one first.
_VOCABULARIES = {
    "DiseaseID": ("DiseaseName",),
    "ChemicalID": ("ChemicalName",),
    "GeneID": ("GeneSymbol", "GeneName"),
    "AnatomyID": ("AnatomyName",),
    "PathwayID": ("PathwayName",),
}


def looks_like_ctd(head: str) -> bool:
    """Say whether text begins with comments and names its fields in one."""
    return head.startswith("#") and f"\n{_FIELDS}" in f"\n{head}"


def read_ctd(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read a vocabulary of CTD, gzip-compressed or not; the report counts rows.

    The columns are found by their names. Every column `...Synonyms` gives names, every column `Alt...IDs` alternate
    ids, `SlimMappings` types; ids keep their prefix (`MESH:D003693`), which [`KnowledgeBase.resolve`] does not need.
    Columns that a concept has no place for are noted once.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the columns are not named or are those of no vocabulary (files of associations have the ids of
            several), or a row has another number of fields; the message names the file and the line.
    """
    report = ReadReport()
    builder = ConceptBuilder(report, "rows")
    lines = read_lines(path)
    number, header = _header(path, lines)
    delimiter = "\t" if "\t" in header else ","
    columns = [column.strip() for column in header.split(delimiter)]
    roles = _roles(columns, f"{path}:{number}", report)
    rows = ((number, line) for number, line in lines if not line.startswith("#"))
    split = (
        ((number, line.split("\t")) for number, line in rows if line.strip())
        if delimiter == "\t"
        else split_rows(path, rows, ",")
    )
    for number, fields in tqdm(split, desc=Path(path).name, unit=" rows", delay=2):
        where = f"{path}:{number}"
        if len(fields) != len(columns):
            row = shorten(delimiter.join(fields))
            raise ValueError(f"{where}: {len(fields)} fields, but {len(columns)} columns: {row}; fetch the file again")
        of_role: dict[str, list[str]] = {"id": [], "name": [], "list of names": [], "alternate": [], "type": []}
        definition = ""
        for role, value in zip(roles, fields, strict=True):
            if role == "definition":
                definition = value
            elif role in ("id", "name"):
                of_role[role].append(value)
            elif role and value.strip():
                of_role[role] += value.split("|")
        builder.add(
            of_role["id"][0],
            [*filter(str.strip, of_role["name"]), *of_role["list of names"]],
            where,
            alternate_ids=of_role["alternate"],
            types=of_role["type"],
            definition=definition,
        )
    return builder.build(), report


def _header(path: str | Path, lines: Iterator[tuple[int, str]]) -> tuple[int, str]:
    for _, line in lines:
        if line.startswith(_FIELDS):
            number, header = next(lines, (0, ""))
            if header.startswith("#"):
                return number, header.removeprefix("#").strip()
        if not line.startswith("#"):
            break
    raise ValueError(f"{path}: no comment line names the columns after {_FIELDS!r}; fetch the file from CTD again")


def _roles(columns: list[str], where: str, report: ReadReport) -> list[str]:
    """Return what each column is for a concept, `""` for nothing."""
    ids = [column for column in columns if column in _VOCABULARIES]
    if len(ids) != 1 or _VOCABULARIES[ids[0]][0] not in columns:
        raise ValueError(
            f"{where}: columns {shorten(', '.join(columns), 200)} are not those of one vocabulary: there must be one "
            f"of {', '.join(_VOCABULARIES)} with the name beside it; files of associations are no knowledge base"
        )
    roles = []
    for column in columns:
        if column == ids[0]:
            roles.append("id")
        elif column in _VOCABULARIES[ids[0]]:
            roles.append("name")
        elif column.endswith("Synonyms"):
            roles.append("list of names")
        elif column.startswith("Alt") and column.endswith("IDs"):
            roles.append("alternate")
        elif column == "SlimMappings":
            roles.append("type")
        elif column == "Definition":
            roles.append("definition")
        else:
            roles.append("")
            report.note(f"column {column!r} ignored", where)
    return roles
