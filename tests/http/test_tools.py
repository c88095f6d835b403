"""Tools, thoughts and structure over the whole server, with what a script says for the model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.harness import Client, Gate, serving
from tests.http.watch import Watch, opening, watching

from corral.engine.local.backend import ChatFormat
from corral.engine.local.scripted import END, START, ScriptedBackend, replying

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NESTED = '{"items":' * 20_000 + "true" + "}" * 20_000
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def saying(text: str) -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: text))


async def message_of(client: Client, **fields: Any) -> tuple[dict[str, Any], str]:
    choice = (await client.chat(**fields).json())["choices"][0]
    return choice["message"], choice["finish_reason"]


async def test_a_call_is_told_as_one_and_ends_the_answer() -> None:
    async with serving(saying(f"One moment.\n{CALL}")) as client:
        message, reason = await message_of(client, tools=[WEATHER])
        [call] = message["tool_calls"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
            "weather",
            {"city": "Oslo"},
        )
        assert call["id"].startswith("call_")
        assert (message["content"].strip(), reason) == ("One moment.", "tool_calls")


@pytest.mark.parametrize("fields", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
async def test_what_looks_like_a_call_is_text_where_nothing_may_be_called(fields: dict[str, Any]) -> None:
    async with serving(saying(CALL)) as client:
        message, reason = await message_of(client, **fields)
        assert (message["content"], message.get("tool_calls"), reason) == (CALL, None, "stop")


async def test_the_model_is_told_of_the_tools_and_of_what_came_of_its_calls() -> None:
    seen: list[str] = []

    def reply(conversation: str) -> str:
        seen.append(conversation)
        return "Sunny."

    messages = [
        {"role": "user", "content": "How is Oslo?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    async with serving(ScriptedBackend(replying(reply))) as client:
        assert (await message_of(client, messages=messages, tools=[WEATHER]))[0]["content"] == "Sunny."
    assert "The weather of a city." in seen[0]
    assert '{"name": "weather", "arguments": {"city": "Oslo"}}' in seen[0]
    assert "<tool_response>\nsunny\n</tool_response>" in seen[0]


async def test_with_parallel_calls_off_the_answer_ends_with_its_first_call() -> None:
    async with serving(saying(f"{CALL}\n{CALL}")) as client:
        both, _ = await message_of(client, tools=[WEATHER])
        one, reason = await message_of(client, tools=[WEATHER], parallel_tool_calls=False)
        assert [len(message["tool_calls"]) for message in (both, one)] == [2, 1]
        assert reason == "tool_calls"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_must_come_comes_whatever_the_model_wants(choice: Any) -> None:
    async with serving(saying("No.")) as client:
        message, _ = await message_of(client, tools=[WEATHER], tool_choice=choice, max_tokens=300)
        assert message["tool_calls"][0]["function"]["name"] == "weather"


STRICT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


async def test_a_strict_tool_is_called_by_its_schema_where_it_need_not_be_called() -> None:
    wrong = f"One moment.\n{CALL.replace('Oslo', 'Bonn')}"
    async with serving(saying(wrong)) as client:
        message, reason = await message_of(client, tools=[STRICT], parallel_tool_calls=False, max_tokens=300)
        [call] = message["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")
        assert (message["content"].strip(), reason) == ("One moment.", "tool_calls")
        loose, _ = await message_of(client, tools=[WEATHER])
        assert json.loads(loose["tool_calls"][0]["function"]["arguments"]) == {"city": "Bonn"}


@pytest.mark.parametrize("text", ["No <tool> is needed.", "<think>Hm: <tool_call></think>No.", CALL])
async def test_a_strict_tool_leaves_what_is_right_as_it_is(text: str) -> None:
    async with serving(saying(text)) as client:
        strict = await message_of(client, tools=[STRICT])
        loose = await message_of(client, tools=[WEATHER])
        for message, _ in (strict, loose):
            for call in message.get("tool_calls") or ():
                call.pop("id")
        assert strict == loose


async def test_a_call_in_a_thought_that_never_ends_is_one_whether_its_tool_is_strict_or_not() -> None:
    async with serving(saying(f"<think>\nI call.\n{CALL}")) as client:
        for tool in (STRICT, WEATHER):
            message, reason = await message_of(client, tools=[tool])
            assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
            assert (message["reasoning_content"].strip(), reason) == ("I call.", "tool_calls")


def custom(syntax: str, definition: str) -> dict[str, Any]:
    grammar = {"syntax": syntax, "definition": definition}
    return {"type": "custom", "custom": {"name": "calc", "format": {"type": "grammar", "grammar": grammar}}}


@pytest.mark.parametrize("choice", ["required", {"type": "custom", "custom": {"name": "calc"}}, "auto"])
async def test_the_text_of_a_custom_tool_matches_its_regex(choice: Any) -> None:
    call = '<tool_call>\n{"name": "calc", "arguments": {"input": "Whatever it likes"}}\n</tool_call>'
    async with serving(saying(call)) as client:
        message, reason = await message_of(
            client, tools=[custom("regex", '(add|mul) "[0-9]"')], tool_choice=choice, max_tokens=300
        )
        written = message["tool_calls"][0]["custom"]["input"]
        assert written[:5] in ('add "', 'mul "')
        assert (written[5].isdigit(), written[6:], reason) == (True, '"', "tool_calls")


@pytest.mark.parametrize(
    ("syntax", "definition", "choice", "told"),
    [
        ("regex", "[a", "required", "unclosed"),
        ("regex", "[a", "auto", "unclosed"),
        ("lark", 'start: "a"', "required", "JSON"),
        ("ebnf", 'start: "a"', "auto", "lark or regex"),
    ],
)
async def test_a_custom_tool_whose_language_cannot_be_followed_is_refused_by_its_name(
    syntax: str, definition: str, choice: str, told: str
) -> None:
    async with serving(saying("x")) as client:
        refused = client.chat(tools=[custom(syntax, definition)], tool_choice=choice)
        error = (await refused.json())["error"]
        assert (refused.status, error["param"]) == (400, "tools[0].custom.format")
        assert told in error["message"]


async def test_a_grammar_that_the_format_of_calls_cannot_hold_is_told_where_no_call_must_come() -> None:
    seen: list[str] = []

    def reply(conversation: str) -> str:
        seen.append(conversation)
        return "No."

    async with serving(ScriptedBackend(replying(reply))) as client:
        assert (await message_of(client, tools=[custom("lark", 'start: "a"')]))[0]["content"] == "No."
    assert 'start: \\"a\\"' in seen[0]


THINKER = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""A template of a model that opens its thoughts itself."""


@pytest.mark.parametrize("budget", [None, 30])
async def test_before_a_call_that_must_come_a_model_may_think(budget: int | None) -> None:
    backend = ScriptedBackend(pondering)
    backend.model.chat_format = ChatFormat(THINKER, "", "<|im_end|>")
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 400}
    async with serving(backend) as client:
        answer = await client.chat(**fields, thinking_token_budget=budget).json()
        unthinking = await client.chat(**fields, reasoning_effort="none").json()
    [choice] = answer["choices"]
    thought = choice["message"]["reasoning_content"]
    if budget is None:
        assert (thought.strip("m"), choice["finish_reason"]) == ("", "length")
    else:
        assert thought.strip() == "m" * budget
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert not unthinking["choices"][0]["message"].get("reasoning_content")
    assert unthinking["choices"][0]["message"]["tool_calls"]


@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": {"const": {"b": 1}}}},
    ],
)
async def test_before_an_answer_of_a_schema_a_model_may_think(
    form: dict[str, Any], tools: list[dict[str, Any]]
) -> None:
    backend = ScriptedBackend(pondering)
    backend.model.chat_format = ChatFormat(THINKER, "", "<|im_end|>")
    fields: dict[str, Any] = {"response_format": form, "tools": tools or None, "max_tokens": 200}
    async with serving(backend) as client:
        answer = await client.chat(**fields, thinking_token_budget=30).json()
        unthinking = await client.chat(**fields, reasoning_effort="none").json()
        begun = await client.chat(
            **fields, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "So: "}]
        ).json()
    [choice] = answer["choices"]
    assert choice["message"]["reasoning_content"].strip() == "m" * 30
    assert tools or choice["message"]["content"].startswith("{")
    assert choice["message"]["content"] or choice["message"]["tool_calls"]
    for told in (unthinking, begun):
        assert not told["choices"][0]["message"].get("reasoning_content")
        assert tools or told["choices"][0]["message"]["content"].startswith("{")


async def test_a_model_that_ends_its_turn_in_a_thought_still_makes_the_call_that_must_come() -> None:
    backend = ScriptedBackend(replying(lambda _: "<think>\nHm."))
    backend.model.chat_format = ChatFormat(THINKER, "", "<|im_end|>")
    async with serving(backend) as client:
        message, reason = await message_of(client, tools=[WEATHER], tool_choice="required", max_tokens=400)
        assert message["reasoning_content"].strip() == "Hm."
        assert message["tool_calls"][0]["function"]["name"] == "weather"
        ended, reason = await message_of(client, tools=[WEATHER])
        assert (ended["reasoning_content"].strip(), ended["content"], reason) == ("Hm.", "", "stop")


async def test_arguments_stream_as_they_come_and_end_where_the_limit_is() -> None:
    async with serving(saying(CALL)) as client:
        stream = client.chat(stream=True, tools=[WEATHER], max_tokens=60)
        frames = (await stream.body()).decode().split("\n\n")
    deltas = [
        choice
        for frame in frames
        if frame.startswith("data: {")
        for choice in json.loads(frame.removeprefix("data: "))["choices"]
    ]
    calls = [call for choice in deltas for call in choice["delta"].get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    arguments = "".join(call["function"]["arguments"] for call in calls[1:])
    assert '{"city": "Oslo"}'.startswith(arguments)
    assert len(arguments) > 5
    assert deltas[-1]["finish_reason"] == "length"


async def test_a_call_that_breaks_off_before_its_name_is_text() -> None:
    text = '<tool_call>\n{"nam'
    async with serving(saying(text)) as client:
        message, reason = await message_of(client, tools=[WEATHER])
        assert (message["content"], reason) == (text, "stop")


async def test_a_thought_is_told_apart_and_counted() -> None:
    async with serving(saying("<think>Hm, hm.</think>Yes.")) as client:
        answer = await client.chat().json()
        message = answer["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm, hm.", "Yes.")
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 5


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "it",
                        "schema": {
                            "type": "object",
                            "properties": {"n": {"enum": [3]}},
                            "required": ["n"],
                            "additionalProperties": False,
                        },
                    },
                }
            },
            lambda text: json.loads(text) == {"n": 3},
        ),
        ({"guided_regex": "[0-9]{3}"}, lambda text: len(text) == 3 and text.isdigit()),
        ({"guided_choice": ["left", "right"]}, lambda text: text in ("left", "right")),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
    ],
)
async def test_an_answer_has_the_form_that_is_asked_for(fields: dict[str, Any], valid: Any) -> None:
    async with serving(saying('{"a": 1}')) as client:
        message, reason = await message_of(client, max_tokens=200, **fields)
        assert valid(message["content"]), message["content"]
        assert reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "[a"}, "guided_regex"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_regex": "a", "tools": [WEATHER]}, "guided_regex"),
        ({"guided_json": NESTED}, "guided_json"),
        ({"guided_json": NESTED, "tools": [WEATHER]}, "guided_json"),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with serving(saying("x")) as client:
        refused = client.chat(**fields)
        assert (await refused.json())["error"]["param"] == param
        assert refused.status == 400
        await client.service.wait_settled()
        client.service.check_idle()


DIGITS = "1" * 5000
STRICTLY = {"strict": True, "parameters": {"type": "object", "x": "NUMBER"}}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@pytest.mark.parametrize("number", [DIGITS, "1e400"])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (
            CHAT,
            {"tools": [{"type": "function", "function": {"name": "f", **STRICTLY}}]},
            "tools[0].function.parameters",
        ),
        (
            CHAT,
            {"tools": [{"type": "custom", "custom": {"name": "f", "format": {"x": "NUMBER"}}}]},
            "tools[0].custom.format",
        ),
        (CHAT, {"tools": [WEATHER], "guided_json": {"x": "NUMBER"}}, "guided_json"),
        (CHAT, {"tools": [WEATHER], "guided_json": '{"x": NUMBER}'}, "guided_json"),
        (CHAT, {"tools": [WEATHER], "json_schema": "{not json"}, "json_schema"),
        (CHAT, {"tools": [WEATHER], "json_schema": "tru"}, "json_schema"),
        (CHAT, {"json_schema": "truth"}, "json_schema"),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", **STRICTLY}]}, "tools[0].parameters"),
        (
            RESPONSES,
            {
                "tools": [{"type": "function", "name": "f"}],
                "text": {"format": {"type": "json_schema", "schema": [1]}},
            },
            "text.format.schema",
        ),
        (
            MESSAGES,
            {"tools": [{"name": "f", "input_schema": {"x": "NUMBER"}}]},
            "tools.0.input_schema",
        ),
        (
            MESSAGES,
            {
                "tools": [{"name": "f", "input_schema": {}}],
                "output_config": {"format": {"type": "json_schema", "schema": [1]}},
            },
            "output_config.format.schema",
        ),
    ],
)
async def test_a_schema_that_nobody_can_read_is_refused_by_name(
    path: str, fields: dict[str, Any], param: str, number: str
) -> None:
    hello = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    body = json.dumps(hello | fields).replace('"NUMBER"', number).replace("NUMBER", number)
    async with serving(saying("x")) as client:
        refused = client.send("POST", path, raw=[body.encode()])
        error = (await refused.json())["error"]
        assert refused.status == 400
        assert param in error["message"]
        assert error.get("param", param) == param


def pondering(tokens: Sequence[int]) -> int:
    """Thinks for ever, until its thought has been ended; then it answers."""
    text = bytes(token for token in tokens if token < START).decode(errors="replace")
    answer = text.rpartition("assistant\n")[2]
    thought, ended, said = answer.partition("</think>")
    if ended:
        return b"42"[len(said)] if len(said) < 2 else END
    opener = "<think>"
    return ord(opener[len(thought)]) if len(thought) < len(opener) else ord("m")


@pytest.mark.parametrize("name", ["thinking_token_budget", "thinking_budget_tokens"])
async def test_after_its_budget_a_thought_is_ended_and_the_answer_follows(name: str) -> None:
    async with serving(ScriptedBackend(pondering)) as client:
        budget: dict[str, Any] = {name: 50}
        answer = await client.chat(**budget, max_tokens=200).json()
        message = answer["choices"][0]["message"]
        assert (set(message["reasoning_content"]), message["content"]) == ({"m"}, "42")
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert 40 <= len(message["reasoning_content"]) <= 50, "the tokens that open it count too"
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] >= 50


async def test_a_thought_that_runs_can_be_ended_by_an_operator() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(pondering, on_step=gate)) as client:
        stream = client.chat(stream=True, max_tokens=3000)
        gate.let(30)
        for _ in range(31):
            await gate.wait_arrived()
        [request] = (await client.send("GET", "/status/json").json())["requests"]
        ended = client.send("DELETE", f"/v1/requests/{request['id']}/thinking")
        assert await ended.json() == {"id": request["id"], "answers": True}
        gate.open()
        assert b'"content":"2"' in await stream.body()
        nobody = client.send("DELETE", "/v1/requests/nobody/thinking")
        assert (await nobody.json())["error"]["code"] == "not_found"


# What an operator sees


async def test_a_thought_is_seen_while_it_lasts_and_counted_where_its_client_leaves() -> None:
    gate = Gate()
    text = "<think>Hm, hm.</think>Yes, so it is."
    backend = ScriptedBackend(replying(lambda _: text), on_step=gate)
    async with serving(backend) as client, opening(gate), watching(client) as watch:
        stream = client.chat(stream=True)
        gate.let(len("<think>Hm"))
        await watch.until(lambda watch: _doing(watch) == "thinking")
        gate.let(len(", hm.</think>Yes"))
        await watch.until(lambda watch: _doing(watch) is None)
        assert watch.state["requests"][0]["state"] == "decode"
        stream.leave()
        gate.open()
        await watch.until(lambda watch: watch.state["history"])
        [row] = watch.state["history"]
        assert row["outcome"] == "disconnected"
        assert 0 < row["reasoning_tokens"] < row["completion_tokens"]


def _doing(watch: Watch) -> str | None:
    """What the one request does just now, as the page knows it; `nothing` before it is known."""
    requests = watch.state["requests"]
    return requests[0].get("doing", "nothing") if requests and requests[0]["state"] == "decode" else "nothing"


@pytest.mark.parametrize("shows", [True, False])
async def test_what_a_request_may_do_is_seen_and_the_names_of_its_tools_only_with_content(
    shows: bool,
) -> None:
    async with serving(ScriptedBackend(pondering), status_content=shows) as client:
        await client.chat(tools=[WEATHER], thinking_token_budget=50, max_tokens=200).json()
        await client.chat(response_format={"type": "json_object"}, max_tokens=9).json()
        await client.service.wait_settled()
        status = await client.send("GET", "/status/json").json()
        thought, held = status["recent"]
        assert (thought["params"]["tools"], thought["params"]["thinking_budget"]) == (1, 50)
        assert thought["thought_cut"]
        assert held["params"]["grammar"] == "json_object"
        assert "thought_cut" not in held
        assert thought.get("tool_names") == (["weather"] if shows else None)
        assert ("weather" in json.dumps(status)) is shows


async def test_a_thought_a_text_and_a_call_are_told_apart_to_who_may_see_them() -> None:
    text = f"<think>Hm.</think>One moment.\n{CALL}"
    async with (
        serving(saying(text), status_content=True) as client,
        watching(client) as watch,
        watching(client, **{"X-Forwarded-For": "192.0.2.1"}) as remote,
    ):
        await client.chat(tools=[WEATHER], stream=True).body()
        await client.service.wait_settled()
        for seen in (watch, remote):
            await seen.until(lambda seen: seen.state["history"])
        blocks = [
            {"text": "Hm.", "kind": "reasoning"},
            {"text": "One moment."},
            {"text": '{"city": "Oslo"}', "kind": "tool", "name": "weather"},
        ]
        told: list[dict[str, str]] = []
        for token in (data for event, data in watch.events if event == "token"):
            about = {name: token[name] for name in ("kind", "name") if name in token}
            if token.get("block", 0) == len(told):
                told.append({"text": "", **about})
            told[-1]["text"] += token["text"]
            assert told[-1] == {"text": told[-1]["text"], **about}
        assert told == blocks
        [recent] = (await client.send("GET", "/status/json").json())["recent"]
        assert recent["output"] == [blocks]
        assert b"Oslo" not in remote.raw
        assert [(row["calls"], row["reasoning_tokens"] > 3) for row in watch.state["history"]] == [(1, True)]


async def test_requests_with_tools_and_with_grammars_are_counted_by_kind() -> None:
    async with serving(saying("x")) as client:
        before = await samples(client)
        await client.chat(tools=[WEATHER]).body()
        await client.chat(tools=[WEATHER], tool_choice="required", max_tokens=5).body()
        await client.chat(tools=[STRICT]).body()
        await client.chat(tools=[STRICT], tool_choice="none").body()
        await client.chat(response_format={"type": "json_object"}, max_tokens=5).body()
        await client.chat(guided_regex="x", max_tokens=5).body()
        await client.chat(guided_regex="x", max_tokens=5).body()
        await client.service.wait_settled()
        counted = await samples(client)
    kinds = ("json_object", "json_schema", "regex", "choice", "lark", "gbnf", "tools")
    assert {f'corral_requests_held_total{{kind="{kind}"}}' for kind in kinds} <= set(before)
    assert counted["corral_requests_with_tools_total"] == 4
    wanted = {"json_object": 1, "regex": 2, "tools": 2}
    for kind in kinds:
        assert counted[f'corral_requests_held_total{{kind="{kind}"}}'] == wanted.get(kind, 0), kind


async def samples(client: Client) -> dict[str, float]:
    """What /metrics says, by name and labels."""
    text = (await client.send("GET", "/metrics").body()).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
