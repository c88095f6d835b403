"""A model that llama.cpp has loaded: its weights, its vocabulary, and what can be asked of its file."""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import llama_cpp

from corral.engine.local.backend import ChatFormat
from corral.engine.local.llama import log, metadata
from corral.engine.local.llama.dry import DrySamplers
from corral.engine.local.llama.fault import load_failure
from corral.engine.local.llama.vocabulary import LlamaVocabulary
from corral.engine.local.prompts.contract import Prompts
from corral.errors import StartupError
from corral.request import Sampling

PROBE_TOKENS = 32


class LlamaModel:
    """Loading blocks, from tenths of a second to minutes; raises StartupError with llama.cpp's own reason.

    `pointer` is llama.cpp's. `vocab_only` leaves out the weights. `prompts` writes prompts elsewhere, and is
    closed with the model. Loading ends early, as a failure, when it is not `is_wanted` any more.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = 0,
        *,
        vocab_only: bool = False,
        prompts: Prompts | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        log.install()
        llama_cpp.llama_backend_init()
        self.pointer = _load(path, gpu_layers, vocab_only, is_wanted)
        self.prompts = prompts
        self.vocabulary = LlamaVocabulary(self.pointer)
        vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        assert vocab is not None
        self.dry_samplers = DrySamplers(vocab, self.train_tokens)
        template = llama_cpp.llama_model_chat_template(self.pointer, None)
        self.chat_format = ChatFormat(
            template=template.decode(errors="replace") if template else None,
            bos_text=self.vocabulary.bos_text,
            eos_text=self.vocabulary.eos_text,
        )

    @property
    def train_tokens(self) -> int:
        """The longest text the model was trained with, in tokens."""
        return int(llama_cpp.llama_model_n_ctx_train(self.pointer))

    @property
    def keeps_state(self) -> bool:
        """Whether it keeps a state for each sequence, of the same size however long that is."""
        return bool(
            llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(self.pointer)
        )

    @property
    def can_cut(self) -> bool:
        """Not where the model keeps one state for all positions, or only the last ones of some layers."""
        return not self.keeps_state and llama_cpp.llama_model_n_swa(self.pointer) == 0

    @cached_property
    def generates(self) -> bool:
        """Whether it writes a text token by token; not where it attends in both directions (encoders).

        llama.cpp tells by giving a context of such a model no memory: a small one is made to see that. Raises
        StartupError if that cannot be.
        """
        if not llama_cpp.llama_model_has_decoder(self.pointer):
            return False
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = PROBE_TOKENS
        params.no_perf = True
        with log.quietly():
            context = llama_cpp.llama_init_from_model(self.pointer, params)
        if context is None:
            raise StartupError(f"llama.cpp cannot make a context: {log.reason()}")
        has_memory = llama_cpp.llama_get_memory(context) is not None
        llama_cpp.llama_free(context)
        return has_memory

    @property
    def pooling(self) -> int | None:
        """How the vectors of tokens become one, by llama.cpp's number; None where its file says nothing."""
        return metadata.number(self.pointer, "pooling_type")

    @property
    def vector_dimensions(self) -> int:
        return int(llama_cpp.llama_model_n_embd_out(self.pointer))

    def make_ready(self, sampling: Sampling) -> None:
        """Do beforehand what would take long in the engine's thread; from any thread."""
        if sampling.dry is not None:
            self.dry_samplers.make_ready(sampling.dry)

    def close(self) -> None:
        """Free the model; its contexts have been freed before."""
        if self.prompts is not None:
            self.prompts.close()
        self.dry_samplers.close()
        llama_cpp.llama_model_free(self.pointer)


def _load(
    path: Path, gpu_layers: int, vocab_only: bool, is_wanted: Callable[[], bool]
) -> llama_cpp.llama_model_p:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    params.n_gpu_layers = gpu_layers
    # Asked between tensors, and kept here until the call returns.
    params.progress_callback = go_on = llama_cpp.llama_progress_callback(lambda share, _: is_wanted())
    with log.quietly():
        model: llama_cpp.llama_model_p | None = llama_cpp.llama_model_load_from_file(
            os.fsencode(path), params
        )
    del go_on
    if model is None:
        raise load_failure(path)
    return model
