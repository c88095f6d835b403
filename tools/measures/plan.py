"""How much is measured."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabPlan:
    """Which rows the laboratory of policies has: all loads on all machines, and so on. Names are its own."""

    machines: tuple[str, ...] = ("smollm2-2", "h100-8b")
    loads: tuple[str, ...] = ("short", "long", "mixed")
    slots: tuple[int, ...] = (4, 64, 256)
    shares: tuple[float, ...] = (0.5, 0.8, 1.0, 1.5)
    """Of what a machine could serve."""
    requests: int | None = None
    """For each row; None: by the slots."""
    costs: Path | None = None
    """A log with what an engine has learned of its costs: the only machine then."""
    is_against: bool = False
    """Whether it is held against real runs instead."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything is measured. Each figure reads what is its own."""

    repeats: int = 3
    """Repetitions; what is compared is measured once in each."""

    streams: tuple[int, ...] | None = None
    """Side by side, for throughput and cost; None: the figure's own."""
    output_tokens: int = 64
    """Of each of these streams, and of those beside watchers."""
    slots: int | None = None
    """For throughput and cost; None: as many as there are streams."""
    spin_count: str = "1000"
    """GOMP_SPINCOUNT of the raw loop."""
    omp: tuple[str, ...] = ("default",)
    """OpenMP's settings, whose steps are measured."""

    loads: tuple[str, ...] = ()
    """By their names, of those that two servers are held against each other with; none: all."""
    load_share: float = 1.0
    """Of the questions of each load."""
    has_raw: bool = False
    """Whether the raw loop plays the loads too, of those whose clients ask one question after the other."""
    behind_s: float = 1.0
    """Seconds between a long prompt and the short one behind it."""

    replicas: tuple[int, ...] = (2, 10, 100, 1000)
    """That requests are routed over, in virtual time."""
    requests: int = 2000
    """To be routed at least; 0: a few."""

    lab: LabPlan = field(default_factory=LabPlan)

    watchers: tuple[int, ...] = (100, 1000)
    """Readers of the status, beside streams."""
    watchers_stalled: int = 50
    """Of these at most; never more than half."""
    watch_s: float = 6.0
    """For how long delays are collected."""

    rounds: int = 200
    """Clients that leave, of each kind."""
    stalled: int = 50
    """Stalled readers, to be evicted and beside healthy streams."""
    healthy: int = 8
    healthy_tokens: int = 550
    """Of each healthy stream, in each turn: so many that stalled readers are evicted in it, and come back."""
    idle: int = 500
    """Idle SSE connections, of each kind."""
    subscribers: tuple[int, ...] = (100, 500, 1000)
    answers_before: int = 12
    """That the server has given, one after the other, when waits begin to be foretold."""
    arrivals: int = 160
    """Of requests whose waits are foretold."""
    step_ms: float = 20.0
    """Of the engine that serves these."""
    crowd_requests: int = 50
    """Of the client that comes first, before another asks once."""
    window_s: float = 4.0
    """For how long events are counted."""
    settle_s: float = 3.0
    """After the last reader came, before memory is looked at or events are counted."""
    shutdowns: int = 3
    shutdown_stalled: int = 20


QUICK = Plan(
    repeats=1,
    streams=(1, 2),
    output_tokens=8,
    load_share=0.1,
    behind_s=0.1,
    lab=LabPlan(machines=("smollm2-2",), loads=("short",), slots=(4,), shares=(0.8,), requests=20),
    replicas=(2,),
    requests=0,
    watchers=(3,),
    watch_s=0.5,
    rounds=4,
    stalled=4,
    healthy=2,
    healthy_tokens=20,
    idle=10,
    subscribers=(5,),
    answers_before=2,
    arrivals=12,
    step_ms=2.0,
    crowd_requests=12,
    window_s=0.3,
    settle_s=0.2,
    shutdowns=1,
    shutdown_stalled=2,
)
"""So little that the figures mean nothing: to see that they can be measured."""
