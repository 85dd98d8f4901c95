"""A file by its URL, fetched into a cache: again when the server has another version, further when it was cut off.

The cache is `huggingface_hub.cached_assets_path("angel_trl", namespace="downloads")`: a folder a URL, in it a folder a
version (ETag, or else date), in it the file under its own name, since names tell splits. A file has its name only once
it is complete.
"""

import logging
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["download", "status"]

logger = logging.getLogger(__name__)

_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\\/:*?"<>|]')
_TIMEOUT = 10


def download(url: str) -> tuple[Path, str]:
    """Return the file of a URL on this machine, and the URL without what may be secret in it, for messages.

    Raises:
        FileNotFoundError: If the server has no such file, or it was not fetched before and fetching is forbidden by
            `HF_HUB_OFFLINE`.
        PermissionError: If the server wants a login.
        ConnectionError: If the server cannot be reached, and the file was not fetched before.
        OSError: If the server answers with another error, or the answer is cut off.
        ValueError: If there is a password in the URL.
    """
    from httpx2 import HTTPError
    from huggingface_hub import cached_assets_path
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import WeakFileLock

    parts = urlsplit(url)
    # What stands before @ or after ? may be secret, and errors and reports are shown around.
    name = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if "@" in parts.netloc:
        raise ValueError(f"{name}: the URL has a user name or password in it, which logs would tell; use ~/.netrc")
    folder = cached_assets_path("angel_trl", namespace="downloads", subfolder=sha256(url.encode()).hexdigest()[:32])
    folder.mkdir(parents=True, exist_ok=True)
    file_name = _NOT_IN_NAMES.sub("_", PurePosixPath(unquote(parts.path)).name)[-150:]
    try:
        with WeakFileLock(folder / ".lock"):
            path = _latest(url, name, folder, "download" if file_name in ("", "..") else file_name)
    except HfHubHTTPError as error:
        kind = {404: FileNotFoundError, 410: FileNotFoundError, 401: PermissionError, 403: PermissionError}
        raise kind.get(error.response.status_code, OSError)(f"{name}: the server answered {status(error)}") from None
    except HTTPError as error:
        raise ConnectionError(f"{name}: not reached ({type(error).__name__}: {error})") from None
    return path, name


def _latest(url: str, name: str, folder: Path, file_name: str) -> Path:
    """Return the newest version of a URL's file, fetched into a folder that is this URL's own."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import get_session

    # Not compressed on the way: sizes count, and a .gz file is to stay one.
    headers = {"Accept-Encoding": "identity"}
    last = folder / "version"
    try:
        head = get_session().head(url, headers=headers, timeout=_TIMEOUT, follow_redirects=True)
    except (TransportError, OfflineModeIsEnabled) as error:
        path = folder / last.read_text() / file_name if last.exists() else None
        if path is None or not path.exists():
            if isinstance(error, OfflineModeIsEnabled):
                raise FileNotFoundError(f"{name}: not fetched before, and HF_HUB_OFFLINE forbids it now") from None
            raise
        logger.warning("%s cannot be reached (%s): using the version fetched before", name, type(error).__name__)
        return path
    known = head.headers if head.is_success else {}  # some servers refuse HEAD: fetching says why
    mark = known.get("ETag") or known.get("Last-Modified") or ""
    version = sha256(mark.encode()).hexdigest()[:32]
    path, partial = folder / version / file_name, folder / f"{version}.partial"
    if not path.exists():
        # Of what comes compressed all the same, the length is that of the compressed bytes.
        length = "" if "Content-Encoding" in known else known.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        # Only what is marked and no longer than the file can be the beginning of the same file.
        resumed = mark and size and partial.exists() and partial.stat().st_size <= size
        with partial.open("ab" if resumed else "wb") as file:
            try:
                http_get(
                    url,
                    file,
                    resume_size=file.tell(),
                    headers=headers,
                    expected_size=size,
                    displayed_filename=file_name,
                )
            except OSError as error:
                if error.errno is not None or isinstance(error, HfHubHTTPError):
                    raise
                raise OSError(f"{name}: cut off, or not of the size the server announced; try again") from error
        path.parent.mkdir(exist_ok=True)
        partial.replace(path)
    last.write_text(version)
    return path


def status(error: Any) -> str:
    """Return what a server answered, of an `HfHubHTTPError`, whose text has the whole URL."""
    return f"{error.response.status_code} {error.response.reason_phrase}".strip()
