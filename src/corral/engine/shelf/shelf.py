"""The models that come and go, and the memory that they share: whoever is wanted is loaded, one at a time."""

from typing import Final, Protocol

import trio

from corral.engine.shelf.room import Room
from corral.errors import Overloaded

AGAIN_S: Final = 5
"""When a client shall come again that found no room: nobody knows how long the others are in use."""


class Book(Protocol):
    """One model of the shelf."""

    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def is_idle(self) -> bool:
        """Whether it is loaded, and nobody uses it."""
        ...

    def leave(self) -> None:
        """Free the memory, and say `gone` when that is done; only while it is idle. Synchronous."""
        ...


class Shelf:
    """For the event loop. All but `come` is synchronous."""

    def __init__(self, limit_bytes: int) -> None:
        self.room = Room(limit_bytes)
        self.turn = trio.Lock()
        """Of whoever is being loaded."""
        self._books: dict[str, Book] = {}
        self._gone = trio.lowlevel.ParkingLot()

    def add(self, book: Book) -> None:
        """One more, which is not loaded. Raises ValueError if it could never be."""
        if book.size_bytes > self.room.limit_bytes:
            raise ValueError(
                f"{book.name!r} needs {_gib(book.size_bytes)} of memory, "
                f"and the models may have {_gib(self.room.limit_bytes)}"
            )
        self._books[book.name] = book

    def check(self, book: Book) -> None:
        """Raise Overloaded if it could not be loaded now: too much of the memory is in use."""
        self._leaving_for(book)

    def claim(self, book: Book) -> None:
        """Have those leave that must, and take their place. Raises Overloaded as `check` does."""
        for name in self._leaving_for(book):
            self.room.going(name)
            self._books[name].leave()
        self.room.claim(book.name, book.size_bytes)

    async def come(self, book: Book) -> None:
        """Wait until the memory that it has claimed is free; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while not self.room.may_come(book.name):
            await self._gone.park()

    def failed(self, book: Book) -> None:
        """It has not come, or was lost: its claim is free, and so will be its memory at `gone`."""
        self.room.going(book.name)

    def gone(self, book: Book) -> None:
        """Its memory is free."""
        self.room.gone(book.name)
        self._gone.unpark_all()

    def _leaving_for(self, book: Book) -> tuple[str, ...]:
        leaving = self.room.leaving_for(book.size_bytes, lambda name: self._books[name].is_idle)
        if leaving is None:
            others = ", ".join(repr(name) for name in self.room.claimed if not self._books[name].is_idle)
            raise Overloaded(
                f"there is no room in memory for {book.name!r} while others are in use ({others}); "
                f"try again in {AGAIN_S} s",
                retry_after_s=AGAIN_S,
            )
        return leaving


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
