"""Accuracy at k and mean reciprocal rank of entity linking, for `evaluate.load`; README.md is its card.

`evaluate` first looks whether what is imported here is installed. Those who lack it are told to `pip install` what the
comment behind the import says: in a clone the package itself, in a Space the Space's repository.
"""

from angel_trl.evaluate_metric import EntityLinkingMetric  # From: -e .

__all__ = ["EntityLinkingMetric"]
