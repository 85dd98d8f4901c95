"""From a model's candidates to preference pairs: pure functions on arrays.

The rule is the paper's (section 3.3): gold first gives one pair against the best wrong name; gold further down gives
one pair against every wrong name above it; gold absent gives the nearest gold name of the knowledge base against the
wrong names that were preferred. A name is wrong when none of its concepts is a gold one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

ABSENT_RULES = ("nearest", "skip")


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """Preference pairs, one a row, ordered by mention and then by the rank of the rejected name.

    Args:
        mention: int32 `[pairs]`, row of the mention in the candidates.
        chosen: int32 `[pairs]`, name index of the right name.
        rejected: int32 `[pairs]`, name index of the wrong name.
        chosen_rank: int32 `[pairs]`, place of the chosen name among the candidates, -1 if it was not among them.
        rejected_rank: int32 `[pairs]`, place of the rejected name among the candidates.
    """

    mention: NDArray[np.int32]
    chosen: NDArray[np.int32]
    rejected: NDArray[np.int32]
    chosen_rank: NDArray[np.int32]
    rejected_rank: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.mention)


def make_pairs(
    names: NDArray[np.int64],
    is_gold: NDArray[np.bool_],
    nearest_gold: NDArray[np.int64],
    *,
    top_k: int = 5,
    max_pairs: int = 4,
    absent: str = "nearest",
) -> Pairs:
    """Build the pairs of a round.

    Args:
        names: `[mentions, k]` name indices, best first, -1 where there are fewer than k.
        is_gold: bool `[mentions, k]`, whether one of the name's concepts is gold; ignored where the name is -1.
        nearest_gold: `[mentions]` the gold name nearest to the mention, -1 if the mention has none.
        top_k: candidates looked at (5 in the paper).
        max_pairs: most pairs of one mention; the wrong names ranked best are kept.
        absent: what to do when gold is not among the candidates: "nearest" chooses the nearest gold name, "skip"
            makes no pair.

    Raises:
        ValueError: for an unknown `absent` rule, or `top_k` or `max_pairs` below one.
    """
    if absent not in ABSENT_RULES:
        raise ValueError(f"absent is {absent!r}; choose one of {', '.join(ABSENT_RULES)}.")
    if top_k < 1 or max_pairs < 1:
        raise ValueError(f"top_k ({top_k}) and max_pairs ({max_pairs}) must be at least 1.")
    names, is_gold = names[:, :top_k], is_gold[:, :top_k]
    present = names >= 0
    gold, wrong = is_gold & present, ~is_gold & present
    found = gold.any(axis=1)
    first_gold = np.where(found, gold.argmax(axis=1), names.shape[1])
    # Above the first gold name; all of the top k where there is none.
    above = np.arange(names.shape[1])[None, :] < first_gold[:, None]
    first_wrong = wrong & (np.cumsum(wrong, axis=1) == 1)
    take = np.where((first_gold == 0)[:, None], first_wrong, wrong & above)
    chosen_rank = np.where(found, first_gold, -1)
    at = np.minimum(first_gold, names.shape[1] - 1)
    chosen = np.where(found, names[np.arange(len(names)), at], nearest_gold)
    take &= (found | ((absent == "nearest") & (nearest_gold >= 0)))[:, None]
    take &= np.cumsum(take, axis=1) <= max_pairs
    mention, rank = np.nonzero(take)
    return Pairs(
        mention=mention.astype(np.int32),
        chosen=chosen[mention].astype(np.int32),
        rejected=names[mention, rank].astype(np.int32),
        chosen_rank=chosen_rank[mention].astype(np.int32),
        rejected_rank=rank.astype(np.int32),
    )
