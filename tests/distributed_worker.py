"""One process of `test_distributed.py`: `python distributed_worker.py FOLDER`, its rank in the environment."""

import sys
from pathlib import Path

import numpy as np
import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from angel_trl.config import AngelConfig
from angel_trl.kb import KnowledgeBase
from angel_trl.mining import mine
from angel_trl.trainer import AngelTrainer

# "skip" leaves most mentions without a pair, so that a process often has none at a step while the other has some.
RUNS = {"nearest": {"absent_gold": "nearest"}, "skip": {"absent_gold": "skip"}}
SETTINGS = {
    "num_rounds": 2,
    "mentions_per_round": 12,
    "num_beams": 5,
    "optim": "sgd",
    "learning_rate": 0.05,
    "logging_steps": 1,
    "load_best_model_at_end": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def run(folder: Path, output: Path, batch: int, settings: dict) -> AngelTrainer:
    """Mine round 0, then train; writes what each process mined and the weights it ends with."""
    corpus = load_from_disk(str(folder / "mentions"))
    trainer = AngelTrainer(
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
        AngelConfig(str(output), per_device_train_batch_size=batch, **SETTINGS, **settings),
        corpus["train"],
        corpus["dev"],
        KnowledgeBase.from_parquet(folder / "kb.parquet"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    process = trainer.accelerator.process_index
    mined = mine(
        trainer.model,
        trainer.targets,
        trainer.mentions,
        trainer.nearest_gold,
        trainer.args,
        round=0,
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
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    save_file(weights, output / f"weights-{process}.safetensors")
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Path(sys.argv[1])
    for kind, options in RUNS.items():
        done = run(here, here / f"two-{kind}", 2, options)
        assert done.accelerator.num_processes == 2
    torch.distributed.destroy_process_group()
