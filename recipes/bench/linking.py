"""How many mentions a second `recipes/link.py` links, with one process and with two, and whether memory stays flat.

    python recipes/bench/linking.py --linker runs/ncbi/linker                       # 100,000 mentions, each way
    python recipes/bench/linking.py --linker runs/ncbi/linker --mentions 5000       # a trial

The corpus is made from the linker's own knowledge base: documents in PubTator of eight sentences with a mention each,
so that a mention has as much context as in an abstract. Each side is a run of the recipe as a user starts it, in
processes of its own; the memory of each process is read every second. Rates leave out the loading of the linker. All
sides must write the same bytes, or the benchmark ends with status 1. The last line is one JSON object.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from measure import seconds_of, surroundings  # noqa: E402
from transformers import HfArgumentParser  # noqa: E402

from angel_trl import EntityLinker  # noqa: E402
from angel_trl.corpus_linking.files import find_files  # noqa: E402
from angel_trl.corpus_linking.pieces import read_pieces  # noqa: E402
from angel_trl.corpus_linking.pubtator import mentions_of_documents  # noqa: E402
from angel_trl.kb_mentions import KBMentions  # noqa: E402
from angel_trl.readers.report import ReadReport  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
BLANKS = str.maketrans("\n\r\t", "   ")


@dataclass
class LinkingArguments:
    """What is linked, and how."""

    linker: str = field(metadata={"help": "Folder of the EntityLinker."})
    mentions: int = field(default=100_000, metadata={"help": "Mentions of the corpus."})
    sentences: int = field(default=8, metadata={"help": "Sentences of a document, each with a mention."})
    context: float = field(default=0.7, metadata={"help": "Share of the sentences that are more than the name."})
    shard_mentions: int = field(default=2048, metadata={"help": "Mentions of a shard."})
    sides: list[str] = field(
        default_factory=lambda: ["1x1", "2x1"], metadata={"help": "Processes x threads of each, by turns."}
    )
    abstracts: float = field(default=36e6, metadata={"help": "Abstracts to say how long it would take for."})
    mentions_an_abstract: float = field(
        default=8.7, metadata={"help": "Mentions of an abstract then; NCBI Disease has 8.7 (6,892 in 793)."}
    )
    output: str | None = field(default=None, metadata={"help": "File for the JSON object."})


def documents(args: LinkingArguments, linker: EntityLinker) -> Iterator[str]:
    """The corpus in PubTator, a document at a time: the first sentence is the title."""
    made = KBMentions(linker.kb, args.mentions, seed=0, context=args.context)
    for number, first in enumerate(range(0, args.mentions, args.sentences), 1):
        rows = made[first : first + args.sentences]
        texts = [row["text"].translate(BLANKS) for row in rows]
        begins = np.cumsum([0, *(len(text) + 1 for text in texts)]).tolist()
        lines = [f"{number}|t|{texts[0]}", f"{number}|a|{' '.join(texts[1:])}"]
        for row, text, begin in zip(rows, texts, begins, strict=False):
            start, end = row["start"], row["end"]
            lines.append(f"{number}\t{begin + start}\t{begin + end}\t{text[start:end]}\tDisease")
        yield "\n".join(lines) + "\n\n"


def time_of_parts(linker: EntityLinker, corpus: Path, most: int) -> dict[str, float]:
    """Milliseconds a mention of what is not the search: reading, and making tokens of one piece."""
    ((file,), _) = find_files(corpus)
    pieces = read_pieces(file, most, [0])
    reading, (mentions, _) = seconds_of(lambda: mentions_of_documents(file, next(pieces), (), ReadReport()), CPU)
    formatter, rows = linker.targets.formatter, list(mentions.values())
    formatter.encode(rows[:32])
    tokens, encoded = seconds_of(lambda: formatter.encode(formatter.prepare(rows)), CPU)
    return {
        "read_ms": 1e3 * reading / len(rows),
        "tokenise_ms": 1e3 * tokens / len(rows),
        "source_tokens": float(np.mean([len(mention.source or mention.prefix) for mention in encoded if mention])),
    }


def run_side(side: str, args: LinkingArguments, corpus: Path, output: Path) -> dict[str, Any]:
    """Run the recipe with so many processes and threads; what it printed last, and the memory of its processes."""
    processes, threads = side.split("x")
    launcher = [sys.executable]
    if processes != "1":
        config = ["--config_file", "recipes/accelerate/ddp.yaml", "--num_processes", processes]
        launcher += ["-m", "accelerate.commands.accelerate_cli", "launch", *config]
    options = {"linker": args.linker, "input": corpus, "output": output, "shard_mentions": args.shard_mentions}
    options |= {"cpu_threads": threads, "use_cpu": True}
    command = [
        *launcher,
        "recipes/link.py",
        *(str(part) for item in options.items() for part in (f"--{item[0]}", item[1])),
    ]
    begin = time.perf_counter()
    memory: dict[int, list[tuple[float, float]]] = {}
    launchers: set[int] = set()
    with tempfile.TemporaryFile("w+") as printed:
        run = subprocess.Popen(command, cwd=ROOT, stdout=printed, env={**os.environ, "OMP_NUM_THREADS": threads})
        while run.poll() is None:
            workers, parents = family(run.pid)
            launchers |= parents
            for process in workers:
                if (size := resident(process)) is not None:
                    memory.setdefault(process, []).append((time.perf_counter() - begin, size))
            time.sleep(1)
        printed.seek(0)
        lines = printed.read().splitlines()
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {run.returncode}.")
    result = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    return {
        "mentions_per_second": result["mentions_per_second"],
        "seconds": result["seconds"],
        "shards": result["shards"],
        "memory": [course(series) for process, series in memory.items() if process not in launchers],
        "sha256": digest(output / "links"),
    }


def course(series: list[tuple[float, float]]) -> dict[str, Any]:
    """The memory of a process, in MB, at ten moments of its life, and its growth from a quarter of it to the end."""
    seconds, sizes = np.array(series).T
    places = np.linspace(0, len(sizes) - 1, 11).round().astype(int)
    # The last reading may fall into its end.
    last = float(np.median(sizes[-max(1, len(sizes) // 10) :]))
    return {
        "seconds": seconds[places].round(1).tolist(),
        "megabytes": sizes[places].round(1).tolist(),
        "peak": round(float(sizes.max()), 1),
        "growth_after_a_quarter": round(last - float(sizes[len(sizes) // 4]), 1),
    }


def family(pid: int) -> tuple[list[int], set[int]]:
    """A process and its descendants: those that have no children, and the others, which only launch them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program, in parentheses, may hold blanks.
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return sorted(set(found) - set(children)), set(found) & set(children)


def resident(pid: int) -> float | None:
    """Memory of a process in MB; None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def days(abstracts: float, mentions_an_abstract: float, mentions_per_second: float) -> float:
    """Days that so many abstracts take at a rate."""
    return abstracts * mentions_an_abstract / mentions_per_second / 86_400


def main() -> None:
    """Make the corpus, run each side, compare, print."""
    (args,) = HfArgumentParser(LinkingArguments, allow_abbrev=False).parse_args_into_dataclasses()
    if not Path("/proc/self/status").exists():
        raise SystemExit("The memory of processes is read from /proc, which only Linux has.")
    linker = EntityLinker.from_pretrained(args.linker, device="cpu")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        with corpus.open("w", encoding="utf-8") as file:
            file.writelines(documents(args, linker))
        parts = time_of_parts(linker, corpus, args.shard_mentions)
        # The place of the output stands in no shard, the number of the side does not either.
        sides = {side: run_side(side, args, corpus, Path(folder) / side) for side in args.sides}
        megabytes = corpus.stat().st_size / 1e6
    report: dict[str, Any] = {
        "sides": sides,
        "parts": parts,
        "same_bytes": len({side["sha256"] for side in sides.values()}) == 1,
        "days": {
            side: days(args.abstracts, args.mentions_an_abstract, result["mentions_per_second"])
            for side, result in sides.items()
        },
        "settings": vars(args) | {"linker": Path(args.linker).name, "output": None, "corpus_megabytes": megabytes},
        **surroundings(CPU),
    }
    rows = [
        f"| {side} | {result['mentions_per_second']:.1f} | {max(one['peak'] for one in result['memory']):.0f} "
        f"| {max(one['growth_after_a_quarter'] for one in result['memory']):+.0f} | {report['days'][side]:.0f} |"
        for side, result in sides.items()
    ]
    title = f"days for {args.abstracts:,.0f} abstracts of {args.mentions_an_abstract} mentions"
    print("\n| processes x threads | mentions a second | peak, MB a process | growth, MB |", title, "|")
    print("|---|---:|---:|---:|---:|", *rows, "", sep="\n")
    line = json.dumps(report)
    if args.output is not None:
        Path(args.output).write_text(line + "\n", encoding="utf-8")
    print(line)
    if not report["same_bytes"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
