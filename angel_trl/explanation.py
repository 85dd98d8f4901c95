"""Why a mention was given its name: the search through the trie of names, kept as a tree.

Knows the search and a linker's parts, not how a tree is drawn. The search itself is run, with a decoder that writes
down every log-probability it is asked for; nothing is scored that the search did not score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from angel_trl.decoding import RANKINGS, BatchSearch
from angel_trl.formatting import EncodedMention
from angel_trl.frontier import Frontier, Ints
from angel_trl.linked import check_span, parse_brackets
from angel_trl.restrictions import Restriction
from angel_trl.shared_search import untrained
from angel_trl.tree_decoder import TreeDecoder

if TYPE_CHECKING:
    from angel_trl.linker import EntityLinker

Path = tuple[int, ...]
Outcome = Literal["name", "extended", "outscored", "beam"]

OUTCOMES: dict[Outcome, str] = {
    "name": "a whole name",
    "extended": "followed further",
    "outscored": "given up: no name below can beat the last name of the list",
    "beam": "given up: outside the beam, so a better name may lie below",
}
"""What became of a branch, and what that means."""


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """A piece of a name between two places where the names of the knowledge base part.

    Args:
        text: the piece, as text; empty at the root, where a name ends that others go on from, and for the first
            tokens of a character of several.
        prefix: everything up to its end, as text.
        log_prob: natural logarithm of the probability of the piece given what stands before it.
        score: natural logarithm of the probability of everything up to its end: the sum along the path.
        tokens: tokens of the piece, the end token included.
        outcome: a key of `OUTCOMES`.
        rank: place in the list of names found, 0 for the best; None for other names and for prefixes.
        name: the whole name, as the knowledge base has it; None for a prefix.
        ids: ids of the concepts that bear it and were allowed.
        names_below: names that begin so and were allowed; 1 for a name.
        branches: what the search scored next, likeliest first.
    """

    text: str
    prefix: str
    log_prob: float
    score: float
    tokens: int
    outcome: Outcome
    rank: int | None
    name: str | None
    ids: tuple[str, ...]
    names_below: int
    branches: tuple[Branch, ...]

    def walk(self) -> Iterator[Branch]:
        """This branch and all below it, from the likeliest on at each fork."""
        yield self
        for branch in self.branches:
            yield from branch.walk()


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What the search did for one mention.

    Args:
        mention: the mention as it stands in the text.
        start: offset of its first character.
        end: offset after its last character.
        root: the tree; its first branches are the beginnings of names.
        exact: whether the names found are provably the likeliest. Then no branch has the outcome "beam".
        tokens_scored: log-probabilities that were asked for.
        tokens_run: tokens that the model was run on, its prefix included.
        names_allowed: names that might have been answered.
    """

    mention: str
    start: int
    end: int
    root: Branch
    exact: bool
    tokens_scored: int
    tokens_run: int
    names_allowed: int

    @property
    def names(self) -> list[Branch]:
        """The names found, best first: those of `Linked.candidates`."""
        found = [(branch.rank, branch) for branch in self.root.walk() if branch.rank is not None]
        return [branch for _, branch in sorted(found, key=lambda item: item[0])]

    @property
    def path(self) -> list[Branch]:
        """The branches from the root's on to the best name; empty if none was found."""
        path, at = [], self.root
        while below := next((b for b in at.branches if any(x.rank == 0 for x in b.walk())), None):
            path.append(below)
            at = below
        return path

    def to_text(self, most: int = 4) -> str:
        """The tree as indented text, one branch a line with its log-probability and the sum up to its end.

        Args:
            most: branches shown at a fork; all that lead to a name of the list are shown besides. The others are
                counted.

        Raises:
            ValueError: if `most` is negative.
        """
        if most < 0:
            raise ValueError(f"most is {most}; show no branch (0) or more at a fork.")
        lines = [f"{self.mention} is ... ({'exact' if self.exact else 'not exact'}, {self.names_allowed:,} names)"]
        _write(self.root, "", most, lines)
        return "\n".join(lines)


def notable(branches: Sequence[Branch], most: int) -> tuple[list[Branch], list[Branch]]:
    """Part the branches of a fork into those worth showing and the others, both likeliest first.

    Args:
        branches: of one fork.
        most: how many of those to show that lead to no name of the list; all that do are shown.
    """
    shown, others = [], []
    for branch in branches:
        if any(below.rank is not None for below in branch.walk()):
            shown.append(branch)
        elif most > 0:
            shown.append(branch)
            most -= 1
        else:
            others.append(branch)
    return shown, others


def _write(branch: Branch, indent: str, most: int, lines: list[str]) -> None:
    shown, others = notable(branch.branches, most)
    for place, below in enumerate(shown):
        last = place == len(shown) - 1 and not others
        leads = any(b.rank is not None for b in below.walk())
        piece = below.text.strip() or ("(end)" if below.name else "...")
        line = f"{indent}{'└─' if last else '├─'} {piece}  {below.log_prob:z.2f} (sum {below.score:z.2f})"
        lines.append(line + ("" if leads and below.rank is None else f"  {_fate(below)}"))
        if leads:
            _write(below, indent + ("   " if last else "│  "), most, lines)
    if others:
        lines.append(f"{indent}└─ {len(others):,} more, none above {others[0].score:.2f}")


def _fate(branch: Branch) -> str:
    """What became of a branch that is in the list or does not lead there."""
    if branch.rank is not None:
        return f"#{branch.rank + 1} {branch.name} [{', '.join(branch.ids)}]"
    names = "1 name" if branch.names_below == 1 else f"{branch.names_below:,} names"
    return {
        "name": "not in the list",
        "extended": f"followed in vain ({names})",
        "outscored": f"given up, cannot beat the list ({names})",
        "beam": f"given up, outside the beam ({names})",
    }[branch.outcome]


def explain(
    linker: EntityLinker,
    text: str,
    span: tuple[int, int] | None = None,
    *,
    candidates: Iterable[str] | None = None,
    types: Iterable[str] | None = None,
    restriction: Restriction | None = None,
    top_k: int = 5,
    num_beams: int = 10,
    ranking: str = "sum",
    exact: bool = False,
    max_beams: int = 1000,
) -> Explanation:
    """Link one mention and keep what the search did, as a tree.

    With the settings given to `EntityLinker.link`, the names found and their scores are those of its candidates.

    Args:
        linker: the linker.
        text: a passage with one mention in square brackets; any passage if `span` is given.
        span: offsets of the mention's first character and after its last one.
        candidates: as in `EntityLinker.link`, and so the following.
        types: semantic types.
        restriction: the names that may be given, in place of `candidates` and `types`.
        top_k: names to find.
        num_beams: beams of the search.
        ranking: "sum" or "mean".
        exact: widen the search until the names found are provably the likeliest.
        max_beams: the widest beam then.

    Raises:
        ValueError: if not exactly one mention is marked, the mention is longer than the model's window, the
            restriction was made for other names; and as `EntityLinker.link`.
        RuntimeError: if the model is being trained.

    Example:
        >>> print(explain(linker, "Early signs of [WD] in a child.").to_text())  # doctest: +SKIP
    """
    if span is None:
        text, spans = parse_brackets(text)
        if len(spans) != 1:
            raise ValueError(f"{len(spans)} mentions are marked; explain takes one at a time: mark one, or give span.")
        (span,) = spans
    start, end = check_span(text, span, "span")
    if num_beams < 1 or top_k < 1:
        raise ValueError(f"num_beams ({num_beams}) and top_k ({top_k}) must be at least 1.")
    if ranking not in RANKINGS:
        raise ValueError(f"ranking is {ranking!r}; choose one of {', '.join(RANKINGS)}.")
    if candidates is not None or types is not None:
        if restriction is not None:
            raise ValueError("candidates or types were given beside a restriction; put all conditions into one.")
        restriction = linker.restrict(candidates=candidates, types=types)
    targets = linker.targets
    if restriction is not None and restriction.fingerprint != targets.trie.fingerprint:
        raise ValueError(f"The restriction to {restriction.description} was made for other names. Make it again.")
    (encoded,) = linker.encode([{"text": text, "start": start, "end": end}])
    if encoded is None:
        raise ValueError(f"The mention {text[start:end][:80]!r} is longer than the model's window.")
    with untrained(linker.model), torch.no_grad():
        decoder = _WritingDecoder(linker.model, encoded)
        frontier = Frontier(1, num_beams, keep=exact, max_beams=max_beams)
        searching = BatchSearch(decoder, targets.trie.to("cpu"), [restriction], frontier, top_k, ranking)
        found = searching.run()
    exact, names = bool(found.exact[0]), [int(name) for name in found.names[0] if name >= 0]
    value = found.log_probs if ranking == "sum" else found.mean_log_probs
    maker = _TreeMaker(linker, decoder, restriction, names)
    # A list that is not full leaves nothing out that could enter it.
    maker.judge(exact=exact, last=float(value[0, -1]), by_token=ranking == "mean")
    root = maker.branch((), ())
    scored, run = len(decoder.scored), decoder.tokens_fed
    return Explanation(text[start:end], start, end, root, exact, scored, run, names_allowed=root.names_below)


class _WritingDecoder(TreeDecoder):
    """A decoder of one mention that writes down what it is asked.

    Attributes:
        scored: log-probability of the last token of each sequence given those before it.
        run: sequences whose last token was run: what may follow them is in `scored`.
    """

    def __init__(self, model: PreTrainedModel, mention: EncodedMention) -> None:
        super().__init__(model, [mention])
        self.scored: dict[Path, float] = {}
        self.run: set[Path] = {()}
        self._path_of: dict[int, Path] = {0: ()}  # by the number of a sequence's last token

    def start(self, asked: Ints, tokens: Ints) -> NDArray[np.float32]:
        values = super().start(asked, tokens)
        self.scored |= {(token,): value for token, value in zip(tokens.tolist(), values.tolist(), strict=True)}
        return values

    def extend(
        self, mention: Ints, parent: Ints, tokens: Ints, lengths: Ints, asked: Ints, asked_tokens: Ints
    ) -> tuple[Ints, NDArray[np.float32]]:
        numbers, values = super().extend(mention, parent, tokens, lengths, asked, asked_tokens)
        paths: list[Path] = []
        rows = np.split(tokens, np.cumsum(lengths)[:-1])
        for number, before, row in zip(numbers.tolist(), parent.tolist(), rows, strict=True):
            path = self._path_of[before]
            for token in row.tolist():
                path = (*path, token)
                paths.append(path)
            self._path_of[number] = path
        self.run.update(paths)
        for place, token, value in zip(asked.tolist(), asked_tokens.tolist(), values.tolist(), strict=True):
            self.scored[(*paths[place], token)] = value
        return numbers, values


class _TreeMaker:
    """Makes branches of what a decoder wrote down.

    Args:
        linker: whose names were searched.
        decoder: after the search.
        restriction: that of the search.
        names: indices of the names found, best first.
    """

    def __init__(
        self, linker: EntityLinker, decoder: _WritingDecoder, restriction: Restriction | None, names: Sequence[int]
    ) -> None:
        self._targets, self._kb = linker.targets, linker.kb
        self._trie = linker.targets.trie.to("cpu")
        self._restriction = restriction
        self._decoder = decoder
        self._rank = {name: place for place, name in enumerate(names)}
        self._next: dict[Path, list[Path]] = {}
        self._score: dict[Path, float] = {(): 0.0}
        self._node: dict[Path, int] = {(): 0}
        self._outcome: dict[Path, Outcome] = {}
        by_length = sorted(decoder.scored, key=len)
        for path in by_length:
            self._next.setdefault(path[:-1], []).append(path)
            self._score[path] = self._score[path[:-1]] + decoder.scored[path]
        for length in range(1, len(by_length[-1]) + 1):
            level = [path for path in by_length if len(path) == length]
            above = torch.tensor([self._node[path[:-1]] for path in level])
            nodes = self._trie.child(above, torch.tensor([path[-1] for path in level]))
            self._node |= dict(zip(level, nodes.tolist(), strict=True))
        self._below = self._count_names()

    def judge(self, *, exact: bool, last: float, by_token: bool) -> None:
        """Tell what became of each sequence.

        Args:
            exact: whether the list found is.
            last: what the last name of the list is worth, -inf if the list is not full.
            by_token: whether names are worth their log-probability a token.
        """
        paths = list(self._node)
        nodes = torch.tensor([self._node[path] for path in paths])
        longest = self._trie.longest()[nodes].tolist() if by_token else [1] * len(paths)
        for path, is_name, tokens in zip(paths, self._trie.is_leaf(nodes).tolist(), longest, strict=True):
            if is_name:
                self._outcome[path] = "name"
            elif path in self._decoder.run:
                self._outcome[path] = "extended"
            else:
                # An exact list says so of every branch; sums made here round a little otherwise than the search's.
                beaten = exact or self._score[path] / tokens <= last
                self._outcome[path] = "outscored" if beaten else "beam"

    def branch(self, above: Path, path: Path) -> Branch:
        """The branch that begins after `above` with `path`, and all that is below it."""
        while path and len(below := self._next.get(path, [])) == 1:
            (path,) = below
        prefix, before = self._text(path), self._text(above)
        branches = [self.branch(path, child) for child in self._next.get(path, [])]
        name: str | None = None
        ids: tuple[str, ...] = ()
        rank: int | None = None
        if self._outcome[path] == "name":
            index = int(self._trie.name(torch.tensor([self._node[path]]))[0])
            concepts = self._targets.concepts(index, self._restriction)
            name, ids = self._kb.names[index], tuple(self._kb.concepts[c].id for c in concepts)
            rank = self._rank.get(index)
        return Branch(
            text=prefix[len(before) :],
            prefix=prefix,
            log_prob=self._score[path] - self._score[above],
            score=self._score[path],
            tokens=len(path) - len(above),
            outcome=self._outcome[path],
            rank=rank,
            name=name,
            ids=ids,
            names_below=self._below[path],
            branches=tuple(sorted(branches, key=lambda branch: -branch.score)),
        )

    def _text(self, path: Path) -> str:
        tokenizer = self._targets.formatter.tokenizer
        text = tokenizer.decode(path, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Of a character of several tokens there is nothing to show before its last.
        return str(text).lstrip().rstrip("\N{REPLACEMENT CHARACTER}")

    def _count_names(self) -> dict[Path, int]:
        """Names allowed below each sequence: the nodes below one node are neighbours at every depth."""
        first_child = self._trie.first_child.numpy()
        allowed = first_child[1:] == first_child[:-1]
        if self._restriction is not None:
            leaves = np.flatnonzero(allowed)
            allowed[leaves] = self._restriction.allows(leaves)
        before = np.concatenate([[0], np.cumsum(allowed)])
        first = np.array(list(self._node.values()))
        end, names = first + 1, np.zeros(len(first), dtype=np.int64)
        while (first < end).any():
            names += before[end] - before[first]
            first, end = first_child[first], first_child[end]
        return dict(zip(self._node, names.tolist(), strict=True))
