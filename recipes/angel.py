"""Train an entity linker with ANGEL, from corpus and knowledge base to a saved linker.

    accelerate launch recipes/angel.py                                       # the quickstart: synthetic data, CPU
    accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus DIR --kb FILE

Stages, each kept in its own folder of `output_dir`: positive-only (`positive/`), negative-aware rounds (`angel/`),
evaluation on the test split (`linker/`, `results.json`, `report.md`, `learning_curve.png`). With `--mine_folds`,
models that have not seen the mentions they mine in the rounds are trained before these (`folds/`). Every setting can
be given on the command line or in the YAML file; `--help` lists them. The last line printed is one JSON object.

    accelerate launch recipes/angel.py --push_to_hub --hub_model_id user/name [--hub_strategy every_save]

publishes the linker, the mined pairs as the private dataset `user/name-pairs` and, if asked for, the linker of each
round with a tag. What could not be published is by the same command with `--resume`, without training again.
"""

import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

CONFIGS = Path(__file__).parent / "configs"
if __name__ == "__main__" and not any(a.startswith("--config") or a in ("-h", "--help") for a in sys.argv):
    # The quickstart needs no network, and asks for none unless it publishes: said before any library is loaded.
    if not any(a.startswith(("--push_to_hub", "--push-to-hub")) for a in sys.argv):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.argv[1:1] = ["--config", str(CONFIGS / "quickstart.yaml")]

from calibrating import calibrate_linker, check_target_precision  # noqa: E402
from corpus_splits import TEST_SPLIT_HELP, TestSplit  # noqa: E402
from datasets import DatasetDict, concatenate_datasets  # noqa: E402
from inputs import read_inputs  # noqa: E402
from mining_folds import check_folds, deal_folds, fold_linker, train_folds  # noqa: E402
from muon import check_matrix_rates  # noqa: E402
from positive_stage import (  # noqa: E402
    check_mentions_from_kb,
    mentions_from_kb,
    train_on_mentions,
    train_on_names,
)
from publishing import Publication, PublishArguments, PublishingTrainer  # noqa: E402
from reporting import Curve, command_to_try, earlier_results, evaluate_systems, last_line, write_report  # noqa: E402
from stages import Stages, first_model, parse_settings, train_rounds  # noqa: E402

from angel_trl import (  # noqa: E402
    AngelConfig,
    AngelTrainer,
    EntityLinker,
    HeldOut,
    KnowledgeBase,
    MentionFormat,
    with_mention_names,
)
from angel_trl.abbreviations import expand  # noqa: E402
from angel_trl.model_files import json_object  # noqa: E402
from angel_trl.scratch import SCRATCH_PRESETS  # noqa: E402
from angel_trl.targets import prepare_mentions  # noqa: E402

logger = logging.getLogger("recipes.angel")


@dataclass
class RecipeArguments(PublishArguments):
    """What the recipe needs besides `AngelConfig`, which holds the settings of the negative-aware stage."""

    model: str = field(
        default="facebook/bart-large",
        metadata={
            "help": "A model (BART, mBART, T5, mT5, GPT-2, Llama, Mistral, Qwen2, Qwen3) or linker, path or Hub id; "
            "a BERT, which becomes the encoder of a BART; "
            f"or a preset: {', '.join(SCRATCH_PRESETS)}."
        },
    )
    corpus: str | None = field(
        default=None,
        metadata={
            "help": "Corpus with train, dev and test in any format of read_corpus: a path, a URL or a Hub dataset id; "
            "default: synthetic data."
        },
    )
    kb: str | None = field(default=None, metadata={"help": "Knowledge base, likewise; default: the synthetic one."})
    fold: int | None = field(default=None, metadata={"help": "Which fold of AskAPatient."})
    level: Literal["general", "specific"] = field(default="general", metadata={"help": "Which id of COMETA."})
    test_split: TestSplit = field(default="test", metadata={"help": TEST_SPLIT_HELP})
    max_words: int = field(default=384, metadata={"help": "Longest passage in words; longer ones lose context."})
    mention_normalization: str = field(default="genbioel", metadata={"help": "Rule applied to mentions."})
    abbreviations: str = field(
        default="keep", metadata={"help": "ab3p writes out in mentions the abbreviations that their texts define."}
    )
    mention_names: bool = field(
        default=False,
        metadata={
            "help": "Training mentions are names of the concepts that they mean most often, and of no others; the "
            "knowledge base that is saved and published with the linker holds them."
        },
    )
    skip_positive: bool = field(
        default=False,
        metadata={"help": "Start the rounds from output_dir/positive if it is there, else from the model as it is."},
    )
    skip_angel: bool = field(default=False, metadata={"help": "Stop after the positive-only stage."})
    pretrain_passes: float = field(
        default=0.0, metadata={"help": "Passes over the names of the knowledge base before the corpus is seen."}
    )
    pretrain_in_passages: float = field(
        default=0.0,
        metadata={"help": "Share of these names in passages of the corpus, in the place of a training mention."},
    )
    pretrain_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of these passes."})
    pretrain_matrix_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Train the weight matrices by Muon in these passes, with this peak learning rate."},
    )
    pretrain_batch_size: int = field(default=64, metadata={"help": "Names in a batch of these passes."})
    pretrain_bf16: bool = field(default=False, metadata={"help": "Make these passes under bfloat16 autocast."})
    positive_epochs: int = field(default=10, metadata={"help": "Most passes over the training mentions."})
    positive_patience: int = field(default=5, metadata={"help": "Evaluations without gain after which to stop."})
    positive_learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    positive_matrix_learning_rate: float | None = field(
        default=None, metadata={"help": "Train the weight matrices by Muon, with this peak learning rate."}
    )
    positive_warmup: float = field(default=0.05, metadata={"help": "Share of the steps over which the rate rises."})
    positive_batch_size: int = field(default=16, metadata={"help": "Mentions in a batch."})
    positive_names: int = field(default=3, metadata={"help": "Nearest names of the gold concept to learn (paper: 3)."})
    positive_bf16: bool = field(default=False, metadata={"help": "Train on right names under bfloat16 autocast."})
    kb_mentions_per_mention: float = field(
        default=0.0, metadata={"help": "Mentions made from the knowledge base mixed in for each training mention."}
    )
    kb_in_passages: float = field(
        default=0.0,
        metadata={
            "help": "Share of these in passages of the corpus, in the place of a training mention, and learnt as that."
        },
    )
    mined_kb_mentions: int = field(
        default=0, metadata={"help": "Mentions made from the knowledge base among those the rounds draw from."}
    )
    mined_in_passages: float = field(
        default=0.0,
        metadata={"help": "Share of these in passages of the corpus, in the place of a training mention."},
    )
    mine_folds: int = field(
        default=0,
        metadata={
            "help": "Mine each training mention with one of so many more models, that which was trained without its "
            "document; 0 mines with the model that is trained."
        },
    )
    fold_model: str | None = field(
        default=None,
        metadata={
            "help": "Linker, path or Hub id, that these start from; default: what the positive-only stage made of the "
            "names alone (output_dir/positive/names/linker), without such passes the model as it is."
        },
    )
    kb_noise: float = field(default=0.3, metadata={"help": "Share of the mentions made from the KB to misspell."})
    kb_context: float = field(
        default=0.0, metadata={"help": "Share of the mentions made from the KB to put in sentences made from it."}
    )
    kb_own_name: float = field(
        default=0.0,
        metadata={
            "help": "Share of the mentions made from the KB, but for the mined ones, to learn the name they were made "
            "from; the others learn any name of its concept."
        },
    )
    bootstrap: int = field(default=1000, metadata={"help": "Resamples for the intervals of the test scores."})
    target_precision: float | None = field(
        default=None,
        metadata={
            "help": "Calibrate the linker on dev: its answers have a confidence, and are withheld below the threshold "
            "that brings this precision there, such as 0.9."
        },
    )
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads of a process on CPU; default: the cores shared out evenly."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})

    def make_trainer(self, *given: Any, **named: Any) -> AngelTrainer:
        """The trainer of the rounds."""
        return PublishingTrainer(*given, **named)


def parse_arguments(
    argv: list[str], kind: type[RecipeArguments] = RecipeArguments
) -> tuple[RecipeArguments, AngelConfig]:
    """Read the YAML file, the file of a preset of its own (`configs/scratch-*.yaml`) and the command line."""
    return parse_settings((kind, AngelConfig), argv, CONFIGS)


def settings_of(args: RecipeArguments) -> dict:
    """What decides what is trained, without what is said of it."""
    said = {setting.name for setting in fields(PublishArguments)}
    return {name: value for name, value in vars(args).items() if name not in said}


def load_data(args: RecipeArguments) -> tuple[KnowledgeBase, DatasetDict, dict]:
    """The knowledge base, the corpus, and what was read, skipped and repaired."""
    kb, corpus, report = read_inputs(args)
    if kb.read_report is not None:
        report["kb lines"] = kb.read_report.to_dict()
    return kb, corpus, report


def kb_of_linker(args: RecipeArguments, kb: KnowledgeBase, corpus: DatasetDict) -> KnowledgeBase:
    """The linker's knowledge base: if asked for, with training mentions as names, spelled as it sees them."""
    if not args.mention_names:
        return kb
    train = corpus["train"]
    try:
        return with_mention_names(kb, expand(train) if args.abbreviations == "ab3p" else train)
    except ValueError as error:
        raise SystemExit(f"--mention_names: {error}") from error


def check_knowledge_base(linkers: Iterable[Path], own: KnowledgeBase) -> None:
    """See that linkers of an earlier run that this one goes on with, or is scored beside, have its knowledge base."""
    for folder in linkers:
        settings = folder / "angel.json"
        if settings.exists() and json_object(settings).get("kb_fingerprint") != own.fingerprint:
            raise SystemExit(
                f"The linker in {folder} was made for another knowledge base, or with another --mention_names: give "
                "another --output_dir."
            )


def model_to_train(args: RecipeArguments, kb: KnowledgeBase, corpus: DatasetDict, seed: int):
    """The model to start from and its tokenizer; a preset's tokenizer is trained on names and passages."""
    texts = []
    if args.model in SCRATCH_PRESETS:
        texts = [*kb.names, *sorted({text.lower() for text in corpus["train"]["text"]})]
    return first_model(args.model, texts, seed)


def first_linker(args: RecipeArguments, kb, corpus, seed: int, folders: Iterable[Path]) -> EntityLinker:
    """The linker in the first of the folders that has one, else the model to start from in the format of `args`."""
    linkers = [folder for folder in folders if (folder / "angel.json").exists()]
    if linkers:
        linker = EntityLinker.from_pretrained(linkers[0], kb=kb, device="cpu")
        if args.mention_names and linker.targets.formatter.format.abbreviations != args.abbreviations:
            known = linker.targets.formatter.format.abbreviations
            raise SystemExit(
                f"The linker in {linkers[0]} was made with --abbreviations {known}: give that, too, with "
                "--mention_names, so that mentions are names as it sees them."
            )
        return linker
    model, tokenizer = model_to_train(args, kb, corpus, seed)
    mention_format = MentionFormat(args.max_words, args.mention_normalization, args.abbreviations)
    return EntityLinker(model, tokenizer, kb, mention_format)


def train_positive(args: RecipeArguments, angel: AngelConfig, kb, corpus, folder: Path) -> Curve:
    """The positive-only stage: names alone if asked for, then the corpus. Saves a linker and returns its dev curve."""
    linker = first_linker(args, kb, corpus, angel.seed, [])
    model, targets = linker.model, linker.targets
    train = prepare_mentions(corpus["train"], targets, for_training=True)
    dev = prepare_mentions(corpus["dev"], targets)
    steps = 0
    if args.pretrain_passes > 0:
        model, steps = train_on_names(args, angel, model, targets, corpus["train"], folder)
    curve = train_on_mentions(args, angel, model, targets, train, dev, corpus["train"], folder)
    return [(steps + step, value) for step, value in curve]


def train_angel(
    args: RecipeArguments,
    angel: AngelConfig,
    kb,
    corpus,
    start: Path,
    folder: Path,
    to: Path,
    told: Publication,
    held_out: HeldOut | None = None,
) -> Curve:
    """The negative-aware rounds, from the linker in `start`. Saves the best to `to` and returns its dev curve."""
    linker = first_linker(args, kb, corpus, angel.seed, [start, Path(args.model)])
    train = corpus["train"]
    if args.mined_kb_mentions:
        made = mentions_from_kb(args, angel, kb, train, args.mined_kb_mentions, 3, args.mined_in_passages)
        train = concatenate_datasets([train.select_columns(made.column_names), made])
    angel = copy.copy(angel)
    angel.output_dir = str(folder)
    trainer = args.make_trainer(
        linker.model,
        angel,
        train,
        corpus["dev"],
        kb,
        linker.tokenizer,
        linker.targets.formatter.format,
        card=told.card,
        held_out=held_out,
    )
    curve = train_rounds(trainer, to, args.resume)
    told.rounds = trainer.round_publisher
    return curve


def main(parse: Callable[[list[str]], tuple[RecipeArguments, AngelConfig]] = parse_arguments) -> None:
    """Run the stages and report; `parse` reads the command line."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # A line for each request to the Hub would hide the others.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    argv = sys.argv[1:]
    args, angel = parse(argv)
    of_the_run = {"model": args.model, "corpus": args.corpus, "kb": args.kb, "mine_folds": args.mine_folds}
    of_the_run["mention_names"] = args.mention_names
    publication = Publication(args, angel, argv=argv, **of_the_run)
    stages = Stages(angel, args.resume, args.cpu_threads)
    output = stages.output
    positive, folds, rounds, final = (output / name for name in ("positive", "folds", "angel", "linker"))
    if args.skip_positive and args.skip_angel:
        raise SystemExit("--skip_positive and --skip_angel leave nothing to do.")
    check_folds(args)
    check_mentions_from_kb(args)
    check_matrix_rates(args, ("pretrain_matrix_learning_rate", "positive_matrix_learning_rate"))
    check_target_precision(args.target_precision)
    if stages.is_main:
        publication.check(rounds, resume=args.resume, skip_angel=args.skip_angel)
    kb, corpus, data = load_data(args)
    own = kb_of_linker(args, kb, corpus)
    if args.mention_names:
        data["kb with mention names"] = own.statistics()
    fold_of = deal_folds(args, corpus, angel.seed)
    replaced = [] if args.skip_positive else [positive]
    replaced += [] if args.skip_angel else [*([folds] if fold_of else []), rounds, final]
    stages.clear(replaced)
    check_knowledge_base((positive, final), own)
    curves: dict[str, Curve] = {}
    linkers: dict[str, Path] = {}
    if not args.skip_positive:
        run = partial(train_positive, args, angel, own, corpus, positive)
        curves["positive-only"] = stages.run(positive, positive, run)
    if (positive / "angel.json").exists():
        linkers["positive-only"] = positive
    if not args.skip_angel:
        held_out = None
        if fold_of and not stages.is_done(rounds, final):
            start = partial(fold_linker, args, own, positive, partial(first_linker, args, own, corpus, angel.seed))
            held_out = train_folds(args, angel, corpus, fold_of, start, stages, folds)
        run = partial(train_angel, args, angel, own, corpus, positive, rounds, final, publication, held_out)
        before = curves["positive-only"][-1][0] if "positive-only" in curves else 0
        curve = stages.run(rounds, final, run)
        curves["ANGEL"] = [(before + step, value) for step, value in curve]
        linkers["ANGEL"] = final
    if stages.is_main:
        settings = {"recipe": settings_of(args), "angel": angel.to_dict()}
        results = earlier_results(output, settings, linkers) if args.resume else None
        if results is None:
            results = {"settings": settings, "data": data}
            results |= evaluate_systems(
                linkers, kb, corpus, args.bootstrap, angel.num_beams, angel.use_cpu, angel.within_types, output
            )
            if args.target_precision is not None:
                search = {"num_beams": angel.num_beams, "bootstrap": args.bootstrap, "cpu": angel.use_cpu}
                last = list(linkers.values())[-1]
                results["confidence"] = calibrate_linker(last, corpus, args.target_precision, **search, output=output)
        name = "the synthetic quickstart" if args.corpus is None else Path(args.corpus).name
        write_report(
            output, results, curves, f"ANGEL on {name}, {args.test_split} split ({len(corpus['test'])} mentions)"
        )
        linker = list(linkers.values())[-1]
        publication.add_card(linker, results, output / "learning_curve.png" if curves else None)
        print(f"\nThe linker is in {linker}. Try it:\n  {command_to_try(linker, corpus['test'])}\n")
        outcome = publication.publish(linker, rounds)
        print(last_line(results, linker, begin, outcome.to_dict()), flush=True)
        if outcome.failures:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
