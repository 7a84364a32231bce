"""When a run grows its model, and what the report says of that: on parts of a run, without training one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, SamplingScheduler, three_stage
from est_cli.est.stacking import g_stack, gradual_stacking, one_layer
from est_cli.families import spec_of
from est_cli.reporting.diagnoses import step_flops
from est_cli.training import step as loop_step
from tests.lab.est_models import gpt2_config

SPEC = spec_of(gpt2_config(n_layer=4))
GROWING = {
    "last": gradual_stacking(9, [3, 6], [1, 3]),
    "all": g_stack(9, [3, 6], [1, 3]),
    "": one_layer(9, [3, 6], [1, 3]),
}
EST = three_stage(9, 3, 6, SamplingRates(0.5, 0.5, 0.5))


def run_of(scheduler: SamplingScheduler) -> Any:
    optimizer, handle = SimpleNamespace(state={}), SimpleNamespace(layers=[])
    return SimpleNamespace(
        spec=SPEC, scheduler=scheduler, generator=IndexGenerator(SPEC, 0), optimizer=optimizer, handle=handle
    )


def grown(monkeypatch: pytest.MonkeyPatch, scheduler: SamplingScheduler) -> dict[int, tuple[dict[int, int], bool]]:
    """Step -> what is copied, and whether the optimizer begins anew, for each step at which anything is done."""
    found: dict[int, tuple[dict[int, int], bool]] = {}
    for step in range(scheduler.max_steps):

        def grow(layers: Any, sources: dict[int, int], state: Any, anew: bool, step: int = step) -> None:
            found[step] = sources, anew

        monkeypatch.setattr(loop_step, "grow", grow)
        loop_step._grow(run_of(scheduler), step)
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("last", {3: ({1: 0, 2: 0}, False), 6: ({3: 2}, False)}),
        ("all", {3: ({1: 0, 2: 0}, True), 6: ({3: 0}, True)}),
        ("", {}),
    ],
)
def test_it_grows_once_at_each_transition(monkeypatch: pytest.MonkeyPatch, kind: str, expected: Any) -> None:
    assert grown(monkeypatch, GROWING[kind]) == expected


def test_what_is_sampled_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grown(monkeypatch, EST) == {}


def test_how_much_joins_at_once_is_no_sign_where_it_is_the_method() -> None:
    """The defaults of g_stack and one_layer would otherwise always be told to be too sparse."""
    assert step_flops(SPEC, EST, SamplingOptions()) == pytest.approx([0.25, 0.5, 1.0], abs=0.1)
    assert all(step_flops(SPEC, scheduler, SamplingOptions()) == [] for scheduler in GROWING.values())
