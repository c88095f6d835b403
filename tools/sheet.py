"""What a subcommand of bench.py prints and writes: a table, the goals it is held against, what went wrong."""

import os
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from figures import Summary, Threshold


class Sheet(msgspec.Struct, frozen=True):
    """One subcommand's result. `rows` has the figures in full, `cells` the same as printed.

    `load_average` is the machine's (1, 5 and 15 minutes) from before the run: beside other work, only
    ratios mean something. `broken` are answers that were not whole; then the figures are not to be trusted.
    """

    name: str
    columns: list[str]
    cells: list[list[str]]
    rows: Sequence[Any]  # structs of the subcommand's own
    goals: list[Threshold]
    definitions: str
    load_average: tuple[float, float, float]
    broken: list[str] = []
    notes: list[str] = []

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table(title=f"{self.name}   (load average before: {load_text(self.load_average)})")
        for column in self.columns:
            table.add_column(column, justify="right")
        for row in self.cells:
            table.add_row(*row)
        console.print(table)
        console.print(self.definitions, highlight=False)
        for note in self.notes:
            console.print(f"note: {note}", highlight=False)
        for goal in self.goals:
            console.print(str(goal), style="green" if goal.is_met else "yellow", highlight=False)
        for reason in self.broken[:10]:
            console.print(f"[red]not whole:[/] {reason}")
        console.print()


def load_average() -> tuple[float, float, float]:
    """The machine's load now."""
    return os.getloadavg()


def load_text(load: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.2f}" for value in load)


def middle(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return median(values) if values else None


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """A figure for a cell; a dash for what was not measured."""
    return "-" if value is None else f"{value * scale:.{digits}f}"


def spread(summary: Summary, digits: int) -> str:
    """Median and p95 for a cell."""
    return f"{number(summary.p50, digits)} / {number(summary.p95, digits)}"
