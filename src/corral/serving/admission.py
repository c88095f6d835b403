"""Who runs, who waits and who is told to come back later: synchronous, no clock, no task.

Slots are permits. A request takes as many as it has sequences, all at once, and returns each when the
engine says that it is free. Waiters are served first come first served within a fair share per client
key, by start-time fair queueing (Goyal, Vin, Cheng 1996): a request is tagged with the virtual time at
which its client's earlier ones will have had their turn, and the lowest tag goes first. So one client with
a hundred requests delays another's first by one turn, not by a hundred. A tag never changes, so a place in
line only gets worse when somebody with a better claim arrives. The head of the line is never overtaken by
a smaller request, or a request for many slots would starve.
"""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field

from corral.errors import QueueFull


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place. `start` is called, from within `join` or somebody's `release`, when it may run.

    `moved` is called with the new position whenever it changes; 0 is next. Neither may block or raise.
    """

    slots: int
    client: str
    start: Callable[[], None]
    moved: Callable[[int], None]
    position: int = field(default=-1, init=False)
    tag: tuple[int, int] = field(default=(0, 0), init=False)


@dataclass(slots=True)
class Admission:
    """Hands out `slots` permits; at most `queue_limit` tickets wait."""

    slots: int
    queue_limit: int
    free_slots: int = field(init=False)
    _waiting: list[Ticket] = field(default_factory=list)
    _virtual_time: int = 0
    _next_tags: dict[str, int] = field(default_factory=dict)
    _arrivals: int = 0

    def __post_init__(self) -> None:
        self.free_slots = self.slots

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        """Waiters in the order in which they will be served."""
        return tuple(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nobody waits and nobody runs."""
        return not self._waiting and self.free_slots == self.slots

    def check(self, slots: int, *, retry_after_s: int) -> None:
        """See whether a ticket for so many slots could join now; raises QueueFull if it could not."""
        starts_now = not self._waiting and slots <= self.free_slots
        if not starts_now and len(self._waiting) >= self.queue_limit:
            raise QueueFull(
                f"{len(self._waiting)} requests are waiting already; try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )

    def join(self, ticket: Ticket) -> None:
        """Start the ticket now, or put it in the queue. Whoever calls it has called `check` just before."""
        start = max(self._virtual_time, self._next_tags.get(ticket.client, 0))
        self._next_tags[ticket.client] = start + ticket.slots
        ticket.tag = start, self._arrivals
        self._arrivals += 1
        insort(self._waiting, ticket, key=lambda ticket: ticket.tag)
        self._advance()

    def leave(self, ticket: Ticket) -> None:
        """Give up a place in the queue; harmless if the ticket has started or left."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._advance()

    def release(self) -> None:
        """One of a started ticket's slots is free again."""
        self.free_slots += 1
        self._advance()

    def _advance(self) -> None:
        while self._waiting and self._waiting[0].slots <= self.free_slots:
            ticket = self._waiting.pop(0)
            self.free_slots -= ticket.slots
            self._virtual_time = max(self._virtual_time, ticket.tag[0])
            ticket.start()
        for position, ticket in enumerate(self._waiting):
            if ticket.position != position:
                ticket.position = position
                ticket.moved(position)
        if not self._waiting:
            # Nobody is owed anything beyond the present, and clients must not be remembered for ever.
            self._next_tags = {c: tag for c, tag in self._next_tags.items() if tag > self._virtual_time}
