"""Formats learned from templates that are nobody's: of every kind of call, with none of their names known."""

from pathlib import Path
from typing import Any

import pytest
from tests.decoding.answers import parse

from corral.decoding.formats.form import JsonBody, NamedBody, PairsBody, ThoughtForm
from corral.decoding.formats.learn import Learned, learn
from corral.templates.environment import ChatTemplate

TEMPLATES = Path(__file__).parent.parent / "templates"
INVENTED = TEMPLATES / "invented"

PROMPT = "<|bot|>"
WRITTEN: dict[str, str] = {
    "arguments-as-elements": "<tool_use>\n<tool_name>get_weather</tool_name>\n<arguments>\n"
    "<city>Oslo</city>\n<days>3</days>\n</arguments>\n</tool_use>",
    "bulleted-lines": "<call>get_weather\n- city: Oslo\n- days: 3\n</call>",
    "calls-behind-a-word": 'Call: get_weather(city="Oslo", days=3)<bot_end>',
    "indented-lines": "<tool>\nname: get_weather\nargs:\n  city: Oslo\n  days: 3\n</tool>\n",
    "named-elements": "<get_weather>\n<city>Oslo</city>\n<days>3</days>\n</get_weather>\n",
    "nothing-but-the-header": 'get_weather\n{"city": "Oslo", "days": 3}<|result|>',
    "numbered-tags": '<call_1>{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}</call_1>\n',
    "pipes-between-pairs": "<|fn|>get_weather|city=Oslo|days=3<|/fn|>",
    "tag-of-its-name": '<tool:get_weather>{"city": "Oslo", "days": 3}</tool:get_weather>\n',
    "token-between-calls": '<|tools|>{"name": "get_weather", '
    '"arguments": {"city": "Oslo", "days": 3}}<|/tools|>',
    "words-between-symbols": '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Oslo", "days": 3}\n✿RESULT✿',
    "bare-json-list": '[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}]',
    "code-fence-of-calls": '```tool_code\nget_weather(city="Oslo", days=3)\n```',
    "counted-calls": '<call index="0" tool="get_weather">{"city": "Oslo", "days": 3}</call>\n',
    "fenced-json": '```json\n{"tool": "get_weather", "tool_input": {"city": "Oslo", "days": 3}}\n```',
    "id-first": "<|calls|><|call|>id=x7<|name|>get_weather"
    '<|args|>{"city": "Oslo", "days": 3}<|/call|><|/calls|>',
    "json-in-tags": '<tools><use name="get_weather">'
    '<arg k="city">"Oslo"</arg><arg k="days">3</arg></use></tools>',
    "key-and-value-tokens": "<|call|>get_weather<|key|>city<|value|>Oslo<|key|>days<|value|>3<|/call|>",
    "lines-of-pairs": '<|do|>get_weather\ncity: "Oslo"\ndays: 3\n<|done|>',
    "lines-of-python-calls": "<function_calls>\nget_weather(city='Oslo', days=3)\n</function_calls>",
    "name-and-arguments-in-tags": "<tool_use>\n<name>get_weather</name>\n"
    '<arguments>{"city": "Oslo", "days": 3}</arguments>\n</tool_use>',
    "nested-function-object": '<|tool|>{"id": "1", "type": "function", "function": {"name": "get_weather", '
    '"arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 3}"}}<|/tool|>',
    "quoted-attributes": '<tool name="get_weather" city="Oslo" days="3"/>',
    "sigil-before-name": '@@get_weather {"city": "Oslo", "days": 3}@@',
    "spelled-tokens": "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"  # noqa: RUF001
    '<tml:invoke name="get_weather"><tml:parameter name="city">Oslo</tml:parameter>'
    '<tml:parameter name="days">3</tml:parameter></tml:invoke><｜tool_call_end｜><｜tool_calls_end｜>',  # noqa: RUF001
    "two-openers": '<|action_start|><|plugin|>\n{"name": "get_weather", '
    '"parameters": {"city": "Oslo", "days": 3}}<|action_end|>',
    "typed-attributes": '<calls>\n<call function="get_weather">\n<arg type="string" name="city">Oslo</arg>\n'
    '<arg type="json" name="days">3</arg>\n</call>\n</calls>',
    "words-before-json": '\nAction: get_weather\nAction Input: {"city": "Oslo", "days": 3}\n',
}
SEVERAL: dict[str, str] = {
    "calls-behind-a-word": 'Call: get_weather(city="Oslo"); ping()<bot_end>',
    "indented-lines": "<tool>\nname: get_weather\nargs:\n  city: Oslo\n</tool>\n<tool>\nname: ping\nargs:\n</tool>",
    "named-elements": "<get_weather>\n<city>Oslo</city>\n</get_weather>\n<ping>\n</ping>",
    "nothing-but-the-header": 'get_weather\n{"city": "Oslo"}<|bot|>ping\n{}',
    "numbered-tags": '<call_1>{"name": "get_weather", "arguments": {"city": "Oslo"}}</call_1>\n'
    '<call_2>{"name": "ping", "arguments": {}}</call_2>\n',
    "tag-of-its-name": '<tool:get_weather>{"city": "Oslo"}</tool:get_weather>\n<tool:ping>{}</tool:ping>',
    "token-between-calls": '<|tools|>{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    '<|next|>{"name": "ping", "arguments": {}}<|/tools|>',
    "words-between-symbols": '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Oslo"}\n'
    "✿FUNCTION✿: ping\n✿ARGS✿: {}\n✿RESULT✿",
}
DESCRIBED: dict[str, tuple[str, str]] = {
    "described-by-example": (
        "instructions",
        '<use_tool>{"tool_name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}</use_tool>',
    ),
    "described-by-its-token": (
        "instructions",
        '<|invoke_tools|>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}]',
    ),
    "described-as-python": ("instructions", '[get_weather(city="Oslo", days=3)]'),
    "only-result-tokens": (
        "vocabulary",
        '<|tool_call_begin|>[get_weather(city="Oslo", days=3)]<|tool_call_end|>',
    ),
    "no-tools-at-all": (
        "generic",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>',
    ),
}


def learned(name: str, **options: Any) -> Learned:
    source = (INVENTED / f"{name}.jinja").read_text(encoding="utf-8")
    return learn(ChatTemplate(source).render, source=source, **options)


def test_every_invented_template_has_its_answer_here() -> None:
    assert {path.stem for path in INVENTED.glob("*.jinja")} == {*WRITTEN, *DESCRIBED}


@pytest.mark.parametrize("name", WRITTEN)
def test_calls_are_learned_from_how_the_template_writes_them(name: str) -> None:
    found = learned(name)
    assert found.format.source == "learned"
    assert found.test.passed
    for size in (1, 7, 1_000):
        answer = parse(found.format, WRITTEN[name], size=size, prompt=PROMPT)
        assert answer.names == ["get_weather"]
        assert answer.arguments == [{"city": "Oslo", "days": 3}]
        assert (answer.text, answer.malformed) == ("", False)


@pytest.mark.parametrize("name", SEVERAL)
def test_two_calls_are_told_apart_by_what_the_template_writes_between_them(name: str) -> None:
    for size in (1, 7, 1_000):
        answer = parse(learned(name).format, SEVERAL[name], size=size, prompt=PROMPT)
        assert answer.names == ["get_weather", "ping"]
        assert answer.arguments == [{"city": "Oslo"}, {}]
        assert (answer.text, answer.malformed) == ("", False)


@pytest.mark.parametrize("name", ["indented-lines", "bulleted-lines", "pipes-between-pairs"])
def test_a_value_without_an_end_of_its_own_ends_where_another_parameter_begins(name: str) -> None:
    text = "a-b | c: d = e\n- no: parameter\n  nor: this"
    raw = WRITTEN[name].replace("Oslo", text)
    for size in (1, 7, 1_000):
        answer = parse(learned(name).format, raw, size=size, prompt=PROMPT)
        assert answer.arguments == [{"city": text, "days": 3}]


def test_an_element_is_a_call_only_by_the_name_of_a_tool_and_what_stands_in_it() -> None:
    form = learned("named-elements").format
    for text in ("<b>bold</b>", "Use <ping> for it.", "<other>\n<city>Oslo</city>\n</other>"):
        answer = parse(form, text)
        assert (answer.text, answer.names, answer.malformed) == (text, [], False)
    html = "<ul>\n<li>a</city>b</li>\n</ul>"
    raw = WRITTEN["named-elements"].replace("Oslo", html)
    assert parse(form, raw).arguments == [{"city": html, "days": 3}]


def test_what_every_prompt_ends_with_makes_no_call_of_an_answer() -> None:
    form = learned("nothing-but-the-header").format
    for text in ("Hello.", 'Result\n{"a": 1}', "get_weather is a tool."):
        answer = parse(form, text, prompt=PROMPT)
        assert (answer.text, answer.names, answer.malformed) == (text, [], False)


def test_a_turn_that_nothing_ends_ends_where_another_begins() -> None:
    assert learned("nothing-but-the-header").format.ends == ("<|user|>", "<|result|>")


@pytest.mark.parametrize("name", ["words-between-symbols", "indented-lines"])
def test_a_thought_may_stand_between_anything(name: str) -> None:
    thought = learned(name).format.thought
    assert thought is not None
    answer = parse(learned(name).format, f"{thought.opener}Hm.\nSo.{thought.closer}{WRITTEN[name]}")
    assert (answer.reasoning, answer.text, answer.names) == ("Hm.\nSo.", "", ["get_weather"])


def test_an_end_of_a_turn_that_is_no_token_is_none_of_the_answer() -> None:
    source = (INVENTED / "id-first.jinja").read_text().replace("<|stop|>", "[e~[\n")
    form = learn(ChatTemplate(source).render, source=source).format
    assert parse(form, "Done.[e~[\n").text == "Done."
    assert parse(form, "A list: [e~[ is an end.").text == "A list: [e~[ is an end."


@pytest.mark.parametrize("name", DESCRIBED)
def test_calls_that_are_not_rendered_come_from_the_next_best_source(name: str) -> None:
    source, written = DESCRIBED[name]
    found = learned(name)
    assert found.format.source == source
    answer = parse(found.format, written, prompt="<|assistant|>")
    assert answer.arguments == [{"city": "Oslo", "days": 3}]
    assert (answer.text, answer.malformed) == ("", False)


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"nested-function-object"}))
def test_what_we_write_for_calls_is_what_the_template_writes(name: str) -> None:
    assert learned(name).test.is_exact


def test_the_kinds_of_calls_are_told_apart() -> None:
    kinds = {name: type(learned(name).format.calls[0].bodies[0]) for name in WRITTEN}
    assert kinds["bare-json-list"] is JsonBody
    assert kinds["id-first"] is NamedBody
    assert kinds["typed-attributes"] is PairsBody


def test_ids_and_counters_are_holes() -> None:
    assert learned("id-first").format.calls[0].begin == ("<|call|>id=", "<|name|>")
    counted = learned("counted-calls").format.calls[0]
    assert (counted.begin, counted.first_count) == (('<call index="', '" tool="'), 0)


def test_thoughts_are_learned_with_their_tags() -> None:
    assert learned("two-openers").format.thought == ThoughtForm("<|inner|>", "<|outer|>")
    assert learned("json-in-tags").format.thought == ThoughtForm("[REASONING]", "[/REASONING]")
    assert learned("no-tools-at-all").format.thought is None


def test_a_template_that_refuses_everything_gets_the_generic_form() -> None:
    source = "{{ raise_exception('no') }}"
    assert learn(ChatTemplate(source).render, source=source).is_generic


def test_a_template_that_writes_nothing_of_its_input_gets_the_generic_form() -> None:
    assert learn(ChatTemplate("constant").render, source="constant").is_generic


def test_tokens_of_the_vocabulary_give_a_form_where_the_template_gives_none() -> None:
    found = learned("no-tools-at-all", vocabulary=["<call_start>", "<|function_call|>", "<|/function_call|>"])
    assert found.format.source == "vocabulary"
    assert found.format.controls == {"<|function_call|>", "<|/function_call|>"}


def test_tokens_of_channels_give_headers_where_the_template_gives_none() -> None:
    tokens = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
    found = learned("no-tools-at-all", vocabulary=tokens)
    assert found.format.source == "known"
    raw = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant to=functions.ping<|channel|>x<|message|>{}<|call|>"
    )
    answer = parse(found.format, raw)
    assert (answer.reasoning, answer.names) == ("Hm.", ["ping"])


def test_only_what_the_vocabulary_names_is_a_control_token() -> None:
    assert learned("two-openers", vocabulary=["<|plugin|>"]).format.controls == {"<|plugin|>"}


THINKS = """{%- for m in messages -%}
{{- '<|' + m.role + '|>' -}}
{%- if m.reasoning_content -%}{{- '<think>' + m.reasoning_content + '</think>' -}}{%- endif -%}
{{- m.content + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think></think>' -}}
{%- else -%}{{- '<think>' -}}{%- endif -%}{%- endif -%}"""


TAKES_OUT = """{%- for m in messages -%}
{{- '<|' + m.role + '|>' -}}
{%- set text = m.content -%}
{%- if 'CLOSE' in text -%}{%- set text = text.split('CLOSE')[-1] -%}{%- endif -%}
{{- text + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}PROMPT{%- endif -%}"""


@pytest.mark.parametrize(
    ("opener", "closer"),
    [
        ("<scratchpad>", "</scratchpad>"),
        ("<|thinking|>", "<|/thinking|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("◁think▷", "◁/think▷"),
        ("(thinking)", "(/thinking)"),
    ],
)
@pytest.mark.parametrize("is_opened", [True, False], ids=["by the prompt", "by the model"])
def test_what_a_template_takes_out_of_earlier_answers_is_a_thought(
    opener: str, closer: str, is_opened: bool
) -> None:
    written = f"{{{{- '{opener}' -}}}}" if is_opened else ""
    source = TAKES_OUT.replace("CLOSE", closer).replace("PROMPT", written)
    found = learn(ChatTemplate(source).render, source=source)
    assert found.format.thought == ThoughtForm(opener, closer)
    raw = f"Hm, {opener}.{closer}So." if is_opened else f"{opener}Hm, {opener}.{closer}So."
    answer = parse(found.format, raw, prompt=found.prompts.default)
    assert (answer.reasoning, answer.text) == (f"Hm, {opener}.", "So.")


BLOCKS = """{%- for m in messages -%}{{- '<|' + m.role + '|>' -}}
{%- if m.content is mapping -%}
{%- for block in m.content.blocks -%}
{%- if block.type == 'thoughts' -%}{{- '<|inner|>' + block.text + '<|outer|>' -}}
{%- elif block.type == 'response' -%}{{- block.text -}}
{%- else -%}{{- raise_exception('no such block') -}}{%- endif -%}
{%- endfor -%}
{%- else -%}{{- m.content -}}{%- endif -%}{{- '<|end|>' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def test_a_thought_may_be_a_block_in_the_templates_own_words() -> None:
    found = learn(ChatTemplate(BLOCKS).render, source=BLOCKS)
    assert found.format.thought == ThoughtForm("<|inner|>", "<|outer|>")
    answer = parse(found.format, "<|inner|>Hm.<|outer|>So.")
    assert (answer.reasoning, answer.text) == ("Hm.", "So.")


def test_a_tag_that_only_the_prompt_writes_opens_a_thought_and_one_for_the_answer_does_not() -> None:
    bare = TAKES_OUT.replace("CLOSE", "never")
    thinks = bare.replace("PROMPT", "{{- '<analysis>' -}}")
    found = learn(ChatTemplate(thinks).render, source=thinks)
    assert found.format.thought == ThoughtForm("<analysis>", "</analysis>")
    answers = bare.replace("PROMPT", "{{- '<response>' -}}")
    assert learn(ChatTemplate(answers).render, source=answers).format.thought is None


def test_prompts_say_whether_a_thought_is_open_and_what_switches_it() -> None:
    found = learn(ChatTemplate(THINKS).render, source=THINKS)
    prompts, thought = found.prompts, found.format.thought
    assert thought == ThoughtForm("<think>", "</think>")
    assert prompts.state(prompts.default, thought) == "open"
    assert prompts.off is not None
    assert prompts.state(prompts.off, thought) == "closed"
    assert prompts.switch_off is not None
    assert prompts.switch_off.kwargs == {"enable_thinking": False}
    assert parse(found.format, "Hm.</think>Yes.", prompt=prompts.default).reasoning == "Hm."
    assert parse(found.format, "Yes.", prompt=prompts.off).text == "Yes."


@pytest.mark.parametrize(
    ("message", "capabilities"),
    [
        ("c.function.arguments | fromjson | tojson", {"arguments": "string"}),
        (
            "(c.function.arguments | tojson) if m.content is none else raise_exception('no')",
            {"content_beside_calls": "null"},
        ),
        (
            "(c.function.arguments | tojson) if 'content' not in m else raise_exception('no')",
            {"content_beside_calls": "absent"},
        ),
        (
            "(c.function.arguments | tojson) if m.tool_calls | length == 1 else raise_exception('no')",
            {"parallel_calls": False},
        ),
        (
            "(c.function.arguments | tojson) if c.id | length == 9 else raise_exception('no')",
            {"short_ids": True},
        ),
    ],
)
def test_the_shapes_that_a_template_takes_are_found(message: str, capabilities: dict[str, Any]) -> None:
    source = (
        "{%- for m in messages -%}{{- '<|' + m.role + '|>' + (m.content or '') -}}"
        "{%- for c in m.tool_calls or [] -%}{{- '<|call|>' + c.function.name + '<|args|>' + ("
        + message
        + ") -}}"
        "{%- endfor -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )
    found = learn(ChatTemplate(source).render, source=source)
    assert found.format.source == "learned"
    assert {name: getattr(found.capabilities, name) for name in capabilities} == capabilities
