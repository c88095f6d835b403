"""One string out of a growing JSON object, unescaped as it comes: `{"input": "a\\nb` gives `a`, newline, `b`.

Sans-IO and O(1) per character. What is fed is a prefix of valid JSON, an object whose values are strings,
numbers, words or nested; the scanner of calls has seen to that.
"""

import json
from typing import Final, Literal

_State = Literal["outside", "key", "escaped key", "after key", "value", "escape", "skip", "done"]
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}


class StringField:
    """Follows one field at the top of an object."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state: _State = "outside"
        self._depth = 0
        self._key: list[str] = []
        self._escape = ""
        self._in_skipped_string = False

    def feed(self, text: str) -> str:
        """What `text` adds to the field's value."""
        return "".join([self._step(character) for character in text])

    def _step(self, character: str) -> str:
        match self._state:
            case "value":
                if character == '"':
                    self._state = "done"
                elif character == "\\":
                    self._state, self._escape = "escape", ""
                else:
                    return character
            case "escape":
                return self._unescape(character)
            case "outside":
                self._outside(character)
            case "key":
                if character == '"':
                    self._state = "after key"
                else:
                    self._key.append(character)
                    if character == "\\":
                        self._state = "escaped key"
            case "escaped key":
                self._key.append(character)
                self._state = "key"
            case "after key":
                self._after_key(character)
            case "skip":
                self._skip(character)
        return ""

    def _outside(self, character: str) -> None:
        if character == "{" and not self._depth:
            self._depth = 1
        elif character == '"':
            self._state, self._key = "key", []

    def _after_key(self, character: str) -> None:
        if character.isspace() or character == ":":
            return
        is_wanted = json.loads(f'"{"".join(self._key)}"') == self._name
        if character == '"':
            self._state = "value" if is_wanted else "skip"
            self._in_skipped_string = not is_wanted
        else:
            self._state, self._in_skipped_string = "skip", False
            self._skip(character)

    def _skip(self, character: str) -> None:
        """Another field's value, up to the comma behind it."""
        if self._escape:
            self._escape = ""
        elif self._in_skipped_string:
            if character == "\\":
                self._escape = character
            elif character == '"':
                self._in_skipped_string = False
        elif character == '"':
            self._in_skipped_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        elif character == "," and self._depth == 1:
            self._state = "outside"

    def _unescape(self, character: str) -> str:
        self._escape += character
        if self._escape[0] != "u":
            self._state = "value"
            told, self._escape = _ESCAPES.get(self._escape, self._escape), ""
            return told
        first = self._escape[1:5]
        if len(first) < 4:
            return ""
        code = int(first, 16)
        if 0xD800 <= code < 0xDC00:  # the other half of the pair follows, as another escape
            if len(self._escape) < 11:
                return ""
            code = 0x10000 + ((code - 0xD800) << 10) + (int(self._escape[7:11], 16) - 0xDC00)
        self._state, self._escape = "value", ""
        return chr(code)
