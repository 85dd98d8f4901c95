"""A repository on the Hugging Face Hub as a publisher sees it: what it holds, and what can be done to it.

Every call is retried, a bounded number of times, when the Hub is overloaded or cannot be reached, except the commit:
whether that may be tried again is for the caller to find out, by comparing what the Hub holds then.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import parse_ratelimit_headers

from angel_trl import __version__
from angel_trl.hub_files import LocalFile, changed

logger = logging.getLogger(__name__)

REPO_TYPES = ("model", "dataset", "space")
# What the client raises when a call fails: for answers of the Hub and broken connections, for files that cannot be
# read, and for answers that are none.
FAILURES = (HTTPError, OSError, RuntimeError, ValueError)
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
# Seconds. The Hub counts requests over five minutes.
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 300.0


class PublishError(RuntimeError):
    """Publishing to the Hub failed; the message says why, what the Hub holds now, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub.

    Args:
        blob_id: its git blob id; of a pointer where git-LFS or Xet holds the content.
        sha256: of the content where git-LFS or Xet holds it, None elsewhere.
    """

    blob_id: str
    sha256: str | None

    def holds(self, file: LocalFile) -> bool:
        """Whether the content is that of a local file."""
        return self.blob_id == file.blob_id if self.sha256 is None else self.sha256 == file.sha256


class Remote:
    """A repository on the Hub.

    Args:
        repo_id: "user/name".
        repo_type: "model", "dataset" or "space".
        token: an access token; the saved one if None.
        max_attempts: how often a call is tried before its error is raised.

    Raises:
        ValueError: for a repository type or token that cannot be one.
        PublishError: if the process is offline or nobody is logged in.
    """

    def __init__(self, repo_id: str, repo_type: str, token: str | None, max_attempts: int) -> None:
        if repo_type not in REPO_TYPES:
            raise ValueError(f"repo_type={repo_type!r} is none: choose one of {', '.join(REPO_TYPES)}.")
        if constants.is_offline_mode():
            raise PublishError(f"{repo_id} cannot be published offline: unset HF_HUB_OFFLINE.")
        self._token = get_token() if token is None else token
        if self._token is None:
            raise PublishError(
                "Nobody is logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN to a token with "
                "write permission (https://huggingface.co/settings/tokens)."
            )
        # A header with such a sign is refused with an error that shows it.
        if not (self._token.isascii() and self._token.isprintable() and self._token.split() == [self._token]):
            raise ValueError("The token is empty or has a space, line break or sign that no token has: copy it again.")
        self.repo_id, self.repo_type, self.max_attempts = repo_id, repo_type, max_attempts
        self.api = HfApi(token=self._token, library_name="angel_trl", library_version=__version__)
        self._uploads: dict[str, CommitOperationAdd] = {}

    def __str__(self) -> str:
        return f"{self.repo_type} {self.repo_id}"

    @property
    def url(self) -> str:
        """Its page."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def call(self, function: Callable[..., Any], *args: object, **arguments: object) -> Any:
        """The result of a function of the client, called until it succeeds, fails for good, or failed too often."""
        for attempt in range(1, self.max_attempts):
            try:
                return function(*args, **arguments)
            except FAILURES as error:
                if not is_transient(error):
                    raise
                self.wait(attempt, error)
        return function(*args, **arguments)

    def wait(self, attempt: int, error: BaseException) -> None:
        """Wait before the next attempt: as long as the Hub asks for, within reason, or longer each time."""
        seconds = min(_asked_wait(error) or _FIRST_WAIT * 3 ** (attempt - 1), _LONGEST_WAIT)
        text = "Attempt %d of %d on %s failed: %s The next one follows in %.0f s."
        logger.warning(text, attempt, self.max_attempts, self, self.explain(error), seconds)
        time.sleep(seconds)

    def whoami(self) -> dict[str, Any]:
        """Whom the token belongs to and what it allows: the answer of `/api/whoami-v2`."""
        return self.call(self.api.whoami)

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if it does not exist, or the token may not know of it."""
        try:
            return bool(self.call(self.api.repo_info, self.repo_id, repo_type=self.repo_type).private)
        except RepositoryNotFoundError:
            return None

    def may_write(self) -> None:
        """Do nothing if the token may write to this repository, which exists.

        Raises:
            HfHubHTTPError: if it may not.
        """
        self.call(self.api.auth_check, self.repo_id, repo_type=self.repo_type, write=True)

    def create(self, private: bool | None, sdk: str | None) -> None:
        """Create the repository unless it exists; `sdk` is that of a space."""
        self.call(
            self.api.create_repo,
            self.repo_id,
            repo_type=self.repo_type,
            private=private,
            space_sdk=sdk,
            exist_ok=True,
        )

    def head(self, revision: str) -> str | None:
        """The commit of a revision, None if there is no such revision."""
        try:
            return self.call(self.api.repo_info, self.repo_id, repo_type=self.repo_type, revision=revision).sha
        except RevisionNotFoundError:
            return None

    def tree(self, commit: str) -> dict[str, RemoteFile]:
        """The files of a commit, by path."""

        def read() -> dict[str, RemoteFile]:
            entries = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True)
            return {
                entry.path: RemoteFile(entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
                for entry in entries
                if isinstance(entry, RepoFile)
            }

        return self.call(read)

    def branches(self) -> dict[str, str]:
        """The commits of the branches, by name."""
        return {ref.name: ref.target_commit for ref in self._refs().branches}

    def tags(self) -> dict[str, str]:
        """The commits of the tags, by name."""
        return {ref.name: ref.target_commit for ref in self._refs().tags}

    def _refs(self) -> Any:
        return self.call(self.api.list_repo_refs, self.repo_id, repo_type=self.repo_type)

    def set_branch(self, branch: str, commit: str) -> None:
        """Create a branch at a commit, or see that it is there."""
        create = {"branch": branch, "revision": commit}
        self._set("branch", branch, commit, self.branches, self.api.create_branch, create)

    def set_tag(self, tag: str, commit: str) -> None:
        """Create a tag at a commit, or see that it is there."""
        self._set("tag", tag, commit, self.tags, self.api.create_tag, {"tag": tag, "revision": commit})

    def _set(
        self,
        what: str,
        name: str,
        commit: str,
        read: Callable[[], dict[str, str]],
        create: Callable[..., Any],
        arguments: dict[str, str],
    ) -> None:
        """Look, act, and look again when the act failed: it may have been done and only the answer lost."""
        for attempt in range(1, self.max_attempts + 1):
            found = read().get(name)
            if found is not None and found != commit:
                raise PublishError(
                    f"{self} has a {what} {name} at commit {found[:7]} already: choose another name, or delete that."
                )
            if found == commit:
                return
            try:
                create(self.repo_id, repo_type=self.repo_type, **arguments)
                return
            except FAILURES as error:
                exists = isinstance(error, HfHubHTTPError) and error.response.status_code == 409
                if attempt == self.max_attempts or not (exists or is_transient(error)):
                    raise
                if not exists:
                    self.wait(attempt, error)

    def delete_branch(self, branch: str) -> None:
        """Delete a branch if it is there."""

        def delete() -> None:
            if branch in self.branches():
                self.api.delete_branch(self.repo_id, repo_type=self.repo_type, branch=branch)

        self.call(delete)

    def commit(
        self, branch: str, files: Mapping[str, LocalFile], deleted: Iterable[str], parent: str, message: str
    ) -> str:
        """Upload files and commit them, in one commit; nothing is uploaded twice by the same `Remote`.

        Args:
            branch: the branch or pull request.
            files: what to add or replace, by path in the repository.
            deleted: paths to delete.
            parent: the commit that the branch must be at, or the Hub refuses.
            message: of the commit.

        Returns:
            The commit.

        Raises:
            ValueError: if a file is no longer what it was when it was hashed; then there is no commit.
        """
        for path in files.keys() - self._uploads.keys():
            self._uploads[path] = CommitOperationAdd(path, str(files[path].path))
        additions = {path: self._uploads[path] for path in files}
        try:
            self.api.preupload_lfs_files(
                self.repo_id,
                additions.values(),
                repo_type=self.repo_type,
                revision=branch,
                # The .gitignore, here or there, would silently leave files out.
                gitignore_content="# nothing\n",
            )
        except FAILURES as error:
            for file in files.values():
                if not file.path.is_file() or file.path.stat().st_size != file.size:
                    raise changed(file.path) from error
            raise
        for path, addition in additions.items():
            _check_content(files[path], addition)
        with warnings.catch_warnings():
            # The client finds parquet files out of place in a model, where a linker has its knowledge base.
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
            made = self.api.create_commit(
                self.repo_id,
                [*additions.values(), *map(CommitOperationDelete, deleted)],
                repo_type=self.repo_type,
                revision=branch,
                commit_message=message,
                parent_commit=parent,
            )
        return made.oid

    def explain(self, error: BaseException) -> str:
        """Why a call failed, and what to do; never shows the token."""
        answer = next((link for link in _chain(error) if isinstance(link, HfHubHTTPError)), None)
        status = _status(error)
        tokens = "https://huggingface.co/settings/tokens"
        if status == 401:
            reason = f"the Hub does not know the token. Run `hf auth login`, or correct HF_TOKEN ({tokens})."
        elif status == 403:
            reason = (
                f"the token may not write to {self}. Use one with write permission for it ({tokens}), or another name."
            )
        elif isinstance(answer, RepositoryNotFoundError):
            reason = f"there is no {self}, or the token may not know of it."
        elif status == 413:
            reason = "the Hub takes no commit so large. Put many small files into few large ones."
        elif answer is not None:
            request, message = answer.response.request, answer.server_message or answer.response.reason_phrase
            reason = f"the Hub answered {status} ({message}) to {request.method} {request.url.path}."
        else:
            texts = (f"{type(link).__name__}: {' '.join(str(link).split())}".rstrip(".") for link in _chain(error))
            reason = f"{'; '.join(dict.fromkeys(texts))}."
        return reason.replace(self._token, "hf_***")


def is_transient(error: BaseException) -> bool:
    """Whether a call that failed so may succeed when it is made again."""
    if (status := _status(error)) is not None:
        return status in _TRANSIENT
    broken = (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)
    return any(isinstance(link, broken) for link in _chain(error))


def is_conflict(error: BaseException) -> bool:
    """Whether a commit was refused because the branch was not at its parent."""
    return _status(error) in (409, 412)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about, None if there was no answer."""
    for link in _chain(error):
        if isinstance(link, HfHubHTTPError):
            return link.response.status_code
        # Xet's half of the client is written in Rust, and says it in words only.
        if isinstance(link, ConnectionError) and (told := re.search(r"HTTP status \w+ error \((\d{3})", str(link))):
            return int(told[1])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _asked_wait(error: BaseException) -> float | None:
    """The seconds that an answer asks to wait, None if it does not (RFC 9110, section 10.2.3)."""
    for link in _chain(error):
        if isinstance(link, HfHubHTTPError):
            headers = link.response.headers
            limit = parse_ratelimit_headers(headers)
            if link.response.status_code == 429 and limit is not None and limit.remaining == 0:
                return float(limit.reset_in_seconds)
            asked = headers.get("Retry-After", "")
            return float(asked) if asked.isdecimal() else None
    return None


def _check_content(file: LocalFile, addition: CommitOperationAdd) -> None:
    """See that what will be committed is what was hashed; content that travels in the commit itself is read now."""
    if addition.upload_info.is_hashed:
        # git-LFS or Xet: hashed while it was uploaded.
        sha256 = addition.upload_info.sha256.hex()
    else:
        content = file.path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        addition.path_or_fileobj = content
    if sha256 != file.sha256:
        raise changed(file.path)
