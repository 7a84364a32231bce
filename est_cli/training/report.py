"""What a finished run tells of its stages: transitions, coverage of the units, and what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from est_cli.est.coverage import Coverage, coverage
from est_cli.est.flops import flops_of, training_flops
from est_cli.est.sizes import full_sizes, sample_sizes
from est_cli.reporting.diagnoses import diagnoses
from est_cli.reporting.stage_figures import plot_stages
from est_cli.reporting.summary import stage_summaries
from est_cli.reporting.transitions import described_stages, described_transitions
from est_cli.tracking.metrics import Record
from est_cli.training.run import Run


def run_report(run: Run, metrics: Sequence[Record]) -> dict[str, Any]:
    """The keys `stages`, `transitions`, `coverage` and `diagnoses` of summary.json; draws them into plots/ too."""
    transitions = described_transitions(metrics)
    stages = described_stages(stage_summaries(metrics), metrics)
    covered = _coverage(run)
    if any("loss" in record for record in metrics):
        plot_stages(metrics, transitions, covered, run.dir.plots)
    return {
        "stages": stages,
        "transitions": transitions,
        "coverage": _told(covered),
        "diagnoses": diagnoses(stages, transitions, _step_flops(run), _untrained(covered)),
    }


def _coverage(run: Run) -> Coverage:
    splits = run.resolved.splits(run.rank.world_size)
    return coverage(run.spec, run.scheduler, run.config.seed, run.generator.options, splits)


def _told(covered: Coverage) -> Record:
    """Shares of the steps (0-1): each layer's, and the spread over all heads and all columns."""
    spreads = {name: _spread(getattr(covered, name)) for name in ("heads", "columns")}
    return {"layers": covered.layers.tolist(), **{name: told for name, told in spreads.items() if told}}


def _spread(shares: Tensor) -> Record:
    if not shares.numel():
        return {}
    return {"min": shares.min().item(), "mean": shares.mean().item(), "max": shares.max().item()}


def _untrained(covered: Coverage) -> dict[str, int]:
    return {name: int((getattr(covered, name) == 0).sum()) for name in ("layers", "heads", "columns")}


def _step_flops(run: Run) -> list[float]:
    """Share of the complete model's block FLOPs that a step of each stage runs, stages without steps left out.

    Nothing of a model that grows: how much joins at once is its method, not a sign of anything.
    """
    if any(stage.rates.layers == "first" for stage in run.scheduler.stages):
        return []
    dense = training_flops(run.spec, full_sizes(run.spec), 1, 1).blocks
    rates = (run.scheduler.stages[number - 1].rates for number in run.scheduler.occupied())
    sizes = (sample_sizes(run.spec, rate, run.generator.options) for rate in rates)
    return [flops_of(run.spec, [(size, 1)], 1).blocks / dense for size in sizes]
