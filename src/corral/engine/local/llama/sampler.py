"""Samplers on llama.cpp's logits: greedy in numpy, everything else by llama.cpp's own sampler chain.

llama.cpp's chain begins with an array of every token of the vocabulary, which costs more than all that
follows. Greedy needs none, and top-k needs only the candidates that can be among the k: see TopKSampler.

One chain per sequence holds its random state and the tokens its penalties look at, so what other
sequences do never changes what a seed draws. The order is llama.cpp's: bias, penalties, top-k, top-p,
min-p, temperature, then the draw.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import secrets
from collections.abc import Callable, Sequence

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.request import Sampling

STRIDE = 64

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_TOKEN_DATA_POINTER = ctypes.POINTER(llama_cpp.llama_token_data)

Row = Callable[[int], NDArray[np.float32]]
"""Logits of a row of the last step, [vocabulary]."""


class GreedySampler:
    """The likeliest token. 10 us over 49,152 logits where llama.cpp's chain takes 154: it builds a
    candidate array of the whole vocabulary first."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def sample(self, row: int) -> int:
        return int(self._row(row).argmax())

    def close(self) -> None:
        pass


class TopKSampler:
    """A llama.cpp chain that begins with top-k, given only tokens that can be among the k.

    Cut the vocabulary into groups of STRIDE tokens: the k-th largest of their maxima is a lower bound of the
    k-th largest logit, since k groups hold one at least as large. What lies below it cannot be among the k.
    The draw is that of the whole chain, token for token; a test holds the two against each other.
    """

    def __init__(self, row: Row, sampling: Sampling, vocabulary_tokens: int) -> None:
        self._row = row
        self._top_k = sampling.top_k
        self._chain = _chain(sampling, vocabulary_tokens)

    def sample(self, row: int) -> int:
        logits = self._row(row)
        whole = len(logits) // STRIDE * STRIDE
        # A group is a column, not a row: 6 us for 49,152 logits instead of 49. It need not be contiguous.
        maxima = logits[:whole].reshape(STRIDE, -1).max(axis=0)
        bound = np.partition(maxima, -self._top_k)[-self._top_k]
        tokens = np.flatnonzero(logits >= bound)
        candidates = np.zeros(len(tokens), _TOKEN_DATA)
        candidates["id"] = tokens
        candidates["logit"] = logits[tokens]
        array = llama_cpp.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, _TOKEN_DATA_POINTER), size=len(tokens), selected=-1
        )
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(candidates["id"][array.selected])

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)

    @staticmethod
    def serves(sampling: Sampling, vocabulary_tokens: int) -> bool:
        """Whether top-k comes first and leaves most of the vocabulary out."""
        has_more = sampling.has_penalties or bool(sampling.logit_bias) or sampling.is_greedy
        return not has_more and 0 < sampling.top_k <= vocabulary_tokens // STRIDE // 2


class ChainSampler:
    """A llama.cpp sampler chain; `batch_index` tells which token of the batch a row belongs to."""

    def __init__(
        self,
        context: llama_cpp.llama_context_p,
        sampling: Sampling,
        prompt: Sequence[int],
        vocabulary_tokens: int,
        batch_index: Callable[[int], int],
    ) -> None:
        self._context = context
        self._batch_index = batch_index
        self._chain = _chain(sampling, vocabulary_tokens)
        if sampling.has_penalties:
            for token in prompt[-sampling.penalty_window_tokens :]:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def sample(self, row: int) -> int:
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context, self._batch_index(row)))

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)


def _chain(sampling: Sampling, vocabulary_tokens: int) -> llama_cpp.llama_sampler_p:
    chain: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_chain_init(
        llama_cpp.llama_sampler_chain_default_params()
    )

    def add(sampler: llama_cpp.llama_sampler_p) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    if sampling.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(sampling.logit_bias))()
        for slot, (token, bias) in zip(biases, sampling.logit_bias, strict=True):
            slot.token, slot.bias = token, bias
        add(llama_cpp.llama_sampler_init_logit_bias(vocabulary_tokens, len(biases), biases))
    if sampling.has_penalties:
        add(
            llama_cpp.llama_sampler_init_penalties(
                vocabulary_tokens,
                sampling.penalty_window_tokens,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.is_greedy:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    add(llama_cpp.llama_sampler_init_dist(ctypes.c_uint32(seed).value))
    return chain
