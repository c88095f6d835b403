"""Who runs, who waits and who is told to come back later: synchronous, no clock, no task.

Slots are permits. A request takes as many as it has sequences, all at once, and returns each when the
engine says that it is free. Waiters are served first come first served within a fair share per client
key, by start-time fair queueing (Goyal, Vin, Cheng 1996): a request is tagged with the virtual time at
which its client's earlier ones will have had their turn, and the lowest tag goes first. So one client with
a hundred requests delays another's first by one turn, not by a hundred. The head of the line is never
overtaken by a smaller request, or a request for many slots would starve.

Within a client, one whose prompt lies in the engine's cache right now, as it may not a while later, may go
before others: the first such one of its first LOOKED_AT, unless one before it was overtaken OVERTAKES times
already. It takes its client's next turn, so nobody else waits for it, and of its own client nobody more than
OVERTAKES turns.

A ticket is announced while its request is being prepared, and joins the line after that. Who is announced has
a place already: it counts as if it waited, unless a slot would be free for it.

Among the requests of one client the lower `priority` goes first. Clients cannot overtake each other by it:
a request that comes in front of others of its client takes their place in line, and they move back.

A client is known while it has a request here. What it was served beyond its share is remembered a little
longer, and only while others wait: see `_forget_if_gone`. So what is kept is bounded by the slots and the
queue, whoever has ever been here. Joining, leaving and releasing cost O(log n) of the queue, and one call of
`moved` for each waiter whose position has changed.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field

from corral.errors import QueueFull

LOOKED_AT = 8
OVERTAKES = 4


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place. `start` is called, from within `join` or somebody's `release`, when it may run.

    `moved` is called with the new position whenever it changes; 0 is next. Neither may block or raise, and
    both may leave or release this ticket.
    """

    slots: int
    client: str
    start: Callable[[], None]
    moved: Callable[[int], None]
    is_warm: Callable[[], bool] = lambda: False
    """Whether most of its prompt lies in the engine's cache now. Quick, and never raises."""
    priority: int = 0
    """Among the waiting tickets of one client the lowest goes first, then the oldest."""
    position: int = field(default=-1, init=False)
    is_waiting: bool = field(default=False, init=False)
    tag: int = field(default=0, init=False)
    """The virtual time at which its client is owed this turn."""
    arrival: int = field(default=0, init=False)
    overtaken: int = field(default=0, init=False)
    """How often one that came later went before it, since that one's prompt was cached."""

    @property
    def tag_after(self) -> int:
        """The virtual time at which its client is owed the next turn."""
        return self.tag + self.slots


@dataclass(slots=True)
class _Client:
    """One with requests here. Its waiting tickets are in the order in which it wants them served."""

    served_until: int
    """The virtual time at which all that has started for it will have been its share."""
    waiting: list[Ticket] = field(default_factory=list)
    running_slots: int = 0


def _in_line(ticket: Ticket) -> tuple[int, int]:
    return ticket.tag, ticket.arrival


def _within_client(ticket: Ticket) -> tuple[int, int]:
    return ticket.priority, ticket.arrival


@dataclass(slots=True)
class Admission:
    """Hands out `slots` permits; at most `queue_limit` tickets wait, those included that are announced."""

    slots: int
    queue_limit: int
    free_slots: int = field(init=False)
    _announced: dict[Ticket, None] = field(default_factory=dict, init=False)
    """In the order in which they came."""
    _waiting: list[Ticket] = field(default_factory=list, init=False)
    _clients: dict[str, _Client] = field(default_factory=dict, init=False)
    _debts: dict[str, int] = field(default_factory=dict, init=False)
    """`served_until` of clients that have left, the longest gone first."""
    _virtual_time: int = field(default=0, init=False)
    _arrivals: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.free_slots = self.slots

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        """Waiters in the order in which they will be served."""
        return tuple(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nobody is announced, waits or runs."""
        return not self._announced and not self._waiting and self.free_slots == self.slots

    @property
    def remembered_clients(self) -> int:
        """How many clients something is kept of; never more than twice `slots` and `queue_limit` together."""
        return len(self._clients) + len(self._debts)

    def check(self, slots: int, *, tickets: int = 1, retry_after_s: Callable[[], int]) -> None:
        """Raise QueueFull if there is no room for so many tickets for `slots` each, to start now or to wait.

        As many times `announce` or `join` right after it, with no checkpoint between, is within the limit.
        """
        in_line, free_slots = len(self._waiting), 0 if self._waiting else self.free_slots
        for announced in self._announced:
            if announced.slots <= free_slots:
                free_slots -= announced.slots
            else:
                in_line, free_slots = in_line + 1, 0
        wait = max(0, tickets - free_slots // slots)
        if wait and in_line + wait > self.queue_limit:
            after_s = retry_after_s()
            raise QueueFull(
                f"{in_line} requests are waiting already; try again in {after_s} s", retry_after_s=after_s
            )

    def announce(self, ticket: Ticket) -> None:
        """Keep a place for a ticket that will join, or leave. Never refuses: that is `check`'s."""
        self._announced[ticket] = None

    def join(self, ticket: Ticket) -> None:
        """Start the ticket now, or put it in the queue. Never refuses: that is `check`'s."""
        self._announced.pop(ticket, None)
        client = self._clients.get(ticket.client)
        if client is None:
            client = self._clients[ticket.client] = _Client(self._debts.pop(ticket.client, 0))
        ticket.arrival = self._arrivals
        self._arrivals += 1
        own_place = bisect_left(client.waiting, _within_client(ticket), key=_within_client)
        moved_from = self._take_out(client.waiting[own_place:])
        client.waiting.insert(own_place, ticket)
        ticket.is_waiting = True
        self._serve(min(moved_from, self._put_in(client, own_place)))

    def leave(self, ticket: Ticket) -> None:
        """Give up a place, announced or in the queue; harmless if the ticket has started or left."""
        self._announced.pop(ticket, None)
        if not ticket.is_waiting:
            return
        client = self._clients[ticket.client]
        own_place = bisect_left(client.waiting, _within_client(ticket), key=_within_client)
        moved_from = self._take_out(client.waiting[own_place:])
        del client.waiting[own_place]
        ticket.is_waiting = False
        moved_from = min(moved_from, self._put_in(client, own_place))
        self._forget_if_gone(ticket.client)
        self._serve(moved_from)

    def resize(self, slots: int) -> None:
        """There are so many slots from now on. What has started goes on, though it may be more."""
        self.free_slots += slots - self.slots
        self.slots = slots
        self._serve(len(self._waiting))

    def release(self, ticket: Ticket) -> None:
        """One of a started ticket's slots is free again."""
        self.free_slots += 1
        self._clients[ticket.client].running_slots -= 1
        self._forget_if_gone(ticket.client)
        self._serve(len(self._waiting))

    def _serve(self, moved_from: int) -> None:
        """Start who may run, and tell those who stand elsewhere now; before `moved_from` nobody does.

        A callback may come back here for its own ticket. Then the inner call does all there is to do, and
        the outer one finds it done: neither holds on to anything across a callback.
        """
        while self._waiting and self._waiting[0].slots <= self.free_slots:
            self._virtual_time = self._waiting[0].tag  # the lowest there is: none that comes later is lower
            ticket = self._next()
            client = self._clients[ticket.client]
            self._take_turn(client, ticket)
            client.running_slots += ticket.slots
            self.free_slots -= ticket.slots
            ticket.is_waiting = False
            moved_from = 0
            ticket.start()
        if not self._waiting:
            self._debts.clear()
        position = moved_from
        while position < len(self._waiting):
            ticket = self._waiting[position]
            if ticket.position != position:
                ticket.position = position
                ticket.moved(position)
            position += 1

    def _next(self) -> Ticket:
        """Who runs next: the head of the line, or a warm one of its client's that may overtake it."""
        head = self._waiting[0]
        own = self._clients[head.client].waiting
        for place, ticket in enumerate(own[:LOOKED_AT] if len(own) > 1 else ()):
            if ticket.priority != head.priority:
                break
            if ticket.slots <= self.free_slots and ticket.is_warm():
                for other in own[:place]:
                    other.overtaken += 1
                return ticket
            if ticket.overtaken >= OVERTAKES:
                break
        return head

    def _take_turn(self, client: _Client, ticket: Ticket) -> None:
        """Take a ticket out of the line, in its client's next turn."""
        if ticket is client.waiting[0]:
            self._take_out([ticket])
            del client.waiting[0]
            client.served_until = ticket.tag_after
            return
        self._take_out(client.waiting)
        ticket.tag = client.waiting[0].tag
        client.waiting.remove(ticket)
        client.served_until = ticket.tag_after
        self._put_in(client, 0)

    def _take_out(self, tickets: list[Ticket]) -> int:
        """Take the last tickets of a client out of the line; where the first of them was."""
        place = len(self._waiting)
        for ticket in reversed(tickets):
            place = bisect_left(self._waiting, _in_line(ticket), key=_in_line)
            del self._waiting[place]
        return place

    def _put_in(self, client: _Client, own_place: int) -> int:
        """Tag a client's tickets from `own_place` on and put them in line; where the first of them is."""
        tag = max(self._virtual_time, client.served_until)
        if own_place:
            tag = client.waiting[own_place - 1].tag_after
        tickets = client.waiting[own_place:]
        for ticket in tickets:
            ticket.tag = tag
            tag = ticket.tag_after
            insort(self._waiting, ticket, key=_in_line)
        if not tickets:
            return len(self._waiting)
        return bisect_left(self._waiting, _in_line(tickets[0]), key=_in_line)

    def _forget_if_gone(self, name: str) -> None:
        """Forget a client that has nothing here any more, unless it was served ahead of those who wait.

        Its lead matters until the virtual time has caught up with it, or nobody waits. That may take for ever
        while only newcomers come, who do not move the virtual time. So no more are remembered than could be
        here; forgetting one too early gives it at most as many slots too soon as its last request had.
        """
        client = self._clients[name]
        if client.waiting or client.running_slots:
            return
        del self._clients[name]
        if self._waiting and client.served_until > self._virtual_time:
            self._debts[name] = client.served_until
        while self._debts:
            oldest, served_until = next(iter(self._debts.items()))
            is_settled = served_until <= self._virtual_time
            if not is_settled and len(self._debts) <= self.slots + self.queue_limit:
                break
            del self._debts[oldest]
