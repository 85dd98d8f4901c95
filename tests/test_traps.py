"""The traps of the published implementation, one by one: what went wrong there is shown not to here."""

import ast
import copy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from angel_trl.collator import PairCollator
from angel_trl.decoding import search
from angel_trl.evaluation import evaluate_linking
from angel_trl.formatting import MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker
from angel_trl.metrics import score
from angel_trl.mining import mine
from angel_trl.targets import TargetNames, prepare_mentions

ROOT = Path(__file__).resolve().parents[1]


class Scores(TrainerCallback):
    """Replaces dev accuracy by given numbers, by step."""

    def __init__(self, scores):
        self.scores = scores

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_acc@1"] = self.scores[state.global_step]


def mined_batch(trainer):
    mined = mine(trainer.model, trainer.targets, trainer.mentions, trainer.nearest_gold, trainer.args, round=0)
    trainer.train_dataset.fill(mined, trainer.targets, trainer.mentions)
    items = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
    return mined, PairCollator(trainer.processing_class.pad_token_id)(items)


def completions(batch):
    """The tokens that are scored, row by row."""
    rows = [batch["name_labels"][places[places >= 0]].tolist() for places in batch["row_places"]]
    # TRL counts tokens and masks by these.
    masked = zip(batch["input_ids"], batch["completion_mask"], strict=True)
    assert rows == [ids[mask.bool()].tolist() for ids, mask in masked]
    return rows


def prefixes(batch):
    """The tokens of the tree that belong to no name, mention by mention."""
    owner = batch["tree_names"].flatten()[batch["tree_cells"]]
    mention = batch["tree_cells"] // batch["tree_names"].shape[1]
    return [
        tuple(batch["tree_ids"][(mention == number) & (owner == -1)].tolist())
        for number in range(len(batch["tree_names"]))
    ]


def test_trap_1_spacing_of_chosen_and_rejected(make_trainer, tokenizer, small_kb):
    """There, chosen had a doubled space and rejected not. Here both are the trie's own token sequences."""
    trainer = make_trainer(mentions_per_round=1.0)
    mined, batch = mined_batch(trainer)
    rows = completions(batch)
    chosen, rejected = rows[: len(mined.pairs)], rows[len(mined.pairs) :]
    expected = [[*tokenizer(f" {name}", add_special_tokens=False)["input_ids"], 2] for name in small_kb.names]
    assert chosen == [expected[name] for name in mined.pairs.chosen]
    assert rejected == [expected[name] for name in mined.pairs.rejected]
    both = set(mined.pairs.chosen.tolist()) & set(mined.pairs.rejected.tolist())
    assert both, "a name that is right for one mention and wrong for another is wanted"
    for name in both:
        as_chosen = {tuple(row) for row, index in zip(chosen, mined.pairs.chosen, strict=True) if index == name}
        as_rejected = {tuple(row) for row, index in zip(rejected, mined.pairs.rejected, strict=True) if index == name}
        assert as_chosen == as_rejected
    for row in rows:
        text = tokenizer.decode(row[:-1])
        assert text.startswith(" ")
        assert "  " not in text


def test_trap_1_spacing_in_the_pairs_that_are_written(make_trainer, tmp_path):
    make_trainer(num_rounds=1).train()
    for row in pq.read_table(tmp_path / "pairs" / "round-000.parquet").to_pylist():
        for side in ("chosen", "rejected"):
            assert row[side] == " " + " ".join(row[side].split())


def test_trap_2_the_prefix_is_that_of_inference(make_trainer, monkeypatch):
    """There, training put an extra <s> before the prefix and left its space out. Here both are compared."""
    trainer = make_trainer(mentions_per_round=1.0)
    decoder = trainer.model.get_decoder()
    seen, plain = [], decoder.forward

    def record(*args, **kwargs):
        layout = kwargs["layout"]
        if torch.equal(layout.query, layout.slot):  # nothing was run before: these are the prefixes
            seen.extend(tuple(ids.tolist()) for ids in kwargs["input_ids"][0].split(layout.place.bincount().tolist()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(decoder, "forward", record)
    mined, batch = mined_batch(trainer)
    # Searched, and some searched for again to score a gold name that was not found.
    assert len(seen) >= len(trainer.mentions) == 16
    trained = prefixes(batch)
    assert set(trained) <= set(seen)
    bos, start = trainer.processing_class.bos_token_id, trainer.model.config.decoder_start_token_id
    tokenize = trainer.processing_class
    for prefix, place in zip(trained, dict.fromkeys(mined.pairs.mention.tolist()), strict=True):
        text = trainer.mentions.mentions[mined.rows[place]]
        assert prefix == (start, *tokenize(f" {text} is", add_special_tokens=False)["input_ids"])
        assert bos not in prefix


def test_trap_2_the_prefix_is_not_in_the_loss(make_trainer):
    """What is scored is the name and its end, nothing of the prefix: of its states only the last gets a gradient."""
    trainer = make_trainer()
    _, batch = mined_batch(trainer)
    hidden = []

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        hidden.append(output.last_hidden_state)

    trainer.model.get_decoder().register_forward_hook(keep)
    trainer.compute_loss(trainer.model, batch).backward()
    moved = hidden[0].grad[0].abs().sum(-1) > 0
    begin = 0
    for prefix, owners in zip(prefixes(batch), batch["tree_names"], strict=True):
        end = begin + len(prefix)
        # The state at a position predicts the next token.
        assert moved[begin:end].tolist() == [False] * (len(prefix) - 1) + [True]
        names = end + int((owners >= 0).sum())
        assert moved[end:names].all()
        begin = names
    assert begin == len(moved)


def test_trap_3_dev_is_scored_after_the_update_it_belongs_to(make_trainer, tmp_path):
    """There, dev was scored before the update and the model after it was saved."""
    scored = {}

    class Record(TrainerCallback):
        def on_evaluate(self, args, state, control, model, **kwargs):
            scored[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    trainer = make_trainer(callbacks=[Record()], learning_rate=1e-2, save_total_limit=None)
    trainer.train()
    assert sorted(scored) == [0, 3, 6]
    for step, weights in scored.items():
        saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        assert all(torch.equal(value, weights[name]) for name, value in saved.items())
    name = "model.shared.weight"
    assert not torch.equal(scored[0][name], scored[3][name])
    assert not torch.equal(scored[3][name], scored[6][name])


def test_trap_3_a_score_is_compared_with_the_best_not_the_last(make_trainer, tmp_path):
    scores = {0: 50.0, 3: 60.0, 6: 40.0, 9: 55.0}
    trainer = make_trainer(callbacks=[Scores(scores)], num_rounds=3)
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (60.0, 3)
    best = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in best.items())


def test_trap_3_the_start_takes_part_in_the_comparison(make_trainer, make_model):
    trainer = make_trainer(callbacks=[Scores({0: 50.0, 3: 40.0, 6: 45.0})])
    trainer.train()
    assert trainer.state.best_metric == 50.0
    start = make_model().state_dict()
    assert all(torch.equal(value, start[name]) for name, value in trainer.model.state_dict().items())


def test_trap_4_an_unknown_id_is_not_taken_apart(make_model, tokenizer, small_mentions, caplog):
    """There, a gold id unknown to the dictionary stayed a string and its characters were taken for ids."""
    kb = KnowledgeBase([Concept("C", ("cold",)), Concept("0", ("gout",)), Concept("1", ("fever",))])
    targets = TargetNames(kb, MentionFormatter(tokenizer, make_model().config))
    unknown = small_mentions.select([0])
    assert unknown["concept_ids"][0] == [["C01"]]
    mentions = prepare_mentions(unknown, targets)
    assert mentions.gold == [()]
    assert mentions.references == [[["C01"]]]
    assert not mentions.is_gold(np.array([[0, 1, 2]]), kb).any()
    assert mentions.report == {"read": 1, "kept: concept not in the knowledge base": 1, "used": 1}
    everything = [[["C"], ["0"], ["1"]]]
    assert score(everything, mentions.references, ks=(1, 5))["acc@5"] == 0.0


def test_trap_5_every_mention_is_scored_with_its_own_prefix(make_trainer, small_mentions):
    """There, the last partial batch was dropped, and a batch used the prefix of its first row for all."""
    trainer = make_trainer()
    mentions = prepare_mentions(small_mentions, trainer.targets)
    assert len({mention.prefix for mention in mentions.encoded}) > 20
    whole = evaluate_linking(trainer.model, trainer.targets, mentions, batch_size=7)
    assert whole.metrics["mentions"] == len(whole.predictions) == 24
    for row in range(24):
        alone = evaluate_linking(trainer.model, trainer.targets, mentions.subset([row]))
        assert alone.predictions[0] == whole.predictions[row]
        np.testing.assert_allclose(alone.candidates.log_probs[0], whole.candidates.log_probs[row], atol=1e-4)


def test_trap_6_a_knowledge_base_with_fewer_names_than_beams(make_model, tokenizer, small_mentions, monkeypatch):
    """There, such a search ran on to max_length. Here it takes no more steps than the longest name has tokens."""
    kb = KnowledgeBase([Concept("C1", ("cold",)), Concept("C2", ("breast cancer familial",))])
    model = make_model()
    targets = TargetNames(kb, MentionFormatter(tokenizer, model.config))
    mentions = prepare_mentions(small_mentions, targets).encoded[:3]
    steps, plain = [], model.get_decoder().forward
    monkeypatch.setattr(model.get_decoder(), "forward", lambda *a, **k: steps.append(1) or plain(*a, **k))
    found = search(model, targets.trie, mentions, num_beams=10, top_k=5)
    prefix_lengths = {len(mention.prefix) for mention in mentions}
    assert len(steps) <= len(prefix_lengths) * max(map(len, targets.sequences))
    assert all(sorted(names) == [-1, -1, -1, 0, 1] for names in found.names.tolist())
    assert found.exact.all()


def test_trap_7_a_mention_that_contains_is(make_trainer, small_mentions, small_kb):
    """There, the text was split at its first " is". Here prefix and name never become text."""
    row = small_mentions.filter(lambda row: row["mention"] == "this is called")
    trainer = make_trainer(train=row, mentions_per_round=1.0)
    mined, batch = mined_batch(trainer)
    assert len(mined.pairs) > 0
    prefix = (2, *trainer.processing_class(" this is called is", add_special_tokens=False)["input_ids"])
    assert set(prefixes(batch)) == {prefix}
    names = [*mined.pairs.chosen, *mined.pairs.rejected]
    assert completions(batch) == [trainer.targets.sequences[name] for name in names]


UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "numpy.load", "np.load", "pandas.read_pickle"}


def unsafe_uses(source):
    """Imports and calls in Python source that read or write executable data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in UNSAFE_MODULES:
                yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
            yield ast.unparse(node.func)


def test_trap_8_nothing_unpickles():
    """There, loading trie, knowledge base and vectoriser ran code."""
    files = [file for folder in ("angel_trl", "recipes", "spaces") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    found = {str(file.relative_to(ROOT)): list(unsafe_uses(file.read_text(encoding="utf-8"))) for file in files}
    assert {file: uses for file, uses in found.items() if uses} == {}


def test_trap_8_the_check_itself_finds_pickles():
    assert list(unsafe_uses("import joblib")) == ["joblib"]
    assert list(unsafe_uses("from pickle import load")) == ["pickle"]
    assert list(unsafe_uses("def f():\n    import os, cloudpickle.x\n    torch.load(p)")) == [
        "cloudpickle.x",
        "torch.load",
    ]


def test_trap_8_a_saved_linker_holds_data_only(make_model, tokenizer, small_kb, tmp_path):
    EntityLinker(make_model(), tokenizer, small_kb).save_pretrained(tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".parquet", ".txt"}
    # Pickles begin with protocol opcode 0x80, zip archives (as torch.save writes) with PK.
    assert not [file.name for file in files if file.read_bytes()[:2] in (b"PK", b"\x80\x04", b"\x80\x05", b"\x80\x02")]


def test_trap_9_rerun_does_not_duplicate(make_trainer, tmp_path):
    """There, files were opened to append. Here a second run leaves the pairs that one run leaves."""
    make_trainer(num_rounds=3).train()
    folder = tmp_path / "pairs"
    assert len(list(folder.iterdir())) == 3
    make_trainer(num_rounds=2).train()
    rerun = {file.name: pq.read_table(file) for file in folder.iterdir()}
    make_trainer(num_rounds=2, output_dir=tmp_path / "fresh").train()
    fresh = {file.name: pq.read_table(file) for file in (tmp_path / "fresh" / "pairs").iterdir()}
    assert sorted(rerun) == sorted(fresh) == ["round-000.parquet", "round-001.parquet"]
    for name, table in fresh.items():
        assert rerun[name].equals(table)
        assert table.num_rows > 0


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_trap_10_the_stock_trainer_trains_something_else_if_the_model_has_an_encoder(
    make_trainer, make_model, tokenizer, tmp_path, kind
):
    """TRL's own trainer feeds prompt and name to the encoder, and says nothing. Hence one of our own."""
    if trl_utils._ChunkedLogProbFunction is None:
        pytest.skip("this TRL trains only where Triton is installed")
    model = make_model()
    if kind == "llama":
        torch.manual_seed(0)
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        size |= {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "initializer_range": 0.3}
        model = LlamaForCausalLM(LlamaConfig(**size, bos_token_id=0, eos_token_id=2))
    start, reference = copy.deepcopy(model), copy.deepcopy(model)
    make_trainer(model, num_rounds=1).train()
    pairs = Dataset.from_parquet(str(tmp_path / "pairs" / "round-000.parquet"), cache_dir=str(tmp_path / "cache"))
    quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    arguments = DPOConfig(
        str(tmp_path / "stock"), max_steps=1, per_device_train_batch_size=len(pairs), save_strategy="no", **quiet
    )
    stock = DPOTrainer(start, ref_model=reference, args=arguments, train_dataset=pairs, processing_class=tokenizer)
    stock.train()
    assert np.isfinite(stock.state.log_history[0]["loss"]), "it does train"
    batch = stock.data_collator([stock.train_dataset[row] for row in range(len(pairs))])
    found = stock.compute_ref_log_probs(stock.ref_model, batch)
    for side, log_probs in zip(("chosen", "rejected"), found, strict=True):
        difference = np.abs(log_probs.numpy() - np.array(pairs[f"{side}_log_prob"]))
        assert difference.max() < 1e-4 if kind == "llama" else difference.mean() > 0.5
