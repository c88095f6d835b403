"""What is remembered of beginnings: how much two conversations share, and how much memory that takes."""

from tests.engine.tales import asking

from corral.engine.upstream.affinity import BLOCK_BYTES, MOST_BLOCKS, Affinity, blocks_of
from corral.request import GenerationRequest, Message

SYSTEM = Message("system", "be brief. " * 1000)


def talk(*texts: str) -> GenerationRequest:
    roles = ("user", "assistant")
    return GenerationRequest(
        (SYSTEM, *(Message(roles[number % 2], text) for number, text in enumerate(texts)))  # type: ignore[arg-type]
    )


def test_a_longer_conversation_shares_all_of_the_shorter_one() -> None:
    short, long = blocks_of(talk("a")), blocks_of(talk("a", "b", "c"))
    assert long[: len(short)] == short


def test_a_difference_early_leaves_nothing_shared_after_it() -> None:
    one, other = blocks_of(talk("a", "b", "c")), blocks_of(talk("x", "b", "c"))
    shared = [left == right for left, right in zip(one, other, strict=True)]
    assert shared.index(False) == len(blocks_of(talk()))
    assert not any(shared[shared.index(False) :])


def test_what_a_replica_was_given_is_known_of_it_as_far_as_it_is_the_same() -> None:
    affinity = Affinity()
    affinity.note(blocks_of(talk("a", "b", "c")), 1)
    affinity.note(blocks_of(talk("x")), 2)
    known = affinity.known_bytes(blocks_of(talk("a", "b", "d")))
    assert known[1] > known[2] >= len(SYSTEM.content)
    affinity.forget(1)
    assert 1 not in affinity.known_bytes(blocks_of(talk("a", "b", "c")))


def test_memory_is_bounded_and_ends_are_forgotten_before_beginnings() -> None:
    affinity = Affinity(limit=20)
    for number in range(100):
        affinity.note(blocks_of(talk("a", str(number))), 0)
    assert len(affinity) == 20
    assert affinity.known_bytes(blocks_of(talk("a")))[0] >= len(SYSTEM.content)


def test_a_huge_prompt_has_a_bounded_number_of_blocks() -> None:
    assert len(blocks_of(asking("x" * (2 * MOST_BLOCKS * BLOCK_BYTES)))) == MOST_BLOCKS
