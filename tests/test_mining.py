"""Rounds: which mentions they draw, what is mined, and the file that keeps it."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from angel_trl.config import AngelConfig
from angel_trl.decoding import score_names, search
from angel_trl.evaluation import evaluate_linking
from angel_trl.kb import KnowledgeBase
from angel_trl.mining import RoundPairs, from_parquet, mine, round_rows, to_dataset
from angel_trl.pairs import Pairs
from angel_trl.targets import NearestNames
from angel_trl.trainer import AngelTrainer


def mine_round(trainer, round=0, **options):
    return mine(
        trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=round, **options
    )


def assert_same(one, other):
    """All but the metrics, which hold times."""
    assert one.round == other.round
    np.testing.assert_array_equal(one.rows, other.rows)
    for field in dataclasses.fields(Pairs):
        np.testing.assert_array_equal(getattr(one.pairs, field.name), getattr(other.pairs, field.name))
    np.testing.assert_array_equal(one.chosen_log_probs, other.chosen_log_probs)
    np.testing.assert_array_equal(one.rejected_log_probs, other.rejected_log_probs)


@pytest.mark.parametrize(("mentions", "size"), [(10, 5), (10, 3), (7, 7), (5, 1), (9, 4)])
def test_every_mention_comes_once_a_pass(mentions, size):
    drawn = np.concatenate([round_rows(mentions, size, round, seed=3) for round in range(3 * mentions)])
    assert len(drawn) == 3 * mentions * size
    for begin in range(0, len(drawn), mentions):
        assert sorted(drawn[begin : begin + mentions]) == list(range(mentions))


def test_rounds_depend_on_their_arguments_alone():
    again = [round_rows(100, 30, 5, seed=1).tolist() for _ in range(2)]
    assert again[0] == again[1]
    np.random.seed(5)  # noqa: NPY002
    assert round_rows(100, 30, 5, seed=1).tolist() == again[0]
    assert round_rows(100, 30, 5, seed=2).tolist() != again[0]
    assert round_rows(100, 30, 6, seed=1).tolist() != again[0]
    assert round_rows(8, 8, 0, seed=0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]


def test_passes_are_shuffled_anew():
    assert round_rows(50, 50, 0, seed=0).tolist() != round_rows(50, 50, 1, seed=0).tolist()


def test_pairs_say_what_the_search_says(make_trainer, small_kb):
    trainer = make_trainer(mentions_per_round=1.0, max_pairs_per_mention=9)
    mined = mine_round(trainer)
    encoded = [trainer.mentions.encoded[row] for row in mined.rows]
    found = search(trainer.model, trainer.targets.trie, encoded, num_beams=5, top_k=5)
    assert len(mined.pairs) > 16
    kinds = set()
    for i, place in enumerate(mined.pairs.mention):
        gold = set(trainer.mentions.gold[mined.rows[place]])
        chosen, rejected = int(mined.pairs.chosen[i]), int(mined.pairs.rejected[i])
        assert gold & set(small_kb.concepts_of_name(chosen))
        assert not gold & set(small_kb.concepts_of_name(rejected))
        rank = mined.pairs.rejected_rank[i]
        assert found.names[place, rank] == rejected
        assert mined.rejected_log_probs[i] == pytest.approx(found.log_probs[place, rank], abs=1e-5)
        if mined.pairs.chosen_rank[i] < 0:
            assert chosen == trainer.nearest_gold[mined.rows[place]]
            assert chosen not in found.names[place]
            (score,) = score_names(trainer.model, [encoded[place]], [[trainer.targets.sequences[chosen]]])
            assert mined.chosen_log_probs[i] == pytest.approx(score[0], abs=1e-5)
        else:
            assert found.names[place, mined.pairs.chosen_rank[i]] == chosen
        kinds.add(mined.pairs.chosen_rank[i] < 0)
    assert kinds == {True, False}


def test_metrics_count_where_gold_was(make_trainer):
    trainer = make_trainer(mentions_per_round=1.0)
    metrics = mine_round(trainer).metrics
    encoded = trainer.mentions.encoded
    is_gold = trainer.mentions.is_gold(
        search(trainer.model, trainer.targets.trie, encoded, num_beams=5).names, trainer.targets.kb
    )
    assert metrics["mentions"] == 16
    assert metrics["gold_first"] == 100 * is_gold[:, 0].mean()
    assert metrics["gold_absent"] == 100 * (~is_gold.any(axis=1)).mean()
    assert metrics["gold_in_top_k"] == 100 - metrics["gold_first"] - metrics["gold_absent"]


def test_the_margin_is_the_reference_s_preference_for_the_right_name(make_trainer):
    trainer = make_trainer()
    mined = mine_round(trainer)
    margins = mined.chosen_log_probs - mined.rejected_log_probs
    assert mined.metrics["margin"] == pytest.approx(margins.mean(), abs=1e-5)
    assert mined.metrics["margin"] < -1, "a random model prefers wrong names"


def test_without_pairs_the_margin_is_zero(make_trainer, small_mentions):
    trainer = make_trainer(
        train=small_mentions.select([1, 2]), absent_gold="skip", mine_top_k=1, mentions_per_round=1.0
    )
    mined = mine_round(trainer)
    assert (len(mined.pairs), mined.metrics["margin"]) == (0, 0.0)


@pytest.fixture
def relabelled(small_mentions):
    """The training mentions; one that spells out a name of C02 is labelled with C05 instead."""

    def relabel(row):
        return row | ({"concept_ids": [["C05"]]} if row["mention"] == "COLD" else {})

    return small_mentions.filter(lambda row: row["split"] == "train").map(relabel)


def test_own_names_are_left_out_of_candidates_and_chosen_names(make_trainer, small_kb, relabelled):
    settings = {"mentions_per_round": 1.0, "max_pairs_per_mention": 9, "mine_top_k": 20, "num_beams": 40}
    settings["train"] = relabelled
    trainer = make_trainer(mine_own_name=False, **settings)
    mined = mine_round(trainer)
    encoded = [trainer.mentions.encoded[row] for row in mined.rows]
    found = search(trainer.model, trainer.targets.trie, encoded, num_beams=trainer.args.num_beams, top_k=21)
    expected, left_out, others, first = [], 0, 0, 0
    for place, row in enumerate(mined.rows.tolist()):
        gold = set(trainer.mentions.gold[row])
        own = small_kb.find(trainer.mentions.mentions[row])
        if own is not None and not gold & set(small_kb.concepts_of_name(own).tolist()):
            own = None
            others += 1
        listed = [
            (name, log_prob)
            for name, log_prob in zip(found.names[place].tolist(), found.log_probs[place].tolist(), strict=True)
            if name != own
        ][:20]
        left_out += own in found.names[place]
        right = [bool(gold & set(small_kb.concepts_of_name(name).tolist())) for name, _ in listed]
        first += right[0]
        nearest = trainer.nearest_gold[row]
        if own is not None:
            assert nearest != own
        if right[0]:
            wrong = [i for i in range(20) if not right[i]][:1]
        else:
            wrong = [i for i in range(20) if not any(right[: i + 1])][:9]
        chosen = listed[right.index(True)][0] if any(right) else nearest
        expected += [(place, chosen, *listed[i]) for i in wrong if chosen >= 0]
    pairs = mined.pairs
    got = list(zip(pairs.mention.tolist(), pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))
    assert got == [row[:3] for row in expected]
    np.testing.assert_allclose(mined.rejected_log_probs, [row[3] for row in expected], atol=1e-5)
    assert mined.metrics["gold_first"] == pytest.approx(100 * first / len(mined.rows))
    assert left_out, "some own names were among the candidates"
    assert others == 1, "a wrong name that a mention spells out stays"
    # With them these are chosen.
    assert mine_round(make_trainer(**settings)).pairs.chosen.tolist() != pairs.chosen.tolist()


def test_the_nearest_gold_name_is_another_than_the_own_one(make_trainer, small_kb, relabelled):
    plain, without = (make_trainer(mine_own_name=own, train=relabelled) for own in (True, False))
    ordered = NearestNames(small_kb).nearest(plain.mentions.mentions, plain.mentions.gold, 99)
    seen = set()
    for row, (mention, gold) in enumerate(zip(plain.mentions.mentions, plain.mentions.gold, strict=True)):
        right = {name for concept in gold for name in small_kb.names_of_concept(concept).tolist()}
        own = small_kb.find(mention)
        if own in right:
            assert plain.nearest_gold[row] == own
            assert without.nearest_gold[row] == [*(name for name in ordered[row] if name != own), -1][0]
            seen.add("alone" if right == {own} else "several")
        else:
            assert without.nearest_gold[row] == plain.nearest_gold[row] == ordered[row][0]
            seen.add("none")
    assert seen == {"alone", "several", "none"}


def test_what_is_mined_does_not_depend_on_the_batch_size(make_trainer):
    one, all_at_once = (mine_round(make_trainer(mining_batch_size=size)) for size in (1, 64))
    np.testing.assert_array_equal(one.pairs.chosen, all_at_once.pairs.chosen)
    np.testing.assert_array_equal(one.pairs.rejected, all_at_once.pairs.rejected)
    np.testing.assert_allclose(one.chosen_log_probs, all_at_once.chosen_log_probs, atol=1e-5)


def test_another_reference_scores_every_pair_and_each_name_once(make_trainer):
    trainer = make_trainer(mentions_per_round=1.0, max_pairs_per_mention=3)
    own = mine_round(trainer)
    asked = []

    def reference(mentions, names):
        asked.extend(zip(mentions, names, strict=True))
        # A number of its own for each name of each mention.
        return [np.array([-100.0 - i - len(one) for i, one in enumerate(some)], np.float32) for some in names]

    mined = mine_round(trainer, reference=reference)
    for field in dataclasses.fields(Pairs):
        np.testing.assert_array_equal(getattr(mined.pairs, field.name), getattr(own.pairs, field.name))
    with_pairs = dict.fromkeys(mined.pairs.mention.tolist())
    assert [mention for mention, _ in asked] == [trainer.mentions.encoded[mined.rows[place]] for place in with_pairs]
    sequences = trainer.targets.sequences
    for (_, names), place in zip(asked, with_pairs, strict=True):
        here = mined.pairs.mention == place
        wanted = {*mined.pairs.chosen[here].tolist(), *mined.pairs.rejected[here].tolist()}
        assert sorted(names) == sorted(sequences[name] for name in wanted)
        for side in ("chosen", "rejected"):
            given = [sequences[name] for name in getattr(mined.pairs, side)[here]]
            expected = [-100.0 - names.index(name) - len(name) for name in given]
            assert getattr(mined, f"{side}_log_probs")[here].tolist() == expected


@pytest.fixture
def make_typed(make_model, tokenizer, small_kb, small_mentions, tmp_path):
    """`make_typed(**settings)`: a trainer with concepts of two types, and mentions of the types of their gold."""

    def make(**settings):
        types = [("Sign",), ("Disease",)]
        kb = KnowledgeBase([dataclasses.replace(c, types=types[i % 2]) for i, c in enumerate(small_kb.concepts)])
        of_gold = [
            sorted({t for part in ids for one in part for c in kb.resolve(one) for t in kb.concepts[c].types})
            for ids in small_mentions["concept_ids"]
        ]
        typed = small_mentions.remove_columns("types").add_column("types", of_gold)
        train, dev = (typed.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev"))
        quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "mentions_per_round": 1.0}
        args = AngelConfig(str(tmp_path), num_beams=10, **quiet, **settings)
        return AngelTrainer(make_model(), args, train, dev, kb, processing_class=tokenizer)

    return make


def of_their_types(trainer, rows, names):
    """Whether a concept of each name is of a type of the mention."""
    kb = trainer.targets.kb
    return [
        bool({t for c in kb.concepts_of_name(name) for t in kb.concepts[c].types} & set(trainer.mentions.types[row]))
        for row, name in zip(rows, names, strict=True)
    ]


def test_mining_within_types_rejects_names_of_the_mention_s_types_only(make_typed):
    shares = {}
    for within_types in (False, True):
        trainer = make_typed(within_types=within_types)
        mined = mine_round(trainer)
        assert len(mined.pairs) > 30
        rows = mined.rows[mined.pairs.mention]
        shares[within_types] = np.mean(of_their_types(trainer, rows, mined.pairs.rejected))
        found = search(
            trainer.model,
            trainer.targets.trie,
            [trainer.mentions.encoded[row] for row in mined.rows],
            num_beams=10,
            restrictions=trainer.targets.within_types([trainer.mentions.types[row] for row in mined.rows])
            if within_types
            else None,
        )
        at = mined.pairs.mention, mined.pairs.rejected_rank
        np.testing.assert_array_equal(found.names[at], mined.pairs.rejected)
        np.testing.assert_allclose(found.log_probs[at], mined.rejected_log_probs, atol=1e-5)
    assert shares[True] == 1.0
    assert shares[False] < 0.8


def test_dev_mentions_are_linked_within_types_too(make_typed):
    free, within = make_typed(), make_typed(within_types=True)
    metrics = {trainer: trainer.evaluate() for trainer in (free, within)}
    for trainer, within_types in ((free, False), (within, True)):
        expected = evaluate_linking(
            trainer.model, trainer.targets, trainer.eval_mentions, num_beams=10, within_types=within_types
        )
        for name in ("acc@1", "acc@5", "mrr", "acc@5_strict"):
            assert metrics[trainer][f"eval_{name}"] == expected.metrics[name]
    assert metrics[free]["eval_mrr"] != metrics[within]["eval_mrr"]


@pytest.mark.parametrize("own_name", [True, False], ids=["", "without own names"])
@pytest.mark.parametrize("within_types", [False, True], ids=["", "within types"])
@pytest.mark.parametrize("processes", [2, 3, 20])
def test_shares_of_processes_merge_to_what_one_process_mines(
    make_typed, monkeypatch, processes, within_types, own_name
):
    """Each share is mined in turn and handed over as gathering would; of 20 processes some have no mention."""
    trainer = make_typed(within_types=within_types, mine_own_name=own_name)
    alone = mine_round(trainer)
    shares = []
    monkeypatch.setattr("angel_trl.mining.gather_object", lambda share: shares.extend(share) or shares)
    for process in range(processes):
        merged = mine_round(trainer, process=process, processes=processes)
    np.testing.assert_array_equal(merged.pairs.mention, alone.pairs.mention)
    np.testing.assert_array_equal(merged.pairs.chosen, alone.pairs.chosen)
    np.testing.assert_array_equal(merged.pairs.rejected, alone.pairs.rejected)
    np.testing.assert_allclose(merged.chosen_log_probs, alone.chosen_log_probs, atol=1e-5)
    np.testing.assert_allclose(merged.rejected_log_probs, alone.rejected_log_probs, atol=1e-5)
    counts = ("mentions", "gold_first", "gold_in_top_k", "gold_absent", "exact", "pairs")
    assert {key: merged.metrics[key] for key in counts} == {key: alone.metrics[key] for key in counts}
    assert merged.metrics["margin"] == pytest.approx(alone.metrics["margin"], abs=1e-5)


def test_mining_leaves_the_model_as_it_was(make_trainer):
    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.train()
    mine_round(trainer)
    assert trainer.model.training
    assert all((before[name] == value).all() for name, value in trainer.model.state_dict().items())


def test_a_round_is_written_in_trls_preference_columns(make_trainer, tmp_path, small_kb):
    trainer = make_trainer()
    trainer.train()
    files = sorted((tmp_path / "pairs").iterdir())
    assert [file.name for file in files] == ["round-000.parquet", "round-001.parquet"]
    rows = load_dataset(
        "parquet", data_files=[str(f) for f in files], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {"prompt", "chosen", "rejected"} <= set(rows.column_names)
    mined = mine_round(make_trainer(output_dir=tmp_path / "other"))
    first = rows.filter(lambda row: row["round"] == 0)
    assert len(first) == len(mined.pairs)
    for i, row in enumerate(first):
        mention = mined.rows[mined.pairs.mention[i]]
        assert row["mention_id"] == trainer.mentions.ids[mention]
        assert row["mention_row"] == mention
        assert row["prompt"].endswith(f" {trainer.mentions.mentions[mention]} is")
        assert " START " in row["prompt"]
        for side in ("chosen", "rejected"):
            name = int(getattr(mined.pairs, side)[i])
            assert row[side] == f" {small_kb.names[name]}"
            assert row[f"{side}_name"] == name
            assert row[f"{side}_concept_ids"] == list(small_kb.ids_of_name(name))
            assert row[f"{side}_rank"] == getattr(mined.pairs, f"{side}_rank")[i]
            assert row[f"{side}_log_prob"] == getattr(mined, f"{side}_log_probs")[i]


def keep(trainer, mined, path):
    to_dataset(mined, trainer.targets, trainer.mentions).to_parquet(str(path))
    return path


# 12 of 16 mentions a round: round 1 takes the last 4 of one shuffle and 8 of the next, so that some come twice.
@pytest.mark.parametrize("round", [0, 1])
def test_the_file_of_a_round_reads_back_as_it_was(make_trainer, tmp_path, round):
    trainer = make_trainer(seed=1)
    mined = mine_round(trainer, round)
    assert (len(set(mined.rows.tolist())) < 12) == (round == 1)
    read = from_parquet(keep(trainer, mined, tmp_path / "pairs.parquet"), trainer.mentions, trainer.args, round)
    assert_same(read, mined)
    assert read.metrics == {"pairs": len(mined.pairs)}


def test_a_round_without_pairs_reads_back_and_has_the_same_columns(make_trainer, tmp_path):
    trainer = make_trainer()
    full = mine_round(trainer)
    nothing = np.zeros(0, dtype=np.int32)
    none = np.zeros(0, dtype=np.float32)
    empty = RoundPairs(0, full.rows, Pairs(*[nothing] * 5), none, none, {"pairs": 0.0})
    path = keep(trainer, empty, tmp_path / "empty.parquet")
    assert_same(from_parquet(path, trainer.mentions, trainer.args, 0), empty)
    assert pq.read_schema(path).equals(pq.read_schema(keep(trainer, full, tmp_path / "full.parquet")))


def test_the_file_of_another_round_or_run_is_refused(make_trainer, tmp_path, small_mentions):
    trainer = make_trainer()
    path = keep(trainer, mine_round(trainer), tmp_path / "pairs.parquet")
    others = {
        "another round": (trainer, 1),
        "another seed": (make_trainer(seed=9), 0),
        "another size of round": (make_trainer(mentions_per_round=3), 0),
        "other mentions": (make_trainer(train=small_mentions.select(range(8, 24))), 0),
    }
    for other, round in others.values():
        with pytest.raises(ValueError, match=rf"pairs\.parquet does not hold the pairs of round {round} of this run"):
            from_parquet(path, other.mentions, other.args, round)


def test_a_parquet_file_of_something_else_is_refused(make_trainer, tmp_path, small_mentions):
    trainer = make_trainer()
    small_mentions.to_parquet(str(tmp_path / "mentions.parquet"))
    with pytest.raises(ValueError, match="does not hold the pairs of round 0"):
        from_parquet(tmp_path / "mentions.parquet", trainer.mentions, trainer.args, 0)
