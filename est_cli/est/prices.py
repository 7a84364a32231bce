"""What sampling costs and what a schedule of it is expected to cost. Pure functions, no torch.

The unit is a step of complete training. At a moment of the run, a step at some rates is worth a part of one and costs a
part of its FLOPs; the rest of the first is `lost`, the rest of the second is saved. Steps that are lost add up: a run
that has lost ten of its steps ends as one that is ten steps shorter. So the price of a saving is steps lost for each
step's FLOPs saved: at 1 the schedule does no better than dense training of fewer steps, at 0 it costs nothing.

A moment's prices hold for the steps nearest to it. Under that assumption the loss is linear in how many steps of a
moment run at some rates, which is what makes the search below exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise, product

from .schedule import SamplingRates, SamplingScheduler, Stage

Z95 = 1.959964
"""Standard errors to each side of a 95 % interval."""
COMPLETE = SamplingRates()
MOST_BEFORE = 3
"""Stages of a designed schedule before its last one, in which the model is complete."""


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    mean: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of a normal variable."""
        return self.mean - Z95 * self.error, self.mean + Z95 * self.error

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.mean * factor, self.error * abs(factor))


@dataclass(frozen=True)
class Moment:
    """What was measured at one checkpoint."""

    step: int
    """Steps done there."""
    gain: Estimate
    """Nats that one more complete step is worth to a run that ends about there."""
    lost: Mapping[SamplingRates, Estimate]
    """Complete steps lost for each step at these rates, in (-inf, inf); below 0 where sampling does better."""


@dataclass(frozen=True)
class Span:
    """Steps `begin` to (not including) `end` at `rates`."""

    begin: int
    end: int
    rates: SamplingRates


@dataclass(frozen=True)
class PriceList:
    """Prices of one run, at moments by rising step, all of them of the same rates."""

    moments: tuple[Moment, ...]

    def __post_init__(self) -> None:
        steps = [moment.step for moment in self.moments]
        if not steps or steps != sorted(set(steps)):
            raise ValueError(f"moments must be of rising steps, got {steps}")
        if any(set(moment.lost) != set(self.rates) for moment in self.moments):
            raise ValueError("all moments must have the same rates")

    @cached_property
    def rates(self) -> tuple[SamplingRates, ...]:
        """Those that were measured."""
        return tuple(self.moments[0].lost)

    def edges(self, max_steps: int) -> list[int]:
        """Where one moment's prices end and the next one's begin, with 0 and the end of the run."""
        middles = (min(math.ceil((a.step + b.step) / 2), max_steps) for a, b in pairwise(self.moments))
        return [0, *middles, max_steps]

    def gain_at(self, step: int) -> Estimate:
        """What a complete step is worth at the end of a run that is complete for so many: that of the last moment,
        falling with 1 / step, since the loss falls about on a line over the logarithm of the steps."""
        last = self.moments[-1]
        return last.gain * (last.step / max(step, 1))

    def lost(self, spans: Sequence[Span], max_steps: int) -> Estimate:
        """Complete steps that a run of these spans loses. ValueError for rates that were not measured.

        The errors of one moment's prices add up, since all of them are differences to one complete segment; those of
        different moments are independent.
        """
        edges, mean, variance = self.edges(max_steps), 0.0, 0.0
        for moment, (begin, end) in zip(self.moments, pairwise(edges), strict=True):
            steps: dict[SamplingRates, int] = {}
            for span in spans:
                here = min(span.end, end) - max(span.begin, begin)
                if here > 0 and not span.rates.full:
                    steps[span.rates] = steps.get(span.rates, 0) + here
            if missing := steps.keys() - moment.lost.keys():
                raise ValueError(
                    f"no price was measured of steps {min(Stage(0, rates).describe() for rates in missing)}"
                )
            mean += sum(count * moment.lost[rates].mean for rates, count in steps.items())
            variance += sum(count * moment.lost[rates].error for rates, count in steps.items()) ** 2
        return Estimate(mean, math.sqrt(variance))


@dataclass(frozen=True)
class Design:
    """A schedule: these spans from the first step on, of which some may be complete; then the model is complete."""

    spans: tuple[Span, ...]
    lost: Estimate
    saved: float
    """Complete steps whose FLOPs it saves."""


def spans_of(scheduler: SamplingScheduler) -> list[Span]:
    """The stages of a scheduler, those that have steps."""
    ends = [0, *(stage.until_step for stage in scheduler.stages)]
    stages = zip(pairwise(ends), scheduler.stages, strict=True)
    return [Span(begin, end, stage.rates) for (begin, end), stage in stages if end > begin]


def cheapest(
    prices: PriceList, max_steps: int, until: int, saved: Mapping[SamplingRates, float], wanted: float
) -> Design | None:
    """The schedule that saves `wanted` of a run's FLOPs and is expected to lose the fewest steps; None if none can.

    `until`: the step that sampling ends before; `saved`: share of a step's FLOPs that rates save. Up to MOST_BEFORE
    stages in every order, complete ones among them, then the complete model; rates that save nothing are left alone.

    Exact: for one order of stages the expected loss is piecewise linear in their boundaries, with kinks at the edges
    between moments, and the saving is linear in them. So it is least where all boundaries but one are at an edge, or
    fall together, and the last one follows from what is wanted. (It is rounded to the whole step that saves no less.)
    """
    rates = (COMPLETE, *(one for one in prices.rates if saved[one] > 0.0))
    shares = [0.0, *(saved[one] for one in rates[1:])]
    lost = [_lost_before(prices, max_steps, one) for one in rates]  # numbers and tables: there are many designs
    edges = sorted({*(edge for edge in prices.edges(max_steps) if edge <= until), until})

    def total(order: Sequence[int], ends: Sequence[int]) -> float:
        parts = zip(order, pairwise([0, *ends]), strict=True)
        return sum(lost[one](end) - lost[one](begin) for one, (begin, end) in parts)

    designs = (
        (total(order, ends), order, ends)
        for count in range(1, MOST_BEFORE + 1)
        for order in product(range(len(rates)), repeat=count)
        if order[-1] and all(one != after for one, after in pairwise(order))
        for ends in _boundaries([shares[one] for one in order], edges, wanted * max_steps)
    )
    # Of designs that lose as much the first, which has the fewest stages: the sums differ in their last bits.
    found = min(designs, key=lambda design: round(design[0], 9), default=None)
    if found is None:
        return None
    _, order, ends = found
    return _design(prices, max_steps, [rates[one] for one in order], ends, dict(zip(rates, shares, strict=True)))


def _lost_before(prices: PriceList, max_steps: int, rates: SamplingRates) -> Callable[[int], float]:
    """What is lost where all steps before a step are at `rates`."""
    if rates.full:
        return lambda step: 0.0
    each = [
        (begin, end, moment.lost[rates].mean)
        for (begin, end), moment in zip(pairwise(prices.edges(max_steps)), prices.moments, strict=True)
    ]
    return cache(lambda step: sum(price * (min(end, step) - begin) for begin, end, price in each if begin < step))


def _boundaries(shares: Sequence[float], edges: Sequence[int], wanted: float) -> Iterator[list[int]]:
    """Ends of the stages that together save `wanted` steps, all but one of them at inner or outer edges."""
    count = len(shares)
    for free in range(count):
        for fixed in _rising(edges[1:], count - 1):
            ends: list[int | None] = [*fixed[:free], None, *fixed[free:]]
            low = ends[free - 1] if free else 0
            high = ends[free + 1] if free + 1 < count else edges[-1]
            assert low is not None and high is not None
            end = _free_end(shares, ends, free, wanted)
            if end is not None and low < end <= high:
                yield [end if known is None else known for known in ends]


def _free_end(shares: Sequence[float], ends: Sequence[int | None], free: int, wanted: float) -> int | None:
    """The free boundary at which `wanted` is saved; None where it has no say in that.

    The saving is sum_j share_j * (end_j - end_{j-1}) = sum_j end_j * (share_j - share_{j+1}).
    """
    slopes = [share - after for share, after in zip(shares, [*shares[1:], 0.0], strict=True)]
    if abs(slopes[free]) < 1e-12:
        return None
    rest = sum(slope * end for slope, end in zip(slopes, ends, strict=True) if end is not None)
    exact = (wanted - rest) / slopes[free]
    near = round(exact)
    if abs(exact - near) < 1e-9 * max(1.0, abs(exact)):
        return near
    return math.ceil(exact) if slopes[free] > 0 else math.floor(exact)


def _rising(edges: Sequence[int], count: int, above: int = 0) -> Iterator[list[int]]:
    """Every rising choice of `count` of the edges."""
    if not count:
        yield []
        return
    for edge in edges:
        if edge > above:
            yield from ([edge, *rest] for rest in _rising(edges, count - 1, edge))


def _design(
    prices: PriceList,
    max_steps: int,
    order: Sequence[SamplingRates],
    ends: Sequence[int],
    saved: Mapping[SamplingRates, float],
) -> Design:
    spans = tuple(Span(begin, end, rates) for (begin, end), rates in zip(pairwise([0, *ends]), order, strict=True))
    total = sum(saved[span.rates] * (span.end - span.begin) for span in spans)
    return Design(spans, prices.lost(spans, max_steps), total)
