"""PubTator in and out: mentions of a piece of documents, and the same piece with the ids that they were given.

The layout is that of [`angel_trl.readers.pubtator`]; ids of the input are not looked at.
"""

import re
from collections.abc import Collection, Mapping

from angel_trl.linked import Linked
from angel_trl.readers.lines import shorten
from angel_trl.readers.mention_rows import is_integer, place_mention
from angel_trl.readers.report import ReadReport

from .files import CorpusFile
from .pieces import Piece
from .records import Mention, is_wanted

__all__ = ["NO_CONCEPT", "answered_lines", "mentions_of_documents"]

NO_CONCEPT = "-"
"""What stands for the id of a mention that got no answer."""

_PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
_RULE = "characters from 0 in the title, one separator and the abstract"
_COLUMNS_FIX = "A mention line is PMID, start, end, mention, type and ids, separated by tabs."


def mentions_of_documents(
    file: CorpusFile, piece: Piece, types: Collection[str], report: ReadReport
) -> tuple[dict[int, Mention], set[int]]:
    """Return what can be linked of a piece of PubTator.

    Mentions need no ids. A wrong offset is repaired as by [`angel_trl.readers.pubtator.read_pubtator`].

    Args:
        file: Where the piece is from.
        piece: Whole documents.
        types: As of `is_wanted`.
        report: Counts every mention line, and every line that is nothing known.

    Returns:
        The mentions by the number of their line, and the numbers of the lines that are left out of the answer: those
        that look like mentions and are none.
    """
    mentions: dict[int, Mention] = {}
    bad: set[int] = set()
    document_id, text, has_abstract = "", "", False
    for number, raw in piece.records:
        where = f"{file.name}:{number}"
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            line = None
        if line is None or "\0" in line:
            shown = shorten(raw.decode("utf-8", "replace"))
            report.skip("line that is not UTF-8 text", f"{where} {shown}", "Re-encode the file as UTF-8.")
            if b"|t|" in raw.split(b"\t", 1)[0]:
                document_id, text, has_abstract = "", "", False
            elif b"\t" in raw:
                bad.add(number)
            continue
        if not line.strip():
            continue
        passage = _PASSAGE.fullmatch(line)
        if passage is None:
            mention = _mention(line, number, where, document_id, text, types, report)
            if isinstance(mention, dict):
                mentions[number] = mention
            elif mention:
                bad.add(number)
        elif passage[2] == "t":
            document_id, text, has_abstract = passage[1].strip(), passage[3], False
        elif passage[1].strip() == document_id and not has_abstract:
            text += f" {passage[3]}"
            has_abstract = True
        else:
            fix = "A document has one title line 'PMID|t|title', then at most one abstract line 'PMID|a|abstract'."
            report.skip("abstract that belongs to no title", f"{where} {shorten(line)}", fix)
    return mentions, bad


def answered_lines(
    piece: Piece, mentions: Mapping[int, Mention], bad: Collection[int], answers: list[Linked]
) -> bytes:
    r"""Return a piece with the ids that its mentions were linked to; every line ends in `\n`.

    Passages, relation lines, blank lines and mentions of other types than asked for are what they were, byte for byte.
    A mention line keeps its type; its offsets and text are those that were linked. Its ids are those of the best name,
    joined by `|`, or the first of them where `|` would join parts (`CompositeMention`); a seventh column, of the parts
    of the mention, is left out.

    Args:
        piece: The piece.
        mentions: What was linked, by the number of the line.
        bad: Lines to leave out.
        answers: To the mentions, in their order.
    """
    answer_of = dict(zip(mentions, answers, strict=True))
    lines = []
    for number, raw in piece.records:
        if number in bad:
            continue
        mention = mentions.get(number)
        if mention is not None:
            columns = raw.decode().split("\t")
            answer = answer_of[number].answer
            ids = (NO_CONCEPT,) if answer is None else answer.ids
            if "CompositeMention" in columns[4]:
                ids = ids[:1]
            start, end = mention["start"], mention["end"]
            place = [str(start), str(end), mention["text"][start:end]]
            raw = "\t".join([columns[0], *place, columns[4], "|".join(ids)]).encode()
        lines.append(raw + b"\n")
    return b"".join(lines)


def _mention(
    line: str, number: int, where: str, document_id: str, text: str, types: Collection[str], report: ReadReport
) -> Mention | bool:
    """Return the mention of a line, or whether the line looks like one and is none."""
    columns = line.split("\t")
    value = f"{where} {shorten(' '.join(columns))}"
    if len(columns) == 1:
        fix = "A line is 'PMID|t|title', 'PMID|a|abstract' or a tab-separated mention."
        report.skip("line that is neither passage nor mention", value, fix)
        return False
    if len(columns) < 6 and not is_integer(columns[1]):
        # 'PMID, relation, id, id' and, in later corpora, one column more
        report.note("relation line left as it is", value)
        return False
    if len(columns) < 5:
        report.skip("fewer than 5 columns", value, _COLUMNS_FIX)
        return True
    if not is_wanted([name.strip() for name in columns[4].split(",")], types, value, report):
        return False
    if columns[0].strip() != document_id:
        fix = "Move the line below its own title and abstract, or correct its first column."
        report.skip("mention under another document", value, fix)
        return True
    if not (is_integer(columns[1]) and is_integer(columns[2])):
        report.skip("offset that is no integer", value, _COLUMNS_FIX)
        return True
    place = place_mention(text, int(columns[1]), int(columns[2]), columns[3], value, report, rule=_RULE)
    if place is None:
        return True
    report.use()
    start, end = place
    mention_id = f"{document_id}:{start}-{end}"
    return {"record": number, "id": mention_id, "document_id": document_id, "text": text, "start": start, "end": end}
