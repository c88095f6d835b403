"""/status shows nothing that is not so: when the server is gone, is silent or was stopped, and who waits."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Server
from tests.browser.talks import STORY, Talk, lane, wait_for_text

pytestmark = [pytest.mark.browser, pytest.mark.model]

LONG = STORY + " Take your time."


@pytest.fixture
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to be killed."""
    server = Server(tmp_path_factory.mktemp("mortal") / "log", "--slots", "2", "--drain-s", "0.2")
    server.start()
    yield server
    server.stop()


@contextmanager
def stuck_client(server: Server, prompt: str) -> Iterator[None]:
    """A client that asks for a stream and never reads of it."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(head.encode() + body)
        yield


def test_a_killed_server_freezes_the_page_which_says_since_when(page: Page, mortal: Server) -> None:
    page.goto(f"{mortal.url}/status")
    talk = Talk(mortal, LONG, 2000)
    wait_for_text(mortal, talk, 8)
    expect(page.locator(".lane[data-state=decode]")).to_have_count(1)
    expect(page.locator("#stop")).to_be_visible()
    mortal.signal(signal.SIGKILL)
    expect(page.locator("#connection")).to_have_text("reconnecting")
    expect(page.locator("#alarm")).to_have_text(
        re.compile(r"^No connection since \d\d:\d\d:\d\d\. What is shown is from then\. Trying again\.$")
    )
    assert page.title() == "● corral: no connection"
    expect(page.locator("#main")).to_have_attribute("data-lost", "true")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#phase")).to_have_text("not known")
    told = page.locator("#lanes").inner_text(), page.locator("#totals").inner_text()
    page.wait_for_timeout(1200)  # the page draws twice in it
    assert (page.locator("#lanes").inner_text(), page.locator("#totals").inner_text()) == told
    talk.join(10)
    mortal.stop()
    mortal.start()
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#alarm")).to_be_hidden()
    expect(page).to_have_title("corral status")
    expect(page.locator(".lane[data-state=free]")).to_have_count(2)
    expect(page.locator("#history tr")).to_have_count(0)


def test_a_server_that_falls_silent_is_lost_though_its_connection_stands(page: Page, mortal: Server) -> None:
    page.clock.install()
    page.goto(f"{mortal.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    mortal.signal(signal.SIGSTOP)
    try:
        page.clock.run_for(14_000)
        expect(page.locator("#alarm")).to_contain_text("No connection since")
    finally:
        mortal.signal(signal.SIGCONT)
    page.clock.run_for(3000)
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#alarm")).to_be_hidden()


def test_a_server_that_was_stopped_is_said_to_be(page: Page, mortal: Server) -> None:
    page.goto(f"{mortal.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    talk = Talk(mortal, LONG, 2000)
    wait_for_text(mortal, talk, 8)
    mortal.signal(signal.SIGTERM)
    mortal.wait_stopped()
    expect(page.locator("#alarm")).to_have_text(re.compile(r"^The server was stopped at \d\d:\d\d:\d\d\."))
    expect(page.locator("#connection")).to_have_text("stopped")
    expect(page.locator("#phase")).to_have_text("stopped")
    assert page.title() == "● corral: stopped"
    talk.join(10)


def test_who_waits_sees_place_and_estimate(page: Page, mortal: Server) -> None:
    page.goto(f"{mortal.url}/status")
    talks = [Talk(mortal, LONG, 2000) for _ in range(3)]
    mortal.wait(lambda status: status["queue"])
    row = page.locator("#queue .place")
    expect(row).to_contain_text("slot in about")
    expect(row.locator(".place-number")).to_have_text("1")
    expect(page.locator("#headline")).to_contain_text("waiting1 / 64")
    mortal.stop()
    for talk in talks:
        talk.join(10)


def test_an_estimate_counts_down_between_what_the_server_says(page: Page, scripted: Server) -> None:
    page.clock.install()
    page.goto(f"{scripted.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate(
        """async () => {
            const [{ waitText }, clock] = await Promise.all(
                ["queue", "clock"].map((name) => import(`/static/status/${name}.js`)));
            const at = clock.now();
            window.said = () => waitText(40, at);
        }"""
    )
    assert page.evaluate("said()") == "slot in about 40 s"
    page.clock.run_for(10_000)
    assert page.evaluate("said()") == "slot in about 30 s"


def test_who_waits_is_told_that_nobody_can_say_how_long_where_answers_have_no_limit(
    page: Page, mortal: Server
) -> None:
    page.goto(f"{mortal.url}/status")
    talks = [Talk(mortal, LONG, None) for _ in range(3)]
    mortal.wait(lambda status: status["queue"])
    expect(page.locator("#queue .place")).to_contain_text("no estimate yet")
    mortal.stop()
    for talk in talks:
        talk.join(10)


def test_a_client_that_does_not_read_is_seen_in_its_lane(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    with stuck_client(scripted, "LONG"):
        unread = page.locator(".lane .unread:visible")
        expect(unread).to_have_count(1)
        expect(unread).to_have_text(re.compile(r"^client not reading \d"))
        expect(
            page.get_by_role("button", name=re.compile(r"^Slot \d \w+ \w+ client not reading"))
        ).to_have_count(1)
        # Anything else takes seconds for a line of a megabyte.
        expect(page.locator("#outputs pre")).to_have_css("unicode-bidi", "isolate")
    expect(unread).to_have_count(0)


def test_totals_speed_and_uptime_go_on_while_an_answer_is_made(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    before = server.status()["totals"]["completion_tokens"]
    talk = Talk(server, LONG, 300)
    server.wait(lambda status: status["totals"]["completion_tokens"] >= before + 20)
    assert server.status()["totals"]["requests"] is not None
    expect(page.locator(f"{lane(talk)} .lane-speed")).to_contain_text("tok/s")
    out = page.locator("#headline div").nth(2).locator("dd").first
    expect(out).not_to_have_text("0.0")
    talk.join()
    expect(out).to_have_text("0.0")
    up = page.locator("#totals dd").first
    seen = up.inner_text()
    expect(up).not_to_have_text(seen)


def test_a_page_that_is_loaded_again_shows_the_same(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/status")
    Talk(server, STORY, 20).join()
    expect(page.locator("#chart-load")).to_have_attribute("data-points", re.compile(r"[1-9]"))
    expect(page.locator("#phase")).to_have_text("idle")
    rows = page.locator("#history tr").count()
    facts = page.locator("#history").inner_text()
    page.reload()
    expect(page.locator("#history tr")).to_have_count(rows)
    assert page.locator("#history").inner_text() == facts
    expect(page.locator("#chart-load")).to_have_attribute("data-points", re.compile(r"[1-9]"))
    expect(page.locator("#chart-load-now")).to_contain_text("busy slots")
