"""What the loopback Hub answers about accounts, repositories and commits; `hub_content.py` has the files' contents."""

from __future__ import annotations

import base64
import dataclasses
import fnmatch
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import yaml
from hub_storage import LFS_SUFFIXES, Commit, File, Refused, Repo, git_blob_id

if TYPE_CHECKING:
    from hub_server import Account, HubServer

PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclasses.dataclass
class Request:
    """A request: `path` is as it came, quoted; `query` has lists."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    account: Account | None

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def header(self, name: str) -> str:
        return next((text for key, text in self.headers.items() if key.lower() == name), "")


@dataclasses.dataclass
class Answer:
    """An answer: bytes as they are, anything else as JSON."""

    status: int = 200
    content: object = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


Route = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


def answer(hub: HubServer, request: Request) -> Answer:
    """Answer a request.

    Raises:
        Refused: what the Hub would refuse.
    """
    for method, pattern, function in ROUTES:
        if method == request.method and (match := pattern.fullmatch(request.path)):
            # Unquoted only now: "%2F" in the name of a branch separates nothing.
            parts = {name: unquote(text) if text else text for name, text in match.groupdict().items()}
            return function(hub, request, **parts)
    raise Refused(404, f"the loopback Hub does not know {request.method} {request.path}")


def find_repo(hub: HubServer, request: Request, kind: str, repo_id: str, write: bool = False) -> Repo:
    repo, account = hub.repos.get((kind, repo_id)), request.account
    if repo is None or (repo.private and not (account and account.may_read(repo.namespace))):
        # To those who are not logged in, the Hub does not say which names exist.
        raise Refused(404 if account else 401, "Repository not found", "RepoNotFound")
    if write and account is None:
        raise Refused(401, "Invalid username or password.")
    if write and not account.may_write(kind, repo_id):
        raise Refused(403, "You don't have the required permissions to perform this action")
    return repo


def _front_matter(readme: str) -> dict:
    match = re.match(r"---\n(.*?)\n---", readme, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}) if match else {}


# Accounts and repositories


@route("GET", "/api/whoami-v2")
def _whoami(hub: HubServer, request: Request) -> Answer:
    account = request.account
    if account is None:
        raise Refused(401, "Invalid username or password.")
    token = {"displayName": "test", "role": account.role}
    if account.role == "fineGrained":
        token["fineGrained"] = {"global": [], "scoped": account.scoped}
    orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in account.orgs.items()]
    auth = {"type": "access_token", "accessToken": token}
    return Answer(content={"type": "user", "name": account.name, "orgs": orgs, "auth": auth})


@route("POST", "/api/repos/create")
def _create(hub: HubServer, request: Request) -> Answer:
    asked = request.json()
    if request.account is None:
        raise Refused(401, "Invalid username or password.")
    kind = asked.get("type") or "model"
    repo_id = f"{asked.get('organization') or request.account.name}/{asked['name']}"
    url = f"{hub.url}/{PREFIXES[kind]}{repo_id}"
    if not request.account.may_write(kind, repo_id):
        raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{repo_id}"')
    if (kind, repo_id) in hub.repos:
        raise Refused(409, f"You already created this {kind} repo: {repo_id}", url=url)
    hub.create(kind, repo_id, private=asked.get("visibility") == "private")
    return Answer(content={"url": url, "name": repo_id})


@route("DELETE", "/api/repos/delete")
def _delete(hub: HubServer, request: Request) -> Answer:
    asked = request.json()
    repo_id = f"{asked.get('organization') or request.account.name}/{asked['name']}"
    find_repo(hub, request, asked.get("type") or "model", repo_id, write=True)
    del hub.repos[asked.get("type") or "model", repo_id]
    return Answer(content={})


@route("POST", "/api/validate-yaml")
def _validate_yaml(hub: HubServer, request: Request) -> Answer:
    try:
        _front_matter(request.json()["content"])
    except yaml.YAMLError as error:
        return Answer(400, {"errors": [{"message": str(error)}], "warnings": []})
    return Answer(content={"errors": [], "warnings": []})


@route("GET", REPO + r"(?:/revision/(?P<revision>[^/]+))?")
def _info(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str | None) -> Answer:
    repo = find_repo(hub, request, kind, repo_id)
    commit = repo.resolve(revision or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in request.query:
        for sibling in siblings:
            entry = _entry(hub, sibling["rfilename"], commit.files[sibling["rfilename"]])
            sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": _sibling_lfs(entry)}
    readme = commit.files.get("README.md")
    return Answer(
        content={
            "_id": "0" * 24,
            "id": repo_id,
            "author": repo.namespace,
            "sha": commit.oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "cardData": _front_matter(readme.content.decode()) if readme else None,
            "siblings": siblings,
        }
    )


@route("GET", REPO + r"/auth-check(?P<write>/write)?")
def _auth_check(hub: HubServer, request: Request, kind: str, repo_id: str, write: str | None) -> Answer:
    find_repo(hub, request, kind, repo_id, write=bool(write))
    return Answer(content={})


@route("GET", REPO + "/refs")
def _refs(hub: HubServer, request: Request, kind: str, repo_id: str) -> Answer:
    repo = find_repo(hub, request, kind, repo_id)
    content = {
        "branches": [_ref(name, f"refs/heads/{name}", oid) for name, oid in repo.branches.items()],
        "tags": [_ref(name, f"refs/tags/{name}", oid) for name, oid in repo.tags.items()],
        "converts": [],
    }
    if "include_prs" in request.query:
        content["pullRequests"] = [
            _ref(str(number), f"refs/pr/{number}", oid) for number, oid in repo.pull_requests.items()
        ]
    return Answer(content=content)


def _ref(name: str, ref: str, oid: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": oid}


@route("GET", REPO + "/commits/(?P<revision>[^/]+)")
def _commits(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    history = find_repo(hub, request, kind, repo_id).commits(revision)
    date = "2026-01-01T00:00:00.000Z"
    return Answer(
        content=[
            {"id": commit.oid, "title": commit.title, "message": "", "date": date, "authors": []} for commit in history
        ]
    )


@route("POST DELETE", REPO + "/branch/(?P<branch>[^/]+)")
def _branch(hub: HubServer, request: Request, kind: str, repo_id: str, branch: str) -> Answer:
    repo = find_repo(hub, request, kind, repo_id, write=True)
    if request.method == "DELETE":
        if branch == "main" or branch not in repo.branches:
            raise Refused(404 if branch != "main" else 403, f"cannot delete branch {branch}")
        del repo.branches[branch]
        return Answer(content={})
    if branch in repo.branches:
        raise Refused(409, f"Reference already exists: {branch}")
    repo.branches[branch] = repo.resolve(request.json().get("startingPoint") or "main").oid
    return Answer(content={})


@route("POST DELETE", REPO + "/tag/(?P<name>[^/]+)")
def _tag(hub: HubServer, request: Request, kind: str, repo_id: str, name: str) -> Answer:
    repo = find_repo(hub, request, kind, repo_id, write=True)
    if request.method == "DELETE":
        if repo.tags.pop(name, None) is None:
            raise Refused(404, f"no tag {name}", "RevisionNotFound")
        return Answer(content={})
    tag = request.json()["tag"]
    if tag in repo.tags:
        raise Refused(409, f"Tag reference exists already: {tag}")
    repo.tags[tag] = repo.resolve(name).oid
    return Answer(content={})


@route("POST", REPO + "/discussions")
def _discuss(hub: HubServer, request: Request, kind: str, repo_id: str) -> Answer:
    number = find_repo(hub, request, kind, repo_id).open_pull_request()
    return Answer(content={"num": number, "pullRequest": True})


@route("GET", REPO + r"/discussions/(?P<number>\d+)")
def _discussion(hub: HubServer, request: Request, kind: str, repo_id: str, number: str) -> Answer:
    repo = find_repo(hub, request, kind, repo_id)
    state = "merged" if int(number) in repo.merged else "open"
    return Answer(
        content={
            "num": int(number),
            "title": "",
            "author": {"name": "tester"},
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": state,
            "isPullRequest": True,
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
            "diffUrl": None,
        }
    )


@route("POST", REPO + r"/discussions/(?P<number>\d+)/merge")
def _merge(hub: HubServer, request: Request, kind: str, repo_id: str, number: str) -> Answer:
    find_repo(hub, request, kind, repo_id, write=True).merge(int(number), f"Merge request {number}")
    return Answer(content={})


# Trees and files


def _entry(hub: HubServer, path: str, file: File) -> dict:
    entry = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
        if file.sha256 in hub.store.xet_hash_of:
            entry["xetHash"] = hub.store.xet_hash_of[file.sha256]
    return entry


def _sibling_lfs(entry: dict) -> dict | None:
    lfs = entry.get("lfs")
    return lfs and {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}


def _entries(hub: HubServer, commit: Commit) -> dict[str, dict]:
    """Files and the folders they are in, by path."""
    entries = {path: _entry(hub, path, file) for path, file in commit.files.items()}
    for path in commit.files:
        for end in (place for place, sign in enumerate(path) if sign == "/"):
            folder = path[:end]
            entries[folder] = {"type": "directory", "oid": git_blob_id(folder.encode()), "size": 0, "path": folder}
    return dict(sorted(entries.items()))


@route("GET", REPO + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
def _tree(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str, folder: str | None) -> Answer:
    commit = find_repo(hub, request, kind, repo_id).resolve(revision)
    start = f"{folder.rstrip('/')}/" if folder else ""
    found = [entry for path, entry in _entries(hub, commit).items() if path.startswith(start)]
    if start and not found:
        raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    if request.query.get("recursive", ["false"])[0].lower() != "true":
        found = [entry for entry in found if "/" not in entry["path"][len(start) :]]
    first = int(request.query.get("cursor", ["0"])[0])
    headers = {}
    if first + hub.page < len(found):
        recursive = request.query.get("recursive", ["false"])[0]
        following = f"{hub.url}{request.path}?recursive={recursive}&cursor={first + hub.page}"
        headers["Link"] = f'<{following}>; rel="next"'
    return Answer(content=found[first : first + hub.page], headers=headers)


@route("POST", REPO + "/paths-info/(?P<revision>[^/]+)")
def _paths_info(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    entries = _entries(hub, find_repo(hub, request, kind, repo_id).resolve(revision))
    if request.header("content-type").startswith("application/json"):
        paths = request.json()["paths"]
    else:
        paths = parse_qs(request.body.decode())["paths"]
    return Answer(content=[entries[path] for path in paths if path in entries])


# Commits


@route("POST", REPO + "/preupload/(?P<revision>[^/]+)")
def _preupload(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    asked = request.json()
    creates = "create_pr" in request.query
    files = find_repo(hub, request, kind, repo_id, write=not creates).resolve(revision).files
    ignored = asked.get("gitIgnore")
    if ignored is None:
        ignored = files[".gitignore"].content.decode() if ".gitignore" in files else ""
    patterns = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    answers = []
    for file in asked["files"]:
        path, old = file["path"], files.get(file["path"])
        is_lfs = path.endswith(LFS_SUFFIXES) or file["size"] >= hub.lfs_size
        is_lfs = is_lfs or b"\0" in base64.b64decode(file["sample"])
        names = (path, path.rsplit("/", 1)[-1])
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if is_lfs else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns),
                "oid": None if old is None else old.sha256 if old.lfs else old.oid,
            }
        )
    return Answer(content={"files": answers})


@route("POST", REPO + "/commit/(?P<revision>[^/]+)")
def _commit(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
    creates = "create_pr" in request.query
    repo = find_repo(hub, request, kind, repo_id, write=not creates)
    header: dict = {}
    changes: dict[str, File | None] = {}
    for line in map(json.loads, request.body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            header = value
        elif line["key"] == "file":
            changes[value["path"]] = File(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.store.contents:
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            changes[value["path"]] = File(hub.store.contents[value["oid"]], lfs=True)
        else:
            folder = "/" if line["key"] == "deletedFolder" and not value["path"].endswith("/") else ""
            changes[value["path"] + folder] = None
    if creates:
        number = repo.open_pull_request()
        revision = f"refs/pr/{number}"
    commit = repo.commit(revision, header["summary"], changes, header.get("parentCommit"))
    url = f"{hub.url}/{PREFIXES[kind]}{repo_id}"
    return Answer(
        content={
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{url}/commit/{commit.oid}",
            "pullRequestUrl": f"{url}/discussions/{number}" if creates else None,
        }
    )
