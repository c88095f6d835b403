"""One choice that runs elsewhere: what was asked for, and who is told of it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from corral.engine.contract import Sink, Waste
from corral.engine.upstream.fleet import Wanted
from corral.events import Event, Failed, Finished
from corral.request import GenerationRequest

logger = logging.getLogger("corral.upstream")


@dataclass(frozen=True, slots=True)
class UpstreamPrepared:
    """A request, and what can be guessed of its prompt: only the upstream knows its tokens."""

    request: GenerationRequest
    wanted: Wanted
    max_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """A guess, by what prompts before it had per byte."""
        return self.wanted.prompt_tokens


class UpstreamSequence:
    """One choice that runs: a handle, and what its task needs to know."""

    def __init__(self, prepared: UpstreamPrepared, choice: int, sink: Sink, max_tokens: int, id: str) -> None:
        self.prepared = prepared
        self.choice = choice
        self.max_tokens = max_tokens
        self.id = id
        self.is_cancelled = False
        self.waste = Waste()
        self._sink = sink
        self._scope = trio.CancelScope()
        self._is_over = False

    def cancel(self) -> None:
        """Reset its connection; its release follows. Harmless once it has ended."""
        if not self._is_over:
            self.is_cancelled = True
            self._scope.cancel()

    def end_thought(self) -> None:
        """No upstream can be told that."""

    def enter(self, scope: trio.CancelScope) -> trio.CancelScope:
        """What is done within `scope` from now on ends when it is cancelled."""
        self._scope = scope
        if self.is_cancelled:
            scope.cancel()
        return scope

    def tell(self, events: list[Event]) -> None:
        if self.is_cancelled or self._is_over:
            return
        self._is_over = isinstance(events[-1], Finished | Failed)
        _call(self._sink.events, events)

    def released(self) -> None:
        _call(self._sink.released, self.waste)

    @property
    def is_over(self) -> bool:
        """Its end was told."""
        return self._is_over


def _call(callback: Callable[..., None], *args: object) -> None:
    # An exception here would end the engine: a bug in one sink must not end the server.
    try:
        callback(*args)
    except Exception:
        logger.exception("a sink raised")
