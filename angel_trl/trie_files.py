"""The file of a trie: its arrays as safetensors, with a header that says what they are and a checksum of them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_FORMAT = "angel_trl.trie/2"
# The dtypes each array may have, by safetensors' names for them.
_DTYPES = {"tokens": ("I16", "I32"), "first_child": ("I32",), "leaf_name": ("I32",), "leaves_before": ("I32",)}


def write(path: Path, tensors: dict[str, torch.Tensor], fingerprint: str) -> None:
    """Write the arrays of a trie, by way of another file in the same folder.

    So whoever has the old file mapped keeps it, and an interrupted write leaves the old file as it was.

    Args:
        path: the file.
        tensors: the arrays by name, see `NameTrie`.
        fingerprint: of the trie.
    """
    tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    header = {"format": _FORMAT, "fingerprint": fingerprint, "digest": _digest(tensors)}
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, unfinished, metadata={"angel_trl": json.dumps(header)})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path, fingerprint: str | None, verify: bool) -> tuple[dict[str, torch.Tensor], str]:
    """Map the arrays that `write` wrote.

    Args:
        path: the file.
        fingerprint: when given, the fingerprint the file must carry.
        verify: whether to read all of the file to check its contents.

    Returns:
        The arrays by name, and the fingerprint.

    Raises:
        ValueError: for a file that is not a trie, is truncated or altered, or belongs to other names.
        FileNotFoundError: if there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"No trie at {path}.")
    try:
        # safe_open compares the size of the file with what its header announces.
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("angel_trl", "{}"))
            found = header.get("format") if isinstance(header, dict) else None
            if found != _FORMAT:
                raise ValueError(f"{path} is not a trie of this version ({_FORMAT}), but {found!r}. Build it again.")
            shapes = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            if set(shapes) != set(_DTYPES) or any(
                part.get_dtype() not in _DTYPES[key] or len(part.get_shape()) != 1 for key, part in shapes.items()
            ):
                raise ValueError(f"{path} does not hold the arrays of a trie, but {sorted(shapes)}. Build it again.")
            tensors = {key: file.get_tensor(key) for key in _DTYPES}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable trie file ({error}). Build it again.") from error
    if verify and header.get("digest") != _digest(tensors):
        raise ValueError(f"{path} was altered after it was written: its checksum does not match. Build it again.")
    own = str(header.get("fingerprint"))
    if fingerprint is not None and own != fingerprint:
        raise ValueError(
            f"{path} was built for other names or another tokenizer (fingerprint {own[:12]}, expected "
            f"{fingerprint[:12]}). Build it again from this knowledge base."
        )
    return tensors, own


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key}:{tensors[key].dtype}:{tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().data)  # not `tobytes`, which copies
    return digest.hexdigest()
