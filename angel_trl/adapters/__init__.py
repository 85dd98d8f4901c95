"""Thin adapters that let other libraries use a linker: `pipeline` for transformers, `spacy` for spaCy."""
