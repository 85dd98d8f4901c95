"""The folder of a linker: what is in it, and whether its parts belong together. Knows neither model nor search."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from angel_trl import __version__
from angel_trl.confidence import Calibration
from angel_trl.formatting import MentionFormat
from angel_trl.kb import KnowledgeBase
from angel_trl.trie import NameTrie

logger = logging.getLogger(__name__)

_FORMAT = "angel_trl.linker/1"
SETTINGS, KB, TRIE = "angel.json", "kb.parquet", "trie.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class LinkerParts:
    """What a linker's folder holds besides model and tokenizer.

    Args:
        kb: the knowledge base.
        trie: of its names; None if it is to be built.
        mention_format: choices of the input format.
        calibration: None if the linker is not calibrated for this knowledge base.
    """

    kb: KnowledgeBase
    trie: NameTrie | None
    mention_format: MentionFormat
    calibration: Calibration | None


def find_folder(id_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a linker: itself, or that of a Hub repository, downloaded if need be."""
    folder = Path(id_or_path)
    if folder.is_dir():
        return folder
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "*.parquet"]
    return Path(snapshot_download(str(id_or_path), revision=revision, allow_patterns=patterns))


def read_parts(folder: Path, kb: KnowledgeBase | None = None) -> LinkerParts:
    """Read a linker's folder, all but model and tokenizer.

    Args:
        folder: as `write_parts` and the model's and tokenizer's `save_pretrained` fill it.
        kb: a knowledge base to use in place of the saved one; trie and calibration, which are the saved one's, are
            left out then.

    Raises:
        ValueError: if the folder is not a linker and no `kb` is given, or its parts do not belong together.
    """
    settings = _read_settings(folder / SETTINGS)
    mention_format = MentionFormat(**settings.get("mention_format", {}))
    calibration = settings.get("calibration")
    if kb is not None:
        if calibration is not None:
            logger.warning(
                "The linker of %s was calibrated for its own knowledge base. With the one given it has no confidence "
                "and does not abstain; calibrate it again.",
                folder,
            )
        return LinkerParts(kb, None, mention_format, None)
    if not (folder / KB).exists():
        raise ValueError(
            f"{folder} has no {KB}: it is a model without a knowledge base. Give one: "
            "EntityLinker.from_pretrained(..., kb=KnowledgeBase.from_file(...))."
        )
    kb = KnowledgeBase.from_parquet(folder / KB)
    if not settings:
        raise ValueError(f"{folder} has no {SETTINGS}: it was not saved to the end. Save or download it again.")
    if kb.fingerprint != settings["kb_fingerprint"]:
        raise ValueError(f"{folder / KB} is not the knowledge base that {SETTINGS} names. Download it again.")
    try:
        known = None if calibration is None else Calibration.from_json(calibration)
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS}: {error} Or delete its entry 'calibration'.") from error
    return LinkerParts(kb, _load_trie(folder / TRIE), mention_format, known)


def write_parts(folder: Path, parts: LinkerParts) -> None:
    """Write what `read_parts` reads; the settings last, so that a folder that has them is complete.

    Raises:
        ValueError: for parts without a trie.
    """
    if parts.trie is None:
        raise ValueError("A linker is saved with the trie of its names; LinkerParts.trie is None.")
    parts.kb.to_parquet(folder / KB)
    parts.trie.save(folder / TRIE)
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "angel_trl_version": __version__,
        "kb_fingerprint": parts.kb.fingerprint,
        "mention_format": dataclasses.asdict(parts.mention_format),
    }
    if parts.calibration is not None:
        settings["calibration"] = parts.calibration.to_json()
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a linker, checked; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}). Save or download the linker again.") from error
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path} has format {found!r}; this version reads {_FORMAT}.")
    missing = {"kb_fingerprint", "mention_format"} - set(settings)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. Save or download the linker again.")
    return settings


def _load_trie(path: Path) -> NameTrie | None:
    """The saved trie; None, with a warning, if there is none: it is made anew from the knowledge base then."""
    if not path.exists():
        logger.warning("There is no %s: the names are indexed anew, which takes longer than loading it.", path)
        return None
    try:
        return NameTrie.load(path)
    except ValueError as error:
        raise ValueError(f"{error} Or delete it: it is made anew from {KB} when the linker is loaded.") from error
