"""Routing over 2 to 1,000 replicas, in virtual time: see lab/fleet.py."""

import tracemalloc
from collections.abc import Sequence

from corral.engine.upstream.affinity import KEPT_HASHES, Affinity, Block
from tools.lab.fleet import HOT_BLOCKS, HOT_SHARE, POLICIES, SLOTS, TURNS, RoutingRow, simulate
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number

REQUESTS = 100
"""For each replica, and MOST_REQUESTS in all at most."""
MOST_REQUESTS = 20_000
DECISION_US = 1000.0
IMBALANCE = 1.25
OF_CHANCE = 1.1
"""Or this much more than by work alone, where so few come to each replica that chance does the most."""
OF_BEST = 1.15


async def routing(bed: Bed, plan: Plan) -> Sheet:
    """Each policy on each number of replicas."""
    del bed
    rows: list[RoutingRow] = []
    for replicas in plan.replicas:
        requests = min(MOST_REQUESTS, max(plan.requests, REQUESTS * replicas) if plan.requests else 20)
        for policy in POLICIES:
            rows.append(simulate(replicas, policy, requests))
            dot()
    return Sheet(
        name="routing",
        columns=[
            "replicas",
            "policy",
            "TTFT p50 ms",
            "p95 ms",
            "answer p95 s",
            "cached %",
            "imbalance",
            "decision us",
            "hashes",
        ],
        cells=[
            [
                str(row.replicas),
                row.policy,
                number(row.ttft_p50_s, 0, 1e3),
                number(row.ttft_p95_s, 0, 1e3),
                number(row.answer_p95_s, 2),
                number(row.cached_share, 0, 100),
                number(row.imbalance, 2),
                number(row.decision_us, 0),
                str(row.hashes),
            ]
            for row in rows
        ],
        rows=rows,
        goals=goals(rows),
        notes=[f"{KEPT_HASHES} hashes take {full_index_bytes() / 2**20:.1f} MiB"],
        definitions=f"""\
Conversations of {TURNS} turns at 0.8 of what the replicas can do, {SLOTS} slots each; {HOT_SHARE:.0%} begin
  with the same {HOT_BLOCKS} blocks. answer: from asking to its end. cached: of all prompts' blocks, those
  that the replica still had. imbalance: the time that the busiest replica's slots are taken, over the mean.
  decision: CPU of one, in this process.
corral: as the server. least work: as if no beginning were known. most known: by beginnings alone.""",
    )


def goals(rows: Sequence[RoutingRow]) -> list[Goal]:
    """What is promised of corral's own. Pure."""
    found = []
    for row in rows:
        if row.policy == "corral":
            rivals = [each for each in rows if each.replicas == row.replicas]
            first_s = row.ttft_p50_s / min(each.ttft_p50_s for each in rivals)
            chance = max((each.imbalance for each in rivals if each.policy == "least work"), default=0.0)
            imbalance = max(IMBALANCE, OF_CHANCE * chance)
            whole_s = row.answer_p95_s / min(each.answer_p95_s for each in rivals)
            found += [
                Goal(f"decision in us, {row.replicas} replicas", DECISION_US, row.decision_us, True),
                Goal(f"imbalance, {row.replicas} replicas", imbalance, row.imbalance, True),
                Goal(f"TTFT p50 / the best's, {row.replicas} replicas", OF_BEST, first_s, True),
                Goal(f"whole answers p95 / the best's, {row.replicas} replicas", OF_BEST, whole_s, True),
            ]
    return found


def full_index_bytes() -> int:
    """Memory of what is known of beginnings, where it is full."""
    tracemalloc.start()
    affinity = Affinity()
    for index in range(KEPT_HASHES):
        affinity.note((Block(index.to_bytes(16), 1),), index % 100)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size
