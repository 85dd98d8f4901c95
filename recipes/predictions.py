"""What systems answered to the test mentions, kept in the folder of a run, from which all scores can be made again.

`predictions.parquet` has a row for each system and mention:

- `system`, `mention_id`;
- `ids`: `list<list<string>>`, for each candidate, best first, the ids of all concepts that bear its name;
- `names`: `list<string>`, the names of these candidates, normalised;
- `scores`: `list<float32>`, of these candidates: natural logarithms of the names' probabilities for linkers, whatever
  a baseline orders its names by (0 for string lookup).

`mentions.parquet` has a row for each test mention: `mention_id`, `document_id`, `mention`, `context` (the mention in
brackets among some of its text), `gold` (the parts of the label, all of which are meant, each a list of alternatives,
as primary ids where the knowledge base knows them), `gold_names` (all names of these concepts) and `slices` (those of
`angel_trl.breakdown` that it belongs to). Both hold text of the corpus and names of the knowledge base, whose licences
hold for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from whole_file import whole_file

from angel_trl import KnowledgeBase
from angel_trl.breakdown import SLICES, slice_mentions

if TYPE_CHECKING:
    # What experiments collect from takes no model.
    from datasets import Dataset

    from angel_trl.evaluation import Evaluation

PREDICTIONS, MENTIONS = "predictions.parquet", "mentions.parquet"
KEPT = 5
"""Candidates of a mention that are kept."""
_CONTEXT = 60
"""Characters of text on either side of a mention."""
_STRINGS = pa.list_(pa.string())
_PREDICTIONS_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("mention_id", pa.string()),
        ("ids", pa.list_(_STRINGS)),
        ("names", _STRINGS),
        ("scores", pa.list_(pa.float32())),
    ]
)
_MENTIONS_SCHEMA = pa.schema(
    [
        ("mention_id", pa.string()),
        ("document_id", pa.string()),
        ("mention", pa.string()),
        ("context", pa.string()),
        ("gold", pa.list_(_STRINGS)),
        ("gold_names", _STRINGS),
        ("slices", _STRINGS),
    ]
)


@dataclass(frozen=True)
class Answers:
    """Ranked candidates of one system; fields are parallel, a list a mention.

    Args:
        ids: concept ids of each candidate.
        names: name of each candidate.
        scores: score of each candidate, descending.
    """

    ids: list[list[list[str]]]
    names: list[list[str]]
    scores: list[list[float]]

    @classmethod
    def of_linker(cls, result: "Evaluation", kb: KnowledgeBase) -> "Answers":
        """What a linker of `kb` answered."""
        found = result.candidates
        rows = [
            (names[names >= 0], scores[names >= 0]) for names, scores in zip(found.names, found.log_probs, strict=True)
        ]
        return cls(
            result.predictions, [[kb.names[i] for i in names] for names, _ in rows], [s.tolist() for _, s in rows]
        )

    @classmethod
    def of_lookup(cls, predictions: list[list[list[str]]], mentions: Sequence[str]) -> "Answers":
        """What string lookup answered, whose names are the mentions themselves."""
        names = [[mention] * len(ranked) for ranked, mention in zip(predictions, mentions, strict=True)]
        return cls(predictions, names, [[0.0] * len(ranked) for ranked in predictions])


@dataclass(frozen=True)
class AnsweredMentions:
    """The mentions that were answered; fields are parallel, one a mention, and as in `mentions.parquet`.

    Args:
        slices: name of a slice to bool `[mentions]`.
    """

    ids: list[str]
    documents: list[str]
    mentions: list[str]
    contexts: list[str]
    gold: list[list[list[str]]]
    gold_names: list[list[str]]
    slices: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


def keep(
    folder: Path,
    answers: Mapping[str, Answers],
    test: "Dataset",
    train: "Dataset",
    kb: KnowledgeBase,
    references: Sequence[Sequence[Sequence[str]]],
) -> None:
    """Write both files.

    Args:
        folder: of the run.
        answers: of each system to the mentions of `test`.
        test: what was answered, a mention dataset.
        train: the mentions trained on, which slices are told by.
        kb: the knowledge base.
        references: gold of the mentions of `test`, as `MentionSet.references` has it.
    """
    write_predictions(folder, answers, test["id"])
    slices = slice_mentions(test, train, kb)
    rows = []
    for place, (row, gold) in enumerate(zip(test, references, strict=True)):
        concepts = {c for part in gold for concept_id in part for c in kb.resolve(concept_id)}
        rows.append(
            {
                "mention_id": row["id"],
                "document_id": row["document_id"],
                "mention": row["mention"],
                "context": _context(row),
                "gold": gold,
                "gold_names": [kb.names[i] for c in sorted(concepts) for i in kb.names_of_concept(c)],
                "slices": [name for name in SLICES if slices[name][place]],
            }
        )
    _write(rows, _MENTIONS_SCHEMA, folder / MENTIONS)


def write_predictions(folder: Path, answers: Mapping[str, Answers], mention_ids: Sequence[str]) -> None:
    """Write `predictions.parquet` alone: the answers of each system to the mentions of these ids, in order."""
    rows = [
        {"system": system, "mention_id": one, "ids": ids[:KEPT], "names": names[:KEPT], "scores": scores[:KEPT]}
        for system, own in answers.items()
        for one, ids, names, scores in zip(mention_ids, own.ids, own.names, own.scores, strict=True)
    ]
    _write(rows, _PREDICTIONS_SCHEMA, folder / PREDICTIONS)


def read_mentions(path: Path) -> AnsweredMentions:
    """Read a `mentions.parquet`."""
    columns = pq.read_table(path).to_pydict()
    return AnsweredMentions(
        ids=columns["mention_id"],
        documents=columns["document_id"],
        mentions=columns["mention"],
        contexts=columns["context"],
        gold=columns["gold"],
        gold_names=columns["gold_names"],
        slices={name: np.array([name in own for own in columns["slices"]], dtype=bool) for name in SLICES},
    )


def read_predictions(path: Path, mention_ids: Sequence[str]) -> dict[str, Answers]:
    """Read a `predictions.parquet`: the answers of each system to these mentions, in their order.

    Raises:
        ValueError: if it is of other mentions.
    """
    systems: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(path).to_pylist():
        systems.setdefault(row["system"], {})[row["mention_id"]] = row
    for system, rows in systems.items():
        if rows.keys() != set(mention_ids):
            different = sorted(rows.keys() ^ set(mention_ids))
            raise ValueError(
                f"{path}: {system!r} answered {len(rows)} mentions, not the {len(mention_ids)} of the other runs (one "
                f"that only one of them has is {different[0]!r}). Compare runs on one test split."
            )
    return {
        system: Answers(*([rows[one][field] for one in mention_ids] for field in ("ids", "names", "scores")))
        for system, rows in systems.items()
    }


def _context(row: Mapping[str, Any]) -> str:
    before, after = row["text"][: row["start"]], row["text"][row["end"] :]
    before = before if len(before) <= _CONTEXT else "..." + before[-_CONTEXT:]
    after = after if len(after) <= _CONTEXT else after[:_CONTEXT] + "..."
    return " ".join(f"{before}[{row['mention']}]{after}".split())


def _write(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
