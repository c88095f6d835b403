"""Masks over a vocabulary of bytes: what a grammar allows, forces and refuses."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.engine.local.grammars.constraints import Constraint, Constraints, Mask
from corral.engine.local.scripted import END, ByteVocabulary
from corral.errors import InvalidRequest
from corral.request import Grammar, GrammarKind

CONSTRAINTS = Constraints(ByteVocabulary())
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def started(kind: GrammarKind, source: str) -> Mask:
    return CONSTRAINTS.compile(Grammar(kind, source, "response_format")).start()


def allowed(mask: Mask) -> set[str]:
    return {"END" if token == END else chr(token) for token in mask.allowed.nonzero()[0].tolist()}


def feed(mask: Mask, text: str) -> None:
    for byte in text.encode():
        assert mask.allowed[byte], f"{chr(byte)!r} of {text!r} is not allowed"
        mask.accept(byte)


def test_only_what_the_grammar_allows_may_come_next_and_the_end_only_where_it_may_end() -> None:
    mask = started("choice", '["yes", "no", "nowhere"]')
    assert allowed(mask) == {"y", "n"}
    feed(mask, "no")
    assert allowed(mask) == {"END", "w"}
    mask.accept(END)


def test_what_must_come_next_is_named_without_asking_the_model() -> None:
    mask = started("json_schema", json.dumps(PERSON))
    feed(mask, '{"')
    forced = bytes(mask.forced()).decode()
    assert forced.startswith('name"')


def test_a_draft_is_cut_where_it_leaves_the_grammar() -> None:
    mask = started("regex", "[0-9]{3}-[0-9]{4}")
    assert bytes(mask.fitting(list(b"555-12x4"))) == b"555-12"
    assert allowed(mask) == set("0123456789"), "looking does not move it"


def test_two_sequences_of_one_grammar_do_not_know_each_other() -> None:
    grammar = Grammar("choice", '["ab", "ac"]', "guided_choice")
    one, other = CONSTRAINTS.compile(grammar).start(), CONSTRAINTS.compile(grammar).start()
    feed(one, "a")
    assert allowed(one) == {"b", "c"}
    assert allowed(other) == {"a"}


@pytest.mark.parametrize(
    ("kind", "source", "answer"),
    [
        ("json_object", "", '{"a": [1, null, {"b": "c"}]}'),
        ("json_schema", json.dumps(PERSON), '{"name": "Ada", "age": 36}'),
        ("regex", "(ab)+c?", "ababc"),
        ("lark", 'start: "x" /[0-9]+/ "y"', "x12y"),
        ("gbnf", 'root ::= "yes" | "no" ws\nws ::= [ ]+', "no "),
        ("choice", '["a \\"quoted\\" word", "ünï"]', "ünï"),
    ],
)
def test_an_answer_in_the_form_that_was_asked_for_passes(kind: GrammarKind, source: str, answer: str) -> None:
    mask = started(kind, source)
    feed(mask, answer)
    assert "END" in allowed(mask)


@pytest.mark.parametrize(
    ("kind", "source", "told"),
    [
        ("json_schema", '{"not": {"type": "string"}}', "not"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"type": "strin"}', "strin"),
        ("json_schema", '{"$ref": "#/nowhere"}', "nowhere"),
        ("json_schema", "[1]", "response_format"),
        ("json_schema", "{", "response_format"),
        ("json_schema", '{"a":' * 5000 + "1" + "}" * 5000, "response_format"),
        ("regex", "(unclosed", "unclosed group"),
        ("regex", "(?=ahead)", "look-around"),
        ("lark", 'start: "a', "lexer error"),
        ("gbnf", "root ::= (", "response_format"),
        ("choice", "[]", "response_format"),
        ("lark", "start: A\nA: " + " & ".join(f"/[a-z]*x{at}[a-z]*/" for at in range(12)), "any further"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason_in_one_line(
    kind: GrammarKind, source: str, told: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        started(kind, source)
    assert told in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("source", ["[ab]{2,90}c", "(" * 100])
def test_a_grammar_is_compiled_once_whoever_asks_and_whatever_comes_of_it(source: str) -> None:
    constraints = Constraints(ByteVocabulary())
    compiled: list[str] = []

    def compile_it(_: int) -> str:
        try:
            return str(id(constraints.compile(Grammar("regex", source, "guided_regex"))))
        except InvalidRequest as refused:
            return refused.message

    real = constraints._compiled

    def counting(grammar: Grammar) -> Constraint:
        compiled.append(grammar.source)
        return real(grammar)

    constraints._compiled = counting  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as threads:
        results = set(threads.map(compile_it, range(24)))
    assert len(results) == 1
    assert compiled == [source]


def test_a_grammar_that_has_too_many_parts_is_said_to_be_too_large() -> None:
    items = ",".join(f'{{"maxItems":{most}}}' for most in range(3_400))
    with pytest.raises(InvalidRequest, match=r"cannot be followed: it is too large$"):
        started("json_schema", f'{{"prefixItems":[{items}]}}')


def test_a_chain_of_rules_does_not_end_the_process() -> None:
    chain = "".join(f"r{at}:r{at + 1}\n" for at in range(4_000))
    feed(started("lark", f'start:r0\n{chain}r4000:"x"\n'), "x")


@pytest.mark.parametrize(("kind", "unit"), [("choice", '"word",'), ("regex", "a"), ("gbnf", "# none\n")])
def test_a_grammar_that_is_too_long_is_refused_at_once_by_its_length(kind: GrammarKind, unit: str) -> None:
    source = unit * 100_000
    with pytest.raises(InvalidRequest, match=rf"'response_format' .* {len(source)} characters"):
        started(kind, source)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_picked_among_the_allowed_is_valid_in_the_end(seed: int) -> None:
    draw = random.Random(seed)
    mask, said = started("json_schema", json.dumps(PERSON)), bytearray()
    for _ in range(2000):
        tokens = mask.allowed.nonzero()[0].tolist()
        token = END if END in tokens else draw.choice(tokens)
        mask.accept(token)
        if token == END:
            break
        said.append(token)
    person = json.loads(said)
    assert isinstance(person["name"], str)
    assert isinstance(person["age"], int)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1_000_000])
def test_a_vocabulary_may_have_tokens_of_any_length(size: int) -> None:
    vocabulary = ByteVocabulary()
    vocabulary.pieces = (*vocabulary.pieces, b"x" * size, b"")
    controls = {**vocabulary.control_texts, f"<{'y' * size}>": len(vocabulary.pieces) - 1}
    vocabulary.control_texts = controls
    mask = Constraints(vocabulary).compile(Grammar("regex", "x+", "regex")).start()
    assert mask.allowed[ord("x")]
    assert not mask.allowed[ord("y")]
