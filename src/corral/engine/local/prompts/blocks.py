"""A long text in blocks that a tokenizer can take one by one.

Tokenizers match words with regular expressions that recurse, in C++, once per character: a word of 30,000
letters takes more stack than a thread has. Others merge a whole text at a time, in memory of a hundred
times its size, or look ahead from every digit to the last one. So no tokenizer is ever given more than
BLOCK_CHARS. A block ends where nearly every tokenizer ends a word anyway, and in the middle of one only if
there is no such place.
"""

import re
from collections.abc import Iterator

BLOCK_CHARS = 4096
DIGITS = 510  # three at a time, as many tokenizers take them

# Before a single blank, else before what ends a word.
_PLACES = (re.compile(r"(?<=\S)(?= \S)"), re.compile(r"(?<=\w)(?=[^\w '\u2019])"))


_DIGITS = re.compile(rf"\d{{{DIGITS}}}(?=\d)")


def blocks(text: str, size: int = BLOCK_CHARS) -> Iterator[str]:
    """The text in parts of at most `size` characters, cut in the second half of each where a word ends.

    No part has more than DIGITS digits in a row.
    """
    start = 0
    for run in _DIGITS.finditer(text):
        yield from _sized(text[start : run.end()], size)
        start = run.end()
    yield from _sized(text[start:], size)


def _sized(text: str, size: int) -> Iterator[str]:
    start = 0
    while len(text) - start > size:
        end = _end(text, start + size // 2, start + size)
        yield text[start:end]
        start = end
    yield text[start:]


def _end(text: str, low: int, high: int) -> int:
    for place in _PLACES:
        ends = [match.end() for match in place.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high
