"""The words the synthetic knowledge base and corpus are made of, and the context words that decide between concepts.

Everything here was written for this project. Single words are ordinary medical English; surnames and drug names are
built from made-up syllables. Nothing was taken from a terminology.

A concept is described by *attributes*: an axis (``"site"``, ``"onset"``, ...) and a value (``"kidney"``, ``"2"``).
A value carries *cues*: words that, found in a passage, point to it. Fillers contain no cue, and frames none but those
of the axis ``"kind"`` (disease or drug), so any other cue is in a passage only because a mention brought it there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cue:
    """What in a passage points to one value of one axis.

    Attributes:
        words: Normalised single words, each of which alone points to the value.
        phrases: Adverbial phrases for the ``{cue}`` slot of a frame; each contains at least one of ``words``.
    """

    words: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A body site: its noun (``"kidney"``), its adjective (``"renal"``) and a finding that implies it."""

    noun: str
    adjective: str
    finding: str


SITES = (
    Site("kidney", "renal", "creatinine"),
    Site("suprarenal gland", "adrenal", "cortisol"),
    Site("liver", "hepatic", "bilirubin"),
    Site("heart", "cardiac", "troponin"),
    Site("stomach", "gastric", "gastrin"),
    Site("bowel", "enteric", "stool"),
    Site("lung", "pulmonary", "sputum"),
    Site("brain", "cerebral", "cognition"),
    Site("skin", "cutaneous", "sweating"),
    Site("eye", "ocular", "vision"),
    Site("ear", "auricular", "hearing"),
    Site("bone", "osseous", "calcium"),
    Site("muscle", "muscular", "grip"),
    Site("nerve", "neural", "reflexes"),
    Site("spleen", "splenic", "platelets"),
    Site("pancreas", "pancreatic", "insulin"),
    Site("bladder", "vesical", "urine"),
    Site("uterus", "uterine", "menses"),
    Site("ovary", "ovarian", "ovulation"),
    Site("thyroid", "thyroidal", "thyroxine"),
    Site("tongue", "lingual", "taste"),
    Site("nose", "nasal", "smell"),
    Site("larynx", "laryngeal", "voice"),
    Site("tooth", "dental", "chewing"),
    Site("joint", "articular", "mobility"),
    Site("vein", "venous", "varices"),
    Site("artery", "arterial", "pulse"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head noun of a disease name, its everyday synonym, its abbreviation and its plural (or ``""``)."""

    word: str
    synonym: str
    abbreviation: str
    plural: str = ""


SITE_HEADS = (
    Head("failure", "insufficiency", "F"),
    Head("fibrosis", "scarring", "FB"),
    Head("stenosis", "narrowing", "ST"),
    Head("sclerosis", "hardening", "SC"),
    Head("atrophy", "wasting", "A"),
    Head("edema", "swelling", "E"),
    Head("ischemia", "underperfusion", "I"),
    Head("necrosis", "gangrene", "N"),
    Head("prolapse", "displacement", "P", "prolapses"),
    Head("spasm", "cramp", "SP", "spasms"),
)
TYPE_HEADS = (
    Head("dystrophy", "", "D", "dystrophies"),
    Head("dysplasia", "", "DP", "dysplasias"),
    Head("degeneration", "", "DG"),
    Head("hypoplasia", "", "HP"),
    Head("ataxia", "", "AX"),
)
COURSE_HEADS = (
    Head("hemorrhage", "bleeding", "H", "hemorrhages"),
    Head("infection", "sepsis", "IN", "infections"),
    Head("inflammation", "irritation", "IF"),
    Head("obstruction", "blockage", "O", "obstructions"),
)
GROWTH_HEADS = (Head("tumor", "neoplasm", "T", "tumors"), Head("cyst", "vesicle", "C", "cysts"))
EPONYM_HEADS = (
    Head("disease", "", "D"),
    Head("syndrome", "", "S"),
    Head("anomaly", "", "A"),
)


@dataclass(frozen=True, slots=True)
class Qualifier:
    """A qualifier of a near-synonym family: ``"chronic"`` and its synonym ``"persistent"``."""

    axis: str
    word: str
    synonym: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]


QUALIFIERS = (
    Qualifier("course", "acute", "sudden", ("abrupt", "overnight"), ("with an abrupt start", "overnight")),
    Qualifier("course", "chronic", "persistent", ("years", "decade"), ("after many years", "over a decade")),
    Qualifier("course", "recurrent", "relapsing", ("again", "third"), ("once again", "for the third time")),
    Qualifier(
        "origin", "primary", "idiopathic", ("unexplained", "trigger"), ("without a trigger", "as an unexplained event")
    ),
    Qualifier("origin", "secondary", "reactive", ("surgery", "trauma"), ("as a result of surgery", "after trauma")),
    Qualifier(
        "behavior",
        "benign",
        "harmless",
        ("encapsulated", "confined"),
        ("in a confined area", "as an encapsulated mass"),
    ),
    Qualifier(
        "behavior",
        "malignant",
        "cancerous",
        ("spread", "metastatic"),
        ("with distant spread", "with metastatic nodes"),
    ),
    Qualifier("inheritance", "congenital", "inborn", ("birth", "fetal"), ("at birth", "on a fetal scan")),
    Qualifier(
        "inheritance", "acquired", "noninherited", ("exposure", "travel"), ("after toxic exposure", "after travel")
    ),
)


@dataclass(frozen=True, slots=True)
class Onset:
    """Age at onset; it goes with the number of a numbered type in the whole knowledge base."""

    number: str
    roman: str
    adjective: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]


ONSETS = (
    Onset("1", "I", "infantile", ("newborn", "infancy"), ("in a newborn", "during infancy")),
    Onset("2", "II", "juvenile", ("schoolchild", "childhood"), ("in a schoolchild", "during childhood")),
    Onset("3", "III", "adolescent", ("teenager", "puberty"), ("in a teenager", "during puberty")),
    Onset("4", "IV", "adult", ("worker", "midlife"), ("in an office worker", "during midlife")),
    Onset("5", "V", "senile", ("pensioner", "elderly"), ("in a pensioner", "in an elderly resident")),
)


@dataclass(frozen=True, slots=True)
class Route:
    """How a drug is taken: ``"oral"`` as ``"tablets"``."""

    adjective: str
    product: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]


ROUTES = (
    Route("oral", "tablets", ("swallowed", "pill"), ("as a pill", "in a form swallowed whole")),
    Route("inhaled", "inhaler", ("puffs", "breathed"), ("in two puffs", "in a form breathed in")),
    Route("injectable", "injection", ("needle", "syringe"), ("with a fine needle", "by syringe")),
    Route("topical", "cream", ("rubbed", "ointment"), ("as an ointment", "in a form rubbed in")),
)
SALTS = ("sodium", "sulfate", "citrate", "maleate")

SURNAME_STARTS = (
    "Vel", "Tro", "Que", "Bra", "Dor", "Fis", "Gra", "Hel", "Jor", "Kes", "Lom",
    "Mav", "Nor", "Osk", "Pel", "Rav", "Sti", "Tul", "Ull", "Wes", "Yar", "Zan",
)  # fmt: skip
SURNAME_ENDS = ("vick", "mond", "thal", "quane", "bane", "derrow", "lacht", "nack")

DRUG_STARTS = ("ze", "ca", "mo", "bu", "fi", "la", "du", "pe", "ri", "so", "na", "gi")
DRUG_MIDDLES = ("lvo", "rti", "bre", "nxa", "dmu", "sko", "pla", "vge")
DRUG_ENDS = ("tine", "tane", "zole", "mide", "prine")

# The two semantic types: a single-type frame contains at least one of its own words and none of the other's.
DISEASE_WORDS = (
    "diagnosis", "diagnosed", "symptoms", "complication", "prognosis", "prevalence", "signs", "suffered",
    "affected", "autopsy", "screening", "differential", "pathologist", "developed", "excluded", "condition",
)  # fmt: skip
DRUG_WORDS = (
    "mg", "dose", "doses", "prescribed", "prescription", "pharmacy", "pharmacist", "placebo", "withdrawn",
    "medication", "therapy", "tolerated", "overdose", "treatment",
)  # fmt: skip


def _site_cue(site: Site) -> Cue:
    first = site.noun.split()[0]
    return Cue(
        words=(first, site.adjective, site.finding),
        phrases=(
            f"on a scan of the {site.noun}",
            f"after a check of the {site.noun}",
            f"with abnormal {site.finding}",
        ),
    )


def _cues() -> dict[tuple[str, str], Cue]:
    cues = {("site", site.noun): _site_cue(site) for site in SITES}
    for onset in ONSETS:
        cues["onset", onset.number] = Cue((onset.adjective, *onset.words), onset.phrases)
    for qualifier in QUALIFIERS:
        words = (qualifier.word, qualifier.synonym, *qualifier.words)
        cues[qualifier.axis, qualifier.word] = Cue(words, qualifier.phrases)
    for route in ROUTES:
        cues["route", route.adjective] = Cue((route.adjective, route.product, *route.words), route.phrases)
    cues["kind", "Disease"] = Cue(DISEASE_WORDS, ())
    cues["kind", "Drug"] = Cue(DRUG_WORDS, ())
    return cues


CUES: dict[tuple[str, str], Cue] = _cues()
"""Cue of each (axis, value). No word belongs to two values."""
