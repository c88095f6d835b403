"""`corral format`: what was learned of a template, and what that makes of recorded answers.

It is how a user reports a model that misbehaves: the template, what the model wrote, what came of it.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from corral.decoding.blocks import BlockEvent, BlockParser, Ending
from corral.decoding.formats.form import CallForm, JsonBody, NamedBody, split_controls
from corral.decoding.formats.learn import Learned, learn, shown
from corral.decoding.json_scan import complete_json
from corral.decoding.markers import Markers
from corral.errors import StartupError
from corral.events import BlockCollector
from corral.printable import one_line, printable, say
from corral.request import Tool
from corral.templates.environment import ChatTemplate, TemplateFault

DEADLINE_S = 10.0
"""What a template may take to be learned, or for one prompt: it takes milliseconds, or loops."""

_USER = [{"role": "user", "content": "Hello"}]


class Case(msgspec.Struct, frozen=True):
    """One recorded answer: what a model wrote behind the prompt of this template, tools and arguments."""

    id: str
    template: str
    raw: str
    kwargs: dict[str, Any] = {}
    tools: list[dict[str, Any]] = []
    finish: Ending = "stop"


def fill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--template", type=Path, metavar="FILE", help="learn this chat template")
    parser.add_argument("--model", metavar="MODEL", help="learn the chat template of this model")
    parser.add_argument(
        "--templates", metavar="DIR[:DIR…]", help="where the templates that the cases name are looked for"
    )
    parser.add_argument("--cases", type=Path, metavar="FILE", help="recorded answers, a JSON object a line")
    parser.add_argument(
        "--split", type=int, default=1, metavar="N", help="feed the answers in pieces of N characters [1]"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was learned, or a line for every case; returns 1 where a case could not be parsed."""
    sys.set_int_max_str_digits(0)  # an answer may have a number of any length
    if arguments.cases is not None:
        if arguments.templates is None or arguments.split < 1:
            raise StartupError("--cases needs --templates DIR, and pieces of at least one character")
        folders = [Path(folder) for folder in arguments.templates.split(os.pathsep)]
        return _print_cases(folders, arguments.cases, arguments.split)
    if (arguments.template is None) == (arguments.model is None):
        raise StartupError("say either --template FILE, --model MODEL, or --templates DIR --cases FILE")
    source = _text(arguments.template) if arguments.template is not None else _template_of(arguments.model)
    _print(shown(learn_source(source)), indent=2)
    return 0


def learn_source(source: str) -> Learned:
    """Learn a template by its text alone, without a vocabulary.

    Raises StartupError if it does not compile, or takes too long. To be called by the main thread.
    """
    return _learned(source)[1]


def _learned(source: str) -> tuple[ChatTemplate, Learned]:
    with _deadline():
        template = _compiled(source)
        return template, learn(template.render, source=source)


class _Late(BaseException):
    """Time is up. No Exception, or what renders templates would take it for a refusal, and go on."""


@contextmanager
def _deadline() -> Iterator[None]:
    """End what runs here after DEADLINE_S, by a StartupError; a template may loop for ever."""

    def end(_signal: int, _frame: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    except _Late:
        raise StartupError(f"the chat template takes longer than {DEADLINE_S:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StartupError(f"{path} is not text in UTF-8: {error.reason} at {error.start:,}") from error


def summary(learned: Learned) -> str:
    """How the model writes calls, in a few words, and where that is known from."""
    kinds = "; ".join(kind(form) for form in learned.format.calls)
    return f"{kinds} ({learned.format.source})"


def kind(form: CallForm) -> str:
    """What kind of call a form is, in the words of docs/formats.md."""
    body = form.bodies[0]
    if len(form.bodies) > 1:
        return "whatever follows the token"
    if isinstance(body, JsonBody):
        is_marked = form.section_begin or any(form.begin)
        return ("JSON list of calls" if form.is_list else "JSON call") + ("" if is_marked else ", no marker")
    if isinstance(body, NamedBody):
        return "name, JSON"
    if body.item is not None:
        return "name, nested tags"
    if body.values == "raw":
        return "name, tagged values"
    return "name, literals in own quotes" if body.quote else "Python calls"


def parse_case(case: Case, template: ChatTemplate, learned: Learned, split: int) -> dict[str, Any]:
    """Parse one answer as the server would, in pieces of `split` characters.

    There is no vocabulary: a marker that is spelled counts as the control token that it spells. Raises
    StartupError for a template that takes too long. To be called by the main thread.
    """
    try:
        with _deadline():
            prompt = template.render(_USER, case.tools, add_generation_prompt=True, **case.kwargs)
    except TemplateFault:
        prompt = learned.prompts.default
    ids = count()
    parser = BlockParser(
        Markers(learned.format), _tools(case.tools), prompt=prompt, new_id=lambda: f"call_{next(ids)}"
    )
    collector = BlockCollector()
    for event in _parsed(parser, case, learned.format.controls, split):
        collector.feed(event)
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: list[dict[str, Any]] = []
    for block in collector.blocks:
        if block.kind == "tool":
            value = complete_json(block.text)
            whole, cut = (value, None) if block.is_whole else (None, value)
            calls.append({"name": block.name, "arguments": whole, "arguments_partial": cut})
        else:
            texts[block.kind].append(block.text)
    return {
        "id": case.id,
        "reasoning": "".join(texts["reasoning"]).strip() or None,
        "content": "".join(texts["text"]).strip() or None,
        "tool_calls": calls,
        "malformed": parser.malformed,
    }


def _parsed(parser: BlockParser, case: Case, controls: frozenset[str], split: int) -> Iterator[BlockEvent]:
    for piece in split_controls(case.raw, controls):
        if piece in controls:
            yield from parser.feed(piece, is_control=True)
            continue
        for at in range(0, len(piece), split):
            yield from parser.feed(piece[at : at + split])
    yield from parser.finish(case.finish)


def _print_cases(folders: Sequence[Path], path: Path, split: int) -> int:
    learned: dict[str, tuple[ChatTemplate, Learned]] = {}
    code = 0
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            case = msgspec.json.decode(line, type=Case)
            if case.template not in learned:
                learned[case.template] = _learned(_text(_found(folders, case.template)))
            _print(parse_case(case, *learned[case.template], split))
        except (StartupError, msgspec.MsgspecError) as error:
            say(f"corral: {one_line(f'{path.name}, line {number}: {error}')}", sys.stderr)
            code = 1
    return code


def _found(folders: Sequence[Path], name: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise StartupError(f"there is no template {name} in {os.pathsep.join(map(str, folders))}")


def _compiled(source: str) -> ChatTemplate:
    try:
        return ChatTemplate(source, bos_text="<s>", eos_text="</s>")
    except TemplateFault as fault:
        raise StartupError(f"the chat template does not compile: {fault}") from fault


def _template_of(model: str) -> str:
    from corral.engine.local.llama import modelfile

    model_file = modelfile.resolve(model)
    template = modelfile.describe(model_file.path).chat_template
    if template is None:
        raise StartupError(f"{model_file.name} has no chat template")
    return template


def _tools(tools: Sequence[dict[str, Any]]) -> list[Tool]:
    found = []
    for tool in tools:
        function = tool.get("function", tool)
        parameters = msgspec.Raw(msgspec.json.encode(function.get("parameters", {})))
        found.append(Tool(function["name"], function.get("description", ""), parameters))
    return found


def _print(value: Any, indent: int | None = None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Half a surrogate pair that a model wrote, or what moves text about, is written as an escape of JSON.
    is_plain = printable(text) == text and _can_write(text)
    print(text if is_plain else json.dumps(value, indent=indent))


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
