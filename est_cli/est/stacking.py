"""Schedulers that begin with few layers and grow to all of them. No torch; growth.py moves the weights.

The model has all its layers from the beginning. In an early stage only the lowest ones run; the others have no gradient
and stay as they were made. At a transition layers join, after `copied_from` has said what they begin with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .baselines import staged_depths
from .schedule import SamplingScheduler, n_stage


def gradual_stacking(
    max_steps: int, boundaries: Sequence[int | float], depths: Sequence[int | float]
) -> SamplingScheduler:
    """Gradual stacking: layers that join are copies of the last ones, weights and optimizer state.

    `boundaries` are the first steps of stages 2, 3, ..., `depths` the layers of all stages but the last, which has all:
    an int is a number, a float a share. Source: Reddi et al., "Efficient Training of Language Models using Gradual
    Stacking" (2023). Public code of the method copies an optimizer's state with the weights, as is done here; we know
    of none by its authors.
    """
    return _grown("gradual_stacking", max_steps, boundaries, depths, "last")


def g_stack(max_steps: int, boundaries: Sequence[int | float], depths: Sequence[int | float]) -> SamplingScheduler:
    """Stacking of the whole model: layers that join are copies of all, from the bottom; the optimizer begins anew.

    Source: Du et al., "Stacking Your Transformers" (arXiv 2405.15319, G_stack), whose code loads weights and no
    optimizer state; with depths that double, Gong et al., "Efficient Training of BERT by Progressively Stacking" (ICML
    2019), whose scripts reset the optimizer too.
    """
    return _grown("g_stack", max_steps, boundaries, depths, "all")


def one_layer(max_steps: int, boundaries: Sequence[int | float], depths: Sequence[int | float]) -> SamplingScheduler:
    """Expansion of a shallow model by fresh layers: those that join begin with their first weights and no moments.

    Source: Bu, "Deep Progressive Training: scaling up depth capacity of zero/one-layer models" (arXiv 2511.04981):
    one layer, then all at once, late in a run whose learning rate is still high.
    """
    return _grown("one_layer", max_steps, boundaries, depths, "")


def copied_from(growth: str, before: int, after: int) -> dict[int, int]:
    """For each layer that joins a model of `before` layers, when it gets `after`, the layer that it is a copy of.

    - `last`: the last after - before layers once more, on top (from the bottom again, where there are not as many)
    - `all`: the whole model once more, from the bottom, as often as it takes
    - empty: none is
    """
    if not growth:
        return {}
    first = 0 if growth == "all" else max(0, 2 * before - after)
    period = before - first
    return {layer: first + (layer - before) % period for layer in range(before, after)}


def _grown(
    name: str, max_steps: int, boundaries: Sequence[int | float], depths: Sequence[int | float], growth: str
) -> SamplingScheduler:
    scheduler = n_stage(max_steps, boundaries, staged_depths(depths, len(boundaries), "first"), name)
    if not scheduler.stage_steps()[-1]:
        raise ValueError(
            f"stage.boundaries: the last one is step {max_steps}, the end of the run; it must lie before it, or the "
            "run would end without some of its layers"
        )
    return replace(scheduler, growth=growth)
