"""What a step costs on some machine with some model: curves that were measured, or published.

A curve here is law, where the engine has to learn its own. Both have the same form (engine/local/costs.py):
a time by how many tokens there are in a step, and one for each token and each cell that it looks at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from corral.engine.local.backend import CacheShape
from corral.engine.local.costs import SEED, WIDE_TOKENS, Costs, Seed

BATCH_TOKENS = 512
KEPT_SEQUENCES = 32
DRAFT_ROWS = 16
"""These three as on llama.cpp (engine/local/llama/backend.py)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One model on one machine. Steps by their size are without what attention takes; `source` says where
    the figures are from. A sequence may have `sequence_ctx_tokens`, each in a stream of cells of its own."""

    name: str
    source: str
    decode_ms: Mapping[int, float]
    prefill_ms: Mapping[int, float]
    decode_cell_us: float
    prefill_cell_us: float
    copy_token_us: float
    token_bytes: int
    narrow_cell_us: float | None = None
    """In prefill steps of fewer than WIDE_TOKENS; None: as in others."""
    sequence_ctx_tokens: int = 8192
    step_python_ms: float = 0.3
    row_python_ms: float = 0.045
    """Between two steps: sampling, text, delivery. `bench.py cost`: 0.33 ms of the engine's thread for a step
    of one row, and 16 times 0.063 for one of 16."""

    def costs(self) -> Costs:
        """The curves, to be asked; nothing that is observed should be told to them."""
        unit_ms = self.decode_ms[1]
        narrow_us = self.prefill_cell_us if self.narrow_cell_us is None else self.narrow_cell_us
        return Costs(
            Seed(
                steps={size: ms / unit_ms for size, ms in self.decode_ms.items()},
                prefills={size: ms / unit_ms for size, ms in self.prefill_ms.items()},
                step_cell=1e-3 * self.decode_cell_us / unit_ms,
                prefill_cell=1e-3 * self.prefill_cell_us / unit_ms,
                narrow_cell=1e-3 * narrow_us / unit_ms,
                copy_token=1e-3 * self.copy_token_us / unit_ms,
                unit_ms=unit_ms,
            )
        )

    def shape(self, slots: int) -> CacheShape:
        """Its KV cache for so many slots."""
        return CacheShape(
            ctx_tokens=self.sequence_ctx_tokens * slots,
            sequence_ctx_tokens=self.sequence_ctx_tokens,
            sequences=slots + KEPT_SEQUENCES,
            shares_cells=False,
            token_bytes=self.token_bytes,
        )


def without_attention(times_ms: Mapping[int, float], cell_us: float, depth: float) -> dict[int, float]:
    """Steps as they would be without the `depth` cells that each of their tokens looked at.

    A larger step never takes less: where a measurement says so, the smaller one is taken for both.
    """
    kernels_ms: dict[int, float] = {}
    most_ms = 0.0
    for size, ms in times_ms.items():
        most_ms = kernels_ms[size] = max(most_ms, ms - 1e-3 * cell_us * size * depth)
    return kernels_ms


def _without_own(times_ms: Mapping[int, float], cell_us: float) -> dict[int, float]:
    """Prefills at the beginning of a context: each token has looked at those before it."""
    return {size: without_attention({size: ms}, cell_us, size / 2)[size] for size, ms in times_ms.items()}


_SHORT_DEPTH = 20.0
"""Cells that a decoding token looked at where it was measured with one thread."""

SMOLLM2_2_THREADS = Machine(
    name="smollm2-2",
    source="SmolLM2-135M Q4_0, 2 threads on 2 cores: docs/benchmarks.md and docs/engine.md",
    decode_ms={size: SEED.unit_ms * ratio for size, ratio in SEED.steps.items()},
    prefill_ms={size: SEED.unit_ms * ratio for size, ratio in SEED.prefills.items()},
    decode_cell_us=1e3 * SEED.unit_ms * SEED.step_cell,
    prefill_cell_us=1e3 * SEED.unit_ms * SEED.prefill_cell,
    narrow_cell_us=1e3 * SEED.unit_ms * SEED.narrow_cell,
    copy_token_us=1e3 * SEED.unit_ms * SEED.copy_token,
    token_bytes=23_040,
)

SMOLLM2_1_THREAD = Machine(
    name="smollm2-1",
    source="SmolLM2-135M Q4_0, 1 thread: CPU time of llama_decode, the least of 3 to 6",
    decode_ms=without_attention(
        {1: 6.2, 2: 13.2, 4: 22.5, 8: 33.9, 12: 45.4, 16: 48.3, 512: 1115.0}, 6.0, _SHORT_DEPTH
    ),
    prefill_ms=_without_own(
        {1: 6.2, 4: 17.4, 8: 25.7, 16: 34.5, 32: 63.6, 64: 117.0, 128: 234.0, 256: 490.0, 512: 1115.0}, 1.6
    ),
    decode_cell_us=6.0,
    prefill_cell_us=1.6,
    copy_token_us=2.0,
    token_bytes=23_040,
)

GEMMA_1_THREAD = Machine(
    name="gemma-1",
    source="Gemma 3 270M Q4_K_M, 1 thread: likewise",
    decode_ms=without_attention(
        {1: 18.6, 2: 44.3, 4: 57.6, 8: 82.2, 12: 106.8, 16: 127.6, 512: 1405.0}, 2.6, _SHORT_DEPTH
    ),
    prefill_ms=_without_own(
        {1: 18.6, 4: 26.3, 8: 39.7, 16: 56.0, 32: 99.1, 64: 168.0, 128: 316.0, 256: 658.0, 512: 1405.0}, 1.6
    ),
    decode_cell_us=2.6,
    prefill_cell_us=1.6,
    copy_token_us=2.0,
    token_bytes=18_432,
)

_NIM = "docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance"
_TENSORRT_LLM = "NVIDIA/TensorRT-LLM v0.6.1, docs/source/performance.md, H100 FP8, first token latency"
_PUBLISHED_DEPTH = 300.0
"""Cells that a token looked at in the mean: 200 tokens in and 200 out, by the latencies and the throughput
of the published tables."""

_8B_CELL_US = 0.039
"""128 KiB of keys and values a token (32 layers, 8 heads of 128, 16 bits), at 3.35 TB/s."""
_70B_CELL_US = 0.024
"""320 KiB a token, on four GPUs."""
_8B_PREFILL_CELL_US = 0.00087
"""0.52 MFLOP for each token and cell, at 600 TFLOP/s."""
_70B_PREFILL_CELL_US = 0.0011
"""2.6 MFLOP, on four GPUs."""

H100_8B = Machine(
    name="h100-8b",
    source=f"decode: Llama 3.1 8B, 1.8.0, ITL by concurrency, {_NIM}; prefill: LLaMA 7B, {_TENSORRT_LLM}",
    decode_ms=without_attention(
        {1: 4.63, 5: 4.63, 25: 5.19, 50: 5.91, 100: 7.57, 150: 9.81, 200: 12.65, 250: 16.14},
        _8B_CELL_US,
        _PUBLISHED_DEPTH,
    ),
    prefill_ms=_without_own({1: 4.63, 128: 7.0, 2048: 36.0}, _8B_PREFILL_CELL_US),
    decode_cell_us=_8B_CELL_US,
    prefill_cell_us=_8B_PREFILL_CELL_US,
    copy_token_us=2.6,  # 128 KiB over PCIe 5 at 50 GB/s
    token_bytes=131_072,
    sequence_ctx_tokens=4096,
)

H100_70B = Machine(
    name="h100-70b",
    source=f"four H100; decode: Llama 3.1 70B, 1.3.0, ITL by concurrency, {_NIM};"
    f" prefill: LLaMA 70B, 4 GPUs, {_TENSORRT_LLM}",
    decode_ms=without_attention(
        {1: 13.21, 5: 13.21, 25: 15.31, 50: 17.42, 100: 23.28, 150: 27.73, 200: 31.22},
        _70B_CELL_US,
        _PUBLISHED_DEPTH,
    ),
    prefill_ms=_without_own({1: 13.21, 128: 26.0, 2048: 109.0}, _70B_PREFILL_CELL_US),
    decode_cell_us=_70B_CELL_US,
    prefill_cell_us=_70B_PREFILL_CELL_US,
    copy_token_us=1.6,
    token_bytes=327_680,
    sequence_ctx_tokens=4096,
)

MACHINES = {
    machine.name: machine
    for machine in (SMOLLM2_1_THREAD, SMOLLM2_2_THREADS, GEMMA_1_THREAD, H100_8B, H100_70B)
}


_ROW = re.compile(r"^\s*(\d+)\s+([\d.]+)\*?\s+([\d.]+)\*?\s*$", re.MULTILINE)
_SPENT = re.compile(r"(?:decode|prefill) (\d+) ms, by this table (\d+)")
_ATTENTION = re.compile(r"decode ([\d.]+), prefill ([\d.]+), in narrow steps ([\d.]+); copying ([\d.]+) us")


def learned(table: str, *, name: str = "learned", token_bytes: int = 23_040) -> Machine:
    """What an engine has learned, as `Costs.table` prints it. Raises ValueError where it does not.

    What is in the table counts the last steps most; the curves are scaled so that all steps together take
    what they took.
    """
    found = _ATTENTION.search(table)
    rows = _ROW.findall(table)
    spent = _SPENT.findall(table)
    if found is None or not rows or len(spent) != 2:
        raise ValueError("there is no table of costs")
    if not all(float(ms) for row in rows for ms in row[1:]):
        raise ValueError("there is a step that took no time")
    decode, prefill = (float(took) / float(by_now) if float(by_now) else 1.0 for took, by_now in spent)
    decode_cell_us, prefill_cell_us, narrow_cell_us, copy_token_us = map(float, found.groups())
    prefills_ms = {int(size): prefill * float(ms) for size, _, ms in rows}
    narrow_ms = {size: ms for size, ms in prefills_ms.items() if size < WIDE_TOKENS}
    wide_ms = {size: ms for size, ms in prefills_ms.items() if size >= WIDE_TOKENS}
    return Machine(
        name=name,
        source="learned by an engine while it ran",
        decode_ms=without_attention({int(size): decode * float(ms) for size, ms, _ in rows}, 0.0, 0.0),
        prefill_ms=_without_own(narrow_ms, prefill * narrow_cell_us)
        | _without_own(wide_ms, prefill * prefill_cell_us),
        decode_cell_us=decode * decode_cell_us,
        prefill_cell_us=prefill * prefill_cell_us,
        narrow_cell_us=prefill * narrow_cell_us,
        copy_token_us=copy_token_us,
        token_bytes=token_bytes,
    )
