"""What llama-server tells of texts and tokens: `POST /tokenize`, `/detokenize`, `/apply-template`.

Bodies and answers are its own (tools/server/README.md of llama.cpp); unknown fields pass, as there. A text
may be a list of texts and token ids, which stand for themselves. Errors are OpenAI's, as they are there.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from corral.dialects.openai.chat_request import generation_request, read_chat
from corral.dialects.wire import decode
from corral.request import GenerationRequest

_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Tokenize(msgspec.Struct):
    """A text, and what its tokens shall be: see `Texts.tokens`. It defaults to what llama-server does."""

    content: str | list[str | _Token] = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False

    @property
    def parts(self) -> list[str | int]:
        return [self.content] if isinstance(self.content, str) else list(self.content)


class Detokenize(msgspec.Struct):
    tokens: list[_Token] = []


class _Piece(msgspec.Struct):
    id: int
    piece: str | list[int]


class _Tokens(msgspec.Struct):
    tokens: Sequence[int | _Piece]


class _Content(msgspec.Struct):
    content: str


class _Prompt(msgspec.Struct):
    prompt: str


_tokenize: Final = msgspec.json.Decoder(Tokenize)
_detokenize: Final = msgspec.json.Decoder(Detokenize)


def parse_tokenize(body: bytes) -> Tokenize:
    """Raises InvalidRequest."""
    return decode(_tokenize, body)


def parse_detokenize(body: bytes) -> Sequence[int]:
    """The tokens. Raises InvalidRequest."""
    return decode(_detokenize, body).tokens


def parse_conversation(body: bytes) -> GenerationRequest:
    """A chat request, of which the prompt is wanted. Raises InvalidRequest."""
    return generation_request(read_chat(body))


def tokenized(tokens: Sequence[int], pieces: Sequence[bytes] | None) -> bytes:
    """The answer; a piece that is not whole characters comes as its bytes."""
    if pieces is None:
        return msgspec.json.encode(_Tokens(tokens))
    return msgspec.json.encode(
        _Tokens([_Piece(token, _text(piece)) for token, piece in zip(tokens, pieces, strict=True)])
    )


def detokenized(pieces: Sequence[bytes]) -> bytes:
    """The answer; what is not whole characters is replaced."""
    return msgspec.json.encode(_Content(b"".join(pieces).decode(errors="replace")))


def applied(prompt: str) -> bytes:
    return msgspec.json.encode(_Prompt(prompt))


def _text(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
