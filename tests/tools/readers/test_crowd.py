"""The crowd of readers: its counting, and itself against the server whose tokens are times."""

import time

import pytest
import trio
from tests.tools.fakeserver import HEAD, chunked, serving

from tools.clients.asking import Asker
from tools.clients.http1 import chat
from tools.clients.prompts import tiny
from tools.clients.target import Chat
from tools.measures.bed import Bed
from tools.readers.attached import attached
from tools.readers.crowd import Group, Reader, Seen
from tools.servers.process import ProcessEnded


def test_a_stamp_that_is_cut_in_two_is_read_once() -> None:
    reader = Reader(b"", is_timed=True)
    stamp = b'{"text":"<%d>"}' % time.perf_counter_ns()
    read = []
    for part in (b"event: token\n" + stamp[:12], stamp[12:], stamp):
        reader.feed(part)
        read.append(len(reader.ages_s))
    assert read == [0, 1, 2]
    assert 0 <= reader.ages_s[0] < 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_events_are_counted_however_the_bytes_come(size: int) -> None:
    stream = b"a\r\ndata: x\n\n\r\n14\r\ndata: y\n\ndata: z\n\n\r\n"
    reader = Reader(b"")
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
    assert (reader.events, reader.received_bytes) == (3, len(stream))


async def test_all_readers_see_every_event_but_those_who_stall() -> None:
    seen: list[Seen] = []
    for stalled in (0, 2):
        flags = ("--status-content=true", "--stream-interval-ms=0")  # each token is an event
        async with Bed().scripted(*flags, step_ms=6, script="clock") as server:
            request = Asker(server.target).watch().decode()
            group = Group(4, request, stalled=stalled, comes_back=True, is_timed=True)
            async with attached(server.target, group) as readers:
                answer = await chat(server.target, Chat(tiny(4), 24, temperature=0.0, stream=True))
                assert answer.is_whole
                await trio.sleep(0.3)
                seen.append(await readers.seen())
    groups = [group for each in seen for group in each.groups]
    assert [len(group.first_s) for group in groups] == [len(group.last_s) for group in groups] == [24, 24]
    assert all(0 < age_s < 1 for group in groups for age_s in group.first_s)
    # 24 tokens, of which the first may come with the request, and some together where the machine is slow
    assert groups[0].least_events >= 12
    assert groups[1].least_events == 0
    assert groups[0].events >= 4 * 12
    assert 2 * 12 <= groups[1].events < groups[0].events


async def one_event_and_the_end(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + chunked(b"data: x\n\n"))
    await stream.aclose()


async def test_a_reader_that_is_sent_away_is_missing() -> None:
    request = "GET / HTTP/1.1\r\n\r\n"
    async with (
        serving(one_event_and_the_end) as (server, target),
        attached(target, Group(2, request)) as readers,
    ):
        [group] = (await readers.seen()).groups
        while group.open:
            [group] = (await readers.seen()).groups
    assert len(server.visits) == 2


async def test_a_reader_that_comes_back_asks_again() -> None:
    group = Group(1, "GET / HTTP/1.1\r\n\r\n", comes_back=True)
    async with serving(one_event_and_the_end) as (server, target), attached(target, group) as readers:
        sent_away = 0
        while sent_away < 3:
            [seen] = (await readers.seen()).groups
            assert seen.open == 1
            sent_away += seen.sent_away
    assert len(server.visits) >= 4


async def test_a_server_that_answers_nobody_is_an_end_with_a_reason(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with serving(one_event_and_the_end) as (_, target):
        pass
    with pytest.raises(ProcessEnded):
        async with attached(target, Group(1, "GET / HTTP/1.1\r\n\r\n")):
            raise AssertionError("nobody is there to be attached to")
    assert "ConnectionRefusedError" in capfd.readouterr().err
