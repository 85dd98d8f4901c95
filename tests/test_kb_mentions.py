import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from angel_trl.kb_mentions import kb_mentions, misspell, other_names
from angel_trl.mentions import MENTION_FEATURES, validate_mentions


def test_rows_are_a_mention_dataset_of_the_size_asked(small_kb):
    mentions = kb_mentions(small_kb, 200, seed=0)
    validate_mentions(mentions)
    assert len(mentions) == 200
    assert mentions.features == MENTION_FEATURES
    assert set(mentions["split"]) == {"kb"}
    assert len(kb_mentions(small_kb, 0, seed=0)) == 0


def test_the_seed_decides(small_kb):
    first, again, other = (kb_mentions(small_kb, 100, seed=seed)["mention"] for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)


def test_every_name_is_drawn_before_any_is_drawn_again(small_kb):
    mentions = list(kb_mentions(small_kb, 2 * small_kb.num_names + 5, seed=0, noise=0)["mention"])
    assert sorted(mentions[: small_kb.num_names]) == sorted(small_kb.names)
    assert sorted(Counter(mentions).values()) == [2] * (small_kb.num_names - 5) + [3] * 5


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


@given(st.lists(st.text("abβ", min_size=1, max_size=4), min_size=1, max_size=4).map(" ".join), st.integers(0, 10**6))
def test_a_misspelled_name_is_never_blank_and_changes_little(name, seed):
    changed = misspell(name, random.Random(seed))
    assert changed.strip()
    assert abs(len(changed) - len(name)) <= max(1, max(len(word) + 1 for word in name.split()))
    assert abs(len(changed.split()) - len(name.split())) <= 1


def test_other_names_are_names_of_the_gold_concepts(small_kb):
    gold = [(2,), (2, 3), (14,), ()]
    chosen = other_names(small_kb, gold, 3, seed=0)
    assert [sorted(small_kb.names[i] for i in names) for names in chosen[:1]] == [
        ["disseminated sclerosis", "ms", "multiple sclerosis"]
    ]
    assert [len(names) for names in chosen] == [3, 3, 1, 0]
    assert len(set(chosen[1])) == 3
    assert chosen == other_names(small_kb, gold, 3, seed=0)
