"""From synthetic concepts to a `KnowledgeBase` and to passages with gold mentions, split into train, dev and test.

The three splits come from one generator. Some concepts and some surface forms are set aside for dev and for test, and
no passage stands in two splits. A surface form that several concepts share is only used where a word of its passage,
outside the mention, points to the gold concept and no word points to another of those concepts alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angel_trl.normalization import normalize
from angel_trl.synthetic import frames
from angel_trl.synthetic.concepts import Entry, deciding_words, synthetic_entries
from angel_trl.synthetic.vocabulary import CUES

if TYPE_CHECKING:
    from datasets import DatasetDict

    from angel_trl.kb import KnowledgeBase

SPLIT_MENTIONS = {"train": 2200, "dev": 800, "test": 1000}
"""The least number of mentions of a split; its last passage may add one."""
MIN_WORDS, MAX_WORDS = 12, 40

# Shares of the concepts and of the surface forms that train never mentions.
CONCEPTS_SET_ASIDE = {"dev": 0.04, "test": 0.08}
FORMS_SET_ASIDE = {"dev": 0.04, "test": 0.1}
FORM_WEIGHTS = (16, 5, 2, 1, 1)  # a concept has few usual forms and some rare ones
LAYOUTS = {"single": 60, "double": 14, "pair": 8, "siblings": 10, "definition": 8}
UNDERSPECIFIED_RATE = 0.5
SHARED_ABBREVIATION_RATE = 0.2
FREE_CUE_RATE = 0.5
FILLER_RATE = 0.35
TYPO_RATE = 0.4
MIN_TYPO_LETTERS = 6

_Span = tuple[int, int, Entry]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage and its gold mentions as ``(start, end, entry)``, offsets in characters."""

    text: str
    spans: tuple[_Span, ...]


class SurfaceIndex:
    """Which concepts a surface form may mean: over names, variants, underspecified forms and abbreviations.

    Args:
        entries: Every concept of the knowledge base.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._owners: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            for form in (*entry.surface_forms, entry.abbreviation):
                if form:
                    self._owners.setdefault(normalize(form), {})[entry.id] = entry
        self.words = frozenset(word for form in self._owners for word in form.split())

    def candidates(self, surface: str) -> list[Entry]:
        """Entries that go by ``surface`` after normalisation, in the order of the knowledge base; perhaps none."""
        return list(self._owners.get(normalize(surface), {}).values())

    def is_ambiguous(self, surface: str) -> bool:
        """Whether more than one concept goes by ``surface``."""
        return len(self.candidates(surface)) > 1

    def is_decided(self, passage: Passage, span: _Span) -> bool:
        """Whether the words outside the mention point to its gold concept, and to none of the other candidates.

        Args:
            passage: The passage.
            span: One of its mentions.

        Returns:
            True as well if the surface form is not ambiguous.
        """
        start, end, gold = span
        candidates = self.candidates(passage.text[start:end])
        if len(candidates) < 2:
            return True
        words = set(normalize(passage.text[:start] + " " + passage.text[end:]).split())
        return not words.isdisjoint(deciding_words(gold, candidates)) and all(
            words.isdisjoint(deciding_words(other, candidates)) for other in candidates if other.id != gold.id
        )


class _Generator:
    """Draws passages; every choice comes from the one random generator it is given."""

    def __init__(self, rng: random.Random, entries: Sequence[Entry]) -> None:
        self.rng = rng
        self.index = SurfaceIndex(entries)
        self.used_sentences: set[str] = set()
        ranked = rng.sample(entries, len(entries))
        weights = [(rank + 10) ** -0.7 for rank in range(len(ranked))]  # a long tail, as in real corpora
        self.concept_split = {entry.id: self._set_aside(CONCEPTS_SET_ASIDE) for entry in ranked}
        self.ranked: dict[str, list[Entry]] = {}
        self.weights: dict[str, list[float]] = {}
        for split in SPLIT_MENTIONS:
            kept = [i for i, entry in enumerate(ranked) if self.concept_split[entry.id] in ("train", split)]
            self.ranked[split] = [ranked[i] for i in kept]
            self.weights[split] = [weights[i] for i in kept]
        # Form by form, not concept by concept: an abbreviation of several concepts is set aside for all or none.
        # Preferred names are not set aside, so that every concept has a form that any split may use.
        self.form_split = {normalize(entry.names[0]): "train" for entry in entries}
        self.forms: dict[str, list[str]] = {}
        self.siblings: dict[str, list[Entry]] = {}
        for entry in entries:
            forms = [*entry.names, *entry.variants]
            rng.shuffle(forms)
            for form in forms:
                self.form_split.setdefault(normalize(form), self._set_aside(FORMS_SET_ASIDE))
            self.forms[entry.id] = forms
            self.siblings.setdefault(entry.group, []).append(entry)

    def _set_aside(self, shares: dict[str, float]) -> str:
        draw = self.rng.random()
        for split, share in shares.items():
            if draw < share:
                return split
            draw -= share
        return "train"

    def _allows(self, split: str, form: str) -> bool:
        return self.form_split.get(normalize(form), "train") in ("train", split)

    def passage(self, split: str) -> Passage:
        """Draw a passage whose ambiguous mentions its words decide; a sentence with a mention is used once only."""
        while True:
            sentences = self._sentences(split)
            texts = {sentence.text for sentence in sentences}
            if not sentences or not texts.isdisjoint(self.used_sentences):
                continue
            passage = self._with_fillers(sentences)
            if MIN_WORDS <= len(passage.text.split()) <= MAX_WORDS and all(
                self.index.is_decided(passage, span) for span in passage.spans
            ):
                self.used_sentences |= texts
                return passage

    def _sentences(self, split: str) -> list[Passage]:
        """The sentences that carry a passage's mentions, or none when the layout does not suit the concept drawn."""
        layout = self.rng.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
        entry = self._entry(split)
        if layout == "single":
            return [self._single(split, entry)]
        if layout == "double":
            return [self._single(split, entry), self._single(split, self._entry(split))]
        if layout == "pair":
            disease, drug = self._entry(split, "Disease"), self._entry(split, "Drug")
            slots = {"disease": (self._clear(split, disease), disease), "drug": (self._clear(split, drug), drug)}
            return [self._render(self.rng.choice(frames.PAIR_FRAMES), slots)]
        if layout == "siblings":
            others = [
                other
                for other in self.siblings[entry.group]
                if other.id != entry.id and self.concept_split[other.id] in ("train", split)
            ]
            if not others:
                return []
            other = self.rng.choice(others)
            choices = frames.SIBLING_FRAMES if entry.semantic_type == "Disease" else frames.DRUG_SIBLING_FRAMES
            slots = {
                entry.semantic_type.lower(): (self._clear(split, entry), entry),
                "other": (self._clear(split, other), other),
            }
            return [self._render(self.rng.choice(choices), slots)]
        long_form = self._clear(split, entry)
        short = entry.abbreviation
        if entry.semantic_type == "Drug" or not short or not self._allows(split, short) or long_form.isupper():
            return []
        slots = {"disease": (long_form, entry), "short": (short, entry)}
        return [self._render(self.rng.choice(frames.DEFINITION_FRAMES), slots)]

    def _entry(self, split: str, semantic_type: str | None = None) -> Entry:
        while True:
            entry = self.rng.choices(self.ranked[split], self.weights[split])[0]
            if semantic_type in (None, entry.semantic_type):
                return entry

    def _form(self, split: str, entry: Entry) -> str:
        """A name or a variant that the split may use."""
        forms = [form for form in self.forms[entry.id] if self._allows(split, form)][: len(FORM_WEIGHTS)]
        return self.rng.choices(forms, FORM_WEIGHTS[: len(forms)])[0]

    def _clear(self, split: str, entry: Entry) -> str:
        """A surface form that means one concept only, now and then with a typing error."""
        for _ in range(8):
            form = self._form(split, entry)
            if not self.index.is_ambiguous(form):
                return self._typo(form) if self.rng.random() < TYPO_RATE else form
        return entry.names[0]

    def _typo(self, form: str) -> str:
        words = form.split(" ")
        long_words = [i for i, word in enumerate(words) if len(word) >= MIN_TYPO_LETTERS and word[:4].isalpha()]
        if not long_words:
            return form
        position = self.rng.choice(long_words)
        word = words[position]
        # Only among the first letters: drug names of one stem differ at the end.
        at = self.rng.randint(1, 3)
        kind = self.rng.choice(("drop", "double", "swap"))
        middle = {"drop": "", "double": word[at] * 2, "swap": word[at + 1] + word[at]}[kind]
        words[position] = word[:at] + middle + word[at + (2 if kind == "swap" else 1) :]
        known = normalize(words[position]) in self.index.words
        return form if known else " ".join(words)

    def _single(self, split: str, entry: Entry) -> Passage:
        surface = self._single_surface(split, entry)
        rivals = [other for other in self.index.candidates(surface) if other.id != entry.id]
        items = [item for item in entry.attributes.items() if CUES[item].phrases]
        if rivals:
            items = [(a, v) for a, v in items if all(other.attributes.get(a) != v for other in rivals)]
        slot = entry.semantic_type.lower()
        with_cue, without_cue = (
            (frames.DISEASE_CUE_FRAMES, frames.DISEASE_FRAMES)
            if slot == "disease"
            else (frames.DRUG_CUE_FRAMES, frames.DRUG_FRAMES)
        )
        # A disease and a drug of one abbreviation can also be told apart by the frame alone.
        frame_decides = all(other.semantic_type != entry.semantic_type for other in rivals)
        if items and not (frame_decides and self.rng.random() > FREE_CUE_RATE):
            cue = self.rng.choice(CUES[self.rng.choice(items)].phrases)
            return self._render(self.rng.choice(with_cue), {slot: (surface, entry)}, cue)
        return self._render(self.rng.choice(without_cue), {slot: (surface, entry)})

    def _single_surface(self, split: str, entry: Entry) -> str:
        """Any form of the concept; the mention's sentence has room for a cue if it is ambiguous."""
        short = entry.abbreviation
        usable = short in entry.names and self.index.is_ambiguous(short) and self._allows(split, short)
        if usable and self.rng.random() < SHARED_ABBREVIATION_RATE:
            return short
        if entry.underspecified and self.rng.random() < UNDERSPECIFIED_RATE:
            return self.rng.choice(entry.underspecified)
        return self._clear(split, entry)

    def _render(self, frame: str, slots: dict[str, tuple[str, Entry]], cue: str = "") -> Passage:
        text = ""
        spans: list[_Span] = []
        for i, piece in enumerate(re.split(r"\{(\w+)\}", frame)):
            if i % 2 == 0:
                text += piece
            elif piece == "cue":
                text += cue
            elif piece == "number":
                text += self.rng.choice(frames.NUMBERS)
            else:
                surface, entry = slots[piece]
                spans.append((len(text), len(text) + len(surface), entry))
                text += surface
        return Passage(text[0].upper() + text[1:], tuple(spans))

    def _with_fillers(self, sentences: list[Passage]) -> Passage:
        fillers = [Passage(filler, ()) for filler in self.rng.sample(frames.FILLERS, 3)]
        parts = list(sentences)
        while fillers and (sum(len(p.text.split()) for p in parts) < MIN_WORDS or self.rng.random() < FILLER_RATE):
            parts.insert(self.rng.choice((0, len(parts))), fillers.pop())
        text = ""
        spans: list[_Span] = []
        for part in parts:
            text += " " if text else ""
            spans += [(start + len(text), end + len(text), entry) for start, end, entry in part.spans]
            text += part.text
        return Passage(text, tuple(spans))


def _knowledge_base(entries: Iterable[Entry], seed: int) -> KnowledgeBase:
    from angel_trl.kb import Concept, KnowledgeBase

    concepts = [Concept(id=e.id, names=e.names, types=(e.semantic_type,), definition=e.definition) for e in entries]
    return KnowledgeBase(concepts, source=f"synthetic (angel_trl.synthetic, seed {seed}); not medical knowledge")


def synthetic_knowledge_base(seed: int = 0) -> KnowledgeBase:
    """Generate the synthetic knowledge base: over 600 concepts with over 2,000 names, in confusable families.

    Args:
        seed: Seed of every choice; the same seed gives the same knowledge base in every process.

    Returns:
        A `KnowledgeBase` whose ids are ``SYN:D0001...`` (diseases) and ``SYN:C0001...`` (drugs).
    """
    return _knowledge_base(synthetic_entries(seed), seed)


def synthetic_corpus(seed: int = 0) -> tuple[KnowledgeBase, DatasetDict]:
    """Generate the synthetic knowledge base and a corpus of passages that mention its concepts.

    Args:
        seed: Seed of every choice; the same seed gives the same data in every process.

    Returns:
        The knowledge base of `synthetic_knowledge_base(seed)` and the mentions, splits ``train``, ``dev`` and
        ``test``, with the columns of `angel_trl.mentions.MENTION_FEATURES`. Each mention has one gold concept.
    """
    from datasets import Dataset, DatasetDict

    from angel_trl.mentions import MENTION_FEATURES

    entries = synthetic_entries(seed)
    generator = _Generator(random.Random(f"corpus {seed}"), entries)
    splits = {}
    for split, least in SPLIT_MENTIONS.items():
        rows: list[dict[str, object]] = []
        number = 0
        while len(rows) < least:
            passage = generator.passage(split)
            number += 1
            rows += _rows(passage, f"SYN:{split}:{number:04d}", split)
        splits[split] = Dataset.from_list(rows, features=MENTION_FEATURES)
    return _knowledge_base(entries, seed), DatasetDict(splits)


def _rows(passage: Passage, document_id: str, split: str) -> list[dict[str, object]]:
    return [
        {
            "id": f"{document_id}:{start}-{end}",
            "document_id": document_id,
            "text": passage.text,
            "start": start,
            "end": end,
            "mention": passage.text[start:end],
            "types": [entry.semantic_type],
            "concept_ids": [[entry.id]],
            "split": split,
        }
        for start, end, entry in passage.spans
    ]
