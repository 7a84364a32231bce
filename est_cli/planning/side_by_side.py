"""Several plans in one table: what they cost, what they save, and the overrides that a target has found for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from est_cli.common.counts import hours_minutes
from est_cli.common.errors import ConfigError
from est_cli.common.table import print_lines, print_whole, table, table_console
from est_cli.config import PlanConfig
from est_cli.planning.course import column, course_of, sparkline
from est_cli.planning.notes import PROBED, hours_words
from est_cli.planning.plan import Plan, make_plan

WIDTH = 48
"""Characters of a drawing."""


def plan_all(chosen: Mapping[str, PlanConfig | ConfigError], console: Console | None = None) -> None:
    """Plan the configurations by name and print them side by side; an error stands in its plan's place.

    Raises ConfigError where no plan can be made, and what drawing raises.
    """
    console = console or table_console()
    plans: dict[str, Plan] = {}
    problems: dict[str, ConfigError] = {}
    for name, config in chosen.items():
        try:
            if isinstance(config, ConfigError):
                raise config
            plans[name] = make_plan(config)
        except ConfigError as error:
            problems[name] = error
    if not plans:
        others = f" (and none of the other {len(problems) - 1} can be planned)" if len(problems) > 1 else ""
        raise ConfigError(f"{next(iter(problems.values()))}{others}")
    print_whole(console, side_by_side(plans, plain=not console.is_terminal))
    print_lines(console, *_drawing(plans), *_found(plans), *_gpu_hours(plans), *_notes([*plans.values()]))
    print_lines(console, *(f"{name}: no plan: {problem}" for name, problem in problems.items()))
    plot = next(config.plot for config in chosen.values() if isinstance(config, PlanConfig))
    if plot is not None:
        from est_cli.planning.figure import draw_plans  # matplotlib

        draw_plans(plans, Path(plot))
        print_lines(console, f"plot: {plot}")


def side_by_side(plans: Mapping[str, Plan], plain: bool) -> Table:
    """A row for each plan; seconds where they were measured."""
    rows = {name: _row(plan) for name, plan in plans.items()}
    headings = ["plan", *next(iter(rows.values()))]
    lines = [[name, *row.values()] for name, row in rows.items()]
    return table(headings, lines, words=["plan"], fold=["plan"], plain=plain)


def _row(plan: Plan) -> dict[str, str]:
    used, ledger = plan.ledger.used, plan.ledger
    row = {"steps": f"{plan.scheduler.max_steps:,}", "FLOPs blocks": f"{used.blocks:.4g}"}
    row |= {"FLOPs total": f"{used.total:.4g}", "saved blocks": f"{ledger.saved_pct('blocks'):.2f} %"}
    row |= {"total": f"{ledger.saved_pct('total'):.2f} %"}
    if plan.time_saved_pct is not None:
        del row["FLOPs blocks"]  # for room
        row |= {"time": hours_minutes(plan.time_s), "saved": f"{plan.time_saved_pct:.1f} %"}
    return row


def _drawing(plans: Mapping[str, Plan]) -> Iterator[str]:
    widest = max(map(len, plans))
    for name, plan in plans.items():
        yield f"{name:>{widest}} {sparkline(column(course_of(plan, WIDTH), 'blocks'))}"
    yield "block FLOPs of a step as a share of the complete model's, from the first step to the last"


def _found(plans: Mapping[str, Plan]) -> Iterator[str]:
    for name, plan in plans.items():
        if plan.target is not None:
            yield f"{name}: {plan.target.request}: {plan.target.settings}"


def _gpu_hours(plans: Mapping[str, Plan]) -> Iterator[str]:
    for name, plan in plans.items():
        told = [f"{hours_words(one.used)} of {one.name} in {one.precision.value}" for one in plan.gpu_hours if one.used]
        if told:
            yield f"{name}: GPU hours (mfu={plan.mfu:g}, assumed): {', '.join(told)}"


def _notes(plans: Sequence[Plan]) -> Iterator[str]:
    beside = " and the attention products" if all(plan.spec.attention for plan in plans) else ""
    yield f"blocks: the layers' projections (the paper's convention); total: also the LM head{beside}"
    if any(plan.step_s is not None for plan in plans):
        yield PROBED
