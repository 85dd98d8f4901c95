"""Two real processes (gloo) mine what one mines and train to the weights one trains to, with DDP and with FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import DatasetDict
from distributed_worker import RUNS, SHARED_OUT, run
from safetensors.torch import load_file

from angel_trl.linker import EntityLinker

WORKER = Path(__file__).with_name("distributed_worker.py")
ACCELERATE = WORKER.parents[1] / "recipes" / "accelerate"
# Seconds, which only keep a test from hanging.
TIMEOUT = 300
ALL = RUNS | SHARED_OUT


def launch(folder, **environment):
    """Run the worker in two processes and wait for both."""
    # Here and not in the first process, as `torchrun` does it: a port chosen for that one may be taken when it starts.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **os.environ,
        "PYTHONPATH": str(WORKER.parents[1]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
        **environment,
    }
    logs = [folder / f"process-{rank}.log" for rank in range(2)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                command = [sys.executable, str(WORKER), str(folder)]
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(
                    subprocess.Popen(command, env=environment | ranks, stdout=output, stderr=subprocess.STDOUT)
                )
        codes = [process.wait(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for code, log in zip(codes, logs, strict=True):
        assert code == 0, log.read_text()[-4000:]


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_model, tokenizer, small_kb, small_mentions):
    """A folder with model, corpus and knowledge base, in which two processes have run, and one."""
    folder = tmp_path_factory.mktemp("distributed")
    make_model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for fold in (0, 1):
        make_model(seed=fold + 1).save_pretrained(folder / f"held-out-{fold}")
        tokenizer.save_pretrained(folder / f"held-out-{fold}")
    small_kb.to_parquet(folder / "kb.parquet")
    splits = {s: small_mentions.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev")}
    DatasetDict(splits).save_to_disk(str(folder / "mentions"))
    for kind in ALL:
        (folder / f"one-{kind}").mkdir()
        (folder / f"two-{kind}").mkdir()
    launch(folder, ACCELERATE_USE_CPU="true")
    # As `accelerate launch` hands on its configuration.
    configuration = yaml.safe_load((ACCELERATE / "fsdp2.yaml").read_text())["fsdp_config"]
    as_environment = {name.upper(): str(value).lower() for name, value in configuration.items()}
    for name in ("FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE"):
        as_environment[name] = as_environment[name].upper()
    launch(folder, ACCELERATE_USE_FSDP="true", **as_environment)
    for kind, settings in ALL.items():
        run(folder, folder / f"one-{kind}", 4, settings)
    return folder


def history(folder, process, wanted):
    """`(step, value)` of what was logged under a name."""
    rows = json.loads((folder / f"history-{process}.json").read_text())
    return [(row["step"], row[wanted]) for row in rows if wanted in row]


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_mine_what_one_does(world, kind):
    one, two = world / f"one-{kind}", world / f"two-{kind}"
    expected = np.load(one / "mined-0.npz")
    counts = np.bincount(expected["mention"], minlength=10)
    assert len(set(counts.tolist())) > 1, "unequal numbers of pairs are wanted"
    for rank in (0, 1):
        mined = np.load(two / f"mined-{rank}.npz")
        for field in ("mention", "chosen", "rejected"):
            np.testing.assert_array_equal(mined[field], expected[field])
        np.testing.assert_allclose(mined["log_probs"], expected["log_probs"], atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_have_the_losses_and_scores_of_one(world, kind):
    one, two = world / f"one-{kind}", world / f"two-{kind}"
    for wanted in ("loss", "rewards/margins", "eval_acc@1", "mined/margin"):
        expected = history(one, 0, wanted)
        assert len(expected) == {"loss": 6, "rewards/margins": 6, "eval_acc@1": 3, "mined/margin": 2}[wanted] or (
            kind == "skip" and wanted == "rewards/margins"
        )
        assert [value for _, value in history(two, 0, wanted)] == pytest.approx(
            [value for _, value in expected], abs=1e-4
        )
    assert history(two, 1, "eval_acc@1") == history(two, 0, "eval_acc@1")


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_train_to_the_weights_of_one(world, kind):
    one, two = world / f"one-{kind}", world / f"two-{kind}"
    ends = [load_file(two / f"weights-{rank}.safetensors") for rank in (0, 1)]
    alone, start = load_file(one / "weights-0.safetensors"), load_file(world / "model" / "model.safetensors")
    if kind not in SHARED_OUT:  # there the best model may be that of the start
        moved = max(float((value - start[name]).abs().max()) for name, value in ends[0].items() if name in start)
        assert moved > 1e-3
    for name, value in alone.items():
        assert torch.equal(ends[0][name], ends[1][name])
        torch.testing.assert_close(ends[0][name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_save_one_linker(world, kind):
    linkers = [
        EntityLinker.from_pretrained(world / f"{count}-{kind}" / "linker", device="cpu") for count in ("one", "two")
    ]
    weights = [dict(linker.model.named_parameters()) for linker in linkers]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_write_each_pair_once(world, kind):
    for round in (0, 1):
        rows = pq.read_table(world / f"two-{kind}" / "pairs" / f"round-{round:03d}.parquet").to_pylist()
        keys = [(row["mention_place"], row["rejected_name"]) for row in rows]
        assert len(keys) == len(set(keys))
        assert keys or round == 1, "the first round has pairs; what training left for the second depends on rounding"
