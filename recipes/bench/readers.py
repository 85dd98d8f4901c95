"""How long terminologies take to read and to index, and how much memory.

    python recipes/bench/readers.py --rows 100000                              # seconds, nothing else needed
    python recipes/bench/readers.py --dictionary FILE --output FILE            # 10 million rows of UMLS, minutes

Two terminologies: a dictionary of 345 thousand names (a synthetic one without `--dictionary`), and a synthetic release
of UMLS, `MRCONSO.RRF` with `MRSTY.RRF`, of `--rows` rows: three a concept on average, in six languages, a tenth
suppressible, as long as real ones. Each is read `--repeat` times, each time in a process of its own, with files in the
page cache; memory is the highest above that of the process with everything imported. The last line is one JSON object.
"""

import dataclasses
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from measure import peak_memory, spread, surroundings  # noqa: E402
from transformers import HfArgumentParser  # noqa: E402

from angel_trl.kb import KnowledgeBase  # noqa: E402
from angel_trl.readers import read_concepts  # noqa: E402

DICTIONARY, UMLS = "dictionary", "UMLS"
TARGETS = {DICTIONARY: {"seconds": 10, "megabytes": 600}, UMLS: {"seconds": 300, "megabytes": 4000}}
"""What a dictionary may take to be read and indexed, and UMLS to be read."""

_CONCEPTS, _NAMES = 60_706, 344_732
_LANGUAGES = ("ENG", "ENG", "ENG", "ENG", "ENG", "ENG", "ENG", "SPA", "FRE", "GER", "JPN", "RUS")
_SOURCES = ("SNOMEDCT_US", "MSH", "MDR", "ICD10CM", "LNC", "NCI", "RXNORM", "OMIM")
_SUPPRESSED = ("N",) * 9 + ("O",)


@dataclass
class ReadersArguments:
    """What is read, and how often."""

    dictionary: str | None = field(default=None, metadata={"help": "A dictionary; default: a synthetic one."})
    names: int = field(default=_NAMES, metadata={"help": "Names of the synthetic dictionary, about."})
    rows: int = field(default=10_000_000, metadata={"help": "Rows of MRCONSO.RRF, about."})
    repeat: int = field(default=3, metadata={"help": "Times each is read."})
    output: str | None = field(default=None, metadata={"help": "File for the JSON object."})
    part: str | None = field(default=None, metadata={"help": "What the benchmark starts itself with: a file to read."})


def write_dictionary(path: Path, names: int) -> None:
    """Write `id|alternate id<TAB>name|name...` of about `names` names, five or six a concept; always the same."""
    draw, words = random.Random(0), _words()
    concepts = max(1, names * _CONCEPTS // _NAMES)
    with path.open("w", encoding="utf-8") as file:
        for number in range(concepts):
            own = [_name(draw, words) for _ in range(names // concepts + (number < names % concepts))]
            file.write(f"D{number:06}|C{number:07}\t{'|'.join(own)}\n")


def write_umls(folder: Path, rows: int) -> None:
    """Write `MRCONSO.RRF` of about `rows` rows, and the semantic types of its concepts; always the same."""
    draw, words = random.Random(1), _words()
    written = number = 0
    with (
        (folder / "MRCONSO.RRF").open("w", encoding="utf-8") as names,
        (folder / "MRSTY.RRF").open("w", encoding="utf-8") as types,
    ):
        while written < rows:
            number += 1
            cui = f"C{number:07}"
            for atom in range(draw.randint(1, 5)):
                written += 1
                status, form, preferred = ("P", "PF", "Y") if atom == 0 else ("S", "VO", "N")
                source, code = draw.choice(_SOURCES), draw.randrange(10**6)
                names.write(
                    f"{cui}|{draw.choice(_LANGUAGES)}|{status}|L{written:07}|{form}|S{written:07}|{preferred}|"
                    f"A{written:08}||M{code:07}|{code}|{source}|PT|{code}|{_name(draw, words)}|0|"
                    f"{draw.choice(_SUPPRESSED)}|256|\n"
                )
            for _ in range(1 + (number % 4 == 0)):
                types.write(f"{cui}|T{draw.randrange(200):03}|B2.2.1.2.1|Disease or Syndrome|AT{number:08}|256|\n")


def _words() -> list[str]:
    draw = random.Random(2)
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "ia", "os")]
    return ["".join(draw.choices(syllables, k=draw.randint(1, 5))) for _ in range(20_000)]


def _name(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choices(words, k=draw.randint(1, 6)))


def read_once(path: str) -> dict[str, float]:
    """Read and index a terminology; seconds and bytes of reading alone and of both, and what was read."""
    found: dict[str, float] = {}

    def run() -> None:
        before, begin = _memory("VmRSS"), time.perf_counter()
        concepts, report = read_concepts(path)
        found.update(read_seconds=time.perf_counter() - begin, read_bytes=_memory("VmHWM") - before)
        kb = KnowledgeBase(concepts)
        found.update(seconds=time.perf_counter() - begin, records=report.read, concepts=len(kb), names=kb.num_names)

    return {"bytes": peak_memory(run, torch.device("cpu")), **found}


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(path: Path, repeat: int) -> dict[str, Any]:
    """Read a terminology in one new process after the other."""
    command = [sys.executable, __file__, "--part", str(path)]
    done = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(repeat)]
    runs = [json.loads(output.splitlines()[-1]) for output in done]
    files = path.iterdir() if path.is_dir() else [path]
    return {
        **{what: runs[0][what] for what in ("records", "concepts", "names")},
        "file_megabytes": sum(file.stat().st_size for file in files) / 1e6,
        "read_seconds": spread([run["read_seconds"] for run in runs]),
        "read_megabytes": spread([run["read_bytes"] for run in runs], 1e-6),
        "seconds": spread([run["seconds"] for run in runs]),
        "megabytes": spread([run["bytes"] for run in runs], 1e-6),
    }


def run(args: ReadersArguments) -> dict[str, Any]:
    """Write what is read, read it, and return what the last line holds."""
    with tempfile.TemporaryDirectory() as folder:
        dictionary, release = Path(folder, "dictionary.txt"), Path(folder, "META")
        if args.dictionary is None:
            write_dictionary(dictionary, args.names)
        parts = {DICTIONARY: measure(Path(args.dictionary or dictionary), args.repeat)}
        release.mkdir()
        write_umls(release, args.rows)
        parts[UMLS] = measure(release, args.repeat)
    parts[DICTIONARY] |= {"file": Path(args.dictionary).name if args.dictionary else "synthetic"}
    parts[UMLS] |= {"file": "synthetic"}
    own = {DICTIONARY: parts[DICTIONARY]["seconds"], UMLS: parts[UMLS]["read_seconds"]}
    memory = {DICTIONARY: parts[DICTIONARY]["megabytes"], UMLS: parts[UMLS]["read_megabytes"]}
    for name, target in TARGETS.items():
        met = own[name]["max"] < target["seconds"] and memory[name]["max"] < target["megabytes"]
        parts[name] |= {"target": target, "target_met": met}
    given = f"--dictionary path/to/{parts[DICTIONARY]['file']} " if args.dictionary else ""
    return {
        "parts": parts,
        "command": f"python recipes/bench/readers.py {given}--rows {args.rows} --repeat {args.repeat}",
        "date": datetime.date.today().isoformat(),
        **surroundings(torch.device("cpu")),
    }


def table(report: dict[str, Any]) -> str:
    """The measurements as a Markdown table."""
    lines = ["| | records | names | read, s | MB | and indexed, s | MB |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in report["parts"].items():
        cells = [f"{row[what]['median']:.1f} [{row[what]['min']:.1f}, {row[what]['max']:.1f}]" for what in _COLUMNS]
        lines.append(f"| {name} | {row['records']:,} | {row['names']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


_COLUMNS = ("read_seconds", "read_megabytes", "seconds", "megabytes")


def main() -> None:
    """Measure and print; or, as a part, read once."""
    (args,) = HfArgumentParser(ReadersArguments, allow_abbrev=False).parse_args_into_dataclasses()
    if args.part is not None:
        print(json.dumps(read_once(args.part)))
        return
    if args.repeat < 1 or args.rows < 1 or args.names < 1:
        raise SystemExit(f"--repeat, --rows and --names must be at least 1, got {dataclasses.asdict(args)}")
    report = run(args)
    print(f"\n{table(report)}\n")
    line = json.dumps(report)
    if args.output is not None:
        Path(args.output).write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
