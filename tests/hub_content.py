"""What the loopback Hub answers about the contents of files: `resolve`, git-LFS, and Xet's content store."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from hub_routes import PREFIXES, REPO, Answer, Request, find_repo, route
from hub_storage import Refused

if TYPE_CHECKING:
    from hub_server import HubServer

_GIT = r"/(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+?)"
# The content store has tokens of its own: the client must not send it those of the Hub.
READ_CAS, WRITE_CAS = "cas-read", "cas-write"


@route("GET HEAD", _GIT + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def _resolve(hub: HubServer, request: Request, prefix: str | None, repo_id: str, revision: str, path: str) -> Answer:
    kind = next(kind for kind, start in PREFIXES.items() if start == (prefix or ""))
    commit = find_repo(hub, request, kind, repo_id).resolve(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if path not in commit.files:
        return Answer(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
    file = commit.files[path]
    if not file.lfs:
        return _ranged(request, file.content, headers | {"ETag": f'"{file.oid}"'})
    headers |= {
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(len(file.content)),
        # Another host, as the Hub's storage is: the client follows this one only to download.
        "Location": f"{hub.storage_url}/storage/{file.sha256}",
    }
    if file.sha256 in hub.store.xet_hash_of:
        headers["X-Xet-Hash"] = hub.store.xet_hash_of[file.sha256]
        route = f"{hub.url}/api/{kind}s/{repo_id}/xet-read-token/{commit.oid}"
        headers["X-Xet-Refresh-Route"] = route
        headers["Link"] = f'<{route}>; rel="xet-auth"'
    return Answer(302, b"", headers)


def _ranged(request: Request, content: bytes, headers: dict[str, str] | None = None) -> Answer:
    headers = {"Content-Type": "application/octet-stream", **(headers or {})}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.header("range"))
    if not asked:
        return Answer(200, content, headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first > last:
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


# Contents by git-LFS (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md)


@route("POST", _GIT + r"\.git/info/lfs/objects/batch")
def _lfs_batch(hub: HubServer, request: Request, prefix: str | None, repo_id: str) -> Answer:
    kind = next(kind for kind, start in PREFIXES.items() if start == (prefix or ""))
    find_repo(hub, request, kind, repo_id, write=True)
    objects = []
    for asked in request.json()["objects"]:
        actions = {
            "upload": {"href": f"{hub.storage_url}/storage/{asked['oid']}"},
            "verify": {"href": f"{hub.url}/{prefix or ''}{repo_id}.git/info/lfs/objects/verify"},
        }
        known = asked["oid"] in hub.store.contents
        objects.append(asked if known else {**asked, "actions": actions})
    return Answer(content={"transfer": "basic", "objects": objects})


@route("POST", _GIT + r"\.git/info/lfs/objects/verify")
def _lfs_verify(hub: HubServer, request: Request, prefix: str | None, repo_id: str) -> Answer:
    if request.json()["oid"] not in hub.store.contents:
        raise Refused(404, "object does not exist")
    return Answer(content={})


@route("PUT", "/storage/(?P<oid>[0-9a-f]{64})")
def _lfs_put(hub: HubServer, request: Request, oid: str) -> Answer:
    hub.store.add(request.body, oid)
    return Answer(content={})


@route("GET HEAD", "/storage/(?P<oid>[0-9a-f]{64})")
def _lfs_get(hub: HubServer, request: Request, oid: str) -> Answer:
    return _ranged(request, hub.store.contents[oid], {"ETag": f'"{oid}"'})


# Contents by Xet (https://huggingface.co/docs/xet/api)


@route("GET", REPO + "/xet-(?P<access>read|write)-token/(?P<revision>[^/]+)")
def _xet_token(hub: HubServer, request: Request, kind: str, repo_id: str, access: str, revision: str) -> Answer:
    find_repo(hub, request, kind, repo_id, write=access == "write" and "create_pr" not in request.query)
    token, expires = f"cas-{access}", int(time.time()) + 3600
    return Answer(
        content={"accessToken": token, "exp": expires, "casUrl": f"{hub.url}/cas"},
        headers={
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
            "X-Xet-Cas-Url": f"{hub.url}/cas",
        },
    )


def _check_cas(request: Request, *tokens: str) -> None:
    if request.header("authorization") not in {f"Bearer {token}" for token in tokens}:
        raise Refused(401, "the content store knows no such token")


@route("GET", "/cas/v1/chunks/.*")
def _cas_chunk(hub: HubServer, request: Request) -> Answer:
    _check_cas(request, READ_CAS, WRITE_CAS)
    raise Refused(404, "no chunk is shared between files of different uploads here")


@route("POST", "/cas/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})")
def _cas_put(hub: HubServer, request: Request, xorb: str) -> Answer:
    _check_cas(request, WRITE_CAS)
    inserted = xorb not in hub.store.xorbs
    hub.store.xorbs[xorb] = request.body
    return Answer(content={"was_inserted": inserted})


@route("POST", "/cas/v1/shards")
def _cas_shard(hub: HubServer, request: Request) -> Answer:
    _check_cas(request, WRITE_CAS)
    hub.store.add_shard(request.body)
    return Answer(content={"result": 1})


@route("GET", "/cas/v1/reconstructions/(?P<file_hash>[0-9a-f]{64})")
def _cas_reconstruction(hub: HubServer, request: Request, file_hash: str) -> Answer:
    _check_cas(request, READ_CAS, WRITE_CAS)
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.header("range"))
    start, stop = (int(asked[1]), int(asked[2]) + 1 if asked[2] else None) if asked else (0, None)
    return Answer(content=hub.store.reconstruction(file_hash, f"{hub.url}/xorbs", start, stop))


@route("GET", "/xorbs/(?P<xorb>[0-9a-f]{64})")
def _xorb(hub: HubServer, request: Request, xorb: str) -> Answer:
    return _ranged(request, hub.store.xorbs[xorb])
