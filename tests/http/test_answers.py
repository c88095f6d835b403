"""Whatever is sent, the answer is one from the table, in JSON of the API's shape: no 500, HTML, redirect or
traceback. Fuzzed at the ASGI boundary, over HTTP/1.1 and over HTTP/2.

CORRAL_FUZZ_EXAMPLES sets how many batches are tried of each kind.
"""

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tests.harness import serving

from corral import transport
from corral.application import Application
from corral.dialects.answers import STATUSES
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.settings import Settings
from corral.transport import Limits

CHAT = "/v1/chat/completions"
GOOD = b'{"model":"m","input":"hi","messages":[{"role":"user","content":"hi"}],"max_tokens":2}'
OPENAIS, ANTHROPICS = {"message", "type", "param", "code"}, {"message", "type"}
EXPECTED = {200, 204, 304, *STATUSES.values()} - {500}

fuzz = settings(
    max_examples=int(os.environ.get("CORRAL_FUZZ_EXAMPLES", "12")),
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # to shrink a batch takes minutes, and the message names the one
)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing may be logged as an error meanwhile."""
    errors: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(self.format(record))

    handler = Handler(logging.ERROR)
    logging.getLogger("corral").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("corral").removeHandler(handler)
    assert not errors, errors[0]


def check(status: int, headers: Mapping[str, str], body: bytes, sent: object, *, is_head: bool) -> None:
    assert status in EXPECTED, (status, sent)
    if status >= 400:
        assert headers["content-type"] == "application/json", sent
        assert headers["x-request-id"].startswith("req_"), sent
        assert "location" not in headers
        if not is_head:
            error = json.loads(body)["error"]
            assert set(error) in (OPENAIS, ANTHROPICS), sent
            assert "Traceback" not in error["message"]


# What is sent

METHODS = "GET POST HEAD OPTIONS DELETE PUT PATCH TRACE CONNECT A"
PATHS = (
    "/ /v1/models /v1/models/x /health /props /status/json /metrics /status/key /v1/requests/x "
    "/static/status/main.js /robots.txt * // ///evil.example/.. /v1 /v1/chat"
)
BEFORE = "http://localhost http://[ http://a:b@c // https://localhost:99999 x:"
AFTER = r"/ // ? ?a=%ff&%00 #x /.. /%2e%2e/ ;x %00 %ff % \\"
methods = st.sampled_from(METHODS.split())
GENERATING = "/v1/messages /v1/messages/count_tokens /v1/responses /v1/responses/input_tokens"
KEPT = "/v1/responses/resp_1 /v1/responses/x/cancel /v1/responses/x/input_items?limit=5 /v1/messages/batches"
paths = st.sampled_from(["", CHAT, CHAT, *GENERATING.split(), *KEPT.split(), *PATHS.split()])
odd_paths = st.tuples(
    st.sampled_from(["", *BEFORE.split()]), paths, st.sampled_from(["", *AFTER.split()])
).map("".join)
words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
NAMES = (
    "host content-type content-encoding content-length expect origin cookie accept authorization x-api-key "
    "if-none-match if-modified-since range last-event-id te sec-fetch-site accept-encoding upgrade "
    "connection x-forwarded-for transfer-encoding"
)
VALUES = (
    "application/json text/html gzip chunked identity 100-continue -1 0 99999999999999999999999 localhost "
    '[::1] .. [ null Bearer bytes=0- websocket http://localhost:8000 " * W/ corral_status=x '
    "text/plain;q=2;charset"
)
headers = st.dictionaries(
    st.sampled_from(NAMES.split()),
    words | st.sampled_from(["a" * 64 + ".example", *VALUES.split()]),
    max_size=4,
)
WORDS = "user assistant tool function text json_schema auto"
LEAVES = [2**31, 2**63, 1e308, *WORDS.split(), "{not json", "truth", '{"x": 1e400}']
NUMBERS = {"DIGITS": "1" * 5000, "INFINITE": "1e400"}
"""What JSON can say and Python cannot: it is put in for its name."""
numbers = st.sampled_from(list(NUMBERS))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(LEAVES)
    | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "arguments", "id", "5", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = (
    "messages model max_tokens max_completion_tokens temperature top_p top_k min_p seed stop n logprobs "
    "top_logprobs stream stream_options tools tool_choice response_format logit_bias user input instructions "
    "max_output_tokens previous_response_id include reasoning text store metadata system thinking "
    "output_config stop_sequences"
)

SCHEMAS = ["response_format", "json_schema", "guided_json", "text", "output_config"]


def with_schemas(chosen: tuple[dict[str, None], object, object, bool, str]) -> dict[str, object]:
    """Fields with a tool as each API has it, and with a schema."""
    given, parameters, schema, is_strict, choice = chosen
    form = {"type": "json_schema", "schema": schema, "json_schema": {"schema": schema}}
    own = {"name": "f", "parameters": parameters, "strict": is_strict, "input_schema": parameters}
    custom = {"name": "g", "format": {"type": "grammar", "x": parameters}}
    tools = [{"type": "function", "function": own}, {"type": "custom", "custom": custom}]
    return {**given} | {
        name: value
        for name, value in {
            "tools": {
                "chat": tools,
                "custom": [{"type": "custom", **custom, "custom": custom}],
                "flat": [{"type": "function", **own, "function": own}],
                "their": [own],
            }[choice],
            "response_format": form,
            "json_schema": schema,
            "text": {"format": form},
            "output_config": {"format": form},
        }.items()
        if value is not None and (name == "tools" or name in given)
    }


schemas = st.dictionaries(st.sampled_from(["type", "properties", "x", "enum", "required"]), values | numbers)
fields = st.dictionaries(st.sampled_from(FIELDS.split()), values, max_size=5)
with_tools = st.tuples(
    st.dictionaries(st.sampled_from(SCHEMAS), st.none(), max_size=1),
    schemas | values,
    schemas | values | st.sampled_from(LEAVES),
    st.booleans(),
    st.sampled_from(["chat", "custom", "flat", "their"]),
).map(with_schemas)


def written(chosen: dict[str, object]) -> bytes:
    """A body with these fields."""
    body = json.dumps({**json.loads(GOOD), **chosen})
    for name, number in NUMBERS.items():
        body = body.replace(f'"{name}"', number)
    return body.encode()


bodies = st.one_of(
    st.just(GOOD),
    st.binary(max_size=60),
    st.one_of(fields, with_tools).map(written),
    st.tuples(st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=4)).map(
        lambda cut: GOOD[: cut[0]] + cut[1] + GOOD[cut[0] :]
    ),
)
generating = st.sampled_from([CHAT, "/v1/messages", "/v1/responses"])
one_frame = bodies.filter(lambda body: len(body) <= 16_384)
requests: st.SearchStrategy[tuple[str, str, dict[str, str], bytes]] = st.one_of(
    st.tuples(methods, st.one_of(paths, odd_paths), headers, bodies),
    st.tuples(st.just("POST"), generating, st.just({}), with_tools.map(written)),
)


def scripted() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"))


@fuzz
@given(st.lists(requests, min_size=20, max_size=30))
async def test_at_the_asgi_boundary(batch: list[tuple[str, str, dict[str, str], bytes]]) -> None:
    with quiet():
        async with serving(scripted(), max_output_tokens=4) as client:
            for method, path, given_headers, body in batch:
                exchange = client.send(method, path, raw=[body], headers=given_headers)
                await exchange.started()
                if exchange.headers.get("content-type", "").startswith("text/event-stream"):
                    exchange.leave()
                    await exchange.is_over.wait()
                    continue
                answer = await exchange.body()
                assert exchange.status is not None, (method, path, given_headers)
                sent = (method, path, given_headers, body)
                check(exchange.status, exchange.headers, answer, sent, is_head=method == "HEAD")


# Over real sockets


@asynccontextmanager
async def listening(limits: Limits) -> AsyncIterator[int]:
    """A server with its real transport; its port."""
    backend = scripted()
    app = Application(Settings(max_output_tokens=4), lambda: (backend, "scripted"))
    async with trio.open_nursery() as nursery:
        serve = partial(transport.serve, app, bind=["127.0.0.1:0"], limits=limits)
        [address] = await nursery.start(serve)
        yield int(address.rpartition(":")[2])
        nursery.cancel_scope.cancel()


async def talk(port: int, data: bytes, *, waits: bool = False) -> bytes:
    """Send all of it and then FIN, after the answer has begun if it `waits`; all that comes back."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        received = bytearray()
        try:
            await stream.send_all(data)
            if waits:
                received += await stream.receive_some()
            await stream.send_eof()
            async for piece in stream:
                received += piece
                if b"text/event-stream" in received:
                    break  # it would go on
        except trio.BrokenResourceError:
            pass  # it was told what is wrong, or has said too much to be told
        return bytes(received)


def check_http1(sent: bytes, received: bytes) -> int | None:
    """The status of the first answer in what was received, None if it is empty."""
    if not received:
        return None
    method = sent.lstrip(b"\r\n").partition(b" ")[0]
    is_head = method == b"HEAD"
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if is_head else "POST", target="/", headers=[("Host", "x")]))
    client.receive_data(received)
    event: Any = client.next_event()
    while isinstance(event, h11.InformationalResponse):
        event = client.next_event()
    assert isinstance(event, h11.Response), (sent, received)
    head, body = event, bytearray()
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            client.receive_data(b"")  # it ends here, or was not whole
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            break
    answered = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    if answered.get("content-type", "").startswith("text/event-stream"):
        return None
    check(head.status_code, answered, bytes(body), sent, is_head=is_head)
    return head.status_code


def raw_request(parts: tuple[str, str, dict[str, str], bytes]) -> bytes:
    method, path, given_headers, body = parts
    given_headers = {"host": "localhost", "content-length": str(len(body)), **given_headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given_headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


BREAKS = [b"", b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\xff", b"zz", b"HTTP/2.0", b"HTTP/0.9"]
BREAKS += [b" HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"\r\n\r\n"]


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    """A request of which some bytes were taken, doubled, or replaced by what parsers dislike."""
    data = bytearray(raw_request(draw(requests)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 3))
        data[start:end] = draw(st.sampled_from(BREAKS))
    return bytes(data)


@fuzz
@given(st.lists(st.one_of(requests.map(raw_request), broken_requests()), min_size=20, max_size=30))
async def test_over_http1(batch: list[bytes]) -> None:
    with quiet():
        async with listening(Limits(header_timeout_s=5)) as port:
            with trio.fail_after(60):
                for sent in batch:
                    check_http1(sent, await talk(port, sent))


LINE = b"POST /v1/chat/completions "


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /" + b"a" * 40_000, 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, 431),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 40_000, 400),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{", 413),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\nContent-Length: 0\r\n\r\n", 417),
        (LINE + b"HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n{", 415),
        (b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 204),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET //health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /v1//models HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
async def test_what_http1_refuses_is_told_with_the_status_that_names_it(sent: bytes, status: int) -> None:
    with quiet():
        async with listening(Limits()) as port:
            assert check_http1(sent, await talk(port, sent, waits=True)) == status


async def test_a_head_that_does_not_arrive_and_a_connection_too_many_are_told_in_json() -> None:
    limits = Limits(header_timeout_s=0.05, connections=1)
    async with listening(limits) as port:
        slow = await trio.open_tcp_stream("127.0.0.1", port)
        async with slow:
            await slow.send_all(b"POST /v1/chat")
            received = bytearray()
            async for piece in slow:
                received += piece
            assert check_http1(b"POST", bytes(received)) == 408
        first = await trio.open_tcp_stream("127.0.0.1", port)
        async with first:
            await first.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await first.receive_some()
            refused = await talk(port, b"")
            assert check_http1(b"POST", refused) == 503
            assert b"retry-after: 1\r\n" in refused


# HTTP/2

odd_pseudo = st.fixed_dictionaries(
    {
        ":method": methods | st.sampled_from(["", " ", "GE T", "\x00"]),
        ":path": st.one_of(paths, odd_paths, st.sampled_from([" ", "\x00", "/ /", "/\xe4"])),
        ":scheme": st.sampled_from(["http", "https", "", "ftp"]),
        ":authority": st.sampled_from(
            ["localhost", "evil.example", "", "a" * 70, "[::1]", "[", "localhost:x"]
        ),
    }
)


Reply = tuple[dict[str, str], bytes]


async def ask_http2(port: int, sent: list[tuple[str, str]], body: bytes) -> Reply | None:
    """The answer to one request; None if the server ended the stream or the connection instead."""
    config = h2.config.H2Configuration(
        client_side=True,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
        header_encoding="latin-1",
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    client.send_headers(1, [(n.encode("latin-1"), v.encode("latin-1")) for n, v in sent])
    client.send_data(1, body, end_stream=True)
    answered: dict[str, str] = {}
    answer = bytearray()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(client.data_to_send())
        try:
            async for data in stream:
                for event in client.receive_data(data):
                    match event:
                        case h2.events.ResponseReceived():
                            answered = {str(name): str(value) for name, value in event.headers}
                            if answered.get("content-type", "").startswith("text/event-stream"):
                                return None
                        case h2.events.DataReceived():
                            answer += event.data
                        case h2.events.StreamEnded():
                            return answered, bytes(answer)
                        case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                            return (answered, bytes(answer)) if answered else None
                await stream.send_all(client.data_to_send())
        except trio.BrokenResourceError:
            pass
    return None


async def check_http2(port: int, pseudo: dict[str, str], given: dict[str, str], body: bytes) -> int | None:
    sent = [*pseudo.items(), *given.items()]
    reply = await ask_http2(port, sent, body)
    if reply is None:
        return None
    status = int(reply[0].pop(":status"))
    check(status, reply[0], reply[1], sent, is_head=pseudo[":method"] == "HEAD")
    return status


@fuzz
@example(
    [({":method": "GE T", ":path": CHAT, ":scheme": "http", ":authority": "localhost"}, {}, GOOD)],
)
@given(st.lists(st.tuples(odd_pseudo, headers, one_frame), min_size=10, max_size=20))
async def test_over_http2(batch: list[tuple[dict[str, str], dict[str, str], bytes]]) -> None:
    with quiet():
        async with listening(Limits()) as port:
            with trio.fail_after(60):
                for pseudo, given_headers, body in batch:
                    await check_http2(port, pseudo, given_headers, body)


@pytest.mark.parametrize(
    ("pseudo", "status"),
    [
        ({}, 200),
        ({":path": "/nothing"}, 404),
        ({":path": "no/slash"}, 400),
        ({":method": "GET"}, 405),
        ({":authority": "evil.example"}, 403),
        ({":authority": "["}, 400),
    ],
)
async def test_http2_tells_the_same(pseudo: dict[str, str], status: int) -> None:
    good = {":method": "POST", ":path": CHAT, ":scheme": "http", ":authority": "localhost"}
    async with listening(Limits()) as port:
        assert await check_http2(port, {**good, **pseudo}, {}, GOOD) == status
