"""The knowledge base: concepts, their names, and the two-way map between names and concepts.

Knows concepts and strings only: no models, no tokens, no mentions. Importing it loads numpy and nothing heavier;
`pyarrow` is imported when a knowledge base is saved or loaded.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .homonyms import settle
from .normalization import normalize

if TYPE_CHECKING:
    from .hub import Published
    from .readers.report import ReadReport

__all__ = ["Concept", "KnowledgeBase"]

_FORMAT_VERSION = 1
_ID_PREFIXES = ("MESH:", "OMIM:")


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept of a knowledge base.

    Attributes:
        id: The primary id, for instance `"D003693"`.
        names: Its names as the source spells them, the preferred name first; at least one.
        alternate_ids: Other ids that mean this concept.
        types: Semantic types or groups, in the source's own codes.
        definition: A sentence or two, or `""`.
    """

    id: str
    names: tuple[str, ...]
    alternate_ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    definition: str = ""


class KnowledgeBase:
    """Concepts and their normalised names, both ways, as compressed sparse rows (CSR).

    A *name index* counts the distinct normalised names in the order of first appearance; a *concept index* counts
    the concepts in the order given. Names that normalise to `""` have no name index (see [`statistics`]).

    Args:
        concepts: The concepts; at least one.
        normalization: A rule of [`angel_trl.normalization.normalize`], for names and for [`find`].
        homonyms: What becomes of names that several concepts bear: `"keep"`, `"disambiguate"` or `"drop"`; see
            [`angel_trl.homonyms.settle`]. `concepts` stay as given.
        source: Where the concepts came from, for people; not part of the content.

    Attributes:
        concepts: `list[Concept]` as given, names not normalised.
        names: `list[str]`, the distinct normalised names; the position is the name index.
        name_offsets: `int64[num_names + 1]`: `name_concepts[name_offsets[i]:name_offsets[i + 1]]` are name `i`'s
            concept indices.
        name_concepts: `int32`, concept indices, ascending within a name.
        concept_offsets: `int64[len(self) + 1]`: the same for concepts.
        concept_names: `int32`, name indices, each once within a concept, in the order of `Concept.names`.
        normalization: The rule's name.
        homonym_policy: What became of homonyms.
        source: As given.
        read_report: What became of every record of the source if a reader made this from a text file, else `None`;
            not saved.

    Raises:
        ValueError: If there is no concept, a concept has an empty id or no names, an id is used twice, or there is no
            such rule or policy.
    """

    def __init__(
        self,
        concepts: Iterable[Concept],
        *,
        normalization: str = "genbioel",
        homonyms: str = "keep",
        source: str = "",
    ) -> None:
        """Index the concepts by id and by name; see the class."""
        self.concepts: list[Concept] = list(concepts)
        self.normalization = normalization
        self.homonym_policy = homonyms
        self.source = source
        self.read_report: ReadReport | None = None
        if not self.concepts:
            raise ValueError(f"a knowledge base needs at least one concept, got none{_from(source)}")
        self._index_ids()
        self._index_names()

    def _index_ids(self) -> None:
        primary: dict[str, int] = {}
        alternate: dict[str, list[int]] = {}
        for index, concept in enumerate(self.concepts):
            if not isinstance(concept.id, str) or not _id_key(concept.id):
                raise ValueError(
                    f"concept {index}{_from(self.source)}: empty id {concept.id!r} (names {concept.names!r:.80}); "
                    "give every concept an id"
                )
            _check_names(concept, self.source)
            first = primary.setdefault(_id_key(concept.id), index)
            if first != index:
                raise ValueError(
                    f"duplicate concept id {concept.id!r}{_from(self.source)}: concepts {first} "
                    f"({self.concepts[first].id!r}) and {index}; merge their names into one concept"
                )
            for other in concept.alternate_ids:
                if not isinstance(other, str) or not _id_key(other):
                    raise ValueError(
                        f"concept {concept.id!r}{_from(self.source)}: empty alternate id {other!r}; leave it out"
                    )
                owners = alternate.setdefault(_id_key(other), [])
                if index not in owners:
                    owners.append(index)
        self._primary_ids = primary
        self._alternate_ids = alternate

    def _index_names(self) -> None:
        read = merged = lost = nameless = 0
        names_of: list[list[str]] = []
        for concept in self.concepts:
            normalized = [normalize(name, self.normalization) for name in concept.names]
            own = list(dict.fromkeys(filter(None, normalized)))
            read += len(normalized)
            lost += normalized.count("")
            merged += len(normalized) - normalized.count("") - len(own)
            nameless += not own
            names_of.append(own)
        settled = settle(names_of, [concept.types for concept in self.concepts], self.homonym_policy)
        index_of: dict[str, int] = {}
        concept_names: list[int] = []
        concept_offsets = np.zeros(len(self.concepts) + 1, dtype=np.int64)
        for position, own in enumerate(settled.names):
            concept_names += [index_of.setdefault(name, len(index_of)) for name in own]
            concept_offsets[position + 1] = len(concept_names)
        self._name_index = index_of
        self.names: list[str] = list(index_of)
        self.concept_offsets = concept_offsets
        self.concept_names: NDArray[np.int32] = np.array(concept_names, dtype=np.int32)

        owners = np.repeat(np.arange(len(self.concepts), dtype=np.int32), np.diff(concept_offsets))
        # A stable sort by name keeps the concepts ascending within each name.
        self.name_concepts: NDArray[np.int32] = owners[np.argsort(self.concept_names, kind="stable")]
        self.name_offsets = np.zeros(len(self.names) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.concept_names, minlength=len(self.names)), out=self.name_offsets[1:])
        for array in (self.concept_offsets, self.concept_names, self.name_offsets, self.name_concepts):
            array.setflags(write=False)
        self._name_counts = {
            "names_read": read,
            "duplicates_merged": merged,
            "names_lost": lost,
            "concepts_without_name": nameless,
            "homonyms_disambiguated": settled.disambiguated,
            "homonyms_dropped": settled.dropped,
        }

    def __len__(self) -> int:
        """Return the number of concepts."""
        return len(self.concepts)

    def __repr__(self) -> str:
        """Return the sizes and the rule, for people."""
        return (
            f"KnowledgeBase(concepts={len(self)}, names={self.num_names}, normalization={self.normalization!r}, "
            f"source={self.source!r})"
        )

    @property
    def num_names(self) -> int:
        """The number of distinct normalised names."""
        return len(self.names)

    def concepts_of_name(self, name_index: int) -> NDArray[np.int32]:
        """Return the concept indices of a name, ascending: `int32[at least 1]`, a read-only view.

        Raises:
            IndexError: If `name_index` is not in `[0, num_names)`.
        """
        if not 0 <= name_index < self.num_names:
            raise IndexError(f"name index {name_index} is outside [0, {self.num_names})")
        return self.name_concepts[self.name_offsets[name_index] : self.name_offsets[name_index + 1]]

    def names_of_concept(self, concept_index: int) -> NDArray[np.int32]:
        """Return the name indices of a concept, the preferred name's first: `int32`, a read-only view.

        It is empty for a concept all of whose names normalise to `""`.

        Raises:
            IndexError: If `concept_index` is not in `[0, len(self))`.
        """
        if not 0 <= concept_index < len(self):
            raise IndexError(f"concept index {concept_index} is outside [0, {len(self)})")
        return self.concept_names[self.concept_offsets[concept_index] : self.concept_offsets[concept_index + 1]]

    def ids_of_name(self, name_index: int) -> tuple[str, ...]:
        """Return the primary ids of a name's concepts, in the order of [`concepts_of_name`].

        Raises:
            IndexError: If `name_index` is not in `[0, num_names)`.
        """
        return tuple(self.concepts[index].id for index in self.concepts_of_name(name_index))

    def find(self, text: str) -> int | None:
        """Return the name index of a string after normalisation, or `None` if no concept has that name."""
        return self._name_index.get(normalize(text, self.normalization))

    def resolve(self, concept_id: str) -> tuple[int, ...]:
        """Return the concept indices an id stands for.

        A primary id wins over the same string as an alternate id; an alternate id of several concepts gives all of
        them, ascending. Blanks around the id and a leading `MESH:` or `OMIM:` are ignored, here and in the
        knowledge base: corpora write `OMIM:613097` where MEDIC has `613097`.

        Returns:
            Concept indices; `()` if the id is unknown.
        """
        key = _id_key(concept_id)
        index = self._primary_ids.get(key)
        return (index,) if index is not None else tuple(self._alternate_ids.get(key, ()))

    def is_primary(self, concept_id: str) -> bool:
        """Say whether an id is a concept's own, written as [`resolve`] allows; not so alternate and unknown ids."""
        return _id_key(concept_id) in self._primary_ids

    def extended(self, concepts: Iterable[Concept]) -> "KnowledgeBase":
        """Return a new knowledge base that also holds `concepts`.

        A concept whose id is known, as a primary id, adds what it has to that concept (names, alternate ids and types
        that are new; its definition where there was none); others follow at the end.

        Raises:
            ValueError: If a concept has an empty id or no names.
        """
        merged = list(self.concepts)
        place = dict(self._primary_ids)
        for new in concepts:
            at = place.setdefault(_id_key(new.id), len(merged))
            if at == len(merged):
                merged.append(new)
                continue
            _check_names(new, self.source)
            old = merged[at]
            merged[at] = Concept(
                old.id,
                tuple(dict.fromkeys((*old.names, *new.names))),
                tuple(dict.fromkeys((*old.alternate_ids, *new.alternate_ids))),
                tuple(dict.fromkeys((*old.types, *new.types))),
                old.definition or new.definition,
            )
        return KnowledgeBase(
            merged, normalization=self.normalization, homonyms=self.homonym_policy, source=self.source
        )

    def with_homonyms(self, policy: str) -> "KnowledgeBase":
        """Return a knowledge base of the same concepts under another policy for homonyms; see the class."""
        return KnowledgeBase(self.concepts, normalization=self.normalization, homonyms=policy, source=self.source)

    def homonyms(self) -> dict[str, tuple[str, ...]]:
        """Return the names that several concepts bear, with the ids of these."""
        several = np.flatnonzero(np.diff(self.name_offsets) > 1)
        return {self.names[index]: self.ids_of_name(index) for index in several.tolist()}

    def coverage(self, mentions: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Say what share of a corpus this knowledge base covers; see [`angel_trl.coverage.coverage`]."""
        from .coverage import coverage

        return coverage(self, mentions)

    def statistics(self) -> dict[str, int]:
        """Return the counts that tell what became of the source.

        Returns:
            A dictionary with `concepts`; `names` (distinct normalised names); `names_read` (names of all concepts
            as given); `duplicates_merged` (names equal, once normalised, to an earlier one of the same concept);
            `homonyms` (distinct names of two or more concepts, after the policy); `homonyms_disambiguated` and
            `homonyms_dropped` (names of a concept that the policy changed or left out); `names_lost` (names that
            normalise to `""`); `concepts_without_name` (concepts all of whose names are lost); `alternate_ids`
            (distinct); `alternate_ids_shadowed` (of those, the ones that are also a primary id, which wins).
        """
        return {
            "concepts": len(self),
            "names": self.num_names,
            **self._name_counts,
            "homonyms": int(np.count_nonzero(np.diff(self.name_offsets) > 1)),
            "alternate_ids": len(self._alternate_ids),
            "alternate_ids_shadowed": sum(key in self._primary_ids for key in self._alternate_ids),
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the concepts in order and the rules for names; independent of `source`."""
        rules = [_FORMAT_VERSION, self.normalization]
        if self.homonym_policy != "keep":
            rules.append(self.homonym_policy)
        digest = hashlib.sha256(json.dumps(rules).encode())
        for concept in self.concepts:
            row = [concept.id, concept.names, concept.alternate_ids, concept.types, concept.definition]
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def to_parquet(self, path: str | Path) -> None:
        """Write the knowledge base to one parquet file, one concept a row.

        The columns are [`Concept`]'s fields; the rules, the source, the format version and the fingerprint stand in
        the schema's metadata. The file appears under its name only once it is complete.
        """
        from .kb_parquet import write

        write(self, Path(path))

    @classmethod
    def from_parquet(cls, path: str | Path) -> "KnowledgeBase":
        """Read what [`to_parquet`] wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not parquet, was not written by [`to_parquet`], has another format version,
                or its content does not fit its fingerprint.
        """
        from .kb_parquet import read

        return read(Path(path))

    def save_pretrained(self, folder: str | Path, **card: str | None) -> None:
        """Write `kb.parquet` and a card into a folder; see [`angel_trl.kb_hub.save`]."""
        from .kb_hub import save

        save(self, folder, **card)

    @classmethod
    def from_pretrained(cls, id_or_path: str | Path, *, revision: str | None = None) -> "KnowledgeBase":
        """Load a folder or Hub dataset that holds what [`save_pretrained`] wrote; see [`angel_trl.kb_hub.load`]."""
        from .kb_hub import load

        return load(id_or_path, revision)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        tag: str | None = None,
        token: str | None = None,
        **card: str | None,
    ) -> "Published":
        """Publish as a Hub dataset, which `load_dataset` reads too; see [`angel_trl.kb_hub.push`]."""
        from .kb_hub import push

        return push(self, repo_id, private=private, revision=revision, tag=tag, token=token, **card)

    @classmethod
    def from_file(cls, source: str | Path, *, normalization: str | None = None) -> "KnowledgeBase":
        """Read a knowledge base in any known format, recognised by its content.

        Args:
            source: A file of one of the formats of [`angel_trl.readers.read_knowledge_base`], the folder of a UMLS
                release, a URL (`https://...`), or a dataset on the Hub (`user/name`, `user/name@revision`,
                `hf://datasets/user/name/file`).
            normalization: The rule for names; `None` means the rule a parquet file was saved with, and
                `"genbioel"` for every other format.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be fetched; see [`angel_trl.readers.sources.local_path`].
            ValueError: If no known format fits, or the file breaks the rules of its format.
        """
        from .readers import read_knowledge_base

        return read_knowledge_base(source, normalization)


def _check_names(concept: Concept, source: str) -> None:
    names = concept.names
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"concept {concept.id!r}{_from(source)}: names must be a non-empty sequence of strings, got {names!r:.80}"
        )


def _id_key(concept_id: str) -> str:
    key = concept_id.strip()
    for prefix in _ID_PREFIXES:
        if key[: len(prefix)].upper() == prefix:
            return key[len(prefix) :]
    return key


def _from(source: str) -> str:
    return f" of {source}" if source else ""
