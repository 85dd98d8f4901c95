"""The answers to a piece as a parquet file that says of itself where it is from, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from angel_trl.linked import Linked

from .records import Mention

__all__ = ["SCHEMA", "answers_table", "parquet_bytes", "read_stamp", "write_whole"]

_IDS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "record": pa.int64(),
        "id": pa.string(),
        "document_id": pa.string(),
        "start": pa.int64(),
        "end": pa.int64(),
        "mention": pa.string(),
        "concept_ids": _IDS,
        "name": pa.string(),
        "score": pa.float32(),
        "confidence": pa.float32(),
        "abstained": pa.bool_(),
        "exact": pa.bool_(),
        "candidates": pa.list_(
            pa.struct(
                {
                    "concept_ids": _IDS,
                    "name": pa.string(),
                    "matched_name": pa.string(),
                    "score": pa.float32(),
                    "mean_score": pa.float32(),
                }
            )
        ),
    }
)
"""The columns of a shard, one row a mention.

- `file`, `record`: where the mention stands in the input: name of the file, and number of its line or row, from 1.
- `id`, `document_id`: as given, or made of document and offsets, and of file and record.
- `start`, `end`, `mention`: the mention that was linked, in characters of its text; differ from the input where an
  offset was repaired.
- `concept_ids`: all concepts that bear the best name; empty without an answer: for a mention longer than the model's
  window, or one that the linker abstained from.
- `name`: preferred name of the first of them; null without an answer.
- `score`: natural logarithm of the probability of the best name; null without an answer.
- `confidence`: probability that the best name is right; null of a linker that is not calibrated.
- `abstained`: whether the linker gave no answer because its confidence was below the threshold.
- `exact`: whether the candidates are provably the likeliest names.
- `candidates`: best first; `matched_name` is the name of the knowledge base that the model produced, `mean_score` the
  score divided by the number of its tokens.
"""

_STAMP = b"angel_trl.linking"


def answers_table(file: str, mentions: Iterable[Mention], answers: Iterable[Linked]) -> pa.Table:
    """Return mentions of a file and the answers to them, in order, as a table of [`SCHEMA`]."""
    rows = []
    for mention, linked in zip(mentions, answers, strict=True):
        candidates = [
            {
                "concept_ids": candidate.ids,
                "name": candidate.name,
                "matched_name": candidate.matched_name,
                "score": candidate.score,
                "mean_score": candidate.mean_score,
            }
            for candidate in linked.candidates
        ]
        rows.append(
            {
                "file": file,
                "record": mention["record"],
                "id": mention["id"],
                "document_id": mention["document_id"],
                "start": mention["start"],
                "end": mention["end"],
                "mention": mention["text"][mention["start"] : mention["end"]],
                "concept_ids": () if linked.answer is None else linked.answer.ids,
                "name": linked.name,
                "score": linked.score,
                "confidence": linked.confidence,
                "abstained": linked.abstained,
                "exact": linked.exact,
                "candidates": candidates,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def parquet_bytes(table: pa.Table, stamp: dict[str, Any]) -> bytes:
    """Return a parquet file of a table, with a JSON-ready stamp that [`read_stamp`] reads; same input, same bytes."""
    text = json.dumps(stamp, ensure_ascii=False, sort_keys=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_STAMP: text.encode()}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_stamp(path: Path) -> dict[str, Any] | None:
    """Return the stamp of a shard; `None` if there is no such file, or it is none or not whole."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        stamp = json.loads(metadata[_STAMP])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
