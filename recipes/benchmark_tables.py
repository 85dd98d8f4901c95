"""Tables of speed and memory, from the JSON files that the scripts in `bench/` write."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from table_parts import bold, interval, median_and_ends, significant, table

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
    parts = ("kb_megabytes", "names_as_tokens_megabytes", "training_megabytes")
    rows = [
        [
            f"{one['names']:,}",
            f"{significant(one['seconds_to_first_step'], 2)} s",
            *(f"{one[part]:.0f} MB" for part in parts),
            f"{one['second_half_megabytes']:.0f} MB",
            f"{sum(one[part] for part in parts):,.0f} MB",
        ]
        for one in result["sizes"]
    ]
    header = ["names", "until the first step", "knowledge base", "names as tokens and trie", "training, all steps"]
    return table([*header, "second half of them", "together"], rows)


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
            ratio = median_and_ends(spread) if spread else ""
            if side == "encoder only":
                ratio = f"{times[side]['median'] / times['ours']['median']:.1f}"
            told = f"{significant(times[side]['median'])} [{significant(times[side]['min'])}]" if side in times else ""
            cells += [told, ratio]
        rows.append([name, *cells])
    header = [
        cell
        for model in ("trained", "random")
        for cell in (f"{model} model, ms a mention [fastest turn]", "times ours [min, max]")
    ]
    return table(["", *header], rows)


def search_beside_generate(result: Result) -> str:
    """Memory and best names of the search and of constrained `generate`, for both models."""
    models = ("trained", "random")
    sides = ("ours", "generate, constrained")
    ours, theirs = ([result["peak_memory"][model][side] for model in models] for side in sides)
    best = [result[model]["best_name"] for model in models]
    rows = [
        ["peak memory, MB: ours", *(f"{one / 1e6:.0f}" for one in ours)],
        ["peak memory, MB: `generate`", *(f"{one / 1e6:.0f}" for one in theirs)],
        ["ours, times that of `generate`", *(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True))],
        ["best name: the same", *(f"{one['same']:.1%}" for one in best)],
        ["best name: another, ours is likelier", *(f"{one['ours_likelier']:.1%}" for one in best)],
        ["best name: another, theirs is likelier", *(f"{one['theirs_likelier']:.1%}" for one in best)],
    ]
    return table(["beside constrained `generate`", *(f"{model} model" for model in models)], rows, numbers=True)


def search_taken_apart(result: Result) -> str:
    """How far the search is from the least its tokens can cost, and where its time goes."""
    models = [result["trained"], result["random"]]
    rows = [
        ["decoder tokens a mention", *(f"{one['floor']['decoder_tokens_per_mention']:.1f}" for one in models)],
        ["LM-head rows a mention", *(f"{one['floor']['head_rows_per_mention']:.1f}" for one in models)],
        [
            "these and the encoder in full batches, ms",
            *(significant(one["floor"]["ms_per_mention"]) for one in models),
        ],
        ["ours, times that", *(f"{one['times_floor']:.2f}" for one in models)],
    ]
    parts = {
        "all": "one run, ms",
        "encoder": "of it the encoder",
        "decoder": "the decoder",
        "attention of the decoder": "(of that attention)",
        "LM head": "the LM head",
        "everything else": "the trie, the frontier, moving numbers",
    }
    rows += [[name, *(f"{one['where_ms'][part]:.1f}" for one in models)] for part, name in parts.items()]
    return table(["", "trained model", "random model"], rows, numbers=True)


def search_exactness(result: Result) -> str:
    """For how many mentions the list is provably the true one."""
    exact, settings = result["exact"], result["settings"]
    rows = [[f"{beams} beams", f"{share:.1%}"] for beams, share in exact["share"].items()]
    widened = exact["until_exact"]
    rows.append([f"`exact=True`, {widened['ms_per_mention']:.1f} ms a mention", f"{widened['share']:.1%}"])
    return table(["", f"provably the true top {settings['top_k']}, of {exact['mentions']} mentions"], rows, True)


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
            early = "generate, constrained, early_stopping"
            fastest = times[early]["min"] / times["ours"]["min"]
            told += (
                f" as long, {memory:.0f} times the memory (with `early_stopping=True`, which returns other lists, "
                f"{spread[_SPEEDUPS[early]]['median']:.1f} times; {fastest:.1f} in the fastest turns)"
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
            median_and_ends(one, 2),
            f"{one['process_peak_megabytes']:,.0f}",
        ]
        for count, one in result["by_names"].items()
    ]
    beams = result["settings"]["beams_for_names"]
    header = [f"names ({beams} beams)", "nodes", "MB", "built, s", "opened, ms (checked, ms)", "extended by 100, s"]
    return table([*header, "ms a mention [min, max]", "process, MB"], rows, numbers=True)


def growth_by_beams(result: Result) -> str:
    """Cost of the search by the number of beams."""
    rows = [[beams, median_and_ends(one, 2)] for beams, one in result["by_beams"].items()]
    return table([f"beams ({result['settings']['names_for_beams']:,} names)", "ms a mention [min, max]"], rows, True)


def training(result: Result) -> str:
    """A training step of ours and of others."""
    sides = {"ours": "angel_trl", "plain": "plain", "TRL 0.9.6": "TRL 0.9.6"}
    memory = result["peak_memory"]
    rows = []
    for side, name in sides.items():
        spread = result["spread"].get(side)
        rows.append(
            [
                name,
                median_and_ends(result["ms_per_step"][side], 0),
                median_and_ends(spread) if spread else "",
                f"{memory[side] / 1e6:.0f}",
                f"{memory[side] / memory['ours']:.2f}" if spread else "",
            ]
        )
    return table(["", "ms a step [min, max]", "times ours [min, max]", "peak memory, MB", "times ours"], rows)


def training_equality(result: Result) -> str:
    """How far loss and gradients are from those of the plain way."""
    rows = [
        ["angel_trl", *(f"{result[f'max_relative_{what}_difference']:.1e}" for what in ("loss", "gradient"))],
        ["TRL 0.9.6", f"{result['trl_0_9']['relative_loss_difference']:.1e}", ""],
    ]
    return table(["largest relative difference from plain", "loss", "gradients"], rows, numbers=True)


def training_round(result: Result) -> str:
    """What mining and training of a round take."""
    one = result["round"]
    rows = [
        [part, median_and_ends(one[f"{part}_seconds"]), f"{one[f'{part}_share']:.0%}"]
        for part in ("mining", "training")
    ]
    header = f"a round of {one['mentions']} mentions, {one['pairs']:.0f} pairs"
    return table([header, "seconds, median [min, max]", "share"], rows, numbers=True)


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
    settings, first = result["settings"], next(iter(result["sides"].values()))
    rows = [
        [
            side.replace("x", " x "),
            f"{one['mentions_per_second']:.1f}",
            f"{one['mentions_per_second'] / first['mentions_per_second']:.2f}",
            f"{max(process['peak'] for process in one['memory']):,.0f}",
            f"{max(process['growth_after_a_quarter'] for process in one['memory']):+.0f}",
            f"{result['days'][side]:,.0f}",
        ]
        for side, one in result["sides"].items()
    ]
    days = f"days for {settings['abstracts']:,.0f} abstracts of {settings['mentions_an_abstract']} mentions"
    header = ["processes x threads", "mentions a second", "times the first", "peak, MB a process", "growth, MB", days]
    return table(header, rows, numbers=True)


# Width, layers of either side, vocabulary.
_BART_LARGE, _MEASURED_BART = (1024, 12, 50_265), (512, 6, 50_265)
# TFLOP/s of dense bfloat16, by the data sheets, of which a fifth is taken: a guess.
_GPUS = {"A100": 312.0, "H100 or H200": 989.0}
_SHARE_OF_PEAK = 0.2


def linking_on_paper(links: Result, searches: Result) -> str:
    """Days for a model of the size of BART-large, from the operations a mention takes and how fast they are done."""
    settings, measured = links["settings"], searches["random"]
    work = _operations(_BART_LARGE, measured)
    seconds = measured["ms_per_mention"]["ours"]["median"] / 1e3
    cores = f"{searches['hardware']['threads']} cores of {searches['hardware']['cpu']}, as measured"
    rates = {cores: _operations(_MEASURED_BART, measured) / seconds}
    rates |= {f"one {name}, on paper": 1e12 * peak * _SHARE_OF_PEAK for name, peak in _GPUS.items()}
    mentions = settings["abstracts"] * settings["mentions_an_abstract"]
    rows = [
        [name, f"{rate / 1e9:,.0f}", significant(mentions * work / rate / 86_400, 2)] for name, rate in rates.items()
    ]
    what = f"BART-large, {settings['abstracts']:,.0f} abstracts, {work / 1e9:.0f} GFLOP a mention"
    return table([what, "GFLOP/s", "days"], rows, numbers=True)


def _operations(shape: tuple[int, int, int], search: Result) -> float:
    """Floating-point operations of a mention: two a weight, for each token that goes through it.

    Tokens and rows of the head are those of a search that was measured. Attention scores are left out, which are few
    at a hundred tokens.
    """
    width, layers, vocabulary = shape
    tokens, rows = (search["floor"][f"{part}_per_mention"] for part in ("decoder_tokens", "head_rows"))
    # A layer has 4 w^2 weights in each attention and 8 w^2 behind it; cross-attention's keys and values, 2 w^2, are
    # computed once a source token.
    through_layers = layers * width**2 * ((12 + 2) * search["source_tokens"] + 14 * tokens)
    return 2 * (through_layers + width * vocabulary * rows)


def confidence(result: Result) -> str:
    """Whether thresholds chosen on dev for a precision have it on test, and what they leave unanswered."""
    rows = []
    for name, one in result.items():
        for chosen in one["targets"]:
            threshold = chosen["threshold"]
            cells = [f"{name}, {100 * chosen['target']:g}", "none" if threshold is None else f"{threshold:.3f}"]
            for split in ("dev", "test"):
                scores = chosen[split]
                ends = interval([100 * end for end in scores["precision_ci"]])
                cells += [f"{100 * scores['precision']:.1f} {ends}", f"{100 * scores['coverage']:.1f}"]
            rows.append(cells)
    header = ["target, %", "threshold", "dev: precision [95%]", "answered", "test: precision [95%]", "answered"]
    return table(header, rows, numbers=True)


def confidence_errors(result: Result) -> str:
    """Expected calibration error before and after fitting on dev, and the area under the risk-coverage curve."""
    rows = [
        [name, *(f"{value:.3f}" for value in (one["before"]["ece"], last["dev"]["ece"], last["test"]["ece"]))]
        + [f"{last[split]['aurc']:.3f}" for split in ("dev", "test")]
        for name, one in result.items()
        for last in one["targets"][-1:]
    ]
    return table(["", "ECE, dev, before", "dev, fitted", "test", "AURC, dev", "test"], rows, numbers=True)


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
