"""The literals around calls: what begins and ends one, what stands between two, and the holes in them."""

import re

from corral.decoding.formats.cuts import Cutter, before
from corral.decoding.formats.form import Pattern
from corral.decoding.formats.probe import IDS, NAMES

WORD = "\0"  # stands for the name or the number of a call in a literal around it

_TAG_NUMBER = re.compile(r"(?<=[^\W\d])\d+(?=>)")  # at the end of a tag's name


def cut_at_word(end: str) -> tuple[str, str | None]:
    """What ends a call, and what of it stands behind its name or number, if that is in it."""
    head, found, rest = end.partition(WORD)
    return head, rest if found else None


def uncounted(cutter: Cutter, lead: str, between: str, tail: str) -> tuple[str, str, str]:
    """The literals around two calls without the number that tags have in their names, as in `<call_1>`."""
    for unit in cutter.units(lead):
        number = _TAG_NUMBER.search(unit)
        if number is None:
            continue
        first, second = number[0], str(int(number[0]) + 1)
        end = f"</{unit[1:]}"
        next_unit, next_end = (text.replace(first, second) for text in (unit, end))
        if next_unit in between and (end in between) == (next_end in tail):
            return (
                lead.replace(unit, unit.replace(first, WORD)),
                between.replace(end, end.replace(first, WORD)).replace(next_unit, unit.replace(first, WORD)),
                tail.replace(next_end, end.replace(first, WORD)),
            )
    return lead, between, tail


def around(cutter: Cutter, between: str, tail: str, lead: str) -> tuple[str, str, Pattern]:
    """What ends a call, what joins two, and what begins one, holes included."""
    first, second = with_holes(lead), with_holes(between, 1)
    if len(first) > 1 and len(first) == len(second) and first[-1] == second[-1]:
        end, joiner, begin = cutter.split(second[0], tail, first[0])
        if begin.strip():
            return end, joiner, (begin, second[-1])
    shared = cutter.common_suffix(lead, between)
    holes = _counter_hole(cutter, before(lead, shared), before(between, shared))
    if holes:
        gap = before(between, shared)
        gap = gap[: gap.rindex(holes)]
        end = cutter.common_prefix(gap, tail)
        return end, gap[len(end) :], (holes, shared)
    end, joiner, begin = cutter.split(between, tail, lead)
    return end, joiner, tuple(begin.split(WORD))


def _counter_hole(cutter: Cutter, lead: str, between: str) -> str:
    """The literal before a number that counts the calls, if the two texts end with one."""
    first, second = cutter.units(lead), cutter.units(between)
    if first and second and first[-1].isdigit() and second[-1].isdigit():
        return cutter.common_suffix("".join(first[:-1]), "".join(second[:-1]))
    return ""


def with_holes(text: str, index: int = 0) -> Pattern:
    """The text with a hole where the name or the id of a call stands once more."""
    for word in (NAMES[index], IDS[index]):
        if word in text:
            head, _, rest = text.rpartition(word)
            return (head, rest)
    return (text,)


def before_pattern(text: str, pattern: Pattern) -> str:
    """The text without the pattern that it ends with."""
    if len(pattern) == 1:
        return before(text, pattern[0])
    head = before(text, pattern[1])
    return head[: head.rindex(pattern[0])] if pattern[0] in head else head


def hole_text(text: str, pattern: Pattern) -> str:
    """What stands in the pattern's hole."""
    return text[len(pattern[0]) : len(text) - len(pattern[1])]


def id_hole(text: str, call_id: str) -> Pattern:
    if call_id in text:
        head, _, rest = text.partition(call_id)
        return (head, rest)
    return (text,)
