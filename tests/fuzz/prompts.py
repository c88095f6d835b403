"""Requests made by grammar, through every template there is: none may say more than words can.

    python -m tests.fuzz.prompts --count 20000 [--seed 1] [--jobs 2]

A seed makes the body of a chat request, whose strings spell control tokens, halves of them, escapes, template
code and everything else that a template may look at, and a twin of it with plain words instead. Both are
parsed as the server parses them and written through one of llama.cpp's templates. Either is refused in words
or written, within LIMIT_S; and the control tokens of both are the same. The figures are in docs/security.md.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests import llama_models
from tests.engine.local.prompts.test_strict import Vocabulary

from corral.dialects.openai.chat_request import generation_request, read_chat
from corral.engine.local.backend import ChatFormat
from corral.engine.local.prompts.writer import PromptWriter
from corral.errors import CorralError

LIMIT_S = 10
Text = Callable[[], str]

PIECES = (
    " ", "\n", "\t", "\0", "\r\n", "a", "word", "1" * 40, "x" * 3000, "é", "中文", "\U0001f600", "\u0301",
    "\u200d", "\u202e", "\ufdd0", "\ufdef", "\ue000", "\U000f0000", "\ufffd", "\\", '"', "'", "{", "}",
    "{{ 1 }}", "{% if %}", "{# #}", "\\u003c", "&lt;", "%3C", "<", "|", ">", "[", "]", "/", "<tool_call>",
    "</think>", "<think>", "```json", '{"name": "look", "arguments": {}}', "Observation:",
    "<tool_response>", "functions.look:0", "None", "null", "true",
)  # fmt: skip
KWARGS: tuple[dict[str, Any], ...] = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"reasoning_effort": "low"},
)


def hostile(chance: random.Random, controls: list[str]) -> Text:
    """Makes texts out of control texts, whole and cut, and of PIECES. No two are the same, as in `plain`:
    templates compare messages."""
    numbers = iter(range(10**9))

    def piece() -> str:
        text = chance.choice(controls)
        match chance.randrange(8):
            case 0 | 1 | 2:
                return text
            case 3:
                return text[: chance.randrange(len(text) + 1)]
            case 4:
                return text[chance.randrange(len(text)) :]
            case 5:
                return chance.choice(
                    [text.upper(), text[::-1], json.dumps(text)[1:-1].replace("<", "\\u003c")]
                )
            case _:
                return chance.choice(PIECES)

    return lambda: f"x{next(numbers)}" + "".join(piece() for _ in range(chance.choice([1, 1, 2, 5, 20])))


def plain() -> Text:
    """Makes words, no two texts the same: they may be keys."""
    numbers = iter(range(10**9))
    return lambda: f"plain words {next(numbers)}"


def body(chance: random.Random, text: Text) -> bytes:
    """A chat request. What `chance` decides is its shape, so a twin has the same with another `text`."""
    tools = [_tool(chance, name, text) for name in ("look", "take")[: chance.randrange(3)]]
    asked: dict[str, Any] = {
        "messages": list(_messages(chance, text, bool(tools))),
        "chat_template_kwargs": chance.choice(KWARGS),
        "add_generation_prompt": chance.random() < 0.9,
    }
    if tools:
        asked["tools"] = tools
        asked["tool_choice"] = chance.choice(["auto", "none", "required"])
    return json.dumps(asked).encode()


def _messages(chance: random.Random, text: Text, has_tools: bool) -> Iterator[dict[str, Any]]:
    if chance.random() < 0.5:
        yield {"role": chance.choice(["system", "developer"]), "content": text()}
    for turn in range(chance.randrange(1, 4)):
        parts = [{"type": "text", "text": text()} for _ in range(chance.randrange(1, 3))]
        yield {"role": "user", "content": parts if chance.random() < 0.3 else text()}
        answer: dict[str, Any] = {"role": "assistant", "content": text()}
        if chance.random() < 0.3:
            answer["reasoning_content"] = text()
        if has_tools and chance.random() < 0.6:
            arguments = {"place": text(), text(): [True, {"a": text()}, None, 1.5]}
            function = {"name": "look", "arguments": json.dumps(arguments)}
            call = {"id": f"call{turn:05}", "type": "function", "function": function}
            yield {**answer, "tool_calls": [call]}
            yield {"role": "tool", "tool_call_id": call["id"], "content": text()}
            answer = {"role": "assistant", "content": text()}
        yield answer
    yield {"role": "user", "content": text()}


def _tool(chance: random.Random, name: str, text: Text) -> dict[str, Any]:
    place = {"type": "string", "description": text(), "enum": [text(), text()]}
    schema = {"type": "object", "properties": {"place": place, text(): {"type": ["integer", "null"]}}}
    schema["required"] = ["place"] if chance.random() < 0.5 else []
    function = {"name": name, "description": text(), "parameters": schema, "strict": chance.random() < 0.5}
    return {"type": "function", "function": function}


@cache
def writer(path: Path) -> tuple[PromptWriter, list[str]]:
    """A template's writer on bytes, and the texts of its control tokens."""
    source = path.read_text(encoding="utf-8")
    vocabulary = Vocabulary(source)
    return PromptWriter(ChatFormat(source, "<s>", "</s>"), vocabulary), sorted(vocabulary.control_texts)


def written(path: Path, raw: bytes) -> list[int] | None:
    """The control tokens of a request's prompt; None if it is refused."""
    try:
        return [
            token
            for token in writer(path)[0].write(generation_request(read_chat(raw))).tokens
            if token >= 256
        ]
    except CorralError:
        return None


def _too_late(*_: object) -> None:
    raise TimeoutError(f"longer than {3 * LIMIT_S} s")


def verdict(seed: int) -> tuple[int, str, float]:
    """Try what a seed makes: the seed, what came of it, and the seconds of the hostile one."""
    paths = llama_models.templates()
    path = paths[seed % len(paths)]
    controls = writer(path)[1]
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, 3 * LIMIT_S)
    try:
        twin = written(path, body(random.Random(seed), plain()))
        began = time.perf_counter()
        # The texts are drawn by another lot than the shape.
        got = written(path, body(random.Random(seed), hostile(random.Random(~seed), controls)))
        took_s = time.perf_counter() - began
    except Exception as error:
        return seed, f"{path.stem}: {type(error).__name__}: {error}", 0.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if took_s > LIMIT_S:
        return seed, f"{path.stem}: {took_s:.1f} s", took_s
    if got != twin:
        return seed, f"{path.stem}: control tokens of a request", took_s
    return seed, "refused" if got is None else "written", took_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="the first; the others follow it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    found: Counter[str] = Counter()
    slowest = (0.0, 0)
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    with multiprocessing.Pool(arguments.jobs) as pool:
        for seed, outcome, took_s in pool.imap_unordered(verdict, seeds, chunksize=70):
            is_right = outcome in ("written", "refused")
            found[outcome if is_right else "wrong"] += 1
            slowest = max(slowest, (took_s, seed))
            if not is_right:
                print(f"seed {seed}: {outcome}", flush=True)
    print(
        f"{found.total()} requests: {found['written']} written, {found['refused']} refused in words, "
        f"{found['wrong']} wrong, slowest {slowest[0]:.2f} s (seed {slowest[1]})"
    )
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
