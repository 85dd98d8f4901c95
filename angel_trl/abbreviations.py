"""Abbreviations expanded document by document, as the paper does before linking.

Ab3P (Sohn et al., "Abbreviation definition identification based on automatic precision estimates", BMC Bioinformatics
2008) finds the pairs of short and long form that a document defines; its Python binding is `pyab3p`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any


@functools.cache
def _ab3p() -> Any:
    try:
        from pyab3p import Ab3p
    except ImportError as error:
        raise ImportError(
            'Abbreviations are expanded by pyab3p, which is not installed: pip install "angel_trl[abbreviations]".'
        ) from error
    return Ab3p()


@functools.lru_cache(maxsize=256)
def definitions(text: str) -> dict[str, str]:
    """The abbreviations that a text defines: short form to long form, the likeliest where it defines one twice."""
    found: dict[str, tuple[float, str]] = {}
    # Ab3P loses its place in a text with runs of blanks.
    for pair in _ab3p().get_abbrs(" ".join(text.split())):
        found[pair.short_form] = max(found.get(pair.short_form, (0.0, "")), (pair.prec, pair.long_form))
    return {short: long for short, (_, long) in found.items()}


def expand(mentions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write out the abbreviations in mentions that their texts define.

    Short forms are replaced where they stand as words of the mention, unless the mention has the long form already.
    The context stays as it is; offsets and text of each mention change with it.

    Args:
        mentions: mappings with `text`, `start` and `end`, and `mention` where it is kept.

    Returns:
        Mentions in order, as dictionaries.

    Raises:
        ImportError: if `pyab3p` is not installed.
    """
    expanded = []
    for row in mentions:
        text, start, end = row["text"], row["start"], row["end"]
        mention = text[start:end]
        for short, long in definitions(text).items():
            if long.lower() not in mention.lower():
                # A backslash in the long form is to stand as it is.
                mention = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", long.replace("\\", r"\\"), mention)
        changed = {"text": text[:start] + mention + text[end:], "end": start + len(mention)}
        expanded.append({**row, **changed, **({"mention": mention} if "mention" in row else {})})
    return expanded
