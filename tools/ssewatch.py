"""Many readers of server-sent events in one process: it reads with epoll and counts, and costs little.

    python tools/ssewatch.py '{"host": "127.0.0.1", "port": 8000, "pid": 4711, "groups": [...], ...}'

The argument is a `Watch` as JSON, the output an `Observed`. An event is a blank line (two line feeds);
nothing is parsed. A process of its own, so that its CPU time can be told from that of who started it. Linux,
and a server on this machine: the server's memory and CPU time are read from /proc.
"""

import select
import socket
import sys
import time
from dataclasses import dataclass

import msgspec

from serverproc import footprint, thread_times

RECEIVE_BYTES = 262_144
BEGIN_LIMIT_S = 30.0


class Group(msgspec.Struct, frozen=True):
    """`count` readers that all make `request` (the bytes of an HTTP/1.1 request)."""

    count: int
    request: str


class Watch(msgspec.Struct, frozen=True):
    """Who is to be there, and for how long events are counted.

    The groups come one after the other: the next when every reader of the last has its first bytes and
    `settle_s` have passed. Then events are counted for `window_s`.
    """

    host: str
    port: int
    pid: int
    groups: list[Group]
    settle_s: float
    window_s: float


class Counted(msgspec.Struct, frozen=True):
    """One group in the window: how many were still there at its end, and what they got."""

    open: int
    events: int
    received_bytes: int
    least_events: int
    most_events: int


class Observed(msgspec.Struct, frozen=True):
    """What was seen. CPU seconds are the window's; memory is from before and after the last group came."""

    groups: list[Counted]
    window_s: float
    client_cpu_s: float
    loop_cpu_s: float
    server_cpu_s: float
    rss_before_bytes: int
    rss_after_bytes: int


@dataclass(slots=True)
class Reader:
    """One connection. `ends_in_feed` tells of an event that two reads share."""

    sock: socket.socket
    events: int = 0
    received_bytes: int = 0
    ends_in_feed: bool = False
    is_open: bool = True

    def feed(self, data: bytes) -> None:
        """Count; no bytes are the end."""
        self.events += data.count(b"\n\n") + (self.ends_in_feed and data.startswith(b"\n"))
        self.ends_in_feed = data.endswith(b"\n") and not data.endswith(b"\n\n")
        self.received_bytes += len(data)
        self.is_open = bool(data)


class Readers:
    """All of them, on one epoll set."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Reader] = {}

    def join(self, group: Group) -> list[Reader]:
        """Connect a group, and return when each has its first bytes. Raises TimeoutError or OSError."""
        readers = []
        for _ in range(group.count):
            sock = socket.create_connection(self._address)
            sock.sendall(group.request.encode())
            sock.setblocking(False)
            reader = Reader(sock)
            readers.append(reader)
            self._by_descriptor[sock.fileno()] = reader
            self._epoll.register(sock, select.EPOLLIN)
            self.read_until(time.monotonic())
        until_s = time.monotonic() + BEGIN_LIMIT_S
        while not all(reader.received_bytes for reader in readers):
            if time.monotonic() > until_s:
                raise TimeoutError(f"not all of {group.count} readers were answered")
            self.read_until(time.monotonic() + 0.1)
        return readers

    def read_until(self, until_s: float) -> None:
        """Read what comes until then; at least what is there now."""
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            for descriptor, _ in self._epoll.poll(left_s):
                self._read(self._by_descriptor[descriptor])
            if left_s == 0.0:
                return

    def _read(self, reader: Reader) -> None:
        try:
            data = reader.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        reader.feed(data)
        if not data:
            self._epoll.unregister(reader.sock)


def observe(watch: Watch) -> Observed:
    """Let the groups come, then count."""
    readers = Readers(watch.host, watch.port)
    groups: list[list[Reader]] = []
    rss_before_bytes = 0
    for group in watch.groups:
        rss_before_bytes = footprint(watch.pid).rss_bytes
        groups.append(readers.join(group))
        readers.read_until(time.monotonic() + watch.settle_s)
    rss_after_bytes = footprint(watch.pid).rss_bytes
    seen_before = [[(reader.events, reader.received_bytes) for reader in group] for group in groups]
    threads_before, client_before, began_s = thread_times(watch.pid), time.process_time(), time.monotonic()
    readers.read_until(began_s + watch.window_s)
    window_s, client_cpu_s = time.monotonic() - began_s, time.process_time() - client_before
    threads = thread_times(watch.pid)
    return Observed(
        groups=[_counted(group, before) for group, before in zip(groups, seen_before, strict=True)],
        window_s=window_s,
        client_cpu_s=client_cpu_s,
        loop_cpu_s=threads[0].cpu_s - threads_before[0].cpu_s,
        server_cpu_s=sum(thread.cpu_s for thread in threads) - sum(thread.cpu_s for thread in threads_before),
        rss_before_bytes=rss_before_bytes,
        rss_after_bytes=rss_after_bytes,
    )


def _counted(group: list[Reader], before: list[tuple[int, int]]) -> Counted:
    pairs = list(zip(group, before, strict=True))
    events = [reader.events - events for reader, (events, _) in pairs]
    received = sum(reader.received_bytes - received_bytes for reader, (_, received_bytes) in pairs)
    return Counted(sum(reader.is_open for reader in group), sum(events), received, min(events), max(events))


def main(argument: str) -> int:
    """Observe and print."""
    print(msgspec.json.encode(observe(msgspec.json.decode(argument, type=Watch))).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
