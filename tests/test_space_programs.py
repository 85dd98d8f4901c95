"""The Space for programs: its endpoints, through Gradio's client and by hand; one server for all tests here."""

import asyncio
import importlib.metadata
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from space_world import EXAMPLE, SPACE, knowledge_base, models_for, running_space

from angel_trl import EntityLinker

gradio_client = pytest.importorskip(
    "gradio_client", reason="pip install -c constraints.txt -e '.[space]' lets the tests of the Space run"
)
endpoints = pytest.importorskip("endpoints", reason="the Space needs Gradio, of the extra [space]")


@pytest.fixture(scope="module")
def space(tmp_path_factory, make_model, tokenizer):
    """`(url, path of the server's output)` of a running Space with two tiny models and some pairs."""
    folder = tmp_path_factory.mktemp("space")
    linkers = [EntityLinker(make_model(seed), tokenizer, knowledge_base()) for seed in (0, 1)]
    with running_space(folder, **models_for(folder, linkers, [EXAMPLE])) as running:
        yield running


@pytest.fixture(scope="module")
def client(space):
    return gradio_client.Client(space[0], verbose=False, analytics_enabled=False)


def test_a_program_links_a_text(client):
    first, second = client.predict("[Wilson's disease] and [copper].", None, None, None, api_name="/link")
    assert (first["mention"], first["start"], first["end"]) == ("Wilson's disease", 0, 16)
    assert first["id"] == first["candidates"][0]["ids"][0]
    assert first["probability"] == first["candidates"][0]["probability"]
    assert first["confidence"] is None
    assert second["mention"] == "copper"
    (only,) = client.predict("[copper]", allowed=["Aspirin"], api_name="/link")
    assert (only["id"], only["name"], only["exact"]) == ("D001241", "Aspirin", True)


def test_a_program_links_many_texts(client):
    texts = ["[copper] [aspirin]", "[delirium]"]
    answers = client.predict(texts, types=["Chemical"], api_name="/batch")
    assert [[link["mention"] for link in links] for links in answers] == [["copper", "aspirin"], ["delirium"]]
    assert answers[1] == client.predict(texts[1], types=["Chemical"], api_name="/link")


@pytest.mark.parametrize(
    ("arguments", "endpoint", "message"),
    [
        (["none marked"], "/link", "No mention is marked"),
        ([7], "/link", "text must be a string"),
        (["[a]", "Disease"], "/link", "types must be a list of strings"),
        (["[a]", None, [None]], "/link", r"allowed\[0\] must be a string"),
        (["[a]", None, None, "0.5"], "/link", "nil_threshold must be a number"),
        (["[a]", None, None, 0.5], "/link", "not calibrated"),
        (["[a]", ["Gene"]], "/link", "'Gene'"),
        ([["[a]", "b"]], "/batch", r"texts\[1\]: No mention is marked"),
        ([["[a]"] * 501], "/batch", "501 texts are given; at most 500"),
        ([["[a] " * 100] * 21], "/batch", "2,100 mentions are marked; at most 2,000"),
    ],
)
def test_a_program_is_told_what_to_put_right(client, arguments, endpoint, message):
    with pytest.raises(Exception, match=message) as told:
        client.predict(*arguments, api_name=endpoint)
    assert "Traceback" not in str(told.value)


def test_the_example_of_the_readme_runs(space):
    (example,) = re.findall(r"```python\n(.*?)```", (SPACE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    example = example.replace("http://127.0.0.1:7860", space[0])
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4  # the client's own line, a link, and two lists


def test_the_endpoints_have_schemas(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/link", "/batch"}
    names = [parameter["parameter_name"] for parameter in endpoints["/link"]["parameters"]]
    assert names == ["text", "types", "allowed", "nil_threshold"]
    (answer,) = endpoints["/link"]["returns"]
    assert set(answer["type"]["items"]["required"]) == {
        "mention", "start", "end", "id", "name", "probability", "confidence", "exact", "candidates",
    }  # fmt: skip


def test_a_slow_request_does_not_keep_others_waiting(space, client):
    # Another visitor: a client may lose an answer when it asks twice at once.
    other = gradio_client.Client(space[0], verbose=False, analytics_enabled=False)
    slow = other.submit([f"[word {n}] " * 100 for n in range(20)], api_name="/batch")
    client.predict("[copper]", api_name="/link")
    assert not slow.done()
    slow.cancel()


def test_an_upload_that_is_too_large_is_refused(space):
    boundary = "xxx"
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'.encode()
    body += b"x" * 5_100_000 + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{space[0]}/gradio_api/upload", data=body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 413


def test_nothing_that_is_served_names_a_path_of_the_server(space):
    url, log = space
    for page in ("", "/config", "/gradio_api/info"):
        with urllib.request.urlopen(url + page, timeout=60) as answer:
            text = answer.read().decode()
        assert str(SPACE) not in text
        assert str(log.parent) not in text


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, 'they need an extra of Gradio. Install it with pip install "gradio[mcp]".'),
        ("2.0.1", 'mcp 2.0.1 is installed, and Gradio needs "mcp<2".'),
    ],
)
def test_without_the_extra_for_mcp_it_says_how_to_get_it(monkeypatch, version, message):
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    def installed(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    given = endpoints.mcp_settings()
    assert not given["mcp_server"]
    program = TestClient(Starlette(**given["app_kwargs"]))
    answer = program.post("/gradio_api/mcp/")
    assert (answer.status_code, answer.json()) == (501, {"error": f"MCP tools are off: {message}"})
    # The page of the API asks for this, and says that there are tools if it gets anything.
    assert program.get("/gradio_api/mcp/schema").status_code == 501


def test_an_assistant_calls_the_tools(space):
    mcp = pytest.importorskip("mcp", reason='pip install "mcp<2" lets the test run')
    from mcp.client.streamable_http import streamable_http_client

    async def call():
        async with (
            streamable_http_client(f"{space[0]}/gradio_api/mcp/") as (reading, writing, _),
            mcp.ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            linked = await session.call_tool(tools[0].name, {"text": "[copper]", "allowed": ["Copper"]})
            refused = await session.call_tool(tools[0].name, {"text": "copper"})
            return [tool.name for tool in tools], linked.content[0].text, refused

    names, linked, refused = asyncio.run(call())
    assert names == ["link", "batch"]
    assert "D003300" in linked
    assert refused.isError
    assert "No mention is marked" in refused.content[0].text


def test_of_fifty_visitors_at_once_none_is_lost(space):
    command = [sys.executable, str(SPACE / "load_test.py"), space[0], "--visitors", "50", "--requests", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (measured,) = json.loads(done.stdout)["many_visitors"]
    assert (measured["requests"], measured["lost"], measured["first_lost"]) == (100, 0, "")
    assert 0 < measured["answer_seconds"]["p95"] < 300
