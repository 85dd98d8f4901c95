"""Publishing a folder to the Hugging Face Hub that cannot half-succeed.

Whatever fails, the branch and the tag on the Hub are as they were before or hold every file, and every file as it is
here. That takes care, for the client by itself retries no failed commit, commits twice when only the answer to the
first was lost, and makes several commits of a large folder. Here the files go into one commit, on the commit that was
read before; after an error what the Hub then holds decides whether anything is left to do; and a new branch, and the
tag, are set last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from angel_trl.hub_files import HUB_OWN_FILE, LocalFile, local_files
from angel_trl.hub_remote import FAILURES, PublishError, Remote, RemoteFile, is_conflict, is_transient

__all__ = ["PublishError", "Published", "check_publishable", "publish_folder"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """What was published, and where; `str` of it is a line that says so.

    Args:
        repo_id: "user/name".
        repo_type: "model", "dataset" or "space".
        url: page of the files at this revision.
        commit: the commit that holds them.
        revision: the branch, or pull request, that was at this commit.
        tag: the tag at this commit that was asked for.
        files: number of files.
        bytes: their size.
    """

    repo_id: str
    repo_type: str
    url: str
    commit: str
    revision: str
    tag: str | None
    files: int
    bytes: int

    def __str__(self) -> str:
        files = f"{self.files} file{'' if self.files == 1 else 's'}, {tqdm.format_sizeof(self.bytes, 'B')}"
        tag = f", tag {self.tag}" if self.tag else ""
        return f"{self.repo_type} {self.repo_id} ({files}; {self.revision} at {self.commit[:7]}{tag}): {self.url}"


def check_publishable(repo_id: str, *, repo_type: str = "model", token: str | None = None) -> None:
    """See that something can be published, before the hours of work that make it; the Hub is not changed.

    Args:
        repo_id: "user/name", or "name" for the user who is logged in.
        repo_type: "model", "dataset" or "space".
        token: an access token; the saved one if None.

    Raises:
        ValueError: if the Hub cannot have a repository of that name or type.
        PublishError: if the process is offline, nobody is logged in, the token is not valid, it may not write there,
            or the Hub cannot be reached.
    """
    _check_name(repo_id)
    remote = Remote(repo_id, repo_type, token, _ATTEMPTS)
    with _explaining(remote, f"{remote} cannot be published"):
        account = remote.whoami()
        if "/" not in repo_id:
            remote.repo_id = f"{account['name']}/{repo_id}"
        exists = remote.is_private() is not None
        if problem := _missing_permission(account, remote, exists):
            raise PublishError(f"{remote} cannot be published: {problem}")
        if exists:
            remote.may_write()


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    path_in_repo: str = "",
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    delete_others: bool | Sequence[str] = False,
    commit_message: str = "Publish with angel_trl",
    token: str | None = None,
    max_attempts: int = _ATTEMPTS,
) -> Published:
    """Publish all files of a folder, or none; files that the Hub holds already are not sent again.

    Left out are `.git`, `.cache`, `__pycache__`, and at the root of the repository `.gitattributes`, which is the
    Hub's. Local files are never changed. If it fails, the repository may have been created, with nothing in it; if the
    process is killed while it publishes to a new branch, a branch `publishing-...` may be left, which the next try
    takes away. Publishing the same again does what is left to do, and makes no commit if that is nothing.

    Args:
        folder: the folder.
        repo_id: "user/name", or "name" for the user who is logged in. It is created if there is none.
        repo_type: "model", "dataset" or "space" (the `sdk` of a new one is read from its README.md).
        path_in_repo: folder in the repository to publish to; "" for its root.
        private: whether the repository is private; None for what it is, or the account's default for a new one.
        revision: branch, or pull request as `refs/pr/1`, None for `main`. A new branch starts from `main`.
        tag: a tag to set on the commit; it may be there only if it is at that commit.
        delete_others: which other files in `path_in_repo` to delete in the same commit: all, none, or those whose path
            there fits one of some patterns (`"*.bin"`; a `*` stops at a slash).
        commit_message: the commit's title.
        token: an access token; the saved one if None.
        max_attempts: how often a call is tried that may succeed later: the Hub is overloaded, or was not reached.

    Returns:
        What was published, after comparing the hash of every file on the Hub with that of the file here.

    Raises:
        ValueError: for arguments, a folder or a file that cannot be published: none there, links that lead out of
            the folder, metadata of a README.md that is not valid, a file that changed meanwhile.
        OSError: if a file cannot be read.
        PublishError: if the Hub did not do it: no permission, not reached, somebody else changed the same files
            meanwhile, the tag exists elsewhere, the repository's visibility is another.
    """
    _check_name(repo_id)
    if max_attempts < 1:
        raise ValueError(f"max_attempts={max_attempts} would try nothing: give 1 or more.")
    remote = Remote(repo_id, repo_type, token, max_attempts)
    files = local_files(folder, path_in_repo)
    patterns = tuple(delete_others) if not isinstance(delete_others, bool) else ("**",) if delete_others else ()
    change = _Change(files, _scope(path_in_repo), patterns, commit_message)
    branch, metadata = revision or "main", _metadata(files)
    if "/" not in repo_id:
        with _explaining(remote, f"{remote} was not published"):
            remote.repo_id = f"{remote.whoami()['name']}/{repo_id}"
    with _explaining(remote, f"{remote} was not published, and its {branch} is as it was"):
        _provide_repository(remote, private, metadata)
        commit = _publish(remote, branch, tag, change)
    if tag is not None:
        with _explaining(remote, f"{remote} was published, {branch} at {commit[:7]}, but without its tag {tag}"):
            remote.set_tag(tag, commit)
    size = sum(file.size for file in files.values())
    url = f"{remote.url}/tree/{tag or commit}/{path_in_repo.strip('/')}".rstrip("/")
    return Published(remote.repo_id, repo_type, url, commit, branch, tag, len(files), size)


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """What to bring about.

    Args:
        files: what must be there, by path in the repository.
        scope: the folder it is about, with a slash at its end, or "" for all.
        not_there: patterns of paths in that folder at which there must be nothing else; "**" is any path.
        message: of the commit.
    """

    files: Mapping[str, LocalFile]
    scope: str
    not_there: tuple[str, ...]
    message: str

    def missing(self, tree: Mapping[str, RemoteFile]) -> dict[str, LocalFile]:
        """The files that a tree lacks or has other contents of."""
        return {path: file for path, file in self.files.items() if path not in tree or not tree[path].holds(file)}

    def surplus(self, tree: Mapping[str, RemoteFile]) -> list[str]:
        """The files that must not be in a tree."""
        return [path for path in tree if self.concerns(path) and path not in self.files]

    def concerns(self, path: str) -> bool:
        """Whether it matters what is at a path."""
        if path in self.files:
            return True
        if not path.startswith(self.scope) or path == HUB_OWN_FILE:
            return False
        return any(_fits(path.removeprefix(self.scope), pattern) for pattern in self.not_there)

    def is_done(self, tree: Mapping[str, RemoteFile]) -> bool:
        """Whether nothing is left to do."""
        return not self.missing(tree) and not self.surplus(tree)


def _publish(remote: Remote, branch: str, tag: str | None, change: _Change) -> str:
    """The commit of a branch that holds the change, made if need be."""
    tagged = remote.tags().get(tag) if tag is not None else None
    head = remote.head(branch)
    if tagged is not None and (head is None or not change.is_done(remote.tree(head))):
        raise PublishError(
            f"{remote} was not published: its tag {tag} exists, at commit {tagged[:7]}, with other files. "
            "Choose another tag, or delete that one."
        )
    if head is not None:
        return _commit(remote, branch, head, change)
    if branch.startswith("refs/"):
        raise PublishError(f"{remote} was not published: it has no {branch}. Open the pull request first.")
    return _publish_new_branch(remote, branch, change)


def _publish_new_branch(remote: Remote, branch: str, change: _Change) -> str:
    """Commit to a branch of another name, so that this one appears with everything in it."""
    start = remote.head("main")
    if start is None:
        raise PublishError(f"{remote} was not published: it has no branch main that {branch} could start from.")
    # The same name in each try to publish the same there: what a killed process left is found.
    content = [branch, *(f"{path} {file.sha256}" for path, file in change.files.items())]
    temporary = f"publishing-{hashlib.sha256(chr(10).join(content).encode()).hexdigest()[:12]}"
    remote.delete_branch(temporary)
    remote.set_branch(temporary, start)
    try:
        commit = _commit(remote, temporary, start, change)
        remote.set_branch(branch, commit)
    finally:
        try:
            remote.delete_branch(temporary)
        except FAILURES as error:
            logger.warning("%s has a branch %s left over: %s", remote, temporary, remote.explain(error))
    return commit


def _commit(remote: Remote, branch: str, head: str, change: _Change) -> str:
    """Commit until a branch holds the change, and return the first commit seen to hold it.

    The commit is refused by the Hub unless the branch is at the commit that was read, so that it can neither be made
    twice nor undo what another writer did.
    """
    tree = remote.tree(head)
    if surplus := change.surplus(tree):
        more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
        told = f"{', '.join(surplus[:5])}{more}"
        logger.warning("%s: the commit deletes from %s (its history keeps them): %s", remote, branch, told)
    attempt = 0
    while not change.is_done(tree):
        attempt += 1
        failure: BaseException | None = None
        try:
            made = remote.commit(branch, change.missing(tree), change.surplus(tree), head, change.message)
        except FAILURES as error:
            failure = error
        try:
            now = made if failure is None else remote.head(branch)
            seen = remote.tree(now) if now is not None else {}
        except FAILURES as error:
            raise PublishError(
                f"It is not known whether {branch} of {remote} has the commit, which holds everything: "
                f"{remote.explain(failure or error)} Publish again: what is there already is not sent again."
            ) from error
        if now is not None and change.is_done(seen):
            return now
        if failure is None or now is None:
            wrong = ", ".join([*change.missing(seen), *change.surplus(seen)][:3])
            raise PublishError(
                f"{remote} at commit {now} of {branch} is not what was sent: {wrong}. The Hub or another writer "
                "changed it; look at it there and publish again."
            ) from failure
        differing = [path for path in tree.keys() | seen.keys() if tree.get(path) != seen.get(path)]
        if theirs := sorted(filter(change.concerns, differing)):
            raise PublishError(
                f"{remote} was not published: while it was, somebody else changed {', '.join(theirs[:3])} on "
                f"{branch} (now at commit {now[:7]}). Look at that first; publish again to replace it."
            ) from failure
        moved = now != head and is_conflict(failure)
        if attempt == remote.max_attempts or not (moved or is_transient(failure)):
            raise failure
        if not moved:
            remote.wait(attempt, failure)
        head, tree = now, seen
    return head


def _provide_repository(remote: Remote, private: bool | None, metadata: Mapping[str, Any]) -> None:
    """Create the repository if there is none, and see that it is as private as it should be."""
    is_private = remote.is_private()
    if is_private is None:
        sdk = metadata.get("sdk")
        if remote.repo_type == "space" and sdk is None:
            raise ValueError(f"{remote} needs a README.md with its `sdk` (gradio, docker or static) in the metadata.")
        remote.create(private, sdk)
        is_private = remote.is_private()
    if private is not None and is_private is not None and is_private != private:
        has, wanted = ("private", "public") if is_private else ("public", "private")
        raise PublishError(
            f"{remote} was not published: it exists and is {has}, and is to be {wanted}. Change that on "
            f"{remote.url}/settings, or choose another name."
        )


def _metadata(files: Mapping[str, LocalFile]) -> dict[str, Any]:
    """The metadata in the README.md at the root, checked here because the Hub would refuse it after the upload."""
    if "README.md" not in files:
        return {}
    path = files["README.md"].path
    try:
        return metadata_load(path) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata that {path} begins with is not valid YAML: {error}") from error


def _fits(path: str, pattern: str) -> bool:
    if pattern == "**":
        return True
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _scope(path_in_repo: str) -> str:
    return f"{path_in_repo.strip('/')}/".lstrip("/")


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a repository, as `user/name`: {error}") from error


def _missing_permission(account: Mapping[str, Any], remote: Remote, exists: bool) -> str | None:
    """What forbids an account and its token to write to a repository, as far as the answer of whoami says."""
    namespace, place = remote.repo_id.split("/")[0], "https://huggingface.co/settings/tokens"
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        return f"the token of {account['name']} can only read. Make one with write permission: {place}."
    if exists:
        # The Hub is asked about that one itself: organizations can give permissions for single repositories.
        return None
    roles = {org["name"]: org.get("roleInOrg") for org in account.get("orgs", [])}
    if namespace != account["name"] and namespace not in roles:
        names = ", ".join([account["name"], *roles])
        return f"{namespace} is neither the user who is logged in nor an organization of theirs. Use one of {names}."
    if roles.get(namespace) == "read":
        return f"{account['name']} can only read in {namespace}. Ask its owners for write permission."
    if token.get("role") == "fineGrained":
        entities = {namespace, remote.repo_id}
        scopes = token.get("fineGrained", {}).get("scoped", [])
        granted = [scope["permissions"] for scope in scopes if scope["entity"].get("name") in entities]
        if not any("repo.write" in permissions for permissions in granted):
            return f"the token has no write permission for the repositories of {namespace}. Add it: {place}."
    return None


@contextlib.contextmanager
def _explaining(remote: Remote, what: str) -> Iterator[None]:
    """Turn what the client raises into a `PublishError` that begins with `what`, unless it is about a local file."""
    try:
        yield
    except FAILURES as error:
        # A ValueError may also be an answer of the Hub, or one that could not be read.
        is_value = isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError) and not is_transient(error)
        is_file = isinstance(error, OSError) and error.filename is not None
        if is_value or is_file or isinstance(error, PublishError):
            raise
        raise PublishError(f"{what}: {remote.explain(error)}") from error
