"""The Space as a visitor uses it, in a real browser."""

import json
import re
import subprocess
import sys

import pytest
from space_world import EXAMPLE, FIRST, HOSTILE, ROOT, headline, link, open_accordion, sync_api

from angel_trl import read_corpus

pytest_plugins = ["space_browser"]
expect = sync_api().expect


@pytest.fixture(scope="module")
def visitor(open_page):
    return open_page()


@pytest.fixture
def page(visitor):
    """A visitor's page that tests share: the first example is answered, and no restriction is left."""
    visitor.click("#link-tab-button")
    # Or what is waited for might stand there from the test before, and the example undo what a test does first.
    link(visitor, "")
    expect(visitor.locator("#answered .mention")).to_have_count(0)
    visitor.click("#examples button >> nth=0")
    expect(visitor.locator("#passage textarea")).to_have_value(FIRST)
    expect(visitor.locator("#answered")).to_contain_text("as a cause of")
    expect(headline(visitor)).to_contain_text("Wilson's disease")
    return visitor


def selected(page, text):
    """Waits until exactly `text` is selected in the passage: the page does so a moment after it has marked it."""
    passage = page.locator("#passage textarea").element_handle()
    chosen = "([area, text]) => area.value.slice(area.selectionStart, area.selectionEnd) === text"
    page.wait_for_function(chosen, arg=[passage, text])


# --- a visitor -------------------------------------------------------------------------------------------------------


def test_an_example_is_answered_before_anything_is_typed(page):
    expect(headline(page)).to_contain_text("Wilson's disease")
    expect(page.locator("#candidates tbody tr")).to_have_count(5)
    expect(page.locator("#candidates")).to_contain_text("exact")


def test_a_text_is_linked_by_typing_and_by_example(page):
    link(page, "A trace of [copper] in [a b] and [c].")
    expect(page.locator("#answered .mention")).to_have_count(3)
    expect(headline(page)).to_contain_text("copper")
    page.click("#examples button >> nth=1")
    expect(page.locator("#answered")).to_contain_text("Copper in Wilson's disease")
    expect(page.locator("#passage textarea")).to_have_value(EXAMPLE)


def test_the_keyboard_is_enough(page):
    page.focus("#passage textarea")
    page.keyboard.press("Control+a")
    page.keyboard.type("Seen in [copper] and [aspirin].")
    page.keyboard.press("Tab")
    expect(page.locator("#link")).to_be_focused()
    page.keyboard.press("Enter")
    expect(headline(page)).to_contain_text("copper")
    second = page.locator("[data-mention='1']")
    for _ in range(12):
        page.keyboard.press("Tab")
        if second.evaluate("mention => mention === document.activeElement"):
            break
    expect(second).to_be_focused()
    page.keyboard.press("Enter")
    expect(headline(page)).to_contain_text("aspirin")
    expect(second).to_have_attribute("aria-pressed", "true")
    expect(second).to_be_focused()
    page.focus("#link-tab-button")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("svg.tree")).to_be_visible()


def test_a_selection_becomes_a_mention_and_back(page):
    area = page.locator("#passage textarea")
    area.fill("Signs of delirium here")
    area.evaluate("area => area.setSelectionRange(9, 18)")
    page.click("#mark")
    expect(area).to_have_value("Signs of [delirium] here")
    selected(page, "delirium")
    page.click("#mark")
    expect(area).to_have_value("Signs of delirium here")
    selected(page, "delirium")


@pytest.mark.parametrize(
    ("text", "selection", "marked", "mention"),
    [
        ("Signs of delirium, here", (12, 12), "Signs of [delirium], here", "delirium"),
        ("Signs of [the delirium] here", (15, 15), "Signs of the delirium here", "the delirium"),
        ("Signs of [the delirium] here", (14, 28), "Signs of the [delirium here]", "delirium here"),
    ],
)
def test_the_word_at_the_cursor_is_marked_and_brackets_never_nest(page, text, selection, marked, mention):
    area = page.locator("#passage textarea")
    area.fill(text)
    area.evaluate("(area, selection) => area.setSelectionRange(...selection)", selection)
    page.click("#mark")
    expect(area).to_have_value(marked)
    selected(page, mention)


def test_a_model_marks_mentions(page):
    page.fill("#passage textarea", "Traces of copper in [a] delirium.")
    page.click("#find")
    expect(page.locator("#passage textarea")).to_have_value("Traces of [copper] in a [delirium].")
    page.fill("#passage textarea", "Nothing of the kind.")
    page.click("#find")
    expect(page.get_by_role("alert")).to_contain_text("found no mention")


def test_an_answer_that_is_not_sure_is_not_given(page):
    expect(headline(page)).to_contain_text("confidence")
    expect(page.locator("#candidates .best")).to_have_count(1)
    open_accordion(page, "restrict")
    page.fill("#threshold input[type=number]", "1")
    page.click("#link")
    expect(headline(page)).to_contain_text("no concept in this KB")
    expect(page.locator("#answered .mention.none")).to_have_count(2)
    expect(page.locator("#candidates .best")).to_have_count(0)
    page.click("#examples button >> nth=0")
    expect(page.locator("#answered .mention.none")).to_have_count(0)


def test_who_clicks_faster_than_the_answers_come_sees_what_was_clicked_last(open_page):
    page = open_page()
    slow = page.context.new_cdp_session(page)
    slow.send("Network.enable")
    line = {"offline": False, "latency": 300, "downloadThroughput": -1, "uploadThroughput": -1}
    slow.send("Network.emulateNetworkConditions", line)
    for number in (1, 0, 1, 0):
        page.click(f"[data-mention='{number}']")
    page.click("[data-mention='1']")
    page.click("#why-tab-button")
    page.click("#compare-tab-button")
    page.click("[data-mention='0']")
    page.click("#why-tab-button")
    expect(page.locator("svg.tree .node.win").first).to_contain_text("Wilson's disease is")
    page.click("#link-tab-button")
    expect(headline(page)).to_contain_text("Wilson's disease")
    for number in (1, 0, 1):
        page.click(f"#examples button >> nth={number}")
    expect(page.locator("#answered")).to_contain_text("Copper in Wilson's disease")
    expect(page.locator("#passage textarea")).to_have_value(EXAMPLE)
    page.context.close()


def test_answers_are_restricted(page):
    open_accordion(page, "restrict")
    page.click("#types input")
    page.get_by_role("option", name="Chemical").click()
    page.click("#link")
    expect(page.locator("#candidates tbody tr")).to_have_count(5)
    expect(page.locator("#candidates tbody .type")).to_have_text(["Chemical"] * 5)
    page.fill("#allowed textarea", "Copper")
    page.click("#link")
    expect(page.locator("#candidates tbody tr")).to_have_count(1)
    page.fill("#allowed textarea", "Coper")
    page.click("#link")
    expect(page.get_by_role("alert")).to_contain_text("'Coper'")


def test_the_tree_can_be_read_and_zoomed(page):
    page.click("#why-tab-button")
    tree = page.locator("svg.tree")
    expect(tree).to_be_visible()
    assert page.locator("svg.tree .node.win").count() >= 2
    before = tree.bounding_box()["width"]
    page.get_by_role("button", name="Zoom in").click()
    assert tree.bounding_box()["width"] == pytest.approx(1.25 * before, rel=0.02)
    page.click("#tree summary")
    expect(page.locator("#tree pre")).to_contain_text("#1 ")
    # Another mention, chosen while its tree is shown.
    page.click("[data-mention='1']")
    expect(page.locator("svg.tree .node.win").first).to_contain_text("delirium is")


def test_before_and_after_stand_side_by_side(page):
    page.click("#compare-tab-button")
    expect(page.locator("#compared .side")).to_have_count(2)
    first, second = (side.bounding_box() for side in page.locator("#compared .side").all())
    assert first["y"] == second["y"]
    assert first["x"] < second["x"]
    expect(page.locator("#compared")).to_contain_text("What the rounds taught")


def test_a_file_is_linked_and_its_answers_downloaded(page, tmp_path):
    clear = page.get_by_role("button", name="Clear")  # shown once all of a file has arrived
    page.click("#batch-tab-button")
    expect(page.locator("#passage")).to_be_hidden()
    page.click("#run")
    expect(page.get_by_role("alert")).to_contain_text("Choose a file first.")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\xff")
    page.set_input_files("#file input[type=file]", tmp_path / "picture.csv")
    expect(clear).to_be_visible()
    page.click("#run")
    expect(page.get_by_role("alert")).to_contain_text("picture.csv is not UTF-8 text")
    clear.click()
    expect(clear).to_have_count(0)
    rows = [{"text": f"Number {n}: [copper] against [delirium].", "document_id": str(n)} for n in range(150)]
    path = tmp_path / "mentions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.set_input_files("#file input[type=file]", path)
    expect(clear).to_be_visible()
    # The bar may come and go between two looks at the page.
    page.evaluate("""() => {
        window.progress = new Set();
        const look = () => document.querySelectorAll("#status progress").forEach((bar) => progress.add(bar.value));
        new MutationObserver(look).observe(document.querySelector("#batch-tab"), { subtree: true, childList: true });
    }""")
    page.click("#run")
    expect(page.locator("#status")).to_contain_text("300 mentions, 300 linked")
    assert page.evaluate("progress.size") >= 1
    expect(page.locator("#preview tbody tr")).to_have_count(8)
    with page.expect_download() as downloading:
        page.click("#as-json")
    downloading.value.save_as(tmp_path / "links.jsonl")
    splits, report = read_corpus(tmp_path / "links.jsonl")
    assert (report.used, splits["train"]["mention"][:2]) == (300, ["copper", "delirium"])
    page.click("#link-tab-button")
    expect(page.locator("#passage")).to_be_visible()


def test_a_file_can_be_tried_and_others_are_refused(page, tmp_path):
    page.click("#batch-tab-button")
    page.click("#try")
    expect(page.locator("#status")).to_contain_text("JSONL: 5 mentions, 5 linked")
    page.get_by_role("button", name="Clear").click()
    (tmp_path / "program.exe").write_bytes(b"MZ")
    page.set_input_files("#file input[type=file]", tmp_path / "program.exe")
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("Only .txt, .pubtator, .jsonl, .csv, .tsv allowed")
    # It goes by itself too, after 10 s.
    page.get_by_test_id("toast-close").evaluate_all("buttons => buttons.forEach((button) => button.click())")
    expect(toast).to_have_count(0)


def test_an_error_is_said_and_shows_nothing_of_the_server(page):
    for text, message in (
        ("nothing marked", "No mention"),
        ("", "no text"),
        ("a [b", "no partner"),
        ("[ ]", "blanks"),
    ):
        link(page, text)
        expect(page.get_by_role("alert")).to_contain_text(message)
        assert not re.search(r"Traceback|\.py|/work|/home|/tmp", page.locator("body").inner_text())
    link(page, "[copper]")
    expect(headline(page)).to_contain_text("copper")


def test_any_text_comes_back_as_text(page):
    hostile = (
        "<img src=x onerror=window.hacked=1> <script>window.hacked=1</script> ${window.hacked=1} {{x}} **b** \u202e😀"
    )
    link(page, f"{hostile} [<img src=x onerror=window.hacked=1>]")
    expect(page.locator("#answered")).to_contain_text("${window.hacked=1} {{x}} **b**")
    expect(headline(page)).to_contain_text("<img src=x onerror=window.hacked=1>")
    page.click("#why-tab-button")
    expect(page.locator("svg.tree")).to_contain_text("<img src=x")
    page.click("#compare-tab-button")
    expect(page.locator("#compared .side")).to_have_count(2)
    page.click("#link-tab-button")
    open_accordion(page, "restrict")
    page.fill("#allowed textarea", f"X:1\n{hostile}")
    page.click("#link")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    page.fill("#allowed textarea", "X:1")
    page.click("#link")
    expect(headline(page)).to_contain_text("<img src=x onerror=alert(1)>")
    open_accordion(page, "flag")
    page.click("#right input")
    expect(page.get_by_role("option", name="<img src=x onerror=alert(1)>")).to_be_visible()
    page.keyboard.press("Escape")
    page.click("#examples button >> nth=2")
    expect(page.locator("#answered")).to_contain_text("<img src=x onerror=window.hacked=1> copper")
    expect(page.locator("#examples")).to_contain_text(HOSTILE)
    assert page.evaluate("window.hacked") is None


def test_a_hundred_thousand_characters_and_a_thousand_mentions_are_cut_with_a_notice(page):
    link(page, "[copper] " * 1000 + "x" * 91_000)
    expect(page.get_by_role("status").first).to_contain_text(
        "The text has 100,000 characters; the first 20,000 were used."
    )
    expect(page.get_by_role("status").first).to_contain_text("1,000 mentions are marked; the first 100 were linked.")
    expect(page.locator("#answered .mention")).to_have_count(100)


def test_a_wrong_link_becomes_a_training_mention(page, tmp_path):
    page.click("[data-mention='1']")
    expect(headline(page)).to_contain_text("delirium")
    open_accordion(page, "flag")
    page.click("#record")
    expect(page.get_by_role("alert")).to_contain_text("Choose the right concept first")
    page.fill("#right input", "D003693")
    page.keyboard.press("Enter")
    page.click("#record")
    expect(page.locator("#flagged")).to_contain_text("1 record so far")
    with page.expect_download() as downloading:
        page.click("#download")
    path = tmp_path / "corrections.jsonl"
    downloading.value.save_as(path)
    (record,) = read_corpus(path)[0]["train"].to_list()
    assert (record["mention"], record["concept_ids"]) == ("delirium", [["D003693"]])
    made = tmp_path / "made"
    recipe = [sys.executable, str(ROOT / "recipes" / "prepare.py"), "--corpus", str(path), "--output_dir", str(made)]
    done = subprocess.run(recipe, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["splits"] == {"train": 1}


def test_no_page_asked_elsewhere_or_wrote_an_error(seen):
    assert seen == {"elsewhere": [], "errors": []}
