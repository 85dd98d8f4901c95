"""What we override or call inside TRL and transformers is still there: a release that moves it fails here, by name."""

import dataclasses
import inspect
import re

import pytest
import torch
import transformers
import trl
from transformers import (
    AttentionInterface,
    DynamicCache,
    EncoderDecoderCache,
    GPT2Model,
    LlamaModel,
    Seq2SeqTrainer,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.bart.modeling_bart import BartAttention, BartDecoderLayer, BartLearnedPositionalEmbedding
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from angel_trl.config import REFUSED
from angel_trl.preference_head import RowScores

SIGNATURES = [
    (DPOTrainer, "_prepare_dataset", ["dataset"], "overridden: batches are made of mentions"),
    (DPOTrainer, "_precompute_ref_logps", ["dataset", "name", "batch_size"], "overridden: reference is mined"),
    (DPOTrainer, "compute_loss", ["model", "inputs", "return_outputs", "num_items_in_batch"], "overridden and called"),
    (DPOTrainer, "evaluate", ["eval_dataset", "ignore_keys", "metric_key_prefix"], "overridden: dev is searched"),
    (DPOTrainer, "__init__", ["model", "args", "data_collator", "train_dataset", "eval_dataset"], "called"),
    (DPOTrainer, "__init__", ["processing_class", "callbacks", "optimizers", "peft_config"], "called"),
    (Trainer, "_get_num_items_in_batch", ["batch_samples", "device"], "overridden: counts pairs"),
    (Trainer, "_determine_best_metric", ["metrics", "trial"], "called to start from the model given"),
    (Trainer, "_save_checkpoint", ["model", "trial"], "overridden, and called to keep the model given"),
    (DPOTrainer, "_save_checkpoint", ["model", "trial"], "overridden: all processes learn of the best"),
    (DPOTrainer, "__init__", ["ref_model"], "called: a stand-in under FSDP"),
    (Trainer, "init_hf_repo", ["token"], "overridden: published through angel_trl.hub"),
    (Trainer, "push_to_hub", ["commit_message", "blocking", "token", "revision"], "overridden, likewise"),
    (Trainer, "_push_from_checkpoint", ["checkpoint_folder"], "overridden, likewise"),
    (Trainer, "_finish_current_push", ["self"], "overridden, likewise"),
    (trl_utils, "add_fused_lm_head", ["model", "outputs"], "called on a stand-in for the model"),
    (Trainer, "training_step", ["model", "inputs", "num_items_in_batch"], "hands the pairs counted to compute_loss"),
    (Trainer, "add_callback", ["callback"], "called"),
    (Seq2SeqTrainer, "_get_train_sampler", ["train_dataset"], "overridden: batches of similar length"),
    (Seq2SeqTrainer, "evaluate", ["eval_dataset", "ignore_keys", "metric_key_prefix"], "overridden: dev is searched"),
    (LengthGroupedSampler, "__init__", ["batch_size", "lengths"], "called"),
    (AttentionInterface, "register", ["key", "value"], "called to share cross-attention"),
    (AttentionMaskInterface, "register", ["key", "value"], "called to share cross-attention"),
    (BartDecoderLayer, "forward", ["kwargs"], "hands `layout` on to the attention"),
    (BartAttention, "forward", ["kwargs"], "hands `layout` on to the attention function"),
    (BartLearnedPositionalEmbedding, "forward", ["position_ids"], "given the positions of tokens in a tree"),
    (T5Attention, "_relative_position_bucket", ["bidirectional", "num_buckets", "max_distance"], "called"),
    (T5Attention, "forward", ["kwargs"], "hands `layout` on to the attention function"),
    (GPT2Model, "forward", ["position_ids", "kwargs"], "given the positions of tokens in a tree, and `layout`"),
    (LlamaModel, "forward", ["position_ids", "kwargs"], "given the positions of tokens in a tree, and `layout`"),
    (Cache, "update", ["key_states", "value_states", "layer_idx"], "overridden: keys are written slot by slot"),
    (Cache, "get_seq_length", ["layer_idx"], "overridden: tokens carry their own positions"),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "why"),
    SIGNATURES,
    ids=[f"{owner.__name__}.{name}-{parameters[0]}" for owner, name, parameters, _ in SIGNATURES],
)
def test_methods_and_parameters_we_rely_on(owner, name, parameters, why):
    versions = f"trl {trl.__version__}, transformers {transformers.__version__}"
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__}.{name} is gone in {versions} ({why})"
    missing = set(parameters) - set(inspect.signature(method).parameters)
    assert not missing, f"{owner.__name__}.{name} no longer takes {missing} in {versions} ({why})"


def test_the_loss_still_reads_what_our_batches_carry():
    source = inspect.getsource(DPOTrainer._compute_loss)
    for needed in (
        'inputs["ref_chosen_logps"]',
        'inputs["completion_mask"]',
        "fused_lm_head=True",
        "self.accelerator.gather(",
        "zip(self.loss_types, self.loss_weights, strict=True)",
        '"rewards/margins"]',
        '"logps/chosen"]',
    ):
        assert needed in source, f"DPOTrainer._compute_loss of trl {trl.__version__} no longer has {needed}"


def test_the_loss_reads_no_field_that_our_head_does_not_give():
    read = set(re.findall(r"\boutputs\.(\w+)", inspect.getsource(DPOTrainer._compute_loss))) - {"aux_loss"}
    assert read == {field.name for field in dataclasses.fields(RowScores)}, f"in trl {trl.__version__}"


def test_trls_head_still_finds_its_way_through_the_names_that_the_stand_in_has():
    source = inspect.getsource(trl_utils.add_fused_lm_head)
    for needed in ('"base_model"', "self.get_output_embeddings()", "model.forward = types.MethodType("):
        assert needed in source, f"add_fused_lm_head of trl {trl.__version__} no longer has {needed}"
    assert hasattr(trl_utils, "_ChunkedLogProbFunction"), f"trl {trl.__version__}: None says there is no fused head"


def test_a_scaled_loss_is_still_announced_by_this_attribute():
    assert hasattr(Trainer, "loss_is_scaled_for_ga"), f"transformers {transformers.__version__} lost this attribute"
    assert "loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)


def test_an_epoch_still_begins_before_its_batches_are_read():
    """Mining fills the training set in `on_epoch_begin`; the iterator must be made after it."""
    loop = inspect.getsource(Trainer._inner_training_loop)
    assert loop.index("on_epoch_begin") < loop.index("self._run_epoch")
    assert "iter(train_dataloader)" in inspect.getsource(Trainer._run_epoch)
    assert "iter(train_dataloader)" not in loop


def test_refused_settings_still_exist_in_dpo_config():
    for name in (*REFUSED, "precompute_ref_log_probs", "train_sampling_strategy", "activation_checkpointing_kwargs"):
        assert name in DPOConfig.__dataclass_fields__, f"DPOConfig of trl {trl.__version__} has no {name}"


def test_caches_have_both_halves():
    cross = DynamicCache()
    cache = EncoderDecoderCache(Cache(layers=[]), cross)
    assert cache.self_attention_cache is not cache.cross_attention_cache is cross


def test_keys_of_the_source_can_be_taken_out_of_their_cache():
    cross = DynamicCache()
    cross.update(torch.ones(3, 1, 2, 4), torch.ones(3, 1, 2, 4), 0)
    [layer] = cross.layers
    assert layer.keys.shape == layer.values.shape == (3, 1, 2, 4)


def test_t5_keeps_its_relative_positions_where_they_are_looked_for():
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9}
    blocks = T5ForConditionalGeneration(T5Config(**size)).get_decoder().block
    attention = blocks[0].layer[0].SelfAttention
    assert [block.layer[0].SelfAttention.has_relative_attention_bias for block in blocks] == [True, False]
    assert attention.relative_attention_bias.weight.shape == (attention.relative_attention_num_buckets, 2)
    assert attention.relative_attention_max_distance == 128
    assert (attention.is_causal, blocks[0].layer[1].EncDecAttention.is_causal) == (True, False)


@pytest.mark.parametrize("attention", [BartAttention, MistralAttention, Qwen2Attention, Qwen3Attention])
def test_attention_functions_are_still_called_through_the_interface(attention):
    source = inspect.getsource(attention.forward)
    assert "ALL_ATTENTION_FUNCTIONS.get_interface(" in source
    assert ("sliding_window=" in source) == (attention is not BartAttention)
