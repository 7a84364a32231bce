"""One run is one typed value: the dataclasses of every config group.

Composed by Hydra from conf/ (compose.py), checked and resolved once (resolve.py), then passed on as it is. A field
tells all of its setting (setting.py); rules that bind several keys stand beside their fields. Nothing heavy is imported
here: a wrong setting is told before torch starts. Units stand in the names (`_steps`, `_tokens`) or in the meaning.
`None` means "not set"; 0 means "never" for every `*_every`.
"""

from est_cli.config.analyze import Analysis, AnalyzeConfig, AnalyzeSettings, Parameters, Part
from est_cli.config.data import DatasetConfig, Packing, Source
from est_cli.config.eval import EvalConfig, EvalSettings, Select
from est_cli.config.launch import LaunchConfig, WireDtype
from est_cli.config.method import (
    SamplingConfig,
    SchedulerConfig,
)
from est_cli.config.model import HF, ModelConfig
from est_cli.config.optim import (
    DEFAULT_DECAY,
    DEFAULT_MIN_LR_RATIO,
    DEFAULT_MOMENTUM,
    DEFAULT_NS_STEPS,
    AdjustLr,
    LrSchedule,
    OptimConfig,
    OptimName,
    SkippedLayers,
    UnsampledRows,
)
from est_cli.config.paths import PathsConfig
from est_cli.config.plan import Convention, PlanConfig, Target
from est_cli.config.run import RunConfig
from est_cli.config.stage import StageConfig
from est_cli.config.survey import SurveyConfig
from est_cli.config.tracking import TrackingConfig, WandbMode
from est_cli.config.training import (
    DEFAULT_SPIKE_THRESHOLD,
    DEFAULT_SPIKE_WINDOW,
    Attention,
    LmLossKind,
    OnSpike,
    Precision,
    TrainConfig,
)

__all__ = [
    "DEFAULT_DECAY",
    "DEFAULT_MIN_LR_RATIO",
    "DEFAULT_MOMENTUM",
    "DEFAULT_NS_STEPS",
    "DEFAULT_SPIKE_THRESHOLD",
    "DEFAULT_SPIKE_WINDOW",
    "HF",
    "AdjustLr",
    "Analysis",
    "AnalyzeConfig",
    "AnalyzeSettings",
    "Attention",
    "Convention",
    "DatasetConfig",
    "EvalConfig",
    "EvalSettings",
    "LaunchConfig",
    "LmLossKind",
    "LrSchedule",
    "ModelConfig",
    "OnSpike",
    "OptimConfig",
    "OptimName",
    "Packing",
    "Parameters",
    "Part",
    "PathsConfig",
    "PlanConfig",
    "Precision",
    "RunConfig",
    "SamplingConfig",
    "SchedulerConfig",
    "Select",
    "SkippedLayers",
    "Source",
    "StageConfig",
    "SurveyConfig",
    "Target",
    "TrackingConfig",
    "TrainConfig",
    "UnsampledRows",
    "WandbMode",
    "WireDtype",
]
