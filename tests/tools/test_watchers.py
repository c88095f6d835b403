"""The crowd of readers, against the server whose tokens are times."""

import sys
import time

import trio

from bench_status import HERE, _delay_row, watching
from loadclient import Chat, chat
from prompts import tiny
from serverproc import serve
from watchers import Reader, read_stamps

CLOCK = f"{sys.executable} {HERE / 'serve_clock.py'} --port {{port}} --step-ms 2"


def test_a_stamp_that_is_cut_in_two_is_read_once():
    reader = Reader(0, stalls=False)
    stamp = b'{"text":"<%d>"}' % time.perf_counter_ns()
    delays = [read_stamps(reader, part) for part in (b"event: token\n" + stamp[:12], stamp[12:], stamp)]
    assert [len(each) for each in delays] == [0, 1, 1]
    assert 0 <= delays[1][0] < 1


async def test_all_readers_see_every_event_but_those_who_stall():
    seen = []
    for count, stalled in ((4, 0), (4, 2)):
        async with serve(CLOCK) as server, watching(server.target, count, stalled) as readers:
            answer = await chat(server.target, Chat(tiny(count), 20, temperature=0.0, stream=True))
            assert answer.is_whole
            await trio.sleep(0.3)
            seen.append(await readers.seen())
    assert [len(each.first_s) for each in seen] == [len(each.last_s) for each in seen] == [20, 20]
    assert all(0 < delay_s < 1 for each in seen for delay_s in each.first_s)
    # 20 tokens, and what is told of the request and the server; twice as much to four as to two
    assert seen[0].events >= 4 * 20
    assert 2 * 20 <= seen[1].events < 0.75 * seen[0].events


async def test_the_delay_is_that_of_the_first_and_of_the_last_reader():
    row = await _delay_row(3, seconds=0.5)
    assert row.first_ms.count > 10
    assert row.last_ms.count > 10
    assert row.reader_kib is not None
