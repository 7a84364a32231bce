"""The lines below the tables of a plan."""

from __future__ import annotations

from collections.abc import Iterator

from est_cli.config.micro_batch import in_stages, sequences_by_stage
from est_cli.config.training import kept_none
from est_cli.planning.memory import PlannedMemory, StageMemory
from est_cli.planning.plan import Plan
from est_cli.planning.priced import command_of, prediction_lines
from est_cli.planning.resources import OPTIMAL_TOKENS, Disk

PACKED = (
    "dataset.packing=document: FLOPs (total) are at most these, counted as if each sequence were one document; what a "
    "run counts follows from the lengths of its documents"
)
PROBED = (
    "seconds: the median of three steps in the middle of each stage, on this machine, as it is now; in brackets the "
    "ratio of the fastest to the complete model's slowest, and of the slowest to its fastest"
)


def hours_words(hours: float) -> str:
    """Three digits, or all of whole hours; what is under half a minute is not told."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours >= 0.01 else "< 0.01"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _each(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def notes(plan: Plan) -> list[str]:
    """In words: what the tables do not hold, and what their numbers stand for."""
    beside = " and the attention products" if plan.spec.attention else "; the scan is in neither"
    found = [] if plan.target is None else [f"{plan.target.request}: {plan.target.settings}"]
    assumed = (
        f"GPU hours are not measured: they assume FLOPs (total) at {100 * plan.mfu:g} % of the peak "
        f"(mfu={plan.mfu:g}) in every stage, and no time for evaluation and checkpoints"
    )
    return [
        *found,
        *_expected(plan),
        f"dense would use {plan.ledger.dense.blocks:.4e} FLOPs (blocks), {plan.ledger.dense.total:.4e} (total)",
        f"blocks: the layers' projections (the paper's convention); total: also the LM head{beside}",
        *[assumed] * bool(plan.gpu_hours),
        *[PACKED] * plan.apart,
        *_stage_notes(plan),
        *[PROBED] * (plan.step_s is not None),
    ]


def _expected(plan: Plan) -> Iterator[str]:
    """What prices say, and where they have found the schedule, how it is run."""
    if plan.prediction is None:
        return
    saved = plan.ledger.saved_pct("total") / 100.0
    yield from prediction_lines(plan.prediction, saved * plan.scheduler.max_steps)
    if plan.target is not None and (command := command_of(plan.target.config)) is not None:
        yield f"the run: {command}"


def default_length(plan: Plan) -> str:
    """Where nobody has said how long the run is: that its length was not chosen for this model."""
    return (
        f"train.max_steps, train.max_tokens: not given, and {plan.scheduler.max_steps} steps are the default of a "
        "first run"
    )


def memory_notes(plan: Plan, memory: PlannedMemory) -> Iterator[str]:
    """What follows from the number of parameters, and what the table of memory stands for."""
    yield _tokens_per_parameter(plan, memory.estimate.parameters)
    yield _disk_note(plan, memory.disk)
    yield from kept_none(plan.run.config.train, plan.scheduler.max_steps)
    if plan.processes > 1:
        each = ", ".join(f"{name} {memory.under(name) / 1e9:.2f} GB" for name in ("ddp", "fsdp"))
        yield f"memory of each of {plan.processes} processes (launch.strategy): {each}"
    estimate = memory.estimate
    sequences = sequences_by_stage({stage.number: stage.micro_batch or 1 for stage in memory.stages})
    yield (
        f"memory (estimate): {estimate.parameters:,} parameters with gradients and moments in fp32 (model states) take "
        f"{estimate.states / 1e9:.2f} GB, the rest (activations) is kept for the backward pass of {sequences} in "
        f"{estimate.precision.value}"
    )
    states = max(stage.states for stage in memory.stages)
    if states < estimate.states:
        yield (
            f"launch.strategy=fsdp: of these {estimate.states / 1e9:.2f} GB a process holds its share, beside what is "
            f"gathered and gradients that are not sent yet; at most {states / 1e9:.2f} GB"
        )
    yield from _auto_note([stage for stage in memory.stages if stage.micro_batch is None])


def _disk_note(plan: Plan, disk: Disk) -> str:
    kept = f"{disk.checkpoints} checkpoint{'s'[: disk.checkpoints > 1]} of {_gb(disk.checkpoint)}"
    return (
        f"disk: {kept}, one more while it is written, and the final model: at most {_gb(disk.run)}; tokenised text: "
        f"{disk.token} bytes a token, {_gb(disk.token * plan.tokens)} where no token is read twice"
    )


def _tokens_per_parameter(plan: Plan, parameters: int) -> str:
    wanted = OPTIMAL_TOKENS * parameters
    costs = (
        f", {hours_words(one.used * wanted / plan.tokens)} hours of {one.name}" for one in plan.gpu_hours if one.used
    )
    return (
        f"{plan.tokens:,} tokens are {_each(plan.tokens / parameters)} for each of {parameters:,} parameters; "
        f"{OPTIMAL_TOKENS} are train.max_tokens={wanted}{next(costs, '')}"
    )


def _stage_notes(plan: Plan) -> Iterator[str]:
    """What the table's rates do not tell of a stage."""
    if plan.scheduler.draws_positions:
        yield "p_T: the share of its predictions that a loss is the mean of; the LM head computes these alone"
    if plan.run.options.protect or plan.run.config.stage.layer_rates:
        key = "sampling.protect" if plan.run.options.protect else "stage.layer_rates"
        yield f"p_H, p_M: the mean shares over the layers that run, which differ by {key}"
    for stage in plan.stages:
        planned = plan.scheduler.stages[stage.number - 1]
        if planned.rates.layers != "sample" or planned.rates.p_d < 1.0:
            draws = "; how many run is drawn, and p_L is the mean of this seed's draws" if planned.rates.random else ""
            yield f"stage {stage.number} runs {planned.describe()}{draws}"


def _auto_note(stages: list[StageMemory]) -> list[str]:
    """What the memory of stages whose micro-batch is chosen later depends on."""
    if not stages:
        return []
    added = " / ".join(f"{stage.activations.per_sequence / 1e9:.3g}" for stage in stages)
    where = in_stages([stage.number for stage in stages])
    return [
        f"train.micro_batch=auto: est-train finds the size on its device when it starts; the memory of {where} is that "
        f"of 1 sequence, and each further one adds {added} GB"
    ]
