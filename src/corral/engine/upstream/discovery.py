"""What an upstream says of itself: its kind, its model, how many sequences it takes, of what length."""

import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from corral.engine.upstream.exchange import Ask, fetch
from corral.engine.upstream.faults import Fault, broken, count_of
from corral.engine.upstream.kinds import KINDS, Kind, KindName
from corral.engine.upstream.options import UpstreamOptions

BODY_BYTES: Final = 4 * 2**20
MOST_SLOTS: Final = 4096
"""That are believed, as many as can be configured."""

_OWNERS: Final[dict[str, KindName]] = {
    "llamacpp": "llama-server",
    "me": "llama-cpp-python",
    "vllm": "vllm",
    "sglang": "sglang",
    "corral": "corral",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an upstream. `slots` and `ctx_tokens` are None where it does not say."""

    kind: Kind
    model: str
    slots: int | None = None
    ctx_tokens: int | None = None


async def discover(options: UpstreamOptions, tls: ssl.SSLContext | None) -> Found:
    """Ask an upstream what it is; a checkpoint. Raises Fault if it does not answer.

    What is configured is not asked for.
    """
    status, body = await fetch(options.address, tls, Ask("/v1/models", options.key), limit_bytes=BODY_BYTES)
    if status != 200:
        raise broken(f"does not list its models (HTTP {status})")
    models = _models(body)
    kind = KINDS[options.kind or _kind(models)]
    wanted = options.models[0] if options.models else None
    mine = next((model for model in models if wanted in (None, model.get("id"))), {})
    slots, ctx_tokens = None, count_of(mine.get("max_model_len"))
    if kind.name in ("llama-server", "corral"):
        slots, own_ctx_tokens = await _props(options, tls, wanted if kind.name == "corral" else None)
        ctx_tokens = own_ctx_tokens or ctx_tokens
    elif kind.runs_one:
        slots = 1
    return Found(
        kind, wanted or str(mine.get("id") or ""), options.slots or slots, options.ctx_tokens or ctx_tokens
    )


async def _props(
    options: UpstreamOptions, tls: ssl.SSLContext | None, model: str | None
) -> tuple[int | None, int | None]:
    """Slots and context; of `model` where there may be several."""
    path = "/props" if model is None else f"/props?{urlencode({'model': model})}"
    try:
        status, body = await fetch(options.address, tls, Ask(path, options.key), limit_bytes=BODY_BYTES)
    except Fault:
        return None, None
    props = _object(body) if status == 200 else {}
    settings = props.get("default_generation_settings")
    ctx_tokens = count_of(settings.get("n_ctx")) if isinstance(settings, dict) else None
    slots = count_of(props.get("total_slots")) or None
    return slots if slots is None else min(slots, MOST_SLOTS), ctx_tokens or None


def _models(body: bytes) -> list[dict[str, Any]]:
    data = _object(body).get("data")
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


def _kind(models: list[dict[str, Any]]) -> KindName:
    return _OWNERS.get(str(models[0].get("owned_by")), "openai") if models else "openai"


def _object(body: bytes) -> dict[str, Any]:
    try:
        read = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
