"""corral with the scripted backend instead of llama.cpp: the whole server, and text that is known beforehand.

    python tools/serve_scripted.py --port 8001 --slots 8 --step-ms 5

bench.py measures the cost of a token outside llama.cpp with it (`--script noise`), soak.py the
integrity of texts (`--script rambling`: every letter depends on all tokens before it). `babble` repeats
itself every 26 tokens, so it is all drafts: with it a step has up to 16 tokens of one stream.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from corral import server
from corral.engine.backend import Backend
from corral.engine.scripted import ScriptedBackend, babble, rambling
from corral.settings import Settings, load

PREFIXES = 32  # sequences for reusable prefixes, beside the running ones, as on llama.cpp


class UncountedBackend(ScriptedBackend):
    """Does not count its cells before every step: that costs as much as they are, and no model does it."""

    @property
    def used_cells(self) -> int:
        return 0


def noise(tokens: Sequence[int]) -> int:
    """Endless letters at constant cost per token, without repetitions that drafting could use."""
    return 97 + (len(tokens) * 2_654_435_761 >> 9) % 26


SCRIPTS = {"noise": noise, "babble": babble, "rambling": rambling}


def main() -> int:
    """Serve until SIGTERM; the exit code of `corral serve`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--ctx-tokens", type=int, default=65_536)
    parser.add_argument("--script", choices=tuple(SCRIPTS), default="noise")
    parser.add_argument("--step-ms", type=float, default=0.0, help="sleep per step")
    args = parser.parse_args()
    script = SCRIPTS[args.script]
    step_s = args.step_ms / 1e3

    def open_scripted(settings: Settings, model: str | None) -> tuple[Backend, str]:
        del settings, model
        backend = UncountedBackend(
            script,
            ctx_tokens=args.ctx_tokens,
            sequences=args.slots + PREFIXES,
            on_step=(lambda _chunks: time.sleep(step_s)) if step_s > 0 else None,
            keep_steps=False,
        )
        return backend, "scripted"

    server.open_llama = open_scripted
    return server.main(load({"bind": f"127.0.0.1:{args.port}", "slots": args.slots, "queue": args.queue}))


if __name__ == "__main__":
    sys.exit(main())
