"""How mentions are marked, by offsets or by a recogniser, and what one request may restrict."""

import logging

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, TokenClassificationPipeline

from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linked import Candidate, Linked, recognized_spans
from angel_trl.linker import EntityLinker

TEXT = "Acute gout [or podagra] and fever."
GOUT, PODAGRA, FEVER = (6, 10), (15, 22), (28, 33)


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb)


def test_spans_index_the_text_as_it_is_brackets_included(linker):
    linked = linker.link(TEXT, spans=[GOUT, PODAGRA, FEVER])
    assert [(one.mention, one.start, one.end) for one in linked] == [
        ("gout", 6, 10),
        ("podagra", 15, 22),
        ("fever", 28, 33),
    ]
    assert linked == linker.link_batch([{"text": TEXT, "start": s, "end": e} for s, e in (GOUT, PODAGRA, FEVER)])


def test_spans_may_overlap_repeat_and_stand_in_any_order(linker):
    linked = linker.link(TEXT, spans=[FEVER, (0, 10), GOUT, FEVER])
    assert [one.mention for one in linked] == ["fever", "Acute gout", "gout", "fever"]
    assert linked[0].candidates == linked[3].candidates


def test_no_spans_give_no_results(linker):
    assert linker.link(TEXT, spans=[]) == []
    assert linker.link(TEXT, ner=lambda text: []) == []


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((-1, 3), r"spans\[1\]: offsets -1-3 do not lie in a text of 34 characters"),
        ((3, 35), r"spans\[1\]: offsets 3-35 do not lie in a text"),
        ((5, 5), r"spans\[1\]: offsets 5-5 do not lie in a text"),
        ((5, 6), r"spans\[1\]: offsets 5-6 mark nothing but blanks"),
        ((1.0, 3.0), r"spans\[1\]: \(1.0, 3.0\) is not a pair of offsets"),
        ((1, 2, 3), r"spans\[1\]: \(1, 2, 3\) is not a pair of offsets"),
        (7, r"spans\[1\]: 7 is not a pair of offsets"),
    ],
)
def test_a_span_that_marks_nothing_is_named(linker, span, message):
    with pytest.raises(ValueError, match=message):
        linker.link(TEXT, spans=[GOUT, span])


def test_offsets_of_numpy_become_plain_integers(linker):
    [linked] = linker.link(TEXT, spans=[np.array(GOUT)])
    assert (type(linked.start), linked.start) == (int, 6)


def test_spans_and_ner_exclude_each_other(linker):
    with pytest.raises(ValueError, match="spans and ner were both given"):
        linker.link(TEXT, spans=[GOUT], ner=lambda text: [])


def test_a_text_that_is_not_a_string_is_named(linker):
    with pytest.raises(ValueError, match="text is a list, .*give a string, or rows to link_batch"):
        linker.link([TEXT])
    with pytest.raises(ValueError, match="mention 1: text is a NoneType"):
        linker.link_batch([{"text": "gout", "start": 0, "end": 4}, {"text": None, "start": 0, "end": 4}])
    with pytest.raises(ValueError, match="mention 0 has no end, text; it needs text, start and end"):
        linker.link_batch([{"start": 0}])


# --- recognisers -----------------------------------------------------------------------------------------------------


def test_a_function_may_find_the_mentions(linker):
    def ner(text):
        assert text == TEXT
        yield {"start": 6, "end": 10, "entity_group": "Disease", "word": "gout", "score": np.float32(0.9)}
        yield {"start": np.int64(28), "end": np.int64(33)}

    assert linker.link(TEXT, ner=ner) == linker.link(TEXT, spans=[GOUT, FEVER])


def test_blanks_around_what_a_recogniser_finds_are_left_out(caplog):
    found = [{"start": 5, "end": 11}, {"start": 5, "end": 6}]
    with caplog.at_level(logging.WARNING):
        assert recognized_spans(TEXT, lambda text: found) == [GOUT]
    assert "ner found ' ' at 5-6, nothing but blanks: left out" in caplog.text


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("gout", "ner gave 'g', not a mapping with start and end"),
        ([(6, 10)], r"ner gave \(6, 10\), not a mapping"),
        ([{"start": None, "end": None, "word": "gout"}], "with a fast tokenizer"),
        ([{"start": 6, "end": 8, "index": 2, "entity": "B-D", "word": "go"}], "aggregation_strategy='simple'"),
        ([{"start": 6, "end": 99}], "ner: offsets 6-99 do not lie in a text of 34 characters"),
    ],
)
def test_what_a_recogniser_may_not_give_is_named(found, message):
    with pytest.raises(ValueError, match=message):
        recognized_spans(TEXT, lambda text: found)


@pytest.fixture(scope="module")
def recognizer(tokenizer):
    """A random token classifier in transformers' own pipeline, as which `ner` is given."""
    torch.manual_seed(3)
    labels = {0: "O", 1: "B-Disease", 2: "I-Disease"}
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label=labels, label2id={name: number for number, name in labels.items()}, initializer_range=1.0,
    )  # fmt: skip
    model = BertForTokenClassification(config).eval()

    def make(aggregation):
        return TokenClassificationPipeline(
            model=model, tokenizer=tokenizer, device=-1, aggregation_strategy=aggregation
        )

    return make


def test_a_token_classification_pipeline_finds_the_mentions(linker, recognizer):
    pipeline = recognizer("simple")
    found = pipeline(TEXT)
    assert found
    assert set(found[0]) >= {"start", "end", "entity_group"}
    linked = linker.link(TEXT, ner=pipeline)
    assert [one.mention for one in linked] == [TEXT[one["start"] : one["end"]].strip() for one in found]


def test_a_pipeline_that_gives_single_tokens_is_refused(linker, recognizer):
    with pytest.raises(ValueError, match="Make the pipeline put tokens together"):
        linker.link(TEXT, ner=recognizer("none"))


# --- one request -----------------------------------------------------------------------------------------------------


def test_the_answer_comes_from_the_candidates_names_or_ids(linker):
    [linked] = linker.link("[ms]", candidates=["Multiple Sclerosis", "C29"], top_k=50, num_beams=50)
    assert {(one.matched_name, one.ids) for one in linked.candidates} == {
        ("multiple sclerosis", ("C03",)),
        ("fever", ("C29",)),
        ("pyrexia", ("C29",)),
        ("hyperthermia", ("C29",)),
    }


def test_a_homonym_among_the_candidates_keeps_its_concepts(linker):
    [linked] = linker.link("[x]", candidates=["MS"])
    assert [(one.matched_name, one.ids) for one in linked.candidates] == [("ms", ("C03", "C04"))]
    [linked] = linker.link("[x]", candidates=["C03"], top_k=9)
    assert ("ms", ("C03",)) in {(one.matched_name, one.ids) for one in linked.candidates}


def test_candidates_and_types_are_both_met(make_model, tokenizer):
    kb = KnowledgeBase([Concept("D1", ("Gout",), types=("Disease",)), Concept("X1", ("Colchicine",), types=("Drug",))])
    linker = EntityLinker(make_model(), tokenizer, kb)
    [linked] = linker.link("[gout]", types=["Drug"])
    assert linked.id == "X1"
    [linked] = linker.link("[gout]", candidates=["D1", "X1"], types=["Disease"])
    assert [one.ids for one in linked.candidates] == [("D1",)]
    assert linker.link_batch([{"text": "gout", "start": 0, "end": 4}] * 2, types=["Drug"])[1].id == "X1"
    with pytest.raises(ValueError, match="No name .* can be given under the restriction to candidates 'D1' and types"):
        linker.link("[gout]", candidates=["D1"], types=["Drug"])


def test_candidates_that_are_not_there_are_named(linker):
    with pytest.raises(ValueError, match="1 of 2 candidates of the restriction are not in .* base: 'flu'. Give names"):
        linker.link("[gout]", candidates=["gout", "flu"])
    with pytest.raises(ValueError, match=r"candidates is the string 'gout'; give a list: candidates=\['gout'\]"):
        linker.link("[gout]", candidates="gout")
    with pytest.raises(ValueError, match="candidates or types were given beside a restriction"):
        linker.link("[gout]", candidates=["gout"], restriction=linker.restrict(ids=["C30"]))


@pytest.mark.parametrize("setting", ["top_k", "num_beams"])
def test_settings_below_one_are_named(linker, setting):
    with pytest.raises(ValueError, match=rf"{setting} \(0\).* must be at least 1"):
        linker.link("[gout]", **{setting: 0})


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_linker_that_abstained_has_no_answer_but_its_candidates():
    candidates = (Candidate(("C1", "C2"), "X", "x", -0.5, -0.25),)
    given = Linked("x", 0, 1, candidates, True, 0.75)
    assert (given.id, given.name, given.score, given.ambiguous) == ("C1", "X", -0.5, True)
    withheld = Linked("x", 0, 1, candidates, True, 0.25, abstained=True)
    assert (withheld.id, withheld.name, withheld.score, withheld.ambiguous) == (None, None, None, False)
    assert withheld.candidates == candidates
    assert withheld.as_dict() == {
        "id": None,
        "name": None,
        "score": None,
        "mention": "x",
        "start": 0,
        "end": 1,
        "candidates": ({"ids": ("C1", "C2"), "name": "X", "matched_name": "x", "score": -0.5, "mean_score": -0.25},),
        "exact": True,
        "confidence": 0.25,
        "abstained": True,
    }
