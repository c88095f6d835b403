from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest

from corral.templates.environment import FAULT_CHARS, ChatTemplate, TemplateFault


def rendered(source: str, *messages: dict[str, Any], **kwargs: Any) -> str:
    return ChatTemplate(source).render(messages, **kwargs)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class TestWhatTransformersHas:
    def test_blocks_leave_no_line_of_their_own(self) -> None:
        source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
        assert rendered(source, user("a"), user("b")) == "a\nb\n"

    def test_json_is_written_as_it_is_and_not_for_a_web_page(self) -> None:
        assert rendered("{{ messages[0].content | tojson }}", user({"ö": "<'&'>"})) == '{"ö": "<\'&\'>"}'

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ("ensure_ascii=True", '{"b": "\\u00f6", "a": [1]}'),
            ("indent=1", '{\n "b": "ö",\n "a": [\n  1\n ]\n}'),
            ("separators=(',', ':')", '{"b":"ö","a":[1]}'),
            ("sort_keys=True", '{"a": [1], "b": "ö"}'),
        ],
    )
    def test_json_is_written_the_way_that_is_asked_for(self, arguments: str, text: str) -> None:
        content = {"b": "ö", "a": [1]}
        assert rendered("{{ messages[0].content | tojson(" + arguments + ") }}", user(content)) == text

    def test_json_of_what_a_filter_makes_is_a_list(self) -> None:
        assert (
            rendered("{{ messages | map(attribute='content') | tojson }}", user("a"), user("b"))
            == '["a", "b"]'
        )

    def test_json_of_what_is_missing_is_null(self) -> None:
        assert rendered("{{ messages[0].thought | tojson }}", user("a")) == "null"

    def test_json_is_read_as_well(self) -> None:
        assert rendered("{{ (messages[0].content | from_json).a[1] }}", user('{"a": [1, 2]}')) == "2"

    def test_what_is_marked_for_training_is_written_like_the_rest(self) -> None:
        source = "a{% generation %}{{ messages[0].content }}{% endgeneration %}b"
        assert rendered(source, user("x")) == "axb"

    def test_loops_may_be_left(self) -> None:
        assert (
            rendered("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", user("a"), user("b"))
            == "a"
        )

    def test_the_templates_own_lists_grow_and_shrink(self) -> None:
        source = "{% set xs = [1] %}{% set _ = xs.append(2) %}{% set _ = xs.pop(0) %}{{ xs }}"
        assert rendered(source) == "[2]"

    def test_what_is_missing_adds_nothing_to_a_text(self) -> None:
        assert rendered("{{ 'a' + messages[0].name + 'b' }}{{ messages[0].name + 'c' }}", user("x")) == "abc"

    def test_a_date_is_the_day_and_not_the_moment(self) -> None:
        def noon() -> datetime:
            return datetime(2024, 7, 26, 12, 34, 56)

        template = ChatTemplate("{{ strftime_now('%d %b %Y %H:%M:%S') }}; {{ datetime }}", clock=noon)
        assert template.render([]) == "26 Jul 2024 00:00:00; July 26 2024 00:00:00 GMT"

    def test_special_tokens_and_the_clients_own_variables_are_there(self) -> None:
        template = ChatTemplate("{{ bos_token }}{{ mood }}{{ eos_token }}", bos_text="<s>", eos_text="</s>")
        assert template.render([], mood="merry") == "<s>merry</s>"


class TestTools:
    SHOWN = "{{ tools | tojson if tools is defined else 'none' }}"
    TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}  # noqa: RUF012

    def test_no_tools_are_no_variable(self) -> None:
        assert ChatTemplate(self.SHOWN).render([]) == "none"
        assert ChatTemplate(self.SHOWN).render([], []) == "none"

    def test_they_are_shown_as_they_came(self) -> None:
        assert (
            ChatTemplate(self.SHOWN).render([], [self.TOOL])
            == '[{"type": "function", "function": {"name": "f"}}]'
        )

    def test_a_template_that_fails_on_what_is_missing_gets_it(self) -> None:
        source = "{% for t in tools %}{{ t.function.parameters.properties.items() | list }}{% endfor %}"
        assert ChatTemplate(source).render([], [self.TOOL]) == "[]"

    def test_a_template_that_recurses_over_a_list_of_types_gets_one_type(self) -> None:
        source = (
            "{% macro kind(t) %}{% if t == 'string' %}str{% elif t is iterable %}"
            "{% for one in t %}{{ kind(one) }}{% endfor %}{% endif %}{% endmacro %}"
            "{{ kind(tools[0].function.parameters.properties.a.type) }}"
        )
        parameters = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert ChatTemplate(source).render([], [tool]) == "str"
        assert parameters["properties"] == {"a": {"type": ["string", "null"]}}


class TestSandbox:
    @pytest.mark.parametrize(
        "source",
        [
            "{{ ''.__class__ }}",
            "{{ messages.__class__.__mro__ }}",
            "{{ (messages | attr('__class__')) }}",
            "{{ raise_exception.__globals__ }}",
            "{{ '{0.__class__}'.format(messages) }}",
            "{% include 'x' %}",
            "{% for i in range(10**9) %}{% endfor %}",
        ],
    )
    def test_what_leads_out_of_it_is_refused_or_nothing(self, source: str) -> None:
        with suppress(TemplateFault):
            assert rendered(source) == ""

    def test_what_a_template_changes_is_a_copy(self) -> None:
        message = {"role": "user", "content": ["a"]}
        tools = [{"type": "function", "function": {"name": "f"}}]
        source = (
            "{% set _ = messages[0].content.append('b') %}"
            "{% set _ = tools.pop() %}{% set _ = mood.update(x=1) %}"
        )
        mood: dict[str, int] = {}
        ChatTemplate(source).render([message], tools, mood=mood)
        assert (message["content"], len(tools), mood) == (["a"], 1, {})

    @pytest.mark.parametrize(
        "source",
        [
            "{{ 10**(10**9) }}",
            "{{ 10**10000 ** 10 }}",
            "{{ 'x' * 10**10 }}",
            "{{ 10**10 * 'x' }}",
            "{{ [0] * 10**10 }}",
            "{{ '%2000000000d' % 1 }}",
            "{{ '%*d' % (2000000000, 1) }}",
            "{{ '%.2000000000f' % 1 }}",
        ],
    )
    def test_much_out_of_nothing_is_refused_at_once(self, source: str) -> None:
        with pytest.raises(TemplateFault, match="too large"):
            rendered(source)

    def test_arithmetic_of_every_day_is_not(self) -> None:
        assert rendered("{{ 2**10 }} {{ '-' * 3 }} {{ 3 * 4 }} {{ 7 % 4 }} {{ '%03d|%s' % (7, 'x') }}") == (
            "1024 --- 12 3 007|x"
        )


class TestFaults:
    def faults(self) -> Iterator[str]:
        yield "{% broken"
        yield "{{ x | no_such_filter }}"
        yield "{% if " + "(" * 5000 + ")" * 5000 + " %}{% endif %}"
        yield "{{ 'x' | center(10**5000) }}"

    def test_what_does_not_compile_is_one_line(self) -> None:
        for source in self.faults():
            with pytest.raises(TemplateFault) as fault:
                ChatTemplate(source).render([])
            assert "\n" not in str(fault.value)
            assert str(fault.value)

    def test_it_says_where(self) -> None:
        with pytest.raises(TemplateFault, match=r"^line 2: "):
            ChatTemplate("fine\n{% broken")

    def test_what_a_template_says_itself_is_passed_on(self) -> None:
        with pytest.raises(TemplateFault, match=r"^roles must alternate$"):
            rendered("{{ raise_exception('roles must\n alternate') }}")

    @pytest.mark.parametrize("length", ["10**6", "10**6 * 9"])
    def test_but_not_at_any_length(self, length: str) -> None:
        with pytest.raises(TemplateFault) as fault:
            rendered("{{ raise_exception('x' * (" + length + ")) }}")
        assert len(str(fault.value)) == FAULT_CHARS

    def test_nor_with_what_cannot_be_written_down(self) -> None:
        with pytest.raises(TemplateFault) as fault:
            rendered("{{ raise_exception(messages[0].content) }}", user("a\ud800b"))
        assert str(fault.value) == "a?b"
