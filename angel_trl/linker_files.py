"""The folder of a linker: what is in it, and whether its parts belong together. Knows neither model nor search."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from angel_trl import __version__
from angel_trl.confidence import Calibration
from angel_trl.formatting import MentionFormat, MentionFormatter
from angel_trl.kb import KnowledgeBase
from angel_trl.model_files import check_description, check_weights, fetch_description, fetch_weights, json_object
from angel_trl.targets import TargetNames
from angel_trl.trie import NameTrie

logger = logging.getLogger(__name__)

_FORMAT = "angel_trl.linker/1"
SETTINGS, KB, TRIE = "angel.json", "kb.parquet", "trie.safetensors"
LINKER_FILES = (
    *("*.json", "*.safetensors", "*.bin", KB, "learning_curve.png"),
    *("*.model", "vocab.txt", "merges.txt", "*.jinja", "additional_chat_templates/*"),
)
"""What folders of linkers and models hold, as patterns of `angel_trl.hub.publish_folder`: what an earlier one left
would be loaded with a linker, or in its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkerParts:
    """What a linker's folder holds besides model and tokenizer.

    Args:
        kb: the knowledge base.
        trie: of its names; None if it is to be built.
        mention_format: choices of the input format.
        calibration: None if the linker is not calibrated for this knowledge base.
        tokenizer: fingerprint of the tokenizer that the linker was saved with; None if unknown.
        folder: where they are from.
    """

    kb: KnowledgeBase
    trie: NameTrie | None
    mention_format: MentionFormat
    calibration: Calibration | None
    tokenizer: str | None
    folder: Path


def find_folder(id_or_path: str | Path, revision: str | None = None, *, with_kb: bool = True) -> Path:
    """The folder of a linker: itself, or that of a Hub repository, downloaded if need be.

    Weights are fetched last, and not at all of a model that cannot be used.

    Args:
        id_or_path: the folder, or a Hub repository id; a folder that exists is never taken for an id.
        revision: branch, tag or commit of a Hub repository.
        with_kb: whether it must hold a knowledge base.

    Raises:
        FileNotFoundError: if there is no such folder, repository or revision, or a file of it is missing.
        PermissionError: if the repository is gated or the token is refused.
        OSError: if the Hub answers with another error.
        ValueError: if it is not a model that can link, a file is broken, or a revision is given for a folder.
    """
    folder = Path(id_or_path)
    on_hub = isinstance(id_or_path, str) and not folder.exists()
    if on_hub:
        folder = fetch_description(str(id_or_path), revision, (KB, TRIE))
    elif not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; a linker is the folder that save_pretrained wrote.")
    elif revision not in (None, folder.name):  # that of a repository in the cache is named after its commit
        raise ValueError(f"{folder} is a folder; a revision ({revision!r}) is for repositories on the Hub only.")
    check_description(folder)
    if with_kb and not (folder / KB).is_file():
        raise _without_kb(folder)
    if on_hub:
        fetch_weights(str(id_or_path), folder.name, (KB, TRIE))
    check_weights(folder)
    return folder


def _without_kb(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} has no {KB}: it is a model without a knowledge base. Give one: "
        "EntityLinker.from_pretrained(..., kb=KnowledgeBase.from_file(...))."
    )


def read_parts(
    folder: Path, kb: KnowledgeBase | str | Path | None = None, mention_format: MentionFormat | None = None
) -> LinkerParts:
    """Read a linker's folder, all but model and tokenizer.

    Args:
        folder: as `write_parts` and the model's and tokenizer's `save_pretrained` fill it.
        kb: a knowledge base to use in place of the saved one, or where it is, as `KnowledgeBase.from_file` takes it;
            trie and calibration, which are the saved one's, are left out then.
        mention_format: that of a plain model, which has none written down; None for the default.

    Raises:
        ValueError: if the folder is not a linker and no `kb` is given, its parts do not belong together, the names
            of `kb` are normalised by another rule than those that the linker was made for, or it was made for another
            `mention_format`.
        OSError: if `kb` cannot be read.
    """
    settings = _read_settings(folder / SETTINGS)
    try:
        known_format = MentionFormat(**settings.get("mention_format", {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS}, mention_format: {error} Upgrade angel_trl, or correct it.") from error
    if settings and mention_format not in (None, known_format):
        raise ValueError(f"The linker of {folder} was made for {known_format}, not {mention_format}: leave that out.")
    mention_format = mention_format or known_format
    calibration, tokenizer = settings.get("calibration"), settings.get("tokenizer_fingerprint")
    if kb is not None:
        if calibration is not None:
            logger.warning(
                "The linker of %s was calibrated for its own knowledge base. With the one given it has no confidence "
                "and does not abstain; calibrate it again.",
                folder,
            )
        own = settings.get("kb_normalization")
        kb = kb if isinstance(kb, KnowledgeBase) else KnowledgeBase.from_file(kb, normalization=own)
        if own not in (None, kb.normalization):
            raise ValueError(
                f"The knowledge base given has names normalised by {kb.normalization!r}, the linker of {folder} was "
                f"made for {own!r}. Use that rule: KnowledgeBase.from_file(..., normalization={own!r}), or "
                f"KnowledgeBase(kb.concepts, normalization={own!r})."
            )
        return LinkerParts(kb, None, mention_format, None, tokenizer, folder)
    if not (folder / KB).exists():
        raise _without_kb(folder)
    kb = KnowledgeBase.from_parquet(folder / KB)
    if not settings:
        raise ValueError(f"{folder} has no {SETTINGS}: it was not saved to the end. Save or download it again.")
    if kb.fingerprint != settings["kb_fingerprint"]:
        raise ValueError(f"{folder / KB} is not the knowledge base that {SETTINGS} names. Download it again.")
    try:
        known = None if calibration is None else Calibration.from_json(calibration)
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS}: {error} Or delete its entry 'calibration'.") from error
    return LinkerParts(kb, _load_trie(folder / TRIE), mention_format, known, tokenizer, folder)


def check_parts(parts: LinkerParts, formatter: MentionFormatter, embeddings: int) -> None:
    """See that the parts of a linker, its tokenizer and its model belong together.

    Args:
        parts: what `read_parts` gave.
        formatter: of the tokenizer.
        embeddings: how many tokens the model knows.

    Raises:
        ValueError: if they do not.
    """
    if parts.tokenizer is not None and parts.tokenizer != _tokenizer_fingerprint(formatter):
        raise ValueError(
            f"The tokenizer of {parts.folder} (tokenizer.json) is not the one that the linker was saved with, whose "
            "tokens the model learnt. Put its own files back, or download them again. If they are the same, and only "
            f"read otherwise by another version of transformers, delete {TRIE}, and 'tokenizer_fingerprint' from "
            f"{SETTINGS}."
        )
    if parts.trie is not None and parts.trie.fingerprint != formatter.fingerprint(parts.kb.fingerprint):
        raise ValueError(
            f"{parts.folder / TRIE} was built for another knowledge base or tokenizer. If neither was changed, delete "
            f"it: it is made anew from {KB} when the linker is loaded."
        )
    special = {*formatter.tokenizer.all_special_ids} - {*formatter.bos, formatter.eos}
    used = {name: token for name, token in formatter.tokenizer.get_vocab().items() if token not in special}
    name, largest = max(used.items(), key=lambda item: item[1])
    if largest >= embeddings:
        raise ValueError(
            f"The tokenizer of {parts.folder} has tokens up to number {largest} ({name!r}), but its model knows the "
            f"first {embeddings}: it is another model's. Put the model's own tokenizer files there."
        )


def write_parts(folder: Path, targets: TargetNames, calibration: Calibration | None) -> None:
    """Write what `read_parts` reads; the settings last, so that a folder that has them is complete.

    Args:
        folder: where to.
        targets: names and trie of the linker.
        calibration: None if it is not calibrated.
    """
    kb, formatter = targets.kb, targets.formatter
    kb.to_parquet(folder / KB)
    targets.trie.save(folder / TRIE)
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "angel_trl_version": __version__,
        "kb_fingerprint": kb.fingerprint,
        "kb_normalization": kb.normalization,
        "tokenizer_fingerprint": _tokenizer_fingerprint(formatter),
        "mention_format": dataclasses.asdict(formatter.format),
    }
    if calibration is not None:
        settings["calibration"] = calibration.to_json()
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write the calibration of a linker that is saved in a folder; its other files stay as they are.

    Args:
        folder: of the linker, which the calibration was made for.
        calibration: takes the place of one that is there.

    Raises:
        ValueError: if the folder holds no linker.
    """
    settings = _read_settings(folder / SETTINGS)
    if not settings:
        raise ValueError(f"{folder} has no {SETTINGS}: it holds no linker that could be calibrated.")
    settings["calibration"] = calibration.to_json()
    partial = folder / f".{SETTINGS}.partial"
    partial.write_text(json.dumps(settings, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / SETTINGS)


def _tokenizer_fingerprint(formatter: MentionFormatter) -> str:
    """Identifies a tokenizer by what it makes of texts."""
    return formatter.fingerprint("")


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a linker, checked; empty if there is no such file."""
    if not path.exists():
        return {}
    settings = json_object(path)
    if settings.get("format") != _FORMAT:
        raise ValueError(f"{path} has format {settings.get('format')!r}; this version reads {_FORMAT}.")
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
