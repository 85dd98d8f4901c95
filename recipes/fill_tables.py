"""Write the tables of the READMEs from the JSON files in `recipes/results`: no number in them is typed by hand.

    python recipes/fill_tables.py            # write them
    python recipes/fill_tables.py --check    # end with status 1 if a table is not what the files give

A table stands between `<!-- table: NAME -->` and `<!-- end of table: NAME -->`. NAME is one of `TABLES`, followed by
the files it is made of if it can be made of several: `<!-- table: scores main-ncbi -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_tables as benchmarks
import experiment_tables as experiments

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes" / "results"
READMES = (ROOT / "README.md", RESULTS / "README.md", ROOT / "spaces" / "entity-linking" / "README.md")

TABLES: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    # By name what makes it, and the files it is made of where these are always the same.
    "scores": (experiments.scores, ()),
    "differences": (experiments.differences, ()),
    "slices": (experiments.slices, ()),
    "wording": (experiments.wording, ()),
    "slice differences": (experiments.slice_differences, ()),
    "changes": (experiments.changes, ()),
    "calibration": (experiments.calibration, ()),
    "main": (experiments.main, ()),
    "runs": (experiments.runs, ()),
    "quickstart": (experiments.quickstart, ("quickstart",)),
    "quickstart before": (experiments.quickstart_before, ("quickstart",)),
    "pretraining in small": (experiments.pretraining_small, ("ablations-ncbi",)),
    "reading": (benchmarks.reading, ("readers",)),
    "streaming": (benchmarks.streaming, ("streaming",)),
    "search": (benchmarks.search, ("search",)),
    "search in small": (benchmarks.search_small, ("search",)),
    "search beside generate": (benchmarks.search_beside_generate, ("search",)),
    "search taken apart": (benchmarks.search_taken_apart, ("search",)),
    "search exactness": (benchmarks.search_exactness, ("search",)),
    "index of names": (benchmarks.index_of_names, ("search",)),
    "growth by names": (benchmarks.growth_by_names, ("search_growth",)),
    "growth by beams": (benchmarks.growth_by_beams, ("search_growth",)),
    "training": (benchmarks.training, ("training",)),
    "training equality": (benchmarks.training_equality, ("training",)),
    "training round": (benchmarks.training_round, ("training",)),
    "training in small": (benchmarks.training_small, ("training",)),
    "linking": (benchmarks.linking, ("linking",)),
    "linking on paper": (benchmarks.linking_on_paper, ("linking", "search")),
    "confidence": (benchmarks.confidence, ("confidence",)),
    "confidence errors": (benchmarks.confidence_errors, ("confidence",)),
    "space": (benchmarks.space, ("space",)),
}

_TABLE = re.compile(r"<!-- table: (?P<name>.+?) -->\n(?P<text>.*?)<!-- end of table: (?P=name) -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:end of )?table: .+? -->")


def make(name: str, results: Path) -> str:
    """The table of a name, as Markdown with a line end behind each line.

    Raises:
        ValueError: if there is no such table, or a file it is made of is missing or has not what it needs.
    """
    kind = next((kind for kind in sorted(TABLES, key=len, reverse=True) if f"{name} ".startswith(f"{kind} ")), None)
    if kind is None:
        raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    function, files = TABLES[kind]
    given = tuple(name[len(kind) :].split())
    if bool(files) == bool(given):
        told = "is always made of " + ", ".join(files) if files else "needs the names of the files it is made of"
        raise ValueError(f"table {name!r}: {kind!r} {told}")
    try:
        return function(*(_read(results / f"{file}.json") for file in files or given))
    except (KeyError, FileNotFoundError) as error:
        raise ValueError(f"table {name!r} cannot be made: {error!r}") from error


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def filled(text: str, results: Path) -> str:
    """A text with its tables made anew.

    Raises:
        ValueError: as `make`, or if a marker has no partner.
    """
    new = _TABLE.sub(
        lambda found: (
            f"<!-- table: {found['name']} -->\n{make(found['name'], results)}<!-- end of table: {found['name']} -->"
        ),
        text,
    )
    markers = _MARKER.findall(text)
    if len(markers) != 2 * len(_TABLE.findall(text)):
        raise ValueError(f"a marker of a table has no partner among {markers}")
    return new


def main() -> None:
    """Write or check the tables of the files given, or of the READMEs."""
    parser = argparse.ArgumentParser(description="Write tables from JSON files.")
    parser.add_argument("files", nargs="*", type=Path, default=READMES, help="Markdown files (default: the READMEs)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if something would change")
    args = parser.parse_args()
    stale = []
    for path in args.files:
        text = path.read_text(encoding="utf-8")
        try:
            new = filled(text, args.results)
        except ValueError as error:
            sys.exit(f"{path}: {error}")
        if new == text:
            continue
        stale += [f"{path}: {found['name']}" for found in _TABLE.finditer(text) if found[0] not in new]
        if not args.check:
            path.write_text(new, encoding="utf-8")
    for one in stale:
        print(one)
    if args.check and stale:
        sys.exit("These tables are not what recipes/results has: python recipes/fill_tables.py writes them.")


if __name__ == "__main__":
    main()
