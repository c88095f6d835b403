"""Whether everything is back after a soak. Pure, but for the watching."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

import msgspec
import trio

from tools.servers.footprint import Footprint, footprint
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet

SAMPLE_S = 2.0
SETTLED_S = 300.0
GROWTH_LIMIT = 0.02
EARLY_GROWTH_LIMIT = 0.3
"""In a run that ends before memory has settled: histories and caches, which have bounds, are being filled,
and bodies of 1 MB meet by chance. The same three minutes grew by 2 to 12 %."""


class Sample(msgspec.Struct, frozen=True):
    """The server's footprint `at_s` into the load."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int


class Behind(msgspec.Struct, frozen=True):
    """Of a server in front of upstreams that were killed: what it and they say when the load is over."""

    killed: int
    slots_each: int
    broken_off: int
    """Streams whose clients were told that they broke off, after a word."""
    whole_read: int
    whole_counted: int
    """Answers that clients read to their end, and that the server takes to have been read."""
    failed_counted: int
    held: int
    """Requests, leases and tokens of work that the server has at upstreams yet."""
    computed: int
    """Requests that the upstreams themselves have yet."""
    out: int
    """Upstreams that are given nothing."""

    def goals(self) -> list[Goal]:
        """What must hold."""
        most = float(self.killed * self.slots_each)
        return [
            Goal("upstreams: killed", 1, float(self.killed), at_most=False),
            Goal("broken off, by slots of the killed", most, float(self.broken_off), at_most=True),
            Goal(
                "status: broken off, by what clients were told", self.broken_off, self.failed_counted, False
            ),
            Goal("status: whole answers, by what clients read", self.whole_read, self.whole_counted, False),
            Goal("status: held at upstreams", 0, float(self.held), at_most=True),
            Goal("status: upstreams that are given nothing", 0, float(self.out), at_most=True),
            Goal("upstreams: computed there for nobody", 0, float(self.computed), at_most=True),
        ]


class Soaked(msgspec.Struct, frozen=True):
    """What was seen: how many clients ended how, the server before and after, and in between."""

    outcomes: Counter[str]
    addresses: int
    wrong: list[str]
    before: Footprint
    after: Footprint
    together: int
    """Streams that ran side by side afterwards."""
    exit_code: int | None
    samples: Sequence[Sample]
    behind: Behind | None = None


async def watch(pid: int, samples: list[Sample]) -> None:
    """Sample the footprint until cancelled."""
    started_s = trio.current_time()
    while True:
        seen = footprint(pid)
        at_s = round(trio.current_time() - started_s, 1)
        samples.append(Sample(at_s, seen.rss_bytes, seen.descriptors, seen.threads))
        await trio.sleep(SAMPLE_S)


def rss_growth(samples: Sequence[Sample]) -> float:
    """By which share memory grew from minute 5 (or the first quarter, if that is earlier) to the end.

    Both ends are medians of a tenth of what lies between, so that one sample decides nothing.
    """
    if len(samples) < 4:
        return 0.0
    settled_s = min(SETTLED_S, samples[-1].at_s / 4)
    late = [sample.rss_bytes for sample in samples if sample.at_s >= settled_s]
    window = max(1, len(late) // 10)
    return median(late[-window:]) / median(late[:window]) - 1.0


def verdict(soaked: Soaked, *, slots: int, is_exact: bool) -> Sheet:
    """What is back and what is not. Texts that differ are only told of, unless it `is_exact`."""
    before, after = soaked.before, soaked.after
    has_settled = bool(soaked.samples) and soaked.samples[-1].at_s >= 2 * SETTLED_S
    limit = GROWTH_LIMIT if has_settled else EARLY_GROWTH_LIMIT
    growth = rss_growth(soaked.samples)
    goals = [
        Goal("texts: wrong", 0, float(len(soaked.wrong)), at_most=True),
        Goal("descriptors", before.descriptors, after.descriptors, at_most=True),
        Goal("threads", before.threads, after.threads, at_most=True),
        Goal("slots: streams side by side", slots, soaked.together, at_most=False),
        Goal("memory: grown since it settled", limit, growth, at_most=True),
        Goal("exit: with another code than 0", 0, float(soaked.exit_code != 0), at_most=True),
    ]
    if soaked.behind is not None:
        goals += soaked.behind.goals()
    rss_mib = f"{before.rss_bytes / 2**20:.1f} MiB before, {after.rss_bytes / 2**20:.1f} after"
    memory = f"memory: {rss_mib} clients from {soaked.addresses} addresses"
    return Sheet(
        name="soak",
        columns=["clients: how they ended", "how many"],
        cells=[[outcome, str(count)] for outcome, count in sorted(soaked.outcomes.items())],
        rows=[soaked],
        goals=goals if is_exact else goals[1:],
        definitions="""\
texts: of clients that stayed, by the reference answers. descriptors, threads: after the load, by those from
  before it. memory: from minute 5 (or the first quarter, if that is earlier) to the end. Of upstreams that
  were killed: streams that had a word may break off, if they are told so, as many as had slots there.""",
        broken=soaked.wrong if is_exact else [],
        notes=[f"{memory}; exit code {soaked.exit_code}", *(() if is_exact else soaked.wrong[:10])],
    )
