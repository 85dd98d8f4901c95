"""What the cards of a Hub repository are made of: text that cannot break them, tables, licences, versions.

Knows no dataset, no model and no template.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from angel_trl import __version__

__all__ = [
    "HUB_LICENSES",
    "escape",
    "fence",
    "license_metadata",
    "license_text",
    "place",
    "plain",
    "public",
    "read_account",
    "redact",
    "table",
    "versions",
]

# The ids that the Hub's own check of a card's metadata accepted in May 2026 (huggingface_hub issue 4218); others are
# refused, and need `license: other` with a name.
HUB_LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
    """.split()  # noqa: SIM905 (a line of its own for each would hide the code)
)
"""The licence ids of the Hub's list, https://huggingface.co/docs/hub/repositories-licenses."""

_URL = re.compile(r"https?://[^\s<>\"']+")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")
_PLACE = re.compile(r"(?:[^:]|:(?!\d))*?/(?=[^/]+?:\d)")
_PACKAGES = ("datasets", "huggingface_hub", "pyarrow")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(\w://[^\s?#]*)\?[^\s#'\"]*")
_PATH_START = re.compile(r"[/~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:")
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]+)?")


def plain(text: str) -> str:
    """Put any text on one line, with single blanks in place of blanks, line breaks and what cannot be shown."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def escape(text: str) -> str:
    """Make any text safe inside a table cell or a line of Markdown: shown as it is, on one line, no mark-up."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def fence(text: str, language: str) -> str:
    """Put text in a code block with a fence longer than any in the text; signs that cannot be shown become blanks."""
    text = "".join(sign if sign.isprintable() or sign in "\n\t" else " " for sign in text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Make a Markdown table.

    Args:
        header: Its columns.
        rows: Cells that are Markdown already: what users or their files say goes through [`escape`] first.
        numbers: Columns to align at the right.
    """
    right = set(numbers)
    lines = [header, ["--:" if column in right else ":--" for column in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place(where: str) -> str:
    """Cut the folders off a place such as `"folder/file.txt:12 value"`: they are nobody else's business."""
    found = _PLACE.match(where)
    if found:
        return where[found.end() :]
    return where.rpartition("/")[2] if where.startswith(("/", "./", "../", "~")) else where


def redact(text: str) -> str:
    """Leave out of a text what is nobody else's business: tokens, what is secret in a URL, the home folder's name."""
    text = _QUERY.sub(r"\1?...", _PASSWORD.sub("", _TOKEN.sub("hf_***", text)))
    home = str(Path.home()).rstrip("/")
    return re.sub(rf"{re.escape(home)}(?=/)", "~", text) if home else text


def public(value: str) -> str:
    """[`redact`] a setting, and cut the folders off if it is a path: Hub ids and URLs stay whole."""
    text = redact(value)
    if "://" in text and not text.startswith("file:"):
        return text
    is_id = _HUB_ID.fullmatch(text) is not None and not Path(value).exists()
    if _PATH_START.match(text) or (re.search(r"[/\\]", text) and not re.search(r"\s", text) and not is_id):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or "/"
    return text


def license_metadata(license: str | None) -> dict[str, str]:
    """Turn a licence as people give it into a card's metadata.

    Args:
        license: An id of [`HUB_LICENSES`] in any case, a name, a name with a URL in it, or a URL; `None` or `""` if
            none was stated.

    Returns:
        `{}` if none was stated; `license` for an id; `license: other` with `license_name` (in the characters that
        the Hub allows) and `license_link`, as far as they were given, for anything else.
    """
    stated = " ".join((license or "").split())
    if not stated:
        return {}
    url = _URL.search(stated)
    name = re.sub(r"[^a-z0-9.+-]+", "-", _URL.sub(" ", stated).lower()).strip("-.")
    if name in HUB_LICENSES and name != "other":
        return {"license": name}
    metadata = {"license": "other"}
    if name.strip("+") not in ("", "other"):
        metadata["license_name"] = name.replace("+", "")
    if url is not None:
        metadata["license_link"] = url.group().rstrip(".,;)")
    return metadata


def license_text(license: str | None, of: str = "") -> str:
    """Say the licence, as given, in a sentence; `of` is what it is the licence of, such as `" of the model"`."""
    if not (license or "").strip():
        return f"Licence{of}: not stated. The terms of the source hold: find them out before you pass this on."
    return f"Licence{of}, as stated by who prepared this: {escape(license or '')}"


def versions(packages: Iterable[str] = _PACKAGES) -> str:
    """Name the versions that made what the card is of: of angel_trl, of installed `packages` and of Python."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return escape(", ".join([f"angel_trl {__version__}", *packages, f"Python {platform.python_version()}"]))


def read_account(report: Mapping[str, Any] | None) -> str:
    """Tell in a sentence and a table what a reader did with what it met; `""` if there is no report.

    Args:
        report: `ReadReport.to_dict()`.
    """
    if report is None:
        return ""
    kinds = (("left out", "skipped"), ("repaired", "repaired"), ("noted", "notes"))
    rows = [
        [said, escape(reason), f"{count:,}", "<br>".join(escape(place(p)) for p in report["examples"][reason][:3])]
        for said, kind in kinds
        for reason, count in report[kind].items()
    ]
    sentence = f"{report['used']:,} of {report['read']:,} records of the source were used."
    if not rows:
        return f"{sentence} Nothing was repaired."
    return f"{sentence}\n\n{table(['', 'reason', 'records', 'for instance'], rows, numbers=[2])}"
