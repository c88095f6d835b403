"""Speculative decoding: one stream with drafts and without, on prompts to be copied and on free text.

Two servers, with and without, take turns at the same prompts; who begins changes with every prompt. The
ratio is taken for each prompt.
"""

import re
from dataclasses import dataclass
from itertools import takewhile

import msgspec

from tools.clients.connection import get_json
from tools.clients.framing import FramingError
from tools.clients.http1 import chat
from tools.clients.prompts import TOPICS, tag
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

OUTPUT_TOKENS = 256
WITHOUT = {"CORRAL_PROMPT_LOOKUP": "false"}

CODE = (
    '''\
def moving_average(values, window):
    """Return the moving average of a list of numbers."""
    if window <= 0:
        raise ValueError("window must be positive")
    averages = []
    total = 0.0
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        if index >= window - 1:
            averages.append(total / window)
    return averages


def largest_gap(values):
    """Return the largest difference between neighbours."""
    largest = 0.0
    for left, right in zip(values, values[1:]):
        largest = max(largest, abs(right - left))
    return largest
''',
    '''\
class Stack:
    """A stack of items with a limit."""

    def __init__(self, limit=100):
        self.limit = limit
        self.items = []

    def push(self, item):
        if len(self.items) >= self.limit:
            raise OverflowError("the stack is full")
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items[-1]

    def __len__(self):
        return len(self.items)
''',
    '''\
import json
from pathlib import Path


def load_users(path):
    """Read users from a JSON file and return them by name."""
    text = Path(path).read_text(encoding="utf-8")
    users = {}
    for entry in json.loads(text):
        name = entry["name"].strip().lower()
        if name in users:
            raise KeyError(f"{name} is there twice")
        users[name] = {
            "email": entry.get("email", ""),
            "age": int(entry.get("age", 0)),
        }
    return users


def save_users(path, users):
    """Write users to a JSON file, sorted by name."""
    entries = [{"name": name, **users[name]} for name in sorted(users)]
    Path(path).write_text(json.dumps(entries, indent=2), encoding="utf-8")
''',
)
CHANGES = ("window to width", "limit to capacity", "users to people")


@dataclass(frozen=True, slots=True)
class _Case:
    kind: str
    conversation: list[dict[str, str]]


class DraftRow(msgspec.Struct, frozen=True):
    """One kind of prompt: medians over prompts and repetitions; counts are sums."""

    kind: str
    answers: int
    tokens: int
    with_tokens_s: float | None
    without_tokens_s: float | None
    decode_ratio: float | None
    whole_ratio: float | None
    drafted: float | None
    accepted: float | None
    differing: int
    equal_tokens: int
    ratios: list[float]


def _cases(repetition: int) -> list[_Case]:
    """Three prompts of each kind; the tag makes those of every repetition new ones."""
    cases = []
    for index, (code, change) in enumerate(zip(CODE, CHANGES, strict=True)):
        serial = 3 * repetition + index
        asked = f"Repeat this Python code exactly, with one change: rename {change}.\n\n```python\n{code}```"
        cases.append(_Case("copy-heavy", _conversation(serial, asked)))
        story = f"Tell me about {TOPICS[serial % len(TOPICS)]}."
        cases.append(_Case("free text", _conversation(serial, story)))
    return cases


def _conversation(serial: int, asked: str) -> list[dict[str, str]]:
    system = f"{tag(serial)}: you are a helpful assistant."
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


async def drafting(bed: Bed, plan: Plan) -> Sheet:
    """Tokens/s with prompt lookup and without, one stream, temperature 0."""
    pairs: dict[str, list[tuple[Answer, Answer]]] = {}
    counts: dict[str, list[tuple[float, float] | None]] = {}
    broken: list[str] = []
    async with (
        bed.server("--slots", "1") as with_drafts,
        bed.server("--slots", "1", env=WITHOUT) as without,
    ):
        drafts, plain = with_drafts.target, without.target
        for case in _cases(10_000)[:2]:  # the first answers of a server are slower
            await _answer(drafts, case, broken)
            await _answer(plain, case, broken)
        turn = 0
        for repetition in range(plan.repeats):
            for case in _cases(repetition):
                before = await _counted(drafts)
                turn += 1
                if turn % 2:
                    drafted = await _answer(drafts, case, broken)
                    undrafted = await _answer(plain, case, broken)
                else:
                    undrafted = await _answer(plain, case, broken)
                    drafted = await _answer(drafts, case, broken)
                dot()
                after = await _counted(drafts)
                pairs.setdefault(case.kind, []).append((drafted, undrafted))
                spent = (after[0] - before[0], after[1] - before[1]) if before and after else None
                counts.setdefault(case.kind, []).append(spent)
        if (plainly := await _counted(plain)) and plainly[0]:
            broken.append("the server without prompt lookup has drafted tokens")
    rows = [_row(kind, answers, counts[kind]) for kind, answers in pairs.items()]
    decode = {row.kind: row.decode_ratio for row in rows}
    return Sheet(
        name="drafting",
        columns=[
            "",
            "answers",
            "tokens",
            "with tok/s",
            "without",
            "least",
            "ratio",
            "whole ratio",
            "drafted",
            "accepted",
            "differ",
            "after",
        ],
        cells=[_cells(row) for row in rows],
        rows=rows,
        goals=[
            Goal("copy-heavy: tokens/s with drafts / without", 1.5, decode.get("copy-heavy"), False),
            Goal("free text: tokens/s with drafts / without", 0.98, decode.get("free text"), False),
        ],
        definitions=f"""\
tokens/s: of one stream, from its first delta to its last, at most {OUTPUT_TOKENS} tokens at temperature
  0; whole ratio: with the prefill, from request to end. Ratios are of the same prompt's two answers;
  least, median and, of the whole, the median. drafted, accepted: tokens, by the server's own count
  (/metrics). differ: answers whose text differs between the servers, because a batch's numerics depend on
  its size; after: tokens that were equal, all answers together, for each that differs.""",
        broken=broken,
    )


async def _answer(target: Target, case: _Case, broken: list[str]) -> Answer:
    answer = await chat(target, Chat(case.conversation, OUTPUT_TOKENS, temperature=0.0, stream=True))
    if not answer.is_whole:
        broken.append(answer.fate)
    return answer


async def _counted(target: Target) -> tuple[float, float] | None:
    """Drafted and accepted tokens since the server's start; None where it does not say.

    A request is counted when it has settled, which may be just after its client has seen the end.
    """
    try:
        status, body = await get_json(target, "/metrics")
    except (OSError, FramingError):
        return None
    found = dict(re.findall(r"^(corral_draft_tokens(?:_accepted)?)_total ([\d.e+]+)$", body.decode(), re.M))
    if status != 200 or len(found) < 2:
        return None
    return float(found["corral_draft_tokens"]), float(found["corral_draft_tokens_accepted"])


def _rate(answer: Answer) -> float | None:
    """Tokens per second after the first delta; None for an answer of one."""
    if len(answer.content_s) < 2 or answer.content_s[-1] <= answer.content_s[0]:
        return None
    return (answer.completion_tokens - 1) / (answer.content_s[-1] - answer.content_s[0])


def _whole_rate(answer: Answer) -> float | None:
    if answer.ended_s is None or not answer.completion_tokens:
        return None
    return answer.completion_tokens / (answer.ended_s - answer.sent_s)


def equal_tokens(drafted: Answer, plain: Answer) -> int:
    """Tokens before the texts differ, by the share of characters: deltas are not always tokens."""
    if drafted.text == plain.text:
        return plain.completion_tokens
    same = takewhile(lambda pair: pair[0] == pair[1], zip(drafted.text, plain.text, strict=False))
    equal = sum(1 for _ in same)
    return plain.completion_tokens * equal // max(1, len(plain.text))


def _row(kind: str, pairs: list[tuple[Answer, Answer]], counts: list[tuple[float, float] | None]) -> DraftRow:
    rates = [(_rate(drafted), _rate(plain)) for drafted, plain in pairs]
    wholes = [(_whole_rate(drafted), _whole_rate(plain)) for drafted, plain in pairs]
    ratios = [round(a / b, 4) for a, b in rates if a and b]
    known = [count for count in counts if count is not None]
    return DraftRow(
        kind=kind,
        answers=len(pairs),
        tokens=sum(drafted.completion_tokens for drafted, _ in pairs),
        with_tokens_s=middle([a for a, _ in rates if a]),
        without_tokens_s=middle([b for _, b in rates if b]),
        decode_ratio=middle(ratios),
        whole_ratio=middle([a / b for a, b in wholes if a and b]),
        drafted=sum(drafted for drafted, _ in known) if known else None,
        accepted=sum(accepted for _, accepted in known) if known else None,
        differing=sum(drafted.text != plain.text for drafted, plain in pairs),
        equal_tokens=sum(equal_tokens(drafted, plain) for drafted, plain in pairs),
        ratios=ratios,
    )


def _cells(row: DraftRow) -> list[str]:
    return [
        row.kind,
        str(row.answers),
        str(row.tokens),
        number(row.with_tokens_s, 1),
        number(row.without_tokens_s, 1),
        number(min(row.ratios, default=None), 3),
        number(row.decode_ratio, 3),
        number(row.whole_ratio, 3),
        number(row.drafted, 0),
        number(row.accepted, 0),
        f"{row.differing} of {row.answers}",
        number(row.equal_tokens / row.differing if row.differing else None, 0),
    ]
