"""Whatever a model writes, however it is cut: no exception, one meaning, arguments that can be parsed."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.decoding.answers import Answer, parse
from tests.decoding.forms import ALL

from corral.decoding.blocks import Ending
from corral.decoding.formats.encode import WrittenCall, encode_calls
from corral.decoding.formats.form import Format
from corral.decoding.formats.learn import literals
from corral.decoding.json_scan import complete_json

FORMS = st.sampled_from(sorted(ALL))
ENDINGS: st.SearchStrategy[Ending] = st.sampled_from(["stop", "length"])
CALLS = [
    WrittenCall("get_weather", {"city": 'Os"lo\n', "days": 3}, "abcdefghi"),
    WrittenCall("run_code", {"code": "x < 1 && '</parameter>'"}, "abcdefghj"),
    WrittenCall("ping", {}, "abcdefghk"),
]
WORDS = [
    *("get_weather", "ping", "nobody", "city", "days", "Hello ", "\n", "  \n", " ", "\x00", "é🚀", "\ufffd"),
    *('{"name": "', '", "arguments": {', '"city": "Oslo"', "}", "]", "{", "[", "(", ")", ",", ":", "=", '"'),
    *(
        "3",
        "-1.5e3",
        "true",
        "None",
        "nul",
        "\\",
        "\\u00e9",
        "\\ud83d",
        "'",
        "`",
        "```\n",
        "<",
        ">",
        "</",
        "/>",
    ),
    *("<think>", "</think>", "<tool_call>", "x" * 300),
]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Format, str]:
    """Pieces of what the format writes, whole and cut, among words of no meaning."""
    form = ALL[draw(FORMS)]
    thought = [form.thought.opener, form.thought.closer] if form.thought else []
    written = [encode_calls(call_form, CALLS) for call_form in form.calls]
    part = st.sampled_from([*WORDS, *filter(None, literals(form)), *thought, *written])
    cut = st.builds(lambda text, end: text[: end % (len(text) + 1)], part, st.integers(0, 10_000))
    return form, "".join(draw(st.lists(part | cut, max_size=12)))


def check(answer: Answer) -> None:
    for _, arguments, is_whole in answer.calls:
        if is_whole:
            assert isinstance(json.loads(arguments), dict)
        else:
            complete_json(arguments)


@settings(max_examples=400, deadline=None)
@given(answers(), st.data(), ENDINGS)
def test_an_answer_in_pieces_is_the_answer_in_one(
    answer: tuple[Format, str], data: st.DataObject, ending: Ending
) -> None:
    form, raw = answer

    def cut(text: str) -> list[str]:
        parts = []
        while text:
            size = data.draw(st.integers(1, 20))
            parts.append(text[:size])
            text = text[size:]
        return parts

    whole = parse(form, raw, size=len(raw) + 1, ending=ending)
    check(whole)
    assert parse(form, raw, size=1, ending=ending) == whole
    assert parse(form, raw, cut=cut, ending=ending) == whole


@settings(max_examples=200, deadline=None)
@given(FORMS, st.binary(max_size=200), st.integers(1, 7), ENDINGS)
def test_random_bytes_are_text_or_calls_and_never_an_exception(
    name: str, raw: bytes, size: int, ending: Ending
) -> None:
    text = raw.decode(errors="replace")
    check(parse(ALL[name], text, size=size, ending=ending))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab <>{}[]()\"'\\:,=/|_\n`", max_size=120), st.integers(1, 7))
def test_text_without_a_call_comes_back_exactly(raw: str, size: int) -> None:
    form = ALL["json in tags"]
    answer = parse(form, raw, size=size)
    assert (answer.text, answer.reasoning, answer.calls) == (raw, "", ())


@settings(max_examples=100, deadline=None)
@given(FORMS, st.text(max_size=60), st.integers(1, 9))
@example(name="pythonic", value="'\x1f", size=1)
def test_any_string_survives_as_an_argument(name: str, value: str, size: int) -> None:
    form = ALL[name]
    unsafe = any(mark in value for mark in ("</", "/>", "<|", "\x00"))
    body = form.calls[0].bodies[0]
    raw_values = getattr(body, "values", "") == "raw"
    if unsafe and (raw_values or getattr(body, "quote", "")):
        return
    if raw_values and name == "nested tags" and ("<" in value or not value.strip()):
        return
    written = encode_calls(form.calls[0], [WrittenCall("run_code", {"code": value})])
    answer = parse(form, written, size=size, prompt="<|start|>assistant")
    assert answer.arguments == [{"code": value}]
