"""Link every mention of a corpus, of whatever size: PubTator, JSONL or parquet in, parquet and PubTator out.

    python recipes/link.py --linker user/name --input abstracts.pubtator.gz --output linked
    accelerate launch --config_file recipes/accelerate/ddp.yaml --num_processes 8 \\
        recipes/link.py --linker user/name --input DIR_OR_DATASET --output linked

`--input` is a file or a folder (files at any depth, gzip-compressed or not), a URL, or a dataset on the Hub, fetched
into the cache first. Mentions need no concept ids:

    PubTator    title and abstract lines, and a line a mention: PMID, start, end, mention, type, tab-separated
    JSONL       {"text": ..., "start": ..., "end": ...} a line; also id, document_id, mention, types
    parquet     the same as columns

Written to `--output`:

    links/FILE-000000.parquet, ...   a row a mention: file, record, id, offsets, concept ids, name, score, candidates
    pubtator/FILE-000000.txt, ...    with --format pubtator: the input with our ids, in parts for `cat` to join
    report.json                      what was read, repaired, left out, linked; written last
    run.json, input.json             linker (with its commit on the Hub), knowledge base, settings; files with SHA-256

Files are cut into pieces of `--shard_mentions`, which the processes take in turn; what is held in memory is one piece.
A run that was stopped, however, goes on when the same command is given again, with any number of processes, and ends
with the same bytes. Files may be added later. On several machines, `--output` must be a folder that all of them see.
Or give each machine files of its own and an output of its own, and put the `links` folders together.

The last line printed is one JSON object.
"""

import argparse
import errno
import json
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from transformers import HfArgumentParser

from angel_trl import EntityLinker
from angel_trl.corpus_linking import LinkingSettings, link_corpus
from angel_trl.corpus_linking.processes import gathered, together
from angel_trl.linker_files import find_folder

logger = logging.getLogger("recipes.link")

# A process that is done waits for the others: for hours, where files are uneven.
PATIENCE = timedelta(days=30)


@dataclass
class LinkArguments:
    """Where from, where to, and on what."""

    linker: str = field(metadata={"help": "A linker: folder or Hub id."})
    input: str = field(metadata={"help": "A file or folder, a URL, or a dataset on the Hub (user/name[@revision])."})
    output: str = field(
        metadata={"help": "Folder for the answers; one with a stopped run of the same goes on with it."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a linker on the Hub."})
    kb: str | None = field(
        default=None,
        metadata={
            "help": "A knowledge base to link to in place of the linker's own (file, folder, URL or dataset on the "
            "Hub); with it the linker may be a plain model, such as dmis-lab/ANGEL_ncbi."
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "Of the weights; bfloat16 for speed on a GPU."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU where there is a GPU."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of a process on CPU; default: the cores shared out evenly."}
    )


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the description as it is."""


def parse_arguments(argv: list[str]) -> tuple[LinkArguments, LinkingSettings]:
    """Read the command line."""
    # A setting misspelled is an error, not an abbreviation of another.
    parser = HfArgumentParser(
        (LinkArguments, LinkingSettings), description=__doc__, formatter_class=_Help, allow_abbrev=False
    )
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _find(args: LinkArguments) -> Path:
    return find_folder(args.linker, args.revision, with_kb=args.kb is None)


def load_linker(args: LinkArguments, state: PartialState) -> tuple[EntityLinker, dict[str, str | None]]:
    """The linker, and where it came from."""
    commit = None
    if not Path(args.linker).exists():
        # The first process says which commit it is for all, whatever is published meanwhile.
        folder = together(lambda: _find(args) if state.is_main_process else None)
        (commit,) = gathered([] if folder is None else [folder.name])
    device = state.device if state.device.type != "cpu" else "cpu"
    linker = EntityLinker.from_pretrained(
        args.linker, revision=commit or args.revision, kb=args.kb, device=device, dtype=getattr(torch, args.dtype)
    )
    return linker, {"linker": args.linker, "revision": args.revision, "commit": commit, "kb": args.kb}


def main() -> None:
    """Link, and print what was done."""
    begin = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # A line for each request to the Hub would hide the others.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    args, settings = parse_arguments(sys.argv[1:])
    # Without being told, accelerate takes each process of a machine without accelerator to be the only one.
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available(), timeout=PATIENCE)
    if state.device.type == "cpu":
        # `accelerate launch` sets one thread a process unless told otherwise, which leaves the other cores idle.
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // state.num_processes))
    # Mentions without an answer are counted, which is enough of them.
    logging.getLogger("angel_trl.linker").setLevel(logging.ERROR)
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        linker, description = load_linker(args, state)
        loaded = time.perf_counter()
        done = link_corpus(linker, args.input, args.output, settings, description=description, progress=True)
    except (ValueError, OSError) as error:
        who = "" if state.is_main_process else f"process {state.process_index + 1}: "
        more = ""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            more = f". The disk of {args.output} is full: free some, and give the same command again to go on."
        raise SystemExit(f"{who}{error}{more}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"Interrupted. Give the same command again to go on in {args.output}.") from None
    if state.is_main_process:
        read = done.report["read"]
        log = logger.warning if read["skipped"] else logger.info
        told = Path(args.output, "report.json")
        log("%d of %d mentions linked; %s has what became of the others", read["used"], read["read"], told)
        seconds = time.perf_counter() - loaded
        result = {
            "output": args.output,
            **done.report["counts"],
            "skipped": sum(read["skipped"].values()),
            "linked_now": done.linked,
            "shards_now": done.shards,
            "processes": state.num_processes,
            "mentions_per_second": round(done.linked / seconds, 2),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        print(json.dumps(result), flush=True)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
