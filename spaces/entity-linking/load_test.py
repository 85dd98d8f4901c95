"""Many visitors at once: how many requests a second, how long they wait, and whether one is lost.

    python spaces/entity-linking/load_test.py http://127.0.0.1:7860 --visitors 50 --requests 4

Each visitor asks `/link` one text after the other, as a browser's queue does; all begin together. The texts are those
of the file given, one a line, or an example with another number in each. Prints one JSON object.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import httpx

_TEXT = "We describe [vein hrdening] in patient {number}, as a complication of [gilvotine] therapy."


async def visit(client: httpx.AsyncClient, texts: list[str], seconds: list[float], failures: list[str]) -> None:
    """Ask for each text in turn; add how long each took, or what went wrong."""
    for text in texts:
        begin = time.perf_counter()
        try:
            asked = await client.post("/gradio_api/call/link", json={"data": [text, None, None, None]})
            asked.raise_for_status()
            answer = await client.get(f"/gradio_api/call/link/{asked.json()['event_id']}")
            event, _, data = answer.text.strip().rpartition("event: ")[2].partition("\ndata: ")
            if event != "complete" or not json.loads(data)[0]:
                failures.append(answer.text[:200])
                continue
        except httpx.HTTPError as error:
            failures.append(repr(error))
            continue
        seconds.append(time.perf_counter() - begin)


async def run(url: str, visitors: int, requests: int, lines: list[str]) -> dict[str, float | int]:
    """All visitors at once."""
    seconds: list[float] = []
    failures: list[str] = []
    texts = [lines[n % len(lines)].replace("{number}", str(n)) for n in range(visitors * requests)]
    limits = httpx.Limits(max_connections=visitors)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        begin = time.perf_counter()
        parts = [texts[n * requests : (n + 1) * requests] for n in range(visitors)]
        await asyncio.gather(*(visit(client, part, seconds, failures) for part in parts))
        whole = time.perf_counter() - begin
    seconds.sort()
    answered = len(seconds)
    return {
        "visitors": visitors,
        "requests": visitors * requests,
        "lost": visitors * requests - answered,
        "requests_per_second": round(answered / whole, 1),
        "p50_seconds": round(seconds[answered // 2], 2) if seconds else float("nan"),
        "p95_seconds": round(seconds[int(answered * 0.95)], 2) if seconds else float("nan"),
        "first_failure": failures[0] if failures else "",
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the Space runs")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=4, help="of each visitor")
    parser.add_argument("--texts", type=Path, help="file of texts with [mentions], one a line")
    args = parser.parse_args()
    lines = args.texts.read_text(encoding="utf-8").splitlines() if args.texts else [_TEXT]
    print(json.dumps(asyncio.run(run(args.url, args.visitors, args.requests, lines))))


if __name__ == "__main__":
    main()
