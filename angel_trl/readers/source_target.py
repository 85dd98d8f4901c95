"""Source, target and label files: the marked-up mentions that generative entity linkers train on, one mention a line.

`train.source` holds `left START mention END right`, `train.target` the text to generate (`mention is name`), and
`train.label` the ids of the mention's concept, parts that are all meant joined by `+`, alternatives by `|`; likewise
for `dev` and `test`. Contexts stand in these files cut and lowercased: what is read is what is there.

Format: the input and output of ANGEL and GenBioEL as their papers and files describe them.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from .lines import read_lines, shorten
from .mention_rows import MentionRows, parse_label
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["looks_like_source", "read_source_target"]

_MARKER = re.compile(r"(?<!\S)(START|END)(?!\S)")


def looks_like_source(head: str) -> bool:
    """Say whether the first line of text has one `START` and then one `END` as words of their own."""
    first = head.lstrip().split("\n", 1)[0]
    return [match[1] for match in _MARKER.finditer(first)] == ["START", "END"]


def read_source_target(path: str | Path, *, split: str) -> tuple["Dataset", ReadReport]:
    """Read a `.source` file and the `.label` and, if there is one, the `.target` file beside it.

    The text of a mention is its source line without the markers: left context, mention and right context, stripped and
    joined by single spaces. Each line is a document of its own, `"{split}-{line number}"`.

    The report counts lines. A line whose source and label stood on an earlier line is skipped if its target differs
    (training files hold each mention once for each of several names), or if it has a context
    (`"mention repeated word for word"`); the mention alone may well occur again in a corpus without contexts, and is
    kept and noted.

    Args:
        path: The `.source` file, gzip-compressed (`.source.gz`) or not, as may be the files beside it.
        split: What to write in the column `split`.

    Raises:
        FileNotFoundError: If the source or the label file is not there.
        ValueError: If the files differ in their number of lines, a source line does not have one `START` and then one
            `END` as words of their own, or a line is not UTF-8; the message names the file and the line.
    """
    source = Path(path)
    label, target = _sibling(source, "label"), _sibling(source, "target")
    if not source.is_file() or label is None:
        raise FileNotFoundError(f"{source}: a .source file needs a .label file beside it, and both must be there")
    report, rows = ReadReport(), MentionRows()
    target_of: dict[tuple[str, str], str] = {}
    lines = _lines(source, label, target)
    for number, marked, ids, name in tqdm(lines, desc=source.name, unit=" lines", delay=2):
        where = f"{source}:{number}"
        value = f"{where} {shorten(marked)}"
        left, mention, right = _parts(marked, where)
        if not mention:
            report.skip(
                "empty mention", value, "Put the mention between START and END, or delete the line in all files."
            )
            continue
        start = len(left) + 1 if left else 0
        first = target_of.get((marked, ids))
        if first is not None and first != name:
            fix = "The mention is kept once, whatever its targets; nothing to do."
            report.skip("another target of a mention", value, fix)
            continue
        if first is not None and (left or right):
            fix = "It is kept once; delete the repetition in all files."
            report.skip("mention repeated word for word", value, fix)
            continue
        if first is not None:
            report.note("mention without context repeated", value)
        target_of[marked, ids] = name
        rows.add(
            document_id=f"{split}-{number}",
            text=" ".join(part for part in (left, mention, right) if part),
            start=start,
            end=start + len(mention),
            types=[],
            concept_ids=parse_label(ids, f"{label}:{number} {shorten(ids)}", report),
            split=split,
        )
        report.use()
    return rows.dataset(split), report


def _sibling(source: Path, suffix: str) -> Path | None:
    stem = source.name.removesuffix(".gz").removesuffix(".source")
    candidates = (source.with_name(f"{stem}.{suffix}{end}") for end in ("", ".gz"))
    return next((file for file in candidates if file.is_file()), None)


def _lines(source: Path, label: Path, target: Path | None) -> Iterator[tuple[int, str, str, str]]:
    """Yield `(line number, source, label, target)`, or an error at the first line that one file does not have."""
    files = [source, label, *([target] if target else [])]
    for number, row in enumerate(zip_longest(*(read_lines(file) for file in files)), start=1):
        ended = [file.name for file, line in zip(files, row, strict=True) if line is None]
        if ended:
            longer = next(file for file, line in zip(files, row, strict=True) if line is not None)
            raise ValueError(
                f"{longer}:{number}: {' and '.join(ended)} ended at line {number - 1}: the files do not line up; "
                "line n of each must be about the same mention"
            )
        lines = [line for _, line in row]
        yield number, lines[0], lines[1], lines[2] if target else ""


def _parts(marked: str, where: str) -> tuple[str, str, str]:
    markers = list(_MARKER.finditer(marked))
    if [match[1] for match in markers] != ["START", "END"]:
        found = " ".join(match[1] for match in markers) or "neither"
        raise ValueError(
            f"{where}: {shorten(marked)} must have one START and then one END around the mention, it has {found}"
        )
    start, end = markers
    return marked[: start.start()].strip(), marked[start.end() : end.start()].strip(), marked[end.end() :].strip()
