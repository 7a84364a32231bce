"""Cells of a sweep: jobs that differ in nothing but the seed, their means and spread, and which cell is the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from est_cli.cli.sweep.program import Column, Numbers


@dataclass(frozen=True)
class Spread:
    """Over the jobs of a cell that have the number."""

    mean: float
    sd: float | None
    """Of a sample (n - 1); None where n is 1."""
    n: int


@dataclass(frozen=True)
class Cell:
    """The jobs with these values, one for each seed."""

    swept: dict[str, str]
    """Without the seed."""
    jobs: list[Numbers] = field(default_factory=list)
    """What each has reached; empty where it is not done."""

    @property
    def done(self) -> int:
        return sum(bool(numbers) for numbers in self.jobs)

    def spread(self, column: Column) -> Spread | None:
        """None where no job has this number, or it is none."""
        values = [value for numbers in self.jobs if isinstance(value := column.value(numbers), int | float)]
        return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def cells_of(jobs: Sequence[tuple[Mapping[str, str], Numbers]], seed: str) -> list[Cell]:
    """The cells of jobs, each (its swept values, what it has reached), in their order.

    `seed`: the key that repeats a job. None where it is not swept, or has other values in one cell than in another, as
    in a search: their means would not compare.
    """
    found: dict[tuple[tuple[str, str], ...], dict[str, Numbers]] = {}
    for swept, numbers in jobs:
        rest = tuple((key, value) for key, value in swept.items() if key != seed)
        found.setdefault(rest, {})[swept.get(seed, "")] = numbers
    seeds = [set(of_seed) for of_seed in found.values()]
    if not seeds or len(seeds[0]) < 2 or any(other != seeds[0] for other in seeds):
        return []
    return [Cell(dict(rest), [*of_seed.values()]) for rest, of_seed in found.items()]


def best_cell(cells: Sequence[Cell], column: Column) -> Cell | None:
    """That of the best mean; of cells with fewer seeds than others have, none: one lucky seed is no mean."""
    spreads = [(cell, spread) for cell in cells if (spread := cell.spread(column)) is not None]
    if column.best is None or not spreads:
        return None
    most = max(spread.n for _, spread in spreads)
    means = [(spread.mean, cell) for cell, spread in spreads if spread.n == most]
    wanted = column.best([mean for mean, _ in means])
    return next(cell for mean, cell in means if mean == wanted)


def spread_words(spread: Spread | None, column: Column) -> str:
    """`7.0612 ± 0.0031`, as the column writes its numbers; `300` where all are the same."""
    if spread is None:
        return "-"
    form = column.form.replace("d", ".1f" if spread.mean % 1 else ".0f")
    parts = [spread.mean, *([spread.sd] if spread.sd else [])]
    return " ± ".join(format(column.scale * part, form) for part in parts)


def cell_columns(cell: Cell, columns: Sequence[Column]) -> Iterator[tuple[str, Any]]:
    """What results.csv has in each row of a cell beside the job's own numbers."""
    yield "seeds_done", cell.done
    for column in columns:
        spread = cell.spread(column)
        yield f"{column.key}_mean", None if spread is None else spread.mean
        yield f"{column.key}_sd", None if spread is None else spread.sd
