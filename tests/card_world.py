"""What the tests of a linker's card share: results of a run, hostile text, facts of a linker, a card taken apart or
checked by the Hub."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from hub_server import HubServer

from angel_trl import Calibration, MentionFormat
from angel_trl.model_card import LinkerFacts

NASTY = "a|b `c` *d* <script>\n---\n# {{ e }} {% f %} [g](h) \x00 $i$ 'j' \"k\": l \ud800"


def row(value, *, ci=None, **more):
    """Scores of a system: `value` is Acc@1 (any-id), the others are 10 below and 5 above."""
    scores = {"acc@1": value, "acc@1_strict": value - 10, "acc@5": value + 5, "mrr": value + 2.5}
    intervals = {} if ci is None else {f"{key}_ci": [score - ci, score + ci] for key, score in scores.items()}
    return {**scores, **intervals, "mentions": 960, "nil": 0, **more}


RESULTS = {
    "settings": {
        "recipe": {
            "model": "scratch-small",
            "corpus": "/home/someone/data/ncbi_disease",
            "kb": "../data/medic.txt",
            "max_words": 64,
            "pretrain_passes": 2.2,
            "skip_angel": False,
            "fold": None,
            "cpu_threads": 2,
            "resume": True,
        },
        "angel": {
            "output_dir": "/home/someone/runs/ncbi",
            "num_rounds": 4,
            "mentions_per_round": 1500,
            "num_train_epochs": 4,
            "learning_rate": 3e-05,
            "beta": 0.1,
            "loss_type": ["sigmoid", "sft"],
            "loss_weights": [1.0, 1.0],
            "seed": 0,
            "data_seed": 0,
            "load_best_model_at_end": False,
            "activation_checkpointing": False,
            "bf16": False,
            "hub_token": "<HUB_TOKEN>",
            "report_to": [],
        },
    },
    "data": {
        "corpus": {
            "read": 6892,
            "used": 6881,
            "skipped": {"duplicate document": 11},
            "repaired": {"blank around id": 5, "blank around mention": 1},
            "notes": {"document repeated word for word": 1},
            "examples": {"duplicate document": ["/home/someone/data/train.txt:4559 'Machado-Joseph disease'"]},
            "fixes": {"duplicate document": "Delete the repetition."},
        },
        "kb": {"concepts": 30},
        "kb lines": {"read": 31, "used": 30, "skipped": {"no name": 1}, "repaired": {}, "notes": {}, "examples": {}},
    },
    "test": {
        "lookup": row(52.1, ci=5),
        "lookup + training mentions": row(72.4, ci=5),
        "positive-only": row(79.3, ci=5, exact=58.1, mentions_per_second=152.2),
        "ANGEL": row(80.4, ci=4.5, exact=54.1, mentions_per_second=149.5),
    },
    "counts": {
        "train": {"read": 5134, "skipped: no label": 2, "used": 5132},
        "test": {"read": 960, "used": 960},
        "names no model can write": 3,
    },
    "within_types": False,
    "difference": {"difference": 1.1458, "ci": [0.0959, 2.3953], "p_value": 0.048},
}


def calibrated(fingerprint, **changes):
    settings = {
        "temperature": 1.7251,
        "none_score": -3.2549,
        "nil_threshold": 0.6184,
        "target_precision": 0.9,
        "num_beams": 10,
        "top_k": 5,
        "fingerprint": fingerprint,
        "report": {
            "documents": 100,
            "before": {"mentions": 787, "ece": 0.1516},
            "after": {"mentions": 787, "ece": 0.0312, "precision": 0.9211, "coverage": 0.7448},
        },
    }
    return Calibration(**{**settings, **changes})


@pytest.fixture
def facts(small_kb):
    def make(kb=small_kb, calibration=None, parameters=406_291_456, **format):
        return LinkerFacts(kb, MentionFormat(**format), calibration, "BartForConditionalGeneration", parameters)

    return make


def metadata(card):
    """The metadata as whoever reads the file sees them."""
    _, block, _ = re.split(r"^---$", str(card), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(block)


def passed_by_the_hub(cards, folder):
    """The metadata of cards of one kind as a client reads them from `folder`, after the Hub's own check of each."""
    kind = type(cards[0]).__name__
    script = (
        f"import json, sys\nfrom huggingface_hub import {kind}\n"
        f"for path in sys.argv[1:]:\n    card = {kind}.load(path)\n    card.validate()\n"
        "    print(json.dumps(card.data.to_dict()))"
    )
    paths = [folder / f"{place}.md" for place in range(len(cards))]
    for path, card in zip(paths, cards, strict=True):
        card.save(path)
    with HubServer() as hub:
        run = subprocess.run(
            [sys.executable, "-c", script, *map(str, paths)],
            env=hub.environment(folder / "home"),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert hub.count("POST", "/api/validate-yaml") == len(cards)
    return [json.loads(line) for line in run.stdout.splitlines()]


def section(card, heading):
    """The text below a heading."""
    return re.search(rf"^## {heading}\n\n(.*?)\n(?=\n## |\Z)", card.text, re.DOTALL | re.MULTILINE)[1]
