"""OpenAI's Embeddings: `POST /v1/embeddings`. `embeddings_fields` says what becomes of each field.

Decisions where OpenAI's reference leaves room:

- A list may hold texts and lists of token ids side by side. Token ids are taken exactly as they are; a text
  is put between the tokens that the model wants around it.
- Every vector has length 1, a shortened one too. Numbers are written such that the same 32 bits are read.
- Unknown fields pass, `null` means absent.

Source: https://platform.openai.com/docs/api-reference/embeddings.
"""

import base64
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from corral.dialects import Head, Headers
from corral.dialects.fields import refuse
from corral.dialects.openai import embeddings_bounds
from corral.dialects.openai.embeddings_fields import REFUSED
from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.openai.sampling import whole
from corral.dialects.wire import decode
from corral.errors import InvalidRequest
from corral.events import Completion
from corral.request import Embed, GenerationRequest, RawPrompt

_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Dimensions = Annotated[int, Meta(ge=1, le=2**31 - 1)] | Annotated[float, Meta(ge=1, le=2**31 - 1)]
_Format = Literal["float", "base64"]

if TYPE_CHECKING:

    class _Refused(msgspec.Struct):
        """Fields whose effect corral does not have, of any type."""

else:
    _Refused = msgspec.defstruct("_Refused", [(field.name, object, None) for field in REFUSED])


class EmbeddingsBody(_Refused, kw_only=True):
    """The body as it came, every field of the right type and in its range; `input` is unread."""

    input: msgspec.Raw
    model: str | None = None
    encoding_format: _Format | None = None
    dimensions: _Dimensions | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None


class _Input(msgspec.Struct):
    input: str | Annotated[list[str | _Token | list[_Token]], Meta(min_length=1)]


class _Item(msgspec.Struct, gc=False):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    total_tokens: int


class _Rest(msgspec.Struct, gc=False):
    """Of an answer, what follows its `data`."""

    model: str
    usage: _Usage
    object: str = "list"


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(EmbeddingsBody)
_input_decoder: Final = msgspec.json.Decoder(_Input)


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """A parsed request: what to embed, and how its vectors are to be written."""

    request: GenerationRequest
    model: str | None
    format: _Format

    def complete(self, head: Head, completion: Completion) -> Iterator[bytes]:
        """The answer, a piece for each vector: written at once, a large one would hold all other threads."""
        written = _in_base64 if self.format == "base64" else _numbers
        begins = b'{"data":['
        for index, vector in enumerate(completion.vectors):
            yield begins + _encode(_Item(index, written(vector)))
            begins = b","
        tokens = completion.finished.usage.prompt_tokens
        yield b"]," + _encode(_Rest(head.model, _Usage(tokens, tokens))).removeprefix(b"{")


class EmbeddingsDialect(OpenAIErrors):
    """An Embedder (see `dialects`)."""

    id_prefix = "embd-"

    def parse(self, body: bytes, headers: Headers, client: str) -> EmbeddingsCall:
        """Parse a request; raises InvalidRequest with the `param` that OpenAI would name."""
        wire = decode(_decoder, body)
        refuse(wire, REFUSED)
        dimensions = None if wire.dimensions is None else whole(wire.dimensions, "dimensions")
        embeddings_bounds.check(wire.input)
        given = decode(_input_decoder, b'{"input":%b}' % bytes(wire.input)).input
        embed = Embed(_inputs(given), dimensions)
        request = GenerationRequest(embed=embed, priority=wire.priority or 0)
        return EmbeddingsCall(request, wire.model, wire.encoding_format or "float")


def _inputs(given: str | Sequence[str | int | list[int]]) -> tuple[RawPrompt, ...]:
    if isinstance(given, str):
        return (_input(given, "input"),)
    if all(isinstance(part, int) for part in given):
        return (_input(list(given), "input"),)  # type: ignore[arg-type]  # they are all tokens
    inputs = []
    for number, part in enumerate(given):
        if isinstance(part, int):
            raise InvalidRequest("'input' is a list of texts, or of token ids, not of both.", param="input")
        inputs.append(_input(part, f"input[{number}]"))
    return tuple(inputs)


def _input(given: str | list[int], param: str) -> RawPrompt:
    if not given:
        raise InvalidRequest(f"'{param}' is empty.", param=param)
    return RawPrompt(given) if isinstance(given, str) else RawPrompt(tokens=tuple(given))


def _in_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def _numbers(vector: bytes) -> list[float]:
    numbers = array("f")
    numbers.frombytes(vector)
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
