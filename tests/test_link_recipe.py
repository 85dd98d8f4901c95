"""The linking recipe as a user runs it: real processes, killed and started again, one and two of them."""

import errno
import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from readme_commands import LINK

from angel_trl import EntityLinker
from angel_trl.corpus_linking import LinkingSettings, link_corpus
from angel_trl.corpus_linking.shards import read_stamp

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"shard_mentions": 4, "batch_size": 4, "format": "pubtator", "once": True}
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
OPTIONS = [part for name, value in (SETTINGS | {"cpu_threads": 1}).items() for part in (f"--{name}", str(value))]
# Runs a recipe that stops for good before the parquet of its fourth shard.
STOPPING = """
import runpy, signal, sys
from angel_trl.corpus_linking import linking
write_whole, written = linking.write_whole, []
def write(path, content):
    if path.parent.name == "links":
        written.append(path)
    if len(written) == 4:
        signal.pause()
    write_whole(path, content)
linking.write_whole = write
sys.argv = sys.argv[1:]
sys.path.insert(0, "recipes")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def recipe():
    import link

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


def test_killed_and_started_again_with_two_processes_it_ends_with_the_bytes_of_one(linker, corpus, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    description = {"linker": str(linker), "revision": None, "commit": None, "kb": None}
    settings = LinkingSettings(**SETTINGS)
    reference = link_corpus(EntityLinker.from_pretrained(linker), corpus, whole, settings, description=description)
    assert reference.shards == 80
    assert reference.report["counts"]["mentions"] == 320
    assert reference.report["counts"]["computed"] < 320
    arguments = ["recipes/link.py", "--linker", linker, "--input", corpus, "--output", output, *OPTIONS]
    arguments = [str(part) for part in arguments]
    run = subprocess.Popen(
        [sys.executable, "-c", STOPPING, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
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
    assert there == 3
    assert not (output / "report.json").exists()
    done = subprocess.run(
        [*ACCELERATE, "--config_file", "recipes/accelerate/ddp.yaml", *arguments],
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
    assert result["shards_now"] == 80 - there
    assert result["mentions"] == 320
    found = content(output)
    found = {name: data for name, data in found.items() if not name.endswith(".partial")}
    assert found == content(whole)


def test_few_mentions_are_linked_at_a_time_the_longest_texts_first(linker, tmp_path, monkeypatch):
    """So that the bar moves, and batches are of similar length."""
    texts = [f"{'so ' * (number * 7 % 40)}gout" for number in range(40)]
    rows = [{"text": text, "start": len(text) - 4, "end": len(text)} for text in texts]
    (tmp_path / "mentions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded, asked = EntityLinker.from_pretrained(linker), []
    inner = loaded.link_batch
    monkeypatch.setattr(loaded, "link_batch", lambda rows, **options: asked.append([*rows]) or inner(rows, **options))
    link_corpus(loaded, tmp_path / "mentions.jsonl", tmp_path / "out", LinkingSettings(batch_size=2))
    sizes = [[len(row["text"]) for row in rows] for rows in asked if rows]
    assert [len(some) for some in sizes] == [16, 16, 8]
    assert min(sizes[0]) > max(sizes[1])
    assert min(sizes[1]) > max(sizes[2])
    shard = pq.read_table(tmp_path / "out" / "links" / "mentions.jsonl-000000.parquet")
    assert shard["record"].to_pylist() == list(range(1, 41))
    assert shard["start"].to_pylist() == [row["start"] for row in rows]


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


def test_the_command_of_the_readme_links_with_two_processes(linker, corpus, tmp_path, small_kb):
    documents = (corpus / "0.txt").read_text()
    (tmp_path / "abstracts.pubtator.gz").write_bytes(gzip.compress(documents.encode()))
    places = {
        "runs/quickstart/linker": linker,
        "abstracts.pubtator.gz": tmp_path / "abstracts.pubtator.gz",
        "linked": tmp_path / "linked",
    }
    command = [str(places.get(part, part)) for part in shlex.split(LINK)]
    assert command[:2] == ["accelerate", "launch"]
    done = subprocess.run(
        [*ACCELERATE, *command[2:], *("--shard_mentions", "80", "--cpu_threads", "1")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert (result["processes"], result["mentions"], result["skipped"], result["shards"]) == (2, 160, 0, 2)
    shards = sorted((tmp_path / "linked" / "pubtator").iterdir())
    lines = b"".join(gzip.decompress(shard.read_bytes()) for shard in shards).decode().splitlines()
    # The input, with an id behind each mention.
    assert ["\t".join(line.split("\t")[:5]) for line in lines] == documents.splitlines()
    ids = {concept_id for line in lines if "\t" in line for concept_id in line.split("\t")[5].split("|")}
    assert ids <= {concept.id for concept in small_kb.concepts}
    assert len(ids) > 1
    # What is seen while it works.
    assert re.search(r"linking \(process 1 of 2\): .*\d+/80 \[\S+<\S+, +[\d.]+ mentions/s\]", done.stderr)


def test_linker_and_corpus_come_from_the_hub_and_their_revisions_are_kept(linker, corpus, tmp_path, small_kb):
    files = {path.name: path.read_bytes() for path in linker.iterdir()}
    small_kb.save_pretrained(tmp_path / "kb")
    with HubServer() as hub:
        repo = hub.create("model", "tester/linker", files)
        repo.tags["v1"] = repo.branches["main"]
        hub.push("model", "tester/linker", {"angel.json": None, "kb.parquet": None})
        texts = {f"data/{path.name}": path.read_bytes() for path in corpus.iterdir()}
        hub.create("dataset", "tester/corpus", {"README.md": b"---\nlicense: mit\n---\n", **texts})
        hub.create("dataset", "tester/kb", {"kb.parquet": (tmp_path / "kb" / "kb.parquet").read_bytes()})
        environment = hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1"}

        def run(*arguments, **more):
            command = ["recipes/link.py", "--linker", "tester/linker", "--input", "tester/corpus", *arguments]
            done = subprocess.run(
                [sys.executable, *command, *OPTIONS], cwd=ROOT, env=environment | more, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])

        result = run("--revision", "v1", "--output", str(tmp_path / "tagged"))
        assert (result["mentions"], result["shards"]) == (320, 80)
        # What main has is a plain model, which takes a knowledge base.
        run("--kb", "tester/kb", "--output", str(tmp_path / "plain"))
        # Offline, a run that is done does nothing.
        before = len(hub.requests)
        again = run("--revision", "v1", "--output", str(tmp_path / "tagged"), HF_HUB_OFFLINE="1")
        assert (again["linked_now"], len(hub.requests)) == (0, before)
    tagged, plain = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("tagged", "plain"))
    assert (
        tagged["description"]
        | {
            "linker": "tester/linker",
            "revision": "v1",
            "commit": repo.tags["v1"],
            "kb": None,
            "input": "tester/corpus",
        }
        == tagged["description"]
    )
    assert (plain["description"]["commit"], plain["description"]["kb"]) == (repo.branches["main"], "tester/kb")
    assert tagged["run"]["knowledge_base"] == plain["run"]["knowledge_base"] == small_kb.fingerprint
    report = json.loads((tmp_path / "tagged" / "report.json").read_text())
    assert report["files left alone"] == {"README.md": "starts with '---'"}
    first = "links/data/0.txt-000000.parquet"
    assert read_stamp(tmp_path / "tagged" / first)["commit"] == repo.tags["v1"]
    rows = [pq.read_table(tmp_path / name / first).to_pylist() for name in ("tagged", "plain")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--input": "nowhere"}, "no file or folder at nowhere"),
        ({"--linker": "tests"}, "tests has no config.json"),
        ({"--linker": "runs/none/linker"}, "no folder runs/none/linker here, and that is not the id of a Hub"),
        ({"--revision": "v1"}, "a revision .'v1'. is for repositories on the Hub only"),
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


def test_a_full_disk_is_one_line_with_the_way_on(recipe, linker, corpus, tmp_path, monkeypatch):
    from angel_trl.corpus_linking import shards

    output, written = tmp_path / "out", []
    arguments = ["--linker", linker, "--input", corpus / "0.txt", "--output", output, *OPTIONS]

    def sync(descriptor):
        written.append(descriptor)
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", sync)
        with pytest.raises(SystemExit) as error:
            run_here(recipe, monkeypatch, *arguments)
    assert error.value.code == (
        f"[Errno 28] No space left on device. The disk of {output} is full: free some, and give the same command "
        "again to go on."
    )
    there = len(list((output / "links").glob("*.parquet")))
    assert 0 < there < 40
    run_here(recipe, monkeypatch, *arguments)
    assert len(list((output / "links").glob("*.parquet"))) == 40


def test_help_tells_inputs_outputs_and_defaults(recipe, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here(recipe, monkeypatch, "--help")
    shown = capsys.readouterr().out
    for text in ("PubTator", "JSONL", "links/FILE-000000.parquet", "--shard_mentions", "default: 8192"):
        assert text in shown


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
