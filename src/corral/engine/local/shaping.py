"""What a request makes of its answer: how it is read, what it must look like, how long it may think.

shaping = Shaping(learned, vocabulary)                  # once a model is loaded
shape = shaping.shape(request, prompt.ending)           # blocks: a grammar may have to be compiled
"""

import json
import logging
from dataclasses import replace

from corral.decoding.answer import AnswerForm
from corral.decoding.formats.force import answered, beside_text, can_hold, required
from corral.decoding.formats.form import Format
from corral.decoding.formats.learn import Learned
from corral.decoding.markers import NO_THOUGHT_LEARNED, Markers
from corral.engine.local.backend import Vocabulary
from corral.engine.local.grammars.constraints import Constraint, Constraints
from corral.engine.local.prompts.control import ControlTexts
from corral.engine.local.task import ThoughtLimit
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Grammar, Tool

logger = logging.getLogger("corral.engine")


class Shaping:
    """One model's; safe from any thread. Making it takes about a second: masks need the vocabulary."""

    def __init__(self, learned: Learned, vocabulary: Vocabulary) -> None:
        self.learned = learned
        self._markers = Markers(learned.format, silent=frozenset(vocabulary.control_texts))
        self._telling_markers = Markers(learned.format)
        self._controls = ControlTexts(vocabulary.control_texts, vocabulary.user_texts).tokens
        self._ends = vocabulary.end_tokens
        self._constraints = _constraints(vocabulary)
        end, answer = self._thought_end(learned.format)
        self._end = tuple(vocabulary.tokenize(end, parse_control=True))
        self._closer = tuple(vocabulary.tokenize(end + answer, parse_control=True))

    def _thought_end(self, form: Format) -> tuple[str, str]:
        """What is said for the model to end a thought, and to begin its answer."""
        if form.headers is None:
            return (form.thought or NO_THOUGHT_LEARNED).closer, ""
        headers = form.headers
        ends = [end for end in headers.ends if self._controls.get(end) not in self._ends]
        return (ends or headers.ends)[0], headers.start + headers.content + headers.body

    @staticmethod
    def compiles(request: GenerationRequest) -> bool:
        """Whether a grammar is compiled for a request."""
        return (
            request.grammar is not None
            or _must_call(request)
            or any(tool.is_held for tool in _callable(request))
        )

    def form(self, request: GenerationRequest, ending: str) -> AnswerForm | None:
        """How an answer behind a prompt that ends like this is read; None: as mere text."""
        tools = _callable(request)
        if request.prompt is not None or (request.shows_control and not tools):
            return None
        markers = self._telling_markers if request.shows_control else self._markers
        return AnswerForm(markers, tools, ending, one_call=not request.calls_in_parallel)

    def thought(self, request: GenerationRequest) -> ThoughtLimit | None:
        """How a thought is ended, and after how much of it."""
        closer = self._end if _must_call(request) else self._closer
        return ThoughtLimit(request.thinking.budget_tokens, closer, self._ends) if closer else None

    def constraint(self, request: GenerationRequest, ending: str) -> Constraint | None:
        """What an answer is held to. Blocks as `Constraints.compile` does.

        Raises InvalidRequest for a grammar that cannot be followed; it names the field and says why.
        """
        tools, grammar = _callable(request), request.grammar
        if tools or grammar is not None:
            try:
                if tools:
                    grammar = self._with_calls(request, grammar, tools, ending)
                elif grammar is not None:
                    grammar = self._behind_thought(request, grammar, ending)
            except (ValueError, RecursionError) as error:  # a schema is read here
                param = grammar.param if grammar is not None else "tools"
                is_deep = isinstance(error, RecursionError)
                problem = "it is nested too deeply" if is_deep else "a JSON schema in it cannot be read"
                raise InvalidRequest(f"'{param}' cannot be followed: {problem}", param=param) from None
        if grammar is None:
            return None
        return self._able(grammar).compile(grammar)

    def _able(self, grammar: Grammar) -> Constraints:
        if self._constraints is None:
            what = f"'{grammar.param}' cannot be followed with this model."
            raise InvalidRequest(what, param=grammar.param)
        return self._constraints

    def _with_calls(
        self, request: GenerationRequest, grammar: Grammar | None, tools: tuple[Tool, ...], ending: str
    ) -> Grammar | None:
        """Calls and nothing else; where none has to be made, calls beside the answer or instead of it."""
        form, must_call = self.learned.format, _must_call(request)
        if not must_call and grammar is None:
            tools = tuple(tool if can_hold(form, tool) else replace(tool, input=None) for tool in tools)
            if not any(tool.is_held for tool in tools):
                return None
            self._check_languages(tools)
            beside = beside_text(form, tools, controls=self._controls, ends=self._ends)
            return None if beside is None else Grammar("lark", beside, "tools")
        self._check_languages(tools)
        calls = required(
            form,
            tools,
            controls=self._controls,
            ends=self._ends,
            many=request.calls_in_parallel and len(request.tool_choice.named) != 1,
            thinks=must_call and self._may_think(request, ending),
        )
        if must_call or grammar is None:
            return Grammar("lark", calls, "tools")
        if grammar.kind not in ("json_object", "json_schema"):
            raise InvalidRequest(f"'{grammar.param}' cannot go with tools.", param=grammar.param)
        return self._answered(grammar, calls, thinks=self._may_think(request, ending))

    def _behind_thought(self, request: GenerationRequest, grammar: Grammar, ending: str) -> Grammar:
        """The grammar behind what the model writes first: a header, or a thought that it opens."""
        is_value = grammar.kind in ("json_object", "json_schema")
        if not is_value or request.prompt is not None or request.shows_control or _goes_on(request):
            return grammar
        thinks = self._may_think(request, ending)
        has_thought = thinks and self.learned.format.thought is not None
        return (
            self._answered(grammar, None, thinks=thinks)
            if has_thought or self.learned.format.headers is not None
            else grammar
        )

    def _answered(self, grammar: Grammar, calls: str | None, *, thinks: bool) -> Grammar:
        schema = grammar.source if grammar.kind == "json_schema" else json.dumps({"type": "object"})
        form = self.learned.format
        source = answered(form, schema, controls=self._controls, ends=self._ends, thinks=thinks, calls=calls)
        return Grammar("lark", source, grammar.param)

    def _may_think(self, request: GenerationRequest, ending: str) -> bool:
        """Whether it is the model's to open a thought: it may, unless it was told not to."""
        if request.thinking.is_on is False or _goes_on(request):
            return False
        return self.learned.prompts.state(ending, self.learned.format.thought) == "free"

    def _check_languages(self, tools: tuple[Tool, ...]) -> None:
        """Raises InvalidRequest for a free text whose language cannot be followed, or not in such calls."""
        for tool in tools:
            language = tool.input
            if language is None:
                continue
            if not can_hold(self.learned.format, tool):
                what = (
                    f"'{language.param}' cannot be followed: this model writes inputs as JSON, where only a"
                    " regex can be. Where no call must come, the model is told the grammar."
                )
                raise InvalidRequest(what, param=language.param)
            self._able(language).compile(language)


def _constraints(vocabulary: Vocabulary) -> Constraints | None:
    """None for a vocabulary without a token that ends an answer, or one that llguidance cannot take."""
    if not vocabulary.end_tokens:
        return None
    try:
        return Constraints(vocabulary)
    except Exception:  # the vocabulary is a file's, and may hold anything
        logger.warning("answers cannot be held to a grammar with this vocabulary", exc_info=True)
        return None


def _goes_on(request: GenerationRequest) -> bool:
    """Whether an answer that the client has begun is continued."""
    return bool(request.messages) and request.messages[-1].role == "assistant"


def _must_call(request: GenerationRequest) -> bool:
    return bool(_callable(request)) and request.tool_choice.mode == "required"


def _callable(request: GenerationRequest) -> tuple[Tool, ...]:
    """The tools that the answer may call."""
    choice = request.tool_choice
    if choice.mode == "none":
        return ()
    return tuple(tool for tool in request.tools if not choice.named or tool.name in choice.named)
