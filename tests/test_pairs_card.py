"""The card of mined pairs: metadata that `load_dataset` follows, true counts, and nothing that a name can break."""

import re

import pytest
import yaml
from datasets import Dataset, load_dataset

from angel_trl.mining import PAIR_FEATURES
from angel_trl.pairs_card import pairs_card

NASTY = "a|b `c` *d* <script>\n---\n# {{ e }} {% f %} [g](h)"


def write(path, *pairs):
    """A file of pairs, each given by the place of its mention, the rank of the right name and both log-probabilities.

    The other columns hold what does not matter here.
    """
    known = ("mention_place", "chosen_rank", "chosen_log_prob", "rejected_log_prob")
    columns = {name: [pair[place] for pair in pairs] for place, name in enumerate(known)}
    plain = {"string": "x", "int32": 0, "int64": 0, "float32": 0.0}
    for name, kind in PAIR_FEATURES.items():
        columns.setdefault(name, [plain.get(getattr(kind, "dtype", ""), ["C1"])] * len(pairs))
    Dataset.from_dict(columns, features=PAIR_FEATURES).to_parquet(path)
    return path


@pytest.fixture
def rounds(tmp_path):
    """Two rounds, the second without a pair."""
    (tmp_path / "data").mkdir()
    first = [(0, 0, -1.0, -2.0), (1, 2, -3.0, -2.5), (1, 2, -3.0, -2.0), (4, -1, -9.0, -1.0)]
    return {
        "round-01": write(tmp_path / "data" / "round-01.parquet", *first),
        "round-02": write(tmp_path / "data" / "round-02.parquet"),
    }


def metadata(card):
    _, block, _ = re.split(r"^---$", str(card), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(block)


def test_each_round_with_pairs_is_a_configuration(rounds):
    made = metadata(pairs_card(rounds, repo_id="user/pairs", license="CC0-1.0", language="en"))
    features = made.pop("dataset_info")
    assert [of["config_name"] for of in features] == ["round-01"]
    assert {"name": "chosen_concept_ids", "list": "string"} in features[0]["features"]
    assert made == {
        "language": "en",
        "license": "cc0-1.0",
        "pretty_name": "user/pairs",
        "tags": ["angel_trl", "entity-linking", "preference", "dpo"],
        "configs": [{"config_name": "round-01", "data_files": [{"split": "train", "path": "data/round-01.parquet"}]}],
    }


def test_rounds_are_counted(rounds):
    text = str(pairs_card(rounds, repo_id="user/pairs", model_id="user/model"))
    assert "4 pairs of a right and a wrong name for a mention, mined in 2 rounds" in text
    assert "training of [user/model](https://huggingface.co/user/model)." in text
    assert 'load_dataset("user/pairs", "round-01", split="train")' in text
    assert "| `round-01` | 4 | 3 | 1 | 2 | 1 | -2.12 |" in text
    assert "| `round-02` | 0 | 0 | 0 | 0 | 0 |  |" in text


def test_every_column_is_explained(rounds):
    text = str(pairs_card(rounds))
    assert re.findall(r"^\| `(\w+)` \| (?:string|int|float|list)", text, re.MULTILINE) == list(PAIR_FEATURES)


def test_a_round_is_loaded_by_its_name(rounds, tmp_path):
    pairs_card(rounds).save(tmp_path / "README.md")
    loaded = load_dataset(str(tmp_path), "round-01", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == PAIR_FEATURES
    assert loaded["mention_place"][:] == [0, 1, 1, 4]


def test_sources_licences_settings_and_command_are_told(rounds):
    text = str(
        pairs_card(
            rounds,
            license="NLM terms",
            kb_license="mit",
            kb_id="user/kb",
            datasets=["user/mentions"],
            settings={"num_beams": 10},
            command="accelerate launch recipes/angel.py --hub_token hf_" + "x" * 34,
        )
    )
    assert "Corpus: [user/mentions](https://huggingface.co/datasets/user/mentions)" in text
    assert "Knowledge base: [user/kb](https://huggingface.co/datasets/user/kb)" in text
    assert "Licence of the corpus, as stated by who prepared this: NLM terms" in text
    assert "Licence of the knowledge base, as stated by who prepared this: mit" in text
    assert "| `num_beams` | `10` |" in text
    assert "accelerate launch recipes/angel.py --hub_token hf_***" in text
    assert "xxx" not in text


def test_nothing_is_made_up(rounds):
    text = str(pairs_card(rounds))
    assert "Licence of the corpus: not stated." in text
    assert "Corpus: " not in text
    assert "license" not in metadata(text)


def test_what_users_say_cannot_break_the_card(rounds):
    card = pairs_card(rounds, corpus=NASTY, license=NASTY, kb_license=NASTY, command=NASTY)
    assert metadata(card)["license"] == "other"
    assert "<script>" not in re.sub(r"^```.*?^```", "", str(card), flags=re.DOTALL | re.MULTILINE).replace("\\<", "")


def test_without_pairs_there_is_no_card(rounds):
    del rounds["round-01"]
    with pytest.raises(ValueError, match="no pairs to make a card of in 1 rounds"):
        pairs_card(rounds)
