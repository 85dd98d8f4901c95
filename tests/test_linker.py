import dataclasses
import json
import logging
import math
import os
import subprocess
import sys

import pytest
import torch
from linker_world import LINKER
from transformers import (
    BartTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from angel_trl.formatting import MentionFormat
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linked import Candidate, Linked, parse_brackets
from angel_trl.linker import EntityLinker
from angel_trl.trie import NameTrie

TEXT = "Famotidine-associated [delirium] and [MS]."


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb, MentionFormat(max_words=100))


@pytest.fixture(scope="module")
def saved(linker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linker")
    linker.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved linker to spoil."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- linking ---------------------------------------------------------------------------------------------------------


def test_offsets_are_those_of_the_text_without_brackets():
    plain, spans = parse_brackets("[A] b [c d].")
    assert (plain, spans) == ("A b c d.", [(0, 1), (4, 7)])
    assert [plain[start:end] for start, end in spans] == ["A", "c d"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("none here", r"no \[mention\] in 'none here'"),
        ("", r"no \[mention\]"),
        ("empty []", r"no \[mention\]"),
        ("[a] and b]", "a bracket without a partner"),
        ("[a [b] c]", "brackets within brackets"),
        ("[a] and [b", "a bracket without a partner"),
    ],
)
def test_brackets_that_mark_no_mention_are_an_error(linker, text, what):
    with pytest.raises(ValueError, match=what):
        linker.link(text)


def test_every_marked_mention_is_linked_in_order(linker, small_kb):
    first, second = linker.link(TEXT, top_k=3)
    assert (first.mention, first.start, first.end) == ("delirium", 22, 30)
    assert (second.mention, second.start, second.end) == ("MS", 35, 37)
    for linked in (first, second):
        assert len(linked.candidates) == 3
        scores = [candidate.score for candidate in linked.candidates]
        assert scores == sorted(scores, reverse=True)
        for candidate in linked.candidates:
            index = small_kb.find(candidate.matched_name)
            assert small_kb.names[index] == candidate.matched_name
            assert candidate.ids == small_kb.ids_of_name(index)
            assert candidate.name == small_kb.concepts[small_kb.concepts_of_name(index)[0]].names[0]
        assert (linked.id, linked.name) == (linked.candidates[0].ids[0], linked.candidates[0].name)
        assert linked.score == scores[0]


def test_all_names_together_have_no_more_than_all_the_probability(linker, small_kb):
    [linked] = linker.link("[gout]", num_beams=200, top_k=200)
    assert linked.exact
    assert len(linked.candidates) == small_kb.num_names
    assert sum(math.exp(candidate.score) for candidate in linked.candidates) <= 1 + 1e-5


def test_homonyms_are_ambiguous(make_model, tokenizer):
    kb = KnowledgeBase([Concept("C4", ("Mitral stenosis", "MS")), Concept("C3", ("Multiple sclerosis", "M.S."))])
    [linked] = EntityLinker(make_model(), tokenizer, kb).link("[ms]", top_k=4)
    by_name = {candidate.matched_name: candidate for candidate in linked.candidates}
    assert set(by_name) == {"mitral stenosis", "ms", "multiple sclerosis", "m s"}
    assert {candidate.ids for candidate in linked.candidates} == {("C4",), ("C3",)}
    kb = KnowledgeBase([Concept("C4", ("MS",)), Concept("C3", ("Ms",))])
    [linked] = EntityLinker(make_model(), tokenizer, kb).link("[ms]")
    assert linked.ambiguous
    assert (linked.id, linked.name) == ("C4", "MS")
    [candidate] = linked.candidates
    assert candidate == Candidate(("C4", "C3"), "MS", "ms", linked.score, candidate.mean_score)


def test_a_name_of_one_concept_is_not_ambiguous():
    assert not Linked("x", 0, 1, (Candidate(("C1",), "X", "x", -0.1, -0.1),), True).ambiguous


def test_results_do_not_depend_on_the_batch(linker, small_mentions):
    together = linker.link_batch(small_mentions)
    for batch_size in (1, 5):
        for one, other in zip(linker.link_batch(small_mentions, batch_size=batch_size), together, strict=True):
            assert [c.matched_name for c in one.candidates] == [c.matched_name for c in other.candidates]
            assert [c.score for c in one.candidates] == pytest.approx([c.score for c in other.candidates], abs=1e-4)
            assert (one.mention, one.start, one.end, one.exact) == (other.mention, other.start, other.end, other.exact)
    assert linker.link_batch([]) == []


def test_link_is_link_batch(linker):
    text = "Famotidine-associated delirium and MS."
    assert linker.link(TEXT) == linker.link_batch(
        [{"text": text, "start": s, "end": e} for s, e in ((22, 30), (35, 37))]
    )


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 3), (4, 2), (0, 99)])
def test_offsets_outside_the_text_are_an_error(linker, start, end):
    rows = [{"text": "gout here", "start": 0, "end": 4}, {"text": "gout here", "start": start, "end": end}]
    with pytest.raises(ValueError, match=f"mention 1: offsets {start}-{end} do not lie in a text of 9 characters"):
        linker.link_batch(rows)


def test_a_blank_mention_is_an_error(linker):
    with pytest.raises(ValueError, match="mention 0: offsets 5-6 mark nothing but blanks"):
        linker.link("some [ ] text")


def test_a_mention_longer_than_the_window_gets_no_answer_and_a_warning(linker, caplog):
    with caplog.at_level(logging.WARNING):
        long, short = linker.link(f"[{'ÿ' * 200}] and [gout]")
    assert "1 of 2 mentions are longer than the model's window" in caplog.text
    assert (long.candidates, long.exact, long.ambiguous) == ((), False, False)
    assert (long.id, long.name, long.score) == (None, None, None)
    assert short.candidates == linker.link(f"{'ÿ' * 200} and [gout]")[0].candidates


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_saved_linker_gives_equal_results(linker, saved, small_mentions):
    again = EntityLinker.from_pretrained(saved)
    assert again.link_batch(small_mentions) == linker.link_batch(small_mentions)
    assert again.targets.formatter.format == MentionFormat(max_words=100)
    assert again.model.dtype == torch.float32
    assert not again.model.training


def test_the_folder_holds_nothing_that_runs_when_loaded(saved):
    assert {file.name for file in saved.iterdir()} == LINKER


def test_the_settings_say_what_belongs_together(saved, small_kb):
    settings = json.loads((saved / "angel.json").read_text())
    assert settings["format"] == "angel_trl.linker/1"
    assert settings["kb_fingerprint"] == small_kb.fingerprint
    assert settings["mention_format"] == {
        "max_words": 100,
        "mention_normalization": "genbioel",
        "abbreviations": "keep",
    }


def test_saving_over_a_linker_replaces_it(copy, make_model, tokenizer):
    kb = KnowledgeBase([Concept("X1", ("gout",))])
    EntityLinker(make_model(seed=1), tokenizer, kb).save_pretrained(copy)
    assert EntityLinker.from_pretrained(copy).link("[gout]")[0].id == "X1"


def test_another_knowledge_base_can_be_linked_to(saved):
    kb = KnowledgeBase([Concept("X1", ("gout",)), Concept("X2", ("fever",))])
    linker = EntityLinker.from_pretrained(saved, kb=kb)
    assert {candidate.ids for candidate in linker.link("[gout]")[0].candidates} == {("X1",), ("X2",)}
    assert linker.targets.formatter.format.max_words == 100


def test_a_plain_model_needs_a_knowledge_base(copy):
    for name in ("angel.json", "kb.parquet", "trie.safetensors"):
        (copy / name).unlink()
    with pytest.raises(ValueError, match="has no kb.parquet: it is a model without a knowledge base"):
        EntityLinker.from_pretrained(copy)
    kb = KnowledgeBase([Concept("X1", ("gout",))])
    assert EntityLinker.from_pretrained(copy, kb=kb).link("[gout]")[0].id == "X1"


def test_a_folder_not_saved_to_the_end_is_refused(copy):
    (copy / "angel.json").unlink()
    with pytest.raises(ValueError, match="has no angel.json: it was not saved to the end"):
        EntityLinker.from_pretrained(copy)


def test_another_knowledge_base_in_the_folder_is_refused(copy):
    KnowledgeBase([Concept("X1", ("gout",))]).to_parquet(copy / "kb.parquet")
    with pytest.raises(ValueError, match="kb.parquet is not the knowledge base that angel.json names"):
        EntityLinker.from_pretrained(copy)


def test_an_altered_knowledge_base_is_refused(copy):
    content = (copy / "kb.parquet").read_bytes()
    (copy / "kb.parquet").write_bytes(content[:-20])
    with pytest.raises(ValueError, match="not a readable parquet file"):
        EntityLinker.from_pretrained(copy)


def test_an_altered_trie_is_refused(copy):
    content = bytearray((copy / "trie.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "trie.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="was altered after it was written"):
        EntityLinker.from_pretrained(copy)


def test_the_trie_of_other_names_is_refused(copy):
    NameTrie.build([[5, 2]], fingerprint="f" * 64).save(copy / "trie.safetensors")
    with pytest.raises(ValueError, match="was built for another knowledge base or tokenizer"):
        EntityLinker.from_pretrained(copy)


def test_a_format_of_another_version_is_refused(copy):
    settings = json.loads((copy / "angel.json").read_text())
    (copy / "angel.json").write_text(json.dumps({**settings, "format": "angel_trl.linker/99"}))
    with pytest.raises(ValueError, match="has format 'angel_trl.linker/99'; this version reads angel_trl.linker/1"):
        EntityLinker.from_pretrained(copy)


def test_the_tokenizer_of_bart_survives_the_folder(shared, make_model, small_kb, tmp_path):
    files = shared / "data/bart_tokenizer"
    tokenizer = BartTokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
    linker = EntityLinker(make_model(vocab_size=50265), tokenizer, small_kb)
    linker.save_pretrained(tmp_path)
    again = EntityLinker.from_pretrained(tmp_path)
    assert again.targets.fingerprint == linker.targets.fingerprint
    assert again.link(TEXT) == linker.link(TEXT)


# --- rankings, restrictions, extensions ------------------------------------------------------------------------------


def test_a_mean_score_is_that_of_a_token(linker):
    for linked in linker.link(TEXT, top_k=3):
        for candidate in linked.candidates:
            [tokens] = linker.targets.formatter.names([candidate.matched_name])
            assert candidate.mean_score == pytest.approx(candidate.score / len(tokens), abs=1e-6)


def test_the_ranking_asked_for_orders_the_candidates(linker):
    [by_sum] = linker.link("[gout]", num_beams=200, top_k=100)
    [by_mean] = linker.link("[gout]", num_beams=200, top_k=100, ranking="mean")
    assert len(by_mean.candidates) == 71
    assert {c.matched_name for c in by_sum.candidates} == {c.matched_name for c in by_mean.candidates}
    means = [candidate.mean_score for candidate in by_mean.candidates]
    assert means == sorted(means, reverse=True)
    assert by_sum.candidates != by_mean.candidates
    with pytest.raises(ValueError, match="ranking is 'best'"):
        linker.link("[gout]", ranking="best")


def test_a_search_exact_is_exact(linker):
    assert not any(linked.exact for linked in linker.link(TEXT, num_beams=1))
    exact = linker.link(TEXT, num_beams=1, exact=True)
    assert [linked.exact for linked in exact] == [True, True]
    names = [[candidate.matched_name for candidate in linked.candidates] for linked in exact]
    widest = linker.link(TEXT, num_beams=200)
    assert names == [[candidate.matched_name for candidate in linked.candidates] for linked in widest]


def test_answers_are_restricted_for_one_text_or_mention_by_mention(linker):
    [linked] = linker.link("[ms]", restriction=linker.restrict(names=["MS"], ids=["C04"]))
    assert [candidate.ids for candidate in linked.candidates] == [("C04",)]
    assert (linked.id, linked.name, linked.ambiguous) == ("C04", "Mitral Stenosis", False)
    rows = [{"text": "gout here", "start": 0, "end": 4}] * 3
    given = [linker.restrict(ids=["C29"]), None, linker.restrict(names=["podagra"])]
    linked = linker.link_batch(rows, restrictions=given, top_k=10)
    assert {candidate.ids for candidate in linked[0].candidates} == {("C29",)}
    assert len(linked[0].candidates) == 3
    [alone] = linker.link_batch(rows[:1], top_k=10)
    assert [candidate.ids for candidate in linked[1].candidates] == [candidate.ids for candidate in alone.candidates]
    assert [candidate.matched_name for candidate in linked[2].candidates] == ["podagra"]


def test_an_extended_linker_links_to_what_was_added(linker, small_kb):
    extended = linker.extended([Concept("Z1", ("Zoster",), types=("Virus",)), Concept("C30", ("Gouty arthritis",))])
    assert (len(extended.kb), extended.kb.num_names) == (31, 73)
    assert extended.model is linker.model
    [linked] = extended.link("[zoster]", restriction=extended.restrict(types=["Virus"]))
    assert (linked.id, linked.name) == ("Z1", "Zoster")
    [linked] = extended.link("[gout]", num_beams=200, top_k=100)
    by_name = {candidate.matched_name: candidate.ids for candidate in linked.candidates}
    assert len(by_name) == 73
    assert (by_name["zoster"], by_name["gouty arthritis"], by_name["gout"]) == (("Z1",), ("C30",), ("C30",))
    assert linker.kb is small_kb
    assert len(linker.link("[gout]", num_beams=200, top_k=100)[0].candidates) == 71


def test_a_restriction_of_another_linker_is_refused(linker):
    extended = linker.extended([Concept("Z1", ("Zoster",))])
    with pytest.raises(ValueError, match="The restriction to names 'gout' was made for other names"):
        extended.link("[gout]", restriction=linker.restrict(names=["gout"]))


def test_an_extended_linker_survives_the_folder(linker, small_mentions, tmp_path):
    extended = linker.extended([Concept("Z1", ("Zoster", "Shingles"))])
    extended.save_pretrained(tmp_path)
    again = EntityLinker.from_pretrained(tmp_path)
    assert again.kb.concepts[30] == Concept("Z1", ("Zoster", "Shingles"))
    assert again.link_batch(small_mentions) == extended.link_batch(small_mentions)


# --- other architectures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_a_linker_of_another_architecture_survives_the_folder(kind, tokenizer, small_kb, small_mentions, tmp_path):
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(**special, n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.4)
        model = GPT2LMHeadModel(config)
    elif kind == "llama":
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "initializer_range": 0.4}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(**special, **size, **heads, max_position_embeddings=128))
    else:
        size = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
        model = T5ForConditionalGeneration(T5Config(**special, **size, decoder_start_token_id=1))
    linker = EntityLinker(model, tokenizer, small_kb)
    linked = linker.link_batch(small_mentions, num_beams=3)
    assert len({one.id for one in linked}) > 1
    linker.save_pretrained(tmp_path)
    again = EntityLinker.from_pretrained(tmp_path)
    assert type(again.model) is type(model)
    assert again.link_batch(small_mentions, num_beams=3) == linked
    assert again.link(TEXT, ranking="mean", exact=True) == linker.link(TEXT, ranking="mean", exact=True)


# --- shell -----------------------------------------------------------------------------------------------------------


def test_the_shell_prints_a_line_of_json_a_mention(linker, saved):
    done = subprocess.run(
        [sys.executable, "-m", "angel_trl", str(saved), TEXT, "--top_k", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["mention"] for row in rows] == ["delirium", "MS"]
    expected = linker.link(TEXT, top_k=2)
    assert [row["id"] for row in rows] == [linked.id for linked in expected]
    assert [row["name"] for row in rows] == [linked.name for linked in expected]
    assert rows[0]["candidates"][1]["ids"] == list(expected[0].candidates[1].ids)
    assert (rows[0]["exact"], rows[0]["confidence"], rows[0]["abstained"]) == (expected[0].exact, None, False)
    assert list(rows[0]) == ["id", "name", "score", *(field.name for field in dataclasses.fields(Linked))]
