"""What server-sent events cost: memory per idle reader, and how many events per second go out to how many."""

import sys
from pathlib import Path

import msgspec
import trio

from benchrun import dot
from serverproc import Server
from sheet import Sheet, load_average, number
from ssewatch import Group, Observed, Watch
from transport_stage import UNLIMITED_LAG, Asker, Plan, Stage

STEP_MS = 10.0
FASTEST_STEP_MS = 0.001
"""Enough that a step lets go of Python's global lock, as a model's does: with 0 it starves the event loop."""
STREAMS = 8
ENDLESS_TOKENS = 100_000
ROOMY = f"--ctx-tokens={2**21}"


class IdleRow(msgspec.Struct, frozen=True):
    """One kind of idle SSE connection."""

    kind: str
    connections: int
    grown_bytes: int

    @property
    def kib_each(self) -> float:
        return self.grown_bytes / self.connections / 1024


class EventsRow(msgspec.Struct, frozen=True):
    """One load. Shares are parts of a core; events and bytes per second are of all `readers` together."""

    load: str
    readers: int
    events_s: float
    received_bytes_s: float
    least_events_s: float
    most_events_s: float
    loop_share: float
    server_share: float
    client_share: float


async def observe(
    server: Server, groups: list[Group], *, settle_s: float, window_s: float, broken: list[str]
) -> Observed:
    """Run the readers in their own process. Says in `broken` if one was sent away. Cancelling ends them."""
    target = server.target
    watch = Watch(target.host, target.port, server.pid, groups, settle_s, window_s)
    command = [
        sys.executable,
        str(Path(__file__).with_name("ssewatch.py")),
        msgspec.json.encode(watch).decode(),
    ]
    done = await trio.run_process(command, capture_stdout=True)
    observed = msgspec.json.decode(done.stdout, type=Observed)
    for group, counted in zip(groups, observed.groups, strict=True):
        if counted.open < group.count:
            broken.append(f"{group.count - counted.open} of {group.count} readers were sent away")
    dot()
    return observed


async def idle(stage: Stage, plan: Plan) -> Sheet:
    """Memory of connections on which nothing happens: readers of the status, and chats in the queue."""
    load = load_average()
    broken: list[str] = []
    rows: list[IdleRow] = []
    for kind in ("/status/events", "chat in the queue"):
        flags = ("--slots=1", f"--queue={plan.idle}", ROOMY, "--keepalive-s=600")
        async with stage.server(*flags, step_ms=STEP_MS) as server:
            asker = Asker(server.target)
            first = Group(1, asker.stream(ENDLESS_TOKENS if kind.startswith("chat") else 1).decode())
            request = asker.stream(10) if kind.startswith("chat") else asker.watch()
            groups = [first, Group(plan.idle, request.decode())]
            seen = await observe(server, groups, settle_s=plan.settle_s, window_s=0.0, broken=[])
        if seen.groups[-1].open < plan.idle:
            broken.append(f"{kind}: {plan.idle - seen.groups[-1].open} were sent away")
        rows.append(IdleRow(kind, plan.idle, seen.rss_after_bytes - seen.rss_before_bytes))
    return Sheet(
        name=f"memory of {plan.idle} idle SSE connections",
        columns=["connection", "RSS grown by, KiB", "each, KiB"],
        cells=[[row.kind, number(row.grown_bytes / 1024, 0), number(row.kib_each, 1)] for row in rows],
        rows=rows,
        goals=[],
        definitions=f"""\
How much the server's resident memory grew while {plan.idle} readers came, {plan.settle_s:g} s after the
  last of them had its first bytes; a new server for each kind, which had answered one chat. A chat in the
  queue waits behind one that decodes, with its response begun: its figure has the request in it, the
  prompt's tokens included.""",
        load_average=load,
        broken=broken,
    )


async def events(stage: Stage, plan: Plan) -> Sheet:
    """Events per second: one chat stream as fast as it goes, and the status to many while streams run."""
    load = load_average()
    broken: list[str] = []
    async with stage.server(
        "--slots=1", ROOMY, "--prompt-lookup=false", *UNLIMITED_LAG, step_ms=FASTEST_STEP_MS
    ) as server:
        one = Group(1, Asker(server.target).stream(ENDLESS_TOKENS).decode())
        seen = await observe(server, [one], settle_s=0.2, window_s=plan.window_s, broken=broken)
        rows = [_row("one chat stream", 1, seen)]
    slots = f"--slots={STREAMS}"
    for count in plan.subscribers:
        async with stage.server(slots, ROOMY, "--status-content", step_ms=STEP_MS, is_steady=True) as server:
            asker = Asker(server.target)
            groups = [
                Group(STREAMS, asker.stream(ENDLESS_TOKENS).decode()),
                Group(count, asker.watch().decode()),
            ]
            seen = await observe(
                server, groups, settle_s=plan.settle_s, window_s=plan.window_s, broken=broken
            )
            rows.append(_row(f"/status/events, {STREAMS} streams", count, seen))
            rows.append(_row(f"the {STREAMS} streams beside them", STREAMS, seen, group=0))
    return Sheet(
        name="events per second",
        columns=[
            "what",
            "readers",
            "events/s",
            "MB/s",
            "per reader, least - most",
            "loop",
            "server",
            "client",
        ],
        cells=[
            [
                row.load,
                str(row.readers),
                f"{row.events_s:,.0f}",
                number(row.received_bytes_s, 2, 1e-6),
                f"{row.least_events_s:,.0f} - {row.most_events_s:,.0f}",
                *(f"{share:.0%}" for share in (row.loop_share, row.server_share, row.client_share)),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[],
        definitions=f"""\
Events (blank lines) that arrived in {plan.window_s:g} s, at all readers of the line together. The readers
  are one process, which reads with epoll and counts. loop, server, client: how busy the event loop's thread,
  the whole server, and that process were, in parts of a core. One chat stream: the scripted engine sleeps
  {FASTEST_STEP_MS * 1e3:g} us per step and drafts nothing; the reader may lag. The status: {STREAMS} chat
  streams decode beside it at a step per {STEP_MS:g} ms, and every token is an event of the status too
  (status_content).""",
        load_average=load,
        broken=broken,
    )


def _row(load: str, readers: int, seen: Observed, group: int = -1) -> EventsRow:
    counted, window_s = seen.groups[group], seen.window_s
    return EventsRow(
        load=load,
        readers=readers,
        events_s=counted.events / window_s,
        received_bytes_s=counted.received_bytes / window_s,
        least_events_s=counted.least_events / window_s,
        most_events_s=counted.most_events / window_s,
        loop_share=seen.loop_cpu_s / window_s,
        server_share=seen.server_cpu_s / window_s,
        client_share=seen.client_cpu_s / window_s,
    )
