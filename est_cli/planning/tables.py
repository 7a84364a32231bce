"""What est-plan prints of one plan: tables narrower than 80 columns, a drawing and notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from est_cli.common.table import print_lines, print_whole, table, table_console
from est_cli.config import PlanConfig
from est_cli.config.micro_batch import in_stages, sequences_by_stage
from est_cli.est import FlopsLedger
from est_cli.planning.course import column, course_of, sparkline
from est_cli.planning.figure import draw_plans
from est_cli.planning.plan import Plan, PlannedStage, make_plan
from est_cli.tracking.eta import hours_minutes

if TYPE_CHECKING:
    from est_cli.training.probe import StepSeconds

WIDTH = 72
"""Characters of a drawing."""

PACKED = (
    "dataset.packing=document: FLOPs (total) are at most these, counted as if each sequence were one document; what a "
    "run counts follows from the lengths of its documents"
)
PROBED = "seconds: the median of three steps in the middle of each stage, on this machine, as it is now"


def show_plan(config: PlanConfig) -> None:
    """Print the plan of a checked configuration, and draw it where a picture is asked for."""
    plan = make_plan(config)
    print_plan(plan)
    if config.plot is not None:
        draw_plans({f"{plan.model}, {plan.scheduler.name}": plan}, Path(config.plot))
        print(f"plot: {config.plot}")


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """The plan on stdout."""
    console = console or table_console()
    console.print(f"est-plan: {plan.model}, {plan.scheduler.name}", markup=False, highlight=False)
    for part in _tables(plan):
        print_whole(console, part)
    print_lines(console, *_drawing(plan), *_notes(plan))


def _tables(plan: Plan) -> Iterator[Table]:
    yield table(
        ["stage", "from step", "steps", "tokens", "p_H", "p_M", "p_L"],
        [_schedule_row(stage) for stage in plan.stages],
        total=_schedule_total(plan),
        fold=(),
    )
    yield table(
        ["stage", "FLOPs blocks", "FLOPs total", "saved blocks", "saved total", "memory"],
        [_cost_row(plan, stage) for stage in plan.stages],
        total=_cost_total(plan),
        fold=(),
    )
    if plan.step_s is not None:
        headings = ["stage", "s per step", "tokens/s", "time", "of the complete model's", "its FLOPs"]
        rows = [_time_row(plan, stage, plan.step_s) for stage in plan.stages]
        yield table(headings, rows, total=_time_total(plan), fold=())


def _drawing(plan: Plan) -> Iterator[str]:
    """Rates and FLOPs over the run, a row of blocks each; a full block is 1."""
    course = course_of(plan, WIDTH)
    for name, key in (("p_H", "p_h"), ("p_M", "p_m"), ("p_L", "p_l"), ("blocks", "blocks"), ("total", "total")):
        yield f"{name:>6} {sparkline(column(course, key))}"
    end = f"step {plan.scheduler.max_steps:,}"
    yield f"{'':6} step 0{end:>{WIDTH - len('step 0')}}"
    yield "rates, and the FLOPs of a step (blocks, total) as a share of the complete model's"


def _schedule_row(stage: PlannedStage) -> list[str]:
    rates = (stage.rates.p_h, stage.rates.p_m, stage.rates.p_l)
    numbers = [f"{number:,}" for number in (stage.first_step, stage.steps, stage.tokens)]
    return [str(stage.number), *numbers, *(f"{rate:.4g}" for rate in rates)]


def _schedule_total(plan: Plan) -> list[str]:
    steps = plan.scheduler.max_steps
    return ["all", "", f"{steps:,}", f"{plan.batch.tokens_before(steps):,}", "", "", ""]


def _cost_row(plan: Plan, stage: PlannedStage) -> list[str]:
    ledger = FlopsLedger(stage.flops, stage.dense)
    return [str(stage.number), *_cost(ledger, stage.memory)]


def _cost_total(plan: Plan) -> list[str]:
    return ["all", *_cost(plan.ledger, max(stage.memory for stage in plan.stages))]


def _cost(ledger: FlopsLedger, memory: int) -> list[str]:
    flops = [f"{amount:.3e}" for amount in (ledger.used.blocks, ledger.used.total)]
    saved = [f"{ledger.saved_pct(convention):.2f} %" for convention in ("blocks", "total")]
    return [*flops, *saved, f"{memory / 1e9:.2f} GB"]


def _time_row(plan: Plan, stage: PlannedStage, step_s: StepSeconds) -> list[str]:
    seconds = step_s.stages[stage.number]
    time, flops = seconds / step_s.complete, stage.flops.total / stage.dense.total
    speed, took = f"{plan.batch.of_stage(stage.number).tokens / seconds:,.0f}", hours_minutes(stage.steps * seconds)
    return [str(stage.number), f"{seconds:.4g}", speed, took, f"{time:.3f}", f"{flops:.3f}"]


def _time_total(plan: Plan) -> list[str]:
    assert plan.time_s is not None and plan.time_saved_pct is not None
    flops, tokens = plan.ledger.used.total / plan.ledger.dense.total, plan.batch.tokens_before(plan.scheduler.max_steps)
    speed, share = f"{tokens / plan.time_s:,.0f}", 1.0 - plan.time_saved_pct / 100.0
    return ["all", "", speed, hours_minutes(plan.time_s), f"{share:.3f}", f"{flops:.3f}"]


def _notes(plan: Plan) -> list[str]:
    memory, lines = plan.memory, []
    beside = " and the attention products" if plan.spec.attention else "; the scan is in neither"
    sequences = sequences_by_stage({stage.number: stage.micro_batch or 1 for stage in plan.stages})
    if plan.target is not None:
        lines.append(f"{plan.target.request}: {plan.target.settings}")
    lines += [
        f"dense would use {plan.ledger.dense.blocks:.4e} FLOPs (blocks), {plan.ledger.dense.total:.4e} (total)",
        f"blocks: the layers' projections (the paper's convention); total: also the LM head{beside}",
        f"memory (estimate): {memory.parameters:,} parameters with gradients and moments in fp32 take "
        f"{memory.states / 1e9:.2f} GB, the rest is kept for the backward pass of {sequences} in "
        f"{memory.precision.value}",
    ]
    states = max(stage.states for stage in plan.stages)
    if states != memory.states:
        lines.append(
            f"launch.strategy=fsdp: of these {memory.states / 1e9:.2f} GB a process holds its share, beside what is "
            f"gathered and gradients that are not sent yet; at most {states / 1e9:.2f} GB"
        )
    if plan.apart:
        lines.append(PACKED)
    lines += [*_stage_notes(plan), *([] if plan.step_s is None else [PROBED])]
    return [*lines, *_auto_note([stage for stage in plan.stages if stage.micro_batch is None])]


def _stage_notes(plan: Plan) -> Iterator[str]:
    """What the table's rates do not tell of a stage."""
    for stage in plan.stages:
        planned = plan.scheduler.stages[stage.number - 1]
        if planned.rates.layers != "sample" or planned.rates.p_d < 1.0:
            draws = "; how many run is drawn, and p_L is the mean of this seed's draws" if planned.rates.random else ""
            yield f"stage {stage.number} runs {planned.describe()}{draws}"


def _auto_note(stages: list[PlannedStage]) -> list[str]:
    """What the memory of stages whose micro-batch is chosen later depends on."""
    if not stages:
        return []
    added = " / ".join(f"{stage.activations.per_sequence / 1e9:.3g}" for stage in stages)
    where = in_stages([stage.number for stage in stages])
    return [
        f"train.micro_batch=auto: est-train finds the size on its device when it starts; the memory of {where} is that "
        f"of 1 sequence, and each further one adds {added} GB"
    ]
