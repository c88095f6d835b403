"""How many server-sent events per second go out to how many readers."""

import msgspec

from tools.clients.asking import Asker
from tools.measures.bed import UNLIMITED_LAG, Bed
from tools.measures.observation import Observed, observe
from tools.measures.plan import Plan
from tools.readers.crowd import Group
from tools.sheets.sheet import Sheet, number

STEP_MS = 10.0
FASTEST_STEP_MS = 0.001
"""Enough that a step lets go of Python's global lock, as a model's does: with 0 it starves the event loop."""
STREAMS = 8
ENDLESS_TOKENS = 100_000
ROOMY = f"--ctx-tokens={2**21}"


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


async def events(bed: Bed, plan: Plan) -> Sheet:
    """Events per second: one chat stream as fast as it goes, and the status to many while streams run."""
    broken: list[str] = []
    async with bed.scripted(
        "--slots=1", ROOMY, "--prompt-lookup=false", *UNLIMITED_LAG, step_ms=FASTEST_STEP_MS
    ) as server:
        one = Group(1, Asker(server.target).stream(ENDLESS_TOKENS).decode())
        seen = await observe(server, [one], settle_s=0.2, window_s=plan.window_s, broken=broken)
        rows = [_row("one chat stream", 1, seen)]
    slots = f"--slots={STREAMS}"
    for count in plan.subscribers:
        async with bed.scripted(slots, ROOMY, "--status-content", step_ms=STEP_MS, is_steady=True) as server:
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
