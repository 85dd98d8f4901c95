"""Name and mention normalisation: the one place that decides when two names are the same string.

The rule `"genbioel"` is the one of the published ANGEL and GenBioEL dictionaries ("conv" in GenBioEL), so that a
knowledge base normalised with it yields the names the published checkpoints were trained to generate.
"""

__all__ = ["NORMALIZATIONS", "normalize"]

NORMALIZATIONS: tuple[str, ...] = ("genbioel", "lower", "none")
"""The names of the rules, the default first."""

_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(",.;{}[]()+-_*/?!`\"'=%><", " "))


def normalize(text: str, rule: str = "genbioel") -> str:
    """Normalise a name or a mention.

    Args:
        text: Any string.
        rule: `"genbioel"` lowercases and turns each of ``, . ; { } [ ] ( ) + - _ * / ? ! ` " ' = % > <`` into a
            space; `"lower"` lowercases; `"none"` keeps the characters. Every rule collapses whitespace (Unicode's
            included) to single spaces and strips it at both ends.

    Returns:
        The normalised string; `""` when nothing but punctuation and whitespace was there. Normalising twice is
        the same as normalising once.

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule == "genbioel":
        text = text.lower().translate(_PUNCTUATION_TO_SPACE)
    elif rule == "lower":
        text = text.lower()
    elif rule != "none":
        raise ValueError(f"unknown normalization {rule!r}: use one of {', '.join(map(repr, NORMALIZATIONS))}")
    return " ".join(text.split())
