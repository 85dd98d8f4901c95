"""MedMentions: all documents in one PubTator file, and lists of PMIDs that tell the splits.

`corpus_pubtator.txt.gz` holds the documents, `corpus_pubtator_pmids_trng.txt`, `..._dev.txt` and `..._test.txt` one
PMID a line. In the release, only the folder `full/data` has the lists; `st21pv/data` shares them. The semantic types
stand in the type column, joined by commas (`T116,T123`). ST21pv writes ids as `UMLS:C4308010` and full as `C4308010`:
both are read as `C4308010`.

Format: the README of github.com/chanzuckerberg/MedMentions.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .lines import read_head, read_lines, shorten
from .pubtator import collect_mentions, looks_like_pubtator
from .report import ReadReport

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["looks_like_medmentions", "read_medmentions"]

_LIST = re.compile(r".+_pmids_(trng|dev|test)\.txt(\.gz)?")
_SPLITS = {"train": "trng", "dev": "dev", "test": "test"}


def looks_like_medmentions(path: str | Path) -> bool:
    """Say whether lists of PMIDs belong to a folder, or to the folder of a file named `corpus_pubtator...`."""
    path = Path(path)
    if path.is_file():
        return path.name.startswith("corpus_pubtator.") and bool(_lists(path.parent))
    return bool(_lists(path)) and (bool(_lists_in(path)) or any(path.glob("corpus_pubtator.*")))


def read_medmentions(path: str | Path) -> tuple["DatasetDict", ReadReport]:
    """Read MedMentions, full or ST21pv, into the splits `train`, `dev` and `test`.

    The report is that of [`read_pubtator`] over all documents; mentions of documents in no list are skipped
    (`"document in no split"`), and listed documents that the corpus does not have are noted.

    Args:
        path: The folder with the corpus file, or that file. The lists must stand beside it, or in `../../full/data`
            as in the release.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If there are no lists or not exactly one corpus file, a PMID is in two lists, or a line of a list
            is not one id; and as [`read_pubtator`].
    """
    from datasets import DatasetDict

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no MedMentions folder or file at {path}")
    folder = path.parent if path.is_file() else path
    lists = _lists(folder)
    if not lists:
        names = ", ".join(f"corpus_pubtator_pmids_{name}.txt" for name in _SPLITS.values())
        raise ValueError(f"{folder}: none of {names} in it or in ../../full/data; they tell the splits of MedMentions")
    split_of = _read_lists(lists)
    corpus = path if path.is_file() else _corpus_file(folder)

    report = ReadReport()
    met: set[str] = set()

    def split(document_id: str) -> str | None:
        met.add(document_id)
        return split_of[document_id][0] if document_id in split_of else None

    rows = collect_mentions(corpus, split, report)
    for document_id, (_, where) in split_of.items():
        if document_id not in met:
            report.note("listed document that the corpus does not have", f"{where} {shorten(document_id)}")
    return DatasetDict({name: rows.dataset(name) for name in _SPLITS if name in lists}), report


def _lists_in(folder: Path) -> dict[str, Path]:
    """Return the list of each split that has one."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _LIST.fullmatch(file.name)
        if match and file.is_file():
            split = next(split for split, name in _SPLITS.items() if name == match[1])
            if split in found:
                raise ValueError(f"{folder}: two lists for {split}: {found[split].name} and {file.name}; keep one")
            found[split] = file
    return {split: found[split] for split in _SPLITS if split in found}


def _lists(folder: Path) -> dict[str, Path]:
    release = folder.parent.parent / "full" / "data"
    return _lists_in(folder) or (_lists_in(release) if release.is_dir() else {})


def _read_lists(lists: dict[str, Path]) -> dict[str, tuple[str, str]]:
    """Return the split of each id, and the `"file:line"` that tells it."""
    split_of: dict[str, tuple[str, str]] = {}
    for split, path in lists.items():
        for number, line in read_lines(path):
            where, document_id = f"{path}:{number}", line.strip()
            if not document_id:
                continue
            if len(document_id.split()) > 1 or "|" in document_id:
                raise ValueError(f"{where}: {shorten(line)} is not one document id")
            known, place = split_of.setdefault(document_id, (split, where))
            if known != split:
                raise ValueError(f"{where}: {document_id!r} is of split {split} here and of {known} at {place}")
    return split_of


def _corpus_file(folder: Path) -> Path:
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    found = [p for p in files if not _LIST.fullmatch(p.name) and looks_like_pubtator(read_head(p))]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ValueError(f"{folder}: expected one PubTator file beside its lists of PMIDs, found {names}")
    return found[0]
