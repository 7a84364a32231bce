import pytest

from est_cli.tracking.eta import StagePlan, remaining_seconds

STAGES = [StagePlan(1, 10, 100.0), StagePlan(2, 30, 200.0), StagePlan(3, 100, 400.0)]


@pytest.mark.parametrize(
    ("steps_done", "observed_s", "expected"),
    [
        # 6 steps at 1 s; 1 s per 100 FLOPs foresees 20 steps at 2 s and 70 at 4 s.
        (4, {1: [9.0, 1.0, 1.0, 1.0]}, 6 * 1.0 + 20 * 2.0 + 70 * 4.0),
        # Stage 2 measured at 3 s; (1 + 3) s per (100 + 200) FLOPs foresees 70 steps at 400 * 4 / 300 s.
        (20, {1: [1.0] * 10, 2: [3.0] * 10}, 10 * 3.0 + 70 * 400 * 4 / 300),
        # All measured: only the last counts, with the median and not the mean.
        (90, {1: [1.0], 2: [3.0], 3: [5.0, 5.0, 50.0]}, 10 * 5.0),
        # Resumed in stage 2: stage 1 was never seen and is not needed.
        (20, {1: [], 2: [3.0], 3: []}, 10 * 3.0 + 70 * 6.0),
        # At a transition nothing of the old stage is left.
        (10, {1: [1.0]}, 20 * 2.0 + 70 * 4.0),
        (100, {1: [1.0]}, 0.0),
        (100, {}, 0.0),
        (0, {}, None),
        (0, {1: []}, None),
    ],
)
def test_remaining_seconds(steps_done, observed_s, expected):
    assert remaining_seconds(STAGES, steps_done, observed_s) == (
        expected if expected is None else pytest.approx(expected)
    )


def test_an_empty_stage_costs_nothing():
    stages = [StagePlan(1, 0, 100.0), StagePlan(2, 0, 200.0), StagePlan(3, 10, 400.0)]
    assert remaining_seconds(stages, 5, {3: [2.0]}) == 10.0
