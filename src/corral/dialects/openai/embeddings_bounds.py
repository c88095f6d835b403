"""What an `input` of too many texts or tokens is refused by: counted in its JSON, before anything is built.

Sixteen megabytes of `[1],` would be four million lists: seconds in which no other thread runs, to be told
that they are too many. Counting takes some hundredths of a second, and lets others run in between.
"""

import re
from typing import Final

import msgspec

from corral.dialects.openai.embeddings_fields import INPUTS
from corral.errors import InvalidRequest, inputs_too_long
from corral.request import EMBED_TOKENS

_STRING: Final = re.compile(rb'(?:[^"\\]{1,4096}+|\\.){0,256}+', re.DOTALL)
"""As much of a string as is read at a time: a megabyte at most takes a millisecond."""


def check(given: msgspec.Raw) -> None:
    """Refuse a list of more than INPUTS texts and lists, or of more than EMBED_TOKENS numbers in all.

    Every value but the first of its list stands behind a comma, so the commas outside of strings say how many
    there are. Raises InvalidRequest, or ContextExceeded.
    """
    data = bytes(given)
    if not data.startswith(b"["):
        return
    texts, lists, commas, at = 0, -1, 0, 0
    while at < len(data):
        quote = data.find(b'"', at)
        end = quote if quote >= 0 else len(data)
        lists += data.count(b"[", at, end)
        commas += data.count(b",", at, end)
        texts += quote >= 0
        if texts + lists > INPUTS:
            raise InvalidRequest(f"'input' has more than {INPUTS} inputs.", param="input")
        if (tokens := 1 + commas - texts) > EMBED_TOKENS:
            raise inputs_too_long(tokens, EMBED_TOKENS)
        at = _past_string(data, quote + 1) if quote >= 0 else end


def _past_string(data: bytes, at: int) -> int:
    """Where a string has ended of which the first character is at `at`."""
    while (found := _STRING.match(data, at)) and found.end() > at:
        at = found.end()
    return at + 1
