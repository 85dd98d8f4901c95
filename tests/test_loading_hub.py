"""Linkers and plain models from the Hub: what is fetched, by which revision, offline, and what is said of failures."""

import os
import re

import pytest
import torch
from hub_client import ClientError, HubClient
from hub_server import WRITE_TOKEN, HubServer

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker

# What repositories also hold, and nobody needs here.
OTHERS = {
    "README.md": b"Dear reader",
    "modeling.py": b"raise SystemExit('run')",
    "vectorizer.pkl": b"\x80\x04.",
    "scaler.joblib": b"\x80\x04.",
    "optimizer.pt": b"PK",
    "training_args.bin": b"PK",
    "tf_model.h5": b"HDF",
    "model.fp16.safetensors": b"other",
    "onnx/config.json": b"{}",
    "checkpoint-5/model.safetensors": b"other",
    "custom_generate/generate.py": b"raise SystemExit('run')",
}


def link(*args, **kwargs):
    """What a linker that is loaded in this process answers; called in a client's process."""
    torch.set_num_threads(1)  # as the tests' own, for the same last digits
    kb = kwargs.pop("concepts", None)
    if kb is not None:
        kwargs["kb"] = KnowledgeBase([Concept(concept_id, tuple(names)) for concept_id, names in kb])
    [linked] = EntityLinker.from_pretrained(*args, **kwargs).link("Famotidine-associated [delirium].")
    return [[list(candidate.ids), candidate.matched_name, candidate.score] for candidate in linked.candidates]


def link_as(token, *args, **kwargs):
    """The same with another token, or none."""
    own = os.environ.pop("HF_TOKEN")
    os.environ.update({"HF_TOKEN": token} if token else {})
    try:
        return link(*args, **kwargs)
    finally:
        os.environ["HF_TOKEN"] = own


KB = [("C28", ["Delirium", "Acute Confusion"]), ("C29", ["Fever"])]


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_model, tokenizer, small_kb):
    """Folders: `linker`, a saved linker; `second`, another; `plain`, a model as the published ones are; `kb`."""
    root = tmp_path_factory.mktemp("folders")
    for seed, name in enumerate(("linker", "second")):
        EntityLinker(make_model(seed=seed), tokenizer, small_kb).save_pretrained(root / name)
    model = make_model(seed=2)
    model.config.save_pretrained(root / "plain")
    tokenizer.backend_tokenizer.model.save(str(root / "plain"))
    torch.save(model.state_dict(), root / "plain" / "pytorch_model.bin")
    small_kb.save_pretrained(root / "kb")
    return root


@pytest.fixture(scope="module")
def hub(folders):
    """A Hub with `tester/linker`, tagged v1 before it changed, and `tester/plain`, and private ones."""
    with HubServer() as hub:
        repo = hub.create("model", "tester/linker", content(folders / "linker") | OTHERS)
        repo.tags["v1"] = repo.branches["main"]
        hub.push("model", "tester/linker", content(folders / "second"))
        repo.branches["dev"] = repo.tags["v1"]
        hub.create("model", "tester/plain", content(folders / "plain") | OTHERS)
        hub.create("model", "tester/secret", content(folders / "linker"), private=True)
        hub.create("dataset", "tester/kb", content(folders / "kb"))
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(hub, home):
    with HubClient(hub.environment(home)) as client:
        yield client


@pytest.fixture(scope="module")
def offline(hub, home):
    """A client that shares the cache of `client` and must not use the network."""
    with HubClient(hub.environment(home) | {"HF_HUB_OFFLINE": "1"}) as client:
        yield client


def fetched(hub, repo_id):
    return {match[1] for one in hub.requests if (match := re.match(rf"/{repo_id}/resolve/[^/]+/(.*)", one.path))}


def failing(client, *args, function="link", **kwargs):
    with pytest.raises(ClientError) as raised:
        client.call(f"test_loading_hub:{function}", *args, **kwargs)
    return raised.value


def test_a_linker_is_loaded_by_branch_tag_and_commit(hub, client, folders):
    repo = hub.repo("model", "tester/linker")
    first, second = link(folders / "linker"), link(folders / "second")
    assert first != second
    for revision in (None, "main"):
        assert client.call("test_loading_hub:link", "tester/linker", revision=revision) == second
    for revision in ("v1", "dev", repo.tags["v1"]):
        assert client.call("test_loading_hub:link", "tester/linker", revision=revision) == first


def test_nothing_but_the_linker_is_fetched(hub, client, folders):
    hub.clear()
    client.call("test_loading_hub:link", "tester/linker")
    hub.create("model", "tester/once", content(folders / "linker") | OTHERS | {"pytorch_model.bin": b"not fetched"})
    hub.clear()
    client.call("test_loading_hub:link", "tester/once")
    assert fetched(hub, "tester/once") == set(content(folders / "linker"))
    # And again: it is only asked which commit it is.
    hub.clear()
    client.call("test_loading_hub:link", "tester/once")
    assert [one.path for one in hub.requests] == ["/api/models/tester/once/revision/main"]


def test_a_plain_model_takes_its_knowledge_base_from_anywhere(hub, client, folders, small_kb):
    hub.clear()
    found = client.call("test_loading_hub:link", "tester/plain", kb="tester/kb")
    assert fetched(hub, "tester/plain") == {"config.json", "vocab.json", "merges.txt", "pytorch_model.bin"}
    assert found == link(folders / "plain", kb=small_kb)
    assert client.call("test_loading_hub:link", "tester/plain", concepts=KB) == link(folders / "plain", concepts=KB)


def test_offline_the_cache_is_used(hub, client, offline, folders):
    for revision in (None, "v1"):
        client.call("test_loading_hub:link", "tester/linker", revision=revision)
    client.call("test_loading_hub:link", "tester/plain", kb="tester/kb")
    hub.clear()
    first, second = link(folders / "linker"), link(folders / "second")
    commit = hub.repo("model", "tester/linker").tags["v1"]
    for revision, expected in ((None, second), ("v1", first), (commit, first)):
        assert offline.call("test_loading_hub:link", "tester/linker", revision=revision) == expected
    assert offline.call("test_loading_hub:link", "tester/plain", kb="tester/kb")
    assert hub.requests == []


def test_offline_what_was_not_fetched_is_said(offline, hub, client, folders):
    error = failing(offline, "tester/linker", revision="v9")
    assert error.kind == "FileNotFoundError"
    assert "the model tester/linker (revision v9) is not, or not wholly, in the cache" in error.text
    assert "HF_HUB_OFFLINE" in error.text
    # Weights that could not be fetched.
    hub.create("model", "tester/half", content(folders / "plain"))
    hub.inject("GET", "tester/half/resolve/.*/pytorch_model.bin", lose="request", times=20)
    error = failing(client, "tester/half", concepts=KB)
    assert error.kind == "ConnectionError"
    assert "Try again: what was fetched is kept" in error.text
    hub.clear()
    error = failing(offline, "tester/half", concepts=KB)
    assert error.kind == "FileNotFoundError"
    assert "is not, or not wholly, in the cache" in error.text
    # What was fetched is kept, and the rest is fetched when it can be.
    assert client.call("test_loading_hub:link", "tester/half", concepts=KB) == link(folders / "plain", concepts=KB)
    assert "config.json" not in fetched(hub, "tester/half")


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [
        ("tester/none", None, "There is no folder tester/none here, and no model tester/none at http://127.0.0.1"),
        ("tester/linker", "v9", "tester/linker has no revision 'v9'"),
        ("tester/kb", None, "no model tester/kb at"),
        ("tester/plain", None, "has no kb.parquet: it is a model without a knowledge base"),
    ],
)
def test_what_is_not_there_is_said(client, repo_id, revision, message):
    assert message in failing(client, repo_id, revision=revision).text


def test_a_private_linker_takes_a_token(client, folders):
    error = failing(client, None, "tester/secret", function="link_as")
    assert error.kind == "FileNotFoundError"
    assert "or it is private: log in with `hf auth login`" in error.text
    assert client.call("test_loading_hub:link", "tester/secret") == link(folders / "linker")
    assert client.call("test_loading_hub:link_as", None, "tester/linker") == link(folders / "second")


def test_a_token_that_is_none_is_refused(hub, client, folders):
    hub.create("model", "tester/open", content(folders / "linker"))
    error = failing(client, WRITE_TOKEN[:-1] + "x", "tester/open", function="link_as")
    assert error.kind == "PermissionError"
    assert "the Hub refuses your token (401 Unauthorized); log in again with `hf auth login`" in error.text


def test_of_a_gated_model_it_is_said_where_to_ask(hub, client, folders):
    hub.create("model", "tester/gated", content(folders / "linker"))
    hub.inject("GET", "/api/models/tester/gated", status=403, headers={"X-Error-Code": "GatedRepo"})
    error = failing(client, "tester/gated")
    assert error.kind == "PermissionError"
    assert f"tester/gated is gated: ask for access at {hub.url}/tester/gated" in error.text


def test_weights_of_a_model_that_cannot_be_used_are_not_fetched(hub, client, folders):
    plain = content(folders / "plain")
    for name, changed, message in (
        ("bert", {"config.json": b'{"model_type": "bert"}'}, "of a model of type 'bert', which cannot link"),
        ("code", {"config.json": b'{"model_type": "bart", "auto_map": {"AutoConfig": "a.B"}}'}, "asks for code"),
        ("wordless", {"merges.txt": None}, "has no tokenizer"),
        ("weightless", {"pytorch_model.bin": None, "tf_model.h5": b"HDF"}, "has no weights"),
    ):
        hub.create("model", f"tester/{name}", {path: data for path, data in (plain | changed).items() if data})
        hub.clear()
        assert message in failing(client, f"tester/{name}", concepts=KB).text
        assert not {path for path in fetched(hub, f"tester/{name}") if not path.endswith((".json", ".txt"))}
    hub.clear()
    failing(client, "tester/plain")
    assert fetched(hub, "tester/plain") <= {"config.json", "vocab.json", "merges.txt"}


def test_a_pickle_of_the_hub_is_not_run(hub, client, folders, tmp_path):
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    evil = {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()}
    hub.create("model", "tester/evil", content(folders / "plain") | evil)
    error = failing(client, "tester/evil", concepts=KB)
    assert "pytorch_model.bin does not hold weights alone, or is broken (it asks for posix.mkdir)" in error.text
    assert not (tmp_path / "ran").exists()
    assert hub.repo("model", "tester/evil").branches["main"] in error.text
