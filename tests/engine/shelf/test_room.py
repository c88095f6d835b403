"""The bound of the models' memory, whatever comes and goes, against a model that is plain to see."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from corral.engine.shelf.room import Room

NAMES = "abcdef"


class Rooms(RuleBasedStateMachine):
    """Models that are wanted, used, loaded, idle again and gone, in any order."""

    @initialize(
        limit=st.integers(1, 100),
        sizes=st.lists(st.integers(1, 60), min_size=len(NAMES), max_size=len(NAMES)),
    )
    def begin(self, limit: int, sizes: list[int]) -> None:
        self.room = Room(limit)
        self.limit = limit
        self.sizes = dict(zip(NAMES, sizes, strict=True))
        self.used: list[str] = []
        """Those with a claim, the least recently used first."""
        self.loaded: set[str] = set()
        self.busy: set[str] = set()
        self.going: set[str] = set()

    @rule(name=st.sampled_from(NAMES))
    def want(self, name: str) -> None:
        """It is claimed if it is not, which makes idle ones leave; and it is busy then."""
        if name in self.used:
            self.room.used(name)
            self.used.remove(name)
            self.used.append(name)
            self.busy.add(name)
            return
        idle = [other for other in self.used if other in self.loaded and other not in self.busy]
        leaving = self.room.leaving_for(self.sizes[name], lambda other: other in idle)
        claimed = sum(self.sizes[other] for other in self.used)
        could_have = self.limit - claimed + sum(self.sizes[other] for other in idle)
        assert (leaving is None) == (self.sizes[name] > could_have), "refused exactly where it cannot be had"
        if leaving is None:
            return
        assert list(leaving) == idle[: len(leaving)], "the least recently used of those that are idle"
        without_last = claimed - sum(self.sizes[other] for other in leaving[:-1])
        assert not leaving or without_last + self.sizes[name] > self.limit, "nobody leaves in vain"
        for other in leaving:
            self.room.going(other)
            self.used.remove(other)
            self.loaded.remove(other)
            self.going.add(other)
        self.room.claim(name, self.sizes[name])
        self.used.append(name)
        self.busy.add(name)

    @rule(name=st.sampled_from(NAMES))
    def come(self, name: str) -> None:
        if name in self.used and name not in self.loaded and self.room.may_come(name):
            self.loaded.add(name)

    @rule(name=st.sampled_from(NAMES))
    def be_idle(self, name: str) -> None:
        self.busy.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def fail(self, name: str) -> None:
        if name in self.used and name not in self.loaded:
            self.room.going(name)
            self.used.remove(name)
            self.busy.discard(name)
            self.room.gone(name)

    @rule(name=st.sampled_from(NAMES))
    def be_gone(self, name: str) -> None:
        if name in self.going:
            self.going.remove(name)
            self.room.gone(name)

    @invariant()
    def what_lies_in_memory_is_within_the_bound(self) -> None:
        if not hasattr(self, "room"):
            return
        in_memory = sum(self.sizes[name] for name in self.loaded) + sum(
            self.sizes[name] for name in self.going
        )
        assert in_memory <= self.limit
        assert self.room.claimed == tuple(self.used)
        assert self.room.claimed_bytes <= self.limit

    @invariant()
    def whoever_has_a_claim_can_be_loaded_once_all_that_go_are_gone(self) -> None:
        if hasattr(self, "room") and not self.going:
            assert all(self.room.may_come(name) for name in self.used)


TestRoom = Rooms.TestCase
