"""MeSH descriptors and supplementary concept records in XML (`desc2025.xml`, `supp2025.xml`).

The elements are those of https://www.nlm.nih.gov/mesh/xml_data_elements.html. The standard library's expat reads
them one record at a time. Nothing is fetched, and a document type declaration may name NLM's DTD but define nothing:
entities that expand to gigabytes, and files read from elsewhere, come in that way and no other.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from tqdm.auto import tqdm

from ..kb import Concept
from .cleaning import ConceptBuilder
from .lines import MAX_LINE_BYTES, read_chunks, shorten
from .report import ReadReport

__all__ = ["looks_like_mesh", "read_mesh"]

_ROOT = re.compile(r"<(?:DescriptorRecordSet|SupplementalRecordSet)[\s>]")
_SETS = {"DescriptorRecordSet": "DescriptorRecord", "SupplementalRecordSet": "SupplementalRecord"}
# What the text of which element of a record is for.
_TEXTS = {
    ("DescriptorUI",): "id",
    ("SupplementalRecordUI",): "id",
    ("DescriptorName", "String"): "name",
    ("SupplementalRecordName", "String"): "name",
    ("ConceptList", "Concept", "TermList", "Term", "String"): "term",
    ("ConceptList", "Concept", "ScopeNote"): "scope note",
    ("Note",): "note",
    ("TreeNumberList", "TreeNumber"): "tree",
}
_MAX_DEPTH = 64
"""MeSH nests ten deep; without a bound, tags that never close fill the memory."""
_SCR_CLASSES = {
    "1": "SCR_Chemical",
    "2": "SCR_Protocol",
    "3": "SCR_Disease",
    "4": "SCR_Organism",
    "5": "SCR_Population",
    "6": "SCR_Anatomy",
}
"""The classes of supplementary records, by the names of MeSH's RDF."""
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def looks_like_mesh(head: str) -> bool:
    """Say whether text begins an XML document of MeSH descriptors or supplementary records."""
    return head.lstrip().startswith("<") and _ROOT.search(head) is not None


def read_mesh(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read the records of a MeSH XML file, gzip-compressed or not; the report counts records.

    A concept is a record: its name, then the terms of its preferred concept and of its other ones (MeSH's entry
    terms) in the file's order. A descriptor's types are the letters of its trees (`"C"` diseases, `"D"` chemicals),
    a supplementary record's is its class, by the name of MeSH's RDF (`"SCR_Disease"`). The definition is the scope
    note of the preferred concept, or a supplementary record's note where that is missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not well-formed XML in UTF-8, is not MeSH, declares entities, or has an element
            larger than 16 MiB; the message names the file and the line.
    """
    reader = _Reader(path)
    reader.read()
    return reader.builder.build(), reader.report


@dataclass(slots=True)
class _Record:
    line: int
    types: dict[str, None]
    """An ordered set."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """What was read, by what it is for: `id`, `name`, `term`, `note`, `scope note`."""
    size: int = 0


class _Reader:
    """The handlers of one parse; what they raise goes through expat to the caller."""

    def __init__(self, path: str | Path) -> None:
        self.report = ReadReport()
        self.builder = ConceptBuilder(self.report, "records")
        self._file = path
        self._open: list[str] = []
        self._record: _Record | None = None
        self._text: list[str] | None = None
        self._in_preferred_concept = False
        parser = self._parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.SkippedEntityHandler = self._entity
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def read(self) -> None:
        fed = 0
        bar = tqdm(desc=Path(self._file).name, unit="B", unit_scale=True, delay=2)
        try:
            for chunk in read_chunks(self._file):
                fed += len(chunk)
                bar.update(len(chunk))
                self._parser.Parse(chunk, False)
                # Expat holds a comment or a tag until it has all of it.
                if fed - self._parser.CurrentByteIndex > MAX_LINE_BYTES:
                    raise self._error(
                        f"a tag or comment of more than {MAX_LINE_BYTES:,} bytes, which no MeSH file has"
                    )
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise ValueError(
                f"{self._file}:{error.lineno}: not well-formed XML in UTF-8 ({expat.ErrorString(error.code)}, column "
                f"{error.offset}); fetch the file again"
            ) from error
        finally:
            bar.close()

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{self._file}:{self._parser.CurrentLineNumber}: {problem}")

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise self._error(f"the encoding {shorten(encoding)} is not UTF-8, MeSH's; re-encode the file as UTF-8")

    def _doctype(self, name: str, system_id: str | None, public_id: str | None, has_internal_subset: int) -> None:
        if has_internal_subset:
            raise self._error(
                "the document type declaration defines entities or attributes of its own, which MeSH's files do not, "
                "and which can make a small file huge; delete what stands in its brackets, or fetch the file from NLM"
            )

    def _entity(self, name: str, is_parameter_entity: int) -> None:
        raise self._error(f"the entity &{name}; is not defined; write the character itself")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        depth = len(self._open)
        if depth == 0 and tag not in _SETS:
            raise self._error(f"the root element is {shorten(tag)}, not one of {', '.join(_SETS)}")
        if depth >= _MAX_DEPTH:
            raise self._error(f"elements nested more than {_MAX_DEPTH} deep, which MeSH's are not")
        self._open.append(tag)
        self._text = None
        if depth == 1 and tag == _SETS[self._open[0]]:
            scr_class = attributes.get("SCRClass")
            types = {} if scr_class is None else {_SCR_CLASSES.get(scr_class, scr_class): None}
            self._record = _Record(self._parser.CurrentLineNumber, types)
        elif tag == "Concept":
            self._in_preferred_concept = attributes.get("PreferredConceptYN") == "Y"
        elif depth > 1 and self._record is not None and tuple(self._open[2:]) in _TEXTS:
            self._text = []

    def _characters(self, text: str) -> None:
        if self._text is not None and self._record is not None:
            self._record.size += len(text)
            if self._record.size > MAX_LINE_BYTES:
                raise self._error(f"a record of more than {MAX_LINE_BYTES:,} characters, which no MeSH file has")
            self._text.append(text)

    def _end(self, tag: str) -> None:
        record = self._record
        if record is not None and self._text is not None:
            use = _TEXTS[tuple(self._open[2:])]
            text = "".join(self._text)
            if use == "tree":
                record.types[text.strip()[:1]] = None
            elif use != "scope note" or self._in_preferred_concept:
                record.texts.setdefault(use, []).append(text)
        self._text = None
        self._open.pop()
        if record is not None and len(self._open) == 1:
            self._finish(record)
            self._record = None

    def _finish(self, record: _Record) -> None:
        texts = record.texts
        names = texts.get("name", [])[:1]
        # The record's name is also a term of its preferred concept.
        terms = [term for term in texts.get("term", []) if term not in names]
        self.builder.add(
            next(iter(texts.get("id", [])), ""),
            [*names, *terms],
            f"{self._file}:{record.line}",
            types=[letter for letter in record.types if letter],
            definition=" ".join(next(iter(texts.get("scope note") or texts.get("note", [])), "").split()),
        )
