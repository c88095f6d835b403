"""One section of calls: from behind the marker that begins it to behind the one that ends it.

Until the name of a call is complete nothing is certain, and `read` says so: what it consumed was text. From
then on the call stays, whatever follows; arguments leave as they come, always a prefix of valid JSON.
"""

from collections.abc import Callable, Generator

from corral.decoding.call_reader import Outcome, Reading
from corral.decoding.formats.form import JsonBody
from corral.decoding.json_scan import JsonScanner
from corral.decoding.markers import CallMarkers
from corral.decoding.pairs_reader import PairsReader
from corral.decoding.reader import Atoms

__all__ = ["CallParser", "Outcome"]

_NAME_KEYS = frozenset({"name", "tool_name", "function_name", "tool"})
_ARGUMENT_KEYS = frozenset({"arguments", "parameters", "args", "params", "input", "tool_input"})
_WITHIN = "function"
_OTHER_KEYS = frozenset({"type", "id", "tool_call_id", "call_id", "index"})
_COMMA: Atoms = (",",)
_NEXT_OBJECT: tuple[Atoms, ...] = (("{",), (",", "{"), (";", "{"))
_FENCES: tuple[Atoms, ...] = (("```json",), ("```",))
_STRAY: tuple[Atoms, ...] = (("}",), ("]",))


class CallParser(PairsReader):
    """Reads calls for one sequence. `sink` is where they go, and may change between two sections."""

    __slots__ = ()

    def read(self, call: CallMarkers, next_unit: int, *, needs_known: bool) -> Reading:
        """Read from behind a lead. NONE: what was consumed is text."""
        reader = self._reader
        self.rest, self.rest_was_begun = "", False
        while call.units:
            # The first marker may come twice.
            rest = call.units[next_unit:]
            found = yield from reader.choose((*rest, call.units[0]))
            if found is None:
                break
            reader.at += found[1]
            if found[0] < len(rest):
                next_unit += found[0] + 1
        # A call whose last marker was left out is one if its name tells.
        needs_known = needs_known or next_unit < len(call.units)
        self._is_fenced = False
        if call.json and call.units and not call.owns_fence:
            found = yield from reader.choose(_FENCES)
            if found is not None:
                reader.at += found[1]
                self._is_fenced = True
        c = yield from reader.skip_space()
        if c == "[" and (call.json or call.form.is_list):
            return (yield from self._list(call, needs_known))
        if c == "{" and call.json:
            return (yield from self._objects(call, call.json, needs_known, is_listed=False))
        if call.named or call.pairs:
            return (yield from self._called(call, needs_known or call.named_needs_known))
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
            nexts = (*_NEXT_OBJECT, (*call.joiner, "{"))
            found = yield from reader.choose(nexts)
            if found is None:
                if is_listed and reader.is_cut(nexts):
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
            self.rest, self.rest_was_begun = text, True
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
            kept = self._reader.keep()
            is_joined = bool(call.joiner) and (yield from self._reader.accept(call.joiner))
            c = yield from self._reader.skip_space()
            text = self._reader.kept(kept)
            if not (c.isalpha() or c == "_"):
                self.rest = text if is_joined else ""
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
        if self._is_fenced:
            options = (*options, _FENCES[1])
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
                if name is None or not self._is_name(name, needs_known):
                    return Outcome.NONE
                if not call.is_bare or has_arguments:
                    is_open = self._opened(name)
                if held is not None:
                    self.sink.arguments("".join(held))
                    self.sink.close_call(is_whole=True)
                    held = None
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
        if not has_arguments:
            self.sink.arguments("{}")
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

    # A name, then the arguments

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


def _drop(text: str) -> None:
    pass
