"""The scores of `angel_trl.metrics` as a metric of the `evaluate` library.

A module of its own because a subclass of `evaluate.Metric` needs `evaluate` (and with it `datasets` and pandas) at
import, and the scores themselves need numpy only.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate

from angel_trl.metrics import Prediction, Reference, score

_DESCRIPTION = """\
Accuracy at k and mean reciprocal rank of entity linking, under two protocols: any-id (a candidate is right when it \
shares a concept id with the reference, as in the published numbers) and strict (a candidate is right when it names \
every part of the reference and nothing else, so an ambiguous name, or half of a composite mention, is wrong). \
Mentions of no concept (NIL) are right when nothing is predicted. All scores are percentages with 95% bootstrap \
intervals.
"""

_CITATION = """\
@inproceedings{kim-etal-2025-learning-negative,
    title = "Learning from Negative Samples in Biomedical Generative Entity Linking",
    author = "Kim, Chanhwi and Kim, Hyunjae and Park, Sihyeon and Lee, Jiwoo and Sung, Mujeen and Kang, Jaewoo",
    booktitle = "Findings of the Association for Computational Linguistics: ACL 2025",
    year = "2025",
    pages = "10714--10730",
    doi = "10.18653/v1/2025.findings-acl.558",
    eprint = "2408.16493",
    archivePrefix = "arXiv",
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: a list with one item a mention: its ranked candidates, best first, each a list of the ids of all
        concepts bearing that name; an empty list where the system abstains.
    references: a list with one item a mention: the parts of the mention (all are meant), each a list of alternative
        concept ids (any is right); an empty list for a mention of no concept (NIL).
    ks: the cut-offs of the accuracies, by default (1, 5).
    groups: one label a mention, such as its document; mentions with equal labels are resampled together. By default
        mentions are resampled one by one.
    bootstrap: the number of resamples behind the intervals, by default 1000; 0 leaves the intervals out.
    seed: the seed of the resampling, by default 0.

Returns:
    A dict with, for each k, `acc@{k}` and `acc@{k}_strict`; `mrr` and `mrr_strict`; each of these with the suffix
    `_ci` as [low, high]; and the counts `mentions` and `nil`.

Examples:
    >>> from angel_trl.evaluate_metric import EntityLinkingMetric
    >>> metric = EntityLinkingMetric()
    >>> results = metric.compute(
    ...     predictions=[[["D003693"], ["D003704"]], [["D001943", "D010051"]]],
    ...     references=[[["D003693"]], [["D001943"]]],
    ...     bootstrap=0,
    ... )
    >>> results["acc@1"], results["acc@1_strict"]
    (100.0, 50.0)
"""


class EntityLinkingMetric(evaluate.Metric):
    """`angel_trl.metrics.score` behind `compute`, `add` and `add_batch`.

    Needs no network and no script from the Hub. Takes the arguments of `evaluate.Metric`; give each process of a
    distributed run its `num_process`, `process_id` and a common `experiment_id`, as with any other metric.
    """

    def _info(self) -> evaluate.MetricInfo:
        # The types of one mention's row. Plain lists, not Sequence or List: these mean the same in every version.
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": [[datasets.Value("string")]], "references": [[datasets.Value("string")]]}
            ),
            reference_urls=["https://arxiv.org/abs/2408.16493"],
        )

    def _compute(
        self,
        predictions: Sequence[Prediction],
        references: Sequence[Reference],
        ks: Sequence[int] = (1, 5),
        groups: Sequence[Hashable] | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        return score(predictions, references, ks=ks, groups=groups, bootstrap=bootstrap, seed=seed)
