"""What one llama.cpp step costs, by what is in it, measured in this process.

    python -m tools.servers.rawsteps --model FILE     prints that it is ready, then one JSON line, and ends

OpenMP reads its settings once per process, so each of them gets a process of its own (measures/steps.py).
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import msgspec

from tools.servers.rawloop import RawLoop, Row
from tools.servers.yardstick import StepCosts

CONTEXT_TOKENS = 100  # every decoding sequence has this many cached tokens
PREFILL_SEQUENCE = 16
FILLER = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411]


def filler(count: int) -> list[int]:
    """`count` tokens of nothing in particular."""
    return (FILLER * (count // len(FILLER) + 1))[:count]


def least_ms(measure: Callable[[int], float], count: int, repeats: int) -> float:
    """The least of `repeats` after one that is thrown away: other load can only add to a step."""
    measure(count)
    return round(min(measure(count) for _ in range(repeats)) * 1e3, 2)


def thread_cpu_s(exclude: int) -> float:
    """CPU seconds of every thread of this process but `exclude` (a native id)."""
    total = 0.0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != exclude:
            # schedstat counts nanoseconds; stat would count 10 ms ticks
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


class Steps:
    """The measurements, on one context."""

    def __init__(self, loop: RawLoop, repeats: int) -> None:
        self._loop = loop
        self._repeats = repeats
        for sequence in range(16):
            loop.prefill(sequence, filler(CONTEXT_TOKENS), 512)

    def _decode_rows(self, count: int) -> list[Row]:
        return [Row(FILLER[seq], CONTEXT_TOKENS, seq, True) for seq in range(count)]

    def _prefill_rows(self, count: int, *, wants_logits: bool = False) -> list[Row]:
        return [
            Row(token, i, PREFILL_SEQUENCE, wants_logits and i == count - 1)
            for i, token in enumerate(filler(count))
        ]

    def _undo(self) -> None:
        for sequence in range(16):
            self._loop.cut(sequence, CONTEXT_TOKENS)
        self._loop.forget(PREFILL_SEQUENCE)

    def decode(self, count: int) -> float:
        took_s = self._loop.decode(self._decode_rows(count))
        self._undo()
        return took_s

    def prefill(self, count: int) -> float:
        took_s = self._loop.decode(self._prefill_rows(count))
        self._undo()
        return took_s

    def one_batch(self, decodes: int, count: int) -> float:
        took_s = self._loop.decode(self._decode_rows(decodes) + self._prefill_rows(count))
        self._undo()
        return took_s

    def prefill_first(self, decodes: int, count: int) -> float:
        took_s = self._loop.decode(self._prefill_rows(count) + self._decode_rows(decodes))
        self._undo()
        return took_s

    def two_calls(self, decodes: int, count: int) -> float:
        took_s = self._loop.decode(self._decode_rows(decodes)) + self._loop.decode(self._prefill_rows(count))
        self._undo()
        return took_s

    def helper_spin(self, steps: int = 40) -> tuple[float, float]:
        """(CPU ms a helper burns after each step while nothing runs, step ms when steps come 20 ms apart)."""
        own = threading.get_native_id()
        spun_s = 0.0
        step_s = []
        for _ in range(steps):
            step_s.append(self.decode(4))
            before = thread_cpu_s(own)
            time.sleep(0.02)
            spun_s += thread_cpu_s(own) - before
        return round(spun_s / steps * 1e3, 3), round(median(step_s) * 1e3, 2)

    def loop_reply(self, steps: int = 80, work_s: float = 0.001) -> tuple[float, float, float]:
        """A thread that works 1 ms in Python after each step, as an event loop does, while steps go on.

        Returns (median and p95 of ms from step end to its work done, median step ms beside it).
        """
        wake: SimpleQueue[float | None] = SimpleQueue()
        replies: list[float] = []

        def work() -> None:
            while (posted := wake.get()) is not None:
                spent = time.thread_time() + work_s
                while time.thread_time() < spent:
                    pass
                replies.append(time.perf_counter() - posted)

        thread = threading.Thread(target=work)
        thread.start()
        step_s = []
        for _ in range(steps):
            step_s.append(self.decode(4))
            wake.put(time.perf_counter())
        wake.put(None)
        thread.join()
        replies.sort()
        return (
            round(median(replies) * 1e3, 2),
            round(replies[int(len(replies) * 0.95)] * 1e3, 2),
            round(median(step_s) * 1e3, 2),
        )

    def contended(self, steps: int = 60) -> tuple[float, float]:
        """(median and p95 of step ms) while another process keeps one core busy."""
        hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            step_ms = sorted(self.decode(4) * 1e3 for _ in range(steps))
        finally:
            hog.kill()
            hog.wait()
        return round(median(step_ms), 2), round(step_ms[int(steps * 0.95)], 2)


def measure(model: Path, threads: int, repeats: int) -> StepCosts:
    """Every table, in this process."""
    loop = RawLoop(model, sequences=17, threads=threads, unified=True)
    steps = Steps(loop, repeats)
    decode_ms = {n: least_ms(steps.decode, n, repeats * 3) for n in (1, 2, 4, 8, 12, 16)}
    sizes = (8, 16, 24, 32, 48, 63, 64, 65, 96, 128, 192, 256, 384, 512)
    prefill_ms = {n: least_ms(steps.prefill, n, repeats) for n in sizes}
    mixed_ms = {}
    for decodes, chunk in (
        (4, 16),
        (4, 32),
        (4, 60),
        (4, 64),
        (4, 96),
        (4, 124),
        (4, 128),
        (8, 64),
        (16, 64),
    ):
        ways = (steps.one_batch, steps.prefill_first, steps.two_calls)
        runs = [[way(decodes, chunk) for way in ways] for _ in range(repeats + 1)][1:]
        first, last, two = (round(min(times) * 1e3, 2) for times in zip(*runs, strict=True))
        mixed_ms[f"{decodes}+{chunk}"] = (first, last, two)
    spin_ms, paced_ms = steps.helper_spin()
    reply_ms, reply_p95_ms, loaded_ms = steps.loop_reply()
    contended_ms = steps.contended()
    loop.close()
    return StepCosts(
        decode_ms, prefill_ms, mixed_ms, spin_ms, paced_ms, (reply_ms, reply_p95_ms), loaded_ms, contended_ms
    )


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print('{"ready":true}', flush=True)
    print(msgspec.json.encode(measure(args.model, args.threads, args.repeats)).decode(), flush=True)


if __name__ == "__main__":
    main()
