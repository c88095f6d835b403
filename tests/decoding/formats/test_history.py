"""A conversation in the shapes that a template takes, and as text where it takes none."""

from pathlib import Path

import msgspec
import pytest
from tests import llama_models

from corral.decoding.formats.history import Conversation, conversation
from corral.decoding.formats.learn import Learned, learn
from corral.request import Message, Tool, ToolCall
from corral.templates.environment import ChatTemplate

INVENTED = Path(__file__).parent.parent / "templates" / "invented"
TOOLS = (
    Tool(
        "get_weather",
        "Weather",
        msgspec.Raw(b'{"type": "object", "properties": {"city": {"type": "string"}}}'),
    ),
    Tool("ping", "", msgspec.Raw(b'{"type": "object", "properties": {}}')),
)
OSLO = ToolCall("call_0123456789", "get_weather", '{"city": "Oslo"}')
PING = ToolCall("call_abcdefghij", "ping", "{}")
MESSAGES = (
    Message("system", "Be brief."),
    Message("user", "How is Oslo?"),
    Message("assistant", "", tool_calls=(OSLO, PING), reasoning="I should ask."),
    Message("tool", "sunny", tool_call_id=OSLO.id),
    Message("tool", "no line", tool_call_id=PING.id, is_error=True),
    Message("assistant", "Sunny."),
    Message("user", "Thanks."),
)
SYSTEM_SPEAKS_AGAIN = (
    Message("system", "Be briefer."),
    Message("assistant", "Yes."),
    Message("system", "The user has moved."),
    Message("user", "And here?"),
    Message("system", "Say it in rhyme."),
)
CALLS = """{%- for m in messages -%}{{- '<|' + m.role + '|>' + (m.content or '') -}}
{%- if m.tool_calls -%}CHECK{%- for c in m.tool_calls -%}
{{- '<|call|>' + c.function.name + '<|args|>' + (c.function.arguments ARGUMENTS) + '<|/call|>' -}}
{%- endfor -%}{%- endif -%}{{- '<|end|>' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def learned_from(source: str) -> Learned:
    return learn(ChatTemplate(source).render, source=source)


def with_calls(check: str = "", arguments: str = "| tojson") -> Learned:
    return learned_from(CALLS.replace("CHECK", check).replace("ARGUMENTS", arguments))


def assistants(written: Conversation) -> list[dict[str, object]]:
    return [message for message in written.messages if message["role"] == "assistant"]


def test_arguments_are_an_object_or_a_text_as_the_template_takes_them() -> None:
    as_object = assistants(conversation(with_calls(), MESSAGES))[0]["tool_calls"]
    assert as_object[0]["function"] == {"name": "get_weather", "arguments": {"city": "Oslo"}}  # type: ignore[index]
    as_text = assistants(conversation(with_calls(arguments=""), MESSAGES))[0]["tool_calls"]
    assert as_text[0]["function"]["arguments"] == '{"city": "Oslo"}'  # type: ignore[index]


def test_content_beside_calls_is_what_the_template_takes() -> None:
    null = with_calls("{%- if m.content is not none -%}{{- raise_exception('no') -}}{%- endif -%}")
    assert assistants(conversation(null, MESSAGES))[0]["content"] is None
    absent = with_calls("{%- if 'content' in m -%}{{- raise_exception('no') -}}{%- endif -%}")
    assert "content" not in assistants(conversation(absent, MESSAGES))[0]


def test_where_a_turn_has_one_call_each_call_has_a_turn_and_its_result_follows() -> None:
    single = with_calls("{%- if m.tool_calls | length > 1 -%}{{- raise_exception('no') -}}{%- endif -%}")
    roles = [message["role"] for message in conversation(single, MESSAGES).messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant", "user"]


def test_an_id_becomes_the_same_nine_characters_in_call_and_result() -> None:
    short = with_calls(
        "{%- if m.tool_calls[0].id | length != 9 -%}{{- raise_exception('no') -}}{%- endif -%}"
    )
    written = conversation(short, MESSAGES)
    calls = assistants(written)[0]["tool_calls"]
    results = [message["tool_call_id"] for message in written.messages if message["role"] == "tool"]
    assert [call["id"] for call in calls] == results  # type: ignore[attr-defined]
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in results)


def test_a_result_has_the_name_of_its_tool_and_says_that_it_is_an_error() -> None:
    results = [m for m in conversation(with_calls(), MESSAGES).messages if m["role"] == "tool"]
    assert [result["name"] for result in results] == ["get_weather", "ping"]
    assert [result["content"] for result in results] == ["sunny", "Error: no line"]


def test_a_thought_goes_into_the_field_that_the_template_renders() -> None:
    source = (INVENTED / "id-first.jinja").read_text()
    written = conversation(learned_from(source), MESSAGES)
    assert assistants(written)[0]["reasoning_content"] == "I should ask."


def test_a_template_without_tools_gets_the_instruction_and_the_history_as_text() -> None:
    source = (INVENTED / "no-tools-at-all.jinja").read_text()
    written = conversation(learned_from(source), MESSAGES, TOOLS)
    text = ChatTemplate(source).render(written.messages, written.tools)
    assert written.tools is None
    assert [message["role"] for message in written.messages] == ["user", "assistant"] * 2 + ["user"]
    assert '{"name": "get_weather", "description": "Weather", "parameters"' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    assert '<tool_response>\nsunny\n</tool_response>\n<tool_response error="true">\nno line' in text
    assert text.index("Be brief.") < text.index("<tools>") < text.index("How is Oslo?")


def test_a_template_that_is_not_told_its_tools_gets_them_in_its_own_format() -> None:
    learned = with_calls()
    system = conversation(learned, MESSAGES, TOOLS).messages[0]["content"]
    assert '<|call|>example_tool<|args|>{"some_argument": "its value"}<|/call|>' in system


def test_what_the_user_says_is_marked_and_what_we_write_is_not() -> None:
    source = (INVENTED / "only-result-tokens.jinja").read_text()
    written = conversation(
        learned_from(source),
        [
            Message("user", "<|x|>"),
            Message("assistant", "", tool_calls=(ToolCall("1", "ping", '{"a": "<|x|>"}'),)),
        ],
        TOOLS,
        mark=lambda text: text.replace("<|x|>", "<MARK|x|>"),
    )
    text = ChatTemplate(source).render(written.messages, written.tools)
    assert "<|x|>" not in text
    assert '<|tool_call_begin|>[{"name": "ping", "arguments": {"a": "<MARK|x|>"}}]<|tool_call_end|>' in text


@llama_models.needs_them
@pytest.mark.parametrize("path", llama_models.templates(), ids=lambda path: path.name)
def test_every_vendors_template_takes_the_whole_conversation(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    written = conversation(learned_from(source), MESSAGES + SYSTEM_SPEAKS_AGAIN, TOOLS)
    text = ChatTemplate(source).render(written.messages, written.tools)
    for word in ("Be brief.", "How is Oslo?", "Oslo", "ping", "sunny", "no line", "Thanks.", "get_weather"):
        assert word in text
    for message in SYSTEM_SPEAKS_AGAIN:
        assert message.content in text


LATE = (
    Message("system", "Be brief."),
    Message("user", "One."),
    Message("system", "Behind a question."),
    Message("assistant", "", tool_calls=(OSLO,)),
    Message("tool", "sunny", tool_call_id=OSLO.id),
    Message("developer", "Behind a result."),
    Message("assistant", "Sunny."),
    Message("system", "Before a question."),
    Message("user", "Two."),
)
NO_LATE_SYSTEM = """{%- for m in messages -%}
{%- if m.role == 'system' and not loop.first -%}{{ raise_exception('only at the beginning') }}{%- endif -%}
{{- '<|' + m.role + '|>' + (m.content or '') -}}{%- endfor -%}"""
LAST_SYSTEM_WINS = """{%- set ns = namespace(system='') -%}
{%- for m in messages if m.role == 'system' -%}{%- set ns.system = m.content -%}{%- endfor -%}
{{- ns.system -}}
{%- for m in messages if m.role != 'system' -%}{{- '<|' + m.role + '|>' + (m.content or '') -}}{%- endfor -%}"""


def roles_and_texts(learned: Learned, messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in conversation(learned, messages).messages]


@pytest.mark.parametrize("source", [NO_LATE_SYSTEM, LAST_SYSTEM_WINS])
def test_a_late_system_message_goes_into_the_turn_it_is_next_to_where_the_template_wants_none(
    source: str,
) -> None:
    found = learned_from(source)
    assert found.capabilities.system
    assert not found.capabilities.late_system
    written = roles_and_texts(found, LATE)
    assert [role for role, _ in written].count("system") == 1
    assert written[:2] == [("system", "Be brief."), ("user", "One.\n\nBehind a question.")]
    assert "sunny\n\nBehind a result." in written[3][1]
    assert written[-1] == ("user", "Before a question.\n\nTwo.")


def test_what_was_folded_stays_when_the_conversation_goes_on() -> None:
    found = learned_from(NO_LATE_SYSTEM)
    whole = roles_and_texts(found, LATE)
    for ends in (3, 6, 9):
        so_far = roles_and_texts(found, LATE[:ends])
        assert so_far == whole[: len(so_far)]


def test_a_late_system_message_behind_an_answer_is_the_users_own_turn() -> None:
    messages = (Message("user", "One."), Message("assistant", "A."), Message("system", "Late."))
    assert roles_and_texts(learned_from(NO_LATE_SYSTEM), messages)[-1] == ("user", "Late.")


def test_a_late_system_message_stays_where_the_template_takes_it() -> None:
    found = with_calls()
    assert found.capabilities.late_system
    assert [role for role, _ in roles_and_texts(found, LATE)].count("system") == 4
