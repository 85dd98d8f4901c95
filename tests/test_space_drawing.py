"""How the Space draws its answers: everything escaped, everything said in words."""

import html
import re

import pytest
from space_world import EXAMPLE, knowledge_base, markup, service, tree_svg

from angel_trl import EntityLinker
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linked import Candidate, Linked

HOSTILE = "<script>alert(1)</script> **b** ${1+1} {{x}} \u202eevil\u202c \x00\x07 😀 مرحبا &amp;"


@pytest.fixture(scope="module")
def served(make_model, tokenizer):
    linkers = [EntityLinker(make_model(seed), tokenizer, knowledge_base()) for seed in (0, 1)]
    return service.Service(*linkers)


@pytest.fixture(scope="module")
def page(served):
    return markup.Page(served.linker.kb)


def test_any_text_is_shown_as_text(served, page):
    answer = served.answer(f"{HOSTILE} [{HOSTILE}] {HOSTILE}")
    for drawn in (
        page.passage(answer),
        page.candidates(answer.links[0]),
        page.comparison(served.compare(answer, 0)),
        tree_svg.view(served.explain(answer, 0)),
        markup.notices([HOSTILE]),
    ):
        assert not re.search(r"<(script|img)", drawn)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", drawn)
    shown = html.unescape(re.sub(r"<[^>]*>", "", page.passage(answer)))
    assert shown.count("<script>alert(1)</script> **b** ${1+1} {{x}} \ufffdevil\ufffd ␀␇ 😀 مرحبا &amp;") == 3


def test_names_of_the_knowledge_base_are_shown_as_text(served, page):
    answer = served.answer("[x]", allowed=["X:1"])
    assert answer.links[0].name == "<img src=x onerror=alert(1)>"
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.candidates(answer.links[0])
    assert "<img" not in page.candidates(answer.links[0]) + page.passage(answer)


def test_each_mention_is_a_button_with_its_concept(served, page):
    drawn = page.passage(served.answer(EXAMPLE), chosen=1)
    buttons = re.findall(r'<span class="mention"[^>]*>', drawn)
    assert len(buttons) == 2
    assert all('role="button" tabindex="0"' in button for button in buttons)
    assert ['aria-pressed="true"' in button for button in buttons] == [False, True]


@pytest.mark.parametrize(
    ("concept_id", "page"),
    [
        ("D006527", "https://meshb.nlm.nih.gov/record/ui?ui=D006527"),
        ("MESH:C535468", "https://meshb.nlm.nih.gov/record/ui?ui=C535468"),
        ("C0019202", "https://uts.nlm.nih.gov/uts/umls/concept/C0019202"),
        ("OMIM:277900", "https://omim.org/entry/277900"),
        ("HP:0001250", "https://hpo.jax.org/browse/term/HP:0001250"),
        ("SYN:D0001", None),
        ("277900", None),
        ("javascript:alert(1)", None),
    ],
)
def test_ids_of_known_knowledge_bases_have_a_page(concept_id, page):
    assert markup.page_of(concept_id) == page


def test_a_page_can_be_given_by_a_pattern():
    assert markup.page_of('a"b/c', "https://kb.org/{id}") == "https://kb.org/a%22b%2Fc"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "50.0 %"),
        (1.0, "> 99.9 %"),
        (0.9999, "> 99.9 %"),
        (0.001, "0.1 %"),
        (0.0004, "0.04 %"),
        (0.000002, "0.0002 %"),
        (0.0, "< 0.0001 %"),
    ],
)
def test_probabilities_never_look_surer_than_they_are(value, text):
    assert markup.percent(value) == text


def test_whether_a_list_is_exact_is_said_in_words(page):
    candidate = Candidate(("D003300",), "Copper", "copper", -0.1, -0.1)
    assert "✓ exact" in page.candidates(Linked("cu", 0, 2, (candidate,), True))
    assert "not proven" in page.candidates(Linked("cu", 0, 2, (candidate,), False))


def test_under_a_restriction_only_what_is_allowed_is_compared(served, page):
    drawn = page.candidates(served.answer("[cu]", allowed=["Copper"]).links[0], restricted=True)
    assert "no other name that is allowed is likelier" in drawn


def test_a_knowledge_base_without_types_has_no_column_for_them(page):
    candidate = Candidate(("D003300",), "Copper", "copper", -0.1, -0.1)
    link = Linked("cu", 0, 2, (candidate,), True)
    assert ">Type<" in page.candidates(link)
    assert "Type" not in markup.Page(KnowledgeBase([Concept("D003300", ("Copper",))])).candidates(link)


def test_what_is_not_given_as_an_answer_does_not_look_like_one(page):
    candidate = Candidate(("D003300",), "Copper", "copper", -0.1, -0.1)
    assert 'class="best"' in page.candidates(Linked("cu", 0, 2, (candidate,), True, 0.4, False))
    assert 'class="best"' not in page.candidates(Linked("cu", 0, 2, (candidate,), True, 0.4, True))


def test_an_abstention_is_no_change_that_the_rounds_made(page):
    candidate = Candidate(("D003300",), "Copper", "copper", -0.1, -0.1)
    before, after = (Linked("cu", 0, 2, (candidate,), True, 0.4, abstained) for abstained in (False, True))
    drawn = page.comparison(service.Comparison(before, after, ()))
    assert "Both stages agree" in drawn
    assert "below the threshold, so it is not given" in drawn


def test_the_way_to_the_answer_is_a_straight_line_along_the_top(served):
    drawn = tree_svg.draw(served.explain(served.answer("[MS] and [copper]"), 0))
    at = r'<rect x="[\d.]+" y="([\d.]+)"'
    heights = re.findall(rf'class="node win">(?:<title>[^<]*</title>)?{at}', drawn)
    assert len(heights) >= 2
    assert set(map(float, heights)) == {min(map(float, re.findall(at, drawn)))}


def test_the_tree_shows_the_way_to_the_answer_and_what_was_given_up(served):
    explained = served.explain(served.answer(EXAMPLE), 0)
    drawn = tree_svg.view(explained)
    assert drawn.count('<path class="line win"') == len(explained.path)
    assert drawn.count('<g class="node win"') == len(explained.path) + 1
    for branch in explained.path:
        assert f">{branch.log_prob:z.2f}<".replace("-", "−") in drawn
    for name in explained.names:
        assert f"{name.rank + 1}. {markup.percent(2.718281828**name.score)}".replace("<", "&lt;") in drawn
    assert 'class="line cut"' in drawn
    assert html.unescape(drawn).count(explained.to_text(2)) == 1
