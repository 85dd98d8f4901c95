"""Sources: paths, and URLs of a server on the loopback interface; test_sources_hub.py has those of the Hub."""

import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import OTHER_TOKEN
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from angel_trl.kb import KnowledgeBase
from angel_trl.readers import read_concepts, read_corpus, read_knowledge_base
from angel_trl.readers.sources import local_path

MENTION = b"1|t|Ataxia\n1|a|Rare.\n1\t0\t6\tAtaxia\tDisease\t%s\n"
MEDIC = b"D1|114480||Breast Cancer|BC\nD2||Ataxia\n"


class Server(ThreadingHTTPServer):
    """Serves `files`, `(content, ETag)` by path, and keeps what was asked; `cut` ends the next answers so early."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.statuses, self.logins = {}, [], {}, set()
        self.cut = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        self.server.logins.add(self.headers.get("Authorization"))
        status = self.server.statuses.get((self.command, path))
        if status or path not in self.server.files:
            self.send_error(status or 404)
            return
        content, tag = self.server.files[path]
        begin = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers.get("Range") else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[begin : self.server.cut])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server, and a client that may use it and has an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # `cached_assets_path` has its own reference, taken on import; without this one, two tests whose servers happen to
    # get the same port would see each other's files.
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_path_is_returned_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "name").write_bytes(MEDIC)
    assert local_path(str(tmp_path / "user")) == tmp_path / "user"
    monkeypatch.chdir(tmp_path)
    assert local_path("user/name") == Path("user/name")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "medic.txt",
            "no file or folder at medic.txt, and medic.txt is no URL, hf://datasets/user/name or user/name$",
        ),
        ("a/b/c", "no file or folder at a/b/c, and a/b/c is no URL"),
        ("../medic.txt", "no file or folder at ../medic.txt, and ../medic.txt is no URL"),
        ("a/b--c", "no file or folder at a/b--c, and a/b--c is no URL"),
        ("ftp://x/y", "no file or folder at ftp://x/y, and ftp://x/y is no URL"),
        (Path("user/name"), "no file or folder at user/name$"),
        ("user/none", "user/none: no file or folder of that name here, and dataset user/none is not, .*in the cache"),
        ("hf://datasets/user/none/a", "hf://datasets/user/none/a: dataset user/none is not.*HF_HUB_OFFLINE"),
    ],
)
def test_what_is_not_there_is_told_as_it_was_written(source, message):
    with pytest.raises(FileNotFoundError, match=message):
        local_path(source)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("hf://datasets/name", None, "write hf://datasets/user/name, @revision and /path"),
        ("hf://spaces/user/name", None, "hf://spaces/user/name: a space; what can be read is a dataset"),
        ("hf://buckets/user/name", None, "hf://buckets/user/name: a bucket"),
        ("hf://datasets/user/name/../x", None, r"'\.\.' leads out of the repository"),
        ("user/name@v1", "v2", "user/name@v1: names the revision 'v1', but revision is 'v2'; give one"),
        ("medic.txt", "v1", r"medic.txt: a revision \('v1'\) is for sources on the Hub only"),
        ("http://x/medic.txt", "v1", "is for sources on the Hub only"),
        ("https://me:secret@x.org/medic.txt", None, "^https://x.org/medic.txt: the URL has a user name or password"),
    ],
)
def test_malformed_sources(source, revision, message):
    with pytest.raises(ValueError, match=message):
        local_path(source, revision=revision)


def test_a_gated_repository_says_where_to_ask(monkeypatch):
    def refuse(*_, **__):
        error = GatedRepoError.__new__(GatedRepoError)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        PermissionError, match="user/name: gated: ask for access at .*/datasets/user/name, then log in"
    ):
        local_path("user/name")


def test_a_url_is_fetched_once_under_its_own_name(server):
    server.files["/a%20b/train.txt"] = MEDIC, '"1"'
    path = local_path(f"{server.url}/a%20b/train.txt?download=1")
    assert (path.name, path.read_bytes()) == ("train.txt", MEDIC)
    assert local_path(f"{server.url}/a%20b/train.txt?download=1") == path
    assert [method for method, _, _ in server.asked] == ["HEAD", "GET", "HEAD"]


def test_the_token_of_the_hub_is_for_the_hub_only(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    server.files["/kb"] = MEDIC, '"1"'
    local_path(f"{server.url}/kb")
    assert server.logins == {None}


def test_a_file_that_changed_is_fetched_again(server):
    server.files["/kb"] = b"old", '"1"'
    old = local_path(f"{server.url}/kb")
    server.files["/kb"] = b"new", '"2"'
    assert local_path(f"{server.url}/kb").read_bytes() == b"new"
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/", "download"),
        ("/..", "download"),
        ("/%00a%3Ab.gz", "_a_b.gz"),
        ("/a%2Fb", "b"),
        (f"/{'n' * 300}", "n" * 150),
    ],
)
def test_odd_addresses_have_usable_names(server, address, name):
    server.files[address] = server.files["/"] = b"x", '"1"'
    assert local_path(server.url + address).name == name


def test_a_download_that_was_cut_off_is_no_file_and_is_taken_up_where_it_ended(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5)  # what is kept of a download is whole chunks
    server.files["/kb"], server.cut = (MEDIC, '"1"'), 10
    with pytest.raises((OSError, ConnectionError), match=f"{server.url}/kb: "):
        local_path(f"{server.url}/kb")
    kept = [file for file in (tmp_path / "assets").rglob("*") if file.is_file()]
    assert [file.suffix for file in kept if file.name != ".lock"] == [".partial"]
    server.cut = None
    server.asked.clear()
    assert local_path(f"{server.url}/kb").read_bytes() == MEDIC
    assert server.asked == [("HEAD", "/kb", None), ("GET", "/kb", "bytes=10-")]


def test_what_was_cut_off_is_not_the_beginning_of_another_version(server):
    server.files["/kb"], server.cut = (MEDIC, '"1"'), 10
    with pytest.raises(OSError, match="/kb: "):
        local_path(f"{server.url}/kb")
    server.files["/kb"], server.cut = (MEDIC[::-1], '"2"'), None
    assert local_path(f"{server.url}/kb").read_bytes() == MEDIC[::-1]


def test_without_etag_or_date_a_file_is_fetched_once(server):
    server.files["/kb"] = MEDIC, None
    for _ in range(2):
        assert local_path(f"{server.url}/kb").read_bytes() == MEDIC
    assert [method for method, _, _ in server.asked] == ["HEAD", "GET", "HEAD"]


def test_a_server_that_refuses_head(server):
    server.files["/kb"] = MEDIC, '"1"'
    server.statuses["HEAD", "/kb"] = 405
    assert local_path(f"{server.url}/kb").read_bytes() == MEDIC


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, FileNotFoundError, "404 Not Found"),
        (403, PermissionError, "403 Forbidden"),
        (500, OSError, "500 Internal"),
    ],
)
def test_answers_that_are_errors_name_url_and_status(server, status, kind, said):
    server.statuses["GET", "/kb"] = server.statuses["HEAD", "/kb"] = status
    with pytest.raises(kind, match=f"^{server.url}/kb: the server answered {said}") as raised:
        local_path(f"{server.url}/kb?signature=secret")
    assert type(raised.value) is kind
    assert raised.value.__cause__ is None  # the library's error has the whole URL


def test_a_server_that_is_not_there(server, caplog):
    server.files["/kb"] = MEDIC, '"1"'
    fetched = local_path(f"{server.url}/kb")
    server.shutdown()
    server.server_close()
    with caplog.at_level(logging.WARNING):
        assert local_path(f"{server.url}/kb") == fetched
    assert f"{server.url}/kb cannot be reached (ConnectError): using the version fetched before" in caplog.text
    with pytest.raises(ConnectionError, match=f"{server.url}/other: not reached"):
        local_path(f"{server.url}/other")


def test_offline_only_what_was_fetched_before(server, monkeypatch):
    server.files["/kb"] = MEDIC, '"1"'
    fetched = local_path(f"{server.url}/kb")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_path(f"{server.url}/kb") == fetched
    with pytest.raises(FileNotFoundError, match="/other: not fetched before, and HF_HUB_OFFLINE forbids it now"):
        local_path(f"{server.url}/other")


def test_readers_take_urls_and_name_them(server):
    server.files["/CDR_dev.txt"] = MENTION % b" D1", '"1"'
    splits, report = read_corpus(f"{server.url}/CDR_dev.txt?key=secret")
    assert list(splits) == ["dev"]
    assert report.examples == {"blank around id": [f"{server.url}/CDR_dev.txt:3 '1 0 6 Ataxia Disease  D1'"]}
    server.files["/medic.txt"] = MEDIC, '"1"'
    kb = KnowledgeBase.from_file(f"{server.url}/medic.txt?key=secret")
    assert (len(kb), kb.source) == (2, f"{server.url}/medic.txt")
    assert read_concepts(f"{server.url}/medic.txt")[1].used == 2


def test_errors_of_readers_name_the_url(server):
    server.files["/train.txt"] = MENTION + b"stray\n", '"1"'
    with pytest.raises(ValueError, match=f"^{server.url}/train.txt:4: 'stray' is neither"):
        read_corpus(f"{server.url}/train.txt")
    server.files["/kb"] = b"Dear reader", '"1"'
    for read in (read_concepts, read_knowledge_base):
        with pytest.raises(ValueError, match=f"^{server.url}/kb: no known knowledge base format"):
            read(f"{server.url}/kb")


def test_a_corpus_in_several_files(server, tmp_path):
    server.files["/train.txt"] = MENTION % b" D1", '"1"'
    server.files["/dev.source"] = b"no START FAP END here\n", '"1"'
    server.files["/dev.label"] = b"D2\n", '"1"'
    (tmp_path / "test.txt").write_bytes(MENTION % b"D3")
    urls = [f"{server.url}/{name}" for name in ("train.txt", "dev.source", "dev.label")]
    splits, report = read_corpus([*urls, tmp_path / "test.txt"])
    assert {name: split["concept_ids"][:] for name, split in splits.items()} == {
        "train": [[["D1"]]],
        "dev": [[["D2"]]],
        "test": [[["D3"]]],
    }
    assert report.examples["blank around id"] == [f"{server.url}/train.txt:3 '1 0 6 Ataxia Disease  D1'"]


def test_several_files_are_told_by_their_own_names_in_errors(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.txt").write_bytes(MENTION + b"stray\n")
    (tmp_path / "dev.txt").write_bytes(MENTION % b"D1")
    train, dev = tmp_path / "a" / "train.txt", tmp_path / "dev.txt"
    with pytest.raises(ValueError, match=f"^{train}:4: 'stray' is neither"):
        read_corpus([train, dev])
    with pytest.raises(ValueError, match="a/train.txt and .*b/train.txt: two sources of one name; rename one"):
        read_corpus([train, tmp_path / "b" / "train.txt"])
    with pytest.raises(ValueError, match=f"^{tmp_path}: of several sources, each must be a file"):
        read_corpus([tmp_path, dev])
    with pytest.raises(ValueError, match="no source given"):
        read_corpus([])
    with pytest.raises(ValueError, match="^2 sources: holds .*|^2 sources: no fold 3"):
        read_corpus([dev, tmp_path / "b" / "train.txt"], fold=3)
