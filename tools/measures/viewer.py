"""What one reader of /status takes off the wire while all slots are busy."""

import msgspec
import trio

from tools.clients.asking import Asker
from tools.clients.habits import POLITE
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.target import Chat
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.readers.attached import attached
from tools.readers.crowd import Group
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number

SLOTS = 16
STEPS_MS = (10.0, 50.0)
"""Of the engine, for all slots together: 1,600 and 320 tokens per second."""
SETTLE_S = 2.0
MOST_KB_S = 64.0


class ViewerRow(msgspec.Struct, frozen=True):
    """One reader, of text or of figures alone, and an engine's step."""

    step_ms: float
    sees_content: bool
    kb_s: float
    events_s: float


async def viewer(bed: Bed, plan: Plan) -> Sheet:
    """Bytes per second of one reader of /status/events, at 16 busy slots and two that wait."""
    rows = [
        await _row(bed, step_ms, sees_content, plan.watch_s)
        for step_ms in STEPS_MS
        for sees_content in (False, True)
    ]
    return Sheet(
        name="viewer",
        columns=["step, ms", "tokens/s", "sees", "kB/s", "events/s"],
        cells=[
            [
                number(row.step_ms, 0),
                number(SLOTS * 1e3 / row.step_ms, 0),
                "text" if row.sees_content else "figures",
                number(row.kb_s, 1),
                number(row.events_s, 0),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[Goal("kB/s of one reader, at most", MOST_KB_S, max(row.kb_s for row in rows), True)],
        definitions=f"""\
Bytes of /status/events per second, as one reader takes them off its socket over {plan.watch_s:g} s, while
  {SLOTS} streams have all slots of the scripted engine and two more wait; its first picture is not counted.
  kB: 1,000 bytes. tokens/s: what the engine makes for all streams together, at most.""",
    )


async def _row(bed: Bed, step_ms: float, sees_content: bool, seconds: float) -> ViewerRow:
    prompts = PromptSource().take(SLOTS + 2)
    flags = (f"--slots={SLOTS}", f"--status-content={str(sees_content).lower()}")
    async with (
        bed.scripted(*flags, step_ms=step_ms) as server,
        attached(server.target, Group(1, Asker(server.target).watch().decode())) as readers,
        trio.open_nursery() as nursery,
    ):
        for prompt in prompts:
            endless = Chat(prompt, 20_000, temperature=0.0, stream=True)
            nursery.start_soon(chat, server.target, endless, POLITE)
        await trio.sleep(SETTLE_S)
        await readers.seen()  # not what came first
        await trio.sleep(seconds)
        seen = await readers.seen()
        nursery.cancel_scope.cancel()
        dot()
    [group] = seen.groups
    return ViewerRow(
        step_ms, sees_content, group.received_bytes / seen.window_s / 1e3, group.events / seen.window_s
    )
