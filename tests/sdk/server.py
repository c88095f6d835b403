"""corral on a socket of its own, in a thread, so that the vendors' blocking clients can talk to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import trio
from tests.engine.tales import TaleEngine
from tests.sdk.tales import Storyteller

from corral.application import Application
from corral.engine.contract import Embedding, Engine
from corral.engine.local.backend import Backend
from corral.serving.service import ServiceOptions
from corral.settings import Settings
from corral.transport.limits import Limits
from corral.transport.serve import serve
from corral.wiring.options import pick
from corral.wiring.running import Offer

KEEPALIVE_S = 0.1
SLOTS = 4
START_S = 30.0
KEY = "sk-a-key"


class TaleApplication(Application):
    """The app over an engine without a model."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        super().__init__(settings, _no_model)
        self._engine = engine

    async def _open(self, models: ExitStack) -> list[Offer]:
        return [Offer("tales", self._engine, pick(ServiceOptions, self._settings))]


def _no_model() -> tuple[Backend, str]:
    raise AssertionError("there is no model")


@dataclass
class Server:
    """One that runs; `base` is its address. Its engine tells what `teller` says."""

    base: str
    teller: Storyteller
    _call: Callable[[Callable[[], None]], None]
    app: TaleApplication
    fell_silent: threading.Event = field(default_factory=threading.Event)

    def end_silence(self) -> None:
        """Let those who wait in a silence go on."""
        self.fell_silent.clear()
        self._call(self.teller.silence.end_nowait)

    def wait_settled(self) -> None:
        """Until every request is over, whoever ended it, and nothing is left of any."""
        is_settled = threading.Event()

        async def wait() -> None:
            await self.app.service.wait_settled()
            self.app.service.check_idle()
            is_settled.set()

        self._call(lambda: self.app.running.nursery.start_soon(wait))
        assert is_settled.wait(START_S), "somebody is still there"


@contextmanager
def running(*, keepalive_s: float = KEEPALIVE_S, ctx_tokens: int = 4096) -> Iterator[Server]:
    """A server until the block ends; nothing of any request may be left then."""
    teller = Storyteller()
    app = TaleApplication(
        Settings(stream_keepalive_s=keepalive_s, api_keys=(KEY,), drain_s=0.0),
        TaleEngine(
            teller,
            slots=4,
            ctx_tokens=ctx_tokens,
            pause_s=0.001,
            embedding=Embedding(dimensions=4, input_tokens=ctx_tokens, pooling="mean"),
        ),
    )
    started = threading.Event()
    found: list[Server] = []
    failures: list[BaseException] = []
    stop = trio.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(
                lambda task_status: serve(
                    app,
                    bind=["127.0.0.1:0"],
                    limits=Limits(),
                    shutdown_trigger=stop.wait,
                    task_status=task_status,
                )
            )
            token = trio.lowlevel.current_trio_token()
            found.append(Server(address, teller, token.run_sync_soon, app))
            teller.silence.begun = found[0].fell_silent.set
            started.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as failure:  # noqa: ASYNC103 - the end of a thread; the test raises it
            failures.append(failure)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert started.wait(START_S)
        if failures:
            raise failures[0]
        yield found[0]
        found[0].wait_settled()
    finally:
        if found:
            found[0]._call(stop.set)
        thread.join()
    if failures:
        raise failures[0]
