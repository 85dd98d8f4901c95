"""Tables of scores, from the JSON files that `experiment.py` writes."""

from collections.abc import Iterable, Mapping
from typing import Any

from table_parts import bold, gain, interval, pair, signed, table

from angel_trl.breakdown import SLICES
from angel_trl.confusions import KINDS

Result = Mapping[str, Any]
# Variants that the page of results explains, and that would make the README's table too long.
_ONLY_IN_RESULTS = ("positive-only, ", "ANGEL, own names among candidates", "ANGEL, out-of-fold")
_BEFORE = ("positive-only", "positive-only, continued (control)")
"""What ANGEL is compared with."""
_HEADERS = {"acc@1": "Acc@1", "acc@1_strict": "Acc@1 strict", "acc@5": "Acc@5", "mrr": "MRR"}


def _with_sd(value: float, sd: float | None) -> str:
    # What has no seed (string lookup) has no spread.
    return f"{value:.1f} ± {sd:.1f}" if sd else f"{value:.1f}"


def _best(values: Mapping[str, float]) -> set[str]:
    """Names of the highest value, as it is printed."""
    highest = max(round(value, 1) for value in values.values())
    return {name for name, value in values.items() if round(value, 1) == highest}


def _score_cells(result: Result, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """By system and score its mean and the deviation between seeds, the highest of each score in bold."""
    systems = result["systems"]
    cells: dict[str, dict[str, str]] = {name: {} for name in systems}
    for key in keys:
        best = _best({name: one["scores"][key] for name, one in systems.items()})
        for name, one in systems.items():
            text = _with_sd(one["scores"][key], one["sd"][key])
            cells[name][key] = bold(text) if name in best else text
    return cells


def scores(result: Result) -> str:
    """All systems: mean over seeds with the interval over documents and the deviation between seeds."""
    cells = _score_cells(result, _HEADERS)
    rows = []
    for name, one in result["systems"].items():
        cells[name]["acc@1"] += f" {interval(one['scores']['acc@1_ci'])}"
        rows.append([name, *cells[name].values(), _core_minutes(one), str(len(one["seeds"]))])
    return table(["", *_HEADERS.values(), "core minutes", "seeds"], rows)


def _core_minutes(system: Result) -> str:
    compute = system["compute"]
    return f"{compute['core_seconds'] / 60:.0f}" if compute and compute["core_seconds"] else ""


def differences(result: Result) -> str:
    """The differences asked for: with interval and p-value, and by seed; † where from an earlier run of a system."""
    seeds = sorted({seed for one in result["differences"] for seed in one["by_seed"]}, key=int)
    rows = [
        [
            f"{one['system']} - {one['against']}{' †' if one.get('earlier') else ''}",
            gain(one["acc@1"]),
            f"{one['acc@1']['p_value']:.4g}",
            gain(one["acc@1_strict"]),
            signed(one["acc@5"]["difference"]),
            ", ".join(signed(one["by_seed"][seed]["difference"]) for seed in seeds if seed in one["by_seed"]),
        ]
        for one in result["differences"]
    ]
    header = ["", "Acc@1 [95%]", "p", "strict [95%]", "Acc@5", f"Acc@1 by seed ({', '.join(seeds)})"]
    return table(header, rows)


def slices(result: Result) -> str:
    """Acc@1 of all systems by slice, and how many mentions each has."""
    shown = [name for name in SLICES if result["mentions"][name]]
    systems = result["systems"]
    best = {name: _best({one: row["slices"][name]["acc@1"] for one, row in systems.items()}) for name in shown}
    rows = [["mentions", *(f"{result['mentions'][name]:,}" for name in shown)]]
    for system, row in systems.items():
        cells = {name: f"{row['slices'][name]['acc@1']:.1f}" for name in shown}
        rows.append([system, *(bold(text) if system in best[name] else text for name, text in cells.items())])
    return table(["Acc@1", *shown], rows, numbers=True)


def wording(result: Result) -> str:
    """Acc@1 of all systems whose answers are known, by how a mention is worded, and how many mentions each has."""
    found = result["wording"]
    kinds, systems = found["mentions"], found["systems"]
    best = {kind: _best({name: one["acc@1"][kind] for name, one in systems.items()}) for kind in kinds}
    rows = [["mentions", "", *(f"{count:,}" for count in kinds.values())]]
    for name, one in systems.items():
        cells = {kind: f"{one['acc@1'][kind]:.1f}" for kind in kinds}
        scores = [bold(text) if name in best[kind] else text for kind, text in cells.items()]
        rows.append([name, str(len(one["seeds"])), *scores])
    return table(["Acc@1", "seeds", *kinds], rows, numbers=True)


def slice_differences(result: Result) -> str:
    """Differences in Acc@1 by slice, with intervals: those of the system of the first difference asked for."""
    system = result["differences"][0]["system"]
    shown = [one for one in result["differences"] if one["system"] == system]
    rows = [
        [name, f"{result['mentions'][name]:,}", *(gain(one["slices"][name]) for one in shown)]
        for name in SLICES
        if result["mentions"][name]
    ]
    return table([f"{system} -", "mentions", *(one["against"] for one in shown)], rows)


def changes(result: Result) -> str:
    """Mentions fixed and broken by kind of mistake, on average over seeds, in the first difference asked for."""
    found = result["differences"][0]["changes"]
    rows = [
        [kind, *(f"{found[what][kind]:.1f}" for what in found), signed(found["fixed"][kind] - found["broken"][kind])]
        for kind in (*KINDS, "all")
        if kind == "all" or found["fixed"][kind] or found["broken"][kind]
    ]
    return table(["mentions, mean over seeds", *found, "net"], rows, numbers=True)


def calibration(result: Result) -> str:
    """How well probabilities fit, before and after, in the first difference asked for."""
    first = result["differences"][0]
    names = {
        "ece": "ECE, equal width",
        "ece_equal_mass": "ECE, equal mass",
        "ece_fitted": "ECE, fitted on the other half of the documents",
        "aurc": "AURC",
    }
    columns = {first["against"]: first["calibration"]["before"], first["system"]: first["calibration"]["after"]}
    return table(
        ["", *columns], [[text, *(f"{one[key]:.3f}" for one in columns.values())] for key, text in names.items()]
    )


def main(*results: Result) -> str:
    """Acc@1 of the systems of several experiments, a column each; below them what ANGEL gains.

    A system that was run with fewer seeds than others of its column says so.
    """
    results = tuple({**result, "systems": _small(result["systems"])} for result in results)
    systems = list(dict.fromkeys(name for result in results for name in result["systems"]))
    keys = ("acc@1", "acc@1_strict")
    seeds = [max(len(one["seeds"]) for one in result["systems"].values()) for result in results]
    columns = []
    for result, most in zip(results, seeds, strict=True):
        column = {name: " / ".join(own.values()) for name, own in _score_cells(result, keys).items()}
        for name, one in result["systems"].items():
            if len(one["seeds"]) < most:
                column[name] += f" ({_seeds(len(one['seeds']))})"
        columns.append(column)
    rows = [[name, *(column.get(name, "") for column in columns)] for name in systems]
    gains = [{(one["system"], one["against"]): one for one in result["differences"]} for result in results]
    for against in _BEFORE:
        found = [own.get(("ANGEL", against)) for own in gains]
        if any(found):
            cells = ["" if one is None else " / ".join(gain(one[key]) for key in keys) for one in found]
            rows.append([f"ANGEL - {against}, points", *cells])
    header = [f"{result['title'].split(';')[0]} ({_seeds(most)})" for result, most in zip(results, seeds, strict=True)]
    return table(["Acc@1, any-id / strict, mean ± deviation between seeds", *header], rows)


def _small(systems: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the README's table: of two ways to use the training mentions, the one that names one concept."""
    return {
        name: one
        for name, one in systems.items()
        if name in _BEFORE or not (name.startswith(_ONLY_IN_RESULTS) or f"{name}, commonest concept" in systems)
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def runs(result: Result) -> str:
    """What was run: how long it took, when, on what, and with which revision of the code."""
    rows = []
    for name, seeds in result["runs"].items():
        minutes = [one["seconds"] / 60 for one in seeds.values()]
        machines = {_machine(one["hardware"]) for one in seeds.values()}
        rows.append(
            [
                name,
                ", ".join(seeds),
                ", ".join(f"{one:.0f}" for one in minutes),
                ", ".join(sorted({one["date"] for one in seeds.values()})),
                ", ".join(sorted({one["git"][:7] for one in seeds.values()})),
                ", ".join(sorted(machines)),
            ]
        )
    return table(["run", "seeds", "minutes", "date", "revision", "machine"], rows)


def _machine(hardware: Result) -> str:
    if hardware.get("gpu"):
        return str(hardware["gpu"])
    # Older files do not say which instructions.
    more = [hardware[key] for key in ("instructions",) if key in hardware] + list(hardware.get("preloaded", []))
    return f"{hardware['cores']} cores of {hardware['cpu']}" + (f" ({', '.join(more)})" if more else "")


def quickstart(result: Result) -> str:
    """The quickstart, seed by seed."""
    rows, seeds = [], result["seeds"]
    systems = ("lookup", "lookup + training mentions", "positive-only", "ANGEL")
    for seed, one in seeds.items():
        strict = signed(one["ANGEL"]["acc@1_strict"] - one["positive-only"]["acc@1_strict"])
        rows.append([seed, *(pair(one[system]) for system in systems), gain(one["difference"]), strict])
    means = [_mean(seeds, system) for system in systems]
    gains = {key: signed(means[-1][key] - means[-2][key]) for key in means[-1]}
    rows.append(["mean", *map(pair, means), bold(gains["acc@1"]), gains["acc@1_strict"]])
    header = ["seed", "string lookup", "with training mentions", *systems[2:]]
    return table([*header, "gain, any-id [95%]", "gain, strict"], rows)


def quickstart_before(result: Result) -> str:
    """Earlier runs of the quickstart beside those of today: how much the level moves, and how much the gain."""
    earlier, likelihood = result["earlier_runs"]["seeds"], result["control_cross_entropy_only"]["seeds"]
    # The control began where the earlier runs did.
    alone = {
        seed: {
            "positive-only": earlier[seed]["positive-only"],
            "ANGEL": one["ANGEL stage with sft only"],
            "difference": one["difference"],
        }
        for seed, one in likelihood.items()
    }
    layouts = {
        "the table above": result["seeds"],
        "before names of a mention shared one tree and epochs had orders of their own": (
            result["before_the_name_trees"]["seeds"]
        ),
        "before that, one thread and the search of that time": earlier,
        "the same, the likelihood of the right names alone (`--loss_type sft`)": alone,
    }
    rows = []
    for layout, seeds in layouts.items():
        cells = [_step(seeds[seed]) if seed in seeds else "" for seed in result["seeds"]]
        means = [_mean(seeds, system)["acc@1"] for system in ("positive-only", "ANGEL")]
        rows.append([layout, *cells, signed(means[1] - means[0]) if len(seeds) > 1 else ""])
    return table(["Acc@1, any-id", *(f"seed {seed}" for seed in result["seeds"]), "mean gain"], rows)


def _step(one: Result) -> str:
    return f"{one['positive-only']['acc@1']:.1f} -> {one['ANGEL']['acc@1']:.1f}, {gain(one['difference'])}"


def _mean(seeds: Result, system: str) -> dict[str, float]:
    return {key: sum(one[system][key] for one in seeds.values()) / len(seeds) for key in ("acc@1", "acc@1_strict")}


# What comes before the mentions of the corpus: how its systems' names begin, and what to call it.
_NAMES_FIRST = {
    "no pass over names, ": "nothing",
    "": "its names, in passages of the corpus",
    "pre-trained, first stage, ": "its names in sentences made from it alone, first stage",
    "pre-trained, both stages, ": "its names in sentences made from it alone, both stages",
}


def pretraining_small(result: Result) -> str:
    """Acc@1, any-id, by what was learnt of the knowledge base before the mentions of the corpus."""
    rows = []
    for begin, told in _NAMES_FIRST.items():
        found = [result["systems"].get(begin + end) for end in ("positive-only", "ANGEL")]
        scores = [
            "" if one is None else f"{one['scores']['acc@1']:.1f} ({_seeds(len(one['seeds']))})" for one in found
        ]
        rows.append([told, *scores])
    first = f"What is learnt of the knowledge base first; {result['title'].split(';')[0]}, Acc@1 any-id"
    return table([first, "positive-only", "ANGEL"], rows)
