"""The benchmark's report as Markdown, and what its sides are called."""

from typing import Any

from measure import ratio

OURS, CONSTRAINED, UNCONSTRAINED = "ours", "generate, constrained", "generate, unconstrained"
EARLY, EARLY_UNCONSTRAINED = f"{CONSTRAINED}, early_stopping", f"{UNCONSTRAINED}, early_stopping"
NO_CACHE = f"{CONSTRAINED}, batch 1, no cache"
ENCODER = "encoder only"


def table(name: str, case: dict[str, Any], seconds: dict[str, list[float]]) -> str:
    """The times of one model as a Markdown table."""
    best = case["best_name"]
    lines = [
        f"\n## {name} model: {case['parameters'] / 1e6:.1f}M parameters, vocabulary {case['vocabulary']:,}",
        f"\n{case['names']:,} names in {case['nodes']:,} nodes; {case['mentions']} mentions of "
        f"{case['source_tokens']:.0f} source tokens. Ours takes {case['times_floor']:.2f} times the "
        f"{case['floor']['ms_per_mention']:.2f} ms that its tokens cost in full batches.\n"
        f"Best name as with constrained generate: {best['same']:.1%}; another, and the likelier: "
        f"{best['ours_likelier']:.1%}; another, and the less likely: {best['theirs_likelier']:.1%}.\n",
        "Ours, ms a mention: " + ", ".join(f"{part} {ms:.2f}" for part, ms in case["where_ms"].items()) + ".\n",
        "| side | ms a mention, median [min, max] | times ours [min, max] |",
        "|---|---|---|",
    ]
    for side, values in seconds.items():
        time, times = case["ms_per_mention"][side], ratio(values, seconds[OURS])
        lines.append(f"| {side} | {_with_spread(time)} | {_with_spread(times)} |")
    return "\n".join(lines)


def _with_spread(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} [{value['min']:.2f}, {value['max']:.2f}]"


def closing_tables(report: dict[str, Any]) -> str:
    """Exactness, memory and the indices of names."""
    exact, widened = report["exact"], report["exact"]["until_exact"]
    shares = ", ".join(f"{share:.1%} at {beams} beams" for beams, share in exact["share"].items())
    lines = [
        f"\nProvably exact lists, trained model, {exact['mentions']} mentions: {shares}; {widened['share']:.1%} when "
        f"widened to 1000 beams where needed, in {widened['ms_per_mention']:.1f} ms a mention\n"
    ]
    lines += ["| peak memory above what is loaded, MB | ours | generate, constrained |", "|---|---|---|"]
    for name, peak in report["peak_memory"].items():
        lines.append(f"| {name} model | {peak[OURS] / 1e6:.1f} | {peak[CONSTRAINED] / 1e6:.1f} |")
    lines += ["", "| index of the names | bytes a node | bytes a name | look-up, us a prefix |", "|---|---|---|---|"]
    for name, cost in report["index"].items():
        lines.append(
            f"| {name} | {cost['bytes_per_node']:.1f} | {cost['bytes_per_name']:.1f} | {cost['lookup_us']:.1f} |"
        )
    if len(report["index"]) < 3:
        lines.append("\n(marisa-trie is not installed: `pip install marisa-trie` to have it in the table)")
    return "\n".join(lines)
