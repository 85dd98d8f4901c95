"""What the Space is told by its environment and by the file it was published with, and the limits it keeps."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

MAX_CHARACTERS = 20_000
"""Longest passage linked at once; what is longer is cut, with a notice."""

MAX_MENTIONS = 100
"""Most mentions of one passage; further ones are left out, with a notice."""

MAX_ALLOWED = 1_000
"""Most names or ids a visitor may restrict answers to."""

MAX_UPLOAD_BYTES = 5_000_000
"""Largest file of the Batch tab."""

MAX_BATCH_MENTIONS = 2_000
"""Most mentions of one file; further ones are left out, with a notice."""

KEPT_SECONDS = 3600
"""How long uploads and downloads are kept."""

CHUNK = 32
"""Mentions searched together."""

QUEUE_SIZE = 256
"""Requests that may wait; further ones are told to come back."""

TOP_K = 5
"""Candidates of a mention."""

MAX_BEAMS = 200
"""How wide the search may grow until its list is exact."""

FILE = Path(__file__).with_name("settings.json")
"""Fields of `Settings` as a JSON object, written by recipes/publish_space.py; usually not there.

A file, not variables of the Space: it is in the same commit as the code, so that there is never one without the other,
it has a history, and copies of the Space have it too. Variables need calls of their own, each of which may fail, and
each restarts the Space.
"""

_VARIABLES = {
    "model": "ANGEL_MODEL",
    "positive": "ANGEL_POSITIVE_MODEL",
    "pairs": "ANGEL_PAIRS",
    "ner": "ANGEL_NER",
    "kb_url": "ANGEL_KB_URL",
    "examples": "ANGEL_EXAMPLES",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The models shown, and where they come from.

    Args:
        model: linker to show, a folder or a Hub id; empty for the quickstart's.
        positive: its positive-only stage, for "Before and after"; empty if there is none.
        pairs: folder or parquet file of the pairs its rounds mined; empty if there are none.
        ner: token-classification model that marks mentions, a folder or a Hub id; empty for none.
        kb_url: page of a concept, with `{id}` in it; empty to tell by what ids look like.
        examples: text file with one passage a line, mentions in [brackets]; empty for some made from the names.
        threads: threads of torch for one request; requests run side by side.
    """

    model: str = ""
    positive: str = ""
    pairs: str = ""
    ner: str = ""
    kb_url: str = ""
    examples: str = ""
    threads: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, file: Path = FILE) -> "Settings":
        """Read the variables that README.md lists, and what they leave open from a file, if there is one.

        The file is about one model: where the environment names another, nothing in it is used.

        Raises:
            ValueError: for a value that makes no sense, naming the variable, or the file and field, and the fix.
        """
        given = {field: environment[name].strip() for field, name in _VARIABLES.items() if name in environment}
        values = given if given.get("model") else {**_read(file), **given}
        said = {field: name if field in given else f"{field} in {file.name}" for field, name in _VARIABLES.items()}
        kb_url, examples = values.get("kb_url", ""), values.get("examples", "")
        if kb_url and not kb_url.startswith(("https://", "http://")):
            raise ValueError(f"{said['kb_url']} is {kb_url!r}; give a web address such as https://kb.org/{{id}}.")
        if kb_url and "{id}" not in kb_url:
            raise ValueError(f"{said['kb_url']} is {kb_url!r}; write {{id}} where the concept's id goes.")
        if examples and not Path(examples).is_file():
            raise ValueError(f"{said['examples']} is {examples!r}, which is no file.")
        threads = environment.get("ANGEL_THREADS", "1")
        if not threads.isascii() or not threads.isdigit() or int(threads) < 1:
            raise ValueError(f"ANGEL_THREADS is {threads!r}; give a number from 1 on.")
        return cls(**values, threads=int(threads))


def _read(file: Path) -> dict[str, str]:
    """The settings in a file, that of examples as a path from anywhere; none if there is no file."""
    if not file.exists():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not readable JSON ({error}). Publish the Space again.") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError(f'{file} must be a JSON object of texts, such as {{"model": "user/name"}}.')
    if unknown := sorted(values.keys() - _VARIABLES.keys()):
        raise ValueError(f"{file} has unknown settings {', '.join(unknown)}; known are {', '.join(_VARIABLES)}.")
    if values.get("examples"):
        values["examples"] = str(file.parent / values["examples"])
    return values
