"""Calls whose arguments stand each by itself: key, value, key, value, in tags or in literals."""

import json
import re
from collections.abc import Callable, Generator, Sequence

from corral.decoding.call_reader import MOST_KEY, CallReader, Outcome, Reading
from corral.decoding.json_scan import JsonScanner
from corral.decoding.markers import CallMarkers, PairsMarkers, is_distinctive
from corral.decoding.reader import SPACE, Atoms, Steps, atoms
from corral.decoding.tags import tagged_json
from corral.decoding.values import Types, argument_json, is_string, may_be_null

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_CDATA: Atoms = ("<![CDATA[",)
_CDATA_END: Atoms = ("]]>",)


class PairsReader(CallReader):
    """Reads one such call, from its name to the end of its arguments."""

    __slots__ = ()

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
            is_certain = call.is_marked or not pairs.before_key
        else:
            is_certain = name in self.known
        if not is_certain:
            nexts = [marker for marker in (pairs.before_key, *_of(name, call.closers)) if marker]
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
        closers = _of(name, call.closers) or ((")",),)
        self._ends, self._closers_here = _of(name, call.end), closers
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
            text = yield from reader.until(pairs.key_end, MOST_KEY)
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
            scanner = JsonScanner(
                "any",
                quote=pairs.quote,
                is_python=pairs.body.values == "python",
                spelling=self._markers.spelling,
            )
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
        return any(closer[0] is not None and closer[0].startswith(rest[0]) for closer in self._closers_here)

    def _raw_value(
        self, call: CallMarkers, pairs: PairsMarkers, key: str, types: Types
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

    def _next_keys(self, pairs: PairsMarkers) -> list[Atoms]:
        """What the next argument begins with, where nothing else ends a value.

        Where that is no marker which nobody writes by chance, only a parameter's name behind it makes it one.
        """
        if pairs.before_key and any(map(is_distinctive, pairs.before_key)):
            return [pairs.before_key]
        assert self._parameters is not None
        names: tuple[str | None, ...] = tuple(self._parameters.names) or (None,)
        keys = [(*pairs.before_key, name, *pairs.key_end) for name in names]
        return [key for key in keys if key[0] is not None]

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
        followers = [marker for marker in (pairs.before_key, *self._closers_here, after) if marker]
        ends = [end + follower for follower in followers]
        if not pairs.before_key:
            ends = [end]
        is_line = False
        if not end:
            ends = [*self._next_keys(pairs), *self._closers_here]
            is_line = "\n" in pairs.trail
        # The end marker is left out at times: then the end of the whole call ends the value, too, where
        # another call follows it or nothing.
        over: Atoms = tuple(atom for marker in self._ends for atom in marker) if pairs.before_key else ()
        options = [*ends, over + call.units[0]] if over and call.units else ends
        firsts = re.compile(
            f"[{''.join(sorted({re.escape(marker[0][0]) for marker in options if marker[0]}))}]"
        )
        trail = pairs.trail
        while True:
            if not (yield from reader.more()):
                return False
            match = firsts.search(reader.text, reader.at)
            stop = match.start() if match else len(reader.text)
            # Whitespace before the end marker is the marker's own.
            held = _held_line if is_line else _held_trail
            space = held(reader.text[reader.at : stop], trail)
            is_begun_line = not is_line or "\n" in reader.text[stop - space : stop]
            take(reader.text[reader.at : stop - space])
            reader.at = stop - space
            if match is None:
                if reader.ended:
                    return False
                yield
                continue
            found = yield from reader.choose(options)
            if found is not None and found[0] == len(ends):
                return True
            if found is not None and not is_begun_line and not is_distinctive(options[found[0]][0]):
                found = None
            length = reader.status(end) if end else 0
            if found is None and reader.ended and over:
                end_of_call = reader.status(over)
                if end_of_call > 0 and not reader.text[reader.at + end_of_call :].strip(SPACE):
                    return True
            if found is None and reader.is_cut(options):
                # Behind the end marker, or inside it: then nobody knows, and nothing is invented.
                reader.at = reader.at + length if length > 0 else len(reader.text)
                return length > 0
            is_last = reader.ended and not reader.text[reader.at + max(length, 0) :].strip(SPACE)
            if found is None and is_last and length > 0:
                reader.at += length
                return True
            is_certain = pairs.before_key or not end
            if found is not None and (is_certain or (yield from self._ends_pair(call, found[1]))):
                reader.at += max(length, 0)
                return True
            take(reader.text[reader.at : reader.at + space + 1])
            reader.at += space + 1


def _of(name: str, markers: Sequence[Atoms]) -> tuple[Atoms, ...]:
    """The end markers of a call, with its name where it stands in them."""
    return tuple(tuple(name if atom is None else atom for atom in marker) for marker in markers)


def _held_line(text: str, trail: str) -> int:
    """How much of the text's end may be the end of a line and what stands before the next key."""
    space = text[len(text.rstrip(SPACE)) :]
    return len(space) - max(0, space.rfind(trail))


def _plain_end(pairs: PairsMarkers) -> Atoms:
    return atoms(pairs.value_end[0]) if len(pairs.value_end) == 1 else ()


def _held_trail(text: str, trail: str) -> int:
    """How much of the text's end may be the whitespace before an end marker."""
    for length in range(min(len(text), len(trail)), 0, -1):
        if trail.startswith(text[-length:]):
            return length
    return 0
