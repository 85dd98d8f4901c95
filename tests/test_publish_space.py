"""recipes/publish_space.py: Spaces on a Hub that run by themselves, or nothing at all; the settings they read."""

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_client import HubClient
from hub_server import READ_TOKEN, HubServer
from space_world import knowledge_base, running_app, settings

from angel_trl import EntityLinker

ROOT = Path(__file__).resolve().parents[1]
SPACES = ROOT / "spaces"
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
EXAMPLES = "Bound by [copper].\nSigns of [delirium].\n"
# Everything else is installed here too, so that what is missing would be found: only .pth files, with which a checkout
# is installed, are not read without `site`.
BARE = [sys.executable, "-S"]

Settings = settings.Settings


def contents(folder, *ignored):
    """The files of a folder, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name not in ignored}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hub(tmp_path_factory, make_model, tokenizer):
    """A Hub with a linker, its positive-only stage, and pairs."""
    folder = tmp_path_factory.mktemp("models")
    row = {"round": 0, "chosen": " copper", "rejected": " aspirin", "chosen_log_prob": -3.0, "rejected_log_prob": -1.0}
    pq.write_table(pa.Table.from_pylist([row]), folder / "pairs.parquet")
    with HubServer() as server:
        for seed, name in enumerate(("linker", "positive")):
            EntityLinker(make_model(seed), tokenizer, knowledge_base()).save_pretrained(folder / name)
            server.create("model", f"tester/{name}", contents(folder / name), private=name == "positive")
        server.create("dataset", "tester/pairs", {"round-1.parquet": (folder / "pairs.parquet").read_bytes()})
        server.create("model", "tester/bert", {"config.json": b"{}", "kb.parquet": b""})
        yield server


@pytest.fixture
def publish(hub, home):
    """`publish(*arguments, token=...)`: the recipe as a user runs it; its process, ended."""

    def run(*arguments, token=None):
        environment = hub.environment(home, *([token] if token else []))
        command = [sys.executable, "recipes/publish_space.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def demo(hub, home, tmp_path_factory):
    """The demo with everything that can be set, as somebody else fetches it; `(folder, what publishing printed)`."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "passages.txt").write_text(EXAMPLES)
    command = [sys.executable, "recipes/publish_space.py", "--space", "tester/demo", "--linker", "tester/linker"]
    command += ["--positive", "tester/positive", "--pairs", "tester/pairs", "--kb_url", "https://kb.org/{id}"]
    command += ["--examples", str(folder / "passages.txt"), "--private"]
    done = subprocess.run(command, cwd=ROOT, env=hub.environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return fetch(hub, home, "tester/demo", folder / "fetched"), done.stdout


def fetch(hub, home, space, folder):
    with HubClient(hub.environment(home)) as client:
        client.call("huggingface_hub:snapshot_download", space, repo_type="space", local_dir=str(folder))
    return folder


def bare_environment(hub, home):
    """The environment of a Space: no checkout anywhere."""
    return hub.environment(home) | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "PYTHONDONTWRITEBYTECODE": "1"}


# --- the demo --------------------------------------------------------------------------------------------------------


def test_everything_that_it_needs_is_in_one_commit(hub, demo):
    folder, _ = demo
    repo = hub.repo("space", "tester/demo")
    assert repo.private
    assert [commit.title for commit in repo.commits()] == ["Publish with angel_trl", "initial commit"]
    made = {"README.md", "requirements.txt", "settings.json", "examples.txt", ".gitattributes"}
    found = {path: data for path, data in contents(folder).items() if path not in made and ".cache" not in path}
    package = {f"angel_trl/{path}": data for path, data in contents(ROOT / "angel_trl").items()}
    own = contents(SPACES / "entity-linking", "README.md", "requirements.txt")
    also = {name: (ROOT / name).read_bytes() for name in ("pyproject.toml", "LICENSE")}
    assert found == package | own | also


def test_its_requirements_are_those_of_the_package(demo):
    lines = (demo[0] / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == DEPENDENCIES


def test_its_card_names_what_it_shows_and_is_otherwise_as_it_was(demo):
    (before, body), (after, body_after) = (card(folder) for folder in (SPACES / "entity-linking", demo[0]))
    assert after == before | {"models": ["tester/linker", "tester/positive"], "datasets": ["tester/pairs"]}
    assert body_after == body


def test_it_says_what_is_where(hub, demo):
    lines = demo[1].splitlines()
    page = f"{hub.url}/spaces/tester/demo"
    commit = hub.repo("space", "tester/demo").branches["main"]
    assert lines[0].startswith("space tester/demo (")
    assert lines[1] == f"Once the Hub has built it, which takes minutes, it is at {page}"
    assert lines[2].startswith("Not public: tester/positive. The Space needs a secret HF_TOKEN")
    result = json.loads(lines[-1])
    assert (result["url"], result["commit"], result["linker"]) == (page, commit, "tester/linker")


def test_its_modules_are_its_own_and_read_its_settings(hub, home, demo):
    environment = bare_environment(hub, home)
    code = "import angel_trl, settings; print(angel_trl.__file__); print(settings.Settings.from_environment())"
    done = subprocess.run(
        [*BARE, "-c", code], cwd=demo[0], env=environment, capture_output=True, text=True, check=True
    )
    where, found = done.stdout.splitlines()
    assert Path(where) == demo[0] / "angel_trl" / "__init__.py"
    expected = Settings(
        model="tester/linker",
        positive="tester/positive",
        pairs="tester/pairs",
        kb_url="https://kb.org/{id}",
        examples=str(demo[0] / "examples.txt"),
    )
    assert found == str(expected)


def test_it_runs_by_itself(hub, home, demo, tmp_path):
    gradio_client = pytest.importorskip(
        "gradio_client", reason="pip install -c constraints.txt -e '.[space]' lets the test run"
    )
    environment = bare_environment(hub, home)
    if (
        subprocess.run(
            [*BARE, "-c", "import angel_trl"], cwd=tmp_path, env=environment, capture_output=True
        ).returncode
        == 0
    ):
        pytest.skip("angel_trl is installed other than with pip install -e")
    environment |= {"GRADIO_TEMP_DIR": str(tmp_path)}
    # As the Hub runs it.
    with running_app([*BARE, "app.py"], demo[0], environment, tmp_path / "space.log") as url:
        client = gradio_client.Client(url, verbose=False, analytics_enabled=False)
        (link,) = client.predict("Bound by [copper].", allowed=["Aspirin"], api_name="/link")
    assert (link["id"], link["name"]) == ("D001241", "Aspirin")
    assert hub.count("GET", "/tester/positive/resolve/.*/kb.parquet") == 1


# --- published again, or not -----------------------------------------------------------------------------------------


def test_publishing_again_replaces_all_of_it(hub, publish):
    assert publish("--space", "tester/again", "--linker", "tester/linker", "--pairs", "tester/pairs").returncode == 0
    hub.push("space", "tester/again", {"batch_tab_of_an_older_version.py": b"1"})
    done = publish("--space", "tester/again", "--linker", "tester/positive")
    repo = hub.repo("space", "tester/again")
    assert done.returncode == 0
    assert "batch_tab_of_an_older_version.py" not in repo.files()
    assert json.loads(repo.files()["settings.json"]) == {"model": "tester/positive"}
    assert b"datasets:" not in repo.files()["README.md"]
    head = repo.branches["main"]
    publish("--space", "tester/again", "--linker", "tester/positive")
    assert repo.branches["main"] == head


def test_a_space_of_something_else_is_left_alone(hub, publish):
    hub.create("space", "tester/other", {"README.md": b"# Mine", "app.py": b"1", "old.py": b"1"})
    done = publish("--space", "tester/other", "--linker", "tester/linker")
    assert done.returncode == 1
    assert "space tester/other holds files that this command did not put there" in done.stderr
    assert set(hub.repo("space", "tester/other").files()) == {"README.md", "app.py", "old.py"}


def test_a_failure_on_the_way_leaves_the_space_as_it_was(hub, publish):
    assert publish("--space", "tester/broken", "--linker", "tester/linker").returncode == 0
    before = hub.repo("space", "tester/broken").branches["main"]
    hub.inject("POST", "/commit/", status=400)
    done = publish("--space", "tester/broken", "--linker", "tester/positive")
    hub.clear()
    assert done.returncode == 1
    assert "space tester/broken was not published, and its main is as it was" in done.stderr
    assert hub.repo("space", "tester/broken").branches["main"] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--linker", "tester/nothing"),
            "--linker: there is no model tester/nothing on the Hub, or your token may not",
        ),
        (
            ("--linker", "tester/bert"),
            "--linker: the model tester/bert is no linker: it has no angel.json. `EntityLink",
        ),
        (
            ("--linker", "tester/linker", "--positive", "tester/pairs"),
            "--positive: there is no model tester/pairs on the Hub",
        ),
        (
            ("--linker", "tester/linker", "--pairs", "tester/linker"),
            "--pairs: there is no dataset tester/linker on the Hub",
        ),
        (
            ("--linker", "tester/linker", "--kb_url", "https://kb.org"),
            "kb_url in settings.json is 'https://kb.org'; write {id} where the concept's id goes.",
        ),
        (("--linker", "tester/linker", "--examples", "LICENSE.txt"), "--examples LICENSE.txt is no file."),
        (
            ("--linker", "tester/linker", "--examples", "angel_trl/py.typed"),
            "no line of it has a [mention] in brackets",
        ),
        (("--linker", "tester/linker@v1"), "--linker tester/linker@v1 is no id on the Hub: give user/name."),
        (("--linker", "runs/quickstart/linker"), "`EntityLinker.push_to_hub` puts a linker on the Hub."),
        ((), "The Space entity-linking shows a linker: give --linker user/name."),
        (("--source", "entity-linking-metric", "--kb_url", "x"), "shows no model: leave out --kb_url."),
        (("--source", "nothing"), "invalid choice: 'nothing'"),
    ],
)
def test_what_cannot_be_published_is_said_and_nothing_is(hub, publish, arguments, message):
    done = publish("--space", "tester/nothing", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert ("space", "tester/nothing") not in hub.repos


def test_who_may_not_write_is_told_first(hub, publish):
    done = publish("--space", "tester/nothing", "--linker", "tester/linker", token=READ_TOKEN)
    assert "can only read" in done.stderr
    assert ("space", "tester/nothing") not in hub.repos


# --- the metric ------------------------------------------------------------------------------------------------------


def test_the_metric_is_named_after_its_space(hub, publish):
    done = publish("--source", "entity-linking-metric", "--space", "tester/link-scores")
    files = hub.repo("space", "tester/link-scores").files()
    install = f"git+{hub.url}/spaces/tester/link-scores"
    assert done.returncode == 0, done.stderr
    assert f'evaluate.load("tester/link-scores") needs `pip install {install}`' in done.stdout
    assert {"app.py", "scoring.py", "link-scores.py", "angel_trl/metrics.py"} <= set(files)
    assert not {"settings.json", "entity-linking-metric.py"} & set(files)
    assert f"import EntityLinkingMetric  # From: {install}\n" in files["link-scores.py"].decode()
    needed = [line for line in files["requirements.txt"].decode().splitlines() if not line.startswith("#")]
    assert needed == ["datasets>=5.2,<6", "evaluate>=0.4.6,<0.5", "numpy>=2.4,<3"]
    text = files["README.md"].decode()
    assert f"\npip install {install}\n" in text
    assert 'evaluate.load("tester/link-scores")' in text
    assert "user/entity-linking-metric" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metric-1.0", "`evaluate` cannot load a metric with a dot in its name"),
        ("scoring", "the Space has a file scoring.py besides the metric"),
    ],
)
def test_a_metric_has_a_name_that_evaluate_can_load(hub, publish, name, message):
    done = publish("--source", "entity-linking-metric", "--space", f"tester/{name}")
    assert message in done.stderr
    assert ("space", f"tester/{name}") not in hub.repos


# --- settings.py -----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "settings.json"
    (tmp_path / "examples.txt").write_text(EXAMPLES)
    path.write_text('{"model": "user/one", "pairs": "user/pairs", "examples": "examples.txt"}')
    return path


def test_the_file_is_read_and_variables_win(file):
    examples = str(file.parent / "examples.txt")
    assert Settings.from_environment({}, file) == Settings("user/one", pairs="user/pairs", examples=examples)
    variables = {"ANGEL_PAIRS": "", "ANGEL_KB_URL": "https://kb.org/{id}", "ANGEL_THREADS": "2"}
    expected = Settings("user/one", examples=examples, kb_url="https://kb.org/{id}", threads=2)
    assert Settings.from_environment(variables, file) == expected


def test_with_another_model_nothing_in_the_file_is_used(file):
    assert Settings.from_environment({"ANGEL_MODEL": "user/two"}, file) == Settings("user/two")
    assert Settings.from_environment({}, file.with_name("none.json")) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", 'must be a JSON object of texts, such as {"model": "user/name"}'),
        ('{"model": 1}', "must be a JSON object of texts"),
        ('{"modell": "user/one"}', "has unknown settings modell; known are model, positive"),
        ('{"kb_url": "kb.org"}', "kb_url in settings.json is 'kb.org'; give a web address"),
        ('{"examples": "none.txt"}', "none.txt', which is no file"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_environment({}, file)


# --- the cards of Spaces ---------------------------------------------------------------------------------------------


def card(folder):
    """Metadata and text of a card."""
    _, metadata, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), body


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in SPACES.glob("*/README.md")), ids=lambda path: path.name
)
def test_the_metadata_of_a_space_is_what_the_hub_takes(folder):
    metadata, _ = card(folder)
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {metadata["colorFrom"], metadata["colorTo"]} <= colors
    assert len(metadata["short_description"]) <= 60
    assert metadata["sdk"] == "gradio"
    assert f"gradio=={metadata['sdk_version']}" in (ROOT / "constraints.txt").read_text().split()
    assert metadata["python_version"] == "3.11"
    assert (folder / metadata["app_file"]).is_file()
    assert metadata["license"] == "apache-2.0"
    assert metadata["title"]
    assert metadata["emoji"]
    assert ("metric" in metadata["tags"]) == (folder / f"{folder.name}.py").exists()


def test_a_requirement_that_the_package_lacks_is_refused():
    import publish_space

    with pytest.raises(ValueError, match="requirements.txt names pandas, which is not among"):
        publish_space.requirements("numpy\npandas\n", DEPENDENCIES)
