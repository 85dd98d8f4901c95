"""What trainers publish: the finished linker, the pairs, the linkers of rounds, and nothing behind our back."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_client import ClientError, HubClient
from hub_server import READ_TOKEN, HubServer
from publishing_worker import trainer, write_world

LINKER = {
    "README.md",
    "angel.json",
    "config.json",
    "generation_config.json",
    "kb.parquet",
    "model.safetensors",
    "results.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "trie.safetensors",
}
TAGS = ["round-01", "round-02", "round-03"]
# On a new branch the first commit is made aside.
FIRST, LATER = "/api/models/.*/commit/publishing-", "/api/models/.*/commit/rounds"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def process(hub, tmp_path_factory):
    with HubClient(hub.environment(tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture
def client(process, hub):
    hub.clear()
    return process


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_model, tokenizer, small_kb, small_mentions):
    return write_world(tmp_path_factory.mktemp("world"), make_model(seed=1), tokenizer, small_kb, small_mentions)


@pytest.fixture
def name(request):
    """A repository of its own for each test."""
    return f"tester/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


def settings(name, strategy="every_save", **more):
    return {"push_to_hub": True, "hub_model_id": name, "hub_strategy": strategy, **more}


def fails(client, function, *args, **kwargs):
    """The text of the error that publishing ends with."""
    with pytest.raises(ClientError) as caught:
        client.call(f"publishing_worker:{function}", *args, **kwargs)
    assert caught.value.kind in ("PublishError", "ValueError"), caught.value.trace
    return caught.value.text


def written(hub):
    """The requests that change something, without what is different each time."""
    return [
        re.sub(r"publishing-\w+", "publishing-...", re.sub(r"[0-9a-f]{40,}", "...", logged.path))
        for logged in hub.requests
        if logged.method not in ("GET", "HEAD")
    ]


def commits(hub, repo_id):
    return [path for path in written(hub) if "/commit/" in path and f"{repo_id}/" in path]


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def weights(repo, revision):
    return hashlib.sha256(repo.files(revision)["model.safetensors"]).hexdigest()


def test_every_round_is_published_and_in_the_end_the_finished_linker_and_the_pairs(hub, client, world, tmp_path, name):
    said = {"license": "mit", "corpus_license": "cc0-1.0"}
    where = settings(name, hub_private_repo=True)
    done = client.call("publishing_worker:train", world, tmp_path, where, push={"tag": "v1"}, card=said)
    assert client.waited == []
    repo, pairs = hub.repo("model", name), hub.repo("dataset", f"{name}-pairs")
    assert repo.private
    assert pairs.private
    assert list(repo.branches) == ["main", "rounds"]
    assert repo.tags.keys() == {*TAGS, "v1"}
    # Three steps a round; the second was best, and is the finished one.
    for number, tag in enumerate(TAGS, 1):
        assert set(repo.files(tag)) == LINKER
        assert weights(repo, tag) == digest(tmp_path / f"checkpoint-{3 * number}")
        card = repo.files(tag)["README.md"].decode()
        assert f"A checkpoint after round {number} of 3" in card
        assert f'from_pretrained("{name}", revision="{tag}")' in card
    assert repo.branches["rounds"] == repo.tags["round-03"]
    assert set(repo.files("main")) == LINKER
    assert [commit.title for commit in repo.commits("main")] == ["End of training", "initial commit"]
    assert weights(repo, "main") == digest(tmp_path / "final") == digest(tmp_path / "linker")
    assert (done["commit"], done["tag"]) == (repo.branches["main"], "v1")
    assert "license: mit" in repo.files("main")["README.md"].decode()
    assert set(pairs.files()) == {"README.md", *(f"data/{tag}.parquet" for tag in TAGS)}
    for number, tag in enumerate(TAGS):
        here = tmp_path / "pairs" / f"round-{number:03d}.parquet"
        assert pairs.files()[f"data/{tag}.parquet"] == here.read_bytes()
    assert "license: cc0-1.0" in pairs.files()["README.md"].decode()
    # What has been published is not kept twice.
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["published.json"]
    assert list(json.loads((tmp_path / "rounds" / "published.json").read_text())["rounds"]) == TAGS
    # And these were all that was sent.
    assert [path for path in written(hub) if "/lfs/" not in path and "/storage/" not in path] == [
        "/api/repos/create",
        f"/api/models/{name}/branch/publishing-...",
        f"/api/models/{name}/preupload/publishing-...",
        "/api/validate-yaml",
        f"/api/models/{name}/commit/publishing-...",
        f"/api/models/{name}/branch/rounds",
        f"/api/models/{name}/branch/publishing-...",
        f"/api/models/{name}/tag/...",
        *[
            f"/api/models/{name}/{path}" if path.startswith(("preupload", "commit", "tag")) else path
            for path in 2 * ["preupload/rounds", "/api/validate-yaml", "commit/rounds", "tag/..."]
        ],
        f"/api/models/{name}/preupload/main",
        "/api/validate-yaml",
        f"/api/models/{name}/commit/main",
        f"/api/models/{name}/tag/...",
        "/api/repos/create",
        f"/api/datasets/{name}-pairs/preupload/main",
        "/api/validate-yaml",
        f"/api/datasets/{name}-pairs/commit/main",
    ]
    assert {logged.user for logged in hub.requests if "/storage/" not in logged.path} == {"tester"}

    # Training is what it is without publishing, and then nothing at all is sent.
    hub.clear()
    client.call("publishing_worker:train", world, tmp_path / "alone", {"hub_model_id": name})
    assert hub.requests == []
    assert digest(tmp_path / "alone" / "final") == digest(tmp_path / "final")

    # Loaded as users do.
    answer, names = client.call("publishing_worker:link", name, "A [fever].", revision="round-01")
    assert answer.startswith("C")
    assert names == 71
    loaded = client.call("publishing_worker:rounds_of", f"{name}-pairs", *TAGS)
    assert [set(columns["round"]) for columns in loaded.values()] == [{0}, {1}, {2}]


def test_only_the_finished_linker_is_published_unless_rounds_are_asked_for(hub, client, world, tmp_path, name):
    where = settings(name, "end", hub_pairs_id="none", hub_revision="tuned")
    client.call("publishing_worker:train", world, tmp_path, where)
    assert written(hub) == []
    assert not (tmp_path / "rounds").exists()
    assert client.call("publishing_worker:publish", world, tmp_path, where)["revision"] == "tuned"
    repo = hub.repo("model", name)
    assert set(repo.files("tuned")) == LINKER
    assert repo.files("main") == {}
    assert repo.tags == {}
    assert ("dataset", f"{name}-pairs") not in hub.repos


def test_a_trainer_of_right_names_publishes_a_linker(hub, client, world, tmp_path, name):
    where = {"push_to_hub": True, "hub_model_id": name}
    client.call("publishing_worker:train_positive", world, tmp_path, where)
    assert set(hub.repo("model", name).files()) == LINKER - {"results.json"}
    assert commits(hub, name) == [f"/api/models/{name}/commit/main"]


def test_a_round_that_fails_ends_nothing_and_is_tried_again(hub, client, world, tmp_path, name):
    hub.inject("POST", LATER, status=403)
    client.call("publishing_worker:train", world, tmp_path, settings(name), push={})
    assert "round-02: " in client.log
    assert "It is kept in" in client.log
    assert sorted(hub.repo("model", name).tags) == TAGS
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["published.json"]


def test_what_fails_to_the_end_is_kept_and_published_later(hub, client, world, tmp_path, name):
    hub.inject("POST", LATER, status=403, times=99)
    hub.inject("POST", "/api/datasets/.*/commit/", status=403, times=99)
    text = fails(client, "train", world, tmp_path, settings(name), push={})
    assert f"Published: model {name}" in text
    assert f"NOT published, pairs: dataset {name}-pairs was not published" in text
    assert "NOT published, round-02: " in text
    assert "NOT published, round-03: " in text
    repo = hub.repo("model", name)
    assert list(repo.tags) == ["round-01"]
    assert set(repo.files("main")) == LINKER
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["published.json", *TAGS[1:]]
    hub.clear()
    client.call("publishing_worker:publish", world, tmp_path, settings(name))
    assert sorted(repo.tags) == TAGS
    assert weights(repo, "round-02") == digest(tmp_path / "checkpoint-6")
    assert set(hub.repo("dataset", f"{name}-pairs").files()) == {"README.md", *(f"data/{tag}.parquet" for tag in TAGS)}


def test_a_run_killed_while_it_publishes_goes_on_and_publishes_all(hub, client, world, tmp_path, name):
    come, go_on = threading.Event(), threading.Event()
    hub.inject("POST", FIRST, before=lambda: (come.set(), go_on.wait(300)))
    with HubClient(hub.environment(tmp_path / "home")) as killed:
        killed.start("publishing_worker:train", world, tmp_path / "run", settings(name))
        assert come.wait(300)
        killed.process.kill()
        killed.process.wait()
    go_on.set()
    run = tmp_path / "run"
    assert (run / "rounds" / "round-01" / "angel.json").exists()
    client.call("publishing_worker:train", world, run, settings(name), resume=True, push={})
    repo = hub.repo("model", name)
    assert sorted(repo.tags) == TAGS
    for number, tag in enumerate(TAGS, 1):
        assert weights(repo, tag) == digest(run / f"checkpoint-{3 * number}")
    assert sorted(repo.branches) == ["main", "rounds"]

    # Killed before the last linker was saved, and when one was on the Hub but not noted to be: at its checkpoint.
    record = run / "rounds" / "published.json"
    noted = json.loads(record.read_text())
    for tag in TAGS[1:]:
        del noted["rounds"][tag]
    record.write_text(json.dumps(noted))
    (run / "rounds" / "round-02").mkdir()
    for path, content in repo.files("round-02").items():
        (run / "rounds" / "round-02" / path).write_bytes(content)
    before = repo.tags.copy()
    del repo.tags["round-03"]
    hub.clear()
    client.call("publishing_worker:train", world, run, settings(name), resume=True, push={})
    assert repo.tags == before
    assert list(json.loads(record.read_text())["rounds"]) == TAGS
    assert [path.name for path in (run / "rounds").iterdir()] == ["published.json"]
    assert commits(hub, name) == []


def test_the_first_of_two_processes_publishes(hub, client, world, tmp_path, name):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(Path(__file__).with_name("publishing_worker.py")), str(world), str(tmp_path / "run"), name],
        env=hub.environment(tmp_path / "home") | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    repo = hub.repo("model", name)
    assert list(repo.tags) == TAGS
    assert [len(repo.commits(branch)) for branch in ("main", "rounds")] == [2, 4]
    assert weights(repo, "main") == digest(tmp_path / "run" / "final")


def test_rounds_of_another_run_are_in_the_way_before_any_work_is_done(hub, client, world, tmp_path, name):
    repo = hub.create("model", name, {"README.md": b"x"})
    repo.tags["round-02"] = repo.branches["main"]
    text = fails(client, "train", world, tmp_path, settings(name))
    assert f"model {name} cannot be published: it has the tags round-02 of another run's rounds" in text
    assert f"hf repos tag delete {name} round-02" in text
    assert not (tmp_path / "pairs").exists()
    assert written(hub) == []
    # They are not when no rounds are published.
    client.call("publishing_worker:trainer_is_made", world, tmp_path, settings(name, "end"))


@pytest.mark.parametrize(
    ("prepare", "more", "message"),
    [
        (lambda hub, name: None, {"hub_token": READ_TOKEN}, "can only read"),
        (lambda hub, name: None, {"hub_token": "hf_" + "x" * 34}, "the Hub does not know the token"),
        (lambda hub, name: None, {"hub_model_id": "library/model"}, "tester can only read in library"),
        (lambda hub, name: None, {"hub_pairs_id": "nobody/pairs"}, "nobody is neither the user who is logged in"),
        (lambda hub, name: hub.create("model", name), {"hub_private_repo": True}, "exists and is public, and is to"),
        (
            lambda hub, name: hub.create("dataset", f"{name}-pairs"),
            {},
            "exists and is public, and is to be private (mined pairs hold passages of the corpus; hub_private false",
        ),
        (
            lambda hub, name: hub.create("dataset", f"{name}-pairs", {"data/mine.csv": b"x"}, private=True),
            {},
            "it holds data/mine.csv, so is not a dataset of mined pairs",
        ),
        (lambda hub, name: None, {"hub_model_id": "model"}, "give 'user/name'"),
    ],
    ids=["read only", "token", "organization", "pairs", "public", "public pairs", "other data", "name"],
)
def test_what_cannot_be_published_is_refused_when_the_trainer_is_made(
    hub, client, world, tmp_path, name, prepare, more, message
):
    prepare(hub, name)
    assert message in fails(client, "trainer_is_made", world, tmp_path, settings(name) | more)
    assert written(hub) == []


def test_a_model_that_is_no_linker_is_not_replaced_without_a_word(hub, client, world, tmp_path, name):
    hub.create("model", name, {"README.md": b"Mine", "pytorch_model.bin": b"weights"})
    client.call("publishing_worker:trainer_is_made", world, tmp_path, settings(name))
    assert f"model {name} holds pytorch_model.bin on main, so is no linker: weights, settings, " in client.log
    hub.create("model", f"{name}-linker", {"angel.json": b"{}", "model.safetensors": b"weights"})
    client.call("publishing_worker:trainer_is_made", world, tmp_path, settings(f"{name}-linker"))
    assert "so is no linker" not in client.log
    assert f"The linker, with a copy of its knowledge base, will be published as {name}-linker, " in client.log


def test_pushing_in_the_background_is_refused(client, world, tmp_path, name):
    text = fails(client, "publish", world, tmp_path, {"hub_model_id": name}, blocking=False)
    assert "blocking is False" in text


def test_a_card_that_cannot_be_is_refused_before_training(world, tmp_path):
    with pytest.raises(TypeError, match="licence"):
        trainer(world, tmp_path, {}, card={"licence": "mit"})
    with pytest.raises(ValueError, match="kb_id is 'my kb', which is no id on the Hub"):
        trainer(world, tmp_path, {}, card={"kb_id": "my kb", "corpus_license": "mit"})
