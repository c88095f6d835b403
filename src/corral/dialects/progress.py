"""Where a request is that does not answer yet: in chunks for clients that ask (`return_progress`), and in the
keepalives of APIs whose clients were seen to bear it there.

`prompt_progress` is llama-server's, with its meaning: of `total` tokens `processed` are there, `cache` of
them from before, after `time_ms`. Nothing there tells of a queue: `queue_progress` is our own.
"""

import msgspec
from msgspec import UNSET, UnsetType

from corral.events import Event, Prefill, Queued, Started


class QueueProgress(msgspec.Struct, gc=False):
    """`position` 0 is next; `eta_s` is how long it will probably wait yet, null where nobody can say."""

    position: int
    eta_s: float | None


class PromptProgress(msgspec.Struct, gc=False):
    total: int
    cache: int
    processed: int
    time_ms: int


def queue_progress(event: Queued) -> QueueProgress:
    return QueueProgress(event.position, None if event.wait_s is None else round(event.wait_s, 1))


def prompt_progress(event: Prefill | Started) -> PromptProgress:
    time_ms = round(event.time_ms)
    if isinstance(event, Started):
        return PromptProgress(event.prompt_tokens, event.cached_tokens, event.prompt_tokens, time_ms)
    return PromptProgress(event.total, event.cached, event.done, time_ms)


class Whereabouts:
    """What was last heard of where a request is; nothing once it answers."""

    __slots__ = ("prompt", "queue")

    def __init__(self) -> None:
        self.queue: QueueProgress | UnsetType = UNSET
        self.prompt: PromptProgress | UnsetType = UNSET

    @property
    def is_known(self) -> bool:
        return self.queue is not UNSET or self.prompt is not UNSET

    def hear(self, event: Event) -> None:
        match event:
            case Queued():
                self.queue = queue_progress(event)
            case Prefill():
                self.queue, self.prompt = UNSET, prompt_progress(event)
            case Started():
                self.queue = self.prompt = UNSET
