"""The names that baselines answer with, and whose they are: those of the knowledge base, and training mentions."""

import numpy as np
from numpy.typing import NDArray
from predictions import Answers
from reporting import Rows

from angel_trl import KnowledgeBase
from angel_trl.mention_names import meanings
from angel_trl.normalization import normalize


class NameIndex:
    """The names that an answer can be, and whose they are.

    Args:
        kb: the knowledge base.
        mentions: labelled mentions whose strings are further names of their gold concepts.

    Attributes:
        names: normalised, those of the knowledge base first.
    """

    def __init__(self, kb: KnowledgeBase, mentions: Rows = ()) -> None:
        self._kb = kb
        self._meant = meanings(kb, mentions)
        self.names = [*kb.names, *(name for name in self._meant if kb.find(name) is None)]

    def ids(self, name: int) -> list[str]:
        """Ids of the concepts that bear a name, in the order of the knowledge base."""
        own = set(self._kb.concepts_of_name(name).tolist()) if name < self._kb.num_names else set()
        return self._primary(own.union(*self._meant.get(self.names[name], ())))

    def answers(self, found: NDArray[np.int64], scores: NDArray[np.float32]) -> Answers:
        """Answers from name indices `[mentions, k]`, best first, -1 for none, and their scores."""
        rows = [
            (names[names >= 0].tolist(), own[names >= 0].tolist()) for names, own in zip(found, scores, strict=True)
        ]
        return Answers(
            [[self.ids(name) for name in names] for names, _ in rows],
            [[self.names[name] for name in names] for names, _ in rows],
            [own for _, own in rows],
        )

    def commonest(self, answers: Answers) -> Answers:
        """The same names; one that training mentions bear only with the concepts that they mean most often by it.

        Of what is meant equally often, what the first mention means. Other names keep all their concepts.
        """
        return Answers(
            [
                [self._commonest(name, own) for name, own in zip(names, ids, strict=True)]
                for names, ids in zip(answers.names, answers.ids, strict=True)
            ],
            answers.names,
            answers.scores,
        )

    def _commonest(self, name: str, ids: list[str]) -> list[str]:
        meant = self._meant.get(normalize(name, self._kb.normalization))
        return self._primary(meant.most_common(1)[0][0]) if meant else ids

    def _primary(self, concepts: set[int] | frozenset[int]) -> list[str]:
        return [self._kb.concepts[c].id for c in sorted(concepts)]
