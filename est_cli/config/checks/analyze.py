"""est-analyze: ranges and contradictions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.config import Analysis, AnalyzeConfig, AnalyzeSettings, LaunchConfig, RunConfig, SamplingConfig
from est_cli.config.analyze import RatesConfig
from est_cli.config.checks.data import dataset_problems
from est_cli.config.checks.launch import whole_model_problems
from est_cli.est.schedule import SamplingRates

EVERY = ("tokens", "part", "seq_len", "batch")
READS = {
    Analysis.hessian_trace: (*EVERY, "parameters", "probes", "transitions"),
    Analysis.flatness: (*EVERY, "parameters", "directions", "points", "radius"),
    Analysis.compare: (*EVERY, "points", "trace"),
    Analysis.structural_dropout: (*EVERY, "draws"),
}
"""Which keys of `analyze` have a meaning where; with `trace` compare reads `parameters` and `probes`, too."""
LEAST = {"tokens": 2, "seq_len": 2, "batch": 1, "probes": 1, "directions": 1, "draws": 2, "points": 3}


def check_analyze(config: AnalyzeConfig) -> None:
    """Raise one ConfigError that names every problem."""
    problems = [
        *_what(config),
        *_settings(config.analyze),
        *_rates(config.stage),
        *_meaningless(config),
        *dataset_problems(RunConfig(tokenizer="its own", dataset=config.dataset)),
        *whole_model_problems(config.launch, "est-analyze"),
    ]
    if problems:
        raise ConfigError("; also ".join(problems))


def _what(config: AnalyzeConfig) -> Iterator[str]:
    compares = config.analysis is Analysis.compare
    if not config.checkpoint:
        yield "checkpoint: is missing; give the folder of a model, such as outputs/NAME/model"
    elif config.baseline is not None and os.path.realpath(config.baseline) == os.path.realpath(config.checkpoint):
        yield "baseline: is the checkpoint itself; give another one"
    if compares and not config.baseline:
        yield "baseline: is missing; analysis=compare needs a second checkpoint"
    if not compares and config.baseline is not None:
        yield f"baseline: has no meaning under analysis={config.analysis.value}; use analysis=compare"
    if not 0 <= config.seed < 1 << 63:
        yield f"seed: {config.seed} is out of range; it must be at least 0 and below 2**63"


def _settings(settings: AnalyzeSettings) -> Iterator[str]:
    for key, least in LEAST.items():
        if (value := getattr(settings, key)) < least:
            yield f"analyze.{key}: {value} is out of range; it must be at least {least}"
    if settings.points % 2 == 0:
        yield f"analyze.points: {settings.points} is even; use an odd number, so that the middle is among them"
    if not (math.isfinite(settings.radius) and settings.radius > 0):
        yield f"analyze.radius: {settings.radius} is out of range; it must be above 0"


def _rates(stage: RatesConfig) -> Iterator[str]:
    for key, value in vars(stage).items():
        try:
            SamplingRates(p_l=value)
        except ValueError as error:
            yield f"stage.{key}: {str(error).partition(': ')[2]}"


def _meaningless(config: AnalyzeConfig) -> Iterator[str]:
    """Settings that the analysis does not read."""
    analysis, settings = config.analysis, config.analyze
    reads = READS[analysis] + (("parameters", "probes") if analysis is Analysis.compare and settings.trace else ())
    for key in _changed(settings, AnalyzeSettings()):
        if key not in reads:
            traced = analysis is Analysis.compare and key in ("parameters", "probes")
            other = next(name.value for name, keys in READS.items() if key in keys)
            hint = "needs analyze.trace=true" if traced else f"goes with analysis={other}"
            yield f"analyze.{key}: has no meaning under analysis={analysis.value}; it {hint}"
    samples = analysis is Analysis.structural_dropout
    for group, value, default in (
        ("stage", config.stage, RatesConfig()),
        ("sampling", config.sampling, SamplingConfig()),
    ):
        for key in _changed(value, default):
            if not samples:
                yield f"{group}.{key}: has no meaning under analysis={analysis.value}; it goes with structural_dropout"
            elif key in ("redraw", "ranks"):
                yield f"sampling.{key}: has no meaning here, where nothing is trained; leave it {getattr(default, key)}"
    if samples and min(vars(config.stage).values()) == 1.0:
        yield "stage: all rates are 1, so nothing is sampled; lower p_h, p_m or p_l"
    if config.launch.check_every != LaunchConfig().check_every:
        yield "launch.check_every: has no meaning here, where weights do not change; leave it as it is"


def _changed(value: Any, default: Any) -> list[str]:
    return [key for key, one in vars(value).items() if one != getattr(default, key)]
