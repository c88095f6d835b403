"""What begins a call in the middle of text, where that is told from text at once."""

from dataclasses import dataclass
from itertools import permutations

from corral.decoding.formats.form import CallForm, Format, Pattern, split_controls
from corral.decoding.markers import Lead, Markers
from corral.decoding.reader import SPACE

_CLOSED = (">", '"', "=", "'")


@dataclass(frozen=True, slots=True)
class Opener:
    """A text that begins a call, or a section of calls, and what is missing of the format's own beginning.

    `section` is the rest of the section's literal, None where the call has begun without one; `begin` is what
    is left of the call's own. Where it `needs_space`, only whitespace behind it makes it one. `reserved` are
    control tokens that are in no text.
    """

    form: CallForm
    text: str
    section: str | None
    begin: Pattern
    needs_space: bool
    reserved: str


def openers(form: Format) -> tuple[Opener, ...]:
    """All that may begin a call; none where it is a header, a bare brace or a word that is text as well."""
    markers = Markers(form)
    if form.headers is not None or markers.bare or not markers.leads:
        return ()
    if any(call.begun for call in form.calls):
        return ()  # what the prompt ends with begins anything
    found: list[Opener] = []
    known: set[int] = set()
    for lead in markers.leads:
        texts = [markers.spell(atom) for atom in lead.atoms if atom is not None]
        is_first = id(lead.form) not in known
        known.add(id(lead.form))
        if len(lead.atoms) == 1 and lead.is_marker:
            opener = _opener(lead, texts[0], form)
            if opener is None:
                return ()
            found.append(opener)
        elif not is_first and found and (controls := [text for text in texts if text in form.controls]):
            found.append(_reserving(found.pop(), controls))
        else:
            return ()
    starts = [opener.text + " " * opener.needs_space for opener in found]
    if any(other.startswith(start) for start, other in permutations(starts, 2)):
        return ()
    return tuple(found)


def _reserving(opener: Opener, controls: list[str]) -> Opener:
    """The same; these tokens only go on with it."""
    return Opener(
        opener.form,
        opener.text,
        opener.section,
        opener.begin,
        opener.needs_space,
        opener.reserved + "".join(controls),
    )


def _opener(lead: Lead, text: str, form: Format) -> Opener | None:
    call = lead.form.form
    section = call.section_begin + call.list_open
    if text in section:
        rest = section[section.index(text) + len(text) :]
        needs_space = _needs_space(text, rest, form)
        return Opener(call, text, rest.lstrip(SPACE) if needs_space else rest, call.begin, needs_space, text)
    for index, piece in enumerate(call.begin):
        if text in piece:
            rest = piece[piece.index(text) + len(text) :]
            needs_space = _needs_space(text, rest, form)
            begin = (rest.lstrip(SPACE) if needs_space else rest, *call.begin[index + 1 :])
            # Where the section has no literal of its own the call is its beginning.
            return Opener(call, text, None if section.strip() else "", begin, needs_space, text)
    return None


def _needs_space(text: str, rest: str, form: Format) -> bool:
    is_control = split_controls(text, form.controls) == [text] and text in form.controls
    return not is_control and rest[:1].isspace() and not text.endswith(_CLOSED)
