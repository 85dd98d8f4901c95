"""Readers: one file a format, from a user's own files to concepts or mentions, with an account of what was read.

Every reader returns a [`ReadReport`] beside its result: bad input is repaired or skipped and counted by reason, never
dropped silently. To add a knowledge base format, write a file with a `looks_like` and a `read` function and list them
in `knowledge_base.py`.
"""

from .corpus import read_corpus
from .json_kb import read_jsonl, read_target_kb
from .knowledge_base import read_concepts, read_knowledge_base
from .medic import read_medic, read_tab
from .pubtator import read_pubtator
from .report import ReadReport

__all__ = [
    "ReadReport",
    "read_concepts",
    "read_corpus",
    "read_jsonl",
    "read_knowledge_base",
    "read_medic",
    "read_pubtator",
    "read_tab",
    "read_target_kb",
]
