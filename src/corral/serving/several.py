"""Several generations that are answered as one, such as those of several prompts in one request."""

from collections.abc import Sequence

from corral.events import Completion
from corral.serving.generation import Batch, Generation, collected
from corral.serving.mailbox import Mailbox


class Several:
    """What a client gets of all of them: their choices, counted from the first to the last, in one mailbox.

    To whoever writes the answer it is what a Generation is.
    """

    __slots__ = ("_generations", "_mailbox")

    def __init__(self, generations: Sequence[Generation], mailbox: Mailbox[Batch]) -> None:
        self._generations = generations
        self._mailbox = mailbox

    @property
    def choices(self) -> int:
        """How many sequences they have together."""
        return sum(generation.choices for generation in self._generations)

    @property
    def is_loading(self) -> bool:
        """As `Generation.is_loading`."""
        return self._generations[0].is_loading

    async def prepared(self) -> None:
        """As `Generation.prepared`, of all of them."""
        for generation in self._generations:
            await generation.prepared()

    async def receive(self) -> list[Batch]:
        """As `Generation.receive`."""
        return await self._mailbox.receive_all()

    async def complete(self) -> list[Completion]:
        """As `Generation.complete`, of all choices."""
        return await collected(self._mailbox, self.choices)

    def answered(self, status: int) -> None:
        """As `Generation.answered`."""
        for generation in self._generations:
            generation.answered(status)

    def writing(self, is_writing: bool) -> None:
        """As `Generation.writing`."""
        for generation in self._generations:
            generation.writing(is_writing)

    def delivered(self) -> None:
        """As `Generation.delivered`."""
        for generation in self._generations:
            generation.delivered()

    def failed(self) -> None:
        """As `Generation.failed`."""
        for generation in self._generations:
            generation.failed()
