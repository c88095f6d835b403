"""Every field that a request of `POST /v1/embeddings` may have: what corral does with it. See `fields`.

Sources: OpenAI's API reference; the embedding requests of vLLM and of SGLang, as of 2026; llama-server's
`/v1/embeddings`, as in llama-cpp-python 0.3.36; Ollama's `/v1/embeddings`.
"""

from collections.abc import Iterator
from typing import Any, Final

from corral.dialects.fields import Field, Harmless, Honoured, Refused

INPUTS: Final = 2048
"""Most inputs of a request, as with OpenAI."""


def _honoured() -> Iterator[Field]:
    yield Honoured(
        "input", "OLVSA", "x", f"a text, token ids, or a list of up to {INPUTS} of either; see below"
    )
    yield Honoured("model", "OLVSA", "m", "any; there is one")
    yield Honoured(
        "encoding_format", "OLVSA", "base64", "`float`, or `base64`: of 32-bit floats, little-endian"
    )
    yield Honoured(
        "dimensions", "OVSA", 2, "the first so many numbers, brought to length 1; at most the model's"
    )
    yield Honoured("priority", "VS", 1, "as for chat completions")


def _harmless() -> Iterator[Field]:
    for name, servers in (
        *(("user", "OLVS"), ("request_id", "V"), ("rid", "S"), ("cache_salt", "V")),
        *(("safety_identifier", ""), ("metadata", ""), ("keep_alive", "A")),
    ):
        yield Harmless(name, servers, "x", "")


def _refused() -> Iterator[Field]:
    yes: tuple[Any, ...] = (True,)
    yield Refused("content", "L", "x", "it is the `input`")
    yield Refused("messages", "V", [{}], "write the conversation as a text, with `/apply-template`")
    yield Refused("add_special_tokens", "V", False, "a list of token ids is taken as it is", yes)
    yield Refused("embd_normalize", "L", -1, "vectors have length 1 here", (2,))
    yield Refused("normalize", "V", False, "the same", yes)
    yield Refused("use_activation", "V", False, "the same", yes)
    yield Refused("truncate_prompt_tokens", "V", 5, "an input that does not fit is refused")
    yield Refused("truncation_side", "V", "left", "")
    yield Refused("truncate", "A", True, "an input that does not fit is refused", (False,))
    yield Refused("embed_dtype", "V", "float16", "", ("float32",))
    yield Refused("endianness", "V", "big", "", ("native", "little"))
    yield Refused("mm_processor_kwargs", "V", {"a": 1}, "", ({},))
    yield Refused("lora_path", "S", "a", "")
    yield Refused("options", "A", {"num_ctx": 1}, "", ({},))
    yield Refused("stream", "", True, "there is nothing to stream", (False,))


FIELDS: Final[tuple[Field, ...]] = (*_honoured(), *_harmless(), *_refused())
REFUSED: Final = tuple(field for field in FIELDS if isinstance(field, Refused))
