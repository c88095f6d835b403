"""What those in line are told of their wait, on a clock that only moves when everybody waits."""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from statistics import median

import pytest
import trio
import trio.testing
from tests.engine.tales import Tale, TaleEngine, asking, running
from tests.serving.test_generation import Client, about

from corral.books.ledger import Ledger
from corral.engine.contract import Embedding
from corral.errors import QueueFull
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    Prefill,
    Queued,
    Sampled,
    Started,
    Usage,
)
from corral.request import Embed, GenerationRequest, RawPrompt
from corral.serving.estimate import FEWEST_LENGTHS
from corral.serving.service import MOST_RETRY_S, UNKNOWN_RETRY_S, Service, ServiceOptions

TOKEN_S = 0.1
CTX_TOKENS = 10_000


def asked(request: GenerationRequest, max_tokens: int) -> Iterable[list[Event]]:
    """As many tokens as the message says, which nobody else reads: a batch for each ten words, then each."""
    said = request.messages[0].content.split()
    size, tokens = len(said), min(int(said[0]), max_tokens)
    for done in range(0, size, 10):
        yield [Prefill(done, size)]
    for number in range(tokens):
        told: list[Event] = [] if number else [Started(size, 0), BlockOpened(0, "text")]
        yield [*told, Sampled(1), BlockDelta(0, "x")]
    yield [BlockClosed(0), Finished("stop", None, Usage(size, 0, tokens))]


@asynccontextmanager
async def serving(
    tale: Tale = asked, *, slots: int = 1, queue_requests: int = 64, embedding: Embedding | None = None
) -> AsyncIterator[Service]:
    engine = TaleEngine(tale, slots=slots, ctx_tokens=CTX_TOKENS, pause_s=TOKEN_S, embedding=embedding)
    async with running(engine) as engine, trio.open_nursery() as nursery:
        service = Service(engine, ServiceOptions(queue_requests=queue_requests), Ledger())
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def answer(service: Service, id: str, tokens: int, words: int = 1, **fields: object) -> None:
    """Ask for so many tokens, and wait for all of them."""
    request = asking(f"{tokens} " + "word " * (words - 1), **fields)
    with service.open(request, id, about(id), Client()) as generation:
        await generation.complete()


async def test_who_waits_for_a_limited_answer_is_told_when_it_will_be_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as service, trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, service, "first", 500, max_tokens=400))
        await trio.sleep(20)
        nursery.start_soon(partial(answer, service, "second", 200, max_tokens=200))
        await trio.sleep(0.1)
        nursery.start_soon(partial(answer, service, "third", 1, max_tokens=1))
        await trio.sleep(0.1)
        waits = service.waits_s()
        assert waits["second"] == pytest.approx(20, rel=0.1)
        assert waits["third"] == pytest.approx(40, rel=0.1)
        await trio.sleep(10)
        assert service.waits_s()["second"] == pytest.approx(10, rel=0.1), "it counts down"


async def test_nobody_can_say_how_long_answers_without_a_limit_last_until_some_have_been_seen(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as service:
        for number in range(FEWEST_LENGTHS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, service, "first", 100)
                await trio.sleep(0.05)
                nursery.start_soon(answer, service, "second", 100)
                await trio.sleep(0.05)
                if 2 * number < FEWEST_LENGTHS:
                    assert service.waits_s() == {"second": None}
                else:
                    assert service.waits_s() == {"second": pytest.approx(10, rel=0.1)}


async def test_texts_that_are_embedded_say_nothing_of_how_long_answers_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    embedding = Embedding(dimensions=2, input_tokens=100, pooling="mean")
    async with serving(embedding=embedding) as service, trio.open_nursery() as nursery:
        for number in range(FEWEST_LENGTHS):
            request = GenerationRequest(embed=Embed((RawPrompt("a b"),)))
            with service.open(request, "me", about(f"text {number}"), Client()) as generation:
                await generation.complete()
        nursery.start_soon(answer, service, "first", 100)
        await trio.sleep(0.05)
        nursery.start_soon(answer, service, "second", 100)
        await trio.sleep(0.05)
        assert service.waits_s() == {"second": None}


async def test_who_waits_for_texts_to_be_embedded_is_told_how_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    embedding = Embedding(dimensions=2, input_tokens=100, pooling="mean")
    async with serving(embedding=embedding) as service, trio.open_nursery() as nursery:
        nursery.start_soon(embed, service, "first", 100)
        await trio.sleep(50 * TOKEN_S)
        nursery.start_soon(embed, service, "second", 1)
        await trio.sleep(0.05)
        wait_s = service.waits_s()["second"]
        assert wait_s == pytest.approx(50 * TOKEN_S, rel=0.3)


async def embed(service: Service, id: str, texts: int) -> None:
    """So many texts of two words, each of which takes as long as a token."""
    request = GenerationRequest(embed=Embed((RawPrompt("a b"),) * texts))
    with service.open(request, id, about(id), Client()) as generation:
        await generation.complete()


async def test_texts_that_are_embedded_are_not_expected_in_the_cache_where_prompts_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def cached(request: GenerationRequest, max_tokens: int) -> Iterable[list[Event]]:
        yield [Started(20, 19), BlockOpened(0, "text"), Sampled(1), BlockDelta(0, "x"), BlockClosed(0)]
        yield [Finished("stop", None, Usage(20, 19, 1))]

    embedding = Embedding(dimensions=2, input_tokens=100, pooling="mean")
    async with serving(cached, embedding=embedding) as service, trio.open_nursery() as nursery:
        for number in range(10):
            await answer(service, f"chat {number}", 1, words=20)
        await embed(service, "before", 100)
        nursery.start_soon(embed, service, "first", 100)
        await trio.sleep(0.01)
        nursery.start_soon(embed, service, "second", 100)
        await trio.sleep(0.01)
        nursery.start_soon(embed, service, "third", 1)
        await trio.sleep(0.01)
        assert service.waits_s()["third"] == pytest.approx(200 * TOKEN_S, rel=0.1)


async def test_how_fast_texts_are_embedded_says_nothing_of_prompts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    embedding = Embedding(dimensions=2, input_tokens=100, pooling="mean")
    async with serving(embedding=embedding) as service, trio.open_nursery() as nursery:
        await answer(service, "chat", 10, words=1000, max_tokens=10)
        for number in range(10):
            await embed(service, f"slow {number}", 500)
        nursery.start_soon(partial(answer, service, "first", 10, words=1000, max_tokens=10))
        await trio.sleep(0.01)
        nursery.start_soon(partial(answer, service, "second", 10, words=1000, max_tokens=10))
        await trio.sleep(0.01)
        assert service.waits_s()["second"] == pytest.approx(110 * TOKEN_S, rel=0.1), "ten words in a batch"


async def test_who_waits_is_told_again_every_second(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service, trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, service, "first", 50, max_tokens=50))
        await trio.sleep(0.01)
        request = asking("1", max_tokens=1)
        with service.open(request, "second", about("second"), Client()) as generation:
            told: list[float] = []
            while not told or not generation.record.life.held:
                for _, events in await generation.receive():
                    told += [event.wait_s or 0.0 for event in events if isinstance(event, Queued)]
    assert len(told) >= 5
    assert told == sorted(told, reverse=True)


async def test_who_finds_the_queue_full_is_told_to_come_when_it_has_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def refused() -> int:
        with pytest.raises(QueueFull) as caught:
            await answer(service, "late", 1, max_tokens=1)
        return caught.value.retry_after_s

    async with serving(queue_requests=1) as service:
        for limit, wait_s in ((300, 30), (9000, MOST_RETRY_S), (None, UNKNOWN_RETRY_S)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(answer, service, "first", 9000, max_tokens=limit))
                await trio.sleep(5)
                nursery.start_soon(partial(answer, service, "second", 1, max_tokens=1))
                await trio.sleep(0.1)
                expected = wait_s - 5 if limit == 300 else wait_s
                assert expected <= await refused() <= 1.3 * expected
                nursery.cancel_scope.cancel()
            await service.wait_settled()


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_told_comes_true(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """|estimate - truth| / truth, over all that was told a second ahead or more."""
    draw = random.Random(seed)
    told: list[tuple[float, float]] = []

    async def arrive(service: Service, id: str, tokens: int, words: int) -> None:
        request = asking(f"{tokens} " + "word " * words)
        with service.open(request, id, about(id), Client()) as generation:
            estimates: list[tuple[float, float]] = []
            while not generation.record.has_ended:
                for _, events in await generation.receive():
                    estimates += [
                        (trio.current_time(), event.wait_s)
                        for event in events
                        if isinstance(event, Queued) and event.wait_s is not None
                    ]
            began_s = generation.record.life.admitted_s
            assert began_s is not None
            told.extend((wait_s, began_s - at_s) for at_s, wait_s in estimates if began_s - at_s >= 1)

    async with serving(slots=4) as service, trio.open_nursery() as nursery:
        for number in range(150):
            tokens = int(draw.lognormvariate(4, 0.6)) + 1
            nursery.start_soon(arrive, service, str(number), tokens, draw.randrange(20, 400))
            await trio.sleep(draw.expovariate(1 / 1.9))
    errors = [abs(estimate - truth) / truth for estimate, truth in told]
    assert len(errors) > 300
    assert median(errors) <= 0.3
    assert min(estimate / truth for estimate, truth in told) >= 0.25
