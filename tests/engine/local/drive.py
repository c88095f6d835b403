"""Run a worker without its thread, in steps that do not depend on the machine."""

from collections.abc import Sequence

from corral.engine.local.pace import Pace
from corral.engine.local.task import Task
from corral.engine.local.worker import Worker
from corral.events import Completion, Event, collect


class FixedPace(Pace):
    """The same budget for every prefill step."""

    def __init__(self, tokens: int) -> None:
        super().__init__(30, tokens)

    def prefill_tokens(self, *, decoding: int, prefilling: int) -> int:
        return self.batch_tokens

    def holds_decoding(self, *, prefilling: int, tokens: int) -> bool:
        return False


def run_tasks(worker: Worker, tasks: Sequence[Task]) -> list[Completion]:
    """Submit tasks, turn until all are released, and check that nothing is left; their answers in order."""
    events: dict[int, list[Event]] = {task.key: [] for task in tasks}
    waiting = set(events)
    for task in tasks:
        worker.submit_nowait(task)
    while waiting:
        delivery = worker.turn()
        assert delivery is not None
        for key, more in delivery.events:
            events[key] += more
        waiting -= {key for key, _ in delivery.released}
    worker.check_idle()
    return [collect(events[task.key]) for task in tasks]
