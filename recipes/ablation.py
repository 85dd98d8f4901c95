"""Train as `angel.py` does, with one thing done otherwise, to see what it is worth.

    accelerate launch recipes/ablation.py --config recipes/configs/quickstart.yaml --negatives tfidf
    accelerate launch recipes/ablation.py --config recipes/configs/quickstart.yaml --mistake doubled_space

`--negatives` says which wrong names the pairs have: those that the search prefers to gold (`beam`, as ever), as many
that are spelled most like the mention (`tfidf`), or as many of all names (`random`). `--mistake` puts one mistake of
the published implementation back: `variants.VariantTrainer` says what each does. All other settings, the folders and
`--resume` are those of `angel.py`; nothing is published.
"""

import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import angel
from angel import AngelConfig, RecipeArguments
from publishing import QUICKSTART
from variants import Mistake, Negatives, VariantTrainer


@dataclass
class AblationArguments(RecipeArguments):
    """What is done otherwise, and what `angel.py` needs."""

    script: ClassVar[str] = "recipes/ablation.py"
    negatives: Negatives = field(
        default="beam", metadata={"help": "Wrong names that the search prefers, nearest by TF-IDF, or random."}
    )
    mistake: Mistake = field(
        default="none", metadata={"help": "A mistake of the published implementation to make in training."}
    )

    def make_trainer(self, *given: Any, **named: Any) -> VariantTrainer:
        return VariantTrainer(*given, negatives=self.negatives, mistake=self.mistake, **named)


def parse_arguments(argv: list[str]) -> tuple[AblationArguments, AngelConfig]:
    """Read settings as `angel.py` does.

    Raises:
        SystemExit: also if something is to be published.
    """
    args, config = angel.parse_arguments(argv, AblationArguments)
    if config.push_to_hub:
        raise SystemExit("recipes/ablation.py publishes nothing: leave push_to_hub out. recipes/angel.py does.")
    return args, config


if __name__ == "__main__":
    if not any(word.startswith("--config") or word in ("-h", "--help") for word in sys.argv):
        sys.argv[1:1] = ["--config", str(QUICKSTART)]
    angel.main(parse_arguments)
