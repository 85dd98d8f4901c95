"""The card of a linker: whole, and in every variant."""

import re
from pathlib import Path

import pytest
from card_world import RESULTS, calibrated, metadata, row, section

from angel_trl import Concept, KnowledgeBase, MentionFormat, linker_hub
from angel_trl.card_parts import versions
from angel_trl.linker import EntityLinker
from angel_trl.model_card import linker_card

pytest_plugins = ["card_world"]

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
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
