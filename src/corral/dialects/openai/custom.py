"""Tools whose input is free text: to a model that calls with JSON they are functions of one text."""

from typing import Any, Final

import msgspec

from corral.dialects.wire import present

NO_PARAMETERS: Final = msgspec.Raw(b'{"type":"object","properties":{}}')
CUSTOM_PARAMETERS: Final = msgspec.Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)


def described(description: str | None, given: msgspec.Raw) -> str:
    """A custom tool's description, and the grammar that its input follows, as it is `given`."""
    told = description or ""
    raw = present(given)
    form: Any = msgspec.json.decode(raw) if raw is not None else None
    if isinstance(form, dict) and form.get("type") == "grammar":
        own = form.get("grammar")
        form = own if isinstance(own, dict) else form
        told += f"\n\nThe input follows this {form.get('syntax')} grammar:\n{form.get('definition')}"
    return told.strip()
