"""The same loads on the server and on a peer, in turns, and each figure against its goal.

Ratios are taken within a round and their median is printed: a shared machine changes its speed by the minute.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from random import Random

import msgspec

from tools.clients.connection import get_json
from tools.clients.framing import FramingError
from tools.clients.prompts import PromptSource
from tools.clients.target import Target
from tools.measures.bed import Bed, dot
from tools.measures.demand import LIMIT_S
from tools.measures.loads import ANSWERS, GAP, GAP_P95, LOADS, RATE, TTFT, Closed, Load, Looked, Script, Seen
from tools.measures.plan import Plan
from tools.measures.promised import pace_of, promised_gap_ms
from tools.servers.yardstick import RawLoad, raw_load
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number
from tools.sheets.summary import percentile

WARM_UP_SHARE = 0.25


class _Props(msgspec.Struct):
    total_slots: int


class LoadRow(msgspec.Struct, frozen=True):
    """One figure of one load, of every round; None where a round did not show it."""

    load: str
    figure: str
    ours: list[float | None]
    peers: list[float | None]
    raws: list[float | None]
    ratios: list[float]
    limit: float | None
    by_peer: bool
    is_rate: bool
    is_worst: bool
    digits: int

    @property
    def own(self) -> float | None:
        """Of all rounds together."""
        return _folded(self.ours, self.is_worst)

    @property
    def peer(self) -> float | None:
        return _folded(self.peers, self.is_worst)

    @property
    def raw(self) -> float | None:
        return _folded(self.raws, self.is_worst)

    @property
    def ratio(self) -> float | None:
        return middle(self.ratios)

    @property
    def raw_ratio(self) -> float | None:
        return middle(_ratios(self.ours, self.raws))


class LoadRounds(msgspec.Struct, frozen=True):
    """One load: its figures, and its rounds in full; no peer, no rounds of one, and so with the raw loop."""

    load: str
    pace: str
    figures: list[LoadRow]
    ours: list[Seen]
    peers: list[Seen]
    raws: list[Seen]


def load_row(
    load: str,
    looked: Looked,
    ours: Sequence[Seen],
    peers: Sequence[Seen],
    raws: Sequence[Seen] = (),
    *,
    limit: float | None,
) -> LoadRow:
    """One figure; `ours`, `peers` and `raws` are paired. Pure."""
    own = [seen.figures[looked.name] for seen in ours]
    other = [seen.figures[looked.name] for seen in peers]
    return LoadRow(
        load=load,
        figure=looked.name,
        ours=own,
        peers=other,
        raws=[seen.figures[looked.name] for seen in raws],
        ratios=_ratios(own, other),
        limit=limit,
        by_peer=looked.by_peer,
        is_rate=looked.is_rate,
        is_worst=looked.is_worst,
        digits=looked.digits,
    )


def goals(rows: Sequence[LoadRow], *, has_peer: bool) -> list[Goal]:
    """What the rows are held against; of ratios only where there is a peer. Pure."""
    return [
        Goal(
            f"{row.load}: {row.figure}{' / peer' if row.by_peer else ''}",
            row.limit,
            row.ratio if row.by_peer else row.own,
            not row.is_rate,
        )
        for row in rows
        if row.limit is not None and (has_peer or not row.by_peer)
    ]


async def load(bed: Bed, plan: Plan) -> Sheet:
    """The loads of the plan on the server, and on the peer where there is one."""
    pace = pace_of(bed.flags)
    done: list[LoadRounds] = []
    broken: list[str] = []
    notes: list[str] = []
    for name in plan.loads or tuple(LOADS):
        each = LOADS[name]
        ours, peers, raws = await _rounds(each, bed, plan, name)
        rows = [
            load_row(name, looked, ours, peers, raws, limit=_limit(looked, pace)) for looked in each.looked
        ]
        done.append(LoadRounds(name, pace, rows, ours, peers, raws))
        broken += [f"{name}: {why}" for seen in ours for why in seen.broken]
        broken += [f"{name}, peer: {why}" for seen in peers for why in seen.broken]
        notes.append(_note(name, each, ours, peers))
    rows = [row for rounds in done for row in rounds.figures]
    return Sheet(
        name=f"load, pace {pace}",
        columns=["load", "figure", "corral", "peer", "ratio", "least", "most", "raw", "/ raw", "to reach"],
        cells=[_cells(row) for row in rows],
        rows=done,
        goals=goals(rows, has_peer=any(rounds.peers for rounds in done)),
        definitions=f"""\
Rounds: {plan.repeats}, each asked of both servers in turns, with prompts that were never asked before.
  corral, peer: medians of the rounds (worst: the largest of all). ratio: median of the rounds' ratios, and
  the least and the most of them. raw: llama.cpp's batch loop with nothing around it, which knows all prompts'
  tokens beforehand, the better of two ways to fill a batch; / raw: what the server reaches of it.
tokens/s: of all answers of a round / its time, from the first request to the last answer. TTFT: last byte of
  a try sent to the first delta with text. longest gap: between two deltas of one stream. A round that takes
  longer than {LIMIT_S:g} s is ended and broken. Of `behind` and `beside` a try is void that did not come to
  what it is about.""",
        broken=broken,
        notes=notes,
    )


def _limit(looked: Looked, pace: str) -> float | None:
    return promised_gap_ms(pace) if looked.name == GAP_P95 else looked.limits.get(pace)


async def _rounds(each: Load, bed: Bed, plan: Plan, name: str) -> tuple[list[Seen], list[Seen], list[Seen]]:
    """The rounds of the server, of the peer and of the raw loop; who begins changes with every round."""
    prompts = PromptSource()
    ours: list[Seen] = []
    peers: list[Seen] = []
    raws: list[Seen] = []
    flags = ("--slots", str(each.slots), "--ctx-tokens", str(each.ctx_tokens))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(bed.server(*flags))
        sides: list[tuple[Callable[[Script], Awaitable[Seen]], list[Seen]]] = [(_player(server.target), ours)]
        peer = await stack.enter_async_context(bed.rival(each.slots, each.ctx_tokens))
        if peer is not None and await has_slots(peer, each.slots):
            sides.append((_player(peer), peers))
        warm_up = replace(plan, load_share=plan.load_share * WARM_UP_SHARE)
        script = each.draw(prompts, Random(name), warm_up)
        if plan.has_raw and isinstance(script, Closed):
            loop = await stack.enter_async_context(
                raw_load(
                    bed.model_file,
                    slots=each.slots,
                    threads=bed.threads,
                    ctx_tokens=each.ctx_tokens,
                    spin_count=plan.spin_count,
                )
            )
            sides.append((partial(_play_raw, loop), raws))
        for play, _ in sides:
            await play(script)
            dot()
        for repetition in range(plan.repeats):
            script = each.draw(prompts, Random(f"{name} {repetition}"), plan)
            for play, seen in sides if repetition % 2 else reversed(sides):
                seen.append(await play(script))
                dot()
    return ours, peers, raws


def _player(target: Target) -> Callable[[Script], Awaitable[Seen]]:
    return lambda script: script(target)


async def _play_raw(loop: RawLoad, script: Script) -> Seen:
    assert isinstance(script, Closed)
    asked = script.questions
    result = await loop.play(
        [question.prompt for question in asked],
        [question.output_tokens for question in asked],
        [question.tries_s for question in asked],
        script.clients,
    )
    figures: dict[str, float | None] = {
        RATE: result.output_tokens / result.wall_s,
        TTFT: percentile(result.ttft_s, 0.5),
        GAP: result.longest_gap_s,
        ANSWERS: 60 * len(result.ttft_s) / result.wall_s,
    }
    return Seen(figures, len(result.ttft_s), wall_s=result.wall_s)


async def has_slots(peer: Target, slots: int) -> bool:
    """Whether the peer has so many, or does not say how many it has."""
    try:
        status, body = await get_json(peer, "/props")
        return status != 200 or msgspec.json.decode(body, type=_Props).total_slots >= slots
    except (OSError, FramingError, msgspec.MsgspecError):
        return True


def _ratios(ours: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    return [mine / its for mine, its in zip(ours, others, strict=False) if mine is not None and its]


def _folded(values: Sequence[float | None], is_worst: bool) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None) if is_worst else middle(known)


def _note(name: str, each: Load, ours: Sequence[Seen], peers: Sequence[Seen]) -> str:
    """A line on what the load is, and what came of it at each side."""
    sides = [_side("corral", ours), _side("peer", peers) if peers else f"no peer of {each.slots} slots"]
    return f"{name}: {each.about}; {'; '.join(sides)}"


def _side(label: str, rounds: Sequence[Seen]) -> str:
    def of(values: Iterable[float | None], digits: int = 0, scale: float = 1.0) -> str:
        return number(middle([value for value in values if value is not None]), digits, scale)

    parts = (
        f"{of(seen.wall_s for seen in rounds)} s a round",
        f"{of(seen.answers for seen in rounds)} answers",
        f"{of(seen.left for seen in rounds)} tries given up",
        f"{of(seen.prompt_tokens for seen in rounds)} tokens in",
        f"{of(seen.cached_tokens for seen in rounds)} of them cached",
        f"clients {of((seen.client_cpu for seen in rounds), 1, 100)} % of a core",
    )
    return f"{label}: {', '.join(parts)}"


def _cells(row: LoadRow) -> list[str]:
    digits = row.digits
    sign = ">=" if row.is_rate else "<="
    return [
        row.load,
        row.figure,
        number(row.own, digits),
        number(row.peer, digits),
        number(row.ratio, 3),
        number(min(row.ratios, default=None), 3),
        number(max(row.ratios, default=None), 3),
        number(row.raw, digits),
        number(row.raw_ratio, 3),
        "" if row.limit is None else f"{sign} {row.limit:g}{' of the peer' if row.by_peer else ''}",
    ]
