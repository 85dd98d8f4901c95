"""What keeps a search within bounds: batches of like lengths, masks of bounded size, modules left in their mode."""

import json
import logging

import pytest
import torch

from angel_trl import Restriction, decoding
from angel_trl.decoding import _batches, score_names, search
from angel_trl.formatting import EncodedMention
from angel_trl.linker import EntityLinker
from angel_trl.tree_decoder import TreeDecoder
from angel_trl.trie import NameTrie

END = 2
NAMES = [[first, second, third, END] for first in range(4, 9) for second in range(4, 9) for third in range(4, 9)]
MENTIONS = [EncodedMention((0, token, END), (END, token)) for token in range(4, 10)]


def prompt(length):
    return EncodedMention((), (4,) * length)


def test_a_long_prompt_gets_a_batch_of_its_own():
    mentions = [prompt(20), prompt(2_500), None, *[prompt(21)] * 3, prompt(24)]
    assert [rows.tolist() for rows in _batches(mentions, 32)] == [[0, 3, 4, 5, 6], [1]]


def test_sources_of_like_length_share_batches():
    mentions = [EncodedMention((4,) * length, (END,)) for length in (90, 60, 70, 80, 10, 10, 10)]
    assert [rows.tolist() for rows in _batches(mentions, 3)] == [[4, 5, 6], [1, 2, 3], [0]]
    assert [rows.tolist() for rows in _batches(mentions, 32)] == [[4, 5, 6], [1, 2, 3, 0]]


def test_no_mentions_make_no_batches():
    assert list(_batches([None, None], 4)) == []


def test_masks_are_kept_small_and_answers_stay_the_same(make_model, monkeypatch):
    model, trie = make_model(vocab_size=12), NameTrie.build(NAMES)
    settings = {"num_beams": 2, "top_k": 20, "exact": True}
    whole = search(model, trie, MENTIONS, **settings)
    cells, plain = [], TreeDecoder._forward

    def record(self, *args):
        cells.append(args[-1].numel())
        return plain(self, *args)

    monkeypatch.setattr(TreeDecoder, "_forward", record)
    search(model, trie, MENTIONS, **settings)
    widest = max(cells)
    monkeypatch.setattr(decoding, "_CELLS", 400)
    cells.clear()
    bounded = search(model, trie, MENTIONS, **settings)
    # One prefix of each mention is the least.
    assert max(cells) < widest / 3
    assert bounded.exact.all()
    assert (bounded.names == whole.names).all()
    assert abs(bounded.log_probs - whole.log_probs).max() < 1e-4


def test_a_beam_widens_to_the_limit_and_says_so(make_model):
    model, trie = make_model(vocab_size=12), NameTrie.build(NAMES)
    narrow = search(model, trie, MENTIONS, num_beams=1, top_k=20, exact=True, max_beams=2)
    wide = search(model, trie, MENTIONS, num_beams=1, top_k=20, exact=True)
    assert not narrow.exact.any()
    assert wide.exact.all()


@pytest.mark.parametrize("run", [search, score_names])
def test_each_module_stays_in_its_mode(make_model, run):
    model = make_model(vocab_size=12)
    model.train()
    model.model.encoder.eval()
    modes = [module.training for module in model.modules()]
    run(model, *([NameTrie.build(NAMES), MENTIONS] if run is search else [MENTIONS, [NAMES[:2]] * len(MENTIONS)]))
    assert [module.training for module in model.modules()] == modes
    assert model.training
    assert not model.model.encoder.training


def test_restrictions_are_told_apart_by_identity():
    one, other = (Restriction("x", "", torch.ones(2).numpy().astype(bool)) for _ in range(2))
    assert one != other
    assert len({one, other}) == 2


# --- what a linker says ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(make_model, tokenizer, small_kb, tmp_path):
    EntityLinker(make_model(), tokenizer, small_kb).save_pretrained(tmp_path)
    return tmp_path


def test_one_restriction_for_all_mentions(make_model, tokenizer, small_kb):
    linker = EntityLinker(make_model(), tokenizer, small_kb)
    rows = [{"text": "gout", "start": 0, "end": 4}] * 2
    linked = linker.link_batch(rows, restrictions=linker.restrict(ids={"C29"}), top_k=1)
    assert [one.id for one in linked] == ["C29", "C29"]
    with pytest.raises(TypeError, match="A restriction is a str, 'C29'; make it with restrict"):
        linker.link("[gout]", restriction=["C29"])


@pytest.mark.parametrize("values", [[3], [None], ["C29", 3]])
def test_a_restriction_of_other_things_than_strings_is_refused(make_model, tokenizer, small_kb, values):
    linker = EntityLinker(make_model(), tokenizer, small_kb)
    with pytest.raises(ValueError, match="ids holds .*, which is not a string"):
        linker.restrict(ids=values)


def test_adapters_are_merged_before_a_linker_is_saved(make_model, tokenizer, small_kb, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra [peft]")
    model = peft.get_peft_model(make_model(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    linker = EntityLinker(model, tokenizer, small_kb)
    answer = linker.link("[gout]")[0].candidates
    with pytest.raises(ValueError, match="Merge them first"):
        linker.save_pretrained(tmp_path / "linker")
    assert not (tmp_path / "linker").exists()
    EntityLinker(model.merge_and_unload(), tokenizer, small_kb).save_pretrained(tmp_path / "linker")
    again = EntityLinker.from_pretrained(tmp_path / "linker").link("[gout]")[0].candidates
    assert [candidate.ids for candidate in again] == [candidate.ids for candidate in answer]


def test_a_missing_trie_is_made_anew_and_a_spoilt_one_may_be_deleted(saved, caplog):
    answer = EntityLinker.from_pretrained(saved).link("[gout]")
    path = saved / "trie.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"not a readable trie file.*Or delete it: it is made anew from kb.parquet"):
        EntityLinker.from_pretrained(saved)
    path.unlink()
    with caplog.at_level(logging.WARNING):
        assert EntityLinker.from_pretrained(saved).link("[gout]") == answer
    assert "the names are indexed anew" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "holds no JSON object"),
        (json.dumps({"format": "angel_trl.linker/1"}), "lacks kb_fingerprint, mention_format"),
    ],
)
def test_spoilt_settings_are_named(saved, content, message):
    (saved / "angel.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        EntityLinker.from_pretrained(saved)
