"""What a client calls the conversation that a request belongs to, and the model that it wants: read alike in
every API, since no API has the one and all have the other.

A session is looked for in this order: the headers `X-Session-Id`, `Session-Id` and `session_id` (Codex); the
body's fields `session_id` and `prompt_cache_key` (OpenAI's name for what belongs together); and the session's
part of `metadata.user_id` (Claude Code, which packs its user, its account and its session into it). Never the
user.
"""

import codecs
import re
from typing import Any, Final

import msgspec

from corral.dialects import Headers

SESSION_CHARS = 128
_HEADERS: Final = ("x-session-id", "session-id", "session_id")
_PRINTABLE: Final = re.compile(rf"[ -~]{{1,{SESSION_CHARS}}}")
_PACKED: Final = re.compile(r"_session_([0-9A-Za-z-]{8,64})$")
"""As in `user_0a1b…_account_…_session_6b86b273-…`."""


class _Model(msgspec.Struct):
    model: Any = None


class _Named(msgspec.Struct):
    session_id: Any = None
    prompt_cache_key: Any = None
    metadata: Any = None


_named = msgspec.json.Decoder(_Named)
_model = msgspec.json.Decoder(_Model)


def session_of(body: bytes, headers: Headers) -> str:
    """The session of a request whose body is JSON; "" if it names none, or none that can be shown."""
    for header in _HEADERS:
        if session := _shown(headers.get(header)):
            return session
    try:
        named = _named.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ""
    user = named.metadata.get("user_id") if isinstance(named.metadata, dict) else None
    return _shown(named.session_id) or _shown(named.prompt_cache_key) or _session_in(user)


def model_of(body: bytes) -> str | None:
    """The model that a request names whose body is JSON, which is in the same place in every API.

    None if it names none, or nothing that could be one.
    """
    try:
        model = _model.decode(body.removeprefix(codecs.BOM_UTF8)).model
    except (msgspec.DecodeError, RecursionError):
        return None
    return model if isinstance(model, str) and model else None


def _session_in(user_id: object) -> str:
    """The session that is packed into the name of a user: at its end, or as JSON."""
    if not isinstance(user_id, str):
        return ""
    if (found := _PACKED.search(user_id)) is not None:
        return found[1]
    try:
        return _shown(_named.decode(user_id.encode()).session_id)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return ""


def _shown(value: object) -> str:
    """A name that can stand in a line of the log; "" for anything else."""
    return value.strip() if isinstance(value, str) and _PRINTABLE.fullmatch(value) else ""
