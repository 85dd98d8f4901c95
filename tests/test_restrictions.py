"""Answers narrowed to some names, ids or types: what brute force gives over the names that are left."""

import copy

import numpy as np
import pytest
import torch
from brute_force import assert_top, brute_force
from transformers import BartConfig

from angel_trl.decoding import search
from angel_trl.formatting import EncodedMention, MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.targets import TargetNames

# "ms" is a name of three concepts, "cold" of two; A1 is an alternate id of D1 and D4.
CONCEPTS = [
    Concept("D1", ("Multiple sclerosis", "MS"), ("A1",), ("Disease",)),
    Concept("D2", ("Mitral stenosis", "MS", "Mitral valve stenosis"), (), ("Disease", "Finding")),
    Concept("S1", ("Morphine sulfate", "MS", "Morphine"), (), ("Drug",)),
    Concept("D3", ("Common cold", "Cold"), (), ("Disease",)),
    Concept("S2", ("Cold cream", "Cold"), ("A2",), ("Drug",)),
    Concept("D4", ("Gout", "Podagra"), ("A1",), ("Disease",)),
    Concept("X1", ("Morphology",)),
    Concept("N1", ("(+)",), (), ("Sign",)),  # normalises to nothing
]
RANKINGS = ("sum", "mean")


@pytest.fixture(scope="module")
def kb():
    return KnowledgeBase(CONCEPTS)


def targets_of(kb, tokenizer):
    return TargetNames(kb, MentionFormatter(tokenizer, BartConfig(decoder_start_token_id=2)))


@pytest.fixture(scope="module")
def targets(kb, tokenizer):
    return targets_of(kb, tokenizer)


@pytest.fixture(scope="module")
def world(make_model, targets):
    """A model, 6 mentions, and what brute force gives every name."""
    model = make_model(seed=2)
    mentions = [EncodedMention((0, 40 + i, 50, 2), (2, *range(60, 61 + i % 3))) for i in range(6)]
    return model, mentions, brute_force(copy.deepcopy(model), mentions, targets.sequences)


def path(trie, sequence):
    """The nodes that the tokens of a name lead through, one after the other."""
    nodes = [torch.tensor([0])]
    for token in sequence:
        nodes.append(trie.child(nodes[-1], torch.tensor([token])))
    return [int(node) for node in nodes]


def allowed_names(targets, restriction):
    """The names whose last node the restriction allows."""
    leaves = np.array([path(targets.trie, sequence)[-1] for sequence in targets.sequences])
    return [targets.kb.names[i] for i in np.flatnonzero(restriction.allows(leaves))]


ASKED = {
    "names": ({"names": ["MS", "(ms)", "COMMON cold"]}, ["ms", "common cold"]),
    "one name": ({"names": ["Gout"]}, ["gout"]),
    "ids": (
        {"ids": ["S1", "MESH:D3"]},
        ["ms", "morphine sulfate", "morphine", "common cold", "cold"],
    ),
    "alternate ids": ({"ids": ["A1", "A2"]}, ["multiple sclerosis", "ms", "cold cream", "cold", "gout", "podagra"]),
    "types": ({"types": ["Drug"]}, ["ms", "morphine sulfate", "morphine", "cold", "cold cream"]),
    "two types": (
        {"types": ["Drug", "Finding"]},
        [
            "ms",
            "mitral stenosis",
            "mitral valve stenosis",
            "morphine sulfate",
            "morphine",
            "cold",
            "cold cream",
        ],
    ),
    "names and types": ({"names": ["ms", "cold", "gout"], "types": ["Drug"]}, ["ms", "cold"]),
    "ids and types": ({"ids": ["S2", "D3", "A1"], "types": ["Drug"]}, ["cold", "cold cream"]),
    "all three": ({"names": ["cold", "cold cream", "ms"], "ids": ["S2"], "types": ["Drug"]}, ["cold", "cold cream"]),
}


@pytest.mark.parametrize(("conditions", "names"), ASKED.values(), ids=ASKED)
def test_the_names_allowed(targets, conditions, names):
    assert sorted(allowed_names(targets, targets.restrict(**conditions))) == sorted(names)


@pytest.mark.parametrize(("conditions", "names"), ASKED.values(), ids=ASKED)
def test_the_nodes_allowed_are_those_on_the_paths_to_the_names(targets, conditions, names):
    allowed = targets.restrict(**conditions).allows(np.arange(targets.trie.num_nodes))
    paths = {node for name in names for node in path(targets.trie, targets.sequences[targets.kb.find(name)])}
    assert set(np.flatnonzero(allowed).tolist()) == paths


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize(("conditions", "names"), ASKED.values(), ids=ASKED)
def test_a_restricted_search_equals_brute_force_over_the_names_left(targets, world, conditions, names, ranking):
    model, mentions, scores = world
    restriction = targets.restrict(**conditions)
    found = search(
        model,
        targets.trie,
        mentions,
        num_beams=2,
        top_k=3,
        ranking=ranking,
        exact=True,
        restrictions=[restriction] * 6,
    )
    assert found.exact.all()
    check(found, targets, scores, names, ranking)


def check(found, targets, scores, names, ranking):
    """`found` is the top k of `names`."""
    indices = [targets.kb.find(name) for name in names]
    assert set(found.names[found.names >= 0].tolist()) <= set(indices)
    place = np.full(targets.kb.num_names + 1, -1)
    place[indices] = np.arange(len(indices))
    found.names = place[found.names]
    assert_top(found, scores[:, indices], [targets.sequences[i] for i in indices], ranking)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_mentions_of_one_batch_have_restrictions_of_their_own(targets, world, ranking, batch_size):
    model, mentions, scores = world
    asked = [None, ASKED["names"], ASKED["types"], None, ASKED["ids and types"], ASKED["types"]]
    made = {id(one): targets.restrict(**one[0]) for one in asked if one is not None}
    restrictions = [None if one is None else made[id(one)] for one in asked]
    settings = {"top_k": 3, "ranking": ranking, "exact": True}
    together = search(model, targets.trie, mentions, batch_size=batch_size, restrictions=restrictions, **settings)
    for row, one in enumerate(asked):
        names = targets.kb.names if one is None else one[1]
        alone = search(model, targets.trie, [mentions[row]], restrictions=[restrictions[row]], **settings)
        assert together.names[row].tolist() == alone.names[0].tolist()
        check(alone, targets, scores[[row]], names, ranking)


def test_only_names_allowed_are_run(targets, world):
    model, mentions, _ = world
    fed = []
    decoder = model.get_decoder()
    with decoder.register_forward_pre_hook(lambda _, args, inputs: fed.append(inputs["input_ids"]), with_kwargs=True):
        restriction = targets.restrict(names=["multiple sclerosis"])
        found = search(model, targets.trie, mentions[:1], restrictions=[restriction])
    # With one name left there is no choice: all its tokens but the last in one forward.
    [name] = targets.formatter.names(["multiple sclerosis"])
    assert [tokens[0].tolist() for tokens in fed[1:]] == [name[:-1]]
    assert found.exact.all()
    assert found.names[0].tolist() == [0, -1, -1, -1, -1]


def test_mentions_without_encoding_take_their_restriction_with_them(targets, world):
    model, mentions, _ = world
    gout, cold = targets.restrict(names=["gout"]), targets.restrict(names=["cold"])
    given = [None, mentions[5], None, mentions[0]]
    found = search(model, targets.trie, given, top_k=1, restrictions=[cold, gout, gout, cold])
    assert found.names[:, 0].tolist() == [-1, targets.kb.find("gout"), -1, targets.kb.find("cold")]


# --- concepts behind a name ------------------------------------------------------------------------------------------


def test_a_homonym_stands_for_the_concepts_allowed_alone(targets):
    ms = targets.kb.find("ms")
    assert targets.concepts(ms) == [0, 1, 2]
    assert targets.concepts(ms, targets.restrict(types=["Drug"])) == [2]
    assert targets.concepts(ms, targets.restrict(types=["Disease"])) == [0, 1]
    assert targets.concepts(ms, targets.restrict(types=["Disease"], ids=["D2", "S1"])) == [1]
    assert targets.concepts(ms, targets.restrict(names=["ms"])) == [0, 1, 2]


def test_ranked_ids_leave_out_what_is_not_allowed(targets, world):
    model, mentions, _ = world
    restrictions = [targets.restrict(names=["ms"]), targets.restrict(names=["ms"], types=["Drug"]), None]
    found = search(model, targets.trie, mentions[:3], top_k=30, exact=True, restrictions=restrictions)
    ids = targets.ranked_ids(found, restrictions)
    assert ids[:2] == [[["D1", "D2", "S1"]], [["S1"]]]
    assert len(ids[2]) == targets.kb.num_names
    assert ["D1", "D2", "S1"] in ids[2]
    assert targets.ranked_ids(found)[1] == [["D1", "D2", "S1"]]


# --- errors ----------------------------------------------------------------------------------------------------------

WRONG = [
    ({}, "A restriction needs names, ids or types"),
    ({"names": "gout"}, r"names is the string 'gout'; give a list: names=\['gout'\]"),
    ({"types": "Drug"}, r"types is the string 'Drug'; give a list: types=\['Drug'\]"),
    ({"names": ["gout", "gouty"]}, "1 of 2 names of the restriction are not in the knowledge base: 'gouty'"),
    ({"ids": ["D1", "D9", "X9"]}, "2 of 3 ids of the restriction are not in the knowledge base: 'D9', 'X9'"),
    (
        {"types": ["Virus"]},
        "1 of 1 types of the restriction .*: 'Virus'. It has 'Disease', 'Drug', 'Finding', 'Sign'",
    ),
    (
        {"names": ["gout"], "types": ["Drug"]},
        "No name of the knowledge base can be given under the restriction to names 'gout' and types 'Drug'",
    ),
    ({"ids": ["D1"], "types": ["Drug"]}, "can be given under the restriction to ids 'D1' and types 'Drug'"),
    ({"types": ["Sign"]}, "No name .* under the restriction to types 'Sign'"),
    ({"ids": ["N1"]}, "No name .* under the restriction to ids 'N1'"),
    ({"names": []}, "No name .* under the restriction"),
    ({"ids": []}, "No name .* under the restriction"),
    ({"types": []}, "No name .* under the restriction"),
]


@pytest.mark.parametrize(("conditions", "message"), WRONG)
def test_a_restriction_that_cannot_be_is_an_error_that_says_why(targets, conditions, message):
    with pytest.raises(ValueError, match=message):
        targets.restrict(**conditions)


def test_of_many_unknown_names_the_first_five_are_shown(targets):
    with pytest.raises(ValueError, match="8 of 8 names .*: 'n0', 'n1', 'n2', 'n3', 'n4' and 3 more"):
        targets.restrict(names=[f"n{i}" for i in range(8)])


def test_types_of_a_knowledge_base_without_any(small_kb, tokenizer):
    with pytest.raises(ValueError, match="'Drug'. It has no types"):
        targets_of(small_kb, tokenizer).restrict(types=["Drug"])


# --- many types ------------------------------------------------------------------------------------------------------


def test_more_types_than_fit_a_word(tokenizer):
    kb = KnowledgeBase(Concept(f"C{i}", (f"gout {i}",), types=(f"T{i:03}", "any")) for i in range(130))
    targets = targets_of(kb, tokenizer)
    for number in (0, 61, 62, 63, 64, 125, 126, 127, 129):
        restriction = targets.restrict(types=[f"T{number:03}"])
        assert restriction.type_bits.shape == (targets.trie.num_nodes, 3)
        assert allowed_names(targets, restriction) == [f"gout {number}"]
        assert np.flatnonzero(restriction.concepts).tolist() == [number]
    assert allowed_names(targets, targets.restrict(types=["T005", "T100"])) == ["gout 5", "gout 100"]
    assert len(allowed_names(targets, targets.restrict(types=["any"]))) == 130


def test_type_bits_are_made_once(targets):
    one, other = targets.restrict(types=["Drug"]), targets.restrict(types=["Disease"])
    assert one.type_bits is other.type_bits
