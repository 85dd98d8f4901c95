"""UMLS Metathesaurus in the Rich Release Format: `MRCONSO.RRF`, and `MRSTY.RRF` and `MRDEF.RRF` beside it.

The columns are those of the UMLS Reference Manual, chapter 3 (https://www.ncbi.nlm.nih.gov/books/NBK9685/). NLM sorts
all three files by CUI, and so they are read side by side, one concept at a time: what is held is the result.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ..kb import Concept
from .lines import read_lines, shorten
from .report import MAX_EXAMPLES, ReadReport

__all__ = ["find_mrconso", "looks_like_mrconso", "read_umls"]

_MRCONSO_COLUMNS = 18
_MRSTY_COLUMNS = 6
_MRDEF_COLUMNS = 8
# CUI, language, TS, LUI, STT, SUI, ISPREF: no other format begins like this.
_FIRST_LINE = re.compile(r"C[A-Z]*\d+\|[A-Z]{3}\|[PSps]\|[^|]*\|[^|]*\|[^|]*\|[YN]\|")
_FIXES = {
    "another language": "Ask for more in `languages`.",
    "another source": "Ask for more in `sources`.",
    "suppressible": "Take flags out of `suppress`.",
    "semantic type not asked for": "Ask for more in `semantic_types`.",
    "no name": "Nothing to do: the row has no string.",
}


def looks_like_mrconso(head: str) -> bool:
    """Say whether the first line of text is a row of `MRCONSO.RRF`."""
    first = head.lstrip().split("\n", 1)[0]
    return _FIRST_LINE.match(first) is not None and first.count("|") >= _MRCONSO_COLUMNS - 1


def find_mrconso(folder: str | Path) -> Path | None:
    """Return the `MRCONSO.RRF` or `MRCONSO.RRF.gz` of a folder or of its `META` folder, `None` if there is none."""
    return _find(Path(folder), "MRCONSO.RRF") or _find(Path(folder) / "META", "MRCONSO.RRF")


def read_umls(
    path: str | Path,
    *,
    languages: Sequence[str] = ("ENG",),
    sources: Collection[str] | None = None,
    suppress: Collection[str] = ("O", "E", "Y"),
    semantic_types: Collection[str] | None = None,
) -> tuple[list[Concept], ReadReport]:
    """Read the concepts of a UMLS release or of a subset made by MetamorphoSys; the report counts rows of MRCONSO.

    A concept is a CUI. Its preferred name is the string of its row with term status `P`, string type `PF` and
    `ISPREF` `Y`, or with as many of these, in this order, as the rows that are kept have; the other strings follow in
    the file's order, each once. Its types are the TUIs of MRSTY, and its definition is the first one in MRDEF
    of an atom that is kept and that is not suppressed itself; without these files it has none.

    Args:
        path: A folder with `MRCONSO.RRF`, or with a folder `META` that has it, or the file itself; MRSTY and MRDEF are
            looked for beside it. Each file may be gzip-compressed (`.gz`).
        languages: Values of `LAT` to keep, of `ENG`, `SPA`, `FRE`, ...; the preferred name is of the first one that
            a concept has.
        sources: Values of `SAB` to keep, for instance `("MSH", "SNOMEDCT_US")`; `None` for all.
        suppress: Values of `SUPPRESS` to leave out: obsolete (`O`), and suppressible by an editor (`E`) or by term
            type (`Y`).
        semantic_types: TUIs; only concepts that have one of them are kept. `None` for all. MedMentions' ST21pv is
            such a choice.

    Raises:
        FileNotFoundError: If there is no MRCONSO, or types are asked for and there is no MRSTY.
        ValueError: If a row has not the columns of its file, the rows are not sorted by CUI, or the text is not UTF-8;
            the message names the file and the line.
    """
    for name, value in (("languages", languages), ("sources", sources), ("suppress", suppress)):
        if isinstance(value, str):
            raise ValueError(f"{name} must be a collection of codes, got the string {value!r}; write ({value!r},)")
    path = Path(path)
    mrconso = find_mrconso(path) if path.is_dir() else path
    if mrconso is None or not mrconso.is_file():
        raise FileNotFoundError(f"no MRCONSO.RRF at {path}; unpack the UMLS release, or subset it with MetamorphoSys")
    mrsty = _find(mrconso.parent, "MRSTY.RRF")
    mrdef = _find(mrconso.parent, "MRDEF.RRF")
    if semantic_types is not None and mrsty is None:
        raise FileNotFoundError(f"semantic_types need MRSTY.RRF, which is not beside {mrconso}")
    types = _Beside(mrsty, _MRSTY_COLUMNS)
    definitions = _Beside(mrdef, _MRDEF_COLUMNS)
    tally = _Tally(mrconso)
    concepts: list[Concept] = []
    codes: dict[str, str] = {}  # One string for each TUI, not one a concept.
    groups = _concepts(mrconso, languages, sources, suppress, tally)
    for cui, rows in tqdm(groups, desc=mrconso.name, unit=" concepts", delay=2):
        if not rows:
            continue
        own_types = tuple(dict.fromkeys(codes.setdefault(row[1], row[1]) for row in types.rows_of(cui)))
        if semantic_types is not None and not any(code in semantic_types for code in own_types):
            tally.count("semantic type not asked for", rows[0][0], cui, len(rows))
            continue
        tally.used += len(rows)
        atoms = {atom for _, _, atom, _ in rows}
        names = dict.fromkeys(name for _, _, _, name in rows)
        # The first of the best rows, then the file's order.
        best = min(rows, key=lambda row: row[1])[3]
        definition = next(
            (row[5].strip() for row in definitions.rows_of(cui) if row[1] in atoms and row[6] not in suppress), ""
        )
        concepts.append(Concept(cui, tuple(dict.fromkeys((best, *names))), (), own_types, definition))
        if len(names) < len(rows):
            tally.count("string in several rows of a concept, kept once", rows[0][0], cui, len(rows) - len(names))
    return concepts, tally.report()


_Row = tuple[int, int, str, str]
"""`(line number, rank, AUI, string)` of a row that is kept; rank 0 is best."""


def _concepts(
    path: Path,
    languages: Sequence[str],
    sources: Collection[str] | None,
    suppress: Collection[str],
    tally: "_Tally",
) -> Iterator[tuple[str, list[_Row]]]:
    """Yield every CUI with those of its rows that are kept, which may be none."""
    language_ranks = {code: 8 * rank for rank, code in enumerate(languages)}
    current = ""
    rows: list[_Row] = []
    for number, fields in _rows(path, _MRCONSO_COLUMNS):
        cui = fields[0]
        if cui != current:
            if current:
                yield current, rows
            current, rows = cui, []
        if fields[1] not in language_ranks:
            tally.count("another language", number, fields[1])
        elif sources is not None and fields[11] not in sources:
            tally.count("another source", number, fields[11])
        elif fields[16] in suppress:
            tally.count("suppressible", number, fields[14])
        elif not (name := fields[14].strip()):
            tally.count("no name", number, cui)
        else:
            rank = 4 * (fields[2] != "P") + 2 * (fields[4] != "PF") + (fields[6] != "Y")
            rank += language_ranks[fields[1]]
            rows.append((number, rank, fields[7], name))
    if current:
        yield current, rows


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number, fields)` of an RRF file that is sorted by its first column."""
    previous = ""
    for number, line in read_lines(path):
        fields = line.split("|")
        # Every field of RRF ends with a bar, the last one too.
        if len(fields) != columns + 1 or fields[-1]:
            if not line.strip():
                continue
            raise ValueError(
                f"{path}:{number}: {len(fields) - 1} columns instead of {columns}: {shorten(line)}; the file may be "
                "cut off: fetch it again, or make the subset again with all columns of the Rich Release Format"
            )
        cui = fields[0]
        if cui < previous or not cui.strip():
            raise ValueError(
                f"{path}:{number}: CUI {shorten(cui)} after {shorten(previous)}: the rows are not sorted by CUI, as "
                "those of a release are; sort them with: LC_ALL=C sort -t '|' -k 1,1 -s"
            )
        previous = cui
        yield number, fields


class _Beside:
    """The rows of a file that is sorted by CUI, taken as the CUIs of another one go by."""

    def __init__(self, path: Path | None, columns: int) -> None:
        self._rows = (fields for _, fields in _rows(path, columns)) if path else iter(())
        self._next = next(self._rows, None)

    def rows_of(self, cui: str) -> list[list[str]]:
        """Return the rows of a CUI, which must come in ascending order from call to call."""
        while self._next is not None and self._next[0] < cui:
            self._next = next(self._rows, None)
        rows = []
        while self._next is not None and self._next[0] == cui:
            rows.append(self._next)
            self._next = next(self._rows, None)
        return rows


class _Tally:
    """Counts of millions of rows, from which the report is made in the end: text is made for the examples only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self.used = 0

    def count(self, reason: str, number: int, value: str, rows: int = 1) -> None:
        self._counts[reason] += rows
        examples = self._examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(f"{self._path}:{number} {shorten(value)}")

    def report(self) -> ReadReport:
        skipped = {reason: count for reason, count in self._counts.items() if reason in _FIXES}
        return ReadReport(
            read=self.used + sum(skipped.values()),
            used=self.used,
            skipped=skipped,
            notes={reason: count for reason, count in self._counts.items() if reason not in _FIXES},
            examples=self._examples,
            fixes={reason: _FIXES[reason] for reason in skipped},
        )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
