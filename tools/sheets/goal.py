"""What a figure is held against. Pure."""

import math

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """A limit and what was measured; `measured` None: it was not seen at all."""

    name: str
    limit: float
    measured: float | None
    at_most: bool

    @property
    def is_met(self) -> bool:
        """Whether the limit holds. What was not measured is not met: silence is no success."""
        if self.measured is None or math.isnan(self.measured):
            return False
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'ok    ' if self.is_met else 'MISSED'} {self.name} {self._seen} {sign} {self.limit:g}"

    @property
    def _seen(self) -> str:
        if self.measured is None:
            return "not measured"
        if float(self.measured).is_integer() and float(self.limit).is_integer():
            return f"{self.measured:.0f}"
        return f"{self.measured:.{1 if self.limit >= 10 else 3}f}"
