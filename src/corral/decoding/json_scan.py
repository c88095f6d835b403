"""JSON as a model writes it, to JSON that a client can parse, character by character.

Every prefix that leaves is a prefix of valid JSON. What is certain is mended: raw newlines in strings,
escapes that JSON does not know, half surrogate pairs, quotes of another kind, keys without quotes, Python's
True, False, None and tuples, a comma too many. Where what was meant is not certain, the scanner fails and
stops there.

To keep the promise, three things wait: a comma until what it announces has begun, a bare word until it is
whole, and half a surrogate pair for the other half. Nothing else does. The stack is explicit, so depth costs
nothing, and is bounded: past 128 levels many parsers give up.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

_MAX_DEPTH = 128
_LONGEST_KEY = 256
_LONGEST_WORD = 5
_SPACE = " \t\r\n"
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSERS = {"{": "}", "[": "]", "(": ")"}
_ESCAPES = frozenset('"\\/bfnrt')
_PLAIN = re.compile("[^\"'\\\\\x00-\x1f\ud800-\udfff]+")
_SPACES = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"[\w$.\-]+")
_OPEN_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\u([0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2})$")
_BARE = re.compile(r"[^\s,\]}]+")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_HEX_DIGITS = {"u": 4, "x": 2, "U": 8}
_LAST_CODE_POINT, _LAST_UNIT = 0x10FFFF, 0xFFFF
_FIRST_HALF, _SECOND_HALF, _LAST_HALF = 0xD800, 0xDC00, 0xDFFF  # of a surrogate pair
_NO_CHARACTER = "\\ufffd"
_HEX = frozenset("0123456789abcdefABCDEF")

# A number's states, by the last character; where a number may not end, an underscore.
_NUMBER: dict[str, dict[str, str]] = {
    "_-": {"0": "0", "1": "1"},
    "0": {".": "_.", "e": "_e"},
    "1": {"0": "1", "1": "1", ".": "_.", "e": "_e"},
    "_.": {"0": "f", "1": "f"},
    "f": {"0": "f", "1": "f", "e": "_e"},
    "_e": {"0": "x", "1": "x", "-": "_s"},
    "_s": {"0": "x", "1": "x"},
    "x": {"0": "x", "1": "x"},
}
_DIGIT_CLASS = {
    **dict.fromkeys("123456789", "1"),
    "0": "0",
    "-": "-",
    "+": "-",
    ".": ".",
    "e": "e",
    "E": "e",
}

Wanted = Literal["object", "string", "any"]
_State = Literal["value", "first", "key", "colon", "after", "string", "escape", "hex", "number", "word"]


class JsonScanner:
    """Scans one value. `feed` consumes up to its end; `take` gives the JSON text since the last `take`."""

    __slots__ = (
        "_close",
        "_comma",
        "_escape_kind",
        "_half",
        "_held",
        "_is_key",
        "_is_python",
        "_number",
        "_out",
        "_quote",
        "_spelling",
        "_stack",
        "_state",
        "_wanted",
        "_was_ended",
        "done",
        "failed",
    )

    def __init__(
        self,
        wanted: Wanted = "object",
        *,
        quote: str = "",
        is_python: bool = False,
        spelling: Mapping[str, str] | None = None,
    ) -> None:
        """`quote` is one more character that strings may stand in, without escapes inside. Where it
        `is_python`, strings in double quotes have the escapes of Python too; those in single ones always do.

        `spelling` gives the texts of characters that stand for control tokens; each is a surrogate.
        """
        self._wanted = wanted
        self._quote = quote
        self._is_python = is_python
        self._spelling = spelling or {}
        self._state: _State = "value"
        self._stack: list[str] = []
        self._out: list[str] = []
        self._comma = ""
        self._close = ""
        self._is_key = False
        self._held = ""
        self._escape_kind = ""
        self._half = ""
        """The first half of a surrogate pair, as an escape that waits for the other one."""
        self._number = ""
        self._was_ended = False
        self.done = False
        self.failed = False

    @property
    def in_string(self) -> bool:
        return self._state in ("string", "escape", "hex")

    @property
    def rejected(self) -> str:
        """What was consumed and was neither JSON nor mended: the word that the scanner failed at.

        A key or a word that was cut is not: nobody knows what it was to be.
        """
        if not self.failed or self._state != "word":
            return ""
        is_cut = self._was_ended and (self._is_key or any(word.startswith(self._held) for word in _WORDS))
        return "" if is_cut else self._held

    def take(self) -> str:
        out, self._out = "".join(self._out), []
        return out

    def feed(self, text: str, at: int = 0) -> int:
        """Consume `text` from `at`; returns where it stopped: at the end, behind the value, or at a fault.

        A number or word at the top has no end of its own: it ends before the first character after it.
        """
        end = len(text)
        while at < end and not (self.done or self.failed):
            state = self._state
            if state == "string":
                at = self._string(text, at)
            elif state == "escape":
                self._escape(text[at])
                at += 1
            elif state == "hex":
                at = self._hex(text, at)
            elif state == "number":
                at = self._number_part(text, at)
            elif state == "word":
                at = self._word(text, at)
            elif text[at] in _SPACE:
                match = _SPACES.match(text, at)
                assert match is not None
                self._space(match[0])
                at = match.end()
            else:
                at += self._token(text[at], state)
        return at

    def finish(self) -> None:
        """No more comes: ends a number or word that stands at the top."""
        self._was_ended = not self.done and not self.failed
        if self._state == "number":
            self._end_number()
        elif self._state == "word":
            if self._is_key:
                self.failed = True  # a key without a value
            else:
                self._end_word()

    def _space(self, text: str) -> None:
        if self._comma:
            self._comma += text
        elif self._stack:
            self._out.append(text)

    def _token(self, c: str, state: _State) -> int:
        """Take the first character of a token; returns how many were consumed, 0 or 1."""
        if state == "after":
            if c == ",":
                self._comma = ","
                self._state = "key" if self._stack[-1] == "{" else "value"
            elif c == _CLOSERS[self._stack[-1]]:
                self._pop()
            else:
                self.failed = True
                return 0
            return 1
        if state == "colon":
            if c != ":":
                self.failed = True
                return 0
            self._out.append(":")
            self._state = "value"
            return 1
        if self._stack and c == _CLOSERS[self._stack[-1]]:
            # At the front, or behind a comma too many; after a colon it is a fault.
            if state == "first" or self._comma:
                self._pop()
                return 1
            self.failed = True
            return 0
        if state == "key" or (state == "first" and self._stack[-1] == "{"):
            return self._begin_key(c)
        return self._begin_value(c)

    def _begin_key(self, c: str) -> int:
        if c in "\"'" or (c == self._quote and c):
            self._begin_string(c, is_key=True)
            return 1
        if c.isalnum() or c in "_$":
            self._put_comma()
            self._is_key, self._held, self._state = True, "", "word"
            return 0
        self.failed = True
        return 0

    def _begin_value(self, c: str) -> int:
        if not self._stack and (
            (self._wanted == "object" and c != "{")
            or (self._wanted == "string" and c not in "\"'" and c != self._quote)
        ):
            self.failed = True
            return 0
        if c in "\"'" or (c == self._quote and c):
            self._begin_string(c, is_key=False)
            return 1
        if c in _CLOSERS:
            if len(self._stack) >= _MAX_DEPTH:
                self.failed = True
                return 0
            self._put_comma()
            self._out.append("{" if c == "{" else "[")
            self._stack.append(c)
            self._state = "first"
            return 1
        if c in "-+." or ("0" <= c <= "9"):
            self._put_comma()
            self._state = "number"
            if c == "+":
                self._number = "_-"
                return 1
            if c == ".":
                self._out.append("0.")
                self._number = "_."
                return 1
            self._out.append(c)
            self._number = "_-" if c == "-" else _DIGIT_CLASS[c]
            return 1
        if c.isalpha():
            # A comma waits on: the word may turn out to mean nothing.
            self._is_key, self._held, self._state = False, "", "word"
            return 0
        self.failed = True
        return 0

    def _begin_string(self, quote: str, *, is_key: bool) -> None:
        self._put_comma()
        self._out.append('"')
        self._close, self._is_key, self._state = quote, is_key, "string"

    def _put_comma(self) -> None:
        if self._comma:
            self._out.append(self._comma)
            self._comma = ""

    def _pop(self) -> None:
        self._comma = ""
        self._out.append("}" if self._stack.pop() == "{" else "]")
        self._ended()

    def _ended(self) -> None:
        if self._is_key:
            self._is_key = False
            self._state = "colon"
        elif self._stack:
            self._state = "after"
        else:
            self.done = True

    def _string(self, text: str, at: int) -> int:
        if self._half and text[at] != "\\":
            self._drop_half()
        match = _PLAIN.match(text, at)
        if match is not None:
            self._out.append(match[0])
            return match.end()
        c = text[at]
        if c == self._close:
            self._out.append('"')
            self._state = "after"
            self._ended()
        elif c == "\\" and self._close in "\"'":
            self._state = "escape"
        elif c == "'":
            self._out.append(c)
        elif c in '"\\' or c < " ":
            self._out.append(json.dumps(c)[1:-1])
        else:
            self._out.append(json.dumps(self._spelling.get(c, "\ufffd"), ensure_ascii=False)[1:-1])
        return at + 1

    def _drop_half(self) -> None:
        """Half a pair is no character, and many parsers refuse it."""
        self._out.append(_NO_CHARACTER)
        self._half = ""

    def _unit(self, code: int) -> None:
        """An escape of 16 bits: a character, or half of one."""
        escape = f"\\u{code:04x}"
        if _SECOND_HALF <= code <= _LAST_HALF and self._half:
            self._out.append(self._half + escape)
            self._half = ""
            return
        if self._half:
            self._drop_half()
        if _FIRST_HALF <= code < _SECOND_HALF:
            self._half = escape
        else:
            self._out.append(_NO_CHARACTER if _SECOND_HALF <= code <= _LAST_HALF else escape)

    def _escape(self, c: str) -> None:
        self._state = "string"
        if self._half and c != "u":
            self._drop_half()
        if c in _ESCAPES:
            self._out.append("\\" + c)
        elif c == "u" or (c in "xU" and (self._is_python or self._close == "'")):
            self._state, self._escape_kind, self._held = "hex", c, ""
        elif c == "'":
            self._out.append(c)
        elif c == "\n" and self._close == "'":
            pass  # Python's line continuation
        else:
            self._out.append("\\\\" + (json.dumps(c, ensure_ascii=False)[1:-1] if c < " " else c))
            if "\ud800" <= c <= "\udfff":
                self._out[-1] = "\\\\" + json.dumps(self._spelling.get(c, "\ufffd"), ensure_ascii=False)[1:-1]

    def _hex(self, text: str, at: int) -> int:
        """Collect the digits of an escape, which leaves whole, or as the text it is where it is none."""
        wanted = _HEX_DIGITS[self._escape_kind]
        while at < len(text) and len(self._held) < wanted and text[at] in _HEX:
            self._held += text[at]
            at += 1
        is_whole = len(self._held) == wanted
        if not is_whole and at == len(text):
            return at
        self._state = "string"
        code = int(self._held, 16) if is_whole else _LAST_CODE_POINT + 1
        if code <= _LAST_UNIT:
            self._unit(code)
            return at
        if self._half:
            self._drop_half()
        if code <= _LAST_CODE_POINT:
            self._out.append(json.dumps(chr(code))[1:-1])
        else:
            self._out.append("\\\\" + self._escape_kind + self._held)
        return at

    def _number_part(self, text: str, at: int) -> int:
        while at < len(text):
            c = text[at]
            kind = _DIGIT_CLASS.get(c)
            if kind is None:
                self._end_number()
                return at
            if self._number == "_-" and c == ".":
                self._out.append("0")
                self._number = "0"
            following = _NUMBER[self._number].get(kind)
            if following is None:
                self.failed = True
                return at
            self._out.append(c)
            self._number = following
            at += 1
        return at

    def _end_number(self) -> None:
        if self._number == "_.":
            self._out.append("0")
        elif self._number.startswith("_"):
            self.failed = True
            return
        self._ended()

    def _word(self, text: str, at: int) -> int:
        most = _LONGEST_KEY if self._is_key else _LONGEST_WORD
        match = _WORD.match(text, at, at + most + 1 - len(self._held))
        if match is not None:
            self._held += match[0]
            at = match.end()
        if len(self._held) > most:
            self.failed = True
        elif at < len(text):
            self._end_word()
        return at

    def _end_word(self) -> None:
        if self._is_key:
            self._out.append(json.dumps(self._held, ensure_ascii=False))
            self._ended()
            return
        word = _WORDS.get(self._held)
        if word is None:
            self.failed = True
            return
        self._put_comma()
        self._out.append(word)
        self._ended()


def complete_json(prefix: str) -> Any:
    """The value of `completed`. Raises ValueError where a number has thousands of digits."""
    return json.loads(completed(prefix))


def completed(prefix: str) -> str:
    """The JSON that a prefix of it means so far: strings end where it ends, what lacks its value goes."""
    closers: list[str] = []
    whole = 0  # up to here the prefix only lacks closers
    whole_closers: list[str] = []
    expects_key = False
    at = 0
    while at < len(prefix):
        c = prefix[at]
        if c in "{[":
            closers.append("}" if c == "{" else "]")
            expects_key = c == "{"
            at += 1
            whole, whole_closers = at, closers[:]
        elif c in "}]":
            closers.pop()
            expects_key = False
            at += 1
            whole, whole_closers = at, closers[:]
        elif c == '"':
            end = at + 1
            while end < len(prefix) and prefix[end] != '"':
                end += 2 if prefix[end] == "\\" else 1
            if end >= len(prefix):
                if not expects_key:
                    text = _without_open_escape(prefix[at:])
                    return prefix[:at] + text + '"' + "".join(reversed(closers))
                break
            at = end + 1
            if not expects_key:
                whole, whole_closers = at, closers[:]
        elif c == ":":
            expects_key = False
            at += 1
        elif c == ",":
            expects_key = closers[-1:] == ["}"]
            at += 1
        elif c in _SPACE:
            at += 1
        else:
            match = _BARE.match(prefix, at)
            assert match is not None
            number = _WHOLE_NUMBER.match(match[0])
            if match[0] in _WORDS or (number is not None and match.end() < len(prefix)):
                at = match.end()
            elif number is not None:
                return prefix[:at] + number[0] + "".join(reversed(closers))
            else:
                break
            whole, whole_closers = at, closers[:]
    if not whole:
        return "{}"
    return prefix[:whole] + "".join(reversed(whole_closers))


def _without_open_escape(text: str) -> str:
    """The text of a string without an escape that its end cut, or half a surrogate pair."""
    slashes = len(text) - len(text.rstrip("\\"))
    if slashes % 2:
        text = text[:-1]
    return _OPEN_ESCAPE.sub(r"\1", text)
