"""What there is one of in a process."""

import sys

from corral import logs
from corral.settings import Settings

SWITCH_INTERVAL_S = 5e-4
"""Longest a finished engine step waits for Python's global lock while the event loop is busy. Between 0.05
and 5 ms no value was shown to be better (docs/benchmarks.md)."""


def configure_process(settings: Settings) -> None:
    """Set what there is one of in a process: the log, and how soon threads take turns."""
    logs.configure(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
