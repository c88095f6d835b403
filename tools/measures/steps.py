"""What one llama.cpp step costs, by what is in it: the numbers the scheduler's step budget stands on.

No server and no text: decode tokens alone, prefill chunks alone, and both in one batch against two calls in a
row; then what the OpenMP helper threads do to everybody else. After a step they spin for a while before they
sleep, on the core that the event loop would like to have.
"""

import msgspec

from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.servers.yardstick import StepCosts, step_costs
from tools.sheets.sheet import Sheet, number

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


class StepsRow(msgspec.Struct, frozen=True):
    """One setting of OpenMP."""

    omp: str
    costs: StepCosts


async def steps(bed: Bed, plan: Plan) -> Sheet:
    """Milliseconds per `llama_decode`, for each of OpenMP's settings that is asked for."""
    rows: list[StepsRow] = []
    for name in plan.omp:
        costs = await step_costs(
            bed.model_file, threads=bed.threads, repeats=plan.repeats, env=OMP_SETTINGS[name]
        )
        rows.append(StepsRow(name, costs))
        dot()
    return Sheet(
        name="steps",
        columns=[
            "OpenMP",
            "in the step",
            "ms",
            "tokens/s",
            "of 512's speed",
            "prefill first ms",
            "two calls ms",
        ],
        cells=[line for row in rows for line in _cells(row)],
        rows=rows,
        goals=[],
        definitions="""\
ms: of one llama_decode, the least of several. 8 decode: of so many sequences, each with 100 tokens in the
  cache; 64 prefill: of one prompt, its speed by that of 512 at once. 4 + 64: both in one batch, the decode
  rows first; prefill first: the other way round; two calls: one after the other. helper: CPU time that
  OpenMP's helper thread spins after a step of 4 tokens; reply: from its end until another thread has done
  1 ms of Python.""",
        notes=[note for row in rows for note in _notes(row)],
    )


def _cells(row: StepsRow) -> list[list[str]]:
    costs = row.costs
    full = 512 / costs.prefill_ms[512]
    decode = [
        [row.omp, f"{count} decode", number(ms, 2), number(1e3 * count / ms, 0), "", "", ""]
        for count, ms in costs.decode_ms.items()
    ]
    prefill = [
        [
            row.omp,
            f"{count} prefill",
            number(ms, 2),
            number(1e3 * count / ms, 0),
            number(count / ms / full, 2),
            "",
            "",
        ]
        for count, ms in costs.prefill_ms.items()
    ]
    mixed = [
        [row.omp, mix.replace("+", " + "), number(first, 2), "", "", number(last, 2), number(two, 2)]
        for mix, (first, last, two) in costs.mixed_ms.items()
    ]
    return decode + prefill + mixed


def _notes(row: StepsRow) -> list[str]:
    costs = row.costs
    (reply_ms, reply_p95_ms), (hogged_ms, hogged_p95_ms) = costs.loop_reply_ms, costs.contended_step_ms
    return [
        f"OpenMP {row.omp} {OMP_SETTINGS[row.omp] or ''}",
        f"  helper {costs.helper_spin_ms:.3f} ms; steps 20 ms apart {costs.paced_step_ms:.2f} ms",
        f"  reply {reply_ms:.2f} ms (p95 {reply_p95_ms:.2f}); steps beside it {costs.loaded_step_ms:.2f} ms",
        f"  steps beside a process that keeps a core busy {hogged_ms:.2f} ms (p95 {hogged_p95_ms:.2f})",
    ]
