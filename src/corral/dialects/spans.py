"""Where a JSON text is outside of its strings: there it shows how many values it has, before one is made."""

import re
from collections.abc import Iterator
from typing import Final

_STRING: Final = re.compile(rb'(?:[^"\\]{1,4096}+|\\.){0,256}+', re.DOTALL)
"""As much of a string as is read at a time: a megabyte at most takes a millisecond."""


def outside_strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each stretch between two strings begins and ends; behind all but the last one a string follows.

    Of a text that is no JSON it says something, too.
    """
    at = 0
    while at < len(data):
        quote = data.find(b'"', at)
        if quote < 0:
            yield at, len(data)
            return
        yield at, quote
        at = _past_string(data, quote + 1)


def has_more_commas(data: bytes, limit: int) -> bool:
    """Whether there are more than `limit` commas outside of strings. Every value but the first of its list or
    object stands behind one.

    A text of few commas takes a millisecond a megabyte; one of many is read until there are too many, while
    other threads have their turns.
    """
    if data.count(b",") <= limit:
        return False
    commas = 0
    for begin, end in outside_strings(data):
        commas += data.count(b",", begin, end)
        if commas > limit:
            return True
    return False


def _past_string(data: bytes, at: int) -> int:
    """Where a string has ended of which the first character is at `at`."""
    while (found := _STRING.match(data, at)) and found.end() > at:
        at = found.end()
    return at + 1
