"""Publishing when something goes wrong: the Hub then holds what it held before, or everything."""

import dataclasses
import hashlib
import signal
import threading

import pytest
from hub_client import ClientError, HubClient, both_clients
from hub_server import READ_TOKEN, WRITE_TOKEN, HubServer
from hub_storage import File

MODES = ["lfs", "xet"]
FILES = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "model.safetensors": b"weights " * 20_000}
BEFORE = {"README.md": b"old\n", "kept.txt": b"k"}
AFTER = BEFORE | FILES
COMMIT = "/api/models/.*/commit/"
WAITS = [2, 6, 18, 54]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    with both_clients(hub, tmp_path_factory.mktemp("homes")) as clients:
        yield clients


@pytest.fixture(params=MODES)
def client(request, clients, hub):
    hub.clear()
    return clients[request.param]


@pytest.fixture
def lfs(clients, hub):
    """The client by git-LFS alone, for what does not depend on the way of the contents."""
    hub.clear()
    return clients["lfs"]


@pytest.fixture
def repo(request, hub):
    """A repository of its own for each test, that holds something."""
    return hub.create("model", f"tester/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}", BEFORE)


@pytest.fixture
def folder(tmp_path):
    """A folder whose files must be untouched in the end, but for what the test itself does to them."""
    (tmp_path / "folder").mkdir()
    for name, content in FILES.items():
        (tmp_path / "folder" / name).write_bytes(content)
    before = stats(tmp_path / "folder")
    yield tmp_path / "folder"
    assert stats(tmp_path / "folder") == before or (tmp_path / "changed by the test").exists()


def stats(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def publish(client, *args, **kwargs):
    return client.call("angel_trl.hub:publish_folder", *args, **kwargs)


def fails(client, *args, kind="PublishError", **kwargs):
    """The error's text, which like the log never shows a token."""
    with pytest.raises(ClientError) as caught:
        publish(client, *args, **kwargs)
    assert caught.value.kind == kind, caught.value.trace
    assert not any(token in caught.value.trace + client.log for token in (WRITE_TOKEN, READ_TOKEN))
    return caught.value.text


def unchanged(repo):
    return repo.files() == BEFORE and len(repo.commits()) == 2 and list(repo.branches) == ["main"] and not repo.tags


def complete(repo):
    return repo.files() == AFTER and len(repo.commits()) == 3 and list(repo.branches) == ["main"]


# The commit


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_commit_that_was_refused_for_now_is_made_later(hub, client, repo, folder, status):
    hub.inject("POST", COMMIT, status=status, times=2)
    result = publish(client, folder, repo.repo_id)
    assert complete(repo)
    assert result["commit"] == repo.branches["main"]
    assert client.waited == WAITS[:2]
    # What was uploaded for the first try serves the others.
    assert hub.count("POST", "/preupload/") == 1
    assert (
        f"Attempt 2 of 5 on model {repo.repo_id} failed: the Hub answered {status} (injected {status})" in client.log
    )


@pytest.mark.parametrize("lose", ["request", "response"])
def test_a_connection_lost_at_the_commit_makes_one_commit(hub, client, repo, folder, lose):
    hub.inject("POST", COMMIT, lose=lose)
    result = publish(client, folder, repo.repo_id, tag="v1")
    assert complete(repo)
    assert repo.tags == {"v1": result["commit"]} == {"v1": repo.branches["main"]}
    assert client.waited == (WAITS[:1] if lose == "request" else [])


def test_a_commit_that_lands_after_it_was_looked_for_is_not_made_twice(hub, client, repo, folder):
    # The connection is cut, and the Hub does it all the same, while the publisher waits to try again.
    hub.inject("POST", COMMIT, lose="request")
    hub.inject("POST", COMMIT, before=lambda: publish_as_another(hub, repo), times=1)
    publish(client, folder, repo.repo_id)
    assert complete(repo)
    assert hub.count("POST", COMMIT) == 2
    assert [logged.status for logged in hub.requests if logged.method == "POST" and "/commit/" in logged.path][
        -1
    ] == 412


def publish_as_another(hub, repo):
    with hub.lock:
        repo.commit(
            "main", "late", {name: File(content, lfs=b"weights" in content) for name, content in FILES.items()}
        )


@pytest.mark.parametrize("fault", [{"status": 503}, {"lose": "request"}])
def test_a_commit_that_never_succeeds_changes_nothing(hub, client, repo, folder, fault):
    hub.inject("POST", COMMIT, **fault, times=99)
    text = fails(client, folder, repo.repo_id, tag="v1")
    assert f"model {repo.repo_id} was not published, and its main is as it was: " in text
    assert unchanged(repo)
    assert client.waited == WAITS
    assert hub.count("POST", COMMIT) == 5
    hub.clear()
    publish(client, folder, repo.repo_id, tag="v1")
    assert complete(repo)


def test_300_files_are_published_together_or_not_at_all(hub, client, repo, folder):
    for number in range(300):
        (folder / f"{number:03}.bin").write_bytes(b"\0%d" % number)
    (folder.parent / "changed by the test").touch()
    hub.inject("POST", COMMIT, status=503, times=99)
    fails(client, folder, repo.repo_id, max_attempts=2)
    assert unchanged(repo)
    assert client.waited == WAITS[:1]


def test_what_may_not_be_tried_again_is_not(hub, lfs, repo, folder):
    for status, reason in ((400, "400"), (403, "the token may not write to"), (413, "takes no commit so large")):
        hub.clear()
        hub.inject("POST", COMMIT, status=status)
        assert reason in fails(lfs, folder, repo.repo_id)
        assert hub.count("POST", COMMIT) == 1
        assert unchanged(repo)
        assert lfs.waited == []


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 2),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=9;t=55'}, 2),
    ],
)
def test_it_waits_as_long_as_the_hub_asks_within_reason(hub, lfs, repo, folder, headers, wait):
    hub.inject("POST", COMMIT, status=429, headers=headers)
    publish(lfs, folder, repo.repo_id)
    assert lfs.waited == [wait]


def test_it_says_so_when_it_cannot_know_whether_it_is_done(hub, client, repo, folder):
    hub.inject("POST", COMMIT, lose="response")
    hub.inject("GET", "/revision/main", times=1)
    hub.inject("GET", "/revision/main", status=503, times=99)
    text = fails(client, folder, repo.repo_id, max_attempts=2)
    assert f"It is not known whether main of model {repo.repo_id} has the commit, which holds everything" in text
    hub.clear()
    publish(client, folder, repo.repo_id)
    assert complete(repo)
    assert hub.count("POST", COMMIT) == 0


def test_what_the_hub_holds_is_compared_before_success_is_reported(hub, client, repo, folder):
    def spoil():
        commit = repo.resolve("main")
        if len(repo.commits()) == 3:
            wrong = commit.files | {"config.json": File(b"spoilt")}
            repo.objects[commit.oid] = dataclasses.replace(commit, files=wrong)

    hub.inject("GET", "/tree/", before=spoil, times=99)
    text = fails(client, folder, repo.repo_id, tag="v1")
    assert "is not what was sent: config.json" in text
    assert repo.tags == {}


# Calls around it


@pytest.mark.parametrize("fault", [{"status": 503}, {"lose": "request"}, {"lose": "response"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/whoami-v2"),
        ("GET", "/api/models/tester/[^/]*$"),
        ("POST", "/api/repos/create"),
        ("GET", "/refs"),
        ("GET", "/revision/"),
        ("POST", "/branch/publishing-"),
        ("POST", "/branch/round"),
        ("DELETE", "/branch/publishing-"),
        ("POST", "/tag/"),
        ("GET", "/tree/"),
        ("POST", "/validate-yaml"),
    ],
)
def test_every_other_call_is_made_again(hub, lfs, folder, repo, method, path, fault):
    name = f"{repo.repo_id.split('/')[1]}-new"
    hub.inject(method, path, **fault, times=2)
    result = publish(lfs, folder, name, revision="round/1", tag="v1")
    made = hub.repo("model", f"tester/{name}")
    assert made.files("round/1") == FILES
    assert made.files("main") == {}
    assert made.branches.keys() == {"main", "round/1"}
    assert made.tags == {"v1": result["commit"]}
    assert len(made.commits("round/1")) == 2
    assert any(logged.status in (0, 503) for logged in hub.requests)


def test_without_its_tag_it_is_published_all_the_same(hub, lfs, repo, folder):
    hub.inject("POST", "/tag/", status=503, times=99)
    text = fails(lfs, folder, repo.repo_id, tag="v1")
    head = repo.branches["main"]
    assert f"was published, main at {head[:7]}, but without its tag v1" in text
    assert complete(repo)
    hub.clear()
    assert publish(lfs, folder, repo.repo_id, tag="v1")["commit"] == head
    assert repo.tags == {"v1": head}
    assert complete(repo)


# The contents


@pytest.mark.parametrize("fault", [{"status": 503}, {"lose": "request"}])
@pytest.mark.parametrize(("mode", "method", "path"), [("lfs", "PUT", "/storage/"), ("xet", "POST", "/cas/v1/xorbs/")])
def test_an_upload_that_fails_is_made_again_or_changes_nothing(hub, clients, repo, folder, mode, method, path, fault):
    # Content of its own, for Xet sends no content that it sent before.
    (folder / "model.safetensors").write_bytes(hashlib.sha256(repr(fault).encode()).digest() * 5000)
    (folder.parent / "changed by the test").touch()
    client = clients[mode]
    hub.clear()
    hub.inject(method, path, **fault, times=99)
    fails(client, folder, repo.repo_id)
    assert unchanged(repo)
    hub.clear()
    hub.inject(method, path, **fault, times=8)
    publish(client, folder, repo.repo_id)
    assert repo.files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(repo.commits()) == 3


@pytest.mark.parametrize(("method", "path"), [("POST", "/cas/v1/shards"), ("GET", "/xet-write-token/")])
@pytest.mark.parametrize("status", [403, 503])
def test_xet_is_tried_again_only_when_that_may_help(hub, clients, repo, folder, method, path, status):
    hub.clear()
    hub.inject(method, path, status=status, times=99)
    text = fails(clients["xet"], folder, repo.repo_id)
    assert ("the token may not write to model" in text) == (status == 403)
    assert clients["xet"].waited == ([] if status == 403 else WAITS)
    assert unchanged(repo)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["longer", "other", "gone"])
def test_a_file_that_changes_meanwhile_is_not_published(hub, client, repo, folder, name, how):
    def change():
        path = folder / name
        if how == "gone":
            path.unlink()
        else:
            content = path.read_bytes()
            path.write_bytes(content + b"!" if how == "longer" else b"!" * len(content))

    (folder.parent / "changed by the test").touch()
    hub.inject("POST", "/preupload/", before=change)
    with pytest.raises(ClientError) as caught:
        publish(client, folder, repo.repo_id)
    assert unchanged(repo)
    assert name in caught.value.text
    if (name, how) != ("config.json", "gone"):
        assert caught.value.kind == "ValueError"
        assert "changed while it was being published: publish again once nothing writes to it" in caught.value.text


# Other writers


def test_another_writer_of_other_files_is_no_obstacle(hub, client, repo, folder):
    hub.inject("POST", COMMIT, before=lambda: hub.push("model", repo.repo_id, {"theirs.txt": b"t"}))
    publish(client, folder, repo.repo_id)
    assert repo.files() == AFTER | {"theirs.txt": b"t"}
    assert len(repo.commits()) == 4
    assert client.waited == []


def test_another_writer_of_the_same_files_is_not_overwritten(hub, client, repo, folder):
    hub.inject("POST", COMMIT, before=lambda: hub.push("model", repo.repo_id, {"config.json": b"theirs"}))
    text = fails(client, folder, repo.repo_id)
    assert "was not published: while it was, somebody else changed config.json on main (now at commit" in text
    assert repo.files() == BEFORE | {"config.json": b"theirs"}


def test_what_another_writer_added_is_not_deleted_unseen(hub, lfs, repo, folder):
    hub.inject("POST", COMMIT, before=lambda: hub.push("model", repo.repo_id, {"theirs.txt": b"t"}))
    text = fails(lfs, folder, repo.repo_id, delete_others=True)
    assert "somebody else changed theirs.txt on main" in text
    assert repo.files() == BEFORE | {"theirs.txt": b"t"}


def test_two_who_publish_the_same_make_one_commit(hub, lfs, repo, folder):
    hub.inject("POST", COMMIT, before=lambda: publish_as_another(hub, repo))
    assert publish(lfs, folder, repo.repo_id)["commit"] == repo.branches["main"]
    assert complete(repo)


def test_a_tag_or_branch_that_somebody_else_sets_meanwhile(hub, lfs, repo, folder):
    main = repo.branches["main"]
    hub.inject("POST", "/tag/", before=lambda: repo.tags.update(v1=main))
    assert "has a tag v1 at commit" in fails(lfs, folder, repo.repo_id, revision="main", tag="v1")
    assert repo.tags == {"v1": main}
    hub.inject("POST", "/branch/round", before=lambda: repo.branches.update(round=main))
    assert "has a branch round at commit" in fails(lfs, folder, repo.repo_id, revision="round", path_in_repo="r")
    assert repo.branches.keys() == {"main", "round"}
    assert repo.branches["round"] == main


# A new branch


@pytest.mark.parametrize(("method", "path"), [("POST", COMMIT), ("POST", "/branch/round")])
def test_a_new_branch_that_fails_is_not_there(hub, client, repo, folder, method, path):
    hub.inject(method, path, status=503, times=99)
    fails(client, folder, repo.repo_id, revision="round", tag="v1")
    assert unchanged(repo)


def test_a_branch_that_cannot_be_cleared_away_is_of_no_harm(hub, lfs, repo, folder):
    hub.inject("DELETE", "/branch/publishing-", status=503, times=99)
    publish(lfs, folder, repo.repo_id, revision="round")
    assert repo.files("round") == AFTER
    assert "has a branch publishing-" in lfs.log


# Killed


@pytest.mark.parametrize(
    ("mode", "method", "path", "revision"),
    [
        ("lfs", "PUT", "/storage/", None),
        ("xet", "POST", "/cas/v1/xorbs/", None),
        ("xet", "POST", "/cas/v1/shards", None),
        ("xet", "POST", COMMIT, None),
        ("lfs", "POST", COMMIT, "round"),
    ],
)
def test_killed_and_published_again(hub, clients, repo, folder, tmp_path, mode, method, path, revision):
    (folder / "model.safetensors").write_bytes(repo.repo_id.encode() * 9000)
    (folder.parent / "changed by the test").touch()
    come, go_on = threading.Event(), threading.Event()
    hub.clear()
    hub.inject(method, path, before=lambda: (come.set(), go_on.wait(300)))
    with HubClient(hub.environment(tmp_path / "home", xet=mode == "xet")) as client:
        client.start("angel_trl.hub:publish_folder", folder, repo.repo_id, revision=revision, tag="v1")
        assert come.wait(300)
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    assert repo.files() == BEFORE
    assert revision not in repo.branches
    assert repo.tags == {}
    go_on.set()
    result = publish(clients[mode], folder, repo.repo_id, revision=revision, tag="v1")
    assert repo.files(revision or "main") == {
        **AFTER,
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
    }
    assert len(repo.commits(revision or "main")) == 3
    assert repo.branches.keys() == {"main", revision or "main"}
    assert repo.tags == {"v1": result["commit"]}
