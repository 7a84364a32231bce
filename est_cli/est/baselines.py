"""Schedulers of the methods that Evolving Subnetwork Training is compared with and that grow nothing. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from .schedule import SamplingRates, SamplingScheduler, Stage, boundary_step, n_stage

PLD_FADE = 100.0
"""gamma * T of progressive layer dropping, as its paper proposes."""


def raptr(max_steps: int, boundaries: Sequence[int | float], depths: Sequence[int | float]) -> SamplingScheduler:
    """RaPTr: random paths through the layers, longer in each stage; the first and the last layer are always on them.

    `boundaries` are the first steps of stages 2, 3, ..., `depths` the lengths of the paths of all stages but the last,
    which has all layers: an int is a number of layers, a float a share of them. Source: Panigrahi et al., "Efficient
    Stagewise Pretraining via Progressive Subnetworks" (arXiv 2402.05913). There each layer between the ends is drawn by
    itself; here a path always has its length, so that all steps of a stage cost the same.
    """
    return n_stage(max_steps, boundaries, staged_depths(depths, len(boundaries), "path"), "raptr")


def layer_dropout(max_steps: int, p_l: float) -> SamplingScheduler:
    """LayerDrop: in every step each layer runs with the probability p_l, drawn by itself and not rescaled.

    Source: Fan, Grave, Joulin, "Reducing Transformer Depth on Demand with Structured Dropout" (arXiv 1909.11556), and
    fairseq's LayerDropModuleList, which draws once for each forward pass. All layers run in evaluation.
    """
    return SamplingScheduler("layer_dropout", (Stage(max_steps, SamplingRates(p_l=p_l, layers="chance")),))


def pld(max_steps: int, theta: float, gamma: float | None = None) -> SamplingScheduler:
    """Progressive layer dropping: from the complete model towards a mean that drops more of the deeper layers.

    In step t layer i of L (from 0) runs with the probability 1 - (1 - theta_t) * i / L, where
    theta_t = theta + (1 - theta) * exp(-gamma * t); its branches are divided by that probability. `gamma` None:
    100 / max_steps. Source: Zhang, He, "Accelerating Training of Transformer-Based Language Models with Progressive
    Layer Dropping" (arXiv 2010.13369), and DeepSpeed's progressive_layer_drop.
    """
    fade = PLD_FADE / max_steps if gamma is None else gamma
    return SamplingScheduler("pld", (Stage(max_steps, SamplingRates(p_l=theta, layers="depth"), gamma=fade),))


def early_dropout(max_steps: int, t2: int | float, p_d: float) -> SamplingScheduler:
    """Plain dropout on the outputs of the residual branches before step t2, none after it; everything is computed.

    `p_d` is the share of their entries that is kept. Source: Liu et al., "Dropout Reduces Underfitting" (arXiv
    2303.01500), the constant schedule; the comparison is that of EST's paper with unstructured dropout.
    """
    stages = (Stage(boundary_step(t2, max_steps), SamplingRates(p_d=p_d)), Stage(max_steps, SamplingRates()))
    return SamplingScheduler("early_dropout", stages)


def staged_depths(depths: Sequence[int | float], boundaries: int, layers: str) -> list[SamplingRates]:
    """The rates of stages with these depths and of a last stage with all layers; one depth for each boundary."""
    if len(depths) != boundaries:
        raise ValueError(
            f"stage.depths: has {len(depths)} entries, stage.boundaries {boundaries}; a stage before each boundary has "
            "a depth, the last stage all layers"
        )
    return [*(_of_depth(depth, layers) for depth in depths), SamplingRates()]


def _of_depth(depth: int | float, layers: str) -> SamplingRates:
    if isinstance(depth, int) and not isinstance(depth, bool) and depth >= 1:
        return SamplingRates(layers=layers, num_layers=depth)
    if isinstance(depth, float) and 0.0 < depth <= 1.0:
        return SamplingRates(p_l=depth, layers=layers)
    raise ValueError(f"stage.depths: {depth!r} is neither a number of layers (int) nor a share in (0, 1] (float)")
