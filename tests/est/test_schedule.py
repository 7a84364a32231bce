"""The sampling scheduler against tables computed by hand."""

from __future__ import annotations

import pytest

from est_cli.est import SamplingRates, boundary_step, dense, three_stage

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
