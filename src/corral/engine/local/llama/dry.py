"""DRY samplers, which take long to make and little to copy.

To find the tokens in which a breaker can begin, llama.cpp goes through the vocabulary once for each: 14 to
45 ms for the four usual ones and 49,152 tokens, where a copy takes 0.1. So they are made where nobody waits,
in the thread that prepares a request, and copied in the engine's.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import threading
from collections import OrderedDict

import llama_cpp

from corral.request import Dry

KEPT = 16


class DrySamplers:
    """Makes and copies them; from any thread. The least recently used of more than KEPT go."""

    def __init__(self, vocab: llama_cpp.llama_vocab_p, train_tokens: int) -> None:
        self._vocab = vocab
        self._train_tokens = train_tokens
        self._originals: OrderedDict[Dry, llama_cpp.llama_sampler_p] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._is_closed = False

    def window_tokens(self, dry: Dry) -> int:
        """How far one looks back."""
        return min(dry.window_tokens or self._train_tokens, self._train_tokens)

    def make_ready(self, dry: Dry) -> None:
        """See to it that `copy` has something to copy."""
        with self._making:
            with self._lock:
                if self._is_closed:
                    return
                if dry in self._originals:
                    self._originals.move_to_end(dry)
                    return
            original = self._new(dry)
            with self._lock:
                self._originals[dry] = original
                if len(self._originals) > KEPT:
                    llama_cpp.llama_sampler_free(self._originals.popitem(last=False)[1])

    def copy(self, dry: Dry) -> llama_cpp.llama_sampler_p:
        """A sampler that has seen nothing yet, and belongs to the caller."""
        with self._lock:
            original = self._originals.get(dry)
            if original is not None:
                copy: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_clone(original)
                return copy
        return self._new(dry)

    def close(self) -> None:
        """Free what is kept, once nobody is making one any more: they look at the vocabulary."""
        with self._making, self._lock:
            self._is_closed = True
            for original in self._originals.values():
                llama_cpp.llama_sampler_free(original)
            self._originals.clear()

    def _new(self, dry: Dry) -> llama_cpp.llama_sampler_p:
        breakers = (ctypes.c_char_p * len(dry.breakers))(*(breaker.encode() for breaker in dry.breakers))
        sampler: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_init_dry(
            self._vocab,
            dry.multiplier,
            dry.base,
            dry.allowed_tokens,
            self.window_tokens(dry),
            breakers,
            len(breakers),
        )
        return sampler
