"""An environment with TRL 0.9.6, and the process in it that `training.py` asks for steps.

TRL 0.9.6 and transformers 4.44.2 need older libraries than this package does, hence the environment. PyTorch is of the
version measured elsewhere, so that what differs is the trainer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from plain_training import pair_rows
from transformers import PreTrainedModel

from angel_trl.collator import MentionPairs

# What TRL 0.9.6 asks for, in versions that work with it and with each other (Python 3.11). It imports rich without
# asking for it, and transformers 4.44 keeps NumPy below 2, which the newest pyarrow refuses.
PINS = (
    "trl==0.9.6",
    "transformers==4.44.2",
    "torch==2.13.0",
    "accelerate==0.34.2",
    "datasets==2.21.0",
    "numpy==1.26.4",
    "pandas==2.2.3",
    "pyarrow==17.0.0",
    "rich==13.9.4",
    "tyro==1.0.17",
)
SCRIPT = Path(__file__).with_name("trl_0_9.py")


def default_folder() -> Path:
    """Where the environment is kept from one run to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "angel_trl" / "trl-0.9.6"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build_environment(folder: Path) -> Path:
    """Build the environment, or take the one that is there; returns its interpreter.

    Raises:
        SystemExit: if the folder holds something else, or the packages cannot be installed.
    """
    python, marker = python_of(folder), folder / "angel_trl_pins.json"
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == list(PINS):
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise SystemExit(f"{folder} holds something else than a virtual environment; name another --old_environment.")
    print(f"Building the environment of TRL 0.9.6 in {folder} (once; a few minutes)...", file=sys.stderr, flush=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS]
    for command in ([sys.executable, "-m", "venv", folder], install):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise SystemExit(
                f"The environment of TRL 0.9.6 could not be built in {folder} (see above). It needs Python 3.11 or "
                f"3.12 and the package registry: {' '.join(PINS)}. --quick leaves this comparison out."
            )
    marker.write_text(json.dumps(list(PINS)), encoding="utf-8")
    return python


def write_inputs(
    folder: Path, policy: PreTrainedModel, reference: PreTrainedModel, items: Sequence[MentionPairs]
) -> None:
    """What the old trainer reads: both models, and every pair as token ids of its prompt and its two targets."""
    policy.save_pretrained(folder / "policy")
    reference.save_pretrained(folder / "reference")
    rows = pair_rows(items)
    chosen, rejected = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    # The model puts the start token, the first of the prefix, before the labels itself.
    pairs = {
        "prompt": [mention.source for mention, _ in chosen],
        "chosen": [(*mention.prefix[1:], *name) for mention, name in chosen],
        "rejected": [(*mention.prefix[1:], *name) for mention, name in rejected],
    }
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")


class OldTraining:
    """The process that runs TRL 0.9.6's trainer, as a context.

    Args:
        python: interpreter of its environment.
        folder: what `write_inputs` wrote.
        threads: on CPU.
    """

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        # Isolated: neither PYTHONPATH nor the modules beside the script belong to that environment.
        command = [python, "-I", "-W", "ignore", SCRIPT, folder, "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last: dict[str, Any] = self._answer()
        self.versions: dict[str, str] = self.last["versions"]

    def __enter__(self) -> "OldTraining":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait()

    def step(self) -> float:
        """One step; returns the loss before it and keeps the whole answer in `last`."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.last = self._answer()
        return self.last["loss"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The process of TRL 0.9.6 ended with status {self._process.wait()}; see above.")
        return json.loads(line)
