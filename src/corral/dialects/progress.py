"""Where a request is that does not answer yet: in chunks for clients that ask (`return_progress`), and in the
keepalives of APIs whose clients were seen to bear it there.

`prompt_progress` is llama-server's, with its meaning: of `total` tokens `processed` are there, `cache` of
them from before, after `time_ms`. Nothing there tells of a queue, or of a model that is loaded first:
`queue_progress` and `loading_progress` are our own.
"""

import msgspec
from msgspec import UNSET, UnsetType

from corral.events import Event, Loading, Prefill, Queued, Started


class QueueProgress(msgspec.Struct, gc=False):
    """`position` 0 is next; `eta_s` is how long it will probably wait yet, null where nobody can say."""

    position: int
    eta_s: float | None


class LoadingProgress(msgspec.Struct, gc=False):
    """The `model` is being loaded."""

    model: str


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

    __slots__ = ("loading", "prompt", "queue")

    def __init__(self) -> None:
        self.loading: LoadingProgress | UnsetType = UNSET
        self.queue: QueueProgress | UnsetType = UNSET
        self.prompt: PromptProgress | UnsetType = UNSET

    @property
    def is_known(self) -> bool:
        return not (self.loading is self.queue is self.prompt is UNSET)

    def hear(self, event: Event) -> None:
        match event:
            case Loading(model):
                self.loading = LoadingProgress(model)
            case Queued():
                self.loading, self.queue = UNSET, queue_progress(event)
            case Prefill():
                self.loading = self.queue = UNSET
                self.prompt = prompt_progress(event)
            case Started():
                self.loading = self.queue = self.prompt = UNSET
