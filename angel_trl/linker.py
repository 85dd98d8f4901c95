"""EntityLinker: a model, its tokenizer, its knowledge base and their trie, in one folder or Hub repository."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from angel_trl import __version__
from angel_trl.architectures import load_model, prepare
from angel_trl.decoding import Candidates, search
from angel_trl.formatting import MentionFormat, MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linked import Candidate, Linked, parse_brackets
from angel_trl.restrictions import Restriction
from angel_trl.targets import TargetNames
from angel_trl.trie import NameTrie

logger = logging.getLogger(__name__)

_FORMAT = "angel_trl.linker/1"
_SETTINGS, _KB, _TRIE = "angel.json", "kb.parquet", "trie.safetensors"


class EntityLinker:
    """Names the concept of a mention in a passage.

    Args:
        model: an encoder-decoder or decoder-only model trained for linking.
        tokenizer: its tokenizer.
        kb: the knowledge base.
        mention_format: choices of the input format it was trained with.
        trie: the trie of the names if it was saved; built otherwise.

    Raises:
        ValueError: for an architecture that the search does not support.

    Example:
        >>> linker = EntityLinker.from_pretrained("path/or/hub-id")  # doctest: +SKIP
        >>> linker.link("Famotidine-associated [delirium].")[0].id  # doctest: +SKIP
        'D003693'
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kb: KnowledgeBase,
        mention_format: MentionFormat | None = None,
        trie: NameTrie | None = None,
    ) -> None:
        prepare(model)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.targets = TargetNames(kb, MentionFormatter(tokenizer, model.config, mention_format), trie)

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base."""
        return self.targets.kb

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        revision: str | None = None,
        kb: KnowledgeBase | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> EntityLinker:
        """Load a linker from a folder written by `save_pretrained` or from the Hub.

        Args:
            id_or_path: the folder, or a Hub repository id.
            revision: branch, tag or commit of a Hub repository.
            kb: a knowledge base to link to in place of the saved one; needed for a plain model without one.
            device: where to put the model; a GPU if there is one.
            dtype: of the weights.

        Raises:
            ValueError: if the folder is not a linker and no `kb` is given, or its parts do not belong together.
        """
        folder = Path(id_or_path)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    str(id_or_path),
                    revision=revision,
                    allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors", "*.parquet"],
                )
            )
        settings = _read_settings(folder / _SETTINGS)
        trie = None
        if kb is None:
            if not (folder / _KB).exists():
                raise ValueError(
                    f"{id_or_path} has no {_KB}: it is a model without a knowledge base. Give one: "
                    "EntityLinker.from_pretrained(..., kb=KnowledgeBase.from_file(...))."
                )
            kb = KnowledgeBase.from_parquet(folder / _KB)
            if not settings:
                raise ValueError(
                    f"{id_or_path} has no {_SETTINGS}: it was not saved to the end. Save or download it again."
                )
            if kb.fingerprint != settings["kb_fingerprint"]:
                raise ValueError(
                    f"{folder / _KB} is not the knowledge base that {_SETTINGS} names. Download it again."
                )
            trie = _load_trie(folder / _TRIE)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = load_model(str(folder), dtype=dtype, use_safetensors=True)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        mention_format = MentionFormat(**settings.get("mention_format", {}))
        return cls(model, tokenizer, kb, mention_format, trie)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), tokenizer, knowledge base (parquet), trie (safetensors) and `angel.json`.

        Raises:
            ValueError: for a model with adapters, whose folder could not be loaded again.
        """
        if not isinstance(self.model, PreTrainedModel):
            raise ValueError(
                f"The model is a {type(self.model).__name__}, of which only the adapters would be saved. Merge them "
                "first: EntityLinker(model.merge_and_unload(), tokenizer, kb)."
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SETTINGS).unlink(missing_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.kb.to_parquet(folder / _KB)
        self.targets.trie.save(folder / _TRIE)
        settings = {
            "format": _FORMAT,
            "angel_trl_version": __version__,
            "kb_fingerprint": self.kb.fingerprint,
            "mention_format": dataclasses.asdict(self.targets.formatter.format),
        }
        # Written last: a folder with angel.json is complete.
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def restrict(
        self,
        *,
        names: Iterable[str] | None = None,
        ids: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
    ) -> Restriction:
        """A restriction of `link` and `link_batch` to some of the names; see `Restrictor.restrict`.

        Example:
            >>> linker.link("[WD] in a child.", restriction=linker.restrict(types=["Disease"]))  # doctest: +SKIP
        """
        return self.targets.restrict(names=names, ids=ids, types=types)

    def extended(self, concepts: Iterable[Concept]) -> EntityLinker:
        """A linker with the same model whose knowledge base also holds `concepts`.

        A concept whose id the knowledge base has adds its names to that concept. Only the new names are tokenised,
        and the trie takes them in without being built again.

        Raises:
            ValueError: for a concept without id or names.
        """
        extended = copy.copy(self)
        extended.targets = self.targets.extended(self.kb.extended(concepts))
        return extended

    def link(
        self,
        text: str,
        *,
        num_beams: int = 10,
        top_k: int = 5,
        restriction: Restriction | None = None,
        ranking: str = "sum",
        until_exact: bool = False,
        max_beams: int = 1000,
    ) -> list[Linked]:
        """Link every `[bracketed]` mention of `text`, in order.

        Args:
            text: a passage with one or more mentions in square brackets.
            num_beams: beams of the search.
            top_k: candidates of a mention.
            restriction: the names that may be given, from `restrict`.
            ranking: "sum" ranks by log-probability, "mean" by log-probability a token.
            until_exact: widen the search until the candidates are provably the likeliest names, or it is `max_beams`
                wide; `Linked.exact` says which.
            max_beams: the widest beam then.

        Raises:
            ValueError: if no mention is marked or a bracket has no partner.
        """
        plain, spans = parse_brackets(text)
        mentions = [{"text": plain, "start": start, "end": end} for start, end in spans]
        return self.link_batch(
            mentions,
            num_beams=num_beams,
            top_k=top_k,
            restrictions=restriction,
            ranking=ranking,
            until_exact=until_exact,
            max_beams=max_beams,
        )

    def link_batch(
        self,
        mentions: Iterable[Mapping[str, Any]],
        *,
        num_beams: int = 10,
        top_k: int = 5,
        batch_size: int = 32,
        restrictions: Restriction | Sequence[Restriction | None] | None = None,
        ranking: str = "sum",
        until_exact: bool = False,
        max_beams: int = 1000,
        progress: bool = False,
    ) -> list[Linked]:
        """Link many mentions; results do not depend on how they are batched.

        Args:
            mentions: mappings with `text`, `start` and `end` (such as rows of a mention dataset).
            num_beams: beams of the search.
            top_k: candidates of a mention.
            batch_size: mentions searched together.
            restrictions: the names that may be given, from `restrict`: one for all mentions, or one for each, None
                allowing all names.
            ranking: "sum" ranks by log-probability, "mean" by log-probability a token.
            until_exact: widen the search until the candidates are provably the likeliest names, or it is `max_beams`
                wide; `Linked.exact` says which.
            max_beams: the widest beam then.
            progress: show a progress bar.

        Raises:
            ValueError: if an offset lies outside its text or marks nothing but blanks.
        """
        rows = list(mentions)
        if isinstance(restrictions, Restriction):
            restrictions = [restrictions] * len(rows)
        for number, row in enumerate(rows):
            if not 0 <= row["start"] < row["end"] <= len(row["text"]):
                raise ValueError(
                    f"mention {number}: offsets {row['start']}-{row['end']} do not lie in a text of "
                    f"{len(row['text'])} characters."
                )
            if not row["text"][row["start"] : row["end"]].strip():
                raise ValueError(f"mention {number}: offsets {row['start']}-{row['end']} mark nothing but blanks.")
        encoded = self.targets.formatter.encode(self.targets.formatter.prepare(rows))
        too_long = sum(mention is None for mention in encoded)
        if too_long:
            logger.warning(
                "%d of %d mentions are longer than the model's window and get no answer", too_long, len(rows)
            )
        found = search(
            self.model,
            self.targets.trie,
            encoded,
            num_beams=num_beams,
            top_k=top_k,
            batch_size=batch_size,
            ranking=ranking,
            until_exact=until_exact,
            max_beams=max_beams,
            restrictions=restrictions,
            progress="linking" if progress else None,
        )
        linked = []
        for place, row in enumerate(rows):
            restriction = None if restrictions is None else restrictions[place]
            linked.append(
                Linked(
                    mention=row["text"][row["start"] : row["end"]],
                    start=row["start"],
                    end=row["end"],
                    candidates=self._candidates(found, place, restriction),
                    exact=bool(found.exact[place]),
                )
            )
        return linked

    def _candidates(self, found: Candidates, place: int, restriction: Restriction | None) -> tuple[Candidate, ...]:
        candidates = []
        for name, score, mean in zip(
            found.names[place].tolist(), found.log_probs[place], found.mean_log_probs[place], strict=True
        ):
            if name >= 0:
                concepts = [self.kb.concepts[c] for c in self.targets.concepts(name, restriction)]
                ids = tuple(concept.id for concept in concepts)
                candidates.append(Candidate(ids, concepts[0].names[0], self.kb.names[name], float(score), float(mean)))
        return tuple(candidates)


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a linker, checked; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}). Save or download the linker again.") from error
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path} has format {found!r}; this version reads {_FORMAT}.")
    missing = {"kb_fingerprint", "mention_format"} - set(settings)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. Save or download the linker again.")
    return settings


def _load_trie(path: Path) -> NameTrie | None:
    """The saved trie; None, with a warning, if there is none: it is made anew from the knowledge base then."""
    if not path.exists():
        logger.warning("There is no %s: the names are indexed anew, which takes longer than loading it.", path)
        return None
    try:
        return NameTrie.load(path)
    except ValueError as error:
        raise ValueError(f"{error} Or delete it: it is made anew from {_KB} when the linker is loaded.") from error
