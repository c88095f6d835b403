"""Notices that the engine hangs: a step that takes longer than a step may.

It looks when the running step could have become too old, not at intervals: with a step `a` seconds old now,
no step can be `stall_s` old before `stall_s - a` have passed.
"""

from collections.abc import Callable

import trio

RECOVERY_S = 1.0
"""How often a stalled engine is looked at again."""


class StallDetector:
    """`step_age_s` says how long the running step has lasted, None if none runs."""

    def __init__(self, step_age_s: Callable[[], float | None], stall_s: float) -> None:
        self.on_change: list[Callable[[], None]] = []
        """Called when `is_stalled` has changed for `run`. May not block or raise."""
        self._step_age_s = step_age_s
        self._stall_s = stall_s

    @property
    def step_age_s(self) -> float | None:
        return self._step_age_s()

    @property
    def is_stalled(self) -> bool:
        """Whether a step has been running for longer than `stall_s`, as of now."""
        age_s = self._step_age_s()
        return age_s is not None and age_s >= self._stall_s

    async def run(self) -> None:
        """Tell of every stall and every recovery until cancelled."""
        was_stalled = False
        while True:
            age_s = self._step_age_s() or 0.0
            is_stalled = age_s >= self._stall_s
            if is_stalled != was_stalled:
                was_stalled = is_stalled
                for callback in self.on_change:
                    callback()
            await trio.sleep(min(RECOVERY_S, self._stall_s) if is_stalled else self._stall_s - age_s)
