"""The form of calls, from turns in which every part of a call is a word that we know.

    section_begin begin [name and arguments] end joiner begin [name and arguments] end section_end

One call against two tells which literal belongs to the section and which to each call; a second render
with other ids, and the first call against the second, show where ids and counters stand.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from corral.decoding.formats.around import (
    WORD,
    around,
    before_pattern,
    cut_at_word,
    hole_text,
    id_hole,
    uncounted,
    with_holes,
)
from corral.decoding.formats.cuts import Cutter, before
from corral.decoding.formats.form import Body, CallForm, JsonBody, NamedBody, PairsBody, Pattern
from corral.decoding.formats.probe import (
    CONTENT,
    IDS,
    KEYS,
    NAMES,
    VALUES,
    Prober,
    call,
    first_arguments,
)

_BRACKET = re.compile(r"\[\s*$")
_CLOSING_BRACKET = re.compile(r"\s*\]")
_DECODER = json.JSONDecoder()
_SUBKEY, _ELEMENT = "quarnel", "Xylotham"
_NUMBER = 90210


@dataclass(frozen=True, slots=True)
class Turn:
    """One rendered turn: where the assistant's own text begins, and what ends it."""

    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Typed:
    """What stands around a key, with a hole where the word for the type of its value stands."""

    before_key: Pattern
    after_key: Pattern
    string_mark: str | None = None
    other_mark: str | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """Where one call stands: name and arguments, or the whole object."""

    begin: int
    end: int


class CallLearner:
    """Learns the calls of one template. `turn_end` is what ends the assistant's turns of plain text."""

    def __init__(self, prober: Prober, cutter: Cutter, answer: str, turn_end: str, prompt: str) -> None:
        self._prober = prober
        self._cutter = cutter
        self._answer = answer
        self._turn_end = turn_end
        self._prompt = prompt

    def learn(self, **kwargs: Any) -> CallForm | None:
        """The form, or None where it was not understood."""
        both = [call(index, first_arguments(index)) for index in (0, 1)]
        one = self._turn(both[:1], **kwargs)
        if one is None:
            return None
        two = self._turn(both, **kwargs) if self._prober.capabilities.parallel_calls else None
        return self._json(one, two) or self._named(one, two) or self._pairs(one, two, **kwargs)

    def _turn(self, calls: list[dict[str, Any]], **kwargs: Any) -> Turn | None:
        """The assistant's turn of these calls, from behind its header to before what ends it."""
        text = self._prober.calls(calls, **kwargs)
        values = [value for one in calls for value in one["function"]["arguments"].values()]
        words = [value for value in values if isinstance(value, str) and value]
        if text is None or any(word not in text for word in words):
            text = self._prober.calls(calls, results=True, **kwargs)
            if text is None or any(word not in text for word in words):
                return None
            last = max((text.find(word) for word in words), default=0)
            end = text.find(self._first_of_end, last) if self._first_of_end else len(text)
            end = end if end >= 0 else len(text)
        else:
            end = len(text) - len(self._cutter.common_suffix(text, self._turn_end))
        name = calls[0]["function"]["name"]
        at = text.find(name)
        if at < 0:
            return None
        begin = len(self._cutter.common_prefix(text[:at], self._answer))
        return Turn(text, begin, max(end, at + len(name)))

    def _until_end(self, tail: str) -> str:
        """What stands behind the calls, up to what ends the turn, where that is rendered in between."""
        first = self._first_of_end
        return tail.partition(first)[0] if len(first) > 1 else tail

    @property
    def _first_of_end(self) -> str:
        """The first marker of what ends a turn."""
        return next(iter(self._cutter.markers(self._turn_end)), "")

    # A whole call in JSON

    def _json(self, one: Turn, two: Turn | None) -> CallForm | None:
        found = _whole_object(one, 0, one.begin)
        if found is None:
            return None
        span, body = found
        spans = [span]
        turn = one
        if two is not None:
            first = _whole_object(two, 0, two.begin)
            second = first and _whole_object(two, 1, first[0].end)
            if first and second:
                turn, spans = two, [first[0], second[0]]
        return self._form(turn, spans, body, may_be_list=True)

    # A name, then the arguments as one object

    def _named(self, one: Turn, two: Turn | None) -> CallForm | None:
        parts = _named_parts(one, 0, one.begin)
        if parts is None:
            return None
        span, after_name = parts
        after: Pattern = (after_name,)
        spans = [span]
        turn = one
        if two is not None:
            first = _named_parts(two, 0, two.begin)
            second = first and _named_parts(two, 1, first[0].end)
            if first and second:
                turn, spans = two, [first[0], second[0]]
                after = self._cutter.holes(first[1], second[1])
        if len(after) == 1:
            after = id_hole(after[0], IDS[0])
        body = NamedBody(after, _separators(turn.text[spans[0].begin : spans[0].end]))
        return self._form(turn, spans, body, may_be_list=False)

    # A name, then each argument by itself

    def _pairs(self, one: Turn, two: Turn | None, **kwargs: Any) -> CallForm | None:
        name = _last_before(one.text, NAMES[0], KEYS[0], one.begin)
        if name is None:
            return None
        spots = [one.text.find(word, name) for word in (KEYS[0], VALUES[0][0], KEYS[1], VALUES[0][1])]
        if min(spots) < 0 or spots != sorted(spots):
            return None
        first_key, first_value, second_key, second_value = spots
        text = one.text
        to_key = text[name + len(NAMES[0]) : first_key]
        after_key = text[first_key + len(KEYS[0]) : first_value]
        value_end = first_value + len(VALUES[0][0])
        to_next = text[value_end:second_key]
        rest = text[second_value + len(VALUES[0][1]) : one.end]
        values, quote = "raw", ""
        quoted = self._quote(after_key, to_next)
        if quoted in ("'", '"') and self._quotes_numbers(quoted, **kwargs):
            quoted = ""  # an attribute's quotes: they stand around every value, and say nothing of it
        elif not quoted and not to_next.strip() and "\n" not in to_next:
            return None
        if quoted:
            after_key, to_next, rest = before(after_key, quoted), to_next[len(quoted) :], rest[len(quoted) :]
            values = "json" if quoted == '"' else "python"
            quote = quoted if quoted not in ("'", '"') else ""
        closes_with_key = KEYS[0] in to_next
        to_next = to_next.replace(KEYS[0], "\0")
        rest = rest.replace(KEYS[1], "\0", 1) if closes_with_key else rest
        after_value, separator, before_key = self._cutter.split(to_next, rest, to_key)
        after_name = before(to_key, before_key)
        typed = (
            self._types(before_key, after_key, **kwargs)
            if values == "raw"
            else _Typed((before_key,), (after_key,))
        )
        after_name_pattern = self._counted(after_name, two)
        body = PairsBody(
            after_name=after_name_pattern,
            before_key=typed.before_key,
            after_key=typed.after_key,
            after_value=tuple(after_value.split("\0")) if closes_with_key else (after_value,),
            separator=separator,
            values="raw" if values == "raw" else "json" if values == "json" else "python",
            quote=quote,
            string_mark=typed.string_mark,
            other_mark=typed.other_mark,
            item=self._item(before_key, **kwargs) if values == "raw" else None,
            is_cdata=values == "raw" and self._uses_cdata(**kwargs),
        )
        last = len(after_value) - after_value.count("\0") + (len(KEYS[1]) if closes_with_key else 0)
        last += len(quoted)
        return self._pairs_form(one, two, body, last)

    def _uses_cdata(self, **kwargs: Any) -> bool:
        text = f"<b>{VALUES[0][0]}</b>"
        turn = self._turn([call(0, {KEYS[0]: text})], **kwargs)
        return turn is not None and f"<![CDATA[{text}]]>" in turn.text

    def _pairs_form(self, one: Turn, two: Turn | None, body: PairsBody, behind_value: int) -> CallForm | None:
        spans: list[_Call] = []
        turn, count = (two, 2) if two is not None else (one, 1)
        at = turn.begin
        for index in range(count):
            name = _last_before(turn.text, NAMES[index], KEYS[0], at)
            if name is None:
                return None
            last = turn.text.find(VALUES[index][1], name)
            if last < 0:
                return None
            at = last + len(VALUES[index][1]) + behind_value
            spans.append(_Call(name, at))
        return self._form(turn, spans, body, may_be_list=True)

    def _quote(self, after_key: str, after_value: str) -> str:
        """What stands right before and right after a string's text: a quote, or a token used as one."""
        if after_key[-1:] in ("'", '"') and after_value[:1] == after_key[-1]:
            return after_key[-1]
        units, others = self._cutter.units(after_key), self._cutter.units(after_value)
        if units and others and units[-1] == others[0] and len(units[-1]) > 2 and not units[-1].isspace():
            return units[-1]
        return ""

    def _counted(self, after_name: str, two: Turn | None) -> Pattern:
        """What follows a name, with a hole where the second call has something else."""
        if two is None:
            return id_hole(after_name, IDS[0])
        first = _last_before(two.text, NAMES[0], KEYS[0], two.begin)
        second = first is not None and _last_before(two.text, NAMES[1], KEYS[0], first + 1)
        if first is None or second is False or second is None:
            return id_hole(after_name, IDS[0])
        begin = second + len(NAMES[1])
        other = two.text[begin : two.text.find(KEYS[0], begin)]
        mine = two.text[first + len(NAMES[0]) : two.text.find(KEYS[0], first)]
        shared = self._cutter.holes(mine, other)
        if len(shared) == 1:
            return id_hole(after_name, IDS[0])
        extra = len(mine) - len(after_name)
        return (shared[0], shared[1][: len(shared[1]) - extra])

    def _with_number(self, **kwargs: Any) -> tuple[str, str, str] | None:
        """What stands before the second key, behind it, and behind its value, where that is a number."""
        turn = self._turn([call(0, {KEYS[0]: VALUES[0][0], KEYS[1]: _NUMBER})], **kwargs)
        if turn is None:
            return None
        first = turn.text.find(VALUES[0][0], turn.begin)
        key = turn.text.find(KEYS[1], first)
        value = turn.text.find(str(_NUMBER), key)
        if min(first, key, value) < 0:
            return None
        lead = turn.text[first + len(VALUES[0][0]) : key]
        return lead, turn.text[key + len(KEYS[1]) : value], turn.text[value + len(str(_NUMBER)) :]

    def _quotes_numbers(self, quote: str, **kwargs: Any) -> bool:
        found = self._with_number(**kwargs)
        return found is not None and found[1].endswith(quote) and found[2].startswith(quote)

    def _types(self, before_key: str, after_key: str, **kwargs: Any) -> _Typed:
        """Where the word for a value's type stands around the key, and which words there are."""
        found = self._with_number(**kwargs)
        if found is None:
            return _Typed((before_key,), (after_key,))
        lead, other_key, _ = found
        pattern = self._cutter.holes(after_key, other_key)
        if len(pattern) == 2:
            return _Typed(
                (before_key,), pattern, hole_text(after_key, pattern), hole_text(other_key, pattern)
            )
        other_lead = self._cutter.common_suffix(lead, before_key)
        if before_key.strip() and other_lead != before_key:
            begin = self._cutter.units(before_key)[0]
            other = lead[lead.rindex(begin) :] if begin in lead else lead
            pattern = self._cutter.holes(before_key, other)
            if len(pattern) == 2 and pattern[0].strip():
                mark = hole_text(before_key, pattern)
                return _Typed(pattern, (after_key,), mark, hole_text(other, pattern))
        return _Typed((before_key,), (after_key,))

    def _item(self, before_key: str, **kwargs: Any) -> str | None:
        """The tag of a list's elements, where objects are written as tags."""
        if not before_key.strip():
            return None
        turn = self._turn([call(0, {KEYS[0]: {_SUBKEY: [_ELEMENT]}, KEYS[1]: VALUES[0][1]})], **kwargs)
        if turn is None:
            return None
        begin = turn.text.find(before_key.strip() + _SUBKEY, turn.begin)
        end = turn.text.find(_ELEMENT, begin)
        if begin < 0 or end < 0:
            return None
        at = turn.text.rfind(before_key.strip(), begin, end) + len(before_key.strip())
        tag = self._cutter.units(turn.text[at:end])
        return tag[0] if tag and tag[0] != _SUBKEY and tag[0].isalnum() else None

    # What stands around

    def _form(self, turn: Turn, spans: list[_Call], body: Body, *, may_be_list: bool) -> CallForm:
        text, cutter = turn.text, self._cutter
        lead = text[turn.begin : spans[0].begin]
        tail = self._until_end(text[spans[-1].end : turn.end])
        between = text[spans[0].end : spans[1].begin] if len(spans) > 1 else ""
        if NAMES[len(spans) - 1] in tail:
            # The name once more, behind the arguments.
            tail = tail.replace(NAMES[len(spans) - 1], WORD, 1)
            between = between.replace(NAMES[0], WORD, 1)
        elif between:
            lead, between, tail = uncounted(cutter, lead, between, tail)
        opened = _BRACKET.search(lead)
        if may_be_list and opened is not None:
            # What ends a call stands before the bracket that ends the list.
            gap = cutter.common_prefix(between, tail) if between else tail.partition("]")[0]
            rest = tail[len(gap.rstrip()) :]
            closed = _CLOSING_BRACKET.match(rest)
            if closed is not None:
                return CallForm(
                    (body,),
                    section_begin=lead[: opened.start()],
                    end=gap.rstrip(),
                    joiner=between[len(gap.rstrip()) :] if between else ", ",
                    section_end=rest[closed.end() :],
                    list_open=opened[0],
                    list_close=closed[0],
                )
        if not between:
            # One call at most: all of it belongs to the call.
            only_end, end_rest = cut_at_word(tail)
            return CallForm(
                (body,),
                begin=with_holes(lead),
                end=only_end,
                names_twice=NAMES[0] in lead,
                end_rest=end_rest,
            )
        # The header may end as every call begins: then more of that is in the text than in the lead.
        whole = text[: spans[0].begin]
        end, joiner, begin = around(cutter, between, tail, lead)
        other = around(cutter, between, tail, whole)
        if len("".join(other[2]).strip()) > len("".join(begin).strip()) and "".join(
            other[2]
        ).strip().endswith("".join(begin).strip()):
            end, joiner, begin = other
        size = sum(map(len, begin))
        section = before_pattern(lead, begin) if size <= len(lead) else ""
        names_twice = len(begin) > 1 and NAMES[1] in between
        section_end = tail[len(end) :]
        end, end_rest = cut_at_word(end)
        return CallForm(
            (body,), section, begin, end, joiner, section_end, names_twice=names_twice, end_rest=end_rest
        )


def _last_before(text: str, word: str, other: str, begin: int) -> int | None:
    """Where `word` stands last before the first `other`."""
    end = text.find(other, text.find(word, begin) + 1)
    at = text.rfind(word, begin, end) if end >= 0 else -1
    return at if at >= 0 else None


def _objects(text: str, begin: int, end: int) -> list[tuple[int, int, Any]]:
    """All objects in JSON that begin in a stretch of text, outermost first."""
    found: list[tuple[int, int, Any]] = []
    at = text.find("{", begin)
    while 0 <= at < end:
        try:
            value, stop = _DECODER.raw_decode(text, at)
        except ValueError:
            pass
        else:
            found.append((at, stop, value))
        at = text.find("{", at + 1)
    return found


def _whole_object(turn: Turn, index: int, begin: int) -> tuple[_Call, JsonBody] | None:
    value = turn.text.find(VALUES[index][0], begin)
    for at, end, found in _objects(turn.text, begin, value):
        body = _json_body(found, index, _separators(turn.text[at:end]))
        if body is not None and end > value:
            return _Call(at, end), body
    return None


def _json_body(found: Any, index: int, separators: tuple[str, str]) -> JsonBody | None:
    arguments = first_arguments(index)
    if not isinstance(found, dict):
        return None
    if found.get(NAMES[index]) == arguments:
        return JsonBody(name_key=None, arguments_key="", separators=separators)
    for within in (None, *found):
        inner = found if within is None else found[within]
        if not isinstance(inner, dict):
            continue
        name = next((key for key, value in inner.items() if value == NAMES[index]), None)
        held = next((key for key, value in inner.items() if _is_arguments(value, arguments)), None)
        if name is None or held is None:
            continue
        id_keys = [key for key, value in found.items() if value in (IDS[index], str(index), index)]
        id_key = id_keys[0] if id_keys else None
        return JsonBody(
            name_key=name,
            arguments_key=held,
            id_key=id_key,
            id_first=id_key is not None and next(iter(found)) == id_key,
            within=within,
            is_text=isinstance(inner[held], str),
            separators=separators,
        )
    return None


def _separators(text: str) -> tuple[str, str]:
    """What a template writes between two items, and between key and value; pretty print is not kept."""
    item = re.search(rf'{VALUES[0][0]}\\?"(,\s*)\\?"|{VALUES[1][0]}\\?"(,\s*)\\?"', text)
    key = re.search(rf'{KEYS[0]}\\?"(\s*:\s*)\\?"', text)
    item_separator = (item[1] or item[2]) if item else ", "
    return item_separator if "\n" not in item_separator else ", ", key[1] if key else ": "


def _is_arguments(value: Any, arguments: dict[str, Any]) -> bool:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return bool(value == arguments)


def _named_parts(turn: Turn, index: int, begin: int) -> tuple[_Call, str] | None:
    """Where name and arguments stand, and the text between them."""
    value = turn.text.find(VALUES[index][0], begin)
    for at, end, found in _objects(turn.text, begin, value):
        if found == first_arguments(index):
            name = turn.text.rfind(NAMES[index], begin, at)
            if name < 0:
                return None
            return _Call(name, end), turn.text[name + len(NAMES[index]) : at]
    return None


def answer_before(text: str) -> str:
    """A turn of plain text, up to its text."""
    return text[: text.index(CONTENT)]
