"""Reading a knowledge base whose format is told by its content, not by its file's name."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..kb import Concept, KnowledgeBase
from .json_kb import looks_like_jsonl, looks_like_target_kb, read_jsonl, read_target_kb
from .lines import read_head, shorten
from .medic import looks_like_medic, looks_like_tab, read_medic, read_tab
from .pubtator import looks_like_pubtator
from .report import MAX_EXAMPLES, ReadReport

__all__ = ["read_concepts", "read_knowledge_base"]

logger = logging.getLogger(__name__)

_PARQUET_MAGIC = b"PAR1"


class _Format(NamedTuple):
    name: str
    looks_like: Callable[[str], bool]
    read: Callable[[str | Path], tuple[list[Concept], ReadReport]]


# The first that fits wins: the stricter formats stand first.
_TEXT_FORMATS = (
    _Format('JSONL ({"id": ..., "names": [...]} a line)', looks_like_jsonl, read_jsonl),
    _Format("target_kb.json ({id: [name, ...]})", looks_like_target_kb, read_target_kb),
    _Format("MEDIC or BioSyn dictionary (id|alternate id||name|name)", looks_like_medic, read_medic),
    _Format("tab dictionary (id|alternate id<TAB>name|name)", looks_like_tab, read_tab),
)


def read_concepts(path: str | Path) -> tuple[list[Concept], ReadReport]:
    """Read the concepts of a text file in any known format, with the account of what was read.

    Known are JSONL, GenBioEL's `target_kb.json`, MEDIC and BioSyn dictionaries and tab dictionaries, each
    gzip-compressed or not. The format is told by the start of the content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no format fits (the message says what was seen and which formats are known), or the file
            breaks the rules of its format.
    """
    head = read_head(_existing(path))
    if not head.strip():
        seen = "an empty file"
    elif looks_like_pubtator(head):
        seen = "a PubTator corpus, which holds mentions: read it with read_corpus"
    else:
        for known in _TEXT_FORMATS:
            if known.looks_like(head):
                return known.read(path)
        seen = f"it starts with {shorten(head.lstrip())}"
    names = "; ".join(known.name for known in _TEXT_FORMATS)
    raise ValueError(f"{path}: no known knowledge base format: {seen}. Known: {names}; parquet by to_parquet")


def read_knowledge_base(path: str | Path, normalization: str | None = None) -> KnowledgeBase:
    """Read a knowledge base in any known format: those of [`read_concepts`], and parquet by `to_parquet`.

    What was skipped, repaired or noted is logged and kept in the knowledge base's `read_report`, and concepts whose
    names all normalise to `""` are warned of.

    Args:
        path: The file.
        normalization: The rule for names; `None` means the rule a parquet file was saved with, and `"genbioel"`
            for every other format.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As [`read_concepts`] and [`KnowledgeBase`].
    """
    with _existing(path).open("rb") as file:
        is_parquet = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    if is_parquet:
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
    if not path.is_file():
        raise FileNotFoundError(f"no knowledge base file at {path}")
    return path
