"""A crowd of readers beside a server, looked at from both sides: what came, and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from tools.measures.bed import dot
from tools.readers.attached import attached
from tools.readers.crowd import Group, GroupSeen
from tools.servers.footprint import footprint, thread_times
from tools.servers.server import Server


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen. CPU seconds are the window's; memory is from before and after the last group came."""

    groups: list[GroupSeen]
    window_s: float
    client_cpu_s: float
    loop_cpu_s: float
    server_cpu_s: float
    rss_before_bytes: int
    rss_after_bytes: int


async def observe(
    server: Server, groups: Sequence[Group], *, settle_s: float, window_s: float, broken: list[str]
) -> Observed:
    """Let the groups come, each after `settle_s`, then count for `window_s`.

    Says in `broken` if a reader was sent away. Cancelling ends them.
    """
    rss_before_bytes = 0
    async with attached(server.target) as readers:
        for group in groups:
            rss_before_bytes = footprint(server.pid).rss_bytes
            await readers.join(group)
            await trio.sleep(settle_s)
        rss_after_bytes = footprint(server.pid).rss_bytes
        await readers.seen()
        threads_before = thread_times(server.pid)
        await trio.sleep(window_s)
        seen = await readers.seen()
        threads = thread_times(server.pid)
    for group, counted in zip(groups, seen.groups, strict=True):
        if counted.open < group.count:
            broken.append(f"{group.count - counted.open} of {group.count} readers were sent away")
    dot()
    return Observed(
        groups=seen.groups,
        window_s=seen.window_s,
        client_cpu_s=seen.cpu_s,
        loop_cpu_s=threads[0].cpu_s - threads_before[0].cpu_s,
        server_cpu_s=sum(thread.cpu_s for thread in threads) - sum(thread.cpu_s for thread in threads_before),
        rss_before_bytes=rss_before_bytes,
        rss_after_bytes=rss_after_bytes,
    )
