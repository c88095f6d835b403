"""A grammar in the words that llguidance takes, and why one that it refuses cannot be followed."""

import json
from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from corral.request import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

SPACING: "Final[JsonCompileOptions]" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""How JSON is spaced, unless a schema says otherwise: a small model writes blanks without end if it may."""


class Unfollowable(Exception):
    """A grammar cannot be followed; the message says why, in one line."""


def source_of(grammar: Grammar) -> str:
    """Raises Unfollowable."""
    try:
        match grammar.kind:
            case "json_object":
                return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=SPACING)
            case "json_schema":
                return LLMatcher.grammar_from_json_schema(grammar.source, defaults=SPACING)
            case "regex":
                return LLMatcher.grammar_from_regex(grammar.source)
            case "choice":
                words = [json.dumps(word, ensure_ascii=False) for word in json.loads(grammar.source)]
                if not words:
                    raise ValueError("there is nothing to choose from")
                return LLMatcher.grammar_from_lark(f"start: {' | '.join(words)}")
            case "lark":
                return LLMatcher.grammar_from_lark(grammar.source)
            case "gbnf":
                return LLMatcher.grammar_from_lark(any_to_lark(grammar.source))
    except RecursionError:
        problem = "it is nested too deeply"
    except Exception as error:  # a converter of theirs met something it does not know
        problem = _first_lines(str(error))
    raise Unfollowable(problem)


def problem_of(matcher: LLMatcher) -> str:
    """Why a matcher has stopped."""
    problem = matcher.get_error() or matcher.stop_reason()
    if problem.startswith("panic"):  # one of the counts of their grammars has 16 bits
        return "it is too large"
    return _first_lines(problem)


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^|")]
    return " / ".join(lines)[:300]
