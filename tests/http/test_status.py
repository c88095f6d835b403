"""What an operator sees, from end to end on the scripted backend, at the ASGI boundary."""

import json

import pytest
import trio
import trio.testing
from tests.harness import Gate, serving
from tests.http.watch import opening, watching

from corral.engine.local.scripted import ScriptedBackend, replying
from corral.watching import feed

# What is seen


async def test_two_requests_are_seen_in_their_own_lanes_with_all_that_they_say() -> None:
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate), status_content=True) as client,
        opening(gate),
        watching(client) as watch,
    ):
        streams = [client.chat(text, stream=True, max_tokens=9) for text in ("one", "two")]
        ids = [json.loads((await s.chunk()).removeprefix(b"data: "))["id"] for s in streams]
        gate.open()
        bodies = [await stream.body() for stream in streams]
        await client.service.wait_settled()
        await watch.until(lambda watch: len(watch.state["history"]) == 2)
        tokens = {id: [d["text"] for e, d in watch.events if e == "token" and d["id"] == id] for id in ids}
        for id, body in zip(ids, bodies, strict=True):
            sent = [json.loads(line[6:]) for line in body.decode().split("\n\n")[:-2]]
            said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in sent)
            assert "".join(tokens[id]) == said
            assert len(said) == 9
        lanes = {d["id"]: d["lanes"] for e, d in watch.events if e == "request" and d.get("lanes")}
        assert sorted(lanes.values()) == [[0], [1]]


async def test_drafts_are_told_with_what_was_right_of_them_and_only_to_those_who_may_see_text() -> None:
    text = "the cat sat on the mat; the cat sat on the hat; the end"
    for shown in (True, False):
        backend = ScriptedBackend(replying(lambda _: text))
        async with serving(backend, status_content=shown) as client, watching(client) as watch:
            answer = await client.chat("hello", max_tokens=200).json()
            await watch.until(lambda watch: watch.state["history"])
            drafts = [data for event, data in watch.events if event == "draft"]
            [row] = watch.state["history"]
            assert row["completion_tokens"] == answer["usage"]["completion_tokens"] == len(text) + 1
            assert row["accept_rate"] > 0
            assert bool(drafts) is shown
            assert all("".join(draft["tokens"][: draft["accepted"]]) in text for draft in drafts)
            [recent] = (await client.send("GET", "/status/json").json())["recent"]
            assert ("draft" in recent) is shown
            if shown:
                assert recent["accepted"] / recent["drafted"] == pytest.approx(row["accept_rate"], abs=1e-3)
                assert recent["draft"] == {key: drafts[-1][key] for key in ("tokens", "accepted")}


async def test_who_may_not_see_text_gets_no_draft_beside_somebody_who_may() -> None:
    backend = ScriptedBackend(replying(lambda _: "the cat sat on the mat; the cat sat on the hat; the end"))
    elsewhere = {"X-Forwarded-For": "192.0.2.1"}
    async with (
        serving(backend, status_content=True) as client,
        watching(client) as local,
        watching(client, **elsewhere) as remote,
    ):
        await client.chat("hello", max_tokens=200).json()
        for watch in (local, remote):
            await watch.until(lambda watch: watch.state["history"])
        assert "draft" in [event for event, _ in local.events]
        assert not {"draft", "token"} & {event for event, _ in remote.events}
        assert b"cat" not in remote.raw


async def test_who_comes_in_mid_run_sees_everything_from_the_start() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), status_content=True) as client, opening(gate):
        stream = client.chat("hello", stream=True)
        gate.let(6)
        for _ in range(7):
            await gate.wait_arrived()
        async with watching(client) as watch:
            [request] = watch.state["requests"]
            assert request["state"] == "decode"
            assert request["messages"] == [{"role": "user", "content": "hello"}]
            so_far = watch.text()
            assert so_far
            gate.let(1)
            await watch.until(lambda watch: watch.text() != so_far)
            assert watch.text().startswith(so_far)
            answer = await client.send("GET", "/status/json").json()
            assert answer["requests"][0]["output"] == [watch.state["requests"][0]["output"][0]]
        stream.leave()


async def test_a_reader_that_comes_back_misses_nothing() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), status_content=True) as client, opening(gate):
        async with watching(client) as stays, watching(client) as leaves:
            stream = client.chat("hello", stream=True)
            await stays.until(lambda watch: watch.state["requests"])
            await leaves.until(lambda watch: watch.state["requests"])
            leaves.exchange.leave()
            gate.let(4)
            for _ in range(5):
                await gate.wait_arrived()
            await stays.until(lambda watch: len(watch.text()) >= 3)
            leaves.exchange = client.send("GET", "/status/events", headers={"Last-Event-ID": leaves.last_id})
            await leaves.until(lambda watch: watch.last_id == stays.last_id)
            assert [event for event, _ in leaves.events].count("snapshot") == 1
            assert leaves.state["requests"][0]["output"] == stays.state["requests"][0]["output"]
        stream.leave()


async def test_idle_is_said_and_so_are_prefill_decode_and_the_queue() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1) as client, watching(client) as watch:
        assert watch.state["server"]["phase"] == "idle"
        running = client.chat("x" * 300, stream=True, max_tokens=200)
        await running.chunk()
        await watch.until(lambda watch: watch.state["server"]["phase"] == "prefill")
        queued = client.chat("second", stream=True)
        await queued.chunk()
        await watch.until(lambda watch: watch.state["queue"])
        [place] = watch.state["queue"]
        assert place["position"] == 0
        assert place["eta_s"] > 0
        assert watch.request(place["id"])["state"] == "queued"
        queued.leave()
        await watch.until(lambda watch: not watch.state["queue"])
        gate.let(5)
        for _ in range(5):
            await gate.wait_arrived()
        await watch.until(lambda watch: watch.state["server"]["phase"] == "decode")
        running.leave()
        gate.open()
        await client.service.wait_settled()
        await watch.until(lambda watch: watch.state["server"]["phase"] == "idle")


async def steps(gate: Gate, number: int, clock: trio.testing.MockClock, each_s: float) -> None:
    """The first steps of the engine, each so long; it stands at the gate with the next one then."""
    await gate.wait_arrived()
    for _ in range(number):
        gate.let(1)
        await gate.wait_arrived()
        clock.jump(each_s)
        await trio.testing.wait_all_tasks_blocked()


async def test_counters_come_five_times_a_second_and_text_as_it_is_said(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate), status_content=True) as client,
        opening(gate),
        watching(client) as watch,
    ):
        stream = client.chat("hello", stream=True)
        await steps(gate, 50, mock_clock, 0.02)
        watch.take_waiting()
        counters = [d for e, d in watch.events if e == "request" and "completion_tokens" in d]
        assert 4 <= len(counters) <= 7, "one second has passed"
        texts = [d["text"] for e, d in watch.events if e == "token"]
        assert len(texts) == 50
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        watch.take_waiting()
        answer = (await client.send("GET", "/status/json").json())["requests"][0]
        assert watch.text() == answer["output"][0][0]["text"]
        assert watch.state["requests"][0]["completion_tokens"] == answer["completion_tokens"]
        stream.leave()


async def test_where_more_is_said_than_can_be_read_it_is_gathered_and_none_is_lost(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "TEXTS_PER_S", 10.0)
    monkeypatch.setattr(feed, "TEXTS_AT_ONCE", 1.0)
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate), status_content=True) as client,
        opening(gate),
        watching(client) as watch,
    ):
        stream = client.chat("hello", stream=True)
        await steps(gate, 50, mock_clock, 0.02)
        watch.take_waiting()
        assert 9 <= len([data for event, data in watch.events if event == "token"]) <= 12
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        watch.take_waiting()
        answer = (await client.send("GET", "/status/json").json())["requests"][0]
        assert watch.text() == answer["output"][0][0]["text"]
        stream.leave()


async def test_who_comes_while_text_is_gathered_gets_it_once(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "TEXTS_PER_S", 1.0)
    monkeypatch.setattr(feed, "TEXTS_AT_ONCE", 1.0)
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate), status_content=True) as client,
        opening(gate),
        watching(client) as first,
    ):
        stream = client.chat("hello", stream=True)
        await steps(gate, 4, mock_clock, 0.0)
        async with watching(client) as late:
            gate.let(1)
            await gate.wait_arrived()
            mock_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
            answer = (await client.send("GET", "/status/json").json())["requests"][0]["output"][0][0]["text"]
            assert answer
            for watch in (first, late):
                watch.take_waiting()
                assert watch.text() == answer
        stream.leave()


async def test_a_request_is_told_once_and_then_only_what_changes_of_it() -> None:
    async with serving(ScriptedBackend()) as client, watching(client) as watch:
        await client.chat("hello", max_tokens=3).json()
        await watch.until(lambda watch: watch.state["history"])
        told = [data for event, data in watch.events if event == "request"]
        assert [field for data in told for field in data].count("params") == 1


async def test_totals_speeds_and_metrics_move_while_an_answer_is_made(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate)) as client,
        opening(gate),
        watching(client) as watch,
    ):
        stream = client.chat("hello", stream=True)
        await steps(gate, 30, mock_clock, 0.1)
        watch.take_waiting()
        told = [data["totals"]["completion_tokens"] for event, data in watch.events if event == "server"]
        assert len(set(told)) >= 3
        assert told == sorted(told)
        assert 8 <= watch.state["load"]["decode_tok_s"] <= 12, "ten tokens a second"
        assert watch.state["load"]["busy"] == 1
        assert watch.state["load"]["context_tokens"] > 20
        metrics = (await client.send("GET", "/metrics").body()).decode()
        [line] = [line for line in metrics.split("\n") if line.startswith("corral_completion_tokens_total ")]
        assert float(line.split()[1]) >= 28
        stream.leave()
        gate.open()
        await client.service.wait_settled()
        mock_clock.jump(3)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3)
        await trio.testing.wait_all_tasks_blocked()
        watch.take_waiting()
        assert watch.state["load"]["decode_tok_s"] == 0
        assert watch.state["load"]["busy"] == 0


async def test_a_reader_hears_of_the_server_every_five_seconds_and_is_counted_in_what_it_hears(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with serving(ScriptedBackend(), stream_keepalive_s=60) as client, watching(client) as watch:
        await watch.until(lambda watch: watch.state["subscribers"]["status"] == 1)
        for _ in range(2):
            seen = len(watch.events)
            for _ in range(5):
                mock_clock.jump(1)
                await trio.testing.wait_all_tasks_blocked()
            watch.take_waiting()
            assert "server" in [event for event, _ in watch.events[seen:]]
        assert watch.state["server"]["uptime_s"] is not None


async def test_a_viewer_that_stops_reading_is_evicted_and_no_stream_notices() -> None:
    async with serving(ScriptedBackend(), status_content=True) as client:
        # It never reads: the harness' buffer of 1,000 chunks stands for the kernel's.
        stuck = client.send("GET", "/status/events")
        await stuck.started()
        broker = client.app.running.watching.feed.broker
        with trio.CancelScope() as flood:
            async with trio.open_nursery() as nursery:

                async def publish() -> None:
                    while True:
                        broker.publish_nowait("server", b"{}")
                        broker.flush_nowait()
                        await trio.lowlevel.checkpoint()

                nursery.start_soon(publish)
                await stuck.is_over.wait()
                flood.cancel()
        assert stuck.aborted
        assert broker.evicted == 1
        assert (await client.chat("next", max_tokens=3).json())["usage"]["completion_tokens"] == 3
        answer = await client.send("GET", "/status/json").json()
        assert answer["subscribers"] == {"status": 0, "streams": 0, "evicted": 1}


async def test_silence_is_filled_and_head_ends_at_once(mock_clock: trio.testing.MockClock) -> None:
    async with serving(ScriptedBackend(), stream_keepalive_s=5) as client:
        head = client.send("HEAD", "/status/events")
        await head.is_over.wait()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        async with watching(client) as watch:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
            while b": keepalive\n\n" not in (chunk := await watch.exchange.chunk()):
                assert b"event: server" in chunk


async def test_shutdown_ends_the_status_streams_too(mock_clock: trio.testing.MockClock) -> None:
    async with serving(ScriptedBackend()) as client:
        watch = client.send("GET", "/status/events")
        await watch.started()
        client.terminated.set()
        await watch.is_over.wait()
        assert b'"draining":true' in await watch.body()
        assert not watch.aborted


# Numbers


async def test_wasted_work_is_counted_by_outcome_on_the_page_and_in_the_metrics() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate)) as client, opening(gate):
        stream = client.chat("x" * 400, stream=True)
        gate.let(1)
        for _ in range(2):
            await gate.wait_arrived()
        stream.leave()
        await stream.is_over.wait()
        gate.open()
        await client.service.wait_settled()
        totals = (await client.send("GET", "/status/json").json())["totals"]
        assert totals["wasted"]["prefill_tokens_kept"] > 0
        assert totals["wasted"]["by_outcome"]["disconnected"]["prefill_kept"] > 0
        metrics = (await client.send("GET", "/metrics").body()).decode()
        kept = totals["wasted"]["prefill_tokens_kept"]
        assert f'corral_prefill_tokens_kept_total{{outcome="disconnected"}} {kept}.0' in metrics


async def test_a_stalled_step_turns_health_to_503_and_everything_else_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), stall_s=0.05) as client, opening(gate):
        assert (await client.send("GET", "/health").json()) == {"status": "ok"}
        async with watching(client) as watch:
            stream = client.chat(stream=True)
            await gate.wait_arrived()
            await watch.until(lambda watch: watch.state["server"]["stalled"])
            health = client.send("GET", "/health")
            assert (await health.json())["status"] == "stalled"
            assert health.status == 503
            assert (await client.send("GET", "/v1/models").json())["object"] == "list"
            gate.open()
            await stream.chunk()
            stream.leave()
            await client.service.wait_idle()
            assert (await client.send("GET", "/health").json()) == {"status": "ok"}
            await watch.until(lambda watch: not watch.state["server"]["stalled"])
