"""A linker with its card on the Hub: published, loaded as anybody would, and all or nothing."""

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hub_client import ClientError, HubClient, both_clients
from hub_server import READ_TOKEN, WRITE_TOKEN, HubServer
from linker_world import LINKER, RESULTS, TEXT, contents

from angel_trl import Concept, KnowledgeBase, linker_hub
from angel_trl.linker import EntityLinker

pytest_plugins = ["linker_world"]

# What linkers and models of other kinds leave behind: each of these would be loaded with this one, or in its place.
LEFT_BEHIND = {
    "README.md": b"old",
    "adapter_config.json": b"{}",
    "added_tokens.json": b"{}",
    "merges.txt": b"a b",
    "model-00001-of-00002.safetensors": b"\0weights",
    "model.safetensors.index.json": b"{}",
    "spiece.model": b"\0",
    "vocab.json": b"{}",
}
# What people put beside a linker stays.
KEPT = {"LICENSE": b"MIT", "images/tree.svg": b"<svg/>"}
COMMIT = "/api/models/.*/commit/"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def clients(hub, homes):
    """Those that publish, "lfs" and "xet", and "offline", with the cache of the first."""
    # Where a linker is put together before it is published.
    (homes / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(homes / "tmp"))
        offline = HubClient(hub.environment(homes / "lfs") | {"HF_HUB_OFFLINE": "1"})
        with offline, both_clients(hub, homes) as both, ThreadPoolExecutor() as pool:
            clients = {**both, "offline": offline}
            list(pool.map(lambda client: client.call("linker_world:ready"), clients.values()))
            yield clients


@pytest.fixture(params=["lfs", "xet"])
def client(request, clients, hub):
    hub.clear()
    return clients[request.param]


@pytest.fixture
def repo(request, hub):
    """A repository of its own for each test, with files of other linkers."""
    name = re.sub(r"[^\w]+", "-", request.node.name.removeprefix("test_"))[-60:].strip("-")
    return hub.create("model", f"tester/{name}", LEFT_BEHIND | KEPT)


@pytest.fixture
def tidy(homes):
    """Whatever happens, nothing is left of what was put together."""
    yield
    assert not [name for name in os.listdir(homes / "tmp") if "linker" in name]


def told(client, *args, **kwargs):
    return client.call("linker_world:push", *args, **kwargs)


def fails(client, *args, **kwargs):
    """The text of a `PublishError`, which like the log never shows a token."""
    with pytest.raises(ClientError) as caught:
        told(client, *args, **kwargs)
    assert caught.value.kind == "PublishError", caught.value.trace
    assert not any(token in caught.value.trace + client.log for token in (WRITE_TOKEN, READ_TOKEN))
    return caught.value.text


def unchanged(repo):
    return repo.files() == LEFT_BEHIND | KEPT and len(repo.commits()) == 2 and not repo.tags


def whole(repo, revision="main"):
    """Whether a branch or tag has all files of a linker that belong together, and no other."""
    files = repo.files(revision)
    settings = json.loads(files["angel.json"])
    return (
        files.keys() - KEPT.keys() - {".gitattributes"} == LINKER | {"README.md"}
        and settings["kb_fingerprint"].encode() in files["README.md"]
        and f'from_pretrained("{repo.repo_id}'.encode() in files["README.md"]
    )


@pytest.mark.usefixtures("tidy")
def test_a_published_linker_is_loaded_by_name_and_tag(hub, clients, homes, linker, saved, curve):
    said = {"private": True, "tag": "v1", "license": "mit", "corpus": "NCBI Disease"}
    result = told(clients["xet"], saved, "tester/angel", results=RESULTS, curve=str(curve), **said)
    repo = hub.repo("model", "tester/angel")
    assert repo.private
    assert repo.tags == {"v1": result["commit"]}
    assert "model tester/angel (11 files" in result["str"]
    # A commit after the tag, of another linker.
    told(clients["xet"], saved, "tester/angel", scale=1.5)
    torch.set_num_threads(1)
    expected = json.loads(json.dumps([linked.as_dict() for linked in linker.link(TEXT, top_k=5)]))
    assert expected[0]["confidence"] is not None
    # The home of the other client: nothing was downloaded there before.
    assert not (homes / "lfs" / "hub").exists()
    fresh = clients["lfs"]
    assert fresh.call("linker_world:answers", "tester/angel", revision="v1") == expected
    assert fresh.call("linker_world:answers", "tester/angel")[0]["score"] != expected[0]["score"]
    code = fresh.call("linker_world:run_the_lines_of_the_card", "tester/angel", "v1")
    assert 'EntityLinker.from_pretrained("tester/angel", revision="v1")' in code
    hub.clear()
    assert clients["offline"].call("linker_world:answers", "tester/angel", revision="v1") == expected
    assert hub.requests == []


def test_files_of_earlier_linkers_go_in_the_same_commit(client, repo, saved):
    told(client, saved, repo.repo_id)
    assert whole(repo)
    assert len(repo.commits()) == 3
    assert "calibration" in json.loads(repo.files()["angel.json"])
    told(client, saved, repo.repo_id, calibrated=False)
    assert "calibration" not in json.loads(repo.files()["angel.json"])
    assert b"Not calibrated" in repo.files()["README.md"]
    assert whole(repo)
    assert repo.files().items() >= KEPT.items()
    # Of four commits the first is empty; the history keeps what was there.
    assert repo.files(repo.commits()[2].oid) == LEFT_BEHIND | KEPT


def test_the_same_linker_is_published_once(hub, client, repo, saved):
    first = told(client, saved, repo.repo_id, tag="v1")
    hub.clear()
    assert told(client, saved, repo.repo_id, tag="v1") == first
    assert hub.count("POST", COMMIT) == 0


def test_a_checkpoint_of_a_round_is_a_branch(client, repo, saved):
    told(client, saved, repo.repo_id, revision="round-003", round=(3, 10))
    assert whole(repo, "round-003")
    assert repo.files("main") == LEFT_BEHIND | KEPT
    card = repo.files("round-003")["README.md"].decode()
    assert "**A checkpoint after round 3 of 10, not the outcome of a training.**" in card
    assert f'from_pretrained("{repo.repo_id}", revision="round-003")' in card


@pytest.mark.parametrize("repo_id", ["linker", "user/linker/main"])
def test_a_name_that_is_not_of_a_user_is_refused_before_anything_is_written(linker, repo_id):
    with pytest.raises(ValueError, match="give 'user/name'"):
        linker.push_to_hub(repo_id)


# Faults


LFS, XET = ("PUT", "/storage/"), ("POST", "/cas/v1/xorbs/")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 429, "times": 2}, id="429"),
        pytest.param({"status": 503, "times": 2}, id="503"),
        pytest.param({"lose": "request"}, id="cut"),
        pytest.param({"lose": "response"}, id="landed but lost"),
    ],
)
@pytest.mark.parametrize("where", ["commit", "upload", "tag"])
@pytest.mark.parametrize("mode", ["lfs", "xet"])
def test_a_fault_that_passes_is_survived(hub, clients, repo, saved, mode, where, fault):
    upload = LFS if mode == "lfs" else XET
    hub.clear()
    hub.inject(*{"commit": ("POST", COMMIT), "upload": upload, "tag": ("POST", "/tag/")}[where], **fault)
    # Weights of their own, for Xet sends no content that it sent before.
    scale = 1 + (hash_of(repo.repo_id) % 1000) / 1000
    result = told(clients[mode], saved, repo.repo_id, scale=scale, tag="v1")
    assert any(logged.status in (0, 429, 503) for logged in hub.requests)
    assert whole(repo)
    assert len(repo.commits()) == 3
    assert repo.tags == {"v1": result["commit"]} == {"v1": repo.branches["main"]}
    assert list(repo.branches) == ["main"]


def hash_of(text):
    return sum(place * ord(sign) for place, sign in enumerate(text, 1))


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [("lfs", "POST", COMMIT), ("xet", "POST", COMMIT), ("lfs", *LFS), ("xet", *XET)],
)
def test_a_fault_that_stays_changes_nothing(hub, clients, repo, saved, mode, method, path):
    hub.clear()
    hub.inject(method, path, status=503, times=99)
    scale = 2 + (hash_of(repo.repo_id) % 1000) / 1000
    assert "was not published" in fails(clients[mode], saved, repo.repo_id, scale=scale, tag="v1")
    assert unchanged(repo)
    hub.clear()
    told(clients[mode], saved, repo.repo_id, scale=scale, tag="v1")
    assert whole(repo, "v1")
    assert len(repo.commits()) == 3


def test_without_its_tag_it_is_published_all_the_same(hub, client, repo, saved):
    hub.inject("POST", "/tag/", status=503, times=99)
    text = fails(client, saved, repo.repo_id, tag="v1")
    head = repo.branches["main"]
    assert f"was published, main at {head[:7]}, but without its tag v1" in text
    assert whole(repo)
    hub.clear()
    told(client, saved, repo.repo_id, tag="v1")
    assert repo.tags == {"v1": head}


def test_another_knowledge_base_and_model_replace_the_first(
    hub, clients, repo, make_model, tokenizer, tmp_path, saved
):
    told(clients["lfs"], saved, repo.repo_id)
    EntityLinker(make_model(seed=1), tokenizer, KnowledgeBase([Concept("X1", ("Gout",))])).save_pretrained(tmp_path)
    told(clients["lfs"], tmp_path, repo.repo_id)
    assert whole(repo)
    assert clients["lfs"].call("linker_world:answers", repo.repo_id)[0]["candidates"][0]["ids"] == ["X1"]


# The last tests, as they kill the clients: starting others would take longer than everything above.


def killed(client, hub, method, path, *args, **kwargs):
    """Kill a client in the middle of a push, when this request has come; what lets the Hub go on with it then."""
    come, go_on = threading.Event(), threading.Event()
    hub.clear()
    hub.inject(method, path, before=lambda: (come.set(), go_on.wait(300)))
    client.start("linker_world:push", *args, **kwargs)
    assert come.wait(300)
    client.process.send_signal(signal.SIGKILL)
    client.process.wait()
    return go_on


def test_killed_while_it_commits_and_published_again(hub, clients, repo, saved):
    go_on = killed(clients["xet"], hub, "POST", COMMIT, saved, repo.repo_id, scale=4.0, tag="v1")
    assert unchanged(repo)
    go_on.set()
    # The commit was sent whole, and is made after all, or not: either way there is one.
    result = told(clients["lfs"], saved, repo.repo_id, scale=4.0, tag="v1")
    assert whole(repo, "v1")
    assert len(repo.commits()) == 3
    assert repo.tags == {"v1": result["commit"]}


def test_killed_while_it_uploads_and_published_again(hub, clients, repo, linker, saved, tmp_path):
    killed(clients["lfs"], hub, *LFS, saved, repo.repo_id, scale=5.0, tag="v1").set()
    assert unchanged(repo)
    # By a process that needs no model: of a folder, as it was saved with its card.
    linker_hub.save(linker, tmp_path / "linker", repo_id=repo.repo_id, revision="v1")
    with HubClient(hub.environment(tmp_path / "home")) as client:
        said = {"tag": "v1", "delete_others": True}
        client.call("angel_trl.hub:publish_folder", tmp_path / "linker", repo.repo_id, **said)
    assert repo.files("v1").keys() - KEPT.keys() == LINKER | {"README.md"}
    assert {name: repo.files("v1")[name] for name in LINKER | {"README.md"}} == contents(tmp_path / "linker")
    assert len(repo.commits()) == 3
