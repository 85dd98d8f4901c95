"""A Hub on the loopback interface, for the real clients: huggingface_hub, hf-xet, datasets, transformers.

    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")  # HF_ENDPOINT, HF_HOME, HF_TOKEN...: for a subprocess,
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)  # as the clients freeze them
        assert hub.repo("dataset", "tester/corpus").files("main") == {"data/train.parquet": ...}

Tokens: WRITE_TOKEN and READ_TOKEN of the user "tester", who writes in the organization "lab" and reads in "library";
OTHER_TOKEN of the user "other". `hub.accounts[token] = Account(...)` adds one. Anything else is answered with 401.

Uploads take git-LFS with `xet=False` and hf-xet's protocol with `xet=True`, the client's default; so do downloads.
Storing with one and fetching with the other works.

Faults are rules, tried in order; each counts down, and is spent after `times` requests:

    hub.inject("POST", "/commit/", status=503)                   # answered so, nothing done
    hub.inject("POST", "/commit/", status=429, retry_after=7)
    hub.inject("POST", "/commit/", lose="request", times=2)      # connection cut, nothing done
    hub.inject("POST", "/commit/", lose="response")              # done, then the connection is cut
    hub.inject("POST", "/commit/", before=lambda: ...)           # runs first: another writer, a signal to wait for

What is left out: the website, gated repositories, histories of branches that diverged, checks of Xet's own hashes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import hub_content  # noqa: F401 (registers its routes)
from hub_routes import Answer, Request, answer
from hub_storage import ContentStore, File, Refused, Repo

WRITE_TOKEN = "hf_" + "w" * 34
READ_TOKEN = "hf_" + "r" * 34
OTHER_TOKEN = "hf_" + "o" * 34
ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass
class Account:
    """Whom a token belongs to, and what it allows.

    Args:
        name: of the user.
        role: "write", "read" or "fineGrained".
        orgs: role in each organization: "admin", "write", "contributor" or "read".
        scoped: of a fine-grained token, as whoami says it: [{"entity": {"type", "name"}, "permissions": [...]}].
    """

    name: str
    role: str = "write"
    orgs: dict[str, str] = dataclasses.field(default_factory=dict)
    scoped: list[dict[str, object]] = dataclasses.field(default_factory=list)

    def may_read(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs

    def may_write(self, kind: str, repo_id: str) -> bool:
        namespace = repo_id.split("/")[0]
        if self.role == "fineGrained":
            entities = [("user", namespace), ("org", namespace), (kind, repo_id)]
            return any(
                (scope["entity"]["type"], scope["entity"]["name"]) in entities and "repo.write" in scope["permissions"]
                for scope in self.scoped
            )
        return self.role == "write" and (namespace == self.name or self.orgs.get(namespace, "read") != "read")


@dataclasses.dataclass
class Fault:
    """A rule of `HubServer.inject`."""

    method: str
    pattern: re.Pattern[str]
    status: int | None
    headers: dict[str, str]
    lose: Literal["request", "response"] | None
    before: Callable[[], object] | None
    times: int


@dataclasses.dataclass(frozen=True)
class Logged:
    """A request that came: `status` is 0 where the connection was cut."""

    method: str
    path: str
    status: int
    user: str | None


class HubServer:
    """A Hub; a context manager that serves between entering and leaving.

    Args:
        page: most entries in one answer of a tree, which the client fetches page by page.
        lfs_size: files of at least so many bytes are LFS or Xet, whatever they contain.
    """

    def __init__(self, page: int = 1000, lfs_size: int = 10_000_000) -> None:
        self.page, self.lfs_size = page, lfs_size
        self.accounts = {
            WRITE_TOKEN: Account("tester", orgs={"lab": "write", "library": "read"}),
            READ_TOKEN: Account("tester", role="read", orgs={"lab": "write", "library": "read"}),
            OTHER_TOKEN: Account("other"),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.store = ContentStore()
        self.requests: list[Logged] = []
        self.errors: list[str] = []
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.hub = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.storage_url = f"http://localhost:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        assert not self.errors, "the loopback Hub has a bug:\n" + "\n".join(self.errors)

    def environment(self, home: Path, token: str | None = WRITE_TOKEN, xet: bool = False) -> dict[str, str]:
        """The environment of a client's process.

        Args:
            home: folder of its caches, HF_HOME; a fresh one for a client that knows nothing yet.
            token: its token, None for nobody.
            xet: whether files go through hf-xet.
        """
        inherited = {
            name: text
            for name, text in os.environ.items()
            if not re.match(r"HF_|HUGGING|TRANSFORMERS_OFFLINE|.*_proxy$", name, re.I)
        }
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            # Seconds; the default of 10 is too few for a busy machine.
            "HF_HUB_DOWNLOAD_TIMEOUT": "100",
            "HF_HUB_ETAG_TIMEOUT": "100",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            **({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}),
        }
        return inherited | settings

    def create(self, kind: str, repo_id: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repo:
        """A repository that is there already, with a commit of `files` if there are any."""
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private)
        if files:
            self.push(kind, repo_id, files)
        return repo

    def push(self, kind: str, repo_id: str, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Commit as another writer would, and return the commit; None deletes a file."""
        with self.lock:
            changes = {path: None if content is None else File(content) for path, content in files.items()}
            return self.repos[kind, repo_id].commit(branch, "another writer", changes).oid

    def repo(self, kind: str, repo_id: str) -> Repo:
        """A repository by kind ("model", "dataset", "space") and "user/name".

        Raises:
            KeyError: if there is none.
        """
        return self.repos[kind, repo_id]

    def inject(
        self,
        method: str,
        path: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
        lose: Literal["request", "response"] | None = None,
        before: Callable[[], object] | None = None,
        times: int = 1,
    ) -> None:
        """Let the next `times` requests of `method` whose path and query match the regular expression `path` fail."""
        headers = dict(headers or {})
        if retry_after is not None:
            headers["Retry-After"] = f"{retry_after:g}"
        self._faults.append(Fault(method, re.compile(path), status, headers, lose, before, times))

    def clear(self) -> None:
        """Forget faults that are left, and the log."""
        self._faults.clear()
        self.requests.clear()

    def count(self, method: str, path: str) -> int:
        """How many requests of `method` came whose path and query match a regular expression."""
        return sum(logged.method == method and bool(re.search(path, logged.path)) for logged in self.requests)

    def fault(self, method: str, path: str) -> Fault | None:
        """The rule for this request, counted down."""
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and fault.pattern.search(path):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: HubServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep what went wrong here; a client that was killed only closes its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            self.hub.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        hub, body = self.server.hub, self._body()
        if body is None:
            self.close_connection = True
            return
        fault = hub.fault(self.command, self.path)
        if fault and fault.before:
            fault.before()
        account = hub.accounts.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if fault and fault.lose == "request":
            result = Answer(0)
        elif fault and fault.status:
            result = Answer(fault.status, {"error": f"injected {fault.status}"}, dict(fault.headers))
        else:
            result = self._answer(hub, body, account)
        if fault and fault.lose == "response":
            result = Answer(0)
        hub.requests.append(Logged(self.command, unquote(self.path), result.status, account and account.name))
        self._send(result)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _answer(self, hub: HubServer, body: bytes, account: Account | None) -> Answer:
        parts = urlsplit(self.path)
        request = Request(self.command, parts.path, parse_qs(parts.query), dict(self.headers), body, account)
        try:
            if account is None and self.headers.get("Authorization", "").startswith("Bearer hf_"):
                raise Refused(401, "Invalid credentials in Authorization header")
            with hub.lock:
                return answer(hub, request)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            headers["X-Error-Message"] = refused.message
            return Answer(refused.status, {"error": refused.message, **refused.extra}, headers)

    def _body(self) -> bytes | None:
        """What the client sends; None if it went away before the end."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"-1", 16):
            chunk = self.rfile.read(size) if size > 0 else b""
            if len(chunk) != size:
                return None
            body += chunk
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, result: Answer) -> None:
        if result.status == 0:
            self.close_connection = True
            with contextlib.suppress(OSError):  # of a client that has gone already
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = result.content if isinstance(result.content, bytes) else json.dumps(result.content).encode()
        self.send_response(result.status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(content))}.items():
            if name not in result.headers:
                self.send_header(name, text)
        for name, text in result.headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error: `HubServer.requests` has them."""
