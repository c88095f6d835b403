"""Upstreams that leave, hang, lie and break: what a sequence hears of it, and what is left of it."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from tests.engine.tales import asking
from tests.engine.test_contract import Listener
from tests.engine.upstream.scripted import (
    DONE,
    LAST,
    STREAM,
    ScriptedUpstream,
    Visit,
    chunk,
    delta,
    frame,
    serving,
    usage,
    words,
)

from corral.engine.contract import Handle
from corral.engine.upstream.breaker import FAILURES, FIRST_S
from corral.engine.upstream.engine import UpstreamEngine
from corral.engine.upstream.options import FleetOptions
from corral.errors import EngineFailed, InvalidRequest, Overloaded, UpstreamFailed
from corral.events import BlockDelta, Failed, Finished, Placed, Prefill, Usage
from corral.request import GenerationRequest, RawPrompt

WHOLE = delta("well") + delta(finish="stop") + usage(9, 1) + DONE


@asynccontextmanager
async def running(
    *upstreams: ScriptedUpstream, probe_s: float = 10.0, silence_s: float = 300.0
) -> AsyncIterator[UpstreamEngine]:
    """An engine over these; nothing of any sequence may be left at the end."""
    options = FleetOptions(upstream_probe_s=probe_s, upstream_silence_s=silence_s)
    async with serving(*upstreams), trio.open_nursery() as nursery:
        engine = await UpstreamEngine.opened([upstream.options() for upstream in upstreams], options)
        await nursery.start(engine.run)
        yield engine
        engine.check_idle()
        nursery.cancel_scope.cancel()


async def submitted(
    engine: UpstreamEngine, listener: Listener, request: GenerationRequest | None = None
) -> Handle:
    prepared = await engine.prepare(request or asking("tell me", max_tokens=50), client="somebody")
    return engine.submit(prepared, 0, listener, max_tokens=prepared.max_tokens)


async def heard(engine: UpstreamEngine, request: GenerationRequest | None = None) -> Listener:
    """All that a sequence was told."""
    listener = Listener()
    await submitted(engine, listener, request)
    await listener.is_released.wait()
    return listener


def text_of(listener: Listener) -> str:
    return "".join(event.text for event in listener.events_so_far if isinstance(event, BlockDelta))


def error_of(listener: Listener) -> Exception:
    [failed] = listener.endings
    assert isinstance(failed, Failed)
    return failed.error


async def sends_whole(visit: Visit) -> None:
    await visit.send(STREAM + chunk(WHOLE) + LAST)


# Whole answers, however they come


async def in_one_byte_chunks(visit: Visit) -> None:
    await visit.send(STREAM)
    for byte in WHOLE:
        await visit.send(chunk(bytes([byte])))
    await visit.send(LAST)


async def byte_by_byte(visit: Visit) -> None:
    for byte in STREAM + chunk(WHOLE) + LAST:
        await visit.send(bytes([byte]))


async def with_comments(visit: Visit) -> None:
    await visit.send(STREAM + chunk(b": ping\n\n" * 1000) + chunk(WHOLE) + LAST)


async def without_chunks(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + WHOLE)
    await visit.stream.send_eof()


async def without_a_last_chunk(visit: Visit) -> None:
    await visit.send(STREAM + chunk(WHOLE))
    await visit.gone.wait()


async def without_done(visit: Visit) -> None:
    await visit.send(STREAM + chunk(WHOLE.removesuffix(DONE)) + LAST)


@pytest.mark.parametrize(
    "play",
    [in_one_byte_chunks, byte_by_byte, with_comments, without_chunks, without_a_last_chunk, without_done],
)
async def test_an_answer_is_whole_however_it_comes(play: Callable[[Visit], Awaitable[None]]) -> None:
    async with running(ScriptedUpstream(play)) as engine:
        listener = await heard(engine)
    assert text_of(listener) == "well"
    [finished] = listener.endings
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(9, 0, 1)


# Answers that are none


async def not_http(visit: Visit) -> None:
    await visit.send(b"SSH-2.0-OpenSSH\r\n\r\n")


async def closes(visit: Visit) -> None:
    await visit.stream.aclose()


async def garbage(visit: Visit) -> None:
    await visit.say(b"data: <html>\n\n")


async def a_page(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi")


async def whole_json(visit: Visit) -> None:
    await visit.answer(200, {"choices": [{"message": {"content": "well"}}]})


async def endless_head(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await visit.send(b"x-more: " + b"a" * 1000 + b"\r\n")


async def endless_frame(visit: Visit) -> None:
    await visit.send(STREAM + chunk(b"data: "))
    while True:
        await visit.send(chunk(b"a" * 10_000))


async def compressed(visit: Visit) -> None:
    body = gzip.compress(WHOLE)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
    await visit.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)


async def elsewhere(visit: Visit) -> None:
    await visit.answer(307, {}, b"location: http://127.0.0.1:1/\r\n")


async def no_end(visit: Visit) -> None:
    await visit.send(STREAM + chunk(DONE) + LAST)


async def broken_off(visit: Visit) -> None:
    await visit.say(frame({"choices": []}))
    await visit.stream.aclose()


async def half_a_frame(visit: Visit) -> None:
    await visit.send(STREAM + chunk(WHOLE[:20]) + LAST)


ANSWERS_THAT_ARE_NONE = [
    not_http,
    closes,
    garbage,
    a_page,
    whole_json,
    endless_head,
    endless_frame,
    compressed,
    elsewhere,
    no_end,
    broken_off,
    half_a_frame,
]


@pytest.mark.parametrize("play", ANSWERS_THAT_ARE_NONE)
async def test_an_answer_that_is_none_is_asked_for_once_elsewhere(
    play: Callable[[Visit], Awaitable[None]],
) -> None:
    broken, well = ScriptedUpstream(play), ScriptedUpstream(sends_whole)
    async with running(broken, well) as engine:
        listener = await heard(engine)
    assert text_of(listener) == "well"
    assert len(broken.visits) == len(well.visits) == 1
    placed = [event for event in listener.events_so_far if isinstance(event, Placed)]
    assert [event.replica for event in placed] == [
        f"127.0.0.1:{upstream.port}" for upstream in (broken, well)
    ]


@pytest.mark.parametrize("play", ANSWERS_THAT_ARE_NONE)
async def test_alone_it_is_a_failure_that_says_so(play: Callable[[Visit], Awaitable[None]]) -> None:
    upstream = ScriptedUpstream(play)
    async with running(upstream) as engine:
        error = error_of(await heard(engine))
    assert isinstance(error, UpstreamFailed)
    assert "engine behind this server" in error.message
    assert len(upstream.visits) == 1


async def test_both_that_fail_are_all_that_is_tried() -> None:
    upstreams = [ScriptedUpstream(closes) for _ in range(3)]
    async with running(*upstreams) as engine:
        assert isinstance(error_of(await heard(engine)), UpstreamFailed)
    assert sum(len(upstream.visits) for upstream in upstreams) == 2


async def dies_after_a_word(visit: Visit) -> None:
    await visit.say(delta("well"))
    await visit.stream.aclose()


async def fails_after_a_word(visit: Visit) -> None:
    await visit.say(delta("well"), frame({"error": {"message": "boom", "code": 500}}))


async def fails_in_the_same_breath(visit: Visit) -> None:
    failed = frame({"error": {"message": "boom", "code": 500}})
    await visit.send(STREAM + chunk(delta("well") + failed) + LAST)


async def goes_on_past_the_limit(visit: Visit) -> None:
    counted = [delta("a ") + usage(9, number) for number in range(1, 100)]
    await visit.send(STREAM + b"".join(map(chunk, counted)))
    await visit.gone.wait()


async def goes_on_far_past_the_limit_and_counts_nothing(visit: Visit) -> None:
    await visit.say(*(delta("a ") for _ in range(2000)))
    await visit.gone.wait()


@pytest.mark.parametrize(
    "play",
    [
        dies_after_a_word,
        fails_after_a_word,
        fails_in_the_same_breath,
        goes_on_past_the_limit,
        goes_on_far_past_the_limit_and_counts_nothing,
    ],
)
async def test_after_the_first_word_there_is_no_second_beginning(
    play: Callable[[Visit], Awaitable[None]],
) -> None:
    broken, well = ScriptedUpstream(play), ScriptedUpstream()
    async with running(broken, well) as engine:
        listener = await heard(engine)
    assert text_of(listener)
    assert isinstance(error_of(listener), EngineFailed)
    assert not well.visits


async def test_an_answer_that_comes_in_less_than_tokens_keeps_its_limit() -> None:
    text = "internationalization of it"

    async def in_letters(visit: Visit) -> None:
        letters = b"".join(map(delta, text))
        await visit.send(STREAM + chunk(letters + delta(finish="stop") + usage(9, 5) + DONE) + LAST)

    async with running(ScriptedUpstream(in_letters)) as engine:
        listener = await heard(engine, asking("x", max_tokens=8))
    assert text_of(listener) == text
    assert isinstance(listener.endings[0], Finished)


async def test_a_whole_answer_has_one_end_though_its_connection_has_none() -> None:
    upstream = ScriptedUpstream(without_a_last_chunk)
    async with running(upstream, silence_s=0.1) as engine:
        listener = await heard(engine)
        [replica] = engine.fleet.replicas
        assert replica.breaker.failures == 0
    assert [type(ending) for ending in listener.endings] == [Finished]


async def test_a_whole_answer_has_one_end_though_its_replica_dies_after_it() -> None:
    upstream = ScriptedUpstream(without_a_last_chunk)
    async with running(upstream, probe_s=0.05) as engine:
        upstream.hangs = True
        listener = await heard(engine)
        assert not engine.fleet.replicas[0].is_in_service
    assert [type(ending) for ending in listener.endings] == [Finished]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (429, Overloaded), (500, UpstreamFailed), (401, UpstreamFailed)],
)
async def test_a_refusal_is_told_as_ours_and_one_of_the_request_itself_is_not_tried_again(
    status: int, kind: type[Exception]
) -> None:
    async def refuse(visit: Visit) -> None:
        await visit.answer(status, {"error": {"message": "no"}}, b"retry-after: 3\r\n")

    upstreams = ScriptedUpstream(refuse), ScriptedUpstream(refuse)
    async with running(*upstreams) as engine:
        assert type(error_of(await heard(engine))) is kind
    assert sum(len(upstream.visits) for upstream in upstreams) == (1 if status == 400 else 2)


async def ends_without_a_word(visit: Visit) -> None:
    await visit.send(STREAM + LAST)


async def test_one_that_hides_its_errors_is_not_blamed_for_the_request_and_is_named_nothing() -> None:
    """As llama_cpp.server does with a prompt that is too long; and it minds ids that are no UUIDs."""
    upstream = ScriptedUpstream(ends_without_a_word, owner="me")
    async with running(upstream) as engine:
        for _ in range(FAILURES):
            error = error_of(await heard(engine))
            assert isinstance(error, UpstreamFailed)
            assert "prompt is too long" in error.message
        [replica] = engine.replicas
        assert (replica.state, replica.kind, replica.slots) == ("in service", "llama-cpp-python", 1)
    assert all(b"x-request-id" not in visit.head.lower() for visit in upstream.visits)


# Leaving


async def says_nothing(visit: Visit) -> None:
    await trio.sleep_forever()


async def sends_a_head(visit: Visit) -> None:
    await visit.send(STREAM)
    await trio.sleep_forever()


async def prefills(visit: Visit) -> None:
    await visit.say(frame({"choices": [], "prompt_progress": {"total": 9, "processed": 3, "cache": 0}}))
    await trio.sleep_forever()


async def says_a_word(visit: Visit) -> None:
    await visit.say(delta("well"))
    await trio.sleep_forever()


@pytest.mark.parametrize("play", [says_nothing, sends_a_head, prefills, says_a_word])
async def test_a_cancel_resets_the_connection_in_every_phase(
    play: Callable[[Visit], Awaitable[None]],
) -> None:
    upstream = ScriptedUpstream(play)
    async with running(upstream) as engine:
        listener = Listener()
        handle = await submitted(engine, listener)
        visit = await upstream.visit(0)
        await trio.testing.wait_all_tasks_blocked()
        handle.cancel()
        with trio.fail_after(5):
            await visit.gone.wait()
            await listener.is_released.wait()
    assert visit.went == "rst"
    assert not listener.endings


async def test_a_cancel_before_anything_was_sent_asks_for_nothing() -> None:
    upstream = ScriptedUpstream()
    async with running(upstream) as engine:
        listener = Listener()
        handle = await submitted(engine, listener)
        handle.cancel()
        await listener.is_released.wait()
        assert not upstream.visits


async def test_a_slot_comes_back_only_when_the_upstream_computes_no_more() -> None:
    upstream = ScriptedUpstream(says_a_word)
    upstream.lingers = True
    async with running(upstream) as engine:
        [replica] = engine.fleet.replicas
        listener = Listener()
        handle = await submitted(engine, listener)
        await listener.has_begun.wait()
        handle.cancel()
        visit = await upstream.visit(0)
        await visit.gone.wait()
        while upstream.others.count("/slots") < 3:
            await upstream.looked.park()
        assert not listener.releases
        assert replica.in_flight == 1
        upstream.stop_computing()
        await listener.is_released.wait()
    [waste] = listener.releases
    assert waste.residual_s > 0
    assert replica.residue.total_s == pytest.approx(waste.residual_s, abs=0.1)


async def test_what_still_runs_is_not_taken_for_what_is_left_of_the_gone() -> None:
    upstream = ScriptedUpstream(says_a_word)
    async with running(upstream) as engine:
        staying, leaving = Listener(), Listener()
        stays = await submitted(engine, staying)
        leaves = await submitted(engine, leaving)
        await staying.has_begun.wait()
        await leaving.has_begun.wait()
        leaves.cancel()
        with trio.fail_after(5):
            await leaving.is_released.wait()
        assert not staying.releases
        stays.cancel()
        await staying.is_released.wait()


async def test_what_still_prefills_is_not_taken_for_what_is_left_of_the_gone() -> None:
    """Though nothing was heard of it yet."""

    async def play(visit: Visit) -> None:
        await (says_a_word if len(upstream.visits) == 1 else sends_a_head)(visit)

    upstream = ScriptedUpstream(play)
    async with running(upstream) as engine:
        leaving, staying = Listener(), Listener()
        leaves = await submitted(engine, leaving)
        await leaving.has_begun.wait()
        stays = await submitted(engine, staying)
        await upstream.visit(1)
        leaves.cancel()
        with trio.fail_after(2):
            await leaving.is_released.wait()
        assert not staying.releases
        stays.cancel()
        await staying.is_released.wait()


async def test_one_that_stops_while_it_is_looked_at_gives_its_slot_back() -> None:
    upstream = ScriptedUpstream(says_a_word)
    upstream.lingers = True
    async with running(upstream, probe_s=0.1) as engine:
        listener = Listener()
        handle = await submitted(engine, listener)
        await listener.has_begun.wait()
        upstream.hangs = True
        handle.cancel()
        with trio.fail_after(5):
            await listener.is_released.wait()
        assert not engine.fleet.replicas[0].is_in_service
        upstream.stop_computing()


async def test_where_slots_are_not_shown_a_slot_comes_back_at_once() -> None:
    upstream = ScriptedUpstream(says_a_word, owner="somebody")
    upstream.lingers = True
    async with running(upstream) as engine:
        listener = Listener()
        handle = await submitted(engine, listener)
        await listener.has_begun.wait()
        handle.cancel()
        await listener.is_released.wait()
        assert "/slots" not in upstream.others
        upstream.stop_computing()


async def test_where_slots_are_turned_off_that_is_asked_once() -> None:
    upstream = ScriptedUpstream(says_a_word)
    upstream.shows_slots = False
    upstream.lingers = True
    async with running(upstream) as engine:
        for _ in range(2):
            listener = Listener()
            handle = await submitted(engine, listener)
            await listener.has_begun.wait()
            handle.cancel()
            with trio.fail_after(5):
                await listener.is_released.wait()
        assert upstream.others.count("/slots") == 1
        upstream.stop_computing()


async def test_one_that_is_used_by_others_too_is_not_waited_for() -> None:
    """While nothing of ours runs there it computes all the same."""
    upstream = ScriptedUpstream(says_a_word)
    async with running(upstream, probe_s=0.05) as engine:
        upstream.busy += 1
        [replica] = engine.fleet.replicas
        while not replica.shared:
            await upstream.looked.park()
            await trio.testing.wait_all_tasks_blocked()
        listener = Listener()
        handle = await submitted(engine, listener)
        await listener.has_begun.wait()
        handle.cancel()
        with trio.fail_after(5):
            await listener.is_released.wait()
        assert listener.releases[0].residual_s == 0


async def test_one_that_has_an_abort_call_gets_it() -> None:
    upstream = ScriptedUpstream(says_a_word, owner="sglang")
    async with running(upstream) as engine:
        listener = Listener()
        handle = await submitted(engine, listener)
        await listener.has_begun.wait()
        handle.cancel()
        await listener.is_released.wait()
    assert upstream.aborted == [upstream.visits[0].body["rid"]]


# Being there


async def test_one_that_hangs_is_given_up_and_what_it_had_not_begun_goes_elsewhere() -> None:
    """It takes connections and says nothing, as a process does that was stopped."""
    hanging, well = ScriptedUpstream(says_nothing), ScriptedUpstream()
    async with running(hanging, well, probe_s=0.2) as engine:
        hanging.hangs = True
        listener = await heard(engine)
        assert isinstance(listener.endings[0], Finished)
        assert not engine.fleet.replicas[0].is_in_service
        assert engine.capacity.slots == 2


async def test_one_that_hangs_fails_what_it_had_begun() -> None:
    hanging = ScriptedUpstream(says_a_word)
    async with running(hanging, probe_s=0.2) as engine:
        listener = Listener()
        await submitted(engine, listener)
        await listener.has_begun.wait()
        hanging.hangs = True
        await listener.is_released.wait()
        assert "does not answer any more" in str(error_of(listener))
        assert engine.failure is not None
        with pytest.raises(UpstreamFailed, match="none of the engines"):
            engine.check(asking("x"))


@pytest.mark.parametrize(
    "nothing",
    [
        b": still here\n\n",
        frame({"choices": []}),
        delta(""),
        frame({"choices": [], "prompt_progress": {"total": 9, "processed": 3, "cache": 0}}),
        usage(9, 0),
    ],
)
async def test_one_that_brings_nothing_on_is_given_so_much_time_and_no_more(nothing: bytes) -> None:
    async def comments(visit: Visit) -> None:
        await visit.send(STREAM)
        while True:
            await visit.send(chunk(nothing))
            await trio.sleep(0.01)

    upstream = ScriptedUpstream(comments)
    async with running(upstream, silence_s=0.15) as engine:
        with trio.fail_after(5):
            assert "said nothing for too long" in str(error_of(await heard(engine)))
    assert upstream.visits[0].went == "rst"


async def test_a_long_prefill_is_not_silence() -> None:
    async def prefills_long(visit: Visit) -> None:
        await visit.send(STREAM)
        for done in range(40):
            progress = {"total": 100, "processed": done, "cache": 0}
            await visit.send(chunk(frame({"choices": [], "prompt_progress": progress})))
            await trio.sleep(0.02)
        await visit.send(chunk(WHOLE) + LAST)

    async with running(ScriptedUpstream(prefills_long), silence_s=0.3) as engine:
        listener = await heard(engine)
    assert text_of(listener) == "well"
    assert sum(isinstance(event, Prefill) for event in listener.events_so_far) == 40


async def test_failures_in_a_row_take_a_replica_out_until_it_generates_again() -> None:
    upstream, other = ScriptedUpstream(closes, slots=2), ScriptedUpstream(slots=1)
    sizes: list[int] = []
    async with running(upstream, other, probe_s=5.0) as engine:
        engine.on_capacity.append(lambda: sizes.append(engine.capacity.slots))
        replica = engine.fleet.replicas[0]
        while replica.is_in_service:
            await heard(engine)
        assert sizes == [1]
        upstream.play = words
        back = trio.Event()
        engine.on_capacity.append(back.set)
        await back.wait()
        assert sizes == [1, 3]
        [tried] = [visit for visit in upstream.visits if visit.body.get("max_tokens") == 1]
        assert tried.went in ("", "fin")


async def test_one_that_is_not_there_at_the_start_is_found_later() -> None:
    upstream, late = ScriptedUpstream(), ScriptedUpstream(slots=3)
    async with trio.open_nursery() as nursery:
        async with serving(upstream):
            late.port = await _free_port()
            options = [each.options() for each in (upstream, late)]
            engine = await UpstreamEngine.opened(options, FleetOptions())
            assert engine.capacity.slots == 2
            await nursery.start(engine.run)
            await nursery.start(late.serve)
            resized = trio.Event()
            engine.on_capacity.append(resized.set)
            with trio.fail_after(10):
                await resized.wait()
            assert engine.capacity.slots == 5
        nursery.cancel_scope.cancel()


async def test_an_idle_one_that_says_it_is_not_well_is_given_nothing() -> None:
    upstream = ScriptedUpstream()
    async with running(upstream, probe_s=0.1) as engine:
        changed = trio.Event()
        engine.on_capacity.append(changed.set)
        upstream.healthy = False
        await changed.wait()
        assert engine.capacity.slots == 0


# What is asked


async def test_what_stands_in_its_configuration_is_not_asked_for() -> None:
    upstream = ScriptedUpstream()
    async with serving(upstream), trio.open_nursery() as nursery:
        options = upstream.options(key="sk-1", slots=7, models=("big",), kind="vllm", ctx_tokens=99)
        engine = await UpstreamEngine.opened([options], FleetOptions())
        assert (engine.capacity.slots, engine.capacity.request_ctx_tokens) == (7, 99)
        assert engine.model == "big"
        await nursery.start(engine.run)
        await heard(engine, asking("x", max_tokens=2))
        nursery.cancel_scope.cancel()
    [visit] = upstream.visits
    assert visit.body["model"] == "big"
    assert b"authorization: bearer sk-1\r\n" in visit.head.lower() + b"\r\n"


async def test_an_output_that_may_be_clipped_leaves_room_for_the_prompt() -> None:
    upstream = ScriptedUpstream(sends_whole, ctx_tokens=1000)
    async with running(upstream) as engine:
        await heard(engine, asking("word " * 100, max_tokens=64_000, is_clipped=True))
    assert 500 < upstream.visits[0].body["max_tokens"] < 900


async def test_without_a_limit_of_its_own_a_request_has_none_upstream() -> None:
    upstream = ScriptedUpstream(sends_whole)
    async with running(upstream) as engine:
        await heard(engine, asking("x"))
    assert "max_tokens" not in upstream.visits[0].body


async def _free_port() -> int:
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    sock.close()
    return port


async def test_who_has_no_completions_is_none_the_worse_and_is_not_asked_again() -> None:
    async def only_chats(visit: Visit) -> None:
        if visit.head.startswith(b"POST /v1/completions"):
            await visit.answer(404, {"error": "no such route"})
        else:
            await sends_whole(visit)

    completion = GenerationRequest(prompt=RawPrompt("once"), max_tokens=5)
    upstreams = [ScriptedUpstream(only_chats) for _ in range(2)]
    async with running(*upstreams) as engine:
        for _ in range(FAILURES):
            error = error_of(await heard(engine, completion))
            assert isinstance(error, InvalidRequest)
            assert error.param == "prompt"
        assert [len(upstream.visits) for upstream in upstreams] == [1, 1]
        assert [replica.state for replica in engine.replicas] == ["in service", "in service"]
        with pytest.raises(InvalidRequest):
            engine.check(completion)
        assert text_of(await heard(engine)) == "well"


async def an_error(visit: Visit) -> None:
    await visit.say(frame({"error": {"message": "CUDA error", "code": 500}}), DONE)


async def only_done(visit: Visit) -> None:
    await visit.say(DONE)


@pytest.mark.parametrize("play", [an_error, only_done])
async def test_one_that_is_tried_and_answers_with_an_error_stays_out(
    play: Callable[[Visit], Awaitable[None]],
) -> None:
    upstream = ScriptedUpstream(play)
    async with running(upstream) as engine:
        [replica] = engine.fleet.replicas
        replica.breaker.open("it broke")
        replica.breaker.retry_s = trio.current_time()
        replica.set_draining(True)  # wakes who looks at it
        await upstream.visit(0)
        with trio.fail_after(5):
            while replica.breaker.retry_s - trio.current_time() < FIRST_S:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert not replica.breaker.is_closed


async def test_one_that_is_tried_may_take_as_long_as_a_clients_request() -> None:
    async def is_slow(visit: Visit) -> None:
        await visit.send(STREAM)
        await trio.sleep(0.15)
        await visit.send(chunk(WHOLE) + LAST)

    upstream = ScriptedUpstream(is_slow)
    async with running(upstream, probe_s=0.1) as engine:
        [replica] = engine.fleet.replicas
        replica.breaker.open("it broke")
        replica.breaker.retry_s = trio.current_time()
        back = trio.Event()
        engine.on_capacity.append(lambda: back.set() if engine.capacity.slots else None)
        replica.set_draining(True)  # wakes who looks at it
        replica.set_draining(False)
        with trio.fail_after(5):
            await back.wait()
        assert len(upstream.visits) == 1
