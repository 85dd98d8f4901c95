"""What the loopback Hub stores: repositories with branches, tags and pull requests, and Xet's content store.

Everything is in memory. `hub_server.py` is the HTTP in front of it.

Formats: git blob ids; git-LFS pointers (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md); xorbs, shards and
reconstructions of Xet (https://huggingface.co/docs/xet/index: `xorb.md`, `shard.md`, `api.md`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".npz", ".npy", ".arrow", ".pt", ".gz", ".zip")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Refused(Exception):  # noqa: N818
    """A request that the Hub would answer with an error.

    Args:
        status: of the answer.
        message: its `error`.
        code: its X-Error-Code, which the client makes exceptions of.
        extra: further fields of the answer.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **extra: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a commit: its content, and whether git holds it or a pointer to it."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        return git_blob_id(self.pointer if self.lfs else self.content)


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit; `files` is the whole tree, by path."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, File]


class Repo:
    """A repository, created as the Hub does it: with one commit, of a `.gitattributes`.

    Args:
        kind: "model", "dataset" or "space".
        repo_id: "user/name".
        private: whether only those who belong to the namespace see it.
    """

    def __init__(self, kind: str, repo_id: str, private: bool = False) -> None:
        self.kind, self.repo_id, self.private = kind, repo_id, private
        self.objects: dict[str, Commit] = {}
        first = self._store(None, "initial commit", {".gitattributes": File(GITATTRIBUTES)})
        self.branches: dict[str, str] = {"main": first.oid}
        self.tags: dict[str, str] = {}
        self.pull_requests: dict[int, str] = {}
        self.merged: set[int] = set()

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, `refs/...` or (shortened) oid."""
        if revision.startswith("refs/pr/") and int(revision[8:]) in self.pull_requests:
            return self.objects[self.pull_requests[int(revision[8:])]]
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for refs in (self.branches, self.tags):
            if name in refs:
                return self.objects[refs[name]]
        found = [oid for oid in self.objects if len(revision) >= 7 and oid.startswith(revision)]
        if not found:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.objects[found[0]]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path, without the `.gitattributes` that the Hub wrote itself."""
        tree = self.resolve(revision).files
        return {
            path: file.content
            for path, file in sorted(tree.items())
            if path != ".gitattributes" or file.content != GITATTRIBUTES
        }

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commit of a revision and all before it, latest first."""
        commit: Commit | None = self.resolve(revision)
        history = []
        while commit is not None:
            history.append(commit)
            commit = self.objects[commit.parent] if commit.parent else None
        return history

    def commit(self, revision: str, title: str, changes: dict[str, File | None], parent: str | None = None) -> Commit:
        """Add a commit to a branch or pull request; a change of None deletes the file, or the folder ending in "/".

        Raises:
            Refused: 412 if the branch is not at `parent`; 404 if there is nothing to delete or no such branch.
        """
        head = self.resolve(revision)
        is_request = revision.startswith("refs/pr/")
        if not is_request and revision not in self.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if parent is not None and not head.oid.startswith(parent):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        commit = self._store(head.oid, title, _changed(head.files, changes))
        if is_request:
            self.pull_requests[int(revision[8:])] = commit.oid
        else:
            self.branches[revision] = commit.oid
        return commit

    def open_pull_request(self) -> int:
        number = len(self.pull_requests) + 1
        self.pull_requests[number] = self.branches["main"]
        return number

    def merge(self, number: int, title: str) -> Commit:
        """Merge a pull request as the Hub does: its changes against the commit it came from, squashed onto main."""
        if number not in self.pull_requests or number in self.merged:
            raise Refused(404, f"No open pull request {number}", "EntryNotFound")
        ours = {commit.oid for commit in self.commits()}
        head = self.resolve(f"refs/pr/{number}")
        base = next(commit for commit in self.commits(f"refs/pr/{number}") if commit.oid in ours)
        changes = {path: head.files.get(path) for path in head.files | base.files}
        changes = {path: file for path, file in changes.items() if file != base.files.get(path)}
        self.merged.add(number)
        return self.commit("main", title, changes)

    def _store(self, parent: str | None, title: str, files: dict[str, File]) -> Commit:
        text = [str(len(self.objects)), str(parent), title, *(f"{path} {file.oid}" for path, file in files.items())]
        commit = Commit(hashlib.sha1("\n".join(text).encode()).hexdigest(), parent, title, files)
        self.objects[commit.oid] = commit
        return commit


def _changed(files: dict[str, File], changes: dict[str, File | None]) -> dict[str, File]:
    files = dict(files)
    for path, file in changes.items():
        if file is not None:
            files[path] = file
            continue
        gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
        if not gone:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    return files


@dataclasses.dataclass(frozen=True)
class Term:
    """A stretch of a Xet file: the chunks [first, last) of a xorb, `size` bytes unpacked."""

    xorb: str
    size: int
    first: int
    last: int


class ContentStore:
    """Contents by SHA-256, however they came: git-LFS or Xet. The Xet half is a content-addressable store (CAS)."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.xorbs: dict[str, bytes] = {}
        self.xet_files: dict[str, list[Term]] = {}
        self.xet_hash_of: dict[str, str] = {}

    def add(self, content: bytes, sha256: str) -> None:
        """Keep a content that came by git-LFS."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refused(400, f"the content is not that of {sha256}")
        self.contents[sha256] = content

    def add_shard(self, shard: bytes) -> None:
        """Register the files that a shard describes; their xorbs must be there."""
        for file_hash, terms, sha256 in _read_shard(shard):
            missing = {term.xorb for term in terms} - set(self.xorbs)
            if missing:
                raise Refused(400, f"the shard refers to unknown xorbs {sorted(missing)}")
            content = b"".join(self._unpack(term) for term in terms)
            self.xet_files[file_hash] = terms
            if sha256 is not None:
                self.add(content, sha256)
                self.xet_hash_of[sha256] = file_hash

    def _unpack(self, term: Term) -> bytes:
        chunks = list(_read_xorb(self.xorbs[term.xorb]))[term.first : term.last]
        content = b"".join(_decompress(*chunk[2:]) for chunk in chunks)
        if len(content) != term.size:
            raise Refused(400, f"{term} has {len(content)} bytes")
        return content

    def reconstruction(self, file_hash: str, url: str, start: int = 0, stop: int | None = None) -> dict[str, object]:
        """How to put together the bytes [start, stop) of a file: version 1 of the reconstruction API.

        Args:
            file_hash: of the file, as in `X-Xet-Hash`.
            url: where xorbs are; their hash is appended.
            start: first byte.
            stop: byte after the last, None for all.
        """
        if file_hash not in self.xet_files:
            raise Refused(404, f"no Xet file {file_hash}")
        position, offset, terms = 0, 0, []
        for term in self.xet_files[file_hash]:
            begin, position = position, position + term.size
            if position > start and (stop is None or begin < stop):
                offset = offset if terms else start - begin
                terms.append(term)
        if not terms:
            raise Refused(416, f"byte {start} is after the end of {file_hash}")
        fetch = {xorb: self._stretches(xorb, terms, f"{url}/{xorb}") for xorb in {term.xorb for term in terms}}
        texts = [{"hash": term.xorb, "unpacked_length": term.size, "range": _range(term)} for term in terms]
        return {"offset_into_first_range": offset, "terms": texts, "fetch_info": fetch}

    def _stretches(self, xorb: str, terms: list[Term], url: str) -> list[dict[str, object]]:
        """Where the chunks of terms are in a xorb. Stretches do not overlap, though terms may: they are merged."""
        chunks = list(_read_xorb(self.xorbs[xorb]))
        merged: list[Term] = []
        for term in sorted((term for term in terms if term.xorb == xorb), key=lambda term: term.first):
            if merged and term.first <= merged[-1].last:
                before = merged.pop()
                term = dataclasses.replace(before, last=max(before.last, term.last))
            merged.append(term)
        return [
            {
                "range": _range(term),
                "url": url,
                "url_range": {"start": chunks[term.first][0], "end": chunks[term.last - 1][1] - 1},
            }
            for term in merged
        ]


def _range(term: Term) -> dict[str, int]:
    return {"start": term.first, "end": term.last}


def _hash_text(value: bytes) -> str:
    """A Xet hash as text: four little-endian 64-bit numbers in hexadecimal (`api.md`)."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))


def _read_shard(shard: bytes) -> Iterator[tuple[str, list[Term], str | None]]:
    """The files of a shard: hash, terms, and the SHA-256 of the content if it is given (`shard.md`, section 2)."""
    position = 48
    while shard[position : position + 32] != b"\xff" * 32:
        file_hash, flags, count = struct.unpack_from("<32sII", shard, position)
        position += 48
        terms = []
        for _ in range(count):
            xorb, _, size, first, last = struct.unpack_from("<32sIIII", shard, position)
            terms.append(Term(_hash_text(xorb), size, first, last))
            position += 48
        if flags & 1 << 31:
            position += 48 * count
        sha256 = None
        if flags & 1 << 30:
            sha256 = _hash_text(shard[position : position + 32])
            position += 48
        yield _hash_text(file_hash), terms, sha256


def _read_xorb(xorb: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
    """The chunks of a xorb: start and end in it, compression, packed bytes, unpacked size (`xorb.md`)."""
    position = 0
    # What follows the chunks, if anything, begins with "XETBLOB"; the version that a chunk begins with is 0.
    while position < len(xorb) and xorb[position] == 0:
        packed = int.from_bytes(xorb[position + 1 : position + 4], "little")
        unpacked = int.from_bytes(xorb[position + 5 : position + 8], "little")
        end = position + 8 + packed
        yield position, end, xorb[position + 4], xorb[position + 8 : end], unpacked
        position = end


def _decompress(compression: int, packed: bytes, size: int) -> bytes:
    if compression == 0:
        return packed
    content = pa.Codec("lz4").decompress(packed, size, asbytes=True)
    if compression == 1:
        return content
    # Grouped by position within four bytes.
    groups = np.empty(size, np.uint8)
    grouped, begin = np.frombuffer(content, np.uint8), 0
    for place in range(4):
        length = len(range(place, size, 4))
        groups[place::4] = grouped[begin : begin + length]
        begin += length
    return groups.tobytes()
