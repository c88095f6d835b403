"""One answer as a stream of blocks: reasoning, text and calls, by the format of the model.

    pieces of text and control tokens -> Reader -> thought, content, calls -> BlockWriter -> events

Sans-IO, with `feed` and `finish`. What is held back is what may still become a marker, and the whitespace
before it. Nothing a model writes raises: what is no call, or no thought, is text, exactly as it was written.
The rules that are not obvious:

1. In an open thought a marker is thought. But a thought that is never closed and ends with whole calls at
   the end of the turn was followed by calls: so from a marker on it waits until that is decided.
2. A call in a code fence is an example, unless its marker is a control token or the format has fences.
3. A format without markers is one at the very start of an answer only, and only by the name of a tool.
4. Where a call breaks off before its name is complete it was text. Behind that the call stays.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cache
from typing import Literal

import msgspec

from corral.decoding.calls import CallParser, Outcome
from corral.decoding.markers import CallMarkers, HeaderMarkers, Lead, Markers, has_control
from corral.decoding.reader import Atoms, Reader, Steps
from corral.decoding.values import Parameters
from corral.decoding.writer import BlockEvent, BlockWriter, CallLog
from corral.request import Tool

__all__ = ["BlockEvent", "BlockParser", "Markers"]

Ending = Literal["stop", "length"]
_Act = Literal["call", "thought", "unthought", "open", "drop", "leave", "last", "closer"]
_MOST_BEGUN = 32
_MOST_CLOSER = 256
_MOST_HEADER = 200
_WORD = re.compile(r"\w+")


class BlockParser:
    """Parses one sequence. Not thread-safe, never blocks, never raises on what it is fed.

    Costs a few µs per token, whatever the format.
    """

    __slots__ = (
        "_calls",
        "_content_triggers",
        "_has_begun_closed",
        "_headers",
        "_is_off",
        "_markers",
        "_reader",
        "_skip",
        "_starts",
        "_steps",
        "_writer",
        "is_thinking",
        "malformed",
    )

    def __init__(
        self,
        markers: Markers,
        tools: Sequence[Tool] = (),
        *,
        prompt: str = "",
        new_id: Callable[[], str],
    ) -> None:
        """`prompt` is the text of the rendered prompt, or its end: it tells whether a thought is open.

        Without tools nothing is a call. `new_id` gives each call its id.
        """
        self._markers = markers
        self._reader = Reader()
        self._writer = BlockWriter(new_id)
        self._is_off = not tools
        schemas = {tool.name: cache(_reads(tool)) for tool in tools}
        self._calls = CallParser(markers, self._reader, self._writer, schemas)
        self._headers = markers.headers
        self._skip = 0
        self._has_begun_closed = False
        self.malformed = False
        """A marker was not followed by a call, or a call broke off."""
        self.is_thinking = False
        """In an open thought, be it that the prompt has opened it."""
        self._steps = self._begin(prompt)
        self._run()

    @property
    def controls(self) -> Mapping[str, str]:
        """The control tokens that the format names."""
        return self._markers.codes

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return self._writer.calls

    def feed(self, text: str, *, is_control: bool = False) -> list[BlockEvent]:
        """Take the next text, or one control token by its name; returns the events it causes, often none.

        A control token that the format does not name has no text.
        """
        if is_control:
            text = self._markers.codes.get(text, "")
        if not text:
            return []
        self._reader.feed(text)
        self._run()
        return self._writer.take()

    def finish(self, ending: Ending = "stop") -> list[BlockEvent]:
        """No more comes: decide what was held, and close the blocks. To be called once."""
        self._reader.finish()
        self._calls.cut_by_length = ending == "length"
        self._run()
        self._writer.finish()
        return self._writer.take()

    def _run(self) -> None:
        next(self._steps, None)

    # Where the prompt leaves the model

    def _begin(self, prompt: str) -> Steps:
        markers = self._markers
        prompt = markers.encode(prompt)
        end = "".join(prompt[-2048:].split())
        if self._headers is not None:
            yield from self._messages(self._headers, prompt)
            return
        opener, closer = "".join(markers.thought_opener), "".join(markers.thought_closer)
        if markers.form.thought is not None and opener and end.endswith(opener):
            yield from self._thought(is_prefilled=True)
        elif markers.form.thought is not None and closer and end.endswith(closer):
            self._has_begun_closed = True
        else:
            begun = self._begun(prompt)
            self._skip = len(begun)
            self._reader.feed(begun)
        yield from self._content()

    def _begun(self, prompt: str) -> str:
        """The end of the prompt that is the beginning of a marker, which the model will go on with."""
        markers = self._markers
        literals = ["".join(filter(None, lead.atoms)) for lead in markers.leads]
        literals.append("".join(markers.content_opener))
        for length in range(min(len(prompt), _MOST_BEGUN), 0, -1):
            end = prompt[-length:]
            if length == 1 and not has_control((end,)):
                break  # one letter says nothing
            if not end[0].isspace() and any(literal.startswith(end) for literal in literals):
                return end
        return ""

    # Thoughts

    def _thought(self, *, is_prefilled: bool = False) -> Steps:
        """From behind the opener to behind the closer, or to the end."""
        reader, markers = self._reader, self._markers
        self._writer.marker()
        if is_prefilled:
            self.is_thinking = True  # from the first token on, which is not seen yet
            # Some models open again what the prompt has opened.
            yield from reader.accept(markers.thought_opener)
        yield from self._reasoning((markers.thought_closer,))

    def _reasoning(self, closers: tuple[Atoms, ...]) -> Steps:
        self.is_thinking = True
        try:
            yield from self._thinking(closers)
        finally:
            self.is_thinking = False

    def _thinking(self, closers: tuple[Atoms, ...]) -> Steps:
        reader, writer = self._reader, self._writer
        ends = tuple(end for end in self._markers.ends if has_control(end))
        leads = () if self._is_off else self._markers.leads
        options = [*closers, *ends, *(lead.atoms for lead in leads)]
        firsts = _first_characters(options)
        unsearched = 0  # characters that are thought, whatever they look like
        while (yield from reader.more()):
            match = firsts.search(reader.text, reader.at)
            stop = match.start() if match else len(reader.text)
            unsearched = max(0, unsearched - (stop - reader.at))
            self._think(reader.text[reader.at : stop])
            reader.at = stop
            if match is None:
                continue
            found = yield from reader.choose(options)
            if found is None:
                self._pass_one(self._think)
                unsearched = max(0, unsearched - 1)
                continue
            index, length = found
            if index < len(closers) + len(ends):
                reader.at += length
                writer.marker()
                return
            if unsearched:
                self._pass_one(self._think)
                unsearched -= 1
                continue
            lead = leads[index - len(closers) - len(ends)]
            text = yield from self._calls_in_thought(lead, length, closers)
            if text is None:
                return
            reader.give_back(text)
            unsearched = len(text)

    def _calls_in_thought(
        self, lead: Lead, length: int, closers: tuple[Atoms, ...]
    ) -> Generator[None, None, str | None]:
        """Read on as if these were calls; None if they were, else what was consumed, which is thought."""
        reader, log = self._reader, CallLog()
        kept = reader.keep()
        was_malformed = self.malformed
        reader.at += length
        self._calls.sink = log
        steps = self._section(lead, log)
        closing = _any_of(closers)
        recent = ""
        is_call = False
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                is_call = stop.value
                break
            yield
            recent += reader.piece
            if closing.search(recent):
                steps.close()
                break
            recent = recent[-_MOST_CLOSER:]
        self._calls.sink = self._writer
        text = reader.kept(kept)
        if is_call and not self._calls.cut_by_length and not closing.search(text):
            log.replay(self._writer)
            return None
        self.malformed = was_malformed
        return text

    def _section(self, lead: Lead, log: CallLog) -> Generator[None, None, bool]:
        """Whether whole calls, and nothing else, reach from here to the end of the turn."""
        reader = self._reader
        leads = self._markers.leads
        ends = tuple(end for end in self._markers.ends if has_control(end))
        while True:
            outcome = yield from self._calls.read(lead.form, lead.next_unit, needs_known=lead.needs_known)
            if outcome is not Outcome.WHOLE or self._calls.rest or log.opened > log.whole:
                return False
            while True:
                if not (yield from reader.skip_space()):
                    return True
                options = [*ends, *(other.atoms for other in leads)]
                found = yield from reader.choose(options)
                if found is None:
                    return False
                reader.at += found[1]
                if found[0] >= len(ends):
                    lead = leads[found[0] - len(ends)]
                    break

    # Content

    def _content(self, body_ends: tuple[Atoms, ...] = ()) -> Steps:
        """Text and calls, to the end of the answer or behind one of `body_ends`."""
        reader, writer, markers = self._reader, self._writer, self._markers
        triggers = self._triggers(body_ends)
        options = [atoms for atoms, _, _ in triggers]
        firsts = _first_characters(options)
        bare = () if self._is_off or body_ends else markers.bare
        may_be_bare = bool(bare)
        while (yield from reader.more()):
            if may_be_bare and writer.is_blank:
                c = yield from self._blank_space()
                may_be_bare = False
                if c and (yield from self._bare_call(bare, c)):
                    continue
                if not c:
                    break
            match = firsts.search(reader.text, reader.at)
            stop = match.start() if match else len(reader.text)
            if stop > reader.at:
                self._text(reader.text[reader.at : stop])
                reader.at = stop
            if match is None:
                continue
            found = yield from reader.choose(options)
            if found is None:
                self._pass_one(self._text)
                continue
            index, length = found
            atoms, act, lead = triggers[index]
            if act == "call":
                assert lead is not None
                yield from self._call(lead, length)
                continue
            if act == "thought":
                if not (writer.is_blank or markers.thought_is_control):
                    self._pass_one(self._text)
                    continue
                reader.at += length
                self._skipped(length)
                yield from self._thought()
                may_be_bare = bool(bare)
                continue
            if act == "unthought" and not (writer.is_empty and not self._has_begun_closed):
                self._pass_one(self._text)
                continue
            if act == "open" and not writer.is_blank and not has_control(atoms):
                self._pass_one(self._text)
                continue
            if act == "last" or (act == "closer" and writer.calls):
                # No control token, or none that ends a turn: it does only where the turn ends.
                kept = reader.keep()
                reader.at += length
                is_over = not (yield from reader.skip_space())
                text = reader.kept(kept)
                if not is_over:
                    self._text(text)
                continue
            if act == "closer":
                self._pass_one(self._text)
                continue
            reader.at += length
            self._skipped(length)
            writer.marker()
            if act == "leave":
                return

    def _triggers(self, body_ends: tuple[Atoms, ...]) -> list[tuple[Atoms, _Act, Lead | None]]:
        markers = self._markers
        triggers: list[tuple[Atoms, _Act, Lead | None]] = [(end, "leave", None) for end in body_ends]
        if not self._is_off:
            triggers += [(lead.atoms, "call", lead) for lead in markers.leads]
        if not body_ends:
            triggers.append((markers.thought_opener, "thought", None))
            taken = (*markers.ends, markers.glue, markers.content_closer)
            if markers.form.thought is not None and markers.thought_closer not in taken:
                triggers.append((markers.thought_closer, "unthought", None))
        if markers.content_opener:
            triggers.append((markers.content_opener, "open", None))
        if markers.glue:
            triggers.append((markers.glue, "drop", None))
        for end in filter(None, (*markers.ends, markers.content_closer)):
            triggers.append((end, "drop" if has_control(end) else "last", None))
        if not self._is_off:
            closers = dict.fromkeys(closer for lead in markers.calls for closer in lead.closers)
            triggers += [(closer, "closer", None) for closer in closers if has_control(closer)]
        return triggers

    def _call(self, lead: Lead, length: int) -> Steps:
        reader, writer = self._reader, self._writer
        is_token = has_control(lead.atoms)
        is_quoted = not is_token and writer.behind_backtick
        if not is_token and not lead.form.owns_fence and writer.in_fence:
            self._text(reader.text[reader.at : reader.at + length])
            reader.at += length
            return
        # A marker that every prompt ends with says nothing of what the model goes on with.
        needs_known = lead.needs_known or self._skip >= length
        kept = reader.keep()
        reader.at += length
        outcome = yield from self._calls.read(lead.form, lead.next_unit, needs_known=needs_known)
        text = reader.kept(kept)
        if outcome is Outcome.NONE:
            self._text(text)
        else:
            self._skipped(len(text))
            self._text(self._calls.rest)
        is_fault = outcome is Outcome.NONE and lead.is_marker and not is_quoted and not needs_known
        is_fault = is_fault or (lead.is_marker and self._calls.rest_was_begun)
        self.malformed = self.malformed or is_fault or outcome is Outcome.BROKEN

    def _bare_call(self, bare: tuple[CallMarkers, ...], c: str) -> Generator[None, None, bool]:
        """Calls at the very start of the answer, of a format without markers; False: it was text."""
        reader = self._reader
        for call in bare:
            if not ((c == "{" and call.json) or (c == "[" and (call.json or call.form.is_list))):
                named = (call.named is not None or (call.pairs is not None and not call.form.is_list)) and (
                    yield from self._known_name()
                )
                if not named:
                    continue
            kept = reader.keep()
            outcome = yield from self._calls.read(call, 0, needs_known=True)
            text = reader.kept(kept)
            if outcome is not Outcome.NONE:
                self.malformed = self.malformed or outcome is Outcome.BROKEN
                self._text(self._calls.rest)
                return True
            reader.give_back(text)
        return False

    def _known_name(self) -> Generator[None, None, bool]:
        found = yield from self._reader.choose([(name,) for name in self._calls.known])
        return found is not None

    def _blank_space(self) -> Generator[None, None, str]:
        """Pass on whitespace at the start; returns what follows it."""
        reader = self._reader
        kept = reader.keep()
        c = yield from reader.skip_space()
        self._text(reader.kept(kept))
        return c

    # Answers of several messages

    def _messages(self, markers: HeaderMarkers, prompt: str) -> Steps:
        """Header, body, header, body: what a body is, its header says."""
        reader, writer = self._reader, self._writer
        start = self._markers.encode(markers.headers.start)
        header = prompt[prompt.rfind(start) + len(start) :] if start in prompt else ""
        body = self._markers.encode(markers.headers.body)
        has_begun = body in header
        if has_begun:
            yield from self._body(markers, header.partition(body)[0])
        while (yield from reader.more()):
            if has_begun:
                yield from reader.skip_space()
                yield from reader.accept(markers.start)
            has_header = yield from reader.until(markers.body, _MOST_HEADER)
            if has_header is not None:
                yield from reader.accept(markers.body)
                writer.marker()
                yield from self._body(markers, has_header)
            elif reader.ended and (has_begun or has_control(tuple(reader.text[reader.at :]))):
                return  # cut in a header, which says nothing
            else:
                yield from self._content(markers.ends)  # no header: the model just writes
            has_begun = True

    def _body(self, markers: HeaderMarkers, header: str) -> Steps:
        headers = markers.headers
        words = " ".join(self._markers.spell(header).split())
        name = self._recipient(headers.recipient, words)
        is_thought, is_certain = _is_thought(words, headers.thought, headers.content)
        is_answer = bool(words) and words == " ".join(headers.content.split())  # which may name who gets it
        is_call = name is not None and not self._is_off and not is_answer
        if is_thought and (is_certain or not is_call):
            yield from self._reasoning(markers.ends)
        elif name is not None and is_call and (yield from self._reader.skip_space()) == "{":
            outcome = yield from self._calls.read_arguments(name, markers.ends)
            self.malformed = self.malformed or outcome is Outcome.BROKEN
            if outcome is Outcome.BROKEN:
                yield from self._content(markers.ends)
            else:
                found = yield from self._reader.choose(markers.ends)
                if found is not None:
                    self._reader.at += found[1]
        else:
            # A call whose arguments are no object, unless a call of another form begins here.
            calls = self._writer.calls
            yield from self._content(markers.ends)
            is_fault = is_call and name in self._calls.known and self._writer.calls == calls
            self.malformed = self.malformed or is_fault

    def _recipient(self, prefix: str | None, header: str) -> str | None:
        if prefix is None:
            return None
        word = prefix.strip()
        base = word.partition("=")[0] + "=" if "=" in word else word
        for marker in (word, base):
            _, found, rest = header.partition(marker)
            if found:
                match = re.match(r"[\w.\-]+", rest)
                return match[0] if match else None
        return None

    # Text

    def _think(self, text: str) -> None:
        self._writer.reasoning(self._markers.show(text))

    def _text(self, text: str) -> None:
        """Write text, but for what of it the prompt had already written."""
        if self._skip and text:
            skip = min(self._skip, len(text))
            self._skip -= skip
            text = text[skip:]
        if text:
            self._writer.text(self._markers.show(text))

    def _skipped(self, length: int) -> None:
        self._skip = max(0, self._skip - length)

    def _pass_one(self, write: Callable[[str], None]) -> None:
        reader = self._reader
        text = reader.text[reader.at]
        reader.at += 1
        write(text)


def _reads(tool: Tool) -> Callable[[], Parameters]:
    def read() -> Parameters:
        try:
            return Parameters(msgspec.json.decode(tool.parameters))
        except (ValueError, RecursionError):
            return Parameters(None)

    return read


def _first_characters(options: Sequence[Atoms]) -> re.Pattern[str]:
    """Matches a character that may begin one of the markers, by itself and the one behind it."""
    seconds: dict[str, set[str]] = {}
    for option in options:
        first = option[0] if option else None
        if first:
            seconds.setdefault(first[0], set()).add(first[1:2])
    parts = []
    for first, behind in sorted(seconds.items()):
        any_of = "" if "" in behind else f"(?=[{''.join(map(re.escape, sorted(behind)))}]|\\Z)"
        parts.append(re.escape(first) + any_of)
    return re.compile("|".join(parts) if parts else r"(?!)")


def _is_thought(words: str, thought: str | None, content: str) -> tuple[bool, bool]:
    """Whether a header is that of a thought, and whether it is the very same.

    Else it is one if one of its words is a thought's and none of an answer's.
    """
    if thought is None:
        return False, False
    if words == " ".join(thought.split()):
        return True, True
    own = set(_WORD.findall(thought)) - set(_WORD.findall(content))
    return bool(own & set(_WORD.findall(words))), False


def _any_of(markers: Sequence[Atoms]) -> re.Pattern[str]:
    """Matches any of the markers, with any whitespace between their atoms."""
    return re.compile("|".join(r"\s*".join(re.escape(atom) for atom in marker if atom) for marker in markers))
