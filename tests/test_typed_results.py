"""What was measured stands in tables made from JSON files, and no figure of it in the prose around them.

Settings, versions and limits may be typed.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

NOT_PROSE = re.compile(
    r"\A---\n.*?\n---\n|<!-- table: (?P<name>.+?) -->.*?<!-- end of table: (?P=name) -->"
    r"|```.*?```|`[^`]*`|(?<=\])\([^)]*\)",
    re.DOTALL,
)
SETTINGS = re.compile(
    r"\d\.\d million parameters|beta 0\.1 \(in place of 0\.5\)|\(1\.15 and 1\.16\)|5 MB a file"
    r"|Apache-2\.0|95% (?:intervals|bootstrap|Clopper-Pearson)"
)
MEASURED = re.compile(
    r"(?<![\w.])\d*\.\d+(?!\w|\.\d)"  # 52.1 and .058, but no 0.9.6
    r"|(?<![\w)])[+-]\d"  # +2
    r"|\[[+-]?\d[^\]]*,"  # [1, 2]
    r"|\d ?(?:%|(?:ms|s|seconds|minutes|hours|[KMG]B|bytes|points?|times|(?:mentions|names|steps) a second)\b)"
)


def typed_results(text):
    prose = SETTINGS.sub("", NOT_PROSE.sub("", text))
    return [line for line in prose.splitlines() if MEASURED.search(line)]


@pytest.mark.parametrize("readme", ["README.md", "recipes/results/README.md", "spaces/entity-linking/README.md"])
def test_no_result_is_typed_in_the_readmes(readme):
    assert typed_results((ROOT / readme).read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "String lookup: 52.1.",
        "The area is .058 there.",
        "ANGEL brings +3 at best.",
        "Between [1, 4] and more.",
        "Right for 98% of them.",
        "Pre-training brings 15 points.",
        "It takes 92 s and 2 GB.",
        "Four times as long, 145 mentions a second.",
    ],
)
def test_typed_results_are_found(text):
    assert typed_results(f"# Title\n\n{text}\n") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "---\nversion: 0.25\n---\n",
        "<!-- table: a -->\n| 52.1 [1, 2] |\n<!-- end of table: a -->",
        "```\npython x.py --rate 0.5\n```",
        "A `beta` of `0.5`, see [there](https://arxiv.org/abs/2408.16493).",
        "TRL 0.9.6, GPT-2, 6+6 layers, 4 rounds of 1,500 mentions, 4.5 million parameters, 95% intervals.",
    ],
)
def test_settings_and_what_is_made_are_no_typed_results(text):
    assert typed_results(text) == []
