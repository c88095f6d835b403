"""The broker on the virtual clock: one encoding for all, bounded memory, replay, snapshots, eviction."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from corral.watching.broker import (
    LEAST_ROUND_S,
    RING_BYTES,
    SLICE_VIEWERS,
    Broker,
    round_s,
)


class State:
    """A state of one number; its snapshot says how often it was encoded."""

    def __init__(self) -> None:
        self.value = 0
        self.encoded = 0

    def snapshot(self, sees_content: bool) -> bytes:
        self.encoded += 1
        return b'{"value":%d,"content":%d}' % (self.value, sees_content)


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        yield
        nursery.cancel_scope.cancel()


def events(data: bytes) -> list[tuple[str, str]]:
    """(event, data) of every frame but retry and keepalives, which must be whole."""
    assert data.endswith(b"\n\n")
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        if frame.startswith("id: "):
            id, event, payload = frame.split("\n")
            assert id.startswith("id: ")
            found.append((event.removeprefix("event: "), payload.removeprefix("data: ")))
    return found


def last_id(data: bytes) -> str:
    return data.decode().rpartition("id: ")[2].partition("\n")[0]


async def test_a_viewer_gets_a_snapshot_and_then_what_happens(autojump_clock: trio.abc.Clock) -> None:
    state = State()
    broker = Broker(state.snapshot)
    async with running(broker):
        with broker.subscribe(sees_content=True) as viewer:
            first = await viewer.receive()
            assert first.startswith(b"retry: 2000\n\nid: ")
            assert events(first) == [("snapshot", '{"value":0,"content":1}')]
            broker.publish_nowait("token", b'"a"')
            broker.publish_nowait("token", b'"b"')
            assert events(await viewer.receive()) == [("token", '"a"'), ("token", '"b"')]


async def test_a_thousand_viewers_that_come_at_once_cost_those_who_are_there_nothing(
    autojump_clock: trio.abc.Clock,
) -> None:
    def collect() -> float:
        broker.publish_nowait("server", b"1")
        return 1e9

    broker = Broker(State().snapshot, collect)
    with broker.subscribe(sees_content=True) as first, ExitStack() as others:
        await first.receive()
        for _ in range(1000):
            others.enter_context(broker.subscribe(sees_content=True))
        assert first.waiting == 0
        broker.flush_nowait()
        assert len(events(await first.receive())) == 1


async def test_all_viewers_get_the_same_bytes_object(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot)
    with broker.subscribe(sees_content=True) as one, broker.subscribe(sees_content=True) as two:
        assert await one.receive() is await two.receive(), "a snapshot is large, and each writer keeps it"
        broker.publish_nowait("token", b"1")
        broker.flush_nowait()
        assert await one.receive() is await two.receive()


async def test_viewers_that_come_at_once_share_a_snapshot(autojump_clock: trio.abc.Clock) -> None:
    state = State()
    broker = Broker(state.snapshot)
    with broker.subscribe(sees_content=False):
        for _ in range(100):
            with broker.subscribe(sees_content=False) as viewer:
                await viewer.receive()
    assert state.encoded == 1


async def test_content_goes_to_those_who_may_see_it(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot)
    async with running(broker):
        with broker.subscribe(sees_content=True) as sees, broker.subscribe(sees_content=False) as blind:
            await sees.receive()
            first = await blind.receive()
            broker.publish_nowait("token", b'"secret"', is_content=True)
            broker.publish_nowait("request", b"1")
            assert events(await sees.receive()) == [("token", '"secret"'), ("request", "1")]
            assert events(await blind.receive()) == [("request", "1")]
        with (
            broker.subscribe(sees_content=False) as other,
            broker.subscribe(sees_content=False, last_event_id=last_id(first)) as again,
        ):
            await other.receive()
            assert b"secret" not in await again.receive()


async def test_the_first_event_goes_at_once_and_a_burst_is_one_write(
    mock_clock: trio.testing.MockClock,
) -> None:
    broker = Broker(State().snapshot)
    async with running(broker):
        with broker.subscribe(sees_content=True) as viewer:
            await viewer.receive()
            broker.publish_nowait("token", b"0")
            await trio.testing.wait_all_tasks_blocked()
            assert events(await viewer.receive()) == [("token", "0")], "no time has passed"
            for number in range(1, 50):
                broker.publish_nowait("token", b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            assert viewer.waiting == 0
            mock_clock.jump(LEAST_ROUND_S)
            await trio.testing.wait_all_tasks_blocked()
            assert viewer.waiting == 1
            assert len(events(await viewer.receive())) == 49


async def test_many_viewers_are_written_to_a_few_at_a_time(mock_clock: trio.testing.MockClock) -> None:
    broker = Broker(State().snapshot, viewer_batches=4)
    async with running(broker):
        with ExitStack() as stack:
            subscribe = partial(broker.subscribe, sees_content=False)
            viewers = [stack.enter_context(subscribe()) for _ in range(3 * SLICE_VIEWERS)]
            for viewer in viewers:
                await viewer.receive()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1)  # the pause after their coming
            await trio.testing.wait_all_tasks_blocked()
            broker.publish_nowait("server", b"1")
            await trio.testing.wait_all_tasks_blocked()
            reached = [viewer.waiting for viewer in viewers]
            assert reached == [1] * SLICE_VIEWERS + [0] * 2 * SLICE_VIEWERS
            for _ in range(5):  # the last gets a snapshot before its turn: the batch is in it
                viewers[-1].push_nowait(b"much")
            assert [event for event, _ in events(await viewers[-1].receive())] == ["snapshot"]
            mock_clock.jump(0.9 * round_s(3 * SLICE_VIEWERS) / 3)
            await trio.testing.wait_all_tasks_blocked()
            assert sum(viewer.waiting for viewer in viewers) == SLICE_VIEWERS
            for _ in range(2):
                mock_clock.jump(round_s(3 * SLICE_VIEWERS) / 3)
                await trio.testing.wait_all_tasks_blocked()
            reached = [viewer.waiting for viewer in viewers]
            assert reached == [1] * (3 * SLICE_VIEWERS - 1) + [0]
    assert not broker.viewers


@pytest.mark.parametrize(
    ("viewers", "expected_s"),
    [(0, 0.01), (1, 0.01), (20, 0.05), (100, 0.25), (200, 0.5), (1000, 0.5), (2000, 1.0)],
)
def test_the_more_watch_the_less_often_each_is_served(viewers: int, expected_s: float) -> None:
    assert round_s(viewers) == pytest.approx(expected_s)


async def test_nobody_watching_costs_nothing_and_keeps_nothing(autojump_clock: trio.abc.Clock) -> None:
    state = State()
    collected: list[int] = []
    watched: list[bool] = []

    def collect() -> float:
        collected.append(1)
        return 1e9

    broker = Broker(state.snapshot, collect, on_watched=watched.append)
    broker.publish_nowait("token", b"1")
    broker.flush_nowait()
    assert (state.encoded, collected, broker.seq, len(broker._ring)) == (0, [], 0, 0)
    with broker.subscribe(sees_content=True), broker.subscribe(sees_content=True):
        broker.publish_nowait("token", b"1")
        assert len(broker._ring) == 1
    assert (len(broker._ring), broker._ring_bytes, broker._entries) == (0, 0, [])
    assert watched == [True, False]


async def test_a_viewer_that_comes_back_gets_what_it_missed(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot, ring_events=10)
    with broker.subscribe(sees_content=True) as other:
        await other.receive()
        broker.publish_nowait("token", b"0")
        broker.flush_nowait()
        seen = last_id(await other.receive())
        for number in range(1, 10):
            broker.publish_nowait("token", b"%d" % number)
        with broker.subscribe(sees_content=True, last_event_id=seen) as again:
            assert [data for _, data in events(await again.receive())] == [str(n) for n in range(1, 10)]
        for number in range(10, 12):
            broker.publish_nowait("token", b"%d" % number)
        with broker.subscribe(sees_content=True, last_event_id=seen) as late:
            assert events(await late.receive())[0][0] == "snapshot", "the ring is past it"


@pytest.mark.parametrize("id", ["", "7", "other-1", "{run}-x", "{run}-99", "{run}--1", "{run}-٣", "x" * 9999])
async def test_an_id_that_means_nothing_here_gets_a_snapshot(autojump_clock: trio.abc.Clock, id: str) -> None:
    broker = Broker(State().snapshot)
    with broker.subscribe(sees_content=True) as other:
        run = last_id(await other.receive()).partition("-")[0]
        with broker.subscribe(sees_content=True, last_event_id=id.format(run=run)) as viewer:
            assert [event for event, _ in events(await viewer.receive())] == ["snapshot"]


async def test_after_a_time_with_no_viewer_an_old_id_gets_a_snapshot(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot)
    with broker.subscribe(sees_content=True) as viewer:
        seen = last_id(await viewer.receive())
    with broker.subscribe(sees_content=True, last_event_id=seen) as viewer:
        assert [event for event, _ in events(await viewer.receive())] == ["snapshot"]


async def test_the_ring_is_bounded_in_bytes(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot)
    with broker.subscribe(sees_content=False):
        for _ in range(50):
            broker.publish_nowait("request", b'"%b"' % (b"x" * 100_000), is_content=True)
        assert broker._ring_bytes <= RING_BYTES
        assert broker._ring_bytes == sum(len(entry.frame) for entry in broker._ring)


def lag(broker: Broker, state: State, batches: int) -> None:
    for _ in range(batches):
        state.value += 1
        broker.publish_nowait("token", b"%d" % state.value)
        broker.flush_nowait()


async def test_a_viewer_that_lags_gets_one_fresh_snapshot_instead(autojump_clock: trio.abc.Clock) -> None:
    state = State()
    broker = Broker(state.snapshot, viewer_batches=4)
    with broker.subscribe(sees_content=True) as slow, broker.subscribe(sees_content=True) as quick:
        await slow.receive()
        await quick.receive()
        lag(broker, state, 6)
        state.value = 99
        assert events(await slow.receive()) == [("snapshot", '{"value":99,"content":1}')]
        lag(broker, state, 1)
        assert events(await slow.receive()) == [("token", "100")], "and then goes on"
        assert not slow.is_evicted


async def test_what_waits_to_be_sent_while_a_snapshot_is_made_is_not_sent_twice(
    autojump_clock: trio.abc.Clock,
) -> None:
    state = State()
    broker = Broker(state.snapshot, viewer_batches=2)
    with broker.subscribe(sees_content=True) as slow:
        await slow.receive()
        lag(broker, state, 3)
        broker.publish_nowait("token", b'"in the snapshot"')
        assert [event for event, _ in events(await slow.receive())] == ["snapshot"]
        with broker.subscribe(sees_content=True) as late:
            assert [event for event, _ in events(await late.receive())] == ["snapshot"]
            broker.publish_nowait("token", b'"after"')
            broker.flush_nowait()
            assert events(await late.receive()) == [("token", '"after"')]
        assert events(await slow.receive()) == [("token", '"after"')]


async def test_a_viewer_that_does_not_take_the_snapshot_either_is_evicted_once(
    autojump_clock: trio.abc.Clock,
) -> None:
    state = State()
    broker = Broker(state.snapshot, viewer_batches=4)
    evictions: list[str] = []
    with broker.subscribe(sees_content=True, on_evicted=lambda: evictions.append("stuck")):
        lag(broker, state, 4)
        assert evictions == []
        lag(broker, state, 100)
    assert evictions == ["stuck"]
    assert broker.evicted == 1
    assert state.encoded == 1, "the snapshot it never took was never encoded"


async def test_closing_ends_the_streams_after_what_they_have_not_got(autojump_clock: trio.abc.Clock) -> None:
    broker = Broker(State().snapshot)
    with broker.subscribe(sees_content=True) as viewer:
        broker.publish_nowait("token", b"1")
        broker.close()
        assert [event for event, _ in events(await viewer.receive())] == ["snapshot", "token"]
        with pytest.raises(trio.EndOfChannel):
            await viewer.receive()
    with broker.subscribe(sees_content=True) as late:
        await late.receive()
        with pytest.raises(trio.EndOfChannel):
            await late.receive()


async def test_collect_is_called_again_when_it_wants_to_be(autojump_clock: trio.abc.Clock) -> None:
    calls: list[float] = []

    def collect() -> float:
        calls.append(trio.current_time())
        return calls[0] + 1 if len(calls) < 3 else float("inf")

    broker = Broker(State().snapshot, collect)
    async with running(broker):
        with broker.subscribe(sees_content=True):
            calls.clear()
            broker.wake()
            await trio.sleep(5)
    assert [round(at - calls[0], 3) for at in calls] == [0, 1, 1.01]
