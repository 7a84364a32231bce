"""The names in trackers: without stutter for new runs, as they were for those that began before, never two for one."""

from __future__ import annotations

import pytest

from est_cli.tracking.names import GROUPS, NAMES, NAMES_OF_BEFORE, axes, named, tracker_name
from est_cli.tracking.records import FIELDS, In, fields_of

LOGGED = (In.step, In.validation, In.transition, In.not_finite)
NOW = {
    In.step: "step tokens est/stage est/p_h est/p_m est/p_l est/p_t train/loss train/lr train/grad_norm "
    "flops/used flops/dense "
    "flops/saved_pct_blocks flops/saved_pct_total perf/tokens_per_s perf/step_s perf/text_wait_s perf/mfu "
    "perf/mem_gb perf/mem_reserved_gb perf/alloc_retries train/passed_samples",
    In.validation: "step tokens val/loss val/perplexity val/bits_per_byte est/draw_spread est/draw_range flops/used",
}
"""In the order of the files."""


@pytest.mark.parametrize("record", NOW, ids=lambda record: record.value)
def test_no_name_says_its_group_twice(record: In) -> None:
    assert [tracker_name(field.name) for field in fields_of(record)] == NOW[record].split()


@pytest.mark.parametrize("names", [NAMES_OF_BEFORE, NAMES])
def test_no_two_numbers_share_a_name(names: int) -> None:
    logged = [field.name for field in FIELDS if set(field.where) & set(LOGGED)]
    assert len({tracker_name(key, names) for key in logged}) == len(logged)
    assert all(tracker_name(key, names).split("/")[0] in GROUPS for key in set(logged) - set(axes(names)))


def test_a_run_that_began_before_keeps_its_names() -> None:
    record = {"step": 3, "val_loss": 2.0, "perplexity": None, "flops": 5, "flops_dense": 7}
    assert named(record) == {"step": 3, "val/loss": 2.0, "flops/used": 5, "flops/dense": 7}
    before = {"step": 3, "val/val_loss": 2.0, "flops/flops": 5, "flops/flops_dense": 7}
    assert named(record, NAMES_OF_BEFORE) == before


def test_what_is_declared_nowhere_is_perf_and_a_name_stays() -> None:
    assert tracker_name("steps_lost") == "perf/steps_lost" and tracker_name("eval/cola/score") == "eval/cola/score"


def test_the_axes_are_steps_tokens_and_flops() -> None:
    assert axes() == ("step", "tokens", "flops/used") and axes(NAMES_OF_BEFORE) == ("step", "tokens", "flops/flops")
