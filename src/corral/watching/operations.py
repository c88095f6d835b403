"""What an operator has: the picture, the numbers, the stall detector and the log, over one ledger."""

from collections.abc import Awaitable, Callable

from corral.engine.contract import Engine
from corral.serving.generation import Service
from corral.watching.log import log_settled
from corral.watching.metrics import Metrics
from corral.watching.picture import Status
from corral.watching.stall import StallDetector


class Operations:
    """Watches a service. `tasks` are to be run for as long as it serves."""

    def __init__(self, service: Service, engine: Engine, *, model: str, stall_s: float) -> None:
        self.stall = StallDetector(engine.step_age_s, stall_s)
        self.status = Status(service, engine, self.stall, model=model)
        self.metrics = Metrics(service, engine, self.stall, self.status.broker, model=model)
        self.tasks: tuple[Callable[[], Awaitable[None]], ...] = (
            self.status.broker.run,
            self.stall.run,
            service.run,
        )
        service.ledger.on_settled.append(log_settled)

    def close(self) -> None:
        """The streams of those who watch end after what they have not got yet; synchronous."""
        self.status.broker.close()
