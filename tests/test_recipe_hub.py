"""recipes/angel.py and the Hub: what it publishes, what happens when that fails, what it refuses before training."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import readme_commands
from hub_client import HubClient
from hub_server import READ_TOKEN, HubServer

from angel_trl import AngelConfig

ROOT = Path(__file__).resolve().parents[1]
# On 12 concepts of the quickstart: see `kill_worker.small_quickstart`. 3 rounds of 3 steps.
SMALL = {
    "config": ROOT / "recipes" / "configs" / "quickstart.yaml",
    "cpu_threads": 1,
    "pretrain_passes": 0,
    "positive_epochs": 1,
    "positive_batch_size": 16,
    "kb_mentions_per_mention": 0,
    "num_rounds": 3,
    "mentions_per_round": 24,
    "mined_kb_mentions": 0,
    "per_device_train_batch_size": 8,
    "num_beams": 3,
    "bootstrap": 20,
    "disable_tqdm": "true",
}
# The README's command, but for the name, with the linkers of rounds.
PUBLISH = ("--hub_strategy", "every_save", *shlex.split(readme_commands.PUBLISH)[3:-1])
TAGS = ["round-01", "round-02", "round-03"]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def process(hub, tmp_path_factory):
    with HubClient(hub.environment(tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture
def run(process, hub):
    """`run(output, *flags)`: how a run of the recipe ended, what it printed and logged, its last line as JSON."""
    hub.clear()

    def run(output, *flags):
        settings = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
        done = process.call("publishing_worker:recipe", ["--output_dir", output, *settings, *flags])
        lines = done["printed"].splitlines()
        return done | {"log": process.log, "line": json.loads(lines[-1]) if lines else None}

    return run


def written(hub):
    return [logged.path for logged in hub.requests if logged.method not in ("GET", "HEAD")]


def modified(output):
    return {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}


def test_a_run_is_published_and_loaded_from_the_hub(run, process, hub, tmp_path):
    said = ("--license", "mit", "--kb_license", "cc0-1.0", "--corpus_license", "CC BY 4.0", "--language", "en")
    output = tmp_path / "secret folder" / "diseases"
    done = run(output, *PUBLISH, "tester/diseases", *said)
    assert done["code"] == 0, done["log"][-3000:]
    model, pairs = hub.repo("model", "tester/diseases"), hub.repo("dataset", "tester/diseases-pairs")
    assert list(model.branches) == ["main", "rounds"]
    assert sorted(model.tags) == TAGS
    assert not model.private
    assert pairs.private
    linker = {path.name: path.read_bytes() for path in (output / "linker").iterdir()}
    assert {"README.md", "results.json", "learning_curve.png", "model.safetensors"} <= set(linker)
    assert model.files() == linker
    card = linker["README.md"].decode()
    assert "license: mit" in card
    assert "| **ANGEL** (this linker) |" in card
    assert 'EntityLinker.from_pretrained("tester/diseases")' in card
    command = next(line for line in card.splitlines() if line.startswith("accelerate launch recipes/angel.py"))
    # The configuration of the quickstart is what it takes without being told.
    assert shlex.split(command)[3:7] == ["--output_dir", "diseases", "--cpu_threads", "1"]
    for path, content in [*model.files().items(), *model.files("rounds").items(), *pairs.files().items()]:
        assert b"secret folder" not in content, path
    for tag in TAGS:
        assert "license: mit" in model.files(tag)["README.md"].decode()
    about = pairs.files()["README.md"].decode()
    assert "license: cc-by-4.0" in about
    assert "Licence of the knowledge base, as stated by who prepared this: cc0-1.0" in about
    assert "Corpus: the synthetic quickstart" in about

    assert "The mined pairs, which hold passages of the corpus, will be published as the dataset" in done["log"]
    *_, first, second, third, seen, _ = done["printed"].splitlines()
    assert first.startswith("Published: model tester/diseases (")
    assert second.startswith("Published: dataset tester/diseases-pairs (4 files, ")
    assert third.startswith("Published: the linkers of rounds, with the tags round-01, round-02, round-03: http")
    assert seen.startswith("The pairs hold passages of the corpus: the dataset is private (--hub_private false")
    published = done["line"]["published"]
    assert published["model"]["commit"] == model.branches["main"]
    assert published["pairs"]["repo_id"] == "tester/diseases-pairs"
    assert list(published["rounds"]) == TAGS
    assert published["failed"] == {}

    answer, _ = process.call("publishing_worker:link", "tester/diseases", "An [ataxia].", revision="round-01")
    assert answer
    loaded = process.call("publishing_worker:rounds_of", "tester/diseases-pairs", "round-01")["round-01"]
    assert set(loaded["round"]) == {0}
    assert len(loaded["prompt"]) > 0

    # Again it is only looked at, neither trained, tested nor sent.
    hub.clear()
    before, seconds = modified(output), json.loads(linker["results.json"])["test"]["ANGEL"]["mentions_per_second"]
    done = run(output, *PUBLISH, "tester/diseases", *said, "--resume")
    assert done["code"] == 0, done["log"][-3000:]
    assert written(hub) == []
    assert modified(output) == before
    again = json.loads((output / "results.json").read_text())
    assert again["test"]["ANGEL"]["mentions_per_second"] == seconds
    assert done["line"]["published"] == published


def test_what_fails_is_kept_and_published_without_training_again(run, hub, tmp_path):
    hub.create("model", "tester/fails")
    flags = (*PUBLISH, "tester/fails", "--hub_private", "false")
    # Refused in the first round, which is tried again, and in the end.
    for path in ("models/.*/commit/publishing-", "models/.*/commit/main", "datasets/.*/commit/main"):
        hub.inject("POST", f"/api/{path}", status=403)
    done = run(tmp_path, *flags)
    assert done["code"] == 1
    assert sorted(done["line"]["published"]["failed"]) == ["model", "pairs"]
    assert "round-01: " in done["log"]
    model = hub.repo("model", "tester/fails")
    assert sorted(model.tags) == TAGS
    assert model.files("main") == {}
    lines = done["printed"].splitlines()
    assert any(line.startswith("NOT published, model: model tester/fails was not published") for line in lines)
    place = next(place for place, line in enumerate(lines) if line.startswith("Everything is kept: "))
    command = shlex.split(lines[place + 1])
    assert command[:3] == ["accelerate", "launch", "recipes/angel.py"]
    assert command[-1] == "--resume"
    before = modified(tmp_path)
    done = run(tmp_path, *flags, "--resume")
    assert done["code"] == 0, done["log"][-3000:]
    assert modified(tmp_path) == before
    assert done["line"]["published"]["failed"] == {}
    assert "model.safetensors" in model.files("main")
    pairs = hub.repo("dataset", "tester/fails-pairs")
    assert not pairs.private
    assert "The pairs hold passages of the corpus: everyone can see them, as you asked for" in done["printed"]

    # The same names for another run: its rounds are in the way.
    done = run(tmp_path / "other", *flags)
    assert "it has the tags round-01, round-02, round-03 of another run's rounds" in done["code"]
    assert not (tmp_path / "other").exists()


def test_a_token_that_is_refused_when_the_rounds_begin_ends_nothing(run, hub, tmp_path):
    # Asked for linker and pairs before the first stage, and again by the trainer of the rounds.
    hub.inject("GET", "/api/whoami-v2", times=2)
    hub.inject("GET", "/api/whoami-v2", status=401, times=99)
    done = run(tmp_path, *PUBLISH, "tester/later")
    assert done["code"] == 0, done["log"][-3000:]
    assert "Training goes on, and publishing is tried again later: model tester/later cannot be" in done["log"]
    assert sorted(hub.repo("model", "tester/later").tags) == TAGS


def test_without_publishing_nothing_is_sent_and_the_linker_has_its_card(run, hub, tmp_path):
    done = run(tmp_path, "--skip_angel", "--hub_model_id", "tester/unused")
    assert done["code"] == 0, done["log"][-3000:]
    assert hub.requests == []
    assert done["line"]["published"] == {"rounds": {}, "failed": {}}
    assert "| **positive-only** (this linker) |" in (tmp_path / "positive" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--push_to_hub",), "push_to_hub needs hub_model_id: give 'user/name'"),
        (("--push_to_hub", "--hub_model_id", "model"), "'model' is no id of a Hub repository: give 'user/name'"),
        (("--push_to_hub", "--hub_model_id", "stranger/model"), "stranger is neither the user who is logged in"),
        ((*PUBLISH, "tester/x", "--save_strategy", "best"), "save_strategy is 'best'. Set it to 'epoch'"),
        (("--hub_private", "true", "--hub_private_repo", "false"), "--hub_private and --hub_private_repo contradict"),
        (("--language", "English"), "language is 'English'; give an ISO 639 code"),
        (("--kb_id", "my kb"), "kb_id is 'my kb', which is no id on the Hub"),
    ],
)
def test_what_cannot_be_is_refused_before_training(run, hub, tmp_path, flags, message):
    done = run(tmp_path / "run", *flags)
    assert message in done["code"]
    assert written(hub) == []
    assert not (tmp_path / "run").exists()


def test_the_command_of_a_card_is_for_others_too(tmp_path):
    import publishing

    (tmp_path / "ncbi").mkdir()
    given = {
        "--config": str(ROOT / "recipes" / "configs" / "ncbi.yaml"),
        "--corpus": str(tmp_path / "ncbi"),
        "--kb": "user/kb",
        "--loss_type": ["sigmoid", "sft"],
        "--hub_token": "hf_" + "w" * 34,
        "--license": "CC BY 4.0",
    }
    argv = [word for name, value in given.items() for word in (name, *([value] if isinstance(value, str) else value))]
    angel = AngelConfig(str(tmp_path), use_cpu=True, report_to="none")
    told = publishing.PublishArguments(license="CC BY 4.0")
    about = {"model": "facebook/bart-large", "corpus": str(tmp_path / "ncbi"), "kb": "user/kb"}
    argv += ["--resume", "true", f"--output_dir={tmp_path}/x", "--hub-token=hf_" + "v" * 34]
    card = publishing.Publication(told, angel, **about, argv=argv).card
    assert card["command"] == (
        "accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus ncbi --kb user/kb "
        "--loss_type sigmoid sft --license 'CC BY 4.0' --output_dir=x"
    )
    assert (card["base_model"], card["kb_id"], card["datasets"]) == ("facebook/bart-large", "user/kb", [])
    assert card["corpus"] == "ncbi"


def test_the_quickstart_is_published_without_being_told_a_configuration(hub, tmp_path):
    command = [sys.executable, "recipes/angel.py", "--push_to_hub", "--hub_model_id", "tester/quickstart"]
    environment = hub.environment(tmp_path / "home", READ_TOKEN)
    # It has settings, is not offline, and is stopped by the token.
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "run"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "the token of tester can only read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
