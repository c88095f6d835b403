"""What one llama.cpp step costs, by what is in it: the numbers the scheduler's step budget stands on.

    python tools/stepcost.py --model FILE [--omp default|passive|spin0|spin10000|all] [--json FILE]

Prints milliseconds per `llama_decode` for decode tokens alone, prefill chunks alone, and both in one batch
against two calls in a row; then what the OpenMP helper threads do to everybody else: after a step they spin
for a while before they sleep, on the core that the event loop would like to have. Each OpenMP setting is
read once per process, so each gets a process of its own.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import msgspec

from rawloop import RawLoop, Row

OMP_SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin0": {"GOMP_SPINCOUNT": "0"},
    "spin300": {"GOMP_SPINCOUNT": "300"},
    "spin1000": {"GOMP_SPINCOUNT": "1000"},
    "spin3000": {"GOMP_SPINCOUNT": "3000"},
    "spin10000": {"GOMP_SPINCOUNT": "10000"},
    "spin100000": {"GOMP_SPINCOUNT": "100000"},
    "active": {"OMP_WAIT_POLICY": "active"},
}
CONTEXT_TOKENS = 100  # every decoding sequence has this many cached tokens
PREFILL_SEQUENCE = 16
FILLER = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411]


class StepCosts(msgspec.Struct, frozen=True):
    """Milliseconds: least of several for steps, medians for the spin figures.

    `mixed_ms` maps "4+32" to (decode rows first in one batch, prefill rows first, two calls);
    `loop_reply_ms` and `contended_step_ms` are (median, p95).
    """

    decode_ms: dict[int, float]
    prefill_ms: dict[int, float]
    mixed_ms: dict[str, tuple[float, float, float]]
    helper_spin_ms: float
    paced_step_ms: float
    loop_reply_ms: tuple[float, float]
    loaded_step_ms: float
    contended_step_ms: tuple[float, float]


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


class Bench:
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
    bench = Bench(loop, repeats)
    decode_ms = {n: least_ms(bench.decode, n, repeats * 3) for n in (1, 2, 4, 8, 12, 16)}
    sizes = (8, 16, 24, 32, 48, 63, 64, 65, 96, 128, 192, 256, 384, 512)
    prefill_ms = {n: least_ms(bench.prefill, n, repeats) for n in sizes}
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
        ways = (bench.one_batch, bench.prefill_first, bench.two_calls)
        runs = [[way(decodes, chunk) for way in ways] for _ in range(repeats + 1)][1:]
        first, last, two = (round(min(times) * 1e3, 2) for times in zip(*runs, strict=True))
        mixed_ms[f"{decodes}+{chunk}"] = (first, last, two)
    spin_ms, paced_ms = bench.helper_spin()
    reply_ms, reply_p95_ms, loaded_ms = bench.loop_reply()
    contended_ms = bench.contended()
    loop.close()
    return StepCosts(
        decode_ms, prefill_ms, mixed_ms, spin_ms, paced_ms, (reply_ms, reply_p95_ms), loaded_ms, contended_ms
    )


def report(name: str, costs: StepCosts) -> str:
    """The tables as text."""
    full = costs.prefill_ms[512] / 512
    lines = [f"== OpenMP {name} {OMP_SETTINGS[name]}", "decode tokens   ms/step   tokens/s"]
    lines += [f"{n:>13} {ms:>9.2f} {n / ms * 1e3:>10.0f}" for n, ms in costs.decode_ms.items()]
    lines.append("prefill chunk   ms/step   tokens/s   speed against 512")
    lines += [
        f"{n:>13} {ms:>9.2f} {n / ms * 1e3:>10.0f} {full / (ms / n):>18.2f}"
        for n, ms in costs.prefill_ms.items()
    ]
    lines.append("decode+prefill  one batch: decode first, prefill first  two calls ms")
    lines += [
        f"{mix:>14} {first:>24.2f} {last:>14.2f} {two:>13.2f}"
        for mix, (first, last, two) in costs.mixed_ms.items()
    ]
    lines += [
        f"helper spins after a step, then sleeps: {costs.helper_spin_ms:.3f} ms of CPU; "
        f"a 4-token step 20 ms after the last: {costs.paced_step_ms:.2f} ms",
        f"1 ms of Python work in another thread after each step: done {costs.loop_reply_ms[0]:.2f} ms later "
        f"(p95 {costs.loop_reply_ms[1]:.2f}); steps beside it {costs.loaded_step_ms:.2f} ms",
        f"4-token steps beside a process that keeps one core busy: {costs.contended_step_ms[0]:.2f} ms "
        f"(p95 {costs.contended_step_ms[1]:.2f})",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure in a child process per OpenMP setting, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--omp", choices=[*OMP_SETTINGS, "all"], default="all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.buffer.write(msgspec.json.encode(measure(args.model, args.threads, args.repeats)))
        return
    results: dict[str, StepCosts] = {}
    command = [sys.executable, __file__, "--child", "--model", str(args.model)]
    command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
    for name in OMP_SETTINGS if args.omp == "all" else [args.omp]:
        child = subprocess.run(
            command, env=os.environ | OMP_SETTINGS[name], stdout=subprocess.PIPE, check=True
        )
        results[name] = msgspec.json.decode(child.stdout, type=StepCosts)
        print(report(name, results[name]), flush=True)
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


if __name__ == "__main__":
    main()
