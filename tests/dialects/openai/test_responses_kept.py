"""Responses that are found again: as they were told, by their own client only, page by page."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.dialects.answers import block, finished

from corral.dialects import Head
from corral.dialects.openai.responses import ResponsesDialect
from corral.dialects.openai.responses_kept import InputTokensDialect, KeptResponses
from corral.dialects.openai.responses_store import ResponsesStore
from corral.errors import CorralError, InvalidRequest, NotFound
from corral.events import collect

STORE_S = 60.0


def server() -> tuple[ResponsesDialect, KeptResponses]:
    store = ResponsesStore(2**20, STORE_S, now=lambda: 0.0)
    return ResponsesDialect(store, b"k"), KeptResponses(store)


def answered(dialect: ResponsesDialect, id: str, text: str, **fields: Any) -> dict[str, Any]:
    call = dialect.parse(json.dumps({"input": "hi", **fields}).encode(), {}, "me")
    told = call.complete(Head(id, 1, "smol", 9), [collect([*block(0, "text", text), finished()])])
    response: dict[str, Any] = json.loads(told)
    return response


def test_it_is_what_its_client_got_until_it_is_deleted() -> None:
    dialect, keeper = server()
    told = answered(dialect, "resp_1", "hello", metadata={"a": "b"})
    assert json.loads(keeper.kept("resp_1", "me", {}, lambda _: True)) == told
    assert json.loads(keeper.forgotten("resp_1", "me")) == {
        "id": "resp_1",
        "object": "response.deleted",
        "deleted": True,
    }
    attempts: list[Callable[[], bytes]] = [
        lambda: keeper.kept("resp_1", "me", {}, lambda _: True),
        lambda: keeper.forgotten("resp_1", "me"),
        lambda: keeper.inputs("resp_1", "me", {}),
        lambda: keeper.cancelled("resp_1", "me", lambda _: True),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            attempt()


def test_nobody_else_finds_ends_or_deletes_it() -> None:
    dialect, keeper = server()
    answered(dialect, "resp_1", "hello")
    running = dialect.parse(b'{"input":"hi","stream":true}', {}, "me").stream(Head("resp_2", 1, "smol", 9))

    def ended(id: str) -> bool:
        raise AssertionError(id)

    attempts: list[Callable[[str], bytes]] = [
        lambda id: keeper.kept(id, "you", {}, lambda _: True),
        lambda id: keeper.forgotten(id, "you"),
        lambda id: keeper.inputs(id, "you", {}),
        lambda id: keeper.cancelled(id, "you", ended),
    ]
    for attempt in attempts:
        for id in ("resp_1", "resp_2"):
            with pytest.raises(NotFound):
                attempt(id)
    assert running.may_be_kept


def test_while_it_runs_it_shows_what_was_said_and_then_it_is_gone_with_its_writer() -> None:
    dialect, keeper = server()
    stream = dialect.parse(b'{"input":"hi","stream":true}', {}, "me").stream(Head("resp_1", 1, "smol", 9))
    for event in block(0, "text", "well", " then")[:-1]:
        stream.encode(0, event)
    told = json.loads(keeper.kept("resp_1", "me", {}, lambda _: True))
    assert told["status"] == "in_progress"
    assert told["output"][0]["content"][0]["text"] == "well then"
    del stream  # its client has left
    with pytest.raises(NotFound):
        keeper.kept("resp_1", "me", {}, lambda _: True)


@pytest.mark.parametrize(("ends", "status"), [(True, "cancelled"), (False, "in_progress")])
def test_cancelling_says_what_it_did(ends: bool, status: str) -> None:
    dialect, keeper = server()
    stream = dialect.parse(b'{"input":"hi","stream":true,"store":false}', {}, "me").stream(
        Head("resp_1", 1, "smol", 9)
    )
    with pytest.raises(NotFound):
        keeper.kept("resp_1", "me", {}, lambda _: True)
    asked: list[str] = []

    def cancel(id: str) -> bool:
        asked.append(id)
        return ends

    assert json.loads(keeper.cancelled("resp_1", "me", cancel))["status"] == status
    assert asked == ["resp_1"]
    del stream


def test_what_is_over_is_told_as_it_ended() -> None:
    dialect, keeper = server()
    answered(dialect, "resp_1", "hello")
    assert json.loads(keeper.cancelled("resp_1", "me", lambda _: True))["status"] == "completed"


def test_its_inputs_are_the_whole_conversation_page_by_page() -> None:
    dialect, keeper = server()
    first = answered(dialect, "resp_1", "hello", input="hi")
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "and now?"}], "id": "mine"}]
    answered(dialect, "resp_2", "bye", input=asked, previous_response_id="resp_1")
    told = json.loads(keeper.inputs("resp_2", "me", {"order": "asc"}))
    assert told["object"] == "list"
    hi, hello, now = told["data"]
    assert hi == {
        "type": "message",
        "id": hi["id"],
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
    }
    assert hello == first["output"][0]
    assert (now["id"], now["content"][0]["text"]) == ("mine", "and now?")
    ids = [item["id"] for item in told["data"]]
    assert (told["first_id"], told["last_id"], told["has_more"]) == (ids[0], "mine", False)
    newest = json.loads(keeper.inputs("resp_2", "me", {"limit": "2"}))
    assert [item["id"] for item in newest["data"]] == ids[:0:-1]
    assert newest["has_more"]
    rest = json.loads(keeper.inputs("resp_2", "me", {"limit": "2", "after": newest["last_id"]}))
    assert [item["id"] for item in rest["data"]] == ids[:1]
    assert not rest["has_more"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "nothing"}, "after"),
    ],
)
def test_a_query_that_means_nothing_is_refused_by_name(query: dict[str, str], param: str) -> None:
    dialect, keeper = server()
    answered(dialect, "resp_1", "hello")
    with pytest.raises(InvalidRequest) as refused:
        keeper.inputs("resp_1", "me", query)
    assert refused.value.param == param


def test_what_is_over_cannot_be_streamed_again() -> None:
    dialect, keeper = server()
    answered(dialect, "resp_1", "hello")
    with pytest.raises(InvalidRequest) as refused:
        keeper.kept("resp_1", "me", {"stream": "true"}, lambda _: True)
    assert refused.value.param == "stream"
    assert json.loads(keeper.kept("resp_1", "me", {"stream": "false"}, lambda _: True))["id"] == "resp_1"


def test_the_length_of_a_prompt_is_asked_for_as_a_response_is() -> None:
    dialect, _ = server()
    answered(dialect, "resp_1", "hello")
    counter = InputTokensDialect(dialect)
    request = counter.parse(b'{"input":"and?","previous_response_id":"resp_1"}', {}, "me")
    assert [message.content for message in request.messages] == ["hi", "hello", "and?"]
    assert json.loads(counter.told(12)) == {"object": "response.input_tokens", "input_tokens": 12}
    with pytest.raises(CorralError):
        counter.parse(b'{"input":"and?","previous_response_id":"resp_1"}', {}, "you")
