"""Out-of-fold mining: how documents are dealt, whose names make pairs, and by whom these are measured."""

import dataclasses

import numpy as np
import pytest
from test_mining import assert_same, mine_round
from test_resume import StopAt
from transformers import BartConfig, BartForConditionalGeneration

from angel_trl import EntityLinker, HeldOut, deal_documents
from angel_trl.decoding import score_names, search
from angel_trl.formatting import MentionFormat
from angel_trl.pairs import Pairs, make_pairs
from angel_trl.scratch import train_tokenizer


@pytest.fixture(scope="module")
def train(small_mentions):
    """16 mentions of 8 documents."""
    return small_mentions.filter(lambda row: row["split"] == "train")


@pytest.fixture(scope="module")
def held_out(make_model, train):
    """Two models for the first six documents, dealt; the mentions of the other two have none."""
    return HeldOut([make_model(seed=1), make_model(seed=2)], deal_documents(train.select(range(12)), 2, seed=0))


@pytest.fixture
def trainer(make_trainer, held_out):
    """A trainer with held-out models that mines all its mentions in a round."""
    return make_trainer(held_out=held_out, mentions_per_round=1.0, max_pairs_per_mention=9)


def test_folds_are_disjoint_whole_documents_that_cover_the_corpus(train):
    dealt = deal_documents(train, 3, seed=5)
    assert list(dealt) != train["id"]
    assert set(dealt) == set(train["id"])
    folds_of = {}
    for mention, document in zip(train["id"], train["document_id"], strict=True):
        folds_of.setdefault(document, set()).add(dealt[mention])
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert sorted(np.bincount(list(dealt.values())).tolist()) == [4, 6, 6]


def test_dealing_depends_on_its_arguments_alone(train):
    dealt = deal_documents(train, 2, seed=0)
    assert [dealt[mention] for mention in train["id"][::2]] == [1, 0, 0, 0, 1, 0, 1, 1]
    np.random.seed(5)  # noqa: NPY002
    assert deal_documents(train, 2, seed=0) == dealt
    assert deal_documents(train, 2, seed=2) != dealt


def test_large_documents_do_not_make_large_folds(train):
    documents = ["large"] * 8 + [f"small {i}" for i in range(8)]
    dealt = deal_documents(train.remove_columns("document_id").add_column("document_id", documents), 2, seed=3)
    assert np.bincount(list(dealt.values())).tolist() == [8, 8]
    assert len({dealt[mention] for mention in train["id"][:8]}) == 1


def test_mentions_without_a_document_are_dealt_one_by_one(train):
    alone = train.remove_columns("document_id").add_column("document_id", [""] * 16)
    assert np.bincount(list(deal_documents(alone, 16).values())).tolist() == [1] * 16


@pytest.mark.parametrize(("folds", "message"), [(1, "at least 2"), (-2, "at least 2"), (9, "8 documents cannot")])
def test_folds_that_cannot_be_made_are_refused(train, folds, message):
    with pytest.raises(ValueError, match=message):
        deal_documents(train, folds)


def test_each_mention_is_searched_by_its_model_and_scored_by_the_one_trained(trainer, held_out):
    mined = mine_round(trainer, held_out=held_out)
    mentions, policy, sequences = trainer.mentions, trainer.model, trainer.targets.sequences
    expected = []
    for place, model in ((-1, policy), *enumerate(held_out.models)):
        places = [i for i, row in enumerate(mined.rows) if held_out.of.get(mentions.ids[row], -1) == place]
        assert len(places) in (4, 6)
        part = mentions.subset(mined.rows[places])
        found = search(model, trainer.targets.trie, part.encoded, num_beams=5, top_k=5)
        gold = part.is_gold(found.names, trainer.targets.kb)
        pairs = make_pairs(found.names, gold, trainer.nearest_gold[mined.rows[places]], top_k=5, max_pairs=9)
        names = [[sequences[pairs.chosen[i]], sequences[pairs.rejected[i]]] for i in range(len(pairs))]
        scores = score_names(policy, [part.encoded[row] for row in pairs.mention], names)
        for i, row in enumerate(pairs.mention):
            whole = [int(getattr(pairs, field.name)[i]) for field in dataclasses.fields(Pairs)[1:]]
            expected.append((places[row], *whole, *scores[i].tolist()))
    expected.sort(key=lambda pair: (pair[0], pair[4]))
    assert len(mined.pairs) == len(expected) > 30
    for i, pair in enumerate(expected):
        assert [int(getattr(mined.pairs, field.name)[i]) for field in dataclasses.fields(Pairs)] == list(pair[:5])
        log_probs = [mined.chosen_log_probs[i], mined.rejected_log_probs[i]]
        assert log_probs == pytest.approx(list(pair[5:]), abs=1e-4)
    alone = mine_round(trainer)
    assert alone.pairs.rejected.tolist() != mined.pairs.rejected.tolist()


def test_metrics_tell_where_the_models_that_searched_put_gold(trainer, held_out):
    mentions = trainer.mentions
    metrics = mine_round(trainer, held_out=held_out).metrics
    first, held_first = 0, 0
    for place, model in ((-1, trainer.model), *enumerate(held_out.models)):
        part = mentions.subset([i for i, one in enumerate(mentions.ids) if held_out.of.get(one, -1) == place])
        names = search(model, trainer.targets.trie, part.encoded, num_beams=5, top_k=5).names
        gold_first = int(part.is_gold(names, trainer.targets.kb)[:, 0].sum())
        first += gold_first
        held_first += gold_first if place >= 0 else 0
    assert metrics["gold_first"] == 100 * first / 16
    assert (metrics["held_out"], metrics["held_out_gold_first"]) == (75.0, 100 * held_first / 12)
    assert metrics["gold_first"] + metrics["gold_in_top_k"] + metrics["gold_absent"] == pytest.approx(100)
    assert not any("held" in key for key in mine_round(trainer).metrics)


def test_without_a_held_out_mention_nothing_changes(trainer, held_out):
    assert_same(mine_round(trainer, held_out=HeldOut(held_out.models, {})), mine_round(trainer))


def test_another_reference_measures_what_held_out_models_found(trainer, held_out):
    def reference(mentions, names):
        return [np.full(len(some), -7.0, np.float32) for some in names]

    mined = mine_round(trainer, held_out=held_out, reference=reference)
    assert len(mined.pairs) > 30
    assert set(mined.chosen_log_probs) | set(mined.rejected_log_probs) == {-7.0}


@pytest.mark.parametrize("processes", [2, 5, 20])
def test_processes_mine_what_one_mines(trainer, held_out, monkeypatch, processes):
    """Each share is mined in turn and handed over as gathering would; some have no mention of a fold, or none."""
    alone = mine_round(trainer, held_out=held_out)
    shares = []
    monkeypatch.setattr("angel_trl.mining.gather_object", lambda share: shares.extend(share) or shares)
    for process in range(processes):
        merged = mine_round(trainer, held_out=held_out, process=process, processes=processes)
    for field in dataclasses.fields(Pairs):
        np.testing.assert_array_equal(getattr(merged.pairs, field.name), getattr(alone.pairs, field.name))
    np.testing.assert_allclose(merged.chosen_log_probs, alone.chosen_log_probs, atol=1e-4)
    np.testing.assert_allclose(merged.rejected_log_probs, alone.rejected_log_probs, atol=1e-4)
    by_chance = {"seconds", "mentions_per_second", "margin"}
    kept = [{key: value for key, value in one.metrics.items() if key not in by_chance} for one in (merged, alone)]
    assert kept[0] == kept[1]


def save(folder, model, tokenizer, kb, mention_format=None):
    EntityLinker(model, tokenizer, kb, mention_format).save_pretrained(folder)
    return folder


def test_folders_of_linkers_mine_what_the_models_mine(trainer, held_out, make_model, tokenizer, small_kb, tmp_path):
    folders = [save(tmp_path / str(seed), make_model(seed=seed), tokenizer, small_kb) for seed in (1, 2)]
    of_folders = HeldOut([str(folders[0]), folders[1]], held_out.of)
    of_folders.check(trainer.mentions.ids, trainer.targets, trainer.model)
    found, expected = (mine_round(trainer, held_out=one) for one in (of_folders, held_out))
    for field in dataclasses.fields(Pairs):
        np.testing.assert_array_equal(getattr(found.pairs, field.name), getattr(expected.pairs, field.name))
    np.testing.assert_allclose(found.rejected_log_probs, expected.rejected_log_probs, atol=1e-4)


def test_a_place_without_a_model_is_refused(tiny_model):
    for place in (1, -1, 0.5):
        with pytest.raises(ValueError, match=f"'a' is to be searched by model {place}, but there are 1 models"):
            HeldOut([tiny_model], {"a": place})


def test_mentions_of_another_corpus_are_refused(make_trainer, tiny_model, small_mentions):
    with pytest.raises(ValueError, match="8 of 24 mention ids are not in the training set, such as '10:"):
        make_trainer(held_out=HeldOut([tiny_model], dict.fromkeys(small_mentions["id"], 0)))


def test_models_that_do_not_fit_are_refused(make_trainer, make_model, tokenizer, small_kb, small_mentions, tmp_path):
    other = train_tokenizer([*small_kb.names, *small_mentions["mention"]], 590)
    config = make_model().config.to_dict() | {"max_position_embeddings": 64}
    cases = [
        (make_model(vocab_size=900), "model 0 does not .* a vocabulary of 900 tokens, not of 600"),
        (make_model(decoder_start_token_id=0), "the decoder start token 0, not 2"),
        (BartForConditionalGeneration(BartConfig(**config)), "a window of 64 tokens, not of 128"),
        (
            save(tmp_path / "tokens", make_model(), other, small_kb),
            r"model 0 \(.*tokens\) does not .* another tokenizer",
        ),
        (save(tmp_path / "words", make_model(), tokenizer, small_kb, MentionFormat(max_words=9)), "was made for"),
        (tmp_path / "gone", "There is no folder"),
    ]
    for model, message in cases:
        with pytest.raises((ValueError, OSError), match=message):
            make_trainer(held_out=HeldOut([model], {}))


MID_ROUND = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


def test_training_begins_at_the_reference_and_resumes_within_a_round_without_the_models(
    make_trainer, held_out, tmp_path, monkeypatch
):
    settings = {**MID_ROUND, "num_rounds": 1, "save_total_limit": None, "held_out": held_out}
    trainer = make_trainer(output_dir=tmp_path / "whole", **settings)
    trainer.train()
    rows = {row["step"]: row for row in trainer.state.log_history if "rewards/margins" in row}
    # The reference is the model of the start, not the one that found the names.
    assert rows[1]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert rows[2]["rewards/margins"] != pytest.approx(0, abs=1e-4)
    assert any("mined/held_out" in row for row in trainer.state.log_history)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(output_dir=tmp_path / "part", callbacks=[StopAt(2)], **settings).train()
    monkeypatch.setattr(HeldOut, "searcher", None)
    again = make_trainer(output_dir=tmp_path / "part", **settings)
    again.train(resume_from_checkpoint=True)
    for name, value in trainer.model.state_dict().items():
        assert (again.model.state_dict()[name] == value).all()
