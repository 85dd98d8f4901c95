"""Passages to try, one click away."""

from pathlib import Path

from angel_trl import KnowledgeBase

QUICKSTART = (
    "We describe [vein hrdening] as a complication of [gilvotine] therapy. These findings need to be confirmed in a "
    "larger group.",
    "The family agreed to publication of the report. Family members affected by [eye ataxia] were identified during "
    "midlife.",
    "[Dystrophy, pulmonary, type 1] ([PD-1]) was diagnosed in two families.",
    "The pathologist revised [uterine porlapse] to [prolapse of the stomach] at the second review.",
)
"""Of the quickstart's invented knowledge base (ids `SYN:...`): a typing error and a drug, an age that decides the
type, an abbreviation that the text explains, two organs."""

_FRAMES = ("The patient was seen for [{}].", "There was no sign of [{}], but [{}] could not be excluded.")


def passages(path: str, kb: KnowledgeBase) -> list[str]:
    """Up to four passages: of a file, of the quickstart, or made from names of the knowledge base.

    Args:
        path: text file with one passage a line, mentions in [brackets]; empty for none.
        kb: the knowledge base.

    Raises:
        ValueError: if the file holds no passage with a mention.
    """
    if path:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if "[" in line]
        if not lines:
            raise ValueError(f"ANGEL_EXAMPLES: no line of {path} has a [mention] in brackets.")
        return lines[:4]
    if all(concept.id.startswith("SYN:") for concept in kb.concepts):
        return list(QUICKSTART)
    step = max(1, len(kb.concepts) // 3)
    names = [concept.names[0].translate({91: None, 93: None}) for concept in kb.concepts[::step]][:3]
    names = [name for name in names if name.strip()] or ["unknown"]
    return [_FRAMES[0].format(names[0]), *([_FRAMES[1].format(*names[1:3])] if len(names) == 3 else [])]
