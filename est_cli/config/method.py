"""`scheduler.*`, `stage.*`, `sampling.*`: EST itself, the stages and how subnetworks are drawn.

Which scheduler reads which key stands in schedulers/NAME.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from est_cli.common.errors import ConfigError
from est_cli.common.plugins import package_problem
from est_cli.config.schedulers import SCHEDULERS, is_outside, origin_of, scheduler_named
from est_cli.config.schedulers.shared.scheduler import LEFT_OUT, as_list
from est_cli.config.setting import SETTLED, Items, at_least, setting, settings_of
from est_cli.config.stage import MAX_STAGES, StageConfig
from est_cli.est.protected import ENTRY_WORDS, is_entry, kinds_of
from est_cli.est.schedule import SamplingRates, SamplingScheduler, boundary_step
from est_cli.est.sizes import CHOICES, SamplingOptions
from est_cli.est.spec import ModelSpec

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig


@dataclass
class SchedulerConfig:
    name: str = setting("three_stage", "Name of the sampling scheduler.", choices=SCHEDULERS, others=is_outside)
    package: str | None = setting(
        None,
        "The package that brings the scheduler, NAME==VERSION, where it is not est's own; est writes it.",
        SETTLED,
        brief="package that brings it; est writes it",
    )


def with_package(scheduler: SchedulerConfig) -> SchedulerConfig:
    """The same with the package that brings it, as config.yaml is to hold it."""
    origin = origin_of(scheduler.name)
    return replace(scheduler, package=scheduler.package or (str(origin) if origin else None))


@dataclass
class SamplingConfig:
    """What the paper leaves open; docs/method.md explains each choice."""

    redraw: str = setting(
        "step",
        "When subnetworks are drawn: once per optimizer step, or for each micro-batch anew (forward).",
        choices=CHOICES["redraw"],
        brief="Draw for each optimizer step, or forward pass",
    )
    ranks: str = setting(
        "same",
        "Whether all processes train one subnetwork, or each draws its own (independent, ddp).",
        choices=CHOICES["ranks"],
        brief="One subnetwork for all processes, or each its own",
    )
    cover: str = setting(
        "independent",
        "How the draws of a step go together: each by itself, or every unit in as many of them as every other "
        "(balanced, with redraw=forward or ranks=independent).",
        choices=CHOICES["cover"],
        brief="balanced: a step's draws cover all units alike",
    )
    layers_by: str = setting(
        "batch",
        "Whether the sequences of a micro-batch leave out the same layers, or each its own and every layer runs as "
        "many of them (sequence).",
        choices=CHOICES["layers_by"],
        brief="Layers left out by batch, or each sequence",
    )
    per_layer: bool = setting(
        True,
        "false: all layers share one draw of heads and columns.",
        brief="Draw heads and columns for each layer anew",
    )
    kv_groups: str = setting(
        "whole",
        "Whole KV groups with their query heads, or as many query heads from each group (within).",
        choices=CHOICES["kv_groups"],
        brief="Sample whole KV groups, or heads within each",
    )
    layer_scale: str = setting(
        "none",
        "inverse: 1/p_l on the residual branches of sampled layers.",
        choices=CHOICES["layer_scale"],
        brief="inverse: sampled layers' outputs times 1/p_l",
    )
    unit_scale: str = setting(
        "inverse",
        "What k of N heads or columns are multiplied by: N/k (inverse: the paper's 1/p), its root (sqrt), or 1 (none).",
        choices=CHOICES["unit_scale"],
        brief="Scale of drawn units: N/k, its root, 1",
    )
    keep_ends: bool = setting(False, "true: the first and the last layer always run.")
    protect: int | str | list[int | str] | None = setting(
        None,
        "What always runs complete, a list: a layer (0, -1, first, last) or a range of them (0-3) always runs, with "
        "all its heads and columns; behind layers:, heads: or columns: one of these three alone.",
        items=Items(is_entry, "a list such as [0,-1], [1-3] or [layers:0,heads:0-3]", entry=ENTRY_WORDS),
        brief="What is never sampled: [0,-1], [heads:0-3]",
    )
    multiple_of: int | None = setting(
        None,
        "MLP columns that run: the multiple of this nearest to p_m; null: 8, for the tensor cores of a GPU, where the "
        "model has a multiple of 8 and at least 64 of them, else 1.",
        within=at_least(1),
        brief="MLP columns that run: a multiple of this",
    )


def options_of(sampling: SamplingConfig) -> SamplingOptions:
    """The sampling options in the form that est_cli.est takes. Raises ValueError where they do not go together."""
    return SamplingOptions(**vars(sampling) | {"protect": tuple(as_list(sampling.protect) or ())})


def refuse_stage_option(chosen: Mapping[str, Any]) -> None:
    """ConfigError where an option of stage/ is chosen for a run that has no such stages, `chosen` by group.

    The options hold boundaries and rates of three_stage, which those of another scheduler would replace unseen.
    """
    name = chosen.get("scheduler", "three_stage")
    if "stage" in chosen and name != "three_stage":
        raise ConfigError(f"stage: has no meaning under scheduler={name}; use scheduler=three_stage")


def scheduler_problems(config: RunConfig, steps: int) -> Iterator[str]:
    """What is wrong with the settings of the scheduler, in a run of so many steps."""
    name, stage = config.scheduler.name, config.stage
    scheduler = scheduler_named(name)
    if problem := package_problem("scheduler.package", config.scheduler.package, origin_of(name)):
        yield problem
    yield from _meaningless(config)
    yield from _sampling_problems(config.sampling) if "cover" in scheduler.sampling else ()
    missing = [key for key in scheduler.reads if getattr(stage, key) is None]
    yield from (f"stage.{key}: is missing; scheduler={name} needs it" for key in missing)
    if scheduler.grows and config.model.family == "hf" and config.model.pretrained:
        yield f"model.pretrained: scheduler={name} grows a model that begins untrained; set it to false"
    if steps < 1:
        return
    wrong = [problem for key in scheduler.reads for problem in _stage_problems(key, getattr(stage, key), steps)]
    yield from wrong
    if not missing and not wrong and not _out_of_range(stage):
        try:
            made = scheduler.make(steps, stage)
        except ValueError as error:
            yield str(error)
            return
        read = "layer_rates" in scheduler.optional
        if read and stage.layer_rates is not None and all(one.rates.complete for one in made.stages):
            yield "stage.layer_rates: changes nothing, since no stage samples anything; leave it null"


def _sampling_problems(sampling: SamplingConfig) -> Iterator[str]:
    """What does not go together, of words that are known."""
    if all(getattr(sampling, key) in words for key, words in CHOICES.items()):
        try:
            options_of(sampling)
        except ValueError as error:
            yield str(error)


def _meaningless(config: RunConfig) -> Iterator[str]:
    """Settings that the scheduler does not read."""
    name, scheduler = config.scheduler.name, scheduler_named(config.scheduler.name)
    for key, value in vars(config.stage).items():
        if value is not None and key not in (*scheduler.reads, *scheduler.optional):
            yield f"stage.{key}: has no meaning under scheduler={name}; use scheduler={_reader_of(key)}"
    for group, read in (("sampling", scheduler.sampling), ("optim", scheduler.optim)):
        chosen = getattr(config, group)
        for key, known in settings_of(type(chosen)).items():
            concerned = group == "sampling" or key in LEFT_OUT
            if concerned and key not in read and getattr(chosen, key) != known.default:
                yield f"{group}.{key}: has no meaning under scheduler={name}; leave it {_written(known.default)}"


def _written(default: Any) -> str:
    return "null" if default is None else str(default).lower()


def idle_problems(options: SamplingOptions, scheduler: SamplingScheduler, sizes: ModelSpec) -> Iterator[str]:
    """What `sampling.*` asks of a kind which no stage samples."""
    rates = [scheduler.stages[number - 1].rates for number in scheduler.occupied()]
    sampled = {
        "layers": any(rate.p_l < 1.0 or rate.num_layers is not None for rate in rates),
        "heads": any(rate.p_h < 1.0 for rate in rates),
        "columns": any(rate.p_m < 1.0 for rate in rates) and sizes.mlp_size > 0,
    }
    for entry in options.protect:
        if not any(sampled[kind] for kind in kinds_of(entry)):
            what = " or ".join(kinds_of(entry))
            yield f"sampling.protect: {entry} changes nothing, since no stage samples {what}; leave it out"
    if options.layers_by == "sequence" and not sampled["layers"]:
        yield "sampling.layers_by: sequence changes nothing, since no stage samples layers; leave it batch"
    if options.cover == "balanced" and not any(sampled.values()):
        yield "sampling.cover: balanced changes nothing, since no stage samples anything; leave it independent"


def _reader_of(key: str) -> str:
    """The scheduler to name as one that reads this key of stage; first those that need it."""
    usual = ("three_stage", "n_stage", *SCHEDULERS)
    needing = (name for name in usual if key in scheduler_named(name).reads)
    return next(needing, "") or next(name for name in usual if key in scheduler_named(name).optional)


def _out_of_range(stage: StageConfig) -> bool:
    known = settings_of(StageConfig).values()
    return any(problem for setting in known for problem in setting.problems(getattr(stage, setting.key)))


def _stage_problems(key: str, value: Any, steps: int) -> Iterator[str]:
    """What is wrong with one value of stage beyond its range, whatever the others are."""
    if value is None:
        return
    if key in ("t1", "t2"):
        try:
            boundary_step(value, steps)
        except ValueError as error:
            yield f"stage.{key}: {error}"
    elif key in ("p_h", "p_m", "p_l", "p_d", "theta"):
        try:
            SamplingRates(p_l=value)
        except ValueError as error:
            yield f"stage.{key}: {str(error).partition(': ')[2]}"
    elif key in ("boundaries", "rates", "depths"):
        most = MAX_STAGES if key == "rates" else MAX_STAGES - 1  # the last stage has no boundary behind it
        if len(as_list(value)) > most:
            entries = f"has {len(value)} entries"
            yield f"stage.{key}: {entries}; a run has at most {MAX_STAGES} stages, so {most} of them"
