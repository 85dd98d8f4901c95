"""Pre-training on a knowledge base, as a user runs it: from files to a linker, which is then fine-tuned."""

import dataclasses
import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from readme_commands import PRETRAIN
from transformers import TrainerCallback

from angel_trl import AngelConfig, EntityLinker, synthetic_corpus

ROOT = Path(__file__).resolve().parents[1]
CONFIG = shlex.split("--max_words 48 --use_cpu true")
SHORT = shlex.split(
    "--passes 0.2 --num_rounds 2 --mentions_per_round 64 --dev_mentions 40 --bootstrap 20 --absent_gold nearest"
)
FINE_TUNE = shlex.split(
    "--config recipes/configs/quickstart.yaml --pretrain_passes 0 --positive_epochs 1 --kb_mentions_per_mention 0 "
    "--num_rounds 1 --mentions_per_round 64 --mined_kb_mentions 16 --bootstrap 20"
)


def readme_command(model):
    """The arguments of the README's command, with another model and without its knowledge base."""
    command = PRETRAIN.replace("--model scratch-quick", f"--model {model}").replace(
        " --kb path/to/medic_06Jul2012.txt", ""
    )
    return shlex.split(command)[2:]


def launch(*arguments):
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The synthetic knowledge base and a part of its corpus, as files."""
    folder = tmp_path_factory.mktemp("data")
    kb, corpus = synthetic_corpus(seed=0)
    kb.to_parquet(folder / "kb.parquet")
    (folder / "corpus").mkdir()
    for split, rows in corpus.items():
        rows.select(range(96)).to_json(folder / "corpus" / f"{split}.jsonl")
    return folder


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """A short run with a corpus to score: its output folder and what it printed."""
    output = tmp_path_factory.mktemp("pretrained")
    given = ("--kb", data / "kb.parquet", "--corpus", data / "corpus", "--output_dir", output)
    run = launch(*readme_command("scratch-tiny"), *CONFIG, *SHORT, *given)
    assert run.returncode == 0, run.stderr[-3000:]
    return output, run


def test_both_stages_are_scored_on_the_corpus(pretrained):
    output, run = pretrained
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["linker"] == str(output / "linker")
    assert 0 <= line["positive_only"]["acc@1"] <= 100
    assert 0 <= line["angel"]["acc@1"] <= 100
    results = json.loads((output / "results.json").read_text())
    assert results["test"]["ANGEL"]["mentions"] == 96
    assert [step for step, _ in results["dev"]["ANGEL"]] == [0, 1, 2]
    assert results["kb"]["concepts"] == 647
    assert "Pre-trained on kb.parquet alone" in (output / "report.md").read_text()


def test_the_rounds_mine_mentions_of_the_knowledge_base_only(pretrained, tmp_path):
    from datasets import load_dataset

    output, _ = pretrained
    files = str(output / "angel" / "pairs" / "*.parquet")
    pairs = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(pairs)
    assert all(mention.startswith("kb:") for mention in pairs["mention_id"])
    assert len(set(pairs["mention_id"])) > 64, "each round has mentions of its own"


def test_the_result_is_a_linker_that_can_be_fine_tuned(pretrained, data, tmp_path):
    output, _ = pretrained
    assert EntityLinker.from_pretrained(output / "linker").kb.num_names > 647
    given = ("--model", output / "linker", "--kb", data / "kb.parquet", "--corpus", data / "corpus")
    run = launch("recipes/angel.py", *FINE_TUNE, *given, "--output_dir", tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1])["linker"] == str(tmp_path / "linker")
    before, after = (json.loads((path / "linker" / "tokenizer.json").read_text()) for path in (output, tmp_path))
    assert before == after


def test_without_a_corpus_the_knowledge_base_is_all_it_needs(data, tmp_path):
    run = launch(
        *readme_command("scratch-tiny"),
        *CONFIG,
        *SHORT,
        "--skip_angel",
        "--kb",
        data / "kb.parquet",
        "--output_dir",
        tmp_path,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1])["linker"] == str(tmp_path / "positive")
    assert json.loads((tmp_path / "results.json").read_text())["dev"] == {}


@pytest.mark.parametrize("name", ["pretrain", "pretrain/scratch-small", "pretrain/scratch-quick"])
def test_configs_hold_known_settings_only(name):
    import pretrain
    from stages import parse_settings

    path = ROOT / "recipes" / "configs" / f"{name}.yaml"
    given = ["--config", str(path), "--kb", "x", "--use_cpu", "true", "--output_dir", "out"]
    arguments, config = parse_settings((pretrain.PretrainArguments, AngelConfig), given, pretrain.CONFIGS)
    for setting, value in yaml.safe_load(path.read_text()).items():
        owner = arguments if hasattr(arguments, setting) else config
        assert getattr(owner, setting) == value or setting in ("report_to", "output_dir"), setting


def test_a_preset_brings_its_settings():
    import pretrain
    from stages import parse_settings

    given = ["--config", str(ROOT / "recipes/configs/pretrain.yaml"), "--kb", "x", "--use_cpu", "true"]
    kinds = (pretrain.PretrainArguments, AngelConfig)
    paper, _ = parse_settings(kinds, given, pretrain.CONFIGS)
    small, config = parse_settings(kinds, [*given, "--model", "scratch-small", "--passes", "7"], pretrain.CONFIGS)
    quick, mined = parse_settings(kinds, [*given, "--model", "scratch-quick"], pretrain.CONFIGS)
    assert (paper.model, paper.max_words, paper.positive_learning_rate) == ("facebook/bart-large", 384, 4e-5)
    assert (small.max_words, small.positive_learning_rate, small.passes, config.beta) == (64, 1e-3, 7, 0.5)
    assert (small.positive_matrix_learning_rate, config.mine_own_name) == (None, True)
    assert (quick.max_words, quick.positive_matrix_learning_rate, mined.mine_own_name) == (8, 4e-3, False)


def test_muon_trains_the_weight_matrices_at_their_own_rate(tmp_path):
    """At a rate next to nothing they stay as they were, while AdamW trains the rest."""
    import pretrain
    from stages import first_model

    kb, _ = synthetic_corpus(seed=0)
    angel = AngelConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    args = pretrain.PretrainArguments(
        kb="x", model="scratch-tiny", max_words=8, passes=0.1, positive_matrix_learning_rate=1e-9
    )
    pretrain.train_positive(args, angel, kb, tmp_path / "positive")
    before = dict(first_model("scratch-tiny", kb.names, angel.seed)[0].named_parameters())
    after = dict(EntityLinker.from_pretrained(tmp_path / "positive", device="cpu").model.named_parameters())
    moved = {name for name in before if (before[name] - after[name]).abs().max() > 1e-6}
    matrices = {name for name in before if before[name].ndim == 2 and ("_proj" in name or ".fc" in name)}
    assert len(matrices) > 20
    assert not moved & matrices
    assert "model.shared.weight" in moved


def test_a_stage_by_muon_that_is_resumed_ends_where_an_undisturbed_one_does(monkeypatch, tmp_path):
    import pretrain

    class Interrupted(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise KeyboardInterrupt

    kb, _ = synthetic_corpus(seed=0)
    angel = AngelConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    settings = {"passes": 0.3, "positive_matrix_learning_rate": 4e-3, "positive_save_steps": 5}
    args = pretrain.PretrainArguments(kb="x", model="scratch-tiny", max_words=8, **settings)
    pretrain.train_positive(args, angel, kb, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "PositiveTrainer", partial(pretrain.PositiveTrainer, callbacks=[Interrupted()]))
        with pytest.raises(KeyboardInterrupt):
            pretrain.train_positive(args, angel, kb, tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed/names").glob("checkpoint-*")] == ["checkpoint-5"]
    pretrain.train_positive(dataclasses.replace(args, resume=True), angel, kb, tmp_path / "resumed")
    history = json.loads((tmp_path / "resumed/history.json").read_text())
    assert history[-1]["step"] == json.loads((tmp_path / "whole/history.json").read_text())[-1]["step"] > 8
    ends = [EntityLinker.from_pretrained(tmp_path / name, device="cpu").model for name in ("whole", "resumed")]
    whole, resumed = (dict(model.named_parameters()) for model in ends)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_rate_of_muon_that_cannot_be_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    import pretrain

    given = ["--kb", tmp_path / "none.txt", "--output_dir", tmp_path / "out", "--positive_matrix_learning_rate", "0"]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *CONFIG, *map(str, given)])
    with pytest.raises(SystemExit, match="^--positive_matrix_learning_rate is 0.0; it must be above 0"):
        pretrain.main()


def test_a_knowledge_base_that_is_not_there_is_said_before_anything_is_done(tmp_path):
    run = launch(
        *readme_command("scratch-tiny"), *CONFIG, "--kb", tmp_path / "none.txt", "--output_dir", tmp_path / "out"
    )
    assert run.returncode != 0
    assert "none.txt" in run.stderr
    assert "Traceback" not in run.stderr.partition("subprocess.CalledProcessError")[0].split("accelerate")[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", ["noise", "mined_noise", "context", "own_name"])
def test_shares_that_cannot_be_are_refused_before_anything_is_read(monkeypatch, tmp_path, share):
    import pretrain

    given = ["--kb", tmp_path / "none.txt", "--output_dir", tmp_path / "out", f"--{share}", "1.5"]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *CONFIG, *map(str, given)])
    with pytest.raises(SystemExit, match=f"^--{share} is 1.5; it is a share, between 0 and 1"):
        pretrain.main()
