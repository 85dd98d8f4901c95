"""Generative entity linking that learns from its own mistakes: ANGEL on the Hugging Face stack.

Public names are imported when first used, so that `import angel_trl` is quick and loads no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "AngelConfig": "config",
    "AngelTrainer": "trainer",
    "Calibration": "confidence",
    "Candidate": "linked",
    "Candidates": "decoding",
    "Concept": "kb",
    "EncodedMention": "formatting",
    "EntityLinker": "linker",
    "EntityLinkingMetric": "evaluate_metric",
    "Explanation": "explanation",
    "HeldOut": "held_out",
    "KnowledgeBase": "kb",
    "Linked": "linked",
    "MENTION_FEATURES": "mentions",
    "MentionFormat": "formatting",
    "MentionFormatter": "formatting",
    "NameTrie": "trie",
    "PairMiningCallback": "callbacks",
    "PositiveConfig": "positive",
    "PositiveTrainer": "positive",
    "Restriction": "restrictions",
    "TargetNames": "targets",
    "calibrate": "calibration",
    "deal_documents": "held_out",
    "evaluate_confidence": "calibration",
    "explain": "explanation",
    "make_pairs": "pairs",
    "paired_difference": "metrics",
    "plot_risk_coverage": "calibration",
    "read_corpus": "readers",
    "read_knowledge_base": "readers",
    "score": "metrics",
    "score_names": "decoding",
    "search": "decoding",
    "synthetic_corpus": "synthetic",
    "synthetic_knowledge_base": "synthetic",
    "validate_mentions": "mentions",
    "with_mention_names": "mention_names",
}

__all__ = [*_MODULE_OF, "__version__"]  # noqa: PLE0604 (strings all the same)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from angel_trl.calibration import calibrate as calibrate
    from angel_trl.calibration import evaluate_confidence as evaluate_confidence
    from angel_trl.calibration import plot_risk_coverage as plot_risk_coverage
    from angel_trl.callbacks import PairMiningCallback as PairMiningCallback
    from angel_trl.confidence import Calibration as Calibration
    from angel_trl.config import AngelConfig as AngelConfig
    from angel_trl.decoding import Candidates as Candidates
    from angel_trl.decoding import score_names as score_names
    from angel_trl.decoding import search as search
    from angel_trl.evaluate_metric import EntityLinkingMetric as EntityLinkingMetric
    from angel_trl.explanation import Explanation as Explanation
    from angel_trl.explanation import explain as explain
    from angel_trl.formatting import EncodedMention as EncodedMention
    from angel_trl.formatting import MentionFormat as MentionFormat
    from angel_trl.formatting import MentionFormatter as MentionFormatter
    from angel_trl.held_out import HeldOut as HeldOut
    from angel_trl.held_out import deal_documents as deal_documents
    from angel_trl.kb import Concept as Concept
    from angel_trl.kb import KnowledgeBase as KnowledgeBase
    from angel_trl.linked import Candidate as Candidate
    from angel_trl.linked import Linked as Linked
    from angel_trl.linker import EntityLinker as EntityLinker
    from angel_trl.mention_names import with_mention_names as with_mention_names
    from angel_trl.mentions import MENTION_FEATURES as MENTION_FEATURES
    from angel_trl.mentions import validate_mentions as validate_mentions
    from angel_trl.metrics import paired_difference as paired_difference
    from angel_trl.metrics import score as score
    from angel_trl.pairs import make_pairs as make_pairs
    from angel_trl.positive import PositiveConfig as PositiveConfig
    from angel_trl.positive import PositiveTrainer as PositiveTrainer
    from angel_trl.readers import read_corpus as read_corpus
    from angel_trl.readers import read_knowledge_base as read_knowledge_base
    from angel_trl.restrictions import Restriction as Restriction
    from angel_trl.synthetic import synthetic_corpus as synthetic_corpus
    from angel_trl.synthetic import synthetic_knowledge_base as synthetic_knowledge_base
    from angel_trl.targets import TargetNames as TargetNames
    from angel_trl.trainer import AngelTrainer as AngelTrainer
    from angel_trl.trie import NameTrie as NameTrie
