"""corral on the scripted backend, where the text of every token is the time at which it was sampled.

    python tools/serve_clock.py --port 8001 --step-ms 10

`<nanoseconds>` of time.perf_counter_ns(), which on Linux is one clock for all processes: whoever reads the
text knows how long it took to come.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from corral import server
from corral.application import Application
from corral.engine.local.backend import Backend
from corral.engine.local.scripted import ByteVocabulary, ScriptedBackend
from corral.settings import load
from serve_scripted import PREFIXES, TOKEN_BYTES, noise


class ClockPieces(Sequence[bytes]):
    """The bytes of a token, asked for when it has just been sampled."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return self._tokens

    def __getitem__(self, token: int) -> bytes:  # type: ignore[override]  # nobody slices it
        return b"<%d>" % time.perf_counter_ns()


class ClockVocabulary(ByteVocabulary):
    """Prompts are bytes, as ever."""

    pieces = ClockPieces(len(ByteVocabulary.pieces))  # type: ignore[assignment]


def clock_backend(slots: int, step_s: float) -> ScriptedBackend:
    """Endless time."""
    backend = ScriptedBackend(
        noise,
        token_bytes=TOKEN_BYTES,
        counts_cells=False,
        ctx_tokens=65_536,
        sequences=slots + PREFIXES,
        on_step=lambda _chunks: time.sleep(step_s),
        keep_steps=False,
    )
    backend.model.vocabulary = ClockVocabulary()
    return backend


def main() -> int:
    """Serve until SIGTERM; the exit code of `corral serve`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=10.0)
    args = parser.parse_args()

    settings = load({"bind": f"127.0.0.1:{args.port}", "status_content": True})

    def open_clock() -> tuple[Backend, str]:
        return clock_backend(settings.slots, args.step_ms / 1e3), "clock"

    return server.main(settings, Application(settings, open_clock))


if __name__ == "__main__":
    sys.exit(main())
