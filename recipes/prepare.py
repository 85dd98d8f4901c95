"""Make a mention dataset and a knowledge base dataset of a corpus and a terminology: checked, saved, published.

    python recipes/prepare.py --corpus DIR --kb FILE --output_dir prepared
    python recipes/prepare.py --kb hp.obo --output_dir prepared --push_to_hub --hub_kb_id user/hp --kb_license mit
    accelerate launch recipes/angel.py --config recipes/configs/ncbi.yaml --corpus prepared/mentions --kb prepared/kb

Either of corpus and knowledge base may be left out. Written to `output_dir`:

    mentions/README.md                                the card
    mentions/data/train-00000-of-00001.parquet, ...   a split's rows; also dev and test, where the corpus has them
    kb/README.md, kb/kb.parquet                       the card; the concepts
    report.json                                       every count: read, repaired, left out, labels in the KB or not

The splits are called train, dev and test by `load_dataset` and `read_corpus` alike. Every label is looked up in the
knowledge base, and counted as a primary, alternate or unknown id; nothing is left out that is not counted. The same
input gives the same bytes. Every setting can be given on the command line or in a YAML file (`--config`). The last
line printed is one JSON object.
"""

import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from own_folder import REPORT, OwnFolder
from rich.console import Console
from rich.table import Table
from rich.text import Text
from trl import TrlParser

from angel_trl import KnowledgeBase, read_corpus, read_knowledge_base, validate_mentions
from angel_trl.abbreviations import expand
from angel_trl.card_parts import escape
from angel_trl.cards import COUNTS, STATISTICS, mention_dataset_card
from angel_trl.hub import PublishError, check_publishable, publish_folder
from angel_trl.mention_counts import MAX_EXAMPLES, MentionCounts, count_mentions, known

logger = logging.getLogger("recipes.prepare")

MADE_BY = "angel_trl recipes/prepare.py"
BYTES_PER_FILE = 500_000_000
"""Of a split in memory; as `datasets` cuts what it pushes."""


@dataclass
class PrepareArguments:
    """What to read, what to do to it, and where it goes."""

    output_dir: str = field(metadata={"help": "Folder to write; only one that this recipe wrote is written again."})
    corpus: list[str] | None = field(
        default=None,
        metadata={
            "help": "Corpus in any format of read_corpus: a path, a URL or a Hub dataset id; or several files, whose "
            "names tell train, dev and test."
        },
    )
    kb: str | None = field(
        default=None,
        metadata={"help": "Terminology in any format of read_knowledge_base: a path, a URL or a Hub dataset id."},
    )
    fold: int | None = field(default=None, metadata={"help": "Which fold of AskAPatient."})
    level: Literal["general", "specific"] = field(default="general", metadata={"help": "Which id of COMETA."})
    normalization: str | None = field(
        default=None, metadata={"help": "Rule for names: genbioel (the default), lower or none."}
    )
    homonyms: str | None = field(
        default=None, metadata={"help": "Names of several concepts: keep (the default), disambiguate or drop."}
    )
    abbreviations: Literal["keep", "ab3p"] = field(
        default="keep", metadata={"help": "ab3p writes out in mentions the abbreviations that their texts define."}
    )
    unknown: Literal["keep", "drop"] = field(
        default="keep",
        metadata={"help": "Mentions of whose label the knowledge base has nothing: drop leaves them out, counted."},
    )
    language: str | None = field(default=None, metadata={"help": "Of the texts and names, such as en, for the cards."})
    license: str | None = field(
        default=None,
        metadata={"help": "Of the corpus: an id of the Hub's list, or a name and a URL. Not stated if left out."},
    )
    kb_license: str | None = field(default=None, metadata={"help": "Of the terminology, likewise."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish what has a Hub id, below."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "user/name of the mention dataset."})
    hub_kb_id: str | None = field(default=None, metadata={"help": "user/name of the knowledge base."})
    hub_private: bool | None = field(
        default=None, metadata={"help": "Whether new repositories are private; default: as your account says."}
    )
    record: str | None = field(
        default=None,
        metadata={"help": "JSON file to add the counts to, without text or paths, under the name of output_dir."},
    )


def parse_arguments(argv: list[str]) -> PrepareArguments:
    """Read the YAML file and the command line, which wins."""
    try:
        parser = TrlParser((PrepareArguments,), allow_abbrev=False, description=str(__doc__).partition("\n")[0])
        (args,) = parser.parse_args_and_config(argv)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    if isinstance(args.corpus, str):  # from a YAML file
        args.corpus = [args.corpus]
    if args.corpus is None and args.kb is None:
        raise SystemExit("Give --corpus, --kb or both: there is nothing to prepare.")
    for given, of, source in (("hub_dataset_id", "corpus", args.corpus), ("hub_kb_id", "kb", args.kb)):
        if getattr(args, given) and source is None:
            raise SystemExit(f"--{given} is given, but no --{of} to publish there.")
    for repo_id in filter(None, (args.hub_dataset_id, args.hub_kb_id)):
        if repo_id.count("/") != 1:
            raise SystemExit(f"{repo_id!r} is no id of a dataset on the Hub: give user/name, which its card will say.")
    if args.push_to_hub and not (args.hub_dataset_id or args.hub_kb_id):
        raise SystemExit("--push_to_hub needs to know where to: give --hub_dataset_id, --hub_kb_id or both.")
    if args.unknown == "drop" and (args.kb is None or args.corpus is None):
        raise SystemExit(
            "--unknown drop needs both --corpus and --kb: which labels are unknown depends on the latter."
        )
    return args


def command_line(args: PrepareArguments) -> str:
    """The command that does this, with every setting that is not the default, wherever it was given."""
    words = ["python", "recipes/prepare.py"]
    for setting in fields(args):
        value = getattr(args, setting.name)
        if value != setting.default:
            values = value if isinstance(value, list) else [value]
            words += [f"--{setting.name}", *(_public(v) if isinstance(v, str) else str(v).lower() for v in values)]
    # The shell writes ~ out again, as long as it is not quoted.
    return " ".join("~/" + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word) for word in words)


def name_of(source: str) -> str:
    """What to call a source in a card: a file or folder by its name, a URL or Hub id as it is."""
    path = Path(source)
    return path.resolve().name if path.exists() else _public(source)


def _public(value: str) -> str:
    """Leave out what is nobody else's business: the name of the home folder, passwords and tokens in a URL."""
    home = f"{Path.home()}/"
    if value.startswith(home) and home != "//":
        return f"~/{value.removeprefix(home)}"
    if value.startswith(("https://", "http://")):
        url = urlsplit(value)
        query = "..." if url.query else ""
        return url._replace(netloc=url.netloc.rpartition("@")[2], query=query, fragment="").geturl()
    return value


def read_kb(args: PrepareArguments) -> KnowledgeBase:
    """The knowledge base under the rules asked for, with the account of what was read."""
    kb = read_knowledge_base(args.kb, args.normalization)
    if args.homonyms in (None, kb.homonym_policy):
        return kb
    settled = kb.with_homonyms(args.homonyms)
    settled.read_report = kb.read_report
    return settled


def write_out_abbreviations(splits: DatasetDict) -> dict[str, int]:
    """Replace the mentions by those with abbreviations written out; the number changed, by split."""
    changed = {}
    for split, dataset in splits.items():
        rows = expand(dataset)
        changed[split] = sum(new["mention"] != old for new, old in zip(rows, dataset["mention"], strict=True))
        splits[split] = Dataset.from_list(rows, features=dataset.features)
    return changed


def leave_out_unknown(splits: DatasetDict, kb: KnowledgeBase) -> dict[str, dict[str, Any]]:
    """Leave out the mentions of whose label the knowledge base has nothing; how many and which, by split."""
    left_out = {}
    for split, dataset in splits.items():
        unknown = [known(kb, concept_ids) == "none" for concept_ids in dataset["concept_ids"]]
        rows = [row for row, is_unknown in enumerate(unknown) if is_unknown]
        examples = [
            f"{row['id']} {row['mention']!r}: {row['concept_ids']}" for row in dataset.select(rows[:MAX_EXAMPLES])
        ]
        left_out[split] = {"mentions": len(rows), "examples": examples}
        if len(rows) == len(dataset):
            raise SystemExit(f"--unknown drop leaves nothing of the split {split}: no label is in {kb.source}.")
        splits[split] = dataset.select([row for row, is_unknown in enumerate(unknown) if not is_unknown])
    return left_out


def check_labels(counts: Mapping[str, MentionCounts], kb: KnowledgeBase) -> None:
    """Stop where no label at all is in the knowledge base, which is then another one's; warn of unknown labels."""
    labels, unknown = (
        sum(of_split.counts[key] for of_split in counts.values()) for key in ("labels", "labels_unknown")
    )
    examples = [place for of_split in counts.values() for place in of_split.examples["labels_unknown"]]
    if labels and labels == unknown:
        raise SystemExit(
            f"None of the {labels} labels of the corpus is in the knowledge base {kb.source}, whose ids are like "
            f"{kb.concepts[0].id!r}; the first: {examples[0]}. Give the knowledge base that the corpus was labelled "
            "with, or prepare the two apart."
        )
    if unknown:
        logger.warning("%d of %d labels are not in the knowledge base (first: %s)", unknown, labels, examples[0])


def write_mentions(splits: DatasetDict, folder: Path) -> dict[str, list[str]]:
    """Write each split to `data/`, named as the Hub's own datasets are; the paths by split."""
    (folder / "data").mkdir(parents=True)
    paths: dict[str, list[str]] = {}
    for split, dataset in splits.items():
        count = min(len(dataset), math.ceil(dataset.data.nbytes / BYTES_PER_FILE))
        for index in range(count):
            paths.setdefault(split, []).append(f"data/{split}-{index:05d}-of-{count:05d}.parquet")
            dataset.shard(count, index, contiguous=True).to_parquet(folder / paths[split][-1])
    return paths


def print_tables(kb: KnowledgeBase | None, counts: Mapping[str, MentionCounts]) -> None:
    """Print what the cards say too."""
    console = Console()
    for title, columns, rows in (
        (
            "Knowledge base",
            ["count"],
            [(said, [kb.statistics()[key]]) for key, said in STATISTICS.items()] if kb else [],
        ),
        (
            "Mentions",
            list(counts),
            [
                (said, [of_split.counts[key] for of_split in counts.values()])
                for key, said in COUNTS.items()
                if counts and all(key in of_split.counts for of_split in counts.values())
            ],
        ),
    ):
        if rows:
            table = Table("", title=title, title_justify="left")
            for column in columns:
                table.add_column(column, justify="right")
            for said, values in rows:
                table.add_row(Text(said), *(f"{value:,}" for value in values))
            console.print(table)


def without_text(report: Any) -> Any:
    """The counts of a report: no examples, which quote the sources, and nothing of this machine."""
    left_out = {"examples", "fixes", "files", "command", "made_by"}
    if isinstance(report, dict):
        return {key: without_text(value) for key, value in report.items() if key not in left_out}
    return report


def record(report: dict[str, Any], path: Path, name: str) -> None:
    """Add the counts of a run to a JSON file, in the order of names."""
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs[name] = without_text(report)
    path.write_text(json.dumps(dict(sorted(runs.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prepare(args: PrepareArguments, folder: Path) -> dict[str, Any]:
    """Read, check, count and write into a new folder; returns the report."""
    command = command_line(args)
    report: dict[str, Any] = {"command": command}
    kb, counts = None, {}
    if args.kb is not None:
        kb = read_kb(args)
        source = kb.source or name_of(args.kb)
        report["kb"] = {"source": source, "normalization": kb.normalization, "homonyms": kb.homonym_policy}
        report["kb"] |= {"fingerprint": kb.fingerprint, "statistics": kb.statistics()}
        report["kb"]["read"] = kb.read_report and kb.read_report.to_dict()
        card = {"license": args.kb_license, "source": source, "command": command, "language": args.language}
        kb.save_pretrained(folder / "kb", repo_id=args.hub_kb_id, **card)
    if args.corpus is not None:
        sources = args.corpus if len(args.corpus) > 1 else args.corpus[0]
        splits, read = read_corpus(sources, fold=args.fold, level=args.level)
        logger.log(logging.WARNING if read.skipped else logging.INFO, "%s: %s", sources, read.summary())
        source = ", ".join(map(name_of, args.corpus))
        about = report["corpus"] = {"source": source, "read": read.to_dict()}
        notes = []
        if args.abbreviations == "ab3p":
            about["abbreviations_written_out"] = changed = write_out_abbreviations(splits)
            notes.append(
                "Abbreviations that their documents define were written out in mentions by Ab3P (mentions changed: "
                f"{sum(changed.values()):,}). `text` and `end` changed with them; `id` has the offsets of the source."
            )
        counts = {split: count_mentions(dataset, kb) for split, dataset in splits.items()}
        if kb is not None:
            check_labels(counts, kb)
        if args.unknown == "drop":
            about["left_out"] = left_out = leave_out_unknown(splits, kb)
            counts = {split: count_mentions(dataset, kb) for split, dataset in splits.items()}
            examples = [escape(place) for of_split in left_out.values() for place in of_split["examples"]]
            notes.append(
                "Mentions of whose label the knowledge base has nothing were left out: "
                f"{sum(of_split['mentions'] for of_split in left_out.values()):,}. "
                f"For instance: {'; '.join(examples[:MAX_EXAMPLES]) or 'none'}."
            )
        about["splits"] = {split: {**of.counts, "examples": of.examples} for split, of in counts.items()}
        for dataset in splits.values():
            validate_mentions(dataset)
        mention_dataset_card(
            splits,
            kb=kb,
            kb_id=args.hub_kb_id,
            files=write_mentions(splits, folder / "mentions"),
            counts=counts,
            report=read.to_dict(),
            notes=notes,
            license=args.license,
            source=source,
            command=command,
            repo_id=args.hub_dataset_id,
            language=args.language,
        ).save(folder / "mentions" / "README.md")
    print_tables(kb, counts)
    return report


def publish(repositories: list[tuple[Path, str]], private: bool | None) -> list[str]:
    """Publish folders; what was done, in a line each. Nothing on the Hub is deleted."""
    for folder, repo_id in repositories:
        mixed = [name for name in files_on_hub(repo_id) if name.endswith(".parquet") and not (folder / name).exists()]
        if mixed:
            raise SystemExit(
                f"Nothing was published: the dataset {repo_id} holds {', '.join(mixed[:3])}, which would be read "
                f"together with the files in {folder}. Delete them there, or choose another name."
            )
    published = []
    for folder, repo_id in repositories:
        done = publish_folder(folder, repo_id, repo_type="dataset", private=private)
        print(done)
        published.append(str(done))
    return published


def files_on_hub(repo_id: str) -> list[str]:
    """The files of a dataset on the Hub; none if there is no such dataset yet."""
    try:
        return HfApi().list_repo_files(repo_id, repo_type="dataset")
    except RepositoryNotFoundError:
        return []


def main() -> None:
    """Prepare, record and publish."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    args = parse_arguments(sys.argv[1:])
    output = Path(args.output_dir)
    repositories = [(output / "kb", args.hub_kb_id), (output / "mentions", args.hub_dataset_id)]
    repositories = [(folder, repo_id) for folder, repo_id in repositories if repo_id and args.push_to_hub]
    try:
        for _, repo_id in repositories:
            check_publishable(repo_id, repo_type="dataset")
        with OwnFolder(output, MADE_BY, ("mentions", "kb")) as folder:
            report = folder.finish(prepare(args, folder.partial))
        if args.record:
            record(report, Path(args.record), output.resolve().name)
        published = publish(repositories, args.hub_private)
    except (ValueError, OSError, ImportError, PublishError) as error:
        raise SystemExit(str(error)) from error
    print(last_line(report, output, published, begin), flush=True)


def last_line(report: dict[str, Any], output: Path, published: list[str], begin: float) -> str:
    """What a program reads: folders, sizes, labels that are not in the knowledge base, and the seconds taken."""
    line: dict[str, Any] = {"report": str(output / REPORT)}
    if "kb" in report:
        line |= {"kb": str(output / "kb"), **{key: report["kb"]["statistics"][key] for key in ("concepts", "names")}}
    if "corpus" in report:
        splits = report["corpus"]["splits"]
        line |= {"mentions": str(output / "mentions")}
        line["splits"] = {split: counts["mentions"] for split, counts in splits.items()}
        if "kb" in report:
            line["labels_unknown"] = sum(counts["labels_unknown"] for counts in splits.values())
    return json.dumps(line | {"published": published, "seconds": round(time.time() - begin, 1)})


if __name__ == "__main__":
    main()
