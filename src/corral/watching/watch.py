"""What an operator has: the picture, the numbers, the stall detector and the log, over all models.

Everything that hears of what happens is put in its place here, and nowhere else.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from corral.serving.models import Models
from corral.watching.feed import Feed
from corral.watching.history import History
from corral.watching.load import Load
from corral.watching.log import log_refused, log_settled
from corral.watching.metrics import Metrics
from corral.watching.picture import Picture
from corral.watching.stall import StallDetector
from corral.watching.trace import Tracer


@dataclass(frozen=True, slots=True)
class Watching:
    feed: Feed
    metrics: Metrics
    stall: StallDetector
    load: Load
    tracer: Tracer | None = None

    @property
    def tasks(self) -> list[Callable[[], Awaitable[None]]]:
        """To be run for as long as they serve."""
        tasks: list[Callable[[], Awaitable[None]]] = [self.feed.broker.run, self.load.run, self.stall.run]
        return tasks if self.tracer is None else [*tasks, self.tracer.run]

    def close(self) -> None:
        """The streams of those who watch end after what they have not got yet; synchronous."""
        self.feed.close()

    def end(self) -> None:
        """The books are closed: what is to be written down of it is. Blocks."""
        if self.tracer is not None:
            self.tracer.end()


def attach(models: Models, *, stall_s: float, trace_dir: Path | None = None) -> Watching:
    """Watch the models from now on. Raises StartupError if there can be no traces where they are wanted."""
    ledger, history = models.ledger, History()
    stall = StallDetector(models.step_age_s, stall_s)
    load = Load(models)
    feed = Feed(ledger, Picture(models, stall, history, load), history)
    metrics = Metrics(models, stall, feed.broker)
    ledger.on_settled += [feed.settled, metrics.settled, load.settled, log_settled]
    ledger.on_refused += [feed.refused, load.refused, log_refused]
    stall.on_change.append(feed.broker.wake)
    models.on_draining.append(feed.broker.wake)
    load.on_look.append(feed.looked)
    load.on_bucket.append(feed.filled)
    tracer = None
    if trace_dir is not None:
        ledger.tracer = tracer = Tracer(models, trace_dir, with_content=ledger.keeps_content)
        ledger.on_settled.append(tracer.settled)
    return Watching(feed, metrics, stall, load, tracer)
