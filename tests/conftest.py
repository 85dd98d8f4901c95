"""What the tests share: a tokenizer trained here, random models that are far from indifferent, and a small world."""

import gc
import logging
import os
import random
from importlib import import_module

# Before anything imports a Hugging Face library: tests must not reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import settings
from transformers import BartConfig, BartForConditionalGeneration, MBartConfig, MBartForConditionalGeneration

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.mentions import MENTION_FEATURES
from angel_trl.scratch import train_tokenizer

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Modules of fixtures that tests also import names from: pytest must know of them before that.
pytest.register_assert_rewrite("card_world", "linker_world")

torch.set_num_threads(1)

# The same examples each time, and no limit to the time of one: a busy machine fails no test. `--hypothesis-profile
# default` looks for others.
settings.load_profile("ci")

# What most tests import. transformers collects garbage over the whole heap at each `train`: what is there to stay is
# taken out of that, which halves the time of the tests.
for module in ("angel_trl.trainer", "angel_trl.positive"):
    import_module(module)
gc.collect()
gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Which tests ran before in this process makes no difference to a test or to the fixtures made for it.

    Recipes and trainers that run in it draw random numbers, and set seeds, threads and levels of loggers for good.
    """
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    levels = [(logger, logger.level) for logger in known if isinstance(logger, logging.Logger)]
    outcome = yield
    for logger, level in levels:
        if logger.level != level:
            logger.setLevel(level)
    return outcome


@pytest.fixture(scope="session")
def shared():
    """The folder of corpora and dictionaries beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


# Homonyms: "cold" (C01, C02), "ms" (C03, C04), "ra" (C05, C06), "cf" (C07, C08).
# Prefixes of other names: "cancer" < "cancer of breast" < "cancer of breast in men", "diabetes" < "diabetes mellitus".
# Equal once normalised: "Type 1 diabetes" and "Type-1 Diabetes" (C13).
_CONCEPTS = [
    Concept("C01", ("Common Cold", "Cold", "Acute Coryza"), alternate_ids=("OMIM:100100",)),
    Concept("C02", ("Chronic Obstructive Lung Disease", "COLD", "COPD")),
    Concept("C03", ("Multiple Sclerosis", "MS", "Disseminated Sclerosis"), alternate_ids=("A03", "B03")),
    Concept("C04", ("Mitral Stenosis", "MS", "Mitral Valve Stenosis")),
    Concept("C05", ("Rheumatoid Arthritis", "RA", "Arthritis, Rheumatoid")),
    Concept("C06", ("Refractory Anemia", "RA")),
    Concept("C07", ("Cystic Fibrosis", "CF", "Mucoviscidosis"), definition="A disease of the exocrine glands."),
    Concept("C08", ("Cardiac Failure", "CF", "Heart Failure", "Heart Decompensation")),
    Concept("C09", ("Cancer", "Neoplasm", "Malignant Tumour")),
    Concept("C10", ("Cancer of Breast", "Breast Cancer", "Breast Neoplasm")),
    Concept("C11", ("Cancer of Breast in Men", "Male Breast Cancer")),
    Concept("C12", ("Diabetes Mellitus", "Diabetes")),
    Concept("C13", ("Diabetes Mellitus, Type 1", "Type 1 diabetes", "Type-1 Diabetes", "IDDM")),
    Concept("C14", ("Diabetes Mellitus, Type 2", "Type 2 diabetes", "NIDDM"), alternate_ids=("A14",)),
    Concept("C15", ("Diabetes Insipidus",)),
    Concept("C16", ("Breast Cancer, Familial", "Hereditary Breast Cancer"), alternate_ids=("OMIM:114480",)),
    Concept("C17", ("Ovarian Cancer", "Cancer of Ovary")),
    Concept("C18", ("Lung Cancer", "Cancer of Lung", "Pulmonary Neoplasm")),
    Concept("C19", ("Asthma", "Bronchial Asthma")),
    Concept("C20", ("Alzheimer's Disease", "Senile Dementia, Alzheimer Type")),
    Concept("C21", ("Parkinson Disease", "Paralysis Agitans")),
    Concept("C22", ("β-Thalassemia", "Thalassemia Beta", "Cooley's Anemia")),
    Concept("C23", ("α-Thalassemia", "Thalassemia Alpha")),
    Concept("C24", ("Sjögren's Syndrome", "Sicca Syndrome")),
    Concept("C25", ("Hypertension", "High Blood Pressure")),
    Concept("C26", ("Pulmonary Hypertension", "Hypertension, Pulmonary")),
    Concept("C27", ("Ataxia Telangiectasia", "A-T", "Louis-Bar Syndrome")),
    Concept("C28", ("Delirium", "Acute Confusion")),
    Concept("C29", ("Fever", "Pyrexia", "Hyperthermia")),
    Concept("C30", ("Gout", "Podagra"), alternate_ids=("A14",)),
]


@pytest.fixture(scope="session")
def small_kb():
    """30 concepts: 4 homonyms, names that are prefixes of others, alternate ids (A14 of two concepts)."""
    return KnowledgeBase(_CONCEPTS, source="tests")


# Text with the mention in brackets, its gold ids ("|" alternatives, "+" parts), split; two a document.
_MENTIONS = [
    ("He caught a [common cold] last winter.", "C01", "train"),
    ("Patients with [COLD] were smokers.", "C02", "train"),
    ("Relapsing [MS] responds to interferon.", "C03", "train"),
    ("The valve area in [mitral stenosis] was small.", "C04", "train"),
    ("Methotrexate is given for [rheumatoid arthritis].", "C05", "train"),
    ("Transfusions in [refractory anaemia] are frequent.", "C06", "train"),
    ("Screening for [cystic fibrosis] at birth.", "C07", "train"),
    ("Digoxin helps in [heart failure].", "C08", "train"),
    ("The BRCA1 gene in [familial breast cancer].", "OMIM:114480", "train"),
    ("Carriers of [breast cancer] and others.", "C10|C16", "train"),
    ("Risk of [breast and ovarian cancer] in carriers.", "C10+C17", "train"),
    ("Insulin is needed in [type 1 diabetes].", "C13", "train"),
    ("Metformin is given in [NIDDM].", "A14", "train"),
    ("Desmopressin treats [diabetes insipidus].", "C15", "train"),
    ("Loss of [β-thalassemia] carriers.", "C22", "train"),
    ("Dry eyes in [Sjögren's syndrome].", "C24", "train"),
    ("What [this is called] nobody knows, perhaps asthma.", "C19", "dev"),
    ("Inhalers are used for [bronchial asthma].", "C19", "dev"),
    ("Tremor in [Parkinson's disease].", "C21", "dev"),
    ("[High blood pressure] is silent.", "C25", "dev"),
    ("Sildenafil for [pulmonary hypertension]", "C26", "dev"),
    ("The ATM gene in [A-T] cells.", "C27", "dev"),
    ("Famotidine-associated [delirium].", "C28", "dev"),
    ("Colchicine for acute [gout].", "C30", "dev"),
]


@pytest.fixture(scope="session")
def small_mentions():
    """24 mentions with gold in `small_kb`, 16 of split "train" and 8 of "dev", two a document; row 10 is composite."""
    rows = []
    for number, (marked, gold, split) in enumerate(_MENTIONS):
        start, end = marked.index("["), marked.index("]") - 1
        text = marked.replace("[", "").replace("]", "")
        rows.append(
            {
                "id": f"{number // 2 + 1}:{start}-{end}#{number % 2 + 1}",
                "document_id": str(number // 2 + 1),
                "text": text,
                "start": start,
                "end": end,
                "mention": text[start:end],
                "types": ["Disease"],
                "concept_ids": [part.split("|") for part in gold.split("+")],
                "split": split,
            }
        )
    return Dataset.from_list(rows, features=MENTION_FEATURES)


@pytest.fixture(scope="session")
def tokenizer(small_kb, small_mentions):
    """A byte-level BPE of 600 entries; `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3."""
    texts = [*small_kb.names, *(text.lower() for text in small_mentions["text"])]
    return train_tokenizer(texts, 600)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """`make_model(seed=0, model_type="bart", **overrides)`: a random model of width 32 with 2+2 layers, in eval mode.

    The weights are large (`init_std` 0.3), so that outputs are far from flat and depend on the source.
    """
    kinds = {
        "bart": (BartConfig, BartForConditionalGeneration),
        "mbart": (MBartConfig, MBartForConditionalGeneration),
    }

    def make(seed=0, model_type="bart", **overrides):
        config_class, model_class = kinds[model_type]
        settings = {
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 128,
            "init_std": 0.3,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return model_class(config_class(**{**settings, **overrides})).eval()

    return make


@pytest.fixture
def tiny_model(make_model):
    """A random BART of its own for the test."""
    return make_model()


@pytest.fixture
def make_trainer(tmp_path, make_model, tokenizer, small_kb, small_mentions):
    """`make_trainer(model=None, output_dir=tmp_path, train=None, **settings)`: a quiet `AngelTrainer` on the CPU.

    Two rounds of 12 of the 16 training mentions, 4 a batch: 3 steps a round, evaluated on the 8 dev mentions. With
    `trainer_class` and `tokens` it is of another class and writes with another tokenizer.
    """
    from angel_trl.config import AngelConfig
    from angel_trl.trainer import AngelTrainer

    def make(
        model=None,
        output_dir=tmp_path,
        train=None,
        trainer_class=AngelTrainer,
        tokens=tokenizer,
        callbacks=None,
        held_out=None,
        **settings,
    ):
        defaults = {
            "num_rounds": 2,
            "mentions_per_round": 12,
            "per_device_train_batch_size": 4,
            "num_beams": 5,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 0,
        }
        splits = [small_mentions.filter(lambda row, s=split: row["split"] == s) for split in ("train", "dev")]
        return trainer_class(
            model or make_model(),
            AngelConfig(str(output_dir), **{**defaults, **settings}),
            splits[0] if train is None else train,
            splits[1],
            small_kb,
            processing_class=tokens,
            callbacks=callbacks,
            held_out=held_out,
        )

    return make
