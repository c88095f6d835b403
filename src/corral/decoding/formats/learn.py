"""What a chat template says about thoughts and calls, learned by rendering it.

    capabilities -> generation prompts -> thought -> calls -> self-test -> a Format

Where calls are not rendered, or what was learned does not read back what the template wrote, the next best
is taken: the template's own instructions, tokens that look like those of calls, forms known by their
tokens, and last a generic form with our own instructions. Costs some ms, and no model.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from corral.decoding.formats.cuts import Cutter
from corral.decoding.formats.fallbacks import (
    GENERIC,
    by_headers,
    by_instructions,
    by_vocabulary,
    headers_by_tokens,
)
from corral.decoding.formats.form import CallForm, Format, Headers, NamedBody, PairsBody, Source, ThoughtForm
from corral.decoding.formats.learn_calls import CallLearner
from corral.decoding.formats.learn_thoughts import (
    Prompts,
    ThoughtLearner,
    answer_tags,
    learn_headers,
    learn_prompts,
    texts_behind,
)
from corral.decoding.formats.openers import openers
from corral.decoding.formats.probe import (
    CONTENT,
    NAMES,
    TOOLS,
    Capabilities,
    Prober,
    Render,
    probe,
)
from corral.decoding.formats.self_test import SelfTest, is_exact, self_test

_BUILTIN: dict[str, Any] = {"builtin_tools": [NAMES[0]]}


@dataclass(frozen=True, slots=True)
class Learned:
    """A format, where it came from and what the template takes."""

    format: Format
    capabilities: Capabilities
    prompts: Prompts
    test: SelfTest
    notes: tuple[str, ...] = ()

    @property
    def is_generic(self) -> bool:
        """Calls, results and tools are not the template's: they are written as text (see `history`)."""
        return self.format.source == "generic"


def shown(learned: Learned) -> dict[str, Any]:
    """What was learned, as JSON.

    `strict_tools` says when the arguments of a strict tool are held to its schema.
    """
    told: dict[str, Any] = msgspec.to_builtins(learned, order="deterministic")
    return {
        "source": learned.format.source,
        "self_test": told.pop("test"),
        "strict_tools": "always" if openers(learned.format) else "where a call must come",
        **told,
    }


def learn(
    render: Render,
    *,
    source: str = "",
    vocabulary: Collection[str] | None = None,
    end_texts: Iterable[str] = (),
) -> Learned:
    """Learn the format of the template that `render` renders; never raises for what the template does.

    `source` is the template's text. `vocabulary` holds the texts of the model's control tokens; without it
    a text is taken for one by its shape. `end_texts` are those that end a turn.
    """
    return _Learner(render, source, vocabulary, tuple(filter(None, end_texts))).learn()


@dataclass(slots=True)
class _Learner:
    render: Render
    source: str
    vocabulary: Collection[str] | None
    end_texts: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def learn(self) -> Learned:
        cutter = Cutter(self.vocabulary)
        prober = Prober(self.render)
        capabilities = probe(prober)
        if "developer" not in self.source:  # it writes any role as it comes, but no model has seen this one
            capabilities = replace(capabilities, developer=False)
        prompts = learn_prompts(prober, cutter)
        text = prober.answer({"content": CONTENT}) or ""
        answer, _, end = text.partition(CONTENT)
        tokens = self.vocabulary or cutter.controls_in(self.source)
        headers = learn_headers(prober, cutter, prompts, answer, end) or headers_by_tokens(tokens)
        thought = ThoughtLearner(prober, cutter, prompts, answer, self.source).learn(headers)
        form = Format(
            source="learned",
            thought=thought,
            headers=headers,
            content_opener="" if headers else self._content_opener(prober, cutter, prompts, answer, thought),
            glue="" if headers else self._glue(cutter, prompts, prober),
        )
        form = _with(form, content_closer=self._content_closer(cutter, end, form, prober))
        form = _with(form, ends=self._ends(cutter, end.removeprefix(form.content_closer), headers, prober))
        tags = answer_tags(self.source)
        if tags and not form.content_opener and headers is None:
            form = _with(form, content_opener=tags[0], content_closer=tags[1])
        turn_end = end.removeprefix(form.content_closer)
        form, test = self._with_calls(form, prober, cutter, prompts, answer, turn_end)
        return Learned(form, capabilities, prompts, test, tuple(self.notes))

    # Calls, from the best source there is

    def _with_calls(
        self, form: Format, prober: Prober, cutter: Cutter, prompts: Prompts, answer: str, end: str
    ) -> tuple[Format, SelfTest]:
        learned = self._learned_calls(prober, cutter, answer, end, prompts)
        if learned:
            form, learned = _arranged(form, learned, prompts)
            candidate = self._controlled(_with(form, calls=learned), cutter)
            begin = prompts.user_end + prompts.header
            test = self_test(candidate, prober, begin, prompts.on or prompts.default)
            if test.passed:
                return candidate, test
            self.notes.append(f"what was learned does not read back: {test.failed}")
        text = self._instructions(prober)
        fallbacks: tuple[tuple[Source, tuple[CallForm, ...]], ...] = (
            ("instructions", by_instructions(text)),
            ("vocabulary", by_vocabulary(self.vocabulary or cutter.controls_in(self.source))),
            ("known", by_headers(form.headers)),
        )
        for source, calls in fallbacks:
            if calls:
                candidate = self._controlled(_with(form, calls=calls, source=source), cutter)
                return candidate, SelfTest()
        return self._controlled(_with(form, calls=(GENERIC,), source="generic"), cutter), SelfTest()

    def _learned_calls(
        self, prober: Prober, cutter: Cutter, answer: str, end: str, prompts: Prompts
    ) -> tuple[CallForm, ...]:
        if not prober.capabilities.calls:
            return ()
        learner = CallLearner(prober, cutter, answer, end, prompts.default)
        forms = [learner.learn()]
        if "builtin_tools" in self.source:
            forms.append(learner.learn(**_BUILTIN))
        found = [self._counted(form, prober) for form in forms if form is not None]
        return tuple(dict.fromkeys(found))

    def _counted(self, form: CallForm, prober: Prober) -> CallForm:
        """The form with the number that its holes begin with, if they hold numbers."""
        candidates = (form, _with_call(form, first_count=0), _with_call(form, first_count=1))
        return next((one for one in candidates if is_exact(one, prober)), form)

    def _instructions(self, prober: Prober) -> str:
        """What the template says only where there are tools."""
        user = {"role": "user", "content": "x"}
        with_tools = prober.render([user], tools=TOOLS, generation=True) or ""
        without = prober.render([user], generation=True) or ""
        prefix = 0
        while prefix < min(len(with_tools), len(without)) and with_tools[prefix] == without[prefix]:
            prefix += 1
        return with_tools[prefix:]

    def _controlled(self, form: Format, cutter: Cutter) -> Format:
        """The format with the control tokens that its literals name."""
        controls = set(cutter.controls_in(*literals(form)))
        for call_form in form.calls:
            for body in call_form.bodies:
                if isinstance(body, PairsBody) and body.quote:
                    controls.add(body.quote)
        return _with(form, controls=frozenset(controls))

    # The answer's own markers

    def _content_opener(
        self, prober: Prober, cutter: Cutter, prompts: Prompts, answer: str, thought: ThoughtForm | None
    ) -> str:
        """What stands before an answer in the history and is not in the prompt."""
        header = prompts.header
        begin = answer.find(header) + len(header) if header and header in answer else None
        if begin is None:
            begin = len(cutter.common_prefix(answer, prompts.default))
        opener = answer[begin:]
        if thought is not None:
            closer = thought.closer.strip()
            if closer and closer in opener:
                opener = opener[opener.rindex(closer) + len(closer) :]
            elif opener.strip() == thought.opener.strip():
                opener = ""
        return opener.strip(" ") if opener.strip() else ""

    def _content_closer(self, cutter: Cutter, end: str, form: Format, prober: Prober) -> str:
        """The first marker behind an answer that has an opener of its own, if one more ends the turn."""
        if not form.content_opener or form.headers is not None:
            return ""
        markers = cutter.markers(end)
        return markers[0] if len(markers) > 1 else ""

    def _glue(self, cutter: Cutter, prompts: Prompts, prober: Prober) -> str:
        """What begins one more part of the same turn, if the header alone does not tell what it is."""
        header = prompts.header.strip()
        units = cutter.units(header)
        return (
            header
            if units and not cutter.control.fullmatch(units[-1]) and cutter.control.match(header)
            else ""
        )

    def _ends(self, cutter: Cutter, end: str, headers: Headers | None, prober: Prober) -> tuple[str, ...]:
        ends = cutter.markers(end)[:3]
        if not ends and end.strip() and not end.strip().isalnum():
            ends = [end.strip()]  # of a shape that no token has: it counts only where the turn is over
        if not ends:
            # Nothing ends a turn but what begins the next.
            follows = [cutter.control.match(text) for text in texts_behind(prober)]
            ends = [match[0] for match in follows if match is not None]
        if headers is not None:
            ends = [unit for unit in ends if unit not in headers.ends]
        return tuple(dict.fromkeys([*ends, *self.end_texts]))


def _with(form: Format, **changes: Any) -> Format:
    values = {name: getattr(form, name) for name in Format.__slots__}
    return Format(**{**values, **changes})


def _arranged(
    form: Format, calls: tuple[CallForm, ...], prompts: Prompts
) -> tuple[Format, tuple[CallForm, ...]]:
    """What an empty thought, an empty answer or the header have to do with the calls' first literals."""
    thought = form.thought
    empties = [form.content_opener + form.content_closer] if form.content_closer else []
    if thought is not None:
        empties.insert(0, thought.opener.strip() + thought.closer.strip())
    arranged = []
    for one in calls:
        lead = one.section_begin or one.begin[0]
        for empty in (*empties, form.content_closer):
            squeezed = "".join(empty.split())
            at, matched = 0, 0
            while at < len(lead) and matched < len(squeezed):
                if lead[at] == squeezed[matched]:
                    matched += 1
                elif not lead[at].isspace():
                    break
                at += 1
            if squeezed and matched == len(squeezed):
                lead = lead[at:]
        if one.section_begin:
            arranged.append(_with_call(one, section_begin=lead))
        else:
            arranged.append(_with_call(one, begin=(lead, *one.begin[1:]), begun=_begun(lead, prompts)))
    first = arranged[0]
    begin = first.begin[0].strip()
    header = prompts.header.rstrip()
    if begin and len(begin) > 1 and header.endswith(begin) and form.content_opener:
        # The prompt has written the beginning of whatever comes.
        form = _with(form, content_opener=begin + form.content_opener)
    return form, tuple(arranged)


def _begun(lead: str, prompts: Prompts) -> str:
    """As much of what begins a call as every prompt ends with."""
    ends = [text for text in (prompts.default, prompts.on, prompts.off) if text is not None]
    for length in range(len(lead), 0, -1):
        if lead[:length].strip() and all(text.endswith(lead[:length]) for text in ends):
            return lead[:length]
    return ""


def _with_call(form: CallForm, **changes: Any) -> CallForm:
    values = {name: getattr(form, name) for name in CallForm.__slots__}
    return CallForm(**{**values, **changes})


def literals(form: Format) -> Iterable[str]:
    """All literals of a format, empty ones too."""
    yield from (form.content_opener, form.content_closer, form.glue, *form.ends)
    if form.thought is not None:
        yield from (form.thought.opener, form.thought.closer)
    if form.headers is not None:
        headers = form.headers
        yield from (headers.start, headers.body, *headers.ends, headers.thought or "", headers.content)
    for call_form in form.calls:
        yield from (call_form.section_begin, *call_form.begin, call_form.end, call_form.end_rest or "")
        yield from (call_form.joiner, call_form.section_end)
        for body in call_form.bodies:
            if isinstance(body, (NamedBody, PairsBody)):
                yield from body.after_name
            if isinstance(body, PairsBody):
                yield from (*body.before_key, *body.after_key, *body.after_value, body.separator)
