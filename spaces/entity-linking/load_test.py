"""Many visitors at once: how many answers a second, how long they wait, is one lost; and what a single visitor sees.

    python spaces/entity-linking/load_test.py http://127.0.0.1:7860 --visitors 50 --requests 4 --turns 5

Each visitor opens the page, then presses “Link” for one text after the other, over the queue that a browser uses; all
begin together. The texts are those of a file, one a line, or an example with another number in each. With `--browser`
one visitor's first paint and answers are measured in Chromium as well, which takes Playwright and a machine at rest.
Each turn has new visitors, and texts that were not linked before. Prints one JSON object, and writes it to `--output`.
"""

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

_TEXT = "We describe [vein hrdening] in patient {number}, as a complication of [gilvotine] therapy."
_PACKAGES = ("gradio", "torch", "transformers", "numpy")


class Lost(Exception):
    """A request that was not answered."""


def link_event(config: dict[str, Any]) -> int:
    """The number of what the page does when “Link” is pressed."""
    (button,) = [part["id"] for part in config["components"] if part["props"].get("elem_id") == "link"]
    return next(event["id"] for event in config["dependencies"] if [button, "click"] in map(list, event["targets"]))


async def press_link(client: httpx.AsyncClient, event: int, session: str, text: str) -> None:
    """Join the queue as the page does, and wait for the answer.

    Raises:
        Lost: if it is refused, an error, or holds no answered mention.
    """
    asked = {"data": [text, [], "", 0, "{}"], "event_data": None, "fn_index": event, "session_hash": session}
    joined = await client.post("/gradio_api/queue/join", json=asked)
    if joined.status_code != 200:
        raise Lost(joined.text[:200])
    number = joined.json()["event_id"]
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        async for line in stream.aiter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("event_id") == number and message["msg"] == "process_completed":
                if not message["success"] or 'class="mention' not in json.dumps(message).replace('\\"', '"'):
                    raise Lost(line[:200])
                return
    raise Lost("the stream ended without an answer")


async def visit(
    client: httpx.AsyncClient, event: int, texts: list[str], pages: list[float], answers: list[float], lost: list[str]
) -> None:
    """Open the page and have each text linked in turn; add how long each took, or what went wrong."""
    begin = time.perf_counter()
    try:
        (await client.get("/")).raise_for_status()
    except httpx.HTTPError as error:
        lost.append(f"page: {error!r}")
    else:
        pages.append(time.perf_counter() - begin)
    session = uuid.uuid4().hex[:12]
    for text in texts:
        begin = time.perf_counter()
        try:
            await press_link(client, event, session, text)
        except (httpx.HTTPError, Lost) as error:
            lost.append(repr(error))
        else:
            answers.append(time.perf_counter() - begin)


async def many(url: str, visitors: int, requests: int, lines: list[str], turn: int = 0) -> dict[str, Any]:
    """All visitors at once."""
    pages: list[float] = []
    answers: list[float] = []
    lost: list[str] = []
    first = turn * visitors * requests
    texts = [lines[n % len(lines)].replace("{number}", str(first + n)) for n in range(visitors * requests)]
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        config = (await client.get("/config")).json()
        begin = time.perf_counter()
        parts = [texts[n * requests : (n + 1) * requests] for n in range(visitors)]
        await asyncio.gather(*(visit(client, link_event(config), part, pages, answers, lost) for part in parts))
        seconds = time.perf_counter() - begin
    model = re.search(r'class=\\?"model\\?">([^<]*)<', json.dumps(config, ensure_ascii=False))
    return {
        "model": model[1] if model else "",
        "visitors": visitors,
        "requests": visitors * requests,
        "lost": len(lost),
        "first_lost": lost[0] if lost else "",
        "answers_per_second": round(len(answers) / seconds, 1),
        "answer_seconds": {"median": _at(answers, 0.5), "p95": _at(answers, 0.95), "max": _at(answers, 1)},
        "page_seconds": {"median": _at(pages, 0.5), "p95": _at(pages, 0.95), "max": _at(pages, 1)},
    }


def _at(seconds: Iterable[float], share: float) -> float | None:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3) if ordered else None


def one(url: str, repeats: int) -> dict[str, Any]:
    """One visitor with nothing in the browser's cache: first paint, the example's answer on the screen, “Link”."""
    from playwright.sync_api import expect, sync_playwright

    seen: dict[str, list[float]] = {"first_paint_seconds": [], "example_shown_seconds": [], "answer_seconds": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for number in range(repeats):
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            begin = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#answered .mention")
            seen["example_shown_seconds"].append(time.perf_counter() - begin)
            painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
            seen["first_paint_seconds"].append(page.evaluate(painted))
            page.fill("#passage textarea", _TEXT.replace("{number}", f"{number + 1}01"))
            begin = time.perf_counter()
            page.click("#link")
            expect(page.locator("#answered")).to_contain_text(f"in patient {number + 1}01")
            seen["answer_seconds"].append(time.perf_counter() - begin)
            page.context.close()
        browser.close()
    return {
        "repeats": repeats,
        **{
            name: {"median": round(statistics.median(values), 3), "min": _at(values, 0), "max": _at(values, 1)}
            for name, values in seen.items()
        },
    }


def surroundings() -> dict[str, Any]:
    """Hardware and versions, and how busy the machine was: numbers taken beside another job are worth little."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "hardware": {
            "cpu": model or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the Space runs")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=4, help="of each visitor")
    parser.add_argument("--turns", type=int, default=1, help="times all of it is done")
    parser.add_argument("--texts", type=Path, help="file of texts with [mentions], one a line")
    parser.add_argument("--browser", type=int, default=0, metavar="REPEATS", help="measure one visitor in Chromium")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    lines = args.texts.read_text(encoding="utf-8").splitlines() if args.texts else [_TEXT]
    results: dict[str, Any] = surroundings()
    if args.browser:
        results["one_visitor"] = one(args.url, args.browser)
    results["many_visitors"] = [
        asyncio.run(many(args.url, args.visitors, args.requests, lines, turn)) for turn in range(args.turns)
    ]
    if args.output:
        args.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    main()
