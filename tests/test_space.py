"""What the Space answers and how it starts; no server and no browser here."""

import io
import json
import re
import types
import urllib.error
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from space_world import (
    EXAMPLE,
    SPACE,
    examples,
    knowledge_base,
    markup,
    quickstart,
    records,
    reserved_port,
    service,
    settings,
    waiting,
)  # fmt: skip

from angel_trl import EntityLinker
from angel_trl.confidence import Calibration
from angel_trl.kb import Concept, KnowledgeBase

Service, VisitorError = service.Service, service.VisitorError


@pytest.fixture(scope="module")
def linkers(make_model, tokenizer):
    return [EntityLinker(make_model(seed), tokenizer, knowledge_base()) for seed in (0, 1)]


@pytest.fixture(scope="module")
def served(linkers):
    names = ("aspirin", "copper")
    pairs = {chosen: [service.Pair(1, chosen, other, -0.5) for other in names] for chosen in names}
    return Service(linkers[0], linkers[1], pairs)


@pytest.fixture(scope="module")
def page(served):
    return markup.Page(served.linker.kb)


# --- a visitor's text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "There is no text yet"),
        (" \n", "There is no text yet"),
        ("no mention", "No mention is marked"),
        ("a [b", "no partner"),
        ("a ] b", "no partner"),
        ("[a [b] c]", "no partner"),
        ("[]", "empty"),
        ("[ ] x", "nothing but blanks"),
    ],
)
def test_what_a_visitor_can_put_right_is_said(text, message):
    with pytest.raises(VisitorError, match=message):
        service.parse(text)


def test_a_long_text_is_cut_with_a_notice_and_never_within_a_mention():
    plain, spans, notices = service.parse("[a] " + "word " * 20_000)
    assert (len(plain), spans) == (settings.MAX_CHARACTERS - 2, [(0, 1)])
    assert notices == ["The text has 100,004 characters; the first 20,000 were used."]
    plain, spans, _ = service.parse("[a]" + " " * (settings.MAX_CHARACTERS - 5) + "[cut in two]")
    assert spans == [(0, 1)]
    assert "[" not in plain


def test_further_mentions_than_are_linked_at_once_are_left_out_with_a_notice():
    _, spans, notices = service.parse("[a] " * 1000)
    assert len(spans) == settings.MAX_MENTIONS
    assert notices == ["1,000 mentions are marked; the first 100 were linked. Batch takes more."]


def test_blank_brackets_are_left_out_with_a_notice():
    _, spans, notices = service.parse("[ ] and [b]")
    assert spans == [(6, 7)]
    assert notices == ["Brackets with nothing but blanks were left out: 1."]


def test_half_characters_are_replaced(served):
    assert service.clean("a\ud800b\udfff") == "a\ufffdb\ufffd"
    answer = served.answer("a \ud800 [b]")
    assert answer.text == "a \ufffd b"
    json.dumps(answer.text).encode()


def test_answers_are_those_of_the_linker(served):
    answer = served.answer(EXAMPLE)
    links = served.linker.link(EXAMPLE, exact=True, max_beams=200)
    assert list(answer.links) == links
    assert answer.text == "Copper in Wilson's disease is bound by penicillamine."


def test_answers_are_restricted_to_types_and_to_names_or_ids(served):
    chemicals = served.answer(EXAMPLE, types=["Chemical"])
    assert {i for link in chemicals.links for c in link.candidates for i in c.ids} == {"D010396", "D003300", "D001241"}
    both = served.answer(EXAMPLE, types=["Disease"], allowed=["Copper", "D003693", " delirium "])
    assert {i for link in both.links for c in link.candidates for i in c.ids} == {"D003693"}


@pytest.mark.parametrize(
    ("types", "allowed", "message"),
    [
        (["Gene"], [], "'Gene'"),
        ([], ["nothing like it"], "'nothing like it'"),
        (["Disease"], ["Copper"], "No name of the knowledge base"),
        ([], [f"x{n}" for n in range(1001)], "1,001 names or ids are given; at most 1,000"),
    ],
)
def test_a_restriction_that_cannot_be_met_is_said(served, types, allowed, message):
    with pytest.raises(VisitorError, match=message):
        served.answer(EXAMPLE, types=types, allowed=allowed)


def test_a_mention_longer_than_the_model_gets_no_answer_and_a_notice(served, page):
    answer = served.answer(f"[{'word ' * 300}] and [copper]")
    assert [bool(link.candidates) for link in answer.links] == [False, True]
    assert answer.notices == ("1 mention is too long for the model, without an answer.",)
    assert "no concept in this KB" in page.candidates(answer.links[0])
    with pytest.raises(VisitorError, match="too long"):
        served.explain(answer, 0)


def test_a_calibrated_model_abstains_below_the_threshold(make_model, tokenizer, page):
    linker = EntityLinker(make_model(), tokenizer, knowledge_base())
    linker.calibration = Calibration(1.0, -50.0, 0.0, 0.9, 10, 5, linker.targets.fingerprint, {})
    served = Service(linker)
    (sure,) = served.answer("[copper]").links
    assert 0 < sure.confidence < 1
    (link,) = served.answer("[copper]", threshold=1.0).links
    assert link.abstained
    assert "no concept in this KB" in page.passage(served.answer("[copper]", threshold=1.0))
    assert "below the threshold" in page.candidates(link)
    assert records.link_record(link, served)["id"] == ""
    assert len(records.link_record(link, served)["candidates"]) == 5
    with pytest.raises(VisitorError, match="between 0 and 1"):
        served.answer("[copper]", threshold=2.0)
    with pytest.raises(VisitorError, match="restricted"):
        served.answer("[copper]", types=["Disease"], threshold=0.5)


def test_a_threshold_for_a_model_without_confidences_is_refused(served):
    with pytest.raises(VisitorError, match="not calibrated"):
        served.answer("[copper]", threshold=0.5)


def test_a_tagger_marks_mentions(linkers):
    def tagger(text):
        return [{"start": 7, "end": 13, "entity_group": "X"}, {"start": 9, "end": 12, "entity_group": "X"}]

    served = Service(linkers[0], tagger=tagger)
    assert served.finds_mentions
    assert served.mark("[A] rare ataxia.") == "A rare [ataxia]."
    with pytest.raises(VisitorError, match="no text"):
        served.mark(" ")
    with pytest.raises(VisitorError, match="no mention"):
        Service(linkers[0], tagger=lambda text: []).mark("A rare ataxia.")


# --- before and after ------------------------------------------------------------------------------------------------


def test_before_and_after_are_the_two_models_answers_under_the_same_restriction(served, linkers):
    answer = served.answer(EXAMPLE, types=["Chemical"])
    compared = served.compare(answer, 1)
    assert compared.after == answer.links[1]
    assert compared.before == linkers[1].link(EXAMPLE, types=["Chemical"], exact=True, max_beams=200)[1]


def test_pairs_between_the_candidates_are_shown_with_how_often_they_were_mined(served, page):
    answer = served.answer("[aspirin]", allowed=["aspirin", "copper"])
    compared = served.compare(answer, 0)
    assert [(p.chosen, p.rejected, p.times) for p in compared.pairs if p.chosen != p.rejected] in (
        [("aspirin", "copper", 1), ("copper", "aspirin", 1)],
        [("copper", "aspirin", 1), ("aspirin", "copper", 1)],
    )
    drawn = page.comparison(compared)
    assert "Before" in drawn
    assert "−0.50" in drawn


def test_without_a_positive_only_model_there_is_a_hint(linkers, page):
    served = Service(linkers[0])
    assert served.compare(served.answer(EXAMPLE), 0) is None
    assert "ANGEL_POSITIVE_MODEL" in page.comparison(None)


def test_pairs_of_a_round_are_read_by_their_chosen_name(tmp_path):
    row = {"round": 0, "chosen": " copper", "rejected": " aspirin", "chosen_log_prob": -3.0, "rejected_log_prob": -1.0}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "round-000.parquet")
    assert service.read_pairs(str(tmp_path)) == {"copper": [service.Pair(1, "copper", "aspirin", -2.0)]}
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"ANGEL_PAIRS: .*other.parquet holds no pairs"):
        service.read_pairs(str(tmp_path))


# --- settings and starting -------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment():
    given = settings.Settings.from_environment({"ANGEL_MODEL": " user/model ", "ANGEL_THREADS": "2"})
    assert given == settings.Settings(model="user/model", threads=2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ANGEL_KB_URL": "kb.org/{id}"}, "ANGEL_KB_URL is 'kb.org/{id}'; give a web address"),
        ({"ANGEL_KB_URL": "https://kb.org/"}, "write {id} where"),
        ({"ANGEL_THREADS": "none"}, "ANGEL_THREADS is 'none'"),
        ({"ANGEL_EXAMPLES": "/no/such"}, "ANGEL_EXAMPLES is '/no/such', which is no file"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(environment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        settings.Settings.from_environment(environment)


def test_examples_are_those_given_or_made_from_names(tmp_path, served):
    made = examples.passages("", served.linker)
    assert made[0] == "The patient was seen for [Wilson Disease]."
    for text in made:
        assert served.answer(text).links
    (tmp_path / "e.txt").write_text("one [a]\nnone\ntwo [b]\n")
    assert examples.passages(str(tmp_path / "e.txt"), served.linker) == ["one [a]", "two [b]"]
    (tmp_path / "e.txt").write_text("none\n")
    with pytest.raises(ValueError, match="no line of"):
        examples.passages(str(tmp_path / "e.txt"), served.linker)


def test_the_recipes_progress_is_told_from_its_bars():
    lines = [
        "INFO recipes.angel: begins",
        "  1%|          | 2/162 [00:01<01:20,  2.00it/s]",
        "100%|██████████| 162/162 [01:20<00:00,  2.00it/s]",
        "  0%|          | 1/2208 [00:00<10:00,  2.00it/s]",
        " 50%|█████     | 1104/2208 [05:00<05:00,  2.00it/s]",
        " 50%|█████     | 6/13 [00:01<00:01,  6.00it/s]",
        "round 1/20: mining: 100%|██████████| 2000/2000 [00:06<00:00, 300it/s]",
        "100%|██████████| 2208/2208 [10:00<00:00,  2.00it/s]",
        "  0%|          | 0/1260 [00:00<?, ?it/s]",
        "100%|██████████| 1260/1260 [10:00<00:00,  2.00it/s]",
    ]
    told = list(quickstart.follow(io.StringIO("\n".join(lines))))
    assert told[0] == (0, 0.0, "INFO recipes.angel: begins")
    assert [stage for stage, _, _ in told] == [0, 0, 0, 1, 1, 1, 2, 2]
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert shares[4] == pytest.approx(0.12 + 0.2)
    assert shares[-1] == pytest.approx(1.0)


def test_a_run_that_goes_on_is_told_from_where_it_was():
    lines = ["INFO recipes.angel: begins", " 25%|██        | 552/2208 [00:00<10:00,  2.00it/s]"]
    told = list(quickstart.follow(io.StringIO("\n".join(lines)), 1))
    assert [(stage, round(done, 2)) for stage, done, _ in told] == [(1, 0.12), (1, 0.22)]


def test_without_model_and_recipe_it_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "RECIPE", tmp_path / "angel.py")
    with pytest.raises(quickstart.NoModelError, match="Set ANGEL_MODEL"):
        quickstart.ensure(tmp_path)


def test_a_recipe_that_fails_is_shown_with_its_last_lines(tmp_path, monkeypatch):
    (tmp_path / "angel.py").write_text("import sys\nsys.exit('no space left')\n")
    monkeypatch.setattr(quickstart, "RECIPE", tmp_path / "angel.py")
    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    with pytest.raises(quickstart.NoModelError, match="no space left"):
        quickstart.ensure(tmp_path / "run")


def test_examples_are_names_that_read_well_and_that_the_linker_knows():
    def link_batch(rows, top_k):
        assert all(row["text"][row["start"] : row["end"]] in names for row in rows)
        return [types.SimpleNamespace(answer=sure if row["text"].count("Rash") else None) for row in rows]

    names = ["Ache, very", "[a]", "Gout", "Ache of the whole of the body", "b]", "Ataxia", "Flu", "Rash", "Cough"]
    sure = types.SimpleNamespace(ids=("7",))
    kb = KnowledgeBase([Concept(str(place), (name,)) for place, name in enumerate(names)])
    assert examples.passages("", types.SimpleNamespace(kb=kb, link_batch=link_batch)) == [
        "The patient was seen for [Gout].",
        "There was no sign of [Ataxia], but [Rash] could not be excluded.",
    ]


def test_while_the_linker_is_trained_a_page_says_how_far_it_is(monkeypatch):
    with reserved_port() as port:
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        with waiting.page() as tell:
            tell("learning the names", 0.1234)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
                assert "<progress" in page.read().decode()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=60) as progress:
                assert json.load(progress) == {"stage": "learning the names", "done": 0.123}
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/app.py", timeout=60)
            with waiting.page() as without_page:  # the port is taken
                without_page("learning the names", 0.2)
        with waiting.page():  # it was made room
            pass


def test_a_recipe_that_runs_tells_how_far_it_is(tmp_path, monkeypatch):
    done = "for stage in ('positive', 'linker'):\n    pathlib.Path(sys.argv[4], stage).mkdir(parents=True)\n"
    done += "    pathlib.Path(sys.argv[4], stage, 'angel.json').touch()\n"
    bar = "sys.stderr.write('\\r 50%|#####     | 100/200 [00:01<00:01, 99.9it/s]\\n')\n"
    (tmp_path / "angel.py").write_text(f"import pathlib\nimport sys\n{bar}{done}")
    monkeypatch.setattr(quickstart, "RECIPE", tmp_path / "angel.py")
    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    told = []
    quickstart.ensure(tmp_path / "run", lambda stage, done: told.append((stage, done)))
    assert told == [("learning the names", pytest.approx(0.06))]
    quickstart.ensure(tmp_path / "run", lambda stage, done: pytest.fail("it is done"))


def test_where_there_is_nothing_to_compare_there_is_no_tab_for_it(linkers):
    pytest.importorskip("gradio", reason="pip install -c constraints.txt -e '.[space]' lets the test run")
    from interface import Demo

    def tabs(served):
        blocks = Demo(served, markup.Page(served.linker.kb), [EXAMPLE], "model").blocks
        parts = [part["props"] for part in blocks.get_config_file()["components"] if part["type"] == "tabitem"]
        return {part["label"]: part["visible"] for part in parts}

    assert tabs(Service(*linkers)) == {"Link": True, "Why": True, "Before and after": True, "Batch": True}
    assert not tabs(Service(linkers[0]))["Before and after"]


def test_only_the_public_interface_is_imported():
    for path in SPACE.glob("*.py"):
        for module, names in re.findall(r"^ *from angel_trl(\S*) import (.+)$", path.read_text(), re.MULTILINE):
            assert "._" not in module
            assert not re.search(r"(^|, )_", names)


def test_the_readme_has_the_front_matter_of_a_space():
    from huggingface_hub import SpaceCard

    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio"
    assert (SPACE / card.data.app_file).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", card.data.sdk_version)
    assert len(card.data.short_description) <= 60
    assert card.data.license == "apache-2.0"
