"""The step that is being computed: since when, and for whom, so that another thread can cut it short."""

import threading
from collections.abc import Callable, Iterable
from time import perf_counter
from types import TracebackType
from typing import Self

Shares = Callable[[], Iterable[tuple[int, int]]]
"""Keys, and how many tokens of each are computed; a key may come several times."""


class CurrentStep:
    """Around each step in turns: `with current.computing(step.shares):`.

    `abort` makes what is computed return soon, and is called from the thread of whoever leaves: at the latest
    when the step has just been computed, which does no harm, and never once its block is left. `rearm` is
    called behind a step for which that was done, by the thread that computes.
    """

    def __init__(self, abort: Callable[[], None], rearm: Callable[[], None]) -> None:
        self._abort = abort
        self._rearm = rearm
        self._lock = threading.Lock()
        self._shares: Shares | None = None
        self._left: set[int] = set()
        self._is_aborted = False
        self._began_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """How long it has lasted, None if there is none. From any thread."""
        began_s = self._began_s
        return None if began_s is None else perf_counter() - began_s

    def computing(self, shares: Shares) -> Self:
        """What is computed in the block is for these; they are looked at only if somebody leaves.

        Only the thread that computes writes here, while nothing else can: so it takes no lock.
        """
        self._shares = shares
        return self

    def leave(self, key: int) -> None:
        """Who has this key is gone. From any thread.

        The step is aborted when those who left own at least half of it: what the others lose by doing it
        again is then no more than what is saved.
        """
        with self._lock:  # so that the step which is aborted is the one that was looked at
            if self._shares is None or key in self._left:
                return
            shares = list(self._shares())
            if all(each != key for each, _ in shares):
                return
            self._left.add(key)
            gone = sum(tokens for each, tokens in shares if each in self._left)
            if 2 * gone >= sum(tokens for _, tokens in shares):
                self._is_aborted = True
                self._abort()

    def __enter__(self) -> None:
        self._began_s = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._began_s = None
        with self._lock:
            self._shares = None
            self._left.clear()
            if self._is_aborted:
                self._is_aborted = False
                self._rearm()
