"""What it costs to hold an answer to a schema, to read its blocks, and to learn how a model writes them.

One server; as many streams with a schema of twenty fields and free, in turns, tokens counted alike. The rest
is measured in this process, on the same model's vocabulary and template.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import trio

from tools.clients.http1 import chat
from tools.clients.prompts import TOPICS, tag
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

STREAMS = (1, 8)
OUTPUT_TOKENS = 160  # fewer than the schema's shortest object has, so that both kinds of stream are as long
FIELDS = 20
SCHEMA = {
    "type": "object",
    "properties": {
        f"field_{index}": {"type": "string", "maxLength": 40} if index % 2 else {"type": "integer"}
        for index in range(FIELDS)
    },
    "required": [f"field_{index}" for index in range(FIELDS)],
    "additionalProperties": False,
}
TEXT = "The river ran past the old mill, and nobody knew for how long it had stood there. "
CALL = '<tool_call>\n{"name": "look", "arguments": {"place": "the old mill", "depth": 12}}\n</tool_call>\n'


class StructureRow(msgspec.Struct, frozen=True):
    """So many streams: tokens a second, in the median of the repetitions."""

    streams: int
    free_tokens_s: float | None
    held_tokens_s: float | None
    ratio: float | None


async def structure(bed: Bed, plan: Plan) -> Sheet:
    """Tokens/s with a mask and without, and what the parts of it take."""
    streams = plan.streams or STREAMS
    broken: list[str] = []
    rows = []
    async with bed.server("--slots", str(max(streams))) as server:
        await _rate(server.target, 1, 0, None, broken)
        for number_of in streams:
            pairs = []
            for repetition in range(plan.repeats):
                free = await _rate(server.target, number_of, repetition, None, broken)
                held = await _rate(server.target, number_of, repetition, SCHEMA, broken)
                pairs.append((free, held))
                dot()
            frees, helds = zip(*pairs, strict=True)
            ratio = middle([held / free for free, held in pairs if free])
            rows.append(StructureRow(number_of, middle(frees), middle(helds), ratio))
    parts = await trio.to_thread.run_sync(_parts, bed.model_file)
    return Sheet(
        name="structure",
        columns=["streams", "free tok/s", "held tok/s", "ratio"],
        cells=[
            [
                str(row.streams),
                number(row.free_tokens_s, 1),
                number(row.held_tokens_s, 1),
                number(row.ratio, 3),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[
            *(Goal(f"{row.streams} streams held / free", 0.9, row.ratio, False) for row in rows),
            Goal("reading the blocks of an answer, us a token", 15.0, parts["text_us"], True),
            Goal("reading calls, us a token", 15.0, parts["calls_us"], True),
            Goal("learning the model's template, ms", 100.0, parts["learn_ms"], True),
        ],
        notes=[
            f"compiling: {parts['compile_ms']:.1f} ms for the schema, {parts['vocabulary_ms']:.0f} ms once "
            f"for the vocabulary; a mask takes {parts['mask_us']:.0f} us in the mean"
        ],
        definitions=f"""\
tokens/s: of all streams, from before the first request to after the last end, {OUTPUT_TOKENS} tokens each
  at the default sampling. held: to a schema of {FIELDS} fields. ratio: of one repetition, in the median.""",
        broken=broken,
    )


async def _rate(
    target: Target, streams: int, repetition: int, schema: object | None, broken: list[str]
) -> float:
    """Tokens a second of so many streams side by side."""
    answers: list[Answer] = []

    async def ask(index: int) -> None:
        serial = 1000 * repetition + 2 * index + (schema is not None)
        asked = f"{tag(serial)}: describe {TOPICS[index % len(TOPICS)]} in all detail."
        request = Chat(
            [{"role": "user", "content": asked}],
            OUTPUT_TOKENS,
            stream=True,
            ignore_eos=schema is None,
            response_format=_format(schema),
        )
        answers.append(await chat(target, request))

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for index in range(streams):
            nursery.start_soon(ask, index)
    ended_s = trio.current_time()
    broken += [answer.fate for answer in answers if not answer.is_whole]
    return sum(answer.completion_tokens for answer in answers) / (ended_s - began_s)


def _format(schema: object | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def _parts(model: Path) -> dict[str, float]:
    """What the parts take, each the least of a few."""
    from corral.decoding.blocks import BlockParser
    from corral.decoding.formats.learn import learn
    from corral.decoding.markers import Markers
    from corral.engine.local.grammars.constraints import Constraints
    from corral.engine.local.llama.model import LlamaModel
    from corral.request import Grammar, Tool
    from corral.templates.environment import ChatTemplate

    loaded = LlamaModel(model, vocab_only=True)
    vocabulary, source = loaded.vocabulary, loaded.chat_format.template or ""
    template = ChatTemplate(source)
    learned = learn(template.render, source=source)
    markers = Markers(learned.format)
    tool = Tool("look", "", msgspec.Raw(b'{"type": "object"}'))

    def read(pieces: list[str]) -> None:
        ids = count()
        parser = BlockParser(markers, (tool,), new_id=lambda: str(next(ids)))
        for piece in pieces:
            parser.feed(piece)
        parser.finish()

    def pieces_of(text: str) -> list[str]:
        tokens = vocabulary.tokenize(text, parse_control=False)
        return [vocabulary.pieces[token].decode(errors="replace") for token in tokens]

    began_s = time.perf_counter()
    constraints = Constraints(vocabulary)
    vocabulary_s = time.perf_counter() - began_s
    serials = count()

    def compile_new() -> None:
        schema = {**SCHEMA, "title": str(next(serials))}
        constraints.compile(Grammar("json_schema", msgspec.json.encode(schema).decode(), "it"))

    mask = constraints.compile(Grammar("json_schema", msgspec.json.encode(SCHEMA).decode(), "it")).start()
    example = msgspec.json.encode(
        {f"field_{i}": "a few words" if i % 2 else i for i in range(FIELDS)}
    ).decode()
    followed = vocabulary.tokenize(example.replace('":', '": ').replace(',"', ', "'), parse_control=False)
    followed = mask.fitting(followed)
    began_s = time.perf_counter()
    for token in followed:
        assert mask.allowed[token]
        mask.accept(token)
    masks_s = time.perf_counter() - began_s
    text, calls = pieces_of(TEXT * 20), pieces_of(CALL * 20)
    return {
        "text_us": 1e6 * _least_s(partial(read, text)) / len(text),
        "calls_us": 1e6 * _least_s(partial(read, calls)) / len(calls),
        "learn_ms": 1e3 * _least_s(lambda: learn(template.render, source=source)),
        "compile_ms": 1e3 * _least_s(compile_new),
        "vocabulary_ms": 1e3 * vocabulary_s,
        "mask_us": 1e6 * masks_s / len(followed),
    }


def _least_s(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s)
