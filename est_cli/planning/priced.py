"""What prices (est-analyze analysis=prices) say of a run: the loss that its schedule is expected to cost, and the
schedule with a wanted saving that is expected to cost the least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig, SchedulerConfig, StageConfig
from est_cli.config.optim import DEFAULT_DECAY
from est_cli.config.prices import Prediction, between, prices_for
from est_cli.config.repeat import overrides_of, shell_line
from est_cli.config.resolve import Resolved, check, resolve
from est_cli.est import ModelSpec, SamplingRates, training_flops
from est_cli.est.prices import Design, PriceList, cheapest
from est_cli.est.sizes import full_sizes, sample_sizes
from est_cli.planning.targets import TargetSolution


def solve_by_prices(config: PlanConfig, spec: ModelSpec, place: str, wanted: float) -> TargetSolution:
    """The run with the n_stage schedule that saves `wanted` (a share) and is expected to lose the least.

    ConfigError where that is out of reach, or the run has settings for each of other stages.
    """
    prices, run, convention = prices_for(config, place), resolve(config), config.target_convention.value
    saved, steps = saved_shares(run, spec, prices, convention), run.max_steps
    until = math.floor(steps * (1 - DEFAULT_DECAY)) if run.decay_begin is None else run.decay_begin
    design = cheapest(prices, steps, until, saved, wanted)
    if design is None:
        most = max(saved.values()) * until / steps
        raise ConfigError(
            f"target_saving: {wanted:g} is out of reach; the rates in {place} save up to {most:.4f} by step {until}, "
            "from which on the model is complete"
        )
    stage = _stages(design)
    found = replace(config, scheduler=SchedulerConfig("n_stage"), stage=stage)
    try:
        check(replace(found, target_saving=None, prices=None, target_convention=PlanConfig().target_convention))
    except ConfigError as error:
        raise ConfigError(
            f"target_saving: {len(design.spans) + 1} stages are cheapest, and for them {error}"
        ) from error
    settings = f"scheduler=n_stage stage.boundaries={_listed(stage.boundaries)} stage.rates={_listed(stage.rates)}"
    return TargetSolution(found, f"target_saving={wanted:g} ({convention}) by prices", settings)


def saved_shares(run: Resolved, spec: ModelSpec, prices: PriceList, convention: str) -> Mapping[SamplingRates, float]:
    """The share of a step's FLOPs that rates save in the model, to the last whole unit."""
    seq_len = run.batch.stages[-1].seq_len

    def flops(rates: SamplingRates | None) -> int:
        sizes = full_sizes(spec) if rates is None else sample_sizes(spec, rates, run.options)
        found: int = getattr(training_flops(spec, sizes, 1, seq_len), convention)
        return found

    return {rates: 1.0 - flops(rates) / flops(None) for rates in prices.rates}


def command_of(config: PlanConfig) -> str | None:
    """`est-train ...` for a planned run; None where no command line says its settings."""
    words = overrides_of(RunConfig(**{known.name: getattr(config, known.name) for known in fields(RunConfig)}))
    return None if words is None else f"est-train {shell_line(words)}"


def prediction_lines(found: Prediction, saved_steps: float) -> list[str]:
    """In words, for est-plan; `saved_steps`: complete steps whose FLOPs (total) the run saves."""
    steps, shorter = ", ".join(map(str, found.steps)), saved_steps * found.gain.mean
    return [
        f"expected by prices={found.place} (steps {steps}): {found.lost.mean:.1f} complete steps lost "
        f"({between(found.lost, '.1f')}), a final loss {found.loss.mean:+.4f} ({between(found.loss, '+.4f')}) beside "
        f"dense training of as many steps; dense training with these FLOPs (total): {shorter:+.4f}",
        "in brackets: 95 % interval of the measurement alone; it is assumed that lost steps add up, that a price holds "
        "until the next one, and that what a step is worth falls with 1 / step",
    ]


def _listed(value: Any) -> str:
    """As it is typed: without blanks."""
    return str(value).replace(" ", "")


def _stages(design: Design) -> StageConfig:
    rates = [[one.rates.p_h, one.rates.p_m, one.rates.p_l, one.rates.p_t] for one in design.spans]
    written = [one[:3] if one[3] == 1.0 else one for one in rates]
    return StageConfig(boundaries=[one.end for one in design.spans], rates=[*written, [1.0, 1.0, 1.0]])
