"""The recipe of ablations: what it shares with `angel.py`, and what it refuses."""

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict
from test_recipe import launch

from angel_trl import EntityLinker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recipes():
    """`(angel, ablation)` as modules."""
    import ablation
    import angel

    return angel, ablation


SETTINGS = shlex.split(
    "--config recipes/configs/quickstart.yaml --skip_positive --num_rounds 2 --mentions_per_round 12 "
    "--mined_kb_mentions 8 --per_device_train_batch_size 4 --num_beams 5 --disable_tqdm true "
    "--load_best_model_at_end false"
)


@pytest.fixture
def rounds(recipes, tmp_path, make_model, tokenizer, small_kb, small_mentions, monkeypatch):
    """`rounds(recipe, *settings)` trains the rounds of a recipe in a folder of its own, which it returns."""
    monkeypatch.chdir(ROOT)
    angel, _ = recipes
    start = tmp_path / "start"
    EntityLinker(make_model(), tokenizer, small_kb).save_pretrained(start)
    splits = {name: small_mentions.filter(lambda row, s=name: row["split"] == s) for name in ("train", "dev")}

    def rounds(recipe, *settings):
        folder = tmp_path / "-".join([recipe.__name__, *settings])
        args, config = recipe.parse_arguments([*SETTINGS, "--model", str(start), *settings])
        told = angel.Publication(args, config, model=args.model, corpus=None, kb=None, argv=[])
        angel.train_angel(
            args, config, small_kb, DatasetDict(splits), tmp_path / "nothing", folder, folder / "to", told
        )
        return folder

    return rounds


def bits(folder):
    files = ["to/model.safetensors", "to/config.json", "pairs/round-000.parquet", "pairs/round-001.parquet"]
    return [(folder / file).read_bytes() for file in files]


def test_without_a_variant_it_trains_bit_for_bit_what_angel_does(recipes, rounds, tmp_path):
    angel, ablation = recipes
    trained = bits(rounds(angel))
    assert trained == bits(rounds(ablation))
    assert trained[0] != (tmp_path / "start" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "variant",
    [
        ("--negatives", "tfidf"),
        ("--negatives", "random"),
        ("--mistake", "doubled_space"),
        ("--mistake", "prefix"),
        ("--mistake", "dropout"),
    ],
    ids=lambda variant: variant[1],
)
def test_a_variant_mines_the_same_mentions_and_trains_another_model(recipes, rounds, variant):
    angel, ablation = recipes
    plain, other = rounds(angel), rounds(ablation, *variant)
    assert (plain / "to" / "model.safetensors").read_bytes() != (other / "to" / "model.safetensors").read_bytes()
    tables = [pq.read_table(folder / "pairs" / "round-000.parquet") for folder in (plain, other)]
    for column in ("mention_row", "mention_place", "chosen_name"):
        assert tables[0][column] == tables[1][column]
    assert (tables[0]["rejected_name"] == tables[1]["rejected_name"]) == (variant[0] == "--mistake")


def test_it_publishes_nothing(recipes):
    _, ablation = recipes
    with pytest.raises(SystemExit, match="publishes nothing: leave push_to_hub out"):
        ablation.parse_arguments([*SETTINGS, "--push_to_hub", "--hub_model_id", "user/name"])


@pytest.mark.parametrize("setting", [("--negatives", "dense"), ("--mistake", "spelling")])
def test_other_variants_are_refused_by_name(recipes, setting, capsys):
    _, ablation = recipes
    with pytest.raises(SystemExit):
        ablation.parse_arguments([*SETTINGS, *setting])
    assert f"{setting[0]}: invalid choice: '{setting[1]}'" in capsys.readouterr().err


def test_a_run_leaves_what_angel_leaves(tmp_path):
    given = shlex.split(
        "--model scratch-tiny --skip_positive --num_rounds 1 --mentions_per_round 64 --mined_kb_mentions 0 "
        "--bootstrap 20 --num_beams 3 --negatives random --mistake dropout --cpu_threads 1"
    )
    run = launch("recipes/ablation.py", "--output_dir", tmp_path, *given, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["test"]) == {"lookup", "lookup + training mentions", "ANGEL"}
    assert (results["settings"]["recipe"]["negatives"], results["settings"]["recipe"]["mistake"]) == (
        "random",
        "dropout",
    )
    for file in ("predictions.parquet", "mentions.parquet", "report.md", "angel/curve.json", "linker/angel.json"):
        assert (tmp_path / file).exists()
    assert set(pq.read_table(tmp_path / "angel" / "pairs" / "round-000.parquet")["rejected_rank"].to_pylist()) == {-1}
    assert "accelerate launch recipes/ablation.py --output_dir" in (tmp_path / "linker" / "README.md").read_text()
