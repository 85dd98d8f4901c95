"""The benchmark of the readers: it runs with nothing but the repository, and its synthetic files are what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from angel_trl.readers import read_concepts

BENCH = Path(__file__).resolve().parents[1] / "recipes" / "bench"


@pytest.fixture(scope="module")
def readers():
    sys.path.insert(0, str(BENCH))
    try:
        import readers

        yield readers
    finally:
        sys.path.remove(str(BENCH))
        del sys.modules["readers"]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_benchmark_ends_with_every_number_and_no_path(tmp_path):
    (tmp_path / "medic.txt").write_text("D1||Ataxia|Gout\n")
    options = (
        "--dictionary",
        tmp_path / "medic.txt",
        "--rows",
        2000,
        "--repeat",
        1,
        "--output",
        tmp_path / "out.json",
    )
    command = [sys.executable, BENCH / "readers.py", *map(str, options)]
    done = subprocess.run(command, cwd=BENCH.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *_, last = done.stdout.splitlines()
    report = json.loads(last)
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert str(tmp_path) not in last
    assert report["command"] == (
        "python recipes/bench/readers.py --dictionary path/to/medic.txt --rows 2000 --repeat 1"
    )
    dictionary, umls = report["parts"]["dictionary"], report["parts"]["UMLS"]
    assert (dictionary["records"], dictionary["concepts"], dictionary["names"]) == (1, 1, 2)
    assert 2000 <= umls["records"] < 2005
    for part in (dictionary, umls):
        assert part["target_met"] is True
        assert 0 < part["read_seconds"]["median"] <= part["seconds"]["median"]
        assert 0 <= part["read_megabytes"]["median"] <= part["megabytes"]["median"] + 1
    assert {"date", "hardware", "versions"} <= report.keys()


def test_the_synthetic_release_is_one_of_umls(readers, tmp_path):
    readers.write_umls(tmp_path, 3000)
    concepts, report = read_concepts(tmp_path)
    assert 3000 <= report.read < 3005
    assert {reason: 0.05 < count / report.read < 0.5 for reason, count in report.skipped.items()} == {
        "another language": True,
        "suppressible": True,
    }
    assert all(concept.types for concept in concepts)
    again = tmp_path / "again"
    again.mkdir()
    readers.write_umls(again, 3000)
    assert (again / "MRCONSO.RRF").read_bytes() == (tmp_path / "MRCONSO.RRF").read_bytes()


def test_the_synthetic_dictionary_has_the_names_asked_for(readers, tmp_path):
    readers.write_dictionary(tmp_path / "kb", 10_000)
    concepts, report = read_concepts(tmp_path / "kb")
    assert (report.skipped, len(concepts)) == ({}, 1760)
    assert 9_900 < sum(len(concept.names) for concept in concepts) <= 10_000
