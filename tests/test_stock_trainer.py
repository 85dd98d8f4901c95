"""The pairs that are written, in the hands of TRL's own trainer: for decoder-only models the very same token ids."""

import copy

import pytest
from datasets import load_dataset
from test_decoding_architectures import ARCHITECTURES, SPECIAL
from tokenizers import processors
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from angel_trl.config import AngelConfig
from angel_trl.trainer import AngelTrainer


def plain(tokenizer):
    """A tokenizer that puts no token there itself, as that of GPT-2."""
    return copy.deepcopy(tokenizer)


def with_beginning(tokenizer):
    """A tokenizer that puts a beginning token there itself, as that of Llama."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def without_beginning(tokenizer):
    """A tokenizer that has no beginning token, as that of Qwen2."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None
    return tokenizer


@pytest.fixture
def mined(tmp_path, tokenizer, small_kb, small_mentions):
    """`mined(kind, tokenizer)`: the trainer after a round, and the pairs of that round as a dataset."""

    def run(kind, tokenizer):
        model_class, config_class, settings = ARCHITECTURES[kind]
        window = {name: 256 for name in ("max_position_embeddings", "n_positions") if name in settings}
        config = config_class(**{**SPECIAL, **settings, **window, "vocab_size": len(tokenizer)})
        train, dev = (small_mentions.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev"))
        args = AngelConfig(
            str(tmp_path / "ours"),
            num_rounds=1,
            mentions_per_round=1.0,
            num_beams=5,
            save_strategy="no",
            load_best_model_at_end=False,
            early_stopping_patience=None,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = AngelTrainer(model_class(config), args, train, dev, small_kb, tokenizer)
        trainer.train()
        files = str(tmp_path / "ours" / "pairs" / "*.parquet")
        return trainer, load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))

    return run


@pytest.mark.parametrize("adapt", [plain, with_beginning, without_beginning])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_stock_trainer_makes_our_token_ids_of_the_pairs(mined, tokenizer, tmp_path, kind, adapt):
    tokenizer = adapt(tokenizer)
    trainer, rows = mined(kind, tokenizer)
    assert len(rows) > 5
    config = DPOConfig(str(tmp_path / "stock"), max_steps=1, use_cpu=True, report_to="none", bf16=False)
    policy, reference = (ARCHITECTURES[kind][0](trainer.model.config) for _ in range(2))
    stock = DPOTrainer(policy, reference, args=config, train_dataset=rows, processing_class=tokenizer)
    sequences = trainer.targets.sequences
    for ours, theirs in zip(rows, stock.train_dataset, strict=True):
        assert theirs["prompt_ids"] == list(trainer.mentions.encoded[ours["mention_row"]].prefix)
        assert theirs["chosen_ids"] == list(sequences[ours["chosen_name"]])
        assert theirs["rejected_ids"] == list(sequences[ours["rejected_name"]])
        assert ours["chosen_concept_ids"] != ours["rejected_concept_ids"]


@pytest.mark.skipif(trl_utils._ChunkedLogProbFunction is None, reason="TRL 1.15 trains only where Triton is")
def test_the_stock_trainer_trains_on_the_pairs(mined, tokenizer, tmp_path):
    trainer, rows = mined("llama", with_beginning(tokenizer))
    model = ARCHITECTURES["llama"][0](trainer.model.config)
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    config = DPOConfig(
        str(tmp_path / "stock"), max_steps=1, use_cpu=True, report_to="none", bf16=False, precompute_ref_log_probs=True
    )
    stock = DPOTrainer(model, args=config, train_dataset=rows, processing_class=trainer.processing_class)
    stock.train()
    assert stock.state.global_step == 1
    assert not before.equal(model.model.layers[0].mlp.up_proj.weight)
