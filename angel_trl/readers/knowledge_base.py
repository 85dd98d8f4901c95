"""Reading a knowledge base whose format is told by its content, not by its file's name."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..kb import Concept, KnowledgeBase
from .ctd import looks_like_ctd, read_ctd
from .json_kb import looks_like_jsonl, looks_like_target_kb, read_jsonl, read_target_kb
from .lines import read_head, shorten
from .medic import looks_like_medic, looks_like_tab, read_medic, read_tab
from .mesh import looks_like_mesh, read_mesh
from .obo import looks_like_obo, read_obo
from .pubtator import looks_like_pubtator
from .report import MAX_EXAMPLES, ReadReport
from .table import looks_like_parquet, looks_like_table, read_table
from .umls import find_mrconso, looks_like_mrconso, read_umls

__all__ = ["read_concepts", "read_knowledge_base"]

logger = logging.getLogger(__name__)

_OWN_PARQUET = b"angel_trl.knowledge_base"
"""The key of the schema's metadata that tells what `KnowledgeBase.to_parquet` wrote from any other parquet file."""


class _Format(NamedTuple):
    name: str
    looks_like: Callable[[str], bool]
    read: Callable[[str | Path], tuple[list[Concept], ReadReport]]


# The first that fits wins: the stricter formats stand first.
_FORMATS = (
    _Format('JSONL ({"id": ..., "names": [...]} a line)', looks_like_jsonl, read_jsonl),
    _Format("target_kb.json ({id: [name, ...]})", looks_like_target_kb, read_target_kb),
    _Format("MeSH XML (descriptors, supplementary records)", looks_like_mesh, read_mesh),
    _Format("OBO", looks_like_obo, read_obo),
    _Format("CTD vocabulary (TSV, CSV)", looks_like_ctd, read_ctd),
    _Format("UMLS (a folder with MRCONSO.RRF, or that file)", looks_like_mrconso, read_umls),
    _Format("parquet with columns id and name or names, or by to_parquet", looks_like_parquet, read_table),
    _Format("CSV or TSV with a header line that names id and name or names", looks_like_table, read_table),
    _Format("MEDIC or BioSyn dictionary (id|alternate id||name|name)", looks_like_medic, read_medic),
    _Format("tab dictionary (id|alternate id<TAB>name|name)", looks_like_tab, read_tab),
)


def read_concepts(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read the concepts of a file or folder in any known format, with the account of what was read.

    Known are JSONL, GenBioEL's `target_kb.json`, MeSH XML, OBO, the vocabularies of CTD, UMLS, CSV, TSV and parquet
    tables, MEDIC and BioSyn dictionaries and tab dictionaries, each gzip-compressed or not (but for parquet). The
    format is told by the start of the content. Readers with settings ([`read_obo`], [`read_umls`]) use their
    defaults here: call them for others.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the format needs a library that is not installed.
        ValueError: If no format fits (the message says what was seen and which formats are known), or the file
            breaks the rules of its format.
    """
    path = _existing(path)
    if path.is_dir():
        if find_mrconso(path) is not None:
            return read_umls(path)
        inside = sorted(entry.name for entry in path.iterdir())
        raise _unknown(path, f"a folder without MRCONSO.RRF; it has {shorten(', '.join(inside))}")
    head = read_head(path)
    if looks_like_pubtator(head):
        raise _unknown(path, "a PubTator corpus, which holds mentions: read it with read_corpus")
    for known in _FORMATS:
        if known.looks_like(head):
            return known.read(path)
    raise _unknown(path, _seen(head))


def _seen(head: str) -> str:
    start = head.lstrip()
    if not start:
        return "an empty file"
    if start.startswith("PK\x03\x04"):
        return "a zip archive or a spreadsheet: unpack it, or export it as CSV"
    if "\0" in start:
        return f"it starts with {shorten(start)} and has NUL bytes: not text, or text in UTF-16 to re-encode as UTF-8"
    return f"it starts with {shorten(start.splitlines()[0])}"


def _unknown(path: Path, seen: str) -> ValueError:
    return ValueError(f"{path}: no known knowledge base format: {seen}. Known: {'; '.join(f.name for f in _FORMATS)}")


def read_knowledge_base(path: str | Path, normalization: str | None = None) -> KnowledgeBase:
    """Read a knowledge base in any known format: those of [`read_concepts`].

    What was skipped, repaired or noted is logged and kept in the knowledge base's `read_report`, and concepts whose
    names all normalise to `""` are warned of.

    Args:
        path: The file, or the folder of a UMLS release.
        normalization: The rule for names; `None` means the rule a parquet file was saved with, and `"genbioel"`
            for every other format.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: As [`read_concepts`].
        ValueError: As [`read_concepts`] and [`KnowledgeBase`].
    """
    if _is_own_parquet(_existing(path)):
        kb = KnowledgeBase.from_parquet(path)
        if normalization in (None, kb.normalization):
            return kb
        return KnowledgeBase(kb.concepts, normalization=normalization, source=kb.source)
    concepts, report = read_concepts(path)
    level = logging.WARNING if report.skipped or report.repaired else logging.INFO
    logger.log(level, "%s: %s", path, report.summary())
    if not concepts:
        raise ValueError(f"{path}: no usable concept: {report.summary()}")
    kb = KnowledgeBase(concepts, normalization=normalization or "genbioel", source=Path(path).name)
    kb.read_report = report
    nameless = [concept for index, concept in enumerate(kb.concepts) if not len(kb.names_of_concept(index))]
    if nameless:
        logger.warning(
            "%s: %d of %d concepts have no name left after normalisation and cannot be predicted: %s. "
            "Give them a name of letters or digits, or choose another normalization than %r.",
            path,
            len(nameless),
            len(kb),
            ", ".join(f"{concept.id!r} {concept.names!r:.60}" for concept in nameless[:MAX_EXAMPLES]),
            kb.normalization,
        )
    return kb


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no knowledge base file at {path}")
    return path


def _is_own_parquet(path: Path) -> bool:
    if path.is_dir() or not looks_like_parquet(read_head(path)):
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _OWN_PARQUET in (pq.read_schema(path, memory_map=False).metadata or {})
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False  # Broken: reading it as a table says so.
