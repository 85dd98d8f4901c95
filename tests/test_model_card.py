"""The card of a linker: whole, in every variant, and with nothing in it that a name, a path or a token can break."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from angel_trl import Calibration, Concept, KnowledgeBase, MentionFormat, linker_hub
from angel_trl.card_parts import escape, fence, public, redact, versions
from angel_trl.linker import EntityLinker
from angel_trl.model_card import LinkerFacts, Stated, linker_card, public_results

NASTY = "a|b `c` *d* <script>\n---\n# {{ e }} {% f %} [g](h) \x00 $i$ 'j' \"k\": l \ud800"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
HUB_DATASET_TYPE = re.compile(r"(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_.-]+")


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

EXPECTED = """---
base_model: facebook/bart-large
datasets:
- user/ncbi
- user/medic
language: en
library_name: angel_trl
license: apache-2.0
tags:
- angel_trl
- entity-linking
model-index:
- name: angel-ncbi
  results:
  - task:
      type: entity-linking
      name: Entity linking
    dataset:
      name: NCBI Disease
      type: user/ncbi
      split: test
    metrics:
    - type: acc@1
      value: 80.4
      name: Acc@1, any-id
    - type: acc@1_strict
      value: 70.4
      name: Acc@1, strict
    - type: acc@5
      value: 85.4
      name: Acc@5, any-id
    - type: mrr
      value: 82.9
      name: MRR, any-id
---

# user/angel-ncbi

An entity linker: it reads a passage with a marked mention and writes the name of the concept that is meant. A prefix trie keeps every answer among the 71 names of the 30 concepts of its knowledge base. It was trained with [ANGEL](https://arxiv.org/abs/2408.16493): on right names first, then, round by round, by preference optimisation to rank the right name above the wrong ones that it preferred itself.

Model: BartForConditionalGeneration, 71,000 parameters, fine-tuned from [facebook/bart-large](https://huggingface.co/facebook/bart-large).

## Use

```python
from angel_trl import EntityLinker

linker = EntityLinker.from_pretrained("user/angel-ncbi", revision="v1")
print(linker.link("About [Common Cold] in a sentence.")[0])
```

Mark mentions with brackets, or give their offsets: `linker.link(text, spans=[(start, end)])`. Of a passage of more than 100 words it reads those around the mention. Nothing in this repository is run when it is loaded: weights and trie are safetensors, the knowledge base is parquet.

## Knowledge base

From the dataset [user/medic](https://huggingface.co/datasets/user/medic). Source: tests. 30 of 31 records of the source were used; left out: no name (1).

|  | count |
| :-- | --: |
| concepts | 30 |
| distinct names, once normalised | 71 |
| names of all concepts as the source has them | 76 |
| duplicates merged (equal to another name of the concept, once normalised) | 1 |
| homonyms (names of several concepts) | 4 |
| alternate ids | 5 |

Fingerprint of the content (SHA-256): `FINGERPRINT`. `kb.parquet` in this repository is a copy, which keeps the terms of its source. Licence of the knowledge base, as stated by who prepared this: CTD terms, https://ctdbase.org/about/legal.jsp

## Scores

On the test split of NCBI Disease, 960 mentions, in percent, with 95% intervals by bootstrap over documents:

|  | Acc@1, any-id | Acc@1, strict | Acc@5, any-id | MRR, any-id |
| :-- | --: | --: | --: | --: |
| string lookup | 52.1 (47.1–57.1) | 42.1 (37.1–47.1) | 57.1 (52.1–62.1) | 54.6 (49.6–59.6) |
| string lookup, with the training mentions | 72.4 (67.4–77.4) | 62.4 (57.4–67.4) | 77.4 (72.4–82.4) | 74.9 (69.9–79.9) |
| positive-only | 79.3 (74.3–84.3) | 69.3 (64.3–74.3) | 84.3 (79.3–89.3) | 81.8 (76.8–86.8) |
| **ANGEL** (this linker) | 80.4 (75.9–84.9) | 70.4 (65.9–74.9) | 85.4 (80.9–89.9) | 82.9 (78.4–87.4) |

ANGEL − positive-only, Acc@1, any-id: +1.1 points, 95% interval +0.1 to +2.4 (paired bootstrap over documents).

- **Acc@1, any-id**: the first name shares a concept with the gold label, the protocol of the published numbers. A name that several concepts bear counts as right if one of them is gold.
- **strict**: every concept of the name is gold, and every part of a composite mention is named. An ambiguous name or half a composite is wrong.
- **Acc@5, MRR**: any-id too: a right name is among the first five; the mean of one over the rank of the first right name.
- Every mention keeps its place in the denominator: composites count any-id as right when one part is named, and a label that the knowledge base lacks counts as wrong.
- **string lookup** finds the mention's string among the names, as they are or with the training mentions added.

## Confidence

Calibrated: the confidence of an answer is the probability that it is right (any-id). Fitted on 787 dev mentions: temperature 1.73, score of "none of these" -3.25. Expected calibration error there: 0.031, without it 0.152. It holds for searches among all names with 10 beams or more.

Answers below a confidence of 0.618 are withheld, for a target precision of 0.9 (there: precision 0.921, 74.5% of the mentions answered). On harder mentions precision may fall short of it.

## Training

![Accuracy on the dev split by optimiser step](learning_curve.png)

Datasets: [user/ncbi](https://huggingface.co/datasets/user/ncbi), [user/medic](https://huggingface.co/datasets/user/medic).

6,881 of 6,892 mentions of the corpus were used; left out: duplicate document (11); repaired: blank around id (5), blank around mention (1).

| mentions | read | used |  |
| :-- | --: | --: | :-- |
| train | 5,134 | 5,132 | skipped: no label: 2 |
| test | 960 | 960 |  |

Settings (of the rounds, those that are not defaults of `AngelConfig`):

```yaml
model: scratch-small
corpus: ncbi_disease
kb: medic.txt
max_words: 64
pretrain_passes: 2.2
num_rounds: 4
mentions_per_round: 1500
learning_rate: 3.0e-05
loss_type:
- sigmoid
- sft
loss_weights:
- 1.0
- 1.0
seed: 0
data_seed: 0
load_best_model_at_end: false
```

Command:

```bash
accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus ncbi --kb medic.txt
```

Saved with VERSIONS.

## Limits

- For research; not for clinical decisions.
- What the knowledge base lacks cannot be the answer: for a mention of it another concept is named, unless the confidence is so low that the answer is withheld.
- What is said of it here holds for texts like those of NCBI Disease (language: en): on others, and in other languages, expect less.
- The errors of the knowledge base and of the labels it was trained on, their gaps and their age are in it too.
- Names of several concepts (4 here) stand for all of them, in no order of likelihood; `ambiguous` of an answer says so.
- Names that its tokenizer cannot write, and that can never be the answer: 3.

## Licence

Licence of the model, as stated by who prepared this: Apache-2.0

## Citation

```bibtex
@inproceedings{kim2025angel,
  title     = {Learning from Negative Samples in Biomedical Generative Entity Linking},
  author    = {Kim, Chanhwi and Kim, Hyunjae and Park, Sihyeon and Lee, Jiwoo and Sung, Mujeen and Kang, Jaewoo},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
  year      = {2025},
  url       = {https://arxiv.org/abs/2408.16493}
}
```
"""  # noqa: E501 (a paragraph is a line)


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


def section(card, heading):
    """The text below a heading."""
    return re.search(rf"^## {heading}\n\n(.*?)\n(?=\n## |\Z)", card.text, re.DOTALL | re.MULTILINE)[1]


# The whole


def test_the_whole_card_of_a_linker(make_model, tokenizer, small_kb, tmp_path):
    linker = EntityLinker(make_model(), tokenizer, small_kb, MentionFormat(max_words=100))
    linker.calibration = calibrated(linker.targets.fingerprint)
    (tmp_path / "curve.png").write_bytes(PNG)
    linker_hub.save(
        linker,
        tmp_path / "linker",
        results=RESULTS,
        curve=tmp_path / "curve.png",
        repo_id="user/angel-ncbi",
        revision="v1",
        license="Apache-2.0",
        kb_license="CTD terms, https://ctdbase.org/about/legal.jsp",
        kb_id="user/medic",
        base_model="facebook/bart-large",
        datasets=["user/ncbi"],
        corpus="NCBI Disease",
        language="en",
        command="accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus ncbi --kb medic.txt",
    )
    expected = EXPECTED.replace("FINGERPRINT", small_kb.fingerprint)
    expected = expected.replace("VERSIONS", versions(("torch", "transformers", "trl", "datasets")))
    assert (tmp_path / "linker" / "README.md").read_text(encoding="utf-8").splitlines() == expected.splitlines()


def test_a_card_of_which_nothing_is_known_says_so(facts):
    card = linker_card(facts())
    assert metadata(card) == {"library_name": "angel_trl", "tags": ["angel_trl", "entity-linking"]}
    assert card.text.splitlines()[1] == "# Entity linker"
    assert "It was made with angel\\_trl, which implements [ANGEL]" in card.text
    assert "Model: BartForConditionalGeneration, 406.3 million parameters.\n" in card.text
    assert 'from_pretrained("path/to/linker")' in card.text
    assert "Licence of the knowledge base: not stated." in section(card, "Knowledge base")
    assert section(card, "Scores") == "No scores were given with this linker."
    assert (
        section(card, "Confidence") == "Not calibrated: answers have scores but no confidence, and none is withheld."
    )
    assert section(card, "Training").startswith("How it was trained was not told.\n\nSaved with angel\\_trl 0.")
    assert "with nothing to tell that it is wrong." in section(card, "Limits")
    assert "texts like those of the corpus it was trained on: on others" in section(card, "Limits")
    assert section(card, "Licence").startswith("Licence of the model: not stated.")
    assert "None" not in card.text
    assert "\n\n\n" not in card.text


def test_the_citation_is_that_of_the_readme(facts):
    blocks = [
        re.search(r"```bibtex\n.*?```", text, re.DOTALL)[0]
        for text in (linker_card(facts()).text, (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"))
    ]
    assert blocks[0] == blocks[1]


# Variants


def test_a_linker_of_the_first_stage_is_the_positive_only_row(facts):
    rows = {"lookup": row(50.0), "positive-only": row(70.126)}
    card = linker_card(facts(), results={"test": rows}, corpus="a corpus")
    assert "It was trained on right names only, the first stage of [ANGEL]" in card.text
    assert "On the test split of a corpus, 960 mentions, in percent:\n" in section(card, "Scores")
    assert "| string lookup | 50.0 | 40.0 | 55.0 | 52.5 |\n" in section(card, "Scores")
    assert "| **positive-only** (this linker) | 70.1 | 60.1 | 75.1 | 72.6 |\n" in section(card, "Scores")
    assert "points" not in section(card, "Scores")
    (index,) = metadata(card)["model-index"]
    assert index["name"] == "linker"
    assert index["results"][0]["dataset"] == {"type": "a-corpus", "name": "a corpus", "split": "test"}
    assert [metric["value"] for metric in index["results"][0]["metrics"]] == [70.13, 60.13, 75.13, 72.63]


@pytest.mark.parametrize(
    ("round", "results", "told"),
    [
        ((3, 10), None, "after round 3 of 10"),
        ([3, 10], None, "after round 3 of 10"),
        (3, RESULTS, "after round 3 of 4"),
        (3, None, "after round 3"),
        (0, RESULTS, "before the first round of 4"),
    ],
)
def test_a_checkpoint_of_a_round_says_so(facts, round, results, told):
    card = linker_card(facts(), results=results, round=round)
    assert f"\n\n**A checkpoint {told}, not the outcome of a training.**\n\nAn entity linker: " in card.text
    assert "It was trained with [ANGEL]" in card.text
    # Scores are those of the outcome.
    assert "this linker)" not in card.text
    assert "model-index" not in metadata(card)


def test_random_weights_are_said_only_of_a_preset(facts):
    def model(**recipe):
        return re.search(r"Model: .*", linker_card(facts(), results={"settings": {"recipe": recipe}}).text)[0]

    assert model(model="scratch-tiny").endswith(
        "406.3 million parameters, trained from random weights (scratch-tiny)."
    )
    assert model(model="runs/other/linker").endswith("406.3 million parameters.")
    assert model().endswith("406.3 million parameters.")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [(99_999, "99,999"), (100_000, "0.1 million"), (4_474_890, "4.5 million"), (7_241_732_096, "7.2 billion")],
)
def test_sizes_are_told_for_people(facts, parameters, told):
    assert f", {told} parameters." in linker_card(facts(parameters=parameters)).text


def test_scores_of_a_corpus_without_a_test_split_are_said_to_be_of_dev(facts):
    results = {"settings": {"recipe": {"test_split": "dev"}}, "test": {"ANGEL": row(70.0)}}
    card = linker_card(facts(), results=results, corpus="BC5CDR")
    scores = section(card, "Scores")
    assert scores.startswith("On the dev split of BC5CDR, 960 mentions, in percent:\n")
    assert "a tenth of the training documents was held out for that" in scores
    assert metadata(card)["model-index"][0]["results"][0]["dataset"]["split"] == "dev"


def test_a_linker_without_rounds_has_no_settings_of_rounds(facts):
    recipe, angel = {"skip_angel": True, "passes": 3}, {"num_rounds": 4, "loss_type": ["sft"], "num_beams": 3}
    training = section(linker_card(facts(), results={"settings": {"recipe": recipe, "angel": angel}}), "Training")
    assert "```yaml\nskip_angel: true\npasses: 3\nnum_beams: 3\n```" in training


def test_invented_data_is_said_to_be_invented(facts):
    data = {"corpus": "synthetic (made by angel_trl.synthetic; no real concepts)"}
    card = linker_card(facts(), results={"data": data, "test": {"ANGEL": row(79.4)}})
    assert "Knowledge base and corpus are invented: it says nothing about real concepts." in section(card, "Limits")
    assert "On the test split of the synthetic quickstart, 960 mentions" in section(card, "Scores")
    assert "Corpus: synthetic (made by angel\\_trl.synthetic; no real concepts).\n" in section(card, "Training")
    assert metadata(card)["model-index"][0]["results"][0]["dataset"]["type"] == "the-synthetic-quickstart"


def test_a_search_within_types_and_abbreviations_written_out_are_told(facts):
    results = {"within_types": True, "test": {"ANGEL": row(79.4)}}
    card = linker_card(facts(abbreviations="ab3p"), results=results)
    assert "Linkers searched among concepts of each mention's own types; string lookup" in section(card, "Scores")
    assert "Abbreviations are written out by Ab3P: install the extra `abbreviations`" in section(card, "Use")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_precision": None, "nil_threshold": None}, "No threshold was asked for: no answer is withheld."),
        (
            {"nil_threshold": None},
            "No threshold reaches a target precision of 0.9 on these mentions: no answer is withheld.",
        ),
        (
            {"report": {}},
            'Fitted on dev mentions: temperature 1.73, score of "none of these" -3.25. It holds for searches among '
            "all names with 10 beams or more.\n\nAnswers below a confidence of 0.618 are withheld, for a target "
            "precision of 0.9. On harder",
        ),
        ({"report": {"after": {"precision": None, "coverage": 0.0}}}, "for a target precision of 0.9. On harder"),
    ],
)
def test_a_calibration_is_told_as_far_as_it_goes(facts, changes, told):
    assert told in section(linker_card(facts(calibration=calibrated("f" * 64, **changes))), "Confidence")


def test_a_run_without_a_test_split_tells_its_settings(facts):
    results = {"settings": {"recipe": {"passes": 3}}, "kb": {"concepts": 30}, "dev": {"ANGEL": [[0, 50.0]]}}
    card = linker_card(facts(), results=results)
    assert section(card, "Scores") == "No scores were given with this linker."
    assert "```yaml\npasses: 3\n```" in section(card, "Training")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"angel": {"beta": 0.3}}, "It was trained with [ANGEL]"),
        ({"angel": {"beta": 0.3}, "recipe": {"skip_angel": True}}, "It was trained on right names only"),
        ({"recipe": {"passes": 3}}, "It was made with angel"),
    ],
)
def test_without_scores_the_settings_tell_the_stage(facts, settings, told):
    assert told in linker_card(facts(), results={"settings": settings}).text


def test_a_knowledge_base_without_homonyms_has_no_limit_of_them(facts):
    kb = KnowledgeBase([Concept("D1", ("[Ataxia]", "ATAXIA"))])
    card = linker_card(facts(kb=kb))
    assert "Names of several concepts" not in card.text
    assert 'link("About [mention] in a sentence.")' in card.text
    assert "Source" not in section(card, "Knowledge base")


# What others say


def test_text_of_users_and_files_breaks_neither_metadata_nor_text(facts):
    kb = KnowledgeBase([Concept(NASTY, (NASTY,))], source=NASTY)
    results = {
        "settings": {"recipe": {"model": NASTY, "corpus": NASTY, NASTY: NASTY}},
        "data": {"corpus": {"read": 1, "used": 1, "skipped": {NASTY: 1}}},
        "test": {NASTY: row(1.0), "ANGEL": row(2.0)},
        "counts": {NASTY: {"read": 1, NASTY: 2}},
    }
    stated = {"license": NASTY, "kb_license": NASTY, "command": f"x ``` {NASTY}", "revision": NASTY}
    for corpus in (NASTY, None):
        card = linker_card(facts(kb=kb), results=results, corpus=corpus, **stated)
        again = ModelCard(str(card))
        assert again.data.to_dict() == metadata(card)
        assert again.data.license == "other"
        assert again.data.model_name == "linker"
        dataset = metadata(card)["model-index"][0]["results"][0]["dataset"]
        assert HUB_DATASET_TYPE.fullmatch(dataset["type"])
        assert dataset["name"].isprintable()
        assert "{{ e }}" in card.text, "not taken for a template"
        str(card).encode()
        outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card.text)
        assert "<script>" not in outside.replace("\\<script\\>", "")
        assert len([line for line in outside.splitlines() if re.match("# ", line)]) == 1
        rows = [re.split(r"(?<!\\)\|", line) for line in outside.splitlines() if line.startswith("|")]
        assert {len(cells) for cells in rows} == {4, 6, 7}


@settings(deadline=None, max_examples=30)
@given(st.text())
def test_any_corpus_gives_a_dataset_that_the_hub_takes(corpus):
    facts = LinkerFacts(KnowledgeBase([Concept("D1", ("Ataxia",))]), MentionFormat(), None, "X", 1)
    (index,) = metadata(linker_card(facts, results={"test": {"ANGEL": row(1.0)}}, corpus=corpus))["model-index"]
    dataset = index["results"][0]["dataset"]
    assert HUB_DATASET_TYPE.fullmatch(dataset["type"])
    assert dataset["name"].strip()


@pytest.mark.parametrize(
    ("stated", "wrong"),
    [
        ({"base_model": "/home/someone/model"}, "base_model is '/home/someone/model', which is no id on the Hub"),
        ({"base_model": "runs/pretrain/linker"}, "base_model is 'runs/pretrain/linker', which is no id on the Hub"),
        ({"repo_id": "linker"}, "repo_id is 'linker', which is no id on the Hub; give user/name"),
        ({"kb_id": "medic"}, "kb_id is 'medic'"),
        ({"datasets": ["user/ncbi", "data/ncbi/"]}, r"datasets\[1\] is 'data/ncbi/'"),
        ({"datasets": "üser/ncbi"}, r"datasets\[0\] is 'üser/ncbi'"),
        ({"language": "English"}, "language is 'English'; give an ISO 639 code such as 'en'"),
        ({"round": (4, 3)}, r"round is \(4, 3\); give the rounds done"),
        ({"round": -1}, "round is -1"),
        ({"round": True}, "round is True"),
        ({"round": "3 of 10"}, "round is '3 of 10'"),
        ({"round": (1, 2, 3)}, r"round is \(1, 2, 3\)"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_here(facts, stated, wrong):
    with pytest.raises(ValueError, match=wrong):
        linker_card(facts(), **stated)


def test_a_misspelled_statement_is_an_error(facts):
    with pytest.raises(TypeError, match="licence"):
        linker_card(facts(), licence="mit")


def test_datasets_are_named_once_and_the_knowledge_base_last(facts):
    card = linker_card(facts(), datasets=["user/kb", "user/a", "user/a"], kb_id="user/kb")
    assert metadata(card)["datasets"] == ["user/a", "user/kb"]
    assert metadata(linker_card(facts(), datasets="squad"))["datasets"] == ["squad"]
    assert Stated(datasets=None).mention_datasets == []


@pytest.mark.parametrize(
    ("results", "wrong"),
    [
        ({"test": {"ANGEL": {"acc@1": 80.0}}}, "acc@1_strict of ANGEL is None, not a number: give results as the"),
        ({"test": {"ANGEL": {"acc@1": "80"}}}, "acc@1 of ANGEL is '80', not a number"),
        ({"test": {"ANGEL": {"acc@1": True}}}, "acc@1 of ANGEL is True, not a number"),
        ({"test": {"ANGEL": [80.0]}}, r"'ANGEL' in the results is \[80.0\], not a mapping"),
        ({"test": {"ANGEL": {**row(80.0), "acc@1_ci": [1.0]}}}, r"acc@1 of ANGEL is \[1.0\], not the two ends"),
        ({"difference": {"difference": 1.0}}, "the difference is None, not the two ends of an interval"),
        ({"settings": "none"}, "'settings' in the results is 'none', not a mapping"),
        ({"counts": {"test": {"read": "many"}}}, "a count in the results is 'many', not a number"),
        ({"test": {"ANGEL": row(float("nan"))}}, r"The results are not JSON \(Out of range"),
        ({("a", "b"): 1}, r"The results are not JSON \(keys must be str"),
    ],
)
def test_results_of_another_form_are_an_error_that_says_where(facts, results, wrong):
    with pytest.raises(ValueError, match=wrong):
        linker_card(facts(), results=results)


# Nothing of this machine


def test_published_results_have_no_paths_no_tokens_and_no_text_of_the_corpus():
    given = {
        "settings": {"recipe": {"corpus": Path("/home/someone/ncbi"), "kb": "user/medic@v1", "fold": None}},
        "data": {"corpus": {"read": 1, "examples": {"x": ["/home/a.txt:1 'text'"]}, "fixes": {"x": "Mend it."}}},
        "curve": [(1, 2.5)],
        "url": "https://me:secret@example.org/kb.obo?token=abc#x",
        "token": f"--token=hf_{'a' * 34}",
    }
    assert public_results(given) == {
        "settings": {"recipe": {"corpus": "ncbi", "kb": "user/medic@v1", "fold": None}},
        "data": {"corpus": {"read": 1}},
        "curve": [[1, 2.5]],
        "url": "https://example.org/kb.obo?...#x",
        "token": "--token=hf_***",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/someone/my data/ncbi/", "ncbi"),
        ("../shared/data/medic.txt", "medic.txt"),
        ("./kb.txt", "kb.txt"),
        ("~/kb.txt", "kb.txt"),
        ("C:\\Users\\someone\\kb.txt", "kb.txt"),
        ("file:///home/someone/kb.txt", "kb.txt"),
        ("data/mesh/dictionary.tsv.gz", "dictionary.tsv.gz"),
        ("tests/conftest.py", "conftest.py"),
        ("user/name", "user/name"),
        ("user/name@refs/pr/1", "user/name@refs/pr/1"),
        ("hf://datasets/user/name@v1/kb.obo", "hf://datasets/user/name@v1/kb.obo"),
        ("https://example.org/a/b.obo", "https://example.org/a/b.obo"),
        ("mean and/or sum, as it was", "mean and/or sum, as it was"),
        ("linear", "linear"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_setting_is_told_without_folders(value, expected, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert public(value) == expected


def test_a_command_stays_whole_but_for_what_is_private(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    command = "angel.py --corpus '/home/someone/my data' --kb http://u:p@example.org/kb?key=1 --x /home/someoneelse/y"
    expected = "angel.py --corpus '~/my data' --kb http://example.org/kb?... --x /home/someoneelse/y"
    assert redact(command) == expected


@settings(deadline=None)
@given(st.text())
def test_leaving_out_what_is_private_takes_any_text(text):
    assert len(redact(text).splitlines()) <= len(text.splitlines())
    assert public(public(text)) == public(text)


def test_a_code_block_has_no_sign_that_a_file_cannot_hold():
    assert fence("a\ud800\x00b\n\tc", "bash") == "```bash\na  b\n\tc\n```"


# The Hub


def test_metadata_are_read_as_they_were_written_and_pass_the_hub_s_own_check(facts, tmp_path):
    stated = {"license": NASTY, "corpus": NASTY, "language": "en", "base_model": "gpt2", "kb_id": "user/kb"}
    cards = [linker_card(facts()), linker_card(facts(), results=RESULTS, curve=True, repo_id="user/x", **stated)]
    script = (
        "import json, sys\nfrom huggingface_hub import ModelCard\n"
        "for p in sys.argv[1:]:\n    card = ModelCard.load(p)\n    card.validate()\n"
        "    print(json.dumps(card.data.to_dict()))"
    )
    paths = [tmp_path / f"{place}.md" for place in range(2)]
    for path, card in zip(paths, cards, strict=True):
        card.save(path)
    with HubServer() as hub:
        run = subprocess.run(
            [sys.executable, "-c", script, *map(str, paths)],
            env=hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert hub.count("POST", "/api/validate-yaml") == 2
    assert [json.loads(line) for line in run.stdout.splitlines()] == [metadata(card) for card in cards]
    scores = ModelCard.load(paths[1]).data.eval_results
    assert [(score.metric_type, score.metric_value) for score in scores] == [
        ("acc@1", 80.4),
        ("acc@1_strict", 70.4),
        ("acc@5", 85.4),
        ("mrr", 82.9),
    ]
    assert {(score.dataset_name, score.dataset_split) for score in scores} == {
        (" ".join("".join(sign if sign.isprintable() else " " for sign in NASTY).split()), "test")
    }


def test_cards_escape_the_names_of_systems(facts):
    card = linker_card(facts(), results={"test": {"a|b": row(1.0)}})
    assert f"| {escape('a|b')} | 1.0 |" in card.text
