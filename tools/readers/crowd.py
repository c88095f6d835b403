"""Many readers of server-sent events in one process that costs next to nothing per reader.

    python -m tools.readers.crowd --port 8000     answers one JSON line on stdout per JSON line on stdin

A `Group` attaches so many readers, a `Look` asks what all have seen since the last line. An event is a blank
line (two line feeds); nothing is parsed. A process of its own, so that its CPU time can be told from that of
who started it (attached.py); it ends with its stdin. Linux: it reads with epoll.
"""

import argparse
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

import msgspec

RECEIVE_BYTES = 65_536  # what is larger than the C library takes from its heap is mapped anew each time
STALLED_BUFFER_BYTES = 4096
BEGIN_LIMIT_S = 60.0
STAMP = re.compile(rb"<(\d+)>")
STAMP_BYTES = 32


class Group(msgspec.Struct, frozen=True, tag=True):
    """`count` readers that all make `request` (the bytes of an HTTP/1.1 request), one after the other.

    The `stalled` in their middle read nothing after their first bytes, behind a small receive buffer. With
    `comes_back` a reader that is sent away asks again. With `is_timed` the first and the last reader tell how
    old their tokens are, where the text says when each was sampled (`scripted.py --script clock`).
    """

    count: int
    request: str
    stalled: int = 0
    comes_back: bool = False
    is_timed: bool = False


class Look(msgspec.Struct, frozen=True, tag=True):
    """What has been seen since the last line?"""


class GroupSeen(msgspec.Struct, frozen=True):
    """One group: who is still there, how often one was sent away, and what they all and each got.

    `first_s` and `last_s` are the ages in seconds of the first and the last reader's tokens.
    """

    open: int
    sent_away: int
    events: int
    received_bytes: int
    least_events: int
    most_events: int
    first_s: list[float]
    last_s: list[float]


class Seen(msgspec.Struct, frozen=True):
    """The time since the last line: how long it was, the CPU seconds of this process, and each group."""

    window_s: float
    cpu_s: float
    groups: list[GroupSeen]


@dataclass(slots=True)
class Reader:
    """One connection, and the next ones of a reader that comes back. What it counts is since the last line.

    `ends_in_feed` tells of an event that two reads share, `tail` of a stamp that may be cut in two.
    """

    request: bytes
    stalls: bool = False
    comes_back: bool = False
    is_timed: bool = False
    line: socket.socket | None = None
    has_begun: bool = False
    events: int = 0
    received_bytes: int = 0
    sent_away: int = 0
    ages_s: list[float] = field(default_factory=list)
    ends_in_feed: bool = False
    tail: bytes = b""

    def feed(self, data: bytes) -> None:
        """Count what came."""
        self.has_begun = True
        self.events += data.count(b"\n\n") + (self.ends_in_feed and data.startswith(b"\n"))
        self.ends_in_feed = data.endswith(b"\n") and not data.endswith(b"\n\n")
        self.received_bytes += len(data)
        if self.is_timed:
            self._read_stamps(data)

    def _read_stamps(self, data: bytes) -> None:
        now_ns = time.perf_counter_ns()
        text = self.tail + data
        end = 0
        for stamp in STAMP.finditer(text):
            self.ages_s.append((now_ns - int(stamp[1])) / 1e9)
            end = stamp.end()
        self.tail = text[end:][-STAMP_BYTES:]

    def forget(self) -> None:
        """A new window begins."""
        self.events = self.received_bytes = self.sent_away = 0
        self.ages_s = []


class Crowd:
    """All readers, on one epoll set."""

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]
        self.epoll = select.epoll()
        self._by_descriptor: dict[int, Reader] = {}
        self._groups: list[list[Reader]] = []
        self._began_s = time.monotonic()
        self._cpu_began_s = time.process_time()

    def join(self, group: Group) -> None:
        """Attach a group; each comes when the last has its first bytes. Raises OSError, TimeoutError."""
        stalling = range((group.count - group.stalled) // 2, (group.count + group.stalled) // 2)
        timed = {0, group.count - 1} if group.is_timed else set()
        request = group.request.encode()
        readers = [
            Reader(request, at in stalling, group.comes_back, at in timed) for at in range(group.count)
        ]
        self._groups.append(readers)
        until_s = time.monotonic() + BEGIN_LIMIT_S
        for reader in readers:
            self._attach(reader)
            while not reader.has_begun:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"not all of {group.count} readers were answered")
                self.turn(1.0)

    def turn(self, timeout_s: float) -> None:
        """Read what has come, or what comes within that time."""
        for descriptor, event in self.epoll.poll(timeout_s):
            reader = self._by_descriptor.get(descriptor)
            if reader is not None:
                self._read(descriptor, reader, event)

    def look(self) -> Seen:
        """What was seen in the window that ends now; another one begins."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        groups = [_seen(readers) for readers in self._groups]
        seen = Seen(now_s - self._began_s, cpu_s - self._cpu_began_s, groups)
        self.begin()
        return seen

    def begin(self) -> None:
        """Another window begins."""
        for readers in self._groups:
            for reader in readers:
                reader.forget()
        self._began_s, self._cpu_began_s = time.monotonic(), time.process_time()

    def _attach(self, reader: Reader) -> None:
        line = socket.socket(self._family, socket.SOCK_STREAM)
        if reader.stalls:  # before connecting: the window scale is fixed in the handshake
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
        line.connect(self._address)
        line.sendall(reader.request)
        line.setblocking(False)
        reader.line = line
        self._by_descriptor[line.fileno()] = reader
        self.epoll.register(line.fileno(), select.EPOLLIN)

    def _read(self, descriptor: int, reader: Reader, event: int) -> None:
        assert reader.line is not None
        data = b""
        if event & select.EPOLLIN:
            try:
                data = reader.line.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                pass  # it is over, as it is where nothing came
        if not data:
            self._over(reader)
            return
        reader.feed(data)
        if reader.stalls:
            self.epoll.modify(descriptor, 0)  # EPOLLERR and EPOLLHUP still come

    def _over(self, reader: Reader) -> None:
        """The server has sent it away."""
        assert reader.line is not None
        reader.sent_away += 1
        del self._by_descriptor[reader.line.fileno()]
        reader.line.close()
        reader.line = None
        if reader.comes_back:
            self._attach(reader)


def _seen(readers: list[Reader]) -> GroupSeen:
    events = [reader.events for reader in readers]
    return GroupSeen(
        open=sum(reader.line is not None for reader in readers),
        sent_away=sum(reader.sent_away for reader in readers),
        events=sum(events),
        received_bytes=sum(reader.received_bytes for reader in readers),
        least_events=min(events),
        most_events=max(events),
        first_s=readers[0].ages_s,
        last_s=readers[-1].ages_s,
    )


def main() -> None:
    """Attach, read, and tell, until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    crowd = Crowd(args.host, args.port)
    decoder = msgspec.json.Decoder(Group | Look)
    crowd.epoll.register(sys.stdin.fileno(), select.EPOLLIN)
    print('{"ready":true}', flush=True)
    while True:
        crowd.turn(1.0)
        asked, _, _ = select.select([sys.stdin], [], [], 0)
        if not asked:
            continue
        if not (line := sys.stdin.buffer.readline()):
            return
        asked_for = decoder.decode(line)
        if isinstance(asked_for, Group):
            crowd.join(asked_for)
            crowd.begin()
            print("{}", flush=True)
        else:
            print(msgspec.json.encode(crowd.look()).decode(), flush=True)


if __name__ == "__main__":
    main()
