"""Evolving Subnetwork Training (Li et al., ICML 2024): the method itself, in torch and the standard library only.

    spec = spec_of(model)                                    # est_cli.families: where heads, columns, layers are
    check(model, spec, batch)                                # of a specification of one's own: is it right?
    handle = apply_est(model, spec)                          # parameter names do not change
    scheduler = three_stage(max_steps, 2 / 15, 7 / 15, SamplingRates(0.5, 0.5, 0.5))
    generator = IndexGenerator(spec, seed=0)
    handle.activate(generator.draw(step, scheduler.rates_at(step)))   # before each step
    handle.activate_full()                                            # before evaluation and saving

Names are loaded on first use, so that schedules and FLOPs can be computed without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines import early_dropout, layer_dropout, pld, raptr
    from .checking import check
    from .flops import Flops, FlopsLedger, forward_flops, planned_ledger, training_flops
    from .gradient import GradientPart, packed_copies, reached_parts, sampled_parts, whole_parts
    from .growth import grow
    from .index import IndexGenerator
    from .kept import sample_size
    from .positions import draw_positions
    from .schedule import (
        SamplingRates,
        SamplingScheduler,
        Stage,
        boundary_step,
        constant,
        cosine,
        dense,
        linear,
        n_stage,
        three_stage,
    )
    from .sizes import SampleSizes, SamplingOptions, sample_sizes
    from .spec import Kept, ModelSpec, Projection, SampledAttribute, SampledParameter, UnitSpan
    from .stacking import copied_from, g_stack, gradual_stacking, one_layer
    from .subnetwork import FULL, Subnetwork
    from .wrap import EstHandle, apply_est

_HOME = {
    "Flops": "flops", "FlopsLedger": "flops", "forward_flops": "flops", "planned_ledger": "flops",
    "training_flops": "flops", "GradientPart": "gradient", "packed_copies": "gradient", "reached_parts": "gradient",
    "sampled_parts": "gradient",
    "whole_parts": "gradient", "FULL": "index", "IndexGenerator": "index", "Subnetwork": "index",
    "SamplingRates": "schedule", "SamplingScheduler": "schedule", "Stage": "schedule", "boundary_step": "schedule",
    "constant": "schedule", "cosine": "schedule", "dense": "schedule", "linear": "schedule", "n_stage": "schedule",
    "three_stage": "schedule", "raptr": "baselines", "layer_dropout": "baselines", "pld": "baselines",
    "early_dropout": "baselines", "gradual_stacking": "stacking", "g_stack": "stacking", "one_layer": "stacking",
    "copied_from": "stacking", "grow": "growth", "SampleSizes": "sizes", "SamplingOptions": "sizes",
    "sample_size": "kept", "sample_sizes": "sizes", "Kept": "spec", "ModelSpec": "spec", "Projection": "spec",
    "UnitSpan": "spec", "SampledAttribute": "spec", "SampledParameter": "spec", "EstHandle": "wrap",
    "apply_est": "wrap", "check": "checking", "draw_positions": "positions",
}  # fmt: skip

__all__ = [  # noqa: RUF022  (by module)
    "Flops",
    "FlopsLedger",
    "forward_flops",
    "planned_ledger",
    "training_flops",
    "GradientPart",
    "reached_parts",
    "packed_copies",
    "sampled_parts",
    "whole_parts",
    "grow",
    "FULL",
    "IndexGenerator",
    "Subnetwork",
    "early_dropout",
    "layer_dropout",
    "pld",
    "raptr",
    "draw_positions",
    "SamplingRates",
    "SamplingScheduler",
    "Stage",
    "boundary_step",
    "constant",
    "cosine",
    "dense",
    "linear",
    "n_stage",
    "three_stage",
    "SampleSizes",
    "SamplingOptions",
    "sample_size",
    "sample_sizes",
    "Kept",
    "ModelSpec",
    "Projection",
    "UnitSpan",
    "SampledAttribute",
    "SampledParameter",
    "copied_from",
    "g_stack",
    "gradual_stacking",
    "one_layer",
    "EstHandle",
    "apply_est",
    "check",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
