"""`optim.*`: the optimizer and the learning rate, a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from est_cli.config.setting import METHOD, above, at_least, between, epsilon, setting
from est_cli.est.batch import BatchSchedule
from est_cli.est.schedule import boundary_step

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig


class LrSchedule(StrEnum):
    wsd = "wsd"
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class OptimName(StrEnum):
    adamw = "adamw"
    muon = "muon"


class SkippedLayers(StrEnum):
    """How a layer that ran nowhere in a step is treated."""

    frozen = "frozen"
    zero_grad = "zero_grad"


class UnsampledRows(StrEnum):
    """How those entries of a layer that ran are treated that its subnetworks did not use."""

    zero_grad = "zero_grad"
    frozen = "frozen"


class BatchLr(StrEnum):
    """What a stage's ratio of tokens per step to the last stage's is raised to, as a factor of the learning rate."""

    none = "none"
    sqrt = "sqrt"
    """As for Adam and its kin (Malladi et al., 2022)."""
    linear = "linear"
    """As for SGD (Goyal et al., 2017)."""


class AdjustLr(StrEnum):
    """What Muon's learning rate is multiplied by, for a matrix of so many outputs and inputs."""

    match_rms_adamw = "match_rms_adamw"
    """0.2 * sqrt(max(outputs, inputs)): the update's root mean square is about AdamW's (Liu et al., 2025)."""
    original = "original"
    """sqrt(max(1, outputs / inputs)) (Jordan et al., 2024)."""


DEFAULT_CLIP, DEFAULT_WARMUP = 1.0, 0.02
DEFAULT_DECAY = 0.2
"""What `optim.decay: null` means: the last fifth of the run."""
DEFAULT_MIN_LR_RATIO = 0.1
"""What `optim.min_lr_ratio: null` means."""
DEFAULT_MOMENTUM = 0.95
"""What `optim.momentum: null` means under muon, as in Jordan et al. (2024)."""
DEFAULT_NS_STEPS = 5
"""What `optim.ns_steps: null` means under muon, as there."""
MUON_KEYS = ("muon_lr", "momentum", "nesterov", "ns_steps", "adjust_lr")
MAX_NS_STEPS = 99
"""What torch allows; five are usual."""


@dataclass
class OptimConfig:
    name: OptimName = setting(
        OptimName.adamw,
        "adamw (fused), or muon: torch's Muon for the matrices of the layers, AdamW for all else.",
        brief="AdamW, or Muon for matrices",
    )
    lr: float = setting(
        1e-3,
        "The largest of the run; what the schedule does with it, it does with muon_lr too.",
        within=above(0),
        brief="Largest learning rate",
    )
    beta1: float = setting(0.9, "AdamW's decay of the first moment.", within=between("[0, 1)"))
    beta2: float = setting(0.95, "AdamW's decay of the second moment.", within=between("[0, 1)"))
    eps: float = setting(1e-8, "AdamW's epsilon.", within=epsilon(), brief="AdamW's epsilon")
    weight_decay: float = setting(
        0.1,
        "Applied to matrices and embeddings, not to biases and norms.",
        within=at_least(0),
        brief="Of matrices and embeddings",
    )
    muon_lr: float | None = setting(
        None,
        "muon only: the largest learning rate of the matrices; null: lr.",
        within=above(0),
        brief="muon: largest rate of the matrices; null: lr",
    )
    momentum: float | None = setting(
        None, "muon only; null: 0.95.", within=between("[0, 1)"), brief="muon: its momentum; null: 0.95"
    )
    nesterov: bool | None = setting(
        None, "muon only: whether the momentum looks ahead; null: true.", brief="muon: momentum looks ahead; null: true"
    )
    ns_steps: int | None = setting(
        None,
        "muon only: Newton-Schulz iterations of the orthogonalisation; null: 5.",
        within=at_least(1, most=MAX_NS_STEPS),
        brief="muon: Newton-Schulz iterations; null: 5",
    )
    adjust_lr: AdjustLr | None = setting(
        None,
        "muon only: how a matrix's shape changes its learning rate; null: match_rms_adamw.",
        brief="muon: how a matrix's shape changes its rate",
    )
    grad_clip: float = setting(DEFAULT_CLIP, "Largest global gradient norm; 0: no clipping.", within=at_least(0))
    stage_lr: list[float] | None = setting(
        None,
        "A factor of the learning rate for each stage, such as [0.5,0.7,1.0]; null: 1 in all.",
        METHOD,
        within=above(0),
        brief="A factor of the learning rate for each stage",
    )
    stage_clip: list[float] | None = setting(
        None,
        "The largest gradient norm of each stage in the place of grad_clip; 0: no clipping.",
        METHOD,
        within=at_least(0),
        brief="Largest gradient norm of each stage",
    )
    schedule: LrSchedule = setting(LrSchedule.wsd, "Course of the learning rate after the warm-up.")
    warmup: int | float = setting(
        DEFAULT_WARMUP,
        "Steps (int) or fraction of the run (float) of linear warm-up.",
        brief="Warm-up in steps (int) or as a fraction",
    )
    warmup_tokens: int | None = setting(
        None,
        "Tokens of the warm-up, in place of `warmup`: up to the step that has read them.",
        within=at_least(0),
        brief="Tokens of the warm-up, instead of warmup",
    )
    decay: int | float | None = setting(
        None,
        "wsd only: steps (int) or fraction (float) of the final linear decay; null: 0.2.",
        brief="wsd: the final decay, likewise; null: 0.2",
    )
    decay_tokens: int | None = setting(
        None,
        "wsd only: tokens of the decay, in place of `decay`: the last steps that read them.",
        within=at_least(0),
        brief="wsd: tokens of the decay, instead of decay",
    )
    batch_lr: BatchLr = setting(
        BatchLr.none,
        "How the learning rate of a stage follows its train.tokens_per_step: not at all, or by the ratio of this to "
        "that of the last stage (linear), or by its square root (sqrt).",
        brief="How the rate follows the tokens of a step",
    )
    min_lr_ratio: float | None = setting(
        None,
        "The floor of wsd, cosine and linear as a fraction of lr; null: 0.1.",
        within=between("[0, 1]"),
        brief="Floor of the rate, share of lr; null: 0.1",
    )
    skipped_layers: SkippedLayers = setting(
        SkippedLayers.frozen,
        "A layer that ran nowhere in a step: left alone, or moments decay and weight decay acts (zero_grad).",
        METHOD,
        brief="Layers that ran nowhere in a step",
    )
    unsampled_rows: UnsampledRows = setting(
        UnsampledRows.zero_grad,
        "Rows that were not sampled in a layer that ran: they see a zero gradient, or stay as they are (frozen).",
        METHOD,
        brief="Rows that were not sampled in a step",
    )


def warmup_end(optim: OptimConfig, batch: BatchSchedule) -> int:
    """The first step (0-based) behind the warm-up."""
    if optim.warmup_tokens is not None:
        return batch.step_after(optim.warmup_tokens)
    return boundary_step(optim.warmup, batch.max_steps)


def decay_begin(optim: OptimConfig, batch: BatchSchedule) -> int | None:
    """The first step (0-based) of the final decay under wsd; None under other schedules."""
    if optim.schedule is not LrSchedule.wsd:
        return None
    if optim.decay_tokens is not None:
        before = batch.tokens_before(batch.max_steps) - optim.decay_tokens
        return batch.step_after(before + 1) - 1  # the last step that leaves as many
    return batch.max_steps - boundary_step(DEFAULT_DECAY if optim.decay is None else optim.decay, batch.max_steps)


def optim_problems(config: RunConfig) -> Iterator[str]:
    """What does not go together in a run of any length."""
    optim = config.optim
    if optim.decay is not None and optim.schedule is not LrSchedule.wsd:
        yield f"optim.decay: belongs to optim.schedule=wsd and has no meaning under {optim.schedule.value}"
    if optim.min_lr_ratio is not None and optim.schedule is LrSchedule.constant:
        yield "optim.min_lr_ratio: has no meaning under optim.schedule=constant"
    for key in MUON_KEYS:
        if optim.name is not OptimName.muon and getattr(optim, key) is not None:
            yield f"optim.{key}: belongs to optim=muon and has no meaning under optim.name={optim.name.value}"
    yield from _incompatible_choices(config)
    yield from _tokens_problems(optim)


def _incompatible_choices(config: RunConfig) -> Iterator[str]:
    optim, sharded = config.optim, config.launch.strategy == "fsdp"
    if optim.skipped_layers is SkippedLayers.zero_grad and config.sampling.layers_by == "sequence":
        yield (
            "optim.skipped_layers: has no meaning under sampling.layers_by=sequence, where every layer runs in each "
            "step; leave it frozen"
        )
    muon, frozen = optim.name is OptimName.muon, optim.unsampled_rows is UnsampledRows.frozen
    if muon and frozen:
        yield (
            "optim.unsampled_rows: frozen has no meaning under optim.name=muon, whose update of a row depends on all "
            "rows of its matrix; use adamw"
        )
    if frozen and sharded:
        yield (
            "optim.unsampled_rows: frozen is not there under launch.strategy=fsdp, where the rows of a matrix are "
            "spread over the processes; use ddp"
        )


def _tokens_problems(optim: OptimConfig) -> Iterator[str]:
    if optim.decay_tokens is not None and optim.schedule is not LrSchedule.wsd:
        yield f"optim.decay_tokens: belongs to optim.schedule=wsd and has no meaning under {optim.schedule.value}"
    for key, default in (("warmup", DEFAULT_WARMUP), ("decay", None)):
        if getattr(optim, f"{key}_tokens") is not None and getattr(optim, key) != default:
            kept = "null" if default is None else default
            yield f"optim.{key}_tokens: takes the place of optim.{key}, which is set too; leave that at {kept}"


def lr_span_problems(optim: OptimConfig, batch: BatchSchedule) -> Iterator[str]:
    """What is told by stage has an entry for each; warm-up and decay together must fit into the run."""
    for key in ("stage_lr", "stage_clip"):
        values = getattr(optim, key)
        if values is not None and len(values) != len(batch.stages):
            yield f"optim.{key}: {values} has {len(values)}; this run needs {len(batch.stages)}, one for each stage"
            return
    if optim.stage_clip is not None and optim.grad_clip != DEFAULT_CLIP:
        yield f"optim.stage_clip: takes the place of optim.grad_clip, which is set too; leave that at {DEFAULT_CLIP}"
    steps, total = batch.max_steps, batch.tokens_before(batch.max_steps)
    wrong = [*_outside(optim, steps, total)]
    yield from wrong
    if wrong:
        return
    warmup, decay = warmup_end(optim, batch), decay_begin(optim, batch)
    if decay is not None and warmup > decay:
        yield (
            f"optim.decay: warm-up ({warmup}) and decay ({steps - decay}) exceed the run of {steps} steps; "
            "shorten one of them, or give more steps"
        )


def _outside(optim: OptimConfig, steps: int, total: int) -> Iterator[str]:
    """Each span by itself."""
    for key, default in (("warmup", 0.0), ("decay", DEFAULT_DECAY)):
        value, tokens = getattr(optim, key), getattr(optim, f"{key}_tokens")
        try:
            boundary_step(default if value is None else value, steps)
        except ValueError as error:
            yield f"optim.{key}: {error}"
        if tokens is not None and tokens > total:
            yield (
                f"optim.{key}_tokens: {tokens} is more than the {total} tokens that the run reads; "
                "use fewer, or more steps"
            )
