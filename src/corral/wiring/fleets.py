"""Engines over upstreams, as the settings name them."""

from dataclasses import replace

import trio

from corral.engine.upstream.address import address_of, key_of
from corral.engine.upstream.engine import UpstreamEngine
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.errors import StartupError
from corral.settings import Settings, Upstream
from corral.wiring.options import pick

UNNAMED = ""
"""The model of upstreams that none is named of: they say themselves what it is called."""


async def open_fleets(settings: Settings) -> dict[str, UpstreamEngine]:
    """Ask the upstreams what they are; an engine over those of each model, as in `fleets_of`. A checkpoint.

    Raises StartupError for an address that is none. One that does not answer yet may do so later.
    """
    options = pick(
        FleetOptions, settings, replica_slots=settings.slots, replica_ctx_tokens=settings.ctx_tokens
    )
    fleets = fleets_of(settings)
    engines: dict[str, UpstreamEngine] = {}

    async def open_fleet(name: str) -> None:
        engines[name] = await UpstreamEngine.opened(fleets[name], options)

    async with trio.open_nursery() as nursery:
        for name in fleets:
            nursery.start_soon(open_fleet, name)
    return {name: engines[name] for name in fleets}


def fleets_of(settings: Settings) -> dict[str, list[UpstreamOptions]]:
    """The upstreams that the settings name, by the models that they have, in their order.

    Where no more than one model is named, all are replicas of it. Raises StartupError for what is no address,
    is there twice, or does not say which of several models it has.
    """
    upstreams = upstreams_of(settings)
    named = dict.fromkeys(name for _, models in upstreams for name in models)
    if not upstreams:
        return {}
    if len(named) < 2:
        name = next(iter(named), UNNAMED)
        return {name: [_asked_for(options, models.get(name)) for options, models in upstreams]}
    fleets: dict[str, list[UpstreamOptions]] = {name: [] for name in named}
    for number, (options, models) in enumerate(upstreams, start=1):
        if not models:
            raise StartupError(f"upstream {number} must say which models it has, as others name several")
        for name, theirs in models.items():
            fleets[name].append(_asked_for(options, theirs))
    return fleets


def _asked_for(options: UpstreamOptions, model: str | None) -> UpstreamOptions:
    return options if model is None else replace(options, models=(model,))


def upstreams_of(settings: Settings) -> list[tuple[UpstreamOptions, dict[str, str]]]:
    """All that the settings name, in their order, each once, and what it calls the models that clients know.

    Raises StartupError.
    """
    upstreams: dict[str, tuple[UpstreamOptions, dict[str, str]]] = {}
    named = [Upstream(url=url, key=settings.upstream_key) for url in settings.upstream]
    for number, upstream in enumerate((*named, *settings.upstreams), start=1):
        try:
            address, key = address_of(upstream.url), key_of(upstream.key)
        except ValueError as error:  # a key may be in the URL, which is not to be shown
            raise StartupError(f"upstream {number} cannot be used: {error}") from None
        if address.name in upstreams:
            raise StartupError(f"there are two upstreams at {address.name}")
        options = UpstreamOptions(
            address,
            key,
            upstream.slots,
            upstream.weight,
            kind=None if upstream.kind == "auto" else upstream.kind,
            ctx_tokens=upstream.ctx_tokens,
        )
        upstreams[address.name] = options, upstream.asked_for
    return list(upstreams.values())
