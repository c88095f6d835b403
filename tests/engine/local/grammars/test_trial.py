"""What a grammar would do to the server, it does to a process of its own."""

import gc
import os
import signal
import time

import pytest

from corral.engine.local.grammars import trial
from corral.engine.local.grammars.child import Shape
from corral.engine.local.grammars.constraints import Constraints
from corral.engine.local.grammars.source import Unfollowable
from corral.engine.local.grammars.trial import Trials
from corral.engine.local.scripted import ByteVocabulary
from corral.errors import InvalidRequest
from corral.request import Grammar, GrammarKind

pytestmark = pytest.mark.skipif(not hasattr(signal, "ITIMER_PROF"), reason="has no such timer")

SHAPE = Shape(1000, {"<|im_end|>": 999, "<|im_start|>": 998}, (999,))


def grammar(kind: GrammarKind, source: str) -> Grammar:
    return Grammar(kind, source, "guided_grammar")


def joined(rules: int) -> str:
    """Each rule more doubles what it takes: with 20 it is 1.4 s, with 23 it is 22 s and 2 GB."""
    return "start: A\nA: " + " & ".join(f"/[a-z]*x{at}[a-z]*/" for at in range(rules))


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials(SHAPE)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_object", ""),
        ("json_schema", '{"type": "object", "properties": {"a": {"enum": [1, "é"]}}}'),
        ("regex", "[ab]{2,90}"),
        ("choice", '["yes", "no"]'),
        ("lark", "start: /[a-z]+/ <|im_start|> <[5]> | TEXT <[7-9]>\nTEXT: /x*/"),
        ("gbnf", 'root ::= "a" | "b"'),
    ],
)
def test_what_can_be_followed_passes(trials: Trials, kind: GrammarKind, source: str) -> None:
    trials.check(grammar(kind, source))


@pytest.mark.parametrize(
    ("kind", "source", "told"),
    [
        ("regex", "(unclosed", "unclosed group"),
        ("lark", "start: <|no_such_token|>", "no_such_token"),
        ("gbnf", "root ::= (", "Expected"),
    ],
)
def test_what_cannot_be_is_told_with_the_reason(
    trials: Trials, kind: GrammarKind, source: str, told: str
) -> None:
    with pytest.raises(Unfollowable, match=told):
        trials.check(grammar(kind, source))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have less time than they would have."""
    program = "from corral.engine.local.grammars import child; child.CPU_S = 0.3; child.main()"
    monkeypatch.setattr(trial, "_COMMAND", (*trial._COMMAND[:2], "-c", program))


@pytest.mark.usefixtures("impatient")
def test_what_takes_the_processor_for_ever_is_ended_and_the_next_one_is_served() -> None:
    trials = Trials(SHAPE)
    with pytest.raises(Unfollowable, match="too much time or memory"):
        trials.check(grammar("lark", joined(32)))
    trials.check(grammar("regex", "a+"))


def test_a_process_that_somebody_ended_is_no_verdict(trials: Trials) -> None:
    trials.check(grammar("regex", "a+"))
    [child] = trials._idle
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    trials.check(grammar("regex", "a+"))


def test_the_processes_end_with_what_they_are_for() -> None:
    trials = Trials(SHAPE)
    trials.check(grammar("regex", "a+"))
    [child] = trials._idle
    del trials
    gc.collect()
    assert child.poll() == -signal.SIGKILL


@pytest.mark.usefixtures("impatient")
def test_a_small_grammar_that_would_take_gigabytes_is_refused_by_its_field() -> None:
    constraints = Constraints(ByteVocabulary())
    began_s = time.process_time()
    with pytest.raises(InvalidRequest, match="'guided_grammar' cannot be followed: compiling it takes too"):
        constraints.compile(grammar("lark", joined(30)))
    assert time.process_time() - began_s < 1.0, "none of it was done here"
