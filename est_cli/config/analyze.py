"""est-analyze: which checkpoint, which analysis, and on which text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from est_cli.config.data import DatasetConfig, dataset_problems
from est_cli.config.launch import LaunchConfig, whole_model_problems
from est_cli.config.method import SamplingConfig
from est_cli.config.paths import PathsConfig, paths_problems
from est_cli.config.setting import (
    SEED,
    TRACKED,
    above,
    at_least,
    between,
    group,
    range_problems,
    refuse,
    setting,
    settings_of,
)
from est_cli.config.tracking import TrackingIfAsked, tracking_problems
from est_cli.est.schedule import SamplingRates


class Analysis(StrEnum):
    hessian_trace = "hessian_trace"
    flatness = "flatness"
    compare = "compare"
    structural_dropout = "structural_dropout"
    draws = "draws"
    prices = "prices"


class Part(StrEnum):
    """Of the text: what training held out, or what it read."""

    validation = "validation"
    training = "training"


class Parameters(StrEnum):
    """Which weights; `body`: all but the embeddings and the LM head, `other`: what is none of the four kinds."""

    all = "all"
    body = "body"
    embeddings = "embeddings"
    attention = "attention"
    mlp = "mlp"
    norms = "norms"
    other = "other"


@dataclass
class AnalyzeSettings:
    tokens: int = setting(
        4096,
        "Of text, in whole sequences that are spread evenly over it: the same for every seed and checkpoint.",
        within=at_least(2),
        brief="Tokens of text, spread evenly over it",
    )
    part: Part = setting(Part.validation, "The text that training held out, or what it read.")
    seq_len: int = setting(
        256,
        "Tokens of a sequence; a model with fewer positions gets as many as it has, and prices at most the run's "
        "train.seq_len.",
        within=at_least(2),
        brief="Tokens of a sequence",
    )
    batch: int = setting(
        4,
        "Sequences at a time: what a smaller one changes is the memory, and the last digits.",
        within=at_least(1),
        brief="Sequences at a time; fewer take less memory",
    )
    parameters: Parameters = setting(
        Parameters.all, "Which weights; body: no embeddings, no LM head; other: what is none of the four kinds."
    )
    probes: int = setting(
        30,
        "Random vectors of the trace; its standard error falls with the square root of their number.",
        within=at_least(1),
    )
    transitions: bool = setting(
        False,
        "hessian_trace, prices: at all checkpoints that a run kept, its stage transitions among them.",
        brief="hessian_trace, prices: at all kept checkpoints",
    )
    trace: bool = setting(False, "compare: also the trace of both.")
    directions: int = setting(5, "flatness: random directions.", within=at_least(1))
    points: int = setting(
        21,
        "Of a curve, an odd number: both ends and the middle are among them.",
        within=at_least(3),
        brief="Points of a curve, an odd number",
    )
    radius: float = setting(
        1.0,
        "flatness: how far a curve goes to both sides, in lengths of the weights themselves.",
        within=above(0),
        brief="flatness: reach of a curve to both sides",
    )
    draws: int = setting(
        32,
        "structural_dropout, draws: subnetworks of each kind of sampling, and of each rate.",
        within=at_least(2),
        brief="structural_dropout, draws: subnetworks of each kind",
    )
    rates: list[float] | None = setting(
        None,
        "draws, prices: sampling rates, of each kind alone and of all together; null: 0.5, of prices 0.5 and 0.75.",
        within=between("(0, 1)"),
        brief="draws, prices: rates of each kind, and of all",
    )
    units: int = setting(
        8,
        "draws: units told of each kind, the costliest; of the heads among them pairs of a layer are looked at.",
        within=at_least(1),
        brief="draws: the costliest units of each kind",
    )
    steps: int = setting(20, "prices: sampled steps of a segment.", within=at_least(1))
    cooldown: int = setting(
        10,
        "prices: complete steps after them, in which the learning rate falls to 0.",
        within=at_least(0),
        brief="prices: complete steps after these, rate to 0",
    )
    repeats: int = setting(
        2,
        "prices: segments of each kind and rate, each with draws of its own.",
        within=at_least(2),
        brief="prices: segments of each kind and rate",
    )
    layer_parts: int = setting(
        0,
        "prices: equal parts of the layers, 3 for thirds: in each part alone heads, columns and layers are sampled, at "
        "the lowest rate; 0: none.",
        within=at_least(0),
        brief="prices: parts of the layers sampled alone; 0: none",
    )


@dataclass
class RatesConfig:
    """Sampling rates of structural_dropout, the paper's p_H, p_M and p_L."""

    p_h: float = setting(0.5, "structural_dropout: sampling rate of attention heads, in (0, 1].")
    p_m: float = setting(0.5, "structural_dropout: sampling rate of MLP columns, in (0, 1].")
    p_l: float = setting(0.5, "structural_dropout: sampling rate of layers, in (0, 1].")


@dataclass
class AnalyzeConfig:
    checkpoint: str | None = setting(
        None,
        "Folder of a model, a run's own folder (its final model is meant), or a hub id.",
        brief="Folder of a model or a run, or a hub id",
    )
    analysis: Analysis = setting(Analysis.hessian_trace, "What is analysed.", TRACKED)
    baseline: str | None = setting(None, "compare: the other checkpoint.")
    run_name: str | None = setting(
        None, "New folder below paths.outputs; null: made from the checkpoint and the analysis."
    )
    seed: int = setting(0, "Decides the random vectors, directions and subnetworks.", TRACKED, within=SEED)
    tokenizer: str | None = setting(None, "A folder or a hub id; null: the checkpoint's own.")
    dataset: DatasetConfig = group(DatasetConfig)
    stage: RatesConfig = group(RatesConfig, TRACKED)
    sampling: SamplingConfig = group(SamplingConfig, TRACKED)
    analyze: AnalyzeSettings = group(AnalyzeSettings, TRACKED)
    paths: PathsConfig = group(PathsConfig)
    launch: LaunchConfig = group(LaunchConfig)
    tracking: TrackingIfAsked = group(TrackingIfAsked)


EVERY = ("tokens", "part", "seq_len", "batch")
READS = {
    Analysis.hessian_trace: (*EVERY, "parameters", "probes", "transitions"),
    Analysis.flatness: (*EVERY, "parameters", "directions", "points", "radius"),
    Analysis.compare: (*EVERY, "points", "trace"),
    Analysis.structural_dropout: (*EVERY, "draws"),
    Analysis.draws: (*EVERY, "draws", "rates", "units"),
    Analysis.prices: (
        "tokens",
        "seq_len",
        "batch",
        "rates",
        "transitions",
        "steps",
        "cooldown",
        "repeats",
        "layer_parts",
    ),
}
"""Which keys of `analyze` have a meaning where; with `trace` compare reads `parameters` and `probes`, too."""


def rates_asked(config: AnalyzeConfig) -> list[float]:
    """The sampling rates that draws and prices look at."""
    usual = [0.5, 0.75] if config.analysis is Analysis.prices else [0.5]
    return usual if config.analyze.rates is None else config.analyze.rates


def check_analyze(config: AnalyzeConfig) -> None:
    """Raise one ConfigError that names every problem."""
    refuse(
        [
            *_what(config),
            *range_problems(config),
            *_points_and_rates(config),
            *_meaningless(config),
            *dataset_problems(config.dataset, "its own"),
            *whole_model_problems(config.launch, "est-analyze"),
            *paths_problems(config.paths),
            *tracking_problems(config.tracking, None, trains=False),
        ]
    )


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


def _points_and_rates(config: AnalyzeConfig) -> Iterator[str]:
    points, rates = config.analyze.points, config.analyze.rates
    if rates is not None and (not rates or len(set(rates)) < len(rates)):
        yield f"analyze.rates: {rates} must be one or more different rates, such as [0.5,0.75]"
    if points % 2 == 0:
        yield f"analyze.points: {points} is even; use an odd number, so that the middle is among them"
    for key, value in vars(config.stage).items():
        try:
            SamplingRates(p_l=value)
        except ValueError as error:
            yield f"stage.{key}: {str(error).partition(': ')[2]}"


def _meaningless(config: AnalyzeConfig) -> Iterator[str]:
    """Settings that the analysis does not read."""
    analysis, trace = config.analysis, config.analyze.trace
    reads = READS[analysis] + (("parameters", "probes") if analysis is Analysis.compare and trace else ())
    changed = _changed(config)
    for key in (key.removeprefix("analyze.") for key in changed if key.startswith("analyze.")):
        if key not in reads:
            traced = analysis is Analysis.compare and key in ("parameters", "probes")
            other = next(name.value for name, keys in READS.items() if key in keys)
            hint = "needs analyze.trace=true" if traced else f"goes with analysis={other}"
            yield f"analyze.{key}: has no meaning under analysis={analysis.value}; it {hint}"
    samples = analysis is Analysis.structural_dropout
    for key in (key for key in changed if key.startswith(("stage.", "sampling."))):
        draws = analysis in (Analysis.draws, Analysis.prices)
        if not samples and (not draws or key.startswith("stage.")):
            rates = "; analyze.rates says which are drawn" if draws else ""
            yield f"{key}: has no meaning under analysis={analysis.value}; it goes with structural_dropout{rates}"
        elif key in ("sampling.cover", "sampling.layers_by"):
            yield f"{key}: is of est-train, whose draws go together in a step; leave it {changed[key]}"
        elif key == "sampling.ranks" and analysis is Analysis.prices:
            yield f"{key}: has no meaning here, where one process trains; leave it {changed[key]}"
        elif key in ("sampling.redraw", "sampling.ranks") and analysis is not Analysis.prices:
            yield f"{key}: has no meaning here, where nothing is trained; leave it {changed[key]}"
    if samples and min(vars(config.stage).values()) == 1.0:
        yield "stage: all rates are 1, so nothing is sampled; lower p_h, p_m or p_l"
    if analysis is Analysis.prices and config.launch.num_processes > 1:
        yield "launch.num_processes: analysis=prices trains in one process; set it to 1"
    if "launch.check_every" in changed:
        yield "launch.check_every: has no meaning here, where weights do not change; leave it as it is"


def _changed(config: AnalyzeConfig) -> dict[str, object]:
    """The settings of groups that are not what they are by default, with their defaults."""
    return {
        key: known.default
        for key, known in settings_of(AnalyzeConfig).items()
        if "." in key and getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) != known.default
    }
