"""Mentions as records, of our own columns or of as few as `text`, `start`, `end` and `concept_ids`: JSONL and parquet.

The fields are those of [`angel_trl.mentions.MENTION_FEATURES`]. Optional are `id`, `document_id` (the number of the
record where it is missing), `mention` (checked against the text), `types` (a string or a list of strings) and `split`.
`concept_ids` may be

- a list of lists: ALL of the parts, ANY of a part's ids;
- a list of strings: parts that are all meant, as in the outer list above;
- a string: parts joined by `+`, alternatives by `|`;
- null or an empty list: no concept.

Ids in lists are taken as written. Offsets count characters (code points), the end exclusive.
"""

from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any

from .cleaning import check_text
from .lines import shorten
from .mention_rows import MentionRows, clean_ids, parse_label, place_mention
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["OPTIONAL", "REQUIRED", "MentionRecords"]

REQUIRED = ("text", "start", "end", "concept_ids")
OPTIONAL = ("id", "document_id", "mention", "types", "split")

_SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "development": "dev", "valid": "dev", "validation": "dev",
    "test": "test",
}  # fmt: skip
_RULE = "characters from 0 in the field 'text'"


class MentionRecords:
    """Checks mentions one by one and collects them by split.

    Args:
        split: The split of records that name none.
        fixed: Whether a record that names another split is an error; otherwise it goes there.

    Attributes:
        report: Counts records.
    """

    def __init__(self, split: str, *, fixed: bool) -> None:
        self.report = ReadReport()
        self._rows = MentionRows()
        self._split = split
        self._fixed = fixed
        self._place_of: dict[bytes, str] = {}

    def add(self, record: dict[str, Any], number: int, where: str, content: str) -> None:
        """Add one mention, or count why not.

        A record whose content came before is skipped. One that is not at its offsets is repaired or skipped as by
        [`read_pubtator`]; without `mention`, its offsets must lie in the text.

        Args:
            record: The fields of [`REQUIRED`] and any of [`OPTIONAL`]; others are left alone.
            number: The record's, from 1.
            where: `"file:line"`.
            content: The record as text, to find repetitions by and for examples.

        Raises:
            ValueError: If a field is missing or of the wrong type; the message begins with `where` and names it.
        """
        missing = [key for key in REQUIRED if key not in record]
        if missing:
            raise ValueError(f"{where}: field {missing[0]!r} is missing; a mention needs {', '.join(REQUIRED)}")
        value = f"{where} {shorten(content)}"
        split = self._split_of(record, where)
        digest = sha256(content.encode("utf-8", "surrogatepass")).digest()
        first = self._place_of.setdefault(digest, where)
        if first != where:
            fix = "Delete the repetition."
            self.report.skip("mention repeated word for word", f"{value}, also at {first}", fix)
            return
        place = _place(record, where, value, self.report)
        if place is None:
            return
        stated_id = _string(record, "id", "", where)
        mention_id = self._rows.add(
            document_id=_string(record, "document_id", "", where) or str(number),
            text=record["text"],
            start=place[0],
            end=place[1],
            types=_types(record, where),
            concept_ids=_concept_ids(record, where, value, self.report),
            split=split,
            mention_id=stated_id,
        )
        if stated_id and mention_id != stated_id:
            self.report.repair("repeated id", f"{where} {shorten(stated_id)}")
        self.report.use()

    def dataset(self) -> tuple["Dataset", ReadReport]:
        """Return the mentions of the only split, maybe none, and the report."""
        return self._rows.dataset(self._split), self.report

    def splits(self) -> tuple["DatasetDict", ReadReport]:
        """Return the mentions of each split that has any, or none of the default split, and the report."""
        from datasets import DatasetDict

        found = self._rows.splits or [self._split]
        names = [name for name in ("train", "dev", "test") if name in found]
        return DatasetDict({name: self._rows.dataset(name) for name in names}), self.report

    def _split_of(self, record: dict[str, Any], where: str) -> str:
        stated = _string(record, "split", "", where)
        if not stated:
            return self._split
        if stated not in _SPLITS:
            raise ValueError(f"{where}: field 'split' must be train, dev or test, got {shorten(stated)}")
        if self._fixed and _SPLITS[stated] != self._split:
            raise ValueError(
                f"{where}: field 'split' is {stated!r}, but the file is read as {self._split!r}; correct one"
            )
        return _SPLITS[stated]


def _place(record: dict[str, Any], where: str, value: str, report: ReadReport) -> tuple[int, int] | None:
    text = _string(record, "text", None, where)
    for key in ("start", "end"):
        if type(record[key]) is not int:  # a bool is an int to Python
            raise ValueError(f"{where}: field {key!r} must be an integer, got {shorten(repr(record[key]))}")
    start, end = record["start"], record["end"]
    if record.get("mention") is None and not 0 <= start < end <= len(text):
        fix = f"Correct its offsets: {_RULE}."
        report.skip("offsets outside the text", f"{value}, whose text has {len(text)} characters", fix)
        return None
    stated = _string(record, "mention", text[max(start, 0) : max(end, 0)], where)
    if stated and start >= 0 and text[start:end] == stated:
        return start, start + len(stated)  # as given, blanks included: what we wrote ourselves is read as it was
    return place_mention(text, start, end, stated, value, report, rule=_RULE)


def _string(record: dict[str, Any], key: str, default: str | None, where: str) -> str:
    value = record.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {key!r} must be a string, got {shorten(repr(value))}")
    check_text(value, f"{where}: field {key!r}")
    return value


def _types(record: dict[str, Any], where: str) -> list[str]:
    types = record.get("types") or []
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise ValueError(f"{where}: field 'types' must be a list of strings, got {shorten(repr(types))}")
    for name in types:
        check_text(name, f"{where}: field 'types'")
    return types


def _concept_ids(record: dict[str, Any], where: str, value: str, report: ReadReport) -> list[list[str]]:
    ids = record["concept_ids"]
    if isinstance(ids, str):
        check_text(ids, f"{where}: field 'concept_ids'")
        return parse_label(ids, value, report)
    parts = [[part] if isinstance(part, str) else part for part in ids or []] if isinstance(ids, list | None) else None
    if parts is None or not all(isinstance(p, list) and all(isinstance(i, str) for i in p) for p in parts):
        raise ValueError(
            f"{where}: field 'concept_ids' must be a string, a list of strings, or a list (all of) of lists (any of) "
            f"of strings, got {shorten(repr(ids))}"
        )
    for concept_id in chain.from_iterable(parts):
        check_text(concept_id, f"{where}: field 'concept_ids'")
    return clean_ids(parts, value, report)
