"""EST itself: scheduler, stages, how subnetworks are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Union


class SchedulerName(StrEnum):
    three_stage = "three_stage"
    dense = "dense"


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
    t1: Union[int, float, None] = None  # noqa: UP007  (OmegaConf reads typing.Union)
    """First step of stage 2: a float is a fraction of the run, an int a step (1 is step 1, 1.0 the end)."""
    t2: Union[int, float, None] = None  # noqa: UP007
    """First step of stage 3, in the same way."""
    p_h: float | None = None
    """Sampling rate of attention heads in stages 1 and 2, in (0, 1]."""
    p_m: float | None = None
    """Sampling rate of MLP columns in stages 1 and 2, in (0, 1]."""
    p_l: float | None = None
    """Sampling rate of layers in stage 1, in (0, 1]."""


@dataclass
class SamplingConfig:
    redraw: Redraw = Redraw.step
    ranks: Ranks = Ranks.same
    per_layer: bool = True
    kv_groups: KvGroups = KvGroups.whole
    layer_scale: LayerScale = LayerScale.none
    keep_ends: bool = False
