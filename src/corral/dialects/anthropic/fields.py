"""Every field that a request of Messages may have: what corral does with it; see `dialects.fields`.

Source: https://docs.anthropic.com/en/api/messages and the types of anthropic-python 2.14, betas included.
"""

from collections.abc import Iterator
from typing import Any, Final

from corral.dialects.fields import Field, Harmless, Honoured, Refused

_TOOL: Final = {"name": "f", "input_schema": {"type": "object"}}


def _honoured() -> Iterator[Field]:
    def row(name: str, example: Any, about: str) -> Field:
        return Honoured(name, "", example, about)

    yield row(
        "messages",
        [],
        "user, assistant, system; text, thinking, tool_use, tool_result, search_result, document of text, "
        "neither of them to be cited; redacted_thinking is passed over; a last assistant message is "
        "continued",
    )
    yield row(
        "model", "m", "which one of several; with one model any name will do, and the answer names what it is"
    )
    yield row("max_tokens", 5, "1 and more; lowered to what the context has room for")
    yield row(
        "system", "be brief", "a string or text blocks; one with Claude Code's billing header is dropped"
    )
    yield row("temperature", 0.5, "0 to 2; 0 takes the likeliest")
    yield row("top_p", 0.5, "0 to 1")
    yield row("top_k", 7, "0 and more; 0 turns it off")
    yield row("stop_sequences", ["x"], "up to 16, of 1 to 256 characters each")
    yield row("stream", True, "")
    yield row("tools", [_TOOL], "those with an `input_schema`; the others are refused by type")
    yield row("tool_choice", {"type": "none"}, "auto, any, tool, none; `disable_parallel_tool_use`")
    yield row(
        "thinking",
        {"type": "disabled"},
        "enabled with `budget_tokens`, disabled, adaptive, between_tools; `display`",
    )
    yield row("output_config", {"effort": "low"}, "`effort`; `format`, a JSON schema")
    yield row(
        "output_format",
        {"type": "json_schema", "schema": {"type": "object"}},
        "what `format` was once called",
    )


def _harmless() -> Iterator[Field]:
    def row(name: str, example: Any, about: str = "") -> Field:
        return Harmless(name, "", example, about)

    yield row("metadata", {"user_id": "u"})
    yield row("cache_control", {"type": "ephemeral"}, "prefixes are found by their tokens, everywhere")
    yield row("service_tier", "auto", "there is one")
    yield row("context_management", {"edits": []}, "the whole conversation is read")
    yield row("inference_geo", "eu")
    yield row("speed", "fast", "there is one")
    yield row("diagnostics", {"previous_message_id": "msg_1"})
    yield row("user_profile_id", "u")
    yield row("workspace_id", "w")
    yield row("betas", ["context-1m"], "as the header `anthropic-beta`; so with any `anthropic-version`")
    yield row("billing_policy", {"type": "billing_policy", "bill_to": "self"})
    yield row("fallbacks", "default", "nothing is declined here")
    yield row("fallback_credit_token", "t")


def _refused() -> Iterator[Field]:
    yield Refused("container", "", "c", "")
    yield Refused("mcp_servers", "", [{"url": "x"}], "", ([],))
    yield Refused("compaction", "", {"type": "auto"}, "")
    yield Refused("thread", "", {"type": "create"}, "conversations are not kept here; see /v1/responses")


FIELDS: Final[tuple[Field, ...]] = (*_honoured(), *_harmless(), *_refused())
REFUSED: Final = tuple(field for field in FIELDS if isinstance(field, Refused))
