"""Out-of-fold mining: models that search the training mentions they were not trained on.

A model that has fitted its training mentions puts gold first on them and leaves few wrong names to learn from. One
that did not see a mention errs on it as it would on a new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from angel_trl.architectures import align_weights, load_model
from angel_trl.formatting import MentionFormatter
from angel_trl.linker_files import find_folder, read_parts
from angel_trl.targets import TargetNames


def deal_documents(mentions: Dataset, folds: int, seed: int = 0) -> dict[str, int]:
    """Deal the mentions of a corpus into folds of about as many mentions each, whole documents at a time.

    Args:
        mentions: a mention dataset; a mention whose `document_id` is empty is a document of its own.
        folds: how many, at least 2.
        seed: decides the order in which documents are dealt.

    Returns:
        The fold of each mention, by its id: what `HeldOut.of` takes.

    Raises:
        ValueError: if there are fewer than two folds, or fewer documents than folds.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds: at least 2 are needed, so that each mention is left out of some training.")
    documents: dict[Any, list[str]] = {}
    for mention, document in zip(mentions["id"], mentions["document_id"], strict=True):
        documents.setdefault(document or ("alone", mention), []).append(mention)
    if len(documents) < folds:
        raise ValueError(f"{len(documents)} documents cannot be dealt into {folds} folds. Ask for fewer folds.")
    contents = list(documents.values())
    sizes = [0] * folds
    fold_of: dict[str, int] = {}
    for place in np.random.default_rng(seed).permutation(len(contents)):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(contents[place])
        fold_of |= dict.fromkeys(contents[place], fold)
    return fold_of


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Models that search mentions in place of the model that is being trained, as they were not trained on them.

    The pairs are of the names that they find. What these are measured against is the reference of the trainer as ever.

    Args:
        models: such models, or the folders or Hub ids of their linkers, which are loaded each time that they search
            and forgotten afterwards. They must read and write the tokens of the model that is trained.
        of: for the ids of training mentions, the place in `models` of one that was not trained on it. Mentions
            without a place are searched by the model that is trained.

    Raises:
        ValueError: if `of` has a place that `models` does not.
    """

    models: Sequence[PreTrainedModel | str | Path]
    of: Mapping[str, int]

    def __post_init__(self) -> None:
        for mention, place in self.of.items():
            if place not in range(len(self.models)):
                raise ValueError(
                    f"held_out: mention {mention!r} is to be searched by model {place!r}, but there are "
                    f"{len(self.models)} models. Give places from 0 to {len(self.models) - 1}, or more models."
                )

    def check(self, ids: Iterable[str], targets: TargetNames, model: PreTrainedModel) -> None:
        """See that these models can search in place of `model`; no weights are loaded.

        Args:
            ids: of the training set.
            targets: names and formatter of `model`.
            model: the model that is to be trained.

        Raises:
            ValueError: for a mention that is not in the training set, or a model with other tokens.
            OSError: if the folder or Hub repository of a model is not there or not complete.
        """
        unknown = sorted(set(self.of) - set(ids))
        if unknown:
            raise ValueError(
                f"held_out: {len(unknown)} of {len(self.of)} mention ids are not in the training set, such as "
                f"{unknown[0]!r}. Deal the mentions that are trained on: deal_documents(train_dataset, ...)."
            )
        for place, held in enumerate(self.models):
            config, tokenizer = model.config, targets.formatter.tokenizer
            if isinstance(held, PreTrainedModel):
                config, name = held.config, f"model {place}"
            else:
                folder, name = find_folder(held, with_kb=False), f"model {place} ({held})"
                # That its names are normalised, and its mentions are formatted, as here.
                read_parts(folder, targets.kb, targets.formatter.format)
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            theirs = MentionFormatter(tokenizer, config, targets.formatter.format)
            difference = _difference(theirs, config, targets.formatter, model.config)
            if difference:
                raise ValueError(
                    f"held_out: {name} does not read and write the tokens of the model to be trained: it has "
                    f"{difference}. Train it from the same start, with the same tokenizer, or leave it and its "
                    "mentions out."
                )

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """For each mention the place of the model that searches it, -1 for the one that is trained; int64."""
        return np.array([self.of.get(mention, -1) for mention in ids], dtype=np.int64)

    @contextlib.contextmanager
    def searcher(self, place: int, like: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """A model, on the device of `like` while it searches."""
        held = self.models[place]
        if isinstance(held, PreTrainedModel):
            before = held.device
            try:
                yield held.to(like.device)
            finally:
                held.to(before)
        else:
            model = load_model(str(find_folder(held, with_kb=False)), dtype=like.dtype)
            align_weights(model)
            yield model.to(like.device)


def _difference(
    theirs: MentionFormatter, their_config: PreTrainedConfig, ours: MentionFormatter, our_config: PreTrainedConfig
) -> str | None:
    """What keeps a model from reading and writing the tokens of another; None if nothing does."""
    if theirs.has_encoder != ours.has_encoder:
        return "an encoder" if theirs.has_encoder else "no encoder"
    if their_config.vocab_size != our_config.vocab_size:
        return f"a vocabulary of {their_config.vocab_size} tokens, not of {our_config.vocab_size}"
    if theirs.fingerprint("") != ours.fingerprint(""):
        return "another tokenizer"
    if theirs.decoder_start != ours.decoder_start:
        return f"the decoder start token {theirs.decoder_start[0]}, not {ours.decoder_start[0]}"
    if theirs.max_tokens is not None and (ours.max_tokens is None or theirs.max_tokens < ours.max_tokens):
        return f"a window of {theirs.max_tokens} tokens, not of {ours.max_tokens or 'any length'}"
    return None
