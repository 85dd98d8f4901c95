"""The model card of a linker: what it is, what it was trained on, what it scores, what it cannot do.

All of it comes from the linker and from the results of its run; what is not known is left out or said to be unknown.
The text is in `templates/`; what users and their files say is escaped or quoted before it gets there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angel_trl.card_parts import escape, fence, license_metadata, license_text, plain, public, redact, table, versions
from angel_trl.cards import STATISTICS
from angel_trl.confidence import Calibration
from angel_trl.formatting import MentionFormat
from angel_trl.kb import KnowledgeBase

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

__all__ = ["LinkerFacts", "Stated", "linker_card", "public_results"]

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_STAGES = ("ANGEL", "positive-only")
_SYSTEMS = {"lookup": "string lookup", "lookup + training mentions": "string lookup, with the training mentions"}
# Of `angel_trl.metrics.METRICS`, in percent.
_METRICS = {"acc@1": "Acc@1, any-id", "acc@1_strict": "Acc@1, strict", "acc@5": "Acc@5, any-id", "mrr": "MRR, any-id"}
# Settings that say where and how a run was kept, watched and published, or that follow from others.
_UNTOLD = re.compile(
    "(hub|push|log|logging|save|trackio|dataloader|ddp)_.*|output_dir|run_name|project|report_to|disable_tqdm|debug|"
    "resume.*|cpu_threads|num_train_epochs|do_eval|precompute_ref_log_probs|accelerator_config|pad_to.*"
)
_WHOLE = "give results as the recipe writes them to results.json."


@dataclasses.dataclass(frozen=True, slots=True)
class Stated:
    """What whoever publishes a linker says of it. Nothing is made up for what is left out.

    Args:
        repo_id: where it will be on the Hub, "user/name".
        revision: the branch or tag there.
        license: of the model; see `angel_trl.card_parts.license_metadata`.
        kb_license: of the knowledge base, likewise.
        kb_id: the Hub dataset that has the knowledge base.
        base_model: the Hub model that training began with; None for random weights, or what is not on the Hub.
        datasets: Hub datasets it was trained on.
        corpus: what it was scored on, for people; None takes the name of the run's corpus.
        language: ISO 639 code of texts and names.
        command: the command that made it. Tokens, secrets in URLs and the home folder's name are left out.
        round: of a checkpoint, the rounds done: 3, or with how many there are, `(3, 10)`; None for the outcome.

    Raises:
        ValueError: for what the Hub would refuse after the upload, such as a path in place of an id.
    """

    repo_id: str | None = None
    revision: str | None = None
    license: str | None = None
    kb_license: str | None = None
    kb_id: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] | str | None = None
    corpus: str | None = None
    language: str | None = None
    command: str | None = None
    round: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("repo_id", "kb_id", "base_model"):
            _check_id(getattr(self, name), name)
        for place, dataset in enumerate(self.mention_datasets):
            _check_id(dataset, f"datasets[{place}]")
        if self.language is not None and not re.fullmatch("[a-z]{2,3}|code|multilingual", self.language):
            raise ValueError(f"language is {self.language!r}; give an ISO 639 code such as 'en', or 'multilingual'.")
        given: list[Any] = list(self.round) if isinstance(self.round, list | tuple) else [self.round or 0]
        if len(given) not in (1, 2) or any(type(n) is not int or n < 0 for n in given) or given[0] > given[-1]:
            raise ValueError(f"round is {self.round!r}; give the rounds done, as 3, or of how many too, as (3, 10).")

    @property
    def mention_datasets(self) -> list[str]:
        """Hub datasets without the knowledge base's, each once."""
        given = [self.datasets] if isinstance(self.datasets, str) else self.datasets or ()
        return [dataset for dataset in dict.fromkeys(given) if dataset != self.kb_id]

    @property
    def rounds(self) -> tuple[int | None, int | None]:
        """The rounds done and how many there are, as far as stated."""
        given = self.round if isinstance(self.round, list | tuple) else (self.round,)
        return given[0], given[1] if len(given) == 2 else None


@dataclasses.dataclass(frozen=True, slots=True)
class LinkerFacts:
    """What a card says of the linker itself.

    Args:
        kb: the knowledge base.
        mention_format: choices of the input format.
        calibration: None if it has none.
        architecture: the model's class in transformers.
        parameters: how many numbers its weights are.
    """

    kb: KnowledgeBase
    mention_format: MentionFormat
    calibration: Calibration | None
    architecture: str
    parameters: int


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a run as plain JSON values that may be published.

    Paths become names of files; tokens and what is secret in URLs is left out. So are the examples of what readers
    skipped and repaired, which are text of the corpus, and the advice that goes with them.

    Args:
        results: as the recipes write them to results.json.

    Raises:
        ValueError: if they cannot be written as JSON: a number that is not finite, for instance.
    """

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: told(item) for key, item in value.items() if key not in ("examples", "fixes")}
        if isinstance(value, list):
            return [told(item) for item in value]
        return public(value) if isinstance(value, str) else value

    try:
        return told(json.loads(json.dumps(results, default=str, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The results are not JSON ({error}): {_WHOLE}") from error


def linker_card(
    facts: LinkerFacts, *, results: Mapping[str, Any] | None = None, curve: bool = False, **stated: Any
) -> ModelCard:
    """Make the card of a Hub model that holds a linker.

    Args:
        facts: of the linker.
        results: of its run, as the recipes write them to results.json; any part may be missing: `test` (scores by
            system; this linker is "ANGEL", or "positive-only" if that is not there), `difference`, `within_types`,
            `settings`, `data`, `counts`. With `round` no row is taken for this linker's.
        curve: whether `learning_curve.png` will be beside it.
        stated: fields of `Stated`.

    Raises:
        ValueError: for results of another form, or as `Stated`.
        TypeError: for an unknown field.
    """
    from huggingface_hub import ModelCard, ModelCardData

    said, results = Stated(**stated), public_results(results or {})
    rows = {system: _part(results, "test", system) for system in _part(results, "test")}
    stage = next((system for system in _STAGES if system in rows), None)
    own = stage if said.round is None else None
    data, recipe = _part(results, "data").get("corpus"), _part(results, "settings", "recipe")
    split = "dev" if recipe.get("test_split") == "dev" else "test"
    synthetic = isinstance(data, str) and data.startswith("synthetic")
    ran_on = "the synthetic quickstart" if synthetic else recipe.get("corpus")
    corpus = plain(said.corpus or str(ran_on or ""))[:120]
    datasets = [*said.mention_datasets, *([said.kb_id] if said.kb_id else [])]
    metadata = {
        "language": said.language,
        **license_metadata(said.license),
        "library_name": "angel_trl",
        # No pipeline_tag: none of the Hub's is entity linking, and another would promise a widget that cannot work.
        "tags": ["angel_trl", "entity-linking"],
        "base_model": said.base_model,
        "datasets": datasets or None,
    }
    if own is not None:
        metadata["model_name"] = (said.repo_id or "linker").rpartition("/")[2]
        metadata["eval_results"] = _eval_results(rows[own], own, said, corpus, split)
    statistics, preset = facts.kb.statistics(), str(recipe.get("model"))
    unwritable = _part(results, "counts").get("names no model can write")
    revision = f", revision={json.dumps(said.revision)}" if said.revision else ""
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(_TEMPLATE),
        title=escape(said.repo_id or corpus or "Entity linker"),
        rounds=(said.rounds[0], said.rounds[1] or _part(results, "settings", "angel").get("num_rounds")),
        statistics=statistics,
        stage=_STAGES[0] if said.round is not None else stage or _stage(results),
        architecture=escape(facts.architecture),
        size=_size(facts.parameters),
        base=said.base_model and f"[{escape(said.base_model)}](https://huggingface.co/{said.base_model})",
        preset=escape(preset) if preset.startswith("scratch-") else "",
        location=f"{json.dumps(said.repo_id or 'path/to/linker')}{revision}",
        example=json.dumps(f"About [{_example_name(facts.kb)}] in a sentence.", ensure_ascii=False),
        format=facts.mention_format,
        kb=" ".join(_origin(facts.kb, said, results)),
        counts=table(
            ["", "count"], [[told, f"{statistics[key]:,}"] for key, told in STATISTICS.items() if statistics[key]], [1]
        ),
        fingerprint=facts.kb.fingerprint,
        kb_license=license_text(said.kb_license, " of the knowledge base"),
        corpus=escape(corpus),
        split=split,
        mentions=" or ".join(dict.fromkeys(_count(row["mentions"]) for row in rows.values() if "mentions" in row)),
        intervals=any(row.get(f"{metric}_ci") for row in rows.values() for metric in _METRICS),
        scores=_scores(rows, own),
        difference=_difference(results),
        within_types=bool(results.get("within_types")),
        calibration=facts.calibration,
        fitted=_fitted(facts.calibration),
        curve=curve,
        training=list(_training(datasets, said.command, results)),
        versions=versions(("torch", "transformers", "trl", "datasets")),
        synthetic=synthetic,
        language=said.language,
        unwritable=_count(unwritable) if unwritable else "",
        license=license_text(said.license, " of the model"),
    )
    card.text = card.text.rstrip() + "\n"
    return card


def _stage(results: Mapping[str, Any]) -> str | None:
    skipped = bool(_part(results, "settings", "recipe").get("skip_angel"))
    return _STAGES[skipped] if _part(results, "settings", "angel") else None


def _size(count: int) -> str:
    words = f"{count / 1e6:.1f} million" if count < 1e9 else f"{count / 1e9:.1f} billion"
    return words if count >= 1e5 else f"{count:,}"


def _example_name(kb: KnowledgeBase) -> str:
    """A name that can stand in brackets in a line of code."""
    names = (concept.names[0] for concept in kb.concepts[:1000])
    return next(filter(re.compile(r"\w[\w ,'-]{0,60}").fullmatch, names), "mention")


def _origin(kb: KnowledgeBase, said: Stated, results: Mapping[str, Any]) -> Iterator[str]:
    if said.kb_id:
        yield f"From the dataset [{escape(said.kb_id)}](https://huggingface.co/datasets/{said.kb_id})."
    if kb.source:
        yield f"Source: {escape(public(kb.source))}."
    yield from _account(_part(results, "data", "kb lines"), "records of the source")


def _account(report: Mapping[str, Any], what: str) -> Iterator[str]:
    """What a reader did (`ReadReport.to_dict()`), in a sentence."""
    if {"read", "used"} <= report.keys():
        told = [f"{_count(report['used'])} of {_count(report['read'])} {what} were used"]
        for kind, said in (("skipped", "left out"), ("repaired", "repaired")):
            reasons = [f"{escape(reason)} ({_count(count)})" for reason, count in _part(report, kind).items()]
            told += [f"{said}: {', '.join(reasons)}"] if reasons else []
        yield "; ".join(told) + "."


def _scores(rows: Mapping[str, Mapping[str, Any]], own: str | None) -> str:
    body = []
    for system, row in rows.items():
        name = escape(_SYSTEMS.get(system, system))
        cells = [_score(row, metric, system) for metric in _METRICS]
        body.append([f"**{name}** (this linker)" if system == own else name, *cells])
    return table(["", *_METRICS.values()], body, range(1, 1 + len(_METRICS))) if body else ""


def _score(row: Mapping[str, Any], metric: str, system: str) -> str:
    what, interval = f"{metric} of {system}", row.get(f"{metric}_ci")
    text = f"{_number(row.get(metric), what):.1f}"
    return text if interval is None else "{} ({:.1f}–{:.1f})".format(text, *_interval(interval, what))


def _difference(results: Mapping[str, Any]) -> tuple[float, float, float] | None:
    found, what = _part(results, "difference"), "the difference"
    return (_number(found.get("difference"), what), *_interval(found.get("ci"), what)) if found else None


def _eval_results(row: Mapping[str, Any], system: str, said: Stated, corpus: str, split: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    dataset = next(iter(said.mention_datasets), "")
    # The Hub wants (?:[\w-]+\/)?[\w-.]+ of ASCII characters here, an id or what looks like one.
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", corpus).strip("-.")
    return [
        EvalResult(
            task_type="entity-linking",
            task_name="Entity linking",
            dataset_type=dataset or slug or "unknown",
            dataset_name=corpus or dataset or "unknown",
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(_number(row.get(metric), f"{metric} of {system}"), 2),
        )
        for metric, name in _METRICS.items()
    ]


def _fitted(calibration: Calibration | None) -> dict[str, float]:
    """What a calibration did where it was fitted, as far as its report tells."""
    report = {} if calibration is None else calibration.report
    after, before = _part(report, "after"), _part(report, "before")
    found = {key: after.get(key) for key in ("mentions", "ece", "precision", "coverage")}
    found["ece_before"] = before.get("ece")
    return {key: _number(value, f"{key} of the calibration") for key, value in found.items() if value is not None}


def _training(datasets: Sequence[str], command: str | None, results: Mapping[str, Any]) -> Iterator[str]:
    if datasets:
        links = ", ".join(f"[{escape(name)}](https://huggingface.co/datasets/{name})" for name in datasets)
        yield f"Datasets: {links}."
    corpus = _part(results, "data").get("corpus")
    if isinstance(corpus, str):
        yield f"Corpus: {escape(corpus)}."
    elif corpus is not None:
        yield from _account(_part(results, "data", "corpus"), "mentions of the corpus")
    rows = []
    for split, report in _part(results, "counts").items():
        if isinstance(report, dict):
            kinds = {key: _count(count) for key, count in report.items()}
            told = [kinds.pop(key, "") for key in ("read", "used")]
            rows.append([escape(split), *told, "; ".join(f"{escape(key)}: {count}" for key, count in kinds.items())])
    if rows:
        yield table(["mentions", "read", "used", ""], rows, [1, 2])
    if settings := _settings(results):
        yield f"Settings (of the rounds, those that are not defaults of `AngelConfig`):\n\n{fence(settings, 'yaml')}"
    if command:
        yield f"Command:\n\n{fence(redact(command), 'bash')}"


def _settings(results: Mapping[str, Any]) -> str:
    """The settings that say something of the model, as YAML."""
    import yaml

    recipe, angel = _part(results, "settings", "recipe"), dict(_part(results, "settings", "angel"))
    if recipe.get("skip_angel"):  # There were no rounds.
        angel = {key: angel[key] for key in ("seed", "num_beams", "within_types", "use_cpu") if key in angel}
    if angel:
        # Imports TRL, which a linker without results does not need.
        from angel_trl.config import AngelConfig

        for field in dataclasses.fields(AngelConfig):
            default = field.default_factory() if callable(field.default_factory) else field.default
            value, default = angel.get(field.name), getattr(default, "value", default)
            if value == default or (_is_off(value) and _is_off(default)):
                angel.pop(field.name, None)
    told = {key: value for key, value in recipe.items() if not _is_off(value)} | angel
    told = {key: value for key, value in told.items() if not _UNTOLD.fullmatch(key)}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).strip() if told else ""


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _part(results: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A mapping within results; empty if it is not there.

    Raises:
        ValueError: if there is something else in its place.
    """
    part: Any = results
    for key in path:
        part = part.get(key, {})
        if not isinstance(part, dict):
            raise ValueError(f"{key!r} in the results is {part!r:.60}, not a mapping: {_WHOLE}")
    return part


def _number(value: Any, what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, not a number: {_WHOLE}")
    return value


def _count(value: Any) -> str:
    return f"{_number(value, 'a count in the results'):,}"


def _interval(value: Any, what: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{what} is {value!r}, not the two ends of an interval: {_WHOLE}")
    return _number(value[0], what), _number(value[1], what)


def _check_id(value: str | None, name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id("some/name" if value is None else value)
        is_id = value is None or (value.isascii() and ("/" in value or name not in ("repo_id", "kb_id")))
    except HFValidationError:
        is_id = False
    if not is_id:
        raise ValueError(f"{name} is {value!r}, which is no id on the Hub; give user/name.")
