"""Several models of this process, which come and go as they are wanted, within a bound on memory."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.engine.contract import Capacity
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.shelf.engine import Open, Opened, ShelvedEngine
from corral.engine.shelf.shelf import Shelf
from corral.errors import StartupError
from corral.serving.service import ServiceOptions
from corral.settings import LocalModel, Settings
from corral.watching.memory import machine_bytes
from corral.wiring.local import llama_options, load, open_draft, resolved
from corral.wiring.options import pick
from corral.wiring.running import Offer

if TYPE_CHECKING:
    from corral.engine.local.llama.modelfile import ModelFile

SHELF_SHARE = 0.75
"""Of the memory there is, what models that come and go may take together, where no setting says."""


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
    from corral.engine.local.llama.modelfile import identity

    if settings.kv_cache == "auto":  # what it takes has to be known before it is loaded
        kept = "per-slot" if settings.deterministic else "shared"
        settings = settings.model_copy(update={"kv_cache": kept})
    check_device(llama_options(settings))
    file = resolved(settings.model)
    found = identity(file.path)
    memory_bytes, ctx_tokens = _takes(file, settings)
    name = model.name or file.name

    def check_unchanged() -> None:
        if _identity_now(file) != found:  # so nobody knows what it does to who loads it
            resolved(os.fspath(file.path))
            if _takes(file, settings)[0] > memory_bytes:
                raise StartupError(f"{file.path} has grown since the start: it takes a restart")

    def opens(is_wanted: Callable[[], bool]) -> Opened:
        check_unchanged()
        with ExitStack() as closing:
            backend = load(file, settings, is_wanted, name)
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
        memory_bytes,
        opens,
        model.load == "start",
    )


def _identity_now(file: "ModelFile") -> object:
    from corral.engine.local.llama.modelfile import identity

    try:
        return identity(file.path)
    except OSError:
        return None


def _takes(file: "ModelFile", settings: Settings) -> tuple[int, int]:
    """What a model takes of the memory, as estimated, and how long a text may be."""
    from corral.engine.local.llama.footprint import BESIDE_BYTES, context, footprint
    from corral.engine.local.llama.modelfile import describe

    description = describe(file.path, settings.kv_type_k, settings.kv_type_v)
    takes = footprint(description, settings.ctx_tokens, settings.slots)
    if takes is None:
        memory_bytes = description.size_bytes + BESIDE_BYTES
    else:
        memory_bytes = takes.per_slot if settings.kv_cache == "per-slot" else takes.shared
    ctx_tokens = context(description, settings.ctx_tokens)
    if settings.draft_model is not None:
        drafts = describe(resolved(settings.draft_model).path, settings.kv_type_k, settings.kv_type_v)
        memory_bytes += drafts.size_bytes + (drafts.kv_token_bytes or 0) * ctx_tokens
    return memory_bytes + settings.host_cache_bytes, ctx_tokens


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
