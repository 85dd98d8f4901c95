"""What the tests of `recipes/prepare.py` prepare."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

KB = """{"id": "D1", "names": ["Ataxia", "ATAXIA", "Unsteady gait"], "alternate_ids": ["A1"]}
{"id": "D2", "names": ["Gout"]}
{"id": "D3", "names": ["Fever", "Gout", "-"]}
"""
DOCUMENT = """{id}|t|Ataxia and gout with fever.
{id}|a|Tic.
{id}\t0\t6\tAtaxia\tDisease\tA1
{id}\t11\t15\tgout\tDisease\t{gout}
{id}\t21\t26\tfever\tDisease\t{fever}
{id}\t28\t31\tTic\tDisease\t-1
{id}\t90\t93\tTic\tDisease\tD1

"""
FLAGGED = """{"text": "Gout again.", "start": 0, "end": 4, "concept_ids": [["D2"]]}
{"text": "A fever.", "start": 2, "end": 7, "concept_ids": ["D3"]}
"""


def write_data(folder):
    """A corpus, its knowledge base and a file of corrected links, in a folder, which is returned."""
    (folder / "corpus").mkdir(parents=True)
    for number, split in enumerate(("train", "develop", "test")):
        text = DOCUMENT.format(id=10 + number, gout="D2|X1", fever="D3") + DOCUMENT.format(
            id=20 + number, gout="D2+X2", fever="X3"
        )
        (folder / "corpus" / f"{split}.txt").write_text(text)
    (folder / "kb.jsonl").write_text(KB)
    (folder / "flagged.jsonl").write_text(FLAGGED)
    return folder


def both(data, *more):
    return ("--corpus", data / "corpus", "--kb", data / "kb.jsonl", "--output_dir", data.parent / "out", *more)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def client(*arguments, environment):
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
