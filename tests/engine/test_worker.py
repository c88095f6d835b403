"""The worker, turn by turn and without a thread, on the scripted backend."""

from collections.abc import Callable, Sequence

import pytest

from corral.engine.backend import Chunk
from corral.engine.pace import Pace
from corral.engine.scripted import ScriptedBackend, rambling, replying
from corral.engine.worker import Cancel, Stop, Submit, Task, Worker
from corral.errors import EngineFailed
from corral.events import Completion, Event, Failed, Finished, Prefill, Started, collect
from corral.request import Sampling

CONVERSATION = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


class Bench:
    """A worker and everything it has delivered, by task key."""

    def __init__(self, backend: ScriptedBackend, slots: int = 4, idle_tokens: int = 64) -> None:
        self.backend = backend
        self.worker = Worker(backend, slots=slots, pace=Pace(30, idle_tokens), deliver=lambda _: None)
        self.events: dict[int, list[Event]] = {}
        self.released: list[int] = []

    def submit(self, key: int, prompt: Sequence[int] | str = CONVERSATION, **options: object) -> None:
        if isinstance(prompt, str):
            prompt = self.backend.vocabulary.tokenize(prompt, parse_control=True)
        task = Task(key, prompt, Sampling(), **{"max_tokens": 20, **options})  # type: ignore[arg-type]
        self.worker.post_nowait(Submit(task))

    def turn(self) -> None:
        delivery = self.worker.turn()
        assert delivery is not None
        for key, events in delivery.events:
            self.events.setdefault(key, []).extend(events)
        self.released += delivery.released

    def turns_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.turn()
        pytest.fail("it never happened")

    def finish(self, *keys: int) -> list[Completion]:
        self.turns_until(lambda: set(keys) <= set(self.released))
        return [collect(self.events[key]) for key in keys]


def answers(text: str) -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: text))


def test_a_generation_reports_its_prompt_its_text_and_its_end() -> None:
    bench = Bench(answers("hi"))
    bench.submit(1)
    [completion] = bench.finish(1)
    assert completion.text == "hi"
    assert completion.finished.reason == "stop"
    assert (
        completion.finished.usage.prompt_tokens
        == len(CONVERSATION) - len("<|im_start|>") * 2 + 2 - len("<|im_end|>") + 1
    )
    assert completion.finished.usage.completion_tokens == 3, "the token that ends it counts"
    assert isinstance(bench.events[1][0], Started)
    bench.worker.check_idle()


def test_a_long_prompt_reports_its_progress() -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=32)
    bench.submit(1, list(range(100)), max_tokens=1)
    bench.finish(1)
    assert [e for e in bench.events[1] if isinstance(e, Prefill)] == [
        Prefill(32, 100),
        Prefill(64, 100),
        Prefill(96, 100),
    ]


def test_max_tokens_is_exact_and_no_step_runs_for_a_token_nobody_gets() -> None:
    bench = Bench(ScriptedBackend())
    bench.submit(1, max_tokens=5)
    [completion] = bench.finish(1)
    assert len(completion.text) == 5
    assert completion.finished.reason == "length"
    assert len(bench.backend.steps) == 5, "one prefill, which gives the first token, and four decodes"


def test_a_stop_string_ends_it_in_the_step_that_completed_it() -> None:
    bench = Bench(answers("one two three"))
    bench.submit(1, stop=("tw",))
    [completion] = bench.finish(1)
    assert completion.text == "one "
    assert (completion.finished.reason, completion.finished.stop_sequence) == ("stop_sequence", "tw")
    assert len(bench.backend.steps) == len("one tw")


def test_streams_batched_together_say_what_each_says_alone() -> None:
    prompts = [f"{CONVERSATION}{'x' * (17 * i)}" for i in range(8)]
    alone = []
    for prompt in prompts:
        bench = Bench(ScriptedBackend(rambling))
        bench.submit(1, prompt, max_tokens=30)
        alone += bench.finish(1)
    together = Bench(ScriptedBackend(rambling), slots=8)
    for key, prompt in enumerate(prompts):
        together.submit(key, prompt, max_tokens=30)
        together.turn()
    texts = [completion.text for completion in together.finish(*range(8))]
    assert texts == [completion.text for completion in alone]
    assert max(len(step) for step in together.backend.steps) == 8, "they did run in one batch"
    together.worker.check_idle()


def test_a_preempted_stream_says_the_same_as_one_that_was_not() -> None:
    roomy, tight = Bench(ScriptedBackend()), Bench(ScriptedBackend(ctx_tokens=128))
    for bench in (roomy, tight):
        for key in range(3):
            bench.submit(key, list(range(key, key + 20)), max_tokens=60)
    texts = [c.text for c in roomy.finish(0, 1, 2)]
    assert [c.text for c in tight.finish(0, 1, 2)] == texts
    assert len(tight.backend.steps) > len(roomy.backend.steps), "nothing was preempted"
    tight.worker.check_idle()


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_cancelled_task_is_gone_before_the_next_step_and_the_others_do_not_notice(turns: int) -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=16)
    undisturbed = Bench(ScriptedBackend(), idle_tokens=16)
    for b in (bench, undisturbed):
        b.submit(1, list(range(40)))
    bench.submit(2, list(range(60)))
    for _ in range(turns):
        bench.turn()
    bench.worker.post_nowait(Cancel(2))
    bench.turn()
    assert bench.released == [2]
    steps = len(bench.backend.steps)
    [completion] = bench.finish(1)
    assert all(chunk.sequence == 0 for step in bench.backend.steps[steps:] for chunk in step)
    assert [completion.text] == [c.text for c in undisturbed.finish(1)]
    bench.worker.check_idle()
    assert bench.backend.open_samplers == 0


def test_cancelling_what_has_ended_is_harmless() -> None:
    bench = Bench(answers("x"))
    bench.submit(1)
    bench.finish(1)
    bench.worker.post_nowait(Cancel(1))
    bench.turn()
    assert bench.released == [1], "released once"


def test_a_chunk_that_fails_fails_alone() -> None:
    def refuse_long(chunks: Sequence[Chunk]) -> None:
        if any(len(chunk.tokens) == 7 for chunk in chunks):
            raise EngineFailed("seven is too many")

    bench = Bench(ScriptedBackend(on_step=refuse_long))
    bench.submit(1, list(range(5)))
    bench.submit(2, list(range(7)))
    bench.submit(3, list(range(6)))
    bench.turns_until(lambda: len(bench.released) == 3)
    assert isinstance(bench.events[2][-1], Failed)
    assert isinstance(bench.events[1][-1], Finished)
    assert isinstance(bench.events[3][-1], Finished)
    bench.worker.check_idle()


def test_a_sampler_that_breaks_fails_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    def script(tokens: Sequence[int]) -> int:
        if tokens[0] == 9 and len(tokens) > 4:
            raise ZeroDivisionError
        return rambling(tokens)

    bench = Bench(ScriptedBackend(script))
    bench.submit(1, [1, 2, 3])
    bench.submit(2, [9, 2, 3])
    bench.turns_until(lambda: len(bench.released) == 2)
    assert isinstance(bench.events[2][-1], Failed)
    assert "ZeroDivisionError" not in bench.events[2][-1].error.message, "no internals for the client"
    assert "ZeroDivisionError" in caplog.text
    assert collect(bench.events[1]).finished.reason == "length"
    bench.worker.check_idle()


def test_stop_forgets_everything() -> None:
    bench = Bench(ScriptedBackend())
    bench.submit(1)
    bench.worker.post_nowait(Stop())
    bench.worker.run()
    bench.worker.check_idle()
