"""EST itself: scheduler, stages, how subnetworks are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Optional, Union


class SchedulerName(StrEnum):
    three_stage = "three_stage"
    n_stage = "n_stage"
    linear = "linear"
    cosine = "cosine"
    constant = "constant"
    dense = "dense"
    raptr = "raptr"
    layer_dropout = "layer_dropout"
    pld = "pld"
    early_dropout = "early_dropout"
    gradual_stacking = "gradual_stacking"
    g_stack = "g_stack"
    one_layer = "one_layer"


class Redraw(StrEnum):
    step = "step"
    forward = "forward"


class Ranks(StrEnum):
    same = "same"
    independent = "independent"


class KvGroups(StrEnum):
    whole = "whole"
    within = "within"


class LayerScale(StrEnum):
    none = "none"
    inverse = "inverse"


@dataclass
class SchedulerConfig:
    name: SchedulerName = SchedulerName.three_stage


@dataclass
class StageConfig:
    """What schedulers read; which of them reads what stands in schedulers.py, what it means in docs/schedulers.md.

    The lists are Any, because OmegaConf knows no list of ints and floats; checks/method.py says what they may hold.
    """

    t1: Union[int, float, None] = None  # noqa: UP007  (OmegaConf reads typing.Union)
    """First step of stage 2: a float is a fraction of the run, an int a step (1 is step 1, 1.0 the end)."""
    t2: Union[int, float, None] = None  # noqa: UP007
    """First step of stage 3, in the same way; linear, cosine, early_dropout: of the last stage."""
    p_h: float | None = None
    """Sampling rate of attention heads in stages 1 and 2, in (0, 1]; linear, cosine: at the start; constant: always."""
    p_m: float | None = None
    """Sampling rate of MLP columns, in the same way."""
    p_l: float | None = None
    """Sampling rate of layers in stage 1, in (0, 1]; layer_dropout: the probability of each layer to run."""
    boundaries: Optional[Any] = None  # noqa: UP045
    """First steps of stages 2, 3, ... as t1 and t2 are written: a list, or one number."""
    rates: Optional[Any] = None  # noqa: UP045
    """n_stage: a list with [p_h, p_m, p_l] for every stage, one more than there are boundaries."""
    depths: Optional[Any] = None  # noqa: UP045
    """raptr, gradual_stacking, g_stack, one_layer: the layers of every stage but the last, which has all; a list, or
    one number: an int is a number of layers, a float a share of them (1 is one layer, 1.0 all)."""
    levels: int | None = None
    """linear, cosine: the steps in which the rates grow, each with other shapes to compile; at most 31."""
    p_d: float | None = None
    """early_dropout: the share of the residual branches' outputs that dropout keeps, in (0, 1]."""
    theta: float | None = None
    """pld: layer i of L (from 0) ends at the rate 1 - (1 - theta) i / L, all begin at 1; in (0, 1]."""
    gamma: float | None = None
    """pld: how fast it goes there, per step; None: 100 / steps of the run."""


@dataclass
class SamplingConfig:
    redraw: Redraw = Redraw.step
    ranks: Ranks = Ranks.same
    per_layer: bool = True
    kv_groups: KvGroups = KvGroups.whole
    layer_scale: LayerScale = LayerScale.none
    keep_ends: bool = False
