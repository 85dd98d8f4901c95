"""A process with the real client in it, which a test tells what to call: importing it takes too long to do in each.

    with HubClient(hub.environment(home)) as client:
        client.call("angel_trl.hub:publish_folder", folder, "tester/model", tag="v1")

Arguments and results travel as JSON (dataclasses as their fields, and their `str`). Waiting is not waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_server import HubServer


class ClientError(Exception):
    """An exception in the process: its type's name, its text and the whole traceback."""

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(f"{kind}: {text}\n{trace}")
        self.kind, self.text, self.trace = kind, text, trace


class HubClient:
    """A process that calls functions one after the other; a context manager.

    Attributes:
        log: what the last call logged, warned and printed.
        waited: the seconds that it would have slept, one by one.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.log, self.waited = "", []

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()

    def call(self, function: str, *args: object, **kwargs: object) -> Any:
        """The result of `module:function`.

        Raises:
            ClientError: what it raised.
        """
        self.start(function, *args, **kwargs)
        answer = json.loads(self.process.stdout.readline())
        self.log, self.waited = answer["log"], answer["waited"]
        if "error" in answer:
            raise ClientError(*answer["error"])
        return answer["result"]

    def start(self, function: str, *args: object, **kwargs: object) -> None:
        """Begin a call, and do not wait for its end: for processes that are going to be killed."""
        self.process.stdin.write(json.dumps([function, args, kwargs], default=str) + "\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def both_clients(hub: HubServer, home: Path) -> Iterator[dict[str, HubClient]]:
    """A client that sends contents by git-LFS and one that sends them by Xet: "lfs" and "xet"."""
    with (
        HubClient(hub.environment(home / "lfs", xet=False)) as lfs,
        HubClient(hub.environment(home / "xet", xet=True)) as xet,
    ):
        yield {"lfs": lfs, "xet": xet}


def load_dataset(name: str, **arguments: object) -> dict[str, list]:
    """The columns of a dataset's `train` split, loaded as a user does."""
    import datasets

    return datasets.load_dataset(name, split="train", **arguments).to_dict()


def _plain(result: object) -> object:
    """What JSON can hold: some of the client's results are both texts and dataclasses, and stay texts."""
    if dataclasses.is_dataclass(result) and not isinstance(result, str):
        return {**dataclasses.asdict(result), "str": str(result)}
    return result


def _serve() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        module, function = name.split(":")
        text, waited = io.StringIO(), []
        time.sleep = waited.append
        handler = logging.StreamHandler(text)
        logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)
        warnings.simplefilter("always", UserWarning)
        answer: dict[str, object] = {}
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                answer["result"] = _plain(getattr(importlib.import_module(module), function)(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 (handed on)
                answer["error"] = [type(error).__name__, str(error), traceback.format_exc()]
        answer |= {"log": text.getvalue(), "waited": waited}
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
