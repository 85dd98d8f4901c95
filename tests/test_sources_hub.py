"""Sources on the Hub, a loopback one. Its clients freeze their settings on import, and so run in other processes."""

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import OTHER_TOKEN, HubServer

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.mentions import MENTION_FEATURES

MEDIC = b"D1|114480||Breast Cancer|BC\nD2||Ataxia\n"

CALLS = """
import json, sys
from angel_trl.readers import read_concepts, read_corpus, read_knowledge_base
from angel_trl.readers.sources import local_path

def corpus(source):
    splits, report = read_corpus(source)
    return {"mentions": {name: split["mention"][:] for name, split in splits.items()}, **report.to_dict()}

def kb(source):
    found = read_knowledge_base(source)
    return {"ids": [concept.id for concept in found.concepts], "source": found.source}

def path(source, **options):
    found = local_path(source, **options)
    return {"name": found.name, "files": sorted(p.name for p in found.rglob("*") if p.is_file())}

for name, *arguments in json.load(sys.stdin):
    try:
        answer = globals()[name](*arguments[:1], **dict(arguments[1:]))
    except (OSError, ValueError) as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer))
"""


def ask(environment, *calls):
    """What a process with this environment answers to calls: results as JSON, or errors as text."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        input=json.dumps(calls),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "hf_" not in done.stderr + done.stdout  # no token in a log
    return [json.loads(line) for line in done.stdout.splitlines()]


def parquet(rows, schema=None):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue().to_pybytes()


def mention(text, split, ids=("D1",)):
    row = {"id": f"{text}:0-{len(text)}", "document_id": text, "text": text, "start": 0, "end": len(text)}
    row |= {"mention": text, "types": ["Disease"], "concept_ids": [list(ids)], "split": split}
    return parquet([row], MENTION_FEATURES.arrow_schema)


def bigbio(text):
    entity = {"id": "e", "type": "Disease", "text": [text], "offsets": [[0, len(text)]]}
    entity["normalized"] = [{"db_name": "MESH", "db_id": "D1"}]
    return parquet([{"document_id": text, "passages": [{"text": [text]}], "entities": [entity]}])


NEVER_READ = {"README.md": b"---\nlicense: mit\n---\n# id\tname\n", ".gitattributes": b"*.parquet filter=lfs\n"}
TABLE = [{"id": "D1", "names": ["Ataxia"]}, {"id": "D2", "names": ["Gout", "Podagra"]}]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with corpora and knowledge bases of "tester", and a secret of "other"."""
    kb_file = tmp_path_factory.mktemp("kb") / "kb.parquet"
    KnowledgeBase([Concept("D1", ("Ataxia",))], source="by hand").to_parquet(kb_file)
    with HubServer() as hub:
        corpus = hub.create("dataset", "tester/corpus", {"data/train-00000-of-00001.parquet": mention("Old", "train")})
        corpus.tags["v1"] = hub.push("dataset", "tester/corpus", NEVER_READ)
        shards = {
            "data/train-00000-of-00002.parquet": mention("Ataxia", "train"),
            "data/train-00001-of-00002.parquet": mention("Gout", "train", [" D2"]),
            "data/validation-00000-of-00001.parquet": mention("FAP", "dev"),
            "data/test-00000-of-00001.parquet": mention("Fever", "test"),
            "data/train-00000-of-00001.parquet": None,
        }
        hub.push("dataset", "tester/corpus", shards)
        configs = {
            f"ncbi_bigbio_kb/{split}-00000-of-00001.parquet": bigbio(split)
            for split in ("train", "validation", "test")
        }
        configs["ncbi_source/train-00000-of-00001.parquet"] = parquet([{"passages": "x"}])
        converted = {f"ncbi_bigbio_kb/{split}/0000.parquet": bigbio(split) for split in ("train", "test")}
        converted |= dict.fromkeys(configs)  # deleted
        repo = hub.create("dataset", "tester/bigbio", configs | NEVER_READ)
        repo.branches["refs/convert/parquet"] = repo.branches["main"]
        hub.push("dataset", "tester/bigbio", converted, branch="refs/convert/parquet")
        hub.create("dataset", "tester/medic", {"kb.parquet": kb_file.read_bytes()} | NEVER_READ)
        hub.create("dataset", "tester/table", {"data/train-00000-of-00001.parquet": parquet(TABLE)} | NEVER_READ)
        hub.create("dataset", "tester/two", {"a.parquet": parquet(TABLE), "b.txt": MEDIC} | NEVER_READ)
        hub.create("model", "tester/linker", {"kb.parquet": kb_file.read_bytes()})
        hub.create("dataset", "other/secret", {"kb.parquet": kb_file.read_bytes()}, private=True)
        yield hub


def test_corpora_on_the_hub(hub, tmp_path):
    whole, tagged, folder, file, address, config, several, converted, offsets = ask(
        hub.environment(tmp_path),
        ("corpus", "tester/corpus"),
        ("corpus", "tester/corpus@v1"),
        ("corpus", "hf://datasets/tester/corpus@main/data"),
        ("corpus", "hf://datasets/tester/corpus/data/validation-00000-of-00001.parquet"),
        ("corpus", f"{hub.url}/datasets/tester/corpus/blob/main/data/test-00000-of-00001.parquet"),
        ("corpus", "hf://datasets/tester/bigbio/ncbi_bigbio_kb"),
        ("corpus", "tester/bigbio"),
        ("corpus", "hf://datasets/tester/bigbio@refs/convert/parquet"),
        ("corpus", "hf://datasets/tester/medic"),
    )
    mentions = {"train": ["Ataxia", "Gout"], "dev": ["FAP"], "test": ["Fever"]}
    assert whole["mentions"] == folder["mentions"] == mentions
    place = "hf://datasets/tester/corpus/data/train-00001-of-00002.parquet:row 1 "
    assert whole["examples"]["blank around id"][0].startswith(place)
    assert tagged["mentions"] == {"train": ["Old"]}
    assert file["mentions"] == {"dev": ["FAP"]}
    assert address["mentions"] == {"test": ["Fever"]}
    expected = {"train": ["train"], "dev": ["validation"], "test": ["test"]}
    assert config["mentions"] == several["mentions"] == expected  # of two folders, one is of a known format
    assert converted["mentions"] == {"train": ["train"], "test": ["test"]}
    assert offsets.startswith("ValueError: hf://datasets/tester/medic: no file of a known corpus format")


def test_knowledge_bases_on_the_hub(hub, tmp_path):
    own, table, file, model, several = ask(
        hub.environment(tmp_path, xet=True),
        ("kb", "tester/medic"),
        ("kb", "tester/table"),
        ("kb", "hf://datasets/tester/two@main/b.txt"),
        ("kb", "hf://tester/linker/kb.parquet"),
        ("kb", "tester/two"),
    )
    assert own == {"ids": ["D1"], "source": "by hand"}
    assert table == {"ids": ["D1", "D2"], "source": "hf://datasets/tester/table"}
    assert file == {"ids": ["D1", "D2"], "source": "hf://datasets/tester/two@main/b.txt"}
    assert model["ids"] == ["D1"]
    assert several == (
        "ValueError: hf://datasets/tester/two: several files could be the knowledge base: a.parquet, b.txt; "
        "name one: hf://datasets/tester/two/a.parquet"
    )


def test_offline_the_hub_is_its_cache(hub, tmp_path):
    calls = (("path", "hf://datasets/tester/corpus/data"), ("path", "tester/corpus", ("revision", "v1")))
    online = ask(hub.environment(tmp_path), *calls)
    assert online[0] == {
        "name": "data",
        "files": [
            "test-00000-of-00001.parquet",
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
            "validation-00000-of-00001.parquet",
        ],
    }
    assert online[1]["files"] == [".gitattributes", "README.md", "train-00000-of-00001.parquet"]
    hub.clear()
    offline = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    *same, part, absent = ask(offline, *calls, ("path", "tester/corpus"), ("path", "tester/medic"))
    assert same == online
    # Only its folder `data` was fetched.
    assert re.match("FileNotFoundError: tester/corpus: .* dataset tester/corpus is not, or not wholly, in", part)
    assert re.match("FileNotFoundError: tester/medic: .* dataset tester/medic is not, or not wholly, in", absent)
    assert hub.requests == []


def test_what_the_hub_does_not_have_or_show(hub, tmp_path):
    hub.inject("GET", "/api/datasets/tester/table/", status=500, times=100)
    absent, revision, inside, private, broken = ask(
        hub.environment(tmp_path),
        ("path", "tester/none"),
        ("path", "tester/corpus@v9"),
        ("path", "hf://datasets/tester/corpus/d"),
        ("path", "other/secret"),
        ("path", "tester/table"),
    )
    hub.clear()
    message = "FileNotFoundError: tester/none: no file or folder of that name here, and no dataset tester/none at "
    assert absent.startswith(message + hub.url)
    assert revision == "FileNotFoundError: tester/corpus@v9: tester/corpus has no revision 'v9'"
    message = "hf://datasets/tester/corpus/d: tester/corpus has no file or folder 'd' in that revision"
    assert inside == f"FileNotFoundError: {message}"
    assert "no dataset other/secret at" in private
    assert "or it is private: hf auth login" in private
    assert broken.startswith("FileNotFoundError: tester/table: ")
    (shown,) = ask(hub.environment(tmp_path, token=OTHER_TOKEN), ("kb", "other/secret"))
    assert shown["ids"] == ["D1"]


PUSH = """
from datasets import Dataset, DatasetDict, Features
from angel_trl import read_corpus, synthetic_corpus
from angel_trl.mentions import MENTION_FEATURES, validate_mentions
_, corpus = synthetic_corpus(seed=0)
corpus = DatasetDict({name: split.select(range(20)) for name, split in corpus.items()})
corpus.push_to_hub("tester/pushed")
splits, report = read_corpus("tester/pushed")
assert {name: split.to_list() for name, split in splits.items()} == {n: s.to_list() for n, s in corpus.items()}
assert all(split.features == MENTION_FEATURES for split in splits.values())
assert (report.read, report.used, report.notes) == (60, 60, {}), report
"""


@pytest.mark.parametrize("xet", [False, True])
def test_what_push_to_hub_wrote_is_read_as_it_was(hub, tmp_path, xet):
    environment = hub.environment(tmp_path, xet=xet)
    done = subprocess.run([sys.executable, "-c", PUSH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
