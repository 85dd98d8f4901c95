"""spaces/entity-linking-metric: the metric as `evaluate.load` finds it, its card, and what its page shows."""

import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

from angel_trl.metrics import score

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "entity-linking-metric"

PREDICTIONS = [[["D003693"], ["D003704"]], [["D009103", "D008946"]], [["D001943"]], [], [["D006973"], ["D003920"]]]
REFERENCES = [[["D003693"]], [["D009103"]], [["D001943"], ["D010051"]], [], [["D003920", "OMIM:222100"]]]

# As where nothing else is installed: `evaluate` imports some of these if it can, which takes most of its time. The
# last line is for `datasets`, which looks into sys.modules for what was imported.
ALONE = """
import sys
others = "torch transformers trl accelerate sklearn scipy matplotlib rich jinja2 safetensors gradio".split()
sys.modules.update(dict.fromkeys(others))
import evaluate, json, angel_trl.evaluate_metric
for name in others: del sys.modules[name]
"""


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    evaluate = pytest.importorskip("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
        yield evaluate


@pytest.fixture(scope="module")
def scoring():
    return load("scoring")


def load(name):
    """A module of the Space; app.py finds its own beside it, as it does when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        spec = importlib.util.spec_from_file_location(f"entity_linking_metric_{name}", SPACE / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def start(script, environment, *arguments, cwd=None):
    """Begin to run Python with `datasets`, `evaluate` and `numpy`; `finish` has what it printed, as JSON."""
    command = [sys.executable, "-c", ALONE + script, *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(run):
    output, error = run.communicate()
    assert run.returncode == 0, error[-3000:]
    return json.loads(output)


# --- the metric ------------------------------------------------------------------------------------------------------


def test_the_folder_is_a_metric_with_our_scores(evaluate):
    metric = evaluate.load(str(SPACE))
    assert metric.module_type == "metric"
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == score(PREDICTIONS, REFERENCES)
    given = {"ks": (1, 3), "groups": ["a", "a", "b", "b", "c"], "bootstrap": 200, "seed": 5}
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES, **given)
    assert found == score(PREDICTIONS, REFERENCES, **given)


def test_a_user_loads_it_by_the_id_of_its_space(tmp_path):
    recipe = [sys.executable, "recipes/publish_space.py", "--source", "entity-linking-metric", "--private"]
    script = (
        "metric = evaluate.load('tester/link-scores')\n"
        f"print(json.dumps(metric.compute(predictions={PREDICTIONS}, references={REFERENCES})))"
    )
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        subprocess.run([*recipe, "--space", "tester/link-scores"], cwd=ROOT, env=environment, check=True)
        found = finish(start(script, environment))
    assert found == score(PREDICTIONS, REFERENCES)


def test_several_processes_score_together(tmp_path):
    script = (
        "rank = int(sys.argv[1])\n"
        f"metric = evaluate.load({str(SPACE)!r}, num_process=2, process_id=rank, experiment_id='one', cache_dir='.')\n"
        "own = slice(0, 3) if rank == 0 else slice(3, 5); groups = list('aabbc')\n"
        f"found = metric.compute(predictions={PREDICTIONS}[own], references={REFERENCES}[own], groups=groups)\n"
        "print(json.dumps(found))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    runs = [start(script, environment, str(rank), cwd=tmp_path) for rank in (0, 1)]
    first, second = map(finish, runs)
    assert first == score(PREDICTIONS, REFERENCES, groups=list("aabbc"))
    assert second is None


def test_who_lacks_the_package_is_told_what_to_install(evaluate):
    (found,) = evaluate.loading.get_imports(str(SPACE / "entity-linking-metric.py"))
    assert found[:3] == ("library", "angel_trl", "-e .")


def test_its_requirements_are_all_it_needs():
    listed = [line for line in (SPACE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert listed == ["datasets", "evaluate", "numpy"]
    script = f"sys.path.insert(0, {str(SPACE)!r}); import scoring; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "transformers", "scipy"} & set(finish(start(script, os.environ)))


def test_the_examples_of_the_card_run(evaluate):
    card = (SPACE / "README.md").read_text(encoding="utf-8").replace("user/entity-linking-metric", str(SPACE))
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", None, 0)
    assert len(test.examples) == 11
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


# --- the page --------------------------------------------------------------------------------------------------------


def test_scores_are_shown_with_intervals_and_the_mentions_one_by_one(scoring):
    said, meant = json.dumps(PREDICTIONS), json.dumps(REFERENCES)
    shown = scoring.table(scoring.scored(said, meant))
    assert "5 mentions, 1 of no concept (NIL). Percentages, with 95% bootstrap intervals over mentions." in shown
    assert '<th scope="row">Accuracy at 1</th><td>80.0 <span class="quiet">40.0 to 100.0</span></td>' in shown
    assert "<td><code>D001943</code> <b>and</b> <code>D010051</code></td><td><code>D001943</code></td>" in shown
    assert "<td>no concept (NIL)</td><td>none</td><td>abstained</td><td>abstained</td>" in shown
    assert "<td><code>D003920</code> or <code>OMIM:222100</code></td><td><code>D006973</code></td><td>2</td>" in shown
    assert "over documents" in scoring.table(scoring.scored(said, meant, '["a", "a", 1, 1, 2]'))


@pytest.mark.parametrize(
    ("predictions", "references", "documents", "message"),
    [
        ("", "[[]]", "", "There are no predictions yet"),
        ("[[]]", " \n", "", "There are no references yet"),
        ('[\n[["A"],]]', "[[]]", "", "The predictions are not JSON: Expecting value in line 2, column 8."),
        ("[[]]", "[" * 100_000, "", "The references hold a number or a nesting that is beyond reading"),
        ("[[" + "9" * 5000 + "]]", "[[]]", "", "The predictions hold a number or a nesting"),
        ('{"a": 1}', "[[]]", "", 'The predictions are {"a": 1}, and must be a list with one item a mention.'),
        ('["A"]', "[[]]", "", 'predictions[0] is "A", and must be the list of its candidates'),
        ("[[]]", "[null]", "", "references[0] is null, and must be the list of its parts"),
        ('[["A"]]', "[[]]", "", 'predictions[0][0] is "A", and must be a list of ids, such as ["D003693"].'),
        ("[[[]]]", "[[[3693]]]", "", "references[0][0] holds 3693, which is no id: write it in quotes."),
        ("[[], []]", "[[]]", "", "There are 2 predictions for 1 references"),
        ("[]", "[]", "", "There are no mentions to score"),
        ("[[]]", "[[[]]]", "", "references[0] = [[]] has a part without alternatives"),
        ("[[]]", "[[]]", '["a", "b"]', "groups has 2 labels for 1 mentions"),
        ("[[]]", "[[]]", "[[]]", "documents[0] is [], and must be a text or a whole number."),
        ("[[]]", "[[]]", "1, 2", "The documents are not JSON: Extra data in line 1, column 2."),
        ("[[]" + ",[]" * 10_000 + "]", "[[]]", "", "There are 10,001 predictions, of which at most 10,000"),
        (" " * 1_000_001 + "[]", "[[]]", "", "The predictions have 1,000,003 characters"),
    ],
)
def test_what_cannot_be_scored_is_said_and_nothing_is_scored(
    scoring, monkeypatch, predictions, references, documents, message
):
    ranked = []
    monkeypatch.setattr(scoring, "gold_ranks", lambda *arguments, **more: ranked.append(arguments))
    with pytest.raises(scoring.VisitorError) as told:
        scoring.scored(predictions, references, documents)
    assert message in str(told.value)
    assert ranked == []


def test_what_a_visitor_wrote_is_shown_as_it_stands(scoring):
    evil = '<img src=x onerror="alert(1)">'
    shown = scoring.table(scoring.scored(json.dumps([[[evil], ["\ud800"]]]), json.dumps([[["&", "\ud800"]]])))
    assert "<img" not in shown
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in shown
    assert "<code>&amp;</code> or <code>?</code>" in shown
    with pytest.raises(scoring.VisitorError) as told:
        scoring.scored(json.dumps([[evil]]), "[[]]")
    assert "&lt;img" in scoring.problem(told.value)
    assert "<img" not in scoring.problem(told.value)


def test_long_lists_are_cut(scoring):
    ids = [f"C{number}" for number in range(9)]
    shown = scoring.table(scoring.scored(json.dumps([[ids]] * 25), json.dumps([[ids]] * 25)))
    assert "<code>C5</code>, 3 more" in shown
    assert shown.endswith('<p class="quiet">And 5 more.</p>')


def test_the_page_shows_its_examples_and_offers_nothing_to_programs():
    pytest.importorskip("gradio", reason="pip install -c constraints.txt -e '.[space]' lets the test run")
    app = load("app")
    for values in app.EXAMPLES.values():
        assert 'class="scores"' in app.answer(*map(app.written, values))
    assert app.answer("[", None, "").startswith('<p class="problem" role="alert">The predictions are not JSON')
    assert app.page().get_api_info()["named_endpoints"] == {}
