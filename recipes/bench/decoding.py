"""How fast the constrained search is, beside transformers' `generate` with and without the constraint.

    python recipes/bench/decoding.py --quick                                  # under a minute, nothing else needed
    python recipes/bench/decoding.py --linker DIR --kb FILE --mentions DIR --bart_tokenizer DIR --output FILE

Two models: a trained one (`--linker`; without it, a small one is trained on the quickstart's synthetic data first) and
one with random weights. All sides run in turn in one process on the same mentions with the same beams (batch 1 with no
cache, on a few of them); memory is measured in a process of its own for each side. The last line is one JSON object.
"""

import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from measure import in_turn, index_costs, names_of, peak_memory, ratio, spread, surroundings  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from tables import (  # noqa: E402
    CONSTRAINED,
    EARLY,
    EARLY_UNCONSTRAINED,
    ENCODER,
    NO_CACHE,
    OURS,
    UNCONSTRAINED,
    closing_tables,
    table,
)
from transformers import (  # noqa: E402
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizer,
    HfArgumentParser,
    PreTrainedModel,
)
from yardsticks import (  # noqa: E402
    Case,
    Generate,
    RowCounter,
    encode_only,
    nested_trie,
    row_seconds,
    where_time_goes,
)

from angel_trl.decoding import Candidates, score_names, search  # noqa: E402
from angel_trl.formatting import EncodedMention, MentionFormatter  # noqa: E402
from angel_trl.kb import KnowledgeBase  # noqa: E402
from angel_trl.linker import EntityLinker  # noqa: E402
from angel_trl.readers import read_corpus  # noqa: E402
from angel_trl.synthetic import synthetic_corpus  # noqa: E402
from angel_trl.targets import TargetNames  # noqa: E402

RECIPES = Path(__file__).resolve().parents[1]
SOURCE_TOKENS = 98
TRAINED, RANDOM = "trained", "random"


@dataclass
class BenchmarkArguments:
    """What is measured, and how often."""

    linker: str | None = field(
        default=None, metadata={"help": "Folder of an EntityLinker; default: a small one is trained first."}
    )
    kb: str | None = field(default=None, metadata={"help": "Knowledge base file; default: the linker's own."})
    mentions: str | None = field(
        default=None, metadata={"help": "PubTator file or folder, whose test split is linked; default: synthetic."}
    )
    bart_tokenizer: str | None = field(
        default=None, metadata={"help": "Folder of BART's vocab.json and merges.txt, for the random model."}
    )
    quick: bool = field(default=False, metadata={"help": "Small models and few mentions: under a minute."})
    device: str | None = field(default=None, metadata={"help": "cpu or cuda; default: the GPU if there is one."})
    num_beams: int = field(default=10, metadata={"help": "Beams of every search."})
    top_k: int = field(default=5, metadata={"help": "Names returned for a mention."})
    batch_size: int = field(default=32, metadata={"help": "Mentions searched together."})
    repeats: int | None = field(default=None, metadata={"help": "Times each side runs (default 5, quick 3)."})
    max_mentions: int | None = field(
        default=None, metadata={"help": "Mentions for the trained model, drawn at random (default 320, quick 64)."}
    )
    random_mentions: int = field(default=16, metadata={"help": "Mentions for the random model, of one prefix length."})
    nocache_mentions: int = field(default=8, metadata={"help": "Mentions for batch 1 without cache, evenly drawn."})
    train_passes: float = field(default=9.0, metadata={"help": "Passes over the names that train the small model."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads on CPU; default: all cores."})
    output: str | None = field(default=None, metadata={"help": "File for the JSON object."})
    memory_of: str | None = field(
        default=None, metadata={"help": f"Only measure the memory of {OURS!r} or {CONSTRAINED!r}, in this process."}
    )
    memory_case: str = field(default=TRAINED, metadata={"help": f"Its model: {TRAINED} or {RANDOM}."})

    def __post_init__(self) -> None:
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.repeats = self.repeats or (3 if self.quick else 5)
        self.max_mentions = self.max_mentions or (64 if self.quick else 320)


def train_small_linker(folder: Path, passes: float) -> Path:
    """Train the quickstart's tiny model for a quarter of a minute, with the quickstart's own code."""
    sys.path.insert(0, str(RECIPES))
    import angel

    given = {
        "config": angel.CONFIGS / "quickstart.yaml",
        "output_dir": folder,
        "pretrain_passes": passes,
        "pretrain_learning_rate": 4e-3,
        "positive_epochs": 2,
        "positive_names": 1,
        "positive_learning_rate": 4e-3,
        "kb_mentions_per_mention": 0,
        "disable_tqdm": True,
    }
    args, config = angel.parse_arguments([part for key, value in given.items() for part in (f"--{key}", str(value))])
    kb, corpus, _ = angel.load_data(args)
    corpus["dev"] = corpus["dev"].select(range(50))
    with redirect_stdout(sys.stderr):
        angel.train_positive(args, config, kb, corpus, folder / "positive")
    return folder / "positive"


def load_mentions(args: BenchmarkArguments) -> Dataset:
    """The mentions to link: the test split, in an order drawn once and for all."""
    corpus = read_corpus(args.mentions)[0] if args.mentions else synthetic_corpus(seed=0)[1]
    if "test" not in corpus:
        raise SystemExit(f"{args.mentions} has no test split, only {', '.join(corpus)}.")
    return corpus["test"].shuffle(seed=0)


def as_case(model: PreTrainedModel, targets: TargetNames, mentions: list[EncodedMention], alone: bool) -> Case:
    """A case; with `alone` its two sides share one model, for a process that runs only one of them."""
    return Case(model, model if alone else copy.deepcopy(model), targets.trie, mentions)


def trained_case(
    args: BenchmarkArguments, linker: EntityLinker, rows: Dataset, alone: bool = False, whole: bool = False
) -> Case:
    """The trained model with the names of its knowledge base and mentions of the test split, all if `whole`."""
    rows = rows if whole else rows.select(range(min(args.max_mentions, len(rows))))
    encoded = linker.targets.formatter.encode(rows)
    mentions = [mention for mention in encoded if mention is not None]
    return as_case(linker.model, linker.targets, mentions, alone or whole)


def random_case(args: BenchmarkArguments, linker: EntityLinker, rows: Dataset, alone: bool = False) -> Case:
    """A BART with random weights, the same names, and mentions whose prefixes all have the commonest length.

    Without BART's tokenizer names keep the tokens of the trained model, and sources are `SOURCE_TOKENS` random ids.
    """
    width, layers, vocabulary, heads = (128, 2, 8_000, 4) if args.quick else (512, 6, 50_265, 8)
    targets = linker.targets
    config = BartConfig(
        vocab_size=max(vocabulary, linker.model.config.vocab_size),
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        forced_eos_token_id=None,
    )
    if args.bart_tokenizer:
        folder = Path(args.bart_tokenizer)
        bart = BartTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        targets = TargetNames(linker.kb, MentionFormatter(bart, config, linker.targets.formatter.format))
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).to(args.device)
    encoded = [mention for mention in targets.formatter.encode(rows) if mention is not None]
    ((length, _),) = Counter(len(mention.prefix) for mention in encoded).most_common(1)
    mentions = [mention for mention in encoded if len(mention.prefix) == length][: args.random_mentions]
    if not args.bart_tokenizer:
        sources = np.random.default_rng(0).integers(5, linker.model.config.vocab_size, (len(mentions), SOURCE_TOKENS))
        mentions = [EncodedMention(tuple(ids), m.prefix) for ids, m in zip(sources.tolist(), mentions, strict=True)]
    return as_case(model, targets, mentions, alone)


def our_search(
    args: BenchmarkArguments, case: Case, rows: list[int] | None = None, num_beams: int | None = None
) -> Candidates:
    """The search under test, for some mentions (default: all)."""
    mentions = case.mentions if rows is None else [case.mentions[row] for row in rows]
    settings = {"num_beams": num_beams or args.num_beams, "top_k": args.top_k, "batch_size": args.batch_size}
    return search(case.model, case.trie, mentions, **settings)


def compare(
    args: BenchmarkArguments, case: Case, *, everything: bool
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time the sides in turn; returns seconds a mention, a number a repeat, and what each side last returned.

    Args:
        args: how to measure.
        case: the model and its mentions.
        everything: all sides; else only ours, constrained `generate` and the encoder. Unconstrained, a model with
            random weights says nothing: it goes on for as long as it may.

    `early_stopping` is off unless transformers is told otherwise: the search goes on while a better name may come.
    With it, `generate` is quicker and returns other lists.
    """
    settings = (case, args.num_beams, args.top_k, args.batch_size)
    sides: dict[str, Callable[[], Any]] = {
        OURS: partial(our_search, args, case),
        CONSTRAINED: Generate(*settings),
        EARLY: Generate(*settings, early_stopping=True),
    }
    few = np.linspace(0, len(case.mentions) - 1, min(args.nocache_mentions, len(case.mentions))).astype(int).tolist()
    if everything:
        sides[UNCONSTRAINED] = Generate(*settings, constrained=False)
        sides[EARLY_UNCONSTRAINED] = Generate(*settings, constrained=False, early_stopping=True)
        sides[NO_CACHE] = partial(Generate(*settings[:3], batch_size=1, use_cache=False), few)
    sides[ENCODER] = partial(encode_only, case, args.batch_size)
    # Once without looking at the clock, on a few mentions: threads start, kernels are chosen, memory is mapped.
    our_search(args, case, few)
    sides[CONSTRAINED](few)
    seconds, results = in_turn(sides, args.repeats, case.model.device)
    counts = {name: len(few) if name == NO_CACHE else len(case.mentions) for name in sides}
    return {name: [value / counts[name] for value in values] for name, values in seconds.items()}, results


def exactness(args: BenchmarkArguments, case: Case) -> dict[str, Any]:
    """Shares of lists that are provably exact by number of beams, and what it costs to widen until they are."""
    shares = {
        str(beams): float(our_search(args, case, num_beams=beams).exact.mean())
        for beams in sorted({5, args.num_beams, 20})
    }
    begin = time.perf_counter()
    found = search(case.model, case.trie, case.mentions, top_k=args.top_k, exact=True, max_beams=1000)
    seconds = time.perf_counter() - begin
    return {
        "mentions": len(case.mentions),
        "share": shares,
        "until_exact": {
            "share": float(found.exact.mean()),
            "ms_per_mention": 1e3 * seconds / len(case.mentions),
        },
    }


def least_possible(args: BenchmarkArguments, case: Case, encoder: list[float]) -> dict[str, float]:
    """What the tokens our search runs would cost at the speed of full batches, encoder included; ms a mention."""
    with RowCounter(case.model) as rows:
        our_search(args, case)
    decoder, head = row_seconds(case, args.batch_size, args.num_beams)
    count = len(case.mentions)
    floor = float(np.median(encoder)) + (rows.decoder * decoder + rows.head * head) / count
    return {
        "ms_per_mention": 1e3 * floor,
        "decoder_tokens_per_mention": rows.decoder / count,
        "head_rows_per_mention": rows.head / count,
        "decoder_us_per_token": 1e6 * decoder,
        "head_us_per_row": 1e6 * head,
    }


def agreement(case: Case, ours: Candidates, theirs: NDArray[np.int64]) -> dict[str, float]:
    """Shares of the mentions for which the two best names are the same, or ours or theirs is the likelier one.

    Either search may miss the likeliest name: ours says so (`exact`).
    """
    sequences = {name: tokens for tokens, name in names_of(case.nested)}
    scores = score_names(case.model, case.mentions, [[sequences[best]] if best >= 0 else [] for best in theirs[:, 0]])
    log_probs = np.array([float(score[0]) if len(score) else -np.inf for score in scores])
    other = ours.names[:, 0] != theirs[:, 0]
    return {
        "same": float(1 - other.mean()),
        "ours_likelier": float((other & (ours.log_probs[:, 0] >= log_probs)).mean()),
        "theirs_likelier": float((other & (ours.log_probs[:, 0] < log_probs)).mean()),
    }


def measure_memory(args: BenchmarkArguments, linker: EntityLinker, rows: Dataset) -> int:
    """Peak of one side above a process in which model, names and mentions are loaded and one mention was searched."""
    make = trained_case if args.memory_case == TRAINED else random_case
    case = make(args, linker, rows, alone=True)
    if args.memory_of == OURS:
        our_search(args, case, [0])
        return peak_memory(partial(our_search, args, case), case.model.device)
    stock = Generate(case, args.num_beams, args.top_k, args.batch_size)
    stock([0])
    return peak_memory(stock, case.model.device)


def memory_of_both(args: BenchmarkArguments, name: str) -> dict[str, int]:
    """Peak bytes of our search and of constrained `generate`, two processes side by side."""
    given = {key: value for key, value in asdict(args).items() if value is not None and key != "output"}
    given |= {"memory_case": name, "max_mentions": min(args.max_mentions, 3 * args.batch_size)}
    options = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, __file__, *options, "--memory_of"]
    running = {side: subprocess.Popen([*command, side], stdout=subprocess.PIPE) for side in (OURS, CONSTRAINED)}
    outputs = {side: process.communicate()[0] for side, process in running.items()}
    for side, process in running.items():
        if process.returncode:
            raise SystemExit(f"Measuring the memory of {side} ended with status {process.returncode}; see above.")
    return {side: int(output.splitlines()[-1]) for side, output in outputs.items()}


def run(args: BenchmarkArguments, linker: EntityLinker, rows: Dataset) -> dict[str, Any]:
    """Measure everything and print it as tables; returns what the last line holds."""
    report: dict[str, Any] = surroundings(torch.device(args.device))
    cases = {TRAINED: trained_case(args, linker, rows), RANDOM: random_case(args, linker, rows)}
    seconds, results = {}, {}
    for name, case in cases.items():
        seconds[name], results[name] = compare(args, case, everything=name == TRAINED)
        floor = least_possible(args, case, seconds[name][ENCODER])
        report[name] = {
            "parameters": case.model.num_parameters(),
            "vocabulary": case.model.config.vocab_size,
            "names": case.trie.num_names,
            "nodes": case.trie.num_nodes,
            "mentions": len(case.mentions),
            "source_tokens": float(np.mean([len(mention.source) for mention in case.mentions])),
            "ms_per_mention": {side: spread(values, 1e3) for side, values in seconds[name].items()},
            "floor": floor,
            "times_floor": 1e3 * float(np.median(seconds[name][OURS])) / floor["ms_per_mention"],
            "where_ms": {
                part: 1e3 * value / len(case.mentions)
                for part, value in where_time_goes(partial(our_search, args, case)).items()
            },
            "best_name": agreement(case, results[name][OURS], results[name][CONSTRAINED]),
        }
        print(table(name, report[name], seconds[name]), flush=True)
    trained = cases[TRAINED]
    report["exact"] = exactness(args, trained if args.quick else trained_case(args, linker, rows, whole=True))
    report["index"] = index_costs(trained.trie.to("cpu"), partial(nested_trie, trained.trie.to("cpu")))
    report["peak_memory"] = {name: memory_of_both(args, name) for name in cases}
    ratios = {
        key: ratio(seconds[name][side], seconds[name][OURS])
        for key, name, side in (
            ("speedup_vs_generate_constrained", TRAINED, CONSTRAINED),
            ("speedup_vs_generate_constrained_early_stopping", TRAINED, EARLY),
            ("speedup_vs_generate_unconstrained", TRAINED, UNCONSTRAINED),
            ("speedup_vs_generate_unconstrained_early_stopping", TRAINED, EARLY_UNCONSTRAINED),
            ("speedup_vs_batch1_nocache", TRAINED, NO_CACHE),
            ("random_speedup_vs_generate_constrained", RANDOM, CONSTRAINED),
            ("random_speedup_vs_generate_constrained_early_stopping", RANDOM, EARLY),
        )
    }
    peaks = {name: peak[OURS] / peak[CONSTRAINED] for name, peak in report["peak_memory"].items()}
    headline = {key: value["median"] for key, value in ratios.items()} | {
        "peak_memory_ratio": peaks[TRAINED],
        "random_peak_memory_ratio": peaks[RANDOM],
        "trie_bytes_per_node": report["index"]["ours"]["bytes_per_node"],
        "trie_bytes_per_name": report["index"]["ours"]["bytes_per_name"],
    }
    return headline | {"spread": ratios} | report


def main() -> None:
    """Parse the command line, get a model, measure, print."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    (args,) = HfArgumentParser(BenchmarkArguments, allow_abbrev=False).parse_args_into_dataclasses()
    if args.device == "cpu":
        torch.set_num_threads(args.cpu_threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        settings = asdict(args)
        if args.linker is None:
            args.linker = str(train_small_linker(Path(folder), args.train_passes))
        kb = KnowledgeBase.from_file(args.kb) if args.kb else None
        linker = EntityLinker.from_pretrained(args.linker, kb=kb, device=args.device)
        rows = load_mentions(args)
        if args.memory_of is not None:
            print(measure_memory(args, linker, rows))
            return
        report = run(args, linker, rows) | {"settings": settings}
    print(closing_tables(report))
    line = json.dumps(report)
    if args.output is not None:
        Path(args.output).write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
