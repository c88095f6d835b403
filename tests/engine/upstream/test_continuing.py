"""What can be gone on with elsewhere, how it is asked for, and what its client is told."""

from dataclasses import replace

import msgspec
import pytest
from tests.engine.tales import asking

from corral.engine.upstream.continuing import Heard, Joint, NotContinued, rest_of
from corral.engine.upstream.fleet import Wanted
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Continued,
    Event,
    Finished,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest, Grammar, Message, RawPrompt, Sampling, Tool


def heard(*texts: str, kind: str = "text") -> Heard:
    said = Heard(keeps_text=True)
    events: list[Event] = [Started(9, 3), BlockOpened(0, kind)]  # type: ignore[arg-type]
    for text in texts:
        events += [Sampled(1), BlockDelta(0, text)]
    said.feed(events)
    return said


def told(said: Heard, *texts: str, prompt_tokens: int = 12) -> list[Event]:
    """Of the rest, in those pieces."""
    rest: list[Event] = [Started(prompt_tokens, 0), BlockOpened(0, "text")]
    rest += [event for text in texts for event in (Sampled(1), BlockDelta(0, text))]
    usage = Usage(prompt_tokens, 0, len(texts))
    return Joint(said, "there").joined([*rest, BlockClosed(0), Finished("stop", None, usage)])


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, BlockDelta))


def test_what_was_said_is_the_beginning_of_a_message_and_is_taken_from_the_budget() -> None:
    request = asking("tell me", max_tokens=10, sampling=Sampling(min_tokens=4))
    rest = rest_of(request, 10, heard("once ", "upon ", "a"))
    assert rest is not None
    assert rest.request.messages == (Message("user", "tell me"), Message("assistant", "once upon a"))
    assert (rest.request.max_tokens, rest.max_tokens, rest.request.sampling.min_tokens) == (7, 7, 1)


def test_a_message_that_was_continued_already_is_continued_further() -> None:
    request = GenerationRequest((Message("user", "tell me"), Message("assistant", "Once")))
    rest = rest_of(request, 10, heard(" upon"))
    assert rest is not None
    assert rest.request.messages[1:] == (Message("assistant", "Once upon"),)
    assert rest.request.max_tokens is None


def test_a_prompt_that_is_a_text_is_continued_as_one() -> None:
    rest = rest_of(GenerationRequest(prompt=RawPrompt("Once")), 10, heard(" upon"))
    assert rest is not None
    assert rest.request.prompt == RawPrompt("Once upon")


TOOL = Tool("f", "", msgspec.Raw(b"{}"))


@pytest.mark.parametrize(
    "request_",
    [
        asking("x", tools=(TOOL,)),
        asking("x", grammar=Grammar("json_object", "", "response_format")),
        asking("x", n=2),
        asking("x", top_logprobs=0),
        GenerationRequest(prompt=RawPrompt(tokens=(1, 2))),
        GenerationRequest(prompt=RawPrompt("a", suffix="b")),
    ],
)
def test_what_is_looked_at_from_its_beginning_is_not_gone_on_with(request_: GenerationRequest) -> None:
    assert rest_of(asking("x"), 10, heard("well")) is not None
    assert rest_of(request_, 10, heard("well")) is None


@pytest.mark.parametrize(
    ("said", "stop"),
    [("and", ("andy",)), ("one, and", (" &", " and then")), ("one END", ("END",)), ("one EN \n", ("END",))],
)
def test_what_may_have_begun_a_stop_string_is_not_gone_on_with(said: str, stop: tuple[str, ...]) -> None:
    assert rest_of(asking("x", stop=stop), 10, heard("and so")) is not None
    assert rest_of(asking("x", stop=stop), 10, heard(said)) is None


def test_blanks_that_may_have_begun_a_stop_string_are_said_again_and_with_them_all_of_it() -> None:
    assert rest_of(asking("x", stop=("\n\nUser:",)), 10, heard("one\n")) is not None


def test_nothing_but_a_text_with_room_behind_it_is_gone_on_with() -> None:
    assert rest_of(asking("x"), 10, heard("hm", kind="reasoning")) is None
    after_a_thought = heard("hm", kind="reasoning")
    after_a_thought.feed([BlockClosed(0), BlockOpened(1, "text"), Sampled(1), BlockDelta(1, "well")])
    assert rest_of(asking("x"), 10, after_a_thought) is None
    assert rest_of(asking("x"), 10, heard("  ")) is None
    assert rest_of(asking("x"), 2, heard("a", "b")) is None


def test_the_rest_begins_nothing_and_its_usage_is_of_the_whole() -> None:
    events = told(heard("one", " two"), " three", " four")
    assert events[0] == Continued("there")
    assert not any(isinstance(event, Started | BlockOpened) for event in events)
    assert text_of(events) == " three four"
    assert isinstance(events[-2], BlockClosed)
    assert isinstance(events[-1], Finished)
    assert events[-1].usage == Usage(9, 3, 4)


def test_a_prompt_whose_length_was_only_guessed_is_what_the_rest_had_before_what_was_said() -> None:
    said = heard("one", " two")
    said.knows_prompt = False
    finished = told(said, " three", prompt_tokens=22)[-1]
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(20, 3, 3)


@pytest.mark.parametrize(
    ("said", "rest", "whole"),
    [
        ("one ", [" two"], "one two"),
        ("one ", ["two"], "one two"),
        ("one\n\n", ["\n", "\n two"], "one\n\n two"),
        ("one", [" two"], "one two"),
        ("one ", ["  two"], "one  two"),
        ("one ", [".", " two"], "one . two"),
    ],
)
def test_blanks_that_are_said_again_are_told_once(said: str, rest: list[str], whole: str) -> None:
    begun = rest_of(asking("x"), 10, heard(said))
    assert begun is not None
    assert begun.request.messages[-1].content == said.rstrip()
    assert said + text_of(told(heard(said), *rest)) == whole


def test_a_rest_of_nothing_ends_the_text() -> None:
    events = Joint(heard("one"), "there").joined([Started(12, 0), Finished("stop", None, Usage(12, 0, 0))])
    assert [type(event) for event in events] == [Continued, BlockClosed, Finished]


@pytest.mark.parametrize("kind", ["reasoning", "tool"])
def test_a_thought_or_a_call_is_no_rest(kind: str) -> None:
    with pytest.raises(NotContinued):
        Joint(heard("one"), "there").joined([Started(12, 0), BlockOpened(0, kind)])  # type: ignore[arg-type]


def test_routing_knows_that_there_is_more_to_read_and_less_to_say() -> None:
    rest = rest_of(replace(asking("x"), max_tokens=10), 10, heard("four", "five"))
    assert rest is not None
    assert rest.wanted(Wanted(100, 400, 10)) == Wanted(102, 408, 8)
