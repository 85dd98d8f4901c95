"""Tables of results: what stands in the READMEs is what the JSON files give."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from results_world import difference, system, toy_result

from angel_trl.breakdown import SLICES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes" / "results"


@pytest.fixture(scope="module")
def recipes():
    """The modules that make tables."""
    import benchmark_tables
    import experiment_tables
    import fill_tables
    import table_parts

    return SimpleNamespace(
        fill=fill_tables, experiments=experiment_tables, benchmarks=benchmark_tables, parts=table_parts
    )


def fill(*arguments):
    command = [sys.executable, "recipes/fill_tables.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# The repository.


def test_the_tables_of_the_repository_are_what_the_files_give():
    done = fill("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_tables_of_every_file_of_results_stand_in_its_readme(recipes):
    text = (RESULTS / "README.md").read_text()
    for name, (_, files) in recipes.fill.TABLES.items():
        # Small ones are for the first README.
        if files and "small" not in name:
            assert f"<!-- table: {name} -->" in text, name


def test_every_table_of_one_set_of_files_can_be_made(recipes):
    for name, (_, files) in recipes.fill.TABLES.items():
        if files:
            lines = recipes.fill.make(name, RESULTS).splitlines()
            assert len({line.count("|") for line in lines}) == 1, name
            assert len(lines) > 2


# Filling.

MARKED = "before\n<!-- table: quickstart -->\nold\n<!-- end of table: quickstart -->\nafter\n"


def test_what_is_between_the_markers_is_replaced_and_nothing_else(recipes):
    text = recipes.fill.filled(MARKED, RESULTS)
    assert text.startswith("before\n<!-- table: quickstart -->\n| seed | string lookup |")
    assert text.endswith("\n<!-- end of table: quickstart -->\nafter\n")
    assert "old" not in text
    assert recipes.fill.filled(text, RESULTS) == text


def test_a_table_that_is_stale_is_named_and_the_check_fails(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(MARKED)
    checked = fill("--check", path)
    assert checked.returncode == 1
    assert f"{path}: quickstart" in checked.stdout
    assert path.read_text() == MARKED
    assert fill(path).returncode == 0
    assert fill("--check", path).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: nothing -->\n<!-- end of table: nothing -->", "no table 'nothing'; there are scores, "),
        ("<!-- table: scores -->\n<!-- end of table: scores -->", "'scores' needs the names of the files"),
        ("<!-- table: search x -->\n<!-- end of table: search x -->", "'search' is always made of search"),
        ("<!-- table: scores x -->\n<!-- end of table: scores x -->", "cannot be made: FileNotFoundError"),
        ("<!-- table: scores search -->\n<!-- end of table: scores search -->", "cannot be made: KeyError"),
        ("<!-- table: search -->\n", "a marker of a table has no partner"),
        ("<!-- table: search -->\n<!-- end of table: quickstart -->", "a marker of a table has no partner"),
    ],
)
def test_markers_that_cannot_be_filled_are_named(recipes, text, message):
    with pytest.raises(ValueError, match=message):
        recipes.fill.filled(text, RESULTS)


def test_a_longer_name_is_not_taken_for_a_shorter_one_with_files(recipes):
    assert recipes.fill.make("search in small", RESULTS) != recipes.fill.make("search", RESULTS)


# Numbers.


def test_how_numbers_look(recipes):
    parts = recipes.parts
    assert (parts.signed(1.25), parts.signed(-0.04), parts.signed(0)) == ("+1.2", "+0.0", "+0.0")
    assert parts.gain({"difference": 1.06, "ci": [-0.54, 2.0]}) == "+1.1 [-0.5, +2.0]"
    assert [parts.significant(value) for value in (5.956, 27.93, 264.6, 1552.1)] == ["5.96", "27.9", "265", "1,552"]
    assert parts.interval([1, 2.26], 2) == "[1.00, 2.26]"
    assert parts.pair({"acc@1": 1.04, "acc@1_strict": 2}) == "1.0 / 2.0"


def test_empty_cells_and_sides(recipes):
    assert recipes.parts.table(["", "a"], [["x", ""]], numbers=True) == "| | a |\n|---|---:|\n| x | |\n"


# Experiments.


@pytest.fixture
def result():
    return toy_result()


def test_scores_with_intervals_deviations_and_minutes(recipes, result):
    lines = recipes.experiments.scores(result).splitlines()
    assert lines[0] == "| | Acc@1 | Acc@1 strict | Acc@5 | MRR | core minutes | seeds |"
    assert lines[2] == "| lookup | 50.0 [48.0, 53.0] | 50.0 | 50.0 | 50.0 | | 2 |"
    assert lines[4].startswith("| ANGEL | **77.0 ± 0.5** [75.0, 80.0] | **77.0 ± 0.5** |")
    assert lines[4].endswith("| 3 | 2 |")


def test_differences_by_seed(recipes, result):
    lines = recipes.experiments.differences(result).splitlines()
    assert lines[0].endswith("| Acc@1 by seed (0, 1) |")
    assert lines[2] == "| ANGEL - positive-only | +2.0 [+1.0, +3.0] | 0.01 | +2.0 [+1.0, +3.0] | +2.0 | +2.5, +2.0 |"
    earlier = {**result, "differences": [one | {"earlier": True} for one in result["differences"]]}
    assert recipes.experiments.differences(earlier).splitlines()[2].startswith("| ANGEL - positive-only † | +2.0")


def test_scores_by_wording(recipes, result):
    kinds = ("seen concept, name", "unseen concept, other wording")
    scores = {"lookup": ([0], (100.0, 0.0)), "ANGEL": ([0, 1], (100.0, 36.04))}
    systems = {
        name: {"seeds": seeds, "acc@1": dict(zip(kinds, own, strict=True))} for name, (seeds, own) in scores.items()
    }
    result["wording"] = {"mentions": dict(zip(kinds, (1200, 90), strict=True)), "systems": systems}
    assert recipes.experiments.wording(result).splitlines() == [
        "| Acc@1 | seeds | seen concept, name | unseen concept, other wording |",
        "|---|---:|---:|---:|",
        "| mentions | | 1,200 | 90 |",
        "| lookup | 1 | **100.0** | 0.0 |",
        "| ANGEL | 2 | **100.0** | **36.0** |",
    ]


def test_slices_without_mentions_are_left_out(recipes, result):
    lines = recipes.experiments.slices(result).splitlines()
    assert "no label" not in lines[0]
    assert lines[2].startswith("| mentions | 3 |")
    assert lines[5].startswith("| ANGEL | **77.0** |")
    lines = recipes.experiments.slice_differences(result).splitlines()
    assert lines[0] == "| ANGEL - | mentions | positive-only | lookup |"
    assert lines[2] == "| seen concept | 3 | +2.0 [+1.0, +3.0] | +27.0 [+26.0, +28.0] |"
    assert len(lines) == 2 + len(SLICES) - 1


def test_changes_by_kind(recipes, result):
    lines = recipes.experiments.changes(result).splitlines()
    assert lines[2:] == [
        "| hypernym | 2.0 | 0.0 | +2.0 |",
        "| other | 1.5 | 1.0 | +0.5 |",
        "| all | 3.5 | 1.0 | +2.5 |",
    ]


def test_calibration_before_and_after(recipes, result):
    lines = recipes.experiments.calibration(result).splitlines()
    assert lines[0] == "| | positive-only | ANGEL |"
    assert lines[-1] == "| AURC | 0.031 | 0.031 |"


def test_the_main_table_has_a_column_an_experiment(recipes, result):
    other = result | {"title": "Another; small", "systems": {"ANGEL": system(60.0, None, seeds=[0])}}
    result["systems"]["lookup"]["scores"]["acc@1_strict"] = 78.0
    result["systems"]["lookup"]["seeds"] = [0]
    lines = recipes.experiments.main(result, other).splitlines()
    assert lines[0].endswith("| A corpus (2 seeds) | Another (1 seed) |")
    assert lines[2] == "| lookup | 50.0 / **78.0** (1 seed) | |"
    assert lines[4] == "| ANGEL | **77.0 ± 0.5** / 77.0 ± 0.5 | **60.0** / **60.0** |"
    both = "+2.0 [+1.0, +3.0] / +2.0 [+1.0, +3.0]"
    assert lines[5:] == [f"| ANGEL - positive-only, points | {both} | {both} |"]


def test_the_main_table_says_what_the_rounds_gain_over_right_names_and_their_control(recipes, result):
    result["systems"]["positive-only, continued (control)"] = system(60.0, None, seeds=[0])
    result["differences"] += [
        difference("ANGEL", "positive-only, continued (control)", 3.0),
        difference("ANGEL, pre-trained", "positive-only", 4.0),
    ]
    other = result | {"differences": [difference("ANGEL", "positive-only", 6.0)]}
    gains = [line for line in recipes.experiments.main(result, other).splitlines() if "points" in line]
    two, three, six = (f"+{n}.0 [+{n - 1}.0, +{n + 1}.0] / +{n}.0 [+{n - 1}.0, +{n + 1}.0]" for n in (2, 3, 6))
    assert gains == [
        f"| ANGEL - positive-only, points | {two} | {six} |",
        f"| ANGEL - positive-only, continued (control), points | {three} | |",
    ]


@pytest.mark.parametrize("name", ["ANGEL, out-of-fold", "positive-only, pre-trained"])
def test_what_the_page_of_results_explains_is_left_out_of_the_main_table_and_is_not_its_best(recipes, result, name):
    result["systems"][name] = system(99.0, 0.1)
    lines = recipes.experiments.main(result).splitlines()
    assert not any(name in line for line in lines)
    assert any(line.startswith("| ANGEL | **77.0") for line in lines)


def test_of_a_baseline_with_training_mentions_the_main_table_has_the_row_that_names_one_concept(recipes, result):
    result["systems"] |= {
        f"lookup, with training mentions{how}": system(60.0, 0.1) for how in ("", ", commonest concept")
    }
    result["systems"]["other, with training mentions"] = system(61.0, 0.1)
    rows = [line.split(" | ")[0] for line in recipes.experiments.main(result).splitlines()]
    assert "| lookup, with training mentions" not in rows
    assert {"| lookup, with training mentions, commonest concept", "| other, with training mentions"} <= set(rows)


def test_what_was_run(recipes, result):
    lines = recipes.experiments.runs(result).splitlines()
    assert lines[2] == "| angel | 0, 1 | 2, 2 | 2026-11-24 | 0123456 | 2 cores of A CPU |"
    result["runs"]["angel"]["0"]["hardware"] |= {"instructions": "AVX2", "preloaded": ["libjemalloc.so.2"]}
    assert recipes.experiments.runs(result).splitlines()[2].endswith("| 2 cores of A CPU (AVX2, libjemalloc.so.2) |")
    result["runs"]["angel"]["0"]["hardware"]["gpu"] = "A GPU"
    assert recipes.experiments.runs(result).splitlines()[2].endswith("| A GPU |")


# The tables of one set of files, on small made results.


def run_of(before, after, **more):
    scores = {"positive-only": before, "ANGEL": after, "lookup": 20.0, "lookup + training mentions": 40.0}
    gained = after - before
    return {
        **{name: {"acc@1": value, "acc@1_strict": value - 1} for name, value in scores.items()},
        "difference": {"difference": gained, "ci": [gained - 1, gained + 1]},
        **more,
    }


def test_earlier_quickstarts_and_the_control_stand_under_their_seeds(recipes):
    alone = {
        "ANGEL stage with sft only": {"acc@1": 71.0, "acc@1_strict": 69.0},
        "difference": {"difference": 1.0, "ci": [-1, 3]},
    }
    result = {
        "seeds": {"0": run_of(80.0, 82.0), "1": run_of(70.0, 74.0)},
        "before_the_name_trees": {"seeds": {"0": run_of(60.0, 61.0), "1": run_of(60.0, 62.0)}},
        "earlier_runs": {"seeds": {"0": run_of(50.0, 51.0), "1": run_of(70.0, 75.0)}},
        "control_cross_entropy_only": {"seeds": {"1": alone}},
    }
    lines = recipes.experiments.quickstart_before(result).splitlines()
    assert lines[2] == (
        "| the table above | 80.0 -> 82.0, +2.0 [+1.0, +3.0] | 70.0 -> 74.0, +4.0 [+3.0, +5.0] | +3.0 |"
    )
    assert lines[3].endswith("| 60.0 -> 61.0, +1.0 [+0.0, +2.0] | 60.0 -> 62.0, +2.0 [+1.0, +3.0] | +1.5 |")
    assert lines[5].endswith("(`--loss_type sft`) | | 70.0 -> 71.0, +1.0 [-1.0, +3.0] | |")
    lines = recipes.experiments.quickstart(result).splitlines()
    assert lines[2] == ("| 0 | 20.0 / 19.0 | 40.0 / 39.0 | 80.0 / 79.0 | 82.0 / 81.0 | +2.0 [+1.0, +3.0] | +2.0 |")
    assert lines[4] == "| mean | 20.0 / 19.0 | 40.0 / 39.0 | 75.0 / 74.0 | 78.0 / 77.0 | **+3.0** | +3.0 |"


def test_what_was_learnt_of_the_knowledge_base_before_the_corpus(recipes):
    systems = {
        "no pass over names, positive-only": system(51.0, None, seeds=[0]),
        "ANGEL": system(85.0, 0.5, seeds=[0, 1]),
        "pre-trained, both stages, ANGEL": system(86.0, None, seeds=[0]),
    }
    result = {"title": "A corpus; small", "systems": systems}
    lines = recipes.experiments.pretraining_small(result).splitlines()
    assert lines[0].endswith("knowledge base first; A corpus, Acc@1 any-id | positive-only | ANGEL |")
    assert lines[2] == "| nothing | 51.0 (1 seed) | |"
    assert lines[3].endswith("in passages of the corpus | | 85.0 (2 seeds) |")
    assert lines[5] == "| its names in sentences made from it alone, both stages | | 86.0 (1 seed) |"


def test_the_search_beside_generate(recipes):
    peaks = {"ours": 100e6, "generate, constrained": 400e6}
    best = {"same": 0.75, "ours_likelier": 0.2, "theirs_likelier": 0.05}
    result = {"trained": {"best_name": best}, "random": {"best_name": best | {"same": 0.5}}}
    result["peak_memory"] = {"trained": peaks, "random": peaks | {"ours": 200e6}}
    assert recipes.benchmarks.search_beside_generate(result).splitlines()[2:] == [
        "| peak memory, MB: ours | 100 | 200 |",
        "| peak memory, MB: `generate` | 400 | 400 |",
        "| ours, times that of `generate` | 0.25 | 0.50 |",
        "| best name: the same | 75.0% | 50.0% |",
        "| best name: another, ours is likelier | 20.0% | 20.0% |",
        "| best name: another, theirs is likelier | 5.0% | 5.0% |",
    ]


def test_how_many_lists_are_provably_right(recipes):
    exact = {"mentions": 8, "share": {"5": 0.25}, "until_exact": {"share": 0.975, "ms_per_mention": 16.77}}
    assert recipes.benchmarks.search_exactness({"exact": exact, "settings": {"top_k": 3}}).splitlines() == [
        "| | provably the true top 3, of 8 mentions |",
        "|---|---:|",
        "| 5 beams | 25.0% |",
        "| `exact=True`, 16.8 ms a mention | 97.5% |",
    ]


def test_what_a_large_model_would_take_is_the_work_of_a_mention_over_a_rate(recipes):
    floor = {"decoder_tokens_per_mention": 50.0, "head_rows_per_mention": 40.0}
    measured = {"source_tokens": 100.0, "floor": floor, "ms_per_mention": {"ours": {"median": 100.0}}}
    searches = {"random": measured, "hardware": {"threads": 2, "cpu": "X"}}
    links = {"settings": {"abstracts": 1e6, "mentions_an_abstract": 10.0}}
    # 2 * (12 * 1024^2 * (14 * 100 + 14 * 50) + 1024 * 50,265 * 40) = 56.97e9; of the smaller one 8.667e9 in 0.1 s.
    assert recipes.benchmarks.linking_on_paper(links, searches).splitlines() == [
        "| BART-large, 1,000,000 abstracts, 57 GFLOP a mention | GFLOP/s | days |",
        "|---|---:|---:|",
        "| 2 cores of X, as measured | 87 | 76 |",
        "| one A100, on paper | 62,400 | 0.1 |",
        "| one H100 or H200, on paper | 197,800 | 0.0 |",
    ]
