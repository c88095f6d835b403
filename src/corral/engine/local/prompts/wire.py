"""What is said to a process that writes prompts, and what it answers: frames of a length and a body.

A request's body is JSON, since the schemas in it are JSON already; an answer's is MessagePack.
"""

import struct

import msgspec

from corral.decoding.formats.learn import Learned
from corral.request import GenerationRequest

HEADER = struct.Struct(">cI")  # a kind, and how many bytes follow
WRITE, STOP = b"W", b"S"
ANSWER = b"A"


class Write(msgspec.Struct, frozen=True, tag=True):
    """A request whose prompt is wanted, if it has no more tokens than `limit_tokens`."""

    request: GenerationRequest
    limit_tokens: int


class Render(msgspec.Struct, frozen=True, tag=True):
    """A conversation of which the text of its prompt is wanted."""

    request: GenerationRequest


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """A text whose tokens are wanted; see contract.Prompts."""

    text: str
    adds_special: bool
    parses_control: bool


class Inputs(msgspec.Struct, frozen=True, tag=True):
    """Texts to be embedded, whose tokens are wanted; see contract.Prompts."""

    texts: tuple[str, ...]
    limit_tokens: int


Job = Write | Render | Tokenize | Inputs


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process can write prompts; its memory in bytes, or 0 where that is not known."""

    memory_bytes: int
    learned: Learned


class Unfit(msgspec.Struct, frozen=True, tag=True):
    """No prompt can be written with this model, and why."""

    reason: str


class Written(msgspec.Struct, frozen=True, tag=True):
    """A prompt, or another text: its tokens as native 32-bit integers, and how a prompt ends as text."""

    tokens: bytes
    ending: str


class WrittenInputs(msgspec.Struct, frozen=True, tag=True):
    """The tokens of several texts, one after the other as native 32-bit integers, and how many each has."""

    tokens: bytes
    lengths: tuple[int, ...]


class Rendered(msgspec.Struct, frozen=True, tag=True):
    """A conversation as the template writes it."""

    text: str


class TooLong(msgspec.Struct, frozen=True, tag=True):
    """The prompt has more tokens than the context."""

    prompt_tokens: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request is at fault."""

    message: str
    param: str | None


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """It was asked to stop, and did."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A bug: its traceback."""

    traceback: str


Answer = Ready | Unfit | Written | WrittenInputs | Rendered | TooLong | Refused | Stopped | Failed

_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_jobs: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)


def param_of(job: Job) -> str:
    """The field of the client's request that a job is about."""
    match job:
        case Tokenize():
            return "content"
        case Inputs():
            return "input"
        case _:
            return job.request.prompt_param


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


def encode_job(job: Job) -> bytes:
    """Raises UnicodeEncodeError for half of a surrogate pair."""
    return frame(WRITE, msgspec.json.encode(job))


def decode_job(body: bytes) -> Job:
    return _jobs.decode(body)


def encode_answer(answer: Answer) -> bytes:
    return frame(ANSWER, msgspec.msgpack.encode(answer))


def decode_answer(body: bytes) -> Answer:
    return _answers.decode(body)
