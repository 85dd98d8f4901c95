"""Names of several concepts under the three policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl.homonyms import POLICIES, settle
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.readers import read_knowledge_base

# "cold" is nobody's preferred name, "ms" that of the last concept.
NAMES = [["common cold", "cold"], ["obstructive lung disease", "cold", "copd"], ["multiple sclerosis", "ms"], ["ms"]]
NO_TYPES = [()] * 4


def test_kept_names_stay_as_they_are():
    settled = settle(NAMES, NO_TYPES, "keep")
    assert (settled.names, settled.disambiguated, settled.dropped) == (NAMES, 0, 0)


def test_a_dropped_name_stays_where_it_is_the_only_one():
    settled = settle(NAMES, NO_TYPES, "drop")
    assert settled.names == [["common cold"], ["obstructive lung disease", "copd"], ["multiple sclerosis"], ["ms"]]
    assert settled.dropped == 3


def test_preferred_names_tell_homonyms_apart():
    settled = settle(NAMES, NO_TYPES, "disambiguate")
    assert settled.names == [
        ["common cold", "cold common cold"],
        ["obstructive lung disease", "cold obstructive lung disease", "copd"],
        ["multiple sclerosis", "ms multiple sclerosis"],
        ["ms"],
    ]
    assert settled.disambiguated == 3


def test_types_tell_homonyms_apart_where_they_differ():
    types = [("Disease",), ("Sensation", "Disease"), ("Disease",), ("Disease",)]
    settled = settle(NAMES, types, "disambiguate")
    assert [own[1] for own in settled.names[:2]] == ["cold disease", "cold sensation"]
    # Of one type both: preferred names again.
    assert settled.names[2:] == [["multiple sclerosis", "ms multiple sclerosis"], ["ms"]]


def test_what_cannot_be_told_apart_stays_a_homonym():
    settled = settle([["ra"], ["ra"]], [(), ()], "disambiguate")
    assert (settled.names, settled.disambiguated) == ([["ra"], ["ra"]], 0)


def test_an_addition_never_makes_the_name_of_another_concept():
    names = [["a", "b"], ["c", "b"], ["b a"]]
    settled = settle(names, [()] * 3, "disambiguate")
    assert settled.names == [["a", "b"], ["c", "b c"], ["b a"]]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", "c", "a b", "b a", "a a"]), min_size=1, max_size=4, unique=True),
            st.lists(st.sampled_from(["t", "u"]), max_size=2),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(POLICIES),
)
def test_no_policy_loses_a_concept_or_makes_a_homonym(concepts, policy):
    names, types = [list(own) for own, _ in concepts], [kinds for _, kinds in concepts]
    settled = settle(names, types, policy).names

    def shared(lists):
        return {name for own in lists for name in own if sum(name in other for other in lists) > 1}

    assert [len(own) > 0 for own in settled] == [True] * len(names)
    assert all(len(set(own)) == len(own) for own in settled)
    assert shared(settled) <= shared(names)
    if policy == "keep":
        assert settled == names


def test_a_policy_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="homonyms is 'guess'; choose one of keep, disambiguate, drop"):
        settle(NAMES, NO_TYPES, "guess")


# --- in a knowledge base ---------------------------------------------------------------------------------------------


def test_a_knowledge_base_lists_its_homonyms(small_kb):
    assert small_kb.homonyms() == {
        "cold": ("C01", "C02"),
        "ms": ("C03", "C04"),
        "ra": ("C05", "C06"),
        "cf": ("C07", "C08"),
    }


def test_concepts_stay_as_given_and_names_do_not(small_kb):
    apart = small_kb.with_homonyms("disambiguate")
    assert apart.concepts == small_kb.concepts
    assert apart.homonyms() == {}
    assert apart.find("MS") is None
    assert apart.ids_of_name(apart.find("MS mitral stenosis")) == ("C04",)
    assert apart.statistics()["homonyms_disambiguated"] == 8
    assert len({small_kb.fingerprint, apart.fingerprint, small_kb.with_homonyms("drop").fingerprint}) == 3
    assert apart.with_homonyms("keep").fingerprint == small_kb.fingerprint


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_is_kept_in_the_file_and_when_extended(small_kb, tmp_path, policy):
    kb = small_kb.with_homonyms(policy)
    kb.to_parquet(tmp_path / "kb.parquet")
    again = KnowledgeBase.from_parquet(tmp_path / "kb.parquet")
    assert (again.homonym_policy, again.names, again.fingerprint) == (policy, kb.names, kb.fingerprint)
    assert again.extended([Concept("Z1", ("Zoster",))]).homonym_policy == policy


def test_the_homonyms_of_medic(shared):
    kb = read_knowledge_base(shared / "data/medic/medic_06Jul2012.txt", "genbioel")
    assert len(kb.homonyms()) == 1_014
    dropped = kb.with_homonyms("drop").statistics()
    # Eight names are all that their concepts have.
    assert (dropped["homonyms"], dropped["names"], dropped["homonyms_dropped"]) == (8, 71_038, 1_886)
    apart = kb.with_homonyms("disambiguate").statistics()
    # MEDIC has no types; 42 names belong to concepts that also prefer the same name.
    assert (apart["homonyms"], apart["names"], apart["homonyms_disambiguated"]) == (42, 72_890, 1_676)
