"""What est-plan prints of one plan: tables narrower than 80 columns, a drawing and notes.

Memory comes last: it takes seconds where no earlier plan has estimated it, and whoever waits can read the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from est_cli.common.counts import hours_minutes
from est_cli.common.table import print_lines, print_whole, table, table_console
from est_cli.config import PlanConfig
from est_cli.est import FlopsLedger
from est_cli.planning.course import column, course_of, sparkline
from est_cli.planning.memory import PlannedMemory, StageMemory, memory_of
from est_cli.planning.notes import default_length, hours_words, memory_notes, notes
from est_cli.planning.plan import Plan, PlannedStage, make_plan
from est_cli.planning.resources import GpuHours

if TYPE_CHECKING:
    from est_cli.training.probe import StepSeconds

WIDTH = 72
"""Characters of a drawing."""


def show_plan(config: PlanConfig) -> None:
    """Print the plan of a checked configuration, and draw it where a picture is asked for."""
    plan = make_plan(config)
    print_plan(plan)
    if config.plot is not None:
        from est_cli.planning.figure import draw_plans  # matplotlib

        draw_plans({f"{plan.model}, {plan.scheduler.name}": plan}, Path(config.plot))
        print(f"plot: {config.plot}")


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """The plan on stdout, without frames where that is no terminal."""
    console = console or table_console()
    plain = not console.is_terminal
    console.print(f"est-plan: {plan.model}, {plan.scheduler.name}", markup=False, highlight=False)
    if not plan.length_given:
        print_lines(console, default_length(plan))
    for part in _tables(plan, plain):
        print_whole(console, part)
    print_lines(console, *_drawing(plan), *notes(plan))
    memory = memory_of(plan)
    print_whole(console, _memory_table(memory, plain))
    print_lines(console, *memory_notes(plan, memory))


def _tables(plan: Plan, plain: bool) -> Iterator[Table]:
    yield table(
        ["stage", "from step", "steps", "tokens", *(name for name, _ in _rates(plan))],
        [_schedule_row(plan, stage) for stage in plan.stages],
        total=_schedule_total(plan),
        fold=(),
        plain=plain,
    )
    yield table(
        ["stage", "FLOPs blocks", "FLOPs total", "saved blocks", "saved total"],
        [[str(stage.number), *_cost(FlopsLedger(stage.flops, stage.dense))] for stage in plan.stages],
        total=["all", *_cost(plan.ledger)],
        fold=(),
        plain=plain,
    )
    if plan.step_s is not None:
        headings = ["stage", "s per step", "tokens/s", "time", "of the complete model's", "its FLOPs"]
        rows = [_time_row(plan, stage, plan.step_s) for stage in plan.stages]
        yield table(headings, rows, total=_time_total(plan), fold=("of the complete model's",), plain=plain)
    if plan.gpu_hours:
        several = [f"on {plan.processes}"] if plan.processes > 1 else []
        headings = ["GPU", "in", "peak TFLOP/s", "GPU hours", *several, "dense"]
        rows = [_gpu_row(plan, one) for one in plan.gpu_hours]
        yield table(headings, rows, words=["GPU", "in"], fold=["GPU"], plain=plain)


def _memory_table(memory: PlannedMemory, plain: bool) -> Table:
    headings = ["stage", "micro-batch", "model states", "activations", "memory"]
    most = max(memory.stages, key=lambda stage: stage.whole)
    total = ["all", "", "", "", _gb(most.whole)]
    return table(headings, [_memory_row(stage) for stage in memory.stages], total=total, fold=(), plain=plain)


def _drawing(plan: Plan) -> Iterator[str]:
    """Rates and FLOPs over the run, a row of blocks each; a full block is 1."""
    course = course_of(plan, WIDTH)
    for name, key in (*_rates(plan), ("blocks", "blocks"), ("total", "total")):
        yield f"{name:>6} {sparkline(column(course, key))}"
    end = f"step {plan.scheduler.max_steps:,}"
    yield f"{'':6} step 0{end:>{WIDTH - len('step 0')}}"
    yield "rates, and the FLOPs of a step (blocks, total) as a share of the complete model's"


def _rates(plan: Plan) -> list[tuple[str, str]]:
    """(heading, key) of the rates; that of predictions where any are drawn."""
    drawn = [("p_T", "p_t")] if plan.scheduler.draws_positions else []
    return [("p_H", "p_h"), ("p_M", "p_m"), ("p_L", "p_l"), *drawn]


def _schedule_row(plan: Plan, stage: PlannedStage) -> list[str]:
    known = {**vars(stage.rates), "p_t": stage.p_t}
    rates = [known[key] for _, key in _rates(plan)]
    numbers = [f"{number:,}" for number in (stage.first_step, stage.steps, stage.tokens)]
    return [str(stage.number), *numbers, *(f"{rate:.4g}" for rate in rates)]


def _schedule_total(plan: Plan) -> list[str]:
    return ["all", "", f"{plan.scheduler.max_steps:,}", f"{plan.tokens:,}", *[""] * len(_rates(plan))]


def _cost(ledger: FlopsLedger) -> list[str]:
    flops = [f"{amount:.3e}" for amount in (ledger.used.blocks, ledger.used.total)]
    return [*flops, *(f"{ledger.saved_pct(convention):.2f} %" for convention in ("blocks", "total"))]


def _memory_row(stage: StageMemory) -> list[str]:
    size = "auto" if stage.micro_batch is None else f"{stage.micro_batch:,}"
    return [str(stage.number), size, *(_gb(amount) for amount in (stage.states, stage.kept, stage.whole))]


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.2f} GB"


def _time_row(plan: Plan, stage: PlannedStage, step_s: StepSeconds) -> list[str]:
    own, whole, flops = step_s.stages[stage.number], step_s.complete, stage.flops.total / stage.dense.total
    seconds = own.median
    speed, took = f"{plan.batch.of_stage(stage.number).tokens / seconds:,.0f}", hours_minutes(stage.steps * seconds)
    low, high = own.fastest / whole.slowest, own.slowest / whole.fastest
    ratio = f"{seconds / whole.median:.3f} ({low:.2f} to {high:.2f})"
    return [str(stage.number), f"{seconds:.4g}", speed, took, ratio, f"{flops:.3f}"]


def _gpu_row(plan: Plan, one: GpuHours) -> list[str]:
    if one.peak_flop_per_s is None or one.used is None or one.dense is None:
        return [one.name, one.precision.value, *["-"] * (4 if plan.processes > 1 else 3)]
    several = [hours_minutes(one.used * 3600 / plan.processes)] if plan.processes > 1 else []
    peak = f"{one.peak_flop_per_s / 1e12:,.4g}"
    return [one.name, one.precision.value, peak, hours_words(one.used), *several, hours_words(one.dense)]


def _time_total(plan: Plan) -> list[str]:
    assert plan.time_s is not None and plan.time_saved_pct is not None
    flops = plan.ledger.used.total / plan.ledger.dense.total
    speed, share = f"{plan.tokens / plan.time_s:,.0f}", 1.0 - plan.time_saved_pct / 100.0
    return ["all", "", speed, hours_minutes(plan.time_s), f"{share:.3f}", f"{flops:.3f}"]
