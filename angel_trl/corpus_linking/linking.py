"""Linking a corpus: pieces shared out over processes, each linked by itself and written as a shard."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from tqdm.auto import tqdm

from angel_trl import __version__
from angel_trl.linked import Linked
from angel_trl.linker import EntityLinker
from angel_trl.readers.report import ReadReport
from angel_trl.readers.sources import Source, local_path

from .files import CorpusFile, find_files
from .identity import environment, linker_fingerprint
from .pieces import Piece, piece_sizes, read_pieces
from .processes import gathered, share, together
from .pubtator import answered_lines, mentions_of_documents
from .records import Mention, mentions_of_records
from .run_folder import RunFolder, Shard
from .shards import answers_table, parquet_bytes, write_whole

__all__ = ["LinkingSettings", "Summary", "link_corpus"]

logger = logging.getLogger(__name__)

# Settings that are arguments of `EntityLinker.link_batch`.
_SEARCH = ("num_beams", "top_k", "batch_size", "ranking", "exact", "max_beams", "nil_threshold")
# Batches of mentions given to the linker in one call, after which the bar moves on.
_BATCHES_AT_ONCE = 8


@dataclass(frozen=True)
class LinkingSettings:
    """What decides the answers, besides the linker and the input."""

    num_beams: int = field(default=10, metadata={"help": "Beams of the search."})
    top_k: int = field(default=5, metadata={"help": "Candidates of a mention."})
    batch_size: int = field(
        default=32,
        metadata={"help": "Mentions searched together; more for a GPU. Scores differ in their last digits."},
    )
    ranking: Literal["sum", "mean"] = field(
        default="sum", metadata={"help": "Rank by log-probability, or by log-probability a token."}
    )
    exact: bool = field(
        default=False, metadata={"help": "Widen the search until no likelier name can exist, or max_beams."}
    )
    max_beams: int = field(default=1000, metadata={"help": "The widest beam then."})
    nil_threshold: float | None = field(
        default=None, metadata={"help": "Give no answer below this confidence; default: that of the calibration."}
    )
    types: list[str] = field(
        default_factory=list, metadata={"help": "Link to concepts of these semantic types only; default: to all."}
    )
    mention_types: list[str] = field(
        default_factory=list,
        metadata={"help": "Link mentions of these types only, as the input calls them; default: all. Others count."},
    )
    once: bool = field(
        default=False,
        metadata={"help": "Compute the same mention in the same context (as the model sees it) once a shard."},
    )
    shard_mentions: int = field(
        default=8192,
        metadata={"help": "Mentions of a shard: what a killed run does again, and what is held at a time."},
    )
    format: Literal["parquet", "pubtator"] = field(
        default="parquet",
        metadata={"help": "Of the output; pubtator writes PubTator beside the parquet, of input in PubTator."},
    )

    def __post_init__(self) -> None:
        for name in ("num_beams", "top_k", "batch_size", "max_beams", "shard_mentions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name, known in (("ranking", ("sum", "mean")), ("format", ("parquet", "pubtator"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class Summary:
    """What [`link_corpus`] did.

    Attributes:
        linked: Mentions linked by this start, in all processes.
        shards: Shards written by this start, in all processes.
        report: What `report.json` holds.
    """

    linked: int
    shards: int
    report: dict[str, Any]


def link_corpus(
    linker: EntityLinker,
    source: Source,
    output: str | Path,
    settings: LinkingSettings | None = None,
    *,
    description: dict[str, Any] | None = None,
    progress: bool = False,
) -> Summary:
    """Link every mention of a corpus and write shards of parquet; do only what is missing of a run that was stopped.

    Called in every process that `accelerate launch` started, it does the process's share; `output` must then be a
    folder that all of them see. Answers do not depend on the number of processes.

    Args:
        linker: The linker, the same in all processes.
        source: PubTator, JSONL or parquet, in a file or (at any depth) in a folder; a path, a URL, or a dataset on the
            Hub, which is fetched before. Mentions need no concept ids.
        output: The folder; see `run_folder.py` for what it holds.
        settings: What decides the answers.
        description: JSON-ready, kept in `run.json` and in the shards: where the linker came from.
        progress: Show a progress bar, of this process's share.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        OSError: If `source` cannot be fetched, or the output not be written.
        ValueError: If `output` holds anything but an earlier start of the same run, a file of the input that was
            linked there has changed, no file is of a known format or one is broken, or PubTator is asked for and the
            input is not. The message names what differs, and the file.
    """
    settings = settings or LinkingSettings()
    options = {name: getattr(settings, name) for name in _SEARCH}
    if settings.types:
        options["restrictions"] = linker.restrict(types=settings.types)
    # What this linker cannot do is an error now.
    linker.link_batch([], **options)
    state, output = PartialState(), Path(output)
    shown = progress and state.is_main_process
    # The first process of a machine fetches for the others.
    together(lambda: local_path(source) if state.is_local_main_process else None)
    run = {
        "angel_trl_version": __version__,
        "linker": linker_fingerprint(linker),
        "knowledge_base": linker.kb.fingerprint,
        "mention_format": dataclasses.asdict(linker.targets.formatter.format),
        "device": linker.model.device.type,
        "dtype": str(linker.model.dtype).removeprefix("torch."),
        "settings": dataclasses.asdict(settings),
    }

    def prepare() -> tuple[RunFolder, list[CorpusFile], dict[str, str]]:
        root = local_path(source)
        if root.is_dir() and output.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{output} lies in the input {root}, and would be read as part of it. Choose another.")
        files, others = find_files(root)
        other = next((file for file in files if file.format != "pubtator"), None)
        if settings.format == "pubtator" and other is not None:
            raise ValueError(f"{other.name} is {other.format}: no PubTator to put ids in. Choose the format parquet.")
        return RunFolder(output, json.loads(json.dumps(run))), files, others

    folder, files, others = together(prepare)
    found = together(lambda: _survey(share(files, state), folder, settings.shard_mentions, shown))
    by_name = dict(gathered(found))
    entries = {file.name: by_name[file.name] for file in files}
    together(lambda: folder.check_input(entries))
    if state.is_main_process:
        concepts = {"concepts": len(linker.kb), "names": linker.kb.num_names, "source": linker.kb.source}
        told = {"input": str(source), "knowledge_base": concepts, **(description or {})}
        folder.start(told, environment(linker.model.device), entries)
    state.wait_for_everyone()
    shards = [
        shard
        for file in files
        for shard in folder.shards(file, entries[file.name]["mentions"], pubtator=settings.format == "pubtator")
    ]
    numbers = share(range(len(shards)), state)
    done = set(gathered(together(lambda: [number for number in numbers if folder.is_done(shards[number])])))
    missing = [shard for number, shard in enumerate(shards) if number not in done]
    own = share(missing, state)
    if state.is_main_process:
        logger.info("%d of %d shards are there; %d are missing", len(done), len(shards), len(missing))
        if 0 < len(missing) < state.num_processes:
            message = "%d of %d processes have nothing to do: for so few mentions, choose shard_mentions below %d"
            idle = state.num_processes - len(missing)
            logger.warning(message, idle, state.num_processes, settings.shard_mentions)
    work = _Work(linker, settings, options, {"run": folder.run, **folder.description})
    label = f"linking (process 1 of {state.num_processes})" if state.num_processes > 1 else "linking"
    total = sum(shard.mentions for shard in own)
    linked = 0
    with tqdm(total=total, desc=label, unit=" mentions", disable=not shown) as bar:
        for name, of_file in groupby(own, key=lambda shard: shard.file.name):
            by_number = {shard.number: shard for shard in of_file}
            file = next(iter(by_number.values())).file
            for piece in read_pieces(file, settings.shard_mentions, by_number.keys()):
                before, shard = bar.n, by_number[piece.number]
                linked += work.link(piece, shard, entries[name]["sha256"], bar.update)
                bar.update(before + shard.mentions - bar.n)
    state.wait_for_everyone()
    report = folder.finish(shards, others) if state.is_main_process else {}
    state.wait_for_everyone()
    return Summary(sum(gathered([linked])), len(missing), report)


class _Work:
    """Links pieces and writes their shards."""

    def __init__(
        self, linker: EntityLinker, settings: LinkingSettings, options: dict[str, Any], stamp: dict[str, Any]
    ) -> None:
        self._linker = linker
        self._settings = settings
        self._options = options
        self._stamp = stamp

    def link(self, piece: Piece, shard: Shard, sha256: str, update: Callable[[int], object]) -> int:
        """Link a piece, write its shard, and return how many mentions it has."""
        report, file = ReadReport(), shard.file
        bad: set[int] = set()
        if file.format == "pubtator":
            mentions, bad = mentions_of_documents(file, piece, self._settings.mention_types, report)
        else:
            mentions = mentions_of_records(file, piece, self._settings.mention_types, report)
        answers, computed = self._answers(list(mentions.values()), update)
        counts = {
            "mentions": len(answers),
            "computed": computed,
            "answered": sum(linked.answer is not None for linked in answers),
            "abstained": sum(linked.abstained for linked in answers),
            "ambiguous": sum(linked.ambiguous for linked in answers),
            "exact": sum(linked.exact for linked in answers),
        }
        stamp = {
            **self._stamp,
            "piece": {"file": file.name, "sha256": sha256, "number": piece.number},
            "counts": counts,
            "report": report.to_dict(),
        }
        # The parquet file last: where it is, all is.
        if shard.pubtator is not None:
            text = answered_lines(piece, mentions, bad, answers)
            compressed = gzip.compress(text, mtime=0) if shard.pubtator.suffix == ".gz" else text
            write_whole(shard.pubtator, compressed)
        write_whole(shard.links, parquet_bytes(answers_table(file.name, mentions.values(), answers), stamp))
        return len(answers)

    def _answers(self, mentions: list[Mention], update: Callable[[int], object]) -> tuple[list[Linked], int]:
        """Return the answers to some mentions, and how many were computed."""
        keys = self._keys(mentions) if self._settings.once else range(len(mentions))
        first: dict[Any, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        # The linker makes batches of similar length of what it is given, which is of similar length itself.
        places = sorted(first.values(), key=lambda place: -len(mentions[place]["text"]))
        found: dict[int, Linked] = {}
        step = _BATCHES_AT_ONCE * self._settings.batch_size
        for begin in range(0, len(places), step):
            some = sorted(places[begin : begin + step])
            answers = self._linker.link_batch([mentions[place] for place in some], **self._options)
            found.update(zip(some, answers, strict=True))
            update(len(some))
        return [found[first[key]] for key in keys], len(places)

    def _keys(self, mentions: list[Mention]) -> list[tuple[str, str]]:
        """Return what the model is given of each mention, as text: equal texts are equal tokens."""
        formatter = self._linker.targets.formatter
        return [
            (formatter.source_text(row["text"], row["start"], row["end"]), formatter.prefix_text(mention))
            for row in formatter.prepare(mentions)
            for mention in (row["text"][row["start"] : row["end"]],)
        ]


def _survey(files: list[CorpusFile], folder: RunFolder, most: int, progress: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return name and format, size, digest and pieces of some files, which are read to their end."""
    found = []
    for file in tqdm(files, desc="looking through the input", unit=" files", delay=2, disable=not progress):
        with file.path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        sizes = folder.known_sizes(file, sha256)
        sizes = piece_sizes(file, most) if sizes is None else sizes
        entry = {"format": file.format, "bytes": file.path.stat().st_size, "sha256": sha256, "mentions": sizes}
        found.append((file.name, entry))
    return found
