"""A server of three models that come and go: one is there, one fails, one waits until a file is there."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corral import server
from corral.application import Application
from corral.engine.contract import Capacity
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.engine.shelf.engine import Opened
from corral.errors import StartupError
from corral.settings import Settings, load
from corral.wiring.shelf import Shelved

SLOTS = 2
MIB = 2**20


def opens(name: str, release: Path, is_wanted: Callable[[], bool]) -> Opened:
    while name == "held-7b" and not release.exists():
        if not is_wanted():
            raise StartupError("nobody wants it")
        time.sleep(0.01)
    if name == "broken-3b":
        raise StartupError("broken-3b.gguf is truncated or damaged")
    backend = ScriptedBackend(replying(lambda _: f"I am {name}."))
    return Opened(LocalEngine(backend, EngineOptions(slots=SLOTS)), backend.close)


def shelved(settings: Settings, release: Path) -> list[Shelved]:
    expected = Capacity(SLOTS, 2048, 2048)
    return [
        Shelved(name, settings, expected, size * MIB, partial(opens, name, release), name == "small-1b")
        for name, size in (("small-1b", 900), ("held-7b", 5200), ("broken-3b", 2100))
    ]


if __name__ == "__main__":
    release = Path(sys.argv[2])
    settings = load({"bind": sys.argv[1], "status_content": True, "models_memory_bytes": "16g"})
    app = Application(settings, None, find_models=lambda: shelved(settings, release))
    sys.exit(server.main(settings, app))
