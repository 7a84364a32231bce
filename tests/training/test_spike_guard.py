"""Which steps are spikes: the limits against numpy, the window's end, and what the update makes of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import OptimConfig
from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.training.optim import LossScale, build_optimizer, update
from est_cli.training.reading import Reading
from est_cli.training.run import RunState
from est_cli.training.spike_guard import Limits, limits_at, remember
from tests.lab.commands import accepted
from tests.training.test_guard import WAITING, Watch

BOUNDARY = 30
"""The first step (0-based) of the second stage."""


def a_run(*settings: str) -> Any:
    config = accepted("tracking.wandb=off", *settings)
    scheduler = SimpleNamespace(stage_at=lambda step: 1 + (step >= BOUNDARY))
    return SimpleNamespace(config=config, state=RunState(), scheduler=scheduler)


def numbers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first losses and gradient norms of a run."""
    noise = np.random.default_rng(0).standard_normal((2, 100))[:, :count]
    return 5.0 + 0.3 * noise[0], 1.0 + 0.5 * noise[1] ** 2


def after(run: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    found = numbers(steps)
    for step, (loss, norm) in enumerate(zip(*found, strict=True)):
        remember(run, step, float(loss), float(norm))
    return found


def expected(values: np.ndarray, threshold: float) -> float:
    middle = np.median(values)
    return float(middle + threshold * 1.4826 * np.median(np.abs(values - middle)))


@pytest.mark.parametrize(("window", "threshold", "step"), [(16, 4.0, 25), (8, 3.5, 25), (64, 6.0, 29), (16, 4.0, 60)])
def test_the_limits_are_medians_and_deviations_of_the_window(window: int, threshold: float, step: int) -> None:
    run = a_run("train.on_spike=skip", f"train.spike_window={window}", f"train.spike_threshold={threshold}")
    losses, norms = after(run, step)  # all but the last of them are looked at
    first = max(step - 1 - window, BOUNDARY if step > BOUNDARY else 0)
    found = limits_at(run, step)
    assert found is not None and len(run.state.recent) <= window + 1
    assert found.loss == pytest.approx(max(expected(losses[first:-1], threshold), 1.04 * np.median(losses[first:-1])))
    assert found.grad_norm == pytest.approx(max(expected(norms[first:-1], threshold), 3 * np.median(norms[first:-1])))


def test_null_is_what_the_settings_say() -> None:
    runs = [
        a_run("train.on_spike=rewind", *more) for more in ((), ("train.spike_window=64", "train.spike_threshold=6"))
    ]
    for run in runs:
        after(run, 29)
    assert limits_at(runs[0], 29) == limits_at(runs[1], 29) is not None


@pytest.mark.parametrize(("step", "judged"), [(4, False), (5, True), (BOUNDARY, False), (34, False), (35, True)])
def test_a_stage_is_judged_from_a_quarter_of_the_window_on(step: int, judged: bool) -> None:
    run = a_run("train.on_spike=skip", "train.spike_window=16")
    after(run, step)
    assert (limits_at(run, step) is not None) == judged


def test_what_comes_late_changes_no_limit() -> None:
    """A device that is read a step late knows the step before only when this one is launched."""
    run, late = a_run("train.on_spike=skip"), a_run("train.on_spike=skip")
    after(run, 25), after(late, 24)
    assert limits_at(run, 25) == limits_at(late, 25) is not None


def test_nobody_asks() -> None:
    run = a_run()
    after(run, 25)
    assert limits_at(run, 25) is None and run.state.recent == []


def test_a_spike_is_above_both() -> None:
    limits = Limits(5.0, 2.0)
    assert limits.exceeded(5.1, 2.1)
    for ordinary in ((5.1, 2.0), (5.0, 2.1), (float("nan"), 9.0), (9.0, float("nan"))):
        assert not limits.exceeded(*ordinary)


@pytest.mark.parametrize(("loss", "norm", "skipped"), [(6.0, 1.0, True), (6.0, 9.0, False), (4.0, 1.0, False)])
def test_an_update_above_both_limits_changes_nothing(loss: float, norm: float, skipped: bool) -> None:
    """And is no sign that the loss scale is too large."""
    model = torch.nn.ParameterList([torch.ones(4)])
    optimizer, scale = build_optimizer(model, OptimConfig()), LossScale.at(8.0, 3, torch.device("cpu"))
    model[0].grad = torch.full((4,), 8.0)  # of norm 2 without the scale
    before = model[0].detach().clone()
    with Watch() as watch:
        found, rejected = update(optimizer, 0.1, 1.0, torch.tensor(loss), scale=scale, limits=(5.0, norm))
    assert watch.count(WAITING) == 0, "the device decides"
    assert (found.item(), rejected.item()) == (2.0, float(skipped))
    assert torch.equal(model[0], before) == skipped
    assert (scale.factor.item(), scale.good_steps.item()) == (8.0, 4)


def test_a_loss_that_is_not_finite_is_no_spike() -> None:
    model = torch.nn.ParameterList([torch.ones(4)])
    optimizer, scale = build_optimizer(model, OptimConfig()), LossScale.at(8.0, 3, torch.device("cpu"))
    model[0].grad = torch.full((4,), float("inf"))
    _, rejected = update(optimizer, 0.1, 1.0, torch.tensor(9.0), scale=scale, limits=(5.0, 1.0))
    assert (rejected.item(), scale.factor.item()) == (1.0, 4.0)


def test_samples_that_were_passed_over_shift_those_behind_them() -> None:
    reading = Reading(BatchSchedule((30,), (StepBatch(4, 32),)), [[10, 12, 1], [20, 8, 2]])
    assert [reading.first_sample(step) for step in (0, 9, 10, 19, 20, 21)] == [0, 36, 52, 88, 100, 104]
    assert [reading.passed_by(step) for step in (9, 10, 20)] == [0, 12, 20]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("train.spike_window=32",), "train.spike_window: has a meaning only with train.on_spike=skip or rewind"),
        (("train.spike_threshold=3",), "train.spike_threshold: has a meaning only with"),
        (("train.on_spike=rewind", "train.checkpoint_every=0"), "train.on_spike: rewind needs checkpoints"),
        (("train.on_spike=skip", "train.spike_window=4"), "train.spike_window: 4 is out of range"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        accepted("tracking.wandb=off", *settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("passed", {}),
        ("passed", [[1, 2]]),
        ("passed", [[1, 2, 3.0]]),
        ("passed", [[1, -2, 3]]),
        ("passed", [[1, 1 << 60, 3]]),
        ("recent", [[1, 2.0]]),
        ("recent", [[1.0, 2.0, 3.0]]),
        ("recent", [[1, 2.0, True]]),
        ("recent", ["abc"]),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(key: str, value: Any) -> None:
    good = RunState(passed=[[1, 2, 3]], recent=[[1, 2.0, 3.0]])
    assert RunState.from_json(json.loads(json.dumps(good.as_json())), "x") == good
    with pytest.raises(CheckpointError, match=f"no proper value for {key}"):
        RunState.from_json(good.as_json() | {key: value}, "x")


def test_a_state_of_before_has_nothing_of_it() -> None:
    state = RunState().as_json()
    for key in ("passed", "recent", "flops_passed_over"):
        del state[key]
    assert RunState.from_json(state, "x") == RunState()
