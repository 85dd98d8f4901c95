"""Linking corpora of any size: read piece by piece, linked by any number of processes, written as shards.

A corpus is cut into pieces, whatever the number of processes; a piece is linked by one call of the linker after the
other, in batches that do not depend on anything else, and becomes a shard that appears whole or not at all. So a run
that was killed does only what is missing when it is started again, and ends with the same bytes.

`files.py` finds the files, `pieces.py` cuts them, `records.py` and `pubtator.py` make mentions of a piece, `shards.py`
and `pubtator.py` write answers, `run_folder.py` keeps what belongs to one run, `processes.py` lets processes act
together, and `linking.py` does the work.
"""

from .linking import LinkingSettings, Summary, link_corpus

__all__ = ["LinkingSettings", "Summary", "link_corpus"]
