"""Let contenders take their turns, round by round, side by side or one process at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from measure import SEED

from contenders.process import Contender, Died, Live, started


@dataclass(frozen=True)
class Plan:
    """How long and in which way the contenders are measured."""

    rounds: int
    steps: int
    warm_up: int
    sequential: bool
    limit_s: float
    environment: dict[str, str]
    progress: Callable[[str], None]


@dataclass
class Measured:
    """All that one contender told."""

    seconds: list[float] = field(default_factory=list)
    """Per optimizer step, one entry a round."""
    starts_s: list[float] = field(default_factory=list)
    """From the start of its process to the end of its first step."""
    peak_memory_gb: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)


def measure(wanted: list[Contender], plan: Plan) -> tuple[dict[str, Measured], dict[str, str]]:
    """What each contender told, and why each that died did so."""
    measured = {contender.name: Measured() for contender in wanted}
    dead: dict[str, str] = {}
    (_in_turn if plan.sequential else _side_by_side)(wanted, plan, measured, dead)
    return {name: of for name, of in measured.items() if name not in dead}, dead


def _side_by_side(wanted: list[Contender], plan: Plan, measured: dict[str, Measured], dead: dict[str, str]) -> None:
    with ExitStack() as stack:
        alive: dict[str, Live] = {}
        for contender in wanted:
            plan.progress(f"starting {contender.name}")
            try:
                live = stack.enter_context(started(contender, plan.environment, plan.limit_s))
                _welcome(live, plan, measured[contender.name])
                alive[contender.name] = live
            except Died as error:
                dead[contender.name] = str(error)
        for number, order in enumerate(orders(list(alive), plan.rounds), 1):
            for name in order:
                plan.progress(f"round {number} of {plan.rounds}: {name}")
                try:
                    if name not in dead:
                        _turn(alive[name], plan, measured[name])
                except Died as error:
                    dead[name] = str(error)


def _in_turn(wanted: list[Contender], plan: Plan, measured: dict[str, Measured], dead: dict[str, str]) -> None:
    by_name = {contender.name: contender for contender in wanted}
    for number, order in enumerate(orders(list(by_name), plan.rounds), 1):
        for name in order:
            plan.progress(f"round {number} of {plan.rounds}: {name}")
            try:
                if name not in dead:
                    with started(by_name[name], plan.environment, plan.limit_s) as live:
                        _welcome(live, plan, measured[name])
                        _turn(live, plan, measured[name])
            except Died as error:
                dead[name] = str(error)


def orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    rng, order = random.Random(SEED), names
    for number in range(rounds):
        order = order[::-1] if number % 2 else rng.sample(names, len(names))
        yield order


def _welcome(live: Live, plan: Plan, of: Measured) -> None:
    """Enter what it said when it was ready, and let it warm up."""
    of.starts_s.append(live.ready["startup_s"])
    of.first_loss, of.environment = live.ready["loss"], live.ready["environment"]
    if plan.warm_up and not live.ready.get("new_process_per_turn"):
        live.take(plan.warm_up)


def _turn(live: Live, plan: Plan, of: Measured) -> None:
    answer = live.take(plan.steps)
    of.seconds.append(answer["seconds"] / plan.steps)
    of.peak_memory_gb, of.last_loss = answer["peak_memory_gb"], answer["loss"]
