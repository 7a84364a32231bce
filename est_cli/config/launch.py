"""`launch.*`: how many processes, how they share the work, and when they give up on each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from est_cli.config.setting import EVERY, above, at_least, setting

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig

NOT_DEEPSPEED = (
    "DeepSpeed keeps weights in flat partitions of its own, in which a layer that is skipped or a row that is not "
    "sampled has no place; fsdp shards weights, gradients and moments as its ZeRO-3 does"
)
MAX_TIMEOUT_S = 1e9
"""30 years; what is much longer has no place in the numbers that timeouts are kept in."""


@dataclass
class LaunchConfig:
    num_processes: int = setting(
        1,
        "Processes that are started on this machine, one for each GPU where there are GPUs. Leave it at 1 under "
        "torchrun or accelerate launch, which start them themselves.",
        within=at_least(1),
    )
    strategy: str = setting(
        "ddp",
        "How the processes share a run: ddp, each holds the whole model; fsdp, each holds a share of every weight, "
        "gradient and moment. With one process both are the same.",
    )
    timeout_s: float = setting(
        600.0,
        "Seconds that a process waits for the others before it takes one of them for lost.",
        within=above(0, most=MAX_TIMEOUT_S),
    )
    check_every: int = setting(
        100,
        "Compare the weights of all replicas every so many steps and stop on a difference. Subnetworks are compared "
        "in every step.",
        within=EVERY,
    )


def launch_problems(config: RunConfig) -> Iterator[str]:
    launch, train = config.launch, config.train
    if launch.num_processes >= 1 <= train.seq_len and (train.tokens_per_step // train.seq_len) % launch.num_processes:
        yield (
            f"launch.num_processes: the {train.tokens_per_step // train.seq_len} sequences of a step "
            f"(train.tokens_per_step) do not divide among {launch.num_processes} processes"
        )
    if launch.strategy not in ("ddp", "fsdp"):
        reason = f"; {NOT_DEEPSPEED}" if launch.strategy == "deepspeed" else ""
        yield f"launch.strategy: {launch.strategy!r} is not one of ddp, fsdp{reason}"
    if launch.strategy == "fsdp" and config.sampling.ranks == "independent":
        yield (
            "sampling.ranks: independent has no meaning under launch.strategy=fsdp, where all processes gather the "
            "weights of the same layer at the same time; use ddp"
        )


def whole_model_problems(launch: LaunchConfig, program: str) -> Iterator[str]:
    """Of a program whose processes hold whole models and share the work in any number."""
    if launch.strategy != "ddp":
        yield f"launch.strategy: {launch.strategy!r} is not for {program}, whose processes hold whole models; use ddp"
