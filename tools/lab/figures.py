"""What a run of the laboratory comes to. Pure."""

from collections.abc import Sequence

import msgspec

from corral.engine.local.options import EngineOptions
from tools.lab.engine import Lab, Record
from tools.lab.loads import Load, poisson
from tools.lab.machines import BATCH_TOKENS, Machine
from tools.lab.stream import Stream
from tools.sheets.summary import gaps, percentile

CAPACITY_SAMPLE = 500


class LabRow(msgspec.Struct, frozen=True):
    """One load on one machine, at `share` of what it could ideally serve.

    Times are virtual, but for `planner_us`. A gap is one between two steps that said something of a stream.
    """

    machine: str
    load: str
    slots: int
    share: float
    requests: int
    hours: float
    per_s: float
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    gap_p50_ms: float
    gap_p95_ms: float
    gap_p99_ms: float
    gap_longest_ms: float
    queue: float
    """Who waits for a slot, in the mean over time."""
    longest_queue: int
    decode_ms: float
    """A decode step, in the mean."""
    decode_rows: float
    prefill_ms: float
    prefill_tokens: float
    planner_us: float
    """What planning a step and learning from it takes, in the mean, in true time."""
    planner_share: float
    """The same by what the steps take."""


def ideal_s(machine: Machine, slots: int, prompt_tokens: int, answer_tokens: int) -> float:
    """What a request takes of the machine where nothing is lost: its prompt at the speed of the best chunk,
    its answer in steps of the best width."""
    costs = machine.costs()
    sizes = [size for size in machine.prefill_ms if size <= BATCH_TOKENS] or [1]
    sizes.append(BATCH_TOKENS)
    depth = prompt_tokens / 2
    prefill_ms = min((costs.prefill_ms(size, 0) - _own_attention_ms(machine, size)) / size for size in sizes)
    prefill_ms += 1e-3 * machine.prefill_cell_us * depth
    widths = [size for size in machine.decode_ms if size <= slots] + [slots]
    behind = prompt_tokens + answer_tokens / 2
    row_ms = min((costs.step_ms(rows, behind) + machine.step_python_ms) / rows for rows in widths)
    return 1e-3 * (prompt_tokens * prefill_ms + answer_tokens * (row_ms + machine.row_python_ms))


def _own_attention_ms(machine: Machine, size: int) -> float:
    return 1e-3 * machine.prefill_cell_us * size * size / 2


def capacity_per_s(machine: Machine, load: Load, slots: int) -> float:
    """Requests a second where nothing is lost. It knows nothing of policies, so they can be compared."""
    lengths = list(load.asks(CAPACITY_SAMPLE, seed=0))
    return len(lengths) / sum(ideal_s(machine, slots, *each) for each in lengths)


def measure(
    machine: Machine, load: Load, options: EngineOptions, *, share: float, requests: int, seed: int = 1
) -> LabRow:
    """Poisson arrivals at `share` of the capacity, until all are answered."""
    per_s = share * capacity_per_s(machine, load, options.slots)
    record = Lab(machine, options, seed=seed).run(poisson(load, per_s=per_s, count=requests, seed=seed))
    return row(record, machine=machine.name, load=load.name, slots=options.slots, share=share, per_s=per_s)


def row(record: Record, *, machine: str, load: str, slots: int, share: float, per_s: float) -> LabRow:
    """The figures of a run whose requests were all answered.

    Throughput counts until the last request came: what follows is no load any more.
    """
    streams = record.streams
    last_s = max(stream.ask.at_s for stream in streams)
    ttfts = [stream.said_s[0] - stream.ask.at_s for stream in streams]
    waits = [stream.began_s - stream.ask.at_s for stream in streams if stream.began_s is not None]
    between = [1e3 * gap for stream in streams for gap in gaps(stream.said_s)]
    decode, prefill = record.decode, record.prefill
    own_s, steps = decode.own_s + prefill.own_s, decode.count + prefill.count
    return LabRow(
        machine=machine,
        load=load,
        slots=slots,
        share=share,
        requests=len(streams),
        hours=record.ended_s / 3600,
        per_s=per_s,
        tokens_per_s=_said_until(streams, last_s) / last_s if last_s else 0.0,
        ttft_p50_s=percentile(ttfts, 0.5),
        ttft_p95_s=percentile(ttfts, 0.95),
        gap_p50_ms=percentile(between, 0.5),
        gap_p95_ms=percentile(between, 0.95),
        gap_p99_ms=percentile(between, 0.99),
        gap_longest_ms=max(between, default=0.0),
        queue=sum(waits) / record.ended_s,
        longest_queue=record.longest_queue,
        decode_ms=decode.ms / max(1, decode.count),
        decode_rows=decode.tokens / max(1, decode.count),
        prefill_ms=prefill.ms / max(1, prefill.count),
        prefill_tokens=prefill.tokens / max(1, prefill.count),
        planner_us=1e6 * own_s / max(1, steps),
        planner_share=1e3 * own_s / max(decode.ms + prefill.ms, 1e-9),
    )


def _said_until(streams: Sequence[Stream], end_s: float) -> float:
    """Tokens of answers, as far as they were said by then; those of one step count alike."""
    return sum(
        stream.said_tokens * sum(at_s <= end_s for at_s in stream.said_s) / len(stream.said_s)
        for stream in streams
    )
