"""When the first stage trains weight matrices by Muon, and where that cannot be."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedModel

from angel_trl import PositiveConfig
from angel_trl.optimizers import MuonAdamW


def check_matrix_rates(args: Any, settings: Iterable[str]) -> None:
    """Refuse, before anything is read, Muon where it cannot be: `settings` are its learning rates."""
    for name in settings:
        rate = getattr(args, name)
        if rate is None:
            continue
        if rate <= 0:
            raise SystemExit(f"--{name} is {rate}; it must be above 0. Without it AdamW trains all weights.")
        for library in ("FSDP", "DEEPSPEED"):
            if parse_flag_from_env(f"ACCELERATE_USE_{library}"):
                raise SystemExit(
                    f"--{name} is for Muon, which needs whole matrices, and {library} shares them out: leave it out, "
                    "or train on one process or by DDP (recipes/accelerate/ddp.yaml)."
                )


def choose_optimizers(
    model: PreTrainedModel, config: PositiveConfig, matrix_lr: float | None
) -> tuple[torch.optim.Optimizer | None, None]:
    """Muon for the weight matrices if it is given a learning rate; else what the configuration says."""
    if matrix_lr is None:
        return None, None
    betas = (config.adam_beta1, config.adam_beta2)
    rates = {"matrix_lr": matrix_lr, "lr": config.learning_rate}
    return MuonAdamW(model, **rates, betas=betas, weight_decay=config.weight_decay), None
