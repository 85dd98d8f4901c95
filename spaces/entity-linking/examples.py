"""Passages to try, one click away."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from angel_trl import EntityLinker
from angel_trl.kb import Concept

QUICKSTART = (
    "Family members affected by [eye ataxia] were identified during midlife. Treatment with [molvozole] was well "
    "tolerated.",
    "We describe [vein hrdening] as a complication of [gilvotine] therapy.",
    "Symptoms of [dental degeneration IV] ([DDG-4]) were recorded by the nurse.",
    "The pathologist revised [uterine porlapse] to [prolapse of the stomach] at the second review.",
)
"""Of the quickstart's invented knowledge base (ids `SYN:...`): an age that decides the type, which the rounds teach,
typing errors, an abbreviation that the text explains, drugs and organs."""

_SHORT = 24  # characters
_TRIED = 8  # names of a part of the knowledge base
_FRAMES = ("The patient was seen for [{}].", "There was no sign of [{}], but [{}] could not be excluded.")


def passages(path: str, linker: EntityLinker) -> list[str]:
    """Up to four passages: of a file, of the quickstart, or made from names of the knowledge base.

    Args:
        path: text file with one passage a line, mentions in [brackets]; empty for none.
        linker: whose knowledge base it is; names that it knows are preferred.

    Raises:
        ValueError: if the file holds no passage with a mention.
    """
    if path:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if "[" in line]
        if not lines:
            raise ValueError(f"ANGEL_EXAMPLES: no line of {path} has a [mention] in brackets.")
        return lines[:4]
    concepts = linker.kb.concepts
    if all(concept.id.startswith("SYN:") for concept in concepts):
        return list(QUICKSTART)
    step = max(1, len(concepts) // 3)
    parts = [_readable(concepts[begin : begin + step]) for begin in range(0, len(concepts), step)][:3]
    names = [_known(part, linker) for part in parts if part] or ["unknown"]
    return [_FRAMES[0].format(names[0]), *([_FRAMES[1].format(*names[1:3])] if len(names) == 3 else [])]


def _readable(concepts: Sequence[Concept]) -> list[Concept]:
    """Some concepts whose first names read well in a sentence, or else can stand in brackets at least."""
    fitting = [one for one in concepts if one.names[0].strip() and not {"[", "]"} & set(one.names[0])]
    short = (one for one in fitting if len(one.names[0]) <= _SHORT and "," not in one.names[0])
    return list(itertools.islice(short, _TRIED)) or fitting[:1]


def _known(concepts: Sequence[Concept], linker: EntityLinker) -> str:
    """The name of the first concept that the linker gives for it, or else of the first."""
    before, after = _FRAMES[0].split("[{}]")
    names = [one.names[0] for one in concepts]
    at = len(before)
    rows = [{"text": f"{before}{name}{after}", "start": at, "end": at + len(name)} for name in names]
    found = linker.link_batch(rows, top_k=1)
    known = (one for one, link in zip(concepts, found, strict=True) if link.answer and one.id in link.answer.ids)
    return next(known, concepts[0]).names[0]
