"""A knowledge base in a folder and on the Hub: saved, published, loaded, and what is said where there is none."""

import json
import subprocess
import sys

import pytest
from hub_server import READ_TOKEN, HubServer
from huggingface_hub import DatasetCard

from angel_trl import Concept, KnowledgeBase

CONCEPTS = [Concept("D1", ("Ataxia", "ATAXIA"), ("A1",), ("T047",), "Clumsy."), Concept("D2", ("Gout",))]

PUSH = """
from angel_trl import KnowledgeBase
kb = KnowledgeBase.from_parquet({path!r})
print(kb.push_to_hub("tester/kb", private=True, tag="v1", license="cc-by-4.0", source="by hand"))
print(kb.extended([]).push_to_hub("tester/kb"))
"""
LOAD = """
import json
from datasets import load_dataset
from angel_trl import KnowledgeBase, read_knowledge_base
print(json.dumps({
    "main": KnowledgeBase.from_pretrained("tester/kb").fingerprint,
    "v1": KnowledgeBase.from_pretrained("tester/kb", revision="v1").fingerprint,
    "dataset": load_dataset("tester/kb", split="train")[:],
    "read": read_knowledge_base("tester/kb").fingerprint,
}))
"""
CACHED = "from angel_trl import KnowledgeBase\nprint(KnowledgeBase.from_pretrained('tester/kb').fingerprint)"
FAILS = """
import json, sys
from angel_trl import KnowledgeBase
said = []
for where, revision in json.loads(sys.argv[1]):
    try:
        KnowledgeBase.from_pretrained(where, revision=revision)
    except FileNotFoundError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def client(script, environment, *arguments, **more):
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment | more,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.splitlines()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A Hub with a private knowledge base `tester/kb`, the knowledge base, the environment and what was printed."""
    folder = tmp_path_factory.mktemp("kb")
    kb = KnowledgeBase(CONCEPTS, source="kb.txt")
    kb.to_parquet(folder / "kb.parquet")
    with HubServer() as hub:
        environment = hub.environment(folder / "home", xet=True)
        lines = client(PUSH.format(path=str(folder / "kb.parquet")), environment)
        yield hub, kb, environment, lines


def test_a_knowledge_base_is_published_with_its_card(published):
    hub, kb, _, lines = published
    repo = hub.repo("dataset", "tester/kb")
    assert repo.private
    assert set(repo.files("v1")) == {"README.md", "kb.parquet"}
    card = DatasetCard(repo.files("v1")["README.md"].decode())
    assert card.data["license"] == "cc-by-4.0"
    assert 'KnowledgeBase.from_pretrained("tester/kb")' in card.text
    assert "Source: by hand" in card.text
    assert kb.fingerprint in card.text
    assert "tester/kb" in lines[0]
    assert "tag v1" in lines[0]


def test_publishing_again_replaces_the_card_and_keeps_the_tag(published):
    hub, _, _, _ = published
    repo = hub.repo("dataset", "tester/kb")
    now, before = (DatasetCard(repo.files(at)["README.md"].decode()) for at in ("main", "v1"))
    assert now.data.get("license") is None
    assert before.data["license"] == "cc-by-4.0"
    assert repo.files("main")["kb.parquet"] == repo.files("v1")["kb.parquet"]


def test_loading_gives_what_was_published(published, tmp_path):
    hub, kb, environment, _ = published
    home = {"HF_HOME": str(tmp_path)}
    (line,) = client(LOAD, environment, **home)
    found = json.loads(line)
    assert {found["main"], found["v1"], found["read"]} == {kb.fingerprint}
    assert found["dataset"] == {
        "id": ["D1", "D2"],
        "names": [["Ataxia", "ATAXIA"], ["Gout"]],
        "alternate_ids": [["A1"], []],
        "types": [["T047"], []],
        "definition": ["Clumsy.", ""],
    }
    before = len(hub.requests)
    assert client(CACHED, environment, HF_HUB_OFFLINE="1", **home) == [kb.fingerprint]
    assert len(hub.requests) == before


def test_what_is_not_there_is_said(published, tmp_path):
    hub, _, environment, _ = published
    hub.create("dataset", "tester/other", {"data/train.csv": b"a\n1\n"})
    asked = [
        ("tester/none", None),
        ("tester/other", None),
        ("tester/kb", "v9"),
        ("folder/with/kb", None),
        (str(tmp_path), None),
    ]
    (line,) = client(FAILS, environment, json.dumps(asked))
    none, other, revision, no_id, folder = json.loads(line)
    assert "no folder tester/none here" in none
    assert "hf auth login" in none
    assert "kb.parquet" in other
    assert "no revision 'v9'" in revision
    assert "not the id of a Hub dataset (user/name)" in no_id
    assert "a folder without kb.parquet" in folder
    (line,) = client(FAILS, environment, json.dumps([("tester/kb", None)]), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "in the cache" in json.loads(line)[0]


def test_a_token_that_may_only_read_publishes_nothing(tmp_path):
    KnowledgeBase(CONCEPTS).to_parquet(tmp_path / "kb.parquet")
    with HubServer() as hub:
        run = subprocess.run(
            [sys.executable, "-c", PUSH.format(path=str(tmp_path / "kb.parquet"))],
            env=hub.environment(tmp_path / "home", token=READ_TOKEN),
            capture_output=True,
            text=True,
        )
        assert "PublishError" in run.stderr
        assert ("dataset", "tester/kb") not in hub.repos or not hub.repo("dataset", "tester/kb").files("main")


def test_saving_and_loading_a_folder(tmp_path, small_kb):
    small_kb.save_pretrained(tmp_path / "new" / "kb", license="mit", source="made up")
    assert sorted(path.name for path in (tmp_path / "new" / "kb").iterdir()) == ["README.md", "kb.parquet"]
    assert KnowledgeBase.from_pretrained(tmp_path / "new" / "kb").fingerprint == small_kb.fingerprint
    card = DatasetCard.load(tmp_path / "new" / "kb" / "README.md")
    assert card.data["license"] == "mit"
    assert "Source: made up" in card.text


def test_the_same_knowledge_base_is_saved_as_the_same_bytes(tmp_path, small_kb):
    for name in ("a", "b"):
        small_kb.save_pretrained(tmp_path / name)
    for file in ("kb.parquet", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_name_without_a_user_is_refused_before_anything_is_written(small_kb):
    with pytest.raises(ValueError, match="give 'user/name'"):
        small_kb.push_to_hub("kb")


def test_importing_the_knowledge_base_loads_no_hub_client():
    heavy = "('datasets', 'huggingface_hub', 'pyarrow', 'transformers')"
    script = f"import sys, angel_trl.kb; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
