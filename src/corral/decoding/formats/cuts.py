"""Where a rendered text may be cut: never inside a control token, a tag or a word."""

import re
from collections.abc import Collection

from corral.decoding.formats.form import CONTROL_SHAPE, Pattern

_TAG = r"<[^<>\s]*>?"
_WORD = r"[^\W_]+"


class Cutter:
    """Compares texts, and cuts them at the bounds of tokens. `controls` None: by their shape."""

    def __init__(self, controls: Collection[str] | None = None) -> None:
        if controls is None:
            self.control = CONTROL_SHAPE
        else:
            texts = sorted((text for text in controls if text), key=len, reverse=True)
            self.control = re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")
        self._unit = re.compile(f"{self.control.pattern}|{CONTROL_SHAPE.pattern}|{_TAG}|{_WORD}|[\\s\\S]")

    def units(self, text: str) -> list[str]:
        return self._unit.findall(text)

    def controls_in(self, *texts: str) -> frozenset[str]:
        return frozenset(match[0] for text in texts for match in self.control.finditer(text) if match[0])

    def common_prefix(self, one: str, other: str) -> str:
        """What both begin with, in whole units."""
        length = 0
        for a, b in zip(self.units(one), self.units(other), strict=False):
            if a != b:
                break
            length += len(a)
        return one[:length]

    def common_suffix(self, one: str, other: str) -> str:
        length = 0
        for a, b in zip(reversed(self.units(one)), reversed(self.units(other)), strict=False):
            if a != b:
                break
            length += len(a)
        return one[len(one) - length :]

    def holes(self, one: str, other: str) -> Pattern:
        """What two texts share, around the one stretch in which they differ."""
        if one == other:
            return (one,)
        prefix = self.common_prefix(one, other)
        suffix = self.common_suffix(one[len(prefix) :], other[len(prefix) :])
        return (prefix, suffix)


def before(text: str, suffix: str) -> str:
    """The text without a suffix that it ends with."""
    return text[: len(text) - len(suffix)] if suffix and text.endswith(suffix) else text
