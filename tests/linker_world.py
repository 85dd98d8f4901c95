"""What the tests of a linker in a folder and on the Hub share: one with a calibration, and what clients do with it.

The processes of `HubClient` import this module too: `client.call("linker_world:push", folder, "tester/linker")`.
"""

import functools
import re
from pathlib import Path

import pytest
import torch

from angel_trl import Calibration, MentionFormat
from angel_trl.linker import EntityLinker

TEXT = "Famotidine-associated [delirium] and [MS]."
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
SCORES = {"acc@1": 80.0, "acc@1_strict": 70.0, "acc@5": 85.0, "mrr": 82.0, "mentions": 8}
RESULTS = {"test": {"ANGEL": SCORES}, "settings": {"recipe": {"corpus": "/home/someone/ncbi"}}}
LINKER = {
    "angel.json",
    "config.json",
    "generation_config.json",
    "kb.parquet",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "trie.safetensors",
}


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# What tests have


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    linker = EntityLinker(make_model(), tokenizer, small_kb, MentionFormat(max_words=100))
    linker.calibration = Calibration(
        temperature=2.0,
        none_score=-3.0,
        nil_threshold=0.0,
        target_precision=0.5,
        num_beams=10,
        top_k=5,
        fingerprint=linker.targets.fingerprint,
        report={},
    )
    return linker


@pytest.fixture(scope="module")
def saved(linker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linker")
    linker.save_pretrained(folder)
    return folder


@pytest.fixture
def curve(tmp_path):
    (tmp_path / "picture.png").write_bytes(PNG)
    return tmp_path / "picture.png"


# What a client's process is told to do (`HubClient.call`).


def ready():
    """Have everything imported, and what `push_to_hub` would import when it is called."""
    import angel_trl.linker_hub  # noqa: F401


@functools.cache
def loaded(folder):
    torch.set_num_threads(1)
    return EntityLinker.from_pretrained(folder, device="cpu")


def push(folder, repo_id, scale=1.0, calibrated=True, **arguments):
    """Publish the linker of a folder, with weights of its own for each `scale`, as `push_to_hub` does."""
    linker = loaded(folder)
    linker.calibration = linker.calibration if calibrated else None
    embeddings = linker.model.get_input_embeddings().weight
    before = embeddings.detach().clone()
    try:
        with torch.no_grad():
            embeddings.mul_(scale)
        return linker.push_to_hub(repo_id, **arguments)
    finally:
        with torch.no_grad():
            embeddings.copy_(before)


def answers(id_or_path, revision=None):
    """What a linker answers, to the last bit."""
    torch.set_num_threads(1)
    linker = EntityLinker.from_pretrained(id_or_path, revision=revision, device="cpu")
    return [linked.as_dict() for linked in linker.link(TEXT, top_k=5)]


def run_the_lines_of_the_card(repo_id, revision):
    """Run the first block of code of a published card."""
    from huggingface_hub import hf_hub_download

    card = Path(hf_hub_download(repo_id, "README.md", revision=revision)).read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    exec(code, {})
    return code
