"""/status in a real browser, on the real server: what an operator sees."""

import json
import re
import urllib.request
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.browser.axe import needs_axe, violations
from tests.browser.conftest import Server
from tests.browser.scripted_server import HOSTILE
from tests.browser.talks import STORY, Talk, lane, tab, wait_for_text

pytestmark = [pytest.mark.browser, pytest.mark.model]


def test_two_requests_grow_in_their_own_lanes_and_their_output_stays(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    talks = [Talk(server, STORY + " " * number, 80) for number in range(2)]
    for talk in talks:
        wait_for_text(server, talk, 8)
    expect(page.locator("#phase")).to_have_text("decode")
    tails = [page.locator(f"{lane(talk)} .lane-tail") for talk in talks]
    assert page.locator(".lane[data-state=decode]").count() == 2
    for tail in tails:
        expect(tail).not_to_be_empty()
        seen = tail.inner_text()
        expect(tail).not_to_have_text(seen)
    for talk in talks:
        talk.join()
    expect(page.locator("#phase")).to_have_text("idle")
    for talk, tail in zip(talks, tails, strict=True):
        assert talk.error is None
        assert tail.text_content() == re.sub(r"\s", " ", talk.text[-240:])
        page.locator(lane(talk)).click()
        expect(page.locator("#outputs pre")).to_have_text(talk.text, use_inner_text=False)
    expect(page.locator("#slots-used")).to_have_text("0 of 3 in use")
    assert page.locator("#history tr").count() >= 2


def test_a_page_opened_mid_run_shows_the_text_from_its_start(page: Page, server: Server) -> None:
    talk = Talk(server, STORY, 120)
    wait_for_text(server, talk, 100)
    page.goto(f"{server.url}/status")
    expect(page.locator("#detail-title")).to_contain_text("decode")
    page.locator(lane(talk)).click()
    shown = page.locator("#outputs pre").text_content()
    assert shown is not None
    assert shown[:50] == talk.text[:50]
    talk.join()
    expect(page.locator("#detail-title")).to_contain_text("length")
    assert page.locator("#outputs pre").text_content() == talk.text
    page.locator("#messages-block summary").click()
    expect(page.locator(".message pre").last).to_have_text(STORY)


def test_stop_stops_and_the_sdk_is_told(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/status")
    talk = Talk(server, STORY, 600)
    wait_for_text(server, talk, 8)
    page.locator(lane(talk)).click()
    page.locator("#stop").click()
    talk.join(10)
    assert not talk.is_alive()
    assert talk.error is not None
    assert talk.error.code == "stopped_by_operator"
    expect(page.locator("#detail-title")).to_contain_text("stopped here")
    expect(page.locator("#phase")).to_have_text("idle")
    expect(page.locator("#stop")).to_be_hidden()


def test_a_queued_request_shows_its_place(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/status")
    talks = [Talk(server, STORY, 400) for _ in range(4)]
    server.wait(lambda status: status["queue"])
    expect(page.locator("#queue .place")).to_have_count(1)
    expect(page.locator("#queue .place")).to_contain_text("slot in about")
    for request in server.status()["requests"]:
        stop = urllib.request.Request(f"{server.url}/v1/requests/{request['id']}", method="DELETE")
        urllib.request.urlopen(stop).close()
    for talk in talks:
        talk.join(10)
        assert talk.error is not None
    expect(page.locator("#queue-block")).to_be_hidden()


def test_a_request_shows_that_it_is_prepared_and_can_be_stopped_then(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    talk = Talk(scripted, "PREPARE", 10)
    row = page.locator("#queue .place")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("preparing")
    expect(page.locator("#queue-count")).to_have_text("0 waiting · 1 preparing")
    row.click()
    expect(page.locator("#detail-title")).to_contain_text("preparing")
    expect(page.locator("#spent-key")).to_contain_text("preparing")
    page.locator("#stop").click()
    talk.join(10)
    assert talk.error is not None
    expect(page.locator("#queue-block")).to_be_hidden()
    expect(page.locator("#detail-title")).to_contain_text("stopped here")


def test_three_tabs_see_the_same(browser: Browser, server: Server) -> None:
    with tab(browser, server) as one, tab(browser, server) as two, tab(browser, server) as three:
        talk = Talk(server, STORY, 60)
        talk.join()
        for page in (one, two, three):
            page.wait_for_function(
                "text => document.querySelector('#outputs pre')?.textContent === text", arg=talk.text
            )


@pytest.mark.parametrize("width", [360, 900, 1600])
def test_the_page_fits_its_width(page: Page, server: Server, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{server.url}/status")
    expect(page.locator("#main")).to_be_visible()
    talk = Talk(server, STORY, 40)
    talk.join()
    expect(page.locator("#phase")).to_have_text("idle")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def seen(text: str) -> str:
    """As the page shows it: what turns text around, or is not to be seen, has a symbol."""
    return text.translate({0x202E: "↤", 0x202C: "↔", 0x1B: "␛", 0: "␀"})


def test_hostile_text_is_shown_as_text(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    title = page.title()
    talk = Talk(scripted, f"HOSTILE {HOSTILE}", 1000)
    talk.join()
    page.locator(lane(talk)).click()
    page.wait_for_function(
        "text => document.querySelector('#outputs pre').textContent === text", arg=seen(HOSTILE)
    )
    assert talk.text == HOSTILE
    page.locator("#messages-block summary").click()
    assert page.locator(".message pre").last.text_content() == f"HOSTILE {seen(HOSTILE)}"
    assert page.locator("main img, main script").count() == 0
    long = Talk(scripted, f"LONG {'y' * 100_000}", 10)
    long.join()
    assert len(long.text) == 1_000_000
    page.locator(lane(long)).click()
    page.wait_for_function("() => document.querySelector('#outputs pre')?.textContent.length === 1_000_000")
    expect(page.locator(".message-role").last).to_contain_text("the first 65.5k of 100k characters")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert page.title() == title


def test_a_thought_a_text_and_a_call_are_told_apart_and_counted(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "CALL"}], tools=[tool]
        )
    page.locator(lane(answer.id)).click()
    said = page.locator("#outputs .said")
    expect(said).to_have_count(3)
    assert said.locator(".said-kind").all_text_contents() == ["Thought", "Calls weather"]
    thought, text, call = said.locator("pre").all_text_contents()
    assert thought.strip() == "I have to look it up."
    assert text.strip() == "One moment."
    assert json.loads(call)["city"] == "Oslo"
    row = page.locator("#history tr").first.locator("td").all_text_contents()
    heads = page.locator("#history-head th").all_text_contents()
    shown = dict(zip(heads, row, strict=True))
    assert int(shown["Thought"]) > 10
    assert shown["Calls"] == "1"


def test_the_last_draft_is_shown_with_what_was_right_of_it(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    talk = Talk(scripted, "REPEAT", 1000)
    talk.join()
    page.locator(lane(talk)).click()
    draft = scripted.wait(
        lambda status: next((each.get("draft") for each in status["recent"] if each["id"] == talk.id), None)
    )
    tokens, accepted = draft["tokens"], draft["accepted"]
    expect(page.locator("#draft ins, #draft del")).to_have_count(len(tokens))
    assert page.locator("#draft ins").all_text_contents() == tokens[:accepted]
    assert page.locator("#draft del").all_text_contents() == tokens[accepted:]


def test_the_charts_draw_the_last_requests(page: Page, scripted: Server) -> None:
    for _ in range(20):
        Talk(scripted, "hello", 3).join()
    page.goto(f"{scripted.url}/status")
    for name in ("ttft", "prefill", "decode"):
        box = page.locator(f"#chart-{name}")
        expect(box).to_have_attribute("data-points", re.compile("[2-9][0-9]"))
        canvas = box.locator("canvas")
        assert canvas.evaluate(
            "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value > 0)"
        )
    expect(page.locator("#chart-ttft-now")).to_have_text(re.compile(r"^p50 \d+ ms · p95 \d+ ms$"))


@needs_axe
def test_axe_finds_nothing_where_the_key_is_asked_for_nor_on_a_page_that_has_lost_its_server(
    page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(tmp_path_factory.mktemp("locked") / "log", "--slots", "2", "--status-key", "sesame")
    server.start()
    try:
        page.goto(f"{server.url}/status")
        expect(page.locator("#connection")).to_have_text("key needed")
        assert violations(page) == []
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        Talk(server, STORY, 5).join()
    finally:
        server.stop()
    expect(page.locator("#alarm")).to_contain_text("No connection")
    assert violations(page) == []


def test_without_status_content_the_page_asks_for_the_key_and_shows_no_text(
    page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(tmp_path_factory.mktemp("quiet") / "log", "--slots", "2", "--status-key", "open sesame")
    server.start()
    try:
        page.goto(f"{server.url}/status")
        expect(page.locator("#connection")).to_have_text("key needed")
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        Talk(server, STORY, 5).join()
        expect(page.locator("#content-hidden")).to_be_visible()
        expect(page.locator("#outputs")).to_be_hidden()
        assert "llama that lives" not in page.content()
    finally:
        server.stop()
