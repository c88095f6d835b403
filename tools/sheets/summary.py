"""Percentiles, and how a measured quantity is spread. Pure."""

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie, interpolated linearly between neighbours.

    That is numpy's default ("linear"). NaN for no values: a figure nobody measured must not look like 0.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} is not between 0 and 1")
    if not values:
        return math.nan
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    if below + 1 == len(ordered):
        return ordered[below]
    return ordered[below] + (ordered[below + 1] - ordered[below]) * (at - below)


class Summary(msgspec.Struct, frozen=True):
    """How a measured quantity is spread. NaN is written as null in JSON."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    largest: float | None

    def __str__(self) -> str:
        if self.count == 0 or self.p50 is None or self.p95 is None:
            return "none"
        spread = f"p50 {self.p50:.1f}  p95 {self.p95:.1f}  p99 {self.p99:.1f}  max {self.largest:.1f}"
        return f"{spread}  (n={self.count})"


def summarize(values: Sequence[float], *, scale: float = 1.0, digits: int = 3) -> Summary:
    """Percentiles of `values`, multiplied by `scale` (1000 for seconds to milliseconds)."""
    if not values:
        return Summary(0, None, None, None, None)
    scaled = [value * scale for value in values]
    p50, p95, p99 = (round(percentile(scaled, share), digits) for share in (0.5, 0.95, 0.99))
    return Summary(len(scaled), p50, p95, p99, round(max(scaled), digits))


def gaps(times: Sequence[float]) -> list[float]:
    """Seconds between neighbours."""
    return [later - earlier for earlier, later in pairwise(times)]


def gaps_within(times: Sequence[float], begin_s: float, end_s: float) -> list[float]:
    """Gaps that lie in an interval, with the one that begins in it and ends behind it."""
    inside = [at for at in times if begin_s <= at <= end_s]
    after = [at for at in times if at > end_s][:1]
    return gaps(inside + after)
