"""What ANGEL is compared with: nearest names by TF-IDF, and by a bi-encoder trained on the same names and mentions.

    python recipes/baselines.py --corpus DIR --kb FILE --output_dir runs/baselines --seed 0

Each system answers with the five nearest names of the whole knowledge base; in a second row, of these and the training
mentions, which are then further names of their concepts; in a third, the names of the second, but where training
mentions bear one, only the concept that they mean most often by it. String lookup stands beside them.
The bi-encoder needs the extra `baselines` (sentence-transformers); `--model` is its encoder, from random weights or
pre-trained, and dev Acc@1 chooses the epoch kept. Results: `results.json`, `report.md`, `predictions.parquet` and
`mentions.parquet` (see `predictions.py`) in `output_dir`; each system has a folder below it, and `--resume` does not
make again what is there. One process only. The last line printed is one JSON object.
"""

import json
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from corpus_splits import TEST_SPLIT_HELP, TestSplit
from inputs import read_inputs
from name_index import NameIndex
from numpy.typing import NDArray
from precision import bf16_if_quick
from predictions import PREDICTIONS, Answers, keep, read_predictions, write_predictions
from reporting import Curve, Rows, look_up, scores_in_brief, write_report
from stages import parse_settings
from tqdm import tqdm
from whole_file import whole_file

from angel_trl import KnowledgeBase, score
from angel_trl.abbreviations import expand
from angel_trl.normalization import normalize

CONFIGS = Path(__file__).parent / "configs" / "baselines"
TOP_K = 5
WITH_MENTIONS, COMMONEST = " + training mentions", ", commonest concept"
logger = logging.getLogger("recipes.baselines")


@dataclass
class BaselineArguments:
    """Settings of the recipe."""

    output_dir: str = field(default="runs/baselines", metadata={"help": "Where everything is written."})
    system: Literal["both", "tfidf", "bi-encoder"] = field(default="both", metadata={"help": "Which to make."})
    corpus: str | None = field(
        default=None,
        metadata={"help": "Corpus in any format of read_corpus: a path, a URL or a Hub dataset; default: synthetic."},
    )
    kb: str | None = field(default=None, metadata={"help": "Knowledge base, likewise; default: the synthetic one."})
    fold: int | None = field(default=None, metadata={"help": "Which fold of AskAPatient."})
    level: Literal["general", "specific"] = field(default="general", metadata={"help": "Which id of COMETA."})
    test_split: TestSplit = field(default="test", metadata={"help": TEST_SPLIT_HELP})
    abbreviations: Literal["keep", "ab3p"] = field(
        default="keep", metadata={"help": "ab3p writes out in mentions the abbreviations that their texts define."}
    )
    model: str = field(
        default="scratch-small",
        metadata={"help": "Encoder: scratch-tiny, scratch-small (random weights), a folder or a Hub id."},
    )
    context_words: int = field(
        default=0, metadata={"help": "Words of the passage encoded with a mention, 0 for the mention alone."}
    )
    max_tokens: int = field(default=64, metadata={"help": "Longest text encoded, in tokens; longer ones are cut."})
    name_passes: float = field(default=1.0, metadata={"help": "Passes over the names before mentions are seen."})
    name_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate of these passes (for random weights)."}
    )
    epochs: int = field(default=8, metadata={"help": "Passes over the training mentions."})
    learning_rate: float = field(
        default=5e-4, metadata={"help": "Peak learning rate of these; 2e-5 for pre-trained weights."}
    )
    batch_size: int = field(default=128, metadata={"help": "Pairs in a batch; all its names are compared."})
    scale: float = field(default=20.0, metadata={"help": "Factor of the cosines in the loss, 1 / temperature."})
    nearest_names: int = field(default=1, metadata={"help": "Nearest gold names to learn for a mention."})
    kb_pairs_per_mention: float = field(
        default=1.0, metadata={"help": "Pairs of names mixed in for each pair of a mention and a name."}
    )
    kb_noise: float = field(default=0.3, metadata={"help": "Share of the names in these pairs to misspell."})
    bf16: bool = field(default=True, metadata={"help": "Train and encode under bfloat16 autocast."})
    bootstrap: int = field(default=1000, metadata={"help": "Resamples for the intervals of the test scores."})
    seed: int = field(default=0, metadata={"help": "Of the weights, pairs and order; TF-IDF has none."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads on CPU; default: all cores."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})
    resume: bool = field(default=False, metadata={"help": "Go on with the run in output_dir."})


class TfidfNames:
    """Names by the cosine of character n-gram TF-IDF.

    Args:
        names: the names. How rare an n-gram is, is told by 200,000 of them where there are more.
    """

    _MOST_COUNTED = 200_000

    def __init__(self, names: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # As in `angel_trl.targets.NearestNames`.
        self._vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), dtype=np.float32)
        few = len(names) <= self._MOST_COUNTED
        self._vectorizer.fit(names if few else random.Random(0).sample(list(names), self._MOST_COUNTED))
        self._vectors = self._vectorizer.transform(names)

    def nearest(
        self, mentions: Sequence[str], count: int, *, at_once: int = 20_000_000, quiet: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest names, exactly; names equally near stand in their own order.

        Args:
            mentions: normalised; equal ones are looked up once.
            count: how many names of each.
            at_once: most cosines kept in memory.
            quiet: without a progress bar.

        Returns:
            Name indices int64 `[mentions, count]`, nearest first, -1 where a name has no n-gram in common with the
            mention, and cosines float32 `[mentions, count]`; fewer columns where there are fewer names.
        """
        names = self._vectors.shape[0]
        count = min(count, names)
        distinct, place = np.unique(np.asarray(mentions, dtype=object), return_inverse=True)
        queries = self._vectorizer.transform(distinct)
        found = np.empty((len(distinct), count), dtype=np.int64)
        cosines = np.empty((len(distinct), count), dtype=np.float32)
        step = max(1, at_once // names)
        for start in tqdm(range(0, len(distinct), step), desc="TF-IDF", disable=quiet):
            # Every name has letters in common with every mention: a dense product is the faster one.
            products = np.ascontiguousarray((self._vectors @ queries[start : start + step].T.toarray()).T)
            for row, own in enumerate(products, start):
                least = np.partition(own, names - count)[names - count]
                near = np.flatnonzero(own >= least)
                found[row] = near[np.argsort(-own[near], kind="stable")[:count]]
                cosines[row] = own[found[row]]
        found[cosines <= 0] = -1
        return found[place], cosines[place]


def gold_references(kb: KnowledgeBase, mentions: Rows) -> list[list[list[str]]]:
    """Gold as metrics take it, ids replaced by their concepts' primary ids where known (`MentionSet.references`)."""

    def primary(concept_id: str) -> list[str]:
        return [kb.concepts[c].id for c in kb.resolve(concept_id)] or [concept_id]

    return [[[own for i in part for own in primary(i)] for part in row["concept_ids"]] for row in mentions]


def mention_counts(kb: KnowledgeBase, mentions: Rows) -> dict[str, int]:
    """How many mentions a split has, and how many of these no system can answer rightly, by reason."""
    unknown = sum(
        bool(row["concept_ids"]) and not any(kb.resolve(i) for part in row["concept_ids"] for i in part)
        for row in mentions
    )
    nil = sum(not row["concept_ids"] for row in mentions)
    return {"read": len(mentions), "no concept": nil, "concept not in the knowledge base": unknown}


def tfidf_answers(args: BaselineArguments, kb: KnowledgeBase, splits: dict[str, Rows]) -> dict[str, Answers]:
    """Both rows of TF-IDF."""
    mentions = [normalize(row["mention"], kb.normalization) or row["mention"].lower() for row in splits["test"]]
    answers = {}
    for name, index in (("TF-IDF", NameIndex(kb)), ("TF-IDF" + WITH_MENTIONS, NameIndex(kb, splits["train"]))):
        found = TfidfNames(index.names).nearest(mentions, TOP_K, quiet=args.disable_tqdm)
        answers[name] = index.answers(*found)
    return answers


def bi_encoder_answers(
    args: BaselineArguments, kb: KnowledgeBase, splits: dict[str, Rows], folder: Path
) -> tuple[dict[str, Answers], Curve]:
    """Train a bi-encoder in `folder`, or go on there. Both its rows, and its dev curve."""
    try:
        import bi_encoder
    except ModuleNotFoundError as error:
        if error.name != "sentence_transformers":
            raise
        raise SystemExit('The bi-encoder needs sentence-transformers: pip install "angel_trl[baselines]".') from error
    bf16 = bf16_if_quick(args.bf16, args.use_cpu or not torch.accelerator.is_available(), "--bf16")
    shared = {
        "batch_size": args.batch_size,
        "scale": args.scale,
        "seed": args.seed,
        "bf16": bf16,
        "use_cpu": args.use_cpu,
        "quiet": args.disable_tqdm,
    }
    texts = [*kb.names, *sorted({row["text"].lower() for row in splits["train"]})]
    model = bi_encoder.first_encoder(args.model, texts, folder / "start", args.seed, args.max_tokens)
    steps = 0
    if args.name_passes > 0:
        count = round(args.name_passes * kb.num_names)
        pairs = bi_encoder.kb_pairs(kb, count, seed=10 * args.seed + 1, noise=args.kb_noise)
        stage = bi_encoder.Training(epochs=1, learning_rate=args.name_learning_rate, **shared)
        model, _, steps = bi_encoder.train_stage(model, pairs, stage, folder / "names", args.resume)
    pairs = bi_encoder.mention_pairs(kb, splits["train"], args.context_words, args.nearest_names)
    more = round(args.kb_pairs_per_mention * len(pairs))
    if more:
        made = bi_encoder.kb_pairs(kb, more, seed=10 * args.seed + 2, noise=args.kb_noise)
        pairs = bi_encoder.joined(pairs, made)
    dev_texts = bi_encoder.queries(splits["dev"], args.context_words, kb.normalization)
    dev = bi_encoder.DevAccuracy(kb, splits["dev"], dev_texts, bf16)
    stage = bi_encoder.Training(epochs=args.epochs, learning_rate=args.learning_rate, **shared)
    model, curve, _ = bi_encoder.train_stage(model, pairs, stage, folder / "mentions", args.resume, dev)
    encode = bi_encoder.Encoder(model, bf16)
    texts = bi_encoder.queries(splits["test"], args.context_words, kb.normalization)
    index = NameIndex(kb, splits["train"])
    names, mentions = encode(index.names), encode(texts)
    answers = {
        "bi-encoder": NameIndex(kb).answers(*bi_encoder.nearest_vectors(names[: kb.num_names], mentions, TOP_K)),
        "bi-encoder" + WITH_MENTIONS: index.answers(*bi_encoder.nearest_vectors(names, mentions, TOP_K)),
    }
    return answers, [(steps + step, value) for step, value in curve]


def make(
    system: str, args: BaselineArguments, kb: KnowledgeBase, splits: dict[str, Rows], folder: Path
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """The answers of a system to the test mentions, and seconds and dev curve; as they are if they are in `folder`."""
    marker = folder / "done.json"
    ids = [row["id"] for row in splits["test"]]
    if args.resume and marker.exists():
        logger.info("%s is done: going on with what follows", folder)
        return read_predictions(folder / PREDICTIONS, ids), json.loads(marker.read_text(encoding="utf-8"))
    if folder.exists() and not args.resume:
        logger.warning("%s is from an earlier run and is replaced (--resume would go on with it)", folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begin, cpu = time.time(), time.process_time()
    curve: Curve = []
    if system == "tfidf":
        answers = tfidf_answers(args, kb, splits)
    else:
        answers, curve = bi_encoder_answers(args, kb, splits, folder)
    done = {
        "seconds": round(time.time() - begin, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "curve": curve,
    }
    write_predictions(folder, answers, ids)
    with whole_file(marker) as partial:
        partial.write_text(json.dumps(done), encoding="utf-8")
    return answers, done


def main() -> None:
    """Make the systems and report."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    (args,) = parse_settings((BaselineArguments,), sys.argv[1:], CONFIGS)
    on_cpu = args.use_cpu or not torch.accelerator.is_available()
    if PartialState(cpu=on_cpu).num_processes > 1:
        raise SystemExit("The baselines run in one process: python recipes/baselines.py ...")
    if on_cpu:
        torch.set_num_threads(args.cpu_threads or os.cpu_count() or 1)
    set_seed(args.seed)
    output = Path(args.output_dir)
    kb, corpus, data = read_inputs(args)
    data["test_split"] = args.test_split
    test = corpus["test"]
    references = gold_references(kb, test)
    splits: dict[str, Rows] = {
        name: expand(rows) if args.abbreviations == "ab3p" else list(rows) for name, rows in corpus.items()
    }
    answers = look_up(kb, splits["test"], splits["train"])
    logger.info("a run that is interrupted goes on when the same command is given with --resume")
    curves, seconds = {}, {}
    for system in ("tfidf", "bi-encoder") if args.system == "both" else (args.system,):
        try:
            own, done = make(system, args, kb, splits, output / system)
        except KeyboardInterrupt:
            raise SystemExit(f"Interrupted. Run the same command with --resume to go on in {output}.") from None
        answers |= own
        seconds |= dict.fromkeys(own, {key: done[key] for key in ("seconds", "cpu_seconds")})
        if done["curve"]:
            curves[system] = done["curve"]
    index = NameIndex(kb, splits["train"])
    for name in [name for name in answers if name.endswith(WITH_MENTIONS)]:
        answers[name + COMMONEST] = index.commonest(answers[name])
        if name in seconds:
            seconds[name + COMMONEST] = seconds[name]
    rows = {
        name: score(own.ids, references, ks=(1, TOP_K), groups=list(test["document_id"]), bootstrap=args.bootstrap)
        for name, own in answers.items()
    }
    keep(output, answers, test, corpus["train"], kb, references)
    counts = {split: mention_counts(kb, list(mentions)) for split, mentions in corpus.items()}
    results = {"settings": {"recipe": vars(args)}, "data": data, "test": rows, "counts": counts, "dev": curves}
    results |= {"within_types": False, "seconds": seconds}
    name = "the synthetic quickstart" if args.corpus is None else Path(args.corpus).name
    write_report(output, results, curves, f"Baselines on {name}, {args.test_split} split ({len(test)} mentions)")
    line: dict[str, Any] = {system: scores_in_brief(row) for system, row in rows.items()}
    print(json.dumps(line | {"seconds": round(time.time() - begin, 1)}), flush=True)


if __name__ == "__main__":
    main()
