"""How a wrong answer relates to the right one."""

import pytest

from angel_trl.confusions import KINDS, kind_of_confusion


@pytest.mark.parametrize(
    ("mention", "gold", "answer", "kind"),
    [
        ("a tumour", ["tumour"], None, "no answer"),
        ("AT", ["ataxia telangiectasia"], "atrial tachycardia", "abbreviation"),
        ("diabetes", ["type 1 diabetes"], "diabetes type 2", "numbered type"),
        ("SCA 1 families", ["spinocerebellar ataxia 1"], "Spinocerebellar ataxia type 2", "numbered type"),
        ("hepatitis", ["hepatitis b"], "hepatitis C", "numbered type"),
        ("porphyria", ["glycogen storage disease type Ia"], "glycogen storage disease type II", "numbered type"),
        ("sca", ["sca1"], "sca2", "numbered type"),
        # One has no number: that is the broader concept.
        ("diabetes", ["type 1 diabetes"], "diabetes", "hypernym"),
        ("breast tumours", ["breast cancer", "cancer of the breast"], "cancers", "hypernym"),
        ("cancer", ["cancer"], "breast cancer, familial", "hyponym"),
        # "cancer" alone is a hyponym's; "familial breast cancer" shares more of its words.
        ("cancer", ["cancer", "early familial breast cancer"], "familial breast cancer", "hypernym"),
        ("haemophilia", ["haemophilia"], "hemophilia", "near-synonym"),
        ("degeneration of neurons", ["neuronal degeneration"], "retinal degeneration", "near-synonym"),
        ("gout", ["gout", "podagra"], "measles", "other"),
        # The label is not in the knowledge base.
        ("gout", [], "measles", "other"),
        # The same words in another order, and no number that differs.
        ("gout", ["breast cancer"], "cancer of breast", "near-synonym"),
        ("-", ["gout"], "", "other"),
    ],
)
def test_the_first_kind_that_holds(mention, gold, answer, kind):
    assert kind_of_confusion(mention, gold, answer) == kind
    assert kind in KINDS
