"""est-analyze: which checkpoint, which analysis, and on which text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from est_cli.config.data import DatasetConfig
from est_cli.config.launch import LaunchConfig
from est_cli.config.method import SamplingConfig


class Analysis(StrEnum):
    hessian_trace = "hessian_trace"
    flatness = "flatness"
    compare = "compare"
    structural_dropout = "structural_dropout"


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
    tokens: int = 4096
    """Of text, in whole sequences that are spread evenly over it: the same for every seed and checkpoint."""
    part: Part = Part.validation
    seq_len: int = 256
    """Tokens of a sequence; a model with fewer positions gets as many as it has."""
    batch: int = 4
    """Sequences at a time: what a smaller one changes is the memory, and the last digits."""
    parameters: Parameters = Parameters.all
    probes: int = 30
    """Random vectors of the trace; its standard error falls with the square root of their number."""
    transitions: bool = False
    """hessian_trace of all checkpoints that a run kept, its stage transitions among them."""
    trace: bool = False
    """compare: also the trace of both."""
    directions: int = 5
    points: int = 21
    """Of a curve, an odd number: both ends and the middle are among them."""
    radius: float = 1.0
    """flatness: how far a curve goes to both sides, in lengths of the weights themselves."""
    draws: int = 32
    """Subnetworks of structural_dropout, for each kind of sampling."""


@dataclass
class RatesConfig:
    """Sampling rates of structural_dropout, the paper's p_H, p_M and p_L; each in (0, 1]."""

    p_h: float = 0.5
    p_m: float = 0.5
    p_l: float = 0.5


@dataclass
class AnalyzeConfig:
    checkpoint: str | None = None
    """Folder of a model, a run's own folder (its final model is meant), or a hub id."""
    analysis: Analysis = Analysis.hessian_trace
    baseline: str | None = None
    """compare: the other checkpoint."""
    run_name: str | None = None
    """New folder below outputs/; None: made from the checkpoint and the analysis."""
    seed: int = 0
    """Decides the random vectors, directions and subnetworks."""
    tokenizer: str | None = None
    """A folder or a hub id; None: the checkpoint's own."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    stage: RatesConfig = field(default_factory=RatesConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    analyze: AnalyzeSettings = field(default_factory=AnalyzeSettings)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
