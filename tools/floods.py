"""What one connection that sends as fast as it can, and says nothing, does to everybody else.

    python tools/floods.py --seconds 5
    python tools/floods.py --only "PING"

For each kind of flood: a server of its own on the scripted engine, one flooding client (a process; it
connects again as soon as it is cut off), and /health asked every 5 ms on another connection.
"""

import argparse
import http.client
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tools.clients.flood import FLOODS

BLOCK_BYTES = 65_536
PROBE_EVERY_S = 0.005


def flood(port: int, opening: bytes, again: bytes, stop: Event, counts: Any) -> None:
    """Send until `stop`; `counts` is a shared array of the bytes sent and the connections made."""
    block = again * max(1, BLOCK_BYTES // len(again))
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            counts[1] += 1
            sock.sendall(opening)
            sock.setblocking(False)
            waiting = memoryview(block)
            while not stop.is_set():
                try:
                    while sock.recv(BLOCK_BYTES):
                        pass
                    break  # it has closed
                except BlockingIOError:
                    pass
                try:
                    taken = sock.send(waiting)
                except BlockingIOError:
                    time.sleep(0.0005)
                    continue
                counts[0] += taken
                waiting = waiting[taken:] or memoryview(block)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a flood came to; times in ms."""

    name: str
    megabytes_per_s: float
    connections: int
    cpu_percent: float
    median_ms: float
    p99_ms: float
    most_ms: float

    def row(self) -> str:
        return (
            f"| {self.name} | {self.megabytes_per_s:.2f} MB/s | {self.connections} "
            f"| {self.cpu_percent:.0f} % | {self.median_ms:.1f} ms | {self.p99_ms:.1f} ms "
            f"| {self.most_ms:.0f} ms |"
        )


TITLE = "| flood | sent | connections | server's CPU | /health p50 | p99 | max |\n" + 7 * "|---" + "|"


def measure(name: str, seconds: float) -> Figures:
    """Run one flood against a fresh server."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        _until_listening(port, server)
        opening, again = FLOODS[name]
        stop = multiprocessing.Event()
        counts = multiprocessing.Array("q", 2, lock=False)
        flooding = multiprocessing.Process(target=flood, args=(port, opening, again, stop, counts))
        if again:
            flooding.start()
            time.sleep(0.2)
        cpu_before_s, began_s, sent_before = _cpu_s(server.pid), time.monotonic(), counts[0]
        latencies = _probe(port, seconds)
        elapsed_s = time.monotonic() - began_s
        cpu_s, sent = _cpu_s(server.pid) - cpu_before_s, counts[0] - sent_before
        stop.set()
        if again:
            flooding.join(5)
            flooding.kill()
        return Figures(
            name,
            sent / elapsed_s / 1e6,
            counts[1],
            100 * cpu_s / elapsed_s,
            statistics.median(latencies),
            sorted(latencies)[int(0.99 * len(latencies))],
            max(latencies),
        )
    finally:
        server.terminate()
        server.wait(30)


def _probe(port: int, seconds: float) -> list[float]:
    """Ask /health on one connection; how long each answer took, in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    latencies = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        began_s = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        latencies.append(1e3 * (time.perf_counter() - began_s))
        time.sleep(PROBE_EVERY_S)
    connection.close()
    return latencies


def _until_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise SystemExit("the server did not start")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(port: int) -> int:
    """The server, in a process of its own: everything but the model."""
    from corral import server
    from corral.application import Application
    from corral.engine.local.backend import Backend
    from corral.engine.local.scripted import ScriptedBackend, rambling
    from corral.settings import load

    def open_scripted() -> tuple[Backend, str]:
        return ScriptedBackend(rambling), "scripted"

    settings = load({"bind": f"127.0.0.1:{port}", "log_level": "warning"})
    return server.main(settings, Application(settings, open_scripted))


def main() -> int:
    """Print a table, a row per flood."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default="", help="floods whose name contains this")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    print(TITLE)
    for name in FLOODS:
        if args.only in name:
            print(measure(name, args.seconds).row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
