"""The output folder of a run: what it is a run of, which shards are there, and the report.

run.json                                  the linker, the knowledge base, the settings
input.json                                the files that were read, with their SHA-256 and how they were cut
links/FILE-000000.parquet, ...            the shards
pubtator/FILE-000000.txt, ...             the same in PubTator, if asked for; gzip-compressed where the input is
report.json                               once all is there: what was read, left out, repaired, linked
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from angel_trl.readers.report import ReadReport

from .files import CorpusFile
from .shards import read_stamp, write_whole

__all__ = ["RunFolder", "Shard"]

logger = logging.getLogger(__name__)

_RUN, _INPUT, _REPORT = "run.json", "input.json", "report.json"
_LINKS, _PUBTATOR = "links", "pubtator"
MADE_BY = "angel_trl linking"


@dataclass(frozen=True, slots=True)
class Shard:
    """Where the answers to a piece go.

    Attributes:
        file: The file that the piece is of.
        number: The number of the piece.
        mentions: Mentions of the piece, good or bad.
        links: The parquet file.
        pubtator: The PubTator file, if asked for.
    """

    file: CorpusFile
    number: int
    mentions: int
    links: Path
    pubtator: Path | None


class RunFolder:
    """What belongs to one run; the same in all processes.

    Args:
        path: The folder.
        run: What decides the answers, JSON-ready, nested dictionaries of plain values.

    Raises:
        ValueError: If the folder holds a run of something else, or files that are no run's.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.run = run
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; the output is a folder. Choose another.")
        stored = _read_json(path / _RUN)
        if stored is None:
            if path.exists() and any(not item.name.startswith(".") for item in path.iterdir()):
                raise ValueError(
                    f"{path} holds files that are of no run that was started here. Choose another folder."
                )
        else:
            different = list(_differences(stored.get("run", {}), run))
            if different:
                raise ValueError(
                    f"{path} holds what another run linked: {'; '.join(different)}. Choose another folder, or start "
                    "with the settings of that run to go on with it."
                )
        self._stored: dict[str, Any] = stored or {
            "made_by": MADE_BY,
            "run": run,
            "description": {},
            "environments": [],
        }
        self._input: dict[str, Any] = _read_json(path / _INPUT) or {}

    def known_sizes(self, file: CorpusFile, sha256: str) -> list[int] | None:
        """Return the sizes of the pieces of a file if an earlier start found them, and it is as it was then."""
        entry = self._input.get("files", {}).get(file.name, {})
        same = (entry.get("sha256"), entry.get("format")) == (sha256, file.format)
        return entry["mentions"] if same else None

    def check_input(self, files: dict[str, dict[str, Any]]) -> None:
        """See that the files whose shards are there are as they were; others may come, go and change.

        Raises:
            ValueError: If one is not; the message names it and says what to delete.
        """
        for name, entry in self._input.get("files", {}).items():
            now = files.get(name)
            if now == entry:
                continue
            shards = self._shards_there(name)
            if shards:
                what = "gone" if now is None else "not the same"
                raise ValueError(
                    f"{name} is {what} since {self.path} got {len(shards)} shards of it. Put it back, choose another "
                    "output folder, or delete these shards to have it linked anew: "
                    f"{', '.join(str(path) for path in shards[:3])}{', ...' if len(shards) > 3 else ''}"
                )

    def start(
        self, description: dict[str, Any], environment: dict[str, Any], files: dict[str, dict[str, Any]]
    ) -> None:
        """Write what the run is and what it reads, for people and for the next start; one process does.

        Args:
            description: What does not decide the answers: where linker and input came from. The first start's is kept.
            environment: Hardware and versions, which may change the last digits of scores; each is kept.
            files: By name `format`, `bytes`, `sha256` and `mentions` (of each piece).
        """
        stored = self._stored
        stored["description"] = stored["description"] or description
        before = stored["environments"]
        if before and environment not in before:
            different = "; ".join(_differences(before[-1], environment))
            logger.warning(
                "the last digits of scores may differ from those of the shards that are there: %s", different
            )
        stored["environments"] = [*before, *([] if environment in before else [environment])]
        self._write_json(_RUN, stored)
        self._write_json(_INPUT, {"files": files})
        (self.path / _REPORT).unlink(missing_ok=True)

    @property
    def description(self) -> dict[str, Any]:
        """What the first start said of itself, which all shards repeat; to be asked for once [`start`] is done."""
        description: dict[str, Any] = (_read_json(self.path / _RUN) or {})["description"]
        return description

    def shards(self, file: CorpusFile, sizes: list[int], *, pubtator: bool) -> Iterator[Shard]:
        """Yield where the answers to the pieces of a file go."""
        for number, mentions in enumerate(sizes):
            stem = f"{file.name}-{number:06d}"
            text = self.path / _PUBTATOR / f"{stem}.txt{'.gz' if file.name.endswith('.gz') else ''}"
            links = self.path / _LINKS / f"{stem}.parquet"
            yield Shard(file, number, mentions, links, text if pubtator else None)

    def is_done(self, shard: Shard) -> bool:
        """Say whether a shard is there, whole and of this run.

        Raises:
            ValueError: If it is of another run.
        """
        if not shard.links.exists() or (shard.pubtator is not None and not shard.pubtator.exists()):
            return False
        stamp = read_stamp(shard.links)
        if stamp is None:
            logger.warning("%s is broken, and is made anew", shard.links)
            return False
        if stamp.get("run") != self.run:
            different = "; ".join(_differences(stamp.get("run", {}), self.run))
            raise ValueError(f"{shard.links} is of another run: {different}. Move it away.")
        return True

    def finish(self, shards: Iterable[Shard], others: dict[str, str]) -> dict[str, Any]:
        """Write the report over all shards, which are there, and return it.

        Args:
            shards: All, in order.
            others: Files left alone, with what they look like.

        Raises:
            ValueError: If a shard is not there.
        """
        report, counts = ReadReport(), {"shards": 0}
        for shard in shards:
            counts["shards"] += 1
            stamp = read_stamp(shard.links)
            if stamp is None:
                raise ValueError(f"{shard.links} is gone, or broken. Start the same command again.")
            report = report.merge(ReadReport(**stamp["report"]))
            for name, count in stamp["counts"].items():
                counts[name] = counts.get(name, 0) + count
        written = {"counts": counts, "read": report.to_dict(), "files left alone": others}
        self._write_json(_REPORT, written)
        return written

    def _shards_there(self, name: str) -> list[Path]:
        folder, base = (self.path / _LINKS / name).parent, re.escape(name.rpartition("/")[2])
        shard = re.compile(rf"{base}-\d{{6,}}\.parquet")
        return sorted(path for path in folder.glob("*.parquet") if shard.fullmatch(path.name))

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        write_whole(self.path / name, text.encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON ({error}). Choose another output folder.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object. Choose another output folder.")
    return content


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield what differs between two nested dictionaries, in words."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            yield from _differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif there != now:
        yield f"{name} was {there!r:.80}, is {now!r:.80}"
