"""What every dialect needs of the wire: JSON bodies checked into Structs, and SSE frames."""

import codecs
import re
from typing import Any, Final, TypeVar

import msgspec

from corral.errors import InvalidRequest

T = TypeVar("T")

_MEDIUM: Final = re.compile(
    "Invalid value '(?P<kind>image_url|input_image|input_audio|audio_url|video_url|file|input_file)'"
)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")

_encode = msgspec.json.Encoder().encode

NOTHING: Final = msgspec.Raw(b"")
"""The default of a field that is kept as it came: msgspec takes no `Raw | None`."""


def present(raw: msgspec.Raw) -> bytes | None:
    """A raw field's JSON text; None where it was absent or null."""
    return bytes(raw) if raw and bytes(raw) != b"null" else None


def value_of(raw: bytes, param: str) -> Any:
    """What a field holds that was kept as it came.

    Raises InvalidRequest that names `param` for what is no JSON, is nested too deeply, or has a number that
    nothing here can hold.
    """
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        what = "it is nested too deeply"
    except ValueError as error:  # msgspec's own are of this kind, and so is Python's for thousands of digits
        what = str(error).partition(" - at ")[0]
        what = what if what.startswith("JSON") else what[:1].lower() + what[1:]
    raise InvalidRequest(f"Invalid '{param}': {what}.", param=param)


def schema_of(raw: bytes, param: str) -> str:
    """A JSON schema as a text, which some clients send as a string; raises InvalidRequest as `value_of`."""
    value = value_of(raw, param)
    if isinstance(value, str):
        raw = value.encode()
        value = value_of(raw, param)
    if not isinstance(value, dict | bool):
        raise InvalidRequest(f"'{param}' must be a JSON schema.", param=param)
    return raw.decode()


def parameters_of(raw: bytes, param: str) -> msgspec.Raw:
    """A JSON schema of an object, as it came; raises InvalidRequest as `value_of`."""
    if not isinstance(value_of(raw, param), dict):
        raise InvalidRequest(f"'{param}' must be a JSON schema of an object.", param=param)
    return msgspec.Raw(raw)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode and validate a request body.

    Raises InvalidRequest, with the path of the offending field as its `param` (`messages[0].role`). Whatever
    this returns holds only finite numbers and text that can be encoded as UTF-8.
    """
    try:
        body = body.removeprefix(codecs.BOM_UTF8)  # no JSON, but Windows writes it (RFC 8259, 8.1)
        body.decode()  # msgspec does not look into the fields it skips
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except msgspec.DecodeError as error:
        message = f"The body is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}."
        if _HIGH_SURROGATE.search(body):
            # msgspec tells of a lone one as of a body that was cut short.
            message += " Surrogates (\\ud800 to \\udfff) must come in pairs."
        raise InvalidRequest(message) from None


def _invalid_field(complaint: str) -> InvalidRequest:
    """Put what msgspec says, such as "Expected `str`, got `int` - at `$.stop[1]`", in the API's terms."""
    what, _, where = complaint.partition(" - at ")
    param = (
        where.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".").removesuffix("[...]")
    )
    missing = _MISSING.fullmatch(what)
    if missing is not None:
        param = f"{param}.{missing['field']}".removeprefix(".")
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if (medium := _MEDIUM.fullmatch(what)) is not None:
        what = f"this model reads text only: it cannot take {medium['kind']} parts"
    what = what[0].lower() + what[1:]
    if not param:
        return InvalidRequest(f"Invalid body: {what}.")
    in_key = " (in a key)" if where.startswith("`key`") else ""
    return InvalidRequest(f"Invalid '{param}'{in_key}: {what}.", param=param)


def frame(message: msgspec.Struct, event: str | None = None) -> bytes:
    """One SSE frame that carries `message` as JSON, named by an `event:` line where the API has one.

    JSON escapes CR and LF, the only line ends of SSE. Readers that split at all of Unicode's (httpx's
    `iter_lines`, httpx-sse before 0.4.2) would break a frame at a bare U+0085, U+2028 or U+2029, so these
    are escaped too.
    """
    data = _encode(message)
    if not data.isascii():
        # UTF-8 is self-synchronising: these bytes are these characters and never part of others.
        data = data.replace(b"\xc2\x85", b"\\u0085")
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if event is None:
        return b"data: %b\n\n" % data
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
