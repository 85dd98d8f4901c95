"""The folder of a model: fetched from the Hub if need be, and looked through before anything is loaded from it.

Weights are read as safetensors, or else from `pytorch_model.bin` by PyTorch's reader of weights alone. No code that a
repository brings along is fetched or run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from httpx2 import HTTPError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers.modeling_utils import load_state_dict

from angel_trl.architectures import MODEL_TYPES
from angel_trl.readers.downloads import status

__all__ = ["check_description", "check_weights", "fetch_description", "fetch_weights", "json_object"]

_CONFIG, _SAFE, _PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
# transformers fetches and runs what these name if the package `kernels` is there; it never saves them.
_ATTENTION = ("attn_implementation", "_attn_implementation")
# Models of which an encoder alone may be saved.
_TWO_STACKS = ("bart", "mbart", "t5", "mt5")
# Of a repository on the Hub, only files that are read are fetched, and only from its top folder.
_DESCRIPTION = ("*.json", "*.txt", "*.model")
_SAFE_FILES, _PICKLED_FILES = (_SAFE, "model-*.safetensors"), (_PICKLED, "pytorch_model-*.bin")
# What PyTorch raises for files that hold anything but weights. Its own, as this package imports no pickle.
_UnpicklingError = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
_NOT_WEIGHTS = (_UnpicklingError, RuntimeError, EOFError, LookupError, OSError, TypeError, ValueError)


def fetch_description(repo_id: str, revision: str | None, others: Sequence[str] = ()) -> Path:
    """The folder of a model on the Hub, in the cache, with all files but the weights; fetched if they are not there.

    Offline, what is in the cache is used.

    Args:
        repo_id: "user/name".
        revision: branch, tag or commit; None is the main branch.
        others: names of further files.

    Returns:
        The folder, which is named after its commit.

    Raises:
        FileNotFoundError: if there is no such repository or revision, or offline it is not in the cache.
        PermissionError: if the repository is gated or the token is refused.
        ConnectionError: if the connection breaks.
        OSError: if the Hub answers with another error.
    """
    return _fetched(repo_id, revision, *_DESCRIPTION, *others)


def fetch_weights(repo_id: str, commit: str, others: Sequence[str] = ()) -> None:
    """Fetch the weights of a model as well: pickled ones only where there is no safetensors file.

    Args:
        repo_id: "user/name".
        commit: the commit that `fetch_description` gave.
        others: as there.

    Raises:
        OSError: as `fetch_description`.
    """
    folder = _fetched(repo_id, commit, *_DESCRIPTION, *others, *_SAFE_FILES)
    if not any((folder / name).exists() for name in (_SAFE, f"{_SAFE}.index.json")):
        _fetched(repo_id, commit, *_DESCRIPTION, *others, *_PICKLED_FILES)


def _fetched(repo_id: str, revision: str | None, *patterns: str) -> Path:
    """The folder with the files of a Hub repository that match, from its top folder alone."""
    try:
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns="*/*")
        )
    except HFValidationError as error:
        raise FileNotFoundError(
            f"There is no folder {repo_id} here, and that is not the id of a Hub repository (user/name)."
        ) from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{repo_id} is gated: ask for access at {constants.ENDPOINT}/{repo_id}, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder {repo_id} here, and no model {repo_id} at {constants.ENDPOINT}, or it is private: "
            "log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}; its branches, tags and commits are at "
            f"{constants.ENDPOINT}/{repo_id}/tree/main."
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder {repo_id} here; the model {repo_id} (revision {revision or 'main'}) is not, or not "
            f"wholly, in the cache {constants.HF_HUB_CACHE}, and the Hub cannot be reached. Load it once where there "
            "is a network, and check HF_HUB_OFFLINE."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise PermissionError(
                f"{repo_id}: the Hub refuses your token ({status(error)}); log in again with `hf auth login`."
            ) from error
        raise OSError(f"{repo_id}: the Hub answered {status(error)}.") from error
    except HTTPError as error:
        raise ConnectionError(
            f"{repo_id}: the connection to {constants.ENDPOINT} broke ({type(error).__name__}: {error}). Try again: "
            "what was fetched is kept."
        ) from error


def check_description(folder: Path) -> None:
    """See by its small files that a folder holds a model that can link, and that its tokenizer is there.

    Raises:
        FileNotFoundError: if there is no configuration or no tokenizer.
        ValueError: if it is of another architecture, asks for code or an attention of its own, holds adapters or
            quantized weights, or a file is broken.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds adapters (adapter_config.json), which are not loaded. Merge them into their model and "
            "save the linker: EntityLinker(model.merge_and_unload(), tokenizer, kb).save_pretrained(folder)."
        )
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {_CONFIG}: it is not the folder of a model, or not all of it.")
    config = json_object(folder / _CONFIG)
    for name in (_CONFIG, "tokenizer_config.json"):
        code = json_object(folder / name).get("auto_map") if (folder / name).is_file() else None
        if code:
            raise ValueError(
                f"{folder / name} asks for code of its repository (auto_map: {code}), which is never run. Use a model "
                f"that transformers has; if it has this one, delete 'auto_map' from a copy of {name}."
            )
    for key in _ATTENTION:
        if config.get(key) not in (None, "eager", "sdpa"):
            raise ValueError(
                f"{folder / _CONFIG} asks for an attention of its own ({key}: {config[key]!r}), which may be code of "
                f"another repository and is never fetched. Delete {key!r} from a copy of it."
            )
    quantized = config.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ValueError(
            f"{folder / _CONFIG} says that the weights are quantized (quantization_config: {method or quantized!r}), "
            "and only those of full precision are read. Use the model that it was made from, or load it with "
            "transformers and what it was quantized with, and save model.dequantize()."
        )
    kind = config.get("model_type")
    half = kind in _TWO_STACKS and config.get("is_encoder_decoder") is False
    if half or kind not in MODEL_TYPES:
        raise ValueError(
            f"{folder / _CONFIG} is of a model of type {kind!r}{' without its decoder' if half else ''}, which cannot "
            f"link: names are written by a decoder, of one of the types {', '.join(MODEL_TYPES)} (for instance "
            "facebook/bart-large)."
        )
    # Without its files, transformers would make a tokenizer that knows no words.
    pair = [folder / "vocab.json", folder / "merges.txt"]
    whole = folder / "tokenizer.json"
    if not (whole.is_file() or all(file.is_file() for file in pair) or any(folder.glob("*.model"))):
        raise FileNotFoundError(
            f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, nor a SentencePiece "
            "model. Put the files of the model's own tokenizer there: tokenizer.save_pretrained(folder)."
        )
    for file in (whole, pair[0]):
        if file.is_file():
            json_object(file)


def _weight_files(folder: Path) -> list[Path]:
    """The files of the weights, which are there: safetensors if there are any, or else pickled ones."""
    for name in (_SAFE, _PICKLED):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = [folder / name]
        elif index.is_file():
            named = json_object(index).get("weight_map")
            parts = sorted({str(part) for part in named.values()}) if isinstance(named, dict) else []
            gone = [part for part in parts if Path(part).name != part or not (folder / part).is_file()]
            if gone or not parts:
                raise FileNotFoundError(
                    f"{index} names {', '.join(gone[:3]) or 'no files'}, and {folder} does not hold "
                    f"{len(gone)} of {len(parts)} parts. Save or download the model again."
                )
            files = [folder / part for part in parts]
        else:
            continue
        return files
    raise FileNotFoundError(
        f"{folder} has no weights ({_SAFE} or {_PICKLED}, or their parts with an index). Save or download it again; "
        "weights of other frameworks must be converted."
    )


def check_weights(folder: Path) -> None:
    """See that the weights of a folder are all there and are nothing but weights, before a model is made of them.

    Of safetensors files the headers are read, of pickled ones all but the numbers. transformers takes the same files,
    and reads pickled ones as they are read here: by PyTorch's reader of weights, which runs nothing.

    Raises:
        FileNotFoundError: if there are none, or a part of them is missing.
        ValueError: if a file is cut off or broken, or a pickled one holds anything else: code, which is not run.
    """
    for file in _weight_files(folder):
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        else:
            _check_pickled(file)


def _check_safetensors(file: Path) -> None:
    try:
        # Compares the size of the file with what its header announces.
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{file} is broken, or not all there ({error}). Save or download it again.") from error


def _check_pickled(file: Path) -> None:
    try:
        found = load_state_dict(file, map_location="meta", weights_only=True)
    except _NOT_WEIGHTS as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _not_weights(file, f"it asks for {code[1]}" if code else _line(error)) from None
    for name, value in found.items() if isinstance(found, dict) else [("", found)]:
        if not isinstance(value, torch.Tensor):
            raise _not_weights(file, f"its entry {name!r} is a {type(value).__name__}")


def _not_weights(file: Path, why: str) -> ValueError:
    return ValueError(
        f"{file} does not hold weights alone, or is broken ({why}). Nothing in it was run. Use a revision of the "
        f"model with {_SAFE}, or ask its authors for one; download the file again if it may be cut off."
    )


def _line(error: Exception) -> str:
    """What is wrong, in one line, of an error of PyTorch, which also says how to run what should not be run."""
    lines = [line.strip() for line in str(error).splitlines() if "torch.load" not in line]
    return f"{type(error).__name__}: {next(filter(None, reversed(lines)), 'no reason given'):.200}"


def json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ValueError: if it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}). Save or download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object. Save or download it again.")
    return content
