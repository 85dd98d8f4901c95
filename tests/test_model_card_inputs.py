"""What a linker's card is given: nothing in it that a name, a path or a token can break, and nothing private."""

import re
from pathlib import Path

import pytest
from card_world import NASTY, RESULTS, metadata, passed_by_the_hub, row
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from angel_trl import Concept, KnowledgeBase, MentionFormat
from angel_trl.card_parts import escape, fence, public, redact
from angel_trl.model_card import LinkerFacts, Stated, linker_card, public_results

pytest_plugins = ["card_world"]

HUB_DATASET_TYPE = re.compile(r"(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_.-]+")


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
    assert passed_by_the_hub(cards, tmp_path) == [metadata(card) for card in cards]
    scores = ModelCard(str(cards[1])).data.eval_results
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
