"""The loopback Hub, used by the real clients, behaves as the Hub does: the tests of publishing rest on it."""

import io
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import ClientError, both_clients
from hub_server import OTHER_TOKEN, READ_TOKEN, HubServer

MODES = ["lfs", "xet"]
# Packed in each of Xet's three ways, in several chunks, and repeated; regular; and empty.
FILES = {
    "README.md": b"---\nlicense: mit\n---\nA model.\n",
    "config.json": b"{}\n",
    "deep/er/empty.bin": b"",
    "deep/floats.npy": np.linspace(0, 1, 100_003, dtype=np.float32).tobytes() + b"end",
    "noise.bin": np.random.default_rng(0).bytes(300_000),
    "text.bin": b"abcdefgh" * 60_000,
}


@pytest.fixture(scope="module")
def hub():
    with HubServer(page=4) as server:
        yield server


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    with both_clients(hub, tmp_path_factory.mktemp("homes")) as clients:
        yield clients


@pytest.fixture
def client(clients, hub):
    hub.clear()
    return clients["lfs"]


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".gitattributes"
    }


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_uploaded_is_downloaded_by_either_client(hub, clients, folder, mode, kind):
    repo_id = f"tester/round-{mode}"
    hub.clear()
    clients[mode].call("huggingface_hub:create_repo", repo_id, repo_type=kind)
    clients[mode].call("huggingface_hub:upload_folder", folder_path=folder, repo_id=repo_id, repo_type=kind)
    assert hub.repo(kind, repo_id).files() == FILES
    assert (hub.count("POST", "/info/lfs/objects/batch") > 0) == (mode == "lfs")
    assert (hub.count("POST", "/cas/v1/shards") > 0) == (mode == "xet")
    for client in clients.values():
        path = client.call("huggingface_hub:snapshot_download", repo_id, repo_type=kind)
        assert contents(path) == FILES


def test_a_xet_file_comes_through_xet(hub, clients, folder):
    # Content that no cache has yet.
    (folder / "noise.bin").write_bytes(np.random.default_rng(1).bytes(200_000))
    clients["xet"].call("huggingface_hub:create_repo", "tester/through")
    clients["xet"].call("huggingface_hub:upload_folder", folder_path=folder, repo_id="tester/through")
    hub.clear()
    clients["xet"].call("huggingface_hub:hf_hub_download", "tester/through", "noise.bin")
    assert hub.count("GET", "/cas/v1/reconstructions/") == 1
    assert hub.count("GET", "/storage/") == 0


def test_a_dataset_loads(hub, client):
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "number": [1, 2]}), table)
    readme = b"---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    hub.create("dataset", "tester/loads", {"README.md": readme, "data/train.parquet": table.getvalue()})
    loaded = client.call("hub_client:load_dataset", "tester/loads")
    assert loaded == {"text": ["a", "b"], "number": [1, 2]}


def test_a_tree_comes_page_by_page(hub, client):
    hub.create("model", "tester/pages", {f"{number}.txt": b"x" for number in range(9)})
    files = client.call("huggingface_hub:list_repo_files", "tester/pages")
    assert files == [".gitattributes", *(f"{number}.txt" for number in range(9))]
    assert [logged.path[-8:] for logged in hub.requests[1:]] == ["cursor=4", "cursor=8"]


def test_a_commit_on_another_parent_is_refused(hub, client, folder):
    repo = hub.create("model", "tester/parent")
    before = repo.branches["main"]
    hub.push("model", "tester/parent", {"other.txt": b"o"})
    upload = {"path_or_fileobj": folder / "config.json", "path_in_repo": "c.json", "repo_id": "tester/parent"}
    with pytest.raises(ClientError, match="412"):
        client.call("huggingface_hub:upload_file", **upload, parent_commit=before)
    assert repo.files() == {"other.txt": b"o"}


def test_a_pull_request_is_merged(hub, client, folder):
    repo = hub.create("model", "tester/request", {"old.txt": b"old"})
    upload = {"path_or_fileobj": folder / "config.json", "path_in_repo": "c.json", "repo_id": "tester/request"}
    client.call("huggingface_hub:upload_file", **upload, create_pr=True)
    assert repo.files("refs/pr/1") == {"c.json": b"{}\n", "old.txt": b"old"}
    assert repo.files() == {"old.txt": b"old"}
    hub.push("model", "tester/request", {"new.txt": b"new"})
    client.call("huggingface_hub:merge_pull_request", "tester/request", 1)
    assert repo.files() == {"c.json": b"{}\n", "new.txt": b"new", "old.txt": b"old"}


def test_branches_and_tags(hub, client):
    repo = hub.create("model", "tester/refs", {"a.txt": b"a"})
    first = repo.branches["main"]
    client.call("huggingface_hub:create_branch", "tester/refs", branch="with/slash")
    client.call("huggingface_hub:create_tag", "tester/refs", tag="v1", revision="with/slash")
    hub.push("model", "tester/refs", {"a.txt": b"b"})
    refs = client.call("huggingface_hub:list_repo_refs", "tester/refs")
    assert {ref["name"]: ref["target_commit"] for ref in refs["branches"]} == repo.branches
    assert repo.branches["with/slash"] == repo.tags["v1"] == first
    with pytest.raises(ClientError, match="409"):
        client.call("huggingface_hub:create_tag", "tester/refs", tag="v1")
    path = client.call("huggingface_hub:hf_hub_download", "tester/refs", "a.txt", revision="v1")
    assert Path(path).read_text() == "a"
    client.call("huggingface_hub:delete_branch", "tester/refs", branch="with/slash")
    assert list(repo.branches) == ["main"]
    with pytest.raises(ClientError) as caught:
        client.call("huggingface_hub:snapshot_download", "tester/refs", revision="with/slash")
    assert caught.value.kind == "RevisionNotFoundError"


def test_a_private_repository_is_hidden_from_others(hub, client):
    hub.create("model", "tester/secret", {"a.txt": b"a"}, private=True)
    assert client.call("huggingface_hub:list_repo_files", "tester/secret") == [".gitattributes", "a.txt"]
    for token in (OTHER_TOKEN, False):
        with pytest.raises(ClientError) as caught:
            client.call("huggingface_hub:list_repo_files", "tester/secret", token=token)
        assert caught.value.kind == "RepositoryNotFoundError"


@pytest.mark.parametrize(("token", "status"), [(READ_TOKEN, "403"), (OTHER_TOKEN, "403"), ("hf_wrong", "401")])
def test_only_those_who_may_write_do(hub, client, folder, token, status):
    repo = hub.create("model", "tester/mine")
    with pytest.raises(ClientError, match=status):
        client.call(
            "huggingface_hub:upload_folder", folder_path=folder, repo_id="tester/mine", token=token, create_pr=False
        )
    assert repo.files() == {}


def test_bad_metadata_is_refused(hub, client, folder):
    (folder / "README.md").write_text("---\na: [\n---\n")
    hub.create("model", "tester/yaml")
    with pytest.raises(ClientError, match="Invalid metadata in README.md"):
        client.call("huggingface_hub:upload_folder", folder_path=folder, repo_id="tester/yaml")


def test_a_part_of_a_file(hub):
    hub.create("model", "tester/part", {"a.txt": b"0123456789"})
    request = urllib.request.Request(f"{hub.url}/tester/part/resolve/main/a.txt", headers={"Range": "bytes=2-4"})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, b"234")
        assert answer.headers["Content-Range"] == "bytes 2-4/10"


def test_faults_come_in_order_and_are_spent(hub, client):
    hub.create("model", "tester/faults", {"a.txt": b"a"})
    hub.inject("GET", "/api/models/tester/faults$", status=429, retry_after=7)
    hub.inject("GET", "/api/models/tester/faults$", lose="request", times=2)
    kinds = []
    for _ in range(3):
        with pytest.raises(ClientError) as caught:
            client.call("huggingface_hub:model_info", "tester/faults")
        kinds.append(caught.value.kind)
    assert kinds == ["HfHubHTTPError", "RemoteProtocolError", "RemoteProtocolError"]
    assert client.call("huggingface_hub:model_info", "tester/faults")["id"] == "tester/faults"
    assert [logged.status for logged in hub.requests] == [429, 0, 0, 200]


def test_a_lost_response_is_of_a_request_that_was_done(hub, client):
    hub.inject("POST", "/api/repos/create", lose="response")
    with pytest.raises(ClientError, match="RemoteProtocolError"):
        client.call("huggingface_hub:create_repo", "tester/lost")
    assert hub.repo("model", "tester/lost").files() == {}
