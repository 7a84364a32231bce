"""What `train.micro_batch` says: sequences per forward pass, one number for the run or one for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from est_cli.config.setting import AUTO, Items

_KEY = "train.micro_batch"
# auto: the largest that fits into the memory, found when the run starts
SIZES = Items(
    lambda size: size == AUTO or (isinstance(size, int) and not isinstance(size, bool)),
    "an integer or auto, or a list with one of these for each stage, such as [32,24,16]",
)
"""What `train.micro_batch` may hold."""


def stage_problems(micro_batch: Any, num_stages: int, random: bool) -> Iterator[str]:
    """What is wrong in a run of `num_stages` stages; `random`: what it draws depends on how a step is cut."""
    if isinstance(micro_batch, list) and len(micro_batch) != num_stages:
        entries = f"{len(micro_batch)} {'entry' if len(micro_batch) == 1 else 'entries'}"
        yield f"{_KEY}: {str(micro_batch)[:80]} has {entries}; this run needs {num_stages}, one for each stage"
    elif random and None in requested(micro_batch, num_stages):
        yield (
            f"{_KEY}: auto may find another number when the run is resumed, which would change a run with "
            "sampling.redraw=forward, sampling.layers_by=sequence or dropout; give a number"
        )


def requested(micro_batch: Any, num_stages: int) -> list[int | None]:
    """The micro-batch of each of `num_stages` stages as an accepted configuration asks for it; None: auto."""
    sizes = micro_batch if isinstance(micro_batch, list) else [micro_batch] * num_stages
    return [None if size == AUTO else size for size in sizes]


def pieces(batch: int, micro_batch: int, world_size: int = 1) -> list[int]:
    """The sequences of each micro-step, over all processes: a step of `batch` in pieces of `micro_batch` for each."""
    together = micro_batch * world_size
    return [together] * (batch // together) + ([batch % together] if batch % together else [])


def describe_micro_batches(chosen: dict[int, int], requested_sizes: Sequence[int | None]) -> str:
    """`micro-batch 32 / 24 / 16 sequences in stages 1 / 2 / 3 (auto)`: by stage, `requested_sizes` as requested()."""
    automatic = [stage for stage in chosen if requested_sizes[stage - 1] is None]
    where = "" if len(automatic) == len(chosen) else f" in {in_stages(automatic)}"
    return f"micro-batch {sequences_by_stage(chosen)}" + (f" (auto{where})" if automatic else "")


def sequences_by_stage(chosen: dict[int, int]) -> str:
    """`16 sequences`, or where the stages differ `32 / 24 / 16 sequences in stages 1 / 2 / 3`."""
    sizes = list(chosen.values())
    if len(set(sizes)) == 1:
        return f"{sizes[0]:,} sequence" + ("s" if sizes[0] != 1 else "")
    return f"{' / '.join(f'{size:,}' for size in sizes)} sequences in {in_stages(list(chosen))}"


def in_stages(stages: list[int]) -> str:
    """`stage 3`, `stages 1 / 2`."""
    return f"stage{'s' if len(stages) != 1 else ''} {' / '.join(map(str, stages))}"
