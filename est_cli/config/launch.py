"""`launch.*`: how many processes, how they share the work, and when they give up on each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from est_cli.config.batch import share_problems
from est_cli.config.setting import EVERY, FREE, TRACKED, above, at_least, setting

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig
    from est_cli.config.training import Precision

NOT_DEEPSPEED = (
    "DeepSpeed keeps weights in flat partitions of its own, in which a layer that is skipped or a row that is not "
    "sampled has no place; fsdp shards weights, gradients and moments as its ZeRO-3 does"
)
MAX_TIMEOUT_S = 1e9
"""30 years; what is much longer has no place in the numbers that timeouts are kept in."""


class WireDtype(StrEnum):
    """In which numbers something is sent that is kept in fp32."""

    bf16 = "bf16"


@dataclass
class LaunchConfig:
    """What may change on resume is said of each: the others decide bits of a run."""

    num_processes: int = setting(
        1,
        "Processes that are started on this machine, one for each GPU where there are GPUs. Leave it at 1 under "
        "torchrun or accelerate launch, which start them themselves.",
        FREE,
        within=at_least(1),
        brief="Processes on this machine, one for each GPU",
    )
    strategy: str = setting(
        "ddp",
        "How the processes share a run: ddp, each holds the whole model; fsdp, each holds a share of every weight, "
        "gradient and moment. With one process both are the same.",
        FREE,
        brief="Whole models (ddp) or shares of them (fsdp)",
    )
    reduce_dtype: WireDtype | None = setting(
        None,
        "The numbers in which gradients are sent and added up over the processes. bf16: half the bytes, and each "
        "process's sum over its micro-batches is rounded once before; null: as they are (fp32). Nothing is sent with "
        "one process. fsdp: between groups of launch.shard_size they are added up as they are.",
        TRACKED,
        brief="Type in which gradients are summed up",
    )
    gather_dtype: WireDtype | None = setting(
        None,
        "fsdp with train.precision=bf16: the numbers in which the weights of layers are gathered. bf16: half the "
        "bytes; norms and biases are read rounded, too, and so are their gradients. null: as they are kept (fp32).",
        TRACKED,
        brief="fsdp: type in which weights are gathered",
    )
    shard_size: int | None = setting(
        None,
        "fsdp: processes that share one copy of weights, gradients and moments; each further group of so many holds a "
        "copy of its own. A divisor of all processes, such as the GPUs of a machine; null: all share one.",
        FREE,
        within=at_least(2),
        brief="fsdp: processes that share one copy",
    )
    reshard_after_forward: bool | None = setting(
        None,
        "fsdp: give up gathered weights after the forward pass, and gather them again for the backward pass. false: "
        "keep them, more memory and less to send; null: keep what lies outside of the layers.",
        FREE,
        brief="fsdp: give up gathered weights",
    )
    sharded_checkpoints: bool = setting(
        False,
        "fsdp: each process writes its own share of a checkpoint, so that no host needs memory for the whole. est's "
        "commands open it as any other; false: a folder that transformers open, which the first process writes. "
        "model/ is such a folder in any case.",
        FREE,
        brief="fsdp: each process writes its share",
    )
    timeout_s: float = setting(
        600.0,
        "Seconds that a process waits for the others before it takes one of them for lost.",
        FREE,
        within=above(0, most=MAX_TIMEOUT_S),
        brief="Seconds until a silent process counts as lost",
    )
    check_every: int = setting(
        100,
        "Compare the weights of all replicas every so many steps and stop on a difference. Subnetworks are compared "
        "in every step.",
        FREE,
        within=EVERY,
        brief="Steps between comparisons of all replicas",
    )


def launch_problems(config: RunConfig) -> Iterator[str]:
    launch = config.launch
    yield from share_problems(config.train, launch.num_processes)
    if launch.strategy not in ("ddp", "fsdp"):
        reason = f"; {NOT_DEEPSPEED}" if launch.strategy == "deepspeed" else ""
        yield f"launch.strategy: {launch.strategy!r} is not one of ddp, fsdp{reason}"
    if launch.strategy == "fsdp" and config.sampling.ranks == "independent":
        yield (
            "sampling.ranks: independent has no meaning under launch.strategy=fsdp, where all processes gather the "
            "weights of the same layer at the same time; use ddp"
        )
    for key in _SHARDED:
        if launch.strategy == "ddp" and getattr(launch, key) != getattr(LaunchConfig, key):
            yield f"launch.{key}: has no meaning under launch.strategy=ddp, where weights are not shared out; use fsdp"
    if launch.num_processes > 1:
        yield from shard_size_problems(launch, launch.num_processes)
    if config.train.precision is not None:
        yield from gather_problems(launch, config.train.precision)


_SHARDED = ("gather_dtype", "shard_size", "reshard_after_forward", "sharded_checkpoints")


def shard_size_problems(launch: LaunchConfig, processes: int) -> Iterator[str]:
    """Of a run in several processes."""
    if launch.shard_size is not None and launch.shard_size >= 1 and processes % launch.shard_size:
        yield f"launch.shard_size: {launch.shard_size} does not divide the {processes} processes"


def gather_problems(launch: LaunchConfig, precision: Precision) -> Iterator[str]:
    """Of what a run computes in."""
    if launch.gather_dtype is not None and precision.value != launch.gather_dtype.value:
        yield (
            f"launch.gather_dtype: {launch.gather_dtype.value} needs train.precision=bf16; {precision.value} would "
            "compute with rounded weights"
        )


def whole_model_problems(launch: LaunchConfig, program: str) -> Iterator[str]:
    """Of a program whose processes hold whole models and share the work in any number."""
    if launch.strategy != "ddp":
        yield f"launch.strategy: {launch.strategy!r} is not for {program}, whose processes hold whole models; use ddp"
    for key in ("reduce_dtype", *_SHARDED):
        if getattr(launch, key) != (default := getattr(LaunchConfig, key)):
            left = "null" if default is None else str(default).lower()
            yield f"launch.{key}: is of est-train, and has no meaning for {program}; leave it {left}"
