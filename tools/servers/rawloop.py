"""llama.cpp's batch loop with nothing around it: the yardstick that bench.py holds the server against.

The loop is what a perfect server would do: prompts tokenized beforehand, prefilled in fixed chunks one
sequence after the other, then all sequences decoded together, one `llama_decode` per token, picked by
numpy's argmax on the logits in place. No trio, no HTTP, no text.

    python -m tools.servers.rawloop --model FILE     answers one JSON line on stdout per JSON line on stdin

Run as a process of its own (yardstick.py), so that neither the client nor the server shares its interpreter.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lc
import msgspec
import numpy as np

from tools.servers.yardstick import BATCH_TOKENS, RoundRequest, RoundResult


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a batch."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


def _is_quiet(level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    del level


_QUIET = lc.llama_log_callback(_is_quiet)  # kept here: ctypes frees a callback nobody holds


class RawLoop:
    """A model and a context for `sequences`. Not thread-safe; close it once.

    `unified`: one KV cache of `ctx_tokens` for all, else as many streams as sequences, each with its share.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        sequences: int,
        threads: int,
        ctx_tokens: int = 8192,
        unified: bool = False,
        flash_attn: int = lc.LLAMA_FLASH_ATTN_TYPE_AUTO,
    ) -> None:
        lc.llama_log_set(_QUIET, ctypes.c_void_p(0))
        lc.llama_backend_init()
        model = lc.llama_model_load_from_file(str(model_path).encode(), lc.llama_model_default_params())
        if not model:
            raise SystemExit(f"rawloop: cannot load {model_path}")
        self._model = model
        params = lc.llama_context_default_params()
        params.n_ctx = ctx_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = flash_attn
        params.kv_unified = unified
        ctx = lc.llama_init_from_model(model, params)
        if not ctx:
            raise SystemExit(f"rawloop: no context of {ctx_tokens} tokens for {sequences} sequences")
        self._ctx = ctx
        vocab = lc.llama_model_get_vocab(model)
        memory = lc.llama_get_memory(ctx)
        assert vocab is not None
        assert memory is not None
        self._vocab = vocab
        self._memory = memory
        self.vocab_tokens = lc.llama_vocab_n_tokens(vocab)
        self._batch = lc.llama_batch_init(BATCH_TOKENS, 0, 1)

    def close(self) -> None:
        """Free batch, context and model."""
        lc.llama_batch_free(self._batch)
        lc.llama_free(self._ctx)
        lc.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text`, special tokens parsed, none added."""
        data = text.encode()
        room = (lc.llama_token * (len(data) + 8))()
        count = lc.llama_tokenize(self._vocab, data, len(data), room, len(room), False, True)
        if count < 0:
            raise ValueError(f"{-count} tokens do not fit in {len(room)}")
        return list(room[:count])

    def forget(self, sequence: int = -1) -> None:
        """Drop the cached tokens of one sequence, or of all (-1)."""
        if sequence < 0:
            lc.llama_memory_clear(self._memory, False)
        else:
            lc.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Have the empty `target` hold all that `source` does."""
        lc.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> None:
        """Drop what `sequence` holds from position `length` on."""
        lc.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def decode(self, rows: Sequence[Row]) -> float:
        """One `llama_decode`; returns the seconds it took, logits included.

        Raises RuntimeError when llama.cpp refuses the batch.
        """
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i] = row.token
            batch.pos[i] = row.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row.sequence
            batch.logits[i] = row.wants_logits
        started = time.perf_counter()
        status = lc.llama_decode(self._ctx, batch)
        elapsed_s = time.perf_counter() - started
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return elapsed_s

    def pick(self, outputs: int) -> list[int]:
        """The most likely token of each of the last step's `outputs` rows of logits, in batch order."""
        logits = np.ctypeslib.as_array(lc.llama_get_logits(self._ctx), shape=(outputs, self.vocab_tokens))
        return [int(row.argmax()) for row in logits]

    def prefill(self, sequence: int, tokens: Sequence[int], chunk_tokens: int, *, start: int = 0) -> float:
        """Prefill `tokens` of one sequence in chunks; the last has logits. Returns seconds in llama.cpp."""
        last = len(tokens) - 1
        llama_s = 0.0
        for at in range(0, len(tokens), chunk_tokens):
            rows = [
                Row(token, start + at + i, sequence, at + i == last)
                for i, token in enumerate(tokens[at : at + chunk_tokens])
            ]
            llama_s += self.decode(rows)
        return llama_s

    def round(self, request: RoundRequest) -> RoundResult:
        """Prefill every prompt, then decode all of them together to `output_tokens` each."""
        prompts = [self.tokenize(text) for text in request.prompts]
        chunk = min(request.chunk_tokens, BATCH_TOKENS)
        self.forget()
        cpu_before = time.process_time()
        started = time.perf_counter()
        llama_s = 0.0
        picked: list[int] = []
        for sequence, tokens in enumerate(prompts):
            llama_s += self.prefill(sequence, tokens, chunk)
            picked += self.pick(1)
        prefilled = time.perf_counter()
        step_ms: list[float] = []
        for step in range(request.output_tokens - 1):
            rows = [Row(token, len(prompts[seq]) + step, seq, True) for seq, token in enumerate(picked)]
            took_s = self.decode(rows)
            llama_s += took_s
            step_ms.append(round(took_s * 1e3, 3))
            picked = self.pick(len(rows))
        ended = time.perf_counter()
        return RoundResult(
            prompt_tokens=sum(map(len, prompts)),
            output_tokens=request.output_tokens * len(prompts),
            prefill_s=prefilled - started,
            decode_s=ended - prefilled,
            llama_s=llama_s,
            cpu_s=time.process_time() - cpu_before,
            step_ms=step_ms,
        )


def main() -> None:
    """Serve rounds over stdin and stdout until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx-tokens", type=int, default=8192)
    parser.add_argument("--kv-unified", action="store_true")
    args = parser.parse_args()
    loop = RawLoop(
        args.model,
        sequences=args.sequences,
        threads=args.threads,
        ctx_tokens=args.ctx_tokens,
        unified=args.kv_unified,
    )
    decoder = msgspec.json.Decoder(RoundRequest)
    print('{"ready":true}', flush=True)
    for line in sys.stdin:
        print(msgspec.json.encode(loop.round(decoder.decode(line))).decode(), flush=True)
    loop.close()


if __name__ == "__main__":
    main()
