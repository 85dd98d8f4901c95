"""A small experiment's JSON file, as tables and pictures are made of."""

from angel_trl.breakdown import SLICES
from angel_trl.confusions import KINDS


def system(value, sd, seeds=(0, 1), seconds=None):
    """A system whose every score is `value`."""
    scores = {key: value for key in ("acc@1", "acc@1_strict", "acc@5", "mrr")}
    return {
        "seeds": list(seeds),
        "scores": scores | {f"{key}_ci": [value - 2, value + 3] for key in scores},
        "sd": {key: sd for key in scores},
        "by_seed": {str(seed): scores for seed in seeds},
        "slices": {name: scores | {"acc@1_ci": [value - 5, value + 5], "mentions": 3} for name in SLICES},
        "compute": None if seconds is None else {"seconds": seconds, "core_seconds": 2 * seconds},
    }


def difference(name, against, value):
    """A difference of `value` in every score."""
    one = {"difference": value, "ci": [value - 1, value + 1], "p_value": 0.01}
    nothing = dict.fromkeys((*KINDS, "all"), 0.0)
    return {
        "system": name,
        "against": against,
        "seeds": [0, 1],
        **dict.fromkeys(("acc@1", "acc@1_strict", "acc@5", "mrr"), one),
        "by_seed": {"0": one | {"difference": value + 0.5}, "1": one},
        "sd": 0.3,
        "slices": dict.fromkeys(SLICES, one),
        "changes": {
            "fixed": nothing | {"all": 3.5, "hypernym": 2.0, "other": 1.5},
            "broken": nothing | {"all": 1.0, "other": 1.0},
        },
        "calibration": {
            side: {"ece": 0.1, "ece_equal_mass": 0.2, "ece_fitted": 0.05, "aurc": 0.0314}
            for side in ("before", "after")
        },
    }


def toy_result():
    """Three systems of two runs, with two differences."""
    run = {
        "command": "accelerate launch recipes/angel.py --model scratch-small",
        "seconds": 120,
        "date": "2026-11-24",
        "git": "0123456789",
        "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
        "dev": {"positive-only": [[10, 40.0], [20, 60.0]], "ANGEL": [[0, 60.0], [5, 62.0]]},
    }
    control = run | {"command": "accelerate launch recipes/angel.py --model RUNS/angel/positive"}
    control["dev"] = {"ANGEL": [[0, 60.0], [5, 59.0]]}
    return {
        "title": "A corpus; small",
        "runs": {"angel": {"0": run, "1": run}, "control": {"0": control}},
        "mentions": {"all": 10, "documents": 4} | dict.fromkeys(SLICES, 3) | {"no label": 0},
        "systems": {
            "lookup": system(50.0, 0.0),
            "positive-only": system(75.0, 1.0, seconds=60),
            "ANGEL": system(77.04, 0.5, seconds=90),
        },
        "differences": [difference("ANGEL", "positive-only", 2.0), difference("ANGEL", "lookup", 27.0)],
    }
