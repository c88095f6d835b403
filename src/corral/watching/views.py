"""What /status sends, as structs: the fields are the documented wire format (docs/status.md).

A field that is not known, or not known yet, is not sent. Nothing here holds content but `messages`,
`tool_names`, `output`, `draft`, `Token` and `Draft`, which only go to viewers that may see it.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from corral.books.counts import Doing
from corral.books.ledger import BAD_REQUEST, Refusal
from corral.books.life import State
from corral.books.outcome import Outcome
from corral.books.record import Record
from corral.engine.contract import ReplicaState, Waste
from corral.events import BlockKind, Sampled
from corral.request import GrammarKind, RawPrompt

MESSAGE_CHARS = 65_536
"""Longest message shown in full; of a longer one the beginning is sent, with its length."""

NAME_CHARS = 200
"""Of a path or a field's name, which come from outside."""

STALLED_S = 0.5
"""A write that has waited for so long is shown to wait."""

INPUTS = 16
"""Of a request to embed texts, so many are shown; `params` has how many there are."""

Phase = Literal["idle", "prefill", "decode", "mixed"]


class Server(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    version: str
    model: str
    uptime_s: float
    slots: int
    queue_limit: int
    ctx_tokens: int
    phase: Phase
    draining: bool
    stalled: bool
    failed: bool
    shows_content: bool
    step_age_s: float | None = None
    machine_bytes: int | None = None
    """Memory of the machine, or of the container."""
    saved_limit_bytes: int | None = None
    """What prefixes that have left the KV cache may take."""


class Load(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How full it is now; the speeds are of the last two seconds and of all requests together."""

    busy: int
    waiting: int
    context_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    memory_bytes: int | None = None
    kept_tokens: int | None = None
    """Of the KV cache, what only prefixes hold that are kept for later requests."""
    kept_bytes: int | None = None
    saved_bytes: int | None = None
    """Of such prefixes, what lies in the host's memory."""


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Ten seconds that ended `at`: `busy` is a mean, `waiting` and `context_tokens` the most there were.

    Percentiles are of the requests that ended then, null where none did.
    """

    at: int
    busy: float
    waiting: int
    context_tokens: int
    refused: int
    prefill_tok_s: float
    decode_tok_s: float
    ended: int
    queue_ms_p50: float | None
    queue_ms_p95: float | None
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    stream_tok_s_p50: float | None
    stream_tok_s_p5: float | None


class Hour(msgspec.Struct, frozen=True):
    """The last hour in buckets, oldest first, by column: a name once, and not 360 times."""

    bucket_s: float
    columns: dict[str, list[float | None]]

    @classmethod
    def of(cls, bucket_s: float, buckets: Iterable[Bucket]) -> "Hour":
        rows = list(buckets)
        return cls(
            bucket_s, {name: [getattr(row, name) for row in rows] for name in Bucket.__struct_fields__}
        )


class Refused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that was refused; `param` is the field that was wrong."""

    at: float
    id: str
    client: str
    method: str
    path: str
    status: int
    code: str
    param: str | None = None


class Params(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n: int
    max_tokens: int | None = None
    seed: int | None = None
    stop: int = 0
    tools: int = 0
    tool_choice: Literal["auto", "none", "required"] = "auto"
    one_call: bool = False
    grammar: GrammarKind | None = None
    thinking: bool | None = None
    thinking_effort: str | None = None
    thinking_budget: int | None = None
    inputs: int | None = None
    """Texts to be embedded; where there are any, what is said of sampling here has no meaning."""
    dimensions: int | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    chars: int | None = None
    """Its whole length, where `content` is only the beginning."""


class Counters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What moves while a request runs. Times are up to now; those of the states add up to `total_ms`."""

    id: str
    state: State
    prompt_tokens: int
    completion_tokens: int
    prefilled_tokens: int
    preparing_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    blocked_write_ms: float
    total_ms: float
    doing: Doing | None
    """Sent as null too: a viewer that was told of a thought is told that it is over."""
    cached_tokens: int | None = None
    ttft_ms: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    drafted: int | None = None
    accepted: int | None = None
    reasoning_tokens: int | None = None
    calls: int | None = None
    vectors: int | None = None
    write_ms: float | None = None
    """How long its client has let a write wait that it has not taken yet."""


class Flags(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    stream: bool
    tools: bool
    structured: bool
    cache_hit: bool | None = None
    spec_decode: bool | None = None


class LastDraft(msgspec.Struct, frozen=True):
    """The guess for the last step that had one; the first `accepted` tokens were right."""

    tokens: tuple[str, ...]
    accepted: int


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """One block of an answer: text, a thought, or a call of the tool `name` with its arguments as text."""

    text: str
    kind: BlockKind = "text"
    name: str | None = None


class Request(Counters, frozen=True, kw_only=True, omit_defaults=True):
    """A request as a whole; `outcome` is there once it is over, and `error` where that is why."""

    api: str
    model: str
    stream: bool
    client: str
    request_id: str
    started_at: float
    session: str | None = None
    status: int | None = None
    """Of the HTTP response, once there is one."""
    params: Params
    flags: Flags
    lanes: tuple[int, ...]
    replicas: tuple[str, ...] = ()
    """Which of several engines has it, or had it last; of several choices those that differ."""
    continued_on: str | None = None
    """Which of them went on with it after it had broken off at another."""
    outcome: Outcome | None = None
    error: str | None = None
    thought_cut: bool = False
    """A thought was ended by its budget, or by an operator."""
    messages: tuple[Message, ...] | None = None
    tool_names: tuple[str, ...] | None = None
    output: list[list[Said]] | None = None
    draft: LastDraft | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished request, in the history."""

    id: str
    api: str
    request_id: str
    outcome: Outcome
    prompt_tokens: int
    completion_tokens: int
    preparing_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    blocked_write_ms: float
    total_ms: float
    finished_at: float
    cached_tokens: int | None = None
    ttft_ms: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    accept_rate: float | None = None
    error: str | None = None
    reasoning_tokens: int | None = None
    calls: int | None = None
    vectors: int | None = None
    cache_hit: bool | None = None
    spec_decode: bool | None = None
    client: str = ""
    model: str = ""
    session: str | None = None
    status: int | None = None
    continued_on: str | None = None
    wasted: Waste = msgspec.field(default_factory=Waste)


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the queue; `eta_s` is how long it will probably wait yet, where that can be said."""

    id: str
    position: int
    waited_s: float
    eta_s: float | None = None


class Wasted(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens computed for nobody, and prefill that was kept for the next request with that prefix."""

    tokens_after_disconnect: int
    prefill_tokens_dropped: int
    prefill_tokens_kept: int
    tokens_thrown_away: int
    by_outcome: dict[Outcome, Waste]


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    requests: int
    by_outcome: dict[Outcome, int]
    refused: int
    refused_by: dict[int, dict[str, int]]
    """By HTTP status, and within it by code, such as `queue_full`."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    evicted_subscribers: int
    wasted: Wasted


class Subscribers(msgspec.Struct, frozen=True):
    status: int
    streams: int
    evicted: int


ModelState = Literal["loaded", "loading", "leaving", "not loaded", "failed", "elsewhere"]


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of several: how it is, what it does, and what it did. What it takes of the memory is estimated."""

    name: str
    state: ModelState
    slots: int
    busy: int
    waiting: int
    live: int
    """Requests that are not over, whatever is done for them."""
    requests: int
    """That are over."""
    prompt_tokens: int
    completion_tokens: int
    memory_bytes: int | None = None
    reason: str | None = None
    """Why it has failed."""


class ServerEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    server: Server
    load: Load
    totals: Totals
    subscribers: Subscribers
    replicas: tuple[ReplicaState, ...] = ()
    models: tuple[Model, ...] = ()
    """Where there are several, or one that comes and goes."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything. `recent` are the last finished requests as a whole, oldest first."""

    server: Server
    load: Load
    queue: list[Place]
    requests: list[Request]
    recent: list[Request]
    history: list[Row]
    refusals: list[Refused]
    hour: Hour
    totals: Totals
    subscribers: Subscribers
    replicas: tuple[ReplicaState, ...] = ()
    models: tuple[Model, ...] = ()


class Token(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """More text of a block, the `block`th of one choice of a request."""

    id: str
    index: int
    text: str
    block: int = 0
    kind: BlockKind = "text"
    name: str | None = None


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What speculative decoding guessed for a step of one choice; the first `accepted` tokens were right."""

    id: str
    index: int
    tokens: tuple[str, ...]
    accepted: int


class Content(msgspec.Struct, frozen=True):
    """A `request` event with what was asked, for those who may see it."""

    id: str
    messages: tuple[Message, ...]
    tool_names: tuple[str, ...]


def content(record: Record) -> Content:
    return Content(record.about.id, messages(record), tool_names(record))


def counters(record: Record) -> Counters:
    life, counts = record.life, record.counts
    spent_s = life.spent_s()
    return Counters(
        id=record.about.id,
        # A write that waits while the engine goes on shows in its time, not in the state.
        state=life.engine_state,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        prefilled_tokens=counts.prefilled_tokens,
        preparing_ms=_ms(spent_s["preparing"]),
        queue_ms=_ms(spent_s["queued"]),
        prefill_ms=_ms(spent_s["prefill"]),
        decode_ms=_ms(spent_s["decode"]),
        blocked_write_ms=_ms(spent_s["write"]),
        total_ms=_ms(sum(spent_s.values())),
        cached_tokens=counts.cached_tokens,
        ttft_ms=None if life.ttft_s is None else _ms(life.ttft_s),
        prefill_tok_s=_rate(record.prefill_tokens_per_s),
        decode_tok_s=_rate(record.decode_tokens_per_s),
        drafted=counts.drafted_tokens if record.has_begun else None,
        accepted=counts.accepted_tokens if record.has_begun else None,
        doing=record.doing,
        reasoning_tokens=counts.reasoning_tokens or None,
        calls=counts.calls or None,
        vectors=counts.vectors or None,
        write_ms=None if (write_s := life.write_s) is None or write_s < STALLED_S else _ms(write_s),
    )


def request(record: Record, *, with_content: bool) -> Request:
    """A whole request; `with_content` adds what was asked and said, if the ledger keeps it."""
    shows = with_content and record.output is not None
    sampling, asked = record.request.sampling, record.request
    return Request(
        **msgspec.structs.asdict(counters(record)),
        api=record.about.api,
        model=record.about.model,
        stream=record.about.streams,
        client=record.about.address,
        request_id=record.about.request_id,
        started_at=round(record.started_at, 3),
        session=record.about.session or None,
        status=record.status,
        params=Params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=sampling.seed,
            max_tokens=record.max_tokens or asked.max_tokens,
            n=asked.n,
            stop=len(asked.stop),
            tools=len(asked.tools),
            tool_choice=asked.tool_choice.mode,
            one_call=bool(asked.tools) and not asked.calls_in_parallel,
            grammar=None if asked.grammar is None else asked.grammar.kind,
            thinking=asked.thinking.is_on,
            thinking_effort=asked.thinking.effort,
            thinking_budget=asked.thinking.budget_tokens,
            inputs=None if asked.embed is None else len(asked.embed.inputs),
            dimensions=None if asked.embed is None else asked.embed.dimensions,
        ),
        flags=Flags(
            stream=record.about.streams,
            tools=bool(asked.tools),
            structured=asked.grammar is not None,
            cache_hit=_cache_hit(record),
            spec_decode=_has_drafts(record),
        ),
        lanes=record.lanes,
        replicas=tuple(dict.fromkeys(record.replicas.values())),
        continued_on=record.continued_on,
        outcome=record.outcome,
        error=record.error,
        thought_cut=record.is_thought_cut,
        messages=messages(record) if shows else None,
        tool_names=tool_names(record) if shows else None,
        output=_output(record) if shows else None,
        draft=LastDraft(_texts(record.draft), record.draft.accepted) if shows and record.draft else None,
    )


def _output(record: Record) -> list[list[Said]]:
    return [
        [Said("".join(said.texts), said.kind, said.name) for said in blocks] for blocks in record.output or ()
    ]


def token(record: Record, choice: int, number: int, text: str) -> Token:
    """`text` is the end of that block, which its record has already."""
    assert record.output is not None
    said = record.output[choice][number]
    return Token(record.about.id, choice, text, number, said.kind, said.name)


def draft(id: str, choice: int, step: Sampled) -> Draft:
    return Draft(id, choice, _texts(step), step.accepted)


def _texts(step: Sampled) -> tuple[str, ...]:
    """Each token by itself, so half a character shows as U+FFFD."""
    return tuple(piece.decode("utf-8", "replace") for piece in step.draft)


def messages(record: Record) -> tuple[Message, ...]:
    """What was asked; a prompt that is no conversation is one message of the role `prompt`, and each of the
    first INPUTS texts that are embedded one of the role `input`."""
    embed, prompt = record.request.embed, record.request.prompt
    if embed is not None:
        return tuple(_raw("input", each) for each in embed.inputs[:INPUTS])
    if prompt is None:
        return tuple(_message(message.role, message.content) for message in record.request.messages)
    return (_raw("prompt", prompt),)


def _raw(role: str, prompt: RawPrompt) -> Message:
    if prompt.tokens is not None:
        return _message(role, " ".join(map(str, prompt.tokens)))
    return _message(role, prompt.text + (prompt.suffix or ""))


def _message(role: str, content: str) -> Message:
    if len(content) <= MESSAGE_CHARS:
        return Message(role, content)
    return Message(role, content[:MESSAGE_CHARS], len(content))


def tool_names(record: Record) -> tuple[str, ...]:
    return tuple(tool.name for tool in record.request.tools)


def refused(refusal: Refusal, at: float) -> Refused:
    return Refused(
        at=round(at, 3),
        id=refusal.id,
        client=refusal.address,
        method=refusal.method,
        path=refusal.path[:NAME_CHARS],
        status=refusal.status,
        code=refusal.code,
        param=refusal.param and refusal.param[:NAME_CHARS],
    )


def refused_prompt(record: Record) -> Refused:
    """One that was refused when its prompt was written."""
    return Refused(
        at=round(record.finished_at, 3),
        id=record.about.request_id or record.about.id,
        client=record.about.address,
        method="POST",
        path=record.about.api,
        status=BAD_REQUEST,
        code=record.error or "",
        param=record.param and record.param[:NAME_CHARS],
    )


def row(record: Record) -> Row:
    counted = msgspec.structs.asdict(counters(record))
    drafted, accepted = record.counts.drafted_tokens, record.counts.accepted_tokens
    return Row(
        **{name: counted[name] for name in Row.__struct_fields__ if name in counted},
        api=record.about.api,
        request_id=record.about.request_id,
        client=record.about.address,
        model=record.about.model,
        session=record.about.session or None,
        status=record.status,
        outcome=record.outcome or "failed",
        finished_at=round(record.finished_at, 3),
        accept_rate=round(accepted / drafted, 3) if drafted else None,
        error=record.error,
        cache_hit=_cache_hit(record),
        spec_decode=_has_drafts(record),
        continued_on=record.continued_on,
        wasted=record.wasted,
    )


def _cache_hit(record: Record) -> bool | None:
    cached = record.counts.cached_tokens
    return None if cached is None else cached > 0


def _has_drafts(record: Record) -> bool | None:
    return record.counts.drafted_tokens > 0 if record.has_begun else None


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def _rate(tokens_per_s: float | None) -> float | None:
    return None if tokens_per_s is None else round(tokens_per_s, 2)
