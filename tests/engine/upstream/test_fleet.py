"""Which replica gets what: by load, by what is known there, by session; and who comes and goes."""

import math
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.engine.tales import asking
from tests.engine.test_contract import Listener
from tests.engine.upstream.scripted import ScriptedUpstream, Visit, delta, serving, whole, words

from corral.engine.contract import Handle
from corral.engine.upstream.address import Address, address_of
from corral.engine.upstream.affinity import blocks_of
from corral.engine.upstream.discovery import Found
from corral.engine.upstream.engine import UpstreamEngine
from corral.engine.upstream.fleet import FEW, LOAD_BOUND, Fleet, Wanted
from corral.engine.upstream.kinds import KINDS
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.engine.upstream.replica import Replica
from corral.request import GenerationRequest, Message
from corral.serving.admission import Admission, Ticket


def fleet_of(*slots: int, weights: dict[int, float] | None = None) -> Fleet:
    """Replicas that are all there, with so many slots each."""
    fleet = Fleet(lambda: None)
    for number, size in enumerate(slots):
        address = address_of(f"http://r{number}:1")
        upstream = UpstreamOptions(address, weight=(weights or {}).get(number, 1.0))
        replica = Replica(number, upstream, FleetOptions(), None, lambda: None)
        replica.found = Found(KINDS["llama-server"], "m", size, 10_000)
        fleet.replicas.append(replica)
    return fleet


def talk(*texts: str, session: str | None = None, output_tokens: int = 100) -> Wanted:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[number % 2], text) for number, text in enumerate(texts))  # type: ignore[arg-type]
    request = GenerationRequest(messages)
    size = sum(map(len, texts))
    return Wanted(size // 4, size, output_tokens, blocks_of(request), session)


def numbers(fleet: Fleet, held: ExitStack, *wanted: Wanted) -> list[int]:
    """Where these go, one after the other, each staying there."""
    picked = []
    for each in wanted:
        found = fleet.pick(each)
        assert found is not None
        held.enter_context(found.replica.lease(max(1, each.work - found.known_tokens)))
        picked.append(found.replica.number)
    return picked


async def test_work_is_spread_by_what_is_left_of_it() -> None:
    fleet = fleet_of(4, 4)
    with ExitStack() as held:
        long, short = talk("x" * 40_000), [talk(f"{number}" * 40) for number in range(4)]
        assert numbers(fleet, held, long, *short) == [0, 1, 1, 1, 1]


async def test_none_gets_more_than_its_slots() -> None:
    fleet = fleet_of(1, 2)
    with ExitStack() as held:
        assert sorted(numbers(fleet, held, talk("a"), talk("b"), talk("c"))) == [0, 1, 1]
        assert fleet.pick(talk("d")) is None
    assert [replica.in_flight for replica in fleet.replicas] == [0, 0]
    assert [replica.work for replica in fleet.replicas] == [0, 0]


async def test_one_of_twice_the_weight_gets_twice_the_work() -> None:
    fleet = fleet_of(30, 30, weights={1: 2.0})
    with ExitStack() as held:
        picked = numbers(fleet, held, *(talk(f"{number}") for number in range(30)))
    assert picked.count(1) == 20


async def test_a_conversation_comes_back_to_where_it_was() -> None:
    fleet = fleet_of(2, 2, 2)
    before = "system " * 1000
    with ExitStack() as held:
        [first] = numbers(fleet, held, talk(before, "a", "b"))
    with ExitStack() as held:
        numbers(fleet, held, *(talk(f"other {number}") for number in range(3)))
        [again] = numbers(fleet, held, talk(before, "a", "b", "c", "d"))
    assert again == first
    assert fleet.hits == 1


async def test_load_overrules_what_is_known() -> None:
    """A hot beginning does not melt the replica that has it: others learn it."""
    fleet = fleet_of(100, 100, 100, 100)
    hot = "system " * 500
    with ExitStack() as held:
        picked = numbers(fleet, held, *(talk(hot, "a", f"question {number}") for number in range(80)))
    counts = [picked.count(number) for number in range(4)]
    assert min(counts) > 10, counts
    assert max(counts) < 30, counts


async def test_none_is_given_more_than_its_bounded_share_of_what_runs_for_what_it_knows() -> None:
    fleet = fleet_of(100, 100, 100, 100)
    hot = "system " * 5000
    with ExitStack() as held:
        for number in range(80):
            numbers(fleet, held, talk(hot, "a", f"question {number}"))
            most = max(replica.in_flight for replica in fleet.replicas)
            assert most <= max(FEW, math.ceil(LOAD_BOUND * (number + 1) / 4))
    assert fleet.hits >= 76, "and each of them has it soon"


async def test_the_share_goes_by_weight_and_binds_nobody_where_no_other_has_room() -> None:
    fleet = fleet_of(40, 40, 1, weights={0: 3.0})
    hot = "system " * 5000
    with ExitStack() as held:
        picked = numbers(fleet, held, *(talk(hot, "a", f"question {number}") for number in range(81)))
        assert fleet.pick(talk("more")) is None, "all slots are taken, whatever their share"
    assert picked[:40].count(0) > 20


async def test_a_prompt_to_compute_weighs_more_than_an_answer_that_runs_beside_it() -> None:
    fleet = fleet_of(4, 4)
    before = "system " * 300  # 525 tokens: less than the work of an answer that runs
    with ExitStack() as held:
        [first] = numbers(fleet, held, talk(before, "a", "b"))
    with ExitStack() as held, ExitStack() as soon_over:
        assert numbers(fleet, soon_over, talk("x")) == [1 - first]
        assert numbers(fleet, held, talk("y", output_tokens=200)) == [first]
        soon_over.close()
        assert numbers(fleet, held, talk(before, "a", "b", "c", "d")) == [first]


async def test_a_session_keeps_its_replica_until_that_has_an_answers_work_more() -> None:
    fleet = fleet_of(50, 50)
    with ExitStack() as held:
        [first] = numbers(fleet, held, talk("hello", session="s"))
    with ExitStack() as held:
        numbers(fleet, held, talk("other", output_tokens=10))
        assert numbers(fleet, held, talk("something else", session="s")) == [first]
        picked = numbers(
            fleet, held, *(talk(f"{number}", session="s", output_tokens=512) for number in range(9))
        )
    assert set(picked) == {0, 1}


async def test_where_little_runs_a_session_and_a_conversation_stay_where_they_were() -> None:
    """Though others have nothing at all to do."""
    fleet = fleet_of(8, 8, 8, 8, 8, 8)
    before = "system " * 1000
    with ExitStack() as held:
        [first] = numbers(fleet, held, talk(before, "a", "b", session="s"))
    with ExitStack() as held:
        for turn in range(2):
            assert numbers(fleet, held, talk(before, "a", "b", f"{turn}", "c")) == [first]
        assert numbers(fleet, held, talk("something else", session="s")) == [first], "whatever runs there"
        [other] = numbers(fleet, held, talk(before, "a", "b", "more", "c"))
        assert other != first, "its share is two by now"


async def test_one_that_is_out_or_drained_gets_nothing() -> None:
    fleet = fleet_of(2, 2, 2)
    fleet.replicas[0].breaker.open("it broke")
    fleet.replicas[1].set_draining(True)
    with ExitStack() as held:
        assert numbers(fleet, held, talk("a"), talk("b")) == [2, 2]
        assert fleet.pick(talk("c")) is None
    assert fleet.slots == 2


# Coming and going


async def says_a_word(visit: Visit) -> None:
    await visit.say(delta("well"))
    await trio.sleep_forever()


@asynccontextmanager
async def running(*upstreams: ScriptedUpstream) -> AsyncIterator[UpstreamEngine]:
    async with serving(*upstreams), trio.open_nursery() as nursery:
        engine = await UpstreamEngine.opened([each.options() for each in upstreams], FleetOptions())
        await nursery.start(engine.run)
        yield engine
        engine.check_idle()
        nursery.cancel_scope.cancel()


async def test_a_replica_that_is_drained_keeps_what_it_has_and_gets_nothing_more() -> None:
    upstreams = ScriptedUpstream(says_a_word), ScriptedUpstream()
    async with running(*upstreams) as engine:
        listener = Listener()
        prepared = await engine.prepare(asking("x"), client="somebody")
        handle = engine.submit(prepared, 0, listener, max_tokens=9)
        await listener.has_begun.wait()
        name = engine.replicas[0].name
        assert engine.set_draining(name, True)
        assert [replica.state for replica in engine.replicas] == ["draining", "in service"]
        assert engine.capacity.slots == 3, "one is held there yet"
        assert not listener.releases
        handle.cancel()
        await listener.is_released.wait()
        assert engine.capacity.slots == 2
        assert engine.set_draining(name, False)
        assert engine.capacity.slots == 4
        assert not engine.set_draining("nobody", True)


async def test_new_settings_bring_replicas_and_let_others_finish() -> None:
    leaving, joining = ScriptedUpstream(says_a_word), ScriptedUpstream(slots=5)
    async with running(leaving) as engine, serving(joining):
        listener = Listener()
        prepared = await engine.prepare(asking("x"), client="somebody")
        handle = engine.submit(prepared, 0, listener, max_tokens=9)
        await listener.has_begun.wait()
        joined = trio.Event()
        engine.reconfigure([joining.options()])
        engine.on_capacity.append(lambda: joined.set() if engine.capacity.slots == 5 + 1 else None)
        await joined.wait()
        assert [replica.state for replica in engine.replicas] == ["draining", "in service"]
        assert not listener.releases
        handle.cancel()
        await listener.is_released.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [replica.name for replica in engine.replicas] == [f"127.0.0.1:{joining.port}"]


async def test_the_same_settings_change_nothing() -> None:
    upstream = ScriptedUpstream()
    async with running(upstream) as engine:
        [replica] = engine.fleet.replicas
        engine.reconfigure([upstream.options()])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert engine.fleet.replicas == [replica]
        assert replica.is_in_service


@pytest.mark.parametrize("is_draining", [True, False])
async def test_capacity_is_told_of_while_it_changes(is_draining: bool) -> None:
    async with running(ScriptedUpstream(slots=3), ScriptedUpstream(slots=1)) as engine:
        told: list[int] = []
        engine.on_capacity.append(lambda: told.append(engine.capacity.slots))
        name = engine.replicas[0].name
        engine.set_draining(name, True)
        if not is_draining:
            engine.set_draining(name, False)
        assert told == ([1] if is_draining else [1, 4])


BAD = [
    UpstreamOptions(Address("gpu..internal", 1, is_tls=False)),
    UpstreamOptions(Address("127.0.0.1", 1, is_tls=False), key="sk-secret\nx"),
    UpstreamOptions(Address("127.0.0.1", 1, is_tls=False), key="sk-secret\u00e9"),
]


@pytest.mark.parametrize("bad", BAD)
async def test_one_that_cannot_be_asked_is_out_and_ends_nothing(
    bad: UpstreamOptions, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = ScriptedUpstream()
    async with running(upstream) as engine:
        engine.reconfigure([upstream.options(), bad])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [replica.state for replica in engine.replicas] == ["in service", "out"]
        assert "sk-secret" not in str(engine.replicas) + caplog.text


async def begun(engine: UpstreamEngine, count: int) -> list[tuple[Listener, Handle]]:
    """So many sequences of which a word was heard."""
    started: list[tuple[Listener, Handle]] = []
    for _ in range(count):
        listener = Listener()
        prepared = await engine.prepare(asking("x"), client="somebody")
        started.append((listener, engine.submit(prepared, 0, listener, max_tokens=9)))
        await listener.has_begun.wait()
    return started


async def ended(started: list[tuple[Listener, Handle]]) -> None:
    for listener, handle in started:
        handle.cancel()
        await listener.is_released.wait()


async def test_what_runs_at_a_drained_replica_takes_no_slot_of_the_others() -> None:
    upstreams = ScriptedUpstream(says_a_word), ScriptedUpstream()
    async with running(*upstreams) as engine:
        admission = Admission(engine.capacity.slots, 10)
        engine.on_capacity.append(lambda: admission.resize(engine.capacity.slots))
        drained, other = engine.replicas
        engine.set_draining(other.name, True)
        for _ in range(2):
            admission.join(Ticket(1, "client", start=lambda: None, moved=lambda position: None))
        started = await begun(engine, 2)
        engine.set_draining(other.name, False)
        engine.set_draining(drained.name, True)
        assert admission.free_slots == 2
        await ended(started)


async def test_one_that_comes_back_while_it_leaves_is_served_again() -> None:
    leaving, staying = ScriptedUpstream(says_a_word), ScriptedUpstream()
    async with running(leaving, staying) as engine:
        names = [replica.name for replica in engine.replicas]
        started = await begun(engine, 1)
        for _ in range(2):
            engine.reconfigure([staying.options()])
            assert not engine.set_draining(names[0], False), "it leaves, whatever it is told"
            engine.reconfigure([leaving.options(), staying.options()])
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert [replica.state for replica in engine.replicas] == ["in service", "in service"]
        await ended(started)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [replica.name for replica in engine.replicas] == names
        engine.reconfigure([staying.options()])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [replica.name for replica in engine.replicas] == names[1:]


async def test_one_that_is_described_otherwise_keeps_what_it_has_and_takes_no_more_than_its_slots() -> None:
    upstream = ScriptedUpstream(says_a_word)
    async with running(upstream) as engine:
        started = await begun(engine, 2)
        engine.reconfigure([upstream.options(weight=2.0, key="sk-2")])
        await trio.testing.wait_all_tasks_blocked(0.01)
        [replica] = engine.replicas
        assert (replica.weight, replica.in_flight, replica.state) == (2.0, 2, "in service")
        assert engine.fleet.pick(talk("more")) is None
        assert engine.capacity.slots == 2
        await ended(started)


class Boasting(ScriptedUpstream):
    """Says of itself what nobody should believe, or show."""

    def _told(self, path: str) -> bytes:
        if path == "/v1/models":
            return whole(200, {"data": [{"id": "\x1b]0;owned\x07" + "m" * 9999, "owned_by": "llamacpp"}]})
        return whole(200, {"total_slots": 10**6})


async def test_what_an_upstream_says_of_itself_is_bounded_and_drives_no_terminal() -> None:
    async with running(Boasting()) as engine:
        assert engine.capacity.slots == 4096
        for shown in (engine.model, engine.replicas[0].model):
            assert "\x1b" not in shown
            assert len(shown) <= 256


async def test_a_bug_in_asking_one_takes_it_out_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    upstream = ScriptedUpstream()
    async with serving(upstream):
        options = UpstreamOptions(Address("127.0.0.1", upstream.port, is_tls=True))
        no_context: Any = "no TLS context"
        replica = Replica(1, options, FleetOptions(), no_context, lambda: None)
        await replica.find()
    assert replica.state().state == "out"
    assert replica.state().reason == "this server failed to ask it"
    assert "by a bug" in caplog.text


async def test_one_that_is_described_otherwise_while_it_is_tried_is_tried_as_that() -> None:
    async def says_nothing_to_strangers(visit: Visit) -> None:
        await (words if b"Bearer sk-2" in visit.head else says_a_word)(visit)

    upstream = ScriptedUpstream(says_nothing_to_strangers)
    async with running(upstream) as engine:
        [replica] = engine.fleet.replicas
        back = trio.Event()
        replica.breaker.open("it broke")
        replica.breaker.retry_s = trio.current_time()
        engine.set_draining(replica.name, True)  # wakes who looks at it
        engine.set_draining(replica.name, False)
        await upstream.visit(0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        engine.on_capacity.append(back.set)
        engine.reconfigure([upstream.options(key="sk-2")])
        with trio.fail_after(5):
            await back.wait()
        assert replica.is_in_service
