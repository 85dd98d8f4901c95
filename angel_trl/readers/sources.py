"""Where files come from: a path, a URL, or a dataset on the Hub; what is not local is fetched into a cache once.

Files of the Hub go where `huggingface_hub` keeps them, those of other URLs where `downloads.py` says.
"""

import glob
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .downloads import download, status
from .report import ReadReport

if TYPE_CHECKING:
    from huggingface_hub import HfUri

__all__ = ["Fetched", "Source", "fetched", "local_path"]

Source = str | Path
"""A path; or, as a string, `https://...`, `hf://datasets/user/name[@revision][/path]` or `user/name[@revision]`."""

_URL = re.compile(r"https?://", re.IGNORECASE)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@.+)?")


def local_path(source: Source, *, revision: str | None = None) -> Path:
    """Return where a source lies on this machine, after fetching it if it was not fetched before.

    Args:
        source: One of

            - a path to a file or folder, as it is; what exists is never taken for anything else, and neither is a
              `pathlib.Path`;
            - `https://...` or `http://...`, a file. It is fetched again when its ETag (or else its date) says that it
              changed. Offline, the version fetched last is used, with a warning. A download that was cut off is
              taken up where it ended. For a password, use `~/.netrc`;
            - `hf://datasets/user/name[@revision][/file or folder]`, from the Hub; `user/name[@revision]` is short for
              it. Without `datasets/`, it is a model's repository. Web addresses of the Hub are understood too.
              Offline, what is in the cache is used.
        revision: A branch, tag or commit of a source on the Hub, in place of `@revision`.

    Raises:
        FileNotFoundError: If there is nothing there: no file or URL (404), no repository (or a private one without a
            token), no such revision or path in it, or nothing in the cache while offline.
        PermissionError: If a repository is gated and access was not granted, or the server wants a login.
        ConnectionError: If the server cannot be reached, and nothing was fetched from it before.
        OSError: If the server answers with another error, or the answer is cut off.
        ValueError: If the source is malformed, has a password in it, or a revision is given twice or for no source
            that has any.
    """
    return _fetch(source, revision).path


@dataclass(frozen=True)
class Fetched:
    """Something on this machine, and what the user calls it.

    Attributes:
        path: The file or folder.
        names: What a user calls each path that was made here.
    """

    path: Path
    names: dict[Path, str]

    @property
    def name(self) -> str:
        """What the user calls it; a local file's name without its folders."""
        return self.names.get(self.path, self.path.name)

    def named(self, text: str) -> str:
        """Return text with the user's names in place of paths of a cache."""
        for path in sorted(self.names, key=lambda path: len(str(path)), reverse=True):
            text = text.replace(str(path), self.names[path])
        return text

    def named_report(self, report: ReadReport) -> ReadReport:
        """Let the examples of a report have the user's names, and return it."""
        if self.names:
            report.examples = {reason: list(map(self.named, places)) for reason, places in report.examples.items()}
        return report


@contextmanager
def fetched(source: Source | Sequence[Source]) -> Iterator[Fetched]:
    """Fetch a source, or put the files of several into one folder, and let errors in the block have the user's names.

    Args:
        source: As [`local_path`]; or several files, which must differ in their names.

    Raises:
        ValueError: If several sources have one name, or there is none; and as [`local_path`].
        OSError: As [`local_path`].
    """
    if isinstance(source, str | Path):
        with _naming(_fetch(source)) as found:
            yield found
        return
    with TemporaryDirectory() as folder, _naming(_gathered(source, Path(folder))) as found:
        yield found


@contextmanager
def _naming(found: Fetched) -> Iterator[Fetched]:
    try:
        yield found
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (found.named(error.args[0]),)
        raise


def _gathered(sources: Sequence[Source], folder: Path) -> Fetched:
    names: dict[Path, str] = {}
    for source in sources:
        found = _fetch(source)
        link = folder / found.path.name
        if not found.path.is_file():
            raise ValueError(f"{found.named(str(found.path))}: of several sources, each must be a file")
        if link in names:
            raise ValueError(f"{names[link]} and {source}: two sources of one name; rename one")
        names[link] = found.named(str(found.path))
        try:
            link.symlink_to(found.path.resolve())
        except OSError:  # Windows, without the right to
            shutil.copyfile(found.path, link)
    if not names:
        raise ValueError("no source given: an empty sequence")
    names[folder] = f"{len(names)} sources"
    return Fetched(folder, names)


def _fetch(source: Source, revision: str | None = None) -> Fetched:
    text = str(source)
    is_path = isinstance(source, Path) or os.path.exists(text)
    uri = None if is_path else _hub_uri(text, revision)
    if uri is not None:
        return _from_hub(text, uri)
    if revision is not None:
        raise ValueError(f"{text}: a revision ({revision!r}) is for sources on the Hub only")
    if not is_path and _URL.match(text):
        path, name = download(text)
        return Fetched(path, {path: name})
    if not os.path.exists(text):
        other = "" if isinstance(source, Path) else f", and {text} is no URL, hf://datasets/user/name or user/name"
        raise FileNotFoundError(f"no file or folder at {text}{other}")
    return Fetched(Path(source), {})


def _hub_uri(text: str, revision: str | None) -> "HfUri | None":
    """Return what a string names on the Hub, `None` if it names nothing there."""
    from huggingface_hub import HfUri, constants, parse_hf_uri
    from huggingface_hub.errors import HfUriError

    if not text.startswith("hf://") and not _URL.match(text) and not _HUB_ID.fullmatch(text):
        return None
    try:
        uri = parse_hf_uri(f"hf://datasets/{text}" if _HUB_ID.fullmatch(text) else text, endpoint=constants.ENDPOINT)
    except HfUriError as error:
        if not text.startswith("hf://"):
            return None  # a URL of somewhere else, or a path that no dataset can have for its name
        raise ValueError(f"{error}; write hf://datasets/user/name, @revision and /path where there is one") from error
    if ".." in PurePosixPath(uri.path_in_repo).parts:
        raise ValueError(f"{text}: '..' leads out of the repository; write the path from its top")
    if uri.type not in ("dataset", "model"):
        raise ValueError(f"{text}: a {uri.type}; what can be read is a dataset, hf://datasets/user/name, or a model")
    if revision is None:
        return uri
    if uri.revision not in (None, revision):
        raise ValueError(f"{text}: names the revision {uri.revision!r}, but revision is {revision!r}; give one")
    return HfUri(uri.type, uri.id, revision, uri.path_in_repo)


def _from_hub(text: str, uri: "HfUri") -> Fetched:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    here = "no file or folder of that name here, and " if _HUB_ID.fullmatch(text) else ""
    inside = glob.escape(uri.path_in_repo)
    try:
        snapshot = snapshot_download(
            uri.id,
            repo_type=uri.type,
            revision=uri.revision,
            allow_patterns=[inside, f"{inside}/*"] if inside else None,
        )
    except GatedRepoError as error:
        raise PermissionError(
            f"{text}: gated: ask for access at {uri.to_url()}, then log in with hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{text}: {here}no {uri.type} {uri.id} at {constants.ENDPOINT}, or it is private: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{text}: {uri.id} has no revision {uri.revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{text}: {here}{uri.type} {uri.id} is not, or not wholly, in the cache {constants.HF_HUB_CACHE}, and the "
            "Hub cannot be reached; fetch it where there is a network, and check HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        raise OSError(f"{text}: the Hub answered {status(error)}") from error
    path = Path(snapshot, uri.path_in_repo)
    if not path.exists():
        raise FileNotFoundError(f"{text}: {uri.id} has no file or folder {uri.path_in_repo!r} in that revision")
    # Whatever lies in the snapshot gets a name that can be read as a source.
    root = uri.to_uri().removesuffix(f"/{uri.path_in_repo}" if uri.path_in_repo else "")
    return Fetched(path, {path: uri.to_uri(), Path(snapshot): root})
