"""What a visitor pastes, checked and scored, and the scores as HTML. Knows no Gradio.

Whatever a visitor wrote is escaped here before it is shown.
"""

import dataclasses
import html
import json
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from angel_trl.metrics import gold_ranks, score

MAX_CHARACTERS = 1_000_000
"""Longest text read; longer ones are refused."""

MAX_MENTIONS = 10_000
"""Most mentions scored at once; more are refused."""

SHOWN_MENTIONS = 20
"""Mentions listed one by one below the scores."""

_ROWS = {"acc@1": "Accuracy at 1", "acc@5": "Accuracy at 5", "mrr": "Mean reciprocal rank"}
_MADE_OF = {"predictions": "candidates", "references": "parts"}


class VisitorError(ValueError):
    """Something a visitor can put right; the message says what and how."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """What was scored, and how.

    Args:
        predictions: the candidates of each mention, best first, each a list of ids.
        references: the parts of each mention, each a list of alternative ids.
        scores: as `angel_trl.metrics.score` gives them.
        any_id: int32 `[mentions]`, the rank of the first right candidate from 0, -1 for none.
        strict: likewise, under the strict protocol.
        unit: what the intervals are over, "mentions" or "documents".
    """

    predictions: list[list[list[str]]]
    references: list[list[list[str]]]
    scores: dict[str, Any]
    any_id: NDArray[np.int32]
    strict: NDArray[np.int32]
    unit: str


def scored(predictions: str, references: str, documents: str = "") -> Scored:
    """Score what was pasted.

    Args:
        predictions: JSON, a list with one list of candidates a mention, each a list of ids.
        references: JSON, a list with one list of parts a mention, each a list of alternative ids.
        documents: JSON, a list with the document of each mention; blank for none.

    Raises:
        VisitorError: for anything that is not what is said above. Nothing is scored then.
    """
    said, meant = _mentions(predictions, "predictions"), _mentions(references, "references")
    groups = _labels(documents) if documents.strip() else None
    try:
        scores = score(said, meant, groups=groups)
    except ValueError as error:
        raise VisitorError(str(error)) from error
    ranks = gold_ranks(said, meant), gold_ranks(said, meant, strict=True)
    return Scored(said, meant, scores, *ranks, "mentions" if groups is None else "documents")


def _mentions(text: str, name: str) -> list[list[list[str]]]:
    values = _list(text, name)
    for mention, value in enumerate(values):
        if not isinstance(value, list):
            raise VisitorError(
                f"{name}[{mention}] is {_shown(value)}, and must be the list of its {_MADE_OF[name]}, such as "
                '[["D003693"]], or [] for none.'
            )
        for place, ids in enumerate(value):
            if not isinstance(ids, list):
                raise VisitorError(
                    f'{name}[{mention}][{place}] is {_shown(ids)}, and must be a list of ids, such as ["D003693"].'
                )
            for concept_id in ids:
                if not isinstance(concept_id, str):
                    raise VisitorError(
                        f"{name}[{mention}][{place}] holds {_shown(concept_id)}, which is no id: write it in quotes."
                    )
    return values


def _labels(text: str) -> list[Hashable]:
    labels = _list(text, "documents")
    for mention, label in enumerate(labels):
        if not isinstance(label, str | int):
            raise VisitorError(f"documents[{mention}] is {_shown(label)}, and must be a text or a whole number.")
    return labels


def _list(text: str, name: str) -> list[Any]:
    if not text.strip():
        raise VisitorError(f"There are no {name} yet. Paste them as JSON, or choose an example.")
    if len(text) > MAX_CHARACTERS:
        raise VisitorError(
            f"The {name} have {len(text):,} characters, of which at most {MAX_CHARACTERS:,} are scored here. "
            "With evaluate.load there is no limit."
        )
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise VisitorError(
            f"The {name} are not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise VisitorError(f"The {name} hold a number or a nesting that is beyond reading.") from error
    if not isinstance(values, list):
        raise VisitorError(f"The {name} are {_shown(values)}, and must be a list with one item a mention.")
    if len(values) > MAX_MENTIONS:
        raise VisitorError(
            f"There are {len(values):,} {name}, of which at most {MAX_MENTIONS:,} are scored here. "
            "With evaluate.load there is no limit."
        )
    return values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


# --- as HTML ---------------------------------------------------------------------------------------------------------


def escape(text: str, most: int = 600) -> str:
    """Text as HTML, cut to `most` characters; halves of characters, which have no encoding, become question marks."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def problem(error: VisitorError) -> str:
    """What a visitor is told in place of scores."""
    return f'<p class="problem" role="alert">{escape(str(error))}</p>'


def table(result: Scored) -> str:
    """The scores with their intervals, and the first mentions one by one."""
    scores, count = result.scores, result.scores["mentions"]
    rows = "".join(
        f'<tr><th scope="row">{title}</th>{_cell(scores, key)}{_cell(scores, f"{key}_strict")}</tr>'
        for key, title in _ROWS.items()
    )
    said = f"{count:,} mention{'' if count == 1 else 's'}, {scores['nil']:,} of no concept (NIL)"
    return (
        f'<p class="quiet">{said}. Percentages, with 95% bootstrap intervals over {result.unit}.</p>'
        '<table class="scores"><thead><tr><th scope="col">Score</th><th scope="col">any id</th>'
        f'<th scope="col">strict</th></tr></thead><tbody>{rows}</tbody></table>{_one_by_one(result)}'
    )


def _cell(scores: dict[str, Any], key: str) -> str:
    low, high = scores[f"{key}_ci"]
    return f'<td>{scores[key]:.1f} <span class="quiet">{low:.1f} to {high:.1f}</span></td>'


def _one_by_one(result: Scored) -> str:
    rows = "".join(
        f"<tr><td>{place}</td><td>{_reference(reference)}</td><td>{_candidate(prediction)}</td>"
        f"<td>{_rank(any_id, reference)}</td><td>{_rank(strict, reference)}</td></tr>"
        for place, (reference, prediction, any_id, strict) in enumerate(
            zip(
                result.references[:SHOWN_MENTIONS],
                result.predictions[:SHOWN_MENTIONS],
                result.any_id.tolist(),
                result.strict.tolist(),
                strict=False,
            )
        )
    )
    more = len(result.references) - SHOWN_MENTIONS
    heads = ("Mention", "Reference", "First candidate", "Right at rank (any id)", "Right at rank (strict)")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    rest = f'<p class="quiet">And {more:,} more.</p>' if more > 0 else ""
    return f'<table class="mentions"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}'


def _reference(reference: list[list[str]]) -> str:
    return " <b>and</b> ".join(_ids(part, " or ") for part in reference) or "no concept (NIL)"


def _candidate(prediction: list[list[str]]) -> str:
    return _ids(prediction[0], ", ") if prediction else "none"


def _ids(ids: list[str], between: str, most: int = 6) -> str:
    shown = between.join(f"<code>{escape(concept_id, 40)}</code>" for concept_id in ids[:most])
    return f"{shown}{between}{len(ids) - most:,} more" if len(ids) > most else shown or "a name of no concept"


def _rank(rank: int, reference: list[list[str]]) -> str:
    if rank < 0:
        return "not"
    return str(rank + 1) if reference else "abstained"
