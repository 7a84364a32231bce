"""Launches that would train something else than was meant are refused from the environment alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank, rank_of_environment
from tests.lab.commands import command, poisoned_path, tree

TORCHRUN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "OMP_NUM_THREADS": "1"}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in TORCHRUN.items() if key != name}


RIGHT: list[tuple[dict[str, str], int | None]] = [
    ({}, None),
    ({}, 4),
    (TORCHRUN, None),
    (TORCHRUN, 1),
    (TORCHRUN, 2),
    (TORCHRUN | ACCELERATE, None),
    (TORCHRUN | {"WORLD_SIZE": "16"}, 2),
    (ACCELERATE | {"ACCELERATE_USE_CPU": "True"}, None),  # accelerate launch --cpu, one process
    ({"WORLD_SIZE": "1"}, None),
    (TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, None),  # torchrun in a step of several machines
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 8),  # a batch script
    ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 8),  # srun of one task
    ({"SLURM_STEP_NUM_TASKS": "2"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"ACCELERATE_USE_FSDP": "false"}, None),
]


@pytest.mark.parametrize(("environment", "asked"), RIGHT)
def test_right(environment: dict[str, str], asked: int | None) -> None:
    refuse_wrong_launch(environment, asked)


WRONG: list[tuple[dict[str, str], int | None, str, str]] = [
    (without("RANK"), None, "WORLD_SIZE: is 2, without RANK", "torchrun"),
    (without("LOCAL_RANK"), None, "WORLD_SIZE: is 2, without LOCAL_RANK", "torchrun"),
    (without("MASTER_PORT"), None, "WORLD_SIZE: is 2, without MASTER_PORT", "torchrun"),
    (without("MASTER_ADDR"), None, "WORLD_SIZE: is 2, without MASTER_ADDR", "torchrun"),
    (TORCHRUN | {"WORLD_SIZE": "two"}, None, "WORLD_SIZE: 'two' is no number", "torchrun"),
    (TORCHRUN | {"WORLD_SIZE": "0"}, None, "WORLD_SIZE: '0' is no number of at least 1", "torchrun"),
    (TORCHRUN | {"RANK": "-1"}, None, "RANK: '-1' is no number of at least 0", "torchrun"),
    (TORCHRUN | {"LOCAL_RANK": ""}, None, "LOCAL_RANK: '' is no number", "torchrun"),
    (TORCHRUN | {"LOCAL_WORLD_SIZE": "x"}, None, "LOCAL_WORLD_SIZE: 'x' is no number", "torchrun"),
    ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "x"}, 2, "LOCAL_WORLD_SIZE: 'x' is no number", "torchrun"),
    (TORCHRUN | {"MASTER_PORT": "http"}, None, "MASTER_PORT: 'http' is no number", "torchrun"),
    (TORCHRUN | {"RANK": "2"}, None, "RANK: is 2, but there are 2 processes", "WORLD_SIZE"),
    (TORCHRUN, 4, "launch.num_processes: 4 are asked for, but the launcher started 2", "leave it out"),
    ({"WORLD_SIZE": "1"}, 2, "launch.num_processes: 2 are asked for, but the launcher started 1", "leave it out"),
    (ACCELERATE | {"MASTER_PORT": "29500"}, None, "accelerate launch: with --cpu it starts one", "--multi_gpu"),
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, None, "SLURM_STEP_NUM_TASKS: this is one of 4", "torchrun"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, None, "OMPI_COMM_WORLD_SIZE: this is one of 2 copies", "torchrun"),
    ({"PMI_SIZE": "2"}, 2, "PMI_SIZE: this is one of 2 copies", "launch.num_processes=N"),
    ({"MV2_COMM_WORLD_SIZE": "2"}, None, "MV2_COMM_WORLD_SIZE: this is one of 2 copies", "torchrun"),
    (TORCHRUN | {"ACCELERATE_USE_DEEPSPEED": "true"}, None, "ACCELERATE_USE_DEEPSPEED: is not", "launch.strategy=fsdp"),
    (TORCHRUN | {"ACCELERATE_USE_FSDP": "true"}, None, "ACCELERATE_USE_FSDP: has no effect", "launch.strategy=fsdp"),
    (TORCHRUN | {"ACCELERATE_USE_MEGATRON_LM": "true"}, None, "ACCELERATE_USE_MEGATRON_LM: is not", "ddp"),
    ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, None, "ACCELERATE_USE_PARALLELISM_CONFIG: is not", "ddp"),
]


@pytest.mark.parametrize(("environment", "asked", "begins", "advice"), WRONG)
def test_wrong(environment: dict[str, str], asked: int | None, begins: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_wrong_launch(environment, asked)
    told = str(caught.value)
    assert told.startswith(begins) and advice in told and "\n" not in told


@pytest.mark.parametrize(("environment", "asked", "begins", "advice"), WRONG)
def test_est_eval_names_itself(environment: dict[str, str], asked: int | None, begins: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_wrong_launch(environment, asked, "eval")
    told, key = str(caught.value), begins.partition(":")[0]
    assert told.startswith(f"{key}: ") and "\n" not in told
    assert not any(word in told for word in ("est-train", "est_cli.train", "fsdp", "trains"))
    assert advice in told.replace("est_cli.eval", "torchrun") or "whole models" in told


def test_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    wrong = ACCELERATE | {"MASTER_PORT": "29500"}
    ended = command("est-train", cwd=tmp_path, PYTHONPATH=poisoned_path(tmp_path / "poison"), **wrong)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert ended.err.startswith("est-train: error: accelerate launch: ") and set(tree(tmp_path)) == set(
        tree(tmp_path / "poison") | {str(tmp_path / "poison"): None}
    )


def test_the_rank_of_a_process() -> None:
    assert rank_of_environment(TORCHRUN) == Rank(1, 2, 1, 2)
    assert rank_of_environment(TORCHRUN | {"RANK": "9", "WORLD_SIZE": "16"}) == Rank(9, 16, 1, 2)
    assert rank_of_environment({}) == Rank() and Rank().first
    assert rank_of_environment({"RANK": "3", "LOCAL_RANK": "3"}) == Rank()
    assert not rank_of_environment(TORCHRUN).first
