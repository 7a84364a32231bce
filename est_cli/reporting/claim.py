"""A group against its dense twin at equal steps, equal FLOPs and equal time: what the runs show, and what not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

from est_cli.common.counts import counted
from est_cli.config import LrSchedule
from est_cli.est.prices import Estimate
from est_cli.reporting.groups import BUDGET, Group, differing
from est_cli.reporting.records import column
from est_cli.reporting.runs import Axis, RunRecord
from est_cli.reporting.speed import why_not_in_seconds
from est_cli.reporting.student_t import mean_interval, t_quantile

NEAR = {Axis.flops_total: 0.01, Axis.dense_steps: 0.01, Axis.seconds: 0.05}
"""How much more or less a dense run may have used to count as equal; seconds of equal runs differ by a few percent."""
MEASURES = {
    Axis.flops_total: "equal FLOPs (total)",
    Axis.dense_steps: "equal FLOPs (blocks)",
    Axis.seconds: "equal time",
}


@dataclass(frozen=True)
class Difference:
    """What one side has minus the other, the mean over `n` pairs (unpaired: of the smaller side)."""

    mean: float
    interval: tuple[float, float] | None
    """The 95 % interval; None of one pair."""
    n: int
    paired: bool

    @property
    def verdict(self) -> str:
        """In plain words; nothing is called equal, and no direction is claimed without an interval that excludes 0."""
        if self.interval is None:
            return f"{self.mean:+.4f} with one seed shows nothing"
        low, high = self.interval
        between = f"{low:+.4f} to {high:+.4f}"
        if low > 0:
            return f"higher by {self.mean:.4f} ({between})"
        if high < 0:
            return f"lower by {-self.mean:.4f} ({between})"
        return f"no difference shown at n={self.n} ({between})"


@dataclass(frozen=True)
class Comparison:
    """One line of a card. `difference` is None where there is nothing to compare with; `note` then tells why."""

    measure: str
    against: str
    note: str
    loss: float | None = None
    dense_loss: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Claim:
    """A group and the dense group with the same settings and steps (None: not among the folders)."""

    group: Group
    twin: Group | None
    saved: dict[Axis, Difference]
    """Percent of what the twin used, where both know it."""
    comparisons: list[Comparison]
    cautions: list[str]
    expected: Estimate | None = None
    """Of the difference at equal steps, by prices."""
    begun: Group | None = None
    """Where there is no twin: dense runs that will be one, of which none is finished."""


def claims_of(groups: Sequence[Group]) -> list[Claim]:
    """One for every group that is not dense and has a finished run."""
    return [_claim(group, groups) for group in groups if not group.dense and group.counted]


def difference_of(mine: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """`mine` minus `others`, both by seed: paired over the seeds of both, else (no seed in common) by Welch's t."""
    if not mine or not others:
        return None
    common = [seed for seed in mine if seed in others]
    if common:
        values = [round(mine[seed] - others[seed], 12) for seed in common]  # equal losses differ by nothing
        return Difference(fmean(values), mean_interval(values), len(values), paired=True)
    a, b = list(mine.values()), list(others.values())
    mean, n = fmean(a) - fmean(b), min(len(a), len(b))
    return Difference(mean, _welch(mean, a, b) if n > 1 else None, n, paired=False)


def _welch(mean: float, a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """With the degrees of freedom rounded down, so that it is rather too wide."""
    parts = [variance(values) / len(values) for values in (a, b)]
    error = sum(parts)
    if error == 0:
        return mean, mean
    degrees = error**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    half = t_quantile(max(1, int(degrees))) * math.sqrt(error)
    return mean - half, mean + half


def _claim(group: Group, groups: Sequence[Group]) -> Claim:
    family = [other for other in groups if other.dense and other.counted and other.family == group.family]
    twin = next((other for other in family if other.steps == group.steps), None)
    begun = None if twin else next((other for other in groups if _will_be_twin(other, group)), None)
    missing = f"needs a dense run of {counted(group.steps, 'step')}" if begun is None else how_far(begun)
    comparisons = [_equal_steps(group, twin, missing)]
    for axis in MEASURES:
        comparisons += [_read_in_twin(group, twin, axis, missing), _annealed(group, family, axis)]
    cautions = _cautions(group, twin) if twin else [_no_twin(group, groups) if begun is None else f"{_cap(missing)}."]
    return Claim(group, twin, _saved(group, twin) if twin else {}, comparisons, cautions, begun=begun)


def _will_be_twin(other: Group, group: Group) -> bool:
    """Of a run that is not finished the hashes of the data may not be known yet; its settings are."""
    alike = other.family == group.family or other.asked == group.asked
    return other.dense and other.steps == group.steps and alike and not other.counted


def how_far(group: Group) -> str:
    """Of a group of which no run is finished."""
    runs = ", ".join(f"{run.name} is at step {run.steps:,} of {run.planned_steps:,}" for run in group.drawn)
    return f"{'the dense twin' if group.dense else group.label} is not finished: {runs}"


def _cap(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _saved(group: Group, twin: Group) -> dict[Axis, Difference]:
    """Per seed of both; without a seed in common against the twin's mean. Not of seconds that cannot be compared."""
    found = {}
    for axis in MEASURES:
        if _why_not(axis, group, twin):
            continue
        whole = {run.config.seed: run.end(axis) for run in twin.counted}
        used = {run.config.seed: run.end(axis) for run in group.counted}
        of = whole if set(whole) & set(used) else dict.fromkeys(used, fmean(whole.values()))
        shares = [100 * (1 - used[seed] / of[seed]) for seed in used if seed in of]
        if all(map(math.isfinite, shares)):
            found[axis] = Difference(fmean(shares), mean_interval(shares), len(shares), paired=of is whole)
    return found


def _why_not(axis: Axis, group: Group, dense: Group) -> str:
    """Why the two cannot be compared along this axis; empty where they can."""
    return why_not_in_seconds([*group.counted, *dense.counted]) if axis is Axis.seconds else ""


def _equal_steps(group: Group, twin: Group | None, missing: str) -> Comparison:
    if twin is None:
        return Comparison("equal steps", "dense twin", missing)
    return _compared("equal steps", "dense twin, its end", group, _finals(group), _finals(twin), "")


def _read_in_twin(group: Group, twin: Group | None, axis: Axis, missing: str) -> Comparison:
    """The twin's own curve where it had used as much: an upper bound of what dense training reaches with that."""
    measure, against = MEASURES[axis], "dense twin, read on its way"
    if twin is None:
        return Comparison(measure, against, missing)
    if why := _why_not(axis, group, twin):
        return Comparison(measure, against, why)
    ends = {run.config.seed: run.end(axis) for run in group.counted}
    at = {run.config.seed: ends.get(run.config.seed, fmean(ends.values())) for run in twin.counted}
    read = {run.config.seed: loss_at(run, axis, at[run.config.seed]) for run in twin.counted}
    compared = set(read) & set(ends) or set(read)
    known = {seed: loss for seed, loss in read.items() if loss is not None and seed in compared}
    if len(known) < len(compared):  # those that can be read would be a choice of the favourable ones
        unread = [run for run in twin.counted if run.config.seed in compared - set(known)]
        why = _why_unread(unread[0], axis, at[unread[0].config.seed])
        return Comparison(measure, against, f"{why} (seed {unread[0].config.seed})")
    steps = fmean(_step_at(run, axis, at[run.config.seed]) for run in twin.counted if run.config.seed in known)
    note = f"at step {steps:,.0f} of {twin.steps:,}{_annealing_note(twin)}"
    return _compared(measure, against, group, _finals(group), known, note)


def _why_unread(twin: RunRecord, axis: Axis, used: float) -> str:
    if not math.isfinite(used):
        return "the records do not say"
    if used > twin.end(axis):
        return "it used more than the dense twin in all"
    return "the dense twin was not evaluated both before and after it"


def _annealed(group: Group, family: Sequence[Group], axis: Axis) -> Comparison:
    """A dense run that ended, its learning rate annealed, where it had used as much: the real comparison."""
    measure, against = MEASURES[axis], "dense run of that length"
    used = _mean_end(group, axis)
    near = [(abs(_mean_end(other, axis) / used - 1), other) for other in family] if math.isfinite(used) else []
    near = [(far, other) for far, other in near if far <= NEAR[axis]]
    reasons = [_why_not(axis, group, other) for other in family]
    if family and all(reasons):
        return Comparison(measure, against, reasons[0])
    near = [(far, other) for far, other in near if not _why_not(axis, group, other)]
    if not near:
        alike = [other for other, why in zip(family, reasons, strict=True) if not why]
        return Comparison(measure, against, _wanted_length(group, alike, axis, used))
    other = min(near, key=lambda found: found[0])[1]
    away = 100 * (_mean_end(other, axis) / used - 1)
    unit = "of the time" if axis is Axis.seconds else "of the FLOPs"
    note = f"{counted(other.steps, 'step')}, {100 + away:.1f} % {unit}"
    return _compared(measure, against, group, _finals(group), _finals(other), note)


def _compared(
    measure: str, against: str, group: Group, mine: Mapping[int, float], others: Mapping[int, float], note: str
) -> Comparison:
    difference = difference_of(mine, others)
    if difference is None:
        return Comparison(measure, against, "a run has no finite validation loss")
    if difference.paired:
        mine = {seed: loss for seed, loss in mine.items() if seed in others}
        others = {seed: loss for seed, loss in others.items() if seed in mine}
    else:
        note = "; ".join(filter(None, [note, "no seed in common: unpaired"]))
    return Comparison(measure, against, note, fmean(mine.values()), fmean(others.values()), difference)


def loss_at(run: RunRecord, axis: Axis, x: float) -> float | None:
    """The validation loss on the straight line between the evaluations around `x`; None outside of all."""
    xs, losses = run.position(axis, column(run.validation, "step")), column(run.validation, "val_loss")
    if not len(xs) or not xs[0] <= x <= xs[-1]:
        return None
    return float(np.interp(x, xs, losses))


def _step_at(run: RunRecord, axis: Axis, x: float) -> float:
    steps = column(run.validation, "step")
    return float(np.interp(x, run.position(axis, steps), steps))


def _annealing_note(twin: Group) -> str:
    if twin.setting["optim.schedule"] == LrSchedule.constant.value:
        return ""
    return "; its learning rate was not fully annealed there, which tends to flatter EST"


def _wanted_length(group: Group, family: Sequence[Group], axis: Axis, used: float) -> str:
    """How many dense steps would make this comparison possible."""
    per_step = [_mean_end(other, axis) / other.steps for other in family]
    rates = [rate for rate in per_step if math.isfinite(rate)]
    if not rates or not math.isfinite(used):
        return "no dense run of that length"
    return f"needs a dense run of about {counted(round(used / rates[0]), 'step')}"


def _finals(group: Group) -> dict[int, float]:
    return {run.config.seed: run.final_loss for run in group.counted if run.final_loss is not None}


def _mean_end(group: Group, axis: Axis) -> float:
    return fmean(run.end(axis) for run in group.counted)


def _cautions(group: Group, twin: Group) -> list[str]:
    """What a reader has to know before believing it."""
    lines = []
    both = [*group.counted, *twin.counted]
    commits = {run.summary.get("git_commit") for run in both if run.summary}
    if len(commits) > 1:
        lines.append("The runs were made by different commits.")
    if why := why_not_in_seconds(both):
        lines.append(f"Time is not compared: {why}.")
    if len(set(map(hardware_of, both))) > 1:
        lines.append("The runs were made on different hardware: seconds cannot be compared.")
    how = [{key: getattr(run.config.train, key) for key in _TIMING} for run in both]
    apart = sorted({key for settings in how for key in _TIMING if settings[key] != how[0][key]})
    if apart:
        lines.append(
            f"The runs differ in {', '.join(f'train.{key}' for key in apart)}: their seconds differ by that too."
        )
    alone = sorted(set(group.seeds) ^ set(twin.seeds))
    if alone and set(group.seeds) & set(twin.seeds):
        lines.append(f"Seeds that only one side has are left out: {', '.join(map(str, alone))}.")
    if min(len(group.counted), len(twin.counted)) < 3:
        lines.append("Fewer than three seeds: whatever it says is an anecdote.")
    return lines


_TIMING = ("micro_batch", "compile", "attention", "lm_loss", "activation_checkpointing")


def hardware_of(run: RunRecord) -> str | None:
    """What the run says it ran on; None where it says nothing."""
    found = run.recorded("hardware")
    return None if found is None else str(found)


def _no_twin(group: Group, groups: Sequence[Group]) -> str:
    """Which settings keep the nearest dense group from being the twin."""
    apart = {
        other.label: [key for key in differing([group.base, other.base]) if key != BUDGET]
        for other in groups
        if other.dense and other.counted
    }
    apart = {label: keys for label, keys in apart.items() if keys}
    if not apart:
        return "No dense twin of as many steps among the folders."
    label = min(apart, key=lambda name: len(apart[name]))
    keys = ", ".join(apart[label][:4]) + (" and others" if len(apart[label]) > 4 else "")
    return f"No dense twin among the folders: {label} differs in {keys}."
