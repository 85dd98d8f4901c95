import pytest

from angel_trl.normalization import NORMALIZATIONS, normalize


def test_rules_are_listed_default_first():
    assert NORMALIZATIONS == ("genbioel", "lower", "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tooth Agenesis, Selective, 6", "tooth agenesis selective 6"),
        (" Alzheimer's disease ", "alzheimer s disease"),
        ("22q11.2-deletion (DiGeorge) syndrome", "22q11 2 deletion digeorge syndrome"),
        (",.;{}[]()+-_*/?!`\"'=%><a", "a"),
        ("A:B&C#D@E~F|G\\H^I$J", "a:b&c#d@e~f|g\\h^i$j"),  # everything outside the rule's list stays
        ("β-Thalassemia", "β thalassemia"),
        ("a\u00a0\t b\n", "a b"),
        ("(-)", ""),
        ("", ""),
    ],
)
def test_genbioel_rule(text, expected):
    assert normalize(text) == expected


def test_lower_keeps_punctuation():
    assert normalize("  Type-2   (Diabetes) ", "lower") == "type-2 (diabetes)"


def test_none_only_collapses_whitespace():
    assert normalize("  Type-2 \t (Diabetes) ", "none") == "Type-2 (Diabetes)"


@pytest.mark.parametrize("rule", NORMALIZATIONS)
def test_normalising_twice_changes_nothing(rule):
    once = normalize(" X-linked  (İ) Disease, TYPE 2+", rule)
    assert normalize(once, rule) == once


def test_unknown_rule_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'upper'.*'genbioel', 'lower', 'none'"):
        normalize("a", "upper")
