"""The store keeps what it promises: to each client its own, for so long, and never more than so much."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from corral.dialects.openai.responses_store import ENTRY_BYTES, ResponsesStore, Turn


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def turn(number: int, size_bytes: int = 0) -> Turn:
    return Turn(b"x" * size_bytes, b"", (f"msg_{number}",))


def store(entries: float, clock: Clock | None = None, keep_s: float = 60) -> ResponsesStore:
    """One with room for so many responses of one turn each."""
    return ResponsesStore(int(entries * 2 * (ENTRY_BYTES + 8)), keep_s, now=clock or Clock())


def test_a_client_finds_its_own_and_nobody_elses() -> None:
    kept = store(4)
    kept.put("me", "a", b"mine", (turn(1),))
    kept.put("you", "a", b"yours", (turn(1),))
    mine, yours = kept.find("me", "a"), kept.find("you", "a")
    assert mine is not None
    assert yours is not None
    assert (mine.body, yours.body) == (b"mine", b"yours")
    assert kept.find("else", "a") is None
    assert kept.turn_with("me", "msg_1") is mine.turns[0]
    assert kept.turn_with("else", "msg_1") is None
    assert not kept.remove("else", "a")


def test_what_has_been_kept_long_enough_is_forgotten() -> None:
    clock = Clock()
    kept = store(4, clock, keep_s=10)
    kept.put("me", "a", b"", (turn(1),))
    clock.now_s = 5
    kept.put("me", "b", b"", (turn(2),))
    clock.now_s = 9.9
    assert kept.find("me", "a") is not None
    clock.now_s = 10
    assert kept.find("me", "a") is None
    assert kept.turn_with("me", "msg_1") is None
    assert kept.find("me", "b") is not None
    clock.now_s = 15
    assert kept.find("me", "b") is None
    assert kept.size_bytes == 0


def test_who_holds_the_most_loses_the_oldest_first() -> None:
    kept = store(4)
    kept.put("modest", "m", b"", (turn(0),))
    for number in range(9):
        kept.put("greedy", f"g{number}", b"", (turn(number),))
    assert kept.find("modest", "m") is not None
    assert [number for number in range(9) if kept.find("greedy", f"g{number}")] == [6, 7, 8]


def test_a_conversation_outlives_its_first_response_and_counts_its_turns_once() -> None:
    kept = store(8)
    first, second = turn(1, 100), turn(2, 100)
    kept.put("me", "a", b"", (first,))
    alone = kept.size_bytes
    kept.put("me", "b", b"", (first, second))
    assert kept.size_bytes == 2 * alone + 8, "the first turn is there once"
    assert kept.remove("me", "a")
    found = kept.find("me", "b")
    assert found is not None
    assert found.turns == (first, second)
    assert kept.turn_with("me", "msg_1") is first
    assert kept.remove("me", "b")
    assert kept.size_bytes == 0
    assert kept.turn_with("me", "msg_1") is None


def test_what_does_not_fit_alone_is_not_kept_and_pushes_nothing_out() -> None:
    kept = store(2)
    kept.put("me", "a", b"", (turn(1),))
    kept.put("me", "b", b"", (turn(2, 100_000),))
    assert kept.find("me", "a") is not None
    assert kept.find("me", "b") is None


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 3), st.integers(0, 3000), st.booleans())))
def test_it_is_never_larger_than_it_may_be_and_counts_right(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    """Each step goes on from a client's response, with so many bytes, or removes it."""
    kept = store(4)
    ids: dict[str, list[str]] = {client: [] for client in "xyz"}
    for number, (client, back, size_bytes, removes) in enumerate(steps):
        own = ids[client]
        previous = own[-1 - back] if len(own) > back else ""
        if removes:
            kept.remove(client, previous)
            continue
        found = kept.find(client, previous)
        own.append(f"r{number}")
        kept.put(client, own[-1], b"", (*(found.turns if found else ()), turn(number, size_bytes)))
        assert kept.size_bytes <= 4 * 2 * (ENTRY_BYTES + 8)
        there = [stored for name in ids for id in ids[name] if (stored := kept.find(name, id))]
        holders = Counter(turn for stored in there for turn in stored.turns)
        assert kept.size_bytes == sum(stored.size_bytes for stored in there) + sum(
            turn.size_bytes for turn in holders
        )
        assert all(turn.holders == count for turn, count in holders.items())
