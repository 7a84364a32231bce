"""What summary.json says of the stages of a finished run, and known ways in which a schedule fails, a line for each.

The thresholds are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from est_cli.common.counts import counted
from est_cli.est import ModelSpec, SamplingOptions, SamplingScheduler
from est_cli.est.coverage import Coverage
from est_cli.est.flops import flops_of, training_flops
from est_cli.est.kept import protected_in
from est_cli.est.protected import Protected
from est_cli.est.sizes import full_sizes, sample_sizes
from est_cli.reporting.spikes import instabilities
from est_cli.reporting.stages import described_stages, described_transitions, stage_summaries
from est_cli.tracking.metrics import Record

RISE_IN_NOISES = 3.0
"""A rise of the loss counts from so many standard errors on, ..."""
LEAST_RISE = 0.005
"""... and from this share of the loss on."""
LEAST_GAIN = 0.001
"""Share of the validation loss that a final stage should gain."""
SHORTEST_FINAL = 0.2
"""Share of the run that the final stage should have; the paper's has 0.53."""
SHORTEST_STAGE = 0.02
"""Share of the run that a stage should have."""
LARGEST_JUMP = 0.6
"""Share of the complete model's block FLOPs that a transition should add at most; the paper's add 0.25 and 0.5."""


def stage_report(
    metrics: Sequence[Record],
    covered: Coverage,
    spec: ModelSpec,
    scheduler: SamplingScheduler,
    options: SamplingOptions,
) -> Record:
    """The keys `stages`, `transitions`, `coverage` and `diagnoses` of summary.json."""
    transitions = described_transitions(metrics)
    stages = described_stages(stage_summaries(metrics), metrics)
    untrained = {name: int((getattr(covered, name) == 0).sum()) for name in ("layers", "heads", "columns")}
    return {
        "stages": stages,
        "transitions": transitions,
        "coverage": _coverage_json(covered, protected_in(spec, options)),
        "diagnoses": [
            *diagnoses(stages, transitions, step_flops(spec, scheduler, options), untrained),
            *instabilities(metrics),
        ],
    }


def _coverage_json(covered: Coverage, always: Protected) -> Record:
    """Shares of the steps (0-1): each layer's, and the spread over all heads and all columns that are drawn."""
    spreads = {}
    for name in ("heads", "columns"):
        shares = getattr(covered, name)
        drawn = [layer for layer in range(len(shares)) if layer not in getattr(always, name)]
        spreads[name] = _spread(shares[drawn])
    return {"layers": covered.layers.tolist(), **{name: spread for name, spread in spreads.items() if spread}}


def _spread(shares: Tensor) -> Record:
    if not shares.numel():
        return {}
    return {"min": shares.min().item(), "mean": shares.mean().item(), "max": shares.max().item()}


def step_flops(spec: ModelSpec, scheduler: SamplingScheduler, options: SamplingOptions) -> list[float]:
    """Share of the complete model's block FLOPs that a step of each stage runs, stages without steps left out.

    Nothing of a model that grows: how much joins at once is its method, not a sign of anything.
    """
    if any(stage.rates.layers == "first" for stage in scheduler.stages):
        return []
    dense = training_flops(spec, full_sizes(spec), 1, 1).blocks
    rates = (scheduler.stages[number - 1].rates for number in scheduler.occupied())
    sizes = (sample_sizes(spec, rate, options) for rate in rates)
    return [flops_of(spec, [(size, 1)], 1).blocks / dense for size in sizes]


def diagnoses(
    stages: Sequence[Record], transitions: Sequence[Record], flops: Sequence[float], untrained: Mapping[str, int]
) -> list[str]:
    """What looks wrong; empty where nothing does.

    `stages` and `transitions` as in summary.json, `flops` the share of the complete model's block FLOPs that a step of
    each stage runs, `untrained` how many units of each kind were in no subnetwork.
    """
    found = [f"{count} {units} were never trained" for units, count in untrained.items() if count]
    if len(stages) > 1:
        found += [*_rises(transitions), *_pace(stages, transitions, flops), *_final(stages, transitions)]
    return found


def _rises(transitions: Sequence[Record]) -> Iterator[str]:
    for change in transitions:
        if not _rose(change):
            continue
        steps = change["steps_to_recover"]
        back = "it never came back" if steps is None else f"back after {counted(steps, 'step')}"
        yield (
            f"{_name(change)}: the training loss rose from {change['mean_before']:.4f} to {change['mean_after']:.4f}; "
            f"{back}"
        )


def _rose(change: Record) -> bool:
    if change["mean_before"] is None or change["mean_after"] is None:
        return False
    rise = change["mean_after"] - change["mean_before"]
    return bool(rise > max(RISE_IN_NOISES * change["noise"], LEAST_RISE * change["mean_before"]))


def _pace(stages: Sequence[Record], transitions: Sequence[Record], flops: Sequence[float]) -> Iterator[str]:
    """Too frequent: a stage ends before it can do anything. Too sparse: too much is added at once."""
    total = sum(stage["steps"] for stage in stages)
    hasty = [stage for stage in stages[:-1] if stage["steps"] < SHORTEST_STAGE * total]
    for stage in hasty:
        yield (
            f"stage {stage['stage']}: too short with {stage['steps']} of {counted(total, 'step')}; "
            f"transitions are too frequent below {100 * SHORTEST_STAGE:g} % of the run"
        )
    length = {stage["stage"]: stage["steps"] for stage in stages}
    for change in transitions:
        steps = change["steps_to_recover"]
        if _rose(change) and (steps is None or steps > length[change["to_stage"]]) and change is not transitions[-1]:
            yield f"{_name(change)}: the next transition came before the loss was back; transitions are too frequent"
    for change, before, after in zip(transitions, flops, flops[1:], strict=False):
        if after - before > LARGEST_JUMP:
            yield (
                f"{_name(change)}: adds {100 * (after - before):.0f} % of the model's block FLOPs at once; transitions "
                f"are too sparse above {100 * LARGEST_JUMP:g} %"
            )


def _final(stages: Sequence[Record], transitions: Sequence[Record]) -> Iterator[str]:
    last, total = stages[-1], sum(stage["steps"] for stage in stages)
    if min(last["p_h"], last["p_m"], last["p_l"]) < 1.0:
        yield f"stage {last['stage']}: the run ends without a stage that trains the complete model"
        return
    if last["steps"] < SHORTEST_FINAL * total:
        yield (
            f"final stage: too short with {last['steps']} of {counted(total, 'step')} "
            f"({100 * last['steps'] / total:.0f} %); the paper's has 53 %"
        )
    begin, end = transitions[-1]["val_loss_before"] if transitions else None, last["val_loss"]
    if begin is not None and end is not None and end > begin * (1.0 - LEAST_GAIN):
        yield f"final stage: no gain; the validation loss was {begin:.4f} before it and {end:.4f} at its end"


def _name(change: Record) -> str:
    return f"stage {change['from_stage']} to {change['to_stage']} (step {change['step']})"
