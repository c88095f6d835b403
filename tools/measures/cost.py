"""What a token costs outside llama.cpp: the server on the scripted engine, whose steps only sleep."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tools.clients.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Api
from tools.clients.prompts import PromptSource
from tools.measures.bed import Bed, dot
from tools.measures.http_round import HttpRound, http_round
from tools.measures.plan import Plan
from tools.measures.throughput import WARM_UP_TOKENS, Row, Side, sheet_of, summarize_rounds, take_turns
from tools.servers.server import Server
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle

STREAMS = (1, 16, 64)
API_STREAMS = 16
"""Through each API, and through all of them at once."""
STEP_MS = 10.0
FLAT = 1.25
"""How much more a token may cost with more streams, and still be called flat."""
OF_CHAT = 1.5
"""What a token may cost the event loop through another API, of what it costs through Chat."""
MIXED = 0.95
"""Of Chat's throughput, with streams of all APIs side by side."""


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
        sides = await _through_apis(plan, server, of_apis)
    chat = sides[0].rounds
    rows += [summarize_rounds(side.label, of_apis, [], side.rounds, chat) for side in sides]
    return sheet_of("cost", rows, goals(rows[: len(streams)]) + api_goals(sides))


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
