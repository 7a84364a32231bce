"""The processes of a run, as far as they talk about anything but gradients: small numbers, over the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from est_cli.common.errors import PeerLostError
from est_cli.common.rank import Rank

RESUME = "resume the run from its last checkpoint"
_LOST = re.compile(r"gloo|nccl|by peer|broken pipe|timed out|application timeout|monitoredbarrier", re.IGNORECASE)


class Group:
    """All processes of a run. Every method must be called by all of them; with one process none of them waits."""

    def __init__(self, rank: Rank, timeout_s: float, continues: str = RESUME) -> None:
        """`timeout_s`: how long a process waits for the others. `continues`: how to go on when one of them is wrong.

        The default process group must be there.
        """
        self.rank, self._continues = rank, continues
        self._timeout = timedelta(seconds=timeout_s)
        # Beside NCCL a group of its own, so that talking never waits for the device.
        self._group = None if rank.world_size == 1 else dist.new_group(backend="gloo", timeout=self._timeout)

    def share(self, value: Any) -> Any:
        """Rank 0's `value` (whatever JSON can say) in every process; the others' is not looked at."""
        if self._group is None:
            return value
        data = list(json.dumps(value).encode()) if self.rank.first else []
        size = self._broadcast(torch.tensor([len(data)]))
        payload = torch.tensor(data or [0] * int(size), dtype=torch.uint8)
        return json.loads(bytes(self._broadcast(payload).tolist()))

    def exchange(self, value: Any) -> list[Any]:
        """Each process's `value` (whatever JSON can say), by rank."""
        if self._group is None:
            return [value]
        data = json.dumps(value).encode()
        sizes = [size for (size,) in self.gather([len(data)])]
        own = torch.tensor([*data, *bytes(max(sizes) - len(data))], dtype=torch.uint8)
        everyone = [torch.empty_like(own) for _ in sizes]
        dist.all_gather(everyone, own, group=self._group)
        return [json.loads(bytes(each[:size].tolist())) for each, size in zip(everyone, sizes, strict=True)]

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        """Each process's `numbers` (below 2**63, as many in each), by rank."""
        if self._group is None:
            return [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.int64)
        everyone = [torch.empty_like(own) for _ in range(self.rank.world_size)]
        dist.all_gather(everyone, own, group=self._group)
        return [each.tolist() for each in everyone]

    def smallest(self, numbers: Sequence[int]) -> list[int]:
        """The smallest of all processes' numbers, one by one."""
        return [min(column) for column in zip(*self.gather(numbers), strict=True)]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sum over all processes, one by one, in double precision."""
        if self._group is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return total.tolist()

    def wait_for_save(self) -> None:
        """Return when all processes have come here, rank 0 from a save, for which it has ten times the usual time."""
        if self._group is not None:
            dist.monitored_barrier(self._group, 10 * self._timeout)

    def require_same(self, number: int, what: str, every: int = 1) -> None:
        """Raise PeerLostError unless all processes, or all whose ranks lie a multiple of `every` apart, have the same
        `number`; `what` it is: `its weights are not`."""
        numbers = [only for (only,) in self.gather([number])]
        for rank, value in enumerate(numbers):
            if value != numbers[rank % every]:
                raise PeerLostError(f"rank {rank}: {what} rank {rank % every}'s; {self._continues}")

    def _broadcast(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, src=0, group=self._group)
        return tensor


@contextmanager
def peers_answer(timeout_s: float, continues: str = RESUME) -> Iterator[None]:
    """Turn what torch raises when another process is gone or silent into a PeerLostError; `continues` as Group's."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        named = re.search(r"[Rr]anks? (\d+(?:, ?\d+)*) failed to pass", str(error))
        who = f"rank {named[1]}" if named else "another process"
        message = re.sub(r"\[[^\]]*\.(cc|cpp|h):\d+\] *", "", str(error).strip().splitlines()[0])  # whose file that was
        raise PeerLostError(
            f"{who}: died, or did not answer within launch.timeout_s={timeout_s:g}; {continues} "
            f"({shorten(message, 120)})"
        ) from error
