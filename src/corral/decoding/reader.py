"""Text that comes in pieces, read by generators that wait where they have to see more.

Whoever reads runs as a generator and yields when the text so far does not decide. Nothing is consumed while
it waits; what has been consumed is let go with the next piece, unless it is being kept to be given back.
So the text held here is what is undecided, and that is bounded: a marker's length and some whitespace.
"""

import re
from collections.abc import Generator, Sequence

from corral.decoding.formats.form import Pattern

Steps = Generator[None, None, None]

Atoms = tuple[str | None, ...]
"""A marker, cut where whitespace may be or not; None is a hole, of any text up to the next atom."""

NO, PARTIAL = -1, -2
SPACE = " \t\r\n"

_MOST_SPACE = 256
_MOST_HOLE = 128
# One control token, one tag, or what stands between; a bracket before a tag is part of it.
_ATOM = re.compile(
    "[\ud800-\udfff]"
    r"|(?:[^\s\ud800-\udfff]*\[)?<[^<>\s\ud800-\udfff]*>?"
    r"|[^\s<\ud800-\udfff]+"
)


def atoms(literal: str) -> tuple[str, ...]:
    """The parts of a literal between which whitespace is free: words, tags and control tokens."""
    return tuple(_ATOM.findall(literal))


def pattern_atoms(pattern: Pattern) -> Atoms:
    found: list[str | None] = []
    for index, piece in enumerate(pattern):
        if index:
            found.append(None)
        found += atoms(piece)
    return tuple(found)


class Kept:
    """Consumed text that may have to be given back."""

    __slots__ = ("begin", "parts")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.parts: list[str] = []


class Reader:
    """Where one sequence's text is read. `text[at:]` has come and is not consumed yet."""

    __slots__ = ("_keeping", "at", "ended", "piece", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.piece = ""
        """What came last."""
        self.ended = False
        self._keeping: list[Kept] = []

    def feed(self, text: str) -> None:
        for kept in self._keeping:
            kept.parts.append(self.text[kept.begin : self.at])
            kept.begin = 0
        self.text = self.text[self.at :] + text if self.at < len(self.text) else text
        self.piece = text
        self.at = 0

    def finish(self) -> None:
        self.piece = ""
        self.ended = True

    def keep(self) -> Kept:
        """From here on keep what is consumed, until `kept` asks for it."""
        kept = Kept(self.at)
        self._keeping.append(kept)
        return kept

    def kept(self, kept: Kept) -> str:
        """What was consumed since `keep`; keeping ends."""
        self._keeping.remove(kept)
        return "".join(kept.parts) + self.text[kept.begin : self.at]

    def give_back(self, text: str) -> None:
        """Put consumed text in front again. Nothing may be kept any more."""
        self.text = text + self.text[self.at :]
        self.at = 0

    @property
    def is_empty(self) -> bool:
        return self.at >= len(self.text)

    def more(self) -> Generator[None, None, bool]:
        """Wait until there is something to read; False where nothing more comes."""
        while self.at >= len(self.text):
            if self.ended:
                return False
            yield
        return True

    def skip_space(self) -> Generator[None, None, str]:
        """Consume whitespace; returns the next character, empty at the end."""
        while True:
            text, end = self.text, len(self.text)
            while self.at < end and text[self.at] in SPACE:
                self.at += 1
            if self.at < end:
                return text[self.at]
            if self.ended:
                return ""
            yield

    def status(self, marker: Atoms) -> int:
        """How long the marker is that stands here, or NO, or PARTIAL while it may still become one."""
        status = self._status(marker)
        return NO if status == PARTIAL and self.ended else status

    def is_cut(self, markers: Sequence[Atoms]) -> bool:
        """Whether the text ended inside one of the markers: nobody knows what was to come."""
        return self.ended and any(self._status(marker) == PARTIAL for marker in markers)

    def drop(self) -> None:
        """Consume all there is."""
        self.at = len(self.text)

    def _status(self, marker: Atoms) -> int:
        text, at, end = self.text, self.at, len(self.text)
        for index, atom in enumerate(marker):
            if atom is None:
                following = marker[index + 1]
                assert following is not None
                found = text.find(following, at, at + _MOST_HOLE + len(following))
                hole = text[at:found] if found >= 0 else text[at:]
                if "\n" in hole or len(hole) > _MOST_HOLE:
                    return NO
                if found < 0:
                    return PARTIAL
                at = found
                continue
            begun = at
            while at < end and text[at] in SPACE:
                at += 1
            if at - begun > _MOST_SPACE:
                return NO
            if not text.startswith(atom, at):
                may_come = end - at < len(atom) and atom.startswith(text[at:])
                return PARTIAL if may_come else NO
            at += len(atom)
        return at - self.at

    def choose(self, markers: Sequence[Atoms]) -> Generator[None, None, tuple[int, int] | None]:
        """Which of the markers stands here and how long it is; the longest, if several do."""
        while True:
            best, length, undecided = -1, NO, False
            for index, marker in enumerate(markers):
                status = self.status(marker)
                if status == PARTIAL:
                    undecided = True
                elif status > length:
                    best, length = index, status
            if not undecided:
                return (best, length) if best >= 0 else None
            yield

    def accept(self, marker: Atoms) -> Generator[None, None, bool]:
        """Consume the marker if it stands here."""
        found = yield from self.choose((marker,))
        if found is not None:
            self.at += found[1]
        return found is not None

    def until(self, marker: Atoms, limit: int) -> Generator[None, None, str | None]:
        """Consume one line up to the marker's first atom; None, and nothing consumed, if that is far."""
        first = marker[0]
        assert first is not None
        while True:
            found = self.text.find(first, self.at, self.at + limit + len(first))
            text = self.text[self.at : found if found >= 0 else self.at + limit + len(first)]
            is_long = len(text) >= limit + len(first)
            if found < 0 and not self.ended:
                text = _without_beginning(text, first)
            if "\n" in text.strip() or (found < 0 and (self.ended or is_long)):
                return None
            if found >= 0:
                self.at = found
                return text
            yield


def _without_beginning(text: str, marker: str) -> str:
    """The text without an end that may be the beginning of the marker."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return text[:-length]
    return text
