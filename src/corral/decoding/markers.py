"""A format made ready to read with: its literals as atoms, control tokens as one character each.

A control token arrives as a token, not as text. Inside the parser it is one surrogate, a code point that no
decoded text contains, so a literal that names it matches the token, and text that merely spells it does not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from corral.decoding.formats.form import (
    CallForm,
    Format,
    Headers,
    JsonBody,
    NamedBody,
    PairsBody,
    Pattern,
    ThoughtForm,
    split_controls,
)
from corral.decoding.reader import SPACE, Atoms, atoms, pattern_atoms

_FIRST_SURROGATE = 0xD800
_SHORT_MARKER = 4
_PREFIX_END = ".:/"

NO_THOUGHT_LEARNED = ThoughtForm("<think>", "</think>")
"""What most models write; at the very start of an answer it is a thought, whatever the template says."""


@dataclass(frozen=True, slots=True)
class Lead:
    """The atoms that begin a call. From there on `form.units[next_unit:]` is expected.

    `is_marker`: nobody writes it by chance. Otherwise, or where the lead is not the format's first marker
    and it `needs_known`, only the name of a tool makes it a call.
    """

    form: "CallMarkers"
    atoms: Atoms
    next_unit: int
    is_marker: bool
    needs_known: bool


@dataclass(frozen=True, slots=True)
class PairsMarkers:
    body: PairsBody
    before_key: Atoms
    separator: Atoms
    key_end: Atoms
    key_end_short: Atoms
    lead: str
    value_end: Pattern
    trail: str
    names: "NameMarkers"
    quote: str


@dataclass(frozen=True, slots=True)
class NameMarkers:
    """What ends a name: `full` and `short` without the part that is a hole; `stuck` is stripped from it."""

    full: Atoms
    short: Atoms
    stuck: str
    prefix: str
    is_quoted: bool


@dataclass(frozen=True, slots=True)
class CallMarkers:
    """One form of calls. `closers` are the atoms that may stand behind a call, each by itself."""

    form: CallForm
    units: tuple[Atoms, ...]
    closers: tuple[Atoms, ...]
    end: tuple[Atoms, ...]
    joiner: Atoms
    json: JsonBody | None
    named: "NameMarkers | None"
    named_needs_known: bool
    """The format says nothing of calls that begin with a name, so only the name of a tool is one."""
    pairs: PairsMarkers | None
    owns_fence: bool
    begins_each: bool
    """Every call has a marker of its own, not only the section."""

    is_marked: bool
    """What begins a call is written by nobody who means none."""

    @property
    def is_bare(self) -> bool:
        """Nothing begins a call but its body, so only the very start of an answer can be one."""
        return not self.units


@dataclass(frozen=True, slots=True)
class HeaderMarkers:
    headers: Headers
    start: Atoms
    body: Atoms
    ends: tuple[Atoms, ...]


class Markers:
    """Built once for a model; read-only, so any number of parsers share it."""

    __slots__ = (
        "bare",
        "calls",
        "codes",
        "content_closer",
        "content_opener",
        "ends",
        "form",
        "glue",
        "headers",
        "leads",
        "shown_table",
        "spelling",
        "spelling_table",
        "thought_closer",
        "thought_is_control",
        "thought_opener",
    )

    def __init__(self, form: Format, silent: Collection[str] = ()) -> None:
        """`silent` control tokens have no text: where one is no marker, nothing is shown of it."""
        self.form = form
        self.codes = {text: chr(_FIRST_SURROGATE + i) for i, text in enumerate(sorted(form.controls)[:2000])}
        self.spelling = {code: text for text, code in self.codes.items()}
        self.spelling_table = str.maketrans(self.spelling)
        shown = {code: "" if text in silent else text for code, text in self.spelling.items()}
        self.shown_table = str.maketrans(shown)
        thought = form.thought or NO_THOUGHT_LEARNED
        self.thought_opener = self._atoms(thought.opener)
        self.thought_closer = self._atoms(thought.closer)
        self.thought_is_control = form.thought is not None and _is_control(self.thought_opener[:1])
        self.content_opener = self._atoms(form.content_opener)
        self.content_closer = self._atoms(form.content_closer)
        self.glue = self._atoms(form.glue)
        self.ends = tuple(filter(None, map(self._atoms, form.ends)))
        self.headers = self._headers(form.headers) if form.headers else None
        calls = [self._call(call) for call in form.calls if not _is_in_header(call, form.headers)]
        others = {marker[:1] for marker in (*self.ends, self.thought_opener, self.content_opener) if marker}
        self.leads = tuple(lead for call in calls for lead in _leads(call, others))
        self.calls = tuple(calls)
        self.bare = tuple(call for call in calls if call.is_bare)

    def encode(self, text: str) -> str:
        """Spelled control tokens as the characters that stand for them."""
        return "".join(self.codes.get(piece, piece) for piece in split_controls(text, self.codes))

    def spell(self, text: str) -> str:
        """The exact text again."""
        return text.translate(self.spelling_table) if self.spelling and not text.isascii() else text

    def show(self, text: str) -> str:
        """The text for people: without the control tokens that are silent."""
        return text.translate(self.shown_table) if self.spelling and not text.isascii() else text

    def _atoms(self, literal: str) -> tuple[str, ...]:
        return atoms(self.encode(literal))

    def _pattern(self, pattern: Pattern) -> Pattern:
        return tuple(self.encode(piece) for piece in pattern)

    def _headers(self, headers: Headers) -> HeaderMarkers:
        return HeaderMarkers(
            headers,
            self._atoms(headers.start),
            self._atoms(headers.body),
            tuple(map(self._atoms, headers.ends)),
        )

    def _call(self, form: CallForm) -> CallMarkers:
        begin = self._pattern(form.begin)
        headers = self.form.headers
        if headers is not None and headers.body in form.begin[-1]:
            # What stands before the body is in the header.
            begin = (begin[-1].rpartition(self.encode(headers.body))[2],)
        named = next((body for body in form.bodies if isinstance(body, NamedBody)), None)
        pairs = next((body for body in form.bodies if isinstance(body, PairsBody)), None)
        units = _units(self._atoms(form.section_begin)) + _units(pattern_atoms(begin))
        prefix = ""
        if named or pairs:
            prefix = _name_prefix(begin[-1])
            if prefix and len(units) > 1:
                units = units[:-1]
        key = pattern_atoms(self._pattern(pairs.before_key)) if pairs else ()
        if form.end_rest is None:
            end = _groups(self._atoms(form.end), key)
        else:
            end = (pattern_atoms(self._pattern((form.end, form.end_rest))),)
        closers: dict[Atoms, None] = dict.fromkeys(end + _groups(self._atoms(form.section_end), key))
        if pairs and pattern_atoms(pairs.after_name)[-1:] == ("(",):
            closers[(")",)] = None
        by_name: NameMarkers | None = None
        is_marked = any(is_distinctive(unit[-1]) for unit in units)
        if not named and not pairs and is_marked:
            by_name = NameMarkers((), (), "", "", is_quoted=False)
        literals = form.section_begin + "".join(form.begin) + "".join(getattr(named, "after_name", ()))
        return CallMarkers(
            form=form,
            units=units,
            closers=tuple(closers),
            end=end,
            joiner=self._atoms(form.joiner),
            json=_json_body(form) or self._other_json(units),
            named=self._names(named, prefix) if named else by_name,
            named_needs_known=by_name is not None,
            pairs=self._pairs(pairs, prefix) if pairs else None,
            owns_fence="```" in literals,
            is_marked=is_marked,
            begins_each=bool(pattern_atoms(begin)) and not (prefix and len(pattern_atoms(begin)) == 1),
        )

    def _other_json(self, units: tuple[Atoms, ...]) -> JsonBody | None:
        """How a whole call in JSON is read behind a marker whose format is another one.

        Models fall back to it, and a brace behind such a marker means nothing else.
        """
        if not any(is_distinctive(unit[-1]) for unit in units):
            return None
        return next(filter(None, map(_json_body, self.form.calls)), JsonBody())

    def _names(self, body: NamedBody | PairsBody, prefix: str) -> NameMarkers:
        after = self._pattern(body.after_name)
        full = pattern_atoms(after)
        short: Atoms = atoms(after[-1])
        stuck = ""
        if full and full[0] is not None:
            stuck = full[0][: len(full[0]) - len(full[0].lstrip(".:-"))]
            if stuck == "." and full[0] != ".":
                stuck = full[0].partition("(")[0]  # a method's name, as in `.call(`
            if stuck:
                rest = full[0][len(stuck) :]
                full = ((rest,) if rest else ()) + full[1:]
                short = full if len(after) == 1 else short
        while full and full[0] is None:
            full = full[1:]
        first = (full[0] or "") if full else ""
        return NameMarkers(full, short, stuck, prefix, is_quoted=first[:1] in ("'", '"'))

    def _pairs(self, body: PairsBody, prefix: str) -> PairsMarkers:
        after_key = self._pattern(body.after_key)
        after_value = self._pattern(body.after_value)
        last = after_key[-1]
        return PairsMarkers(
            body=body,
            before_key=pattern_atoms(self._pattern(body.before_key)),
            separator=self._atoms(body.separator),
            key_end=pattern_atoms(after_key),
            key_end_short=atoms(last),
            lead=last[len(last.rstrip(SPACE)) :],
            value_end=after_value,
            trail=after_value[0][: len(after_value[0]) - len(after_value[0].lstrip(SPACE))],
            names=self._names(body, prefix),
            quote=self.encode(body.quote),
        )


def _json_body(form: CallForm) -> JsonBody | None:
    return next((body for body in form.bodies if isinstance(body, JsonBody)), None)


def _is_in_header(call: CallForm, headers: Headers | None) -> bool:
    """Whether the header names the tool, so that nothing in the body begins a call."""
    body = call.bodies[0]
    return headers is not None and not isinstance(body, JsonBody) and headers.body in "".join(body.after_name)


def is_distinctive(atom: str | None) -> bool:
    """Whether nobody writes this by chance: a control token or the beginning of a tag."""
    return atom is not None and (_is_control((atom,)) or ("<" in atom and len(atom) > 2))


def _is_control(marker: Sequence[str | None]) -> bool:
    return bool(marker) and marker[0] is not None and any("\ud800" <= c <= "\udfff" for c in marker[0])


def has_control(marker: Atoms) -> bool:
    return any(_is_control((atom,)) for atom in marker)


def _units(marker: Atoms) -> tuple[Atoms, ...]:
    """Each atom by itself, a hole together with the atom behind it."""
    units: list[Atoms] = []
    hole = False
    for atom in marker:
        if atom is None:
            hole = True
        else:
            units.append((None, atom) if hole else (atom,))
            hole = False
    return tuple(units)


def _groups(marker: tuple[str, ...], key: Atoms) -> tuple[Atoms, ...]:
    """Each atom by itself, but a word between two control tokens together with both.

    What a key begins with, too, tells nothing by itself: it is taken together with the next atom.
    """
    groups: list[tuple[str, ...]] = []
    for index, atom in enumerate(marker):
        joins = bool(groups) and _is_control(groups[-1][-1:]) and atom.isalnum()
        follows = bool(groups) and groups[-1][-1].isalnum() and len(groups[-1]) > 1
        is_shared = bool(groups) and len(groups[-1]) < len(key) and key[: len(groups[-1])] == groups[-1]
        if (
            is_shared
            or (joins and _is_control(marker[index + 1 : index + 2]))
            or (follows and _is_control((atom,)))
        ):
            groups[-1] = (*groups[-1], atom)
        else:
            groups.append((atom,))
    return tuple(groups)


def _name_prefix(literal: str) -> str:
    """A word that is put in front of every name, as in `functions.NAME`."""
    word = literal[len(literal.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.:/")) :]
    return word if word and word[-1] in _PREFIX_END and word[0].isalpha() else ""


def _leads(call: CallMarkers, others: set[tuple[str, ...]]) -> list[Lead]:
    """The first marker of the form, and each further one: models leave out the first.

    Where another marker begins like it, the first is the whole stretch up to the second.
    """
    flat = [unit[-1] for unit in call.units]
    ends = [index for index, atom in enumerate(flat) if is_distinctive(atom)]
    if not flat:
        return []
    if not ends:
        word = "".join(filter(None, flat))
        whole = tuple(atom for unit in call.units for atom in unit)
        return [Lead(call, whole, len(flat), False, len(word) < _SHORT_MARKER)]
    bounds = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
    first = _flat(call.units[: ends[0] + 1])
    if first in others and len(ends) > 1:
        bounds.insert(1, (0, ends[1]))
        del bounds[0]
        bounds.append((ends[0] + 1, ends[1]))
    leads: list[Lead] = []
    for begin, end in bounds:
        marker = _flat(call.units[begin : end + 1])
        if marker[0] is not None and not any(lead.atoms == marker for lead in leads):
            leads.append(Lead(call, marker, end + 1, True, begin > 0 and not has_control(marker)))
    return leads


def _flat(units: Sequence[Atoms]) -> Atoms:
    return tuple(atom for unit in units for atom in unit)
