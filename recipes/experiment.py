"""Run an experiment: several runs of the recipes for several seeds, and their scores in one JSON file.

    python recipes/experiment.py recipes/experiments/pretraining.yaml --data DIR --output_dir runs/experiments

An experiment is a YAML file: `title`, `seeds`, and `runs`, each with a `name`, a `recipe` and its `settings`. There,
`${data}` is the folder of corpora and knowledge bases and `${runs}` the folder of this experiment's runs for the same
seed, so that a run can start from the model of an earlier one. Runs that are done are not done again, and one that was
interrupted goes on where it was: give the same command until it is through. `--dry_run` prints the commands.
"""

import argparse
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import string
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import angel_trl

ROOT = Path(__file__).resolve().parents[1]
logger = logging.getLogger("recipes.experiment")


@dataclass(frozen=True)
class Run:
    """One run of a recipe.

    Args:
        name: also of its folder.
        recipe: `angel` or `pretrain`, a script beside this one.
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


@dataclass(frozen=True)
class Experiment:
    """What a YAML file holds."""

    name: str
    title: str
    seeds: list[int]
    runs: list[Run]


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
        experiment = Experiment(path.stem, given["title"], [int(seed) for seed in given["seeds"]], runs)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an experiment ({error}); see the others in recipes/experiments") from error
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two runs have the same name among {names}")
    scripts = {script.stem for script in Path(__file__).parent.glob("*.py")}
    for run in runs:
        if run.recipe not in scripts:
            raise ValueError(f"{path}: run {run.name!r} has the recipe {run.recipe!r}, which is not in recipes/")
        for value in run.settings.values():
            string.Template(str(value)).substitute(data="", runs="")
    return experiment


def surroundings() -> dict[str, Any]:
    """Hardware, versions and the revision of the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    packages = ("torch", "transformers", "trl", "datasets", "accelerate")
    return {
        "date": datetime.date.today().isoformat(),
        "git": _git("rev-parse", "HEAD")
        + ("-dirty" if _git("status", "--porcelain", "--", "angel_trl", "recipes/*.py") else ""),
        "hardware": {"cpu": cpu or platform.processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "angel_trl": angel_trl.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("" if done.returncode == 0 else "unknown")


def do(run: Run, data: str, runs: Path, seed: int) -> None:
    """Make one run unless it is done; what it printed is in `log.txt` in its folder.

    Raises:
        SystemExit: if it fails, with the end of its log.
    """
    folder = runs / run.name
    if (folder / "run.json").exists():
        logger.info("%s, seed %d: done", run.name, seed)
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = run.command(data, str(runs), seed)
    logger.info("%s, seed %d: %s", run.name, seed, shlex.join(command))
    begin = time.time()
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{run.name} failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    # Without the folders of this machine.
    told = shlex.join(run.command("DATA", "RUNS", seed))
    result = {"command": told, "seconds": round(time.time() - begin), **surroundings()}
    (folder / "run.json").write_text(json.dumps(result, indent=1))


def collect(experiment: Experiment, output: Path) -> dict[str, Any]:
    """The scores of all runs that are done: by run and seed, with command, seconds and surroundings."""
    runs: dict[str, dict[str, Any]] = {}
    for run in experiment.runs:
        for seed in experiment.seeds:
            folder = output / f"seed-{seed}" / run.name
            if (folder / "run.json").exists():
                results = json.loads((folder / "results.json").read_text())
                kept = {key: results[key] for key in ("test", "dev", "difference", "counts") if key in results}
                runs.setdefault(run.name, {})[str(seed)] = json.loads((folder / "run.json").read_text()) | kept
    return {"experiment": experiment.name, "title": experiment.title, "runs": runs}


def main() -> None:
    """Make the runs in order, seed by seed, and write what is there after each."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(description="Run an experiment; runs that are done are not done again.")
    parser.add_argument("experiment", type=Path, help="a YAML file, such as recipes/experiments/pretraining.yaml")
    parser.add_argument("--data", default="data", help="folder of corpora and knowledge bases (default: data)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/experiments"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=ROOT / "recipes" / "results", help="where the JSON file goes")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and do nothing")
    args = parser.parse_args()
    try:
        experiment = read_experiment(args.experiment)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    # Recipes run in the root of the repository.
    data, output = str(Path(args.data).resolve()), args.output_dir.resolve() / experiment.name
    for seed in experiment.seeds:
        for run in experiment.runs:
            runs = output / f"seed-{seed}"
            if args.dry_run:
                print(shlex.join(run.command(data, str(runs), seed)))
                continue
            do(run, data, runs, seed)
            text = json.dumps(collect(experiment, output), indent=1)
            (args.results / f"{experiment.name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
