"""Many readers of a server's /status/events, in one process that costs next to nothing per reader.

    python tools/watchers.py --port 8000 --count 1000 --stalled 50

Prints `{"attached": N}` once every reader has had its first bytes, then a line of figures for each line on
stdin, and ends with its stdin. `--stalled` of them read nothing after that, behind a small receive buffer,
and come back whenever the server sends them away. Delays are counted for the first and the last reader,
where a token's text says when it was sampled (tools/serve_clock.py); so are their events, to the last one.
"""

import argparse
import errno
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

import msgspec

READ_BYTES = 65_536
STALLED_BUFFER_BYTES = 4096
STAMP = re.compile(rb"<(\d+)>")
STAMP_BYTES = 32


class Seen(msgspec.Struct, frozen=True):
    """Since the last line: events of all readers, CPU seconds of this process, how many were sent away, and
    the delays of the first and the last reader's tokens, in seconds."""

    events: int
    cpu_s: float
    evicted: int
    first_s: list[float]
    last_s: list[float]


@dataclass(slots=True)
class Reader:
    """One connection. `delays_s` is there for those whose delays count."""

    number: int
    stalls: bool
    has_begun: bool = False
    line: socket.socket | None = None
    tail: bytes = b""
    delays_s: list[float] | None = None


def read_stamps(reader: Reader, data: bytes) -> list[float]:
    """How old the tokens in it are, in seconds."""
    now_ns = time.perf_counter_ns()
    text = reader.tail + data
    end = 0
    delays_s = []
    for stamp in STAMP.finditer(text):
        delays_s.append((now_ns - int(stamp[1])) / 1e9)
        end = stamp.end()
    reader.tail = text[end:][-STAMP_BYTES:]  # one may be cut in two
    return delays_s


@dataclass(slots=True)
class Crowd:
    """All readers, on one epoll."""

    port: int
    path: str
    readers: list[Reader]
    epoll: select.epoll = field(default_factory=select.epoll)
    by_fd: dict[int, Reader] = field(default_factory=dict)
    events: int = 0
    evicted: int = 0

    def attach(self, reader: Reader) -> None:
        """Connect a reader and ask for the stream."""
        line = socket.socket()
        if reader.stalls:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
        line.connect(("127.0.0.1", self.port))
        line.sendall(f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        line.setblocking(False)
        reader.line = line
        self.by_fd[line.fileno()] = reader
        self.epoll.register(line.fileno(), select.EPOLLIN)

    def attach_all(self) -> None:
        """Returns when all have had their first bytes."""
        for reader in self.readers:
            self.attach(reader)
            while not reader.has_begun:
                self.turn(1.0)

    def turn(self, timeout_s: float) -> None:
        """Read what has come."""
        for fd, event in self.epoll.poll(timeout_s):
            reader = self.by_fd.get(fd)
            if reader is None:
                continue
            if event & (select.EPOLLERR | select.EPOLLHUP):
                self._come_back(reader)
            elif event & select.EPOLLIN:
                self._read(fd, reader)

    def _read(self, fd: int, reader: Reader) -> None:
        assert reader.line is not None
        try:
            data = reader.line.recv(READ_BYTES)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self._come_back(reader)
            return
        if not data:
            self._come_back(reader)
            return
        reader.has_begun = True
        if reader.stalls:
            self.epoll.modify(fd, 0)  # EPOLLERR and EPOLLHUP still come
            return
        self.events += data.count(b"\nevent: ")
        if reader.delays_s is not None:
            reader.delays_s += read_stamps(reader, data)

    def _come_back(self, reader: Reader) -> None:
        self.evicted += 1
        if reader.line is not None:
            del self.by_fd[reader.line.fileno()]
            reader.line.close()
        self.attach(reader)

    def tell(self, cpu_began_s: float) -> Seen:
        """What was seen since the last call."""
        first_s, last_s = (reader.delays_s or [] for reader in (self.readers[0], self.readers[-1]))
        seen = Seen(self.events, time.process_time() - cpu_began_s, self.evicted, first_s, last_s)
        self.events = self.evicted = 0
        for reader in (self.readers[0], self.readers[-1]):
            reader.delays_s = []
        return seen


def main() -> None:
    """Attach, and report on demand until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/status/events")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--stalled", type=int, default=0)
    args = parser.parse_args()
    # Those who stall are in the middle: the first and the last one are timed.
    begin = (args.count - args.stalled) // 2
    stalling = range(begin, begin + args.stalled)
    crowd = Crowd(args.port, args.path, [Reader(number, number in stalling) for number in range(args.count)])
    crowd.attach_all()
    crowd.tell(0.0)
    cpu_began_s = time.process_time()
    print(msgspec.json.encode({"attached": args.count}).decode(), flush=True)
    crowd.epoll.register(sys.stdin.fileno(), select.EPOLLIN)
    while True:
        crowd.turn(1.0)
        asked, _, _ = select.select([sys.stdin], [], [], 0)
        if asked:
            if not sys.stdin.readline():
                return
            print(msgspec.json.encode(crowd.tell(cpu_began_s)).decode(), flush=True)
            cpu_began_s = time.process_time()


if __name__ == "__main__":
    main()
