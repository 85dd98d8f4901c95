"""Fixtures of the tests of the Space in a browser: one server and one browser for all tests of a file."""

import pytest
from space_world import (
    EXAMPLE,
    FIRST,
    HOSTILE,
    chromium,
    knowledge_base,
    models_for,
    running_space,
    save_tagger,
    sync_api,
)

from angel_trl import EntityLinker
from angel_trl.confidence import Calibration


@pytest.fixture(scope="module")
def space(tmp_path_factory, make_model, tokenizer):
    """`(url, path of the server's output)` of a running Space with two tiny models, some pairs and a tagger."""
    folder = tmp_path_factory.mktemp("space")
    linkers = [EntityLinker(make_model(seed), tokenizer, knowledge_base()) for seed in (0, 1)]
    # Of which no answer is below the threshold.
    linkers[0].calibration = Calibration(1.0, -50.0, 0.0, 0.9, 10, 5, linkers[0].targets.fingerprint, {})
    save_tagger(folder / "tagger")
    named = models_for(folder, linkers, [FIRST, EXAMPLE, HOSTILE])
    with running_space(folder, **named, ANGEL_NER=str(folder / "tagger")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api().sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield chrome
        chrome.close()


@pytest.fixture(scope="module")
def seen():
    """What no page may do: requests to other hosts, and errors in the console."""
    return {"elsewhere": [], "errors": []}


@pytest.fixture(scope="module")
def open_page(space, browser, seen):
    """`open_page(**settings of the context)`: the page of a fresh visitor, at which the first answer stands."""

    def opened(**settings):
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings}).new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda r: r.url.startswith((space[0], "data:", "blob:")) or seen["elsewhere"].append(r.url))
        page.on("console", lambda m: m.type == "error" and seen["errors"].append(m.text))
        page.on("pageerror", lambda error: seen["errors"].append(str(error)))
        page.goto(space[0])
        sync_api().expect(page.locator("#answered .mention")).to_have_count(2)
        return page

    return opened
