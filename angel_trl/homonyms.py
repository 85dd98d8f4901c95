"""Names that several concepts bear: what becomes of them. Pure functions on normalised names."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

POLICIES = ("keep", "disambiguate", "drop")


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """Names after a policy.

    Args:
        names: the names of each concept, in order.
        disambiguated: names of a concept that were given an addition.
        dropped: names of a concept that were left out.
    """

    names: list[list[str]]
    disambiguated: int = 0
    dropped: int = 0


def settle(names: Sequence[list[str]], types: Sequence[Sequence[str]], policy: str) -> Settled:
    """Apply a policy to the names of all concepts.

    * "keep": a name may stand for several concepts; a linker then answers with all their ids (the any-id protocol).
    * "drop": such a name is left out, except of a concept that would have no other.
    * "disambiguate": each concept's own spelling of it is made: the name, then the concept's first semantic type where
      these types differ for all concepts concerned, else the concept's preferred name. The concept whose preferred
      name it is keeps it plain, if there is one only. What cannot be told apart in this way stays a homonym.

    Args:
        names: normalised names of each concept, the preferred one first, none twice in a concept.
        types: semantic types of each concept.
        policy: one of `POLICIES`.

    Raises:
        ValueError: for another policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"homonyms is {policy!r}; choose one of {', '.join(POLICIES)}.")
    if policy == "keep":
        return Settled(list(names))
    bearers: defaultdict[str, list[int]] = defaultdict(list)
    for concept, own in enumerate(names):
        for name in own:
            bearers[name].append(concept)
    homonyms = {name: concepts for name, concepts in bearers.items() if len(concepts) > 1}
    return _drop(names, homonyms) if policy == "drop" else _disambiguate(names, types, homonyms, bearers)


def _drop(names: Sequence[list[str]], homonyms: dict[str, list[int]]) -> Settled:
    kept = []
    for own in names:
        left = [name for name in own if name not in homonyms]
        kept.append(left or own[:1])
    return Settled(kept, dropped=sum(map(len, names)) - sum(map(len, kept)))


def _disambiguate(
    names: Sequence[list[str]],
    types: Sequence[Sequence[str]],
    homonyms: dict[str, list[int]],
    bearers: dict[str, list[int]],
) -> Settled:
    replaced: dict[tuple[int, str], str] = {}
    for name, concepts in homonyms.items():
        first_types = [types[concept][0].lower() if types[concept] else "" for concept in concepts]
        by_type = all(first_types) and len(set(first_types)) == len(concepts)
        preferring = [concept for concept in concepts if names[concept][0] == name]
        for concept, kind in zip(concepts, first_types, strict=True):
            if by_type:
                replaced[concept, name] = f"{name} {kind}"
            elif names[concept][0] != name:
                replaced[concept, name] = f"{name} {names[concept][0]}"
            elif len(preferring) > 1 and kind:
                replaced[concept, name] = f"{name} {kind}"
    # An addition must not make a name that another concept bears, or two the same.
    made = Counter(replaced.values())
    replaced = {key: new for key, new in replaced.items() if made[new] == 1 and new not in bearers}
    settled = [[replaced.get((concept, name), name) for name in own] for concept, own in enumerate(names)]
    return Settled(settled, disambiguated=len(replaced))
