"""What the programs print and write: a table, the goals it is held against, and what went wrong."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.sheets.goal import Goal
from tools.sheets.summary import Summary

WIDTH = 180
"""Characters of a printed line."""


class Sheet(msgspec.Struct, frozen=True):
    """One result. `rows` has the figures in full, `cells` the same as printed.

    `load_average` is the machine's (1, 5 and 15 minutes) from before the run, where it was asked for: beside
    other work, only ratios mean something. `broken` is what went wrong; then the figures are not to be
    trusted.
    """

    name: str
    columns: list[str]
    cells: list[list[str]]
    rows: Sequence[Any]  # structs of the figure's own
    goals: list[Goal]
    definitions: str
    broken: list[str] = []
    notes: list[str] = []
    load_average: tuple[float, float, float] | None = None

    @property
    def goals_are_met(self) -> bool:
        return all(goal.is_met for goal in self.goals)

    def show(self, console: Console) -> None:
        """Print it."""
        load = f"   (load average before: {load_text(self.load_average)})" if self.load_average else ""
        table = Table(title=self.name + load)
        for column in self.columns:
            table.add_column(column, justify="right")
        for row in self.cells:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False, markup=False)
        console.print(self.definitions, highlight=False, markup=False)
        for goal in self.goals:
            console.print(
                str(goal), style="green" if goal.is_met else "yellow", highlight=False, markup=False
            )
        for reason in self.broken[:10]:
            console.print(f"[red]went wrong:[/] {escape(reason)}")
        if len(self.broken) > 10:
            console.print(f"[red]and {len(self.broken) - 10} more[/]")
        console.print()


def write(path: Path, sheets: Sequence[Sheet]) -> None:
    """Write the sheets as JSON, with all their rows. Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sheets)))


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
