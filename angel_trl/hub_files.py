"""The files of a folder to publish, with the hashes that the Hub knows them by."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

# Version control and caches: the Hub refuses the first two, and nobody wants the third.
_SKIPPED_FOLDERS = frozenset({".git", ".cache", "__pycache__"})
# The Hub writes this file itself, whenever a commit brings a kind of file that git-LFS has to hold.
HUB_OWN_FILE = ".gitattributes"
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish, as it was when it was read.

    Args:
        path: where it is.
        size: in bytes.
        sha256: of its content, in hexadecimal: the name that git-LFS and Xet know it by.
        blob_id: its git blob id, the SHA-1 of `blob {size}` NUL content: the name of a file that git itself holds.
    """

    path: Path
    size: int
    sha256: str
    blob_id: str


def local_files(folder: str | Path, path_in_repo: str = "") -> dict[str, LocalFile]:
    """Read all files of a folder and of those within, except version control, caches and the Hub's `.gitattributes`.

    Args:
        folder: the folder.
        path_in_repo: where it will be in the repository; "" for its root.

    Returns:
        The files by their path in the repository, in the order of that.

    Raises:
        ValueError: if there is no such folder or no file in it, if a file is a link that leads out of it or is no
            file at all, changes while it is read, or if `path_in_repo` or a name is none that the Hub can hold.
        OSError: if a file or folder cannot be read.
    """
    root, start = Path(folder), _path_in_repo(path_in_repo)
    if not root.is_dir():
        raise ValueError(f"There is no folder {root} to publish.")
    paths = {str(start / path.relative_to(root).as_posix()): path for path in _walk(root)}
    if paths.pop(HUB_OWN_FILE, None):
        logger.info("Left out %s: the Hub keeps its own.", root / HUB_OWN_FILE)
    if not paths:
        raise ValueError(f"There is no file to publish in {root}.")
    total = sum(path.stat().st_size for path in paths.values())
    with tqdm(total=total, desc=f"Hashing {root.name}", unit="B", unit_scale=True, delay=2) as bar:
        return {name: _read(paths[name], bar) for name in sorted(paths)}


def _path_in_repo(path: str) -> PurePosixPath:
    parts = PurePosixPath(path.strip("/")).parts
    if ".." in parts or _SKIPPED_FOLDERS.intersection(parts) or not path.isprintable():
        raise ValueError(f"path_in_repo={path!r} is no path in a repository: give one such as 'data/train'.")
    return PurePosixPath(*parts)


def _walk(root: Path) -> list[Path]:
    found, skipped, real_root = [], 0, root.resolve()

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(root, onerror=refuse):
        skipped += len(_SKIPPED_FOLDERS.intersection(folders))
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for path in (Path(parent, name) for name in sorted([*folders, *names])):
            if not str(path.relative_to(root)).isprintable():
                raise ValueError(f"{str(path)!r} has signs in its name that the Hub does not take: rename it.")
            if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(real_root)):
                raise ValueError(
                    f"{path} is a link to {path.resolve()}, and only what is in the folder itself is published: "
                    "put a copy in its place (`cp -rL` copies a folder so)."
                )
            if path.is_file():
                found.append(path)
            elif not path.is_dir():
                raise ValueError(f"{path} is neither a file nor a folder, and cannot be published: remove it.")
    if skipped:
        logger.info("Left out %d folders named %s in %s.", skipped, ", ".join(sorted(_SKIPPED_FOLDERS)), root)
    return found


def _read(path: Path, bar: tqdm) -> LocalFile:
    with path.open("rb") as stream:
        size, read = os.fstat(stream.fileno()).st_size, 0
        sha256, blob_id = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := stream.read(_BLOCK):
            sha256.update(block)
            blob_id.update(block)
            read += len(block)
            bar.update(len(block))
    if read != size:
        raise changed(path)
    return LocalFile(path, size, sha256.hexdigest(), blob_id.hexdigest())


def changed(path: Path) -> ValueError:
    """The error for a file that is not what it was."""
    return ValueError(f"{path} changed while it was being published: publish again once nothing writes to it.")
