"""Pre-train an entity linker on a knowledge base alone, with both stages of ANGEL (section 3.1 of the paper).

    accelerate launch recipes/pretrain.py --config recipes/configs/pretrain.yaml --kb FILE [--corpus DIR]
    accelerate launch recipes/angel.py --model OUTPUT_DIR/linker --corpus DIR --kb FILE ...      # then fine-tune it

Sentences are made from names, types and definitions, one name of a concept as the mention, another to be learnt.
Stages, each in its own folder of `output_dir`: on right names only (`positive/`), then negative-aware rounds
(`angel/`) on mentions of the knowledge base. A corpus is for scoring only: it is not trained on and decides nothing.
The result is in `linker/`, `results.json` and `report.md`. Examples are made when they are needed, so that the number
of names costs no memory beyond the knowledge base's own. The last line printed is one JSON object.
"""

import copy
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from corpus_splits import TEST_SPLIT_HELP, TestSplit, scored_splits
from muon import check_matrix_rates, choose_optimizers
from precision import bf16_if_quick
from reporting import Curve, evaluate_systems, last_line, write_report
from stages import Stages, check_shares, first_model, parse_settings, train_rounds

from angel_trl import (
    AngelConfig,
    AngelTrainer,
    EntityLinker,
    KnowledgeBase,
    MentionFormat,
    PositiveConfig,
    PositiveTrainer,
    read_corpus,
    read_knowledge_base,
)
from angel_trl.kb_examples import KBExamples
from angel_trl.kb_mentions import kb_mentions
from angel_trl.searching_trainer import last_checkpoint

CONFIGS = Path(__file__).parent / "configs" / "pretrain"
logger = logging.getLogger("recipes.pretrain")


@dataclass
class PretrainArguments:
    """What the recipe needs besides `AngelConfig`, which holds the settings of the negative-aware stage."""

    kb: str = field(metadata={"help": "Knowledge base: a file, a folder, a URL or a Hub dataset."})
    model: str = field(
        default="facebook/bart-large", metadata={"help": "A model, path or Hub id, or a preset such as scratch-small."}
    )
    corpus: str | None = field(
        default=None, metadata={"help": "Corpus on whose test split both stages are scored; never trained on."}
    )
    test_split: TestSplit = field(default="test", metadata={"help": TEST_SPLIT_HELP})
    max_words: int = field(default=384, metadata={"help": "Longest passage in words; longer ones lose context."})
    mention_normalization: str = field(default="genbioel", metadata={"help": "Rule applied to mentions."})
    passes: float = field(default=3.0, metadata={"help": "How often each name is a mention in the first stage."})
    positive_learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate of the first stage."})
    positive_matrix_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Train the weight matrices of the first stage by Muon, with this peak learning rate."},
    )
    positive_batch_size: int = field(default=64, metadata={"help": "Mentions in a batch of the first stage."})
    positive_warmup: float = field(default=0.05, metadata={"help": "Share of the steps over which the rate rises."})
    positive_bf16: bool = field(default=False, metadata={"help": "First stage under bfloat16 autocast."})
    positive_save_steps: int = field(default=500, metadata={"help": "Steps of the first stage between checkpoints."})
    noise: float = field(default=0.3, metadata={"help": "Share of mentions to misspell in the first stage."})
    mined_noise: float = field(default=0.4, metadata={"help": "Share of mentions to misspell in the rounds and dev."})
    context: float = field(default=0.7, metadata={"help": "Share of mentions in a sentence; others stand alone."})
    own_name: float = field(
        default=0.0,
        metadata={
            "help": "Share of the mentions of the first stage that learn the name they were made from; others any "
            "of its concept."
        },
    )
    dev_mentions: int = field(
        default=1000,
        metadata={
            "help": "Mentions whose accuracy is told after each round; by it the best round is kept, unless "
            "load_best_model_at_end is false."
        },
    )
    skip_angel: bool = field(default=False, metadata={"help": "Stop after the first stage."})
    bootstrap: int = field(default=1000, metadata={"help": "Resamples for the intervals of the corpus' scores."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of a process on CPU; default: the cores shared out evenly."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})


def train_positive(args: PretrainArguments, angel: AngelConfig, kb: KnowledgeBase, folder: Path) -> Curve:
    """The first stage: each name in sentences, with another name of its concept to learn. Saves a linker."""
    model, tokenizer = first_model(args.model, kb.names, angel.seed)
    linker = EntityLinker(model, tokenizer, kb, MentionFormat(args.max_words, args.mention_normalization))
    count = round(args.passes * kb.num_names)
    shares = {"noise": args.noise, "context": args.context, "own_name": args.own_name}
    examples = KBExamples(linker.targets, count, seed=10 * angel.seed + 1, **shares)
    if examples.left_out:
        logger.warning("%d of %d names are no mentions: too long for the model", len(examples.left_out), kb.num_names)
    on_cpu = bool(angel.use_cpu) or not torch.accelerator.is_available()
    config = PositiveConfig(
        output_dir=str(folder / "names"),
        learning_rate=args.positive_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.positive_warmup,
        num_train_epochs=1,
        bf16=bf16_if_quick(args.positive_bf16, on_cpu, "--positive_bf16"),
        per_device_train_batch_size=args.positive_batch_size,
        save_strategy="steps",
        save_steps=args.positive_save_steps,
        save_total_limit=1,
        logging_steps=50,
        seed=angel.seed,
        report_to=angel.report_to,
        disable_tqdm=angel.disable_tqdm,
        # Bfloat16 on a machine without accelerator must be asked for by name.
        use_cpu=on_cpu,
        adam_beta2=0.98,
        dataloader_pin_memory=angel.dataloader_pin_memory,
    )
    optimizers = choose_optimizers(model, config, args.positive_matrix_learning_rate)
    trainer = PositiveTrainer(model, config, examples, linker.targets, optimizers=optimizers)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "names") if args.resume else None)
    trainer.save_linker(folder)
    if trainer.is_world_process_zero():
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return []


def train_angel(
    args: PretrainArguments, angel: AngelConfig, kb: KnowledgeBase, start: Path, folder: Path, to: Path
) -> Curve:
    """The rounds, from the linker in `start`, on mentions of the knowledge base that it has not seen. Saves `to`."""
    linker = EntityLinker.from_pretrained(start, kb=kb, device="cpu")
    made = {"noise": args.mined_noise, "context": args.context}
    # As many as the rounds look at, each once.
    size = int(angel.mentions_per_round) if angel.mentions_per_round > 1 else angel.mentions_per_round * kb.num_names
    train = kb_mentions(kb, round(angel.num_rounds * size), seed=10 * angel.seed + 2, **made)
    dev = kb_mentions(kb, args.dev_mentions, seed=10 * angel.seed + 3, **made)
    angel = copy.copy(angel)
    angel.output_dir, angel.mentions_per_round = str(folder), round(size)
    trainer = AngelTrainer(linker.model, angel, train, dev, kb, linker.tokenizer, linker.targets.formatter.format)
    return train_rounds(trainer, to, args.resume)


def main() -> None:
    """Run both stages and score them."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    args, angel = parse_settings((PretrainArguments, AngelConfig), sys.argv[1:], CONFIGS)
    if angel.push_to_hub:
        raise SystemExit(
            "recipes/pretrain.py publishes nothing. Publish what it saved: "
            'EntityLinker.from_pretrained("OUTPUT_DIR/linker").push_to_hub("user/name").'
        )
    check_shares(args, ("noise", "mined_noise", "context", "own_name"))
    check_matrix_rates(args, ("positive_matrix_learning_rate",))
    stages = Stages(angel, args.resume, args.cpu_threads)
    positive, rounds, final = (stages.output / name for name in ("positive", "angel", "linker"))
    try:
        kb = read_knowledge_base(args.kb)
        corpus = scored_splits(read_corpus(args.corpus)[0], args.test_split) if args.corpus else None
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    stages.clear([positive] if args.skip_angel else [positive, rounds, final])
    stages.run(positive, positive, partial(train_positive, args, angel, kb, positive))
    linkers, curves = {"positive-only": positive}, {}
    if not args.skip_angel:
        curve = stages.run(rounds, final, partial(train_angel, args, angel, kb, positive, rounds, final))
        linkers["ANGEL"], curves["ANGEL"] = final, curve
    if not stages.is_main:
        return
    linker = list(linkers.values())[-1]
    results = {"settings": {"recipe": vars(args), "angel": angel.to_dict()}, "kb": kb.statistics(), "dev": curves}
    if corpus is None:
        (stages.output / "results.json").write_text(json.dumps(results, indent=2, default=str), encoding="utf-8")
        print(json.dumps({"dev": curves, "linker": str(linker), "seconds": round(time.time() - begin, 1)}), flush=True)
        return
    results["data"] = {"kb": kb.statistics()}
    results |= evaluate_systems(
        linkers, kb, corpus, args.bootstrap, angel.num_beams, angel.use_cpu, output=stages.output
    )
    title = f"Pre-trained on {Path(args.kb).name} alone, {Path(args.corpus).name}, {args.test_split} split"
    write_report(stages.output, results, curves, title)
    print(last_line(results, linker, begin), flush=True)


if __name__ == "__main__":
    main()
