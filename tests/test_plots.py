"""Pictures of results."""

import json

import pytest
from results_world import system, toy_result


@pytest.fixture(scope="module")
def plots():
    import plots

    return plots


@pytest.fixture
def result():
    return toy_result()


def test_every_picture_is_drawn(plots, result, tmp_path):
    result["curves"] = {"ours": ["positive-only", "ANGEL"]}
    (tmp_path / "toy.json").write_text(json.dumps(result))
    written = plots.draw(["toy"], tmp_path, tmp_path)
    assert [path.name for path in written] == [f"toy-{kind}.png" for kind in plots.PLOTS]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_a_file_does_not_have_is_not_drawn(plots, result, tmp_path, capsys):
    del result["systems"]
    (tmp_path / "toy.json").write_text(json.dumps(result))
    written = plots.draw(["toy"], tmp_path, tmp_path)
    assert [path.name for path in written] == ["toy-curves.png"]
    assert "toy: no scores: the file does not have 'systems'" in capsys.readouterr().out


def test_rounds_are_drawn_behind_the_stage_they_start_from(plots, result):
    result["runs"]["other"] = {seed: one | {"command": "x"} for seed, one in result["runs"]["angel"].items()}
    (axes,) = plots.curves(result).axes
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.get_lines()}
    assert drawn == {
        "angel: positive-only": [10, 20],
        "angel: rounds": [20, 25],
        "control: rounds": [20, 25],
    }


def test_curves_have_the_names_of_their_systems(plots, result):
    result["systems"]["ANGEL"]["of"], result["systems"]["positive-only"]["of"] = "angel/ANGEL", "angel/positive-only"
    (axes,) = plots.curves(result).axes
    assert [line.get_label() for line in axes.get_lines()] == ["positive-only", "ANGEL", "control: rounds"]


def test_each_score_stands_in_its_systems_row_with_its_interval_and_seeds(plots, result):
    result["systems"]["lookup"]["by_seed"] = {"0": {"acc@1": 40.0}, "1": {"acc@1": 60.0}}
    (axes,) = plots.scores(result).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(result["systems"])
    assert axes.get_yticks().tolist() == [2, 1, 0]
    means = [container[0].get_xydata()[0].tolist() for container in axes.containers]
    assert means == [[50.0, 2], [75.0, 1], [77.04, 0]]
    low, high = axes.get_xlim()
    for container in axes.containers:
        ends = container[2][0].get_segments()[0][:, 0]
        assert low < ends.min() < ends.max() < high
    seeds = [
        line.get_xdata().tolist()
        for line in axes.get_lines()
        if line.get_marker() == "|" and len(line.get_xdata()) > 1
    ]
    assert seeds == [[40.0, 60.0], [75.0, 75.0], [77.04, 77.04]]
    assert low < 40.0
    assert [text.get_text() for text in axes.texts] == ["50.0", "75.0", "77.0"]


def test_the_columns_of_kinds_are_told_apart_without_colour(plots, result):
    (axes,) = plots.slices(result).axes
    hatches = {bar.get_hatch() for bar in axes.patches}
    assert len(hatches) == len(axes.containers) // 2 == 3


def test_curves_of_compute_are_joined_and_other_systems_are_points(plots, result):
    result["systems"]["control"] = system(70.0, 1.0, seconds=120)
    result["curves"] = {"ours": ["ANGEL", "positive-only"]}
    (axes,) = plots.compute(result).axes
    drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in (c[0] for c in axes.containers)]
    assert drawn == [([2, 3], [75, 77.04]), ([4], [70])]


def test_a_curve_of_which_one_point_of_another_is_there_is_not_drawn_over_it(plots, result):
    result["curves"] = {"ours": ["ANGEL", "positive-only"], "longer": ["ANGEL", "not there yet"]}
    (axes,) = plots.compute(result).axes
    assert [container.get_label() for container in axes.containers] == ["ours"]


def test_a_dozen_systems_of_compute_are_told_apart(plots, result):
    result["systems"] |= {f"system {number}": system(70.0, 1.0, seconds=60 + number) for number in range(12)}
    (axes,) = plots.compute(result).axes
    lines = [container[0] for container in axes.containers]
    styles = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in lines}
    assert len(styles) == len(lines) > 12
