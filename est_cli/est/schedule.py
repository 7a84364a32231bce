"""Sampling rates, stages and the sampling scheduler: pure functions of the step (paper, section 3). No torch.

The schedulers of Evolving Subnetwork Training stand here; those it is compared with in baselines.py and stacking.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

LAYERS = ("sample", "path", "chance", "depth", "first")
"""Which layers run at the rate p_l:

- `sample`: always as many, drawn uniformly (the paper)
- `path`: the same, and the first and the last layer are always among them
- `chance`: each layer is drawn by itself and runs with the probability p_l
- `depth`: the same with the probability 1 - (1 - p_l) * i / L for layer i of L, whose branches are divided by it
- `first`: the lowest ones; nothing is drawn
"""


@dataclass(frozen=True)
class SamplingRates:
    """The shares that run: `p_h` of the attention heads, `p_m` of the MLP columns, `p_l` of the layers; each in (0, 1].

    These are the paper's p_H, p_M and p_L: rates of what is kept, never of what is dropped. So is `p_t`, which is ours.
    """

    p_h: float = 1.0
    p_m: float = 1.0
    p_l: float = 1.0
    layers: str = "sample"
    """Which layers these are: one of LAYERS."""
    num_layers: int | None = None
    """So many layers instead of the share p_l."""
    p_d: float = 1.0
    """The share of the entries of the residual branches' outputs that plain dropout keeps."""
    p_t: float = 1.0
    """The share of a sequence's predictions that the loss is the mean of (see positions.py)."""
    by_layer: tuple[float, ...] = ()
    """One for each layer: what it leaves out is in proportion to 1 minus its entry, and the mean over layers is that of
    the rate, so at rates that are the mean of these they are the layers' own. Of p_l: the chance of each to run."""

    def __post_init__(self) -> None:
        for name in ("p_h", "p_m", "p_l", "p_d", "p_t"):
            rate = getattr(self, name)
            if not 0.0 < rate <= 1.0:
                raise ValueError(f"{name}: {rate} is not a sampling rate; it must be above 0 and at most 1")
        if self.layers not in LAYERS:
            raise ValueError(f"layers: {self.layers!r} is not one of {', '.join(LAYERS)}")
        if not all(0.0 < rate <= 1.0 for rate in self.by_layer):
            raise ValueError(f"layer_rates: {[*self.by_layer]} are not sampling rates, above 0 and at most 1")
        if len(set(self.by_layer)) == 1:
            raise ValueError(
                f"layer_rates: {[*self.by_layer]} makes no difference between layers; give one rate for each layer, of "
                "which at least two differ, or null"
            )
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"num_layers: {self.num_layers} is out of range; it must be at least 1")

    def of_layer(self, p: float, layer: int) -> float:
        """The rate of a layer where `p`, one of these rates, is the mean over layers."""
        if not self.by_layer or p == 1.0:
            return p
        left_out = [1.0 - rate for rate in self.by_layer]
        return 1.0 - (1.0 - p) * left_out[layer] * len(left_out) / sum(left_out)

    @property
    def complete(self) -> bool:
        """Whether the complete model runs, however many predictions its loss is the mean of."""
        return self.p_h == self.p_m == self.p_l == self.p_d == 1.0 and self.num_layers is None

    @property
    def full(self) -> bool:
        """Whether the complete model runs, as in dense training."""
        return self.complete and self.p_t == 1.0

    @property
    def sampled(self) -> bool:
        """Whether a subnetwork is drawn: neither the complete model, with dropout or without, nor its lowest layers."""
        complete = self.p_h == self.p_m == self.p_l == 1.0 and self.num_layers is None
        return not complete and self.layers != "first"

    @property
    def random(self) -> bool:
        """Whether not only which layers run is drawn, but how many of them."""
        return self.layers in ("chance", "depth")


@dataclass(frozen=True)
class Stage:
    """Steps up to (not including) `until_step` run at `rates`."""

    until_step: int
    rates: SamplingRates
    gamma: float = 0.0
    """Above 0 the stage only approaches its p_l: in step t it is p_l + (1 - p_l) * exp(-gamma * t)."""
    lasting: bool = True
    """Whether a checkpoint is saved, and kept, where the stage begins."""

    def rates_at(self, step: int) -> SamplingRates:
        """The rates of step `step` (0-based), which is one of this stage."""
        return replace(self.rates, p_l=self.p_l_at(step)) if self.gamma else self.rates

    def describe(self) -> str:
        """What its steps run, in a few words."""
        rates = self.rates
        if rates.p_d < 1.0:
            return f"with dropout that keeps {rates.p_d:g} of each branch"
        if rates.layers == "depth":
            return f"with layer i of L at p_l=1-(1-theta)*i/L, theta from 1 to {rates.p_l:g}"
        if rates.layers == "chance":
            return f"with each layer at p_l={rates.p_l:g}"
        share = f"{rates.p_l:g} of the layers" if rates.num_layers is None else f"{rates.num_layers} layer(s)"
        if rates.layers == "path":
            return f"on paths of {share}"
        if rates.layers == "first":
            return f"with the first {share}"
        more = (f" p_t={rates.p_t:g}" if rates.p_t < 1.0 else "") + (", by layer" if rates.by_layer else "")
        return f"at p_h={rates.p_h:g} p_m={rates.p_m:g} p_l={rates.p_l:g}{more}"

    def p_l_at(self, step: int) -> float:
        """The p_l of rates_at(step)."""
        p_l = self.rates.p_l
        return p_l + (1.0 - p_l) * math.exp(-self.gamma * step) if self.gamma else p_l


@dataclass(frozen=True)
class SamplingScheduler:
    """The stages of a run in order. Steps count from 0, stages from 1. A stage may be empty (same `until_step`)."""

    name: str
    stages: tuple[Stage, ...]
    growth: str = ""
    """What layers that join begin with: `last` or `all` (see stacking.copied_from), or what they have."""

    def __post_init__(self) -> None:
        ends = [0, *(stage.until_step for stage in self.stages)]
        if len(ends) < 2 or ends != sorted(ends):
            raise ValueError(f"stage: boundaries must not decrease, got {ends[1:]}")

    @property
    def max_steps(self) -> int:
        return self.stages[-1].until_step

    def stage_at(self, step: int) -> int:
        """Number of the stage that step `step` (0-based) belongs to."""
        if not 0 <= step < self.max_steps:
            raise ValueError(f"step {step} is outside this run of {self.max_steps} steps")
        return next(number for number, stage in enumerate(self.stages, start=1) if step < stage.until_step)

    def rates_at(self, step: int) -> SamplingRates:
        """The rates of step `step` (0-based)."""
        return self.stages[self.stage_at(step) - 1].rates_at(step)

    @property
    def draws_positions(self) -> bool:
        """Whether the loss of any step is the mean of drawn predictions alone."""
        return any(self.stages[number - 1].rates.p_t < 1.0 for number in self.occupied())

    def stage_steps(self) -> list[int]:
        """How many steps each stage has, empty stages included."""
        ends = [0, *(stage.until_step for stage in self.stages)]
        return [end - begin for begin, end in pairwise(ends)]

    def transitions(self) -> list[int]:
        """The steps (0-based) at which a new stage begins, without the first step of the run."""
        begins = {0 if number == 1 else self.stages[number - 2].until_step for number in self.occupied()}
        return sorted(begins - {0})

    def milestones(self) -> list[int]:
        """The transitions at which a checkpoint is saved and kept."""
        return [step for step in self.transitions() if self.stages[self.stage_at(step) - 1].lasting]

    def occupied(self) -> list[int]:
        """Numbers of the stages that have at least one step."""
        return [number for number, steps in enumerate(self.stage_steps(), start=1) if steps]


def boundary_step(value: int | float, max_steps: int) -> int:
    """The step that a boundary means: an int is a step, a float the nearest step to that fraction of the run.

    So `1` is step 1 and `1.0` the end. Raises ValueError outside the run.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is neither a step (int) nor a fraction (float)")
    if isinstance(value, float):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{value} is not a fraction of the run; a float must be in [0, 1], an int is a step")
        return math.floor(value * max_steps + 0.5)
    if not 0 <= value <= max_steps:
        raise ValueError(f"step {value} is outside the run of {max_steps} steps")
    return value


def three_stage(max_steps: int, t1: int | float, t2: int | float, rates: SamplingRates) -> SamplingScheduler:
    """The paper's practical scheduler: heads, columns and layers sampled; then all layers; then everything.

    Stage 1 ends before step t1, stage 2 before t2 (see `boundary_step`). Raises ValueError when t1 > t2.
    """
    first, second = boundary_step(t1, max_steps), boundary_step(t2, max_steps)
    if first > second:
        raise ValueError(f"stage.t1: step {first} lies after stage.t2 (step {second}); t1 <= t2 is needed")
    return SamplingScheduler(
        "three_stage",
        (
            Stage(first, rates),
            Stage(second, replace(rates, p_l=1.0)),
            Stage(max_steps, SamplingRates()),
        ),
    )


def n_stage(
    max_steps: int, boundaries: Sequence[int | float], rates: Sequence[SamplingRates], name: str = "n_stage"
) -> SamplingScheduler:
    """Any stages: `boundaries` are the first steps of stages 2, 3, ..., `rates` those of all stages.

    Raises ValueError where boundaries decrease or there are not as many rates as stages.
    """
    ends = [*_steps(boundaries, max_steps), max_steps]
    if len(rates) != len(ends):
        raise ValueError(
            f"stage.rates: has {len(rates)} entries; {len(boundaries)} stage.boundaries make {len(ends)} stages"
        )
    return SamplingScheduler(name, tuple(Stage(end, rate) for end, rate in zip(ends, rates, strict=True)))


def linear(max_steps: int, t2: int | float, rates: SamplingRates, levels: int) -> SamplingScheduler:
    """Every rate grows from that in `rates` to 1 at step t2, on a line in `levels` equal steps; then all runs."""
    return _ramp("linear", max_steps, t2, rates, levels, lambda part: part)


def cosine(max_steps: int, t2: int | float, rates: SamplingRates, levels: int) -> SamplingScheduler:
    """The same on half a cosine: slow at both ends."""
    return _ramp("cosine", max_steps, t2, rates, levels, lambda part: 0.5 * (1.0 - math.cos(math.pi * part)))


def constant(max_steps: int, rates: SamplingRates) -> SamplingScheduler:
    """The same rates in all steps: the complete model is never trained as a whole."""
    return SamplingScheduler("constant", (Stage(max_steps, rates),))


def dense(max_steps: int, boundaries: Sequence[int | float] = ()) -> SamplingScheduler:
    """Ordinary training: the complete model. Stages, which may have batches of their own, begin at `boundaries`."""
    ends = [*_steps(boundaries, max_steps), max_steps]
    return SamplingScheduler("dense", tuple(Stage(end, SamplingRates()) for end in ends))


def _ramp(
    name: str, max_steps: int, t2: int | float, rates: SamplingRates, levels: int, shape: Callable[[float], float]
) -> SamplingScheduler:
    """Stage j of `levels`, counted from 0, is shape(j / levels) on the way from `rates` to 1.

    Few levels, because each is another set of shapes to compile; only the last transition is worth a checkpoint.
    """
    if levels < 1:
        raise ValueError(f"stage.levels: {levels} is out of range; it must be at least 1")
    end, stages = boundary_step(t2, max_steps), []
    for level in range(levels):
        part = shape(level / levels)
        p_h, p_m, p_l, p_t = (rate + (1.0 - rate) * part for rate in (rates.p_h, rates.p_m, rates.p_l, rates.p_t))
        until_step = math.floor((level + 1) * end / levels + 0.5)
        stages.append(Stage(until_step, replace(rates, p_h=p_h, p_m=p_m, p_l=p_l, p_t=p_t), lasting=False))
    return SamplingScheduler(name, (*stages, Stage(max_steps, SamplingRates())))


def _steps(boundaries: Sequence[int | float], max_steps: int) -> list[int]:
    try:
        steps = [boundary_step(boundary, max_steps) for boundary in boundaries]
    except ValueError as error:
        raise ValueError(f"stage.boundaries: {error}") from error
    if steps != sorted(steps):
        raise ValueError(f"stage.boundaries: must not decrease, got the steps {steps}")
    return steps


def common_steps(one: SamplingScheduler, other: SamplingScheduler) -> int:
    """For how many steps from the first on two schedulers run the same, stage by stage."""
    if one.growth != other.growth:
        return 0
    length = min(one.max_steps, other.max_steps)
    ends = sorted({stage.until_step for scheduler in (one, other) for stage in scheduler.stages} - {0})
    for begin in (0, *(end for end in ends if end < length)):
        numbers = [scheduler.stage_at(begin) for scheduler in (one, other)]
        a, b = one.stages[numbers[0] - 1], other.stages[numbers[1] - 1]
        if numbers[0] != numbers[1] or replace(a, until_step=0) != replace(b, until_step=0):
            return begin
    return length
