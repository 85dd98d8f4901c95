"""What the recipe publishes on the Hub: seen to be possible before training, done and told in the end."""

import dataclasses
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from angel_trl import AngelConfig, AngelTrainer
from angel_trl.card_parts import public
from angel_trl.hub import PublishError
from angel_trl.linker_hub import add_card
from angel_trl.model_card import Stated
from angel_trl.publishing import Destination, Outcome, announce, check_destination, hub_id, publish_run
from angel_trl.round_publishing import RoundPublisher
from angel_trl.scratch import SCRATCH_PRESETS

logger = logging.getLogger("recipes.publishing")

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = Path(__file__).parent / "configs" / "quickstart.yaml"
"""The settings of the recipe when no other file is given."""
LAUNCH = ("accelerate", "launch")


@dataclass
class PublishArguments:
    """What is published besides what `AngelConfig` says, and what is stated of it."""

    script: ClassVar[str] = "recipes/angel.py"
    hub_private: bool | None = field(
        default=None,
        metadata={
            "help": "Whether new repositories are private; default: the linker as your account says, the mined pairs, "
            "which hold passages of the corpus, private. false makes both public."
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Of the linker: an id of the Hub's list, or a name and a URL. Not stated if left out."},
    )
    kb_license: str | None = field(default=None, metadata={"help": "Of the knowledge base in it, likewise."})
    corpus_license: str | None = field(
        default=None, metadata={"help": "Of the corpus, whose passages the pairs hold, likewise."}
    )
    kb_id: str | None = field(
        default=None, metadata={"help": "Hub dataset of the knowledge base; default: --kb if it is one."}
    )
    language: str | None = field(default=None, metadata={"help": "Of texts and names, such as en, for the cards."})


class PublishingTrainer(AngelTrainer):
    """A trainer of rounds that goes on where it cannot publish now: the recipe asked before its first stage."""

    def check_destination(self, to: Destination, own_rounds: Iterable[str] = ()) -> None:
        try:
            super().check_destination(to, own_rounds)
        except PublishError as error:
            logger.warning("Training goes on, and publishing is tried again later: %s", error)


class Publication:
    """What a run of the recipe publishes, if anything.

    Args:
        told: what is stated of it.
        angel: where to, if anywhere; told whether repositories are private.
        model: the model that training began with: a preset, a path or a Hub id.
        corpus: a path, a URL, a Hub id or None for synthetic data.
        kb: likewise.
        argv: the command line, without the script.
        mine_folds: held-out models that mine, 0 for none.
        mention_names: whether training mentions are names of the knowledge base.

    Attributes:
        card: what is stated of the run.
        rounds: who has published rounds meanwhile, if any were made by this process.

    Raises:
        SystemExit: for what cannot be stated.
    """

    def __init__(
        self,
        told: PublishArguments,
        angel: AngelConfig,
        *,
        model: str,
        corpus: str | None,
        kb: str | None,
        argv: Sequence[str],
        mine_folds: int = 0,
        mention_names: bool = False,
    ) -> None:
        if told.hub_private is not None:
            if angel.hub_private_repo not in (None, told.hub_private):
                raise SystemExit("--hub_private and --hub_private_repo contradict each other: give the first.")
            angel.hub_private_repo = told.hub_private
        self.rounds: RoundPublisher | None = None
        self.to = angel.hub_destination() if angel.push_to_hub else None
        self._settings, self._mining = _settings(argv), angel.mining_settings()
        self._launch = (*LAUNCH, told.script)
        if mine_folds:
            self._mining["held_out_models"] = mine_folds
        if mention_names:
            self._mining["mention_names"] = True
        datasets = [of for of in [hub_id(corpus)] if of]
        self.card: dict[str, Any] = {
            "license": told.license,
            "kb_license": told.kb_license,
            "kb_id": told.kb_id or hub_id(kb),
            "base_model": None if model in SCRATCH_PRESETS or Path(model).exists() else model,
            "datasets": datasets,
            "corpus": "the synthetic quickstart" if corpus is None else public(corpus),
            "language": told.language,
            "command": shlex.join([*self._launch, *(_public(word) for words in self._settings for word in words)]),
        }
        try:
            Stated(**self.card, repo_id=self.to and self.to.model_id)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        self.card["corpus_license"] = told.corpus_license

    def check(self, rounds: Path, *, resume: bool, skip_angel: bool) -> None:
        """See that all can be published, before the hours of work that make it.

        Args:
            rounds: folder of the rounds.
            resume: whether they go on.
            skip_angel: whether there are no rounds.

        Raises:
            SystemExit: if it cannot, saying what to do.
        """
        if self.to is None:
            return
        if skip_angel:
            self.to = dataclasses.replace(self.to, pairs_id=None, rounds=False)
        own = RoundPublisher(rounds, self.to.model_id).known if resume else ()
        try:
            check_destination(self.to, own)
        except (ValueError, PublishError) as error:
            raise SystemExit(str(error)) from error
        announce(self.to)

    def add_card(self, linker: Path, results: Mapping[str, Any], curve: Path | None) -> None:
        """Write the card into the linker's folder, whether or not it is published."""
        card = {key: value for key, value in self.card.items() if key != "corpus_license"}
        if self.to is not None:
            revision = self.to.revision if self.to.revision != "main" else None
            card |= {"repo_id": self.to.model_id, "revision": revision}
        add_card(linker, results=results, curve=curve, **card)

    def publish(self, linker: Path, rounds: Path) -> Outcome:
        """Publish and print what is where; nothing if nothing is to be published."""
        if self.to is None:
            return Outcome()
        said = {**self.card, "mining": self._mining}
        outcome = publish_run(linker, rounds, self.to, card=said, rounds=self.rounds)
        print(outcome)
        if "pairs" in outcome.published:
            seen = (
                "the dataset is private (--hub_private false makes a new one public)"
                if self.to.pairs_private
                else "everyone can see them, as you asked for (--hub_private false)"
            )
            print(f"The pairs hold passages of the corpus: {seen}.")
        if outcome.failures:
            again = [*self._launch, *(word for words in self._settings for word in words), "--resume"]
            print(
                f"Everything is kept: {linker}, {rounds}. To publish what is missing, without training again:\n"
                f"  {shlex.join(again)}"
            )
        return outcome


def _settings(argv: Sequence[str]) -> list[list[str]]:
    """The settings on a command line, each with its values, without what is secret or not for every run.

    The quickstart has its own `--config` without being told.
    """
    settings: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not settings:
            settings.append([])
        settings[-1].append(word)
    return [
        words for words in settings if _name(words) not in ("hub_token", "resume") and words[1:] != [str(QUICKSTART)]
    ]


def _name(words: Sequence[str]) -> str:
    """What is set: names may be written with hyphens."""
    return words[0].partition("=")[0].lstrip("-").replace("-", "_")


def _public(word: str) -> str:
    """A word of a command line as others can use it: without folders of this machine."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value).resolve()
    if value and path.exists() and path.is_relative_to(ROOT / "recipes"):
        return f"{name}{equals}{path.relative_to(ROOT).as_posix()}"
    return f"{name}{equals}{public(value)}"
