"""Confusable families of synthetic concepts and the surface forms they go by.

Each family drafts concepts with *all* their systematic surface forms ("renal failure", "kidney failure", "failure of
the kidney", "failure, renal", ...). `synthetic_entries` then drops forms that context could not tell apart, and splits
the rest of every concept into names of the knowledge base and variants that only the corpus uses.
This module knows nothing of passages.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from angel_trl.normalization import normalize
from angel_trl.synthetic.vocabulary import (
    COURSE_HEADS,
    CUES,
    DRUG_ENDS,
    DRUG_MIDDLES,
    DRUG_STARTS,
    EPONYM_HEADS,
    GROWTH_HEADS,
    ONSETS,
    QUALIFIERS,
    ROUTES,
    SALTS,
    SITE_HEADS,
    SITES,
    SURNAME_ENDS,
    SURNAME_STARTS,
    TYPE_HEADS,
    Head,
    Onset,
    Qualifier,
    Site,
)

FAMILIES = ("numbered types", "eponyms", "near-synonyms", "body sites", "drugs")
"""The families; diseases and drugs that share an abbreviation cut across them."""

NUM_TYPE_BASES = 26
NUM_COURSE_BASES = 48
NUM_SURNAMES = 44
NUM_DRUG_STEMS = 32
ABBREVIATION_RATE = 0.6
SHARED_DRUG_ABBREVIATION_RATE = 0.6


@dataclass(frozen=True, slots=True)
class Entry:
    """A synthetic concept with everything the corpus needs to mention it.

    Attributes:
        id: ``SYN:D0001`` for a disease, ``SYN:C0001`` for a drug.
        family: One of `FAMILIES`.
        group: Key shared by the siblings a linker would confuse (the types of one disease, the forms of one drug).
        semantic_type: ``"Disease"`` or ``"Drug"``.
        attributes: Axis to value, keys of `vocabulary.CUES`.
        names: Names in the knowledge base; the first is the preferred name.
        variants: Surface forms outside the knowledge base that still spell out the concept.
        underspecified: Surface forms outside the knowledge base that leave out what tells the siblings apart.
        abbreviation: An abbreviation of the preferred name, perhaps not in the knowledge base, or ``""``.
        definition: One sentence, labelled synthetic.
    """

    id: str
    family: str
    group: str
    semantic_type: str
    attributes: Mapping[str, str]
    names: tuple[str, ...]
    variants: tuple[str, ...]
    underspecified: tuple[str, ...]
    abbreviation: str
    definition: str

    @property
    def surface_forms(self) -> tuple[str, ...]:
        """Names, variants and underspecified forms."""
        return (*self.names, *self.variants, *self.underspecified)


@dataclass(slots=True)
class _Draft:
    family: str
    group: str
    attributes: dict[str, str]
    forms: list[str]
    definition: str
    underspecified: list[str] = field(default_factory=list)
    abbreviations: list[str] = field(default_factory=list)


def cue_words(attributes: Mapping[str, str]) -> frozenset[str]:
    """Every normalised word that points to one of the given attribute values."""
    return frozenset(word for item in attributes.items() for word in CUES[item].words)


def deciding_words(gold: Entry, candidates: Iterable[Entry]) -> frozenset[str]:
    """Words that point to ``gold`` and to none of the other ``candidates``."""
    return cue_words(gold.attributes).difference(*(cue_words(c.attributes) for c in candidates if c.id != gold.id))


def deciding_axis(gold: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str | None:
    """The first axis on which ``gold`` has a value that none of ``others`` has, or None."""
    return next((a for a, value in gold.items() if all(other.get(a) != value for other in others)), None)


def _site_forms(head: str, site: Site) -> list[str]:
    return [
        f"{site.adjective} {head}",
        f"{site.noun} {head}",
        f"{head} of the {site.noun}",
        f"{head}, {site.adjective}",
    ]


def _body_sites(rng: random.Random) -> Iterator[_Draft]:
    for site in SITES:
        for head in rng.sample(SITE_HEADS, 8):
            forms = _site_forms(head.word, site) + _site_forms(head.synonym, site)[:3]
            if head.plural:
                forms.append(f"{site.adjective} {head.plural}")
            yield _Draft(
                family="body sites",
                group=head.word,
                attributes={"kind": "Disease", "site": site.noun},
                forms=forms,
                definition=f"{head.word} or {head.synonym} that concerns the {site.noun}",
                underspecified=[head.word, head.synonym],
                abbreviations=[f"{site.adjective[0]}{head.abbreviation}".upper()],
            )


def _numbered_type(base: str, site: Site, head: Head, onset: Onset) -> _Draft:
    short = f"{site.adjective[0]}{head.abbreviation}".upper()
    forms = [
        f"{base} type {onset.number}",
        f"{base} type {onset.roman}",
        f"{head.word}, {site.adjective}, type {onset.number}",
        f"{onset.adjective} {base}",
        f"type {onset.number} {base}",
        f"type {onset.roman} {base}",
        f"{base}, {onset.adjective}",
        f"{head.word} of the {site.noun} type {onset.number}",
        f"{base} {onset.roman}",
    ]
    return _Draft(
        family="numbered types",
        group=base,
        attributes={"kind": "Disease", "onset": onset.number, "site": site.noun},
        forms=forms,
        definition=f"{base} of {onset.adjective} onset",
        underspecified=_site_forms(head.word, site)[:3],
        abbreviations=[f"{short}-{onset.number}"],
    )


def _numbered_types(rng: random.Random) -> Iterator[_Draft]:
    bases = [(site, head) for site in SITES for head in TYPE_HEADS]
    for site, head in rng.sample(bases, NUM_TYPE_BASES):
        for onset in ONSETS[: rng.choice((3, 4, 5, 5))]:
            yield _numbered_type(f"{site.adjective} {head.word}", site, head, onset)


def _near_synonym(site: Site, head: Head, qualifier: Qualifier) -> _Draft:
    base = f"{site.adjective} {head.word}"
    word = qualifier.word
    forms = [
        f"{word} {base}",
        f"{base}, {word}",
        f"{word} {site.noun} {head.word}",
        f"{word} {head.word} of the {site.noun}",
        f"{qualifier.synonym} {base}",
        f"{word} {site.adjective} {head.synonym}",
        f"{head.word}, {word}, {site.adjective}",
        f"{qualifier.synonym} {head.word} of the {site.noun}",
    ]
    if head.plural:
        forms.append(f"{word} {site.adjective} {head.plural}")
    return _Draft(
        family="near-synonyms",
        group=base,
        attributes={"kind": "Disease", qualifier.axis: word, "site": site.noun},
        forms=forms,
        definition=f"{base} of the {word} or {qualifier.synonym} kind",
        underspecified=[base, f"{site.noun} {head.word}", f"{head.word} of the {site.noun}"],
        abbreviations=[f"{word[0]}{site.adjective[0]}{head.abbreviation}".upper()],
    )


def _near_synonyms(rng: random.Random) -> Iterator[_Draft]:
    bases = [
        (site, head, axis)
        for site in SITES
        for heads, axes in ((COURSE_HEADS, ("course", "origin")), (GROWTH_HEADS, ("behavior", "inheritance")))
        for head in heads
        for axis in (rng.choice(axes),)  # one axis a base, so that its siblings exclude each other
    ]
    for site, head, axis in rng.sample(bases, NUM_COURSE_BASES):
        for qualifier in QUALIFIERS:
            if qualifier.axis == axis:
                yield _near_synonym(site, head, qualifier)


def _eponym(name: str, head: Head, site: Site) -> _Draft:
    return _Draft(
        family="eponyms",
        group=name.split("-")[0],
        attributes={"kind": "Disease", "site": site.noun},
        forms=[
            f"{name} {head.word}",
            f"{name}'s {head.word}" if "-" not in name else f"{'-'.join(name.split('-')[::-1])} {head.word}",
            f"{head.word}, {name}",
            f"{site.adjective} {name} {head.word}",
            f"{name} {head.word} of the {site.noun}",
            f"{head.word} of {name}",
        ],
        definition=f"{head.word} of the {site.noun} named after {' and '.join(name.split('-'))}",
        underspecified=[] if "-" in name else [f"{name} disorder", f"{name}'s disorder"],
        abbreviations=["".join(part[0] for part in name.split("-")) + head.abbreviation],
    )


def _eponyms(rng: random.Random) -> Iterator[_Draft]:
    surnames = [start + end for start in SURNAME_STARTS for end in sorted(rng.sample(SURNAME_ENDS, 2))][:NUM_SURNAMES]
    for position, surname in enumerate(surnames):
        sites = rng.sample(SITES, 3)
        heads = rng.sample(EPONYM_HEADS, 2)
        yield from (_eponym(surname, head, site) for head, site in zip(heads, sites, strict=False))
        partners = [other for other in surnames[position + 1 :] if other[:3] != surname[:3]]
        if partners and rng.random() < 0.4:  # partners come later only: a pair of surnames is used one way round
            partner = rng.choice(partners)
            yield _eponym(f"{surname}-{partner}", rng.choice(EPONYM_HEADS[:2]), sites[2])


def _drugs(rng: random.Random) -> Iterator[_Draft]:
    stems = [start + middle for start in DRUG_STARTS for middle in DRUG_MIDDLES]
    for stem in rng.sample(stems, NUM_DRUG_STEMS):
        salt = rng.choice(SALTS)
        brand = f"{stem.capitalize()}ox"
        number = rng.choice((3, 3, 4))
        for end, route in zip(rng.sample(DRUG_ENDS, number), rng.sample(ROUTES, number), strict=True):
            drug = f"{stem}{end}"
            yield _Draft(
                family="drugs",
                group=stem,
                attributes={"kind": "Drug", "route": route.adjective},
                forms=[
                    drug,
                    f"{drug} {salt}",
                    f"{route.adjective} {drug}",
                    f"{drug} {route.product}",
                    f"{brand} {route.product}",
                    f"{route.adjective} {brand}",
                    f"{drug} {salt} {route.product}",
                ],
                definition=f"{route.adjective} drug sold as {brand} {route.product}",
                underspecified=[brand],
                abbreviations=[f"{stem[0]}{stem[2]}{end[0]}".upper()],
            )


def _share_abbreviations(rng: random.Random, drafts: Sequence[_Draft]) -> None:
    """Give some drugs the abbreviation of a disease with the same initial."""
    by_initial: dict[str, list[str]] = {}
    for draft in drafts:
        if draft.attributes["kind"] == "Disease":
            for abbreviation in draft.abbreviations:
                if abbreviation.isalpha() and abbreviation not in by_initial.setdefault(abbreviation[0], []):
                    by_initial[abbreviation[0]].append(abbreviation)
    for draft in drafts:
        if draft.family == "drugs" and rng.random() < SHARED_DRUG_ABBREVIATION_RATE:
            draft.abbreviations = [rng.choice(by_initial.get(draft.forms[0][0].upper(), draft.abbreviations))]


def _decidable(drafts: Sequence[_Draft]) -> bool:
    return all(
        deciding_axis(draft.attributes, [other.attributes for other in drafts if other is not draft]) is not None
        for draft in drafts
    )


def _drop_undecidable(drafts: Sequence[_Draft]) -> None:
    """Take a surface form away from a draft when no context word could tell it from those that already have it."""
    owners: dict[str, list[_Draft]] = {}
    for draft in drafts:
        for forms in (draft.forms, draft.abbreviations, draft.underspecified):
            for form in list(forms):
                claimed = owners.setdefault(normalize(form), [])
                if any(owner is draft for owner in claimed) or (claimed and not _decidable([*claimed, draft])):
                    forms.remove(form)
                else:
                    claimed.append(draft)


def _finish(rng: random.Random, draft: _Draft, concept_id: str) -> Entry:
    preferred, *others = draft.forms
    rng.shuffle(others)
    num_synonyms = min(rng.randint(2, 3), len(others) - 1)  # at least one variant stays outside the knowledge base
    abbreviation = draft.abbreviations[0] if draft.abbreviations else ""
    in_kb = [abbreviation] if abbreviation and rng.random() < ABBREVIATION_RATE else []
    kind = draft.attributes["kind"]
    return Entry(
        id=concept_id,
        family=draft.family,
        group=f"{draft.family}: {draft.group}",
        semantic_type=kind,
        attributes=MappingProxyType(draft.attributes),
        names=(preferred, *others[:num_synonyms], *in_kb),
        variants=tuple(others[num_synonyms:]),
        underspecified=tuple(draft.underspecified),
        abbreviation=abbreviation,
        definition=f"Synthetic {kind.lower()} ({draft.family}): {draft.definition}.",
    )


def synthetic_entries(seed: int = 0) -> list[Entry]:
    """Draft every family and settle names, variants and ids.

    Args:
        seed: Seed of the only random generator used; the result is the same in every process.

    Returns:
        Entries in a fixed order, ids ``SYN:D0001...`` for diseases and ``SYN:C0001...`` for drugs.
    """
    rng = random.Random(seed)
    drafts = [
        *_body_sites(rng),
        *_numbered_types(rng),
        *_near_synonyms(rng),
        *_eponyms(rng),
        *_drugs(rng),
    ]
    _share_abbreviations(rng, drafts)
    _drop_undecidable(drafts)
    entries: list[Entry] = []
    count = {"Disease": 0, "Drug": 0}
    for draft in drafts:
        kind = draft.attributes["kind"]
        count[kind] += 1
        entries.append(_finish(rng, draft, f"SYN:{'D' if kind == 'Disease' else 'C'}{count[kind]:04d}"))
    return entries
