"""The processes of an evaluation or analysis: they share the work, and each holds the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import PreTrainedModel

from est_cli.common.errors import OutOfMemory
from est_cli.common.rank import rank_of_environment
from est_cli.config import LaunchConfig, Precision
from est_cli.distributed import DataParallel, GradientSync, Group, NoSync, StepPlan, peers_answer, weight_checksum
from est_cli.distributed.device import (
    autocast,
    build_accelerator,
    keep_freed_memory,
    own_device,
    prepare_gpu_environment,
    repeated_kv_heads,
    use_precision,
)
from est_cli.distributed.hardware import repeats_kv_heads, require_gpus, settled_precision
from est_cli.est import FULL

WHOLE = StepPlan((FULL,), 1, frozenset())
"""Every step runs the complete model, and no layer's gradients are sent before the others'."""
T = TypeVar("T")
Cells = NDArray[np.float64]


@dataclass(frozen=True)
class Processes:
    """This process and the others."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[None]]
    """Inside of it a forward pass runs in the precision that was chosen."""
    group: Group
    check_every: int = 0
    """Steps between two comparisons of their weights; 0: never."""

    @property
    def first(self) -> bool:
        return self.group.rank.first

    def first_only(self, block: AbstractContextManager[T]) -> AbstractContextManager[T | None]:
        """`block` in the first process, which writes and prints; None in the others."""
        return block if self.first else nullcontext()

    def own(self, items: Sequence[int]) -> list[int]:
        """This process's share, every one of `items` in exactly one process."""
        return list(items[self.group.rank.rank :: self.group.rank.world_size])

    def gradient_sync(self, model: PreTrainedModel) -> GradientSync:
        """What sums the gradients of `model`."""
        return NoSync() if self.group.rank.world_size == 1 else DataParallel(model, ())

    def compare(self, model: PreTrainedModel, done: int, steps: int) -> None:
        """Raise PeerLostError where the weights differ: before the first step, when they are due, after the last."""
        if self.group.rank.world_size > 1 and self.check_every and (done % self.check_every == 0 or done == steps):
            when = f"after step {done}" if done else "before the first step"
            self.group.require_same(weight_checksum(model), f"its weights {when} are not")


@dataclass(frozen=True)
class WorkShare:
    """Cells, which are independent numbers, shared among the processes and put together again.

    A cell is computed by one process alone, so the sum over all of them, each with zeros in place of the others' cells,
    is exactly what a single process finds.
    """

    group: Group
    report: Callable[[float], None]
    """Called after each cell with what it cost, in forward passes of a batch, over all processes."""

    def own(self, count: int) -> range:
        """This process's stretch of the cells 0 ... count - 1; neighbours, which have much in common, stay together."""
        rank, size = self.group.rank.rank, self.group.rank.world_size
        return range(count * rank // size, count * (rank + 1) // size)

    def gather(self, cells: Cells) -> Cells:
        """All processes' cells, in each of them."""
        return np.array(self.group.sum(cells.ravel().tolist())).reshape(cells.shape)

    def advance(self, cost: float) -> None:
        self.report(cost * self.group.rank.world_size)


@contextmanager
def memory_enough(remedy: str) -> Iterator[None]:
    """OutOfMemory, with the `remedy` (`KEY: ...`), for whatever torch raises on a GPU or a CPU without enough of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate" in str(error)
        if not short:
            raise
        raise OutOfMemory(remedy) from error


@contextmanager
def meet(launch: LaunchConfig, precision: Precision, continues: str) -> Iterator[Processes]:
    """All processes of the evaluation; `continues`: how to go on after one was lost.

    Raises ConfigError where GPUs are too few, PeerLostError where a process is lost.
    """
    rank, timeout_s = rank_of_environment(), launch.timeout_s
    keep_freed_memory()
    prepare_gpu_environment()
    require_gpus(rank.local_world_size)
    with ExitStack() as stack:
        if rank.world_size > 1:
            stack.enter_context(peers_answer(timeout_s, continues))
        settled_precision(precision, own_device(rank), "eval.precision")
        use_precision(precision)
        accelerator = build_accelerator(rank, timeout_s)
        stack.enter_context(repeated_kv_heads(repeats_kv_heads(accelerator.device, precision)))
        group = Group(rank, timeout_s, continues)
        yield Processes(accelerator.device, partial(autocast, accelerator.device, precision), group, launch.check_every)
        if rank.world_size > 1:
            dist.destroy_process_group()  # not after an exception: it may wait for a process that is gone
