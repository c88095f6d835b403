"""What of Hypercorn, h11, h2 and trio the transport relies on without being promised it.

A failure here means: read the new release, then mend src/corral/transport and these lines together.
"""

import inspect
from importlib.metadata import version
from typing import Any

import h2.connection
import h11
import hypercorn.asyncio.run
import hypercorn.trio
import hypercorn.trio.run
import pytest
from hypercorn.config import Config, Sockets
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from corral.transport.http1 import STATUS_LINE_START

PROTOCOL = "self app config context task_group connection_state ssl client server send"


def parameters(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("hypercorn").split(".")[:2] == ["0", "18"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (TCPServer.__init__, "self app config context state stream"),
        (hypercorn.trio.run.worker_serve, "app config sockets shutdown_trigger task_status"),
        (hypercorn.asyncio.run._run, "main debug shutdown_trigger loop_factory"),
        (H11Protocol.__init__, PROTOCOL),
        (H11Protocol._maybe_recycle, "self"),
        (H11Protocol._close_stream, "self"),
        (H11Protocol._send_error_response, "self status_code"),
        (H11Protocol._send_h11_event, "self event"),
        (H2Protocol.__init__, PROTOCOL),
        (H2Protocol._send_data, "self stream_id"),
        (H2Protocol._flush, "self"),
        (H2Protocol.send_task, "self"),
        (HTTPStream.__init__, "self app config context task_group ssl client server send stream_id"),
        (HTTPStream.app_send, "self message"),
        (Config.response_headers, "self protocol"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_signatures(function: Any, expected: str) -> None:
    assert parameters(function) == expected


@pytest.mark.parametrize(
    ("function", "names"),
    [
        # Looked up when serving starts, after the app was imported: what makes install() work.
        (hypercorn.trio.run.worker_serve, {"TCPServer"}),
        (hypercorn.trio.run.trio_worker, {"load_application", "worker_serve"}),
        (hypercorn.asyncio.run.asyncio_worker, {"load_application", "_run", "worker_serve"}),
        # What Hypercorn's parser calls of ours.
        (H11Protocol.stream_send, {"_maybe_recycle", "_send_h11_event"}),
        (HTTPStream.handle, {"spawn_app", "app_put"}),
        (H2Protocol.send_task, {"_send_data", "priority", "has_data", "closed"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_names_looked_up_late(function: Any, names: set[str]) -> None:
    code = inspect.unwrap(function).__code__
    found = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            found |= set(constant.co_names)
    assert names <= found


def test_the_asyncio_worker_hands_over_what_can_be_taken_apart() -> None:
    source = inspect.getsource(hypercorn.asyncio.run.asyncio_worker)
    assert "partial(worker_serve, app, config, sockets=sockets)" in source
    assert "partial(check_multiprocess_shutdown_event, shutdown_event, asyncio.sleep)" in source
    assert list(Sockets.__dataclass_fields__) == [
        "secure_sockets",
        "insecure_sockets",
        "quic_sockets",
    ]


def test_the_context_has_what_apps_are_given() -> None:
    context = WorkerContext(None)
    assert not context.terminated.is_set()
    assert inspect.iscoroutinefunction(context.terminated.wait)


@pytest.mark.parametrize("status_code", [100, 200, 503])
def test_every_head_begins_the_same(status_code: int) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.0\r\n\r\n")
    server.next_event()
    kind = h11.InformationalResponse if status_code < 200 else h11.Response
    data = server.send(kind(status_code=status_code, headers=[]))
    assert data is not None
    assert data.startswith(STATUS_LINE_START)


@pytest.mark.parametrize("chunks", [[b"abc"], []])
def test_a_zero_before_a_chunk_size_means_nothing(chunks: list[bytes]) -> None:
    """RFC 9112, 7.1: chunk-size = 1*HEXDIG, last-chunk = 1*("0")."""
    server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    wire = client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    server.receive_data((wire or b"") + (client.send(h11.EndOfMessage()) or b""))
    server.next_event()
    client.receive_data(server.send(h11.Response(status_code=200, headers=[])) or b"")
    for chunk in chunks:
        client.receive_data(b"0" + (server.send(h11.Data(data=chunk)) or b""))
    client.receive_data(b"0" + (server.send(h11.EndOfMessage()) or b""))
    events = [client.next_event() for _ in range(2 + len(chunks))]
    assert [bytes(event.data) for event in events if isinstance(event, h11.Data)] == chunks
    assert isinstance(events[-1], h11.EndOfMessage)


def test_h2_attributes() -> None:
    connection = h2.connection.H2Connection()
    assert connection.highest_inbound_stream_id == 0
    assert connection.decoder.max_header_list_size
