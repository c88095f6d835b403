"""What reading calls has in common: names, strings, arguments, and what becomes of calls that break off."""

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from enum import Enum

from corral.decoding.json_scan import JsonScanner
from corral.decoding.markers import Markers, NameMarkers
from corral.decoding.reader import Atoms, Reader
from corral.decoding.values import Parameters
from corral.decoding.writer import CallSink

MOST_KEY = 256
_MOST_NAME = 128
_NAME = re.compile(r"[\w.\-:/@$]+")
_PLAUSIBLE = re.compile(r"[\w.\-:/@$ ]+")
_COUNTER = re.compile(r":\d*$")
_OPEN_PAIR = re.compile(r"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})$")
"""Half a character at the end of a text in JSON; a backslash that is escaped begins none."""


class Outcome(Enum):
    """What a stretch of text was: no call, whole calls, or calls the last of which broke off."""

    NONE = 0
    WHOLE = 1
    BROKEN = 2


Reading = Generator[None, None, Outcome]


class CallReader:
    """Reads the parts of calls for one sequence, and tells `sink` of them."""

    __slots__ = (
        "_closers_here",
        "_ends",
        "_is_fenced",
        "_markers",
        "_parameters",
        "_reader",
        "_schemas",
        "cut_by_length",
        "known",
        "rest",
        "rest_was_begun",
        "sink",
    )

    def __init__(
        self,
        markers: Markers,
        reader: Reader,
        sink: CallSink,
        schemas: Mapping[str, Callable[[], Parameters]],
    ) -> None:
        self._markers = markers
        self._reader = reader
        self._schemas = schemas
        self._parameters: Parameters | None = None
        self._ends: tuple[Atoms, ...] = ()
        self._closers_here: tuple[Atoms, ...] = ()
        """What ends the call that is being read, and what may stand behind it."""
        self._is_fenced = False
        self.sink = sink
        self.rest = ""
        """What the last section consumed behind its calls and was none: text."""
        self.rest_was_begun = False
        """It stood where one more call had begun."""
        self.known = schemas.keys()
        self.cut_by_length = False

    def _arguments(self, emit: Callable[[str], None]) -> Generator[None, None, bool]:
        """The arguments as an object, as an object inside a string, or null."""
        reader = self._reader
        c = yield from reader.skip_space()
        if c == "{":
            return (yield from self._scan(self._scanner(), emit))
        if c in ("'", '"') and c:
            return (yield from self._unwrapped(emit))
        if (yield from reader.accept(("null",))) or (yield from reader.accept(("None",))):
            emit("{}")
            return True
        return False

    def _unwrapped(self, emit: Callable[[str], None]) -> Generator[None, None, bool]:
        outer, inner = JsonScanner("string"), self._scanner()
        carry = ""
        is_first = is_blank = True

        def decode(text: str) -> None:
            nonlocal carry, is_first, is_blank
            if is_first and text:
                text, is_first = text[1:], False
            text = carry + text
            if outer.done:
                text = text[:-1]
            half = None if outer.done else _OPEN_PAIR.search(text)
            carry = "" if half is None else text[half.start(1) :]
            text = text.removesuffix(carry)
            # Half a pair by itself must not be taken for a control token.
            plain = json.loads(f'"{text}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            is_blank = is_blank and not plain.strip()
            if not inner.done:
                inner.feed(plain)
                emit(inner.take())

        scanned = yield from self._scan(outer, decode)
        if scanned and is_blank:
            emit("{}")  # an empty string is no arguments, as null is
            return True
        return scanned and inner.done

    def _string(self) -> Generator[None, None, str | None]:
        """A JSON string, decoded; None where there is none."""
        parts: list[str] = []
        if not (yield from self._scan(JsonScanner("string", spelling=self._markers.spelling), parts.append)):
            return None
        text: str = json.loads("".join(parts))
        return text if len(text) <= MOST_KEY else None

    def _scan(self, scanner: JsonScanner, emit: Callable[[str], None]) -> Generator[None, None, bool]:
        """One value through the scanner; False where it breaks off."""
        reader = self._reader
        while True:
            reader.at = scanner.feed(reader.text, reader.at)
            if reader.ended and reader.is_empty:
                scanner.finish()
            text = scanner.take()
            if text:
                emit(text)
            if scanner.done:
                return True
            if scanner.failed or reader.ended:
                self.rest = self._markers.spell(scanner.rejected)
                return False
            yield

    def _scanner(self) -> JsonScanner:
        return JsonScanner(spelling=self._markers.spelling)

    def _name(self, names: NameMarkers, needs_known: bool) -> Generator[None, None, str | None]:
        """The name, and its end marker seen to be next but not consumed; None where this is no name."""
        reader = self._reader
        c = yield from reader.skip_space()
        if names.is_quoted:
            text = yield from reader.until(names.full, _MOST_NAME)
            if text is None:
                return None
        else:
            text = ""
            quote = c if c in ("'", '"') else ""
            reader.at += len(quote)
            while (yield from reader.more()):
                # No further than the limit: what is too long ends at the same place in any pieces.
                match = _NAME.match(reader.text, reader.at, reader.at + _MOST_NAME + 1 - len(text))
                if match is None:
                    break
                text += match[0]
                reader.at = match.end()
                if len(text) > _MOST_NAME:
                    return None
            if quote and not (yield from reader.accept((quote,))):
                return None
        name = text.strip()
        if name not in self.known:
            name = name.removeprefix(names.prefix)
            if names.stuck == ":":
                name = _COUNTER.sub("", name)
            elif names.stuck:
                needs_known = needs_known or not name.endswith(names.stuck)
                name = name.removesuffix(names.stuck)
        return name if self._is_name(name, needs_known) else None

    def _is_name(self, name: str, needs_known: bool) -> bool:
        return name in self.known or (not needs_known and _PLAUSIBLE.fullmatch(name) is not None)

    def _opened(self, name: str) -> bool:
        schema = self._schemas.get(name)
        self._parameters = schema() if schema is not None else Parameters(None)
        self.sink.open_call(name)
        return True

    def _broke(
        self, is_open: bool = True, has_arguments: bool = False, cut_in: Sequence[Atoms] = ()
    ) -> Outcome:
        """What a call is that does not go on as it should. `cut_in` are the markers that could follow."""
        if not is_open:
            return Outcome.NONE
        if self._reader.is_cut(cut_in):
            self._reader.drop()
        if has_arguments:
            return Outcome.WHOLE
        self.sink.close_call(is_whole=False)
        return Outcome.BROKEN
