"""How the Space draws its answers: everything escaped, everything said in words."""

import html
import re

import pytest
from space_world import EXAMPLE, knowledge_base, markup, service, tree_svg

from angel_trl import EntityLinker
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
    ("value", "text"), [(0.5, "50.0 %"), (1.0, "> 99.9 %"), (0.9999, "> 99.9 %"), (0.0, "< 0.1 %"), (0.001, "0.1 %")]
)
def test_probabilities_never_look_surer_than_they_are(value, text):
    assert markup.percent(value) == text


def test_whether_a_list_is_exact_is_said_in_words(page):
    candidate = Candidate(("D003300",), "Copper", "copper", -0.1, -0.1)
    assert "✓ exact" in page.candidates(Linked("cu", 0, 2, (candidate,), True))
    assert "not proven" in page.candidates(Linked("cu", 0, 2, (candidate,), False))


def test_the_tree_shows_the_way_to_the_answer_and_what_was_given_up(served):
    explained = served.explain(served.answer(EXAMPLE), 0)
    drawn = tree_svg.view(explained)
    assert drawn.count('<path class="line win"') == len(explained.path)
    assert drawn.count('<g class="node win"') == len(explained.path) + 1
    for branch in explained.path:
        assert f">{branch.log_prob:.2f}<".replace("-", "−") in drawn
    for name in explained.names:
        assert f"{name.rank + 1}. {markup.percent(2.718281828**name.score)}".replace("<", "&lt;") in drawn
    assert 'class="line cut"' in drawn
    assert html.unescape(drawn).count(explained.to_text(2)) == 1
