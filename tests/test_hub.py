"""Publishing a folder to a Hub that does what it should; what happens when it does not is in `test_hub_faults.py`."""

import hashlib
from pathlib import Path

import pytest
from hub_client import ClientError, HubClient, both_clients
from hub_server import OTHER_TOKEN, READ_TOKEN, WRITE_TOKEN, Account, HubServer

from angel_trl.hub import Published

FILES = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "kb/kb.parquet": b"PAR1" * 50_000}


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    with both_clients(hub, tmp_path_factory.mktemp("homes")) as clients:
        yield clients


@pytest.fixture
def client(clients, hub):
    hub.clear()
    return clients["xet"]


@pytest.fixture
def repo_id(request):
    """A name of its own for each test."""
    return f"tester/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


def write(folder, files):
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Path(folder)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "folder", FILES)


def publish(client, *args, **kwargs):
    return client.call("angel_trl.hub:publish_folder", *args, **kwargs)


def fails(client, *args, function="publish_folder", **kwargs):
    """The error's kind and text."""
    with pytest.raises(ClientError) as caught:
        client.call(f"angel_trl.hub:{function}", *args, **kwargs)
    return caught.value.kind, caught.value.text


# Publishing


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("mode", ["lfs", "xet"])
def test_a_folder_is_published_in_one_commit(hub, clients, folder, repo_id, mode, kind):
    hub.clear()
    result = publish(clients[mode], folder, repo_id, repo_type=kind, tag="v1", commit_message="First")
    repo = hub.repo(kind, repo_id)
    head = repo.branches["main"]
    assert repo.files() == FILES
    assert [commit.title for commit in repo.commits()] == ["First", "initial commit"]
    assert repo.tags == {"v1": head}
    prefix = "" if kind == "model" else "datasets/"
    url = f"{hub.url}/{prefix}{repo_id}/tree/v1"
    assert result == {
        "repo_id": repo_id,
        "repo_type": kind,
        "url": url,
        "commit": head,
        "revision": "main",
        "tag": "v1",
        "files": 3,
        "bytes": 200_023,
        "str": f"{kind} {repo_id} (3 files, 200kB; main at {head[:7]}, tag v1): {url}",
    }
    # A knowledge base belongs into a model.
    assert "UserWarning" not in clients[mode].log
    path = clients[mode].call("huggingface_hub:snapshot_download", repo_id, repo_type=kind)
    assert {name: Path(path, name).read_bytes() for name in FILES} == FILES


def test_publishing_the_same_again_commits_and_sends_nothing(hub, client, folder, repo_id):
    first = publish(client, folder, repo_id)
    hub.clear()
    assert publish(client, folder, repo_id) == first
    assert {logged.method for logged in hub.requests} == {"GET"}


def test_only_what_differs_is_sent(hub, client, folder, repo_id):
    publish(client, folder, repo_id)
    write(folder, {"config.json": b"{1}"})
    hub.clear()
    publish(client, folder, repo_id)
    assert hub.repo("model", repo_id).files() == FILES | {"config.json": b"{1}"}
    assert hub.count("POST", "/cas/") == 0
    changed = {"kb/kb.parquet": b"PAR2" * 50_000}
    publish(client, write(folder, changed), repo_id)
    assert hub.repo("model", repo_id).files() == FILES | {"config.json": b"{1}"} | changed
    assert len(hub.repo("model", repo_id).commits()) == 4


def test_others_stay_unless_they_are_to_be_deleted(hub, client, folder, repo_id):
    hub.create("model", repo_id, {"old.txt": b"o", "deep/old.txt": b"o"})
    publish(client, folder, repo_id)
    repo = hub.repo("model", repo_id)
    assert repo.files() == FILES | {"old.txt": b"o", "deep/old.txt": b"o"}
    publish(client, folder, repo_id, delete_others=True)
    assert repo.files() == FILES
    assert ".gitattributes" in repo.resolve("main").files
    assert len(repo.commits()) == 4


def test_others_go_that_fit_a_pattern(hub, client, folder, repo_id):
    kept = {"LICENSE": b"l", "deep/old.bin": b"o", "more/deep/old.pt": b"o"}
    hub.create("model", repo_id, kept | {"old.bin": b"o", "deep/old.pt": b"o"})
    publish(client, folder, repo_id, delete_others=["*.bin", "deep/*.pt"])
    assert hub.repo("model", repo_id).files() == FILES | kept
    told = f"model {repo_id}: the commit deletes from main (its history keeps them): deep/old.pt, old.bin\n"
    assert told in client.log
    publish(client, folder, repo_id, delete_others=["*.bin", "deep/*.pt"])
    assert "the commit deletes" not in client.log


def test_a_path_in_the_repository(hub, client, folder, repo_id):
    hub.create("dataset", repo_id, {"other/a.txt": b"a", "seed/0/old.txt": b"o"})
    result = publish(client, folder, repo_id, repo_type="dataset", path_in_repo="seed/0/", delete_others=True)
    expected = {f"seed/0/{name}": content for name, content in FILES.items()}
    assert hub.repo("dataset", repo_id).files() == {"other/a.txt": b"a"} | expected
    assert result["url"].endswith(f"/tree/{result['commit']}/seed/0")


def test_a_new_branch_appears_with_everything_in_it(hub, client, folder, repo_id):
    repo = hub.create("model", repo_id, {"a.txt": b"a"})
    main = repo.branches["main"]
    result = publish(client, folder, repo_id, revision="round/1", tag="r1")
    assert repo.branches == {"main": main, "round/1": result["commit"]}
    assert repo.files("round/1") == FILES | {"a.txt": b"a"}
    assert repo.tags == {"r1": result["commit"]}
    assert len(repo.commits("round/1")) == 3


def test_a_branch_and_a_pull_request_that_are_there(hub, client, folder, repo_id):
    repo = hub.create("model", repo_id, {"a.txt": b"a"})
    repo.branches["dev"] = repo.branches["main"]
    repo.open_pull_request()
    for revision in ("dev", "refs/pr/1"):
        publish(client, folder, repo_id, revision=revision)
        assert repo.files(revision) == FILES | {"a.txt": b"a"}
    assert repo.files() == {"a.txt": b"a"}
    assert list(repo.branches) == ["main", "dev"]
    kind, text = fails(client, folder, repo_id, revision="refs/pr/2")
    assert (kind, "Open the pull request first" in text) == ("PublishError", True)


def test_300_files_are_one_commit_with_xet(hub, client, tmp_path, repo_id):
    files = {f"part-{number:03}.bin": b"\0%d" % number for number in range(300)}
    publish(client, write(tmp_path / "many", files), repo_id)
    assert hub.repo("model", repo_id).files() == files
    assert len(hub.repo("model", repo_id).commits()) == 2


def test_a_name_alone_is_the_users(hub, client, folder, repo_id):
    assert publish(client, folder, repo_id.split("/")[1])["repo_id"] == repo_id


def test_private_is_of_a_new_repository(hub, client, folder, repo_id):
    publish(client, folder, repo_id, private=True)
    assert hub.repo("model", repo_id).private
    publish(client, folder, repo_id)
    assert hub.repo("model", repo_id).private


def test_private_things_are_not_published_to_a_public_repository(hub, client, folder, repo_id):
    repo = hub.create("model", repo_id)
    kind, text = fails(client, folder, repo_id, private=True)
    assert kind == "PublishError"
    assert "it exists and is public, and is to be private. Change that on" in text
    assert repo.files() == {}


def test_a_space_needs_its_sdk(hub, client, folder, repo_id):
    kind, text = fails(client, folder, repo_id, repo_type="space")
    assert (kind, "needs a README.md with its `sdk`" in text) == ("ValueError", True)
    write(folder, {"README.md": b"---\nsdk: gradio\n---\n"})
    publish(client, folder, repo_id, repo_type="space")
    assert hub.repo("space", repo_id).files()["config.json"] == b"{}"


def test_a_gitignore_leaves_nothing_out(hub, client, folder, repo_id):
    hub.create("model", repo_id, {".gitignore": b"*.json\n*.parquet\n"})
    publish(client, write(folder, {".gitignore": b"*.json\n"}), repo_id)
    assert hub.repo("model", repo_id).files() == FILES | {".gitignore": b"*.json\n"}


# Tags


def test_a_tag_of_other_files_stops_everything(hub, client, folder, repo_id):
    repo = hub.create("model", repo_id, {"a.txt": b"a"})
    repo.tags["v1"] = main = repo.branches["main"]
    hub.clear()
    for revision in (None, "new"):
        kind, text = fails(client, folder, repo_id, tag="v1", revision=revision)
        assert kind == "PublishError"
        assert f"its tag v1 exists, at commit {main[:7]}, with other files" in text
    assert (repo.branches, repo.tags) == ({"main": main}, {"v1": main})
    assert {logged.method for logged in hub.requests} == {"GET"}


def test_a_tag_at_this_commit_may_be_there(hub, client, folder, repo_id):
    first = publish(client, folder, repo_id, tag="v1")
    assert publish(client, folder, repo_id, tag="v1") == first


def test_a_tag_at_another_commit_with_the_same_files_may_not(hub, client, folder, repo_id):
    publish(client, folder, repo_id, tag="v1")
    repo = hub.repo("model", repo_id)
    before = repo.tags["v1"]
    hub.push("model", repo_id, {"a.txt": b"a"})
    kind, text = fails(client, folder, repo_id, tag="v1")
    assert kind == "PublishError"
    assert "has a tag v1 at commit" in text
    assert repo.tags == {"v1": before}


# What cannot be published


def test_arguments_are_checked_before_anything_is_sent(hub, client, folder, repo_id):
    hub.clear()
    assert fails(client, folder, repo_id, repo_type="models")[1].startswith(
        "repo_type='models' is none: choose one of"
    )
    assert "user/name" in fails(client, folder, "a/b/c")[1]
    assert "max_attempts=0" in fails(client, folder, repo_id, max_attempts=0)[1]
    assert "path_in_repo='a/../b'" in fails(client, folder, repo_id, path_in_repo="a/../b")[1]
    assert "There is no folder" in fails(client, folder / "none", repo_id)[1]
    assert hub.requests == []


def test_bad_metadata_is_found_before_anything_is_sent(hub, client, folder, repo_id):
    write(folder, {"README.md": b"---\na: [\n---\n"})
    hub.clear()
    kind, text = fails(client, folder, repo_id)
    assert (kind, "README.md begins with is not valid YAML" in text) == ("ValueError", True)
    assert hub.requests == []


def test_a_token_that_may_not_write_changes_nothing(hub, client, folder, repo_id):
    repo = hub.create("model", repo_id, {"a.txt": b"a"})
    for name, token, text in (
        (repo_id, READ_TOKEN, "the token may not write to model"),
        ("tester/not-there", READ_TOKEN, "the token may not write to model"),
        ("elsewhere/not-there", None, "the token may not write to model"),
        (repo_id, "hf_unknown", "the Hub does not know the token"),
        ("name-alone", "hf_unknown", "the Hub does not know the token"),
    ):
        kind, found = fails(client, folder, name, token=token)
        assert (kind, text in found, client.waited) == ("PublishError", True, [])
    assert repo.files() == {"a.txt": b"a"}
    assert ("model", "tester/not-there") not in hub.repos


def test_a_hub_that_is_not_there(hub, folder, tmp_path):
    with HubClient(hub.environment(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}) as client:
        kind, text = fails(client, folder, "tester/x")
        assert (kind, "ConnectError" in text) == ("PublishError", True)
        assert client.waited == [2, 6, 18, 54]


# May it be published?


def check(client, *args, **kwargs):
    return client.call("angel_trl.hub:check_publishable", *args, **kwargs)


def test_what_may_be_published_is_found_out_without_changes(hub, client):
    hub.create("model", "tester/there")
    hub.clear()
    for repo_id in ("tester/new", "new", "there", "tester/there", "lab/new"):
        assert check(client, repo_id) is None
    assert {logged.method for logged in hub.requests} == {"GET"}


@pytest.mark.parametrize(
    ("repo_id", "token", "text"),
    [
        ("tester/x", READ_TOKEN, "the token of tester can only read. Make one with write permission"),
        ("tester/x", "hf_unknown", "the Hub does not know the token. Run `hf auth login`, or correct HF_TOKEN"),
        ("library/x", None, "tester can only read in library. Ask its owners"),
        ("elsewhere/x", None, "elsewhere is neither the user who is logged in nor an organization of theirs"),
        ("tester/x", OTHER_TOKEN, "Use one of other."),
    ],
)
def test_what_may_not_be_published(client, repo_id, token, text):
    kind, found = fails(client, repo_id, token=token, function="check_publishable")
    assert kind == "PublishError"
    assert text in found


@pytest.mark.parametrize(
    ("entity", "permissions", "may"),
    [
        ({"type": "user", "name": "tester"}, ["repo.content.read", "repo.write"], True),
        ({"type": "model", "name": "tester/x"}, ["repo.write"], True),
        ({"type": "user", "name": "tester"}, ["repo.content.read"], False),
        ({"type": "model", "name": "tester/y"}, ["repo.write"], False),
    ],
)
def test_fine_grained_tokens(hub, client, entity, permissions, may):
    token = "hf_" + "f" * 34
    hub.accounts[token] = Account("tester", "fineGrained", scoped=[{"entity": entity, "permissions": permissions}])
    if may:
        check(client, "tester/x", token=token)
    else:
        kind, text = fails(client, "tester/x", token=token, function="check_publishable")
        assert (kind, "has no write permission for the repositories of tester" in text) == ("PublishError", True)


def test_the_hub_has_the_last_word_on_a_repository_that_exists(hub, client, repo_id):
    hub.create("dataset", repo_id)
    hub.inject("GET", "/auth-check/write", status=403)
    kind, text = fails(client, repo_id, repo_type="dataset", function="check_publishable")
    assert kind == "PublishError"
    assert f"dataset {repo_id} cannot be published: the token may not write to dataset {repo_id}." in text


def test_a_failing_check_is_made_again(hub, client):
    hub.create("model", "tester/checked")
    for path in ("/api/whoami-v2", "/api/models/tester/checked$", "/auth-check/write"):
        hub.inject("GET", path, status=503, times=2)
    check(client, "tester/checked")
    assert client.waited == [2, 6] * 3


@pytest.mark.parametrize("function", ["check_publishable", "publish_folder"])
def test_a_token_that_is_none_is_not_shown(client, folder, function):
    args = (folder, "tester/x") if function == "publish_folder" else ("tester/x",)
    for token in (f"{WRITE_TOKEN}\n", f" {WRITE_TOKEN}", "", "hf_é"):
        with pytest.raises(ClientError, match="copy it again") as caught:
            client.call(f"angel_trl.hub:{function}", *args, token=token)
        assert WRITE_TOKEN not in caught.value.trace


def test_a_token_of_the_environment_that_is_none_is_refused(hub, tmp_path):
    with HubClient(hub.environment(tmp_path, "hf_é")) as client:
        kind, text = fails(client, "tester/x", function="check_publishable")
        assert (kind, "copy it again" in text) == ("ValueError", True)


def test_a_token_that_the_hub_repeats_is_not_shown(hub, client, folder, repo_id):
    hub.create("model", repo_id)
    hub.inject("POST", "/commit/", status=503, headers={"X-Error-Message": f"bad {WRITE_TOKEN}"}, times=2)
    kind, text = fails(client, folder, repo_id, max_attempts=2)
    assert (kind, "bad hf_***" in text, WRITE_TOKEN in text) == ("PublishError", True, False)
    assert "bad hf_***" in client.log


def test_offline_and_logged_out(hub, folder, tmp_path):
    environment = hub.environment(tmp_path, token=None)
    with HubClient(environment) as client:
        assert "Nobody is logged in" in fails(client, "tester/x", function="check_publishable")[1]
        assert "Nobody is logged in" in fails(client, folder, "tester/x")[1]
    with HubClient(hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}) as client:
        assert "unset HF_HUB_OFFLINE" in fails(client, "tester/x", function="check_publishable")[1]
        assert "unset HF_HUB_OFFLINE" in fails(client, folder, "tester/x")[1]


def test_the_line_about_what_was_published():
    published = Published("user/name", "dataset", "https://hf.co/x", "0123456789", "main", None, 1, 12)
    assert str(published) == "dataset user/name (1 file, 12.0B; main at 0123456): https://hf.co/x"
