"""The page: components, and what happens when they are used."""

import functools
import json
from typing import Any

import gradio as gr
import tree_svg
from batch_files import fresh_folder
from batch_tab import build_batch_tab
from components import html_block, script
from endpoints import CONCURRENT, add_endpoints
from markup import NO_CONCEPT, Page, escape, notices
from records import NO_CONCEPT_ID, correction, to_jsonl
from service import Answer, Service, VisitorError
from settings import KEPT_SECONDS, QUEUE_SIZE

Updates = dict[Any, Any]


class Demo:
    """The page for one service.

    Args:
        service: what answers.
        page: draws answers.
        examples: passages one click away; the first is answered before anybody asks.
        name: of the model, as shown.

    Attributes:
        blocks: the page, with its endpoints for programs, ready to be launched.
    """

    def __init__(self, service: Service, page: Page, examples: list[str], name: str) -> None:
        self._service, self._page, self._examples = service, page, examples
        calibration = service.linker.calibration
        self._own_threshold = round((calibration and calibration.nil_threshold) or 0, 2)
        first = service.answer(examples[0])
        cache = (KEPT_SECONDS // 6, KEPT_SECONDS)
        with gr.Blocks(title="Entity linking with ANGEL", analytics_enabled=False, delete_cache=cache) as self.blocks:
            self._answer, self._number, self._corrections = gr.State(first), gr.State(0), gr.State([])
            # Which mention is chosen and which tab is open, as the browser says with every request: see view.js.
            self._view = gr.Textbox(visible=False)
            html_block(self._masthead(name))
            with gr.Row(elem_classes="for-one", equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    self._build_input()
                with gr.Column(scale=4, min_width=320, elem_classes="examples", elem_id="examples"):
                    html_block('<p class="label">Examples</p>')
                    shown = [gr.Button(example, size="sm") for example in examples]
            self._message = html_block(elem_id="message", elem_classes="for-one")
            self._passage = html_block(
                page.passage(first), js_on_load=script("passage"), elem_id="answered", elem_classes="for-one"
            )
            with gr.Tabs(elem_id="tabs") as self._tabs:
                with gr.Tab("Link", elem_id="link-tab"):
                    self._build_link(first)
                with gr.Tab("Why", elem_id="why-tab"):
                    self._tree = html_block(js_on_load=script("zoom"), elem_id="tree")
                with gr.Tab("Before and after", elem_id="compare-tab", visible=service.positive is not None):
                    self._compared = html_block(elem_id="compared")
                with gr.Tab("Batch", elem_id="batch-tab"):
                    build_batch_tab(service, examples)
            self._wire(shown)
            add_endpoints(service)
        self.blocks.queue(max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENT)

    def _masthead(self, name: str) -> str:
        kb = self._service.linker.kb
        return (
            '<header class="masthead"><h1>What does this mention mean?</h1>'
            "<p>The model writes a name, and only one that the knowledge base has.</p>"
            f'<p class="model">{escape(name, 80)} · {len(kb):,} concepts, {kb.num_names:,} names</p></header>'
        )

    def _build_input(self) -> None:
        self._text = gr.Textbox(
            self._examples[0],
            label="Passage, with each mention in [brackets]",
            lines=2,
            max_lines=10,
            elem_id="passage",
        )
        with gr.Row(elem_classes="actions"):
            button = functools.partial(gr.Button, size="md", min_width=100)
            self._link = button("Link", variant="primary", elem_id="link")
            self._mark = button("Mark selection", elem_id="mark")
            self._find = button("Find mentions", visible=self._service.finds_mentions, elem_id="find")
        with gr.Accordion("Restrict answers", open=False, elem_id="restrict"):
            kinds = self._service.types
            self._types = gr.Dropdown(kinds, multiselect=True, label="To types", visible=bool(kinds), elem_id="types")
            self._allowed = gr.Textbox(label="To these names or ids, one a line", lines=3, elem_id="allowed")
            self._threshold = gr.Slider(
                0,
                1,
                self._own_threshold,
                step=0.01,
                label="To those at least so sure (not together with the above)",
                visible=self._service.is_calibrated,
                elem_id="threshold",
            )

    def _build_link(self, first: Answer) -> None:
        self._candidates = html_block(self._page.candidates(first.links[0]), elem_id="candidates")
        with gr.Accordion("Not right? Record the right concept", open=False, elem_id="flag"):
            with gr.Row(equal_height=True):
                self._right = gr.Dropdown(
                    _choices(first, 0),
                    label="The right concept (choose, or type an id)",
                    allow_custom_value=True,
                    value=None,
                    elem_id="right",
                    scale=3,
                )
                self._flag = gr.Button("Record", size="md", min_width=100, elem_id="record")
                self._download = gr.DownloadButton(size="md", visible=False, min_width=100, elem_id="download")
            self._flagged = html_block(elem_id="flagged")

    def _wire(self, examples: list[gr.Button]) -> None:
        quick: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_limit": CONCURRENT,
            "concurrency_id": "link",
            "show_progress": "hidden",
            # Who clicks on while an answer is under way gets what was asked for last.
            "trigger_mode": "always_last",
            "js": script("view"),
        }
        busy = {**quick, "show_progress": "minimal", "show_progress_on": [self._passage]}
        views = [self._candidates, self._right, self._flagged, self._tree, self._compared]
        answers = [self._answer, self._number, self._message, self._passage, *views]
        asked = [self._text, self._types, self._allowed, self._threshold]
        gr.on([self._link.click, self._text.submit], self._on_link, [*asked, self._view], answers, **busy)
        for button, example in zip(examples, self._examples, strict=True):
            filled = f"() => {json.dumps([example, [], '', self._own_threshold])}"
            button.click(None, None, asked, js=filled, api_visibility="private").then(
                None, js="() => { document.querySelector('#link').click(); }", api_visibility="private"
            )
        viewed = [self._answer, self._number, self._view]
        gr.on([self._passage.select, self._tabs.select], self._on_view, viewed, [self._number, *views], **quick)
        self._mark.click(None, self._text, self._text, js=script("mark"), api_visibility="private")
        # Taggers may be slow: who waits for one keeps nobody else waiting.
        finding = {"api_visibility": "private", "concurrency_limit": 2, "concurrency_id": "find"}
        self._find.click(self._on_find, self._text, [self._text, self._message], show_progress="hidden", **finding)
        flagging = [self._answer, self._right, self._corrections, self._view]
        flagged = [self._corrections, self._flagged, self._download]
        self._flag.click(self._on_flag, flagging, flagged, **{**quick, "trigger_mode": "once"})

    # --- one mention's views, which depend on the answer, on which of its mentions is chosen, and on the tab --------

    def _views(self, answer: Answer | None, number: int, tab: str) -> Updates:
        """What is shown of a mention; what the open tab does not show is emptied until it is asked for."""
        if answer is None:
            shown = [self._candidates, self._flagged, self._tree, self._compared]
            return {**dict.fromkeys(shown, ""), self._right: gr.Dropdown(choices=[], value=None)}
        compared = self._page.comparison(self._service.compare(answer, number)) if tab == "compare" else ""
        return {
            self._candidates: self._page.candidates(answer.links[number], restricted=answer.is_restricted),
            self._right: gr.Dropdown(choices=_choices(answer, number), value=None),
            self._flagged: "",
            self._tree: self._why(answer, number) if tab == "why" else "",
            self._compared: compared,
        }

    def _why(self, answer: Answer, number: int) -> str:
        try:
            return tree_svg.view(self._service.explain(answer, number))
        except VisitorError as error:
            return notices([str(error)], error=True)

    # --- events -----------------------------------------------------------------------------------------------------

    def _on_link(self, text: str, types: list[str], allowed: str, threshold: float, view: str) -> Updates:
        entries = [entry for entry in (allowed or "").split("\n") if entry.strip()]
        sure = None
        # The slider rounds the model's own threshold.
        if self._service.is_calibrated and not types and not entries and threshold != self._own_threshold:
            sure = threshold
        found, said, passage = None, "", ""
        try:
            found = self._service.answer(text or "", types or (), entries, sure)
            said, passage = notices(found.notices), self._page.passage(found)
        except VisitorError as error:
            said = notices([str(error)], error=True)
        _, tab = _chosen(view, found)
        updates = {self._answer: found, self._number: 0, self._message: said, self._passage: passage}
        return {**updates, **self._views(found, 0, tab)}

    def _on_view(self, answer: Answer | None, shown: int, view: str) -> Updates:
        number, tab = _chosen(view, answer)
        views = self._views(answer, number, tab)
        if number == shown:  # What was begun in the other tab stays.
            views = {self._tree: views[self._tree], self._compared: views[self._compared]}
        return {self._number: number, **views}

    def _on_find(self, text: str) -> Updates:
        try:
            return {self._text: self._service.mark(text or ""), self._message: ""}
        except VisitorError as error:
            return {self._text: gr.skip(), self._message: notices([str(error)], error=True)}

    def _on_flag(self, answer: Answer | None, right: str | None, kept: list[dict[str, Any]], view: str) -> Updates:
        try:
            if answer is None or not right:
                raise VisitorError("Choose the right concept first, or “no concept”.")
            record = correction(answer, _chosen(view, answer)[0], right, self._service)
        except VisitorError as error:
            return {self._flagged: notices([str(error)], error=True)}
        # Of several words about one mention the last counts.
        kept = [*(other for other in kept if other["id"] != record["id"]), record]
        path = fresh_folder() / "corrections.jsonl"
        path.write_text(to_jsonl(kept), encoding="utf-8")
        count = "1 record" if len(kept) == 1 else f"{len(kept)} records"
        return {
            self._corrections: kept,
            self._flagged: notices([f"Recorded: {count} so far, in this window only. Download before you leave it."]),
            self._download: gr.DownloadButton(f"Download {count}", value=str(path), visible=True),
        }


def _choices(answer: Answer, number: int) -> list[tuple[str, str]]:
    found = dict.fromkeys((i, c.name) for c in answer.links[number].candidates for i in c.ids)
    return [*((f"{name} ({concept_id})", concept_id) for concept_id, name in found), (NO_CONCEPT, NO_CONCEPT_ID)]


def _chosen(view: str | None, answer: Answer | None) -> tuple[int, str]:
    """The mention and the tab that a browser says are chosen; what it sends may be anything."""
    try:
        said = json.loads(view or "{}")
    except (ValueError, RecursionError):
        said = {}
    said = said if isinstance(said, dict) else {}
    number, tab = said.get("mention"), said.get("tab")
    fits = answer is not None and isinstance(number, int) and 0 <= number < len(answer.links)
    return (number if fits else 0), (tab if isinstance(tab, str) else "link")
