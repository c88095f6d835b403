"""The chat page in a real browser: what a newcomer sees first."""

import json
import re
import urllib.request

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Server
from tests.browser.scripted_server import THOUGHT
from tests.browser.talks import STORY, Talk

pytestmark = [pytest.mark.browser, pytest.mark.model]


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def test_a_conversation_streams_and_remembers(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    expect(page.locator("#model")).to_have_text("SmolLM2-135M-Instruct")
    ask(page, "Say hello in one short sentence.")
    expect(page.locator("#send")).to_have_text("Stop")
    answer = page.locator(".assistant .text").first
    expect(answer).not_to_be_empty()
    seen = answer.inner_text()
    expect(page.locator("#send")).to_have_text("Send", timeout=60_000)
    assert len(answer.inner_text()) >= len(seen)
    expect(page.locator(".meter").first).to_contain_text("tokens/s")
    ask(page, "And again.")
    server.wait(lambda status: status["requests"] or len(status["recent"]) > 1)
    shown = server.status()
    requests = [*shown["recent"], *shown["requests"]]
    [latest] = [each for each in requests if each["messages"][-1]["content"] == "And again."]
    assert [message["role"] for message in latest["messages"]][-3:] == ["user", "assistant", "user"]
    expect(page.locator("#send")).to_have_text("Send", timeout=60_000)


def test_stop_cancels_by_closing(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    ask(page, "Write a very long story.")
    expect(page.locator(".assistant .text")).not_to_be_empty()
    page.locator("#send").click()
    expect(page.locator(".meter")).to_contain_text("stopped")
    expect(page.locator("#send")).to_have_text("Send")
    status = server.wait(lambda status: status["server"]["phase"] == "idle" and status, within_s=3)
    assert status["history"][-1]["outcome"] == "disconnected"


def test_markdown_is_rendered_and_nothing_in_it_runs(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    title = page.title()
    ask(page, "MARKDOWN")
    expect(page.locator("#send")).to_have_text("Send")
    answer = page.locator(".assistant .text")
    assert answer.locator("h1").inner_text() == "A title"
    assert answer.locator("strong").inner_text() == "bold"
    assert answer.locator("li").count() == 2
    assert answer.locator("pre code").inner_text().strip() == "a < b"
    assert answer.locator("img, script, [onclick]").count() == 0
    assert "<img src=x onerror=" in answer.inner_text(), "it is shown as what it is"
    assert "javascript:" not in answer.evaluate("node => node.innerHTML")
    assert page.title() == title


def test_an_error_is_said(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "hello")
    expect(page.locator("#error")).to_be_visible()
    expect(page.locator("#send")).to_have_text("Send")


def test_who_waits_is_told_for_what(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    talks = [Talk(server, STORY, 400) for _ in range(3)]
    server.wait(lambda status: len([r for r in status["requests"] if r["state"] != "queued"]) == 3)
    ask(page, "Say hello in one short sentence.")
    expect(page.locator(".meter")).to_contain_text("next in line, about")
    for request in server.status()["requests"]:
        if request["state"] != "queued":
            stop = urllib.request.Request(f"{server.url}/v1/requests/{request['id']}", method="DELETE")
            urllib.request.urlopen(stop).close()
    for talk in talks:
        talk.join(10)
    expect(page.locator(".meter")).to_contain_text("tokens")
    expect(page.locator(".meter")).not_to_contain_text("in line")
    page.locator("#send").click()


WEATHER = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'


def test_a_thought_is_open_while_it_lasts_and_folded_after(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "THINK")
    thought = page.locator(".reasoning")
    expect(thought.locator("summary")).to_contain_text("Thinking,")
    expect(thought).to_have_attribute("open", "")
    expect(page.locator("#send")).to_have_text("Send")
    expect(thought).not_to_have_attribute("open", "")
    expect(thought.locator("summary")).to_have_text(re.compile(r"^Thought for \d+(\.\d)? s · \d+ tokens$"))
    expect(page.locator(".assistant .text")).to_have_text("It is 42.")
    thought.locator("summary").click()
    expect(thought.locator("div")).to_have_text(THOUGHT.strip())


def test_a_call_is_shown_and_what_it_returned_is_asked_for(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".tools summary").click()
    page.fill("#tools", WEATHER)
    ask(page, "CALL")
    call = page.locator(".call")
    expect(page.locator("#send")).to_have_text("Send")
    expect(call.locator(".call-name")).to_have_text("Calls weather")
    arguments = call.locator("pre").text_content()
    assert json.loads(arguments or "") == {"city": "Oslo", "days": [1, 2], "note": "<b>x</b>"}
    expect(page.locator("#prompt")).to_have_attribute("placeholder", "What weather returned")
    ask(page, "sunny")
    expect(page.locator(".label")).to_have_text("weather returned")
    expect(page.locator(".assistant .text").last).to_have_text("It is sunny in Oslo.")
    [latest] = [each for each in scripted.status()["recent"] if each["messages"][-1]["content"] == "sunny"]
    assert [message["role"] for message in latest["messages"]] == ["user", "assistant", "tool"]


def test_a_call_of_a_custom_tool_is_shown_as_its_text_and_goes_back_as_one(
    page: Page, scripted: Server
) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".tools summary").click()
    page.fill("#tools", json.dumps({"type": "custom", "custom": {"name": "sql"}}))
    ask(page, "CUSTOM")
    expect(page.locator(".call .call-name")).to_have_text("Calls sql")
    expect(page.locator("#send")).to_have_text("Send")
    assert page.locator(".call pre").text_content() == 'SELECT "a"\nFROM <b>'
    ask(page, "1 row")
    expect(page.locator(".assistant .text").last).to_contain_text("It is sunny in Oslo.")


def test_tools_that_are_no_json_are_said_to_be_and_the_message_stays(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".tools summary").click()
    page.fill("#tools", "[{")
    ask(page, "hello")
    expect(page.locator("#error")).to_contain_text("The tools are no JSON")
    expect(page.locator("#prompt")).to_have_value("hello")
    expect(page.locator(".turn")).to_have_count(0)
