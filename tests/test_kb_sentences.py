"""Sentences made from a knowledge base: what each kind says, what it tells of the answer, and what noise does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.kb_sentences import SentenceMaker, misspell, short_form

KB = KnowledgeBase(
    [
        Concept(
            "A", ("Wilson Disease", "Hepatolenticular Degeneration"), types=("rare_disease",), definition="Copper {x}."
        ),
        Concept("B", ("Gout",)),
    ]
)


def sentences(name, count=300, **settings):
    maker = SentenceMaker(KB, **{"noise": 0.0, "context": 1.0, **settings})
    return [maker.make(KB.find(name), random.Random(seed)) for seed in range(count)]


def texts(made):
    return {f"{one.text[: one.start]}[{one.text[one.start : one.end]}]{one.text[one.end :]}" for one in made}


def test_a_sentence_of_every_kind_is_made_of_what_is_known():
    found = texts(sentences("Wilson Disease"))
    assert {
        "[wilson disease] was seen .",
        "[wilson disease] is defined as Copper {x}.",
        "Copper {x}. this is called [wilson disease] .",
        "like any other rare disease , [wilson disease] is rare .",
        "hepatolenticular degeneration ( [wilson disease] ) was seen .",
        "[wilson disease] and gout .",
        "wilson disease ( wd ) . here we report on [wd] .",
    } <= found


def test_what_is_not_known_is_not_told():
    found = texts(sentences("Gout"))
    assert "[gout] was seen ." in found
    assert not any(word in text for text in found for word in ("defined", "known as", "( [", "rare", " sf"))
    assert {one.shown for one in sentences("Gout")} == {()}


def test_the_synonym_told_is_marked_as_shown():
    degeneration = KB.find("hepatolenticular degeneration")
    for one in sentences("Wilson Disease"):
        assert one.shown == ((degeneration,) if "hepatolenticular degeneration" in one.text else ())


def test_context_is_the_share_of_mentions_in_a_sentence():
    alone = sum(one.text == "gout" for one in sentences("Gout", 1000, context=0.3))
    assert 650 < alone < 750
    assert texts(sentences("Gout", context=0.0)) == {"[gout]"}


def test_noise_changes_the_mention_and_not_the_sentence_nor_short_forms():
    made = sentences("Wilson Disease", noise=1.0)
    mentions = [one.text[one.start : one.end] for one in made]
    short = [one for one in made if "wilson disease (" in one.text or one.text.startswith("in wilson disease or")]
    assert {one.text[one.start : one.end] for one in short} == {"wd"}
    assert sum(mention == "wilson disease" for mention in mentions) <= 9
    assert not any("hepatolenticular" in one.text and "degeneration" not in one.text for one in made)


@pytest.mark.parametrize("share", ["noise", "context"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share, value):
    with pytest.raises(ValueError, match=f"{share} is {value}"):
        SentenceMaker(KB, **{share: value})


@pytest.mark.parametrize(
    ("name", "short"),
    [("wilson disease", "wd"), ("diabetes mellitus type 12", "dmt12"), ("gout", "g"), ("β thalassemia", "βt")],
)
def test_a_short_form_has_first_letters_and_whole_numbers(name, short):
    assert short_form(name) == short


@given(st.lists(st.text("abβ", min_size=1, max_size=4), min_size=1, max_size=4).map(" ".join), st.integers(0, 10**6))
def test_a_misspelled_name_is_never_blank_and_changes_little(name, seed):
    changed = misspell(name, random.Random(seed))
    assert changed.strip()
    assert abs(len(changed) - len(name)) <= max(1, max(len(word) + 1 for word in name.split()))
    assert abs(len(changed.split()) - len(name.split())) <= 1


@given(st.lists(st.sampled_from(["12", "b", "2a", "type"]), min_size=1, max_size=5), st.integers(0, 10**6))
def test_numbers_and_single_letters_are_kept(words, seed):
    changed = misspell(" ".join(words), random.Random(seed)).split()
    kept = [word for word in words if word != "type"]
    assert sorted(word for word in changed if word in ("12", "b", "2a")) == sorted(kept)


def test_no_change_makes_another_name():
    names = ("familial breast cancer", "breast cancer", "familial cancer", "familial breast")
    kb = KnowledgeBase([Concept(str(number), (name,)) for number, name in enumerate(names)])
    maker = SentenceMaker(kb, noise=1.0, context=0.0)
    made = {maker.make(0, random.Random(seed)).text for seed in range(300)}
    assert made.isdisjoint(names[1:])
    assert "familial breast cancer" in made
    assert len(made) > 50


@given(
    st.lists(
        st.builds(
            Concept,
            st.uuids().map(str),
            st.lists(st.text("ab{}%1 ", min_size=1, max_size=9).map("x{}".format), min_size=1, max_size=3).map(tuple),
            types=st.lists(st.text("{a}_", min_size=1), max_size=1).map(tuple),
            definition=st.text("{a} .", max_size=9),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda concept: concept.id,
    ),
    st.integers(0, 99),
)
def test_any_strings_make_sentences_around_their_mention(concepts, seed):
    kb = KnowledgeBase(concepts, normalization="none")
    for name in range(kb.num_names):
        made = SentenceMaker(kb, noise=0.0, context=1.0).make(name, random.Random(seed))
        assert made.text[made.start : made.end] in (kb.names[name], short_form(kb.names[name]))
