"""corral with the scripted backend instead of llama.cpp: the whole server, and text that is known beforehand.

    python tools/serve_scripted.py --port 8001 --slots 8 --step-ms 5

It takes the flags of `corral serve` too; those about a model and its memory mean nothing here, but for
`--slots` and `--ctx-tokens`.

bench.py measures the cost of a token outside llama.cpp with it (`--script noise`), soak.py the
integrity of texts (`--script rambling`: every letter depends on all tokens before it). `babble` repeats
itself every 26 tokens, so it is all drafts: with it a step has up to 16 tokens of one stream.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from corral import server
from corral.application import Application
from corral.engine.local.backend import Backend
from corral.engine.local.scripted import ScriptedBackend, babble, rambling
from corral.settings import add_flags, load

CTX_TOKENS = 65_536
PREFIXES = 32  # sequences for reusable prefixes, beside the running ones, as on llama.cpp
TOKEN_BYTES = 23_040  # of SmolLM2-135M: so the limit on kept prefixes holds as many as it would of those


def noise(tokens: Sequence[int]) -> int:
    """Endless letters at constant cost per token, without repetitions that drafting could use."""
    return 97 + (len(tokens) * 2_654_435_761 >> 9) % 26


SCRIPTS = {"noise": noise, "babble": babble, "rambling": rambling}


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
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", choices=tuple(SCRIPTS), default="noise")
    parser.add_argument("--step-ms", type=float, default=0.0, help="sleep per step")
    parser.add_argument(
        "--steady", action="store_true", help="a step begins every --step-ms, whatever is in it"
    )
    source = add_flags(parser)
    args = parser.parse_args()
    script = SCRIPTS[args.script]
    sleep = steady(args.step_ms / 1e3) if args.steady else lambda: time.sleep(args.step_ms / 1e3)

    settings = load({**source(args), "bind": f"127.0.0.1:{args.port}"})

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
        return backend, "scripted"

    return server.main(settings, Application(settings, open_scripted))


if __name__ == "__main__":
    sys.exit(main())
