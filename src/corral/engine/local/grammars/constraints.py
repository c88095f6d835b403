"""What an answer must look like, as masks over the vocabulary: llguidance, bound to one model's tokens.

    constraint = constraints.compile(grammar)  # off the event loop; InvalidRequest says what is wrong with it
    mask = constraint.start()                  # one per sequence
    mask.allowed                               # before a token is picked: which may be
    mask.accept(token)                         # after: the one that was

A mask over 49,152 tokens takes 3 us in the median and 100 at most with the schemas that were measured, one of
20 fields compiles in 1 ms (SmolLM2-135M), so masks are made on the engine's thread, between two steps.

Where the grammar leaves no choice there is nothing to decide: `forced` names the tokens that must follow. The
engine verifies them together, like a draft that is always right.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from corral.engine.local.backend import Vocabulary
from corral.engine.local.grammars.child import Shape
from corral.engine.local.grammars.source import Unfollowable, problem_of, source_of
from corral.engine.local.grammars.trial import Trials
from corral.errors import EngineFailed, InvalidRequest
from corral.request import Grammar, GrammarKind

LONGEST_TOKEN_BYTES = 1024
KEPT_GRAMMARS = 64
"""How many are kept, with what came of compiling them: clients send the same schema again and again."""

MOST_CHARACTERS: Final[dict[GrammarKind, int]] = {
    "json_object": 65_536,
    "json_schema": 65_536,
    "regex": 16_384,
    "choice": 65_536,
    "lark": 65_536,
    "gbnf": 16_384,
}
"""How long a grammar may be. 64 KiB compile in 0.02 to 0.3 s, be it words, rules or properties; GBNF is first
rewritten as Lark, and a regex of optional parts analysed, in time that grows with the square: 0.2 s and 0.5 s
for 16 KiB, 3 s and 9 s for 64."""

STACK_BYTES: Final = 128 * 2**20
"""Of the thread that compiles. A chain of 10,000 rules, which 64 KiB may hold, takes more than 8 MiB."""


class Mask:
    """Where one sequence stands in its grammar. Not thread-safe; belongs to the engine's thread."""

    def __init__(self, matcher: LLMatcher, vocabulary_tokens: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((vocabulary_tokens + 31) // 32, np.uint32)
        self._vocabulary_tokens = vocabulary_tokens
        self._allowed: NDArray[np.bool_] | None = None

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]; never none. Valid until the next `accept`.

        Raises EngineFailed where the grammar has grown too complex to go on.
        """
        if self._allowed is None:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
            self._allowed = bits[: self._vocabulary_tokens].view(np.bool_)
            if self._matcher.is_error() or not self._allowed.any():
                raise EngineFailed(f"the grammar cannot be followed any further: {problem_of(self._matcher)}")
        return self._allowed

    def accept(self, token: int) -> None:
        """Go on to what follows `token`, which is one of those allowed. Raises EngineFailed if it is not."""
        self._allowed = None
        if not self._matcher.consume_token(token):
            raise EngineFailed(f"a token does not fit the grammar: {problem_of(self._matcher)}")

    def forced(self) -> list[int]:
        """The tokens that must come next, one after the other; often none."""
        return list(self._matcher.compute_ff_tokens())

    def fitting(self, draft: list[int]) -> list[int]:
        """As much of a draft as the grammar lets pass."""
        return draft[: self._matcher.validate_tokens(draft)]


class Constraint:
    """A compiled grammar. Immutable, so safe from any thread."""

    def __init__(self, matcher: LLMatcher, vocabulary_tokens: int) -> None:
        self._matcher = matcher
        self._vocabulary_tokens = vocabulary_tokens

    def start(self) -> Mask:
        """A mask that stands at the grammar's beginning; 70 us."""
        return Mask(self._matcher.deep_copy(), self._vocabulary_tokens)


class Constraints:
    """Compiles grammars for one vocabulary. Thread-safe; making one takes about a second for a real model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary_tokens = len(vocabulary.pieces)
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary)), eos_token=sorted(vocabulary.end_tokens)
        )
        ends = tuple(sorted(vocabulary.end_tokens))
        names = {text: token for text, token in vocabulary.control_texts.items() if _is_name(text.encode())}
        self._trials = Trials(Shape(self._vocabulary_tokens, names, ends))
        self._kept: OrderedDict[Grammar, Future[Constraint | str]] = OrderedDict()
        """What came of each of the last ones: a text is why it is refused."""
        self._lock = Lock()

    def compile(self, grammar: Grammar) -> Constraint:
        """Once for each of the last grammars, whoever asks; the others wait for the first.

        Blocks, mostly for 2 to 200 ms; for some seconds with a schema of many pattern properties. It has been
        compiled in a process of its own then, which what takes longer than that has ended. Raises
        InvalidRequest that names the field and says what is wrong.
        """
        if len(grammar.source) > MOST_CHARACTERS[grammar.kind]:
            raise _refusal(
                grammar,
                f"it has {len(grammar.source)} characters, and may have {MOST_CHARACTERS[grammar.kind]}",
            )
        with self._lock:
            kept = self._kept.get(grammar)
            if kept is None:
                ours = self._kept[grammar] = Future[Constraint | str]()
                if len(self._kept) > KEPT_GRAMMARS:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(grammar)
        if kept is None:
            kept = ours
            try:
                ours.set_result(self._in_deep_thread(partial(self._compiled, grammar)))
            except InvalidRequest as refusal:
                ours.set_result(refusal.message)
            finally:
                if not ours.done():  # whoever waits for it must hear of it
                    ours.set_result(f"'{grammar.param}' cannot be followed")
        result = kept.result()
        if isinstance(result, Constraint):
            return result
        raise InvalidRequest(result, param=grammar.param)

    def _in_deep_thread(self, compile_it: Callable[[], Constraint]) -> Constraint:
        """Rules that lead to rules take stack for each step, and too many of them would end the process."""
        done: Future[Constraint] = Future()

        def run() -> None:
            try:
                done.set_result(compile_it())
            except BaseException as error:  # noqa: ASYNC103 - told to who waits
                done.set_exception(error)

        with self._lock:
            usual_bytes = threading.stack_size(STACK_BYTES)  # of threads that are started from now on
            try:
                threading.Thread(target=run, name="corral-grammar", daemon=True).start()
            finally:
                threading.stack_size(usual_bytes)
        return done.result()

    def _compiled(self, grammar: Grammar) -> Constraint:
        try:
            self._trials.check(grammar)
            matcher = LLMatcher(self._tokenizer, source_of(grammar), log_level=0)
            if matcher.is_error():
                raise Unfollowable(problem_of(matcher))
        except Unfollowable as error:
            raise _refusal(grammar, str(error)) from None
        constraint = Constraint(matcher, self._vocabulary_tokens)
        try:
            _ = constraint.start().allowed  # what cannot even begin is the request's fault, not the engine's
        except EngineFailed as error:
            raise _refusal(grammar, error.message) from None
        return constraint


class _Tokens:
    """A vocabulary in the form that llguidance reads. A byte that is in no text marks control tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        controls = {token: text.encode() for text, token in vocabulary.control_texts.items()}
        # The trie of all tokens is no deeper. What is longer is in no answer that is held to a grammar.
        pieces = enumerate(vocabulary.pieces)
        controls |= {token: b"" for token, piece in pieces if len(piece) > LONGEST_TOKEN_BYTES}
        for token, text in controls.items():
            if not _is_name(text):
                controls[token] = b"[%d]" % token
        self.tokens = [
            b"\xff" + controls[token] if token in controls else piece
            for token, piece in enumerate(vocabulary.pieces)
        ]
        self.special_token_ids = sorted(controls)
        self.eos_token_id = min(vocabulary.end_tokens)
        self.bos_token_id = vocabulary.bos
        self._vocabulary = vocabulary

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode()
        return self._vocabulary.tokenize(text, parse_control=False)


def _is_name(text: bytes) -> bool:
    """Whether a control token has its own text as its name here, and not its number."""
    return 0 < len(text) < LONGEST_TOKEN_BYTES


def _refusal(grammar: Grammar, problem: str) -> InvalidRequest:
    return InvalidRequest(f"'{grammar.param}' cannot be followed: {problem}", param=grammar.param)
