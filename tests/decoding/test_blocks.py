"""What a client sees of an answer: blocks, as early as they are certain, whatever the model writes."""

import pytest
from tests.decoding.answers import TOOLS, parse
from tests.decoding.forms import (
    BARE_JSON,
    FENCED,
    HEADED,
    JSON_IN_TAGS,
    JSON_IN_TOKENS,
    NAMED,
    NESTED_TAGS,
    PROMPTED,
    PYTHONIC,
    QUOTED,
    TAGGED,
    TYPED_TAGS,
)

from corral.decoding.blocks import BlockParser, Markers
from corral.decoding.formats.form import CallForm, Format, NamedBody
from corral.events import BlockClosed, BlockDelta, BlockOpened

OSLO = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def parser(form: Format, prompt: str = "") -> BlockParser:
    return BlockParser(Markers(form), TOOLS, prompt=prompt, new_id=lambda: "call_0")


# When things leave


def test_text_leaves_with_the_piece_that_brings_it() -> None:
    assert parser(JSON_IN_TAGS).feed("Hello, world") == [
        BlockOpened(0, "text"),
        BlockDelta(0, "Hello, world"),
    ]


def test_what_may_become_a_marker_waits_and_leaves_when_it_does_not() -> None:
    one = parser(JSON_IN_TAGS)
    assert one.feed("see <tool") == [BlockOpened(0, "text"), BlockDelta(0, "see")]
    assert one.feed("box>") == [BlockDelta(0, " <toolbox>")]


def test_a_less_than_sign_that_begins_no_marker_does_not_wait() -> None:
    assert parser(JSON_IN_TAGS).feed("a <b") == [BlockOpened(0, "text"), BlockDelta(0, "a <b")]


def test_whitespace_before_a_marker_goes_with_it() -> None:
    answer = parse(JSON_IN_TAGS, "I look it up. \n\n" + OSLO + "\n\n")
    assert answer.text == "I look it up."
    assert answer.arguments == [{"city": "Oslo"}]


def test_whitespace_at_the_end_of_text_is_kept() -> None:
    assert parse(JSON_IN_TAGS, "  Done.\n").text == "  Done.\n"


def test_a_call_opens_with_its_name_and_its_arguments_stream() -> None:
    one = parser(JSON_IN_TAGS)
    assert one.feed('<tool_call>{"name": "ping') == []
    assert one.feed('"') == [BlockOpened(0, "tool", "call_0", "ping")]
    assert one.feed(', "arguments": {"a": "x') == [BlockDelta(0, '{"a": "x')]
    assert one.feed("y") == [BlockDelta(0, "y")]
    assert one.feed('"}') == [BlockDelta(0, '"}'), BlockClosed(0)]


def test_a_tagged_string_streams_and_other_values_leave_whole() -> None:
    one = parser(TAGGED)
    one.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\nOs")
    assert one.feed("lo") == [BlockDelta(0, "lo")]
    assert one.feed("\n</parameter>\n<parameter=days>\n1") == [BlockDelta(0, '", "days": ')]
    assert one.feed("2") == []
    assert one.feed("\n</parameter>\n</function>") == [BlockDelta(0, "12}"), BlockClosed(0)]


def test_a_control_token_of_no_format_has_no_text() -> None:
    one = parser(JSON_IN_TAGS)
    assert one.feed("<|unknown|>", is_control=True) == []


def test_a_control_token_that_is_only_spelled_is_text() -> None:
    one = parser(JSON_IN_TOKENS)
    spelled = "<|calls|>[]"
    assert [event for event in one.feed(spelled) if isinstance(event, BlockDelta)] == [BlockDelta(0, spelled)]


# What is a call


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (JSON_IN_TAGS, OSLO),
        (JSON_IN_TAGS, OSLO.replace("\n", "")),
        (JSON_IN_TAGS, '<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}</tool_call>'),
        (
            JSON_IN_TAGS,
            '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>',
        ),
        (
            JSON_IN_TAGS,
            '<tool_call>{"type": "function", "function": {"name": "get_weather", '
            '"arguments": {"city": "Oslo"}}}',
        ),
        (JSON_IN_TAGS, '<tool_call>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]</tool_call>'),
        (JSON_IN_TAGS, '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}}</tool_call>'),
        (JSON_IN_TAGS, '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}</tool_call>'),
        (JSON_IN_TAGS, "<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Oslo'}}</tool_call>"),
        (BARE_JSON, '{"name": "get_weather", "parameters": {"city": "Oslo"}}'),
        (BARE_JSON, '\n{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}'),
        (
            JSON_IN_TOKENS,
            '<|calls|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/calls|><|end|>',
        ),
        (NAMED, '<|section|><|call|>functions.get_weather:0<|args|>{"city": "Oslo"}<|/call|><|/section|>'),
        (NAMED, '<|section|><|call|> get_weather <|args|> {"city": "Oslo"}'),
        (NAMED, '<|call|>functions.get_weather:3<|args|>{"city": "Oslo"}<|/call|>'),
        (
            TAGGED,
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        ),
        (TAGGED, "<function=get_weather><parameter=city>Oslo</parameter></function>"),
        (TAGGED, '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'),
        (
            TYPED_TAGS,
            '<calls>\n<call name="get_weather">\n<arg name="city" string="true">Oslo</arg>\n'
            "</call>\n</calls>",
        ),
        (TYPED_TAGS, '<calls><call name="get_weather"><arg name="city">Oslo</arg></call></calls>'),
        (PYTHONIC, '[get_weather(city="Oslo")]'),
        (PYTHONIC, "[get_weather(city='Oslo',)]"),
        (PYTHONIC, '[get_weather("Oslo")]'),
        (QUOTED, '<|call>call:get_weather{city:<|"|>Oslo<|"|>}<call|>'),
        (NESTED_TAGS, '<invoke name="get_weather"><city>Oslo</city></invoke>'),
        (FENCED, '```json\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n```'),
        (HEADED, ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>'),
        (HEADED, '<|channel|>commentary to=get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'),
        (PROMPTED, '>>>get_weather\n{"city": "Oslo"}'),
    ],
)
def test_a_call_is_understood_however_the_model_spells_it(form: Format, raw: str) -> None:
    answer = parse(form, raw)
    assert answer.calls[0][0] == "get_weather"
    assert answer.arguments == [{"city": "Oslo"}]
    assert (answer.text, answer.malformed) == ("", False)


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (JSON_IN_TAGS, OSLO + '\n<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'),
        (BARE_JSON, '{"name": "get_weather", "parameters": {}}; {"name": "ping", "parameters": {}}'),
        (JSON_IN_TOKENS, '<|calls|>[{"name": "get_weather"}, {"name": "ping", "arguments": null}]<|/calls|>'),
        (NAMED, "<|section|><|call|>get_weather:0<|args|>{}<|/call|><|call|>ping:1<|args|>{}<|/call|>"),
        (
            TAGGED,
            "<tool_call><function=get_weather></function></tool_call><tool_call><function=ping></function>",
        ),
        (PYTHONIC, "[get_weather(), ping()]"),
        (QUOTED, "<|call>call:get_weather{}<call|><|call>call:ping{}<call|>"),
        (PROMPTED, ">>>get_weather\n{}>>>ping\n{}"),
    ],
)
def test_several_calls_are_several_blocks(form: Format, raw: str) -> None:
    assert parse(form, raw).names == ["get_weather", "ping"]


def test_values_in_tags_get_the_type_of_the_schema() -> None:
    raw = (
        "<tool_call><function=get_weather><parameter=city>\n007\n</parameter><parameter=days>\n3\n</parameter>"
        "<parameter=metric>\nTrue\n</parameter><parameter=note>\nnull\n</parameter>"
        "<parameter=where>\n{'lat': [1, None]}\n</parameter></function></tool_call>"
    )
    expected = {"city": "007", "days": 3, "metric": True, "note": None, "where": {"lat": [1, None]}}
    assert parse(TAGGED, raw).arguments == [expected]


def test_a_value_that_is_not_of_its_type_is_passed_on_as_a_string() -> None:
    raw = "<tool_call><function=get_weather><parameter=days>\nthree\n</parameter></function>"
    assert parse(TAGGED, raw).arguments == [{"days": "three"}]


def test_the_word_for_the_type_wins_over_the_schema() -> None:
    raw = (
        '<calls><call name="get_weather"><arg name="city" string="false">12</arg>'
        '<arg name="days" string="true">3</arg></call>'
    )
    assert parse(TYPED_TAGS, raw).arguments == [{"city": 12, "days": "3"}]


def test_exactly_the_markers_own_newline_is_taken_from_a_value() -> None:
    raw = "<tool_call><function=run_code><parameter=code>\n\n  x = 1\n\n</parameter></function>"
    assert parse(TAGGED, raw).arguments == [{"code": "\n  x = 1\n"}]


def test_an_end_tag_in_a_value_ends_it_only_where_something_follows() -> None:
    code = 'print("</parameter>", x)\n</parameter> is a tag'
    raw = f"<tool_call><function=run_code><parameter=code>\n{code}\n</parameter>\n</function>\n</tool_call>"
    assert parse(TAGGED, raw).arguments == [{"code": code}]


def test_a_doubled_end_tag_is_taken_once() -> None:
    raw = "<tool_call><function=run_code><parameter=code>\nx\n</parameter>\n</parameter>\n</function>"
    assert parse(TAGGED, raw).arguments == [{"code": "x"}]


def test_objects_and_lists_in_nested_tags_become_json() -> None:
    raw = (
        '<invoke name="get_weather"><where><lat>1</lat>'
        "<names><item>a</item><item>b</item></names></where></invoke>"
    )
    assert parse(NESTED_TAGS, raw).arguments == [{"where": {"lat": 1, "names": ["a", "b"]}}]


def test_a_strings_own_quotes_are_no_quotes_of_json() -> None:
    raw = '<|call>call:run_code{code:<|"|>say("hi\\n")<|"|>}<call|>'
    assert parse(QUOTED, raw).arguments == [{"code": 'say("hi\\n")'}]


def test_a_marker_inside_a_string_is_text_of_the_string() -> None:
    raw = '<|calls|>[{"name": "run_code", "arguments": {"code": "<|/calls|> \\"x\\" <|calls|>"}}]<|/calls|>'
    assert parse(JSON_IN_TOKENS, raw).arguments == [{"code": '<|/calls|> "x" <|calls|>'}]


# What is none


def test_without_tools_nothing_is_a_call() -> None:
    assert parse(JSON_IN_TAGS, OSLO, tools=()).text == OSLO


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (JSON_IN_TAGS, '<tool_call>\nget_weather(city="Oslo")\n</tool_call>'),
        (JSON_IN_TAGS, 'Wait.\n<tool_call>\n{"name": "get_w'),
        (JSON_IN_TAGS, '<tool_call>{"city": "Oslo"}</tool_call>'),
        (TAGGED, "<tool_call>\nfoo\n</tool_call>"),
        (NAMED, "<|section|>nothing to call<|/section|>"),
    ],
)
def test_a_marker_without_a_call_is_text_again_and_said_to_be_malformed(form: Format, raw: str) -> None:
    answer = parse(form, raw)
    assert (answer.text, answer.calls, answer.malformed) == (raw, (), True)


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (BARE_JSON, '{"answer": 42, "name": "Douglas"}'),
        (BARE_JSON, '{"name": "open_door", "parameters": {}}'),
        (BARE_JSON, 'You could send {"name": "ping", "parameters": {}} yourself.'),
        (PYTHONIC, "[1, 2] is a list, [note] is not, and ping() is code."),
        (PYTHONIC, "[open_door(n=1)]"),
        (TAGGED, "The <function=name> tag and <functional> ones."),
        (PROMPTED, "3 >>> 2"),
        (JSON_IN_TAGS, "Use `<tool_call>` and then JSON."),
    ],
)
def test_what_only_looks_like_a_call_is_text(form: Format, raw: str) -> None:
    answer = parse(form, raw)
    assert (answer.text, answer.calls, answer.malformed) == (raw, (), False)


def test_a_marked_call_of_an_unknown_tool_is_a_call() -> None:
    raw = '<tool_call>{"name": "open_door", "arguments": {"n": 1}}</tool_call>'
    assert parse(JSON_IN_TAGS, raw).names == ["open_door"]


def test_a_call_in_a_code_fence_is_an_example() -> None:
    raw = f"Like this:\n```xml\n{OSLO}\n```\nDone."
    assert parse(JSON_IN_TAGS, raw).text == raw


def test_a_call_behind_a_closed_fence_is_a_call() -> None:
    answer = parse(JSON_IN_TAGS, '```json\n{"a": 1}\n```\n' + OSLO)
    assert answer.text == '```json\n{"a": 1}\n```'
    assert answer.names == ["get_weather"]


def test_a_control_token_in_a_code_fence_begins_a_call() -> None:
    raw = '```\n<|calls|>[{"name": "ping", "arguments": {}}]<|/calls|>'
    assert parse(JSON_IN_TOKENS, raw).names == ["ping"]


# Calls that break off


def test_a_call_that_breaks_off_stays_and_the_rest_is_text() -> None:
    answer = parse(JSON_IN_TAGS, '<tool_call>{"name": "ping", "arguments": {"a": oops}}</tool_call>')
    assert answer.calls == (("ping", '{"a": ', False),)
    assert (answer.text, answer.malformed) == ("oops}}</tool_call>", True)


@pytest.mark.parametrize(
    ("form", "raw", "arguments"),
    [
        (JSON_IN_TAGS, '<tool_call>{"name": "run_code", "arguments": {"code": "x = ', '{"code": "x = '),
        (JSON_IN_TAGS, '<tool_call>{"name": "run_code", "arguments": {"code": tr', '{"code": '),
        (TAGGED, "<tool_call><function=run_code><parameter=code>\nx = 1\n</para", '{"code": "x = 1'),
        (TAGGED, "<tool_call><function=run_code><parameter=code>\nx\n</parameter>\n<param", '{"code": "x"'),
        (TAGGED, "<tool_call><function=get_weather><parameter=da", ""),
        (TAGGED, "<tool_call><function=get_weather><parameter=days>\n1", '{"days": '),
        (PYTHONIC, '[run_code(code="x", ', '{"code": "x"'),
        (NAMED, '<|section|><|call|>functions.run_code:0<|args|>{"code": "x', '{"code": "x'),
    ],
)
def test_a_call_cut_by_length_stays_as_it_was_streamed(form: Format, raw: str, arguments: str) -> None:
    answer = parse(form, raw, ending="length")
    assert answer.calls[0][1:] == (arguments, False)
    assert (answer.text, answer.malformed) == ("", True)


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (JSON_IN_TAGS, '<tool_call>{"name": "ping", "arguments": {}}'),
        (JSON_IN_TAGS, '<tool_call>{"name": "ping", "arguments": {}'),
        (JSON_IN_TAGS, '<tool_call>{"name": "ping", "arguments": {}}\n</tool_'),
        (NAMED, "<|section|><|call|>functions.ping:0<|args|>{}"),
    ],
)
def test_whole_arguments_without_an_end_marker_are_a_call(form: Format, raw: str) -> None:
    answer = parse(form, raw, ending="length")
    assert answer.calls == (("ping", "{}", True),)
    assert (answer.text, answer.malformed) == ("", False)


@pytest.mark.parametrize("arguments", ['""', '" "', "null"])
def test_no_arguments_may_be_written_as_nothing(arguments: str) -> None:
    answer = parse(JSON_IN_TAGS, f'<tool_call>\n{{"name": "ping", "arguments": {arguments}}}\n</tool_call>')
    assert (answer.arguments, answer.text, answer.malformed) == ([{}], "", False)


def test_arguments_before_the_name_are_whole_where_the_name_came_too() -> None:
    raw = '<tool_call>\n{"arguments": {"city": "Oslo"}, "name": "get_weather"'
    answer = parse(JSON_IN_TAGS, raw, ending="length")
    assert answer.calls == (("get_weather", '{"city": "Oslo"}', True),)
    assert not answer.malformed


def test_a_further_call_that_is_cut_before_its_name_is_text_and_said_to_be_malformed() -> None:
    raw = '<|calls|>[{"name": "ping", "arguments": {}}, {"name": "get_w'
    answer = parse(JSON_IN_TOKENS, raw, ending="length")
    assert (answer.names, answer.text) == (["ping"], '{"name": "get_w')
    assert answer.malformed


def test_a_tagged_call_that_the_model_ended_itself_is_whole() -> None:
    answer = parse(TAGGED, "<tool_call><function=run_code><parameter=code>\nx\n</parameter>")
    assert answer.arguments == [{"code": "x"}]


# Thoughts


def test_a_thought_is_reasoning_without_its_tags_and_their_whitespace() -> None:
    answer = parse(JSON_IN_TAGS, "<think>\nI see.\n</think>\n\nYes.")
    assert (answer.reasoning, answer.text) == ("I see.", "Yes.")


def test_an_empty_thought_is_none() -> None:
    answer = parse(JSON_IN_TAGS, "<think>\n\n</think>\n\nHi.")
    assert (answer.reasoning, answer.text) == ("", "Hi.")


def test_a_thought_that_the_prompt_has_opened_needs_no_tag() -> None:
    answer = parse(JSON_IN_TAGS, "Hm.\n</think>\n\nYes.", prompt="<|im_start|>assistant\n<think>\n")
    assert (answer.reasoning, answer.text) == ("Hm.", "Yes.")


def test_a_thought_that_the_model_opens_again_is_one_thought() -> None:
    answer = parse(JSON_IN_TAGS, "<think>\nHm.\n</think>\n\nYes.", prompt="assistant\n<think>\n")
    assert (answer.reasoning, answer.text) == ("Hm.", "Yes.")


def test_a_tag_behind_the_beginning_of_an_answer_is_text() -> None:
    raw = "In HTML <think> is no tag, nor is </think>."
    assert parse(JSON_IN_TAGS, raw).text == raw


def test_a_token_for_a_thought_begins_one_anywhere() -> None:
    answer = parse(JSON_IN_TOKENS, "First.<|think|>Wait.<|/think|>Second.")
    assert (answer.text, answer.reasoning) == ("First.Second.", "Wait.")


def test_a_model_may_think_though_its_template_says_nothing_of_it() -> None:
    answer = parse(PYTHONIC, "<think>Hm.</think>Yes.")
    assert (answer.reasoning, answer.text) == ("Hm.", "Yes.")


def test_a_call_in_a_thought_is_thought() -> None:
    answer = parse(JSON_IN_TAGS, f"<think>\nI could {OSLO} but no.\n</think>\n\nNo.")
    assert (answer.reasoning, answer.calls) == (f"I could {OSLO} but no.", ())


def test_a_thought_that_ends_in_whole_calls_and_with_the_turn_was_followed_by_calls() -> None:
    answer = parse(JSON_IN_TAGS, f"<think>\nI need it.\n{OSLO}\n{OSLO}\n")
    assert (answer.reasoning, answer.names) == ("I need it.", ["get_weather", "get_weather"])


@pytest.mark.parametrize("raw", [f"I need it.\n{OSLO}", f"I need it.\n{OSLO[:30]}"])
def test_a_thought_that_was_cut_is_thought_with_all_that_is_in_it(raw: str) -> None:
    answer = parse(JSON_IN_TAGS, "<think>\n" + raw, ending="length")
    assert (answer.reasoning, answer.calls, answer.malformed) == (raw, (), False)


def test_headers_say_what_is_thought_and_what_is_said() -> None:
    raw = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I ping.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.ping json<|message|>{}<|call|>"
    )
    answer = parse(HEADED, raw, prompt="<|end|><|start|>assistant")
    assert (answer.reasoning, answer.text, answer.names) == ("Hm.", "I ping.", ["ping"])


def test_a_model_that_leaves_the_header_out_just_writes() -> None:
    assert parse(HEADED, "Hello.", prompt="<|start|>assistant").text == "Hello."


def test_what_the_prompt_has_written_of_a_marker_is_not_written_again() -> None:
    assert parse(PROMPTED, "all\nHello.", prompt="assistant\n\n>>>").text == "Hello."
    assert parse(PROMPTED, 'ping\n{"a": 1}', prompt="assistant\n\n>>>").arguments == [{"a": 1}]
    assert parse(PROMPTED, "nothing here", prompt="assistant\n\n>>>").text == "nothing here"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("end", "arguments"),
    [
        ("\\ud83d", '{"'),
        ("\\\\ud83d", '{"'),
        ("\\\\ud83d\\ude00", '{"\\ufffd\ufffd'),
        ("\\ud83d\\ude00", '{"\U0001f600'),
    ],
)
def test_arguments_in_a_string_that_are_cut_at_half_a_character_keep_what_came_before(
    end: str, arguments: str, size: int
) -> None:
    raw = '<tool_call>\n{"name": "ping", "arguments": "{\\"' + end
    assert parse(JSON_IN_TAGS, raw, size=size).calls == (("ping", arguments, False),)


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_what_is_too_long_for_a_name_ends_at_the_same_place_in_any_pieces(size: int) -> None:
    form = Format("learned", (CallForm((NamedBody((" ",)),), begin=("@@",), end="@@\n"),))
    long = "@@" + "x" * 129
    answer = parse(form, f"{long}@@get_weather {{}}@@", size=size)
    assert (answer.names, answer.text) == (["get_weather"], long)
