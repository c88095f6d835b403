"""One section of calls: from behind the marker that begins it to behind the one that ends it.

Until the name of a call is complete nothing is certain, and `read` says so: what it consumed was text. From
then on the call stays, whatever follows; arguments leave as they come, always a prefix of valid JSON.
"""

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from enum import Enum

from corral.decoding.formats.form import JsonBody
from corral.decoding.json_scan import JsonScanner
from corral.decoding.markers import CallMarkers, Markers, NameMarkers, PairsMarkers
from corral.decoding.reader import SPACE, Atoms, Reader, Steps, atoms
from corral.decoding.tags import tagged_json
from corral.decoding.values import Parameters, argument_json, is_string, may_be_null
from corral.decoding.writer import CallSink

_NAME_KEYS = frozenset({"name", "tool_name", "function_name", "tool"})
_ARGUMENT_KEYS = frozenset({"arguments", "parameters", "args", "params", "input", "tool_input"})
_WITHIN = "function"
_OTHER_KEYS = frozenset({"type", "id", "tool_call_id", "call_id", "index"})
_MOST_NAME = 128
_MOST_KEY = 256
_NAME = re.compile(r"[\w.\-:/@$]+")
_PLAUSIBLE = re.compile(r"[\w.\-:/@$ ]+")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_COUNTER = re.compile(r":\d*$")
_OPEN_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")
_COMMA: Atoms = (",",)
_CDATA: Atoms = ("<![CDATA[",)
_CDATA_END: Atoms = ("]]>",)
_NEXT_OBJECT: tuple[Atoms, ...] = (("{",), (",", "{"), (";", "{"))
_STRAY: tuple[Atoms, ...] = (("}",), ("]",))


class Outcome(Enum):
    """What a stretch of text was: no call, whole calls, or calls the last of which broke off."""

    NONE = 0
    WHOLE = 1
    BROKEN = 2


Reading = Generator[None, None, Outcome]


class CallParser:
    """Reads calls for one sequence. `sink` is where they go, and may change between two sections."""

    __slots__ = ("_markers", "_parameters", "_reader", "_schemas", "cut_by_length", "known", "rest", "sink")

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
        self.sink = sink
        self.rest = ""
        """What the last section consumed behind its calls and was none: text."""
        self.known = schemas.keys()
        self.cut_by_length = False

    def read(self, call: CallMarkers, next_unit: int, *, needs_known: bool) -> Reading:
        """Read from behind a lead. NONE: what was consumed is text."""
        reader = self._reader
        self.rest = ""
        while next_unit < len(call.units):
            found = yield from reader.choose(call.units[next_unit:])
            if found is None:
                break
            reader.at += found[1]
            next_unit += found[0] + 1
        # A call whose last marker was left out is one if its name tells.
        needs_known = needs_known or next_unit < len(call.units)
        c = yield from reader.skip_space()
        if c == "[" and (call.json or call.form.is_list):
            return (yield from self._list(call, needs_known))
        if c == "{" and call.json:
            return (yield from self._objects(call, call.json, needs_known, is_listed=False))
        if call.named or call.pairs:
            return (yield from self._called(call, needs_known))
        return Outcome.NONE

    # Several calls in one section

    def _list(self, call: CallMarkers, needs_known: bool) -> Reading:
        reader = self._reader
        reader.at += 1
        c = yield from reader.skip_space()
        if c == "{" and call.json:
            return (yield from self._objects(call, call.json, needs_known, is_listed=True))
        if not c or not call.form.is_list or call.pairs is None:
            return Outcome.NONE
        outcome = Outcome.NONE
        while True:
            outcome = yield from self._next(self._one_called(call, needs_known), outcome)
            if outcome is not Outcome.WHOLE or self.rest:
                return outcome
            if not (yield from reader.accept(_COMMA)):
                break
        yield from reader.accept(("]",))
        yield from self._closers(call)
        return outcome

    def _objects(self, call: CallMarkers, body: JsonBody, needs_known: bool, *, is_listed: bool) -> Reading:
        reader = self._reader
        outcome = Outcome.NONE
        while True:
            outcome = yield from self._next(self._object(call, body, needs_known), outcome)
            if outcome is not Outcome.WHOLE or self.rest:
                return outcome
            if not is_listed and (yield from self._closers(call)):
                return outcome
            found = yield from reader.choose(_NEXT_OBJECT)
            if found is None:
                if is_listed and reader.is_cut(_NEXT_OBJECT):
                    reader.drop()
                break
            reader.at += found[1] - 1
        if is_listed:
            yield from reader.accept(("]",))
            yield from self._closers(call)
        return outcome

    def _next(self, reading: Reading, before: Outcome) -> Reading:
        """One more call; where it is none behind others, its text is the rest."""
        if before is Outcome.NONE:
            return (yield from reading)
        kept = self._reader.keep()
        try:
            outcome = yield from reading
        finally:
            text = self._reader.kept(kept)
        if outcome is Outcome.NONE:
            self.rest = text
            return Outcome.WHOLE
        return outcome

    def _called(self, call: CallMarkers, needs_known: bool) -> Reading:
        outcome = Outcome.NONE
        while True:
            outcome = yield from self._next(self._one_called(call, needs_known), outcome)
            if outcome is not Outcome.WHOLE or self.rest:
                return outcome
            if (yield from self._closers(call)) or call.begins_each or not call.form.section_begin:
                return outcome
            c = yield from self._reader.skip_space()
            if not (c.isalpha() or c == "_"):
                return outcome

    def _one_called(self, call: CallMarkers, needs_known: bool) -> Reading:
        if call.pairs is not None and call.named is None:
            return (yield from self._pairs(call, call.pairs, needs_known))
        if call.named is not None and call.pairs is None:
            return (yield from self._named(call, needs_known))
        assert call.pairs is not None
        assert call.named is not None
        # Two bodies that begin with a name: what follows the name decides.
        name = yield from self._name(call.pairs.names, needs_known)
        if name is None:
            return Outcome.NONE
        if (yield from self._reader.accept(call.pairs.names.full or ("(",))):
            return (yield from self._pairs_of(call, call.pairs, name))
        yield from self._reader.accept(call.named.full)
        return (yield from self.read_arguments(name, call.closers))

    def _closers(self, call: CallMarkers) -> Generator[None, None, bool]:
        """Consume what may stand behind a call: its end markers, also doubled, and a brace too many."""
        reader = self._reader
        options = call.closers if call.pairs else call.closers + _STRAY
        any_closed = False
        while options:
            found = yield from reader.choose(options)
            if found is None:
                break
            reader.at += found[1]
            any_closed = any_closed or found[0] < len(call.closers)
            if options[found[0]] in call.units[:1]:
                break  # the next one begins the next call
        if reader.is_cut(call.closers):
            reader.drop()
        return any_closed

    # A whole call in JSON

    def _object(self, call: CallMarkers, body: JsonBody, needs_known: bool) -> Reading:
        reader = self._reader
        reader.at += 1
        name: str | None = None
        is_open = has_arguments = False
        held: list[str] | None = None
        depth = 1
        while True:
            c = yield from reader.skip_space()
            if c == "}":
                reader.at += 1
                depth -= 1
                if depth:
                    continue
                break
            if c == ",":
                reader.at += 1
                continue
            # Once its arguments are whole a call is; a brace too few makes no difference.
            if c not in ("'", '"') or not c:
                return self._broke(is_open, has_arguments)
            key = yield from self._string()
            if key is None or not (yield from reader.accept((":",))):
                return self._broke(is_open, has_arguments)
            c = yield from reader.skip_space()
            role = self._role(body, key, c, needs_known and call.is_bare)
            if role == "name" and name is None:
                name = yield from self._string()
                if not name or (name not in self.known and (needs_known or not _PLAUSIBLE.fullmatch(name))):
                    return Outcome.NONE
                if not call.is_bare:
                    is_open = self._opened(name)
            elif role == "named":
                name, has_arguments = key, True
                is_open = self._opened(name)
                if not (yield from self._arguments(self.sink.arguments)):
                    return self._broke()
                self.sink.close_call(is_whole=True)
            elif role == "arguments" and not has_arguments:
                if name is not None and not is_open:
                    is_open = self._opened(name)
                sink: Callable[[str], None] = self.sink.arguments
                if name is None:
                    held = []
                    sink = held.append
                if not (yield from self._arguments(sink)):
                    return self._broke(is_open, False)
                has_arguments = True
                if is_open:
                    self.sink.close_call(is_whole=True)
            elif role == "within":
                reader.at += 1
                depth += 1
            elif role == "other":
                if not (yield from self._scan(JsonScanner("any"), _drop)):
                    return self._broke(is_open, has_arguments)
            else:
                return self._broke(is_open, has_arguments)
        if name is None:
            return Outcome.NONE
        if not is_open:
            self._opened(name)
        if not has_arguments or held is not None:
            self.sink.arguments("".join(held or ["{}"]))
            self.sink.close_call(is_whole=True)
        return Outcome.WHOLE

    def _role(self, body: JsonBody, key: str, c: str, is_strict: bool) -> str:
        if body.name_key is None and c == "{" and (key in self.known or not is_strict):
            return "named"
        if c == "{" and key in (_WITHIN, body.within):
            return "within"
        if key == body.name_key or (c in ("'", '"') and (key in _NAME_KEYS or key == _WITHIN)):
            return "name"
        if key == body.arguments_key or key in _ARGUMENT_KEYS:
            return "arguments"
        if is_strict and key not in _OTHER_KEYS and key != body.id_key:
            return ""
        return "other"

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
        is_first = True

        def decode(text: str) -> None:
            nonlocal carry, is_first
            if is_first and text:
                text, is_first = text[1:], False
            text = carry + text
            if outer.done:
                text = text[:-1]
            elif _OPEN_PAIR.search(text):
                carry = text
                return
            carry = ""
            # Half a pair by itself must not be taken for a control token.
            plain = json.loads(f'"{text}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if not inner.done:
                inner.feed(plain)
                emit(inner.take())

        scanned = yield from self._scan(outer, decode)
        return scanned and inner.done

    def _string(self) -> Generator[None, None, str | None]:
        """A JSON string, decoded; None where there is none."""
        parts: list[str] = []
        if not (yield from self._scan(JsonScanner("string", spelling=self._markers.spelling), parts.append)):
            return None
        text: str = json.loads("".join(parts))
        return text if len(text) <= _MOST_KEY else None

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

    # A name, then the arguments

    def _name(self, names: NameMarkers, needs_known: bool) -> Generator[None, None, str | None]:
        """The name, and its end marker seen to be next but not consumed; None where this is no name."""
        reader = self._reader
        yield from reader.skip_space()
        if names.is_quoted:
            text = yield from reader.until(names.full, _MOST_NAME)
            if text is None:
                return None
        else:
            text = ""
            while (yield from reader.more()):
                match = _NAME.match(reader.text, reader.at)
                if match is None:
                    break
                text += match[0]
                reader.at = match.end()
                if len(text) > _MOST_NAME:
                    return None
        name = text.strip()
        if name not in self.known:
            name = name.removeprefix(names.prefix)
            if names.stuck == ":":
                name = _COUNTER.sub("", name)
            elif names.stuck:
                name = name.removesuffix(names.stuck)
        if name not in self.known and (needs_known or not _PLAUSIBLE.fullmatch(name)):
            return None
        return name

    def _named(self, call: CallMarkers, needs_known: bool) -> Reading:
        names = call.named
        assert names is not None
        name = yield from self._name(names, needs_known)
        if name is None:
            return Outcome.NONE
        reader = self._reader
        options = [marker for marker in (names.full, names.short) if marker]
        found = (yield from reader.choose(options)) if options else None
        if found is not None:
            reader.at += found[1]
        elif (yield from reader.skip_space()) != "{":
            return Outcome.NONE
        return (yield from self.read_arguments(name, call.closers))

    def read_arguments(self, name: str, closers: tuple[Atoms, ...]) -> Reading:
        """The arguments of a call whose name is known, and nothing behind them."""
        reader = self._reader
        self._opened(name)
        c = yield from reader.skip_space()
        if c != "{":
            # A call without arguments: its end marker, or nothing more.
            found = (yield from reader.choose(closers)) if closers else None
            if found is None and (c or self.cut_by_length):
                return self._broke()
            self.sink.arguments("{}")
        elif not (yield from self._scan(self._scanner(), self.sink.arguments)):
            return self._broke()
        self.sink.close_call(is_whole=True)
        return Outcome.WHOLE

    # A name, then each argument by itself

    def _pairs(self, call: CallMarkers, pairs: PairsMarkers, needs_known: bool) -> Reading:
        reader = self._reader
        name = yield from self._name(pairs.names, needs_known)
        if name is None:
            return Outcome.NONE
        options = [marker for marker in (pairs.names.full, pairs.names.short) if marker]
        if options:
            found = yield from reader.choose(options)
            if found is None:
                return Outcome.NONE
            reader.at += found[1]
        elif name not in self.known:
            nexts = [marker for marker in (pairs.before_key, *call.closers) if marker]
            if (yield from reader.choose(nexts)) is None:
                return Outcome.NONE
        return (yield from self._pairs_of(call, pairs, name))

    def _pairs_of(self, call: CallMarkers, pairs: PairsMarkers, name: str) -> Reading:
        self._opened(name)
        parameters = self._parameters
        assert parameters is not None
        reader, emit = self._reader, self.sink.arguments
        count = 0
        stray = _plain_end(pairs)
        closers = call.closers or ((")",),)
        starts: list[Atoms] = []
        mark: str | None = None
        if pairs.before_key:
            starts.append(pairs.before_key)
            if pairs.separator:
                starts.append(pairs.separator + pairs.before_key)
        elif pairs.separator:
            starts.append(pairs.separator)
        options = [*closers, *starts, *([stray] if stray else [])]
        while True:
            c = yield from reader.skip_space()
            if not c:
                if self.cut_by_length:
                    return self._broke()
                break
            found = yield from reader.choose(options)
            if found is not None and found[0] < len(closers):
                reader.at += found[1]
                break
            if found is not None:
                if None in pairs.before_key:
                    mark = self._hole(pairs.before_key, found[1])
                reader.at += found[1]
                if found[0] >= len(closers) + len(starts):
                    continue
                if not pairs.before_key:
                    c = yield from reader.skip_space()
                    if (yield from reader.choose(closers)) is not None:
                        continue  # a comma too many
            elif pairs.before_key:
                return self._broke(cut_in=options)
            if not (yield from self._pair(call, pairs, count, mark)):
                return self._broke()
            count += 1
        emit("}" if count else "{}")
        self.sink.close_call(is_whole=True)
        return Outcome.WHOLE

    def _pair(
        self, call: CallMarkers, pairs: PairsMarkers, index: int, mark: str | None
    ) -> Generator[None, None, bool]:
        """One argument, from its key on; False where it breaks off. `mark` is the word for its type."""
        reader, parameters, emit = self._reader, self._parameters, self.sink.arguments
        assert parameters is not None
        c = yield from reader.skip_space()
        if not pairs.before_key and not _IDENTIFIER.match(c):
            # By position, as in `f("x")`.
            if index >= len(parameters.names):
                return False
            key = parameters.names[index]
        else:
            text = yield from reader.until(pairs.key_end, _MOST_KEY)
            if text is None:
                if reader.ended and "\n" not in reader.text[reader.at :].strip():
                    reader.drop()  # cut in the key
                return False
            key = self._markers.spell(text.strip()).strip("\"'")
            found = yield from reader.choose((pairs.key_end, pairs.key_end_short))
            if found is None:
                if reader.is_cut((pairs.key_end, pairs.key_end_short)):
                    reader.drop()
                return False
            if None in pairs.key_end:
                mark = self._hole(pairs.key_end, found[1]) if not found[0] else ""
            reader.at += found[1]
        types = parameters.types(key)
        if pairs.body.string_mark is not None and mark:
            types = frozenset({"string"}) if mark == pairs.body.string_mark else types - {"string"}
        emit(("{" if not index else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        if pairs.body.values != "raw":
            scanner = JsonScanner("any", quote=pairs.quote, spelling=self._markers.spelling)
            if not (yield from self._scan(scanner, emit)):
                return False
            if pairs.value_end[0].strip():
                yield from reader.accept(atoms(pairs.value_end[0]))
            return True
        return (yield from self._raw_value(call, pairs, key, types))

    def _hole(self, marker: Atoms, length: int) -> str:
        """What stands in the marker's hole, in the text that is next."""
        reader = self._reader
        text = reader.text[reader.at : reader.at + length]
        hole = marker.index(None)
        for atom in marker[:hole]:
            assert atom is not None
            text = text.lstrip(SPACE).removeprefix(atom)
        following = marker[hole + 1]
        assert following is not None
        return text.partition(following)[0].strip()

    def _ends_pair(self, call: CallMarkers, length: int) -> Generator[None, None, bool]:
        """Whether an end marker of this length ends a value where nothing begins a key: space or a closer."""
        reader = self._reader
        while reader.at + length >= len(reader.text) and not reader.ended:
            yield
        rest = reader.text[reader.at + length :]
        if not rest or rest[0] in SPACE:
            return True
        return any(closer[0] is not None and closer[0].startswith(rest[0]) for closer in call.closers)

    def _raw_value(
        self, call: CallMarkers, pairs: PairsMarkers, key: str, types: frozenset[str]
    ) -> Generator[None, None, bool]:
        """A value up to its end marker. A string leaves at once; the rest is short, and held."""
        emit = self.sink.arguments
        held: list[str] = []
        streams = is_string(types)
        has_begun = False

        def take(text: str) -> None:
            nonlocal has_begun
            if not text:
                return
            if has_begun:
                emit(json.dumps(self._markers.spell(text), ensure_ascii=False)[1:-1])
                return
            held.append(text)
            if streams and not may_be_null("".join(held), types):
                emit(json.dumps(self._markers.spell("".join(held)), ensure_ascii=False)[:-1])
                has_begun = True

        yield from self._lead(pairs.lead)
        is_cdata = pairs.body.is_cdata and (yield from self._reader.accept(_CDATA))
        if pairs.body.is_cdata and self._reader.is_cut((_CDATA,)):
            self._reader.drop()
        found = yield from self._until_value_end(call, pairs, key, take, _CDATA_END if is_cdata else ())
        if not found:
            return False
        if has_begun:
            emit('"')
            return True
        text = self._markers.spell("".join(held))
        assert self._parameters is not None
        if pairs.body.item is not None and (not types or types & {"object", "array"}):
            emit(tagged_json(text, pairs.body, self._parameters, self._parameters.schema(key)))
        else:
            emit(argument_json(text, types))
        return True

    def _lead(self, lead: str) -> Steps:
        """Consume the whitespace that stands before every value, as far as it is there."""
        reader = self._reader
        for c in lead:
            if not (yield from reader.more()) or reader.text[reader.at] != c:
                return
            reader.at += 1

    def _until_value_end(
        self,
        call: CallMarkers,
        pairs: PairsMarkers,
        key: str,
        take: Callable[[str], None],
        before: Atoms,
    ) -> Generator[None, None, bool]:
        """Pass on a value's text up to its end marker, which counts only where what may follow it follows."""
        reader = self._reader
        end: Atoms = atoms(key.join(pairs.value_end))
        after = end  # also where the end marker is doubled
        end = (*before, *end)
        followers = [marker for marker in (pairs.before_key, *call.closers, after) if marker]
        ends = [end + follower for follower in followers]
        if not pairs.before_key:
            ends = [end]
        if not end:
            ends = followers
        firsts = re.compile(f"[{''.join(sorted({re.escape(marker[0][0]) for marker in ends if marker[0]}))}]")
        trail = pairs.trail
        while True:
            if not (yield from reader.more()):
                return False
            match = firsts.search(reader.text, reader.at)
            stop = match.start() if match else len(reader.text)
            # Whitespace before the end marker is the marker's own.
            space = _held_trail(reader.text[reader.at : stop], trail)
            take(reader.text[reader.at : stop - space])
            reader.at = stop - space
            if match is None:
                if reader.ended:
                    return False
                yield
                continue
            found = yield from reader.choose(ends)
            length = reader.status(end) if end else 0
            if found is None and reader.is_cut(ends):
                # Behind the end marker, or inside it: then nobody knows, and nothing is invented.
                reader.at = reader.at + length if length > 0 else len(reader.text)
                return length > 0
            is_last = reader.ended and not reader.text[reader.at + max(length, 0) :].strip(SPACE)
            if found is None and is_last and length > 0:
                reader.at += length
                return True
            if found is not None and (pairs.before_key or (yield from self._ends_pair(call, found[1]))):
                reader.at += max(length, 0)
                return True
            take(reader.text[reader.at : reader.at + space + 1])
            reader.at += space + 1

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


def _drop(text: str) -> None:
    pass


def _plain_end(pairs: PairsMarkers) -> Atoms:
    return atoms(pairs.value_end[0]) if len(pairs.value_end) == 1 else ()


def _held_trail(text: str, trail: str) -> int:
    """How much of the text's end may be the whitespace before an end marker."""
    for length in range(min(len(text), len(trail)), 0, -1):
        if trail.startswith(text[-length:]):
            return length
    return 0
