"""Memory of connections on which nothing happens."""

import msgspec

from tools.clients.asking import Asker
from tools.measures.bed import Bed
from tools.measures.observation import observe
from tools.measures.plan import Plan
from tools.readers.crowd import Group
from tools.sheets.sheet import Sheet, number

STEP_MS = 10.0
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


async def idle(bed: Bed, plan: Plan) -> Sheet:
    """Memory of connections on which nothing happens: readers of the status, and chats in the queue."""
    broken: list[str] = []
    rows: list[IdleRow] = []
    for kind in ("/status/events", "chat in the queue"):
        flags = ("--slots=1", f"--queue-requests={plan.idle}", ROOMY, "--stream-keepalive-s=600")
        async with bed.scripted(*flags, step_ms=STEP_MS) as server:
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
        broken=broken,
    )
