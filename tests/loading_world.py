"""What the tests of loading share: a plain model as the published ones are, changes to files, and what is refused."""

import json

import pytest
import torch

from angel_trl.linker import EntityLinker

# As `facebook/bart-large` and what was trained from it have them in config.json.
GENERATION = {
    "early_stopping": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "task_specific_params": {"summarization": {"length_penalty": 1.0, "max_length": 128, "min_length": 12}},
}


def write_published(folder, model, tokenizer):
    """Save a model as the published ones are: config.json, vocab.json, merges.txt, pytorch_model.bin; no KB."""
    model.config.save_pretrained(folder)
    change(folder / "config.json", **GENERATION)
    tokenizer.backend_tokenizer.model.save(str(folder))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def change(file, **entries):
    """Set entries of a JSON file, or take them out where they are None."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def swap(file):
    """Exchange the numbers of two tokens of a tokenizer.json."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    file.write_text(json.dumps(content))


def refused(folder, message, kb=None, error=ValueError):
    """The text of the error that loading a folder ends with."""
    with pytest.raises(error, match=message) as raised:
        EntityLinker.from_pretrained(folder, kb=kb)
    return str(raised.value)
