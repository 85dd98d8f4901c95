"""What only whole runs of the recipe show: an interruption and going on after it, and two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# 3 steps a round.
SETTINGS = {
    "pretrain_passes": 0.1,
    "positive_epochs": 1,
    "kb_mentions_per_mention": 0.1,
    "mentions_per_round": 96,
    "mined_kb_mentions": 64,
    "bootstrap": 50,
    "disable_tqdm": "true",
}


def arguments(output, **settings):
    given = {"output_dir": output, **SETTINGS, **settings}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_a_run_that_is_interrupted_says_how_to_go_on_and_does(tmp_path):
    command = [sys.executable, "recipes/angel.py"]
    settings = arguments(tmp_path, num_rounds=12, early_stopping_patience=99, save_total_limit=99)
    run = subprocess.Popen(
        [*command, *settings],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may have told its children to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "angel" / "checkpoint-3" / "trainer_state.json").exists():
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate()
    finally:
        run.kill()
    assert run.returncode != 0
    assert "--resume" in errors
    assert str(tmp_path) in errors
    assert not (tmp_path / "linker" / "angel.json").exists()
    started = (tmp_path / "positive" / "model.safetensors").stat().st_mtime_ns
    first_pairs = (tmp_path / "angel" / "pairs" / "round-000.parquet").stat().st_mtime_ns
    done = subprocess.run([*command, "--resume", *settings], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["angel"]["acc@1"] >= 0
    assert (tmp_path / "positive" / "model.safetensors").stat().st_mtime_ns == started
    assert (tmp_path / "angel" / "pairs" / "round-000.parquet").stat().st_mtime_ns == first_pairs
    state = json.loads((tmp_path / "angel" / "checkpoint-36" / "trainer_state.json").read_text())
    evaluated = [row["step"] for row in state["log_history"] if "eval_acc@1" in row]
    assert evaluated == list(range(0, 37, 3)), "every round once, none lost or repeated"


def test_two_processes_run_every_stage_and_report_once(tmp_path):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("recipes/angel.py", *arguments(tmp_path, num_rounds=2)),
        ],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("The linker is in") == 1
    assert json.loads(run.stdout.splitlines()[-1])["linker"] == str(tmp_path / "linker")
    assert sorted(path.name for path in (tmp_path / "angel" / "pairs").iterdir()) == [
        "round-000.parquet",
        "round-001.parquet",
    ]
