"""See how entity linking is scored: paste predictions and references, and look at both protocols side by side.

python spaces/entity-linking-metric/app.py
"""

import json
import os
from typing import Any

# Said before Gradio is loaded: nobody is called home.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
from gradio.themes.utils.fonts import LocalFont  # noqa: E402
from scoring import VisitorError, problem, scored, table  # noqa: E402

# Predictions, references and documents.
EXAMPLES: dict[str, tuple[Any, Any, Any]] = {
    "Right, second, wrong": (
        [[["D003693"], ["D003704"]], [["D009369"], ["D001943"]], [["D006973"], ["D003920"]]],
        [[["D003693"]], [["D001943"]], [["D005334"]]],
        None,
    ),
    "A name of several concepts": (
        [[["D009103", "D008946"]], [["D001172", "D000753"]]],
        [[["D009103"]], [["D001172"]]],
        None,
    ),
    "A mention of two concepts": (
        [[["D001943"]], [["D001943", "D010051"]]],
        [[["D001943"], ["D010051"]], [["D001943"], ["D010051"]]],
        None,
    ),
    "No concept, and alternatives": (
        [[], [["D003693"]], [["OMIM:114480"]]],
        [[], [], [["D001943", "OMIM:114480"]]],
        None,
    ),
    "Mentions of four documents": (
        [*[[["D003693"]]] * 6, *[[["D006973"]]] * 6, *[[["D003920"]]] * 6, *[[["D001943"]]] * 6],
        [*[[["D003693"]]] * 6, *[[["D005334"]]] * 6, *[[["D003920"]]] * 6, *[[["D001943"]]] * 6],
        [*["8701013"] * 6, *["2234245"] * 6, *["439781"] * 6, *["6496078"] * 6],
    ),
}

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="stone",
    font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
    font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
).set(
    # As dark as small print and white letters need.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
)
CSS = """
.gradio-container > .main {
  max-width: 1060px !important; margin: 0 auto; padding: 24px clamp(12px, 3vw, 32px) !important;
}
h1 { font: 700 22px/1.3 var(--font); margin: 0; color: var(--body-text-color); }
.page { color: var(--body-text-color); font-size: 15px; line-height: 1.5; overflow-x: auto; }
.page p { margin: 4px 0; }
.quiet { color: var(--body-text-color-subdued); font-size: 13px; }
.page table { border-collapse: collapse; width: 100%; margin: 8px 0 20px; font-variant-numeric: tabular-nums; }
.page th, .page td { text-align: left; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--border-color-primary); }
.page thead th { font-size: 13px; color: var(--body-text-color-subdued); }
.page .scores td { font-size: 18px; }
.page code { font: 400 13px/1.5 var(--font-mono); unicode-bidi: isolate; overflow-wrap: anywhere; background: none; }
.problem { border-left: 4px solid #b91c1c; padding: 8px 14px; overflow-wrap: anywhere; }
.dark .problem { border-left-color: #fca5a5; }
"""


def written(value: Any) -> str:
    """A value of an example as a visitor would write it: one mention a line, the documents on one."""
    if value is None:
        return ""
    if isinstance(value[0], str):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(mention)}" for mention in value) + "\n]"


def answer(predictions: str | None, references: str | None, documents: str | None) -> str:
    """The scores of what was pasted as HTML, or what is wrong with it."""
    try:
        return table(scored(predictions or "", references or "", documents or ""))
    except VisitorError as error:
        return problem(error)


def page() -> gr.Blocks:
    """The page, ready to be launched."""
    examples = [[written(value) for value in values] for values in EXAMPLES.values()]
    markup: dict[str, Any] = {"apply_default_css": False, "elem_classes": "page"}
    code: dict[str, Any] = {"language": "json", "lines": 8, "max_lines": 16, "min_width": 320}
    with gr.Blocks(title="Entity-linking metric", analytics_enabled=False) as blocks:
        gr.HTML(
            "<h1>How right is a link?</h1><p><b>Any id</b>: a candidate shares an id with the reference. "
            "<b>Strict</b>: it names every part of the reference, and nothing else.</p>",
            **markup,
        )
        with gr.Row():
            predictions = gr.Code(
                examples[0][0],
                label="Predictions: of each mention the candidates, best first, each a list of ids",
                elem_id="predictions",
                **code,
            )
            references = gr.Code(
                examples[0][1],
                label="References: of each mention the parts, each a list of alternative ids",
                elem_id="references",
                **code,
            )
        documents = gr.Textbox(
            label="The document of each mention, if intervals are to be over documents (JSON, optional)",
            lines=1,
            max_lines=8,
            elem_id="documents",
        )
        button = gr.Button("Score", variant="primary", elem_id="score")
        inputs = [predictions, references, documents]
        # Made before the examples that fill it, and shown below them.
        result = gr.HTML(answer(*examples[0]), elem_id="result", render=False, **markup)
        gr.Examples(
            examples,
            inputs,
            result,
            answer,
            run_on_click=True,
            example_labels=list(EXAMPLES),
            api_visibility="private",
        )
        result.render()
        button.click(answer, inputs, result, api_visibility="private", show_progress="minimal")
    return blocks.queue(max_size=64, default_concurrency_limit=4)


if __name__ == "__main__":
    page().launch(theme=THEME, css=CSS, footer_links=[], ssr_mode=False, show_error=False)
