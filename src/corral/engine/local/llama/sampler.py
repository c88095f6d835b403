"""Samplers on llama.cpp's logits: greedy in numpy, everything else by llama.cpp's own sampler chain.

llama.cpp's chain begins with an array of every token of the vocabulary, which costs more than all that
follows. Greedy needs none, and top-k needs only the candidates that can be among the k: see TopKSampler. Both
know a few parameters and serve only where all others are at their defaults, so that one that is added later
goes to the whole chain until somebody has taught it to them.

One chain per sequence holds its random state and the tokens its penalties look at, so what other
sequences do never changes what a seed draws. The order is llama.cpp's: bans, bias, penalties, DRY,
top-n-sigma, top-k, typical-p, top-p, min-p, XTC, temperature, then the draw.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.llama.model import LlamaModel
from corral.request import Mirostat, Sampling

STRIDE = 64
MANY_TOKENS = 2048  # of more candidates than these, those that can be among the k are worth finding
MIROSTAT_TOKENS = 100  # how many of the likeliest Mirostat 1.0 looks at, as in llama.cpp

_DEFAULT: Final = Sampling()
_RANDOM_SEED: Final = 0xFFFFFFFF  # llama.cpp's LLAMA_DEFAULT_SEED: it draws one itself

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_TOKEN_DATA_POINTER = ctypes.POINTER(llama_cpp.llama_token_data)

Row = Callable[[int], NDArray[np.float32]]
"""Logits of a row of the last step, [vocabulary]."""

Allowed = NDArray[np.bool_]
"""Which tokens may be picked, [vocabulary]."""


class GreedySampler:
    """The likeliest token. 10 us over 49,152 logits where llama.cpp's chain takes 154: it builds a
    candidate array of the whole vocabulary first."""

    reads = ("temperature", "top_k", "top_p", "min_p", "seed", "stop_tokens", "ignores_end")
    """What may differ from the defaults: it chooses among the likeliest, or has no part in choosing; or never
    is an end what is picked."""

    def __init__(self, row: Row, sampling: Sampling, end_tokens: Collection[int]) -> None:
        self._row = row
        self._banned = frozenset(end_tokens if sampling.ignores_end else ())

    def sample(self, row: int, allowed: Allowed | None = None) -> int:
        logits = self._row(row)
        token = _likeliest(logits, allowed)
        if token in self._banned:
            logits = logits.copy()
            logits[list(self._banned)] = -np.inf
            token = _likeliest(logits, allowed)
        return token

    def close(self) -> None:
        pass

    @staticmethod
    def serves(sampling: Sampling) -> bool:
        """Whether the likeliest token is all that is asked for."""
        return sampling.is_greedy and has_only(sampling, GreedySampler.reads)


def _likeliest(logits: NDArray[np.float32], allowed: Allowed | None) -> int:
    if allowed is None:
        return int(logits.argmax())
    tokens = np.flatnonzero(allowed)
    return int(tokens[logits[tokens].argmax()])


class TopKSampler:
    """A llama.cpp chain that begins with top-k, given only tokens that can be among the k.

    Cut the vocabulary into groups of STRIDE tokens: the k-th largest of their maxima is a lower bound of the
    k-th largest logit, since k groups hold one at least as large. What lies below it cannot be among the k.
    The draw is that of the whole chain, token for token; a test holds the two against each other.
    """

    reads = ("temperature", "top_k", "top_p", "min_p", "seed", "stop_tokens")
    """What may differ from the defaults: it is in the chain behind top-k, or has no part in choosing."""

    def __init__(self, row: Row, sampling: Sampling, model: LlamaModel) -> None:
        self._row = row
        self._top_k = sampling.top_k
        self._chain = _chain(sampling, model, ())

    def sample(self, row: int, allowed: Allowed | None = None) -> int:
        logits = self._row(row)
        if allowed is None:
            return _drawn(self._chain, logits, self._candidates(logits))
        tokens = np.flatnonzero(allowed)
        if len(tokens) > MANY_TOKENS:
            likeliest = self._candidates(np.where(allowed, logits, -np.inf).astype(np.float32, copy=False))
            tokens = min(likeliest, tokens, key=len)
        return _drawn(self._chain, logits, tokens)

    def _candidates(self, logits: NDArray[np.float32]) -> NDArray[np.intp]:
        whole = len(logits) // STRIDE * STRIDE
        # A group is a column, not a row: 6 us for 49,152 logits instead of 49. It need not be contiguous.
        maxima = logits[:whole].reshape(STRIDE, -1).max(axis=0)
        bound = np.partition(maxima, -self._top_k)[-self._top_k]
        return np.flatnonzero(logits >= bound)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)

    @staticmethod
    def serves(sampling: Sampling, vocabulary_tokens: int) -> bool:
        """Whether top-k comes first and leaves most of the vocabulary out."""
        fits = 0 < sampling.top_k <= vocabulary_tokens // STRIDE // 2
        return fits and not sampling.is_greedy and has_only(sampling, TopKSampler.reads)


class ChainSampler:
    """A llama.cpp sampler chain; `batch_index` tells which token of the batch a row belongs to."""

    def __init__(
        self,
        context: llama_cpp.llama_context_p,
        model: LlamaModel,
        sampling: Sampling,
        prompt: Sequence[int],
        row: Row,
        batch_index: Callable[[int], int],
    ) -> None:
        self._context = context
        self._row = row
        self._batch_index = batch_index
        self._chain = _chain(sampling, model, prompt)
        # Bans of the first tokens only are the first of the chain, to be taken off when these are sampled.
        self._banned_tokens_left = sampling.min_tokens

    def sample(self, row: int, allowed: Allowed | None = None) -> int:
        if allowed is None:
            token = int(llama_cpp.llama_sampler_sample(self._chain, self._context, self._batch_index(row)))
        else:
            token = _drawn(self._chain, self._row(row), np.flatnonzero(allowed))
            llama_cpp.llama_sampler_accept(self._chain, token)
        if self._banned_tokens_left:
            self._banned_tokens_left -= 1
            if not self._banned_tokens_left:
                llama_cpp.llama_sampler_free(llama_cpp.llama_sampler_chain_remove(self._chain, 0))
        return token

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)


def _drawn(chain: llama_cpp.llama_sampler_p, logits: NDArray[np.float32], tokens: NDArray[np.intp]) -> int:
    """What a chain picks among some tokens; it is not told that it was picked."""
    candidates = np.zeros(len(tokens), _TOKEN_DATA)
    candidates["id"] = tokens
    candidates["logit"] = logits[tokens]
    array = llama_cpp.llama_token_data_array(
        data=ctypes.cast(candidates.ctypes.data, _TOKEN_DATA_POINTER), size=len(tokens), selected=-1
    )
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    return int(candidates["id"][array.selected])


def has_only(sampling: Sampling, names: Iterable[str]) -> bool:
    """Whether all but the parameters `names` are at their defaults."""
    return replace(sampling, **{name: getattr(_DEFAULT, name) for name in names}) == _DEFAULT


def seed_of_draw(seed: int | None) -> int:
    """What llama.cpp's generators are seeded with: 32 bits of all 64, never the value that it takes for none.

    Two seeds give the same draws with a chance of one in 2**32.
    """
    if seed is None:
        return secrets.randbelow(_RANDOM_SEED)
    return int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest()) % _RANDOM_SEED


def _chain(sampling: Sampling, model: LlamaModel, prompt: Sequence[int]) -> llama_cpp.llama_sampler_p:
    """The chain for a sequence that begins with `prompt`, which its penalties have seen."""
    known = len(model.vocabulary.pieces)
    seed = seed_of_draw(sampling.seed)
    chain: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_chain_init(
        llama_cpp.llama_sampler_chain_default_params()
    )

    def add(sampler: llama_cpp.llama_sampler_p) -> None:
        llama_cpp.llama_sampler_chain_add(chain, sampler)

    ends = [(token, -math.inf) for token in model.vocabulary.end_tokens]
    if sampling.min_tokens:
        add(_bias([*ends, *((token, -math.inf) for token in sampling.stop_tokens)], known))
    biases = [*sampling.logit_bias, *(ends if sampling.ignores_end else ())]
    if biases:
        add(_bias(biases, known))
    if sampling.mirostat is not None and not sampling.is_greedy:
        add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        add(_mirostat(sampling.mirostat, seed, known))
        return chain
    lookback_tokens = 0
    if sampling.has_penalties:
        window_tokens = sampling.penalty_window_tokens
        window_tokens = model.train_tokens if window_tokens is None else window_tokens
        lookback_tokens = window_tokens = min(window_tokens, model.train_tokens)
        add(
            llama_cpp.llama_sampler_init_penalties(
                known,
                window_tokens,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.dry is not None:
        lookback_tokens = max(lookback_tokens, model.dry_samplers.window_tokens(sampling.dry))
        add(model.dry_samplers.copy(sampling.dry))
    if sampling.is_greedy:
        add(llama_cpp.llama_sampler_init_greedy())
    else:
        _add_draw(add, sampling, seed)
    for token in prompt[-lookback_tokens:] if lookback_tokens else ():
        llama_cpp.llama_sampler_accept(chain, token)
    return chain


def _add_draw(add: Callable[[llama_cpp.llama_sampler_p], None], sampling: Sampling, seed: int) -> None:
    if sampling.top_n_sigma > 0.0:
        add(llama_cpp.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
    if sampling.top_k > 0:
        add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1.0:
        add(llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1.0:
        add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
    if sampling.xtc_probability > 0.0:
        add(llama_cpp.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed))
    add(
        llama_cpp.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.temperature_range, sampling.temperature_exponent
        )
    )
    add(llama_cpp.llama_sampler_init_dist(seed))


def _bias(biases: Sequence[tuple[int, float]], known: int) -> llama_cpp.llama_sampler_p:
    entries = (llama_cpp.llama_logit_bias * len(biases))()
    for entry, (token, bias) in zip(entries, biases, strict=True):
        entry.token, entry.bias = token, bias
    sampler: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_init_logit_bias(known, len(entries), entries)
    return sampler


def _mirostat(mirostat: Mirostat, seed: int, known: int) -> llama_cpp.llama_sampler_p:
    tau, eta = mirostat.tau, mirostat.eta
    sampler: llama_cpp.llama_sampler_p = (
        llama_cpp.llama_sampler_init_mirostat(known, seed, tau, eta, MIROSTAT_TOKENS)
        if mirostat.version == 1
        else llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)
    )
    return sampler
