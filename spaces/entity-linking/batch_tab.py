"""The Batch tab: a file in, progress, files out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batch_files
import gradio as gr
from components import html_block
from markup import NO_CONCEPT, escape, notices, percent, table
from records import LinkRecord, link_record, to_jsonl
from service import Service, VisitorError
from settings import CHUNK, MAX_UPLOAD_BYTES

_PREVIEW = 8


def build_batch_tab(service: Service, examples: list[str]) -> None:
    """Put the tab's components, and what they do, into the tab that is being built.

    Args:
        service: what links.
        examples: passages of the file to try.
    """
    html_block(
        '<p class="quiet">PubTator, JSONL or CSV with <code>text</code>, <code>start</code> and <code>end</code>, '
        f"or with [brackets] in <code>text</code>. Up to {MAX_UPLOAD_BYTES / 1e6:.0f} MB; kept for an hour.</p>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            file = gr.File(label="File", file_types=batch_files.KINDS, height=150, elem_id="file", type="filepath")
            with gr.Row(elem_classes="actions"):
                run = gr.Button("Link the file", variant="primary", size="md", elem_id="run")
                try_it = gr.Button("Try an example", size="md", elem_id="try")
        with gr.Column(scale=3, min_width=280):
            status = html_block(elem_id="status")
            with gr.Row():
                as_json = gr.DownloadButton("Download JSONL", size="md", visible=False, elem_id="as-json")
                as_csv = gr.DownloadButton("Download CSV", size="md", visible=False, elem_id="as-csv")
            preview = html_block(elem_id="preview")

    def on_click() -> list[Any]:
        # What was answered before must not be taken for the answer to come.
        said = notices(["In the queue: one file is linked at a time."])
        return [said, "", *[gr.DownloadButton(visible=False)] * 2]

    def on_try() -> str:
        path = batch_files.fresh_folder() / "example.jsonl"
        path.write_text(to_jsonl({"document_id": str(n), "text": text} for n, text in enumerate(examples, 1)))
        return str(path)

    def on_file(path: str | None) -> Iterator[list[Any]]:
        hidden = gr.DownloadButton(visible=False)
        try:
            if not path:
                raise VisitorError("Choose a file first.")
            batch = batch_files.read(Path(path), Path(path).name)
        except VisitorError as error:
            yield [notices([str(error)], error=True), "", hidden, hidden]
            return
        links: list[LinkRecord] = []
        count = len(batch.rows)
        for begin in range(0, count, CHUNK):
            yield [_progress(begin, count, batch.kind), "", hidden, hidden]
            chunk = service.link_rows(batch.rows[begin : begin + CHUNK])
            links += [link_record(one, service) for one in chunk]
        files = batch_files.write(batch, links, batch_files.fresh_folder())
        answered = sum(bool(one["id"]) for one in links)
        exact = sum(one["exact"] for one in links)
        what = "mention" if count == 1 else "mentions"
        said = f"{batch.kind}: {count:,} {what}, {answered:,} linked, {exact:,} exact."
        downloads = [gr.DownloadButton(value=str(one), visible=True) for one in files]
        yield [notices([said, *batch.notices]), _preview(links), *downloads]

    shown = [status, preview, as_json, as_csv]
    silent: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    tried = try_it.click(on_try, None, file, queue=False, **silent)
    for begun in (run.click, tried.then):
        # One file at a time, in a queue of its own: the other tabs do not wait for it.
        begun(on_click, None, shown, queue=False, **silent).then(
            on_file, file, shown, concurrency_limit=1, concurrency_id="batch", **silent
        )


def _progress(done: int, count: int, kind: str) -> str:
    return (
        f'<div class="notice note" role="status"><div><p>{kind}: {done:,} of {count:,} mentions</p>'
        f'<progress max="{count}" value="{done}" aria-label="Mentions linked"></progress></div></div>'
    )


def _preview(links: list[LinkRecord]) -> str:
    rows = [
        [
            f"<bdi>{escape(one['mention'], 80)}</bdi>",
            f"<bdi>{escape(one['name'], 80)}</bdi>" if one["id"] else f"<i>{NO_CONCEPT}</i>",
            f"<code>{escape(one['id'], 40)}</code>",
            percent(one["probability"]),
        ]
        for one in links[:_PREVIEW]
    ]
    more = f'<p class="quiet">The first {_PREVIEW} of {len(links):,}.</p>' if len(links) > _PREVIEW else ""
    return table("First answers", ("Mention", "Concept", "Id", "Probability"), rows, ranked=False) + more
