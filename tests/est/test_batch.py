"""Which batch a step has, and where in the text it begins, against the steps counted one by one."""

from __future__ import annotations

import pytest

from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.est.schedule import SamplingRates, three_stage

SCHEDULES = [
    BatchSchedule((3, 3, 8), (StepBatch(8, 16), StepBatch(1, 32), StepBatch(3, 32))),  # with an empty stage
    BatchSchedule((5,), (StepBatch(4, 32),)),
    BatchSchedule((2, 4, 9), (StepBatch(2, 48), StepBatch(12, 16), StepBatch(2, 24))),
]


@pytest.mark.parametrize("batch", SCHEDULES)
def test_what_lies_before_a_step_is_what_the_steps_before_it_read(batch: BatchSchedule) -> None:
    tokens = 0
    for step in range(batch.max_steps):
        own = next(stage for stage, end in zip(batch.stages, batch.ends, strict=True) if step < end)
        assert batch.at(step) == own
        assert batch.tokens_before(step) == tokens == batch.blocks_before(step) * batch.block
        assert batch.blocks_at(step) * batch.block == own.sequences * own.seq_len
        tokens += own.tokens
        assert batch.step_after(tokens) == step + 1 and batch.step_after(tokens + 1) == step + 2
    assert batch.tokens_before(batch.max_steps) == tokens
    assert batch.at(batch.max_steps) == batch.stages[-1], "there is none, and what is asked of it is the last one's"
    assert sum(count * stage.tokens for count, stage in batch.spans(batch.max_steps)) == tokens


def test_the_clock_counts_steps_where_all_are_equal() -> None:
    assert [SCHEDULES[1].clock(step) for step in range(6)] == [0, 1, 2, 3, 4, 5]
    ramp = BatchSchedule((2, 4), (StepBatch(2, 32), StepBatch(6, 32)))
    assert [ramp.clock(step) for step in range(5)] == [0, 1, 2, 5, 8]


def test_stages_are_those_of_the_scheduler() -> None:
    scheduler = three_stage(10, 2, 5, SamplingRates(0.5, 0.5, 0.5))
    batch = BatchSchedule.of(scheduler, [StepBatch(1, 8), StepBatch(2, 8), StepBatch(4, 8)])
    assert [batch.at(step).sequences for step in range(10)] == [1, 1, 2, 2, 2, 4, 4, 4, 4, 4]
