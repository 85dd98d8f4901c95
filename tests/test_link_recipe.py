"""The linking recipe as a user runs it: real processes, killed and started again, one and two of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from angel_trl import EntityLinker
from angel_trl.corpus_linking import LinkingSettings, link_corpus

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"shard_mentions": 4, "batch_size": 4, "format": "pubtator", "once": True}
OPTIONS = [part for name, value in (SETTINGS | {"cpu_threads": 1}).items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import link
    finally:
        sys.path.remove(str(ROOT / "recipes"))
    return link


@pytest.fixture(scope="module")
def linker(tmp_path_factory, make_model, tokenizer, small_kb):
    """A folder with a linker."""
    folder = tmp_path_factory.mktemp("linker")
    EntityLinker(make_model(seed=1), tokenizer, small_kb).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path, small_mentions):
    """320 documents of a mention in two files; some shards have a mention in the same context twice."""
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        documents = [
            f"{number}|t|{row['text']}\n{number}\t{row['start']}\t{row['end']}\t{row['mention']}\tDisease\n\n"
            for number in range(160)
            for row in (small_mentions[number * (part + 1) % 6 + number // 20],)
        ]
        (folder / f"{part}.txt").write_text("".join(documents))
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(240)
def test_killed_and_started_again_with_two_processes_it_ends_with_the_bytes_of_one(linker, corpus, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    description = {"linker": str(linker), "revision": None, "commit": None}
    settings = LinkingSettings(**SETTINGS)
    reference = link_corpus(EntityLinker.from_pretrained(linker), corpus, whole, settings, description=description)
    assert reference.shards == 80
    assert reference.report["counts"]["mentions"] == 320
    assert reference.report["counts"]["computed"] < 320
    arguments = ["recipes/link.py", "--linker", linker, "--input", corpus, "--output", output, *OPTIONS]
    arguments = [str(part) for part in arguments]
    run = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while len(list((output / "links").glob("*.parquet"))) < 3:
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.01)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == -signal.SIGKILL
    there = len(list((output / "links").glob("*.parquet")))
    assert 3 <= there < 80
    assert not (output / "report.json").exists()
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    done = subprocess.run(
        [*launch, "--config_file", "recipes/accelerate/ddp.yaml", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result = json.loads(line)
    assert result["processes"] == 2
    assert result["shards_now"] in (80 - there, 81 - there)  # of a shard whose parquet was not there yet, half is
    assert result["mentions"] == 320
    found = content(output)
    found = {name: data for name, data in found.items() if not name.endswith(".partial")}
    assert found == content(whole)


def run_here(recipe, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["link.py", *map(str, arguments)])
    recipe.main()


def test_the_last_line_is_one_json_object(recipe, linker, corpus, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    run_here(recipe, monkeypatch, "--linker", linker, "--input", corpus / "0.txt", "--output", output, *OPTIONS)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["output"] == str(output)
    assert (result["mentions"], result["linked_now"], result["shards"], result["skipped"]) == (160, 160, 40, 0)
    assert result["mentions_per_second"] > 0
    assert json.loads((output / "run.json").read_text())["description"]["linker"] == str(linker)


def test_of_a_linker_on_the_hub_the_commit_is_kept(recipe, linker, corpus, tmp_path, monkeypatch):
    cached = tmp_path / "snapshots" / "0123abc"
    cached.parent.mkdir()
    cached.symlink_to(linker)
    monkeypatch.setattr(recipe, "find_folder", lambda name, revision: cached)
    source, output = corpus / "0.txt", tmp_path / "out"
    arguments = ("--linker", "user/name", "--revision", "v1", "--input", source, "--output", output)
    run_here(recipe, monkeypatch, *arguments, "--cpu_threads", 1)
    description = json.loads((output / "run.json").read_text())["description"]
    assert description | {"linker": "user/name", "revision": "v1", "commit": "0123abc"} == description


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--input": "nowhere"}, "no file or folder at nowhere"),
        ({"--linker": "tests"}, "tests has no kb.parquet"),
        ({"--shard_mentions": 0}, "shard_mentions is 0"),
        ({"--types": "Plant"}, "Plant"),
    ],
)
def test_a_wrong_argument_is_one_line(recipe, linker, corpus, tmp_path, monkeypatch, changed, message):
    monkeypatch.chdir(ROOT)
    arguments = {"--linker": linker, "--input": corpus, "--output": tmp_path / "out", "--cpu_threads": 1} | changed
    with pytest.raises(SystemExit, match=message) as error:
        run_here(recipe, monkeypatch, *(part for pair in arguments.items() for part in pair))
    assert isinstance(error.value.code, str)
    assert not (tmp_path / "out").exists()


def test_help_tells_inputs_outputs_and_defaults(recipe, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here(recipe, monkeypatch, "--help")
    shown = capsys.readouterr().out
    for text in ("PubTator", "JSONL", "links/FILE-000000.parquet", "--shard_mentions", "default: 8192"):
        assert text in shown


@pytest.mark.timeout(240)
def test_the_benchmark_measures_speed_and_memory(linker, tmp_path):
    options = {"linker": linker, "mentions": 40, "shard_mentions": 16, "sides": "1x1", "output": tmp_path / "b.json"}
    run = subprocess.run(
        [
            *(sys.executable, "recipes/bench/linking.py"),
            *(str(part) for name, value in options.items() for part in (f"--{name}", value)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "b.json").read_text())
    side = report["sides"]["1x1"]
    assert side["shards"] == 3
    assert side["mentions_per_second"] > 0
    assert [len(one["megabytes"]) for one in side["memory"]] == [11]
    assert report["days"]["1x1"] == pytest.approx(36e6 * 8.7 / side["mentions_per_second"] / 86_400)
    assert report["parts"]["tokenise_ms"] > 0
