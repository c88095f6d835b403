"""Text from outside, made safe to print: a model file may hold escape sequences that drive a terminal."""

import re
import unicodedata
from typing import TextIO

# Candidates, found fast: what is ASCII and printable is what nearly every text is made of.
_SUSPECT = re.compile(r"[^ -~]")
_HARMLESS_LINE_ENDS = re.compile(r"\r(?=\n)")
_MAX_LINE_CHARACTERS = 1_000


def printable(text: str) -> str:
    """The text with everything but lines, tabs and visible characters as an escape such as `\\x1b`.

    What is invisible and moves text about is escaped too: a lone carriage return, and the marks that turn
    the direction of writing. So is half a surrogate pair, which no encoding can write.
    """
    return _SUSPECT.sub(_escape, _HARMLESS_LINE_ENDS.sub("", text))


def one_line(text: str) -> str:
    """As `printable`, with line ends and tabs escaped too, and cut where no reader would read on."""
    line = printable(text).replace("\n", r"\n").replace("\t", r"\t")
    return line if len(line) <= _MAX_LINE_CHARACTERS else f"{line[: _MAX_LINE_CHARACTERS - 1]}…"


def say(text: str, stream: TextIO) -> None:
    """Print the text to a stream of any encoding; what that cannot write is written as an escape."""
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\n\t" or not _is_hidden(character):
        return character
    return (
        character.encode("ascii", "backslashreplace").decode()
        if character > "\x7f"
        else repr(character)[1:-1]
    )


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")
