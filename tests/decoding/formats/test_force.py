"""Calls held to a grammar, in the format of every real template: what may be written, and what may not."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
import pytest
from tests import llama_models
from tests.decoding.answers import parse

from corral.decoding.formats.encode import WrittenCall, encode_calls
from corral.decoding.formats.force import answered, beside_text, can_hold, holds_beside_text, required
from corral.decoding.formats.form import CONTROL_SHAPE, Format, PairsBody, split_controls
from corral.decoding.formats.learn import learn
from corral.engine.local.grammars.constraints import Constraints, Mask
from corral.engine.local.scripted import ByteVocabulary
from corral.request import Grammar, Tool
from corral.templates.environment import ChatTemplate

pytestmark = llama_models.needs_them

DOCS = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
INVENTED = Path(__file__).resolve().parents[1] / "templates" / "invented"
END_TEXT = "<|the end of all|>"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
STRICT = Tool("get_weather", "", msgspec.Raw(json.dumps(SCHEMA).encode()), is_strict=True)
LOOSE = replace(STRICT, name="ping", is_strict=False)
GOOD = WrittenCall("get_weather", {"city": "Rome", "days": 3}, "call00001")
TEXTS = [
    "",
    "Mere words.",
    'Code: `if a < b: {"x": [1]}` and <b>HTML</b>,\n\n```json\n{"a": 1}\n```\nÜber 🙂.',
]


class Vocabulary(ByteVocabulary):
    """Bytes, and the control tokens of a format."""

    def __init__(self, controls: frozenset[str]) -> None:
        texts = [*sorted(controls), END_TEXT]
        self.control_texts = {text: 256 + index for index, text in enumerate(texts)}
        self.pieces = (*(bytes([value]) for value in range(256)), *(b"" for _ in texts))
        self.end_tokens = frozenset({self.control_texts[END_TEXT]})


@dataclass(frozen=True)
class Model:
    form: Format
    vocabulary: Vocabulary
    constraints: Constraints

    @property
    def controls(self) -> dict[str, int]:
        return self.vocabulary.control_texts

    def mask(self, lark: str | None) -> Mask:
        assert lark is not None
        return self.constraints.compile(Grammar("lark", lark, "tools")).start()

    def beside(self, *tools: Tool) -> Mask:
        ends = self.vocabulary.end_tokens
        return self.mask(beside_text(self.form, tools, controls=self.controls, ends=ends))

    def forced(self, *tools: Tool, thinks: bool = False) -> Mask:
        return self.mask(
            required(
                self.form,
                tools,
                controls=self.controls,
                ends=self.vocabulary.end_tokens,
                many=False,
                thinks=thinks,
            )
        )

    def takes(self, mask: Mask, text: str) -> str:
        """As much of a text as passes the mask; all of it, and then the end may come, is all of it."""
        passed = ""
        for piece in split_controls(text, self.form.controls):
            tokens = [self.controls[piece]] if piece in self.form.controls else list(piece.encode())
            for at, token in enumerate(tokens):
                if not mask.allowed[token]:
                    return passed + piece.encode()[:at].decode(errors="ignore")
                mask.accept(token)
            passed += piece
        return passed

    def can_end(self, mask: Mask) -> bool:
        return bool(mask.allowed[self.controls[END_TEXT]])


@cache
def model(path: Path) -> Model:
    source = path.read_text(encoding="utf-8")
    form = learn(ChatTemplate(source).render, source=source).format
    texts = frozenset({*form.controls, *CONTROL_SHAPE.findall(source)[:40]})
    vocabulary = Vocabulary(frozenset(text for text in texts if text))
    return Model(replace(form, controls=texts), vocabulary, Constraints(vocabulary))


def written(form: Format, call: WrittenCall) -> str:
    return encode_calls(form.calls[0], [call])


every = pytest.mark.parametrize("path", llama_models.templates(), ids=lambda path: path.stem)


def held(path: Path) -> Model:
    found = model(path)
    if not holds_beside_text(found.form):
        pytest.skip("its calls are not told from text at once")
    return found


def test_the_documentation_says_how_many_formats_do_not_tell_that_a_call_begins() -> None:
    not_held = [path for path in llama_models.templates() if not holds_beside_text(model(path).form)]
    assert f"for {len(not_held)} of the {len(llama_models.templates())} templates" in DOCS.read_text()


@every
@pytest.mark.parametrize("text", TEXTS)
def test_beside_strict_tools_any_text_may_be_written(path: Path, text: str) -> None:
    one = held(path)
    mask = one.beside(STRICT)
    assert one.takes(mask, text) == text
    assert one.can_end(mask)


@every
def test_a_call_in_the_middle_of_text_follows_the_schema_of_its_strict_tool(path: Path) -> None:
    one = held(path)
    text = f"Let me look.{written(one.form, GOOD)}"
    mask = one.beside(STRICT)
    assert one.takes(mask, text) == text
    answer = parse(one.form, text, tools=[STRICT])
    assert (answer.names, answer.arguments) == (["get_weather"], [GOOD.arguments])
    form = one.form.calls[0]
    for days in ("soon", 12):
        bad = written(one.form, replace(GOOD, arguments={"city": "Rome", "days": days}))
        passed = one.takes(one.beside(STRICT), f"So: {bad}")
        assert len(passed) < len(f"So: {bad}"), "a call that breaks the schema"
        assert "Rome" in passed
        if any(form.begin):  # models leave out what begins a section
            bad = f"So: {bad.removeprefix(form.section_begin + form.list_open)}"
            assert len(one.takes(one.beside(STRICT), bad)) < len(bad)


@every
def test_beside_a_strict_tool_another_is_called_as_the_model_likes(path: Path) -> None:
    one = held(path)
    text = f"So.{written(one.form, WrittenCall('ping', {'days': 70, 'city': 'Oslo'}, 'call00002'))}"
    assert one.takes(one.beside(STRICT, LOOSE), text) == text


@every
def test_no_tool_is_called_that_is_not_there(path: Path) -> None:
    one = held(path)
    text = written(one.form, replace(GOOD, name="get_rich"))
    assert len(one.takes(one.beside(STRICT), text)) < len(text)


@every
def test_a_call_that_must_come_may_have_a_thought_before_it_if_the_model_opens_one(path: Path) -> None:
    form = model(path).form
    if form.thought is None and (form.headers is None or form.headers.thought is None):
        pytest.skip("no thoughts")
    one = model(path)
    if form.headers is not None:
        opener, closing = f"{form.headers.thought}{form.headers.body}", form.headers.start
    else:
        assert form.thought is not None
        opener, closing = form.thought.opener.strip(), ""
    call = written(form, GOOD).removeprefix(closing)
    if form.headers is None:
        call = call.lstrip() if not one.takes(one.forced(STRICT), call[:1]) else call
    mask = one.forced(STRICT, thinks=True)
    assert one.takes(mask, opener + closing) == opener + closing
    assert not one.can_end(mask)
    assert one.takes(mask, call) != "", "the call follows, as if it had come first"
    assert one.takes(one.forced(STRICT, thinks=True), call) == one.takes(one.forced(STRICT), call) != ""


@pytest.mark.parametrize("name", ["meetkai-functionary-medium-v3.2", "nothing-but-the-header"])
def test_what_the_prompt_has_written_of_a_call_is_not_written_again(name: str) -> None:
    paths = [*llama_models.templates(), *INVENTED.glob("*.jinja")]
    one = model(next(path for path in paths if path.stem == name))
    call = written(one.form, GOOD)
    begun = one.form.calls[0].begun
    assert begun
    assert not one.takes(one.forced(STRICT), call)
    for thinks in (False, True):  # neither template knows thoughts
        mask = one.forced(STRICT, thinks=thinks)
        assert one.takes(mask, call.removeprefix(begun)) == call.removeprefix(begun)


LARK = Grammar("lark", 'start: "add " /[0-9]+/ ("\\n" "add " /[0-9]+/)*', "tools[0].custom.format")
REGEX = Grammar("regex", 'add [0-9]+/"x"', "tools[0].custom.format")
CUSTOM = Tool(
    "calc",
    "",
    msgspec.Raw(b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'),
)


@every
@pytest.mark.parametrize("language", [LARK, REGEX], ids=["lark", "regex"])
def test_the_free_text_of_a_custom_tool_follows_its_language(path: Path, language: Grammar) -> None:
    one = model(path)
    tool = replace(CUSTOM, input=language)
    body = one.form.calls[0].bodies[0]
    is_raw = isinstance(body, PairsBody) and (body.values == "raw" or bool(body.quote))
    assert can_hold(one.form, tool) == (is_raw or language.kind == "regex")
    if not can_hold(one.form, tool):
        return
    good = {"lark": "add 12\nadd 3", "regex": 'add 7/"x"'}[language.kind]
    call = written(one.form, WrittenCall("calc", {"input": good}, "call00001"))
    if one.form.headers is not None:
        call = call.removeprefix(one.form.headers.start)
    call = call.removeprefix(one.form.calls[0].begun)
    call = call.replace(repr(good), json.dumps(good))  # where calls are Python's JSON is one of the spellings
    last = call.rindex("x" if language.kind == "regex" else "3")
    assert len(one.takes(one.forced(tool), call)) > last
    wrong = call.replace("add", "sub")
    assert one.takes(one.forced(tool), wrong) == wrong[: wrong.index("sub")]


@every
@pytest.mark.parametrize("thinks", [False, True])
def test_an_answer_of_a_schema_stands_where_this_format_has_its_answers(path: Path, thinks: bool) -> None:
    one = model(path)
    source = answered(
        one.form,
        json.dumps(SCHEMA),
        controls=one.controls,
        ends=one.vocabulary.end_tokens,
        thinks=thinks,
    )
    value = '{"city": "Rome", "days": 3}'
    headers = one.form.headers
    said = value if headers is None else f"{headers.content}{headers.body}{value}"
    mask = one.mask(source)
    assert one.takes(mask, said) == said
    assert one.can_end(mask)
    told = parse(one.form, said, prompt="" if headers is None else headers.start)
    assert (told.text, told.reasoning, told.calls) == (value, "", ())
    if headers is not None and headers.thought is not None:
        opened = f"{headers.thought}{headers.body}{headers.start}"
    elif headers is None and one.form.thought is not None and one.form.thought.closer.strip():
        opened = one.form.thought.opener.strip()
    else:
        return
    if opened:
        thought = one.mask(source)
        assert (one.takes(thought, opened + said) == opened + said) is thinks
