"""The pairs of a round in TRL's own DPOTrainer: the same token ids, and the same log-probabilities."""

import copy
import math

import pytest
from datasets import load_dataset
from test_formatting import decoder_only_formatter, encode, formatter_of
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from angel_trl.config import AngelConfig
from angel_trl.trainer import AngelTrainer

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}


def adds_its_beginning_token(tokenizer):
    beginning = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[beginning])


def leaves_it_out(tokenizer):
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def has_none(tokenizer):
    tokenizer.bos_token = None


@pytest.mark.parametrize(
    ("change", "begin"), [(adds_its_beginning_token, " "), (leaves_it_out, "<s> "), (has_none, " ")]
)
def test_the_tokenizer_makes_of_a_prompt_s_text_the_same_ids_again(tokenizer, small_mentions, change, begin):
    tokenizer = copy.deepcopy(tokenizer)
    change(tokenizer)
    formatter = decoder_only_formatter(tokenizer)
    assert (
        formatter.prompt_text(encode(formatter, "Acute [Gout] here.")) == f"{begin}acute START gout END here. gout is"
    )
    marked = ["a [β-thalassemia] , b .", "it 's [n't] ' s", "[x]  (y) !"]
    for mention in [*formatter.encode(small_mentions), *(encode(formatter, text) for text in marked)]:
        assert tuple(tokenizer(formatter.prompt_text(mention))["input_ids"]) == mention.prefix


def test_the_prompt_s_text_for_an_encoder_is_source_and_prefix_without_special_tokens(tokenizer):
    formatter = formatter_of(tokenizer)
    mention = encode(formatter, "Acute [Gout] here.")
    assert formatter.prompt_text(mention) == " acute START gout END here. gout is"


@pytest.fixture(scope="module", params=[adds_its_beginning_token, leaves_it_out, has_none], ids=lambda f: f.__name__)
def run(request, tokenizer, small_kb, small_mentions, tmp_path_factory):
    """A decoder-only run of one round, its model of the start, and the pairs that it wrote."""
    tokenizer = copy.deepcopy(tokenizer)
    request.param(tokenizer)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": 2, "pad_token_id": 1}
    start = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.3, **size, **special)
    )
    folder = tmp_path_factory.mktemp("run")
    args = AngelConfig(
        str(folder),
        num_rounds=1,
        mentions_per_round=6,
        num_beams=5,
        eval_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=None,
        **QUIET,
    )
    train, dev = (small_mentions.filter(lambda row, s=s: row["split"] == s) for s in ("train", "dev"))
    trainer = AngelTrainer(copy.deepcopy(start), args, train, dev, small_kb, processing_class=tokenizer)
    trainer.train()
    files = str(folder / "pairs" / "round-000.parquet")
    pairs = load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
    return trainer, start, pairs


@pytest.fixture(scope="module")
def stock(run, tmp_path_factory):
    """TRL's trainer, given the file as it is."""
    trainer, start, pairs = run
    settings = {"max_steps": 1, "per_device_train_batch_size": len(pairs), "bf16": False, **QUIET}
    return DPOTrainer(
        copy.deepcopy(start),
        ref_model=copy.deepcopy(start),
        args=DPOConfig(str(tmp_path_factory.mktemp("stock")), **settings),
        train_dataset=pairs,
        processing_class=trainer.processing_class,
    )


def test_it_makes_exactly_our_token_ids(run, stock):
    trainer, _, pairs = run
    assert len(stock.train_dataset) == len(pairs) > 10
    tokenizer, sequences = trainer.processing_class, trainer.targets.sequences
    for row in stock.train_dataset:
        mention = trainer.mentions.encoded[row["mention_row"]]
        assert row["prompt_ids"] == list(mention.prefix)
        assert row["chosen_ids"] == sequences[row["chosen_name"]]
        assert row["rejected_ids"] == sequences[row["rejected_name"]]
        assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id
        if tokenizer.bos_token_id is not None:
            assert row["prompt_ids"].count(tokenizer.bos_token_id) == 1
            assert row["prompt_ids"][0] == tokenizer.bos_token_id


def test_it_trains_on_them_from_the_log_probs_that_were_mined(run, stock):
    _, _, pairs = run
    if trl_utils._ChunkedLogProbFunction is None:
        pytest.skip("this TRL trains only where Triton is installed")
    stock.train()
    logged = stock.state.log_history[0]
    assert logged["step"] == 1
    assert logged["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for side in ("chosen", "rejected"):
        mined = pairs[f"{side}_log_prob"]
        assert logged[f"logps/{side}"] == pytest.approx(sum(mined) / len(mined), abs=1e-3)
    assert logged["grad_norm"] > 1e-3
