"""What a plan says of GPUs, memory of each process, disk and text, against counts by hand."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from est_cli.common.errors import ConfigError
from est_cli.config import LaunchConfig, PlanConfig, Precision, WireDtype
from est_cli.config.resolve import resolve
from est_cli.config.training import TrainConfig, kept_none
from est_cli.est import Flops, FlopsLedger
from est_cli.planning import Plan, PlannedMemory, make_plan, memory_of, print_plan
from est_cli.planning.resources import gpu_hours, kept_checkpoints
from est_cli.storage.store import MANIFEST, retain, step_folders
from tests.lab.commands import accepted

LEDGER = FlopsLedger(Flops(0, 3_600 * 312 * 10**12), Flops(0, 7_200 * 312 * 10**12))
"""An hour and two of the peak of an A100 in bf16."""


def plan(*args: str) -> Plan:
    return make_plan(accepted(*args, schema=PlanConfig))


def printed(found: Plan, width: int = 80) -> list[str]:
    out = io.StringIO()
    print_plan(found, Console(file=out, width=width))
    return out.getvalue().splitlines()


def test_hours_are_flops_over_the_assumed_speed() -> None:
    (found,) = gpu_hours(["A100"], None, 0.5, LEDGER)
    assert (found.name, found.precision, found.peak_flop_per_s) == ("NVIDIA A100", Precision.bf16, 312e12)
    assert found.used == pytest.approx(2.0) and found.dense == pytest.approx(4.0)
    (exact,) = gpu_hours(["A100"], Precision.fp32, 1.0, LEDGER)
    assert exact.used == pytest.approx(312 / 19.5)


@pytest.mark.parametrize(
    ("wanted", "name", "precision"),
    [
        ("h100", "NVIDIA H100 80GB HBM3", Precision.bf16),
        ("H100 PCIe", "NVIDIA H100 PCIe", Precision.bf16),
        ("nvidia h200 nvl", "NVIDIA H200 NVL", Precision.bf16),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", Precision.bf16),
        ("A10", "NVIDIA A10", Precision.bf16),
        ("V100", "Tesla V100-SXM2-16GB", Precision.fp16),
    ],
)
def test_gpus_go_by_words_of_their_names(wanted: str, name: str, precision: Precision) -> None:
    (found,) = gpu_hours([wanted], None, 0.4, LEDGER)
    assert (found.name, found.precision) == (name, precision) and found.used is not None


def test_a_peak_that_is_not_known_is_not_guessed() -> None:
    (found,) = gpu_hours(["T4"], Precision.bf16, 0.4, LEDGER)
    assert (found.peak_flop_per_s, found.used, found.dense) == (None, None, None)
    with pytest.raises(ConfigError, match=r"^gpus: 'TPU v4' is none whose peak is known; choose of NVIDIA A10, "):
        gpu_hours(["TPU v4"], None, 0.4, LEDGER)


def simulated(
    folder: Path, steps: int, every: int, keep_last: int, keep_every: int, lasting: Sequence[int]
) -> list[int]:
    """The steps that are there after a run that saves and then deletes what it need not keep."""
    for step in range(1, steps + 1):
        if step == steps or step in lasting or (every and step % every == 0):
            made = folder / f"step-{step:06d}"
            made.mkdir(parents=True)
            (made / MANIFEST).write_text(json.dumps({}))
            retain(folder, keep_last, lambda old: old in lasting or (keep_every > 0 and old % keep_every == 0))
    return [step for step, _ in step_folders(folder)]


@pytest.mark.parametrize(
    ("every", "keep_last", "keep_every"), [(10, 2, 0), (10, 3, 40), (0, 2, 0), (7, 5, 14), (100, 2, 0), (9, 2, 5)]
)
def test_the_checkpoints_that_are_kept(tmp_path: Path, every: int, keep_last: int, keep_every: int) -> None:
    keys = {"checkpoint_every": every, "keep_last": keep_last, "keep_every": keep_every, "max_steps": 100}
    args = [f"train.{key}={value}" for key, value in keys.items()]
    run = resolve(accepted(*args, "stage.t1=20", "stage.t2=55", schema=PlanConfig))
    expected = simulated(tmp_path / "c", 100, every, keep_last, keep_every, run.lasting)
    assert kept_checkpoints(run) == expected and {20, 55, 100} <= set(expected)


@pytest.fixture(scope="module")
def two() -> Plan:
    """GPT-2 base on two GPUs."""
    steps = ("train.max_steps=10000", "train.micro_batch=1", "train.tokens_per_step=8192", "train.seq_len=1024")
    return plan("model=gpt2", *steps, "launch.num_processes=2")


@pytest.fixture(scope="module")
def memory(two: Plan) -> PlannedMemory:
    return memory_of(two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "saved", "steps", "said"),
    [
        (20, 20, 60, None),
        (20, 50, 100, None),  # step 100 is a multiple of both
        (20, 50, 99, "train.keep_every=20 keeps no checkpoint: train.checkpoint_every=50 saves at no multiple of 20"),
        (20, 0, 99, "train.keep_every=20 keeps no checkpoint: train.checkpoint_every=0 saves at no multiple of 20"),
        (20, 20, 19, "train.keep_every=20 keeps no checkpoint of a run of 19 steps"),
        (0, 20, 19, None),
    ],
)
def test_what_keeps_no_checkpoint_is_said(every: int, saved: int, steps: int, said: str | None) -> None:
    lines = list(kept_none(TrainConfig(keep_every=every, checkpoint_every=saved), steps))
    assert [line[: len(said or "")] for line in lines] == ([] if said is None else [said])


def test_disk_is_weights_and_two_moments(memory: PlannedMemory) -> None:
    parameters, disk = 124_439_808, memory.disk
    assert (disk.checkpoint, disk.model, disk.token) == (12 * parameters, 4 * parameters, 2)
    assert disk.run == (disk.checkpoints + 1) * 12 * parameters + 4 * parameters


@pytest.mark.slow
def test_a_process_of_ddp_holds_all_and_what_it_sends(memory: PlannedMemory) -> None:
    estimate = memory.estimate
    d, positions = 768, 1024
    large = 50_257 * d  # the embedding alone is sent where it lies
    layer = 12 * d * d + 13 * d
    assert estimate.parameters == large + positions * d + 12 * layer + 2 * d
    whole, small = 16 * estimate.parameters, estimate.parameters - large
    assert memory.stages[2].states_under["ddp"] == whole + 4 * small
    assert whole < memory.stages[0].states_under["ddp"] < whole + 4 * 12 * layer * 0.26  # a quarter of the layers runs
    launch = LaunchConfig(num_processes=2, reduce_dtype=WireDtype.bf16)
    assert estimate.states_under(launch, False) == whole + 2 * estimate.parameters
    assert estimate.states_under(dataclasses.replace(launch, num_processes=1), False) == whole
    sharded = memory.stages[2].states_under["fsdp"]
    outside = large + positions * d + 2 * d
    assert sharded == 16 * estimate.parameters // 2 + 4 * (outside + 2 * layer) + 4 * estimate.parameters


@pytest.mark.slow
def test_what_is_printed_of_it(two: Plan, memory: PlannedMemory) -> None:
    lines = printed(two)
    ddp, fsdp = (f"{memory.under(name) / 1e9:.2f}" for name in ("ddp", "fsdp"))
    assert f"memory of each of 2 processes (launch.strategy): ddp {ddp} GB, fsdp {fsdp} GB" in lines
    hours = two.ledger.used.total / (0.4 * 989e12) / 3600
    row = next(line.split() for line in lines if line.startswith("NVIDIA H100"))
    assert row[:5] == ["NVIDIA", "H100", "80GB", "HBM3", "bf16"] and float(row[6]) == pytest.approx(hours, rel=5e-3)
    assert any(line.startswith("GPU hours are not measured: they assume FLOPs (total) at 40 %") for line in lines)
    assert any(
        line.startswith("81,920,000 tokens are 0.66 for each of 124,439,808 parameters; 20 are") for line in lines
    )
    tables = [line for line in lines if line.startswith(("GPU  ", "NVIDIA"))]
    assert max(map(len, tables)) <= 80


@pytest.mark.slow
def test_a_length_that_nobody_chose_is_said_to_be_so() -> None:
    lines = printed(plan("gpus=[]"))
    assert lines[1].startswith(
        "train.max_steps, train.max_tokens: not given, and 300 steps are the default of a first run"
    )
    assert any("train.max_tokens=27663360" in line for line in lines) and not any("GPU hours" in line for line in lines)
    assert "not given" not in printed(plan("train.max_steps=300"))[1]
