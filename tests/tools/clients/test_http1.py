"""The client against a real socket: what it says it does is what the other end sees."""

import msgspec
import pytest
import trio
from tests.tools.fakeserver import DONE, HEAD, LAST, chunked, delta, serving, usage

from tools.clients.habits import Habit, Leave
from tools.clients.http1 import chat
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target

ASK = Chat([{"role": "user", "content": "Hi"}], 8, temperature=0.0, stream=True)
WHOLE = delta("Hel") + delta("lo", finish='"stop"') + usage(2) + DONE


async def polite(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD)
    for byte in (chunked(WHOLE[:30]), chunked(WHOLE[30:]), LAST):
        await stream.send_all(byte)


async def endless(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD)
    while True:
        await stream.send_all(chunked(delta("x" * 50)))
        await trio.sleep(0.001)


async def silent(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_whole_answer() -> None:
    async with serving(polite) as (server, target):
        answer = await chat(target, ASK)
    assert answer.is_whole
    assert (answer.text, answer.status, answer.completion_tokens) == ("Hello", 200, 2)
    body = msgspec.json.decode(server.visits[0].request.partition(b"\r\n\r\n")[2])
    assert body["stream_options"] == {"include_usage": True}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 8)


@pytest.mark.parametrize(("leave", "went"), [(Leave.FIN, "fin"), (Leave.RST, "rst")])
async def test_leaving_while_reading_is_what_it_says_on_the_wire(leave: Leave, went: str) -> None:
    async with serving(endless) as (server, target):
        answer = await chat(target, ASK, Habit(leave=leave, leave_after_deltas=3))
        await server.visits[0].gone.wait()
    assert answer.ending == "left"
    assert len(answer.content_s) >= 3
    assert server.visits[0].went == went


@pytest.mark.parametrize(("leave", "went"), [(Leave.FIN, "fin"), (Leave.RST, "rst")])
async def test_leaving_while_waiting(leave: Leave, went: str) -> None:
    async with serving(silent) as (server, target):
        answer = await chat(target, ASK, Habit(leave=leave, leave_after_s=0.02))
        await server.visits[0].gone.wait()
    assert (answer.ending, server.visits[0].went) == ("left", went)


async def test_leaving_when_told() -> None:
    leaving = trio.CancelScope()
    answers: list[Answer] = []
    async with serving(silent) as (server, target), trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await chat(target, ASK, Habit(leave=Leave.RST), leaving=leaving))

        nursery.start_soon(ask)
        await server.arrived.wait()
        leaving.cancel()
        await server.visits[0].gone.wait()
    assert answers[0].ending == "left"


async def test_a_half_closer_reads_its_whole_answer() -> None:
    async def answer_after_fin(stream: trio.SocketStream) -> None:
        await server.visits[0].gone.wait()
        await polite(stream)

    async with serving(answer_after_fin) as (server, target):
        answer = await chat(target, ASK, Habit(half_closes=True))
    assert server.visits[0].went == "fin"
    assert answer.is_whole


async def test_a_staller_notices_its_eviction_without_reading() -> None:
    evict = trio.Event()

    async def stall_then_reset(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + chunked(delta("x")))
        with trio.move_on_after(0.2):
            while True:
                await stream.send_all(chunked(delta("y" * 1000)))
        evict.set()
        stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()

    async with serving(stall_then_reset) as (_, target):
        answer = await chat(target, ASK, Habit(stalls=True, receive_buffer_bytes=4096))
    assert evict.is_set()
    assert answer.ending == "evicted"
    assert answer.body_bytes < 70_000


async def test_a_staller_gives_up() -> None:
    async with serving(endless) as (server, target):
        habit = Habit(leave=Leave.RST, stalls=True, stall_limit_s=0.1, receive_buffer_bytes=4096)
        answer = await chat(target, ASK, habit)
        await server.visits[0].gone.wait()
    assert (answer.ending, server.visits[0].went) == ("left", "rst")


async def test_a_slow_reader_is_as_slow_as_it_says() -> None:
    async def lots(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + chunked(delta("z" * 2000, finish='"stop"') + DONE) + LAST)

    async with serving(lots) as (_, target):
        answer = await chat(target, ASK, Habit(read_bytes_s=10_000))
    assert answer.is_whole
    assert answer.ended_s is not None
    assert answer.ended_s - answer.sent_s > 0.15


async def test_a_trickled_request_arrives_whole() -> None:
    async with serving(polite) as (server, target):
        answer = await chat(target, ASK, Habit(send_bytes_s=2000))
    assert answer.is_whole
    assert b'"content":"Hi"' in server.visits[0].request


async def test_pipelined_junk_is_sent() -> None:
    async with serving(polite) as (server, target):
        answer = await chat(target, ASK, Habit(pipelined=b"JUNK"))
    assert answer.is_whole
    assert (server.visits[0].request + server.visits[0].more).endswith(b"JUNK")


@pytest.mark.parametrize(
    ("sent", "ending", "error"),
    [
        (HEAD + chunked(delta("a")), "cut", "closed in chunk_size"),
        (HEAD + b"5\r\nab", "cut", "closed in chunk_data"),
        (b"HTTP/1.1 429 No\r\ncontent-length: 4\r\n\r\nfull", "refused", "full"),
        (HEAD + chunked(b'data: {"error":{"message":"m"}}\n\n') + LAST, "failed", "m"),
    ],
)
async def test_endings_are_told_apart(sent: bytes, ending: str, error: str) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.send_all(sent)
        await stream.aclose()

    async with serving(script) as (_, target):
        answer = await chat(target, ASK)
    assert answer.ending == ending
    assert error in answer.error


async def test_nobody_there() -> None:
    answer = await chat(Target("127.0.0.1", 9), ASK)
    assert (answer.ending, answer.error) == ("cut", "ConnectionRefusedError")


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8000, "/v1"),
        ("http://x/openai/v1/", "x", 80, "/openai/v1"),
        ("https://x", "x", 443, "/v1"),
    ],
)
def test_target(url: str, host: str, port: int, path: str) -> None:
    target = Target.from_url(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert (target.tls is not None) == url.startswith("https")


def test_target_needs_http() -> None:
    with pytest.raises(ValueError, match="not an http URL"):
        Target.from_url("localhost:8000")
