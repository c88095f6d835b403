"""The models of one server by their names, each with a service of its own, and what they are together.

They share the books, and nothing else: each has its engine, its queue and its fair shares. With one model
the name in a request does not matter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import trio

from corral.books.ledger import Ledger
from corral.books.record import Record
from corral.engine.contract import Capacity, Holdings, ReplicaState
from corral.errors import EngineFailed, ModelNotFound
from corral.serving.service import Service


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One of them: its public name, since when it is offered (the time of day), and what takes its
    requests."""

    name: str
    created_s: int
    service: Service


class Models:
    """All of them; at least one. The first is meant by requests that name none.

    What they are together has the names that it has in a `Service`, of which it is the sum.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        """Of different names, and over one ledger."""
        self._by_name: Mapping[str, Model] = {model.name: model for model in models}
        self.first = models[0]
        self.on_draining: list[Callable[[], None]] = []
        """Called when the first request is refused from now on. May not block or raise."""

    @classmethod
    def of_one(cls, name: str, service: Service, created_s: int = 0) -> "Models":
        """One model."""
        return cls([Model(name, created_s, service)])

    def __iter__(self) -> Iterator[Model]:
        return iter(self._by_name.values())

    @property
    def are_several(self) -> bool:
        """Whether it matters which one a request names."""
        return len(self._by_name) > 1

    @property
    def come_or_go(self) -> bool:
        """Whether there is more to be said of them than of one that is always there."""
        return self.are_several or self.first.service.residence is not None

    @property
    def name(self) -> str:
        """Of all together, for people."""
        return ", ".join(self._by_name)

    def asked_for(self, name: str | None) -> Model:
        """The model of a request that names it so, or names none. Raises ModelNotFound."""
        return self.first if name is None or not self.are_several else self.named(name)

    def named(self, name: str) -> Model:
        """The model of that very name. Raises ModelNotFound."""
        model = self._by_name.get(name)
        if model is None:
            there = ", ".join(repr(known) for known in self._by_name)
            raise ModelNotFound(
                f"there is no model {name!r} here, only {there}", name=name, known=tuple(self._by_name)
            )
        return model

    def service_of(self, record: Record) -> Service:
        """What has taken a request in."""
        return self._by_name[record.about.model].service

    @property
    def services(self) -> list[Service]:
        """Of all, in their order."""
        return [model.service for model in self]

    # What they are together

    @property
    def ledger(self) -> Ledger:
        """Of all their requests."""
        return self.first.service.ledger

    @property
    def capacity(self) -> Capacity:
        """What those take together that are there; of one request, what the largest takes."""
        there = [service.capacity for service in self.services if service.is_there]
        all_of_them = [service.capacity for service in self.services]
        bytes_known = [each.prompt_bytes for each in all_of_them if each.prompt_bytes is not None]
        return Capacity(
            sum(each.slots for each in there),
            sum(each.ctx_tokens for each in there),
            max(each.request_ctx_tokens for each in all_of_them),
            max(bytes_known) if len(bytes_known) == len(all_of_them) else None,
        )

    @property
    def holdings(self) -> Holdings | None:
        """What the caches of those hold that can tell; None where none can."""
        known = [held for service in self.services if (held := service.holdings) is not None]
        if len(known) < 2:
            return known[0] if known else None
        return Holdings(
            sum(each.running_tokens for each in known),
            sum(each.kept_tokens for each in known),
            sum(each.kept_bytes for each in known),
            sum(each.saved_bytes for each in known),
            sum(each.saved_limit_bytes for each in known),
        )

    @property
    def failure(self) -> EngineFailed | None:
        """Why nothing can be generated any more by any of them, if so."""
        failures = [service.failure for service in self.services]
        return failures[0] if all(failure is not None for failure in failures) else None

    @property
    def is_draining(self) -> bool:
        """No new request is taken any more."""
        return self.first.service.is_draining

    @property
    def waiting(self) -> int:
        return sum(service.waiting for service in self.services)

    @property
    def free_slots(self) -> int:
        """Of those that are there."""
        return sum(service.free_slots for service in self.services if service.is_there)

    @property
    def queue_limit(self) -> int:
        """How many may wait."""
        return sum(service.queue_limit for service in self.services)

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """The engines behind theirs, one model's after the other's."""
        return [replica for service in self.services for replica in service.replicas]

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """As `Service.set_draining`, for every model that it serves."""
        found = [service.set_draining(replica, is_draining) for service in self.services]
        return any(found)

    def step_age_s(self) -> float | None:
        """How long the oldest of their running steps has lasted, in seconds; None if nothing runs."""
        ages_s = [age_s for service in self.services if (age_s := service.step_age_s()) is not None]
        return max(ages_s, default=None)

    def waits_s(self) -> dict[str, float | None]:
        """As `Service.waits_s`, one model's after the other's."""
        if not self.are_several:
            return self.first.service.waits_s()
        waits: dict[str, float | None] = {}
        for service in self.services:
            waits |= service.waits_s()
        return waits

    # Requests by their ids

    def stop(self, id: str) -> bool:
        """As `Service.stop`."""
        return any(service.stop(id) for service in self.services)

    def is_running(self, id: str) -> bool:
        """As `Service.is_running`."""
        return any(service.is_running(id) for service in self.services)

    def end_thought(self, id: str) -> bool:
        """As `Service.end_thought`."""
        return any(service.end_thought(id) for service in self.services)

    def cancel(self, id: str) -> bool:
        """As `Service.cancel`."""
        return any(service.cancel(id) for service in self.services)

    # All of them at once

    async def drain(self, drain_s: float) -> None:
        """As `Service.drain`, of all of them at the same time; cancel-safe."""
        for service in self.services:
            service.refuse_from_now_on()
        for callback in self.on_draining:
            callback()
        async with trio.open_nursery() as nursery:
            for service in self.services:
                nursery.start_soon(service.drain, drain_s)

    async def wait_idle(self) -> None:
        """As `Service.wait_idle`, of each; a checkpoint, cancel-safe."""
        for service in self.services:
            await service.wait_idle()

    def check_idle(self) -> None:
        """Assert that no request has left anything behind; for tests."""
        for service in self.services:
            service.check_idle()
