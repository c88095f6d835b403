"""Run a worker without its thread, in steps that do not depend on the machine."""

from collections.abc import Callable, Sequence

from corral.engine.local.costs import SEED, Costs, Seed
from corral.engine.local.pace import PROMISES, Load, Pace
from corral.engine.local.task import Delivery, Task
from corral.engine.local.worker import Worker
from corral.events import Completion, Event, collect


class FixedCosts(Costs):
    """What the seed says, whatever is measured; it only remembers what was copied."""

    def __init__(self, seed: Seed = SEED) -> None:
        super().__init__(seed)
        self.copied_tokens: list[int] = []

    def observe_step(self, rows: int, depth: float, elapsed_ms: float) -> None:
        pass

    def observe_prefill(self, tokens: int, depth: float, elapsed_ms: float) -> None:
        pass

    def observe_copy(self, tokens: int, elapsed_ms: float) -> None:
        self.copied_tokens.append(tokens)


class FixedPace(Pace):
    """The same budget for every prefill step, and a decode step after each."""

    def __init__(self, tokens: int, costs: Costs | None = None) -> None:
        super().__init__(PROMISES["balanced"], tokens, costs or FixedCosts())
        self._decodes_next = True

    def prefill_tokens(self, load: Load) -> int:
        return 0 if load.decoding and self._decodes_next else self.batch_tokens

    def observe_aborted(self, elapsed_ms: float) -> None:
        self._decodes_next = True

    def observe_decode(self, rows: int, depth: float, elapsed_ms: float) -> None:
        self._decodes_next = False
        super().observe_decode(rows, depth, elapsed_ms)


def run_tasks(
    worker: Worker, tasks: Sequence[Task], look: Callable[[Delivery], None] = lambda _: None
) -> list[Completion]:
    """Submit tasks, work until all are released, and check that nothing is left; their answers in order."""
    events: dict[int, list[Event]] = {task.key: [] for task in tasks}
    waiting = set(events)
    for task in tasks:
        worker.submit_nowait(task)
    while waiting:
        delivery = worker.run_once()
        assert delivery is not None
        look(delivery)
        for key, more in delivery.events:
            events[key] += more
        waiting -= {key for key, _ in delivery.released}
    worker.check_idle()
    return [collect(events[task.key]) for task in tasks]
