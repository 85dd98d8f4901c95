"""A knowledge base as one parquet file that says what it is and whether it was changed."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .kb import Concept, KnowledgeBase
from .parquet import read_rows

_FORMAT_VERSION = 1
_METADATA_KEY = b"angel_trl.knowledge_base"
_STRINGS = pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("names", _STRINGS),
        ("alternate_ids", _STRINGS),
        ("types", _STRINGS),
        ("definition", pa.string()),
    ]
)


def write(kb: KnowledgeBase, path: Path) -> None:
    """Write `kb`; see `KnowledgeBase.to_parquet`."""
    metadata = {
        "format_version": _FORMAT_VERSION,
        "normalization": kb.normalization,
        "homonyms": kb.homonym_policy,
        "source": kb.source,
        "fingerprint": kb.fingerprint,
    }
    schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
    columns = [[getattr(concept, name) for concept in kb.concepts] for name in schema.names]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def read(path: Path) -> KnowledgeBase:
    """Read what `write` wrote; see `KnowledgeBase.from_parquet`."""
    if not path.is_file():
        raise FileNotFoundError(f"no knowledge base file at {path}")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); fetch or write it again") from error
    raw = (schema.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        raise ValueError(
            f"{path}: a parquet file, but not a knowledge base (columns {schema.names}); "
            "write it with KnowledgeBase.to_parquet"
        )
    try:
        metadata = json.loads(raw)
        version, stored = metadata["format_version"], metadata["fingerprint"]
        rules = {"normalization": metadata["normalization"], "homonyms": metadata.get("homonyms", "keep")}
        source = metadata["source"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its metadata was damaged ({error!r}); fetch or write it again") from error
    if version != _FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {version}, but this version of angel_trl reads "
            f"{_FORMAT_VERSION}; upgrade angel_trl or write the file again"
        )
    if not schema.equals(_SCHEMA):
        raise _changed(path, schema)
    concepts = []
    for _, row in read_rows(path, _SCHEMA.names):
        if None in row.values():
            raise _changed(path, schema)
        names, alternate_ids, types = (tuple(row[name]) for name in ("names", "alternate_ids", "types"))
        concepts.append(Concept(row["id"], names, alternate_ids, types, row["definition"]))
    kb = KnowledgeBase(concepts, **rules, source=source)
    if kb.fingerprint != stored:
        raise ValueError(
            f"{path}: content has fingerprint {kb.fingerprint[:12]}…, but the file says "
            f"{stored[:12]}…: it was changed after writing; write it again"
        )
    return kb


def _changed(path: Path, schema: pa.Schema) -> ValueError:
    return ValueError(
        f"{path}: the columns {schema.to_string(show_schema_metadata=False)!r} are not those of a "
        "knowledge base, or hold nulls: the file was changed after writing; write it again"
    )
