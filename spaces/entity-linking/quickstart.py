"""The linker to show when none is named: that of the quickstart, trained on first start."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "quickstart"
RECIPE = ROOT / "recipes" / "angel.py"

# What the recipe does one after the other, and roughly which part of the time it takes.
_STAGES = (("learning the names", 0.12), ("learning right names in context", 0.4), ("learning from mistakes", 0.48))
# A bar without a title is the trainer's; those of evaluation are short.
_STEP = re.compile(r"\s*\d+%\|.*?(\d+)/(\d+) \[")
_SHORTEST = 100


class NoModelError(RuntimeError):
    """There is no linker to show, and none can be trained here."""


def is_complete(folder: Path = FOLDER) -> bool:
    """Whether the quickstart was run to its end."""
    return all((folder / stage / "angel.json").exists() for stage in ("positive", "linker"))


def ensure(folder: Path = FOLDER, tell: Callable[[str, float], None] = lambda stage, done: None) -> None:
    """Run the quickstart's recipe, with a progress bar, unless that was done. A run that was interrupted goes on.

    Args:
        folder: of the run.
        tell: is told the stage and the part of the whole that is done, 0 to 1.

    Raises:
        NoModelError: if the recipe is not there, or fails; its last lines are in the message.
    """
    if is_complete(folder):
        return
    if not RECIPE.exists():
        raise NoModelError(
            "There is no model to show. Set ANGEL_MODEL to a linker, a folder or a Hub id "
            "(on the Hub: Settings, Variables and secrets)."
        )
    print(f"No ANGEL_MODEL is set: training the quickstart's linker in {folder} (about three minutes, once).")
    # One process, without the launcher: whoever stops it stops all of it.
    command = [sys.executable, str(RECIPE), "--config", str(RECIPE.parent / "configs" / "quickstart.yaml")]
    command += ["--output_dir", str(folder), "--resume"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_MININTERVAL": "0.5"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    last: list[str] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as recipe, Progress(*columns) as bars:
        begun = sum((folder / linker / "angel.json").exists() for linker in ("positive/names/linker", "positive"))
        task = bars.add_task(_STAGES[begun][0], total=1.0)
        try:
            for stage, done, line in follow(recipe.stderr, begun):
                bars.update(task, description=_STAGES[stage][0], completed=done)
                tell(_STAGES[stage][0], done)
                last = [*last[-19:], line] if line else last
        finally:
            # Whoever stops this stops the recipe too; it goes on where it was at the next start.
            if recipe.poll() is None and sys.exc_info()[0] is not None:
                recipe.terminate()
    if recipe.returncode != 0 or not is_complete(folder):
        raise NoModelError("The quickstart's recipe failed:\n" + "\n".join(last))


def follow(output: IO[str] | None, begun: int = 0) -> Iterator[tuple[int, float, str]]:
    """Tell from the recipe's progress bars how far it is.

    Args:
        output: its standard error.
        begun: stages that an earlier run did to their end.

    Yields:
        The stage, the part of the whole that is done (0 to 1), and the line read, empty for a progress bar.
    """
    stage, seen, done = begun, 0.0, sum(weight for _, weight in _STAGES[:begun])
    for line in _lines(output):
        step = _STEP.match(line)
        if step is None:
            if "%|" not in line:
                yield stage, done, line
            continue
        if int(step[2]) < _SHORTEST:
            continue
        part = int(step[1]) / int(step[2])
        if part < seen - 0.5 and stage + 1 < len(_STAGES):
            stage += 1
        seen = part
        done = sum(weight for _, weight in _STAGES[:stage]) + part * _STAGES[stage][1]
        yield stage, done, ""


def _lines(output: IO[str] | None) -> Iterator[str]:
    """Lines, and what progress bars write over each other."""
    for text in output or ():
        yield from (line for line in text.rstrip("\n").split("\r") if line.strip())


def settings(given: Settings, folder: Path = FOLDER) -> Settings:
    """The settings given, with the quickstart's models and pairs in them."""
    pairs = folder / "angel" / "pairs"
    own = {"model": str(folder / "linker"), "positive": str(folder / "positive"), "pairs": str(pairs)}
    return dataclasses.replace(given, **own)
