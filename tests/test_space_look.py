"""How the Space looks in a real browser, to those too who see little, and what it asks of others."""

import http.server
import re
import threading
from importlib.util import find_spec

import pytest
from space_world import headline, link, reserved_port, sync_api, waiting

pytest_plugins = ["space_browser"]
expect = sync_api().expect


def serious(axe, page):
    """What axe-core finds that keeps people out."""
    found = axe.run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python lets the test run"
    ).Axe()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_is_found(open_page, axe, scheme):
    page = open_page(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 60) == (scheme == "dark")
    page.click("#restrict button")
    page.click("#flag button")
    shown = {"link": "#candidates table", "why": "svg.tree", "compare": ".side", "batch": "#file"}
    for tab, part in shown.items():
        page.click(f"#{tab}-tab-button")
        expect(page.locator(part).first).to_be_visible()
        # Colours change slowly.
        page.wait_for_function(
            "() => !document.getAnimations().some((a) => a instanceof CSSTransition && a.playState === 'running')"
        )
        assert serious(axe, page) == [], tab
    page.context.close()


def test_a_narrow_screen_is_enough(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    link(page, f"[{'a' * 60}] and [copper]")
    expect(headline(page)).to_contain_text("aaa")
    for tab, part in {"why": "svg.tree", "compare": ".side", "batch": "#file", "link": "#candidates table"}.items():
        page.click(f"#{tab}-tab-button")
        expect(page.locator(part).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in ("#link", "#mark"):
        assert page.locator(button).bounding_box()["height"] >= 30
    page.context.close()


def test_everything_about_a_mention_fits_on_one_screen(open_page):
    page = open_page()
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    page.context.close()


@pytest.mark.skipif(
    not find_spec("mcp"), reason='pip install "mcp<2": without it Gradio\'s page asks in vain for tools'
)
def test_the_page_about_the_api_opens(open_page):
    page = open_page()
    page.get_by_role("button", name="Use via API").click()
    page.get_by_role("listitem").filter(has_text="Python").click()
    expect(page.get_by_text("/batch").first).to_be_visible()
    page.context.close()


def test_the_page_of_the_training_turns_into_the_space(browser, axe, monkeypatch):
    class Space(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()
            self.wfile.write(b"<h1>The Space</h1>" if self.path == "/" else b"")

        def log_message(self, *args):
            pass

    page = browser.new_context(color_scheme="dark").new_page()
    with reserved_port() as port:
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        with waiting.page() as tell:
            page.goto(f"http://127.0.0.1:{port}/")
            tell("learning from mistakes", 0.4)
            expect(page.get_by_text("Learning from mistakes")).to_be_visible()
            expect(page.get_by_text("40 %")).to_be_visible()
            assert serious(axe, page) == []
        expect(page.get_by_text("Waiting for the server")).to_be_visible()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Space)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        expect(page.get_by_text("The Space")).to_be_visible()
        page.context.close()
        server.shutdown()
        server.server_close()


def test_no_page_asked_elsewhere_or_wrote_an_error(seen):
    assert seen == {"elsewhere": [], "errors": []}
