"""From tokens to blocks: characters cut between tokens, stop strings, calls, thoughts."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from corral.decoding.answer import AnswerDecoder
from corral.decoding.blocks import BlockParser
from corral.decoding.formats.form import CallForm, Format, JsonBody, ThoughtForm
from corral.decoding.markers import Markers
from corral.events import BlockCollector, BlockDelta, Event, FinishReason, TokenLogprob
from corral.request import Tool

TOOLS = (Tool("look", "", Raw(b'{"type":"object"}')), Tool("ping", "", Raw(b'{"type":"object"}')))
FORMAT = Format(
    source="learned",
    calls=(CallForm((JsonBody(),), begin=("<tool_call>\n",), end="\n</tool_call>"),),
    thought=ThoughtForm("<think>\n", "\n</think>\n\n"),
)
ANSWER = (
    "<think>\nhm, 雪\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "look", "arguments": {"at": "雪 END"}}\n</tool_call>'
)


def decoder(*stop: str, one_call: bool = False, prompt: str = "") -> AnswerDecoder:
    ids = count(1)
    parser = BlockParser(Markers(FORMAT), TOOLS, prompt=prompt, new_id=lambda: f"call_{next(ids)}")
    return AnswerDecoder(parser, stop, one_call=one_call)


def blocks(events: list[Event]) -> list[tuple[str, str]]:
    collector = BlockCollector()
    for event in events:
        collector.feed(event)  # type: ignore[arg-type]
    return [(block.kind, block.text) for block in collector.blocks]


def fed(decoder: AnswerDecoder, raw: bytes, size: int, reason: FinishReason = "stop") -> list[Event]:
    events: list[Event] = []
    for start in range(0, len(raw), size):
        if decoder.ended is None:
            events += decoder.feed(raw[start : start + size], None)
    return events + decoder.finish(reason)


@given(st.integers(1, 40))
def test_however_tokens_cut_it_the_blocks_are_the_same(size: int) -> None:
    own = decoder()
    assert blocks(fed(own, ANSWER.encode(), size)) == [
        ("reasoning", "hm, 雪"),
        ("text", "I look."),
        ("tool", '{"at": "雪 END"}'),
    ]
    assert own.calls == 1


@given(st.integers(1, 40))
def test_a_stop_string_ends_text_and_neither_thought_nor_call(size: int) -> None:
    own = decoder("END", "hm", "I look. Then")
    assert [kind for kind, _ in blocks(fed(own, ANSWER.encode(), size))] == ["reasoning", "text", "tool"]
    assert own.stopped is None
    own = decoder("loo")
    assert blocks(fed(own, ANSWER.encode(), size)) == [("reasoning", "hm, 雪"), ("text", "I ")]
    assert own.stopped == "loo"
    assert own.ended == "stop_sequence"


def test_what_may_become_a_stop_string_is_held_until_the_text_ends() -> None:
    own = decoder("END")
    events = own.feed(b"the E", None)
    assert blocks(events) == [("text", "the ")]
    assert blocks(events + own.finish("stop")) == [("text", "the E")]


def test_the_one_call_there_may_be_ends_the_answer() -> None:
    two = ANSWER + '\n<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    own = decoder(one_call=True)
    assert [kind for kind, _ in blocks(fed(own, two.encode(), 1))].count("tool") == 1
    assert own.ended == "tool_calls"
    assert own.calls == 1


def test_tokens_of_thought_are_counted() -> None:
    own = decoder()
    for word in ["<think>\n", "one ", "two ", "three", "\n</think>\n\n", "four", " five"]:
        own.feed(word.encode(), None)
    assert own.reasoning_tokens == 4, "those of the thought, and the one that ended it"
    assert not own.is_thinking


OPEN = "assistant\n<think>\n"


def test_a_thought_that_the_prompt_opens_is_one_before_its_first_token_and_while_that_is_not_decided() -> (
    None
):
    answer = decoder(prompt=OPEN)
    assert answer.is_thinking
    for piece in (b"<", b"thin"):  # it may open the thought again
        answer.feed(piece, None)
        assert answer.is_thinking
    answer.feed(b"g", None)
    assert answer.is_thinking


def test_tokens_that_may_yet_be_a_call_are_counted_for_the_budget_of_the_thought_they_began_in() -> None:
    text = b'<tool_call>\n{"name": "look", "arguments": {"at": "x'
    thought = decoder(prompt=OPEN)
    for number in range(len(text)):
        assert thought.thinking_tokens == number
        thought.feed(text[number : number + 1], None)
    assert (thought.thinking_tokens, thought.reasoning_tokens) == (len(text), 0)
    thought.feed(b"\n</think>", None)
    assert thought.reasoning_tokens == len(text) + 1
    assert not thought.is_thinking

    call = decoder(prompt=OPEN)
    for number in range(len(text)):
        call.feed(text[number : number + 1], None)
    call.feed(b'"}}\n</tool_call>', None)
    events = call.finish("stop")
    assert [kind for kind, _ in blocks(events)] == ["tool"]
    assert call.reasoning_tokens == 0, "it was no thought"


def test_log_probabilities_go_with_the_text_and_not_with_thoughts() -> None:
    own = decoder()
    events: list[Event] = []
    for word in ["<think>\n", "hm", "\n</think>\n\n", "yes", " sir"]:
        events += own.feed(word.encode(), TokenLogprob(word.encode(), -1.0))
    told = [event.logprobs for event in events if isinstance(event, BlockDelta)]
    assert [tuple(logprob.raw for logprob in own) for own in told] == [(), (b"yes",), (b" sir",)]
