import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BartConfig, PreTrainedTokenizerFast

from angel_trl.decoding import Candidates, search
from angel_trl.formatting import MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.targets import NearestNames, TargetNames, prepare_mentions
from angel_trl.trie import NameTrie


def word_tokenizer(*words):
    """One token a word and no way to write any other: `<unk>`."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "is", "START", "END", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def formatter_of(tokenizer, window=64):
    return MentionFormatter(tokenizer, BartConfig(decoder_start_token_id=2, max_position_embeddings=window))


def row(concept_ids, mention="cold", number=0):
    return {
        "id": f"d:{number}",
        "document_id": "d",
        "text": f"the {mention} here",
        "start": 4,
        "end": 4 + len(mention),
        "concept_ids": concept_ids,
    }


@pytest.fixture(scope="module")
def targets(small_kb, tokenizer):
    return TargetNames(small_kb, formatter_of(tokenizer))


# --- names -----------------------------------------------------------------------------------------------------------


def test_every_name_is_in_the_trie_under_its_index(targets, small_kb):
    assert targets.unreachable == []
    assert targets.trie.num_names == small_kb.num_names == len(targets.sequences)
    assert targets.sequences == targets.formatter.names(small_kb.names)
    assert targets.trie.fingerprint == targets.fingerprint
    assert sorted(targets.trie.leaf_name.tolist()) == list(range(small_kb.num_names))


def test_names_the_tokenizer_cannot_write_are_counted_and_left_out(caplog):
    kb = KnowledgeBase([Concept("C1", ("gout", "podagra")), Concept("C2", ("fever", "pyrexia", "heat fever"))])
    with caplog.at_level(logging.WARNING):
        targets = TargetNames(kb, formatter_of(word_tokenizer("gout", "fever", "heat")))
    assert targets.unreachable == [1, 3]
    assert sorted(targets.trie.leaf_name.tolist()) == [0, 2, 4]
    assert caplog.messages == [
        "2 of 5 names hold characters unknown to the tokenizer and cannot be predicted: 'podagra', 'pyrexia'. "
        "Use a byte-level tokenizer."
    ]


def test_names_longer_than_the_window_are_counted_and_left_out(caplog):
    kb = KnowledgeBase([Concept("C1", ("gout " * 7, "gout " * 8))])
    with caplog.at_level(logging.WARNING):
        targets = TargetNames(kb, formatter_of(word_tokenizer("gout"), window=16))
    # 7 words and the end token fill the half of the window that the prefix leaves.
    assert targets.unreachable == [1]
    assert "1 of 2 names are longer than half the model's window" in caplog.messages[0]


def test_no_name_that_can_be_written_is_an_error():
    kb = KnowledgeBase([Concept("C1", ("gout",))])
    with pytest.raises(ValueError, match="No name of the knowledge base can be written"):
        TargetNames(kb, formatter_of(word_tokenizer("fever")))


def test_a_saved_trie_is_used_and_one_of_other_names_refused(targets, small_kb, tokenizer):
    again = TargetNames(small_kb, formatter_of(tokenizer), targets.trie)
    assert again.trie is targets.trie
    foreign = NameTrie.build([[4, 2]], fingerprint="0" * 64)
    with pytest.raises(
        ValueError, match="fingerprint 000000000000.* was built for another knowledge base or tokenizer"
    ):
        TargetNames(small_kb, formatter_of(tokenizer), foreign)


def test_ranked_ids_are_the_ids_of_each_name(targets, small_kb):
    names = np.array([[small_kb.find("MS"), small_kb.find("gout")], [small_kb.find("A-T"), -1], [-1, -1]])
    found = Candidates(names, np.zeros((3, 2), np.float32), np.ones((3, 2), np.int64), np.ones(3, bool))
    assert targets.ranked_ids(found) == [[["C03", "C04"], ["C30"]], [["C27"]], []]


# --- mentions --------------------------------------------------------------------------------------------------------


def test_alternatives_parts_and_alternate_ids_are_resolved(targets, small_kb):
    mentions = prepare_mentions(
        [
            row([["C03"]], number=0),
            row([["C10", "C16"]], number=1),  # any of
            row([["C10"], ["C17"]], number=2),  # all of
            row([["MESH:A03"]], number=3),  # alternate id of C03
            row([["A14"]], number=4),  # alternate id of both C14 and C30
            row([["C17"], ["X9"]], number=5),  # a part that is unknown
        ],
        targets,
    )
    assert mentions.references == [
        [["C03"]],
        [["C10", "C16"]],
        [["C10"], ["C17"]],
        [["C03"]],
        [["C14", "C30"]],
        [["C17"], ["X9"]],
    ]
    assert mentions.gold == [(2,), (9, 15), (9, 16), (2,), (13, 29), (16,)]
    assert mentions.report == {"read": 6, "used": 6}


BAD = [
    row([["C01"]], number=0),
    row([], number=1),
    row([["X1"]], number=2),
    row([["C02"]], "y" * 70, number=3),
    row([["X1"], ["C02"]], number=4),
]


def test_what_cannot_teach_is_left_out_of_training_and_counted(targets, caplog):
    with caplog.at_level(logging.WARNING):
        mentions = prepare_mentions(BAD, targets, for_training=True)
    assert mentions.ids == ["d:0", "d:4"]
    assert mentions.report == {
        "read": 5,
        "skipped: no concept": 1,
        "skipped: concept not in the knowledge base": 1,
        "skipped: longer than the model's window": 1,
        "used": 2,
    }
    expected = "1 of 5 mentions skipped: no concept, such as d:1 'cold' []. Label them, or leave them out."
    assert expected in caplog.messages


def test_evaluation_keeps_every_mention(targets):
    mentions = prepare_mentions(BAD, targets)
    assert mentions.ids == ["d:0", "d:1", "d:2", "d:3", "d:4"]
    assert mentions.report == {
        "read": 5,
        "kept: no concept": 1,
        "kept: concept not in the knowledge base": 1,
        "kept: longer than the model's window": 1,
        "used": 5,
    }
    assert mentions.gold == [(0,), (), (), (1,), (1,)]
    assert mentions.references == [[["C01"]], [], [["X1"]], [["C02"]], [["X1"], ["C02"]]]
    assert [encoded is None for encoded in mentions.encoded] == [False, False, False, True, False]


@pytest.mark.parametrize("rows", [[], BAD[1:3]])
def test_no_mention_left_is_an_error(targets, rows):
    with pytest.raises(ValueError, match="No mention can be used.*ids"):
        prepare_mentions(rows, targets, for_training=True)


def test_mentions_are_as_the_model_sees_them(targets, small_mentions):
    mentions = prepare_mentions(small_mentions, targets)
    assert mentions.mentions[10:16] == [
        "breast and ovarian cancer",
        "type 1 diabetes",
        "niddm",
        "diabetes insipidus",
        "β thalassemia",
        "sjögren s syndrome",
    ]
    assert mentions.documents[:3] == ["1", "1", "2"]
    assert len(mentions) == 24


def test_a_subset_keeps_the_order_asked(targets, small_mentions):
    mentions = prepare_mentions(small_mentions, targets)
    part = mentions.subset(np.array([5, 2]))
    assert part.ids == [mentions.ids[5], mentions.ids[2]]
    assert part.encoded == [mentions.encoded[5], mentions.encoded[2]]
    assert part.gold == [(5,), (2,)]
    assert part.report == mentions.report


def test_a_homonym_is_gold_for_either_concept(targets, small_kb):
    mentions = prepare_mentions([row([["C03"]]), row([["C04"]]), row([["C05"]])], targets)
    ms, gout = small_kb.find("MS"), small_kb.find("gout")
    names = np.array([[ms, gout, -1]] * 3)
    assert mentions.is_gold(names, small_kb).tolist() == [[True, False, False], [True, False, False], [False] * 3]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_is_gold_equals_a_loop(targets, small_kb, small_mentions, data):
    mentions = prepare_mentions(small_mentions, targets)
    k = data.draw(st.integers(0, 4))
    names = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(-1, small_kb.num_names - 1), min_size=k, max_size=k), min_size=24, max_size=24
            )
        ),
        dtype=np.int64,
    ).reshape(24, k)
    expected = [
        [name >= 0 and bool(set(small_kb.concepts_of_name(name)) & set(gold)) for name in line]
        for line, gold in zip(names, mentions.gold, strict=True)
    ]
    found = mentions.is_gold(names, small_kb)
    assert (found.dtype, found.shape) == (np.bool_, (24, k))
    assert found.tolist() == expected


# --- nearest names ---------------------------------------------------------------------------------------------------


NEAR = KnowledgeBase(
    [
        Concept("C1", ("Mammary carcinoma", "Breast cancer", "Cancer of breast")),
        Concept("C2", ("Breast pain", "Mastodynia")),
        Concept("C3", ("(+)",)),  # normalises to nothing
    ]
)


def test_nearest_names_of_the_gold_concepts_alone():
    near = NearestNames(NEAR)
    mentions = ["cancer of the breast", "breast cancers", "mastodynia", "mammary"]
    gold = [(0,), (0,), (1,), (0, 1)]
    names = [[NEAR.names[i] for i in line] for line in near.nearest(mentions, gold, 2)]
    assert names == [
        ["cancer of breast", "breast cancer"],
        ["breast cancer", "cancer of breast"],
        ["mastodynia", "breast pain"],
        ["mammary carcinoma", "mastodynia"],
    ]


def test_names_equally_far_keep_the_order_of_the_dictionary():
    assert NearestNames(NEAR).nearest(["zzz", "zzz"], [(0,), (1, 0)], 5) == [[0, 1, 2], [3, 4, 0, 1, 2]]


def test_a_concept_without_names_has_no_nearest_name():
    assert NearestNames(NEAR).nearest(["x", "x"], [(2,), ()], 3) == [[], []]


def test_names_excluded_are_never_returned():
    assert NearestNames(NEAR, exclude=[1, 3, 4]).nearest(["breast cancer", "breast"], [(0,), (1,)], 3) == [[2, 0], []]


def test_of_very_many_names_some_tell_how_rare_an_ngram_is(monkeypatch):
    whole = NearestNames(NEAR)
    monkeypatch.setattr(NearestNames, "_MOST_COUNTED", 3)
    near = NearestNames(NEAR)
    assert len(near._vectorizer.vocabulary_) < len(whole._vectorizer.vocabulary_)
    assert near.nearest(["breast cancers", "mastodynia"], [(0,), (1,)], 1) == [[1], [4]]


def test_a_concept_without_a_name_the_tokenizer_can_write_is_counted():
    kb = KnowledgeBase([Concept("A", ("gout",)), Concept("B", ("podagra",))])
    targets = TargetNames(kb, formatter_of(word_tokenizer("gout", "the", "here")))
    assert targets.answerable.tolist() == [True, False]
    rows = [row([["A"]], "gout", 0), row([["B"]], "gout", 1)]
    report = prepare_mentions(rows, targets, for_training=True).report
    assert report == {"read": 2, "used": 1, "skipped: no name of the concept can be written": 1}


def test_of_names_with_the_same_tokens_only_the_first_can_be_answered(caplog):
    kb = KnowledgeBase([Concept("A", ("gout",)), Concept("B", ("go ut", "the gout"))])
    tokenizer = word_tokenizer("gout", "the")
    # A tokenizer that loses something, here the space within "go ut".
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("go ut", "gout")
    targets = TargetNames(kb, formatter_of(tokenizer))
    assert targets.unreachable == [1]
    assert targets.answerable.tolist() == [True, True]
    assert "1 of 3 names have the same tokens as an earlier name" in caplog.text


# --- extended --------------------------------------------------------------------------------------------------------

MORE = [
    Concept("C30", ("Gouty Arthritis", "GOUT")),  # known: one name is new
    Concept("Z1", ("Zoster", "Shingles", "MS")),  # new, with a name that two others have
    Concept("Z2", ("Gouty arthritis",)),  # new, with a name that is new above
]


def arrays(trie):
    return {name: array.tolist() for name, array in zip(trie._arrays()._fields, trie._arrays(), strict=True)}


def test_extended_targets_equal_those_made_anew(targets, small_kb, tokenizer):
    kb = small_kb.extended(MORE)
    extended, fresh = targets.extended(kb), TargetNames(kb, formatter_of(tokenizer))
    assert kb.num_names == small_kb.num_names + 3
    assert arrays(extended.trie) == arrays(fresh.trie)
    assert extended.trie.fingerprint == fresh.trie.fingerprint == extended.fingerprint == fresh.fingerprint
    assert extended.unreachable == fresh.unreachable == []
    assert extended.answerable.tolist() == fresh.answerable.tolist() == [True] * 32
    assert extended.sequences == fresh.sequences
    for name in ("gout", "gouty arthritis", "zoster", "ms"):
        assert extended.concepts(kb.find(name)) == fresh.concepts(kb.find(name))
    assert extended.ranked_ids(found_of(kb.find("ms"), kb.find("gouty arthritis"))) == [
        [["C03", "C04", "Z1"], ["C30", "Z2"]]
    ]


def found_of(*names):
    count = len(names)
    return Candidates(
        np.array([names]), np.zeros((1, count), np.float32), np.ones((1, count), np.int64), np.ones(1, bool)
    )


def test_extended_targets_link_as_those_made_anew(targets, small_kb, small_mentions, make_model, tokenizer):
    kb = small_kb.extended(MORE)
    mentions = targets.formatter.encode(small_mentions.select(range(6)))
    one, other = targets.extended(kb), TargetNames(kb, formatter_of(tokenizer))
    found = [search(make_model(), some.trie, mentions) for some in (one, other)]
    assert found[0].names.tolist() == found[1].names.tolist()
    assert one.ranked_ids(found[0]) == other.ranked_ids(found[1])


def test_the_targets_extended_stay_as_they_were(targets, small_kb):
    before = arrays(targets.trie)
    targets.extended(small_kb.extended(MORE))
    assert (targets.kb, targets.trie.num_names) == (small_kb, 71)
    assert arrays(targets.trie) == before


def test_only_new_names_are_tokenised(targets, small_kb, monkeypatch):
    asked = []
    names = MentionFormatter.names
    monkeypatch.setattr(MentionFormatter, "names", lambda self, some: asked.append(list(some)) or names(self, some))
    again = TargetNames(small_kb, targets.formatter, targets.trie)  # as loaded: nothing is tokenised yet
    again.extended(small_kb.extended(MORE))
    assert asked == [["gouty arthritis", "zoster", "shingles"]]


def test_no_new_name_tokenises_none_and_a_new_concept_may_have_an_old_name(targets, small_kb):
    kb = small_kb.extended([Concept("Z3", ("Gout",))])
    extended = targets.extended(kb)
    assert extended.concepts(kb.find("gout")) == [29, 30]
    assert arrays(extended.trie) == arrays(targets.trie)
    assert extended.trie.fingerprint != targets.trie.fingerprint


def test_new_names_that_cannot_be_written_are_counted_among_the_new(caplog):
    tokenizer = word_tokenizer("gout", "fever", "heat")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("go ut", "gout")
    kb = KnowledgeBase([Concept("A", ("gout", "podagra")), Concept("B", ("fever",))])
    targets = TargetNames(kb, formatter_of(tokenizer))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        extended = targets.extended(kb.extended([Concept("C", ("go ut", "heat", "pyrexia", "fe ver"))]))
    assert [extended.kb.names[i] for i in extended.unreachable] == ["podagra", "go ut", "pyrexia", "fe ver"]
    assert caplog.messages == [
        "2 of 4 names hold characters unknown to the tokenizer and cannot be predicted: 'pyrexia', 'fe ver'. "
        "Use a byte-level tokenizer.",
        "1 of 4 names have the same tokens as an earlier name and cannot be predicted: 'go ut'. "
        "Use a byte-level tokenizer.",
    ]
    assert extended.answerable.tolist() == [True, True, True]


def test_targets_are_not_extended_by_a_knowledge_base_of_another_rule(targets, small_kb):
    with pytest.raises(ValueError, match="normalised by 'lower', the one to extend by 'genbioel'. Use the same rule"):
        targets.extended(KnowledgeBase(small_kb.concepts, normalization="lower"))


def test_targets_are_not_extended_by_a_knowledge_base_without_some_of_their_names(targets, small_kb):
    with pytest.raises(ValueError, match="2 names are not in the extended knowledge base, such as 'common cold'"):
        targets.extended(KnowledgeBase([*small_kb.concepts[1:], Concept("Z1", ("Zoster",))]))
