"""Readers: one file a format, from a user's own files to concepts or mentions, with an account of what was read.

Every reader returns a [`ReadReport`] beside its result: bad input is repaired or skipped and counted by reason, never
dropped silently. To add a knowledge base format, write a file with a `looks_like` and a `read` function and list them
in `knowledge_base.py`; corpus formats are listed in `corpus_parts.py`.
"""

from .bigbio import read_bigbio
from .brat import read_brat
from .corpus import read_corpus
from .ctd import read_ctd
from .json_kb import read_jsonl, read_target_kb
from .knowledge_base import read_concepts, read_knowledge_base
from .medic import read_medic, read_tab
from .medmentions import read_medmentions
from .mention_jsonl import read_mention_jsonl
from .mention_parquet import read_mention_parquet
from .mention_table import read_askapatient, read_cometa
from .mesh import read_mesh
from .obo import read_obo
from .pubtator import read_pubtator
from .report import ReadReport
from .source_target import read_source_target
from .table import read_table
from .umls import read_umls

__all__ = [
    "ReadReport",
    "read_askapatient",
    "read_bigbio",
    "read_brat",
    "read_cometa",
    "read_concepts",
    "read_corpus",
    "read_ctd",
    "read_jsonl",
    "read_knowledge_base",
    "read_medic",
    "read_medmentions",
    "read_mention_jsonl",
    "read_mention_parquet",
    "read_mesh",
    "read_obo",
    "read_pubtator",
    "read_source_target",
    "read_tab",
    "read_table",
    "read_target_kb",
    "read_umls",
]
