"""Which names one request may be answered with: a narrowing of the trie that needs no other trie.

A list of names or ids becomes the set of trie nodes on their paths; semantic types become a mask over bit sets that
the nodes carry (which types the names below have), made once for a knowledge base. `TargetNames.restrict` makes them.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from angel_trl.kb import KnowledgeBase
from angel_trl.trie import NameTrie

_WORD = 63  # bits of an int64 that are used


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Restriction:
    """The names, and the concepts behind them, that a mention may be given.

    Args:
        description: what was asked for, for messages.
        fingerprint: of the trie whose nodes are meant.
        concepts: bool `[concepts]`, the concepts that may be answered.
        nodes: sorted int64, the trie nodes on the paths to the names allowed; None if `type_bits` says it.
        type_bits: int64 `[nodes, words]`, the types below each trie node.
        type_mask: int64 `[words]`, the types allowed.
    """

    description: str
    fingerprint: str
    concepts: NDArray[np.bool_]
    nodes: NDArray[np.int64] | None = None
    type_bits: NDArray[np.int64] | None = None
    type_mask: NDArray[np.int64] | None = None

    def allows(self, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a name allowed lies below each trie node (or is it); bool, the shape of `nodes`."""
        if self.nodes is not None:
            place = np.minimum(np.searchsorted(self.nodes, nodes), len(self.nodes) - 1)
            return self.nodes[place] == nodes
        if self.type_bits is None or self.type_mask is None:
            raise ValueError(f"{self.description}: a restriction needs nodes, or type bits and a mask.")
        return np.asarray((self.type_bits[nodes] & self.type_mask).any(axis=-1))


class Restrictor:
    """Makes restrictions for one knowledge base and trie.

    Args:
        kb: the knowledge base.
        trie: the trie of its names.
    """

    def __init__(self, kb: KnowledgeBase, trie: NameTrie) -> None:
        self._kb = kb
        self._trie = trie.to("cpu")

    @functools.cached_property
    def _types(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(sorted({t for concept in self._kb.concepts for t in concept.types}))}

    @functools.cached_property
    def _concept_bits(self) -> NDArray[np.int64]:
        """int64 `[concepts, words]`."""
        words = -(-len(self._types) // _WORD) or 1
        bits = np.zeros((len(self._kb), words), dtype=np.int64)
        for row, concept in enumerate(self._kb.concepts):
            for kind in concept.types:
                word, bit = divmod(self._types[kind], _WORD)
                bits[row, word] |= np.int64(1) << np.int64(bit)
        return bits

    @functools.cached_property
    def _node_bits(self) -> NDArray[np.int64]:
        """int64 `[nodes, words]`."""
        kb = self._kb
        names = np.bitwise_or.reduceat(self._concept_bits[kb.name_concepts], kb.name_offsets[:-1], axis=0)
        leaves = torch.from_numpy(names[self._trie.leaf_name.numpy()])
        return self._trie.union_bits(leaves).numpy()

    def restrict(
        self,
        *,
        candidates: Iterable[str] | None = None,
        names: Iterable[str] | None = None,
        ids: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
    ) -> Restriction:
        """A restriction to the names that meet every condition given; no trie is built.

        A name is allowed if it is among `candidates`, it is in `names`, and it belongs to a concept that is in `ids`
        and has one of `types`.

        Args:
            candidates: names or ids, each one or the other (or both): the names, and all names of the concepts.
            names: names of the knowledge base, in any spelling that normalises alike.
            ids: concept ids, primary or alternate; all their names are allowed.
            types: semantic types; a concept of any of them is allowed.

        Raises:
            ValueError: for no condition, a name, id or type that the knowledge base does not have, or a restriction
                that leaves no name.
        """
        candidates, names = _listed("candidates", candidates), _listed("names", names)
        ids, types = _listed("ids", ids), _listed("types", types)
        given = {"candidates": candidates, "names": names, "ids": ids, "types": types}
        conditions = {key: value for key, value in given.items() if value is not None}
        if not conditions:
            raise ValueError("A restriction needs names, ids or types, or candidates.")
        description = " and ".join(f"{key} {_shown(value) or '(none)'}" for key, value in conditions.items())
        kb = self._kb
        concepts = np.ones(len(kb), dtype=bool)
        if ids is not None:
            resolved = [kb.resolve(concept_id) for concept_id in ids]
            self._require(ids, [bool(found) for found in resolved], "ids", "")
            concepts[:] = False
            concepts[[c for found in resolved for c in found]] = True
        mask = None
        if types is not None:
            known = [kind in self._types for kind in types]
            unknown = [kind for kind in types if kind not in self._types]
            near = [match for kind in unknown for match in difflib.get_close_matches(kind, self._types, 1)]
            hint = f" Is {_shown(near)} meant?" if near else f" It has {_shown(list(self._types)) or 'no types'}."
            self._require(types, known, "types", hint)
            mask = self._mask(types)
            concepts &= (self._concept_bits & mask).any(axis=1)
        if candidates is not None:
            among, of_these = self._among(candidates)
            concepts &= of_these
        if candidates is None and names is None and ids is None and mask is not None and concepts.any():
            restriction = Restriction(
                description, self._trie.fingerprint, concepts, type_bits=self._node_bits, type_mask=mask
            )
            if not restriction.allows(np.zeros(1, dtype=np.int64))[0]:
                raise ValueError(_nothing_left(description))
            return restriction
        if candidates is not None:
            allowed = np.array([n for n in among if concepts[kb.concepts_of_name(n)].any()], dtype=np.int64)
        else:
            owners = np.repeat(np.arange(kb.num_names), np.diff(kb.name_offsets))
            allowed = np.flatnonzero(np.bincount(owners[concepts[kb.name_concepts]]))
        if names is not None:
            found = [kb.find(name) for name in names]
            self._require(names, [index is not None for index in found], "names", "")
            allowed = np.intersect1d(allowed, np.array([i for i in found if i is not None], dtype=np.int64))
        leaves = self._trie.leaf(torch.from_numpy(allowed))
        leaves = leaves[leaves >= 0]
        if not len(leaves):
            raise ValueError(_nothing_left(description))
        return Restriction(description, self._trie.fingerprint, concepts, nodes=self._trie.ancestors(leaves).numpy())

    def _among(self, candidates: Sequence[str]) -> tuple[list[int], NDArray[np.bool_]]:
        """The names that candidates (names or ids) allow, ascending, and which concepts those are of."""
        kb = self._kb
        names = [kb.find(candidate) for candidate in candidates]
        resolved = [kb.resolve(candidate) for candidate in candidates]
        known = [name is not None or bool(own) for name, own in zip(names, resolved, strict=True)]
        self._require(candidates, known, "candidates", " Give names or ids of it.")
        of_ids = [concept for own in resolved for concept in own]
        given = [name for name in names if name is not None]
        concepts = np.zeros(len(kb), dtype=bool)
        concepts[of_ids] = True
        for name in given:
            concepts[kb.concepts_of_name(name)] = True
        return sorted({*given, *(int(n) for concept in of_ids for n in kb.names_of_concept(concept))}), concepts

    def _mask(self, types: Sequence[str]) -> NDArray[np.int64]:
        mask = np.zeros(self._concept_bits.shape[1], dtype=np.int64)
        for kind in types:
            word, bit = divmod(self._types[kind], _WORD)
            mask[word] |= np.int64(1) << np.int64(bit)
        return mask

    def _require(self, asked: Sequence[str], known: Sequence[bool], what: str, hint: str) -> None:
        unknown = [item for item, ok in zip(asked, known, strict=True) if not ok]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(asked)} {what} of the restriction are not in the knowledge base: "
                f"{_shown(unknown)}.{hint}"
            )


def _listed(what: str, values: Iterable[str] | None) -> list[str] | None:
    if values is None:
        return None
    if isinstance(values, str):
        raise ValueError(f"{what} is the string {values!r}; give a list: {what}=[{values!r}].")
    listed = list(values)
    for value in listed:
        if not isinstance(value, str):
            raise ValueError(f"{what} holds {value!r}, which is not a string.")
    return listed


def _shown(items: Sequence[str]) -> str:
    return ", ".join(repr(item[:80]) for item in items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _nothing_left(description: str) -> str:
    return f"No name of the knowledge base can be given under the restriction to {description}."
