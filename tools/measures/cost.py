"""What a token costs outside llama.cpp: the server on the scripted engine, whose steps only sleep.

A stream costs what its request does, and its tokens. They are told apart by answers LONGER times as long:
what these cost more, by what they have more of tokens, is a token's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from tools.clients.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Api
from tools.clients.prompts import PromptSource
from tools.measures.bed import Bed, dot
from tools.measures.http_round import HttpRound, http_round
from tools.measures.plan import Plan
from tools.measures.throughput import WARM_UP_TOKENS, Row, Side, sheet_of, summarize_rounds, take_turns
from tools.servers.server import Server
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

STREAMS = (1, 16, 64, 256)
LONGER = 4
OWN_US = {64: 80.0, 256: 60.0}
"""What a token may cost the event loop and the engine's thread together, by the number of streams."""
API_STREAMS = 16
"""Through each API, and through all of them at once."""
STEP_MS = 10.0
FLAT = 1.25
"""How much more a token may cost with more streams, and still be called flat."""
OF_CHAT = 1.5
"""What a token may cost the event loop through another API, of what it costs through Chat."""
MIXED = 0.95
"""Of Chat's throughput, with streams of all APIs side by side."""


@dataclass(frozen=True, slots=True)
class Own:
    """What is a token's own and what its request's, in us of CPU, by thread; None where that was not seen."""

    streams: int
    loop_us: float | None
    engine_us: float | None
    request_loop_us: float | None
    request_engine_us: float | None

    @property
    def token_us(self) -> float | None:
        return None if self.loop_us is None or self.engine_us is None else self.loop_us + self.engine_us

    def __str__(self) -> str:
        return (
            f"{self.streams} streams: a token {number(self.loop_us, 0)} + {number(self.engine_us, 0)} us, "
            f"a request {number(self.request_loop_us, 0)} + {number(self.request_engine_us, 0)} us"
            " (loop + engine)"
        )


@dataclass(slots=True)
class ApiSide:
    """Streams through an API, or through several in turns, and their rounds so far."""

    label: str
    apis: Sequence[Api]
    rounds: list[HttpRound] = field(default_factory=list)


async def cost(bed: Bed, plan: Plan) -> Sheet:
    """CPU time of a token, by thread: at few streams and at many, and through each API."""
    streams = plan.streams or STREAMS
    of_apis = min(API_STREAMS, max(streams))
    slots = str(plan.slots or max(streams))
    async with bed.scripted("--slots", slots, step_ms=STEP_MS) as server:
        rows = await take_turns(plan, streams, [Side("corral", server.target, server.pid)], None)
        owns = [await _own(plan, server, count) for count in streams]
        sides = await _through_apis(plan, server, of_apis)
    chat = sides[0].rounds
    rows += [summarize_rounds(side.label, of_apis, [], side.rounds, chat) for side in sides]
    sheet = sheet_of("cost", rows, goals(rows[: len(streams)]) + own_goals(owns) + api_goals(sides))
    return msgspec.structs.replace(sheet, notes=[str(own) for own in owns])


async def _own(plan: Plan, server: Server, streams: int) -> Own:
    """A token's own cost at so many streams: short answers and long ones in turns."""
    prompts = PromptSource()
    rounds: dict[int, list[HttpRound]] = {1: [], LONGER: []}
    for repetition in range(plan.repeats):
        for times in sorted(rounds, reverse=bool(repetition % 2)):
            count = times * plan.output_tokens
            asked = prompts.take(streams)
            rounds[times].append(await http_round(server.target, asked, count, pid=server.pid))
            dot()
    return own_of(rounds[1], rounds[LONGER])


def own_of(short: Sequence[HttpRound], long: Sequence[HttpRound]) -> Own:
    """What is a token's own, by rounds of short answers and of long ones; medians over their pairs. Pure."""

    def parted(cpu_s: Callable[[HttpRound], float | None]) -> tuple[float | None, float | None]:
        token_us: list[float] = []
        request_us: list[float] = []
        for less, more in zip(short, long, strict=True):
            less_s, more_s = cpu_s(less), cpu_s(more)
            if less_s is None or more_s is None or more.output_tokens <= less.output_tokens:
                continue
            own_s = (more_s - less_s) / (more.output_tokens - less.output_tokens)
            token_us.append(1e6 * own_s)
            request_us.append(1e6 * (less_s - own_s * less.output_tokens) / less.streams)
        return middle(token_us), middle(request_us)

    (loop_us, request_loop_us) = parted(lambda done: done.loop_cpu_s)
    (engine_us, request_engine_us) = parted(lambda done: done.engine_cpu_s)
    return Own(short[0].streams, loop_us, engine_us, request_loop_us, request_engine_us)


def own_goals(owns: Sequence[Own]) -> list[Goal]:
    """What a token's own cost is held against. Pure."""
    return [
        Goal(
            f"a token's own cost in us, loop + engine, {own.streams} streams",
            OWN_US[own.streams],
            own.token_us,
            True,
        )
        for own in owns
        if own.streams in OWN_US
    ]


async def _through_apis(plan: Plan, server: Server, streams: int) -> list[ApiSide]:
    """The same number of streams through each API, in turns; Chat's are the first of what is returned."""
    each = (CHAT, MESSAGES, RESPONSES, COMPLETIONS)
    sides = [*(ApiSide(api.name, (api,)) for api in each), ApiSide("mixed", each)]
    prompts = PromptSource()
    for repetition in range(-1, plan.repeats):  # -1 warms up and is not counted
        count = plan.output_tokens if repetition >= 0 else WARM_UP_TOKENS
        first = (repetition + 1) % len(sides)
        for side in (*sides[first:], *sides[:first]):
            asked = prompts.take(streams)  # of its own: nothing of another API's is in the cache
            done = await http_round(server.target, asked, count, pid=server.pid, apis=side.apis)
            if repetition >= 0:
                side.rounds.append(done)
            dot()
    return sides


def goals(rows: Sequence[Row]) -> list[Goal]:
    """A token costs no more with more streams. Pure."""
    return [
        Goal(f"cost of a token, {kind}, {row.streams} streams / {fewer.streams}", FLAT, ratio, True)
        for fewer, row in pairwise(rows)
        for kind, ratio in (
            ("event loop", _ratio(row.loop_us_per_token, fewer.loop_us_per_token)),
            ("engine thread", _ratio(row.engine_us_per_token, fewer.engine_us_per_token)),
        )
    ]


def api_goals(sides: Sequence[ApiSide]) -> list[Goal]:
    """Other APIs cost about what Chat does, which is the first, and slow nobody down. Pure."""
    chat, *others = sides
    found = []
    for side in others:
        pairs = list(zip(side.rounds, chat.rounds, strict=True))
        if side.label == "mixed":
            kept = middle([mine.tokens_s / theirs.tokens_s for mine, theirs in pairs])
            found.append(Goal("throughput, mixed APIs / Chat", MIXED, kept, False))
        else:
            costs = [_ratio(_loop_us(mine), _loop_us(theirs)) for mine, theirs in pairs]
            known = middle([ratio for ratio in costs if ratio is not None])
            found.append(Goal(f"cost of a token, event loop, {side.label} / chat", OF_CHAT, known, True))
    return found


def _loop_us(done: HttpRound) -> float | None:
    return None if done.loop_cpu_s is None else 1e6 * done.loop_cpu_s / max(1, done.output_tokens)


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
