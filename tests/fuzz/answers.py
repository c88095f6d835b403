"""Hostile answers for the streaming parser, in the format of every template that is at hand.

    python -m tests.fuzz.answers --minutes 10 [--seed 1]

It prints a line for every answer that is not read as it should be and, in the end, what was tried. Pieces of
a format's own markers are cut, nested, repeated, and mixed with bytes of no meaning. Of each answer:

- nothing is raised, blocks follow one another, and a call's arguments are JSON, or a prefix of it;
- in other pieces it means the same;
- of huge ones, four times as much takes no more than about four times as long.

The figures are in docs/security.md.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, repeat
from pathlib import Path

import msgspec
from tests import llama_models
from tests.decoding.answers import TOOLS
from tests.decoding.forms import ALL

from corral.decoding.blocks import BlockParser, Ending
from corral.decoding.formats.encode import WrittenCall, encode_calls
from corral.decoding.formats.form import Format, split_controls
from corral.decoding.formats.learn import learn, literals
from corral.decoding.json_scan import completed
from corral.decoding.markers import Markers
from corral.events import BlockClosed, BlockCollector, BlockOpened
from corral.templates.environment import ChatTemplate

OWN_TEMPLATES = Path(__file__).resolve().parent.parent / "decoding" / "templates"
CALLS = (
    WrittenCall("get_weather", {"city": 'Os"lo\n', "days": 3, "where": {"a": [1, None]}}, "abcdefghi"),
    WrittenCall("run_code", {"code": "x < 1 && '</parameter>' </tool_call> }"}, "abcdefghj"),
    WrittenCall("ping", {}, "abcdefghk"),
)
WORDS = (
    *("get_weather", "ping", "nobody", "city", "days", "Hello ", "\n", " \n", " ", "\x00", "é🚀", "\ufffd"),
    *('{"name": "', '", "arguments": {', '"city": "Oslo"', "}", "]", "{", "[", "(", ")", ",", ":", "=", '"'),
    *("3", "-1.5e3", "true", "None", "nul", "\\", "\\u00e9", "\\ud83d", "'", "`", "```\n", "<", ">", "</"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "/>"),
)
HUGE_CHARS = 60_000
LAST_CHARS = 600
SLOW_US = 200.0
"""More than this for one character, of thousands, is a fault."""
STEEP = 10.0
"""Four times as much takes so many times as long: between linear, which is 4, and quadratic, which is 16."""


@dataclass(frozen=True)
class Model:
    """One format, ready to read with, and the pieces that answers in it are made of."""

    name: str
    form: Format
    markers: Markers
    pieces: tuple[str, ...]
    prompts: tuple[str, ...] = ("",)


@dataclass
class Tried:
    """What was done, and what was wrong."""

    inputs: int = 0
    characters: int = 0
    faults: list[str] = field(default_factory=list)
    slowest_us: float = 0.0
    """Of one character, over an answer of at least a thousand."""
    slowest: str = ""
    longest_s: float = 0.0
    steepest: float = 0.0
    last: str = ""


Meaning = tuple[object, ...]
Reading = Callable[[Model, Ending, str, str, Iterator[int]], Meaning]


def models() -> Iterator[Model]:
    """All formats: those written by hand, and what is learned of every template that is here."""
    for name, form in ALL.items():
        yield _model(name, form, ())
    paths = [*sorted(OWN_TEMPLATES.rglob("*.jinja"))]
    if llama_models.FOLDER.exists():
        paths += llama_models.templates()
    for path in paths:
        source = path.read_text(encoding="utf-8")
        learned = learn(ChatTemplate(source).render, source=source)
        prompts = (learned.prompts.default, learned.prompts.on or "", learned.prompts.off or "")
        yield _model(path.stem, learned.format, prompts)


def _model(name: str, form: Format, prompts: Sequence[str]) -> Model:
    thought = [form.thought.opener, form.thought.closer] if form.thought else []
    written = [encode_calls(call_form, CALLS[:number]) for call_form in form.calls for number in (1, 2, 3)]
    pieces = tuple(filter(None, (*literals(form), *thought, *written, *form.controls)))
    return Model(name, form, Markers(form), pieces, tuple({*prompts, ""}))


def answer(draw: random.Random, model: Model) -> str:
    """Something between a proper answer and noise."""
    parts: list[str] = []
    for _ in range(draw.randint(1, 14)):
        kind = draw.random()
        part = draw.choice(model.pieces) if kind < 0.6 and model.pieces else draw.choice(WORDS)
        if kind < 0.25:  # cut, at either end
            at = draw.randint(0, len(part))
            part = draw.choice([part[:at], part[at:]])
        elif kind < 0.35:  # one inside the other
            at = draw.randint(0, len(part))
            part = part[:at] + draw.choice(model.pieces or WORDS) + part[at:]
        elif kind > 0.95:
            part = draw.randbytes(draw.randint(1, 60)).decode(errors="replace")
        elif kind > 0.9:
            part = "".join(
                chr(draw.choice([draw.randint(1, 0x7F), draw.randint(0xA0, 0xD7FF)])) for _ in range(9)
            )
        if draw.random() < 0.1:
            part *= draw.randint(2, 40)
        parts.append(part)
    return "".join(parts)


def huge(draw: random.Random, model: Model, characters: int) -> Callable[[int], str]:
    """One piece, or a few, over and over behind a beginning; the length is up to who asks."""
    begin = draw.choice(["", draw.choice(model.pieces or WORDS), answer(draw, model)[:400]])
    unit = "".join(draw.choice((*model.pieces, *WORDS)) for _ in range(draw.randint(1, 3)))
    if draw.random() < 0.5:
        unit = unit[: draw.randint(1, 12)]
    unit = unit or "x"

    def text(times: int) -> str:
        return begin + unit * max(1, times * characters // len(unit))

    return text


def read(model: Model, ending: Ending, prompt: str, text: str, sizes: Iterator[int]) -> Meaning:
    """What an answer means, fed in pieces; AssertionError where the events are none of a proper stream."""
    ids = count()
    parser = BlockParser(model.markers, TOOLS, prompt=prompt, new_id=lambda: f"call_{next(ids)}")
    collector, events = BlockCollector(), []
    for piece in split_controls(text, model.form.controls):
        if piece in model.form.controls:
            events += parser.feed(piece, is_control=True)
            continue
        at = 0
        while at < len(piece):
            size = next(sizes)
            events += parser.feed(piece[at : at + size])
            at += size
    events += parser.finish(ending)
    is_open = False
    for event in events:
        if isinstance(event, BlockOpened | BlockClosed):
            assert is_open is isinstance(event, BlockClosed), "blocks follow one another"
            is_open = not is_open
        else:
            assert is_open, "text belongs to a block"
        collector.feed(event)
    assert not is_open, "the last block is closed"
    for block in collector.blocks:
        if block.kind != "tool":
            continue
        if block.is_whole:
            msgspec.json.decode(block.text, type=dict[str, msgspec.Raw])  # an object
        else:
            msgspec.json.decode(completed(block.text), type=dict[str, msgspec.Raw])
    said = tuple((block.kind, block.name, block.text, block.is_whole) for block in collector.blocks)
    return (*said, parser.malformed)


def _random(draw: random.Random) -> Iterator[int]:
    while True:
        yield draw.randint(1, 20)


def fuzz(
    seed: int,
    all_models: Sequence[Model],
    *,
    inputs: int | None = None,
    until_s: float | None = None,
    read: Reading = read,
) -> Tried:
    """Try so many inputs, or until that time by time.monotonic; one of every ten is huge."""
    draw, tried = random.Random(seed), Tried()
    while (inputs is None or tried.inputs < inputs) and (until_s is None or time.monotonic() < until_s):
        model = all_models[tried.inputs % len(all_models)]
        tried.inputs += 1
        attempt = _time_one if tried.inputs % 10 == 0 else _cut_one
        ending: Ending = draw.choice(["stop", "length"])
        prompt = draw.choice(model.prompts)
        try:
            attempt(draw, tried, model, partial(read, model, ending, prompt))
        except Exception as error:  # whatever it is, it is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            tried.faults.append(
                f"{model.name}, {ending}, {prompt!r}: {error!r} in {where.name}: {tried.last!r}"
            )
    return tried


def _cut_one(
    draw: random.Random, tried: Tried, model: Model, read: Callable[[str, Iterator[int]], Meaning]
) -> None:
    """An answer in one piece, in characters, and in pieces of any size."""
    text = tried.last = answer(draw, model)
    tried.characters += 3 * len(text)
    whole = read(text, repeat(len(text) + 1))
    assert read(text, repeat(1)) == whole, "one by one it means the same"
    assert read(text, _random(draw)) == whole, "in other pieces it means the same"


def _time_one(
    draw: random.Random, tried: Tried, model: Model, read: Callable[[str, Iterator[int]], Meaning]
) -> None:
    size = draw.choice([1, 4, 1000])
    timed(
        tried,
        huge(draw, model, draw.choice([500, 2_000, HUGE_CHARS // 4])),
        lambda text: read(text, repeat(size)),
    )


def timed(tried: Tried, make: Callable[[int], str], read: Callable[[str], object]) -> None:
    """Read a text and then four times as much of it, and compare the times; AssertionError if it is slow."""
    took: list[float] = []
    for times in (1, 4):
        text = make(times)
        tried.last = text[:LAST_CHARS]
        began_s = time.process_time()
        read(text)
        took.append(time.process_time() - began_s)
        tried.characters += len(text)
        us = 1e6 * took[-1] / len(text)
        if len(text) >= 1000 and us > tried.slowest_us:
            tried.slowest_us, tried.slowest = us, text[:200]
        tried.longest_s = max(tried.longest_s, took[-1])
        assert len(text) < 1000 or us < SLOW_US, f"{us:.0f} us a character"
    if took[0] > 0.02:  # below, the clock says little
        steepness = took[1] / took[0]
        tried.steepest = max(tried.steepest, steepness)
        assert steepness < STEEP, f"four times as much took {steepness:.1f} times as long"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = list(models())
    tried = fuzz(arguments.seed, found, until_s=time.monotonic() + 60 * arguments.minutes)
    for fault in tried.faults:
        print(fault)
    print(f"{len(found)} formats, {tried.inputs} inputs, {tried.characters} characters")
    print(f"{len(tried.faults)} faults")
    print(
        f"slowest {tried.slowest_us:.1f} us a character, longest {tried.longest_s:.2f} s: {tried.slowest!r}"
    )
    print(f"four times as much took at most {tried.steepest:.1f} times as long")
    return 1 if tried.faults else 0


if __name__ == "__main__":
    sys.exit(main())
