"""Sentences made from a knowledge base alone: a name as the mention, and around it what is known of its concept.

The paper's pre-training (section 3.1, after GenBioEL) makes a synonym the mention and lets a definition or other
synonyms follow. Here are more such sentences: with semantic types, beside the names of other concepts, as a short form
whose long form stands before it, and plain ones. Strings and numbers only.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

from angel_trl.kb import KnowledgeBase

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class KBSentence(NamedTuple):
    """A sentence with a marked mention.

    Args:
        text: the sentence.
        start: where the mention begins in it.
        end: where it ends, exclusive.
        shown: name indices of the mention's concept that the sentence tells; a model that is to produce one of them
            could copy it.
    """

    text: str
    start: int
    end: int
    shown: tuple[int, ...]


# By what a sentence needs to know; `{}` is the mention. A definition ends with its own full stop, if it has one.
_TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": (
        "{} was seen .",
        "we report on {} .",
        "a study of {} and what it leads to .",
        "little is known about the causes of {} .",
        "these results suggest a role in {} , which had not been described .",
    ),
    "definition": ("{} is defined as {definition}", "{} : {definition}", "{definition} this is called {} ."),
    "type": ("{} is a {type} .", "a {type} , {} , was reported .", "like any other {type} , {} is rare ."),
    "synonym": ("{} , also known as {synonym} .", "{synonym} ( {} ) was seen .", "the terms {synonym} and {} ."),
    "others": ("{} and {others} .", "{others} or {} .", "{others} , but not {} .", "{} is unlike {others} ."),
    "short form": ("{long} ( {} ) was seen .", "{long} ( {short} ) . here we report on {} .", "in {long} or {} ."),
}


@dataclasses.dataclass(frozen=True, slots=True)
class SentenceMaker:
    """Makes sentences about the names of a knowledge base.

    Args:
        kb: the knowledge base.
        noise: share of mentions with a small change, as by `misspell`, unless that makes another name of it.
        context: share of mentions that stand in a sentence; the others stand alone.

    Raises:
        ValueError: if a share is not between 0 and 1.
    """

    kb: KnowledgeBase
    noise: float = 0.3
    context: float = 0.0

    def __post_init__(self) -> None:
        for share in ("noise", "context"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share} is {getattr(self, share)}; it is a share, between 0 and 1.")

    def make(self, name: int, rng: random.Random) -> KBSentence:
        """A sentence with name number `name` as its mention.

        Args:
            name: a name index of the knowledge base.
            rng: decides everything else.
        """
        mention = self.kb.names[name]
        kind = self._kind(name, rng) if rng.random() < self.context else "alone"
        if kind == "short form":
            mention = short_form(mention)
        elif rng.random() < self.noise:
            changed = misspell(mention, rng)
            # "familial breast cancer" without its first word is another concept's name, and no misspelling of it.
            mention = changed if self.kb.find(changed) is None else mention
        if kind == "alone":
            return KBSentence(mention, 0, len(mention), ())
        template = rng.choice(_TEMPLATES[kind])
        fields, shown = self._fields(kind, name, mention, rng)
        left, _, right = template.partition("{}")
        left = left.format(**fields)
        return KBSentence(left + mention + right.format(**fields), len(left), len(left) + len(mention), shown)

    def _kind(self, name: int, rng: random.Random) -> str:
        concept = self.kb.concepts[int(self.kb.concepts_of_name(name)[0])]
        possible = ["plain"]
        if concept.definition.strip():
            possible.append("definition")
        if concept.types:
            possible.append("type")
        synonyms = self._synonyms(name)
        if synonyms:
            possible.append("synonym")
        if self.kb.num_names > len(synonyms) + 1:
            possible.append("others")
        if len(short_form(self.kb.names[name])) > 1:
            possible.append("short form")
        return rng.choice(possible)

    def _fields(
        self, kind: str, name: int, mention: str, rng: random.Random
    ) -> tuple[dict[str, str], tuple[int, ...]]:
        """What fills the template, and the names of the concept that are told by it."""
        concept = self.kb.concepts[int(self.kb.concepts_of_name(name)[0])]
        if kind == "definition":
            return {"definition": concept.definition.strip()}, ()
        if kind == "type":
            return {"type": rng.choice(concept.types).replace("_", " ")}, ()
        if kind == "synonym":
            synonym = rng.choice(self._synonyms(name))
            return {"synonym": self.kb.names[synonym]}, (synonym,)
        if kind == "others":
            own = {name, *self._synonyms(name)}
            others: list[int] = []
            for _ in range(rng.randint(1, 3)):
                while (other := rng.randrange(self.kb.num_names)) in own:
                    pass
                others.append(other)
            return {"others": " , ".join(self.kb.names[other] for other in others)}, ()
        return ({"long": self.kb.names[name], "short": mention} if kind == "short form" else {}), ()

    def _synonyms(self, name: int) -> Sequence[int]:
        """The other names of the first concept that bears a name."""
        concept = int(self.kb.concepts_of_name(name)[0])
        return [other for other in self.kb.names_of_concept(concept).tolist() if other != name]


def short_form(name: str) -> str:
    """The first letters of the words of a name, numbers whole: what a text may call it after naming it once."""
    return "".join(word if word.isdigit() else word[0] for word in name.split())


def misspell(name: str, rng: random.Random) -> str:
    """One small change, as corpora show them: a typing error in a letter, a word lost, or two words swapped.

    Numbers and single letters stay as they are, for these tell one type of a disease from another.
    """
    words = name.split(" ")
    kind = rng.choice(("letter", "letter", "drop", "swap"))
    plain = [place for place, word in enumerate(words) if len(word) > 1 and not any(map(str.isdigit, word))]
    if kind == "drop" and len(words) > 2 and plain:
        del words[rng.choice(plain)]
    elif kind == "swap" and len(words) > 1:
        place = rng.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
    elif plain:
        place = rng.choice(plain)
        words[place] = _mistyped(words[place], rng)
    return " ".join(words)


def _mistyped(word: str, rng: random.Random) -> str:
    """The word with a letter lost, another in its place, one put before it, or itself twice."""
    place = rng.randrange(len(word))
    letter = rng.choice(_LETTERS)
    return word[:place] + rng.choice(("", letter, letter + word[place], word[place] * 2)) + word[place + 1 :]
