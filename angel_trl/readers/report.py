"""What a reader did with every record it met: the account that keeps bad input from vanishing silently."""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["MAX_EXAMPLES", "ReadReport"]

MAX_EXAMPLES = 5
"""How many places are kept as examples for each reason."""


@dataclass
class ReadReport:
    """Counts of records read, used, skipped and repaired, with the first places of each reason.

    A record is a mention of a corpus, or a concept line of a knowledge base. `read == used + sum(skipped.values())`
    holds as long as records are counted through [`use`] and [`skip`].

    Attributes:
        read: Records met.
        used: Records kept, repaired ones included.
        skipped: Records left out, by reason.
        repaired: Corrections made to kept records, by reason; a record may count under several reasons.
        notes: What a user should know and that changed nothing in the counts above, by reason (for instance
            mentions without a concept id, or ignored relation lines).
        examples: For each reason, the first five places as `"file:line value"`.
        fixes: For each reason to skip, what to do about it.
    """

    read: int = 0
    used: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    fixes: dict[str, str] = field(default_factory=dict)

    def use(self) -> None:
        """Count one record as read and kept."""
        self.read += 1
        self.used += 1

    def skip(self, reason: str, where: str, fix: str) -> None:
        """Count one record as read and left out; `where` is `"file:line value"`, `fix` what to do about it."""
        self.read += 1
        self.fixes[reason] = fix
        self._count(self.skipped, reason, where)

    def repair(self, reason: str, where: str) -> None:
        """Count one correction to a record that [`use`] counts separately; `where` is `"file:line value"`."""
        self._count(self.repaired, reason, where)

    def note(self, reason: str, where: str) -> None:
        """Count something worth telling that is neither a skip nor a repair; `where` is `"file:line value"`."""
        self._count(self.notes, reason, where)

    def merge(self, other: "ReadReport") -> "ReadReport":
        """Return a new report with the counts of both, this one's examples first."""
        merged = ReadReport(read=self.read + other.read, used=self.used + other.used, fixes=self.fixes | other.fixes)
        for report in (self, other):
            for counts, into in (
                (report.skipped, merged.skipped),
                (report.repaired, merged.repaired),
                (report.notes, merged.notes),
            ):
                for reason, count in counts.items():
                    into[reason] = into.get(reason, 0) + count
            for reason, places in report.examples.items():
                merged._add_examples(reason, places)
        return merged

    def to_dict(self) -> dict[str, int | dict[str, int] | dict[str, list[str]] | dict[str, str]]:
        """Return the report as plain JSON-ready values; the result shares nothing with the report."""
        return {
            "read": self.read,
            "used": self.used,
            "skipped": dict(self.skipped),
            "repaired": dict(self.repaired),
            "notes": dict(self.notes),
            "examples": {reason: list(places) for reason, places in self.examples.items()},
            "fixes": dict(self.fixes),
        }

    def summary(self) -> str:
        """Return the counts as a few lines of text, one reason a line with its first example and its fix."""
        lines = [f"{self.used} of {self.read} records used"]
        for title, counts in (("skipped", self.skipped), ("repaired", self.repaired), ("note", self.notes)):
            for reason, count in counts.items():
                fix = f". {self.fixes[reason]}" if reason in self.fixes else ""
                lines.append(f"  {title}: {reason}: {count} (first: {self.examples[reason][0]}){fix}")
        return "\n".join(lines)

    def _count(self, counts: dict[str, int], reason: str, where: str) -> None:
        counts[reason] = counts.get(reason, 0) + 1
        self._add_examples(reason, (where,))

    def _add_examples(self, reason: str, places: Iterable[str]) -> None:
        kept = self.examples.setdefault(reason, [])
        kept.extend(list(places)[: MAX_EXAMPLES - len(kept)])
