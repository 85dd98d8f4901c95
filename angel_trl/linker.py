"""EntityLinker: a model, its tokenizer, its knowledge base and their trie, in one folder or Hub repository."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from angel_trl.architectures import align_weights, load_model, prepare
from angel_trl.confidence import Calibration, check_threshold
from angel_trl.decoding import Candidates
from angel_trl.formatting import EncodedMention, MentionFormat, MentionFormatter
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linked import Candidate, Linked, Ner, checked_mention, find_mentions, same_concept
from angel_trl.linker_files import SETTINGS, LinkerParts, check_parts, find_folder, read_parts, write_parts
from angel_trl.restrictions import Restriction
from angel_trl.shared_search import SharedSearch
from angel_trl.targets import TargetNames
from angel_trl.trie import NameTrie

if TYPE_CHECKING:
    from angel_trl.hub import Published

logger = logging.getLogger(__name__)

# Tokenizers keep settings of a call, which another thread would change under it; linkers may share one.
_TOKENIZING = threading.Lock()


class EntityLinker:
    """Names the concept of a mention in a passage. Threads may share a linker.

    Args:
        model: an encoder-decoder or decoder-only model trained for linking; put into evaluation mode.
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
        self._search = SharedSearch(self.model, self.targets.trie)
        self._calibration: Calibration | None = None

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base."""
        return self.targets.kb

    @property
    def calibration(self) -> Calibration | None:
        """What gives answers a confidence, and the threshold below which there are none.

        `angel_trl.calibration.calibrate` makes one from dev mentions. It is saved with the linker.

        Raises:
            ValueError: when set to one that was made for other names.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if calibration is not None and calibration.fingerprint != self.targets.fingerprint:
            raise ValueError(
                f"The calibration was made for other names (fingerprint {calibration.fingerprint[:12]}) than the "
                f"linker's ({self.targets.fingerprint[:12]}): another knowledge base or tokenizer. Calibrate this one."
            )
        self._calibration = calibration

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        revision: str | None = None,
        kb: KnowledgeBase | str | Path | None = None,
        mention_format: MentionFormat | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> EntityLinker:
        """Load a linker from a folder written by `save_pretrained` or from the Hub; no code of it is run.

        Args:
            id_or_path: the folder, or a Hub repository id; offline, what is in the cache is used. With `kb`, also a
                plain model, such as `dmis-lab/ANGEL_ncbi`, with weights in safetensors or `pytorch_model.bin`.
            revision: branch, tag or commit of a Hub repository.
            kb: a knowledge base to link to in place of the saved one, or where it is: what `KnowledgeBase.from_file`
                takes, such as a Hub dataset. The linker is not calibrated for it.
            mention_format: how a plain model wants its input; a linker knows.
            device: where to put the model; a GPU if there is one.
            dtype: of the weights.

        Raises:
            ValueError: if the folder is not a linker and no `kb` is given, its parts do not belong together, or a
                file is broken or asks for code to be run.
            OSError: if there is no such folder, repository or revision, a file is missing, or it cannot be fetched.
        """
        folder = find_folder(id_or_path, revision, with_kb=kb is None)
        parts = read_parts(folder, kb, mention_format)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = load_model(str(folder), dtype=dtype)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls.from_parts(model, tokenizer, parts)

    @classmethod
    def from_parts(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parts: LinkerParts
    ) -> EntityLinker:
        """A linker of a model and tokenizer that are loaded already, and the rest of its folder.

        Raises:
            ValueError: if they do not belong together.
        """
        check_parts(parts, MentionFormatter(tokenizer, model.config), model.get_input_embeddings().num_embeddings)
        align_weights(model)
        linker = cls(model, tokenizer, parts.kb, parts.mention_format, parts.trie)
        linker.calibration = parts.calibration
        return linker

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), tokenizer, knowledge base (parquet), trie (safetensors) and `angel.json`.

        Raises:
            ValueError: for a model with adapters.
        """
        if not isinstance(self.model, PreTrainedModel):
            raise ValueError(
                f"The model is a {type(self.model).__name__}, of which only the adapters would be saved. Merge them "
                "first: EntityLinker(model.merge_and_unload(), tokenizer, kb)."
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Without it the folder is not complete, should this be interrupted.
        (folder / SETTINGS).unlink(missing_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_parts(folder, self.targets, self.calibration)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        tag: str | None = None,
        token: str | None = None,
        **card: Any,
    ) -> Published:
        """Publish what `save_pretrained` writes and a model card, all or nothing; see `angel_trl.linker_hub.push`."""
        from angel_trl.linker_hub import push

        return push(self, repo_id, private=private, revision=revision, tag=tag, token=token, **card)

    def restrict(
        self,
        *,
        candidates: Iterable[str] | None = None,
        names: Iterable[str] | None = None,
        ids: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
    ) -> Restriction:
        """A restriction of `link` and `link_batch` to some of the names; see `Restrictor.restrict`.

        Example:
            >>> diseases = linker.restrict(types=["Disease"])  # doctest: +SKIP
            >>> linker.link("[WD] in a child.", restriction=diseases)  # doctest: +SKIP
        """
        return self.targets.restrict(candidates=candidates, names=names, ids=ids, types=types)

    def extended(self, concepts: Iterable[Concept]) -> EntityLinker:
        """A linker with the same model whose knowledge base also holds `concepts`.

        A concept whose id the knowledge base has adds its names to that concept. Only the new names are tokenised,
        and the trie takes them in without being built again. A calibration does not hold for the new names: the
        linker has none.

        Raises:
            ValueError: for a concept without id or names.
        """
        extended = copy.copy(self)
        extended.targets = self.targets.extended(self.kb.extended(concepts))
        extended._search = SharedSearch(self.model, extended.targets.trie)
        extended._calibration = None
        return extended

    def link(
        self,
        text: str,
        *,
        spans: Iterable[Sequence[int]] | None = None,
        ner: Ner | None = None,
        candidates: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
        restriction: Restriction | None = None,
        top_k: int = 5,
        num_beams: int = 10,
        ranking: str = "sum",
        exact: bool = False,
        max_beams: int = 1000,
        nil_threshold: float | None = None,
    ) -> list[Linked]:
        """Link the mentions of a text: its `[bracketed]` ones, those at `spans`, or those that `ner` finds.

        Args:
            text: a passage, with mentions in square brackets unless `spans` or `ner` is given.
            spans: offsets `(start, end)` of each mention in `text` as it is, the end exclusive. They may overlap and
                stand in any order; there is a result for each, in this order.
            ner: finds the mentions: a token-classification pipeline with an aggregation strategy, or any function
                from a text to mappings with `start` and `end`.
            candidates: names or ids (mixed as you like); the answer is one of these names, or a name of one of these
                concepts.
            types: semantic types; the answer is a concept of one of them.
            restriction: the names that may be given, from `restrict`, in place of `candidates` and `types`: made once
                for many requests.
            top_k: candidates of a mention.
            num_beams: beams of the search.
            ranking: "sum" ranks by log-probability, "mean" by log-probability a token.
            exact: widen the search until the candidates are provably the likeliest names, or it is `max_beams` wide;
                `Linked.exact` says which.
            max_beams: the widest beam then.
            nil_threshold: give no answer below this confidence; that of the calibration if None. 0 gives all answers.

        Returns:
            One result a mention, in order; none if `spans` or `ner` has none. Confidences are those of requests that
            the linker is calibrated for: ranked by "sum", not restricted, and with no fewer beams than the
            calibration, or exact. Other requests have none, and no answer is withheld.

        Raises:
            ValueError: if no mention is marked or a bracket has no partner; for a span outside the text or of nothing
                but blanks, candidates or types that the knowledge base does not have, arguments that exclude each
                other, a threshold without a confidence, or a setting out of range.
            RuntimeError: if the model is being trained.
        """
        if not isinstance(text, str):
            raise ValueError(f"text is a {type(text).__name__}, {text!r:.80}; give a string, or rows to link_batch.")
        if spans is not None and ner is not None:
            raise ValueError("spans and ner were both given; give one of them, or neither for [bracketed] mentions.")
        text, found = find_mentions(text, spans, ner)
        return self.link_batch(
            [{"text": text, "start": start, "end": end} for start, end in found],
            candidates=candidates,
            types=types,
            restrictions=restriction,
            top_k=top_k,
            num_beams=num_beams,
            ranking=ranking,
            exact=exact,
            max_beams=max_beams,
            nil_threshold=nil_threshold,
        )

    def link_batch(
        self,
        mentions: Iterable[Mapping[str, Any]],
        *,
        candidates: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
        restrictions: Restriction | Sequence[Restriction | None] | None = None,
        top_k: int = 5,
        num_beams: int = 10,
        batch_size: int = 32,
        ranking: str = "sum",
        exact: bool = False,
        max_beams: int = 1000,
        nil_threshold: float | None = None,
        progress: bool = False,
    ) -> list[Linked]:
        """Link many mentions; how they are batched changes scores in their last digits only, by about 1e-5.

        Args:
            mentions: mappings with `text`, `start` and `end` (such as rows of a mention dataset).
            candidates: as in `link`, for all mentions.
            types: as in `link`, for all mentions.
            restrictions: the names that may be given, from `restrict`, in place of `candidates` and `types`: one for
                all mentions, or one for each, None allowing all names.
            top_k: candidates of a mention.
            num_beams: beams of the search.
            batch_size: mentions searched together.
            ranking: as in `link`.
            exact: as in `link`.
            max_beams: as in `link`.
            nil_threshold: as in `link`.
            progress: show a progress bar.

        Raises:
            ValueError: as `link`.
            RuntimeError: as `link`.
        """
        rows = [checked_mention(row, place) for place, row in enumerate(mentions)]
        if candidates is not None or types is not None:
            if restrictions is not None:
                raise ValueError(
                    "candidates or types were given beside a restriction; put all conditions into one: "
                    "linker.restrict(candidates=..., types=...)."
                )
            restrictions = self.restrict(candidates=candidates, types=types)
        if isinstance(restrictions, Restriction):
            restrictions = [restrictions] * len(rows)
        if restrictions is not None and len(restrictions) != len(rows):
            raise ValueError(f"{len(restrictions)} restrictions for {len(rows)} mentions; give one each (or None).")
        if num_beams < 1 or top_k < 1 or batch_size < 1:
            raise ValueError(
                f"num_beams ({num_beams}), top_k ({top_k}) and batch_size ({batch_size}) must be at least 1."
            )
        calibration = self._calibration
        if calibration is not None and not calibration.holds_for(num_beams=num_beams, ranking=ranking, exact=exact):
            calibration = None
        restricted = any(restriction is not None for restriction in restrictions or ())
        check_threshold(nil_threshold, calibration, restricted=restricted)
        found = self._search.search(
            self.encode(rows),
            # A confidence is computed from as many candidates as it was fitted on.
            top_k=max(top_k, 0 if calibration is None else calibration.top_k),
            num_beams=num_beams,
            batch_size=batch_size,
            ranking=ranking,
            exact=exact,
            max_beams=max_beams,
            restrictions=restrictions,
            progress="linking" if progress else None,
        )
        confidences = None
        if calibration is not None:
            confidences = calibration.confidence(found.log_probs, same_concept(found.names, self.kb))
            nil_threshold = calibration.nil_threshold if nil_threshold is None else nil_threshold
        linked = []
        for place, row in enumerate(rows):
            restriction = None if restrictions is None else restrictions[place]
            confidence = None
            if confidences is not None and restriction is None and found.names[place, 0] >= 0:
                confidence = float(confidences[place])
            linked.append(
                Linked(
                    mention=row["text"][row["start"] : row["end"]],
                    start=row["start"],
                    end=row["end"],
                    candidates=self._candidates(found, place, restriction, top_k),
                    exact=bool(found.exact[place]),
                    confidence=confidence,
                    abstained=confidence is not None and nil_threshold is not None and confidence < nil_threshold,
                )
            )
        return linked

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedMention | None]:
        """Rows (`text`, `start`, `end`) as the model reads them; None, with a warning, for one too long for it."""
        with _TOKENIZING:
            encoded = self.targets.formatter.encode(self.targets.formatter.prepare(rows))
        too_long = sum(mention is None for mention in encoded)
        if too_long:
            logger.warning("%d of %d mentions are longer than the model's window: no answer", too_long, len(rows))
        return encoded

    def _candidates(
        self, found: Candidates, place: int, restriction: Restriction | None, top_k: int
    ) -> tuple[Candidate, ...]:
        candidates = []
        for name, score, mean in zip(
            found.names[place, :top_k].tolist(), found.log_probs[place], found.mean_log_probs[place], strict=False
        ):
            if name >= 0:
                concepts = [self.kb.concepts[c] for c in self.targets.concepts(name, restriction)]
                ids = tuple(concept.id for concept in concepts)
                candidates.append(Candidate(ids, concepts[0].names[0], self.kb.names[name], float(score), float(mean)))
        return tuple(candidates)
