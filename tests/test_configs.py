"""The configurations of the benchmarks: the paper's settings, on a few mentions, all but the weights."""

import importlib.util
from pathlib import Path

import pytest

from angel_trl import PositiveTrainer
from angel_trl.scratch import scratch_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "recipes" / "configs"
SPLITS = {"train": "train", "develop": "dev", "test": "test"}
CONCEPTS = {"C0000001": "ataxia", "C0000002": "gout", "C0000003": "wilson disease"}
KB = "".join(f"{key}||{name}|{name} disorder|{name} syndrome\n" for key, name in CONCEPTS.items())


def pubtator(pmid, kind="Disease", prefix=""):
    text = " and ".join(CONCEPTS.values())
    lines = [f"{pmid}|t|{text}", f"{pmid}|a|In mice."]
    for key, name in CONCEPTS.items():
        start = text.index(name)
        lines.append(f"{pmid}\t{start}\t{start + len(name)}\t{name}\t{kind}\t{prefix}{key}")
    return "\n".join(lines) + "\n\n"


def write_pubtator(folder):
    for number, name in enumerate(SPLITS):
        (folder / f"{name}set.txt").write_text(pubtator(number + 1))


def write_medmentions(folder):
    (folder / "corpus_pubtator.txt").write_text("".join(pubtator(pmid, "T047", "UMLS:") for pmid in (1, 2, 3)))
    for pmid, name in ((1, "trng"), (2, "dev"), (3, "test")):
        (folder / f"corpus_pubtator_pmids_{name}.txt").write_text(f"{pmid}\n")


def write_cometa(folder):
    header = "ID\tTerm\tGeneral SNOMED Label\tGeneral SNOMED ID\tSpecific SNOMED Label\tSpecific SNOMED ID\tExample\n"
    for split in SPLITS.values():
        rows = (f"{i}\t{name}\tx\t{key}\ty\tS{i}\tso much {name}\n" for i, (key, name) in enumerate(CONCEPTS.items()))
        (folder / f"{split}.csv").write_text(header + "".join(rows))


def write_aap(folder):
    for split in ("train", "validation", "test"):
        for fold in (0, 1):
            rows = (f"{key}\t{name}\t{name} {fold}\n" for key, name in CONCEPTS.items())
            (folder / f"AskAPatient.fold-{fold}.{split}.txt").write_text("".join(rows))


CORPORA = {
    "ncbi": write_pubtator,
    "bc5cdr": write_pubtator,
    "cometa": write_cometa,
    "aap": write_aap,
    "medmentions": write_medmentions,
}
# The paper's: rate of the positive-only stage, its steps of 16 mentions, rate and batch of the rounds.
PAPER = {
    "ncbi": (3e-7, 20_000, 1e-5, 64),
    "bc5cdr": (5e-6, 30_000, 1e-5, 16),
    "cometa": (5e-6, 40_000, 5e-6, 64),
    "aap": (5e-6, 30_000, 5e-6, 8),
    "medmentions": (2e-5, 40_000, 5e-6, 64),
}
MENTIONS = {"ncbi": 5134, "bc5cdr": 9385, "cometa": 13489, "aap": 15665, "medmentions": 122241}


@pytest.fixture(scope="module")
def recipe():
    """The recipe as a module."""
    import angel

    return angel


@pytest.fixture
def read(recipe, tmp_path):
    """Reads a configuration, with a few mentions and a knowledge base in the format it is for."""

    def read(name):
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        CORPORA[name](corpus)
        (tmp_path / "kb.txt").write_text(KB)
        given = {"config": CONFIGS / f"{name}.yaml", "corpus": corpus, "kb": tmp_path / "kb.txt", "use_cpu": "true"}
        return recipe.parse_arguments([part for key, value in given.items() for part in (f"--{key}", str(value))])

    return read


def test_there_is_a_configuration_for_each_benchmark():
    assert set(CORPORA) <= {path.stem for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize("name", CORPORA)
def test_settings_are_those_of_the_paper(read, name):
    args, angel = read(name)
    positive_rate, steps, rate, batch = PAPER[name]
    assert args.model == "dmis-lab/ANGEL_pretrained"
    assert (args.positive_names, args.max_words) == (3, 384)
    assert (args.positive_learning_rate, args.positive_batch_size) == (positive_rate, 16)
    assert args.positive_epochs * MENTIONS[name] / 16 == pytest.approx(steps, rel=0.1)
    assert (angel.learning_rate, angel.per_device_train_batch_size, angel.beta) == (rate, batch, 0.1)
    assert (angel.num_beams, angel.mine_top_k, angel.mentions_per_round) == (10, 5, 0.1)
    assert (angel.early_stopping_patience, angel.loss_type) == (3, ["sigmoid"])
    # The published files keep the punctuation of these two.
    assert args.mention_normalization == ("lower" if name in ("bc5cdr", "cometa") else "genbioel")


@pytest.mark.parametrize("name", CORPORA)
def test_everything_but_the_weights_runs(recipe, read, tmp_path, monkeypatch, name):
    if name == "bc5cdr" and importlib.util.find_spec("pyab3p") is None:
        pytest.skip("abbreviations need pyab3p")
    args, angel = read(name)
    kb, corpus, report = recipe.load_data(args)
    assert report["corpus"]["skipped"] == {}
    assert {split: len(rows) for split, rows in corpus.items()} == {"train": 3, "dev": 3, "test": 3}
    assert corpus["train"]["concept_ids"] == [[[key]] for key in CONCEPTS]
    texts = [*kb.names, *corpus["train"]["text"]]
    monkeypatch.setattr(recipe, "model_to_train", lambda *_: scratch_model("scratch-tiny", texts, seed=0))
    trained = []
    monkeypatch.setattr(PositiveTrainer, "train", lambda trainer, **_: trained.append(trainer))
    monkeypatch.setattr(recipe, "train_rounds", lambda trainer, to, resume: trained.append(trainer) or [])
    assert recipe.train_positive(args, angel, kb, corpus, tmp_path / "positive") == []
    start, folder, to = (tmp_path / part for part in ("nothing", "angel", "linker"))
    told = recipe.Publication(args, angel, model=args.model, corpus=args.corpus, kb=args.kb, argv=[])
    recipe.train_angel(args, angel, kb, corpus, start, folder, to, told)
    positive, rounds = trained
    assert positive.args.learning_rate == PAPER[name][0]
    assert positive.args.num_train_epochs == args.positive_epochs
    assert rounds.args.learning_rate == PAPER[name][2]
    assert (rounds.args.num_train_epochs, rounds.args.output_dir) == (20, str(folder))
    for trainer in trained:
        assert trainer.targets.formatter.format.max_words == 384
        assert trainer.targets.formatter.format.abbreviations == ("ab3p" if name == "bc5cdr" else "keep")
