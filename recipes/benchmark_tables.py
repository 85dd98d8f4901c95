"""Tables of speed and memory, from the JSON files that the scripts in `bench/` write."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from table_parts import bold, interval, significant, table

Result = Mapping[str, Any]


def reading(result: Result) -> str:
    """How long reading takes, and how much memory, against the targets."""
    rows = []
    for name, one in result["parts"].items():
        seconds, target = one["seconds"], one["target"]
        spread = ", ".join(significant(seconds[end], 2) for end in ("min", "max"))
        told = f"{significant(seconds['median'], 2)} [{spread}]"
        what = f"dictionary, {one['concepts']:,} concepts, {one['names']:,} distinct names"
        if name == "UMLS":
            what = (
                f"synthetic UMLS, {one['records'] / 1e6:.0f} million rows of MRCONSO, "
                f"{one['concepts'] / 1e6:.1f} million concepts"
            )
            told += f" (reading alone {significant(one['read_seconds']['median'], 2)})"
        memory = f"{one['megabytes']['median']:,.0f} MB"
        rows.append([what, told, memory, f"{target['seconds']} s, {target['megabytes']:,} MB"])
    return table(
        ["read and indexed, three runs on a busy machine", "seconds, median [min, max]", "memory", "target"], rows
    )


def streaming(result: Result) -> str:
    """Pre-training on knowledge bases of growing size."""
    columns = ("kb_megabytes", "names_as_tokens_megabytes", "training_megabytes", "second_half_megabytes")
    rows = [
        [
            f"{one['names']:,}",
            f"{significant(one['seconds_to_first_step'], 2)} s",
            *(f"{one[column]:.0f} MB" for column in columns),
        ]
        for one in result["sizes"]
    ]
    header = ["names", "until the first step", "knowledge base", "names as tokens and trie", "training, all steps"]
    return table([*header, "second half of them"], rows)


_SIDES = {
    "ours": "ours",
    "generate, constrained": "`generate` with a dictionary trie",
    "generate, constrained, early_stopping": "the same, `early_stopping=True`",
    "generate, unconstrained": "`generate` without a constraint",
    "generate, unconstrained, early_stopping": "the same, `early_stopping=True`",
    "generate, constrained, batch 1, no cache": "constrained, one mention at a time, no cache",
    "encoder only": "encoder only",
}
_SPEEDUPS = {
    "generate, constrained": "speedup_vs_generate_constrained",
    "generate, constrained, early_stopping": "speedup_vs_generate_constrained_early_stopping",
    "generate, unconstrained": "speedup_vs_generate_unconstrained",
    "generate, unconstrained, early_stopping": "speedup_vs_generate_unconstrained_early_stopping",
    "generate, constrained, batch 1, no cache": "speedup_vs_batch1_nocache",
}


def search(result: Result) -> str:
    """Times of the search and of transformers' `generate`, for both models."""
    rows = []
    for side, name in _SIDES.items():
        cells = []
        for model, prefix in (("trained", ""), ("random", "random_")):
            times = result[model]["ms_per_mention"]
            spread = result["spread"].get(prefix + _SPEEDUPS.get(side, ""))
            ratio = f"{spread['median']:.1f} {interval([spread['min'], spread['max']])}" if spread else ""
            if side == "encoder only":
                ratio = f"{times[side]['median'] / times['ours']['median']:.1f}"
            cells += [significant(times[side]["median"]) if side in times else "", ratio]
        rows.append([name, *cells])
    header = [
        cell for model in ("trained", "random") for cell in (f"{model} model, ms a mention", "times ours [min, max]")
    ]
    return table(["", *header], rows)


def search_small(result: Result) -> str:
    """The trained model's times only."""
    times, spread = result["trained"]["ms_per_mention"], result["spread"]
    memory = 1 / result["peak_memory_ratio"]
    names = {
        "generate, constrained": "`generate(prefix_allowed_tokens_fn=...)` with a dictionary trie",
        "generate, unconstrained": "`generate` without a constraint",
        "generate, constrained, batch 1, no cache": "constrained, one mention at a time, no cache",
    }
    rows = [[bold("angel_trl"), bold(f"{times['ours']['median']:.1f}"), ""]]
    for side, name in names.items():
        told = f"{spread[_SPEEDUPS[side]]['median']:.1f} times"
        if side == "generate, constrained":
            early = spread[_SPEEDUPS["generate, constrained, early_stopping"]]["median"]
            told += (
                f" as long, {memory:.0f} times the memory (with `early_stopping=True`, which returns other lists, "
                f"{early:.1f} times)"
            )
        rows.append([name, f"{times[side]['median']:.1f}", told])
    names_, beams = result["trained"]["names"], result["settings"]["num_beams"]
    header = f"two CPU cores, {names_:,} names, {beams} beams, batch {result['settings']['batch_size']}"
    return table([header, "ms a mention", ""], rows)


def index_of_names(result: Result) -> str:
    """What an index of the names takes."""
    names = {
        "ours": "`NameTrie`, with the leaf-to-name index",
        "nested dictionary": "nested dictionary",
        "marisa-trie": "marisa-trie, static and succinct",
    }
    rows = [
        [
            name,
            *(f"{result['index'][key][column]:.1f}" for column in ("bytes_per_node", "bytes_per_name", "lookup_us")),
        ]
        for key, name in names.items()
    ]
    return table(["index of MEDIC's names", "bytes a node", "bytes a name", "look-up, us a prefix"], rows)


def growth_by_names(result: Result) -> str:
    """Cost of the search and of the trie by the number of names."""
    rows = [
        [
            f"{int(count):,}",
            f"{one['nodes']:,}",
            f"{one['megabytes']:.1f}",
            f"{one['build_seconds']:.2f}",
            f"{1e3 * one['open_seconds']:.1f} ({1e3 * one['open_verified_seconds']:.0f})",
            f"{one['extend_seconds']:.2f}",
            f"{one['median']:.2f} {interval([one['min'], one['max']], 2)}",
        ]
        for count, one in result["by_names"].items()
    ]
    beams = result["settings"]["beams_for_names"]
    header = [f"names ({beams} beams)", "nodes", "MB", "built, s", "opened, ms (checked, ms)", "extended by 100, s"]
    return table([*header, "ms a mention [min, max]"], rows, numbers=True)


def growth_by_beams(result: Result) -> str:
    """Cost of the search by the number of beams."""
    rows = [
        [beams, f"{one['median']:.2f} {interval([one['min'], one['max']], 2)}"]
        for beams, one in result["by_beams"].items()
    ]
    return table([f"beams ({result['settings']['names_for_beams']:,} names)", "ms a mention [min, max]"], rows, True)


def training(result: Result) -> str:
    """A training step of ours and of others."""
    sides = {"ours": "angel_trl", "plain": "plain", "TRL 0.9.6": "TRL 0.9.6"}
    memory = result["peak_memory"]
    rows = []
    for side, name in sides.items():
        taken, spread = result["ms_per_step"][side], result["spread"].get(side)
        rows.append(
            [
                name,
                f"{taken['median']:.0f} {interval([taken['min'], taken['max']], 0)}",
                f"{spread['median']:.1f} {interval([spread['min'], spread['max']])}" if spread else "",
                f"{memory[side] / 1e6:.0f}",
                f"{memory[side] / memory['ours']:.2f}" if spread else "",
            ]
        )
    return table(["", "ms a step [min, max]", "times ours [min, max]", "peak memory, MB", "times ours"], rows)


def training_small(result: Result) -> str:
    """The same in small."""
    sides = {
        "ours": bold("angel_trl"),
        "plain": "the plain way: encoder and decoder for each side of each pair, reference model",
        "TRL 0.9.6": "TRL 0.9.6's `DPOTrainer`, which still trained encoder-decoder models",
    }
    rows = []
    for side, name in sides.items():
        time, memory = f"{result['ms_per_step'][side]['median']:,.0f}", f"{result['peak_memory'][side] / 1e9:.1f} GB"
        spread = result["spread"].get(side)
        times = f"{spread['median']:.1f}" if spread else ""
        rows.append([name, *((time, times, memory) if spread else (bold(time), times, bold(memory)))])
    return table(["a training step, two CPU cores", "ms", "times ours", "peak memory"], rows)


def linking(result: Result) -> str:
    """Whole corpora, by processes and threads."""
    settings = result["settings"]
    rows = [
        [
            side.replace("x", " x "),
            f"{one['mentions_per_second']:.1f}",
            f"{max(process['peak'] for process in one['memory']):,.0f}",
            f"{max(process['growth_after_a_quarter'] for process in one['memory']):+.0f}",
            f"{result['days'][side]:,.0f}",
        ]
        for side, one in result["sides"].items()
    ]
    days = f"days for {settings['abstracts']:,.0f} abstracts of {settings['mentions_an_abstract']} mentions"
    header = ["processes x threads", "mentions a second", "peak, MB a process", "growth, MB", days]
    return table(header, rows, numbers=True)


def space(result: Result) -> str:
    """What visitors of the Space wait for: one in a browser, and many at once."""
    one, turns = result["one_visitor"], result["many_visitors"]
    crowd = turns[0]["visitors"]
    rows = [
        ["first paint, s", one["first_paint_seconds"]],
        ["the first example's answer on the screen, s", one["example_shown_seconds"]],
        ["a text's answer on the screen, s", one["answer_seconds"]],
        [f"the same of {crowd} visitors at once, median, s", _spread([t["answer_seconds"]["median"] for t in turns])],
        [f"of {crowd} visitors at once, p95, s", _spread([turn["answer_seconds"]["p95"] for turn in turns])],
        ["answers a second", _spread([turn["answers_per_second"] for turn in turns])],
    ]
    told = [
        [name, f"{significant(value['median'])} [{significant(value['min'])}, {significant(value['max'])}]"]
        for name, value in rows
    ]
    lost, asked = sum(turn["lost"] for turn in turns), sum(turn["requests"] for turn in turns)
    told.append(["answers lost", f"{lost} of {asked:,}"])
    return table(["", "median [min, max]"], told, numbers=True)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
