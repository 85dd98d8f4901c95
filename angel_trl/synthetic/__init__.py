"""A synthetic knowledge base and entity-linking corpus, written for this project and generated from a seed.

It is the data of the quickstart: small enough for a tiny model on a CPU, hard where entity linking is hard
(siblings that differ in a number, a site or a qualifier; names and abbreviations shared by several concepts, which
only the passage decides). No name list, id or sentence is taken from a terminology or a corpus.
**Not for medical use.**
"""

from angel_trl.synthetic.concepts import FAMILIES, Entry, synthetic_entries
from angel_trl.synthetic.corpus import synthetic_corpus, synthetic_knowledge_base

__all__ = ["FAMILIES", "Entry", "synthetic_corpus", "synthetic_entries", "synthetic_knowledge_base"]
