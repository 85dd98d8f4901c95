"""What changed from one system to another: the mentions it fixed and broke, by kind, and how well it knows itself.

Counts can be published; the examples hold names of the knowledge base and text of the corpus, so that they stay in the
folder of the runs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from predictions import AnsweredMentions, Answers

from angel_trl.confidence import expected_calibration_error, fit_temperature, merged_confidence, risk_coverage
from angel_trl.confusions import KINDS, kind_of_confusion
from angel_trl.metrics import gold_ranks

EXAMPLES = 20
"""Of each kind, fixed and broken."""


def changed(gold: AnsweredMentions, before: Answers, after: Answers) -> Iterator[tuple[str, str, int]]:
    """Mentions that are right (any-id) under one of two systems only.

    Yields:
        `"fixed"` or `"broken"`, the kind of the mistake that was or is made (`angel_trl.confusions`), the mention.
    """
    right_before, right_after = (gold_ranks(one.ids, gold.gold) == 0 for one in (before, after))
    for row in np.flatnonzero(right_before != right_after).tolist():
        wrong = before if right_after[row] else after
        answer = wrong.names[row][0] if wrong.names[row] else None
        kind = kind_of_confusion(gold.mentions[row], gold.gold_names[row], answer)
        yield "fixed" if right_after[row] else "broken", kind, row


def count_changes(
    gold: AnsweredMentions, before: Mapping[int, Answers], after: Mapping[int, Answers]
) -> dict[str, dict[str, float]]:
    """Mentions fixed and broken by kind, on average over seeds: `fixed`, `broken`, each with `all` and every kind."""
    counts: Counter[tuple[str, str]] = Counter()
    for seed in after:
        counts.update((what, kind) for what, kind, _ in changed(gold, before[seed], after[seed]))
    return {
        what: {
            "all": sum(count for (this, _), count in counts.items() if this == what) / len(after),
            **{kind: counts[what, kind] / len(after) for kind in KINDS},
        }
        for what in ("fixed", "broken")
    }


def write_examples(
    path: Path, title: str, gold: AnsweredMentions, before: Mapping[int, Answers], after: Mapping[int, Answers]
) -> None:
    """Write `EXAMPLES` of each kind as Markdown, different mentions or answers, with context."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], str]] = {}
    for seed in after:
        for what, kind, row in changed(gold, before[seed], after[seed]):
            first, second = (_answer(one, row) for one in (before[seed], after[seed]))
            line = f"- {gold.contexts[row]}\n  {first} -> {second} ({gold.ids[row]}, seed {seed})"
            found.setdefault((what, kind), {}).setdefault((gold.mentions[row].lower(), first, second), line)
    lines = [
        f"# {title}",
        "",
        "The mention in brackets, the answer before and after; not for publication as it stands.",
    ]
    for what in ("fixed", "broken"):
        for kind in KINDS:
            examples = list(found.get((what, kind), {}).values())
            if examples:
                lines += ["", f"## {what}: {kind} ({len(examples)} different)", "", *examples[:EXAMPLES]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _answer(answers: Answers, row: int) -> str:
    if not answers.ids[row]:
        return "no answer"
    return f"{answers.names[row][0]} ({', '.join(answers.ids[row][0])})"


def calibration(gold: AnsweredMentions, by_seed: Mapping[int, Answers]) -> dict[str, float] | None:
    """How well the probabilities of answers fit how often they are right, on average over seeds.

    Returns:
        `ece` and `ece_equal_mass`, of the plain probability of the first name's concept among the candidates; `aurc`
        of it; and `ece_fitted`, with temperature and score of "none of these" fitted on the other half of the
        documents (`angel_trl.confidence`): what is left when the level is put right. None for what has no
        log-probabilities, or is all right or all wrong.
    """
    values = []
    for answers in by_seed.values():
        log_probs, same = _arrays(answers)
        right = gold_ranks(answers.ids, gold.gold) == 0
        if not _are_log_probabilities(log_probs) or right.all() or not right.any():
            return None
        plain = merged_confidence(log_probs, same)
        fitted = np.empty(len(right))
        place = {document: number for number, document in enumerate(dict.fromkeys(gold.documents))}
        odd = np.array([place[document] % 2 == 1 for document in gold.documents])
        for half in (odd, ~odd):
            temperature, none_score = fit_temperature(log_probs[~half], same[~half], right[~half])
            fitted[half] = merged_confidence(log_probs[half], same[half], temperature, none_score)
        values.append(
            {
                "ece": expected_calibration_error(plain, right),
                "ece_equal_mass": expected_calibration_error(plain, right, equal_mass=True),
                "ece_fitted": expected_calibration_error(fitted, right),
                "aurc": risk_coverage(plain, right).aurc,
            }
        )
    return {key: float(np.mean([one[key] for one in values])) for key in values[0]}


def _are_log_probabilities(scores: np.ndarray) -> bool:
    """Whether scores are none of a similarity (positive) or of string lookup (all 0)."""
    there = scores[np.isfinite(scores)]
    # A sum of float32 log-probabilities may be a little above 0.
    return bool((there < 1e-3).all() and (there < -1e-3).any())


def _arrays(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64 and whether a candidate shares a concept with the first, both `[mentions, candidates]`."""
    width = max(1, *(len(own) for own in answers.scores))
    log_probs = np.full((len(answers.scores), width), -np.inf)
    same = np.zeros(log_probs.shape, dtype=bool)
    for row, (scores, ids) in enumerate(zip(answers.scores, answers.ids, strict=True)):
        log_probs[row, : len(scores)] = scores
        same[row, : len(ids)] = [not set(ids[0]).isdisjoint(own) for own in ids]
    return log_probs, same
