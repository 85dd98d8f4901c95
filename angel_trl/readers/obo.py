"""OBO ontologies, formats 1.2 and 1.4 (http://purl.obolibrary.org/obo/oboformat/spec.html), and the synonyms of 1.0.

Format 1.0 has tags of their own for the scopes (`exact_synonym: "text" []`), which are read as 1.2 writes them.

The library `fastobo` reads the syntax (`pip install "angel_trl[readers]"`). It is strict, and real ontologies are not:
the file is taken apart into its `[Term]` frames here, so that one bad clause costs a repair or one term, and only the
clauses that a concept needs are parsed.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..kb import Concept
from .cleaning import ConceptBuilder
from .lines import read_lines, shorten
from .report import ReadReport

__all__ = ["looks_like_obo", "read_obo"]

SCOPES = ("EXACT", "RELATED", "NARROW", "BROAD")
"""The scopes of a synonym, as the specification names them."""

_TAGS = frozenset(
    {"id", "name", "namespace", "alt_id", "def", "synonym", "is_obsolete", "replaced_by"}
    | {f"{scope.lower()}_synonym" for scope in SCOPES}
)
_OLD_SYNONYM = re.compile(r'(exact|related|narrow|broad)_synonym:\s*("(?:[^"\\]|\\.)*")\s*(.*)')
_FIRST_LINE = re.compile(r"\[(?:Term|Typedef|Instance)\]|format-version:|[a-z][a-z_-]*: ")
_TERM = re.compile(r"^\[Term\]", re.MULTILINE)
# What follows the text must look like cross-references, or else the quotes are broken and the text may be longer.
_QUOTED = re.compile(
    r'(def|synonym):\s*("(?:[^"\\]|\\.)*")(?:\s+(EXACT|RELATED|NARROW|BROAD))?(?:\s+[\w:-]+)?\s*(?:\[.*|$)'
)


class _Frame(NamedTuple):
    kind: str
    """`"[Term]"`, `"[Typedef]"`, ...; `""` for the header."""
    number: int
    lines: list[tuple[int, str]]
    """`(line number, line)` of the clauses that are of use."""


def looks_like_obo(head: str) -> bool:
    """Say whether text begins like an OBO header or frame and has a `[Term]` frame."""
    first = next((line for line in head.split("\n") if line.strip() and not line.startswith("!")), "")
    return _FIRST_LINE.match(first) is not None and _TERM.search(head) is not None


def read_obo(path: str | Path, *, scopes: Collection[str] = ("EXACT", "RELATED")) -> tuple[list[Concept], ReadReport]:
    """Read the terms of an OBO ontology, gzip-compressed or not; the report counts terms.

    A concept has the term's `name` and then its synonyms, in the file's order; `alt_id`s as alternate ids; the
    namespace (or the header's default one) as its type; and the definition. Obsolete terms are skipped, and
    where one says what it is `replaced_by`, its ids become alternate ids of the replacement.

    A definition or a synonym whose cross-references break the syntax loses them (concepts do not hold them anyway),
    and a synonym without a scope is RELATED, as format 1.2 has it: both are counted as repairs. A term that cannot
    be parsed even so is skipped.

    Args:
        path: The file.
        scopes: Synonyms of which scopes become names, of EXACT, RELATED, NARROW and BROAD. RELATED is in by default
            because curators use it for whatever is said in place of the name; narrow and broad synonyms are names
            of other concepts, which are often in the ontology themselves.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If `fastobo` is not installed; the message says how to.
        ValueError: If a scope is unknown, or the file is not UTF-8.
    """
    unknown = set(scopes) - set(SCOPES)
    if unknown or isinstance(scopes, str):
        raise ValueError(f"scopes must be some of {', '.join(SCOPES)}, got {scopes!r}")
    parse = _parser()
    report = ReadReport()
    builder = ConceptBuilder(report, "terms")
    replaced: dict[str, _Term] = {}
    namespaces: list[str] = []
    for frame in tqdm(_frames(path), desc=Path(path).name, unit=" frames", delay=2):
        where = f"{path}:{frame.number}"
        if frame.kind == "":
            namespaces = [line.partition(":")[2].partition(" !")[0].strip() for _, line in frame.lines]
        elif frame.kind != "[Term]":
            report.note(f"{shorten(frame.kind, 40)} frame ignored: not a concept", where)
        elif (term := _parse_term(parse, frame, path, report)) is not None:
            if any(clause.obsolete for clause in term.clauses["is_obsolete"]):
                report.skip("obsolete term", f"{where} {shorten(term.id)}", "Nothing to do: it was withdrawn.")
                replaced.setdefault(term.id, term)
                continue
            builder.add(
                term.id,
                _names(term, scopes, report),
                where,
                alternate_ids=term.alternate_ids,
                types=[str(clause.namespace) for clause in term.clauses["namespace"]] or namespaces,
                definition=next((str(clause.definition) for clause in term.clauses["def"]), ""),
            )
    _redirect(replaced, builder, report)
    return builder.build(), report


class _Term(NamedTuple):
    id: str
    where: str
    clauses: defaultdict[str, list[Any]]
    """fastobo's clauses by tag."""

    @property
    def alternate_ids(self) -> list[str]:
        return [str(clause.alt_id) for clause in self.clauses["alt_id"]]


def _parser() -> Any:
    try:
        import fastobo
    except ImportError as error:
        raise ImportError('reading OBO needs the library fastobo: pip install "angel_trl[readers]"') from error
    # Its threads would be started anew for each of thousands of frames.
    return partial(fastobo.loads, threads=1)


def _frames(path: str | Path) -> Iterator[_Frame]:
    """Yield the header and every frame, with the clauses that a concept needs."""
    frame = _Frame("", 1, [])
    for number, line in read_lines(path):
        line = line.strip()
        tag = line.partition(":")[0]
        if line.startswith("["):
            yield frame
            frame = _Frame(line.partition("!")[0].strip(), number, [])
        elif tag in _TAGS if frame.kind else tag == "default-namespace":
            frame.lines.append((number, _with_scope(line)))
    yield frame


def _with_scope(line: str) -> str:
    """Return a synonym of format 1.0 as 1.2 writes it, the scope behind the text; any other line as it is."""
    old = _OLD_SYNONYM.match(line)
    return f"synonym: {old[2]} {old[1].upper()} {old[3]}" if old else line


def _parse_term(parse: Any, frame: _Frame, path: str | Path, report: ReadReport) -> _Term | None:
    """Parse a frame, with repairs if need be; `None` if it cannot be, which is counted."""
    where = f"{path}:{frame.number}"
    lines = ["[Term]", *(line for _, line in frame.lines)]
    try:
        return _parse(parse, lines, where)
    except SyntaxError:
        pass
    for position, (number, line) in enumerate(frame.lines, start=1):
        repaired = _without_references(line)
        if repaired != line and not _parses(parse, line):
            lines[position] = repaired
            report.repair("cross-references or scope not in OBO syntax", f"{path}:{number} {shorten(line)}")
    try:
        return _parse(parse, lines, where)
    except SyntaxError as error:
        number, line = ((frame.number, "[Term]"), *frame.lines)[min(error.lineno or 1, len(lines)) - 1]
        report.skip(
            "not OBO syntax",
            f"{path}:{number} {shorten(line)} ({error.msg})",
            "Correct the line; without that, all of its term is left out.",
        )
        return None


def _parse(parse: Any, lines: list[str], where: str) -> _Term:
    """Parse one frame.

    Raises:
        SyntaxError: If fastobo does, or finds anything else than one frame.
    """
    document = parse("\n".join(lines) + "\n")
    if len(document) != 1:
        raise SyntaxError(f"expected one frame, found {len(document)}")
    clauses = defaultdict(list)
    for clause in document[0]:
        clauses[clause.raw_tag()].append(clause)
    return _Term(str(document[0].id), where, clauses)


def _parses(parse: Any, line: str) -> bool:
    try:
        parse(f"[Term]\nid: x\n{line}\n")
    except SyntaxError:
        return False
    return True


def _without_references(line: str) -> str:
    """Return a definition or a synonym with no cross-references, any other line as it is."""
    match = _QUOTED.match(line)
    if match is None:
        return line
    tag, text, scope = match.groups()
    return f"def: {text} []" if tag == "def" else f"synonym: {text} {scope or 'RELATED'} []"


def _names(term: _Term, scopes: Collection[str], report: ReadReport) -> list[str]:
    """Return the name and the synonyms of the wanted scopes, each once."""
    names = [str(clause.name).strip() for clause in term.clauses["name"]]
    if len(names) > 1:
        report.note("several names, the first is the preferred one", f"{term.where} {shorten(term.id)}")
    for clause in term.clauses["synonym"]:
        synonym = clause.synonym
        if synonym.scope in scopes:
            names.append(str(synonym.desc))
        else:
            report.note(f"synonym of scope {synonym.scope} left out", f"{term.where} {shorten(str(synonym.desc))}")
    return names


def _redirect(obsolete: dict[str, _Term], builder: ConceptBuilder, report: ReadReport) -> None:
    """Give the ids of obsolete terms to the terms they were replaced by."""
    for old, term in obsolete.items():
        # What replaced a term may have been replaced in its turn.
        found: dict[str, None] = {}
        seen = {old}
        ahead = [str(clause.term) for clause in term.clauses["replaced_by"]]
        while ahead:
            target = ahead.pop()
            if target in builder:
                found[target] = None
            elif target in obsolete and target not in seen:
                seen.add(target)
                ahead += [str(clause.term) for clause in obsolete[target].clauses["replaced_by"]]
        for target in found:
            builder.add_alternate_ids(target, (old, *term.alternate_ids))
            report.note("obsolete id made an alternate id of its replacement", f"{term.where} {shorten(old)}")
        if term.clauses["replaced_by"] and not found:
            report.note("obsolete term's replacement is not in the file", f"{term.where} {shorten(old)}")
