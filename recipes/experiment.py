"""Run an experiment: several runs of the recipes for several seeds, and their scores in one JSON file.

    python recipes/experiment.py recipes/experiments/main-ncbi.yaml --data DIR --output_dir runs/experiments
    python recipes/experiment.py recipes/experiments/main-ncbi.yaml --data DIR --only angel --seed 1
    python recipes/experiment.py recipes/experiments/main-ncbi.yaml --collect            # the scores of what is done

An experiment is a YAML file: `title`, `seeds`, and `runs`, each with a `name`, a `recipe` and its `settings`. There,
`${data}` is the folder of corpora and knowledge bases and `${runs}` the folder of this experiment's runs for the same
seed, so that a run can start from the model of an earlier one. With `uses: NAME`, the runs of that other experiment
that this one's need are its own too, in the other's folder. `systems` gives what is in the table its name, as
`run/system`; `differences` lists pairs of these, the first to be compared with the second (see `analysis.py`), and
`curves` those of growing compute, to be joined in a picture (`plots.py`), and `wording` the system that finds the
mentions that spell out a name of their concept.

Runs that are done are not done again, and one that was interrupted goes on where it was: give the same command until
it is through. It may be given several times at once, to use several cores: each process takes runs that no other is
at. What the JSON file has of runs whose folders are not at hand, since they were made elsewhere, stays there, and is
averaged and compared with what is made here (`collecting.py`). `--dry_run` prints the commands.
"""

import argparse
import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from collecting import collect, write_json

import angel_trl

ROOT = Path(__file__).resolve().parents[1]
_EARLIER = re.compile(r"\$\{runs\}/([^/]+)")
logger = logging.getLogger("recipes.experiment")


@dataclass(frozen=True)
class Run:
    """One run of a recipe.

    Args:
        name: also of its folder.
        recipe: `angel`, `ablation`, `pretrain` or `baselines`, a script beside this one.
        settings: its command line, with `${data}` and `${runs}`.
    """

    name: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)

    def command(self, data: str, runs: str, seed: int) -> list[str]:
        """The command, which can be given again and again until it is through."""
        settings = self.settings | {"seed": seed, "output_dir": f"${{runs}}/{self.name}"}
        filled = [
            part
            for name, value in settings.items()
            for part in (
                f"--{name}",
                *(_text(one, data, runs) for one in (value if isinstance(value, list) else [value])),
            )
        ]
        return ["accelerate", "launch", f"recipes/{self.recipe}.py", *filled, "--resume"]

    @property
    def needs(self) -> list[str]:
        """Names of the runs that it takes something from."""
        return [name for value in self.settings.values() for name in _EARLIER.findall(str(value))]


@dataclass(frozen=True)
class Experiment:
    """What a YAML file holds.

    Args:
        name: of the file.
        title: for people.
        seeds: of every run.
        runs: in the order in which they are made.
        systems: name in the table to `(run, system in its results)`.
        differences: pairs of names of `systems`: the first compared with the second.
        curves: name to names of `systems`, of growing compute, to be joined in a picture.
        wording: the system, string lookup in the knowledge base, that tells mentions that spell out a name of their
            concept from those that are worded otherwise.
        folder: name of the folder of its runs.
    """

    name: str
    title: str
    seeds: list[int]
    runs: list[Run]
    systems: dict[str, tuple[str, str]] = field(default_factory=dict)
    differences: list[tuple[str, str]] = field(default_factory=list)
    curves: dict[str, list[str]] = field(default_factory=dict)
    wording: str | None = None
    folder: str = ""


def _text(value: Any, data: str, runs: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return string.Template(text).substitute(data=data, runs=runs)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        runs = [Run(**run) for run in given["runs"]]
        title, seeds = given["title"], [int(seed) for seed in given["seeds"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an experiment ({error}); see the others in recipes/experiments") from error
    systems = {name: tuple(place.split("/", 1)) for name, place in given.get("systems", {}).items()}
    folder = path.stem
    if "uses" in given:
        other = read_experiment(path.with_name(f"{given['uses']}.yaml"))
        folder = other.folder
        runs = _needed(other.runs, runs, {place[0] for place in systems.values()}) + runs
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two runs have the same name among {names}")
    scripts = {script.stem for script in Path(__file__).parent.glob("*.py")}
    for run in runs:
        if run.recipe not in scripts:
            raise ValueError(f"{path}: run {run.name!r} has the recipe {run.recipe!r}, which is not in recipes/")
        for setting, value in run.settings.items():
            try:
                _text(value, data="", runs="")
            except (KeyError, ValueError) as error:
                told = f"run {run.name!r} has {setting}: {value!r}, where $ begins neither ${{data}} nor ${{runs}}"
                raise ValueError(f"{path}: {told}; write $$ for a $") from error
        for needed in run.needs:
            if needed not in names[: names.index(run.name)]:
                raise ValueError(f"{path}: run {run.name!r} needs {needed!r}, which is no run before it")
    for name, place in systems.items():
        if len(place) < 2 or place[0] not in names:
            raise ValueError(f"{path}: system {name!r} is {'/'.join(place)!r}; give run/system, a run among {names}")
    differences = [tuple(pair) for pair in given.get("differences", [])]
    for pair in differences:
        if len(pair) != 2 or not set(pair) <= set(systems):
            raise ValueError(f"{path}: the difference {pair!r} must be two of the systems {list(systems)}")
    curves = given.get("curves", {})
    for name, own in curves.items():
        if not set(own) <= set(systems):
            raise ValueError(f"{path}: the curve {name!r} is of {own}, which are not all among {list(systems)}")
    wording = given.get("wording")
    if wording is not None and wording not in systems:
        raise ValueError(f"{path}: wording is {wording!r}, which is not among the systems {list(systems)}")
    return Experiment(path.stem, title, seeds, runs, systems, differences, curves, wording, folder)


def _needed(runs: list[Run], by: list[Run], systems: set[str]) -> list[Run]:
    """Those of an experiment's runs that other runs start from or systems are of, and what these need."""
    own = {run.name for run in by}
    wanted = ({name for run in by for name in run.needs} | systems) - own
    for run in reversed(runs):
        if run.name in wanted:
            wanted |= set(run.needs)
    return [run for run in runs if run.name in wanted]


def surroundings() -> dict[str, Any]:
    """Hardware, versions and the revision of the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    packages = ("torch", "transformers", "trl", "datasets", "accelerate")
    return {
        "date": datetime.date.today().isoformat(),
        "git": _git("rev-parse", "HEAD")
        + ("-dirty" if _git("status", "--porcelain", "--", "angel_trl", "recipes/*.py") else ""),
        "hardware": {
            "cpu": cpu or platform.processor(),
            # Processors of one name differ in these by years: what the times depend on.
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            # Another allocator, such as jemalloc, makes training quicker.
            "preloaded": [Path(one).name for one in re.split("[ :]", os.environ.get("LD_PRELOAD", "")) if one],
            "gpu": _gpu(),
        },
        "versions": {"python": platform.python_version(), "angel_trl": angel_trl.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("" if done.returncode == 0 else "unknown")


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None


def do(run: Run, data: str, runs: Path, seed: int) -> bool:
    """Make one run unless it is done, or cannot be made now; what it printed is in `log.txt` in its folder.

    Returns:
        Whether it was made.

    Raises:
        SystemExit: if it fails, with the end of its log; or if it was begun with another command.
    """
    folder = runs / run.name
    waits = [name for name in run.needs if not (runs / name / "run.json").exists()]
    if waits:
        logger.info("%s, seed %d: needs %s first", run.name, seed, ", ".join(waits))
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as lock:
        if lock is None:
            logger.info("%s, seed %d: another process is at it", run.name, seed)
            return False
        # Without the folders of this machine.
        told = shlex.join(run.command("DATA", "RUNS", seed))
        if (folder / "run.json").exists():
            _same_command(told, json.loads((folder / "run.json").read_text())["command"], folder)
            logger.info("%s, seed %d: done", run.name, seed)
            return False
        attempts = _attempts(folder)
        for attempt in attempts:
            _same_command(told, attempt["command"], folder)
        command = run.command(data, str(runs), seed)
        logger.info("%s, seed %d: %s", run.name, seed, shlex.join(command))
        attempts.append({"command": told, "begin": time.time()})
        with (folder / "log.txt").open("a") as log:
            write_json(folder / "attempts.json", attempts)
            # The lock is the command's as well, and outlives this process if that is killed.
            done = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False, pass_fds=[lock.fileno()]
            )
        attempts[-1]["end"] = time.time()
        write_json(folder / "attempts.json", attempts)
        if done.returncode:
            raise SystemExit(f"{run.name} failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
        seconds = round(sum(attempt["end"] - attempt["begin"] for attempt in attempts))
        write_json(folder / "run.json", {"command": told, "seconds": seconds, **surroundings()})
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[IO[str] | None]:
    """A lock on a run, None if another process has it."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock


def _attempts(folder: Path) -> list[dict[str, Any]]:
    """The times at which a run was begun and ended; where it was killed, the end is when it last wrote to its log."""
    path = folder / "attempts.json"
    attempts = json.loads(path.read_text()) if path.exists() else []
    for attempt in attempts:
        if "end" not in attempt:
            attempt["end"] = max(attempt["begin"], (folder / "log.txt").stat().st_mtime)
    return attempts


def _same_command(told: str, before: str, folder: Path) -> None:
    if told != before:
        raise SystemExit(
            f"{folder} was made by another command than the experiment now has for it:\n  {before}\n  {told}\n"
            "Give the run another name, or remove that folder to have it made again."
        )


def main() -> None:
    """Make the runs in order, seed by seed, and write what is there after each."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(description="Run an experiment; runs that are done are not done again.")
    parser.add_argument("experiment", type=Path, help="a YAML file, such as recipes/experiments/main-ncbi.yaml")
    parser.add_argument("--data", default="data", help="folder of corpora and knowledge bases (default: data)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/experiments"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=ROOT / "recipes" / "results", help="where the JSON file goes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these runs")
    parser.add_argument("--seed", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--collect", action="store_true", help="make no run, only write the scores of those done")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")
    args = parser.parse_args()
    try:
        experiment = read_experiment(args.experiment)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    for option, given, known in (
        ("--only", args.only, [run.name for run in experiment.runs]),
        ("--seed", args.seed, experiment.seeds),
    ):
        if not set(given or []) <= set(known):
            sys.exit(f"{option}: {given} are not all in {args.experiment}, which has {known}")
    # Recipes run in the root of the repository.
    data, output = str(Path(args.data).resolve()), args.output_dir.resolve() / experiment.folder
    asked = [
        (run, seed)
        for seed in args.seed or experiment.seeds
        for run in experiment.runs
        if run.name in (args.only or [run.name])
    ]
    if args.dry_run:
        for run, seed in asked:
            print(shlex.join(run.command(data, str(output / f"seed-{seed}"), seed)))
        return
    result = args.results / f"{experiment.name}.json"
    # What had to wait for another process may be possible later: until a turn in which nothing is made.
    while not args.collect and sum(_make(experiment, run, data, output, seed, result) for run, seed in asked):
        pass
    collect(experiment, output, result)
    left = [_told(output, run, seed) for run, seed in asked if not _is_done(output, run.name, seed)]
    if left:
        logger.warning("not done: %s", ", ".join(left))


def _make(experiment: Experiment, run: Run, data: str, output: Path, seed: int, result: Path) -> bool:
    made = do(run, data, output / f"seed-{seed}", seed)
    if made:
        collect(experiment, output, result)
    return made


def _is_done(output: Path, name: str, seed: int) -> bool:
    return (output / f"seed-{seed}" / name / "run.json").exists()


def _told(output: Path, run: Run, seed: int) -> str:
    """A run that is not done, and the runs that it waits for."""
    waits = [name for name in dict.fromkeys(run.needs) if not _is_done(output, name, seed)]
    return f"{run.name} (seed {seed}{', after ' + ', '.join(waits) if waits else ''})"


if __name__ == "__main__":
    main()
