"""A request on a connection of its own: over TLS, to nobody, and closed in the midst."""

import ssl
from contextlib import closing

import pytest
import trio
import trustme
from tests.engine.upstream.scripted import ScriptedUpstream, serving

from corral.engine.upstream.address import Address, address_of
from corral.engine.upstream.exchange import Ask, Exchange, fetch
from corral.engine.upstream.faults import Fault

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def serve_tls(
    certificate: trustme.LeafCert,
    heard: list[bytes],
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            heard.append(bytes(await stream.receive_some()))
            await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            return

    [listener] = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    inner = listener.transport_listener
    assert isinstance(inner, trio.SocketListener)
    task_status.started(inner.socket.getsockname()[1])
    await trio.serve_listeners(handle, [listener])


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_tls_is_spoken_to_who_has_a_certificate_that_is_trusted(
    is_trusted: bool, nursery: trio.Nursery
) -> None:
    authority, heard = trustme.CA(), list[bytes]()
    port = await nursery.start(serve_tls, authority.issue_cert("localhost"), heard)
    context = ssl.create_default_context()
    if is_trusted:
        authority.configure_trust(context)
    ask = Ask("/v1/models", key="sk-1")
    address = Address("localhost", port, True)
    if is_trusted:
        assert await fetch(address, context, ask, limit_bytes=100) == (200, b"{}")
        assert b"Authorization: Bearer sk-1\r\n" in heard[0]
    else:
        with pytest.raises(Fault, match="cannot be reached"):
            await fetch(address, context, ask, limit_bytes=100)
        assert not any(heard), "nothing is said to who cannot be trusted"
    nursery.cancel_scope.cancel()


async def test_who_is_not_there_is_told_so() -> None:
    with pytest.raises(Fault, match="cannot be reached"):
        await fetch(address_of("http://127.0.0.1:1"), None, Ask("/"), limit_bytes=100)


async def test_a_name_that_there_is_not_is_the_same() -> None:
    with pytest.raises(Fault, match="cannot be reached"):
        await fetch(address_of("http://nobody.invalid"), None, Ask("/"), limit_bytes=100)


async def test_an_answer_is_read_no_further_than_its_limit() -> None:
    upstream = ScriptedUpstream()
    async with serving(upstream):
        address = upstream.options().address
        assert await fetch(address, None, Ask("/props"), limit_bytes=5) == (200, b'{"tot')


async def test_closing_twice_and_before_anything_are_harmless() -> None:
    exchange = Exchange(address_of("http://127.0.0.1:1"), None)
    exchange.close()
    upstream = ScriptedUpstream()
    async with serving(upstream):
        with closing(Exchange(upstream.options().address, None)) as exchange:
            assert (await exchange.ask(Ask("/health"))).status == 200
            exchange.close()


async def test_nobody_accepts_and_the_attempt_ends_with_its_scope(autojump_clock: None) -> None:
    """A backlog that is full drops what asks to connect; the address is one that no packet leaves for."""
    exchange = Exchange(Address("192.0.2.1", 80, False), None)
    with closing(exchange), pytest.raises(Fault, match="cannot be reached"):
        await exchange.ask(Ask("/"))
