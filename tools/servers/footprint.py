"""What a process on this machine costs, as Linux tells it in /proc."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """CPU seconds of one thread."""

    tid: int
    name: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at one moment."""

    rss_bytes: int
    descriptors: int
    threads: int


def thread_times(pid: int) -> list[ThreadTime]:
    """CPU time of every living thread, in nanoseconds (schedstat), by thread id; the first is main."""
    times = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        try:
            spent_ns = int((task / "schedstat").read_text().split()[0])
            times.append(ThreadTime(int(task.name), (task / "comm").read_text().strip(), spent_ns / 1e9))
        except OSError:
            continue  # it ended between the listing and the reading
    return times


def footprint(pid: int) -> Footprint:
    """Resident memory, open descriptors and threads of a process. Raises OSError when it is gone."""
    resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Footprint(
        rss_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
    )
