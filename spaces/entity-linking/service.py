"""What the Space answers, as plain data: links, explanations, comparisons. Knows no Gradio and no HTML."""

import dataclasses
import functools
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from settings import CHUNK, MAX_ALLOWED, MAX_BEAMS, MAX_CHARACTERS, MAX_MENTIONS, TOP_K, Settings

from angel_trl import Candidate, EntityLinker, Linked, Restriction
from angel_trl.explanation import Explanation, explain
from angel_trl.linked import Ner, parse_brackets, recognized_spans

_SEARCH: dict[str, Any] = {"top_k": TOP_K, "exact": True, "max_beams": MAX_BEAMS}


class VisitorError(ValueError):
    """Something a visitor can put right; the message says what and how, and shows nothing of the server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a passage was answered.

    Args:
        text: the passage without brackets.
        links: its mentions in order.
        notices: what was cut or left out, for the visitor.
        types: semantic types that answers were restricted to, none for all.
        allowed: names or ids that answers were restricted to, none for all.
    """

    text: str
    links: tuple[Linked, ...]
    notices: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def is_restricted(self) -> bool:
        """Whether only some names were allowed."""
        return bool(self.types or self.allowed)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A right name and a wrong one that a round set against each other.

    Args:
        round: the first round that did, from 1.
        chosen: the right name.
        rejected: the wrong name.
        margin: log-probability of the chosen name less that of the rejected one, when it was mined.
        times: how often they were set against each other.
    """

    round: int
    chosen: str
    rejected: str
    margin: float
    times: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One mention before and after the negative-aware rounds.

    Args:
        before: what the positive-only model answers.
        after: what the final model answers.
        pairs: pairs of the rounds that taught something about these names.
    """

    before: Linked
    after: Linked
    pairs: tuple[Pair, ...]


def clean(text: str) -> str:
    """The text with characters that no encoding has (lone surrogates) replaced; as long as before."""
    return "".join("\N{REPLACEMENT CHARACTER}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def parse(text: str) -> tuple[str, list[tuple[int, int]], list[str]]:
    """Take the marked mentions out of a visitor's text, cut to what is answered at once.

    Returns:
        The text without brackets, the mentions' offsets in it, and notices of what was cut.

    Raises:
        VisitorError: if there is no text or no mention, or the brackets do not fit.
    """
    text, notices = clean(text), []
    if not text.strip():
        raise VisitorError("There is no text yet. Paste a passage, or choose an example.")
    if len(text) > MAX_CHARACTERS:
        notices.append(f"The text has {len(text):,} characters; the first {MAX_CHARACTERS:,} were used.")
        text = text[:MAX_CHARACTERS]
        if text.rfind("[") > text.rfind("]"):  # a mention cut in two
            text = text[: text.rfind("[")]
    try:
        plain, spans = parse_brackets(text)
    except ValueError as error:
        if "[" not in text and "]" not in text:
            message = "No mention is marked. Select one and press “Mark selection”, or put it in [brackets]."
        else:
            message = (
                "A bracket has no partner, is empty, or stands inside another. Write [mention], one after the other."
            )
        raise VisitorError(message) from error
    blank = len(spans)
    spans = [(start, end) for start, end in spans if plain[start:end].strip()]
    if blank > len(spans):
        notices.append(f"Brackets with nothing but blanks were left out: {blank - len(spans)}.")
    if not spans:
        raise VisitorError("The brackets hold nothing but blanks.")
    if len(spans) > MAX_MENTIONS:
        notices.append(f"{len(spans):,} mentions are marked; the first {MAX_MENTIONS} were linked. Batch takes more.")
    return plain, spans[:MAX_MENTIONS], notices


class Service:
    """The linkers of the Space; every method may be called by several threads at once.

    Args:
        linker: the linker shown.
        positive: its positive-only stage, if there is one.
        pairs: the pairs its rounds mined, by their chosen name, as `read_pairs` gives them.
        tagger: finds mentions; see `angel_trl.EntityLinker.link`.
    """

    def __init__(
        self,
        linker: EntityLinker,
        positive: EntityLinker | None = None,
        pairs: Mapping[str, Sequence[Pair]] | None = None,
        tagger: Ner | None = None,
    ) -> None:
        self.linker, self.positive, self._pairs = linker, positive, pairs or {}
        self._tagger, self._tagging = tagger, threading.Lock()
        self._restrict = functools.lru_cache(maxsize=64)(functools.partial(_restriction, linker))

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Load what the settings name.

        Raises:
            OSError: if something cannot be fetched.
            ValueError: if a model is no linker, or the pairs are none.
        """
        linker = EntityLinker.from_pretrained(settings.model)
        positive = EntityLinker.from_pretrained(settings.positive) if settings.positive else None
        tagger = None
        if settings.ner:
            from transformers import pipeline

            tagger = pipeline("token-classification", settings.ner, aggregation_strategy="simple")
        return cls(linker, positive, read_pairs(settings.pairs) if settings.pairs else None, tagger)

    @functools.cached_property
    def types(self) -> list[str]:
        """Semantic types of the knowledge base."""
        return sorted({kind for concept in self.linker.kb.concepts for kind in concept.types})

    @property
    def finds_mentions(self) -> bool:
        """Whether there is a model that marks mentions."""
        return self._tagger is not None

    def mark(self, text: str) -> str:
        """The text with what the tagger takes for mentions in brackets; brackets that were there are taken out.

        Raises:
            VisitorError: if there is no text, or nothing is found.
        """
        plain = clean(text)[:MAX_CHARACTERS].replace("[", "").replace("]", "")
        if not plain.strip():
            raise VisitorError("There is no text yet. Paste a passage, or choose an example.")
        marked, at = "", 0
        # A pipeline is not made for several threads.
        with self._tagging:
            found = sorted(recognized_spans(plain, self._tagger)) if self._tagger else []
        for start, end in found:
            if start >= at:
                marked += f"{plain[at:start]}[{plain[start:end]}]"
                at = end
        if not marked:
            raise VisitorError("The model found no mention in this text. Mark one by hand.")
        return marked + plain[at:]

    def answer(
        self, text: str, types: Sequence[str] = (), allowed: Sequence[str] = (), threshold: float | None = None
    ) -> Answer:
        """Link every mention of a visitor's text.

        Args:
            text: with mentions in [brackets].
            types: semantic types to restrict answers to; none for all.
            allowed: names or ids to restrict answers to; none for all.
            threshold: confidence below which there is no answer; the model's own if None.

        Raises:
            VisitorError: for what a visitor can put right.
        """
        plain, spans, notices = parse(text)
        types, allowed = tuple(types), tuple(dict.fromkeys(clean(entry).strip() for entry in allowed if entry.strip()))
        rows = [{"text": plain, "start": start, "end": end} for start, end in spans]
        links = self.link_rows(rows, self.restriction(types, allowed), threshold)
        too_long = sum(not link.candidates for link in links)
        if too_long:
            are = "mention is" if too_long == 1 else "mentions are"
            notices.append(f"{too_long} {are} too long for the model, without an answer.")
        return Answer(plain, tuple(links), tuple(notices), types, allowed)

    def link_rows(
        self,
        rows: Sequence[Mapping[str, Any]],
        restriction: Restriction | None = None,
        threshold: float | None = None,
    ) -> list[Linked]:
        """Link mentions given as mappings with `text`, `start` and `end`.

        Raises:
            VisitorError: for a threshold that is no confidence, or where answers have none.
        """
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise VisitorError("The threshold is a confidence: it must lie between 0 and 1.")
            if not self.is_calibrated or restriction is not None:
                why = (
                    "answers that are restricted have"
                    if self.is_calibrated
                    else "this model is not calibrated and has"
                )
                raise VisitorError(f"A threshold needs confidences, and {why} none. Leave it out.")
        given = {"restrictions": restriction, "nil_threshold": threshold, **_SEARCH}
        # A few at a time: short requests of others get their turn in between.
        parts = (rows[begin : begin + CHUNK] for begin in range(0, len(rows), CHUNK))
        return [link for part in parts for link in self.linker.link_batch(part, **given)]

    @property
    def is_calibrated(self) -> bool:
        """Whether answers have confidences."""
        return self.linker.calibration is not None

    def restriction(self, types: tuple[str, ...], allowed: tuple[str, ...]) -> Restriction | None:
        """What answers are restricted to; None for nothing.

        Raises:
            VisitorError: for names, ids or types that are not in the knowledge base, or if none is left.
        """
        return self._restrict(types, allowed) if types or allowed else None

    def explain(self, answer: Answer, number: int) -> Explanation:
        """What the search did for one mention of an answer.

        Raises:
            VisitorError: if the mention is too long for the model.
        """
        link = answer.links[number]
        restriction = self.restriction(answer.types, answer.allowed)
        try:
            return explain(self.linker, answer.text, (link.start, link.end), restriction=restriction, **_SEARCH)
        except ValueError as error:
            raise VisitorError("This mention is too long for the model: there is no search to show.") from error

    def compare(self, answer: Answer, number: int) -> Comparison | None:
        """One mention of an answer before and after the rounds; None where there is no positive-only model."""
        if self.positive is None:
            return None
        after = answer.links[number]
        row = {"text": answer.text, "start": after.start, "end": after.end}
        restriction = None
        if answer.is_restricted:
            restriction = _restriction(self.positive, answer.types, answer.allowed)
        (before,) = self.positive.link_batch([row], restrictions=restriction, **_SEARCH)
        return Comparison(before, after, tuple(self._taught(before, after)))

    def _taught(self, before: Linked, after: Linked, most: int = 6) -> list[Pair]:
        """Pairs between names that stood among the candidates, those the first model was wrongest about first."""
        ranks = {c.matched_name: place for place, c in reversed(list(enumerate(before.candidates)))}
        names = {*ranks, *(c.matched_name for c in after.candidates)}
        found: dict[tuple[str, str], Pair] = {}
        for pair in (pair for name in names for pair in self._pairs.get(name, ())):
            if pair.rejected in names:
                known = found.get((pair.chosen, pair.rejected))
                times = 1 if known is None else known.times + 1
                found[pair.chosen, pair.rejected] = dataclasses.replace(known or pair, times=times)
        return sorted(found.values(), key=lambda pair: (ranks.get(pair.rejected, TOP_K), pair.margin))[:most]


def read_pairs(source: str) -> dict[str, list[Pair]]:
    """The pairs that rounds mined, by their chosen name.

    Args:
        source: a parquet file, a folder with some, or the id of a dataset on the Hub.

    Raises:
        OSError: if it cannot be fetched.
        ValueError: if there is no parquet file, or one that holds no pairs.
    """
    path = Path(source)
    if not path.exists():
        path = Path(snapshot_download(source, repo_type="dataset", allow_patterns="*.parquet"))
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"ANGEL_PAIRS: there is no parquet file in {source}.")
    columns = ["round", "chosen", "rejected", "chosen_log_prob", "rejected_log_prob"]
    pairs: dict[str, list[Pair]] = {}
    for file in files:
        try:
            rows = pq.read_table(file, columns=columns).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(f"ANGEL_PAIRS: {file} holds no pairs of a round ({error}).") from error
        for row in rows:
            margin = row["chosen_log_prob"] - row["rejected_log_prob"]
            pair = Pair(row["round"] + 1, row["chosen"].strip(), row["rejected"].strip(), margin)
            pairs.setdefault(pair.chosen, []).append(pair)
    return pairs


def _restriction(linker: EntityLinker, types: tuple[str, ...], allowed: tuple[str, ...]) -> Restriction:
    if len(allowed) > MAX_ALLOWED:
        raise VisitorError(f"{len(allowed):,} names or ids are given; at most {MAX_ALLOWED:,} can be.")
    try:
        return linker.restrict(candidates=allowed or None, types=types or None)
    except ValueError as error:
        # What is unknown or leaves nothing, in words that name nothing but what was asked for.
        raise VisitorError(str(error)) from error


def probability(candidate: Candidate) -> float:
    """Of the candidate's name, between 0 and 1."""
    return math.exp(candidate.score)
