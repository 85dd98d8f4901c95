"""Small helpers for components of ours."""

from pathlib import Path
from typing import Any

import gradio as gr

_SCRIPTS = Path(__file__).with_name("scripts")


def html_block(value: str = "", *, elem_classes: str = "", **settings: Any) -> gr.HTML:
    """Markup of ours, styled by style.css alone."""
    return gr.HTML(value, apply_default_css=False, elem_classes=f"answer {elem_classes}".strip(), **settings)


def script(name: str) -> str:
    """The text of a script of the folder `scripts`."""
    return (_SCRIPTS / f"{name}.js").read_text(encoding="utf-8")
