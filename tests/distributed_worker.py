"""One process of `test_distributed.py`: `python distributed_worker.py FOLDER`, its rank in the environment.

With FSDP2 asked for in the environment, as `accelerate launch` does it, models are shared out over the processes.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from angel_trl.config import AngelConfig
from angel_trl.held_out import HeldOut, deal_documents
from angel_trl.kb import KnowledgeBase
from angel_trl.mining import mine
from angel_trl.trainer import AngelTrainer

# 10 mentions a round do not fill the last batch of 4. "skip" leaves most mentions without a pair, so that a process
# often has none at a step while the other has some.
RUNS = {
    "nearest": {"absent_gold": "nearest"},
    "skip": {"absent_gold": "skip"},
    "initial, with the tokens of chosen names": {"reference": "initial", "loss_type": ["sigmoid", "sft"]},
    "held out": {"held_out": ["held-out-0", "held-out-1"]},
}
SHARED_OUT = {"shared out": {"reference": "initial", "load_best_model_at_end": True}}
SETTINGS = {
    "num_rounds": 2,
    "mentions_per_round": 10,
    "num_beams": 5,
    "optim": "sgd",
    "learning_rate": 0.05,
    "logging_steps": 1,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def run(folder: Path, output: Path, batch: int, settings: dict) -> AngelTrainer:
    """Mine round 0, then train; writes what each process mined and the weights it ends with.

    `held_out` among the settings: folders of models that mine all documents but one.
    """
    corpus = load_from_disk(str(folder / "mentions"))
    settings = dict(settings)
    held_out = None
    if "held_out" in settings:
        fold_of = deal_documents(corpus["train"].select(range(14)), 2)
        held_out = HeldOut([folder / name for name in settings.pop("held_out")], fold_of)
    trainer = AngelTrainer(
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
        AngelConfig(str(output), per_device_train_batch_size=batch, **SETTINGS | settings),
        corpus["train"],
        corpus["dev"],
        KnowledgeBase.from_parquet(folder / "kb.parquet"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        held_out=held_out,
    )
    process = trainer.accelerator.process_index
    with trainer.searched_model() as model:
        mined = mine(
            model,
            trainer.targets,
            trainer.mentions,
            trainer.nearest_gold,
            trainer.args,
            round=0,
            held_out=held_out,
            process=process,
            processes=trainer.accelerator.num_processes,
        )
    np.savez(
        output / f"mined-{process}.npz",
        mention=mined.pairs.mention,
        chosen=mined.pairs.chosen,
        rejected=mined.pairs.rejected,
        log_probs=np.stack([mined.chosen_log_probs, mined.rejected_log_probs]),
    )
    trainer.train()
    trainer.save_linker(output / "linker")
    with trainer.whole_model.to_search() as model:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(weights, output / f"weights-{process}.safetensors")
    (output / f"history-{process}.json").write_text(json.dumps(trainer.state.log_history))
    return trainer


def allow_fsdp_on_cpu() -> None:
    """Accelerate offers FSDP on accelerators only, though PyTorch has it on CPU: told here to use it."""
    plain = AcceleratorState.__init__

    def with_fsdp(self: AcceleratorState, *args, fsdp_plugin=None, **kwargs) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = with_fsdp


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Path(sys.argv[1])
    fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if fsdp:
        allow_fsdp_on_cpu()
    for kind, options in (SHARED_OUT if fsdp else RUNS).items():
        done = run(here, here / f"two-{kind}", 2, options)
        assert done.accelerator.num_processes == 2
        assert done.accelerator.is_fsdp2 == fsdp
    torch.distributed.destroy_process_group()
