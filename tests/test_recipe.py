"""The recipe as a user runs it: real processes, a short quickstart, a PubTator corpus, the commands of the README."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import DatasetDict
from readme_commands import INSTALL, INSTALL_TEST, LINK, NCBI, PREPARE, PRETRAIN, PUBLISH, QUICKSTART

from angel_trl import EntityLinker, KnowledgeBase
from angel_trl.evaluation import evaluate_linking
from angel_trl.targets import prepare_mentions

ROOT = Path(__file__).resolve().parents[1]
SHORT = shlex.split(
    "--pretrain_passes 0.1 --positive_epochs 1 --kb_mentions_per_mention 0.1 --num_rounds 2 --mentions_per_round 96 "
    "--mined_kb_mentions 64 --bootstrap 50"
)


def launch(*arguments, check=True):
    """Run `accelerate launch` from the root of the repository."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def recipe():
    """The recipe as a module."""
    import angel

    return angel


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """A short run of the quickstart: its output folder and what it printed."""
    output = tmp_path_factory.mktemp("quickstart")
    run = launch("recipes/angel.py", "--output_dir", output, *SHORT, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return output, run


def test_quickstart_ends_with_one_json_object(quickstart):
    output, run = quickstart
    results = json.loads(run.stdout.splitlines()[-1])
    assert {"lookup", "positive_only", "angel", "linker", "seconds"} <= set(results)
    for system in ("lookup", "positive_only", "angel"):
        assert set(results[system]) == {"acc@1", "acc@5", "mrr", "acc@1_strict"}
        assert all(0 <= value <= 100 for value in results[system].values())
    assert results["linker"] == str(output / "linker")
    assert results["seconds"] > 0
    # The floor does not depend on training.
    assert results["lookup"]["acc@1"] == results["lookup"]["acc@5"] == 22.6


def test_quickstart_prints_a_table_and_the_command_that_tries_the_linker(quickstart):
    output, run = quickstart
    for system in ("lookup", "positive-only", "ANGEL"):
        assert re.search(rf"^\s*{system}\s", run.stdout, re.MULTILINE)
    command = next(line for line in run.stdout.splitlines() if "python -m angel_trl" in line)
    arguments = shlex.split(command)
    tried = subprocess.run([sys.executable, *arguments[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(tried.stdout.splitlines()[0])) >= {"id", "name", "mention", "candidates", "exact"}


def test_quickstart_leaves_picture_report_results_and_linker(quickstart):
    output, _ = quickstart
    assert (output / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| ANGEL |" in (output / "report.md").read_text()
    results = json.loads((output / "results.json").read_text())
    assert set(results["test"]) == {"lookup", "lookup + training mentions", "positive-only", "ANGEL"}
    assert "acc@1_ci" in results["test"]["ANGEL"]
    assert "ci" in results["difference"]
    data = results["data"]
    assert data["kb"]["concepts"] >= 600
    for split in ("train", "dev", "test"):
        counts = results["counts"][split]
        assert counts["read"] == counts["used"] + sum(
            n for reason, n in counts.items() if reason.startswith("skipped")
        )
    assert {"angel.json", "kb.parquet", "trie.safetensors", "model.safetensors"} <= {
        path.name for path in (output / "linker").iterdir()
    }


def test_resume_takes_finished_stages_as_they_are(quickstart):
    output, run = quickstart
    weights = output / "linker" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = launch("recipes/angel.py", "--output_dir", output, "--resume", *SHORT)
    first, second = (json.loads(r.stdout.splitlines()[-1]) for r in (run, again))
    assert weights.stat().st_mtime_ns == before
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_linkers_are_tested_within_types_if_the_rounds_were(
    recipe, make_model, tokenizer, small_kb, small_mentions, tmp_path, capsys
):
    import reporting

    # Every other concept is of the mentions' type: what is found among these differs from what is found among all.
    types = [("Sign",), ("Disease",)]
    kb = KnowledgeBase([replace(concept, types=types[i % 2]) for i, concept in enumerate(small_kb.concepts)])
    linker = EntityLinker(make_model(), tokenizer, kb)
    linker.save_pretrained(tmp_path / "linker")
    corpus = DatasetDict(train=small_mentions, test=small_mentions)
    mentions = prepare_mentions(small_mentions, linker.targets)
    scores = []
    for within_types in (False, True):
        results = reporting.evaluate_systems({"ANGEL": tmp_path / "linker"}, kb, corpus, 0, 10, True, within_types)
        alone = evaluate_linking(linker.model, linker.targets, mentions, within_types=within_types).metrics
        scores.append(results["test"]["ANGEL"]["mrr"])
        assert scores[-1] == alone["mrr"]
        reporting.write_report(tmp_path, results | {"data": {}}, {}, "title")
        for said in (capsys.readouterr().out, (tmp_path / "report.md").read_text()):
            assert (reporting.WITHIN_TYPES in said) == within_types
    assert scores[0] != scores[1]


PUBTATOR = """{id}|t|A study of {name}
{id}|a|We saw {other} and {name} in mice.

"""


def test_pubtator_corpus_and_medic_dictionary(tmp_path):
    names = [
        "ataxia",
        "colon cancer",
        "lung cancer",
        "wilson disease",
        "gout",
        "measles",
        "type 2 diabetes",
        "rickets",
    ]
    (tmp_path / "kb.txt").write_text("".join(f"D{i}||{name}|{name} disorder\n" for i, name in enumerate(names)))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, split in enumerate(("train", "develop", "test")):
        text = ""
        for i, name in enumerate(names):
            pmid, start = 100 * number + i, len("A study of ")
            document = PUBTATOR.format(id=pmid, name=name, other=names[i - 1])
            text += document.rstrip("\n") + f"\n{pmid}\t{start}\t{start + len(name)}\t{name}\tDisease\tD{i}\n\n"
        (corpus / f"NCBI{split}set_corpus.txt").write_text(text)
    run = launch(
        *shlex.split(NCBI)[2:6],
        *("scratch-tiny", "--corpus", corpus, "--kb", tmp_path / "kb.txt", "--output_dir", tmp_path / "out"),
        *("--positive_epochs", "2", "--positive_patience", "1", "--num_rounds", "1", "--use_cpu", "true"),
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["corpus"]["used"] == 3 * len(names)
    assert results["test"]["lookup"]["acc@1"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "x"], "Give both --corpus and --kb"),
        (["--model", "scratch-huge"], "scratch-huge"),
        (["--learning_rat", "1"], "learning_rat"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    run = launch("recipes/angel.py", "--output_dir", tmp_path, *arguments, check=False)
    assert run.returncode != 0
    # The launcher ends by repeating the whole command, in which every argument is found.
    assert message in run.stderr.split("CalledProcessError")[0]


DOCUMENT = "1|t|Ataxia in mice\n1|a|Rare.\n"
MENTION = DOCUMENT + "1\t0\t6\tAtaxia\tDisease\tD1\n"
GOOD = {"train.txt": MENTION, "dev.txt": MENTION, "test.txt": MENTION}


@pytest.mark.parametrize(
    ("files", "dictionary", "message"),
    [
        (GOOD, "Dear reader\n", "kb: no known knowledge base format: it starts with 'Dear reader"),
        (GOOD, MENTION, "kb: .* a PubTator corpus, which holds mentions"),
        (GOOD, "D1||Ataxia\nD2\n", "kb:2: 'D2' is not of the form"),
        (GOOD, "D1||\n", "kb: no (usable concept|known knowledge base format)"),
        (GOOD | {"dev.txt": DOCUMENT}, "D1||Ataxia\n", "dev.txt: split dev is empty"),
        (
            GOOD | {"dev.txt": "<xml/>"},
            "D1||Ataxia\n",
            "dev.txt: its name tells dev, but it is of no known corpus format",
        ),
        (GOOD | {"test.txt": MENTION + "stray\n"}, "D1||Ataxia\n", "test.txt:4: 'stray' is neither"),
        ({"train.txt": MENTION}, "D1||Ataxia\n", r"lacks the splits \['dev', 'test'\]; it has \['train'\]"),
    ],
)
def test_data_that_is_not_what_it_should_be_is_one_error(recipe, tmp_path, files, dictionary, message):
    (tmp_path / "kb").write_text(dictionary)
    (tmp_path / "corpus").mkdir()
    for name, text in files.items():
        (tmp_path / "corpus" / name).write_text(text)
    arguments = recipe.RecipeArguments(corpus=str(tmp_path / "corpus"), kb=str(tmp_path / "kb"))
    with pytest.raises((ValueError, SystemExit), match=message):
        recipe.load_data(arguments)


def test_every_mention_line_that_was_read_is_in_the_report(recipe, tmp_path):
    (tmp_path / "kb").write_text("D1||Ataxia\n")
    (tmp_path / "corpus").mkdir()
    wrong = "1\t90\t96\tAtaxia\tDisease\tD1\n1\t0\t6\n"
    for split in ("train", "dev", "test"):
        (tmp_path / "corpus" / f"{split}.txt").write_text(MENTION + wrong)
    arguments = recipe.RecipeArguments(corpus=str(tmp_path / "corpus"), kb=str(tmp_path / "kb"))
    _, corpus, report = recipe.load_data(arguments)
    assert [len(corpus[split]) for split in ("train", "dev", "test")] == [1, 1, 1]
    assert (report["corpus"]["read"], report["corpus"]["used"]) == (9, 3)
    assert report["corpus"]["skipped"] == {
        "mention not found at its offsets or nearby": 3,
        "3 columns instead of 6": 3,
    }
    assert report["kb"]["concepts"] == 1


def test_the_fold_and_the_level_of_ids_reach_the_reader(recipe, tmp_path):
    (tmp_path / "kb").write_text("7||Ataxia\nS||Limb ataxia\n")
    folds, cometa = tmp_path / "folds", tmp_path / "cometa"
    folds.mkdir()
    cometa.mkdir()
    header = "ID\tTerm\tGeneral SNOMED Label\tGeneral SNOMED ID\tSpecific SNOMED Label\tSpecific SNOMED ID\tExample\n"
    for name, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
        for fold in (0, 1):
            (folds / f"AskAPatient.fold-{fold}.{name}.txt").write_text(f"7\tAtaxia\tclumsy {fold}\n")
        (cometa / f"{split}.csv").write_text(f"{header}1\tclumsy\ta\t7\tb\tS\tso clumsy\n")
    settings = {"kb": str(tmp_path / "kb")}
    _, corpus, _ = recipe.load_data(recipe.RecipeArguments(corpus=str(folds), fold=1, **settings))
    assert corpus["dev"]["mention"] == ["clumsy 1"]
    for level, gold in (("general", "7"), ("specific", "S")):
        _, corpus, _ = recipe.load_data(recipe.RecipeArguments(corpus=str(cometa), level=level, **settings))
        assert corpus["test"]["concept_ids"] == [[[gold]]]


def test_configs_hold_known_settings_only(recipe):
    # That of pre-training is for another recipe: test_pretrain.py.
    paths = sorted(path for path in (ROOT / "recipes" / "configs").glob("*.yaml") if path.stem != "pretrain")
    assert {path.stem for path in paths} >= {"quickstart", "ncbi", "scratch-small"}
    for path in paths:
        arguments, config = recipe.parse_arguments(["--config", str(path), "--use_cpu", "true"])
        given = yaml.safe_load(path.read_text())
        for name, value in given.items():
            owner = arguments if hasattr(arguments, name) else config
            assert getattr(owner, name) == value or name in ("report_to", "use_cpu"), (path.name, name)


def test_a_preset_brings_its_settings_and_the_command_line_wins(recipe):
    config = str(ROOT / "recipes" / "configs" / "ncbi.yaml")
    paper, _ = recipe.parse_arguments(["--config", config, "--use_cpu", "true"])
    scratch, _ = recipe.parse_arguments(["--config", config, "--model", "scratch-small", "--use_cpu", "true"])
    both, _ = recipe.parse_arguments(
        ["--config", config, "--model", "scratch-small", "--positive_epochs", "3", "--use_cpu", "true"]
    )
    assert (paper.model, paper.max_words, paper.positive_learning_rate) == ("dmis-lab/ANGEL_pretrained", 384, 3e-7)
    assert scratch.max_words == 64
    assert scratch.positive_learning_rate > 1e-4
    assert both.positive_epochs == 3
    quick, _ = recipe.parse_arguments(["--config", config, "--model", "scratch-quick", "--use_cpu", "true"])
    assert (quick.max_words, quick.pretrain_in_passages, quick.pretrain_matrix_learning_rate) == (8, 1.0, 4e-3)
    assert paper.pretrain_matrix_learning_rate is None


def test_every_command_of_the_readme_is_run_by_a_test(quickstart):
    output, _ = quickstart
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    commands = {part.strip() for block in blocks for line in block.splitlines() for part in line.split(" && ")}
    # .ci/run runs the first four as they stand; the others run on small data, here and in the tests of their recipes.
    known = {INSTALL, QUICKSTART, INSTALL_TEST, "pytest", NCBI, PREPARE, PRETRAIN, LINK, PUBLISH}
    tried = {command for command in commands if command.startswith("python -m angel_trl runs/quickstart/linker")}
    assert commands - known == tried
    assert known <= commands
    for command in tried:
        arguments = shlex.split(command.replace("runs/quickstart/linker", str(output / "linker")))
        subprocess.run([sys.executable, *arguments[1:]], cwd=ROOT, capture_output=True, check=True)
    snippets = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert snippets
    for snippet in snippets:
        assert "runs/quickstart/" in snippet
        code = snippet.replace("runs/quickstart", str(output))
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kb_in_passages": 1.5}, "^--kb_in_passages is 1.5; it is a share, between 0 and 1"),
        ({"mined_in_passages": -0.1}, "^--mined_in_passages is -0.1; it is a share"),
        ({"kb_noise": 30}, "^--kb_noise is 30; it is a share"),
        ({"kb_own_name": 2.0}, "^--kb_own_name is 2.0; it is a share"),
        ({"mined_kb_mentions": -1}, "^--mined_kb_mentions is -1; it must not be negative"),
        ({"kb_mentions_per_mention": -1.0}, "^--kb_mentions_per_mention is -1.0; it must not be negative"),
        ({"positive_matrix_learning_rate": 0.0}, "^--positive_matrix_learning_rate is 0.0; it must be above 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(recipe, tmp_path, setting, message):
    recipe_arguments = recipe.RecipeArguments(corpus=str(tmp_path / "none"), kb=str(tmp_path / "none"), **setting)
    config = recipe.AngelConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    with pytest.raises(SystemExit, match=message):
        recipe.main(lambda _: (recipe_arguments, config))


@pytest.mark.parametrize("library", ["FSDP", "DEEPSPEED"])
def test_muon_is_refused_where_matrices_are_shared_out(recipe, tmp_path, monkeypatch, library):
    monkeypatch.setenv(f"ACCELERATE_USE_{library}", "true")
    recipe_arguments = recipe.RecipeArguments(corpus="none", kb="none", pretrain_matrix_learning_rate=1e-3)
    message = (
        f"^--pretrain_matrix_learning_rate is for Muon, which needs whole matrices, and {library} shares them out"
    )
    with pytest.raises(SystemExit, match=message):
        recipe.check_matrix_rates(recipe_arguments, ("pretrain_matrix_learning_rate",))
