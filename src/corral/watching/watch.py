"""What an operator has: the picture, the numbers, the stall detector and the log, over one service.

Everything that hears of what happens is put in its place here, and nowhere else.
"""

from dataclasses import dataclass

from corral.serving.service import Service
from corral.watching.feed import Feed
from corral.watching.history import History
from corral.watching.load import Load
from corral.watching.log import log_refused, log_settled
from corral.watching.metrics import Metrics
from corral.watching.picture import Picture
from corral.watching.stall import StallDetector


@dataclass(frozen=True, slots=True)
class Watching:
    """`feed.broker.run`, `load.run` and `stall.run` are to be run for as long as the service serves."""

    feed: Feed
    metrics: Metrics
    stall: StallDetector
    load: Load

    def close(self) -> None:
        """The streams of those who watch end after what they have not got yet; synchronous."""
        self.feed.close()


def attach(service: Service, *, model: str, stall_s: float) -> Watching:
    """Watch a service from now on."""
    ledger, history = service.ledger, History()
    stall = StallDetector(service.step_age_s, stall_s)
    load = Load(service)
    feed = Feed(ledger, Picture(service, stall, history, load, model=model), history)
    metrics = Metrics(service, stall, feed.broker, model=model)
    ledger.on_settled += [feed.settled, metrics.settled, load.settled, log_settled]
    ledger.on_refused += [feed.refused, load.refused, log_refused]
    stall.on_change.append(feed.broker.wake)
    service.on_draining.append(feed.broker.wake)
    load.on_look.append(feed.looked)
    load.on_bucket.append(feed.filled)
    return Watching(feed, metrics, stall, load)
