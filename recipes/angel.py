"""Train an entity linker with ANGEL, from corpus and knowledge base to a saved linker.

    accelerate launch recipes/angel.py                                       # the quickstart: synthetic data, CPU
    accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus DIR --kb FILE

Stages, each kept in its own folder of `output_dir`: positive-only (`positive/`), negative-aware rounds (`angel/`),
evaluation on the test split (`linker/`, `results.json`, `report.md`, `learning_curve.png`). Every setting can be given
on the command line or in the YAML file; `--help` lists them. The last line printed is one JSON object.
"""

import json
import logging
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
if "--config" not in sys.argv and not {"-h", "--help"} & set(sys.argv):
    # The quickstart needs no network, and asks for none.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.argv[1:1] = ["--config", str(CONFIGS / "quickstart.yaml")]

import torch  # noqa: E402
import yaml  # noqa: E402
from accelerate import PartialState  # noqa: E402
from accelerate.utils import set_seed  # noqa: E402
from datasets import DatasetDict, concatenate_datasets  # noqa: E402
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402
from transformers.trainer_utils import get_last_checkpoint  # noqa: E402
from trl import TrlParser  # noqa: E402

from angel_trl import (  # noqa: E402
    AngelConfig,
    AngelTrainer,
    EntityLinker,
    KnowledgeBase,
    MentionFormat,
    PositiveConfig,
    PositiveTrainer,
    paired_difference,
    read_corpus,
    read_knowledge_base,
    score,
    synthetic_corpus,
)
from angel_trl.collator import positive_examples  # noqa: E402
from angel_trl.evaluation import evaluate_linking  # noqa: E402
from angel_trl.kb_mentions import kb_mentions, other_names  # noqa: E402
from angel_trl.lookup import StringLookup  # noqa: E402
from angel_trl.report import plot_learning_curve, results_table, to_markdown  # noqa: E402
from angel_trl.scratch import SCRATCH_PRESETS, scratch_model  # noqa: E402
from angel_trl.targets import NearestNames, prepare_mentions  # noqa: E402

logger = logging.getLogger("recipes.angel")


@dataclass
class RecipeArguments:
    """What the recipe needs besides `AngelConfig`, which holds the settings of the negative-aware stage."""

    model: str = field(
        default="facebook/bart-large",
        metadata={"help": f"Path or Hub id of a BART model, or a preset: {', '.join(SCRATCH_PRESETS)}."},
    )
    corpus: str | None = field(
        default=None, metadata={"help": "PubTator file or folder with train, dev and test; default: synthetic data."}
    )
    kb: str | None = field(default=None, metadata={"help": "Knowledge base file; default: the synthetic one."})
    max_words: int = field(default=384, metadata={"help": "Longest passage in words; longer ones lose context."})
    mention_normalization: str = field(default="genbioel", metadata={"help": "Rule applied to mentions."})
    skip_positive: bool = field(default=False, metadata={"help": "Take the model as it is, without positive stage."})
    skip_angel: bool = field(default=False, metadata={"help": "Stop after the positive-only stage."})
    pretrain_passes: float = field(
        default=0.0, metadata={"help": "Passes over the names of the knowledge base before the corpus is seen."}
    )
    pretrain_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of these passes."})
    pretrain_batch_size: int = field(default=64, metadata={"help": "Names in a batch of these passes."})
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
    parser = TrlParser((RecipeArguments, AngelConfig))
    if "--config" in argv:
        place = argv.index("--config")
        path = Path(argv[place + 1])
        argv = argv[:place] + argv[place + 2 :]
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise SystemExit(f"{path} must hold settings as `name: value` lines.")
        model = argv[argv.index("--model") + 1] if "--model" in argv else config.get("model")
        preset = CONFIGS / f"{model}.yaml"
        if model in SCRATCH_PRESETS and preset.exists():
            logger.info("%s brings the settings of %s", model, preset)
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
        kb = read_knowledge_base(args.kb)
        corpus, read = read_corpus(args.corpus)
        report = {"corpus": read.to_dict()}
        logger.info("read %s: %s", args.corpus, read.summary())
    missing = {"train", "dev", "test"} - set(corpus)
    if missing:
        raise SystemExit(f"The corpus lacks the splits {sorted(missing)}; it has {sorted(corpus)}.")
    return kb, corpus, report | {"kb": kb.statistics()}


def load_model(
    args: RecipeArguments, kb: KnowledgeBase, corpus: DatasetDict, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to start from: a preset with random weights, a folder or a Hub repository."""
    if args.model in SCRATCH_PRESETS:
        passages = sorted({text.lower() for text in corpus["train"]["text"]})
        return scratch_model(args.model, [*kb.names, *passages], seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    return AutoModelForSeq2SeqLM.from_pretrained(args.model, dtype=torch.float32), tokenizer


def train_positive(args: RecipeArguments, angel: AngelConfig, kb, corpus, folder: Path) -> list[tuple[float, float]]:
    """The positive-only stage: names alone if asked for, then the corpus. Saves a linker and returns its dev curve."""
    model, tokenizer = load_model(args, kb, corpus, angel.seed)
    mention_format = MentionFormat(args.max_words, args.mention_normalization)
    linker = EntityLinker(model, tokenizer, kb, mention_format)
    targets = linker.targets
    train = prepare_mentions(corpus["train"], targets, for_training=True)
    dev = prepare_mentions(corpus["dev"], targets)
    examples = positive_examples(
        train, NearestNames(kb, exclude=targets.unreachable).nearest(train.mentions, train.gold, args.positive_names)
    )

    def from_kb(count: int, seed: int):
        made = prepare_mentions(kb_mentions(kb, count, seed=seed, noise=args.kb_noise), targets, for_training=True)
        return positive_examples(made, other_names(kb, made.gold, 1, seed=seed))

    shared = {
        "seed": angel.seed,
        "bf16": args.positive_bf16,
        "report_to": angel.report_to,
        "disable_tqdm": angel.disable_tqdm,
        # Bfloat16 on a machine without accelerator must be asked for by name.
        "use_cpu": angel.use_cpu or not torch.accelerator.is_available(),
        "logging_steps": 50,
        "save_total_limit": 1,
        "adam_beta2": 0.98,
        "dataloader_pin_memory": angel.dataloader_pin_memory,
    }
    steps = 0
    mentions_folder = folder / "mentions"
    checkpoint = get_last_checkpoint(str(mentions_folder)) if args.resume and mentions_folder.is_dir() else None
    if args.pretrain_passes > 0 and checkpoint is None:
        pretrain = PositiveConfig(
            output_dir=str(folder / "names"),
            learning_rate=args.pretrain_learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            num_train_epochs=1,
            per_device_train_batch_size=args.pretrain_batch_size,
            save_strategy="no",
            **shared,
        )
        trainer = PositiveTrainer(model, pretrain, from_kb(round(kb.num_names * args.pretrain_passes), 1), targets)
        trainer.train()
        steps = trainer.state.global_step
    mixed_in = from_kb(round(len(examples) * args.kb_mentions_per_mention), 2)
    config = PositiveConfig(
        output_dir=str(mentions_folder),
        learning_rate=args.positive_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.positive_warmup,
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
    if trainer.is_world_process_zero():
        linker.save_pretrained(folder)
    curve = [(steps + row["step"], row["eval_acc@1"]) for row in trainer.state.log_history if "eval_acc@1" in row]
    return curve


def train_angel(args: RecipeArguments, angel: AngelConfig, kb, corpus, start: Path, folder: Path, to: Path) -> list:
    """The negative-aware rounds from the linker in `start`. Saves the best linker to `to` and returns the dev curve."""
    linker = EntityLinker.from_pretrained(start, device="cpu") if (start / "angel.json").exists() else None
    model, tokenizer = (linker.model, linker.tokenizer) if linker else load_model(args, kb, corpus, angel.seed)
    mention_format = MentionFormat(args.max_words, args.mention_normalization)
    train = corpus["train"]
    if args.mined_kb_mentions:
        made = kb_mentions(kb, args.mined_kb_mentions, seed=angel.seed + 1000, noise=args.kb_noise)
        train = concatenate_datasets([train.select_columns(made.column_names), made])
    angel.output_dir = str(folder)
    trainer = AngelTrainer(model, angel, train, corpus["dev"], kb, tokenizer, mention_format)
    checkpoint = get_last_checkpoint(str(folder)) if args.resume and folder.is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        EntityLinker(model, tokenizer, kb, mention_format, trainer.targets.trie).save_pretrained(to)
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return [(row["step"], row["eval_acc@1"]) for row in trainer.state.log_history if "eval_acc@1" in row]


def stage(folder: Path, done: str, args: RecipeArguments, state: PartialState, run) -> list[tuple[float, float]]:
    """Run a stage, or take the curve of one that `--resume` finds done."""
    marker = folder / "curve.json"
    if args.resume and marker.exists() and (Path(done) / "angel.json").exists():
        logger.info("%s is done, going on with the next stage", folder)
        return [tuple(point) for point in json.loads(marker.read_text())]
    curve = run()
    if state.is_main_process:
        marker.write_text(json.dumps(curve))
    state.wait_for_everyone()
    return curve


def evaluate(linker_folder: Path, test, angel: AngelConfig, bootstrap: int):
    """Scores on the test split and the predictions behind them."""
    linker = EntityLinker.from_pretrained(linker_folder, device="cpu" if angel.use_cpu else None)
    mentions = prepare_mentions(test, linker.targets)
    result = evaluate_linking(
        linker.model, linker.targets, mentions, num_beams=angel.num_beams, bootstrap=bootstrap,
        progress=f"test: {linker_folder.name}",
    )
    return result, mentions


def write_report(output: Path, rows: dict, results: dict, curves: dict, title: str) -> None:
    """Write results.json, report.md and learning_curve.png, and print the table."""
    print("\n" + results_table(rows, title=title))
    text = f"# {title}\n\n{to_markdown(rows)}\n"
    if "difference" in results:
        difference = results["difference"]
        low, high = difference["ci"]
        line = f"ANGEL - positive-only, Acc@1: {difference['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
        print(line)
        text += f"\n{line} (95% paired bootstrap over documents)\n"
    if curves:
        floor = rows["lookup + training mentions"]["acc@1"]
        plot_learning_curve(curves, output / "learning_curve.png", title, floor, "lookup + training mentions (test)")
        text += "\n![Dev Acc@1 by step](learning_curve.png)\n"
    text += f"\n## Data\n\n```json\n{json.dumps(results['data'], indent=2, default=str)}\n```\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results, indent=2, default=str), encoding="utf-8")


def main() -> None:
    """Run the stages and report."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args, angel = parse_arguments(sys.argv[1:])
    state = PartialState()
    if angel.use_cpu or not torch.accelerator.is_available():
        # `accelerate launch` sets one thread a process unless told otherwise, which leaves the other cores idle.
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // state.num_processes))
    random.seed(angel.seed)
    set_seed(angel.seed)
    output = Path(angel.output_dir)
    positive, rounds, final = output / "positive", output / "angel", output / "linker"
    if state.is_main_process and not args.resume:
        for folder in (positive, rounds, final):
            if folder.exists():
                logger.warning("%s is from an earlier run and is replaced (--resume would go on with it)", folder)
                shutil.rmtree(folder)
    state.wait_for_everyone()
    kb, corpus, report = load_data(args)
    curves = {}
    try:
        if not args.skip_positive:
            curves["positive-only"] = stage(
                positive, str(positive), args, state, lambda: train_positive(args, angel, kb, corpus, positive)
            )
        if not args.skip_angel:
            curve = stage(
                rounds, str(final), args, state,
                lambda: train_angel(args, angel, kb, corpus, positive, rounds, final),
            )
            offset = curves["positive-only"][-1][0] if curves.get("positive-only") else 0
            curves["ANGEL"] = [(offset + step, value) for step, value in curve]
    except KeyboardInterrupt:
        raise SystemExit(f"Interrupted. At most one round is lost: run the same command with --resume ({output})") from None
    if not state.is_main_process:
        return
    test = corpus["test"]
    systems, predictions = {}, {}
    references = groups = None
    for name, folder in (("positive-only", positive), ("ANGEL", final)):
        if (folder / "angel.json").exists():
            result, mentions = evaluate(folder, test, angel, args.bootstrap)
            systems[name], predictions[name] = result.metrics, result.predictions
            references, groups = mentions.references, mentions.documents
            report[f"test mentions ({name})"] = mentions.report
    floors = {"lookup": StringLookup(kb), "lookup + training mentions": StringLookup(kb, corpus["train"])}
    rows = {
        name: score(floor.predict(test), references, groups=groups, bootstrap=args.bootstrap)
        for name, floor in floors.items()
    }
    rows |= systems
    results = {"settings": {"recipe": vars(args), "angel": angel.to_dict()}, "data": report, "test": rows}
    if len(predictions) == 2:
        results["difference"] = paired_difference(
            predictions["positive-only"], predictions["ANGEL"], references, groups=groups
        )
    name = "synthetic quickstart" if args.corpus is None else Path(args.corpus).name
    write_report(output, rows, results, curves, f"ANGEL on {name}, test split ({len(test)} mentions)")
    linker = final if "ANGEL" in systems else positive
    mention = test[0]
    shown = f"{mention['text'][: mention['start']]}[{mention['mention']}]{mention['text'][mention['end'] :]}"
    print(f"\nThe linker is in {linker}. Try it:\n  python -m angel_trl {linker} {json.dumps(shown, ensure_ascii=False)}\n")
    keys = ("acc@1", "acc@5", "mrr", "acc@1_strict")
    summary = {
        "lookup": rows["lookup"],
        "lookup_with_training_mentions": rows["lookup + training mentions"],
        "positive_only": rows.get("positive-only"),
        "angel": rows.get("ANGEL"),
    }
    line = {name: scores and {key: round(scores[key], 2) for key in keys} for name, scores in summary.items()}
    print(json.dumps(line | {"linker": str(linker), "seconds": round(time.time() - begin, 1)}))


if __name__ == "__main__":
    main()
