"""The client's connection, as far as serving cares: it can be dropped, and it may have been dropped
already."""

from typing import Protocol


class Peer(Protocol):
    """Whoever an answer goes to. Everything is synchronous, and neither blocks nor raises."""

    def abort(self) -> None:
        """Drop it: what waits to be sent is lost, and its request is cancelled at once."""
        ...

    @property
    def has_stalled(self) -> bool:
        """Whether it was dropped further down because it took nothing."""
        ...
