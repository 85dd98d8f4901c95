"""Answers as HTML. Whatever comes from a visitor or a knowledge base is escaped here, and nowhere is it trusted."""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from service import Answer, Comparison, probability

from angel_trl import Candidate, KnowledgeBase, Linked

NO_CONCEPT = "no concept in this KB"

# What the ids of well-known knowledge bases look like, and where their pages are.
_PAGES = (
    (r"(?:MESH:)?([CD](?:\d{6}|\d{9}))", "https://meshb.nlm.nih.gov/record/ui?ui={id}"),
    (r"OMIM:(\d{6})", "https://omim.org/entry/{id}"),
    (r"(?:UMLS:)?(C\d{7})", "https://uts.nlm.nih.gov/uts/umls/concept/{id}"),
    (r"HP:(\d{7})", "https://hpo.jax.org/browse/term/HP:{id}"),
    (r"(MONDO:\d{7})", "https://monarchinitiative.org/{id}"),
    (r"DOID:(\d+)", "https://disease-ontology.org/?id=DOID:{id}"),
    (r"CHEBI:(\d+)", "https://www.ebi.ac.uk/chebi/CHEBI:{id}"),
    (r"(?:NCBIGene|GeneID):(\d+)", "https://www.ncbi.nlm.nih.gov/gene/{id}"),
    (r"ORPHA:(\d+)", "https://www.orpha.net/en/disease/detail/{id}"),
)
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
# Characters that turn the direction of what follows them, which may be a text of ours.
_TURNS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C), 0xFFFD)
_SHOWN_IDS = 3
_SHOWN_CHARACTERS = 300


def escape(text: str, most: int | None = None) -> str:
    """Text as HTML: markup is shown as it stands, control characters as pictures of themselves.

    Args:
        text: any text.
        most: characters to show; what is longer ends in an ellipsis.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    shown = text.translate(_CONTROLS).translate(_TURNS)
    # What is left of controls and half characters has no picture.
    return html.escape(
        "".join("�" if unicodedata.category(c) in ("Cs", "Cc") and c not in "\n\t" else c for c in shown)
    )


def page_of(concept_id: str, pattern: str = "") -> str | None:
    """The page of a concept on the web: by `pattern` if given, else by what its id looks like; None if unknown."""
    if pattern:
        return pattern.replace("{id}", quote(concept_id, safe=""))
    for ids, page in _PAGES:
        if match := re.fullmatch(ids, concept_id):
            return page.replace("{id}", quote(match[1], safe=":"))
    return None


def percent(value: float) -> str:
    """A probability for people: never 0 % or 100 % for what is neither."""
    if value >= 0.9995:
        return "> 99.9 %"
    if value < 1e-6:
        return "< 0.0001 %"
    return f"{100 * value:.1g} %" if value < 0.001 else f"{100 * value:.1f} %"


def notices(lines: Iterable[str], *, error: bool = False) -> str:
    """Messages to the visitor, one a paragraph; empty for none."""
    kind, sign = ("error", "!") if error else ("note", "i")
    role = "alert" if error else "status"
    texts = "".join(f"<p>{escape(line, 600)}</p>" for line in lines)
    sign = f'<span class="sign" aria-hidden="true">{sign}</span>'
    return f'<div class="notice {kind}" role="{role}">{sign}<div>{texts}</div></div>' if texts else ""


class Page:
    """Draws answers for one knowledge base.

    Args:
        kb: the knowledge base.
        pattern: address of a concept's page with `{id}` in it; empty to tell by what ids look like.
    """

    def __init__(self, kb: KnowledgeBase, pattern: str = "") -> None:
        self._kb, self._pattern = kb, pattern

    def passage(self, answer: Answer | None, chosen: int = 0) -> str:
        """The passage with its mentions and what each was linked to; the chosen one is marked."""
        if answer is None:
            return ""
        parts, at = [], 0
        for number, link in enumerate(answer.links):
            parts.append(escape(answer.text[at : link.start]))
            concept = escape(link.name or "", 80) if link.answer else f"<i>{NO_CONCEPT}</i>"
            parts.append(
                f'<span class="mention{"" if link.answer else " none"}" role="button" tabindex="0" '
                f'data-mention="{number}" aria-pressed="{"true" if number == chosen else "false"}">'
                f'<bdi class="said">{escape(link.mention)}</bdi><bdi class="means">{concept}</bdi></span>'
            )
            at = link.end
        parts.append(escape(answer.text[at:]))
        return f'<div class="passage" dir="auto" tabindex="0" role="group" aria-label="Passage">{"".join(parts)}</div>'

    def candidates(self, link: Linked, *, restricted: bool = False) -> str:
        """What one mention was linked to, and the other candidates.

        Args:
            link: the mention.
            restricted: whether only some names were allowed.
        """
        if not link.candidates:
            return f'{self._headline(link)}<p class="quiet">The mention is longer than the model can read.</p>'
        said = "Probability is the model’s own, of the name given the passage"
        if link.exact:
            sure = '<span class="badge">✓ exact</span>'
            which = "name that is allowed" if restricted else "name of this knowledge base"
            said += f": no other {which} is likelier."
        else:
            sure = '<span class="badge open">~ not proven</span>'
            said += "; a likelier name may have been missed."
        if link.abstained:
            said = f"The confidence is below the threshold, so there is no answer. {said}"
        drawn = self._table(link.candidates, "Candidates", answered=not link.abstained)
        return f'{self._headline(link)}{drawn}<p class="quiet">{sure} {said}</p>'

    def _headline(self, link: Linked) -> str:
        sure = ""
        if link.confidence is not None:
            sure = f'<span class="quiet">confidence {percent(link.confidence)}</span>'
        said = f'<bdi class="said">{escape(link.mention, 120)}</bdi><span class="arrow" aria-hidden="true">→</span>'
        if link.answer is None:
            return f'<div class="headline">{said}<b><i>{NO_CONCEPT}</i></b>{sure}</div>'
        known = self._kb.resolve(link.answer.ids[0])
        definition = self._kb.concepts[known[0]].definition if known else ""
        return (
            f'<div class="headline">{said}<b><bdi>{escape(link.answer.name, 200)}</bdi></b>'
            f"{self._ids(link.answer.ids)}{self._types(link.answer)}{sure}</div>"
            + (f'<p class="definition" dir="auto">{escape(definition, _SHOWN_CHARACTERS)}</p>' if definition else "")
        )

    def _table(self, candidates: Sequence[Candidate], caption: str, *, answered: bool) -> str:
        """Candidates, with their types if the knowledge base has some."""
        types = [self._types(c) for c in candidates]
        # On a narrow screen the headline's has to do.
        column = [f'<span class="wide">{kinds}</span>' for kinds in types] if any(types) else []
        heads = ("Name", "Id", *(['<span class="wide">Type</span>'] if column else []), "Probability")
        rows = [
            [self._name(c), self._ids(c.ids), *column[place : place + 1], _share(c)]
            for place, c in enumerate(candidates)
        ]
        return table(caption, heads, rows, best=answered)

    def _name(self, candidate: Candidate) -> str:
        name = f"<bdi>{escape(candidate.name, 120)}</bdi>"
        if candidate.matched_name != candidate.name.lower():
            name += f' <span class="quiet">as “<bdi>{escape(candidate.matched_name, 120)}</bdi>”</span>'
        return name

    def _ids(self, ids: Sequence[str]) -> str:
        shown = []
        for concept_id in ids[:_SHOWN_IDS]:
            text, page = escape(concept_id, 40), page_of(concept_id, self._pattern)
            if page is None:
                shown.append(f"<code>{text}</code>")
            else:
                link = f'href="{html.escape(page)}" target="_blank" rel="noopener noreferrer"'
                shown.append(f"<a {link}><code>{text}</code></a>")
        more = f' <span class="quiet">+{len(ids) - _SHOWN_IDS}</span>' if len(ids) > _SHOWN_IDS else ""
        return f'<span class="ids">{" ".join(shown)}{more}</span>'

    def _types(self, candidate: Candidate) -> str:
        kinds = dict.fromkeys(
            kind for i in candidate.ids for c in self._kb.resolve(i) for kind in self._kb.concepts[c].types
        )
        return " ".join(f'<span class="type">{escape(kind, 40)}</span>' for kind in list(kinds)[:_SHOWN_IDS])

    def comparison(self, compared: Comparison | None) -> str:
        """One mention before and after the rounds, side by side, and the pairs that bear on it."""
        if compared is None:
            return (
                '<p class="quiet">There is no positive-only model beside this one. Set '
                "<code>ANGEL_POSITIVE_MODEL</code> to show what the negative-aware rounds changed.</p>"
            )
        before, after = compared.before, compared.after
        if not before.candidates or not after.candidates:
            return '<p class="quiet">The mention is longer than the model can read.</p>'
        # An answer that is not given for want of confidence is no change that the rounds made.
        was, now = before.candidates[0], after.candidates[0]
        if set(was.ids) & set(now.ids):
            change = "Both stages agree on the concept. "
            change += f"Its name went from {percent(probability(was))} to {percent(probability(now))}."
        else:
            change = f"The rounds changed the first candidate: “{was.name}” before, “{now.name}” after."
        if after.abstained:
            change += " Its confidence is below the threshold, so it is not given as an answer."
        places = {c.matched_name: place for place, c in enumerate(before.candidates)}
        first = [[self._name(c), self._ids(c.ids), _share(c)] for c in before.candidates]
        then = [
            [self._name(c), self._ids(c.ids), _moved(places.get(c.matched_name), place), _share(c)]
            for place, c in enumerate(after.candidates)
        ]
        columns = (
            '<section class="side"><h2>Before <span class="quiet">trained on right names only</span></h2>'
            f"{table('Candidates before', ('Name', 'Id', 'Probability'), first)}</section>"
            '<section class="side"><h2>After <span class="quiet">trained on its own mistakes too</span></h2>'
            f"{table('Candidates after', ('Name', 'Id', 'Was', 'Probability'), then)}</section>"
        )
        return f'<p class="change">{escape(change)}</p><div class="sides">{columns}</div>{_pairs(compared)}'


def table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, ranked: bool = True, best: bool = True
) -> str:
    """A table that can be scrolled sideways, also with the keyboard.

    Args:
        caption: what it holds, for those who do not see it.
        heads: of the columns, as HTML.
        rows: cells as HTML; the last of a row is a number.
        ranked: whether rows are numbered.
        best: whether the first of numbered rows is the answer.
    """
    head = "".join(f'<th scope="col">{text}</th>' for text in (["#", *heads] if ranked else heads))
    body = ""
    for place, cells in enumerate(rows):
        *first, last = cells
        rank = f'<td class="rank">{place + 1}</td>' if ranked else ""
        kind = ' class="best"' if ranked and best and place == 0 else ""
        texts = "".join(f"<td>{cell}</td>" for cell in first)
        body += f'<tr{kind}>{rank}{texts}<td class="share">{last}</td></tr>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _share(candidate: Candidate) -> str:
    share = probability(candidate)
    return f'<span class="bar" style="--share:{share:.4f}"></span><span class="number">{percent(share)}</span>'


def _moved(was: int | None, place: int) -> str:
    if was is None:
        return "new"
    if was == place:
        return f"{was + 1}"
    sign, word = ("▲", "up") if was > place else ("▼", "down")
    sign = f'<span aria-hidden="true">{sign}</span><span class="only-read">{word}</span>'
    return f'<span class="moved">{was + 1} {sign}</span>'


def _pairs(compared: Comparison) -> str:
    if not compared.pairs:
        return '<p class="quiet">No mined pair sets these candidates against each other.</p>'
    rows = [
        [
            str(pair.round),
            f"<bdi>{escape(pair.chosen, 120)}</bdi>",
            f"<bdi>{escape(pair.rejected, 120)}</bdi>",
            str(pair.times),
            f"{pair.margin:+.2f}".replace("-", "−"),
        ]
        for pair in compared.pairs
    ]
    heads = ("Round", "Chosen", "Rejected", "Times", "Margin")
    return (
        "<h2>What the rounds taught about these names</h2>"
        f'{table("Mined pairs", heads, rows, ranked=False)}<p class="quiet">Round: the first that mined the '
        "pair. Margin: log-probability of the chosen name less that of the rejected one, by the model that mined it; "
        "below 0 it preferred the wrong one.</p>"
    )
