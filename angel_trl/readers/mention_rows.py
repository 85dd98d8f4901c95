"""What the corpus readers share: labels to concept ids, stated offsets to passages, and rows to a mention dataset."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .lines import read_chunks, shorten
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Document",
    "MentionRows",
    "clean_ids",
    "is_integer",
    "parse_label",
    "place_mention",
    "read_bytes",
    "unique_documents",
]

_NO_CONCEPT = frozenset({"-1", "-", ""})
_UMLS_PREFIX = re.compile(r"UMLS:(C\d{7})")
# A variant as tmVar writes it (`p|DEL|439_443|`, `c|SUB|G|12|A`): its bars belong to the id.
_VARIANT = re.compile(r"\s*[a-z]?\|[A-Z]+\|")
_OFFSET_WINDOW = 10
"""How many characters away a mention may stand from its stated start and still be taken for a wrong offset."""

_MAX_DIGITS = 18
_MAX_DOCUMENT_BYTES = 64 << 20
_ROWS_PER_BATCH = 10_000


@dataclass(slots=True)
class Document:
    """A document of a corpus with its annotations, as read.

    Attributes:
        id: As in the file.
        text: The whole text, which offsets count characters of.
        annotations: `("file:line", content)` of each; contents are compared by their `repr` to find repetitions.
        unique_id: The id made unique in the corpus, set by [`unique_documents`].
    """

    id: str
    text: str
    annotations: list[tuple[str, Any]] = field(default_factory=list)
    unique_id: str = ""


AnyDocument = TypeVar("AnyDocument", bound=Document)


def unique_documents(documents: Iterable[AnyDocument], report: ReadReport) -> Iterator[AnyDocument]:
    """Leave out documents repeated word for word, annotations included, and give the others distinct ids.

    Later documents of the same id become `id#2`, `id#3`, ...; only digests of what went by are kept. The annotations
    left out are counted as skipped.
    """
    seen: dict[str, list[tuple[bytes, bytes]]] = {}
    taken: set[str] = set()
    for document in documents:
        earlier = seen.setdefault(document.id, [])
        text = hashlib.sha256(document.text.encode()).digest()
        annotations = hashlib.sha256(repr([content for _, content in document.annotations]).encode()).digest()
        where = f"{document.annotations[0][0]} {document.id}" if document.annotations else document.id
        if (text, annotations) in earlier:
            report.note("document repeated word for word", where)
            for place, content in document.annotations:
                value = f"{place} {shorten(' '.join(content) if isinstance(content, list) else str(content))}"
                report.skip("duplicate document", value, "Its mentions are kept once; delete the repetition.")
            continue
        if earlier:
            same_text = any(text == other for other, _ in earlier)
            report.note(f"same document id, other {'annotations' if same_text else 'text'}", where)
        earlier.append((text, annotations))
        document.unique_id = _numbered(document.id, len(earlier), taken)
        yield document


class MentionRows:
    """Collects mentions and makes datasets of them, one a split, in Arrow batches rather than Python objects."""

    def __init__(self) -> None:
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._tables: dict[str, list[Any]] = {}
        self._times: Counter[str] = Counter()
        self._ids: set[str] = set()

    def add(
        self,
        *,
        document_id: str,
        text: str,
        start: int,
        end: int,
        types: Sequence[str],
        concept_ids: list[list[str]],
        split: str,
        mention_id: str = "",
    ) -> str:
        """Add the mention `text[start:end]` and return its id, made unique with `#2`, `#3`, ... where it is not."""
        stated = mention_id or f"{document_id}:{start}-{end}"
        self._times[stated] += 1
        unique_id = _numbered(stated, self._times[stated], self._ids)
        rows = self._pending.setdefault(split, [])
        rows.append(
            {
                "id": unique_id,
                "document_id": document_id,
                "text": text,
                "start": start,
                "end": end,
                "mention": text[start:end],
                "types": list(types),
                "concept_ids": concept_ids,
                "split": split,
            }
        )
        if len(rows) == _ROWS_PER_BATCH:
            self._flush(split)
        return unique_id

    @property
    def splits(self) -> list[str]:
        """The splits that mentions were added to, in that order."""
        return list(self._pending)

    def dataset(self, split: str) -> "Dataset":
        """Return the mentions of a split, maybe none, with [`angel_trl.mentions.MENTION_FEATURES`]."""
        import pyarrow as pa
        from datasets import Dataset
        from datasets.table import InMemoryTable

        self._flush(split)
        return Dataset(InMemoryTable(pa.concat_tables(self._tables[split])))

    def _flush(self, split: str) -> None:
        import pyarrow as pa

        from ..mentions import MENTION_FEATURES

        rows = self._pending.setdefault(split, [])
        table = pa.Table.from_pylist(rows, schema=MENTION_FEATURES.arrow_schema)
        self._tables.setdefault(split, []).append(table)
        rows.clear()


def parse_label(
    label: str, value: str, report: ReadReport, *, part_separators: str = "+", umls: bool = False
) -> list[list[str]]:
    """Turn a label of joined ids into `concept_ids`.

    Each of `part_separators` joins parts that are all meant; `|`, where it is none of them, joins alternatives within
    a part. The bars of a tmVar variant (`p|DEL|439_443|`) join nothing.

    Args:
        label: The ids as written, or `""`.
        value: `"file:line value"` for the report.
        report: Counts blanks around ids, and parts or mentions without a concept.
        part_separators: Characters that join parts.
        umls: As in [`clean_ids`].
    """
    separators = part_separators.replace("|", "") if _VARIANT.match(label) else part_separators
    parts = re.split(f"[{re.escape(separators)}]", label)
    return clean_ids([[part] if _VARIANT.match(part) else part.split("|") for part in parts], value, report, umls=umls)


def clean_ids(parts: list[list[str]], value: str, report: ReadReport, *, umls: bool = False) -> list[list[str]]:
    """Strip ids, drop repetitions and the signs for no concept (`-1`, `-`, blank), and count what that changed.

    Args:
        parts: Parts that are all meant, each a list of alternatives.
        value: `"file:line value"` for the report.
        report: Counts blanks around ids, and parts or mentions without a concept.
        umls: Whether to write `UMLS:C0010674` as `C0010674`, as UMLS itself does, so that corpora that differ in this
            (the two of MedMentions, for instance) have one spelling. Each mention where that was done is noted.
    """
    result: list[list[str]] = []
    blank = missing = prefixed = False
    for alternatives in parts:
        stripped = [concept_id.strip() for concept_id in alternatives]
        blank |= stripped != alternatives
        if umls:
            plain = [match[1] if (match := _UMLS_PREFIX.fullmatch(i)) else i for i in stripped]
            prefixed |= plain != stripped
            stripped = plain
        known = list(dict.fromkeys(i for i in stripped if i not in _NO_CONCEPT))
        missing |= len(known) < len(set(stripped))
        if known and known not in result:
            result.append(known)
    if blank:
        report.repair("blank around id", value)
    if prefixed:
        report.note("id UMLS:C... written C...", value)
    if not result:
        report.note("no concept id", value)
    elif missing:
        report.note("no concept id for a part", value)
    return result


def place_mention(
    text: str, start: int, end: int, stated: str, value: str, report: ReadReport, *, rule: str
) -> tuple[int, int] | None:
    """Return the start and end of a stated mention in its text, or `None` after counting why it is skipped.

    A mention that is not at its offsets is taken to be meant where it stands nearest to its start, if that is one
    place within ten characters; then and where blanks had to be stripped, a repair is counted.

    Args:
        text: The document.
        start: Stated start, any integer.
        end: Stated end, exclusive.
        stated: The mention as the file gives it.
        value: `"file:line value"` for the report.
        report: Where skips and repairs are counted.
        rule: What offsets count in this format, to complete "Correct its offsets: ...".
    """
    mention = stated.strip()
    if not mention:
        report.skip("empty mention", value, "Fill in the mention, or delete it.")
        return None
    if start >= 0 and text[start:end] == stated:
        start += len(stated) - len(stated.lstrip())
    elif start < 0 or text[start:end] != mention:
        place = _nearest(text, mention, start)
        if place is None:
            there = shorten(text[max(start, 0) : max(end, 0)], 40)
            report.skip(
                "mention not found at its offsets or nearby",
                f"{value}, where the text has {there}",
                f"Correct its offsets: {rule}.",
            )
            return None
        start = place
        report.repair("wrong offset", value)
    if stated != mention:
        report.repair("blank around mention", value)
    return start, start + len(mention)


def is_integer(text: str) -> bool:
    """Say whether text is an integer of at most 18 digits, blanks around it allowed."""
    digits = text.strip().removeprefix("-")
    return digits.isdecimal() and len(digits) <= _MAX_DIGITS


def read_bytes(path: str | Path) -> bytes:
    """Return a whole file of one document, decompressed if it is gzip.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the gzip stream is broken, or the file is larger than a document can be.
    """
    data = bytearray()
    for chunk in read_chunks(path):
        data += chunk
        if len(data) > _MAX_DOCUMENT_BYTES:
            raise ValueError(f"{path}: more than {_MAX_DOCUMENT_BYTES:,} bytes, which is no document of a corpus")
    return bytes(data)


def _nearest(text: str, mention: str, start: int) -> int | None:
    """Return where the mention starts nearest to `start`, or `None` if nowhere near or at two places equally near."""
    for distance in range(_OFFSET_WINDOW + 1):
        places = {p for p in (start - distance, start + distance) if p >= 0 and text.startswith(mention, p)}
        if places:
            return places.pop() if len(places) == 1 else None
    return None


def _numbered(name: str, times: int, taken: set[str]) -> str:
    """Return the name, with `#times` from the second time on, and add it to those taken."""
    unique = name if times == 1 else f"{name}#{times}"
    while unique in taken:  # a file may itself hold "1" twice and "1#2"
        times += 1
        unique = f"{name}#{times}"
    taken.add(unique)
    return unique
