"""What the server's process takes of the machine's memory."""

import os
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def resident_bytes() -> int | None:
    """What of this process lies in memory, shared files such as the model's included; None if not known."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def machine_bytes() -> int | None:
    """What there is at most: of this container, or of the machine; None if not known."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    try:
        return min(machine, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
        return machine
