"""Models of this process, on llama.cpp."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.engine.contract import Engine
from corral.engine.local.backend import Backend
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.errors import StartupError
from corral.printable import one_line
from corral.settings import Settings
from corral.wiring.options import pick

if TYPE_CHECKING:
    from corral.engine.local.llama.modelfile import ModelFile
    from corral.engine.local.llama.options import LlamaOptions

logger = logging.getLogger("corral")

OpenModel = Callable[[], tuple[Backend, str]]
"""Blocks; returns a backend and the model's public name. Raises StartupError."""


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


def open_llama(settings: Settings, model: str | None) -> tuple[Backend, str]:
    """Find and load a model, the default one for None; it and its public name. Raises StartupError."""
    from corral.engine.local.llama import assertions
    from corral.engine.local.llama.fit import check_device

    assertions.end_in_one_line()
    check_device(llama_options(settings))  # before a model is downloaded
    model_file = resolved(model)
    return load(model_file, settings), model_file.name


def resolved(model: str | None) -> "ModelFile":
    from corral.engine.local.llama.modelfile import resolve

    model_file = resolve(model)
    if model_file.template_fault is not None:
        raise StartupError(
            one_line(f"the chat template of {model_file.name} does not compile: {model_file.template_fault}")
        )
    return model_file


def load(
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
        backend = LlamaBackend(model_file.path, llama_options(settings), prompts, is_wanted)
        undo.pop_all()
    logger.info("%s: %s", name or model_file.name, backend.summary)
    return backend


def open_draft(settings: Settings) -> Backend:
    """Load the draft model. Raises StartupError."""
    from corral.engine.local.llama.backend import LlamaBackend
    from corral.engine.local.llama.modelfile import resolve

    options = replace(llama_options(settings), pooling="off")
    return LlamaBackend(resolve(settings.draft_model).path, options)


def llama_options(settings: Settings) -> "LlamaOptions":
    from corral.engine.local.llama.options import LlamaOptions

    return pick(LlamaOptions, settings, engine=pick(EngineOptions, settings))
