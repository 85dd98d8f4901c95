"""What a run of training publishes: its finished linker, the pairs of its rounds, and if asked for their linkers.

Knows folders and the Hub, and neither models nor training. The linkers of rounds are in `round_publishing.py`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from angel_trl.hub import Published, PublishError, check_publishable, publish_folder
from angel_trl.hub_files import HUB_OWN_FILE
from angel_trl.hub_remote import FAILURES, Remote
from angel_trl.linker_files import LINKER_FILES, SETTINGS
from angel_trl.pairs_card import pairs_card
from angel_trl.round_publishing import FAILED, ROUNDS_BRANCH, RoundPublisher, round_name

__all__ = ["Destination", "Outcome", "announce", "check_destination", "hub_id", "publish_run", "push_pairs"]

logger = logging.getLogger(__name__)

_ROUND = re.compile(r"round-\d+")
_PAIRS_FILE = re.compile(r"data/round-\d+\.parquet")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_ATTEMPTS = 5
# What is stated of a run, and what the card of its pairs calls it.
_OF_PAIRS = {key: key for key in ("corpus", "datasets", "kb_id", "kb_license", "language", "command")}
_OF_PAIRS |= {"corpus_license": "license", "mining": "settings"}


def hub_id(source: str | None) -> str | None:
    """A model or data source if it is a repository on the Hub, "user/name"; None if it is anything else."""
    return source if source and _HUB_ID.fullmatch(source) and not Path(source).exists() else None


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """Where a run is published.

    Args:
        model_id: "user/name" of the linker.
        pairs_id: "user/name" of the dataset of mined pairs; None leaves them out.
        private: whether new repositories are private; None for the account's default. The pairs, which hold passages
            of the corpus, are private unless this is False.
        revision: branch of the finished linker, None for `main`.
        rounds: whether the linker of each round is published, with a tag, on the branch `rounds`.
        token: an access token; the saved one if None.
    """

    model_id: str
    pairs_id: str | None = None
    private: bool | None = None
    revision: str | None = None
    rounds: bool = False
    token: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for repo_id in filter(None, (self.model_id, self.pairs_id)):
            if repo_id.count("/") != 1:
                raise ValueError(f"{repo_id!r} is no id of a Hub repository: give 'user/name', which cards say.")
        if self.rounds and self.revision == ROUNDS_BRANCH:
            raise ValueError(
                f"hub_revision is {ROUNDS_BRANCH!r}, where the linkers of rounds go: choose another branch."
            )

    @property
    def pairs_private(self) -> bool:
        """Whether the pairs are private."""
        return self.private is not False

    @property
    def repositories(self) -> Iterator[tuple[str, str, bool | None]]:
        """Name, type and privacy of each repository."""
        yield self.model_id, "model", self.private
        if self.pairs_id is not None:
            yield self.pairs_id, "dataset", self.pairs_private


def check_destination(to: Destination, own_rounds: Iterable[str] = ()) -> None:
    """See that a run can be published, before the hours that it takes; nothing is changed on the Hub.

    Args:
        to: where.
        own_rounds: names of rounds, such as "round-01", that this very run has made before it was interrupted.

    Raises:
        ValueError: if the Hub cannot have a repository of such a name.
        PublishError: as `check_publishable`; if a repository is private and is to be public, or the other way round;
            if the model has tags of the rounds of another run, or the dataset holds something else than pairs.
    """
    for repo_id, repo_type, private in to.repositories:
        check_publishable(repo_id, repo_type=repo_type, token=to.token)
        remote = Remote(repo_id, repo_type, to.token, _ATTEMPTS)
        with _explained(remote):
            exists_private = remote.is_private()
            if exists_private is None:
                continue
            if private is not None and exists_private != private:
                raise PublishError(_other_visibility(remote, exists_private))
            if repo_type == "dataset":
                _check_pairs(remote)
                continue
            if to.rounds:
                _check_tags(remote, own_rounds)
            _warn_of_other_model(remote, to.revision or "main")


def announce(to: Destination) -> None:
    """Log where a run will be published, and who will see it."""
    seen = {
        None: "visible as your account's default says, if it is new",
        True: "privately",
        False: "for everyone to see",
    }
    rounds = ", and of each round as it is made" if to.rounds else ""
    told = "The linker, with a copy of its knowledge base, will be published as %s, %s%s."
    logger.info(told, to.model_id, seen[to.private], rounds)
    if to.pairs_id is not None:
        logger.info(
            "The mined pairs, which hold passages of the corpus, will be published as the dataset %s, %s.",
            to.pairs_id,
            seen[to.pairs_private],
        )


def _other_visibility(remote: Remote, is_private: bool) -> str:
    has, wanted = ("private", "public") if is_private else ("public", "private")
    why = ""
    if remote.repo_type == "dataset" and not is_private:
        why = " (mined pairs hold passages of the corpus; hub_private false says that all may see them)"
    return (
        f"{remote} cannot be published: it exists and is {has}, and is to be {wanted}{why}. Change that on "
        f"{remote.url}/settings, or choose another name."
    )


def _check_tags(remote: Remote, own: Iterable[str]) -> None:
    taken = sorted(tag for tag in remote.tags().keys() - set(own) if _ROUND.fullmatch(tag))
    if taken:
        raise PublishError(
            f"{remote} cannot be published: it has the tags {', '.join(taken)} of another run's rounds. Choose "
            "another hub_model_id; or go on with that run (--resume); or publish the finished linker only "
            f"(hub_strategy end); or delete them, one by one: hf repos tag delete {remote.repo_id} {taken[0]}"
        )


def _held(remote: Remote, branch: str) -> list[str]:
    """The files of a branch, without its card and what the Hub puts there; none if there is no such branch."""
    head = remote.head(branch)
    files = remote.tree(head) if head is not None else {}
    return [path for path in files if path not in ("README.md", HUB_OWN_FILE)]


def _warn_of_other_model(remote: Remote, branch: str) -> None:
    held = _held(remote, branch)
    if held and SETTINGS not in held:
        logger.warning(
            "%s holds %s on %s, so is no linker: weights, settings, tokenizer and card there will be replaced, and be "
            "in its history only. Choose another hub_model_id to keep them.",
            remote,
            ", ".join(held[:3]),
            branch,
        )


def _check_pairs(remote: Remote) -> None:
    others = [path for path in _held(remote, "main") if not _PAIRS_FILE.fullmatch(path)]
    if others:
        raise PublishError(
            f"{remote} cannot be published: it holds {', '.join(others[:3])}, so is not a dataset of mined pairs. "
            "Choose another hub_pairs_id, or 'none'."
        )


@contextmanager
def _explained(remote: Remote) -> Iterator[None]:
    try:
        yield
    except PublishError:
        raise
    except FAILURES as error:
        raise PublishError(f"{remote} cannot be published: {remote.explain(error)}") from error


@dataclasses.dataclass(slots=True)
class Outcome:
    """What came of publishing a run.

    Attributes:
        published: what was published: "model", "pairs".
        rounds: addresses of the linkers of rounds on the Hub, by name.
        failures: why something was not published, by what: "model", "pairs", "round-01".
        not_kept: names of rounds whose linker is neither on the Hub nor here any more.
    """

    published: dict[str, Published] = dataclasses.field(default_factory=dict)
    rounds: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    not_kept: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"Published: {published}" for published in self.published.values()]
        if self.rounds:
            names, last = ", ".join(self.rounds), list(self.rounds.values())[-1]
            lines.append(f"Published: the linkers of rounds, with the tags {names}: {last}")
        if self.not_kept:
            lines.append(f"Not kept, so not published: the linkers of {', '.join(self.not_kept)}.")
        lines += [f"NOT published, {what}: {reason}" for what, reason in self.failures.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        published: dict[str, Any] = {
            what: {key: getattr(of, key) for key in ("repo_id", "url", "commit", "revision", "tag")}
            for what, of in self.published.items()
        }
        return {**published, "rounds": self.rounds, "failed": self.failures}


def publish_run(
    linker: str | Path,
    folder: str | Path,
    to: Destination,
    *,
    card: Mapping[str, Any] | None = None,
    rounds: RoundPublisher | None = None,
    tag: str | None = None,
    message: str = "Linker",
) -> Outcome:
    """Publish a run that has ended: the finished linker, its pairs, and linkers of rounds that are still here.

    What is there already is not sent again, so that this can be called until all is published.

    Args:
        linker: folder of the finished linker, with its card.
        folder: `output_dir` of the rounds; it may not be there.
        to: where to.
        card: what is stated of the run; the card of the pairs takes from it `corpus`, `datasets`, `corpus_license`,
            `kb_id`, `kb_license`, `language` and `command`, and the settings `mining`.
        rounds: who has published rounds of the run meanwhile, if any.
        tag: a tag for the finished linker.
        message: title of the commit of the finished linker.

    Returns:
        What was published and what was not; everything is still in its folder, but for published rounds.
    """
    outcome, folder = Outcome(), Path(folder)
    try:
        outcome.published["model"] = publish_folder(
            linker,
            to.model_id,
            private=to.private,
            revision=to.revision,
            tag=tag,
            delete_others=LINKER_FILES,
            commit_message=message,
            token=to.token,
        )
    except FAILED as error:
        outcome.failures["model"] = str(error)
    made = sorted((folder / "pairs").glob("round-*.parquet"))
    if to.pairs_id is not None:
        try:
            if any(map(_has_pairs, made)):
                said = {_OF_PAIRS[key]: value for key, value in (card or {}).items() if key in _OF_PAIRS}
                outcome.published["pairs"] = push_pairs(made, to, model_id=to.model_id, **said)
        except FAILED as error:
            outcome.failures["pairs"] = str(error)
    if to.rounds:
        rounds = rounds or RoundPublisher(folder, to.model_id, private=to.private, token=to.token)
        outcome.failures |= rounds.finish()
        outcome.rounds = rounds.published
        known = rounds.known
        outcome.not_kept = [name for name in map(round_name, range(1, len(made) + 1)) if name not in known]
    return outcome


def push_pairs(files: Iterable[Path], to: Destination, **card: Any) -> Published:
    """Publish the pairs of rounds as one dataset, with a configuration for each round that has any and a card.

    Args:
        files: what `PairMiningCallback` has written, in the order of the rounds.
        to: where to.
        card: arguments of `pairs_card`.

    Raises:
        ValueError: as `publish_folder`, or if `to` has no `pairs_id` or there are no pairs.
        OSError: if a file cannot be read.
        PublishError: as `publish_folder`.
    """
    if to.pairs_id is None:
        raise ValueError("The destination has no pairs_id: say where the pairs are to be published.")
    rounds = {round_name(number): path for number, path in enumerate(files, 1)}
    first = next(iter(rounds.values()))
    # Beside the files, so that they can be linked there in place of being copied.
    with tempfile.TemporaryDirectory(prefix="publishing-", dir=first.parent) as folder:
        (Path(folder) / "data").mkdir()
        for name, path in rounds.items():
            if _has_pairs(path):
                _link(path, Path(folder) / "data" / f"{name}.parquet")
        pairs_card(rounds, repo_id=to.pairs_id, **card).save(Path(folder) / "README.md")
        return publish_folder(
            folder,
            to.pairs_id,
            repo_type="dataset",
            private=to.pairs_private,
            # Of a run with more rounds.
            delete_others=["data/round-*.parquet"],
            commit_message=f"Pairs of {len(rounds)} rounds",
            token=to.token,
        )


def _has_pairs(path: Path) -> bool:
    return pq.read_metadata(path).num_rows > 0


def _link(path: Path, to: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        to.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, to)
