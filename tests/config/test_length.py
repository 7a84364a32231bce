"""train.max_tokens and train.max_flops as steps; the lists of a batch by stage, and what is refused of them."""

from __future__ import annotations

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config.length import with_steps
from est_cli.config.resolve import Resolved, check, planned_ledger_of
from est_cli.config.run import RunConfig
from est_cli.families import spec_of
from est_cli.models import hf_config
from tests.lab.commands import accepted

RAMP = ("train.tokens_per_step=[1024,2048,4096]", "train.seq_len=[64,128,256]", "train.micro_batch=4")


def resolved(*args: str) -> Resolved:
    return check(accepted(*args))


def used(config: RunConfig, steps: int) -> int:
    config.train.max_steps, config.train.max_flops = steps, None
    return planned_ledger_of(config, spec_of(hf_config(config.model))).used.total


@pytest.mark.parametrize("more", [(), RAMP, ("scheduler=pld",), ("scheduler=dense", "train.seq_len=128")])
@pytest.mark.parametrize("budget", [3e11, 1.7e12])
def test_a_budget_of_flops_is_as_many_steps_as_use_no_more(more: tuple[str, ...], budget: float) -> None:
    run = resolved(f"train.max_flops={budget}", *more)
    steps = run.max_steps
    assert run.config.train.max_steps == steps and run.config.train.max_flops == budget
    assert used(run.config, steps) <= budget < used(run.config, steps + 1)


def test_what_was_found_is_found_again() -> None:
    """As config.yaml holds both."""
    run = resolved("train.max_flops=1e12")
    assert check(run.config).max_steps == run.max_steps and with_steps(run.config) == run.config


@pytest.mark.parametrize("wanted", [1, 40_000, 1_000_000, 1_000_001])
def test_a_budget_of_tokens_is_rounded_up_to_steps_of_all_sizes(wanted: int) -> None:
    batch = resolved(f"train.max_tokens={wanted}", *RAMP).batch
    shorter = resolved(f"train.max_steps={max(1, batch.max_steps - 1)}", *RAMP).batch
    assert batch.tokens_before(batch.max_steps) >= wanted
    assert batch.max_steps == 1 or shorter.tokens_before(shorter.max_steps) < wanted


def test_warm_up_and_decay_in_tokens() -> None:
    """Warm-up until 5,000 tokens are read: 3 steps of 1,024 and one of 2,048; decay from where at least 20,000 are
    left: five of 4,096."""
    run = resolved("train.max_steps=20", *RAMP, "optim.warmup_tokens=5000", "optim.decay_tokens=20000")
    assert (run.batch.ends, run.decay_begin) == ((3, 9, 20), 15)
    from est_cli.training.optim import lr_at

    rates = [lr_at(step, run.batch, run.config.optim) / 1e-3 for step in range(20)]
    assert rates[:4] == pytest.approx([1024 / 5120, 2048 / 5120, 3072 / 5120, 1.0])
    assert rates[4:15] == [1.0] * 11 and rates[15:] == pytest.approx([0.82, 0.64, 0.46, 0.28, 0.1])


@pytest.mark.parametrize(
    ("rule", "factors"), [("none", (1, 1, 1)), ("sqrt", (0.5, 0.5**0.5, 1)), ("linear", (0.25, 0.5, 1))]
)
def test_the_rule_of_the_learning_rate(rule: str, factors: tuple[float, ...]) -> None:
    from est_cli.training.optim import lr_at

    run = resolved("train.max_steps=20", *RAMP, f"optim.batch_lr={rule}", "optim.schedule=constant", "optim.warmup=0")
    assert [lr_at(step, run.batch, run.config.optim) for step in (0, 3, 9)] == pytest.approx(
        [1e-3 * f for f in factors]
    )


def test_a_factor_of_the_learning_rate_for_each_stage() -> None:
    from est_cli.training.optim import lr_at

    run = resolved("train.max_steps=20", "optim.stage_lr=[0.5,0.75,1.0]", "optim.schedule=constant", "optim.warmup=0")
    ends = run.batch.ends
    rates = [lr_at(step, run.batch, run.config.optim) for step in (0, ends[0] - 1, ends[0], ends[1] - 1, ends[1], 19)]
    assert rates == pytest.approx([5e-4, 5e-4, 7.5e-4, 7.5e-4, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("train.max_flops=1e3",), "train.max_flops: 1000 is too little; the shortest run that its stages allow has 1"),
        (("train.max_flops=1e12", "train.max_tokens=10"), "the budget is given twice; leave train.max_tokens null"),
        (("train.max_flops=1e12", "train.max_steps=7"), "affords 31 steps; leave train.max_steps null"),
        (("train.max_flops=0",), "train.max_flops: 0.0 is out of range"),
        (
            ("train.max_flops=1e12", "train.tokens_per_step=[1024,2048]"),
            "train.tokens_per_step: [1024, 2048] has 2 ent",
        ),
        (("train.max_flops=1e12", "train.seq_len=[128,96,256]"), "train.seq_len: 96 does not divide 256"),
        (("train.max_tokens=9999", "train.seq_len=[128,96,256]"), "train.seq_len: 96 does not divide 256"),
        (("train.max_flops=1e12", "stage.t1=50", "stage.t2=40"), "stage.t1: step 50 lies after stage.t2 (step 40)"),
        (("train.max_flops=1e12", "train.micro_batch=[1,2]"), "train.micro_batch: [1, 2] has 2 entries"),
        (("train.max_flops=1e12", "model=hf", "model.name_or_path=x"), "est-plan target_flops=... target_convention"),
        (("train.seq_len=[64,128]",), "train.seq_len: [64, 128] has 2 entries; this run needs 3, one for each stage"),
        (("train.seq_len=[60,128,128]",), "train.seq_len: 60 does not divide 128"),
        (("train.tokens_per_step=[]",), "train.tokens_per_step: [] is not an integer, or a list"),
        (("train.tokens_per_step=[1024,1000,4096]",), "train.tokens_per_step: 1000 is not a multiple of"),
        (("train.seq_len=[128,256,2048]", "train.tokens_per_step=4096"), "train.seq_len: 2048 is longer than"),
        (("train.tokens_per_step=[512,4096,4096]", "launch.num_processes=4"), "the 2 sequences of a step"),
        (("optim.warmup_tokens=9", "optim.warmup=3"), "optim.warmup_tokens: takes the place of optim.warmup"),
        (("optim.decay_tokens=9", "optim.decay=3"), "optim.decay_tokens: takes the place of optim.decay"),
        (("optim.decay_tokens=9", "optim.schedule=cosine"), "optim.decay_tokens: belongs to optim.schedule=wsd"),
        (("optim.warmup_tokens=99999999",), "optim.warmup_tokens: 99999999 is more than the 1228800 tokens"),
        (("optim.stage_lr=[0.5,1.0]",), "optim.stage_lr: [0.5, 1.0] has 2; this run needs 3, one for each stage"),
        (("optim.stage_clip=[1,1,1]", "optim.grad_clip=2"), "optim.stage_clip: takes the place of optim.grad_clip"),
        (("optim.stage_lr=[0.5,0.0,1.0]",), "optim.stage_lr: 0.0 is out of range"),
        (("stage.boundaries=[0.5]",), "stage.boundaries: has no meaning under scheduler=three_stage; use scheduler=n"),
        (("scheduler=dense", "stage.boundaries=[2.5]"), "stage.boundaries: 2.5 is not a fraction of the run"),
    ],
)
def test_refused(args: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolved(*args)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("args", "common"),
    [
        (("optim.schedule=cosine",), 3),  # the warm-up
        (("optim.schedule=cosine", "train.tokens_per_step=4096"), 20),
        (("optim.schedule=constant",), 20),
        (("optim.decay=8",), 12),
        (("optim.decay_tokens=20000",), 10),
    ],
)
def test_how_long_the_rate_is_the_same_where_a_stage_ends_later(args: tuple[str, ...], common: int) -> None:
    """The rate is one over tokens, and what the run reads in all is behind the steps that look alike."""
    from est_cli.training.optim import common_lr_steps, lr_at

    sizes = ("train.tokens_per_step=[1024,2048,4096]", "train.max_steps=20", "optim.warmup=3", "stage.t1=12")
    one, other = (resolved(*sizes, f"stage.t2={t2}", *args) for t2 in (18, 19))
    assert common_lr_steps(one.batch, other.batch, one.config.optim) == common
    rates = [[lr_at(step, run.batch, run.config.optim) for step in range(min(18, common))] for run in (one, other)]
    assert rates[0] == rates[1]
