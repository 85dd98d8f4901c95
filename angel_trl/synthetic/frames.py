"""Sentence frames of the synthetic corpus.

Slots: ``{disease}`` and ``{drug}`` take a mention, ``{other}`` a second mention of the same semantic type,
``{short}`` the abbreviation of the first mention, ``{number}`` a number, ``{cue}`` an adverbial phrase that decides an
ambiguous mention. The words around the slots decide between a disease and a drug that share an abbreviation;
everything finer is decided by the cue.
"""

from __future__ import annotations

DISEASE_CUE_FRAMES = (
    "The diagnosis of {disease} was made {cue}.",
    "One patient was diagnosed with {disease} {cue}.",
    "Early signs of {disease} were noted {cue}.",
    "Typical symptoms of {disease} were first seen {cue}.",
    "We report a complication, {disease}, recorded {cue}.",
    "Seen {cue}, the patient had all signs of {disease}.",
    "The pathologist favored {disease}, which was observed {cue}.",
    "The prognosis of {disease} is less clear when it is found {cue}.",
    "Family members affected by {disease} were identified {cue}.",
    "Presenting {cue}, she was thought to have {disease} as the main condition.",
    "Screening for {disease} was positive {cue}.",
    "In this report, {disease} was confirmed {cue} and the symptoms were mild.",
)
DISEASE_FRAMES = (
    "The differential list included {disease} among other entries.",
    "Patients with {disease} suffered more than the control group.",
    "The prevalence of {disease} was low in both regions.",
    "His sister was also affected by {disease} according to the register.",
    "Screening did not reveal {disease} in the remaining relatives.",
    "At autopsy, {disease} was found by the pathologist.",
    "Severe {disease} developed despite close monitoring.",
    "Two of the women had symptoms of {disease} and asked for advice.",
    "The prognosis of {disease} remains good in most centers.",
    "{disease} is a rare condition in this region.",
)
DRUG_CUE_FRAMES = (
    "The patient was prescribed {drug} {cue}.",
    "A daily dose of {drug} was given {cue}.",
    "The pharmacist supplied {drug} {cue} at the first visit.",
    "Each of the women took {number} mg of {drug} {cue}.",
    "Treatment with {drug} was offered {cue}.",
    "Given {cue}, {drug} was well tolerated by most.",
    "The trial compared placebo with {drug} {cue}.",
    "A prescription for {drug} {cue} was renewed by the clinic.",
    "We started {drug} {cue} at {number} mg.",
)
DRUG_FRAMES = (
    "He received {number} mg of {drug} in the morning.",
    "The pharmacy had no more {drug} that week.",
    "An overdose of {drug} was reported by the relatives.",
    "{drug} was withdrawn and the patient improved.",
    "Higher doses of {drug} were not tolerated by the control group.",
    "Therapy with {drug} lasted for {number} weeks.",
    "The medication list contained {drug} and little else.",
    "Compared with placebo, {drug} reduced the length of stay.",
)
PAIR_FRAMES = (
    "A dose of {drug} was given to a patient with {disease}.",
    "After {number} mg of {drug}, symptoms of {disease} were noted.",
    "{disease} developed in two patients on {drug}.",
    "Treatment with {drug} did not change the prognosis of {disease}.",
    "{drug} was prescribed once {disease} had been confirmed.",
    "We describe {disease} as a complication of {drug} therapy.",
    "In patients with {disease}, {drug} was tolerated well.",
)
SIBLING_FRAMES = (
    "The diagnosis was {disease} and not {other}.",
    "{disease} was excluded but {other} was confirmed.",
    "Symptoms of {disease} may resemble those of {other}.",
    "The pathologist revised {disease} to {other} at the second review.",
    "Of the relatives, one was affected by {disease} and one by {other}.",
    "The prevalence of {disease} was compared with that of {other}.",
)
DRUG_SIBLING_FRAMES = (
    "{drug} was prescribed instead of {other}.",
    "The pharmacy confused {drug} with {other}.",
    "Doses of {drug} were lower than those of {other}.",
    "The medication was changed from {drug} to {other}.",
)
DEFINITION_FRAMES = (
    "{disease} ({short}) was diagnosed in two families.",
    "We studied the prognosis of {disease} ({short}) in a small group.",
    "Patients with {disease} ({short}) suffered more than expected.",
    "Symptoms of {disease} ({short}) were recorded by the nurse.",
)
FILLERS = (
    "Follow up was uneventful.",
    "The family agreed to publication of the report.",
    "No further tests were planned by the clinic.",
    "The case was discussed at the weekly meeting.",
    "Data were collected by the study nurse.",
    "All other results were within the normal range.",
    "The patient went home in good health.",
    "Similar reports have been published from other centers.",
    "The record was reviewed by two of us.",
    "These findings need to be confirmed in a larger group.",
)
NUMBERS = ("5", "10", "20", "40", "80")


def all_frames() -> tuple[str, ...]:
    """Every sentence frame with a mention slot, in a fixed order (fillers have none and are left out)."""
    return (
        *DISEASE_CUE_FRAMES,
        *DISEASE_FRAMES,
        *DRUG_CUE_FRAMES,
        *DRUG_FRAMES,
        *PAIR_FRAMES,
        *SIBLING_FRAMES,
        *DRUG_SIBLING_FRAMES,
        *DEFINITION_FRAMES,
    )
