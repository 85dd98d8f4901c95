"""The linkers of rounds on their way to the Hub: kept in a folder until they are there.

    rounds/round-01/          the linker of the first round, complete
    rounds/published.json     which rounds the Hub has, and where

Knows folders and the Hub, and neither models nor training.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from angel_trl.hub import PublishError, publish_folder
from angel_trl.hub_files import local_files
from angel_trl.hub_remote import FAILURES, Remote
from angel_trl.linker_files import LINKER_FILES

__all__ = ["ROUNDS_BRANCH", "RoundPublisher", "FAILED", "round_name"]

logger = logging.getLogger(__name__)

ROUNDS_BRANCH = "rounds"
"""The branch that holds the linkers of rounds; `main` only ever has the finished one."""
FAILED = (PublishError, ValueError, OSError)
"""What publishing a folder raises."""
_ATTEMPTS = 5
# A round's linker, then the next checkpoint: its weights and two moments of Adam for each.
_ROOM = 4


def round_name(number: int) -> str:
    """What a round is called on the Hub; the first is number 1."""
    return f"round-{number:02d}"


def _number(name: str) -> int:
    return int(name.removeprefix("round-"))


class RoundPublisher:
    """Publishes the linker of each round, on the branch `rounds` with a tag of its own, while training goes on.

    A linker is removed here once the Hub has been seen to hold it. One that could not be published is tried again
    after each later round and in the end, and by a run that is resumed. For the main process only.

    Args:
        folder: `output_dir` of the rounds.
        repo_id: "user/name" of the model.
        private: whether the repository is private if it is created here; None for the account's default.
        token: an access token; the saved one if None.
    """

    def __init__(
        self, folder: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None
    ) -> None:
        self.folder = Path(folder) / "rounds"
        self._repo_id, self._private, self._token = repo_id, private, token
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = False

    @property
    def kept(self) -> list[str]:
        """Names of the rounds whose linkers are here."""
        folders = [path.name for path in self.folder.glob("round-*") if path.is_dir() and not path.suffix]
        return sorted(folders, key=_number)

    @property
    def published(self) -> dict[str, str]:
        """The addresses of those that the Hub has, by name."""
        try:
            noted = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        rounds = noted["rounds"] if noted["repo_id"] == self._repo_id else {}
        return {name: rounds[name] for name in sorted(rounds, key=_number)}

    @property
    def known(self) -> set[str]:
        """Names of the rounds whose linkers are here or on the Hub."""
        return {*self.kept, *self.published}

    @property
    def _record(self) -> Path:
        return self.folder / "published.json"

    def forget(self) -> None:
        """Remove what a former run left here."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def room(self, size: int) -> int:
        """How many linkers of `size` bytes can be kept here, with room left for a checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return max(0, shutil.disk_usage(self.folder).free // max(1, size) - _ROOM + 1)

    def keep(self, number: int, size: int, write: Callable[[Path], None]) -> bool:
        """Keep the linker of a round, if there is room, and publish it while training goes on.

        Args:
            number: of the round, from 1.
            size: bytes of its weights.
            write: writes linker and card to a folder.

        Returns:
            Whether it was kept; if not, the log says why.
        """
        name = round_name(number)
        partial = self.folder / f"{name}.partial"
        try:
            if not self.room(size):
                raise OSError(f"the disk of {self.folder} has no room left for a linker beside the next checkpoint")
            shutil.rmtree(partial, ignore_errors=True)
            write(partial)
            # Renamed when complete, so that a killed run leaves no half a linker.
            shutil.rmtree(self.folder / name, ignore_errors=True)
            partial.rename(self.folder / name)
        except (OSError, ValueError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            logger.warning("The linker of %s was not kept and will not be published: %s", name, error)
            return False
        self.publish_meanwhile()
        return True

    def publish_meanwhile(self) -> None:
        """Publish what is here on a thread, which does not outlive the process."""
        with self._lock:
            self._wanted = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="publish rounds", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            for name, reason in self._publish_kept().items():
                logger.warning("%s: %s It is kept in %s and will be tried again.", name, reason, self.folder)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the thread has nothing to do, so many seconds at most."""
        thread = self._thread
        if thread is not None:
            logger.info("Waiting for the linkers of rounds to be published.")
            thread.join(seconds)

    def finish(self) -> dict[str, str]:
        """Publish what is still here; returns why something was not, by name."""
        self.wait()
        return self._publish_kept()

    def _publish_kept(self) -> dict[str, str]:
        for gone in self.folder.glob("round-*.published"):
            shutil.rmtree(gone, ignore_errors=True)
        failures: dict[str, str] = {}
        for name in self.kept:
            published = self.folder / f"{name}.published"
            try:
                # What was not reached for one is not waited for again for each.
                self._note(name, self._publish(name, max_attempts=1 if failures else _ATTEMPTS))
                # Renamed first, so that a killed run leaves no half a linker.
                (self.folder / name).rename(published)
            except FAILED as error:
                failures[name] = str(error)
            else:
                shutil.rmtree(published, ignore_errors=True)
        return failures

    def _publish(self, name: str, max_attempts: int) -> str:
        """The address of the linker of a round on the Hub, published there if it is not there yet."""
        remote = Remote(self._repo_id, "model", self._token, max_attempts)
        try:
            if self._is_there(remote, name):
                return f"{remote.url}/tree/{name}"
        except FAILURES as error:
            raise PublishError(f"The linker of {name} was not published: {remote.explain(error)}") from error
        published = publish_folder(
            self.folder / name,
            self._repo_id,
            private=self._private,
            revision=ROUNDS_BRANCH,
            tag=name,
            delete_others=LINKER_FILES,
            commit_message=f"Linker of {name}",
            token=self._token,
            max_attempts=max_attempts,
        )
        logger.info("%s", published)
        return published.url

    def _is_there(self, remote: Remote, name: str) -> bool:
        """Whether the tag holds this linker, wherever the branch is now: a run may be killed before it notes that."""
        if remote.is_private() is None:
            return False
        commit = remote.tags().get(name)
        if commit is None:
            return False
        tree = remote.tree(commit)
        return all(path in tree and tree[path].holds(file) for path, file in local_files(self.folder / name).items())

    def _note(self, name: str, url: str) -> None:
        noted = {"repo_id": self._repo_id, "rounds": {**self.published, name: url}}
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._record)
