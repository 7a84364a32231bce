"""Several processes."""

from __future__ import annotations

from collections.abc import Iterator

from est_cli.config import LaunchConfig, RunConfig

NOT_DEEPSPEED = (
    "DeepSpeed keeps weights in flat partitions of its own, in which a layer that is skipped or a row that is not "
    "sampled has no place; fsdp shards weights, gradients and moments as its ZeRO-3 does"
)

MAX_TIMEOUT_S = 1e9
"""30 years; what is much longer has no place in the numbers that timeouts are kept in."""


def launch_problems(config: RunConfig) -> Iterator[str]:
    launch, train = config.launch, config.train
    if launch.num_processes < 1:
        yield f"launch.num_processes: {launch.num_processes} is out of range; it must be at least 1"
    elif train.seq_len > 0 and (train.tokens_per_step // train.seq_len) % launch.num_processes:
        yield (
            f"launch.num_processes: the {train.tokens_per_step // train.seq_len} sequences of a step "
            f"(train.tokens_per_step) do not divide among {launch.num_processes} processes"
        )
    if launch.strategy not in ("ddp", "fsdp"):
        reason = f"; {NOT_DEEPSPEED}" if launch.strategy == "deepspeed" else ""
        yield f"launch.strategy: {launch.strategy!r} is not one of ddp, fsdp{reason}"
    yield from _watch_problems(launch)
    if launch.strategy == "fsdp" and config.sampling.ranks.value == "independent":
        yield (
            "sampling.ranks: independent has no meaning under launch.strategy=fsdp, where all processes gather the "
            "weights of the same layer at the same time; use ddp"
        )


def whole_model_problems(launch: LaunchConfig, program: str) -> Iterator[str]:
    """Of a program whose processes hold whole models and share the work in any number."""
    if launch.num_processes < 1:
        yield f"launch.num_processes: {launch.num_processes} is out of range; it must be at least 1"
    if launch.strategy != "ddp":
        yield f"launch.strategy: {launch.strategy!r} is not for {program}, whose processes hold whole models; use ddp"
    yield from _watch_problems(launch)


def _watch_problems(launch: LaunchConfig) -> Iterator[str]:
    """Of what keeps an eye on the other processes."""
    if not 0 < launch.timeout_s <= MAX_TIMEOUT_S:
        yield (
            f"launch.timeout_s: {launch.timeout_s} is out of range; it must be above 0 and at most {MAX_TIMEOUT_S:,.0f}"
        )
    if launch.check_every < 0:
        yield f"launch.check_every: {launch.check_every} is out of range; it must be at least 0 (0 means never)"
