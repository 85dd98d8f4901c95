"""The end of the recipe: score the test split, write the report, print the table and the line a program reads."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrating import confidence_section
from datasets import Dataset, DatasetDict
from predictions import Answers, keep
from transformers import TrainerState
from whole_file import whole_file

from angel_trl import EntityLinker, KnowledgeBase, paired_difference, score
from angel_trl.evaluation import evaluate_linking
from angel_trl.lookup import StringLookup
from angel_trl.report import plot_learning_curve, results_table, to_markdown
from angel_trl.targets import prepare_mentions

LOOKUP, LOOKUP_TRAIN = "lookup", "lookup + training mentions"
WITHIN_TYPES = "Linkers searched among concepts of each mention's own types; string lookup, among all names."
Curve = list[tuple[float, float]]
Rows = Sequence[Mapping[str, Any]]
"""Rows of a mention dataset."""


def dev_curve(state: TrainerState) -> Curve:
    """Dev Acc@1 by optimiser step, from what a trainer has logged."""
    return [(row["step"], row["eval_acc@1"]) for row in state.log_history if "eval_acc@1" in row]


def evaluate_systems(
    linkers: dict[str, Path],
    kb: KnowledgeBase,
    corpus: DatasetDict,
    bootstrap: int,
    num_beams: int,
    cpu: bool,
    within_types: bool = False,
    output: Path | None = None,
) -> dict:
    """Score string lookup and the linkers on the test split: `test` (a row a system), `counts` and `difference`.

    With `within_types` the linkers search among concepts of each mention's own types; string lookup does not.
    """
    test = corpus["test"]
    scored = {"groups": list(test["document_id"]), "bootstrap": bootstrap}
    trained, predictions, answers, counts = {}, {}, {}, {}
    for name, folder in linkers.items():
        linker = EntityLinker.from_pretrained(folder, device="cpu" if cpu else None)
        mentions = prepare_mentions(test, linker.targets)
        result = evaluate_linking(
            linker.model,
            linker.targets,
            mentions,
            num_beams=num_beams,
            within_types=within_types,
            bootstrap=bootstrap,
            progress=f"testing {name}",
        )
        trained[name], predictions[name] = result.metrics, result.predictions
        answers[name] = Answers.of_linker(result, linker.kb)
        references = mentions.references
    for split in corpus:
        counts[split] = prepare_mentions(corpus[split], linker.targets, for_training=split == "train").report
    # The strings that the linkers see: with abbreviations written out, if theirs are.
    looked_up = look_up(kb, *(linker.targets.formatter.prepare(corpus[split]) for split in ("test", "train")))
    rows = {name: score(found.ids, references, **scored) for name, found in looked_up.items()}
    if output is not None:
        keep(output, looked_up | answers, test, corpus["train"], kb, references)
    counts["names no model can write"] = len(linker.targets.unreachable)
    results = {"test": rows | trained, "counts": counts, "within_types": within_types}
    if len(predictions) == 2:
        before, after = predictions.values()
        results["difference"] = paired_difference(before, after, references, groups=scored["groups"])
    return results


def look_up(kb: KnowledgeBase, mentions: Rows, train: Rows) -> dict[str, Answers]:
    """The answers of string lookup, without and with the training mentions as names."""
    floors = {LOOKUP: StringLookup(kb), LOOKUP_TRAIN: StringLookup(kb, train)}
    names = [row["mention"] for row in mentions]
    return {name: Answers.of_lookup(floor.predict(mentions), names) for name, floor in floors.items()}


def write_report(output: Path, results: dict, curves: dict[str, Curve], title: str) -> None:
    """Write results.json, report.md and learning_curve.png, and print the table."""
    rows = results["test"]
    print("\n" + results_table(rows, title=title))
    text = f"# {title}\n\n{to_markdown(rows)}\n"
    if results["within_types"]:
        print(WITHIN_TYPES)
        text += f"\n{WITHIN_TYPES}\n"
    if "difference" in results:
        points, (low, high) = results["difference"]["difference"], results["difference"]["ci"]
        line = f"ANGEL - positive-only, Acc@1: {points:+.1f} points [{low:+.1f}, {high:+.1f}]"
        print(line)
        text += f"\n{line} (95% paired bootstrap over documents)\n"
    if curves:
        floor = rows[LOOKUP_TRAIN]["acc@1"]
        plot_learning_curve(
            curves, output / "learning_curve.png", "Learning curve, dev split", floor, "lookup, on test"
        )
        text += "\n![Dev Acc@1 by optimiser step](learning_curve.png)\n"
    if results.get("confidence"):
        text += f"\n## Confidence\n\n{confidence_section(results['confidence'])}\n"
    for heading, key in (("Data", "data"), ("Mentions by split", "counts")):
        text += f"\n## {heading}\n\n```json\n{json.dumps(results[key], indent=2)}\n```\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    with whole_file(output / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2, default=str), encoding="utf-8")


def earlier_results(output: Path, settings: dict, linkers: dict[str, Path]) -> dict | None:
    """The results in `output` if they are of these linkers under these settings, wherever they are published."""
    path = output / "results.json"
    made = [(linker / "angel.json").stat().st_mtime_ns for linker in linkers.values()]
    kept = path.exists() and (output / "predictions.parquet").exists()
    if not kept or path.stat().st_mtime_ns < max(made):
        return None
    results = json.loads(path.read_text(encoding="utf-8"))
    if set(linkers) - set(results["test"]) or _deciding(results["settings"]) != _deciding(settings):
        return None
    return results


def _deciding(settings: dict) -> dict:
    """Settings without those that decide nothing about scores, as JSON holds them."""
    told = json.loads(json.dumps(settings, default=str))
    return {
        part: {
            name: value
            for name, value in of.items()
            if name not in ("resume", "push_to_hub", "disable_tqdm", "cpu_threads") and not name.startswith("hub_")
        }
        for part, of in told.items()
    }


def scores_in_brief(row: dict) -> dict:
    """The scores of a system that a program reads."""
    return {key: round(row[key], 2) for key in ("acc@1", "acc@5", "mrr", "acc@1_strict")}


def last_line(results: dict, linker: Path, begin: float, published: dict | None = None) -> str:
    """What a program reads: the scores of each system, the linker, what was published and the seconds taken."""
    rows = {name: scores_in_brief(row) for name, row in results["test"].items()}
    line = {
        "lookup": rows[LOOKUP],
        "lookup_with_training_mentions": rows[LOOKUP_TRAIN],
        "positive_only": rows.get("positive-only"),
        "angel": rows.get("ANGEL"),
    }
    line |= {"linker": str(linker)} | ({} if published is None else {"published": published})
    return json.dumps(line | {"seconds": round(time.time() - begin, 1)})


def command_to_try(linker: Path, test: Dataset) -> str:
    """A shell command that links a mention of the test split, shown with a little context."""
    for row in test:
        before, after = row["text"][: row["start"]], row["text"][row["end"] :]
        before = before if len(before) <= 80 else before[-80:].partition(" ")[2]
        after = after if len(after) <= 80 else after[:80].rpartition(" ")[0]
        if not set(before + row["mention"] + after) & set("[]"):
            break
    return shlex.join(["python", "-m", "angel_trl", str(linker), f"{before}[{row['mention']}]{after}"])
