"""The linker in the clothes of transformers and spaCy."""

import json
import subprocess
import sys

import pytest
import transformers

from angel_trl.adapters.pipeline import EntityLinkingPipeline
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker

TEXT = "Famotidine-associated [delirium] and [MS]."
PLAIN = {"text": "Acute gout [or fever].", "spans": [(6, 10), (15, 20)]}


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb)


@pytest.fixture(scope="module")
def saved(linker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linker")
    linker.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(linker):
    return EntityLinkingPipeline(linker)


def as_dicts(linked):
    return [one.as_dict() for one in linked]


# --- transformers ----------------------------------------------------------------------------------------------------


def test_a_text_gives_a_dictionary_a_mention(pipeline, linker):
    found = pipeline(TEXT)
    assert found == as_dicts(linker.link(TEXT))
    assert [one["mention"] for one in found] == ["delirium", "MS"]
    assert json.loads(json.dumps(found))[0]["id"] == found[0]["id"]


def test_a_mapping_gives_spans_and_may_mark_none(pipeline, linker):
    assert pipeline(PLAIN) == as_dicts(linker.link(PLAIN["text"], spans=PLAIN["spans"]))
    assert pipeline({"text": TEXT}) == pipeline(TEXT)
    assert pipeline({"text": "Nothing.", "spans": []}) == []


def test_a_list_is_searched_together_and_gives_a_list_a_text(pipeline, linker, monkeypatch):
    sizes = []
    inner = linker.link_batch
    monkeypatch.setattr(
        linker, "link_batch", lambda rows, **settings: sizes.append(len(rows)) or inner(rows, **settings)
    )
    found = pipeline([TEXT, {"text": "Nothing.", "spans": []}, PLAIN])
    assert sizes == [4]
    assert [[one["mention"] for one in text] for text in found] == [["delirium", "MS"], [], ["gout", "fever"]]
    assert pipeline([]) == []


def test_a_generator_is_gone_through_text_by_text(pipeline):
    found = pipeline((text for text in (TEXT, PLAIN)), batch_size=8)
    assert [[one["mention"] for one in text] for text in found] == [["delirium", "MS"], ["gout", "fever"]]


def test_settings_are_given_once_or_in_the_call(linker):
    def ner(text):
        return [{"start": 6, "end": 10}]

    pipeline = EntityLinkingPipeline(linker, ner=ner, candidates=["C29"])
    [found] = pipeline("Acute gout.")
    assert (found["mention"], found["id"]) == ("gout", "C29")
    assert pipeline("Acute gout.", candidates=["C28"], top_k=1)[0]["id"] == "C28"
    assert pipeline(["Acute gout."], candidates=["C28"])[0][0]["id"] == "C28"


def test_unknown_settings_and_inputs_are_named(pipeline):
    with pytest.raises(ValueError, match="Unknown settings beams; there are ner, batch_size, candidates, exact"):
        pipeline(TEXT, beams=3)
    with pytest.raises(ValueError, match="An input has 'text', 'start'; it needs text, and may have spans"):
        pipeline({"text": "gout", "start": 0})


def test_transformers_makes_the_pipeline_of_a_folder_without_running_its_code(saved, linker):
    made = transformers.pipeline("entity-linking", model=str(saved), device=-1)
    assert isinstance(made, EntityLinkingPipeline)
    assert made(TEXT) == as_dicts(linker.link(TEXT))
    assert made.linker.model is made.model


def test_a_decoder_only_linker_makes_a_pipeline_too(tokenizer, small_kb, tmp_path):
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(**special, n_embd=16, n_layer=1, n_head=2, n_positions=128)
    linker = EntityLinker(transformers.GPT2LMHeadModel(config), tokenizer, small_kb)
    linker.save_pretrained(tmp_path)
    made = transformers.pipeline("entity-linking", model=str(tmp_path), device=-1)
    assert made(TEXT, top_k=1) == as_dicts(linker.link(TEXT, top_k=1))


def test_a_model_without_a_knowledge_base_makes_no_pipeline(saved, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    with pytest.raises(ValueError, match="has no kb.parquet: it is a model without a knowledge base"):
        transformers.pipeline("entity-linking", model=str(tmp_path), device=-1)


def test_a_saved_pipeline_is_a_linker_without_code(pipeline, saved, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in saved.iterdir()}
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


# --- spaCy -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nlp(saved):
    spacy = pytest.importorskip("spacy", reason="needs the extra [spacy]")
    import angel_trl.adapters.spacy  # noqa: F401 (makes the factory known)

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "DISEASE", "pattern": name} for name in ("heart failure", "gout", "fever")])
    nlp.add_pipe("angel_linker", config={"linker": str(saved), "top_k": 2})
    return nlp


def test_entities_get_the_ids_of_their_concepts(nlp, linker):
    doc = nlp("Digoxin in heart failure, not in gout.")
    expected = linker.link("Digoxin in [heart failure], not in [gout].", top_k=2)
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("heart failure", "DISEASE"), ("gout", "DISEASE")]
    assert [ent.kb_id_ for ent in doc.ents] == [one.id for one in expected]
    assert [token.ent_kb_id_ for token in doc[2:4]] == [expected[0].id] * 2
    assert [ent._.linked["mention"] for ent in doc.ents] == ["heart failure", "gout"]
    assert len(doc.ents[0]._.linked["candidates"]) == 2


def test_documents_are_linked_in_batches(nlp, linker, monkeypatch):
    component = nlp.get_pipe("angel_linker")
    sizes = []
    inner = component.linker.link_batch
    monkeypatch.setattr(
        component.linker, "link_batch", lambda rows, **settings: sizes.append(len(rows)) or inner(rows, **settings)
    )
    docs = list(nlp.pipe(["gout and fever", "nothing", "fever"] * 2, batch_size=4))
    assert sizes == [5, 1]
    assert [len(doc.ents) for doc in docs] == [2, 0, 1] * 2
    assert docs[2].ents[0].kb_id_ == docs[5].ents[0].kb_id_ == linker.link("[fever]")[0].id


def test_an_answer_that_is_withheld_is_nil(nlp, saved, tmp_path):
    spacy = pytest.importorskip("spacy", reason="needs the extra [spacy]")
    from angel_trl.adapters.spacy import AngelLinker

    linker = EntityLinker.from_pretrained(saved)
    from angel_trl.confidence import Calibration

    linker.calibration = Calibration(1.0, -1.0, 1.0, 0.9, 10, 5, linker.targets.fingerprint, {})
    doc = nlp.make_doc("fever")
    doc.ents = [spacy.tokens.Span(doc, 0, 1, label="DISEASE")]
    [entity] = AngelLinker(linker, {})(doc).ents
    assert (entity.kb_id_, entity._.linked["id"], entity._.linked["abstained"]) == ("NIL", None, True)
    assert entity._.linked["candidates"]


def test_a_document_keeps_its_links_when_it_is_written(nlp):
    from spacy.tokens import Doc

    doc = nlp("Acute gout.")
    again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert again.ents[0].kb_id_ == doc.ents[0].kb_id_
    assert again.ents[0]._.linked["name"] == doc.ents[0]._.linked["name"]


def test_a_spacy_pipeline_survives_the_folder(nlp, tmp_path):
    import spacy

    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert [ent.kb_id_ for ent in again("gout, fever").ents] == [ent.kb_id_ for ent in nlp("gout, fever").ents]


def test_the_package_takes_neither_library_before_it_is_needed():
    code = "import angel_trl.linker, sys; assert not {'spacy', 'angel_trl.adapters.pipeline'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_restrict_a_spacy_component(make_model, tokenizer, tmp_path):
    spacy = pytest.importorskip("spacy", reason="needs the extra [spacy]")
    import angel_trl.adapters.spacy  # noqa: F401 (makes the factory known)

    kb = KnowledgeBase([Concept("D1", ("Gout",), types=("Disease",)), Concept("X1", ("Colchicine",), types=("Drug",))])
    EntityLinker(make_model(), tokenizer, kb).save_pretrained(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "DISEASE", "pattern": "gout"}])
    nlp.add_pipe("angel_linker", config={"linker": str(tmp_path), "types": ["Drug"]})
    assert nlp("gout").ents[0].kb_id_ == "X1"
