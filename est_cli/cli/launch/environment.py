"""Launches that would run something else than was meant, told from the environment alone."""

from __future__ import annotations

from collections.abc import Mapping

from est_cli.common.errors import ConfigError
from est_cli.config.launch import NOT_DEEPSPEED

_PLUGINS = {
    "DEEPSPEED": f"is not supported ({NOT_DEEPSPEED}); use launch.strategy=fsdp",
    "FSDP": "has no effect here; take it out of accelerate's settings and use launch.strategy=fsdp",
    "MEGATRON_LM": "is not supported; use launch.strategy=ddp or fsdp",
    "PARALLELISM_CONFIG": "is not supported; use launch.strategy=ddp or fsdp",
}
"""What `accelerate launch` can be told to use, by its variable ACCELERATE_USE_..., and why est-train cannot use it."""
_WHOLE_MODELS = "whose processes hold whole models; take it out of accelerate's settings"
_COPIES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")
"""How many tasks srun or mpirun started, this process among them."""
_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def refuse_wrong_launch(environment: Mapping[str, str], num_processes: int | None, command: str = "train") -> None:
    """Raise ConfigError where the processes that were started cannot be the ones that were meant.

    `num_processes`: what the command line sets, else None. `command`: `train`, `eval` or `analyze`.
    """
    _refuse_plugins(environment, command)
    if "WORLD_SIZE" in environment:
        _refuse_incomplete(environment, command)
        _refuse_twice(environment, num_processes, command)
    else:
        _refuse_one_for_many(environment, command)
        _refuse_copies(environment, command)


def _torchrun(command: str) -> str:
    return f"torchrun --nproc-per-node N -m est_cli.{command} ..."


def _ours(command: str) -> str:
    return f"est-{command} launch.num_processes=N ..."


def _how(command: str) -> str:
    return f"start it with {_torchrun(command)}, or on one machine with {_ours(command)}"


def _refuse_plugins(environment: Mapping[str, str], command: str) -> None:
    whole_models = f"is not for est-{command}, {_WHOLE_MODELS}"
    for plugin, reason in _PLUGINS.items():
        if environment.get(f"ACCELERATE_USE_{plugin}", "").lower() in ("true", "1"):
            raise ConfigError(f"ACCELERATE_USE_{plugin}: {reason if command == 'train' else whole_models}")


def _refuse_incomplete(environment: Mapping[str, str], command: str) -> None:
    """What torchrun sets beside WORLD_SIZE; Accelerate takes a process without LOCAL_RANK for the only one."""
    world_size = _number(environment, "WORLD_SIZE", 1, command)
    if world_size == 1 and "RANK" not in environment:
        return
    missing = [name for name in _NEEDED if name not in environment] if world_size > 1 else []
    if missing:
        raise ConfigError(f"WORLD_SIZE: is {world_size}, without {', '.join(missing)}; {_how(command)}")
    for name in ("RANK", "LOCAL_RANK"):
        if name in environment and _number(environment, name, 0, command) >= world_size:
            raise ConfigError(f"{name}: is {environment[name]}, but there are {world_size} processes (WORLD_SIZE)")
    for name in ("LOCAL_WORLD_SIZE", "MASTER_PORT"):
        if name in environment:
            _number(environment, name, 1, command)


def _refuse_twice(environment: Mapping[str, str], num_processes: int | None, command: str) -> None:
    name = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in environment else "WORLD_SIZE"
    here = _number(environment, name, 1, command)
    if num_processes not in (None, 1, here):
        raise ConfigError(
            f"launch.num_processes: {num_processes} are asked for, but the launcher started {here} on this machine; "
            "leave it out under a launcher, which alone says how many there are"
        )


def _refuse_one_for_many(environment: Mapping[str, str], command: str) -> None:
    """`accelerate launch --cpu --num_processes 2` sets a port for the processes to meet, and starts one."""
    if "MASTER_PORT" in environment and not {"ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"}.isdisjoint(
        environment
    ):
        raise ConfigError(
            "accelerate launch: with --cpu it starts one process, whatever --num_processes says; use accelerate launch "
            "--multi_gpu --num_processes N --num_machines 1 --mixed_precision no --dynamo_backend no -m "
            f"est_cli.{command} ..., which works without GPUs too, or {_ours(command)}"
        )


def _refuse_copies(environment: Mapping[str, str], command: str) -> None:
    """Each of these tasks would do all the work by itself.

    A batch script or a shell in an allocation of many tasks is one process, and has no SLURM_STEP_NUM_TASKS above 1.
    """
    for name in _COPIES:
        if environment.get(name, "1") != "1" and (not name.startswith("SLURM") or "SLURM_PROCID" in environment):
            raise ConfigError(
                f"{name}: this is one of {environment[name]} copies of the command that know nothing of each other; "
                f"start one per machine: {_ours(command)} on one machine, {_torchrun(command)} on several "
                "(docs/distributed.md)"
            )


def _number(environment: Mapping[str, str], name: str, least: int, command: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ConfigError(f"{name}: {text!r} is no number of at least {least}; {_how(command)}")
    return int(text)
