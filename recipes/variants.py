"""Trainers of the ablations: wrong names from elsewhere than the search, and mistakes of the published implementation.

What is changed is what is learnt from. Which mentions are mined, how many pairs each gives, the chosen names, search
and evaluation stay those of `AngelTrainer`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from publishing import PublishingTrainer
from transformers import PreTrainedModel

from angel_trl.collator import MentionPairs, RoundDataset
from angel_trl.decoding import score_names
from angel_trl.mining import RoundPairs
from angel_trl.targets import MentionSet, NearestNames, TargetNames

Negatives = Literal["beam", "tfidf", "random"]
Mistake = Literal["none", "doubled_space", "prefix", "dropout"]
DROPOUT = 0.1
"""The rate of BART's published models, of hidden states, attention weights and activations alike."""
_RATES = ("dropout", "attention_dropout", "activation_dropout")
# Mentions compared with all names at once.
_AT_ONCE = 32

Names = NDArray[np.int64]
# The mentions of a round with their pairs, and what these were made from -> what is learnt from instead.
Change = Callable[[Sequence[MentionPairs], RoundPairs, TargetNames, MentionSet], list[MentionPairs]]


class NearestWrongNames(NearestNames):
    """The wrong names spelled most like a mention, among all names: the measure by which gold names are chosen.

    Args:
        targets: the names; those that a model cannot write are left out.
    """

    def __init__(self, targets: TargetNames) -> None:
        super().__init__(targets.kb)
        self._writable = _writable(targets)
        self._vectors = self._vectorizer.transform([targets.kb.names[name] for name in self._writable]).T.tocsr()

    def nearest_wrong(self, mentions: MentionSet, counts: Sequence[int]) -> list[Names]:
        """For each mention `counts` name indices, nearest first; names equally near as the dictionary has them."""
        found = []
        for first in range(0, len(mentions), _AT_ONCE):
            own = slice(first, first + _AT_ONCE)
            table = (self._vectorizer.transform(mentions.mentions[own]) @ self._vectors).toarray()
            for similarity, gold, count in zip(table, mentions.gold[own], counts[own], strict=True):
                wrong = np.flatnonzero(~np.isin(self._writable, self._names(gold)))
                count = min(count, len(wrong))
                least = -np.partition(-similarity[wrong], count - 1)[count - 1]
                wrong = wrong[similarity[wrong] >= least]
                order = np.argsort(-similarity[wrong], kind="stable")[:count]
                found.append(self._writable[wrong[order]])
        return found


def random_wrong(
    targets: TargetNames, mentions: MentionSet, counts: Sequence[int], seed: Sequence[int]
) -> list[Names]:
    """For each mention `counts` different wrong names, any of which is as likely as any other."""
    random = np.random.default_rng(seed)
    writable, found = _writable(targets), []
    for gold, count in zip(mentions.gold, counts, strict=True):
        right = np.unique([name for concept in gold for name in targets.kb.names_of_concept(concept)])
        # So many that enough are left without the right ones.
        drawn = random.choice(writable, size=min(len(writable), count + len(right)), replace=False)
        found.append(drawn[~np.isin(drawn, right)][:count])
    return found


def _writable(targets: TargetNames) -> Names:
    return np.setdiff1d(np.arange(targets.kb.num_names), targets.unreachable)


def double_space(
    items: Sequence[MentionPairs], mined: RoundPairs, targets: TargetNames, mentions: MentionSet
) -> list[MentionPairs]:
    """Chosen names as after a doubled space, rejected ones as ever."""
    names = np.unique(mined.pairs.chosen).tolist()
    # One space is put before each name as it is.
    doubled = targets.formatter.names([f" {targets.kb.names[name]}" for name in names])
    chosen = {tuple(targets.sequences[name]): ids for name, ids in zip(names, doubled, strict=True)}
    return [
        dataclasses.replace(item, pairs=tuple((chosen[tuple(pair[0])], *pair[1:]) for pair in item.pairs))
        for item in items
    ]


def put_prefix_into_loss(
    items: Sequence[MentionPairs], mined: RoundPairs, targets: TargetNames, mentions: MentionSet
) -> list[MentionPairs]:
    """After the decoder's start, `<s>` and the prefix without its leading space, as tokens of both names."""
    formatter = targets.formatter
    texts = [formatter.prefix_text(mentions.mentions[row]) for row in mined.rows]
    prefixes = formatter.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    changed = []
    for item, prefix in zip(items, prefixes, strict=True):
        before = [*formatter.bos, *prefix]
        pairs = tuple(([*before, *chosen], [*before, *rejected], *known) for chosen, rejected, *known in item.pairs)
        changed.append(MentionPairs(dataclasses.replace(item.mention, prefix=(*formatter.decoder_start,)), pairs))
    return changed


def set_dropout(model: PreTrainedModel, rate: float) -> None:
    """Set the rates of functional dropout of `model` and its configuration: what `nn.Dropout` does not do.

    Raises:
        ValueError: if it has none.
    """
    found = [
        (owner, name)
        for owner in (model.config, *model.modules())
        for name in _RATES
        if isinstance(getattr(owner, name, None), float)
    ]
    if all(owner is model.config for owner, _ in found):
        raise ValueError(
            f"--mistake dropout: {type(model).__name__} has no functional dropout to leave on. Use a BART."
        )
    for owner, name in found:
        setattr(owner, name, rate)


class ChangedRound(RoundDataset):
    """A round whose pairs are changed once they are token ids.

    Args:
        size: mentions of a round, those that fill up its last step included.
        change: makes the items of the round into those to learn from.
    """

    def __init__(self, size: int, change: Change) -> None:
        super().__init__(size)
        self._change = change

    def fill(self, mined: RoundPairs, targets: TargetNames, mentions: MentionSet) -> None:
        super().fill(mined, targets, mentions)
        self._items = self._change(self._items, mined, targets, mentions)


class VariantTrainer(PublishingTrainer):
    """`AngelTrainer` with one thing done otherwise.

    The parquet files of rounds have the names of the pairs, and the reference's log-probabilities of the tokens that
    are learnt from.

    Args:
        given: of `AngelTrainer`.
        negatives: wrong names of the pairs: "beam" those that the search prefers to gold; "tfidf" as many spelled most
            like the mention; "random" as many of all.
        mistake: of the published implementation, in training only: "doubled_space" of chosen names alone; "prefix",
            another than the search's, whose tokens are scored as the name's are; "dropout" left on in the policy, not
            in the reference; "none".
        named: of `AngelTrainer`.

    Raises:
        ValueError: for another choice; where the model, its tokenizer or other settings leave nothing to change.
    """

    def __init__(self, *given: Any, negatives: Negatives = "beam", mistake: Mistake = "none", **named: Any) -> None:
        super().__init__(*given, **named)
        self._negatives, self._mistake = negatives, mistake
        self._refuse()
        changes: dict[str, Change] = {"doubled_space": double_space, "prefix": put_prefix_into_loss}
        if mistake in changes:
            self.train_dataset = ChangedRound(len(self.train_dataset), changes[mistake])
        if mistake == "dropout":
            set_dropout(self.model, DROPOUT)

    def _refuse(self) -> None:
        formatter = self.targets.formatter
        # Choices in a YAML file have not been checked yet.
        for name, given, choices in (("negatives", self._negatives, Negatives), ("mistake", self._mistake, Mistake)):
            if given not in get_args(choices):
                raise ValueError(f"{name} is {given!r}; choose one of {', '.join(get_args(choices))}.")
        if self._negatives != "beam" and self.args.within_types:
            raise ValueError(
                f"--negatives {self._negatives} takes wrong names of any type, but within_types mines among a "
                "mention's own. Leave one of them out."
            )
        if self._mistake == "prefix" and not (formatter.has_encoder and formatter.bos):
            raise ValueError(
                "--mistake prefix puts a beginning-of-sequence token after the decoder's start, but this "
                f"{self.model.config.model_type!r} model has no "
                f"{'such token' if formatter.has_encoder else 'encoder, and one prompt'}. Use a BART."
            )
        if self._mistake == "doubled_space" and formatter.tokens(["x"]) == formatter.tokens([" x"]):
            raise ValueError("--mistake doubled_space: this tokenizer makes one space of two. Use a byte-level one.")

    def mine_round(self, round: int, progress: str | None = None) -> RoundPairs:
        mined = super().mine_round(round, progress)
        as_ever = self._negatives == "beam" and not isinstance(self.train_dataset, ChangedRound)
        if as_ever or not len(mined.pairs):
            return mined
        return self._scored(mined if self._negatives == "beam" else self._with_other_negatives(mined))

    @cached_property
    def _nearest_wrong(self) -> NearestWrongNames:
        return NearestWrongNames(self.targets)

    def _with_other_negatives(self, mined: RoundPairs) -> RoundPairs:
        """As many wrong names for each mention, in place of those that were found; the same on all processes."""
        places, counts = np.unique(mined.pairs.mention, return_counts=True)
        taught = self.mentions.subset(mined.rows[places])
        if self._negatives == "tfidf":
            names = self._nearest_wrong.nearest_wrong(taught, counts)
        else:
            names = random_wrong(self.targets, taught, counts, [self.args.seed, mined.round])
        rejected = np.concatenate(names).astype(np.int32)
        pairs = dataclasses.replace(mined.pairs, rejected=rejected, rejected_rank=np.full_like(rejected, -1))
        return dataclasses.replace(mined, pairs=pairs)

    def _scored(self, mined: RoundPairs) -> RoundPairs:
        """The pairs with the reference's log-probabilities of the very tokens that are learnt from."""
        self.train_dataset.fill(mined, self.targets, self.mentions)
        items = [item for place in range(len(mined.rows)) if (item := self.train_dataset[place]).pairs]
        names = [[name for pair in item.pairs for name in pair[:2]] for item in items]
        with self.searched_model() as model:
            if self.args.reference == "initial":
                scorer = self.initial_scorer(model)
            else:
                scorer = partial(score_names, model, batch_size=self.args.mining_batch_size)
            chosen, rejected = np.concatenate(scorer([item.mention for item in items], names)).reshape(-1, 2).T
        metrics = mined.metrics | {"margin": float((chosen - rejected).mean())}
        return dataclasses.replace(mined, chosen_log_probs=chosen, rejected_log_probs=rejected, metrics=metrics)
