"""What the tests of the Space share: its modules on the path, a small knowledge base with types, a running server."""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from angel_trl.kb import Concept, KnowledgeBase

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "entity-linking"
sys.path.insert(0, str(SPACE))

import batch_files  # noqa: E402
import examples  # noqa: E402
import markup  # noqa: E402
import quickstart  # noqa: E402
import records  # noqa: E402
import service  # noqa: E402
import settings  # noqa: E402
import tree_svg  # noqa: E402
import waiting  # noqa: E402

__all__ = ["batch_files", "examples", "markup", "quickstart", "records", "service", "settings", "tree_svg", "waiting"]

EXAMPLE = "Copper in [Wilson's disease] is bound by [penicillamine]."
FIRST = "We describe [Wilson's disease] as a cause of [delirium]."
HOSTILE = "<img src=x onerror=window.hacked=1> [copper]"

CONCEPTS = [
    Concept("D006527", ("Wilson Disease", "Hepatolenticular Degeneration"), types=("Disease",), definition="Copper."),
    Concept("D003693", ("Delirium", "Acute Confusion"), types=("Disease",)),
    Concept("D009103", ("Multiple Sclerosis", "MS"), types=("Disease",)),
    Concept("D008946", ("Mitral Stenosis", "MS"), types=("Disease",)),
    Concept("X:1", ("<img src=x onerror=alert(1)>", "Evil Syndrome"), types=("Disease",)),
    Concept("D010396", ("Penicillamine", "Cuprimine"), types=("Chemical",)),
    Concept("D003300", ("Copper",), types=("Chemical",)),
    Concept("D001241", ("Aspirin", "Acetylsalicylic Acid"), types=("Chemical",)),
]


def knowledge_base():
    return KnowledgeBase(CONCEPTS, source="tests")


@contextlib.contextmanager
def reserved_port():
    """A port that the system gives to nobody else; servers that are told its number can have it."""
    with socket.socket() as holding:
        # Bound but not listening: with this option on both sides a server can bind it too.
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("127.0.0.1", 0))
        yield holding.getsockname()[1]


def models_for(folder, linkers, passages):
    """Write a linker, its positive-only stage, pairs and examples to `folder`; the environment that names them."""
    paths = {name: folder / name for name in ("linker", "positive", "pairs.parquet", "examples.txt")}
    for linker, name in zip(linkers, ("linker", "positive"), strict=True):
        linker.save_pretrained(paths[name])
    names = [" copper", " aspirin", " delirium", " penicillamine", " wilson disease"]
    scores = {"round": 0, "chosen_log_prob": -3.0, "rejected_log_prob": -1.0}
    rows = [{**scores, "chosen": a, "rejected": b} for a, b in itertools.permutations(names, 2)]
    pq.write_table(pa.Table.from_pylist(rows), paths["pairs.parquet"])
    paths["examples.txt"].write_text("\n".join(passages))
    variables = ("ANGEL_MODEL", "ANGEL_POSITIVE_MODEL", "ANGEL_PAIRS", "ANGEL_EXAMPLES")
    return dict(zip(variables, map(str, paths.values()), strict=True))


def save_tagger(folder):
    """Write a token-classification model that takes “copper” and “delirium” for mentions, and nothing else."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "copper", "delirium"]
    vocabulary = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    vocabulary.pre_tokenizer = BertPreTokenizer()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=2, num_hidden_layers=0, num_attention_heads=1, id2label={0: "O", 1: "X"},
        label2id={"O": 0, "X": 1},
    )  # fmt: skip
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for weights in model.bert.embeddings.parameters():
            weights.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(2)[[0, 0, 0, 0, 1, 1]])
        model.classifier.weight.copy_(torch.eye(2))
    model.save_pretrained(folder)


@contextlib.contextmanager
def running_space(folder, **environment):
    """Run `app.py` as a user does, in a process of its own; yields its address and the path of its output."""
    given = {"GRADIO_TEMP_DIR": str(folder / "uploads"), "HF_HUB_OFFLINE": "1", **environment}
    log = folder / "space.log"
    with running_app([sys.executable, str(SPACE / "app.py")], folder, {**os.environ, **given}, log) as url:
        yield url, log


@contextlib.contextmanager
def running_app(command, folder, environment, log):
    """Run a Space in `folder` by a command, with its output in a file `log`; yields its address once it answers."""
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        server = {
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_NUM_PORTS": "1",  # this one or none
            "GRADIO_SERVER_NAME": "127.0.0.1",
        }
        for _ in range(3):
            with (
                log.open("w") as output,
                ended(
                    subprocess.Popen(command, cwd=folder, env=environment | server, stdout=output, stderr=output)
                ) as process,
            ):
                if not answers(url, process, log):
                    continue
                yield url
                return
        raise AssertionError(f"Gradio's server took too long to start, three times:\n{log.read_text()}")


@contextlib.contextmanager
def ended(process):
    """A process that is ended at the latest here."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url, process, log, seconds=500):
    """Wait until a Space answers; False if it ended because Gradio allows its own server 5 s to start, and no more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            if "Cannot find empty port" in log.read_text():
                return False
            raise AssertionError(f"app.py ended with {process.returncode}:\n{log.read_text()}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=30).close()
            return True
        time.sleep(0.3)
    raise AssertionError(f"app.py did not answer within {seconds} s:\n{log.read_text()}")


# --- in a browser ----------------------------------------------------------------------------------------------------


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser")


def sync_api():
    """Playwright, set for a busy machine; skips the file that calls it where a browser cannot be run."""
    pytest.importorskip(
        "gradio", reason="pip install -c constraints.txt -e '.[space]' lets the tests of the Space run"
    )
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright lets the browser tests run")
    if chromium() is None:
        pytest.skip("apt-get install chromium lets the browser tests run", allow_module_level=True)
    api.expect.set_options(timeout=120_000)
    return api


def open_accordion(page, name):
    if not page.locator(f"#{name} input, #{name} textarea").first.is_visible():
        page.click(f"#{name} button >> nth=0")
        page.locator(f"#{name} input, #{name} textarea").first.wait_for()
        # What was set while it was closed arrives only now, and would undo what is typed at once. Half a second of the
        # page's own: a busy page's comes later.
        page.evaluate("() => new Promise((done) => setTimeout(done, 500))")


def link(page, text):
    page.fill("#passage textarea", text)
    page.click("#link")


def headline(page):
    return page.locator("#candidates .headline")
