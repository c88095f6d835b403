"""Request bodies: which are taken, how large they may be, and what all of them may hold together."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from quart.wrappers.request import Body
from tests.harness import Exchange, serving
from werkzeug.exceptions import RequestEntityTooLarge

from corral.dialects.openai.chat import ChatDialect
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.errors import InvalidRequest, Overloaded
from corral.http.body import BESIDE_PROMPT_BYTES, PARSE_ON_LOOP_BYTES, Bodies, BodyMemory
from corral.http.connection import UNREAD_BYTES, UnhurriedBody

CHAT = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).encode()


def scripted() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"))


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/problem+json",
        "text/json",
        "application/x-www-form-urlencoded",
    ],
)
async def test_json_is_taken_under_every_name_that_clients_give_it(content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with serving(scripted()) as client:
        exchange = client.send("POST", CHAT, raw=[b"\xef\xbb\xbf \n", BODY], headers=headers)
        assert (await exchange.json())["choices"]
        assert exchange.status == 200


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/plain"}, BODY),
        ({"Content-Type": "text/plain;charset=UTF-8"}, BODY),
        ({"Content-Type": "multipart/form-data; boundary=x"}, BODY),
        ({"Content-Type": "application/xml"}, b"<a/>"),
        ({"Content-Type": "application/octet-stream"}, BODY),
        ({"Content-Type": "\xff"}, BODY),
        (FORM, b"messages=hi"),
        ({**FORM, "Sec-Fetch-Site": "same-origin"}, BODY),
        ({**FORM, "Origin": "http://localhost:8000"}, BODY),
    ],
)
async def test_what_says_it_is_something_else_is_refused(headers: dict[str, str], body: bytes) -> None:
    async with serving(scripted()) as client:
        exchange = client.send("POST", CHAT, raw=[body], headers=headers)
        assert (await exchange.json())["error"]["code"] == "unsupported_media_type"
        assert (exchange.status, exchange.headers["accept"]) == (415, "application/json")


async def test_a_compressed_body_is_refused_and_says_what_to_send() -> None:
    async with serving(scripted()) as client:
        for encoding, body in (("gzip", gzip.compress(BODY)), ("br", BODY), ("identity, gzip", BODY)):
            exchange = client.send("POST", CHAT, raw=[body], headers={"Content-Encoding": encoding})
            assert (await exchange.json())["error"]["code"] == "unsupported_media_type"
            assert (exchange.status, exchange.headers["accept-encoding"]) == (415, "identity")
        plain = client.send("POST", CHAT, raw=[BODY], headers={"Content-Encoding": "Identity"})
        assert (await plain.json())["choices"]


async def test_an_expectation_that_nobody_knows_is_refused() -> None:
    async with serving(scripted()) as client:
        exchange = client.send("POST", CHAT, raw=[BODY], headers={"Expect": "200-ok"})
        assert (await exchange.json())["error"]["code"] == "expectation_failed"
        assert exchange.status == 417
        known = client.send("POST", CHAT, raw=[BODY], headers={"Expect": "100-Continue"})
        assert (await known.json())["choices"]


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


async def test_a_body_in_which_no_prompt_fits_is_refused_before_it_has_arrived() -> None:
    backend = scripted()
    most = BESIDE_PROMPT_BYTES + 6 * backend.cache.shape.ctx_tokens
    async with serving(backend) as client:
        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            for piece in endless(b" " * 8192):
                sent += len(piece)
                yield piece

        arriving = client.send("POST", CHAT, raw=pieces())
        assert "maximum context length" in (await arriving.json())["error"]["message"]
        assert arriving.status == 413
        assert most < sent < most + 200_000
        announced = client.send("POST", CHAT, raw=[b"{"], headers={"Content-Length": str(most + 1)})
        assert (await announced.json())["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), ("/v1/responses", "input")])
async def test_too_many_messages_are_told_by_the_name_of_their_list(path: str, param: str) -> None:
    message = {"role": "user", "content": ""}
    async with serving(scripted()) as client:
        refused = client.send("POST", path, {param: [message] * 5_000})
        assert (await refused.json())["error"]["param"] == param
        assert refused.status == 400


async def test_a_prompt_that_fits_is_taken_however_it_is_escaped() -> None:
    backend = scripted()
    text = "".join(f"\\u{97:04x}" for _ in range(backend.cache.shape.ctx_tokens - 200))
    body = b'{"max_tokens":1,"messages":[{"role":"user","content":"%b"}]}' % text.encode()
    async with serving(backend) as client:
        assert (await client.send("POST", CHAT, raw=[body]).json())["usage"]["completion_tokens"] == 1


@pytest.fixture
def parsed_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of thread in which bodies are parsed."""
    kinds: list[str] = []
    parse = ChatDialect.parse

    def noted(self: ChatDialect, body: bytes, headers: Any, client: str) -> Any:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            kinds.append("another thread")
        else:
            kinds.append("the event loop's")
        return parse(self, body, headers, client)

    monkeypatch.setattr(ChatDialect, "parse", noted)
    return kinds


async def test_only_a_small_body_is_parsed_on_the_event_loop(parsed_in: list[str]) -> None:
    async with serving(scripted()) as client:
        for size in (PARSE_ON_LOOP_BYTES, PARSE_ON_LOOP_BYTES + 1):
            exchange = client.send("POST", CHAT, raw=[BODY.ljust(size)])
            assert (await exchange.json())["choices"]
        broken = client.send("POST", CHAT, raw=[b"{".ljust(PARSE_ON_LOOP_BYTES + 1)])
        assert (await broken.json())["error"]["message"].startswith("The body is not valid JSON")
        assert broken.status == 400
    assert parsed_in == ["the event loop's", "another thread", "another thread"]


@pytest.mark.parametrize(
    ("path", "name"), [(CHAT, "messages"), ("/v1/messages", "messages"), ("/v1/responses", "input")]
)
async def test_more_messages_than_the_context_has_tokens_are_refused_before_they_are_parsed(
    path: str, name: str, parsed_in: list[str]
) -> None:
    backend = scripted()
    many = backend.cache.shape.ctx_tokens + 1
    asked = {name: [{"role": "user", "content": ""}] * many, "model": "m", "max_tokens": 1}
    body = json.dumps(asked).encode()
    async with serving(backend) as client:
        exchange = client.send("POST", path, raw=[body])
        error = (await exchange.json())["error"]
        assert exchange.status == 400
        assert str(many) in error["message"]
    assert not parsed_in


@pytest.mark.parametrize("begins", ["1", '{"a":1},{}'])
def test_messages_are_counted_without_being_built(begins: str) -> None:
    body = f'{{"input":[ {begins}{",1" * 400_000}]}}'.encode()
    bodies = Bodies(limit_bytes=2**24, memory_bytes=2**26, timeout_s=1, prompt_bytes=None, ctx_tokens=1000)
    tracemalloc.start()
    try:
        assert trio.run(bodies.parse, len, body) == len(body)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "fields",
    [
        '"messages":[{many}],"messages":[]',
        '"logit_bias":{{"1":1{ones}}}',
        '"tools":[{{"type":"function","function":{{"name":"f","parameters":{{"a":[{many}]}}}}}}]',
        '"chat_template_kwargs":{{"a":[{many}]}}',
        '"nobody":[{many}]',
    ],
)
async def test_millions_of_values_are_refused_before_they_are_made(fields: str, parsed_in: list[str]) -> None:
    many, ones = ",".join(["{}"] * 600_000), ',"1":1' * 600_000
    body = b"{%b}" % fields.format(many=many, ones=ones).encode()
    bodies = Bodies(limit_bytes=2**24, memory_bytes=2**26, timeout_s=1, prompt_bytes=None, ctx_tokens=1000)
    with pytest.raises(InvalidRequest, match="more than 408000 values"):
        await bodies.parse(partial(ChatDialect().parse, headers={}, client="a"), body)
    assert not parsed_in


async def test_a_text_of_nothing_but_commas_is_no_list_of_values(parsed_in: list[str]) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "," * 500_000 + '\\"'}]}).encode()
    bodies = Bodies(limit_bytes=2**24, memory_bytes=2**26, timeout_s=1, prompt_bytes=None, ctx_tokens=1000)
    await bodies.parse(partial(ChatDialect().parse, headers={}, client="a"), body)
    assert parsed_in == ["another thread"]


async def test_many_large_bodies_leave_room_for_a_small_one(mock_clock: trio.testing.MockClock) -> None:
    limit_bytes = 1024 * 1024
    memory_bytes = 2 * limit_bytes
    async with serving(scripted(), body_limit_bytes=limit_bytes, body_memory_bytes=memory_bytes) as client:
        unfinished: list[Exchange] = []
        for _ in range(40):
            pieces = [b" " * 16384] * 63
            unfinished.append(client.send("POST", CHAT, raw=pieces, ends=False))
        await trio.testing.wait_all_tasks_blocked()
        refused = [exchange for exchange in unfinished if exchange.status is not None]
        assert len(refused) > 30
        for exchange in refused:
            assert (await exchange.json())["error"]["code"] == "server_overloaded"
            assert (exchange.status, exchange.headers["retry-after"]) == (503, "1")
        assert (await client.send("POST", CHAT, raw=[BODY]).json())["choices"], "room is left"
        for exchange in unfinished:
            exchange.leave()
            await exchange.is_over.wait()
        whole = client.send("POST", CHAT, raw=[BODY.ljust(limit_bytes)])
        assert (await whole.json())["choices"], "all of it has come back"


@given(st.lists(st.lists(st.integers(0, 400), max_size=20), max_size=20))
def test_memory_is_never_overdrawn_never_all_taken_and_always_given_back(bodies: list[list[int]]) -> None:
    memory = BodyMemory(1000)
    with ExitStack() as stack:
        for pieces in bodies:
            grow = stack.enter_context(memory.hold())
            held = 0
            for size in pieces:
                before = memory.free_bytes
                try:
                    grow(size)
                except Overloaded:
                    assert held + size > before - size
                    assert memory.free_bytes == before
                else:
                    held += size
                    assert memory.free_bytes == before - size >= held
    assert memory.free_bytes == 1000


async def arrive(body: UnhurriedBody, data: bytes) -> None:
    """As Quart hands it over: 0.22 in one way, 0.23 in another."""
    if hasattr(Body, "append"):
        body.append(data)
    else:
        await body.put(data)


async def test_a_body_that_nobody_reads_is_not_kept() -> None:
    body = UnhurriedBody(None, None)
    for _ in range(300):
        await arrive(body, b"x" * 1000)
        assert body.held_bytes <= UNREAD_BYTES
    with pytest.raises(RequestEntityTooLarge):
        await anext(aiter(body))


async def test_a_body_that_is_read_arrives_whole() -> None:
    body = UnhurriedBody(None, None)
    await arrive(body, b"x" * UNREAD_BYTES)
    reader = aiter(body)
    await arrive(body, b"y" * UNREAD_BYTES)
    body.set_complete()
    assert b"".join([piece async for piece in reader]) == b"x" * UNREAD_BYTES + b"y" * UNREAD_BYTES
