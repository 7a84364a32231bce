"""The sampling scheduler against tables computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from est_cli.est import SamplingRates, SamplingScheduler, boundary_step, dense, three_stage
from est_cli.est.schedule import constant, cosine, linear, n_stage

RATES = SamplingRates(0.5, 0.4, 0.3)
WIDTH = SamplingRates(0.5, 0.4, 1.0)
FULL_RATES = SamplingRates(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "max_steps", "expected"),
    [
        (20_000, 150_000, 20_000),
        (2 / 15, 150_000, 20_000),
        (7 / 15, 150_000, 70_000),
        (2 / 15, 300, 40),
        (7 / 15, 300, 140),
        (0.1, 7, 1),  # 0.7
        (0.2, 7, 1),  # 1.4
        (0.29, 7, 2),  # 2.03
        (1, 300, 1),  # a step
        (1.0, 300, 300),  # the end
        (0, 300, 0),
        (0.0, 300, 0),
        (300, 300, 300),
        (0.999, 300, 300),  # 299.7
        (0.998, 300, 299),  # 299.4
    ],
)
def test_an_int_is_a_step_and_a_float_the_nearest_step_of_a_fraction(
    value: float, max_steps: int, expected: int
) -> None:
    step = boundary_step(value, max_steps)
    assert step == expected and type(step) is int


@pytest.mark.parametrize("value", [-1, -0.1, 1.1, 2.0, 301, float("nan")])
def test_boundaries_outside_the_run_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="run"):
        boundary_step(value, 300)


@pytest.mark.parametrize(("t1", "t2"), [(20_000, 70_000), (2 / 15, 7 / 15)])
@pytest.mark.parametrize(
    ("step", "stage", "rates"),
    [
        (0, 1, RATES),
        (1, 1, RATES),
        (19_999, 1, RATES),
        (20_000, 2, WIDTH),
        (20_001, 2, WIDTH),
        (69_999, 2, WIDTH),
        (70_000, 3, FULL_RATES),
        (149_999, 3, FULL_RATES),
    ],
)
def test_the_papers_three_stages(t1: float, t2: float, step: int, stage: int, rates: SamplingRates) -> None:
    scheduler = three_stage(150_000, t1, t2, RATES)
    assert scheduler.stage_at(step) == stage
    assert scheduler.rates_at(step) == rates


@pytest.mark.parametrize(
    ("max_steps", "t1", "t2", "stages"),
    [
        (6, 2, 4, [1, 1, 2, 2, 3, 3]),
        (6, 0, 4, [2, 2, 2, 2, 3, 3]),  # no stage 1
        (6, 2, 2, [1, 1, 3, 3, 3, 3]),  # no stage 2
        (6, 0, 0, [3, 3, 3, 3, 3, 3]),
        (6, 0.0, 0.5, [2, 2, 2, 3, 3, 3]),
        (6, 1, 1.0, [1, 2, 2, 2, 2, 2]),  # 1 is step 1, 1.0 the end
        (6, 1.0, 1.0, [1, 1, 1, 1, 1, 1]),
        (6, 6, 6, [1, 1, 1, 1, 1, 1]),
        (6, 1, 1, [1, 3, 3, 3, 3, 3]),
        (1, 0.4, 0.6, [2]),  # steps 0 and 1
    ],
)
def test_every_step_of_small_schedules(max_steps: int, t1: float, t2: float, stages: list[int]) -> None:
    scheduler = three_stage(max_steps, t1, t2, RATES)
    expected_rates = {1: RATES, 2: WIDTH, 3: FULL_RATES}
    assert [scheduler.stage_at(step) for step in range(max_steps)] == stages
    assert [scheduler.rates_at(step) for step in range(max_steps)] == [expected_rates[stage] for stage in stages]


@pytest.mark.parametrize(("t1", "t2"), [(3, 2), (0.6, 0.5), (0.5, 2), (1.0, 5)])
def test_t1_after_t2_is_refused(t1: float, t2: float) -> None:
    with pytest.raises(ValueError, match=r"t1.*t2"):
        three_stage(6, t1, t2, RATES)


def test_dense_samples_nothing_at_any_step() -> None:
    scheduler = dense(5)
    assert [scheduler.rates_at(step) for step in range(5)] == [FULL_RATES] * 5


def test_asking_again_in_any_order_changes_nothing() -> None:
    scheduler = three_stage(30, 10, 20, RATES)
    forwards = [scheduler.rates_at(step) for step in range(30)]
    assert [scheduler.rates_at(step) for step in reversed(range(30))] == forwards[::-1]


def rates_of(scheduler: SamplingScheduler) -> list[tuple[float, float, float]]:
    return [(rates.p_h, rates.p_m, rates.p_l) for rates in map(scheduler.rates_at, range(scheduler.max_steps))]


def test_any_boundaries_and_rates() -> None:
    rates = [RATES, FULL_RATES, WIDTH, RATES]
    scheduler = n_stage(10, [2, 0.5, 0.5], rates)
    assert [scheduler.stage_at(step) for step in range(10)] == [1, 1, 2, 2, 2, 4, 4, 4, 4, 4]
    assert scheduler.rates_at(4) == FULL_RATES and scheduler.rates_at(5) == RATES
    assert scheduler.transitions() == scheduler.milestones() == [2, 5]
    assert n_stage(9, [2 / 9, 5], [RATES, WIDTH, FULL_RATES]).stages == three_stage(9, 2, 5, RATES).stages


@pytest.mark.parametrize(
    ("boundaries", "rates", "message"),
    [
        ([0.6, 0.5], [RATES] * 3, r"^stage\.boundaries: must not decrease, got the steps \[6, 5\]"),
        ([11], [RATES] * 2, r"^stage\.boundaries: step 11 is outside"),
        ([0.1, 0.2], [RATES] * 2, r"^stage\.rates: has 2 entries; 2 stage\.boundaries make 3 stages"),
    ],
)
def test_stages_that_do_not_fit_together(boundaries: list[float], rates: list[SamplingRates], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        n_stage(10, boundaries, rates)


def test_linear_growth_by_hand() -> None:
    """From (0.5, 0.6, 0.2) in 4 steps of 2 up to step 8: 0, 1/4, 1/2, 3/4 of the way, then all of it."""
    scheduler = linear(10, 0.8, SamplingRates(0.5, 0.6, 0.2), levels=4)
    stages = [(0.5, 0.6, 0.2), (0.625, 0.7, 0.4), (0.75, 0.8, 0.6), (0.875, 0.9, 0.8), (1.0, 1.0, 1.0)]
    for found, expected in zip(rates_of(scheduler), [rates for rates in stages for _ in range(2)], strict=True):
        assert found == pytest.approx(expected, abs=1e-12)
    assert scheduler.rates_at(8).full


def test_cosine_growth_by_hand() -> None:
    """The parts of the way are (1 - cos(pi * j / 4)) / 2: 0, 0.1464, 0.5, 0.8536."""
    scheduler = cosine(5, 4, SamplingRates(p_h=0.5), levels=4)
    p_h = [rates[0] for rates in rates_of(scheduler)]
    assert p_h == pytest.approx([0.5, 0.5 + 0.5 * 0.14644660940672624, 0.75, 0.5 + 0.5 * 0.8535533905932737, 1.0])


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize(("steps", "t2", "levels"), [(100, 0.6, 7), (10, 3, 8), (5, 0, 4), (64, 1.0, 31), (9, 9, 1)])
def test_a_growth_takes_its_levels_and_keeps_one_checkpoint(
    make: Callable[..., SamplingScheduler], steps: int, t2: float, levels: int
) -> None:
    scheduler = make(steps, t2, SamplingRates(0.25, 0.5, 1.0), levels)
    end = boundary_step(t2, steps)
    rates = rates_of(scheduler)
    assert rates == sorted(rates), "rates only grow"
    assert rates[end:] == [(1.0, 1.0, 1.0)] * (steps - end) and all(min(rate) < 1.0 for rate in rates[:end])
    lengths = scheduler.stage_steps()[:-1]
    assert len(lengths) == levels and sum(lengths) == end and max(lengths) - min(lengths) <= 1
    assert scheduler.milestones() == [end] * (0 < end < steps)


def test_constant_rates_stay() -> None:
    scheduler = constant(7, RATES)
    assert [scheduler.rates_at(step) for step in range(7)] == [RATES] * 7 and scheduler.transitions() == []


@pytest.mark.parametrize("wrong", [{"layers": "some"}, {"num_layers": 0}, {"p_d": 0.0}, {"p_l": float("nan")}])
def test_rates_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: "):
        SamplingRates(**wrong)


@pytest.mark.parametrize(
    ("rates", "sampled"),
    [
        (SamplingRates(), False),
        (SamplingRates(p_d=0.9), False),  # dropout draws entries, not units
        (SamplingRates(num_layers=1, layers="first"), False),
        (SamplingRates(p_l=0.5, layers="first"), False),
        (SamplingRates(p_h=0.5), True),
        (SamplingRates(p_m=0.5), True),
        (SamplingRates(p_l=0.5, layers="chance"), True),
        (SamplingRates(num_layers=2, layers="path"), True),
    ],
)
def test_whether_a_subnetwork_is_drawn(rates: SamplingRates, sampled: bool) -> None:
    assert rates.sampled == sampled
