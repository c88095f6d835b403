"""Settings to a running service: the one place that knows how the layers are put together."""

import gc
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from corral import logs
from corral.assets import static_folder
from corral.books.ledger import Ledger
from corral.dialects.routes import AnyRoute, DialectOptions
from corral.engine.contract import Capacity, Engine
from corral.engine.local.backend import Backend
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.shelf.engine import Open, Opened, ShelvedEngine
from corral.engine.shelf.shelf import Shelf
from corral.engine.upstream.address import address_of, key_of
from corral.engine.upstream.engine import UpstreamEngine
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.errors import CorralError, StartupError
from corral.http.app import create_app
from corral.http.options import HttpOptions
from corral.http.pages import read_files
from corral.printable import one_line
from corral.serving.models import Model, Models
from corral.serving.service import Service, ServiceOptions
from corral.settings import LocalModel, Settings, Upstream
from corral.transport.limits import Limits
from corral.watching.memory import machine_bytes
from corral.watching.watch import Watching, attach

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from corral.engine.local.llama.modelfile import ModelFile
    from corral.engine.local.llama.options import LlamaOptions

logger = logging.getLogger("corral")

Options = TypeVar("Options", bound="DataclassInstance")

SWITCH_INTERVAL_S = 5e-4
"""Longest a finished engine step waits for Python's global lock while the event loop is busy. Between 0.05
and 5 ms no value was shown to be better (docs/benchmarks.md)."""

SHELF_SHARE = 0.75
"""Of the memory there is, what models that come and go may take together, where no setting says."""

OpenModel = Callable[[], tuple[Backend, str]]
"""Blocks; returns a backend and the model's public name. Raises StartupError."""

Routes = Callable[[DialectOptions], Sequence[AnyRoute]]
"""Makes the table of routes of one server."""


@dataclass(slots=True, eq=False)
class Running:
    """What lives between startup and shutdown. Its tasks are in `nursery`, which belongs to the lifespan."""

    models: Models
    watching: Watching
    app: Any
    """The Quart app, as an ASGI app."""
    nursery: trio.Nursery
    _watches_shutdown: bool = False

    def watch_shutdown_nowait(self, terminated: trio.Event, drain_s: float) -> None:
        """Drain for `drain_s` when `terminated` is set; harmless if it is watched already.

        Both are the server's, the same for all connections, but ASGI shows them only with a request. So the
        first request tells us about them; a server that never had one has nothing to drain.
        """
        if not self._watches_shutdown:
            self._watches_shutdown = True
            self.nursery.start_soon(self._drain_at_shutdown, terminated, drain_s)

    async def _drain_at_shutdown(self, terminated: trio.Event, drain_s: float) -> None:
        await terminated.wait()
        if streams := len(self.models.ledger.live):
            logger.info(
                "stopping: %s may go on for %.0f s; Ctrl-C again ends what is left at once",
                "1 request" if streams == 1 else f"{streams} requests",
                drain_s,
            )
        await self.models.drain(drain_s)
        self.watching.close()


@dataclass(frozen=True, slots=True)
class Offer:
    """A model to be served: its public name, its engine, and how requests to it are served."""

    name: str
    engine: Engine
    options: ServiceOptions
    loads_at_start: bool = False


@dataclass(frozen=True, slots=True)
class Shelved:
    """A model of this process that is loaded when it is wanted, and what is known of it before."""

    name: str
    settings: Settings
    """Its own."""
    capacity: Capacity
    memory_bytes: int
    opens: Open
    loads_at_start: bool = True


def open_engine(
    settings: Settings, open_model: OpenModel, open_draft: Callable[[], Backend] | None, models: ExitStack
) -> tuple[Engine, str]:
    """Load the model, to be closed by `models`; its engine and its public name. Blocks.

    Raises StartupError.
    """
    backend, model = open_model()
    models.callback(backend.close)
    draft = None if open_draft is None else open_draft()
    if draft is not None:
        models.callback(draft.close)
    engine = LocalEngine(backend, pick(EngineOptions, settings), draft_backend=draft)
    return engine, model


async def start(
    settings: Settings, offers: Sequence[Offer], nursery: trio.Nursery, routes: Routes
) -> Running:
    """Start the engines of models, and all that stands on them, in `nursery`. Raises StartupError."""
    ledger = Ledger(keeps_content=settings.status_content)
    created_s = int(time.time())
    models = Models(
        [Model(offer.name, created_s, Service(offer.engine, offer.options, ledger)) for offer in offers]
    )
    watching = attach(models, stall_s=settings.stall_s, trace_dir=settings.trace_dir)
    files = await trio.to_thread.run_sync(read_files, static_folder())
    app = create_app(
        models,
        watching,
        files,
        pick(HttpOptions, settings),
        routes(pick(DialectOptions, settings)),
    )
    for offer in offers:
        await nursery.start(offer.engine.run)
        await nursery.start(models.named(offer.name).service.run)
        if isinstance(offer.engine, ShelvedEngine):
            offer.engine.is_in_use = models.named(offer.name).service.has_users
    for task in watching.tasks:
        nursery.start_soon(task)
    _spare_the_collector()
    for offer in offers:  # after that: what comes and goes is to be collected
        if offer.loads_at_start:
            await _load_at_start(offer)
    return Running(models, watching, app, nursery)


async def _load_at_start(offer: Offer) -> None:
    try:
        await offer.engine.load()
    except CorralError as error:
        residence = offer.engine.residence
        reason = (residence.reason if residence is not None else "") or error.message
        raise StartupError(one_line(f"{offer.name} cannot be loaded: {reason}")) from None


def shelve(found: Sequence[Shelved], limit_bytes: int) -> list[Offer]:
    """Models that share so much memory, each loaded when it is wanted; StartupError if one never fits."""
    at_start = sum(each.memory_bytes for each in found if each.loads_at_start)
    if at_start > limit_bytes:
        raise StartupError(
            f"the models to be loaded at the start need {at_start / 2**30:.1f} GiB together, and may have "
            f'{limit_bytes / 2**30:.1f}: give some of them load = "first-use", or raise models_memory_bytes'
        )
    shelf = Shelf(limit_bytes)
    offers = []
    for each in found:
        try:
            engine = ShelvedEngine(each.name, each.memory_bytes, each.capacity, each.opens, shelf)
        except ValueError as error:
            raise StartupError(f"{error}: see models_memory_bytes") from None
        offers.append(Offer(each.name, engine, pick(ServiceOptions, each.settings), each.loads_at_start))
    return offers


def shelf_bytes(settings: Settings) -> int:
    """What the models of a shelf may take together."""
    return settings.models_memory_bytes or round(SHELF_SHARE * (machine_bytes() or 2**60))


def find_models(settings: Settings) -> list[Shelved]:
    """Find the files of all `models`, downloading what is not there, and see what each will take. Blocks.

    Raises StartupError.
    """
    from corral.engine.local.llama import assertions

    if settings.models:
        assertions.end_in_one_line()
    return [_found(model, settings.of(model)) for model in settings.models]


def _found(model: LocalModel, settings: Settings) -> Shelved:
    from corral.engine.local.llama.fit import check_device
    from corral.engine.local.llama.footprint import BESIDE_BYTES, context, footprint
    from corral.engine.local.llama.modelfile import describe

    if settings.kv_cache == "auto":  # what it takes has to be known before it is loaded
        kept = "per-slot" if settings.deterministic else "shared"
        settings = settings.model_copy(update={"kv_cache": kept})
    check_device(_llama_options(settings))
    file = _resolved(settings.model)
    description = describe(file.path, settings.kv_type_k, settings.kv_type_v)
    takes = footprint(description, settings.ctx_tokens, settings.slots)
    if takes is None:
        memory_bytes = description.size_bytes + BESIDE_BYTES
    else:
        memory_bytes = takes.per_slot if settings.kv_cache == "per-slot" else takes.shared
    ctx_tokens = context(description, settings.ctx_tokens)
    if settings.draft_model is not None:
        drafts = describe(_resolved(settings.draft_model).path, settings.kv_type_k, settings.kv_type_v)
        memory_bytes += drafts.size_bytes + (drafts.kv_token_bytes or 0) * ctx_tokens
    name = model.name or file.name

    def opens(is_wanted: Callable[[], bool]) -> Opened:
        with ExitStack() as closing:
            backend = _load(file, settings, is_wanted, name)
            closing.callback(backend.close)
            draft = None if settings.draft_model is None else open_draft(settings)
            if draft is not None:
                closing.callback(draft.close)
            engine = LocalEngine(backend, pick(EngineOptions, settings), draft_backend=draft)
            return Opened(engine, closing.pop_all().close)

    return Shelved(
        name,
        settings,
        Capacity(settings.slots, ctx_tokens, ctx_tokens),
        memory_bytes + settings.host_cache_bytes,
        opens,
        model.load == "start",
    )


def open_llama(settings: Settings, model: str | None) -> tuple[Backend, str]:
    """Find and load a model, the default one for None; it and its public name. Raises StartupError."""
    from corral.engine.local.llama import assertions
    from corral.engine.local.llama.fit import check_device

    assertions.end_in_one_line()
    check_device(_llama_options(settings))  # before a model is downloaded
    model_file = _resolved(model)
    return _load(model_file, settings), model_file.name


def _resolved(model: str | None) -> "ModelFile":
    from corral.engine.local.llama.modelfile import resolve

    model_file = resolve(model)
    if model_file.template_fault is not None:
        raise StartupError(
            one_line(f"the chat template of {model_file.name} does not compile: {model_file.template_fault}")
        )
    return model_file


def _load(
    model_file: "ModelFile",
    settings: Settings,
    is_wanted: Callable[[], bool] = lambda: True,
    name: str | None = None,
) -> Backend:
    from corral.engine.local.llama import prompt_process
    from corral.engine.local.llama.backend import LlamaBackend
    from corral.engine.local.llama.modelfile import size_bytes
    from corral.engine.local.prompts.pool import DEADLINE_S, PromptProcesses

    with ExitStack() as undo:
        # They load the vocabulary while the model is loaded here.
        prompts = PromptProcesses(prompt_process.command(model_file.path, DEADLINE_S))
        undo.callback(prompts.close)
        logger.info("loading %s (%s MB)", model_file.path, f"{size_bytes(model_file.path) / 1e6:,.0f}")
        backend = LlamaBackend(model_file.path, _llama_options(settings), prompts, is_wanted)
        undo.pop_all()
    logger.info("%s: %s", name or model_file.name, backend.summary)
    return backend


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


UNNAMED = ""
"""The model of upstreams that none is named of: they say themselves what it is called."""


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


def open_draft(settings: Settings) -> Backend:
    """Load the draft model. Raises StartupError."""
    from corral.engine.local.llama.backend import LlamaBackend
    from corral.engine.local.llama.modelfile import resolve

    options = replace(_llama_options(settings), pooling="off")
    return LlamaBackend(resolve(settings.draft_model).path, options)


def _llama_options(settings: Settings) -> "LlamaOptions":
    from corral.engine.local.llama.options import LlamaOptions

    return pick(LlamaOptions, settings, engine=pick(EngineOptions, settings))


def limits(settings: Settings) -> Limits:
    """What a connection may cost, as the settings have it."""
    return pick(Limits, settings)


def pick(options: type[Options], settings: Settings, **others: Any) -> Options:
    """The options of one layer: a dataclass whose fields are settings, by the same names; and `others`.

    A field that no setting has is a constant of that layer, which a test may want otherwise.
    """
    names = {own.name for own in fields(options)} & Settings.model_fields.keys()
    return options(**{name: getattr(settings, name) for name in names}, **others)


def configure_process(settings: Settings) -> None:
    """Set what there is one of in a process: the log, and how soon threads take turns."""
    logs.configure(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def _spare_the_collector() -> None:
    """Never look again at what is there now: modules, routes, the vocabulary, all of it here to stay.

    A full collection passes over every object there is and stops all threads meanwhile, 45 ms with these.
    """
    gc.collect()
    gc.freeze()
