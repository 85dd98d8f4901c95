"""The card of a dataset of mined pairs: metadata that makes each round a configuration, and the text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from angel_trl.card_parts import escape, fence, license_metadata, license_text, redact, table, versions

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

__all__ = ["pairs_card"]

_TEMPLATE = Path(__file__).parent / "templates" / "pairs_card.md"
_COLUMNS = (
    ("prompt", "string", "The passage with the mention marked, as the model reads it, and the start of the answer."),
    ("chosen", "string", "The right name, normalised, after a space."),
    ("rejected", "string", "The wrong name, likewise."),
    ("mention_id", "string", "The mention, as in the corpus: document id, start and end."),
    ("mention_row", "int64", "Row of the mention among those trained on."),
    ("mention_place", "int32", "Place of the mention among those of the round."),
    ("round", "int32", "The round, counted from 0."),
    ("chosen_name", "int32", "Index of the right name in the knowledge base."),
    ("rejected_name", "int32", "Index of the wrong name."),
    ("chosen_rank", "int32", "Place of the right name among the candidates, from 0; -1 if it was not among them."),
    ("rejected_rank", "int32", "Place of the wrong name."),
    (
        "chosen_log_prob",
        "float32",
        "Natural log-probability of the right name with its end, by the reference model.",
    ),
    ("rejected_log_prob", "float32", "Log-probability of the wrong name."),
    ("chosen_concept_ids", "list of strings", "The concepts that bear the right name."),
    ("rejected_concept_ids", "list of strings", "The concepts that bear the wrong name."),
)
_KINDS = {"string": "string", "int32": "int32", "int64": "int64", "float32": "float32"}


def pairs_card(
    rounds: Mapping[str, Path],
    *,
    repo_id: str | None = None,
    model_id: str | None = None,
    settings: Mapping[str, Any] | None = None,
    license: str | None = None,
    kb_license: str | None = None,
    kb_id: str | None = None,
    datasets: Sequence[str] | str | None = None,
    corpus: str | None = None,
    language: str | None = None,
    command: str | None = None,
) -> DatasetCard:
    """Make the card of a Hub dataset of mined pairs, in which each round is a configuration with one split, `train`.

    A round without pairs has none, as `load_dataset` loads no empty split.

    Args:
        rounds: the file of each round as `PairMiningCallback` writes it, by the name of the configuration. In the
            dataset it is `data/{name}.parquet`.
        repo_id: where the dataset will be, "user/name".
        model_id: the linker on the Hub that was trained on the pairs.
        settings: the settings of mining, by name.
        license: of the corpus, whose passages are in the pairs; see `angel_trl.card_parts.license_metadata`.
        kb_license: of the knowledge base, whose names are in the pairs, likewise.
        kb_id: the Hub dataset that has the knowledge base.
        datasets: Hub datasets of the mentions.
        corpus: where the mentions came from, for people.
        language: ISO 639 code of texts and names.
        command: the command that made them.

    Raises:
        ValueError: if there are no pairs.
        OSError: if a file cannot be read.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    counts = {name: _count(path) for name, path in rounds.items()}
    names = [name for name, (pairs, *_) in counts.items() if pairs]
    if not names:
        raise ValueError(f"There are no pairs to make a card of in {len(rounds)} rounds.")
    mentions = [datasets] if isinstance(datasets, str) else list(datasets or ())
    sources = [_link(name, "datasets/") for name in mentions] or ([escape(corpus)] if corpus else [])
    location = repo_id or "path/to/pairs"
    metadata = {
        **({"language": language} if language else {}),
        **license_metadata(license),
        "pretty_name": location,
        "tags": ["angel_trl", "entity-linking", "preference", "dpo"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}.parquet"}]} for name in names
        ],
        # No sizes: `load_dataset` would refuse a repository that someone added to.
        "dataset_info": [{"config_name": name, "features": _features()} for name in names],
    }
    card = DatasetCard.from_template(
        DatasetCardData(**metadata),
        template_path=str(_TEMPLATE),
        title=escape(location),
        pairs=f"{sum(of[0] for of in counts.values()):,}",
        count=len(rounds),
        model=_link(model_id) if model_id else "",
        location=json.dumps(location),
        first=json.dumps(names[0]),
        settings=settings
        and table(["setting", "value"], [[f"`{key}`", f"`{value}`"] for key, value in settings.items()]),
        counts=table(
            ["configuration", "pairs", "mentions", "right name first", "further down", "not found", "margin"],
            [[f"`{name}`", *(f"{n:,}" for n in counts[name]), _margin(path)] for name, path in rounds.items()],
            range(1, 7),
        ),
        columns=table(["column", "type", "meaning"], [[f"`{name}`", kind, text] for name, kind, text in _COLUMNS]),
        corpus=", ".join(sources),
        license=license_text(license, " of the corpus"),
        kb=_link(kb_id, "datasets/") if kb_id else "",
        kb_license=license_text(kb_license, " of the knowledge base"),
        command=command and fence(redact(command), "bash"),
        versions=versions(),
    )
    card.text = card.text.rstrip() + "\n"
    return card


def _count(path: Path) -> list[int]:
    """Pairs in a file, their mentions, and pairs by where the right name was: first, further down, not found."""
    read = pq.read_table(path, columns=["mention_place", "chosen_rank"])
    place, rank = read["mention_place"].to_numpy(), read["chosen_rank"].to_numpy()
    return [len(place), len(np.unique(place)), *(int(np.sum(where)) for where in (rank == 0, rank > 0, rank < 0))]


def _margin(path: Path) -> str:
    """The mean over pairs of what the log-probability of the right name is above that of the wrong one."""
    read = pq.read_table(path, columns=["chosen_log_prob", "rejected_log_prob"])
    margins = read["chosen_log_prob"].to_numpy() - read["rejected_log_prob"].to_numpy()
    return f"{margins.mean():.2f}" if len(margins) else ""


def _link(repo_id: str, prefix: str = "") -> str:
    return f"[{escape(repo_id)}](https://huggingface.co/{prefix}{repo_id})"


def _features() -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": _KINDS[kind]} if kind in _KINDS else {"name": name, "list": "string"}
        for name, kind, _ in _COLUMNS
    ]
