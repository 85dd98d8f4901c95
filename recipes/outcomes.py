"""What a run's answers come to, mention by mention: at which rank the right concept stands. No text, no names, no ids.

`NAME.parquet` beside the `NAME.json` of an experiment keeps this of all its runs, so that all scores, intervals and
differences can be made again without them, and an experiment can go on where folders of earlier runs are not at hand.
It has a row for each test mention, in their order:

- `document`, int32: equal for the mentions of one document;
- a bool for each slice of `angel_trl.breakdown`;
- for each system of a run and seed a struct `RUN/SYSTEM/SEED`: `rank` and `rank_strict`, int8, the zero-based rank of
  the first right candidate of the five that are kept under either protocol of `angel_trl.metrics`, -1 for none;
  `kind`, int8, the place in `angel_trl.confusions.KINDS` of the mistake that the first candidate is, -1 where it is
  right (any-id); `ambiguous`, bool, whether it is a name of several concepts.

The schema's metadata has `mentions`, a SHA-256 of the mentions' ids and gold labels, and `calibration`, by system what
`calibration` returns, as JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from predictions import AnsweredMentions, Answers
from whole_file import whole_file

from angel_trl.breakdown import SLICES
from angel_trl.confidence import expected_calibration_error, fit_temperature, merged_confidence, risk_coverage
from angel_trl.confusions import KINDS, kind_of_confusion
from angel_trl.metrics import gold_ranks

Place = tuple[str, str, int]
"""Run, system among its results, seed."""
_OUTCOME = {"rank": pa.int8(), "rank_strict": pa.int8(), "kind": pa.int8(), "ambiguous": pa.bool_()}


@dataclass(frozen=True)
class TestedMentions:
    """What is known of the test mentions without their text.

    Args:
        documents: int32 `[mentions]`, the number of each mention's document.
        slices: name of a slice to bool `[mentions]`.
        digest: SHA-256 of the mentions' ids and gold labels.
    """

    # No test, whatever its name says to pytest.
    __test__ = False

    documents: NDArray[np.int32]
    slices: dict[str, NDArray[np.bool_]]
    digest: str

    def __len__(self) -> int:
        return len(self.documents)

    @classmethod
    def of(cls, gold: AnsweredMentions) -> "TestedMentions":
        """What is left of mentions without their text."""
        numbers: dict[str, int] = {}
        documents = np.array([numbers.setdefault(one, len(numbers)) for one in gold.documents], dtype=np.int32)
        digest = hashlib.sha256(json.dumps([gold.ids, gold.gold]).encode()).hexdigest()
        return cls(documents, dict(gold.slices), digest)


@dataclass(frozen=True)
class Outcome:
    """What the answers of one system with one seed come to; arrays are `[mentions]`, see the module.

    Args:
        rank: int8, any-id.
        rank_strict: int8.
        kind: int8.
        ambiguous: bool.
        calibration: see `calibration`.
    """

    rank: NDArray[np.int8]
    rank_strict: NDArray[np.int8]
    kind: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]
    calibration: dict[str, float] | None

    @classmethod
    def of(cls, gold: AnsweredMentions, answers: Answers) -> "Outcome":
        """What answers come to."""
        rank = gold_ranks(answers.ids, gold.gold).astype(np.int8)
        kind = np.full(len(rank), -1, dtype=np.int8)
        for row in np.flatnonzero(rank != 0).tolist():
            kind[row] = KINDS.index(kind_of_mistake(gold, answers, row))
        return cls(
            rank,
            gold_ranks(answers.ids, gold.gold, strict=True).astype(np.int8),
            kind,
            np.array([len(ids) > 0 and len(ids[0]) > 1 for ids in answers.ids], dtype=bool),
            calibration(gold, answers),
        )


def kind_of_mistake(gold: AnsweredMentions, answers: Answers, row: int) -> str:
    """The kind (`angel_trl.confusions`) of a wrong first candidate."""
    answer = answers.names[row][0] if answers.names[row] else None
    return kind_of_confusion(gold.mentions[row], gold.gold_names[row], answer)


def calibration(gold: AnsweredMentions, answers: Answers) -> dict[str, float] | None:
    """How well the probabilities of answers fit how often they are right.

    Returns:
        `ece` and `ece_equal_mass`, of the plain probability of the first name's concept among the candidates; `aurc`
        of it; and `ece_fitted`, with temperature and score of "none of these" fitted on the other half of the
        documents (`angel_trl.confidence`): what is left when the level is put right. None for what has no
        log-probabilities, is all right or all wrong, or is of one document.
    """
    log_probs, same = _arrays(answers)
    right = gold_ranks(answers.ids, gold.gold) == 0
    place = {document: number for number, document in enumerate(dict.fromkeys(gold.documents))}
    if not _are_log_probabilities(log_probs) or right.all() or not right.any() or len(place) < 2:
        return None
    plain = merged_confidence(log_probs, same)
    fitted = np.empty(len(right))
    odd = np.array([place[document] % 2 == 1 for document in gold.documents])
    for half in (odd, ~odd):
        temperature, none_score = fit_temperature(log_probs[~half], same[~half], right[~half])
        fitted[half] = merged_confidence(log_probs[half], same[half], temperature, none_score)
    return {
        "ece": float(expected_calibration_error(plain, right)),
        "ece_equal_mass": float(expected_calibration_error(plain, right, equal_mass=True)),
        "ece_fitted": float(expected_calibration_error(fitted, right)),
        "aurc": float(risk_coverage(plain, right).aurc),
    }


def _are_log_probabilities(scores: NDArray[np.float64]) -> bool:
    """Whether scores are none of a similarity (positive) or of string lookup (all 0)."""
    there = scores[np.isfinite(scores)]
    # A sum of float32 log-probabilities may be a little above 0.
    return bool((there < 1e-3).all() and (there < -1e-3).any())


def _arrays(answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores float64 and whether a candidate shares a concept with the first, both `[mentions, candidates]`."""
    width = max(1, *(len(own) for own in answers.scores))
    log_probs = np.full((len(answers.scores), width), -np.inf)
    same = np.zeros(log_probs.shape, dtype=bool)
    for row, (scores, ids) in enumerate(zip(answers.scores, answers.ids, strict=True)):
        log_probs[row, : len(scores)] = scores
        same[row, : len(ids)] = [not set(ids[0]).isdisjoint(own) for own in ids]
    return log_probs, same


def write_outcomes(path: Path, tested: TestedMentions, outcomes: Mapping[Place, Outcome]) -> None:
    """Write the file that the module describes."""
    columns: dict[str, pa.Array] = {"document": pa.array(tested.documents, pa.int32())}
    columns |= {name: pa.array(members, pa.bool_()) for name, members in tested.slices.items()}
    told: dict[str, dict[str, float] | None] = {}
    for place, one in sorted(outcomes.items()):
        key = "/".join(map(str, place))
        arrays = [pa.array(getattr(one, field), kind) for field, kind in _OUTCOME.items()]
        columns[key] = pa.StructArray.from_arrays(arrays, names=list(_OUTCOME))
        told[key] = one.calibration
    table = pa.table(columns).replace_schema_metadata({"mentions": tested.digest, "calibration": json.dumps(told)})
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_outcomes(path: Path) -> tuple[TestedMentions, dict[Place, Outcome]]:
    """Read such a file.

    Raises:
        ValueError: if it is another parquet file.
    """
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if b"mentions" not in metadata or not {"document", *SLICES} <= set(table.column_names):
        raise ValueError(f"{path}: no outcomes of an experiment (columns {table.column_names[:5]}); move it away.")
    told = json.loads(metadata[b"calibration"])
    outcomes = {}
    for key in told:
        run, rest = key.split("/", 1)
        system, seed = rest.rsplit("/", 1)
        own = table[key].combine_chunks()
        arrays = [own.field(name).to_numpy(zero_copy_only=False) for name in _OUTCOME]
        outcomes[run, system, int(seed)] = Outcome(*arrays, calibration=told[key])
    tested = TestedMentions(
        table["document"].to_numpy(), {name: table[name].to_numpy() for name in SLICES}, metadata[b"mentions"].decode()
    )
    return tested, outcomes
