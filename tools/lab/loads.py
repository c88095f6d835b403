"""Who asks for what, and when. Pure: the same seed gives the same requests."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that is sent at `at_s`, by a client."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    client: int = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal around a median; 0 `spread`: all alike. Never more than `most`."""

    median: int
    spread: float = 0.0
    most: int = 1 << 30

    def draw(self, chance: random.Random) -> int:
        return max(1, min(self.most, round(self.median * chance.lognormvariate(0.0, self.spread))))


@dataclass(frozen=True, slots=True)
class Load:
    """What prompts and answers are like."""

    name: str
    prompts: Lengths
    answers: Lengths

    def asks(self, count: int, seed: int) -> Iterator[tuple[int, int]]:
        """So many lengths of prompts and of their answers."""
        chance = random.Random(seed)
        return ((self.prompts.draw(chance), self.answers.draw(chance)) for _ in range(count))


SHORT = Load("short", Lengths(55, 0.3, 400), Lengths(64, 0.5, 256))
LONG = Load("long", Lengths(1500, 0.3, 3000), Lengths(48, 0.5, 256))
RETRIEVAL = Load("retrieval", Lengths(390), Lengths(48))
MIXED = Load("mixed", Lengths(150, 1.2, 3000), Lengths(64, 0.8, 400))
LOADS = {load.name: load for load in (SHORT, RETRIEVAL, LONG, MIXED)}


class Source(Protocol):
    """Where requests come from."""

    def first(self) -> Sequence[Ask]:
        """Those that are known from the beginning."""
        ...

    def after(self, ask: Ask, ended_s: float) -> Ask | None:
        """What the client asks when one of its requests has been answered."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """These requests, and no others."""

    asks: Sequence[Ask]

    def first(self) -> Sequence[Ask]:
        return self.asks

    def after(self, ask: Ask, ended_s: float) -> Ask | None:
        return None


def poisson(load: Load, *, per_s: float, count: int, seed: int) -> Listed:
    """Requests that come whenever they come, so many in a second in the mean, each by another client."""
    chance = random.Random(f"arrivals {seed}")
    at_s, asks = 0.0, []
    for client, (prompt_tokens, answer_tokens) in enumerate(load.asks(count, seed)):
        at_s += chance.expovariate(per_s)
        asks.append(Ask(at_s, prompt_tokens, answer_tokens, client))
    return Listed(asks)


class Closed:
    """Clients that ask again `turnaround_s` after they were answered. Of each, the lengths of all it wants.

    The turnaround is what a client, the network and a server need beside the engine.
    """

    def __init__(self, lengths: Mapping[int, Sequence[tuple[int, int]]], *, turnaround_s: float) -> None:
        self._left = {client: deque(own) for client, own in lengths.items()}
        self._turnaround_s = turnaround_s

    def first(self) -> Sequence[Ask]:
        return [self._ask(client, 0.0) for client in self._left]

    def after(self, ask: Ask, ended_s: float) -> Ask | None:
        if not self._left[ask.client]:
            return None
        return self._ask(ask.client, ended_s + self._turnaround_s)

    def _ask(self, client: int, at_s: float) -> Ask:
        return Ask(at_s, *self._left[client].popleft(), client)


def closed(load: Load, *, clients: int, each: int, turnaround_s: float, seed: int) -> Closed:
    """So many clients, each of which asks so often."""
    lengths = list(load.asks(clients * each, seed))
    return Closed({client: lengths[client::clients] for client in range(clients)}, turnaround_s=turnaround_s)
