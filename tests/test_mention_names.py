"""Labelled mentions as names of a knowledge base: of those that mean one thing, of those that mean several."""

import json
from collections import Counter
from types import SimpleNamespace

import kill_worker
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl import Concept, EntityLinker, KnowledgeBase, with_mention_names
from angel_trl.mention_names import meanings
from angel_trl.normalization import normalize


def mention(text, *gold):
    return {"mention": text, "concept_ids": [list(part) for part in gold]}


def names(kb, concept):
    return [kb.names[n] for n in kb.names_of_concept(kb.resolve(concept)[0]).tolist()]


def test_a_string_is_counted_by_what_it_means(small_kb):
    rows = [
        mention("Gouty-Attack", ["C30"]),
        mention("gouty attack", ["C29"]),
        mention("gouty attack", ["C30"]),
        mention("both", ["C01"], ["C02"]),
        mention("+", ["C01"]),
        mention("nothing", ["X1"]),
        mention("no concept"),
    ]
    c = {i: small_kb.resolve(i)[0] for i in ("C01", "C02", "C29", "C30")}
    assert meanings(small_kb, rows) == {
        "gouty attack": Counter({frozenset({c["C30"]}): 2, frozenset({c["C29"]}): 1}),
        "both": Counter({frozenset({c["C01"], c["C02"]}): 1}),
    }


def test_mentions_are_names_of_what_they_mean_most_often(small_kb):
    before = small_kb.fingerprint
    rows = [
        mention("Breast Cancers", ["C16"]),
        mention("breast-cancers", ["OMIM:114480"]),  # an alternate id of C16
        mention("breast cancers", ["C10"]),
        mention("first", ["C05"]),
        mention("first", ["C06"]),
        mention("both", ["C01"], ["C02"]),
    ]
    kb = with_mention_names(small_kb, rows)
    assert kb.ids_of_name(kb.find("breast cancers")) == ("C16",)
    assert kb.ids_of_name(kb.find("first")) == ("C05",)
    assert kb.ids_of_name(kb.find("both")) == ("C01", "C02")
    assert names(kb, "C16") == [*names(small_kb, "C16"), "breast cancers"]
    assert [c.id for c in kb.concepts] == [c.id for c in small_kb.concepts]
    assert small_kb.fingerprint == before


def test_a_name_is_taken_from_the_concepts_that_mentions_do_not_mean_by_it(small_kb):
    shared = "MS"
    assert small_kb.ids_of_name(small_kb.find(shared)) == ("C03", "C04")
    kb = with_mention_names(small_kb, [mention(shared, ["C04"])])
    assert kb.ids_of_name(kb.find(shared)) == ("C04",)
    assert names(kb, "C03") == [name for name in names(small_kb, "C03") if name != "ms"]


def test_a_concept_keeps_its_only_name():
    kb = KnowledgeBase([Concept("A", ("One-Name",)), Concept("B", ("other",))])
    kb = with_mention_names(kb, [mention("one name", ["B"])])
    assert kb.concepts[0].names == ("One-Name",)
    assert kb.ids_of_name(kb.find("one name")) == ("A", "B")
    # Unless mentions give it another.
    kb = with_mention_names(kb, [mention("one name", ["B"]), mention("new", ["A"])])
    assert kb.concepts[0].names == ("new",)
    assert kb.ids_of_name(kb.find("one name")) == ("B",)


def test_a_concept_is_not_left_with_a_name_of_nothing():
    kb = KnowledgeBase([Concept("A", ("One-Name", "+")), Concept("B", ("other",))])
    kb = with_mention_names(kb, [mention("one name", ["B"])])
    assert kb.concepts[0].names == ("One-Name", "+")
    assert kb.ids_of_name(kb.find("one name")) == ("A", "B")


def test_the_rule_for_names_stays_and_the_source_says_what_was_done():
    kb = KnowledgeBase([Concept("A", ("Alpha",)), Concept("B", ("Beta",))], normalization="lower", source="here")
    kb = with_mention_names(kb, [mention("ALPHA-like", ["A"])])
    assert names(kb, "A") == ["alpha", "alpha-like"]
    assert kb.source == "here; labelled mentions are further names"


@pytest.mark.parametrize("policy", ["drop", "disambiguate"])
def test_a_knowledge_base_whose_homonyms_were_changed_is_refused(small_kb, policy):
    with pytest.raises(ValueError, match=f"homonyms='{policy}', but .*with_homonyms"):
        with_mention_names(small_kb.with_homonyms(policy), [mention("MS", ["C03"])])


words = st.sampled_from(["a", "b", "c", "A-b", "a b", "+", "d"])
concepts = st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=4)
labelled = st.lists(st.tuples(words, st.lists(st.integers(0, 5), max_size=2)), max_size=12)


@given(concepts, labelled)
def test_every_name_is_whose_it_should_be(own, rows):
    kb = KnowledgeBase([Concept(str(i), tuple(n)) for i, n in enumerate(own)])
    made = with_mention_names(kb, [mention(text, [str(c) for c in gold]) for text, gold in rows])
    # By hand: what each string is said to mean, in order.
    said = {}
    for text, gold in rows:
        known = {c for c in gold if c < len(own)}
        if normalize(text) and known:
            said.setdefault(normalize(text), []).append(known)
    wanted = {}
    for name in ({normalize(n) for n in sum(own, [])} | set(said)) - {""}:
        if name in said:
            wanted[name] = max(said[name], key=said[name].count)
        else:
            wanted[name] = {i for i, n in enumerate(own) if name in map(normalize, n)}
    for i, n in enumerate(own):
        if not any(i in bearers for bearers in wanted.values()):
            for name in filter(None, map(normalize, n)):
                wanted[name] = wanted[name] | {i}
    assert {n: set(made.concepts_of_name(made.find(n)).tolist()) for n in made.names} == wanted


def test_linkers_of_another_knowledge_base_are_not_gone_on_with(tmp_path):
    settings = {**kill_worker.RECIPE, "positive_epochs": 1, "num_rounds": 1, "kb_mentions_per_mention": 0}
    kill_worker.run_small_quickstart(tmp_path, "--skip_angel", **settings)
    for flag in ("--skip_positive", "--resume"):
        with pytest.raises(
            SystemExit, match="positive was made for another knowledge base, or with another --mention"
        ):
            kill_worker.run_small_quickstart(tmp_path, flag, mention_names=True, **settings)
    # A linker that sees mentions otherwise than they would be names.
    args, _ = kill_worker.recipe.parse_arguments(["--mention_names", "--abbreviations", "ab3p"])
    kb, corpus = kill_worker.small_quickstart()
    with pytest.raises(SystemExit, match="was made with --abbreviations keep: give that"):
        kill_worker.recipe.first_linker(args, kb, corpus, 0, [tmp_path / "positive"])
    homonyms = kb.with_homonyms("drop")
    with pytest.raises(SystemExit, match="--mention_names: .*homonyms='drop'"):
        kill_worker.recipe.kb_of_linker(SimpleNamespace(mention_names=True, abbreviations="keep"), homonyms, corpus)


def test_mentions_are_names_as_the_linker_sees_them():
    pytest.importorskip("pyab3p")
    kb = KnowledgeBase([Concept("A", ("wilson disease",)), Concept("B", ("gout",))])
    text = "We studied Wilson disease (WD). WD is rare."
    rows = [{"text": text, "start": 32, "end": 34, "mention": "WD", "concept_ids": [["B"]]}]
    made = {
        rule: kill_worker.recipe.kb_of_linker(
            SimpleNamespace(mention_names=True, abbreviations=rule), kb, {"train": rows}
        )
        for rule in ("keep", "ab3p")
    }
    assert names(made["keep"], "B") == ["gout", "wd"]
    assert names(made["ab3p"], "B") == ["gout", "wilson disease"]


def test_the_recipe_trains_tests_and_saves_with_these_names(tmp_path):
    settings = {**kill_worker.RECIPE, "positive_epochs": 1, "num_rounds": 1, "kb_mentions_per_mention": 0}
    kill_worker.run_small_quickstart(tmp_path / "with", mention_names=True, **settings)
    kill_worker.run_small_quickstart(tmp_path / "without", **settings)
    plain, corpus = kill_worker.small_quickstart()
    wanted = with_mention_names(plain, corpus["train"])
    assert wanted.num_names > plain.num_names
    results = {}
    for name, kb in (("with", wanted), ("without", plain)):
        for stage in ("positive", "linker"):
            assert EntityLinker.from_pretrained(tmp_path / name / stage).kb.fingerprint == kb.fingerprint
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
    # String lookup, the kinds of mentions and what is said of the knowledge base are of the one given.
    for part in ("lookup", "lookup + training mentions"):
        assert results["with"]["test"][part] == results["without"]["test"][part]
    assert results["with"]["data"]["kb"] == results["without"]["data"]["kb"]
    assert results["with"]["data"]["kb with mention names"] == wanted.statistics()
    assert "kb with mention names" not in results["without"]["data"]
    slices = [pq.read_table(tmp_path / name / "mentions.parquet")["slices"] for name in ("with", "without")]
    assert slices[0] == slices[1]
