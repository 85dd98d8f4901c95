"""recipes/prepare.py and the Hub: what it publishes there, and when it publishes nothing."""

import json
from pathlib import Path

import pytest
from hub_server import READ_TOKEN, HubServer
from prepare_world import both, client, files, write_data

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(tmp_path):
    """A folder with a corpus, its knowledge base and a file of corrected links."""
    return write_data(tmp_path / "data")


def test_both_are_published_and_read_from_the_hub(data, tmp_path):
    to = ("--push_to_hub", "--hub_dataset_id", "tester/mentions", "--hub_kb_id", "tester/kb", "--hub_private", "true")
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        done = client("recipes/prepare.py", *both(data, *to), environment=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        line = json.loads(done.stdout.splitlines()[-1])
        assert len(line["published"]) == 2
        for repo_id, name in (("tester/mentions", "mentions"), ("tester/kb", "kb")):
            repo = hub.repo("dataset", repo_id)
            assert repo.private
            there = {path: content for path, content in repo.files("main").items() if path != ".gitattributes"}
            assert there == files(data.parent / "out" / name)
        card = hub.repo("dataset", "tester/mentions").files("main")["README.md"].decode()
        assert 'read_corpus("tester/mentions")' in card
        assert "[tester/kb](https://huggingface.co/datasets/tester/kb)" in card
        script = (
            "from angel_trl import read_corpus, KnowledgeBase; from datasets import load_dataset\n"
            "print({s: len(d) for s, d in read_corpus('tester/mentions')[0].items()})\n"
            "print({s: len(d) for s, d in load_dataset('tester/mentions').items()})\n"
            "print(len(KnowledgeBase.from_pretrained('tester/kb')))"
        )
        read = client("-c", script, environment=environment | {"HF_HOME": str(tmp_path / "other")})
        assert read.stdout.splitlines() == [*["{'train': 8, 'dev': 8, 'test': 8}"] * 2, "3"], read.stderr[-2000:]

        hub.push("dataset", "tester/mentions", {"data/extra-00000-of-00001.parquet": b"x"})
        again = client("recipes/prepare.py", *both(data, *to), environment=environment)
        assert again.returncode != 0
        assert "holds data/extra-00000-of-00001.parquet, which would be read together" in again.stderr


def test_nothing_is_done_where_nothing_can_be_published(data, tmp_path):
    to = ("--push_to_hub", "--hub_dataset_id", "tester/mentions")
    with HubServer() as hub:
        run = client("recipes/prepare.py", *both(data, *to), environment=hub.environment(tmp_path / "h", READ_TOKEN))
        assert run.returncode != 0
        assert "can only read" in run.stderr
        assert "Traceback" not in run.stderr
    assert not (data.parent / "out").exists()
