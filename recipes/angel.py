"""Train an entity linker with ANGEL, from corpus and knowledge base to a saved linker.

    accelerate launch recipes/angel.py                                       # the quickstart: synthetic data, CPU
    accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus DIR --kb FILE

Stages, each kept in its own folder of `output_dir`: positive-only (`positive/`), negative-aware rounds (`angel/`),
evaluation on the test split (`linker/`, `results.json`, `report.md`, `learning_curve.png`). Every setting can be given
on the command line or in the YAML file; `--help` lists them. The last line printed is one JSON object.
"""

import argparse
import copy
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
if __name__ == "__main__" and not any(a.startswith("--config") or a in ("-h", "--help") for a in sys.argv):
    # The quickstart needs no network, and asks for none: said before any library is loaded.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.argv[1:1] = ["--config", str(CONFIGS / "quickstart.yaml")]

import torch  # noqa: E402
import yaml  # noqa: E402
from accelerate import PartialState  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from accelerate.utils import DistributedType, set_seed  # noqa: E402
from datasets import DatasetDict, concatenate_datasets  # noqa: E402
from reporting import Curve, command_to_try, evaluate_systems, last_line, write_report  # noqa: E402
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402
from trl import TrlParser  # noqa: E402

from angel_trl import (  # noqa: E402
    AngelConfig,
    AngelTrainer,
    EntityLinker,
    KnowledgeBase,
    MentionFormat,
    PositiveConfig,
    PositiveTrainer,
    read_corpus,
    read_knowledge_base,
    synthetic_corpus,
    validate_mentions,
)
from angel_trl.architectures import load_model  # noqa: E402
from angel_trl.collator import positive_examples  # noqa: E402
from angel_trl.kb_mentions import kb_mentions, other_names  # noqa: E402
from angel_trl.scratch import SCRATCH_PRESETS, scratch_model  # noqa: E402
from angel_trl.searching_trainer import last_checkpoint  # noqa: E402
from angel_trl.targets import NearestNames, prepare_mentions  # noqa: E402

logger = logging.getLogger("recipes.angel")


@dataclass
class RecipeArguments:
    """What the recipe needs besides `AngelConfig`, which holds the settings of the negative-aware stage."""

    model: str = field(
        default="facebook/bart-large",
        metadata={
            "help": "A model (BART, mBART, T5, mT5, GPT-2, Llama, Mistral, Qwen2, Qwen3) or linker, path or Hub id, "
            f"or a preset: {', '.join(SCRATCH_PRESETS)}."
        },
    )
    corpus: str | None = field(
        default=None, metadata={"help": "PubTator file or folder with train, dev and test; default: synthetic data."}
    )
    kb: str | None = field(default=None, metadata={"help": "Knowledge base file; default: the synthetic one."})
    max_words: int = field(default=384, metadata={"help": "Longest passage in words; longer ones lose context."})
    mention_normalization: str = field(default="genbioel", metadata={"help": "Rule applied to mentions."})
    abbreviations: str = field(
        default="keep", metadata={"help": "ab3p writes out in mentions the abbreviations that their texts define."}
    )
    skip_positive: bool = field(
        default=False,
        metadata={"help": "Start the rounds from output_dir/positive if it is there, else from the model as it is."},
    )
    skip_angel: bool = field(default=False, metadata={"help": "Stop after the positive-only stage."})
    pretrain_passes: float = field(
        default=0.0, metadata={"help": "Passes over the names of the knowledge base before the corpus is seen."}
    )
    pretrain_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of these passes."})
    pretrain_batch_size: int = field(default=64, metadata={"help": "Names in a batch of these passes."})
    pretrain_bf16: bool = field(default=False, metadata={"help": "Make these passes under bfloat16 autocast."})
    positive_epochs: int = field(default=10, metadata={"help": "Most passes over the training mentions."})
    positive_patience: int = field(default=5, metadata={"help": "Evaluations without gain after which to stop."})
    positive_learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    positive_warmup: float = field(default=0.05, metadata={"help": "Share of the steps over which the rate rises."})
    positive_batch_size: int = field(default=16, metadata={"help": "Mentions in a batch."})
    positive_names: int = field(default=3, metadata={"help": "Nearest names of the gold concept to learn (paper: 3)."})
    positive_bf16: bool = field(default=False, metadata={"help": "Train on right names under bfloat16 autocast."})
    kb_mentions_per_mention: float = field(
        default=0.0, metadata={"help": "Mentions made from the knowledge base mixed in for each training mention."}
    )
    mined_kb_mentions: int = field(
        default=0, metadata={"help": "Mentions made from the knowledge base among those the rounds draw from."}
    )
    kb_noise: float = field(default=0.3, metadata={"help": "Share of the mentions made from the KB to misspell."})
    bootstrap: int = field(default=1000, metadata={"help": "Resamples for the intervals of the test scores."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of a process on CPU; default: the cores shared out evenly."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})


def parse_arguments(argv: list[str]) -> tuple[RecipeArguments, AngelConfig]:
    """Read the YAML file and the command line, which wins.

    A model from scratch needs other settings than pre-trained weights do, so those of a preset's own file
    (`configs/scratch-*.yaml`) come between the two.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    files.add_argument("--model")
    given, _ = files.parse_known_args(argv)
    only_config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_config.add_argument("--config")
    _, argv = only_config.parse_known_args(argv)
    # A setting misspelled is an error, not an abbreviation of another.
    parser = TrlParser((RecipeArguments, AngelConfig), allow_abbrev=False)
    if given.config is not None:
        path = Path(given.config)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise SystemExit(f"{path} must hold settings as `name: value` lines.")
        model = given.model or config.get("model")
        preset = CONFIGS / f"{model}.yaml"
        if model in SCRATCH_PRESETS and preset.exists():
            config |= yaml.safe_load(preset.read_text(encoding="utf-8"))
        unknown = parser.set_defaults_with_config(**config)
        if unknown:
            raise SystemExit(f"{path} has unknown settings: {' '.join(unknown)}. --help lists those there are.")
    return parser.parse_args_into_dataclasses(args=argv)


def load_data(args: RecipeArguments) -> tuple[KnowledgeBase, DatasetDict, dict]:
    """The knowledge base, the corpus, and what was read, skipped and repaired."""
    if (args.corpus is None) != (args.kb is None):
        raise SystemExit("Give both --corpus and --kb, or neither for the synthetic quickstart data.")
    if args.corpus is None:
        kb, corpus = synthetic_corpus(seed=0)
        report = {"corpus": "synthetic (made by angel_trl.synthetic; no real concepts)"}
    else:
        try:
            kb = read_knowledge_base(args.kb)
            corpus, read = read_corpus(args.corpus)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
        report = {"corpus": read.to_dict()}
        logger.log(logging.WARNING if read.skipped else logging.INFO, "read %s: %s", args.corpus, read.summary())
    missing = {"train", "dev", "test"} - set(corpus)
    if missing:
        raise SystemExit(f"The corpus lacks the splits {sorted(missing)}; it has {sorted(corpus)}.")
    for split in corpus.values():
        validate_mentions(split)
    report["kb"] = kb.statistics()
    if kb.read_report is not None:
        report["kb lines"] = kb.read_report.to_dict()
    return kb, corpus, report


def first_model(
    args: RecipeArguments, kb: KnowledgeBase, corpus: DatasetDict, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to start from: a preset with random weights, a folder or a Hub repository."""
    if args.model in SCRATCH_PRESETS:
        passages = sorted({text.lower() for text in corpus["train"]["text"]})
        return scratch_model(args.model, [*kb.names, *passages], seed=seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        return load_model(args.model), tokenizer
    except OSError as error:
        presets = ", ".join(SCRATCH_PRESETS)
        raise SystemExit(
            f"Cannot load the model {args.model!r} (presets without the Hub: {presets}): {error}"
        ) from error


def train_positive(args: RecipeArguments, angel: AngelConfig, kb, corpus, folder: Path) -> Curve:
    """The positive-only stage: names alone if asked for, then the corpus. Saves a linker and returns its dev curve."""
    model, tokenizer = first_model(args, kb, corpus, angel.seed)
    mention_format = MentionFormat(args.max_words, args.mention_normalization, args.abbreviations)
    linker = EntityLinker(model, tokenizer, kb, mention_format)
    targets = linker.targets
    train = prepare_mentions(corpus["train"], targets, for_training=True)
    dev = prepare_mentions(corpus["dev"], targets)
    examples = positive_examples(
        train, NearestNames(kb, exclude=targets.unreachable).nearest(train.mentions, train.gold, args.positive_names)
    )

    def from_kb(count: int, seed: int):
        if not count:
            return []
        seed += 10 * angel.seed
        made = prepare_mentions(kb_mentions(kb, count, seed=seed, noise=args.kb_noise), targets, for_training=True)
        return positive_examples(made, other_names(kb, made.gold, 1, seed=seed, exclude=targets.unreachable))

    shared = {
        "seed": angel.seed,
        "report_to": angel.report_to,
        "disable_tqdm": angel.disable_tqdm,
        # Bfloat16 on a machine without accelerator must be asked for by name.
        "use_cpu": angel.use_cpu or not torch.accelerator.is_available(),
        "logging_steps": 50,
        "save_total_limit": 1,
        "adam_beta2": 0.98,
        "dataloader_pin_memory": angel.dataloader_pin_memory,
    }
    done = last_checkpoint(folder / "names") if args.resume and args.pretrain_passes > 0 else None
    steps = int(done.rpartition("-")[2]) if done else 0
    checkpoint = last_checkpoint(folder / "mentions") if args.resume else None
    if args.pretrain_passes > 0 and checkpoint is None:
        pretrain = PositiveConfig(
            output_dir=str(folder / "names"),
            learning_rate=args.pretrain_learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            num_train_epochs=1,
            bf16=args.pretrain_bf16,
            per_device_train_batch_size=args.pretrain_batch_size,
            save_strategy="steps",
            save_steps=500,
            **shared,
        )
        trainer = PositiveTrainer(model, pretrain, from_kb(round(kb.num_names * args.pretrain_passes), 1), targets)
        trainer.train(resume_from_checkpoint=done)
        steps = trainer.state.global_step
        # A model that a trainer has prepared (for bfloat16, for several processes) cannot be prepared by another.
        trainer.save_linker(folder / "names" / "linker")
        model = load_model(str(folder / "names" / "linker"))
    mixed_in = from_kb(round(len(examples) * args.kb_mentions_per_mention), 2)
    config = PositiveConfig(
        output_dir=str(folder / "mentions"),
        learning_rate=args.positive_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.positive_warmup,
        bf16=args.positive_bf16,
        num_train_epochs=args.positive_epochs,
        per_device_train_batch_size=args.positive_batch_size,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=args.positive_patience,
        **shared,
    )
    trainer = PositiveTrainer(model, config, examples + mixed_in, targets, dev)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_linker(folder)
    return [(steps + row["step"], row["eval_acc@1"]) for row in trainer.state.log_history if "eval_acc@1" in row]


def train_angel(args: RecipeArguments, angel: AngelConfig, kb, corpus, start: Path, folder: Path, to: Path) -> Curve:
    """The negative-aware rounds, from the linker in `start`. Saves the best to `to` and returns its dev curve."""
    mention_format = MentionFormat(args.max_words, args.mention_normalization, args.abbreviations)
    linkers = [folder for folder in (start, Path(args.model)) if (folder / "angel.json").exists()]
    if linkers:
        linker = EntityLinker.from_pretrained(linkers[0], kb=kb, device="cpu")
        model, tokenizer, mention_format = linker.model, linker.tokenizer, linker.targets.formatter.format
    else:
        model, tokenizer = first_model(args, kb, corpus, angel.seed)
    train = corpus["train"]
    if args.mined_kb_mentions:
        made = kb_mentions(kb, args.mined_kb_mentions, seed=10 * angel.seed + 3, noise=args.kb_noise)
        train = concatenate_datasets([train.select_columns(made.column_names), made])
    angel = copy.copy(angel)
    angel.output_dir = str(folder)
    trainer = AngelTrainer(model, angel, train, corpus["dev"], kb, tokenizer, mention_format)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if args.resume else None)
    trainer.save_linker(to)
    if trainer.is_world_process_zero():
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return [(row["step"], row["eval_acc@1"]) for row in trainer.state.log_history if "eval_acc@1" in row]


def stage(
    folder: Path, linker: Path, resume: bool, state: PartialState, kind: DistributedType, run: Callable[[], Curve]
) -> Curve:
    """Run a stage that saves `linker`; with `resume`, take one that is done as it is. Returns its dev curve."""
    marker = folder / "curve.json"
    if resume and marker.exists() and (linker / "angel.json").exists():
        logger.info("%s is done: going on with what follows", folder)
        return [(step, value) for step, value in json.loads(marker.read_text(encoding="utf-8"))]
    # A stage has a precision of its own, and accelerate keeps one for the process, and what it made of its kind.
    AcceleratorState._reset_state(reset_partial_state=False)
    state.distributed_type = kind
    curve = run()
    if state.is_main_process:
        # Written aside and renamed, so that a killed run leaves no half a file.
        partial_file = marker.with_suffix(".partial")
        partial_file.write_text(json.dumps(curve), encoding="utf-8")
        partial_file.replace(marker)
    state.wait_for_everyone()
    return curve


def main() -> None:
    """Run the stages and report."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    args, angel = parse_arguments(sys.argv[1:])
    state = PartialState()
    kind = state.distributed_type
    if angel.use_cpu or not torch.accelerator.is_available():
        # `accelerate launch` sets one thread a process unless told otherwise, which leaves the other cores idle.
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // state.num_processes))
    set_seed(angel.seed)
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    output = Path(angel.output_dir)
    positive, rounds, final = output / "positive", output / "angel", output / "linker"
    if args.skip_positive and args.skip_angel:
        raise SystemExit("--skip_positive and --skip_angel leave nothing to do.")
    kb, corpus, data = load_data(args)
    replaced = [] if args.skip_positive else [positive]
    replaced += [] if args.skip_angel else [rounds, final]
    for folder in replaced:
        if state.is_main_process and not args.resume and folder.exists():
            logger.warning("%s is from an earlier run and is replaced (--resume would go on with it)", folder)
            shutil.rmtree(folder)
    state.wait_for_everyone()
    logger.info("a run that is interrupted goes on when the same command is given with --resume")
    curves: dict[str, Curve] = {}
    linkers: dict[str, Path] = {}
    try:
        if not args.skip_positive:
            run = partial(train_positive, args, angel, kb, corpus, positive)
            curves["positive-only"] = stage(positive, positive, args.resume, state, kind, run)
        if (positive / "angel.json").exists():
            linkers["positive-only"] = positive
        if not args.skip_angel:
            run = partial(train_angel, args, angel, kb, corpus, positive, rounds, final)
            before = curves["positive-only"][-1][0] if "positive-only" in curves else 0
            curve = stage(rounds, final, args.resume, state, kind, run)
            curves["ANGEL"] = [(before + step, value) for step, value in curve]
            linkers["ANGEL"] = final
    except KeyboardInterrupt:
        raise SystemExit(f"Interrupted. Run the same command with --resume to go on in {output}.") from None
    if state.is_main_process:
        results = {"settings": {"recipe": vars(args), "angel": angel.to_dict()}, "data": data}
        results |= evaluate_systems(linkers, kb, corpus, args.bootstrap, angel.num_beams, angel.use_cpu)
        name = "the synthetic quickstart" if args.corpus is None else Path(args.corpus).name
        write_report(output, results, curves, f"ANGEL on {name}, test split ({len(corpus['test'])} mentions)")
        linker = list(linkers.values())[-1]
        print(f"\nThe linker is in {linker}. Try it:\n  {command_to_try(linker, corpus['test'])}\n")
        print(last_line(results, linker, begin), flush=True)


if __name__ == "__main__":
    main()
