"""`--mine_folds` of the recipe: models of folds start from the names alone, mine what they have not seen, resume."""

import hashlib
import json
from types import SimpleNamespace

import kill_worker
import mining_folds
import positive_stage
import pyarrow.parquet as pq
import pytest
from kill_worker import small_quickstart
from safetensors.torch import load_file

from angel_trl import EntityLinker, search
from angel_trl.positive import PositiveTrainer
from angel_trl.targets import prepare_mentions

# 6 steps on names, an epoch on mentions, 2 rounds of 3 steps.
SETTINGS = {**kill_worker.RECIPE, "positive_epochs": 1, "num_rounds": 2, "mine_folds": 2}
FOLDS = ("fold-0", "fold-1")


@pytest.fixture(scope="module")
def run():
    """`run(output, *flags, **settings)`: the recipe in this process, with part of the quickstart's data."""

    def run(output, *flags, **settings):
        kill_worker.run_small_quickstart(output, *flags, **{**SETTINGS, **settings})

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run):
    """A run with two folds: its folder, and for each training on mentions `(ids, weights of the start)`."""
    output = tmp_path_factory.mktemp("folds") / "run"
    trained = []

    def train_on_mentions(args, angel, model, targets, mentions, *rest):
        trained.append((mentions.ids, {name: value.clone() for name, value in model.state_dict().items()}))
        return positive_stage.train_on_mentions(args, angel, model, targets, mentions, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining_folds, "train_on_mentions", train_on_mentions)
        run(output)
    return output, trained


def weights(output):
    """Digests of all weights that a run has come to."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.glob("**/model.safetensors")
    }


def test_a_model_is_trained_without_each_fold_from_what_was_made_of_the_names(whole):
    output, trained = whole
    _, corpus = small_quickstart()
    fold_of = json.loads((output / "folds" / "folds.json").read_text())
    assert set(fold_of) == set(corpus["train"]["id"])
    assert [set(ids) for ids, _ in trained] == [
        {mention for mention, own in fold_of.items() if own != fold} for fold in (0, 1)
    ]
    names = load_file(output / "positive" / "names" / "linker" / "model.safetensors")
    for (_, start), fold in zip(trained, FOLDS, strict=True):
        assert all((start[name] == value).all() for name, value in names.items())
        assert (output / "folds" / fold / "angel.json").exists()
    parts = ("positive", "folds/fold-0", "folds/fold-1")
    assert len({weights(output)[f"{part}/model.safetensors"] for part in parts}) == 3


def test_mentions_are_mined_by_the_model_of_their_fold_and_those_of_the_kb_by_the_round_s(whole):
    output, _ = whole
    kb, corpus = small_quickstart()
    fold_of = json.loads((output / "folds" / "folds.json").read_text())
    folders = {0: output / "folds" / "fold-0", 1: output / "folds" / "fold-1"}
    found = {}
    for fold, folder in folders.items():
        linker = EntityLinker.from_pretrained(folder, device="cpu")
        mentions = prepare_mentions(corpus["train"], linker.targets)
        names = search(linker.model, linker.targets.trie, mentions.encoded, num_beams=5).names
        found |= {one: row for one, row in zip(mentions.ids, names, strict=True) if fold_of[one] == fold}
    pairs = pq.read_table(output / "angel" / "pairs" / "round-000.parquet").to_pylist()
    of_corpus = [row for row in pairs if row["mention_id"] in fold_of]
    assert len(of_corpus) > 10
    for row in of_corpus:
        assert found[row["mention_id"]][row["rejected_rank"]] == row["rejected_name"]
    log = json.loads((output / "angel" / "history.json").read_text())
    shares = [row["mined/held_out"] for row in log if "mined/held_out" in row]
    assert len(shares) == 2
    assert all(0 < share < 100 for share in shares)


def test_a_run_that_is_interrupted_in_a_fold_goes_on_and_ends_alike(whole, run, tmp_path, monkeypatch):
    output = tmp_path / "run"
    step = PositiveTrainer.training_step

    def stopping(trainer, *args, **kwargs):
        if "fold-1" in trainer.args.output_dir and trainer.state.global_step == 2:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PositiveTrainer, "training_step", stopping)
        with pytest.raises(SystemExit, match="--resume"):
            run(output)
    assert (output / "folds" / "fold-0" / "curve.json").exists()
    assert not (output / "folds" / "fold-1" / "angel.json").exists()
    done = (output / "folds" / "fold-0" / "model.safetensors").stat().st_mtime_ns
    run(output, "--resume")
    assert (output / "folds" / "fold-0" / "model.safetensors").stat().st_mtime_ns == done
    assert weights(output) == weights(whole[0])


def test_a_run_that_is_done_trains_no_fold_again(whole, run, monkeypatch):
    output, _ = whole
    before = weights(output)
    monkeypatch.setattr(PositiveTrainer, "train", None)
    folds = output / "folds"
    folds.rename(output / "elsewhere")
    run(output, "--resume")
    assert not folds.exists()
    (output / "elsewhere").rename(folds)
    assert weights(output) == before


def test_models_of_other_folds_are_not_gone_on_with(whole, run, tmp_path):
    output, _ = whole
    other = tmp_path / "run"
    (other / "folds").mkdir(parents=True)
    (other / "folds" / "folds.json").write_bytes((output / "folds" / "folds.json").read_bytes())
    start = {"fold_model": output / "positive" / "names" / "linker", "model": output / "positive"}
    with pytest.raises(SystemExit, match="folds has models of other folds .* Resume with the settings"):
        run(other, "--resume", "--skip_positive", **start, mine_folds=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mine_folds": 1}, "--mine_folds 1: give 2 or more, or 0"),
        ({"mine_folds": -2}, "--mine_folds -2: give 2 or more"),
        ({"mine_folds": 0, "fold_model": "x"}, "--fold_model is what the models of --mine_folds start from"),
        ({"fold_model": "/no/such/linker"}, "--fold_model: "),
        ({"mention_names": True}, "with --mention_names the knowledge base has each training mention as a name"),
        ({"mine_folds": 1000}, "documents cannot be dealt into 1000 folds"),
    ],
)
def test_settings_that_make_no_folds_are_refused_before_any_work(run, tmp_path, settings, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, **settings)
    assert not (tmp_path / "positive").exists()


def test_what_models_of_folds_start_from(make_model, tokenizer, small_kb, tmp_path, caplog):
    asked = []

    def start(**settings):
        given = {"fold_model": None, "skip_positive": False, "pretrain_passes": 0, "model": "as-given", **settings}
        linker = mining_folds.fold_linker(
            SimpleNamespace(**given), small_kb, tmp_path, lambda folders: asked.append(folders) or "as it is"
        )
        return linker if isinstance(linker, str) else linker.model.config.d_model

    assert start() == "as it is"
    with pytest.raises(SystemExit, match="names/linker is gone"):
        start(pretrain_passes=1)
    assert not caplog.records
    assert start(skip_positive=True) == "as it is"
    assert "models of folds start from as-given as it is" in caplog.text
    assert [[str(folder) for folder in folders] for folders in asked] == [[], ["as-given"]]
    for folder, width in (("names/linker", 32), ("other", 16)):
        EntityLinker(make_model(d_model=width), tokenizer, small_kb).save_pretrained(tmp_path / folder)
    assert start(skip_positive=True) == start(pretrain_passes=1) == 32
    assert start(skip_positive=True, fold_model=str(tmp_path / "other")) == 16
    assert start() == "as it is"
