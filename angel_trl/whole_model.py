"""The model as one process can search, score and save it, however its training is distributed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from angel_trl.architectures import join_embeddings, relative_attention


def base_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model within a model that may carry adapters (which stay in its layers)."""
    with_adapters: Any = model
    return with_adapters.get_base_model() if hasattr(model, "peft_config") else with_adapters


class WholeModel:
    """Gives the model of a trainer with all its weights on this process, for all processes at once.

    Processes search for unequal numbers of steps, so nothing within may wait for another process. Where FSDP shards
    the weights, that takes a copy of them, in memory for as long as it is used.

    Args:
        accelerator: of the trainer.
        model: of the trainer, not yet distributed.

    Raises:
        ValueError: for a way of distribution under which this is not possible.
    """

    def __init__(self, accelerator: Accelerator, model: torch.nn.Module) -> None:
        self._accelerator = accelerator
        self._model = model
        self._without_weights: torch.nn.Module | None = None
        kind = accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise ValueError("DeepSpeed ZeRO-3 splits each weight over processes. Use ZeRO-2, or FSDP2.")
        if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
            raise ValueError(
                "FSDP of version 1 is not supported. Set fsdp_version: 2 in the accelerate configuration."
            )
        if kind == DistributedType.FSDP:
            base = base_model(model)
            if relative_attention(base) is not None:
                raise ValueError(
                    "T5 cannot be trained under FSDP: its layers share the relative positions of the first one, which "
                    "FSDP keeps to itself. Use DDP or DeepSpeed ZeRO-2."
                )
            join_embeddings(base)
            self._without_weights = copy.deepcopy(model, {id(p): _on_meta(p) for p in model.parameters()})

    @contextmanager
    def to_search(self) -> Iterator[PreTrainedModel]:
        """The model within adapters, if there are any (they stay in its layers), to be read only."""
        with self._whole(computed=True) as model:
            yield base_model(model)

    @contextmanager
    def to_save(self) -> Iterator[PreTrainedModel]:
        """The model as a plain one of transformers: adapters become part of its weights, in full precision."""
        with self._whole(computed=False) as model:
            adapted: Any = model
            yield copy.deepcopy(adapted).merge_and_unload() if hasattr(model, "peft_config") else adapted

    @contextmanager
    def _whole(self, *, computed: bool) -> Iterator[torch.nn.Module]:
        """All weights; with `computed`, in the precision that a forward is computed with."""
        model = self._accelerator.unwrap_model(self._model)
        if self._without_weights is None:
            yield model
            return
        # FSDP gathers weights for a forward in a precision of its own.
        policy = self._accelerator.state.fsdp_plugin.mixed_precision_policy
        precision = policy.param_dtype if computed and policy is not None else None
        weights = {
            name: value.full_tensor().to(precision or value.dtype) if isinstance(value, DTensor) else value
            for name, value in model.state_dict().items()
        }
        whole = self._without_weights
        whole.load_state_dict(weights, assign=True)
        base_model(whole).tie_weights()
        del weights
        try:
            yield whole.eval()
        finally:
            for module in whole.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, _on_meta(parameter))


def _on_meta(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """Its shape and type without its values."""
    return torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)


@contextmanager
def without_adapters(model: torch.nn.Module) -> Iterator[None]:
    """Switch off the adapters in the layers of `model`."""
    # Only there when adapters are.
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
