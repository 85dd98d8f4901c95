"""The cards of what is published: valid metadata, true counts, and nothing that a name or a path can break."""

import re
from pathlib import Path

import pytest
from card_world import metadata, passed_by_the_hub
from datasets import DatasetDict, load_dataset
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from angel_trl import Concept, KnowledgeBase
from angel_trl.card_parts import HUB_LICENSES, escape, fence, license_metadata, license_text, place, read_account
from angel_trl.cards import knowledge_base_card, mention_dataset_card
from angel_trl.readers import ReadReport

NASTY = "a|b `c` *d* <script>\n---\n# {{ e }} {% f %} [g](h) \x00 $i$ 'j' \"k\": l"


@pytest.fixture(scope="module")
def splits(small_mentions):
    return DatasetDict(
        {
            split: small_mentions.filter(lambda row, split=split: row["split"] == split, load_from_cache_file=False)
            for split in ("train", "dev")
        }
    )


def test_knowledge_base_card_has_the_metadata_of_a_dataset(small_kb):
    assert metadata(knowledge_base_card(small_kb, license="CC-BY-4.0", repo_id="user/kb", language="en")) == {
        "language": "en",
        "license": "cc-by-4.0",
        "pretty_name": "user/kb",
        "size_categories": "n<1K",
        "tags": ["angel_trl", "entity-linking", "knowledge-base"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": ["kb.parquet"]}]}],
        "dataset_info": {
            "features": [
                {"name": "id", "dtype": "string"},
                {"name": "names", "list": "string"},
                {"name": "alternate_ids", "list": "string"},
                {"name": "types", "list": "string"},
                {"name": "definition", "dtype": "string"},
            ]
        },
    }


def test_knowledge_base_card_has_the_counts(small_kb):
    text = knowledge_base_card(small_kb, repo_id="user/kb").text
    for line in (
        'kb = KnowledgeBase.from_pretrained("user/kb")',
        'concepts = load_dataset("user/kb", split="train")',
        "| concepts | 30 |",
        f"| distinct names, once normalised | {small_kb.num_names} |",
        "| homonyms (names of several concepts) | 4 |",
        "| `names` | list of strings |",
        small_kb.fingerprint,
        "not for clinical decisions",
    ):
        assert line in text


def test_mention_card_has_the_metadata_of_its_files(splits, small_kb):
    card = metadata(mention_dataset_card(splits, kb=small_kb, source="tests"))
    assert card["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*"},
                {"split": "dev", "path": "data/dev-*"},
            ],
        }
    ]
    assert {"name": "concept_ids", "list": {"list": "string"}} in card["dataset_info"]["features"]
    assert not {"license", "language"} & set(card)


def test_mention_card_has_the_counts_of_each_split(splits, small_kb):
    text = mention_dataset_card(splits, kb=small_kb, kb_id="user/kb", repo_id="user/mentions").text
    for line in (
        "24 mentions of concepts in 12 documents",
        "ids of [user/kb](https://huggingface.co/datasets/user/kb).",
        'mentions = load_dataset("user/mentions")  # splits: train, dev',
        'read_corpus("user/mentions")',
        "|  | train | dev |",
        "| mentions | 16 | 8 |",
        "| composite mentions (several parts) | 1 | 0 |",
        "| labels that are alternate ids of several concepts | 1 | 0 |",
        "| labels not in the knowledge base | 0 | 0 |",
        "Licence: not stated.",
    ):
        assert line in text
    assert "for instance" not in text


def test_mention_card_names_labels_that_the_knowledge_base_lacks(splits):
    kb = KnowledgeBase([Concept("C01", ("Cold",))], source="half")
    text = mention_dataset_card(splits, kb=kb).text
    assert "Labels not in the knowledge base, for instance: C02: 1:14-18\\#2" not in text
    assert "for instance: C02: 1:14-18#2 'COLD'; C03: 2:10-12#1 'MS';" in text


def test_mention_card_without_knowledge_base_says_nothing_of_one(splits):
    text = mention_dataset_card(splits, repo_id="user/mentions").text
    assert "labels that are primary ids" not in text
    assert "The labels are ids of" not in text


def test_what_reading_did_is_told_with_places_without_folders(small_kb):
    report = ReadReport()
    report.use()
    report.skip("no name", "/home/someone/kb/terms.txt:7 'D|1'", "Add one.")
    report.repair("blank | around id", "terms.txt:3 a/b:2")
    kb = KnowledgeBase(small_kb.concepts, source="terms.txt")
    kb.read_report = report
    text = knowledge_base_card(kb).text
    assert "1 of 2 records of the source were used." in text
    assert "| left out | no name | 1 | terms.txt:7 'D\\|1' |" in text
    assert "| repaired | blank \\| around id | 1 | terms.txt:3 a/b:2 |" in text
    assert "someone" not in text
    assert read_account(None) == ""
    assert read_account(ReadReport(read=3, used=3).to_dict()).endswith("Nothing was repaired.")


def test_text_of_users_breaks_neither_metadata_nor_text(splits, small_kb):
    kb = KnowledgeBase([Concept(NASTY, (NASTY,)), *small_kb.concepts], source=NASTY)
    for card in (
        knowledge_base_card(kb, license=NASTY, command=f"x ``` {NASTY}", repo_id=None),
        mention_dataset_card(splits, kb=kb, source=NASTY, license=NASTY, command=NASTY),
    ):
        again = DatasetCard(str(card))
        assert again.data.to_dict() == metadata(card)
        assert again.data["tags"][:2] == ["angel_trl", "entity-linking"]
        assert again.data["license"] == "other"
        assert re.fullmatch(r"[a-z0-9.-]+", again.data["license_name"])
        assert "{{ e }}" in card.text, "not taken for a template"
        outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card.text)
        assert "<script>" not in outside.replace("\\<script\\>", "")
        assert [line for line in outside.splitlines() if re.match("# ", line)] == [f"# {escape(NASTY)}"]
        rows = [re.split(r"(?<!\\)\|", line) for line in outside.splitlines() if line.startswith("|")]
        assert {len(row) for row in rows} <= {4, 5, 6}


@given(st.text())
def test_any_text_is_one_cell_of_a_table(text):
    cell = escape(text)
    assert len(cell.splitlines()) <= 1
    assert re.search(r"(?<!\\)(\\\\)*[|<`]", cell) is None


@given(st.text(alphabet="`a\n ", max_size=30))
def test_a_code_block_ends_where_its_text_does(text):
    marks = re.match("`+", fence(text, "bash"))[0]
    assert marks not in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ("  ", {}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("cc by 4.0", {"license": "cc-by-4.0"}),
        ("openrail++", {"license": "openrail++"}),
        ("cc0-1.0 https://creativecommons.org/publicdomain/zero/1.0/", {"license": "cc0-1.0"}),
        ("unknown", {"license": "unknown"}),
        ("other", {"license": "other"}),
        ("UMLS Metathesaurus Licence", {"license": "other", "license_name": "umls-metathesaurus-licence"}),
        (
            "CTD terms (https://ctdbase.org/about/legal.jsp)",
            {
                "license": "other",
                "license_name": "ctd-terms",
                "license_link": "https://ctdbase.org/about/legal.jsp",
            },
        ),
        ("https://example.org/terms", {"license": "other", "license_link": "https://example.org/terms"}),
        ("許諾", {"license": "other"}),
    ],
)
def test_a_licence_is_stated_as_it_was_given(given, expected):
    assert license_metadata(given) == expected
    assert set(license_metadata(given).values()) & HUB_LICENSES or not expected


def test_no_licence_is_made_up():
    assert license_text(None).startswith("Licence: not stated.")
    assert license_text("CC-BY-4.0") == "Licence, as stated by who prepared this: CC-BY-4.0"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("/home/a/kb.txt:12 'D1|a/b:3'", "kb.txt:12 'D1|a/b:3'"),
        ("/home/a b/my kb.txt:12", "my kb.txt:12"),
        ("kb.txt:12 x/y:3", "kb.txt:12 x/y:3"),
        ("corpus/train/1.ann:3 T1", "1.ann:3 T1"),
        ("/home/a/SOURCE.txt", "SOURCE.txt"),
        ("hf://datasets/user/name/kb.obo:3 'HP:1'", "kb.obo:3 'HP:1'"),
        ("row 7", "row 7"),
    ],
)
def test_a_place_is_told_without_its_folders(where, expected):
    assert place(where) == expected


def test_datasets_loads_what_the_cards_describe(tmp_path, splits, small_kb):
    (tmp_path / "mentions" / "data").mkdir(parents=True)
    for split, dataset in splits.items():
        dataset.to_parquet(tmp_path / "mentions" / "data" / f"{split}-00000-of-00001.parquet")
    mention_dataset_card(splits, kb=small_kb).save(tmp_path / "mentions" / "README.md")
    small_kb.save_pretrained(tmp_path / "kb")
    mentions = load_dataset(str(tmp_path / "mentions"), cache_dir=tmp_path / "cache")
    concepts = load_dataset(str(tmp_path / "kb"), split="train", cache_dir=tmp_path / "cache")
    assert {split: dataset[:] for split, dataset in mentions.items()} == {s: splits[s][:] for s in ("train", "dev")}
    assert mentions["train"].features == splits["train"].features
    assert concepts["names"] == [list(concept.names) for concept in small_kb.concepts]


def test_the_hub_s_own_check_passes(tmp_path, splits, small_kb):
    cards = [
        knowledge_base_card(small_kb, license=NASTY, source=NASTY),
        mention_dataset_card(splits, kb=small_kb, license="mit"),
    ]
    assert passed_by_the_hub(cards, tmp_path) == [metadata(card) for card in cards]


def test_cards_name_the_versions_and_not_this_machine(small_kb):
    text = str(knowledge_base_card(small_kb))
    assert "With angel\\_trl 0." in text
    assert str(Path.home()) + "/" not in text
