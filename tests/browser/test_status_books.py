"""/status says who and why: refusals, sessions, the history by mouse and keyboard; and it is accessible."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.browser.axe import needs_axe, violations
from tests.browser.conftest import Server
from tests.browser.talks import STORY, Talk

pytestmark = [pytest.mark.browser, pytest.mark.model]


def ask(server: Server, session: str = "", text: str = "hello", **fields: Any) -> int:
    """The HTTP status of a request, of which nothing else matters."""
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields})
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body.encode())
    request.add_header("Content-Type", "application/json")
    if session:
        request.add_header("X-Session-Id", session)
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_refusal_is_counted_and_listed_with_what_was_wrong(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    before = scripted.status()["totals"]["refused"]
    assert ask(scripted, n=99) == 400
    line = page.locator("#refused-line")
    expect(line).to_have_text(re.compile(rf"^refused {before + 1} · last: 400 'n', (just now|\d+ s ago)$"))
    line.focus()
    page.keyboard.press("Enter")
    first = page.locator("#refused-rows tr").first
    expect(first).to_contain_text("invalid_request")
    expect(first).to_contain_text("POST /v1/chat/completions")
    expect(first).to_contain_text("127.0.0.1")


def column(page: Page, title: str) -> str:
    """Selects the cells of the history below this title."""
    titles = [text.strip() for text in page.locator("#history-head th").all_text_contents()]
    return f"td:nth-child({titles.index(title) + 1})"


def test_the_history_is_filtered_by_session_and_a_row_opens_by_keyboard(page: Page, scripted: Server) -> None:
    for session in ("talk-a", "talk-b", "talk-a"):
        assert ask(scripted, session) == 200
    page.goto(f"{scripted.url}/status")
    page.fill("#history-filter", "talk-a")
    rows = page.locator("#history tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#history-count")).to_have_text(re.compile(r"^2 of \d+$"))
    expect(rows.first).to_contain_text("talk-a")
    expect(rows.first.locator(column(page, "Status"))).to_have_text("200")
    second = rows.nth(1).locator("button")
    second.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_contain_text(second.inner_text())
    expect(page.locator("#detail-line")).to_contain_text("session talk-a")
    expect(page.locator("#follow")).to_have_text("Pinned: follow the newest")
    page.locator("#follow").click()
    expect(page.locator("#follow")).to_have_text("Following the newest")
    page.fill("#history-filter", "talk-c")
    expect(rows).to_have_count(0)


def test_the_history_is_sorted_by_what_is_slow(page: Page, scripted: Server) -> None:
    for text in ("hello", "THINK", "hello"):
        assert ask(scripted, "sorted", text, max_tokens=60) == 200
    page.goto(f"{scripted.url}/status")
    page.fill("#history-filter", "sorted")
    expect(page.locator("#history tr")).to_have_count(3)
    out = page.locator(f"#history tr {column(page, 'Out')}")
    head = page.get_by_role("button", name="Out", exact=True)
    head.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#history-head th[aria-sort=descending]")).to_have_text("Out")
    falling = [int(text) for text in out.all_inner_texts()]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > falling[-1]
    page.keyboard.press("Enter")
    expect(page.locator("#history-head th[aria-sort=ascending]")).to_have_text("Out")
    assert [int(text) for text in out.all_inner_texts()] == falling[::-1]


def test_a_full_queue_is_red_and_sixteen_slots_with_a_queue_fit_a_laptop(
    page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flags = ("--slots", "16", "--queue-requests", "14", "--ctx", "512")
    server = Server(tmp_path_factory.mktemp("full") / "log", *flags)
    server.start()
    try:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"{server.url}/status")
        talks = [Talk(server, STORY, 400) for _ in range(30)]
        server.wait(lambda status: len(status["queue"]) == 14)
        waiting = page.locator("#headline div").nth(1)
        expect(waiting).to_have_attribute("data-full", "true")
        expect(waiting).to_contain_text("14 / 14")
        expect(page.locator("#queue .place")).to_have_count(14)
        bottom = page.evaluate("document.querySelector('#queue').getBoundingClientRect().bottom")
        assert bottom <= 900
        assert page.evaluate("document.documentElement.scrollWidth") == 1440
    finally:
        server.stop()
    for talk in talks:
        talk.join(10)


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing_on_a_busy_page(page: Page, server: Server, width: int, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{server.url}/status")
    assert ask(server, n=99) == 400
    ask(server, "talk-a")
    talks = [Talk(server, STORY, 600) for _ in range(6)]
    server.wait(lambda status: status["queue"] and status["server"]["phase"] == "decode")
    expect(page.locator("#queue .place").first).to_be_visible()
    for summary in page.locator("summary:visible").all():
        summary.click()
    problems = violations(page)
    for request in reversed(server.status()["requests"]):  # first those that wait, or they would begin
        page.evaluate("id => fetch(`/v1/requests/${id}`, {method: 'DELETE'})", request["id"])
    for talk in talks:
        talk.join(10)
    server.wait(lambda status: not status["requests"])
    assert problems == []
