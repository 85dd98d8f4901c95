"""Cards of what goes to the Hub: the metadata it reads, and the text that people do.

Templates are in `templates/`; all that users and their files say is escaped before it gets there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angel_trl.card_parts import escape, fence, license_metadata, license_text, plain, read_account, table, versions
from angel_trl.kb import KnowledgeBase
from angel_trl.mention_counts import MentionCounts, count_mentions

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from huggingface_hub import DatasetCard

__all__ = ["COUNTS", "STATISTICS", "knowledge_base_card", "mention_dataset_card"]

_TEMPLATES = Path(__file__).parent / "templates"
_TAGS = ["angel_trl", "entity-linking"]
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

_CONCEPT_COLUMNS = (
    ("id", "string", "The primary id."),
    ("names", "list of strings", "Names as the source spells them, the preferred one first; at least one."),
    ("alternate_ids", "list of strings", "Other ids that mean this concept."),
    ("types", "list of strings", "Semantic types or groups, in the source's own codes."),
    ("definition", "string", "A sentence or two, or empty."),
)
_MENTION_COLUMNS = (
    ("id", "string", "Unique in the dataset: document id, start and end as in the source."),
    ("document_id", "string", "Unique to a document."),
    ("text", "string", "The whole document."),
    ("start", "int32", "Where the mention starts in `text`, in characters."),
    ("end", "int32", "Where it ends; exclusive."),
    ("mention", "string", "`text[start:end]`."),
    ("types", "list of strings", "The corpus's own type labels."),
    (
        "concept_ids",
        "list of lists of strings",
        "The gold ids: the parts of a composite mention (all are meant), and in each the alternatives (any is "
        "right). Empty for a mention without a concept.",
    ),
    ("split", "string", "`train`, `dev` or `test`."),
)
STATISTICS = {
    "concepts": "concepts",
    "names": "distinct names, once normalised",
    "names_read": "names of all concepts as the source has them",
    "duplicates_merged": "duplicates merged (equal to another name of the concept, once normalised)",
    "homonyms": "homonyms (names of several concepts)",
    "homonyms_disambiguated": "homonyms told apart by an addition",
    "homonyms_dropped": "homonyms left out",
    "names_lost": "names lost to normalisation (nothing is left of them)",
    "concepts_without_name": "concepts that lost all their names, and cannot be predicted",
    "alternate_ids": "alternate ids",
    "alternate_ids_shadowed": "alternate ids that are another concept's primary id, which wins",
}
COUNTS = {
    "documents": "documents",
    "mentions": "mentions",
    "composites": "composite mentions (several parts)",
    "without_concept": "mentions without a concept",
    "mentions_known": "mentions all of whose parts the knowledge base has",
    "mentions_partly_known": "composite mentions of which it has some parts",
    "mentions_unknown": "mentions of whose label it has nothing",
    "strings_known": "mentions spelled like a name, once normalised",
    "strings_right": "mentions spelled like a name of a concept they mean",
    "labels": "labels (ids)",
    "labels_primary": "labels that are primary ids",
    "labels_alternate": "labels that are alternate ids",
    "labels_of_several_concepts": "labels that are alternate ids of several concepts",
    "labels_unknown": "labels not in the knowledge base",
    "ids": "distinct ids",
    "ids_unknown": "distinct ids not in the knowledge base",
}


def knowledge_base_card(
    kb: KnowledgeBase,
    *,
    license: str | None = None,
    source: str | None = None,
    command: str | None = None,
    repo_id: str | None = None,
    language: str | None = None,
) -> DatasetCard:
    """Make the card of a Hub dataset that holds a knowledge base as `kb.parquet`.

    Args:
        kb: The knowledge base. What its reader skipped and repaired is told if it has a `read_report`.
        license: As given by the user; see `angel_trl.card_parts.license_metadata`. `None` is said to be not stated.
        source: Where it came from, for people; `None` means `kb.source`.
        command: The command line that made it.
        repo_id: Where it will be, for the lines that load it.
        language: ISO 639 code of its names, if known.
    """
    from datasets import Features, List, Value

    source = kb.source if source is None else source
    kinds = {"string": Value("string"), "list of strings": List(Value("string"))}
    location = json.dumps(repo_id or "path/to/kb")
    statistics = kb.statistics()
    return _card(
        "knowledge_base_card.md",
        _metadata(
            ["knowledge-base"],
            pretty_name=_title(repo_id, source, "Knowledge base"),
            files={"train": ["kb.parquet"]},
            sizes={"train": len(kb)},
            features=Features({name: kinds[kind] for name, kind, _ in _CONCEPT_COLUMNS}),
            license=license,
            language=language,
        ),
        title=escape(_title(repo_id, source, "Knowledge base")),
        concepts=f"{len(kb):,}",
        names=f"{kb.num_names:,}",
        location=location,
        columns=_columns(_CONCEPT_COLUMNS),
        counts=table(["", "count"], [[said, f"{statistics[key]:,}"] for key, said in STATISTICS.items()], [1]),
        normalization=kb.normalization,
        homonyms=kb.homonym_policy,
        fingerprint=kb.fingerprint,
        account=read_account(kb.read_report.to_dict() if kb.read_report else None),
        source=escape(source),
        license=license_text(license),
        command=command and fence(command, "bash"),
        versions=versions(),
    )


def mention_dataset_card(
    splits: Mapping[str, Dataset],
    *,
    kb: KnowledgeBase | None = None,
    kb_id: str | None = None,
    files: Mapping[str, Sequence[str]] | None = None,
    counts: Mapping[str, MentionCounts] | None = None,
    report: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    license: str | None = None,
    source: str = "",
    command: str | None = None,
    repo_id: str | None = None,
    language: str | None = None,
) -> DatasetCard:
    """Make the card of a Hub dataset of mentions in parquet.

    Args:
        splits: The mention datasets, by split.
        kb: The knowledge base that the labels are ids of: its share of the labels is counted.
        kb_id: Where that knowledge base is, as a Hub dataset.
        files: Paths of each split's files in the repository; `None` means `data/{split}-*`.
        counts: Of each split, from `count_mentions`; `None` counts here.
        report: What reading did: `ReadReport.to_dict()`.
        notes: Sentences about what was done to the mentions, in Markdown.
        license: As given by the user; see `angel_trl.card_parts.license_metadata`. `None` is said to be not stated.
        source: Where they came from, for people.
        command: The command line that made them.
        repo_id: Where they will be, for the lines that load them.
        language: ISO 639 code of the texts, if known.
    """
    if counts is None:
        counts = {split: count_mentions(dataset, kb) for split, dataset in splits.items()}
    keys = [key for key in COUNTS if all(key in of_split.counts for of_split in counts.values())]
    rows = [[COUNTS[key], *(f"{counts[split].counts[key]:,}" for split in splits)] for key in keys]
    location = json.dumps(repo_id or "path/to/mentions")
    return _card(
        "mention_dataset_card.md",
        _metadata(
            [],
            pretty_name=_title(repo_id, source, "Mentions"),
            files=files or {split: f"data/{split}-*" for split in splits},
            sizes={split: len(dataset) for split, dataset in splits.items()},
            features=next(iter(splits.values())).features,
            license=license,
            language=language,
        ),
        title=escape(_title(repo_id, source, "Mentions")),
        mentions=f"{sum(map(len, splits.values())):,}",
        documents=f"{sum(of_split.counts['documents'] for of_split in counts.values()):,}",
        kb=f"[{escape(kb_id)}](https://huggingface.co/datasets/{kb_id})" if kb_id else escape(kb.source if kb else ""),
        location=location,
        split_names=", ".join(splits),
        columns=_columns(_MENTION_COLUMNS),
        counts=table(["", *splits], rows, range(1, 1 + len(splits))),
        examples=_unknown_labels(counts),
        notes=notes,
        account=read_account(report),
        source=escape(source),
        license=license_text(license),
        command=command and fence(command, "bash"),
        versions=versions(),
    )


def _card(template: str, metadata: Mapping[str, Any], **text: Any) -> DatasetCard:
    from huggingface_hub import DatasetCard, DatasetCardData

    path = str(_TEMPLATES / template)
    card = DatasetCard.from_template(DatasetCardData(**metadata), template_path=path, **text)
    card.text = card.text.rstrip() + "\n"
    return card


def _metadata(
    tags: Sequence[str],
    *,
    pretty_name: str,
    files: Mapping[str, str | Sequence[str]],
    sizes: Mapping[str, int],
    features: Features,
    license: str | None,
    language: str | None,
) -> dict[str, Any]:
    """What the Hub and `datasets` read of a card; see https://huggingface.co/docs/hub/datasets-cards."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    about = DatasetCardData()
    DatasetInfosDict({"default": DatasetInfo(features=features)}).to_dataset_card_data(about)
    total = sum(sizes.values())
    return {
        **({"language": language} if language else {}),
        **license_metadata(license),
        "pretty_name": pretty_name,
        "size_categories": next((said for limit, said in _SIZES if total < limit), "n>10M"),
        "tags": [*_TAGS, *tags],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": path if isinstance(path, str) else list(path)}
                    for split, path in files.items()
                ],
            }
        ],
        # No sizes of splits: `load_dataset` would refuse a repository that someone added to.
        "dataset_info": {"features": about["dataset_info"]["features"]},
    }


def _columns(columns: Sequence[tuple[str, str, str]]) -> str:
    return table(["column", "type", "meaning"], [[f"`{name}`", kind, meaning] for name, kind, meaning in columns])


def _title(repo_id: str | None, source: str, otherwise: str) -> str:
    """A name for people: of the repository, else of the source."""
    return plain(repo_id or source)[:120] or otherwise


def _unknown_labels(counts: Mapping[str, MentionCounts]) -> str:
    places = [place for of_split in counts.values() for place in of_split.examples.get("labels_unknown", [])]
    if not places:
        return ""
    return "Labels not in the knowledge base, for instance: " + "; ".join(escape(place) for place in places[:5]) + "."
