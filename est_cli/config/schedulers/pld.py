"""Progressive layer dropping (Zhang and He)."""

from __future__ import annotations

from dataclasses import replace

from est_cli.config.schedulers.shared.scheduler import FINEST_RATE, Dial, Scheduler, typed_rate
from est_cli.config.stage import StageConfig
from est_cli.est.baselines import pld
from est_cli.est.schedule import SamplingScheduler


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.theta is not None
    return pld(steps, stage.theta, stage.gamma)


def _dial(stage: StageConfig, steps: int, keep: str) -> Dial:
    return Dial(lambda x: replace(stage, theta=typed_rate(1.0 - x)), FINEST_RATE)


SCHEDULER = Scheduler(
    meaning="progressive layer dropping: ever more of the deeper layers are left out",
    make=_make,
    reads=("theta",),
    optional=("gamma",),
    sampling=("redraw", "ranks", "keep_ends", "protect"),
    optim=("skipped_layers",),
    dial=_dial,
)
