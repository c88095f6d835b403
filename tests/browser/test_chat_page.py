"""The chat page in a real browser: what a newcomer sees first."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect
from tests.browser.axe import needs_axe, violations
from tests.browser.conftest import Server
from tests.browser.scripted_server import THOUGHT
from tests.browser.talks import STORY, Talk

pytestmark = [pytest.mark.browser, pytest.mark.model]


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.locator("#send")).to_have_text("Send", timeout=60_000)


def test_a_conversation_streams_and_remembers(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    expect(page.locator("#model")).to_have_text("SmolLM2-135M-Instruct")
    ask(page, "Say hello in one short sentence.")
    expect(page.locator("#send")).to_have_text("Stop")
    answer = page.locator(".assistant .text").first
    expect(answer).not_to_be_empty()
    seen = answer.inner_text()
    answered(page)
    assert len(answer.inner_text()) >= len(seen)
    expect(page.locator(".meter").first).to_have_text(
        re.compile(r"^\d+ tokens? · .*first after .* · prompt \d+")
    )
    ask(page, "And again.")
    server.wait(lambda status: status["requests"] or len(status["recent"]) > 1)
    shown = server.status()
    requests = [*shown["recent"], *shown["requests"]]
    [latest] = [each for each in requests if each["messages"][-1]["content"] == "And again."]
    assert [message["role"] for message in latest["messages"]][-3:] == ["user", "assistant", "user"]
    answered(page)


def test_stop_cancels_by_closing(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    ask(page, "Write a very long story.")
    expect(page.locator(".assistant .text")).not_to_be_empty()
    page.locator("#send").click()
    expect(page.locator(".meter")).to_contain_text("stopped")
    answered(page)
    status = server.wait(lambda status: status["server"]["phase"] == "idle" and status, within_s=3)
    assert status["history"][-1]["outcome"] == "disconnected"


def test_markdown_is_rendered_and_nothing_in_it_runs(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    title = page.title()
    ask(page, "MARKDOWN")
    answered(page)
    answer = page.locator(".assistant .text")
    assert answer.locator("h1").inner_text() == "A title"
    assert answer.locator("strong").inner_text() == "bold"
    assert answer.locator("li").all_inner_texts() == ["☑ done", "☐ to do"]
    assert r"\(x^2\)" in answer.inner_text()
    assert answer.locator("pre code").inner_text().strip() == "a < b"
    assert answer.locator("img, script, [onclick]").count() == 0
    assert "<img src=x onerror=" in answer.inner_text(), "it is shown as what it is"
    assert "javascript:" not in answer.evaluate("node => node.innerHTML")
    assert page.title() == title


def test_a_message_that_does_not_arrive_stays_and_is_sent_again(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "hello")
    expect(page.locator("#error")).to_have_text("The server cannot be reached.")
    answered(page)
    expect(page.locator(".turn.user .text")).to_have_text("hello")
    expect(page.locator(".turn.assistant")).to_have_count(0)
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".turn.assistant .text")).to_have_text("yes")
    expect(page.locator("#error")).to_be_hidden()


def test_a_stream_that_ends_before_its_end_is_said_to_have_broken_off(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    half = 'data: {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": "Half an"}}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=half),
    )
    ask(page, "hello")
    expect(page.locator("#error")).to_contain_text("The answer broke off")
    expect(page.locator(".assistant .text")).to_have_text("Half an")
    expect(page.locator(".meter")).to_contain_text("broke off")
    page.unroute("**/v1/chat/completions")
    page.locator("#ways").get_by_role("button", name="Try again").click()
    expect(page.locator(".assistant .text")).to_have_text("yes")


def test_a_server_that_dies_in_an_answer_leaves_what_it_said_and_is_asked_again(
    page: Page, tmp_path: Path
) -> None:
    server = Server(tmp_path / "log", program="scripted_server.py")
    server.start()
    try:
        page.goto(f"{server.url}/")
        ask(page, "THINK")
        expect(page.locator(".reasoning")).to_have_attribute("open", "")
        server.stop()
        expect(page.locator("#error")).to_contain_text("The answer broke off")
        expect(page.locator(".meter")).to_contain_text("broke off")
        page.locator("#ways").get_by_role("button", name="Try again").click()
        expect(page.locator("#error")).to_have_text("The server cannot be reached.")
        server.start()
        page.get_by_role("button", name="Send again").click()
        expect(page.locator(".assistant .text")).to_have_text("It is 42.")
    finally:
        server.stop()


def test_a_reload_in_the_middle_keeps_what_was_said_so_far(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    ask(page, "Write a very long story.")
    expect(page.locator(".assistant .text")).not_to_be_empty()
    page.reload()
    expect(page.locator(".assistant .text")).not_to_be_empty()
    expect(page.locator(".meter")).to_have_text("cut off by a reload")
    answered(page)


def test_a_full_queue_is_asked_again_when_it_said(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    body = json.dumps({"error": {"message": "The queue is full.", "code": "queue_full"}})
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "2"}, body=body),
        times=1,
    )
    ask(page, "hello")
    expect(page.locator("#error")).to_contain_text("The queue is full. Trying again in")
    expect(page.locator("#send")).to_have_text("Stop")
    expect(page.locator(".assistant .text")).to_have_text("yes")
    expect(page.locator("#error")).to_be_hidden()


def test_a_conversation_survives_a_reload_and_goes_on(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "THINK")
    answered(page)
    meter = page.locator(".meter").text_content()
    page.reload()
    expect(page.locator(".turn.user .text")).to_have_text("THINK")
    expect(page.locator(".assistant .text")).to_have_text("It is 42.")
    expect(page.locator(".meter")).to_have_text(meter or "")
    expect(page.locator(".reasoning")).not_to_have_attribute("open", "")
    expect(page.locator("#context-text")).to_contain_text("context ")
    ask(page, "and now")
    expect(page.locator(".assistant .text").last).to_have_text("yes")
    [latest] = [each for each in scripted.status()["recent"] if each["messages"][-1]["content"] == "and now"]
    assert [message["role"] for message in latest["messages"]] == ["user", "assistant", "user"]


def test_a_message_is_edited_and_what_came_after_it_goes(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    for text in ("first", "second"):
        ask(page, text)
        answered(page)
        expect(page.locator(".assistant .text").last).to_have_text("yes")
    page.locator(".turn.user").first.get_by_role("button", name="Edit").click()
    expect(page.locator("#prompt")).to_have_value("first")
    expect(page.locator("#editing")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#editing")).to_be_hidden()
    expect(page.locator(".turn")).to_have_count(4)
    page.keyboard.press("ArrowUp")
    expect(page.locator("#prompt")).to_have_value("second")
    ask(page, "MARKDOWN")
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator(".assistant h1")).to_have_text("A title")


def test_an_answer_is_tried_again_and_nothing_else_changes(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "once more")
    expect(page.locator(".assistant .text")).to_have_text("yes")
    answered(page)
    first = page.get_by_role("link", name="On /status").get_attribute("href")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("link", name="On /status")).not_to_have_attribute("href", first or "")
    expect(page.locator(".assistant .text")).to_have_text("yes")
    expect(page.locator(".turn")).to_have_count(2)
    asked = [
        each["messages"]
        for each in scripted.status()["recent"]
        if each["messages"][-1]["content"] == "once more"
    ]
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_the_link_of_an_answer_leads_to_its_request_on_status(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "hello")
    answered(page)
    href = page.get_by_role("link", name="On /status").get_attribute("href") or ""
    latest = scripted.status()["recent"][-1]["id"]
    assert href == f"status#{latest}"
    ask(page, "MARKDOWN")
    answered(page)
    page.get_by_role("link", name="On /status").first.click()
    expect(page.locator("#detail")).to_contain_text(latest)


def test_options_go_with_the_request_and_are_kept(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".options summary").click()
    page.fill("#system", "You are a llama.")
    page.fill("#temperature", "0.3")
    page.fill("#max_tokens", "9")
    page.fill("#seed", "5")
    with page.expect_request("**/v1/chat/completions") as asked:
        ask(page, "hello")
    sent: Any = asked.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "You are a llama."}
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0.3, 9, 5)
    assert "top_p" not in sent
    answered(page)
    page.reload()
    expect(page.locator("#options-set")).to_have_text(" (4 set)")
    expect(page.locator("#system")).to_have_value("You are a llama.")


def test_an_option_of_no_use_is_said_to_be_and_the_message_stays(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".options summary").click()
    page.fill("#temperature", "7")
    ask(page, "hello")
    expect(page.locator("#error")).to_contain_text("Temperature")
    expect(page.locator("#prompt")).to_have_value("hello")
    expect(page.locator(".turn")).to_have_count(0)


DROP = """([name, type, content]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(content)], name, { type }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_a_text_file_that_is_dropped_is_part_of_the_message(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.fill("#prompt", "Read this.")
    page.evaluate(DROP, ["notes.md", "text/markdown", list("``` is a fence: ä\n".encode())])
    expect(page.locator("#prompt")).to_have_value("Read this.\n\nnotes.md:\n````\n``` is a fence: ä\n````\n")


def test_a_file_that_is_no_text_is_refused_and_the_message_stays(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.fill("#prompt", "Look at this.")
    page.evaluate(DROP, ["cat.png", "image/png", [0x89, 0x50, 0, 1]])
    expect(page.locator("#error")).to_have_text("cat.png is no text, and this model reads nothing else.")
    expect(page.locator("#prompt")).to_have_value("Look at this.")


def test_at_the_end_of_the_context_there_is_a_way_on(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    for text in ("one", "two", "three"):
        ask(page, text)
        answered(page)
        expect(page.locator(".assistant .text").last).to_have_text("yes")
    said = {"error": {"message": "The context is 512 tokens.", "code": "context_length_exceeded"}}
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=400, body=json.dumps(said)), times=1
    )
    ask(page, "four")
    expect(page.locator("#error")).to_have_text("The context is 512 tokens.")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Drop the oldest turns").click()
    sent: Any = asked.value.post_data_json
    assert [message["content"] for message in sent["messages"]] == ["three", "yes", "four"]
    expect(page.locator(".turn")).to_have_count(4)


def test_a_new_chat_can_be_taken_back(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "hello")
    answered(page)
    page.locator("#new").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Bring it back").click()
    expect(page.locator(".turn.user .text")).to_have_text("hello")
    expect(page.locator(".assistant .text")).to_have_text("yes")


def test_a_key_is_asked_for_and_the_message_waits_for_it(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    said = {"error": {"message": "this server needs an API key", "code": "invalid_api_key"}}
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=401, body=json.dumps(said)), times=1
    )
    ask(page, "hello")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("sesame")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.keyboard.press("Enter")
    assert asked.value.headers["authorization"] == "Bearer sesame"
    expect(page.locator(".assistant .text")).to_have_text("yes")


def test_what_is_said_is_told_once_to_those_who_hear_the_page(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    ask(page, "MARKDOWN")
    expect(page.get_by_role("status")).to_contain_text("A title")


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(
    page: Page, scripted: Server, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{scripted.url}/")
    assert violations(page) == []
    page.locator(".options summary").click()
    page.fill("#tools", WEATHER)
    for text in ("THINK", "MARKDOWN", "CALL"):
        ask(page, text)
        answered(page)
    page.locator(".reasoning summary").first.click()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "sunny")
    expect(page.get_by_role("button", name="Send again")).to_be_visible()
    assert violations(page) == []


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


def test_a_long_prompt_shows_how_far_it_is_read(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/")
    ask(page, " ".join(str(number) for number in range(1200)))
    expect(page.locator(".meter")).to_have_text(re.compile(r"^reading, \d+ %$"))
    page.locator("#send").click()
    expect(page.locator("#error")).to_have_text("Stopped: the message has no answer.")


WEATHER = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'


def test_a_thought_is_open_while_it_lasts_and_folded_after(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    ask(page, "THINK")
    thought = page.locator(".reasoning")
    expect(thought.locator("summary")).to_contain_text("Thinking,")
    expect(thought).to_have_attribute("open", "")
    answered(page)
    expect(thought).not_to_have_attribute("open", "")
    expect(thought.locator("summary")).to_have_text(re.compile(r"^Thought for \d+(\.\d)? s · [\d,]+ tokens$"))
    expect(page.locator(".assistant .text")).to_have_text("It is 42.")
    thought.locator("summary").click()
    expect(thought.locator("div")).to_have_text(THOUGHT.strip())


def test_a_call_is_shown_and_what_it_returned_is_asked_for(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".options summary").click()
    page.fill("#tools", WEATHER)
    ask(page, "CALL")
    call = page.locator(".call")
    answered(page)
    expect(call.locator(".call-name")).to_have_text("Calls weather")
    arguments = call.locator("pre").text_content()
    assert json.loads(arguments or "") == {"city": "Oslo", "days": [1, 2], "note": "<b>x</b>"}
    expect(page.locator("#prompt")).to_have_attribute("placeholder", "What weather returned")
    ask(page, "sunny")
    expect(page.locator(".label")).to_have_text("weather returned")
    expect(call).not_to_have_attribute("open", "")
    expect(page.locator(".assistant .text").last).to_have_text("It is sunny in Oslo.")
    [latest] = [each for each in scripted.status()["recent"] if each["messages"][-1]["content"] == "sunny"]
    assert [message["role"] for message in latest["messages"]] == ["user", "assistant", "tool"]


def test_a_call_of_a_custom_tool_is_shown_as_its_text_and_goes_back_as_one(
    page: Page, scripted: Server
) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".options summary").click()
    page.fill("#tools", json.dumps({"type": "custom", "custom": {"name": "sql"}}))
    ask(page, "CUSTOM")
    expect(page.locator(".call .call-name")).to_have_text("Calls sql")
    answered(page)
    assert page.locator(".call pre").text_content() == 'SELECT "a"\nFROM <b>'
    ask(page, "1 row")
    expect(page.locator(".assistant .text").last).to_contain_text("It is sunny in Oslo.")


def test_tools_that_are_no_json_are_said_to_be_and_the_message_stays(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/")
    page.locator(".options summary").click()
    page.fill("#tools", "[{")
    ask(page, "hello")
    expect(page.locator("#error")).to_contain_text("The tools are no JSON")
    expect(page.locator("#prompt")).to_have_value("hello")
    expect(page.locator(".turn")).to_have_count(0)
