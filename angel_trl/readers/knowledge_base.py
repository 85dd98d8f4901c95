"""Reading a knowledge base whose format is told by its content, not by its file's name."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..kb import Concept, KnowledgeBase
from ..parquet import check_size, parquet_columns
from .ctd import looks_like_ctd, read_ctd
from .json_kb import looks_like_jsonl, looks_like_target_kb, read_jsonl, read_target_kb
from .lines import read_head, shorten
from .medic import looks_like_medic, looks_like_tab, read_medic, read_tab
from .mesh import looks_like_mesh, read_mesh
from .obo import looks_like_obo, read_obo
from .pubtator import looks_like_pubtator
from .report import MAX_EXAMPLES, ReadReport
from .sources import Source, fetched
from .table import looks_like_parquet, looks_like_table, read_table
from .umls import find_mrconso, looks_like_mrconso, read_umls

__all__ = ["read_concepts", "read_knowledge_base"]

logger = logging.getLogger(__name__)

_OWN_PARQUET = b"angel_trl.knowledge_base"
"""The key of the schema's metadata that tells what `KnowledgeBase.to_parquet` wrote from any other parquet file."""

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.parquet")


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


def read_concepts(source: Source) -> tuple[list[Concept], ReadReport]:
    """Read the concepts of a file or folder in any known format, with the account of what was read.

    Known are JSONL, GenBioEL's `target_kb.json`, MeSH XML, OBO, the vocabularies of CTD, UMLS, CSV, TSV and parquet
    tables, MEDIC and BioSyn dictionaries and tab dictionaries, each gzip-compressed or not (but for parquet). The
    format is told by the start of the content. Readers with settings ([`read_obo`], [`read_umls`]) use their
    defaults here: call them for others.

    Args:
        source: A path, a URL of a file, or a dataset on the Hub (`user/name`, `user/name@revision`,
            `hf://datasets/user/name/file`), as [`angel_trl.readers.sources.local_path`] takes them: a file,
            the folder of a UMLS release, or a folder that has one file of a known format (or one table cut into
            shards `train-00000-of-00002.parquet`), itself or in its subfolder `data`.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be fetched; see [`angel_trl.readers.sources.local_path`].
        ImportError: If the format needs a library that is not installed.
        ValueError: If no format fits (the message says what was seen and which formats are known), several files of
            a folder could be meant, or the file breaks the rules of its format. The message names the source.
    """
    with fetched(source) as found:
        concepts, report = _read(_files(found.path))
        return concepts, found.named_report(report)


def read_knowledge_base(source: Source, normalization: str | None = None) -> KnowledgeBase:
    """Read a knowledge base in any known format: those of [`read_concepts`].

    What was skipped, repaired or noted is logged and kept in the knowledge base's `read_report`, and concepts whose
    names all normalise to `""` are warned of.

    Args:
        source: As [`read_concepts`]. It becomes the knowledge base's `source`: a path without its folders, anything
            else as given.
        normalization: The rule for names; `None` means the rule a parquet file was saved with, and `"genbioel"`
            for every other format.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: As [`read_concepts`].
        ImportError: As [`read_concepts`].
        ValueError: As [`read_concepts`] and [`KnowledgeBase`].
    """
    with fetched(source) as found:
        files = _files(found.path)
        if _is_own_parquet(files[0]):
            kb = KnowledgeBase.from_parquet(files[0])
            if normalization in (None, kb.normalization):
                return kb
            return KnowledgeBase(
                kb.concepts, normalization=normalization, homonyms=kb.homonym_policy, source=kb.source
            )
        concepts, report = _read(files)
        report = found.named_report(report)
        level = logging.WARNING if report.skipped or report.repaired else logging.INFO
        logger.log(level, "%s: %s", found.named(str(found.path)), report.summary())
        if not concepts:
            raise ValueError(f"{found.path}: no usable concept: {report.summary()}")
        kb = KnowledgeBase(concepts, normalization=normalization or "genbioel", source=found.name)
        kb.read_report = report
        _warn_of_nameless(kb, found.named(str(found.path)))
    return kb


def _warn_of_nameless(kb: KnowledgeBase, name: str) -> None:
    nameless = [concept for index, concept in enumerate(kb.concepts) if not len(kb.names_of_concept(index))]
    if nameless:
        logger.warning(
            "%s: %d of %d concepts have no name left after normalisation and cannot be predicted: %s. "
            "Give them a name of letters or digits, or choose another normalization than %r.",
            name,
            len(nameless),
            len(kb),
            ", ".join(f"{concept.id!r} {concept.names!r:.60}" for concept in nameless[:MAX_EXAMPLES]),
            kb.normalization,
        )


def _read(files: list[Path]) -> tuple[list[Concept], ReadReport]:
    """Read one file, or the folder of a UMLS release, or the shards of one table."""
    if len(files) > 1:
        return read_table(files)
    path = files[0]
    if path.is_dir():
        return read_umls(path)
    head = read_head(path)
    if looks_like_pubtator(head):
        raise _unknown(path, "a PubTator corpus, which holds mentions: read it with read_corpus")
    known = _format_of(head)
    if known is None:
        raise _unknown(path, _seen(head))
    return known.read(path)


def _format_of(head: str) -> _Format | None:
    return next((known for known in _FORMATS if known.looks_like(head)), None)


def _files(path: Path) -> list[Path]:
    """Return what there is to read at a path: a file or a folder of UMLS, or the only knowledge base of a folder."""
    if not path.is_dir() or find_mrconso(path) is not None:
        return [path]
    for folder in (path, path / "data"):
        found = [file for file in _visible(folder) if _is_knowledge_base(file)]
        shards = [match.group(1, 3) for file in found if (match := _SHARD.fullmatch(file.name))]
        if found and len(shards) == len(found) and set(shards) == {(shards[0][0], f"{len(found):05}")}:
            return found
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ValueError(f"{folder}: several files could be the knowledge base: {names}; name one: {found[0]}")
        if found:
            return found
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())) or "nothing"
    raise _unknown(path, f"a folder without MRCONSO.RRF or any other file of a known format; it has {shorten(inside)}")


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _is_knowledge_base(file: Path) -> bool:
    """Say whether a file beside others is of a known format, and not what the Hub keeps beside data."""
    if file.suffix == ".md" or file.name == "dataset_infos.json":
        return False
    columns = {name.lower() for name in parquet_columns(file)}
    if columns:
        return "id" in columns and not columns.isdisjoint({"name", "names"})
    head = read_head(file)
    return not looks_like_pubtator(head) and _format_of(head) is not None


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


def _is_own_parquet(path: Path) -> bool:
    if path.is_dir() or not parquet_columns(path):
        return False
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    if _OWN_PARQUET not in (metadata.metadata or {}):
        return False
    check_size(path, metadata)
    return True
