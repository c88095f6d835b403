"""Every field that a request for a response may have: what corral does with it; see `dialects.fields`.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of openai-python; what
Codex sends beside these.
"""

from collections.abc import Iterator
from typing import Any, Final

from corral.dialects.fields import Field, Harmless, Honoured, Refused

_FUNCTION: Final = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def _honoured() -> Iterator[Field]:
    def row(name: str, example: Any, about: str) -> Field:
        return Honoured(name, "", example, about)

    yield row(
        "input",
        [],
        "a string, or items: messages, reasoning, calls that clients run and their outputs, references",
    )
    yield row(
        "model", "m", "which one of several; with one model any name will do, and the answer names what it is"
    )
    yield row("instructions", "be brief", "not carried over by `previous_response_id`")
    yield row("previous_response_id", "resp_1", "if it is still stored, for the same client")
    yield row("max_output_tokens", 5, "1 and more; lowered to what the context has room for")
    yield row("temperature", 0.5, "0 to 2; 0 takes the likeliest")
    yield row("top_p", 0.5, "0 to 1")
    yield row("top_logprobs", 2, "0 to 20, if `include` has `message.output_text.logprobs`")
    yield row(
        "tools", [_FUNCTION], "functions, custom tools, namespaces of them; hosted tools are passed over"
    )
    yield row("tool_choice", "none", "auto, none, required, a function, a custom tool, `allowed_tools`")
    yield row("parallel_tool_calls", False, "")
    yield row(
        "reasoning",
        {"effort": "low"},
        "`effort`, of which `none` turns thinking off; `summary`: the thought itself comes as one",
    )
    yield row("text", {"format": {"type": "json_object"}}, "`format`: text, json_object, json_schema")
    yield row(
        "include",
        ["reasoning.encrypted_content"],
        "`reasoning.encrypted_content`, `message.output_text.logprobs`; the others have no effect",
    )
    yield row("store", False, "true by default")
    yield row("stream", True, "")
    yield row("metadata", {"a": "b"}, "given back; up to 16 texts of up to 512 characters")
    yield row("user", "u", "given back")


def _harmless() -> Iterator[Field]:
    def row(name: str, example: Any, about: str = "") -> Field:
        return Harmless(name, "", example, about)

    yield row("service_tier", "flex", "there is one")
    yield row("prompt_cache_key", "k", "prefixes are found by their tokens")
    yield row("prompt_cache_options", {"mode": "implicit"})
    yield row("prompt_cache_retention", "24h")
    yield row("safety_identifier", "s")
    yield row("client_metadata", {"a": "b"})
    yield row("max_tool_calls", 3, "it limits hosted tools, of which there are none")
    yield row("context_management", [{"type": "compaction"}], "the whole conversation is read")
    yield row("access_programs", {})
    yield row("background_options", {})
    yield row("image", {}, "there are none")


def _refused() -> Iterator[Field]:
    yield Refused("background", "", True, "", (False,))
    yield Refused("conversation", "", "c", "see `previous_response_id`")
    yield Refused("prompt", "", {"id": "p"}, "")
    yield Refused("truncation", "", "auto", "what does not fit is refused", ("disabled",))
    yield Refused("moderation", "", {"model": "m"}, "")
    yield Refused("personality", "", "friendly", "")
    plain: tuple[Any, ...] = ({}, {"include_obfuscation": False})
    yield Refused("stream_options", "", {"include_obfuscation": True}, "", plain)


FIELDS: Final[tuple[Field, ...]] = (*_honoured(), *_harmless(), *_refused())
REFUSED: Final = tuple(field for field in FIELDS if isinstance(field, Refused))
