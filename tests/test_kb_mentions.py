from collections import Counter

import pytest

from angel_trl.kb_mentions import KBMentions, kb_mentions
from angel_trl.mentions import MENTION_FEATURES, validate_mentions


def test_rows_are_a_mention_dataset_of_the_size_asked(small_kb):
    mentions = kb_mentions(small_kb, 200, seed=0, context=0.5)
    validate_mentions(mentions)
    assert len(mentions) == 200
    assert mentions.features == MENTION_FEATURES
    assert set(mentions["split"]) == {"kb"}
    assert len(kb_mentions(small_kb, 0, seed=0)) == 0


def test_the_seed_decides(small_kb):
    first, again, other = (kb_mentions(small_kb, 100, seed=seed)["mention"] for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)


def test_a_mention_depends_on_its_place_and_not_on_what_was_made_before(small_kb):
    mentions = KBMentions(small_kb, 500, seed=3, context=0.5)
    in_order = list(mentions)
    assert [mentions[place] for place in (499, 0, 250, -1)] == [in_order[place] for place in (499, 0, 250, 499)]
    assert mentions[10:12] == in_order[10:12]
    assert KBMentions(small_kb, 10, seed=3, context=0.5)[7] == in_order[7]
    with pytest.raises(IndexError, match="mention 500 of 500"):
        mentions[500]


def test_a_billion_mentions_take_no_memory(small_kb):
    mentions = KBMentions(small_kb, 10**9, seed=0)
    assert len(mentions) == 10**9
    assert mentions[10**9 - 1]["id"] == "kb:999999999"


def test_every_name_is_drawn_before_any_is_drawn_again(small_kb):
    mentions = list(kb_mentions(small_kb, 2 * small_kb.num_names + 5, seed=0, noise=0)["mention"])
    assert sorted(mentions[: small_kb.num_names]) == sorted(small_kb.names)
    assert sorted(Counter(mentions).values()) == [2] * (small_kb.num_names - 5) + [3] * 5


def test_excluded_names_are_no_mentions(small_kb):
    out = {small_kb.find("gout"), small_kb.find("podagra")}
    mentions = set(kb_mentions(small_kb, small_kb.num_names, seed=0, noise=0, exclude=out)["mention"])
    assert mentions == set(small_kb.names) - {"gout", "podagra"}
    with pytest.raises(ValueError, match="No name"):
        KBMentions(small_kb, 1, seed=0, exclude=range(small_kb.num_names))
    with pytest.raises(ValueError, match="count is -1"):
        KBMentions(small_kb, -1, seed=0)


def test_the_gold_of_a_mention_is_every_concept_of_its_name(small_kb):
    gold = {row["mention"]: row["concept_ids"] for row in kb_mentions(small_kb, small_kb.num_names, seed=0, noise=0)}
    assert gold["ms"] == [["C03", "C04"]]
    assert gold["gout"] == [["C30"]]


def test_noise_is_the_share_of_changed_mentions(small_kb):
    names = set(small_kb.names)
    changed = sum(text not in names for text in kb_mentions(small_kb, 1000, seed=0, noise=0.3)["mention"])
    assert 220 < changed < 330
    all_changed = sum(text not in names for text in kb_mentions(small_kb, 1000, seed=0, noise=1.0)["mention"])
    assert all_changed > 850


def test_mentions_in_passages_stand_in_the_place_of_the_corpus_own(small_kb, small_mentions):
    made = kb_mentions(small_kb, 300, seed=0, in_passages=1.0, passages=small_mentions)
    validate_mentions(made)
    places = {(row["text"][: row["start"]], row["text"][row["end"] :]) for row in small_mentions}
    assert {(row["text"][: row["start"]], row["text"][row["end"] :]) for row in made} == places
    alone = kb_mentions(small_kb, 300, seed=0)
    assert sorted(map(str, made["concept_ids"])) == sorted(map(str, alone["concept_ids"]))


def test_what_is_not_in_a_passage_is_in_a_sentence_or_alone(small_kb, small_mentions):
    made = list(KBMentions(small_kb, 1000, seed=1, context=0.5, in_passages=0.4, passages=small_mentions))
    alone = sum(row["text"] == row["mention"] for row in made)
    befores = {row["text"][: row["start"]] for row in small_mentions} - {""}
    in_passages = sum(any(row["text"].startswith(before) for before in befores) for row in made)
    assert 350 < in_passages < 450
    assert 250 < alone < 350
    assert made[:50] == KBMentions(small_kb, 50, seed=1, context=0.5, in_passages=0.4, passages=small_mentions)[:]


def test_passages_are_asked_for_where_mentions_are_to_be_in_them(small_kb, small_mentions):
    with pytest.raises(ValueError, match=r"in_passages is 0\.5, but no passages"):
        KBMentions(small_kb, 1, seed=0, in_passages=0.5)
    with pytest.raises(ValueError, match=r"in_passages is 1\.5; it is a share"):
        KBMentions(small_kb, 1, seed=0, in_passages=1.5, passages=small_mentions)
    given = KBMentions(small_kb, 50, seed=0, passages=small_mentions)[:]
    assert given == KBMentions(small_kb, 50, seed=0)[:], "unless asked for, passages change nothing"
