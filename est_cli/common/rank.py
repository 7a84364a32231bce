"""Which of the run's processes this one is, as torchrun and its like say in the environment. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """One process among `world_size`; `local_*` count the processes of this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0


def rank_of_environment(environment: Mapping[str, str] = os.environ) -> Rank:
    """The process that the environment describes; without a launcher's WORLD_SIZE the only one, whatever else is set.

    ValueError where a variable is not a number; launch/environment.py tells it better, and before.
    """
    if "WORLD_SIZE" not in environment:
        return Rank()
    world_size = int(environment["WORLD_SIZE"])
    return Rank(
        rank=int(environment.get("RANK", "0")),
        world_size=world_size,
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", str(world_size))),
    )
