import subprocess
import sys

import pytest

from angel_trl.metrics import METRICS, score
from angel_trl.report import plot_learning_curve, results_table, to_markdown

LOOKUP = {
    "acc@1": 52.14,
    "acc@5": 60.0,
    "mrr": 55.25,
    "acc@1_strict": 50.0,
    "acc@5_strict": 58.0,
    "mrr_strict": 53.0,
    "acc@1_ci": [49.04, 55.15],
    "mentions": 960,
    "nil": 0,
}
ANGEL = LOOKUP | {"acc@1": 77.7, "acc@1_ci": [75.0, 80.2]}
CURVE = {"positive-only": [(100, 41.0), (200, 60.5)], "ANGEL": [(200, 60.5), (220, 63.0)]}


def test_markdown_of_two_systems():
    assert to_markdown({"lookup": LOOKUP, "ANGEL": ANGEL}) == (
        "| System | Acc@1 | Acc@5 | MRR | Acc@1 strict | Acc@5 strict | MRR strict |\n"
        "|:--|--:|--:|--:|--:|--:|--:|\n"
        "| lookup | 52.1 (49.0–55.1) | 60.0 | 55.2 | 50.0 | 58.0 | 53.0 |\n"
        "| ANGEL | 77.7 (75.0–80.2) | 60.0 | 55.2 | 50.0 | 58.0 | 53.0 |\n"
        "\n"
        "Percent; any-id unless marked strict (every concept named, no other). With 95% bootstrap intervals. "
        "960 mentions.\n"
    )


def test_markdown_escapes_a_bar_in_a_name():
    assert "| a\\|b c |" in to_markdown({"a|b\nc": LOOKUP})


def test_caption_says_nothing_of_intervals_where_there_are_none():
    rows = {"lookup": {key: 50.0 for key in METRICS}}
    assert to_markdown(rows).endswith("Percent; any-id unless marked strict (every concept named, no other).\n")


def test_caption_tells_different_numbers_of_mentions_apart():
    rows = {"lookup": LOOKUP, "ANGEL": ANGEL | {"mentions": 1200}}
    assert "Mentions: lookup 960, ANGEL 1,200." in to_markdown(rows)


def test_table_has_a_row_a_system_with_the_interval_below():
    lines = results_table({"lookup": LOOKUP, "ANGEL": ANGEL}, title="NCBI Disease [test]").splitlines()
    assert lines[0] == "NCBI Disease [test]"
    lookup = next(index for index, line in enumerate(lines) if line.split()[:1] == ["lookup"])
    assert lines[lookup].split() == ["lookup", "52.1", "60.0", "55.2", "50.0", "58.0", "53.0"]
    assert lines[lookup + 1].split() == ["49.0–55.1"]
    assert lines[lookup + 2].split()[:2] == ["ANGEL", "77.7"]


def test_table_keeps_brackets_in_a_name_and_has_no_colour_codes():
    table = results_table({"ANGEL [red]": ANGEL})
    assert "ANGEL [red]" in table
    assert "\x1b" not in table


def test_table_and_markdown_take_what_score_returns():
    rows = {"ANGEL": score([[["A"]], [["B"]]], [[["A"]], [["A"]]], bootstrap=10)}
    assert "50.0" in results_table(rows)
    assert "| ANGEL | 50.0 (" in to_markdown(rows)


@pytest.mark.parametrize("report", [results_table, to_markdown])
def test_a_missing_score_is_named(report):
    row = {key: value for key, value in LOOKUP.items() if key != "acc@5"}
    with pytest.raises(ValueError, match=r"The row 'lookup' lacks acc@5"):
        report({"lookup": row})


@pytest.mark.parametrize("report", [results_table, to_markdown])
def test_no_rows_are_refused(report):
    with pytest.raises(ValueError, match="no rows"):
        report({})


def test_learning_curve_is_a_png_of_readable_size(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = plot_learning_curve(CURVE, tmp_path / "curve.png", "NCBI Disease", floor=52.1)
    assert path == tmp_path / "curve.png"
    with image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        # Both lines are there, in their own colours.
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(maxcolors=1 << 24)}
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x59, 0x59, 0x59)} <= colours


def test_learning_curve_lines_differ_without_colour(tmp_path, monkeypatch):
    axes_module = pytest.importorskip("matplotlib.axes")
    drawn = []
    original = axes_module.Axes.plot

    def recording(self, *args, **kwargs):
        drawn.append((kwargs["marker"], kwargs["linestyle"], kwargs["label"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(axes_module.Axes, "plot", recording)
    plot_learning_curve(CURVE, tmp_path / "curve.png", "NCBI Disease")
    assert [label for _, _, label in drawn] == ["positive-only (best 60.5)", "ANGEL (best 63.0)"]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_learning_curve_of_one_evaluation(tmp_path):
    assert plot_learning_curve({"ANGEL": [(5, 75.0)]}, tmp_path / "curve.png", "One point").stat().st_size > 0


@pytest.mark.parametrize(
    ("history", "name", "message"),
    [
        ({}, "curve.png", "history has 0 stages"),
        ({str(stage): [(1, 1.0)] for stage in range(5)}, "curve.png", "history has 5 stages"),
        ({"ANGEL": []}, "curve.png", r"history\['ANGEL'\] has no points"),
        ({"ANGEL": [(1, float("nan"))]}, "curve.png", r"history\['ANGEL'\] has the point \(1, nan\)"),
        (CURVE, "curve.pdf", r"must end in \.png"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused(tmp_path, history, name, message):
    with pytest.raises(ValueError, match=message):
        plot_learning_curve(history, tmp_path / name, "NCBI Disease")


def test_drawing_leaves_pyplot_and_its_backend_alone(tmp_path):
    code = (
        "import sys\n"
        "from angel_trl.report import plot_learning_curve, results_table\n"
        "assert not {'matplotlib', 'rich', 'torch'} & set(sys.modules), 'imported too early'\n"
        f"plot_learning_curve({CURVE!r}, {str(tmp_path / 'curve.png')!r}, 'NCBI Disease')\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot was imported'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
