"""The schedulers by name: an option of conf/scheduler sets what its scheduler reads, and what it does not read is told.

What they do is tested in tests/est, and with the real command in tests/training and tests/distributed.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig, SamplingConfig, StageConfig
from est_cli.config.groups import CONF
from est_cli.config.resolve import check, drops_entries, resolve
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import plain, typed
from est_cli.est import SamplingRates
from tests.lab.commands import accepted, composed

NAMES = [*SCHEDULERS]
PICKED: dict[str, Any] = {
    **{"t1": 0.1, "t2": 0.2, "p_h": 0.5, "p_m": 0.5, "p_l": 0.5, "boundaries": [0.5], "rates": [[1.0, 1.0, 1.0]]},
    **{
        "depths": [1],
        "levels": 2,
        "p_d": 0.5,
        "theta": 0.5,
        "gamma": 0.1,
        "p_t": 0.5,
        "layer_rates": [0.4, 0.5, 0.6, 0.5],
    },
}
ODD: dict[str, Any] = {
    **{"redraw": "forward", "ranks": "independent", "cover": "balanced", "per_layer": False, "kv_groups": "within"},
    **{"layers_by": "sequence"},
    **{"layer_scale": "inverse", "unit_scale": "sqrt", "keep_ends": True, "multiple_of": 4, "protect": [0]},
}


def reads_of(name: str) -> set[str]:
    return {*scheduler_named(name).reads, *scheduler_named(name).optional}


@lru_cache
def base(*args: str) -> PlanConfig:
    return composed(*args, schema=PlanConfig)[0]


def config_of(*args: str, **changes: Any) -> PlanConfig:
    """A composition with settings like stage__t1 replaced."""
    tree = plain(copy.deepcopy(base(*args)))
    for key, value in changes.items():
        group, _, name = key.rpartition("__")
        (tree[group] if group else tree)[name] = value
    return typed(tree, PlanConfig)


def told(*args: str, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check(config_of(*args, **changes))
    return str(error.value).split("; also ")


def test_every_name_is_known_everywhere() -> None:
    assert (
        {"three_stage", "dense", "pld"} <= {*SCHEDULERS} == {path.stem for path in (CONF / "scheduler").glob("*.yaml")}
    )
    assert all(scheduler_named(name).meaning for name in SCHEDULERS)
    assert set(PICKED) == set(vars(StageConfig())) and set(ODD) == set(vars(SamplingConfig()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_option_sets_what_its_scheduler_reads_and_empties_the_rest(name: str) -> None:
    config, reads = accepted(f"scheduler={name}"), scheduler_named(name)
    given = {key for key, value in vars(config.stage).items() if value is not None}
    assert given == set(reads.reads)
    assert resolve(config).scheduler.name == config.scheduler.name == name
    assert resolve(config).scheduler.max_steps == 300


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_scheduler_does_not_read_is_refused(name: str) -> None:
    reads = scheduler_named(name)
    stage, sampling = set(PICKED) - reads_of(name), set(ODD) - set(reads.sampling)
    changes = {f"stage__{key}": PICKED[key] for key in stage} | {f"sampling__{key}": ODD[key] for key in sampling}
    lines = told(f"scheduler={name}", **changes)
    assert len(lines) == len(changes)
    for key in stage:
        start = f"stage.{key}: has no meaning under scheduler={name}; use scheduler="
        (reader,) = [line.removeprefix(start) for line in lines if line.startswith(start)]
        assert key in reads_of(reader)
    for key in sampling:
        assert any(
            line.startswith(f"sampling.{key}: has no meaning under scheduler={name}; leave it") for line in lines
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_a_scheduler_needs_is_asked_for(name: str) -> None:
    needed = scheduler_named(name).reads
    if needed:
        lines = told(f"scheduler={name}", **{f"stage__{key}": None for key in needed})
        assert lines == [f"stage.{key}: is missing; scheduler={name} needs it" for key in needed]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "three_stage"])
def test_stages_of_three_stage_are_not_those_of_another(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^stage: has no meaning under scheduler={name}; use scheduler=three_stage"):
        accepted(f"scheduler={name}", "stage=paper")


@pytest.mark.parametrize("name", ["dense", "early_dropout"])
def test_no_target_where_nothing_is_saved(name: str) -> None:
    assert told(f"scheduler={name}", target_saving=0.2) == [
        f"target_saving: scheduler={name} saves nothing; use another one, or target_flops"
    ]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("n_stage", {"stage__boundaries": 0.5}, "stage.rates: has 4 entries; 1 stage.boundaries make 2 stages"),
        ("n_stage", {"stage__boundaries": []}, "stage.boundaries: [] is not a list of steps (int)"),
        ("n_stage", {"stage__boundaries": [0.1, True]}, "stage.boundaries: True is not in a list of steps"),
        ("n_stage", {"stage__boundaries": {"a": 1}}, "stage.boundaries: {'a': 1} is not in a list of steps"),
        ("n_stage", {"stage__boundaries": [0.1] * 33}, "stage.boundaries: has 33 entries; a run has at most 32 stages"),
        (
            "raptr",
            {"stage__boundaries": [*range(32)], "stage__depths": [2] * 32},
            "stage.boundaries: has 32 entries; a run has at most 32 stages, so 31 of them",
        ),
        ("n_stage", {"stage__rates": [[1, 1, 1]] * 33}, "stage.rates: has 33 entries; a run has at most 32 stages"),
        ("n_stage", {"stage__boundaries": [3, 2, 1]}, "stage.boundaries: must not decrease, got the steps [3, 2, 1]"),
        ("n_stage", {"stage__boundaries": [0.1, 301, 302]}, "stage.boundaries: step 301 is outside the run of 300"),
        ("n_stage", {"stage__rates": [[1, 1]] * 4}, "stage.rates: [1, 1] is not in a list with [p_h,p_m,p_l]"),
        ("n_stage", {"stage__rates": [0.5]}, "stage.rates: 0.5 is not in a list with"),
        ("n_stage", {"stage__rates": [["a", 1, 1]]}, "stage.rates: ['a', 1, 1] is not in a list with"),
        ("n_stage", {"stage__rates": [[0, 1, 1]] * 4}, "stage.rates: p_h: 0.0 is not a sampling rate"),
        ("raptr", {"stage__depths": [1, 2, 3]}, "stage.depths: a path of 1 of 4 layers is too short"),
        ("raptr", {"stage__depths": [0.5]}, "stage.depths: has 1 entries, stage.boundaries 3"),
        ("raptr", {"stage__depths": [2, 5, 3]}, "stage.depths: 5 layers are more than the model's 4"),
        ("g_stack", {"stage__depths": [4]}, "stage.depths: stages 1 and 2 have 4 and 4 of the model's 4 layers"),
        ("g_stack", {"stage__boundaries": [1.0]}, "stage.boundaries: the last one is step 300, the end of the run"),
        ("one_layer", {"stage__depths": 0}, "stage.depths: 0 is neither a number of layers (int) nor a share"),
        (
            "one_layer",
            {"optim__skipped_layers": "zero_grad"},
            "optim.skipped_layers: has no meaning under",
        ),
        ("dense", {"optim__skipped_layers": "zero_grad"}, "optim.skipped_layers: has no meaning under scheduler=dense"),
        (
            "pld",
            {"optim__unsampled_rows": "frozen"},
            "optim.unsampled_rows: has no meaning under",
        ),
        ("linear", {"stage__levels": 0}, "stage.levels: 0 is out of range"),
        ("cosine", {"stage__levels": 32}, "stage.levels: 32 is out of range; it must be at least 1 and at most 31"),
        ("linear", {"stage__t2": 1.5}, "stage.t2: 1.5 is not a fraction"),
        ("layer_dropout", {"stage__p_l": 1.5}, "stage.p_l: 1.5 is not a sampling rate"),
        ("pld", {"stage__theta": 0.0}, "stage.theta: 0.0 is not a sampling rate"),
        ("pld", {"stage__gamma": float("inf")}, "stage.gamma: inf is out of range"),
        ("early_dropout", {"stage__p_d": 1.5}, "stage.p_d: 1.5 is not a sampling rate"),
        ("early_dropout", {"train__micro_batch": "auto"}, "train.micro_batch: auto may find another number"),
    ],
)
def test_values_that_do_not_do(name: str, changes: dict[str, Any], message: str) -> None:
    assert told(f"scheduler={name}", **changes)[0].startswith(message)


def test_as_many_stages_as_there_may_be() -> None:
    config = config_of("scheduler=raptr", stage__boundaries=[*range(1, 32)], stage__depths=[2] * 31)
    check(config)
    assert len(resolve(config).scheduler.stages) == 32


def test_what_the_optimizer_leaves_alone_has_a_meaning_where_something_is_left_out() -> None:
    check(config_of("scheduler=linear", optim__skipped_layers="zero_grad", optim__unsampled_rows="frozen"))
    check(config_of("scheduler=layer_dropout", optim__skipped_layers="zero_grad"))


def test_a_pretrained_model_does_not_grow() -> None:
    foreign = ("model=hf", "model.name_or_path=somewhere", "scheduler=g_stack")
    assert told(*foreign) == [
        "model.pretrained: scheduler=g_stack grows a model that begins untrained; set it to false"
    ]
    check(config_of(*foreign, model__pretrained=False))


def test_whole_numbers_and_single_values_are_taken() -> None:
    config = accepted("scheduler=n_stage", "stage.boundaries=3", "stage.rates=[[1,0.5,1],[1,1,1]]")
    assert [resolve(config).scheduler.rates_at(step) for step in (2, 3)] == [SamplingRates(p_m=0.5), SamplingRates()]
    scheduler = resolve(accepted("scheduler=one_layer", "stage.depths=1.0", "stage.boundaries=0", "seed=1")).scheduler
    assert scheduler.stages[0].rates == SamplingRates(layers="first")
    assert resolve(accepted("scheduler=one_layer", "stage.depths=1")).scheduler.stages[0].rates.num_layers == 1


def test_plain_dropout_is_noticed() -> None:
    assert drops_entries(accepted("scheduler=early_dropout")) and drops_entries(accepted("model.dropout=0.1"))
    assert not drops_entries(accepted("scheduler=pld")) and not drops_entries(RunConfig())
