"""The named endpoints for programs, `/link` and `/batch`, which are MCP tools too."""

import contextlib
import importlib.metadata
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr
from records import LinkRecord, link_record
from service import Service, VisitorError, parse
from settings import MAX_BATCH_MENTIONS
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

logger = logging.getLogger("spaces.entity_linking")

MAX_TEXTS = 500
"""Most texts of one call of `/batch`."""

CONCURRENT = 16
"""Short requests run at once: what they search, the linker searches together."""


def add_endpoints(service: Service) -> None:
    """Define the endpoints in the Blocks that are being built."""

    def link(
        text: str,
        types: list[str] | None = None,
        allowed: list[str] | None = None,
        nil_threshold: float | None = None,
    ) -> list[LinkRecord]:
        """Link the [bracketed] mentions of a passage to concepts of the knowledge base.

        Args:
            text: A passage with one or more mentions in [square brackets].
            types: Semantic types that answers are restricted to; none for all.
            allowed: Names or ids of concepts that answers are restricted to; none for all.
            nil_threshold: Confidence below which there is no answer; the model's own if none is given.

        Returns:
            One link a mention, in order: the concept's id and name, the name's probability, whether the search proved
            that no name is likelier, and the candidates.
        """
        with _told():
            restricted = _strings("types", types), _strings("allowed", allowed)
            answer = service.answer(_string("text", text), *restricted, _number("nil_threshold", nil_threshold))
            return [link_record(one, service) for one in answer.links]

    def batch(
        texts: list[str],
        types: list[str] | None = None,
        allowed: list[str] | None = None,
        nil_threshold: float | None = None,
    ) -> list[list[LinkRecord]]:
        """Link the [bracketed] mentions of many passages.

        Args:
            texts: Passages, each with one or more mentions in [square brackets].
            types: Semantic types that answers are restricted to; none for all.
            allowed: Names or ids of concepts that answers are restricted to; none for all.
            nil_threshold: Confidence below which there is no answer; the model's own if none is given.

        Returns:
            For each passage what /link gives.
        """
        with _told():
            texts = _strings("texts", texts)
            if len(texts) > MAX_TEXTS:
                raise VisitorError(f"{len(texts):,} texts are given; at most {MAX_TEXTS} can be in one call.")
            parsed = [_parsed(number, text) for number, text in enumerate(texts)]
            restriction = service.restriction(_strings("types", types), _strings("allowed", allowed))
            rows = [{"text": text, "start": start, "end": end} for text, spans in parsed for start, end in spans]
            if len(rows) > MAX_BATCH_MENTIONS:
                raise VisitorError(
                    f"{len(rows):,} mentions are marked; at most {MAX_BATCH_MENTIONS:,} can be in a call."
                )
            links = iter(service.link_rows(rows, restriction, _number("nil_threshold", nil_threshold)))
            return [[link_record(one, service) for one in itertools.islice(links, len(spans))] for _, spans in parsed]

    # A long call of /batch does not keep /link waiting.
    gr.api(link, api_name="link", concurrency_limit=CONCURRENT, concurrency_id="link")
    gr.api(batch, api_name="batch", concurrency_limit=1, concurrency_id="batch")


def missing_for_mcp() -> str:
    """What is to be done before the endpoints can be MCP tools; empty if they are."""
    try:
        version = importlib.metadata.version("mcp")
    except importlib.metadata.PackageNotFoundError:
        return 'MCP tools are off: they need an extra of Gradio. Install it with pip install "gradio[mcp]".'
    if int(version.partition(".")[0]) >= 2:
        return f'MCP tools are off: mcp {version} is installed, and Gradio needs "mcp<2".'
    return ""


def mcp_settings() -> dict[str, Any]:
    """What `launch` needs to serve the MCP tools, or, where they are missing, to say so to who asks for them."""
    missing = missing_for_mcp()
    if not missing:
        return {"mcp_server": True}
    logger.info(missing)

    async def say(request: Request) -> JSONResponse:
        return JSONResponse({"error": missing}, status_code=501)

    route = Route("/gradio_api/mcp/{rest:path}", say, methods=["GET", "POST", "DELETE"])
    return {"mcp_server": False, "app_kwargs": {"routes": [route]}}


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what a visitor can put right into Gradio's error, whose message a program gets."""
    try:
        yield
    except VisitorError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _string(name: str, value: Any) -> str:
    # Gradio hands on whatever a program sends.
    if not isinstance(value, str):
        raise VisitorError(f"{name} must be a string.")
    return value


def _number(name: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise VisitorError(f"{name} must be a number.")
    return value


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise VisitorError(f"{name} must be a list of strings.")
    return tuple(_string(f"{name}[{place}]", value) for place, value in enumerate(values))


def _parsed(number: int, text: str) -> tuple[str, list[tuple[int, int]]]:
    try:
        plain, spans, _ = parse(text)
    except VisitorError as error:
        raise VisitorError(f"texts[{number}]: {error}") from error
    return plain, spans
