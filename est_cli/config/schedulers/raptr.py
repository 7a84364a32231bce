"""RaPTr (Panigrahi et al.)."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import GROWN, Scheduler, boundaries_dial, grown
from est_cli.est.baselines import raptr

SCHEDULER = Scheduler(
    meaning="RaPTr: random paths of layers, longer in each stage, with both ends",
    make=grown(raptr),
    reads=GROWN,
    sampling=("redraw", "ranks", "cover", "layers_by", "layer_scale"),
    optim=("skipped_layers",),
    dial=boundaries_dial,
)
