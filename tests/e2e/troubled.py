"""A server on whose model and template nothing can be relied: what a request says is what goes wrong.

    TALK    the answer does not end
    HANG    a step of the engine never returns
    LOOP    the template never ends

`python -m tests.e2e.troubled BIND DRAIN_S` serves as `corral serve` does; Hypercorn takes `app`.
With CORRAL_MODEL=slow the model is never loaded.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence

from tests.e2e.processes import HANGS

from corral import server, transport
from corral.application import Application
from corral.engine.local.backend import Chunk
from corral.engine.local.prompts.child import Child
from corral.engine.local.prompts.pool import PromptProcesses
from corral.engine.local.prompts.writer import CHATML, PromptWriter
from corral.engine.local.scripted import ScriptedBackend, ScriptedModel, babble
from corral.settings import Settings, load
from corral.wiring.options import limits
from corral.wiring.process import configure_process

STEP_S = 0.005
LOOP = (
    "{% if messages[0].content == 'LOOP' %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
)
CHILD = "child"


def step(chunks: Sequence[Chunk]) -> None:
    """What a step of the engine takes."""
    if any(b"HANG" in bytes(token for token in chunk.tokens if token < 256) for chunk in chunks):
        print(HANGS, file=sys.stderr, flush=True)
        threading.Event().wait()
    time.sleep(STEP_S)


def open_model() -> tuple[ScriptedBackend, str]:
    if os.environ.get("CORRAL_MODEL") == "slow":
        threading.Event().wait()
    backend = ScriptedBackend(babble, ctx_tokens=2**20, on_step=step)
    backend.model.prompts = PromptProcesses([sys.executable, "-P", "-m", "tests.e2e.troubled", CHILD])
    return backend, "troubled"


def application(settings: Settings) -> Application:
    return Application(settings, open_model)


def write_prompts() -> None:
    """Be one of the processes that write prompts. Does not return."""
    model = ScriptedModel()
    model.chat_format = type(model.chat_format)(LOOP + CHATML, "", "<|im_end|>")
    Child(lambda: PromptWriter(model.chat_format, model.vocabulary), 60.0).run()


if __name__ == "__main__":
    if sys.argv[1:] == [CHILD]:
        write_prompts()
    settings = load({"bind": sys.argv[1], "drain_s": float(sys.argv[2]), "prompt_lookup": False})
    sys.exit(server.main(settings, application(settings)))
elif not sys.argv[0].endswith("pytest"):
    settings = load()
    configure_process(settings)
    transport.install(limits(settings))
    app = application(settings)
