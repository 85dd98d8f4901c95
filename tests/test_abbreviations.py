"""Abbreviations written out where their own document defines them."""

import json
import sys

import baselines
import pytest
from datasets import Dataset, DatasetDict
from predictions import read_predictions
from reporting import evaluate_systems

from angel_trl import abbreviations
from angel_trl.abbreviations import definitions, expand
from angel_trl.formatting import MentionFormat
from angel_trl.linker import EntityLinker
from angel_trl.readers import read_corpus
from angel_trl.targets import prepare_mentions

pytest.importorskip("pyab3p", reason="needs the extra [abbreviations]")
TEXT = "Wilson disease (WD) is a copper disorder.  Patients with WD and WDs were seen, and none with LIWD."


def marked(text, of, number=0, **more):
    start = -1
    for _ in range(number + 1):
        start = text.index(of, start + 1)
    return {"text": text, "start": start, "end": start + len(of), **more}


def test_a_text_defines_its_abbreviations():
    assert definitions(TEXT) == {"WD": "Wilson disease"}
    assert definitions("Patients with WD were seen.") == {}


def test_a_mention_is_written_out_and_its_context_is_not():
    (row,) = expand([marked(TEXT, "WD", 1, mention="WD", id="7")])
    assert row["mention"] == row["text"][row["start"] : row["end"]] == "Wilson disease"
    assert row["text"].startswith("Wilson disease (WD) is")
    assert row["text"].endswith("with Wilson disease and WDs were seen, and none with LIWD.")
    assert row["id"] == "7"


@pytest.mark.parametrize("mention", ["Wilson disease", "WDs", "LIWD", "Wilson disease (WD)"])
def test_whole_words_only_and_never_twice(mention):
    (row,) = expand([marked(TEXT, mention)])
    assert (row["text"], row["end"]) == (TEXT, row["start"] + len(mention))


def test_a_word_within_a_mention():
    text = "The adenomatous polyposis coli (APC) gene is mutated in APC tumours."
    (row,) = expand([marked(text, "APC tumours")])
    assert row["text"][row["start"] : row["end"]] == "adenomatous polyposis coli tumours"


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyab3p", None)
    abbreviations._ab3p.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'pip install "angel_trl\[abbreviations\]"'):
            definitions("A text of its own.")
    finally:
        abbreviations._ab3p.cache_clear()


def test_a_linker_expands_as_its_format_says(make_model, tokenizer, small_kb, tmp_path):
    text = "High blood pressure (HBP) is silent. [HBP] is common."
    written_out = text.replace("[HBP]", "[High blood pressure]")
    keeping = EntityLinker(make_model(), tokenizer, small_kb)
    linker = EntityLinker(keeping.model, tokenizer, small_kb, MentionFormat(abbreviations="ab3p"))
    [linked] = linker.link(text)
    assert (linked.mention, linked.start, linked.end) == ("HBP", 37, 40)
    assert linked.candidates == keeping.link(written_out)[0].candidates != keeping.link(text)[0].candidates
    linker.save_pretrained(tmp_path)
    assert EntityLinker.from_pretrained(tmp_path).link(text)[0].candidates == linked.candidates


def test_mentions_are_prepared_as_the_format_says(make_model, tokenizer, small_kb, small_mentions):
    linker = EntityLinker(make_model(), tokenizer, small_kb, MentionFormat(abbreviations="ab3p"))
    row = {**small_mentions[0], **marked("Common cold (CC) is mild, CC is.", "CC", 1, mention="CC")}
    assert prepare_mentions([row], linker.targets).mentions == ["common cold"]


@pytest.mark.parametrize(("choice", "found"), [("keep", 0), ("ab3p", 100)])
def test_string_lookup_is_scored_on_what_linkers_see(
    choice, found, make_model, tokenizer, small_kb, small_mentions, tmp_path
):
    format = MentionFormat(abbreviations=choice)
    EntityLinker(make_model(), tokenizer, small_kb, format).save_pretrained(tmp_path / "linker")
    row = {**small_mentions[0], **marked("Common cold (CC) is mild, CC is.", "CC", 1, mention="CC")}
    corpus = DatasetDict(train=small_mentions.select([2]), test=Dataset.from_list([row], small_mentions.features))
    results = evaluate_systems(
        {"ANGEL": tmp_path / "linker"}, small_kb, corpus, bootstrap=10, num_beams=2, cpu=True, output=tmp_path
    )
    assert results["test"]["lookup"]["acc@1"] == results["test"]["lookup + training mentions"]["acc@1"] == found
    assert read_predictions(tmp_path / "predictions.parquet", [row["id"]])["lookup"].names == (
        [["Common cold"]] if found else [[]]
    )


@pytest.mark.parametrize(("choice", "found"), [("keep", 0), ("ab3p", 100)])
def test_baselines_are_scored_on_one_text(choice, found, small_kb, small_mentions, tmp_path, monkeypatch):
    row = {**small_mentions[0], **marked("Common cold (CC) is mild, CC is.", "CC", 1, mention="CC")}
    (tmp_path / "corpus").mkdir()
    for split in ("train", "dev", "test"):
        rows = [row | {"id": split, "document_id": split, "split": split}]
        Dataset.from_list(rows, small_mentions.features).to_parquet(tmp_path / "corpus" / f"{split}.parquet")
    small_kb.to_parquet(tmp_path / "kb.parquet")
    given = {"corpus": tmp_path / "corpus", "kb": tmp_path / "kb.parquet", "output_dir": tmp_path / "out"}
    given |= {"system": "tfidf", "abbreviations": choice, "use_cpu": "true", "bootstrap": 10}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["baselines.py", *options])
    baselines.main()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["test"]["lookup"]["acc@1"] == results["test"]["TF-IDF"]["acc@1"] == found


def test_a_choice_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="abbreviations is 'yes'; choose one of keep, ab3p"):
        MentionFormat(abbreviations="yes")


def test_how_many_mentions_of_ncbi_disease_change(shared):
    corpus, _ = read_corpus(shared / "data/ncbi_disease")
    changed = {
        split: sum(old["mention"] != new["mention"] for old, new in zip(rows, expand(rows), strict=True))
        for split, rows in corpus.items()
    }
    assert (changed["dev"], changed["test"]) == (177, 255)
