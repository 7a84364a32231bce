"""LayerDrop (Fan et al.)."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import LAYERS_DRAWN, Scheduler, checked_rates, rates_dial
from est_cli.est.baselines import layer_dropout

SCHEDULER = Scheduler(
    meaning="LayerDrop: each layer runs with the probability p_l, in all steps",
    make=lambda steps, stage: layer_dropout(steps, checked_rates(p_l=stage.p_l).p_l),
    reads=("p_l",),
    sampling=LAYERS_DRAWN,
    optim=("skipped_layers",),
    dial=rates_dial,
)
