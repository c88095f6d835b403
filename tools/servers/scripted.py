"""corral with the scripted backend instead of llama.cpp: the whole server, and text that is known beforehand.

    python tools/servers/scripted.py --port 8001 --slots 8 --step-ms 5

It takes the flags of `corral serve` too; those about a model and its memory mean nothing here, but for
`--slots` and `--ctx-tokens`. `--script` says what it writes:

  noise     letters at constant cost, and nothing that drafts could use: what a token costs outside llama.cpp
  babble    the same 26 letters again and again, so all drafts: a step has up to 16 tokens of one stream
  rambling  every letter depends on all tokens before it: whether texts are whole
  told      as many letters as the seven digits say that its system message begins with
  clock     `<nanoseconds>` of time.perf_counter_ns() at the token's sampling. On Linux that is one clock for
            all processes: whoever reads the text knows how long it took to come.

Needs nothing of tools/ but itself, so that it can be started by its path.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from corral import server
from corral.application import Application
from corral.engine.local.backend import Backend
from corral.engine.local.scripted import (
    ANSWER,
    END,
    START,
    ByteVocabulary,
    ScriptedBackend,
    babble,
    rambling,
)
from corral.flags import add_flags
from corral.settings import load

CTX_TOKENS = 65_536
DIGITS = 7
PREFIXES = 32  # sequences for reusable prefixes, beside the running ones, as on llama.cpp
TOKEN_BYTES = 23_040  # of SmolLM2-135M: so the limit on kept prefixes holds as many as it would of those


def noise(tokens: Sequence[int]) -> int:
    """Endless letters at constant cost per token, without repetitions that drafting could use."""
    return 97 + (len(tokens) * 2_654_435_761 >> 9) % 26


def told(tokens: Sequence[int]) -> int:
    """Noise, and its end when there is as much of it as the conversation's first message wants."""
    first = 1 + len("system\n")
    wanted = int(bytes(tokens[first : first + DIGITS]))
    said = tokens[::-1].index(START) - len(ANSWER)
    return noise(tokens) if said < wanted else END


CLOCK = "clock"
SCRIPTS = {"noise": noise, "babble": babble, "rambling": rambling, "told": told, CLOCK: noise}


class ClockPieces(Sequence[bytes]):
    """The bytes of a token, asked for when it has just been sampled."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, token: int) -> bytes:  # type: ignore[override]  # nobody slices it
        if token >= self._tokens:
            raise IndexError(token)  # or whoever reads them all would never come to an end
        return b"<%d>" % time.perf_counter_ns()


class ClockVocabulary(ByteVocabulary):
    """Prompts are bytes, as ever."""

    pieces = ClockPieces(len(ByteVocabulary.pieces))  # type: ignore[assignment]


def steady(step_s: float) -> Callable[[], None]:
    """A sleep until `step_s` after the end of the last one, or not at all where that is past.

    So a step takes the same time whatever is in it, as long as what Python does in one takes less.
    """
    due_s = 0.0

    def sleep() -> None:
        nonlocal due_s
        now_s = time.monotonic()
        due_s = max(now_s, due_s + step_s)
        time.sleep(due_s - now_s)

    return sleep


def main() -> int:
    """Serve until SIGTERM; the exit code of `corral serve`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--script", choices=tuple(SCRIPTS), default="noise")
    parser.add_argument("--step-ms", type=float, default=0.0, help="sleep per step")
    parser.add_argument(
        "--steady", action="store_true", help="a step begins every --step-ms, whatever is in it"
    )
    source = add_flags(parser)
    args = parser.parse_args()
    script = SCRIPTS[args.script]
    sleep = steady(args.step_ms / 1e3) if args.steady else lambda: time.sleep(args.step_ms / 1e3)

    settings = load(source(args))

    def open_scripted() -> tuple[Backend, str]:
        backend = ScriptedBackend(
            script,
            token_bytes=TOKEN_BYTES,
            counts_cells=False,
            ctx_tokens=settings.ctx_tokens or CTX_TOKENS,
            sequences=settings.slots + PREFIXES,
            on_step=(lambda _chunks: sleep()) if args.step_ms > 0 else None,
            keep_steps=False,
        )
        if args.script == CLOCK:
            backend.model.vocabulary = ClockVocabulary()
        return backend, "scripted"

    return server.main(settings, Application(settings, open_scripted))


if __name__ == "__main__":
    sys.exit(main())
