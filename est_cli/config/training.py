"""`train.*`: the budget, the batch, precision and speed, and what is done every so many steps."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from est_cli.common.errors import install_hint
from est_cli.common.nearby import no_folder
from est_cli.config.batch import COUNTS, batch_problems
from est_cli.config.length import max_steps
from est_cli.config.micro_batch import SIZES, stage_problems
from est_cli.config.setting import EVERY, FREE, SETTLED, above, at_least, setting

if TYPE_CHECKING:
    from est_cli.config.resolve import Resolved
    from est_cli.config.run import RunConfig


class Precision(StrEnum):
    """In which numbers matrix products are computed; the weights are fp32 in each case."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


class LmLossKind(StrEnum):
    chunked = "chunked"
    triton = "triton"
    torch = "torch"
    whole = "whole"


class Attention(StrEnum):
    """Which of torch's attention kernels; auto: torch chooses the fastest that can do it; flex: FlexAttention."""

    auto = "auto"
    flash = "flash"
    cudnn = "cudnn"
    efficient = "efficient"
    math = "math"
    flex = "flex"


class OnSpike(StrEnum):
    """What is done about a step whose loss and gradient norm stand out."""

    none = "none"
    skip = "skip"
    rewind = "rewind"


DEFAULT_SPIKE_WINDOW = 64
DEFAULT_SPIKE_THRESHOLD = 6.0


@dataclass
class TrainConfig:
    max_steps: int | None = setting(
        None,
        "Optimizer steps; null, and no budget of another kind: 300.",
        within=at_least(1),
        brief="Optimizer steps; null: by a budget, or 300",
    )
    max_tokens: int | None = setting(
        None,
        "Budget in tokens instead of steps: rounded up to whole steps.",
        within=at_least(1),
        brief="Tokens to train on, instead of max_steps",
    )
    max_flops: float | None = setting(
        None,
        "Budget in FLOPs (`total`) instead of steps: as many steps as use no more; config.yaml names them.",
        within=above(0),
        brief="FLOPs to train with, instead of max_steps",
    )
    seq_len: int | list[int] = setting(
        256,
        "Tokens of a training sequence, or a list with one number for each stage, [128,256,256], whose longest each of "
        "them divides; validation reads the longest.",
        within=at_least(2, note=" (a token and the next one)"),
        items=COUNTS,
        brief="Tokens of a training sequence",
    )
    tokens_per_step: int | list[int] = setting(
        4096,
        "Tokens per optimizer step over all micro-batches, or a list with one number for each stage, "
        "[2048,4096,4096]; multiples of the longest seq_len. optim.batch_lr says what the learning rate does.",
        within=at_least(1),
        items=COUNTS,
        brief="Tokens per optimizer step",
    )
    micro_batch: int | str | list[int | str] = setting(
        16,
        "Sequences per forward pass and rank: a number, auto (the largest that fits, found when the run starts), or a "
        "list with one of these for each stage, [32,24,16].",
        FREE,
        within=at_least(1),
        items=SIZES,
        brief="Sequences per forward pass, or auto",
    )
    precision: Precision | None = setting(
        None,
        "bf16 or fp16: autocast over fp32 weights, fp16 with a loss scale; tf32: fp32 with the tensor cores of a GPU; "
        "null: bf16 on a GPU that computes in it, fp16 on an older one with tensor cores, fp32 elsewhere.",
        SETTLED,
        brief="bf16, fp16, tf32, fp32; null: the device's",
    )
    compile: bool | None = setting(None, "Regional torch.compile of each layer; null: on CUDA only.", FREE)
    attention: Attention = setting(
        Attention.auto,
        "torch's attention kernel; auto: torch chooses; flex: FlexAttention, which leaves out what the documents of "
        "dataset.packing=document do not see (on a GPU; not yet run on one).",
        FREE,
    )
    deterministic: bool = setting(
        False,
        "Kernels that repeat every bit, at a cost (docs/devices.md): on a GPU without it, a resumed run is equal up to "
        "rounding only. attention=auto then means flash where that can do it, else math.",
        FREE,
        brief="Kernels that repeat every bit, at a cost",
    )
    lm_loss: LmLossKind = setting(
        LmLossKind.chunked,
        "How the LM head's loss is computed: piece by piece with its gradients (chunked), the same with a softmax "
        "written in Triton (on a GPU; not yet run on one), by torch's own function of that kind (torch 2.13 and "
        "later), or from the logits of all positions as plain Hugging Face does it (whole).",
        FREE,
        brief="How the LM head's loss is computed",
    )
    lm_chunk: int | None = setting(
        None,
        "Positions of a piece under lm_loss=chunked, triton and torch; null: as measured for the device.",
        FREE,
        within=at_least(1),
        brief="Positions of a piece of the LM loss",
    )
    pad_vocab_to: int | None = setting(
        None,
        "lm_loss=chunked and triton: fill the columns of the LM head's product up to a multiple of this, outside of "
        "the model and its softmax; null: 128 on CUDA, where odd sizes are slow, else 1 (none).",
        FREE,
        within=at_least(1, most=4096),
        brief="Fill the LM head's columns up to a multiple",
    )
    activation_checkpointing: bool = setting(
        False,
        "Recompute each layer in the backward pass: less memory, more time.",
        FREE,
        brief="Less memory, more time",
    )
    log_every: int = setting(1, "Steps between two records of the training loss.", FREE, within=EVERY)
    log_layers_every: int = setting(
        100,
        "Steps between two records of each layer's health, in layers.jsonl: norms of its gradients, updates and "
        "weights, the size of what it gives, how often its units were trained.",
        FREE,
        within=EVERY,
        brief="Steps between records of the layers' health",
    )
    eval_every: int = setting(
        50,
        "Steps between evaluations; above 0 also at the end of a stage whose checkpoint is kept; 0: at the end only.",
        FREE,
        within=EVERY,
    )
    eval_tokens: int | None = setting(
        131072,
        "Validation tokens read at each evaluation, from the start of the validation split; null: all of it.",
        FREE,
        within=at_least(1),
        brief="Validation tokens of an evaluation; null: all",
    )
    eval_tasks: list[str] = setting(
        [],
        "Tasks of lm-evaluation-harness, by name, that the complete model does as it trains (docs/tasks.md).",
        FREE,
        brief="Tasks of lm-evaluation-harness on the way",
    )
    eval_tasks_every: int = setting(
        0,
        "Steps between these; after the last step in any case; 0: then only.",
        FREE,
        within=EVERY,
        brief="Steps between these tasks; 0: at the end",
    )
    eval_tasks_limit: int | None = setting(
        None, "Documents of each task, from its beginning; null: all.", FREE, within=at_least(1)
    )
    eval_tasks_dir: str | None = setting(
        None,
        "Folder of tasks of one's own, .yaml files in the harness' form.",
        FREE,
        untracked=True,
        brief="Folder of tasks of your own",
    )
    spread_draws: int = setting(
        8,
        "Draws whose losses are compared at each evaluation, in stages that train subnetworks (`draw_spread`).",
        FREE,
        within=at_least(0, note=" (0 means none, and 1 is too few to compare)"),
        brief="Draws that are compared at each evaluation",
    )
    spread_tokens: int = setting(
        256,
        "Validation tokens that each of these draws reads, the same for all, from the start of the validation split: "
        "whole sequences, at least one.",
        FREE,
        within=at_least(1),
        brief="Validation tokens of each of these draws",
    )
    on_spike: OnSpike = setting(
        OnSpike.none,
        "A step whose loss and gradient norm both stand out from those before it (docs/spikes.md): none: trained "
        "like any other; skip: its update is left out; rewind: the run goes back to its last checkpoint and passes "
        "over the samples since then.",
        brief="What is done about spikes of loss and norm",
    )
    spike_window: int | None = setting(
        None,
        "Steps before a step, of its own stage, that it is compared with; from a quarter of them on; null: 64.",
        within=at_least(8),
        brief="Steps that a step is compared with; null: 64",
    )
    spike_threshold: float | None = setting(
        None,
        "Standard deviations, from the median absolute deviation, above the median that are a spike; null: 6.",
        within=above(0),
        brief="Deviations above the median; null: 6",
    )
    checkpoint_every: int = setting(100, "Steps between checkpoints.", FREE, within=EVERY)
    async_checkpoints: bool | None = setting(
        None,
        "Copy what is saved to the host and write it while training goes on; null: on CUDA only.",
        FREE,
        brief="Write checkpoints while training goes on",
    )
    keep_last: int = setting(
        2,
        "Newest checkpoints kept; those at stage transitions are kept beside them.",
        FREE,
        within=at_least(2, note=", in case the newest is damaged"),
    )
    keep_every: int = setting(
        0,
        "Also keep each checkpoint whose step is a multiple of this, of those that checkpoint_every saves.",
        FREE,
        within=EVERY,
        brief="Also keep checkpoints of multiples of this",
    )
    sample_every: int = setting(
        0,
        "Print a continuation of sample_prompt every so many steps, and at the end.",
        FREE,
        within=EVERY,
        brief="Steps between printed continuations",
    )
    sample_prompt: str = setting("def ", "What the continuation begins with.", FREE, untracked=True)
    sample_tokens: int = setting(64, "Tokens of the continuation.", FREE, within=at_least(1))
    profile_step: int | None = setting(
        None,
        "Record a profiler trace of profile_steps steps from this one on, into the run's folder profile/; null: never.",
        FREE,
        within=at_least(1),
        brief="First step of a profiler trace; null: none",
    )
    profile_steps: int = setting(3, "Steps of the profiler trace.", FREE, within=at_least(1))


def train_problems(config: RunConfig) -> Iterator[str]:
    train = config.train
    yield from batch_problems(train)
    if train.max_steps is not None and train.max_tokens is not None:
        yield "train.max_tokens: the budget is given twice; set train.max_steps=null or leave max_tokens null"
    if train.lm_loss is LmLossKind.whole and train.lm_chunk is not None:
        yield "train.lm_chunk: has no meaning under train.lm_loss=whole"
    if train.lm_loss not in (LmLossKind.chunked, LmLossKind.triton) and train.pad_vocab_to is not None:
        yield f"train.pad_vocab_to: has no meaning under train.lm_loss={train.lm_loss.value}"
    if train.deterministic and train.attention in (Attention.cudnn, Attention.efficient):
        yield (
            f"train.attention: {train.attention.value} has no backward pass that repeats every bit, which "
            "train.deterministic=true asks for; use auto, flash or math"
        )
    yield from _spike_problems(train)
    if train.attention is Attention.flex:
        yield from _flex_problems(config)
    yield from _tasks_problems(train)
    if train.spread_draws == 1:
        yield "train.spread_draws: a single draw has no spread; at least 2 are compared, or 0 for none"
    if train.profile_step is not None and train.profile_step > max_steps(config) >= 1:
        yield (
            f"train.profile_step: {train.profile_step} lies behind the last; the last is "
            f"train.profile_step={max_steps(config)}"
        )


def _spike_problems(train: TrainConfig) -> Iterator[str]:
    for key in ("spike_window", "spike_threshold"):
        if train.on_spike is OnSpike.none and getattr(train, key) is not None:
            yield f"train.{key}: has a meaning only with train.on_spike=skip or rewind"
    if train.on_spike is OnSpike.rewind and not train.checkpoint_every:
        yield "train.on_spike: rewind needs checkpoints to go back to; set train.checkpoint_every, or use skip"


def kept_none(train: TrainConfig, steps: int) -> Iterator[str]:
    """A line where `train.keep_every` keeps nothing of a run of so many steps. No error: a longer run may keep some."""
    every, saved = train.keep_every, train.checkpoint_every
    if every and (not saved or math.lcm(every, saved) > steps):
        yield (
            (
                f"train.keep_every={every} keeps no checkpoint: train.checkpoint_every={saved} saves at no multiple of "
                f"{every} within {steps} steps; train.checkpoint_every={every} does"
            )
            if every <= steps
            else f"train.keep_every={every} keeps no checkpoint of a run of {steps} steps"
        )


def _tasks_problems(train: TrainConfig) -> Iterator[str]:
    if train.eval_tasks and importlib.util.find_spec("lm_eval") is None:
        yield f"train.eval_tasks: needs lm-evaluation-harness; {install_hint('lm-eval')}"
    if "" in train.eval_tasks or len(set(train.eval_tasks)) < len(train.eval_tasks):
        yield f"train.eval_tasks: {train.eval_tasks} must be different names; `lm_eval ls tasks` lists them"
    for key in ("every", "limit", "dir"):
        if not train.eval_tasks and getattr(train, f"eval_tasks_{key}"):
            yield f"train.eval_tasks_{key}: has a meaning only with train.eval_tasks"
    if train.eval_tasks_dir is not None and not os.path.isdir(train.eval_tasks_dir):
        yield f"train.eval_tasks_dir: {no_folder(train.eval_tasks_dir)}"


def _flex_problems(config: RunConfig) -> Iterator[str]:
    if config.dataset.packing.value != "document":
        yield "train.attention: flex is for dataset.packing=document; use auto"
    if config.sampling.layers_by == "sequence":
        yield "train.attention: flex makes one mask for all of a batch, not for sampling.layers_by=sequence; use auto"
    if config.model.dropout:
        yield f"train.attention: flex knows no model.dropout={config.model.dropout:g}; use auto"
    if config.train.deterministic:
        yield "train.attention: flex is not known to repeat every bit, as train.deterministic=true asks for; use auto"


def micro_batch_problems(run: Resolved, redrawn: bool) -> Iterator[str]:
    """What is wrong with `train.micro_batch`; `redrawn`: what is drawn for a sample depends on how a step is cut."""
    yield from stage_problems(run.config.train.micro_batch, len(run.scheduler.stages), redrawn)
