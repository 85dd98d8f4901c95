"""recipes/prepare.py as a user runs it: what it writes, counts and refuses, and what it puts on the Hub."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from prepare_world import both, client, files, write_data
from readme_commands import PREPARE

from angel_trl import KnowledgeBase, read_corpus, read_knowledge_base

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def recipe():
    """The recipe as a module."""
    import prepare

    return prepare


@pytest.fixture
def run(recipe, monkeypatch, capsys):
    """Runs the recipe in this process; returns the object of the last line."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        recipe.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return main


@pytest.fixture
def data(tmp_path):
    """A folder with a corpus, its knowledge base and a file of corrected links."""
    return write_data(tmp_path / "data")


def test_corpus_and_knowledge_base_become_two_datasets(run, data):
    line = run(*both(data))
    out = data.parent / "out"
    assert {**line, "seconds": 0} == {
        "report": str(out / "report.json"),
        "kb": str(out / "kb"),
        "concepts": 3,
        "names": 4,
        "mentions": str(out / "mentions"),
        "splits": {"train": 8, "dev": 8, "test": 8},
        "labels_unknown": 9,
        "published": [],
        "seconds": 0,
    }
    assert list(files(out)) == [
        "kb/README.md",
        "kb/kb.parquet",
        "mentions/README.md",
        "mentions/data/dev-00000-of-00001.parquet",
        "mentions/data/test-00000-of-00001.parquet",
        "mentions/data/train-00000-of-00001.parquet",
        "report.json",
    ]


def test_the_command_of_the_readme_does_it(run, data, tmp_path, monkeypatch):
    assert PREPARE in (ROOT / "README.md").read_text()
    given = PREPARE.replace("path/to/ncbi_disease", str(data / "corpus"))
    given = given.replace("path/to/medic_06Jul2012.txt", str(data / "kb.jsonl"))
    monkeypatch.chdir(tmp_path)
    line = run(*shlex.split(given)[2:])
    assert (line["mentions"], line["kb"]) == ("prepared/mentions", "prepared/kb")
    assert (tmp_path / "prepared" / "kb" / "kb.parquet").exists()


def test_every_count_is_in_the_report(run, data):
    run(*both(data))
    report = json.loads((data.parent / "out" / "report.json").read_text())
    assert report["kb"]["statistics"] == {
        "concepts": 3,
        "names": 4,
        "names_read": 7,
        "duplicates_merged": 1,
        "names_lost": 1,
        "concepts_without_name": 0,
        "homonyms_disambiguated": 0,
        "homonyms_dropped": 0,
        "homonyms": 1,
        "alternate_ids": 1,
        "alternate_ids_shadowed": 0,
    }
    read = report["corpus"]["read"]
    assert (read["read"], read["used"], sum(read["skipped"].values())) == (30, 24, 6)
    train = report["corpus"]["splits"]["train"]
    assert train.pop("examples") == {
        "labels_alternate": ["A1: 10:0-6 'Ataxia'"],
        "labels_unknown": ["X1: 10:11-15 'gout'", "X2: 20:11-15 'gout'", "X3: 20:21-26 'fever'"],
    }
    assert train == {
        "documents": 2,
        "mentions": 8,
        "composites": 1,
        "without_concept": 2,
        "labels": 8,
        "ids": 6,
        "mentions_known": 4,
        "mentions_partly_known": 1,
        "mentions_unknown": 1,
        "strings_known": 6,
        "strings_right": 5,
        "labels_primary": 3,
        "labels_alternate": 2,
        "labels_of_several_concepts": 0,
        "labels_unknown": 3,
        "ids_unknown": 3,
    }


def test_both_readers_and_datasets_read_what_was_written(run, data, tmp_path):
    run(*both(data))
    out = data.parent / "out"
    original, _ = read_corpus(data / "corpus")
    ours, report = read_corpus(out / "mentions")
    loaded = load_dataset(str(out / "mentions"), cache_dir=tmp_path / "cache")
    assert list(loaded) == ["train", "dev", "test"]
    for split in original:
        assert ours[split][:] == loaded[split][:] == original[split][:]
    assert report.used == report.read == 24
    kb = read_knowledge_base(data / "kb.jsonl")
    assert read_knowledge_base(out / "kb").fingerprint == kb.fingerprint
    assert KnowledgeBase.from_pretrained(out / "kb").fingerprint == kb.fingerprint


def test_the_training_recipe_takes_the_folders(run, data):
    run(*both(data))
    out = data.parent / "out"
    import angel

    kb, corpus, _ = angel.load_data(angel.RecipeArguments(corpus=str(out / "mentions"), kb=str(out / "kb")))
    assert len(kb) == 3
    assert {split: len(dataset) for split, dataset in corpus.items()} == {"train": 8, "dev": 8, "test": 8}


def test_cards_say_what_was_made_and_how(run, data):
    run(*both(data, "--license", "mit", "--kb_license", "Mine https://x.org/l", "--language", "en"))
    out = data.parent / "out"
    mentions, kb = (DatasetCard.load(out / name / "README.md") for name in ("mentions", "kb"))
    assert (mentions.data["license"], mentions.data["language"]) == ("mit", "en")
    assert (kb.data["license"], kb.data["license_name"]) == ("other", "mine")
    assert f"python recipes/prepare.py --output_dir {out} --corpus {data / 'corpus'} --kb" in mentions.text
    assert "| labels not in the knowledge base | 3 | 3 | 3 |" in mentions.text
    assert "The labels are ids of kb.jsonl." in mentions.text
    assert "| left out | mention not found at its offsets or nearby | 6 |" in mentions.text
    assert "| names lost to normalisation (nothing is left of them) | 1 |" in kb.text


def test_the_same_input_gives_the_same_bytes(run, data):
    run(*both(data))
    first = files(data.parent / "out")
    run(*both(data))
    assert files(data.parent / "out") == first


def test_a_knowledge_base_alone(run, data):
    line = run(
        "--kb", data / "kb.jsonl", "--output_dir", data / "out", "--homonyms", "drop", "--normalization", "lower"
    )
    assert "mentions" not in line
    kb = KnowledgeBase.from_pretrained(data / "out" / "kb")
    assert (kb.homonym_policy, kb.normalization) == ("drop", "lower")
    assert kb.statistics()["homonyms_dropped"] == 1
    assert "3 of 3 records of the source were used" in (data / "out" / "kb" / "README.md").read_text()


def test_links_corrected_in_the_demo_are_a_corpus_of_one_split(run, data):
    line = run("--corpus", data / "flagged.jsonl", "--output_dir", data / "out")
    assert line["splits"] == {"train": 2}
    assert "kb" not in line
    assert read_corpus(data / "out" / "mentions")[0]["train"]["mention"] == ["Gout", "fever"]


def test_several_files_are_one_corpus(run, data):
    line = run("--corpus", data / "corpus" / "train.txt", data / "corpus" / "test.txt", "--output_dir", data / "out")
    assert line["splits"] == {"train": 8, "test": 8}


def test_mentions_of_unknown_labels_are_left_out_only_if_asked_and_counted(run, data):
    line = run(*both(data, "--unknown", "drop"))
    assert line["splits"] == {"train": 7, "dev": 7, "test": 7}
    report = json.loads((data.parent / "out" / "report.json").read_text())
    assert report["corpus"]["left_out"]["dev"] == {"mentions": 1, "examples": ["21:21-26 'fever': [['X3']]"]}
    assert report["corpus"]["splits"]["dev"]["mentions_unknown"] == 0
    card = (data.parent / "out" / "mentions" / "README.md").read_text()
    assert "were left out: 3. For instance: 20:21-26 'fever': \\[\\['X3'\\]\\]; " in card
    assert read_corpus(data.parent / "out" / "mentions")[1].used == 21


def test_abbreviations_are_written_out_if_asked(run, data):
    pytest.importorskip("pyab3p", reason='pip install "angel_trl[abbreviations]"')
    text = "He has Wilson disease (WD). WD is rare."
    row = {"text": text, "start": 28, "end": 30, "concept_ids": "D1"}
    (data / "flagged.jsonl").write_text(json.dumps(row) + "\n")
    run("--corpus", data / "flagged.jsonl", "--output_dir", data / "out", "--abbreviations", "ab3p")
    (mention,) = read_corpus(data / "out" / "mentions")[0]["train"]
    assert (mention["mention"], mention["id"]) == ("Wilson disease", "1:28-30")
    assert mention["text"].endswith("(WD). Wilson disease is rare.")
    assert "by Ab3P (mentions changed: 1)" in (data / "out" / "mentions" / "README.md").read_text()


def test_a_large_split_is_several_files(run, recipe, data, monkeypatch):
    monkeypatch.setattr(recipe, "BYTES_PER_FILE", 300)
    run(*both(data))
    paths = sorted((data.parent / "out" / "mentions" / "data").glob("train-*"))
    assert len(paths) > 1
    assert read_corpus(data.parent / "out" / "mentions")[0]["train"][:] == read_corpus(data / "corpus")[0]["train"][:]
    assert len(load_dataset(str(data.parent / "out" / "mentions"), cache_dir=data / "cache")["train"]) == 8


def test_settings_may_stand_in_a_yaml_file(recipe, data):
    (data / "prepare.yaml").write_text(f"corpus: {data / 'flagged.jsonl'}\noutput_dir: out\nunknown: keep\n")
    args = recipe.parse_arguments(["--config", str(data / "prepare.yaml"), "--language", "en"])
    assert args.corpus == [str(data / "flagged.jsonl")]
    assert recipe.command_line(args).endswith("/flagged.jsonl --language en")


def test_the_command_has_no_secrets(recipe, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    source = "https://me:secret@x.org/a.txt?token=t#f"
    arguments = ["--corpus", "/home/jane/my data/a", source, "--output_dir", "/home/jane/o", "--fold", "2"]
    assert recipe.command_line(recipe.parse_arguments([*arguments, "--push_to_hub", "--hub_dataset_id", "u/n"])) == (
        "python recipes/prepare.py --output_dir ~/o --corpus ~/'my data/a' 'https://x.org/a.txt?...' --fold 2 "
        "--push_to_hub true --hub_dataset_id u/n"
    )
    assert recipe.name_of(source) == "https://x.org/a.txt?..."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Give --corpus, --kb or both"),
        ("--corpus x --hub_kb_id u/n", "--hub_kb_id is given, but no --kb"),
        ("--corpus x --push_to_hub", "needs to know where to"),
        ("--corpus x --hub_dataset_id n", "'n' is no id of a dataset"),
        ("--corpus x --unknown drop", "--unknown drop needs both"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_settings_that_do_not_fit_are_named(recipe, arguments, message):
    with pytest.raises(SystemExit, match=message):
        recipe.parse_arguments(["--output_dir", "out", *arguments.split()])


def test_a_folder_of_others_is_left_as_it_is(run, data):
    for content in ("", json.dumps({"files": {}, "made_by": "someone else"})):
        (data.parent / "out").mkdir(exist_ok=True)
        (data.parent / "out" / "report.json").write_text(content)
        with pytest.raises(SystemExit, match="holds files that this recipe did not write"):
            run(*both(data))
    assert list(files(data.parent / "out")) == ["report.json"]


@pytest.mark.parametrize("name", ["mentions/notes.txt", "kb/README.md"])
def test_what_was_added_or_changed_since_is_not_overwritten(run, data, name):
    run(*both(data))
    (data.parent / "out" / name).write_text("mine")
    before = files(data.parent / "out")
    with pytest.raises(SystemExit, match=f"{name} was put there or changed since"):
        run(*both(data))
    assert files(data.parent / "out") == before


def test_files_beside_ours_stay(run, data):
    run(*both(data))
    (data.parent / "out" / "notes.txt").write_text("mine")
    run("--kb", data / "kb.jsonl", "--output_dir", data.parent / "out")
    assert list(files(data.parent / "out")) == ["kb/README.md", "kb/kb.parquet", "notes.txt", "report.json"]


def test_a_run_that_fails_leaves_what_an_earlier_one_wrote(run, data):
    run(*both(data))
    before = files(data.parent / "out")
    (data / "corpus" / "test.txt").write_text("not a corpus")
    with pytest.raises(SystemExit, match=r"test\.txt.*no known corpus format"):
        run(*both(data))
    assert files(data.parent / "out") == before
    with pytest.raises(SystemExit, match="no known corpus format"):
        run("--corpus", data / "corpus", "--output_dir", data / "new")
    assert not (data / "new").exists()


def test_what_was_prepared_can_be_prepared_again(run, data):
    run(*both(data))
    before = data.parent / "out"
    again = (
        "--corpus",
        before / "mentions",
        "--kb",
        before / "kb",
        "--output_dir",
        data / "again",
        "--unknown",
        "drop",
    )
    assert run(*again)["splits"] == {"train": 7, "dev": 7, "test": 7}
    card = (data / "again" / "kb" / "README.md").read_text()
    assert "Source: kb.jsonl" in card, "where the names came from, not where they lay in between"


def test_what_a_killed_run_left_is_no_hindrance(run, data):
    (data.parent / "out" / ".partial" / "kb").mkdir(parents=True)
    (data.parent / "out" / ".partial" / "kb" / "kb.parquet").write_text("half")
    run(*both(data))
    assert not (data.parent / "out" / ".partial").exists()


def test_the_knowledge_base_of_another_corpus_is_told(run, data):
    (data / "kb.jsonl").write_text('{"id": "C0", "names": ["Ataxia"]}\n')
    with pytest.raises(
        SystemExit, match=r"None of the 24 labels of the corpus is in .*kb.jsonl.*like 'C0'.*A1: 10:0-6"
    ):
        run(*both(data))


def test_a_split_without_any_known_label_cannot_be_left_out_whole(run, data):
    (data / "corpus" / "develop.txt").write_text("1|t|Tic\n1|a|\n1\t0\t3\tTic\tDisease\tX1\n")
    with pytest.raises(SystemExit, match="leaves nothing of the split dev"):
        run(*both(data, "--unknown", "drop"))


def test_counts_are_recorded_without_text_or_paths(run, data):
    (data / "counts.json").write_text(json.dumps({"zebra": {}}))
    run(*both(data, "--record", data / "counts.json"))
    recorded = json.loads((data / "counts.json").read_text())
    assert list(recorded) == ["out", "zebra"]
    assert recorded["out"]["corpus"]["splits"]["test"]["labels_unknown"] == 3
    assert recorded["out"]["corpus"]["read"]["skipped"] == {"mention not found at its offsets or nearby": 6}
    text = json.dumps(recorded)
    assert not [word for word in ("examples", "Ataxia", str(data.parent), "files") if word in text]


def test_help_tells_every_setting(recipe):
    environment = {**os.environ, "COLUMNS": "200"}
    run = client("recipes/prepare.py", "--help", environment=environment)
    assert run.returncode == 0
    for setting in recipe.fields(recipe.PrepareArguments):
        assert f"--{setting.name}" in run.stdout


REAL = {
    "ncbi": ("--corpus", "ncbi_disease", "--kb", "medic/medic_06Jul2012.txt"),
    "bc5cdr": ("--corpus", "bc5cdr", "--kb", "mesh/merged_mesh_medic_dictionary.tsv.gz"),
    "hp": ("--kb", "obo/hp.obo"),
    "HumanDO": ("--kb", "obo/HumanDO.obo"),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not beside this checkout")
@pytest.mark.parametrize("name", REAL)
def test_real_data_gives_the_counts_recorded(run, tmp_path, name):
    if name in ("hp", "HumanDO"):
        pytest.importorskip("fastobo", reason='pip install "angel_trl[readers]"')
    sources = [word if word.startswith("--") else str(SHARED / word) for word in REAL[name]]
    run(*sources, "--output_dir", tmp_path / name, "--record", tmp_path / "counts.json")
    recorded = json.loads((ROOT / "recipes" / "results" / "prepare.json").read_text())
    assert json.loads((tmp_path / "counts.json").read_text())[name] == recorded[name]
    shutil.rmtree(tmp_path / name)


def test_recorded_counts_add_up():
    recorded = json.loads((ROOT / "recipes" / "results" / "prepare.json").read_text())
    assert set(recorded) == set(REAL)
    for run_ in recorded.values():
        reports = [part["read"] for part in run_.values() if isinstance(part, dict)]
        assert all(read["read"] == read["used"] + sum(read["skipped"].values()) for read in reports)
        for counts in run_.get("corpus", {}).get("splits", {}).values():
            parts = ("mentions_known", "mentions_partly_known", "mentions_unknown", "without_concept")
            assert counts["mentions"] == sum(counts[part] for part in parts)
            kinds = ("labels_primary", "labels_alternate", "labels_unknown")
            assert counts["labels"] == sum(counts[kind] for kind in kinds)
    splits = recorded["ncbi"]["corpus"]["splits"]
    assert {split: counts["mentions"] for split, counts in splits.items()} == {"train": 5134, "dev": 787, "test": 960}
    splits = recorded["bc5cdr"]["corpus"]["splits"]
    assert {split: counts["without_concept"] for split, counts in splits.items()} == {"train": 76, "dev": 59}
