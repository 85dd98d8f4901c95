"""The benchmarks: they run with nothing but the repository, and what they compare with is what it claims to be."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from angel_trl.decoding import search
from angel_trl.formatting import MentionFormatter
from angel_trl.trie import NameTrie

BENCH = Path(__file__).resolve().parents[1] / "recipes" / "bench"
KEYS = (
    "speedup_vs_generate_constrained",
    "speedup_vs_generate_constrained_early_stopping",
    "speedup_vs_generate_unconstrained",
    "speedup_vs_generate_unconstrained_early_stopping",
    "speedup_vs_batch1_nocache",
    "random_speedup_vs_generate_constrained",
    "random_speedup_vs_generate_constrained_early_stopping",
    "peak_memory_ratio",
    "random_peak_memory_ratio",
    "trie_bytes_per_node",
    "trie_bytes_per_name",
)


def run(script, *options):
    command = [sys.executable, BENCH / script, *map(str, options)]
    done = subprocess.run(command, cwd=BENCH.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def yardsticks():
    sys.path.insert(0, str(BENCH))
    try:
        import yardsticks

        yield yardsticks
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture
def case(yardsticks, small_kb, small_mentions, tokenizer, make_model):
    """A random model with large weights, the names of the small knowledge base, 16 mentions of 5 prefix lengths."""
    model = make_model(seed=3)
    formatter = MentionFormatter(tokenizer, model.config)
    trie = NameTrie.build(formatter.names(small_kb.names))
    return yardsticks.Case(model, make_model(seed=3), trie, formatter.encode(small_mentions.select(range(16))))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_quick_benchmark_ends_with_every_number(tmp_path):
    options = ("--quick", "--max_mentions", 8, "--repeats", 1, "--train_passes", 0, "--cpu_threads", 1)
    *_, last = run("decoding.py", *options, "--output", tmp_path / "bench.json")
    report = json.loads(last)
    assert report == json.loads((tmp_path / "bench.json").read_text())
    for key in KEYS:
        assert math.isfinite(report[key]), key
        assert report[key] > 0, key
    assert list(report["exact"]["share"]) == ["5", "10", "20"]
    assert all(0 <= share <= 1 for share in report["exact"]["share"].values())
    assert report["exact"]["until_exact"]["share"] >= report["exact"]["share"]["20"]
    assert report["trained"]["mentions"] == 8
    assert report["random"]["mentions"] == 16
    for model in ("trained", "random"):
        assert sum(report[model]["best_name"].values()) == pytest.approx(1)
        assert report[model]["times_floor"] > 0


def test_growth_writes_tables_and_a_picture(tmp_path):
    options = ("--names", 100, 1000, "--beams", 1, 3, "--mentions", 2, "--repeats", 1, "--cpu_threads", 1)
    *table, last = run("growth.py", *options, "--output_dir", tmp_path)
    report = json.loads(last)
    assert list(report["by_names"]) == ["100", "1000"]
    assert list(report["by_beams"]) == ["1", "3"]
    assert all(row["median"] > 0 for series in ("by_names", "by_beams") for row in report[series].values())
    assert sum(line.startswith("| 1,000 |") for line in table) == 1
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "growth.json").read_text()) == report


def test_a_nested_trie_holds_the_names(yardsticks, case, small_kb, tokenizer):
    from measure import names_of

    sequences = [[*ids, 2] for ids in tokenizer([f" {name}" for name in small_kb.names])["input_ids"]]
    assert dict(names_of(case.nested)) == {tuple(ids): name for name, ids in enumerate(sequences)}
    assert yardsticks.longest_name(case.nested) == max(map(len, sequences))


@pytest.mark.parametrize("settings", [{}, {"early_stopping": False}, {"use_cache": False}])
def test_constrained_generate_answers_with_names_of_the_knowledge_base(yardsticks, case, settings):
    names = yardsticks.Generate(case, 10, 5, 32, **settings)()
    assert names.shape == (16, 5)
    assert names.min() >= 0
    assert names.max() < case.trie.num_names
    assert all(len(set(row)) == 5 for row in names.tolist())


def test_constrained_generate_with_a_beam_for_every_name_finds_the_likeliest(yardsticks, case):
    beams = case.trie.num_names
    theirs = yardsticks.Generate(case, beams, 5, 32)()
    ours = search(case.model, case.trie, case.mentions, num_beams=beams, top_k=5)
    assert ours.exact.all()
    np.testing.assert_array_equal(theirs, ours.names)


def test_generate_answers_for_the_mentions_asked_in_their_order(yardsticks, case):
    generate = yardsticks.Generate(case, 4, 2, 3)
    np.testing.assert_array_equal(generate([9, 0, 4]), generate()[[9, 0, 4]])


def test_every_token_of_the_decoder_and_the_head_is_counted(yardsticks, case):
    ids, mask = case.batch([0, 1, 2])
    with yardsticks.RowCounter(case.stock) as rows:
        case.stock(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :4])
    case.stock(input_ids=ids, attention_mask=mask, decoder_input_ids=ids)
    assert (rows.decoder, rows.head) == (12, 12)
