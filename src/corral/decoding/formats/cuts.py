"""Where a rendered text may be cut: never inside a control token, a tag or a word."""

import re
from collections.abc import Collection

from corral.decoding.formats.form import CONTROL_SHAPE, Pattern

_TAG = r"<[^<>\s]*>?"
_WORD = r"[^\W_]+"
_SYMBOL = "[\u2190-\u2bff\u3010\u3011\u00ab\u00bb]"
_SIGN = rf"{_SYMBOL}/?[^\W_]+(?:[ _-][^\W_]+)*{_SYMBOL}"  # a word between arrows, flowers or the like


class Cutter:
    """Compares texts, and cuts them at the bounds of tokens. `controls` None: by their shape."""

    def __init__(self, controls: Collection[str] | None = None) -> None:
        if controls is None:
            self.control = CONTROL_SHAPE
        else:
            texts = sorted((text for text in controls if text), key=len, reverse=True)
            self.control = re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")
        self._unit = re.compile(
            f"{self.control.pattern}|{CONTROL_SHAPE.pattern}|{_TAG}|{_SIGN}|{_WORD}|[\\s\\S]"
        )

    def units(self, text: str) -> list[str]:
        return self._unit.findall(text)

    def markers(self, text: str) -> list[str]:
        """The markers that a text begins with. A word behind one belongs to it, up to the next one."""
        units = [unit for unit in self.units(text) if not unit.isspace()]
        markers: list[str] = []
        while units and len(units[0]) > 2:
            marker = units.pop(0)
            while len(units) > 1 and units[0].isalnum() and len(units[1]) > 2:
                marker += units.pop(0) + units.pop(0)
            markers.append(marker)
        return markers

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

    def split(self, gap: str, behind: str, ahead: str) -> tuple[str, str, str]:
        """A gap as what ends the part before it, what is between, and what begins the part behind it.

        `behind` is what stands after the last part, `ahead` what stands before the first. What could go to
        either side goes to the end, unless the end begins with it too: then every tag does.
        """
        end, begin = self.common_prefix(gap, behind), self.common_suffix(ahead, gap)
        shared = len(end) + len(begin) - len(gap)
        if shared <= 0:
            return end, gap[len(end) : len(gap) - len(begin)], begin
        both = begin[:shared]
        if both.strip() and end.startswith(both.strip()) and len(both) < len(end):
            return end[: len(end) - shared], "", begin
        return end, "", begin[shared:]

    def holes(self, one: str, other: str) -> Pattern:
        """What two texts share, around the one stretch in which they differ."""
        if one == other:
            return (one,)
        prefix = self.common_prefix(one, other)
        suffix = self.common_suffix(one[len(prefix) :], other[len(prefix) :])
        return (prefix, suffix)


def is_mark(unit: str) -> bool:
    """Whether a unit is a marker by its shape: in angle or square brackets, or between symbols."""
    is_bracketed = len(unit) > 2 and unit[0] in "<[" and unit[-1] in ">]"
    return is_bracketed or re.fullmatch(_SIGN, unit) is not None


def before(text: str, suffix: str) -> str:
    """The text without a suffix that it ends with."""
    return text[: len(text) - len(suffix)] if suffix and text.endswith(suffix) else text
