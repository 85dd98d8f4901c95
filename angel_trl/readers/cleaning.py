"""What every reader of a terminology does to the strings of a concept, and how it joins what belongs to one id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..kb import Concept
from .lines import shorten
from .report import ReadReport

__all__ = ["ConceptBuilder", "check_text", "clean", "is_usable"]


def check_text(value: str, where: str) -> None:
    """Refuse a string that no UTF-8 file can hold, or that holds a NUL: JSON and tables can bring both.

    Raises:
        ValueError: If there is a lone surrogate or a NUL in `value`; the message begins with `where`.
    """
    if "\0" in value:
        raise ValueError(f"{where}: a NUL character in {shorten(value)}; correct the text")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: half of a surrogate pair (U+{ord(value[error.start]):04X}) in {shorten(ascii(value))}; "
            "correct the text"
        ) from error


def is_usable(concept_id: str, names: Iterable[str], where: str, report: ReadReport) -> bool:
    """Count a record as used, or as skipped for want of an id or of a name, and say which."""
    if not concept_id:
        report.skip("no concept id", where, "Give the concept an id, or delete it.")
    elif not any(name.strip() for name in names):
        report.skip("no name", where, "Give the concept a name, or delete it.")
    else:
        report.use()
        return True
    return False


def clean(values: Sequence[str], kind: str, where: str, report: ReadReport) -> list[str]:
    """Strip the values and leave out the empty and the repeated ones, counting each.

    Raises:
        ValueError: As [`check_text`].
    """
    kept: dict[str, None] = {}  # an ordered set
    for value in values:
        check_text(value, f"{where}: {kind}")
        stripped = value.strip()
        if not stripped:
            report.repair(f"empty {kind} dropped", f"{where} {values!r:.80}")
        elif stripped in kept:
            report.repair(f"duplicate {kind} dropped", f"{where} {shorten(stripped)}")
        elif stripped != value:
            report.repair(f"blank around {kind}", f"{where} {shorten(value)}")
        if stripped:
            kept[stripped] = None
    return list(kept)


@dataclass(slots=True)
class _Parts:
    names: dict[str, None] = field(default_factory=dict)  # each an ordered set
    alternate_ids: dict[str, None] = field(default_factory=dict)
    types: dict[str, None] = field(default_factory=dict)
    definition: str = ""


class ConceptBuilder:
    """Concepts from records, joining the records of one id and counting what is left out or repaired.

    Args:
        report: Where to count.
        record: What a record is called in the report, for instance `"rows"`.
    """

    def __init__(self, report: ReadReport, record: str) -> None:
        self._report = report
        self._joined = f"concept id in several {record}, names joined"
        self._parts: dict[str, _Parts] = {}

    def __contains__(self, concept_id: str) -> bool:
        """Say whether a usable record with this id was added."""
        return concept_id in self._parts

    def add(
        self,
        concept_id: str,
        names: Sequence[str],
        where: str,
        *,
        alternate_ids: Sequence[str] = (),
        types: Sequence[str] = (),
        definition: str = "",
    ) -> None:
        """Add one record; one without an id or without any name is skipped and counted.

        Args:
            concept_id: The id, blanks around it or not.
            names: The preferred name first. Blanks, empty and repeated names are put right and counted.
            where: `"file:line"`, for examples and errors.
            alternate_ids: Other ids.
            types: Semantic types.
            definition: Kept if the id has none yet.

        Raises:
            ValueError: As [`check_text`].
        """
        key = concept_id.strip()
        check_text(key, f"{where}: concept id")
        if not is_usable(key, names, f"{where} {shorten(key or next(iter(names), ''))}", self._report):
            return
        if key != concept_id:
            self._report.repair("blank around id", f"{where} {shorten(concept_id)}")
        if key in self._parts:
            self._report.note(self._joined, f"{where} {shorten(key)}")
        parts = self._parts.setdefault(key, _Parts())
        # An id of a single name a row brings the same alternate ids and types on every row, and may well bring the
        # preferred name again: only repetition within a record is a defect.
        parts.names.update(dict.fromkeys(clean(names, "name", where, self._report)))
        parts.alternate_ids.update(dict.fromkeys(clean(alternate_ids, "alternate id", where, self._report)))
        parts.types.update(dict.fromkeys(clean(types, "type", where, self._report)))
        definition = definition.strip()
        if definition and not parts.definition:
            check_text(definition, f"{where}: definition")
            parts.definition = definition
        elif definition and definition != parts.definition:
            self._report.note("another definition left out", f"{where} {shorten(definition)}")

    def add_alternate_ids(self, concept_id: str, alternate_ids: Iterable[str]) -> None:
        """Give a concept that was added before more alternate ids."""
        self._parts[concept_id].alternate_ids.update(dict.fromkeys(alternate_ids))

    def build(self) -> list[Concept]:
        """Return the concepts in the order their ids came first."""
        return [
            Concept(concept_id, tuple(p.names), tuple(p.alternate_ids), tuple(p.types), p.definition)
            for concept_id, p in self._parts.items()
        ]
