"""What the Space is told by its environment, and the limits it keeps."""

import dataclasses
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
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the variables that README.md lists.

        Raises:
            ValueError: for a value that makes no sense, naming the variable and the fix.
        """
        names = {
            "model": "ANGEL_MODEL",
            "positive": "ANGEL_POSITIVE_MODEL",
            "pairs": "ANGEL_PAIRS",
            "ner": "ANGEL_NER",
            "kb_url": "ANGEL_KB_URL",
            "examples": "ANGEL_EXAMPLES",
        }
        values = {field: environment.get(name, "").strip() for field, name in names.items()}
        if values["kb_url"] and not values["kb_url"].startswith(("https://", "http://")):
            raise ValueError(
                f"ANGEL_KB_URL is {values['kb_url']!r}; give a web address such as https://kb.org/{{id}}."
            )
        if values["kb_url"] and "{id}" not in values["kb_url"]:
            raise ValueError(f"ANGEL_KB_URL is {values['kb_url']!r}; write {{id}} where the concept's id goes.")
        if values["examples"] and not Path(values["examples"]).is_file():
            raise ValueError(f"ANGEL_EXAMPLES is {values['examples']!r}, which is no file.")
        threads = environment.get("ANGEL_THREADS", "1")
        if not threads.isascii() or not threads.isdigit() or int(threads) < 1:
            raise ValueError(f"ANGEL_THREADS is {threads!r}; give a number from 1 on.")
        return cls(**values, threads=int(threads))
