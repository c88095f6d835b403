"""Our requests in the words of an upstream: one chat or completion, always as a stream, always one choice.

Pure. `check` says what a kind cannot do, by the names that clients know; `body_of` writes what it can.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from corral.engine.upstream.kinds import KINDS, Kind
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Grammar, Message, RawPrompt, Sampling, Thinking, Tool

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"

_CLIENT_NAMES: Final = KINDS["corral"].sampling
"""What clients call the fields of `Sampling`."""
_DEFAULTS: Final = Sampling()
_FORMS: Final = ("regex", "choice", "lark", "gbnf")


def check(request: GenerationRequest, kind: Kind) -> None:
    """Raise InvalidRequest for what is asked of us and cannot be asked of a server of this kind."""
    if request.embed is not None:
        raise InvalidRequest("this server passes on chats and completions, and no texts to embed")
    if continues(request) and kind.continues_by is None:
        raise InvalidRequest(
            f"the engine behind this server ({kind.name}) is not known to continue a last message of the "
            "assistant; end with one of the user",
            param="messages",
        )
    for param in _lacking(request, kind):
        raise InvalidRequest(
            f"'{param}' is not supported by the engine behind this server ({kind.name}).", param=param
        )


def path_of(request: GenerationRequest) -> str:
    """Where it is asked for."""
    return CHAT if request.prompt is None else COMPLETIONS


def body_of(
    request: GenerationRequest, kind: Kind, *, model: str, choice: int, max_tokens: int | None, id: str
) -> bytes:
    """The JSON body of the request for one of its choices. `id` is what an abort call would name."""
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.sampling.of_choice(choice), kind),
    }
    if kind.tells_usage_early:
        body["stream_options"]["continuous_usage_stats"] = True
    if kind.tells_progress:
        body["return_progress"] = True
    if kind.aborts_at is not None:
        body["rid"] = id
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.includes_stop and kind.includes_stop is not None:
        body[kind.includes_stop] = True
    if request.shows_control:
        body["skip_special_tokens"] = False
    if request.grammar is not None:
        body |= _form(request.grammar, kind)
    if request.prompt is not None:
        return msgspec.json.encode(body | _prompt(request.prompt))
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    body["messages"] = [_message(message, kind) for message in request.messages]
    if continues(request):
        body |= kind.continues_by or {}
    body |= _tools(request, kind)
    body |= _thinking(request.thinking, kind, request.template_kwargs)
    return msgspec.json.encode(body)


def _lacking(request: GenerationRequest, kind: Kind) -> Iterator[str]:
    """The fields of a request that a kind does not have."""
    for name in _asked(request.sampling):
        if name not in kind.sampling:
            yield _CLIENT_NAMES.get(name, name)
    if request.grammar is not None and request.grammar.kind not in kind.grammars:
        yield request.grammar.param
    if request.includes_stop and kind.includes_stop is None:
        yield "include_stop_str_in_output"
    if request.shows_control and not kind.shows_control:
        yield "skip_special_tokens"
    if request.template_kwargs is not None and not kind.has_template_kwargs:
        yield "chat_template_kwargs"
    for index, tool in enumerate(request.tools):
        if tool.input is not None:
            yield f"tools[{index}].custom.format"
    prompt = request.prompt
    if prompt is not None:
        if not kind.has_completions:
            yield "prompt"
        if request.top_logprobs is not None or request.scores_prompt:
            yield "logprobs"
        if prompt.suffix is not None and kind.name != "corral":
            yield "suffix"
        if prompt.parses_control and kind.name != "corral":
            yield "parse_special"


def continues(request: GenerationRequest) -> bool:
    """Whether its answer has been begun: that of an assistant who called tools was whole."""
    last = request.messages[-1] if request.messages and request.prompt is None else None
    return last is not None and last.role == "assistant" and not last.tool_calls


def _asked(sampling: Sampling) -> Iterator[str]:
    """The fields that were given, or that have an effect of their own."""
    for name in Sampling.__slots__:
        if name == "given":
            continue
        if name in sampling.given or getattr(sampling, name) != getattr(_DEFAULTS, name):
            yield name


def _sampling(sampling: Sampling, kind: Kind) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name in _asked(sampling):
        value = getattr(sampling, name)
        match name:
            case "logit_bias":
                body["logit_bias"] = {str(token): bias for token, bias in value}
            case "dry":
                body |= {
                    "dry_multiplier": value.multiplier,
                    "dry_base": value.base,
                    "dry_allowed_length": value.allowed_tokens,
                    "dry_penalty_last_n": -1 if value.window_tokens is None else value.window_tokens,
                    "dry_sequence_breakers": list(value.breakers),
                }
            case "mirostat":
                body |= {"mirostat": value.version, "mirostat_tau": value.tau, "mirostat_eta": value.eta}
            case "penalty_window_tokens":
                body[kind.sampling[name]] = -1 if value is None else value
            case "seed":
                body["seed"] = value if kind.name == "corral" else value % 2**31
            case _:
                body[kind.sampling[name]] = list(value) if isinstance(value, tuple) else value
    return body


def _form(grammar: Grammar, kind: Kind) -> dict[str, Any]:
    """What the answer must look like, in the kind's words; it has the kind of grammar."""
    source = grammar.source
    if grammar.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if grammar.kind == "json_schema":
        if kind.name == "llama-cpp-python":
            return {"response_format": {"type": "json_object", "schema": msgspec.Raw(source.encode())}}
        schema = {"name": "answer", "schema": msgspec.Raw(source.encode()), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    match kind.name, grammar.kind:
        case "llama-server" | "llama-cpp-python", _:
            return {"grammar": source}
        case "sglang", "regex":
            return {"regex": source}
        case "sglang", _:
            return {"ebnf": source}
        case _, "choice":
            return {"structured_outputs": {"choice": msgspec.json.decode(source)}}
        case _, "regex":
            return {"structured_outputs": {"regex": source}}
        case _:
            return {"structured_outputs": {"grammar": source}}


def _prompt(prompt: RawPrompt) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": prompt.text if prompt.tokens is None else list(prompt.tokens)}
    if prompt.suffix is not None:
        body["suffix"] = prompt.suffix
    if prompt.parses_control:
        body["parse_special"] = True
    return body


def _message(message: Message, kind: Kind) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "developer" and kind.name != "openai":
        written["role"] = "system"  # templates know that one
    if message.name:
        written["name"] = message.name
    if message.role == "tool":
        written["tool_call_id"] = message.tool_call_id or ""
        if message.is_error and not message.content.lower().startswith("error"):
            written["content"] = f"Error: {message.content}"
    if message.reasoning and kind.reasoning is not None:
        written[kind.reasoning] = message.reasoning
    if message.tool_calls:
        written["content"] = message.content or None
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return written


def _tools(request: GenerationRequest, kind: Kind) -> dict[str, Any]:
    """Only those that may be called are sent: few servers know `allowed_tools`."""
    choice = request.tool_choice
    tools = [tool for tool in request.tools if not choice.named or tool.name in choice.named]
    if not tools:
        return {}
    body: dict[str, Any] = {"tools": list(map(_tool, tools)), "tool_choice": choice.mode}
    if choice.mode == "required" and len(choice.named) == 1 and kind.names_tool:
        body["tool_choice"] = {"type": "function", "function": {"name": choice.named[0]}}
    if not request.calls_in_parallel:
        body["parallel_tool_calls"] = False
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.is_strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _thinking(thinking: Thinking, kind: Kind, template_kwargs: str | None) -> dict[str, Any]:
    """How to think. A budget is dropped where the kind has none: it promises no text."""
    body: dict[str, Any] = {}
    kwargs: dict[str, Any] = {} if template_kwargs is None else msgspec.json.decode(template_kwargs)
    if thinking.effort not in (None, "none"):
        body["reasoning_effort"] = thinking.effort
    if thinking.is_on is not None and thinking.effort is None:
        if kind.has_template_kwargs:
            kwargs.setdefault("enable_thinking", thinking.is_on)
        elif not thinking.is_on:
            body["reasoning_effort"] = "none"
    if thinking.effort == "none":
        body["reasoning_effort"] = "none"
        if kind.has_template_kwargs:
            kwargs.setdefault("enable_thinking", False)
    if thinking.budget_tokens is not None and kind.thinking is not None:
        body[kind.thinking] = thinking.budget_tokens
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    return body
